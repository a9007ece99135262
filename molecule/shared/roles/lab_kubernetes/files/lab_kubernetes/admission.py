"""What is checked before an object is created: quotas and the security of pods.

Source: "Resource Quotas" (kubernetes.io/docs/concepts/policy/resource-quotas/); "Quantity" in the API reference; "Pod
Security Standards", the section "Restricted" (kubernetes.io/docs/concepts/security/pod-security-standards/); "Pod
Security Admission", the section "Pod Security Admission labels for namespaces".
"""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lab_kubernetes.store import Refused, Selection

if TYPE_CHECKING:
    from lab_kubernetes.store import Object, Store

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(["k", "M", "G", "T", "P", "E"], 1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)},
}
ENFORCE = "pod-security.kubernetes.io/enforce"


def quantity(value: Any) -> Decimal:
    """Return a quantity as a number: ``500m`` is 0.5.

    Raises:
        Refused: It is not valid (400).
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)", str(value))
    if found is None or found[2] not in _SUFFIXES:
        raise Refused(400, "BadRequest", f"quantities must match the regular expression: {value!r}")
    return Decimal(found[1]) * _SUFFIXES[found[2]]


def resources(pod: Object, kind: str) -> dict[str, Decimal]:
    """Return the sum of the containers' ``requests`` or ``limits``. A limit without a request is a request too."""
    total: Counter[str] = Counter()
    for container in pod["spec"]["containers"]:
        given = container.get("resources") or {}
        limits, requests = given.get("limits") or {}, given.get("requests") or {}
        chosen = {**limits, **requests} if kind == "requests" else limits
        for name, value in chosen.items():
            total[name] += quantity(value)  # type: ignore[assignment]  # a Counter adds any number
    return dict(total)  # type: ignore[arg-type]


def usage(resource: str, content: Object) -> dict[str, Decimal]:
    """Return what an object uses of a quota."""
    if resource == "persistentvolumeclaims":
        storage = content["spec"].get("resources", {}).get("requests", {}).get("storage", "0")
        return {"persistentvolumeclaims": Decimal(1), "requests.storage": quantity(storage)}
    if resource != "pods" or content.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    used = {"pods": Decimal(1)}
    for kind in ("requests", "limits"):
        used.update({f"{kind}.{name}": value for name, value in resources(content, kind).items()})
    return used


def check_quota(store: Store, resource: str, namespace: str, content: Object) -> None:
    """Check the quotas of the namespace.

    Raises:
        Refused: A quota is exceeded, or the object lacks a value that a quota limits (403).
    """
    asked = usage(resource, content)
    if not asked:
        return
    name = content["metadata"].get("name", "")
    existing, _ = store.select(Selection(resource, namespace))
    used: Counter[str] = Counter()
    for each in existing:
        used.update(usage(resource, each))
    for quota in store.select(Selection("resourcequotas", namespace))[0]:
        hard = {key: quantity(value) for key, value in quota["spec"]["hard"].items()}
        prefix = f'{resource} "{name}" is forbidden:'
        limited = ("requests.", "limits.") if resource == "pods" else ("requests.storage",)
        missing = sorted(key for key in hard if key.startswith(limited) and key not in asked)
        if resource == "pods" and (missing := [key for key in missing if key != "requests.storage"]):
            reason = f"failed quota: {quota['metadata']['name']}: must specify {','.join(missing)}"
            raise Refused(403, "Forbidden", f"{prefix} {reason}")
        over = sorted(key for key in hard if key in asked and Decimal(used[key]) + asked[key] > hard[key])
        if over:
            sums = ["requested", "used", "limited"]
            values = [asked, used, {key: quota["spec"]["hard"][key] for key in over}]
            parts = [
                f"{word}: {','.join(f'{key}={value[key]}' for key in over)}"  # type: ignore[index]
                for word, value in zip(sums, values, strict=True)
            ]
            reason = f"exceeded quota: {quota['metadata']['name']}, {', '.join(parts)}"
            raise Refused(403, "Forbidden", f"{prefix} {reason}")


def check_security(store: Store, namespace: str, pod: Object) -> None:
    """Check a pod against the level ``restricted`` if the namespace enforces it.

    Raises:
        Refused: The pod violates it (403).
    """
    labels = store.get("namespaces", "", namespace)["metadata"].get("labels") or {}
    if labels.get(ENFORCE) != "restricted":
        return
    if problems := violations(pod["spec"]):
        text = f'pods "{pod["metadata"].get("name", "")}" is forbidden: violates PodSecurity "restricted:latest": '
        raise Refused(403, "Forbidden", text + ", ".join(problems))


def violations(spec: Object) -> list[str]:
    """Return what a pod's specification violates of the level ``restricted``."""
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    found += [
        f'restricted volume types (volume "{volume["name"]}")'
        for volume in spec.get("volumes") or []
        if not allowed & (volume.keys() - {"name"})
    ]
    whole = spec.get("securityContext") or {}
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        own = container.get("securityContext") or {}
        where = f'(container "{container["name"]}")'
        both = {**whole, **own}
        capabilities = own.get("capabilities") or {}
        wrong = {
            "privileged": own.get("privileged"),
            "allowPrivilegeEscalation != false": own.get("allowPrivilegeEscalation") is not False,
            "unrestricted capabilities": "ALL" not in capabilities.get("drop", [])
            or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"},
            "runAsNonRoot != true": both.get("runAsNonRoot") is not True,
            "runAsUser=0": both.get("runAsUser") == 0,
            "seccompProfile": (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"),
            "hostPort": any(port.get("hostPort") for port in container.get("ports") or []),
        }
        found += [f"{what} {where}" for what, is_wrong in wrong.items() if is_wrong]
    return found
