"""The rules of the cluster for what the hub may create in its namespace. No I/O.

The rights of the hub define which kinds of objects it may create. These rules define their content. A hub that was
broken into can then choose neither the image, the node, the priority nor the volumes of a pod.

Source: "Validating Admission Policy" and "Common Expression Language in Kubernetes" (kubernetes.io/docs/reference/).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpchub.places.interface import LABEL_SESSION
from hpchub.places.kubernetes.pods import CLAIM

if TYPE_CHECKING:
    from collections.abc import Mapping

KIND = "ValidatingAdmissionPolicy"
TOLERATED = ("memory-pressure", "not-ready", "unreachable")
"""The taints that the API itself lets every pod tolerate, with the prefix ``node.kubernetes.io/``."""
_API = "admissionregistration.k8s.io/v1"


@dataclass(frozen=True)
class Permitted:
    """What a site permits in the pods of sessions.

    Attributes:
        images: The images, with their digests. Empty: every image with a digest.
        priority_classes: The names of priority classes. A cluster with a default class needs its name here.
        node_selector: The labels that a pod asks of its node.
        tolerations: The keys of the taints that a pod may tolerate.
        minimum_uid: The first uid that is not the system's.
    """

    images: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()
    node_selector: Mapping[str, str] | None = None
    tolerations: tuple[str, ...] = ()
    minimum_uid: int = 1000


def policies(namespace: str, account: str, permitted: Permitted) -> list[dict[str, Any]]:
    """Return the policies for pods, Secrets and claims of the hub, each with its binding to the namespace.

    Args:
        namespace: The namespace.
        account: The name of the hub's service account.
        permitted: What the site permits.
    """
    rules = {
        "pods": _of_pods(permitted),
        "secrets": {
            "!has(object.type) || object.type == 'Opaque'": "the hub creates no tokens of the cluster",
            "object.metadata.name.startsWith('hpchub-')": "the name is not that of a session",
        },
        "persistentvolumeclaims": {_is_claim("object.metadata.name"): "the name is not that of a user's claim"},
    }
    found: list[dict[str, Any]] = []
    for resource, validations in rules.items():
        name = f"hpchub-{namespace}-{resource}"
        spec = {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
                ]
            },
            "matchConditions": [
                {
                    "name": "by-the-hub",
                    "expression": f"request.userInfo.username == 'system:serviceaccount:{namespace}:{account}'",
                }
            ],
            "validations": [{"expression": text, "message": message} for text, message in validations.items()],
        }
        selected = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        binding = {
            "policyName": name,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": selected},
        }
        found += [
            {"apiVersion": _API, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": spec},
            {
                "apiVersion": _API,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": binding,
            },
        ]
    return found


def _is_claim(value: str) -> str:
    return f"{value}.startsWith({_text(CLAIM.partition('{')[0])})"


def _of_pods(permitted: Permitted) -> dict[str, str]:
    """Return the conditions for pods, each with the message for a pod that does not fulfil it."""
    spec, user = "object.spec", "object.spec.securityContext"
    images = (
        f"c.image in {_texts(permitted.images)}" if permitted.images else "c.image.matches('@sha256:[0-9a-f]{64}$')"
    )
    selector = f"!has({spec}.nodeSelector) || size({spec}.nodeSelector) == 0"
    if permitted.node_selector:
        pairs = ", ".join(f"{_text(key)}: {_text(value)}" for key, value in sorted(permitted.node_selector.items()))
        selector = f"has({spec}.nodeSelector) && {spec}.nodeSelector == {{{pairs}}}"
    taints = [*(f"node.kubernetes.io/{each}" for each in TOLERATED), *permitted.tolerations]
    claim = _is_claim("v.persistentVolumeClaim.claimName")
    return {
        f"has(object.metadata.labels) && {_text(LABEL_SESSION)} in object.metadata.labels": "it is not a session's",
        f"!has({spec}.nodeName) && !has({spec}.affinity)": "the hub chooses no node",
        selector: "its node selector is not permitted",
        f"!has({spec}.tolerations) || {spec}.tolerations.all(t, has(t.key) && t.key in {_texts(taints)})": (
            "it tolerates a taint that is not permitted"
        ),
        f"!has({spec}.priorityClassName) || {spec}.priorityClassName in {_texts(['', *permitted.priority_classes])}": (
            "its priority class is not permitted"
        ),
        f"!has({spec}.serviceAccountName) || {spec}.serviceAccountName == 'default'": "its account is not permitted",
        f"has({spec}.automountServiceAccountToken) && !{spec}.automountServiceAccountToken": (
            "it asks for a token of the cluster"
        ),
        f"{spec}.containers.all(c, {images})": "its image is not in the list",
        f"size({spec}.containers) == 1 && (!has({spec}.initContainers) || size({spec}.initContainers) == 0)": (
            "it has more than one container"
        ),
        f"!has({spec}.volumes) || {spec}.volumes.all(v, has(v.emptyDir)"
        f" || (has(v.secret) && v.secret.secretName == object.metadata.name)"
        f" || (has(v.persistentVolumeClaim) && {claim}))": "a volume is not that of a session",
        f"has({user}) && has({user}.runAsUser) && {user}.runAsUser >= {permitted.minimum_uid}": (
            "its uid belongs to the system"
        ),
        f"has({spec}.activeDeadlineSeconds)": "it has no time limit",
    }


def _text(value: str) -> str:
    """Return a constant of the expression language. No value of a site contains a quotation mark or a backslash."""
    return "'" + json.dumps(value)[1:-1] + "'"


def _texts(values: Any) -> str:
    return f"[{', '.join(map(_text, values))}]"
