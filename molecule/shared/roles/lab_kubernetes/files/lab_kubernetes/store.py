"""The objects of the cluster, their versions, and the changes that a watch reports.

Source: "Kubernetes API Concepts" (kubernetes.io/docs/reference/using-api/api-concepts/), the sections "Resource
versions", "Efficient detection of changes" and "410 Gone responses"; "Garbage Collection", the section "Cascading
deletion"; "Labels and Selectors"; "Field Selectors".
"""

from __future__ import annotations

import base64
import copy
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Object = dict[str, Any]
KINDS = {
    "events": ("v1", "Event"),
    "namespaces": ("v1", "Namespace"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "nodes": ("v1", "Node"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "pods": ("v1", "Pod"),
    "resourcequotas": ("v1", "ResourceQuota"),
    "rolebindings": ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    "roles": ("rbac.authorization.k8s.io/v1", "Role"),
    "secrets": ("v1", "Secret"),
    "serviceaccounts": ("v1", "ServiceAccount"),
    "validatingadmissionpolicies": ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"),
    "validatingadmissionpolicybindings": ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding"),
}
"""The resources: the group and version of their API, and the kind of their objects."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")


class Refused(Exception):
    """A request that is refused.

    Args:
        code: The HTTP status.
        reason: The reason in one word, as in the API's ``Status``.
        message: The explanation.
        name: The name of the object that the error is about, or empty.
    """

    def __init__(self, code: int, reason: str, message: str, name: str = "") -> None:
        super().__init__(message)
        self.code, self.reason, self.name = code, reason, name

    @property
    def status(self) -> Object:
        """The error as the API returns it; see "Status" in the API reference."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": {"name": self.name} if self.name else {},
            "code": self.code,
        }


def expired() -> Refused:
    """Return the error of a watch whose version is too old ("410 Gone responses")."""
    return Refused(410, "Expired", "too old resource version")


def now() -> str:
    """Return the time in the notation of the API."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Change:
    """One change of an object: ``ADDED``, ``MODIFIED`` or ``DELETED``."""

    version: int
    kind: str
    resource: str
    namespace: str
    content: Object


@dataclass(frozen=True)
class Selection:
    """What a list or a watch selects.

    Attributes:
        resource: The resource.
        namespace: The namespace, or empty for all.
        labels: The label selector: ``a=b,c!=d,e``.
        fields: The field selector: ``metadata.name=x``.
    """

    resource: str
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def matches(self, resource: str, namespace: str, content: Object) -> bool:
        """Return whether an object is selected."""
        if resource != self.resource or self.namespace not in ("", namespace):
            return False
        labels = content["metadata"].get("labels") or {}
        return _holds(self.labels, labels.get) and _holds(self.fields, lambda key: _at(content, key))


def _at(content: Any, path: str) -> Any:
    for name in path.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _holds(selector: str, value: Callable[[str], Any]) -> bool:
    for term in filter(None, selector.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
        if found is None:
            if value(term) is None:
                return False
        elif (str(value(found[1]) or "") == found[3]) is (found[2] == "!="):
            return False
    return True


@dataclass
class Store:
    """All objects. Every change gets a version, which is larger than all earlier ones.

    Attributes:
        changed: Notified after each change. It is also the lock of the store.
        version: The version of the last change.
        compacted: Changes up to this version are forgotten.
        stale: What a list with ``resourceVersion=0`` returns instead of the current objects, or None.
        closed: Whether nobody may wait for changes any more.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 100
    compacted: int = 0
    stale: dict[tuple[str, str, str], Object] | None = None
    closed: bool = False
    _objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    _history: list[Change] = field(default_factory=list)

    def create(self, resource: str, namespace: str, content: Object) -> Object:
        """Create an object, and return it.

        Raises:
            Refused: Its name is not valid (422), or it exists (409).
        """
        content = copy.deepcopy(content)
        metadata = content.setdefault("metadata", {})
        name = metadata.get("name") or f"{metadata.get('generateName', '')}{uuid.uuid4().hex[:5]}"
        if not NAME.fullmatch(name) or len(name) > 253:
            kind = KINDS[resource][1]
            raise Refused(422, "Invalid", f'{kind} "{name}" is invalid: metadata.name: Invalid value: "{name}"')
        with self.changed:
            if (resource, namespace, name) in self._objects:
                raise Refused(409, "AlreadyExists", f'{resource} "{name}" already exists')
            content["apiVersion"], content["kind"] = KINDS[resource]
            if texts := content.pop("stringData", None):  # write-only; see "Secret" in the API reference
                encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
                content["data"] = {**(content.get("data") or {}), **encoded}
            metadata.update(name=name, uid=str(uuid.uuid4()), creationTimestamp=now())
            if namespace:
                metadata["namespace"] = namespace
            self._objects[resource, namespace, name] = content
            return self._note("ADDED", resource, namespace, content)

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """Return an object.

        Raises:
            Refused: It does not exist (404).
        """
        with self.changed:
            found = self._objects.get((resource, namespace, name))
            if found is None:
                raise Refused(404, "NotFound", f'{resource} "{name}" not found', name)
            return copy.deepcopy(found)

    def select(self, selection: Selection, *, cached: bool = False) -> tuple[list[Object], int]:
        """Return the selected objects and the version of the list.

        Args:
            selection: What to select.
            cached: Whether an old answer is good enough (``resourceVersion=0``).
        """
        with self.changed:
            objects = self.stale if cached and self.stale is not None else self._objects
            found = [
                copy.deepcopy(content)
                for (resource, namespace, _), content in objects.items()
                if selection.matches(resource, namespace, content)
            ]
            return found, self.version

    def update(self, resource: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        """Change an object, and return it.

        Raises:
            Refused: It does not exist (404).
        """
        with self.changed:
            content = self.get(resource, namespace, name)
            change(content)
            self._objects[resource, namespace, name] = content
            return self._note("MODIFIED", resource, namespace, content)

    def remove(self, resource: str, namespace: str, name: str) -> Object:
        """Remove an object and the objects that it owns ("Cascading deletion"). Return it.

        Raises:
            Refused: It does not exist (404).
        """
        with self.changed:
            content = self.get(resource, namespace, name)
            del self._objects[resource, namespace, name]
            self._note("DELETED", resource, namespace, content)
            owner = content["metadata"]["uid"]
            for found_resource, found_namespace, found_name in list(self._objects):
                found = self._objects.get((found_resource, found_namespace, found_name))
                owners = (found or {"metadata": {}})["metadata"].get("ownerReferences") or []
                if any(each["uid"] == owner for each in owners):
                    self.remove(found_resource, found_namespace, found_name)
            return content

    def _note(self, kind: str, resource: str, namespace: str, content: Object) -> Object:
        self.version += 1
        content["metadata"]["resourceVersion"] = str(self.version)
        self._history.append(Change(self.version, kind, resource, namespace, copy.deepcopy(content)))
        self.changed.notify_all()
        return copy.deepcopy(content)

    def compact(self) -> None:
        """Forget all changes, so that a watch of an older version is answered with 410."""
        with self.changed:
            self.compacted = self.version
            self._history.clear()
            self.changed.notify_all()

    def freeze_cache(self) -> None:
        """From now on, a list with ``resourceVersion=0`` returns the objects of now."""
        with self.changed:
            self.stale = copy.deepcopy(self._objects)

    def since(self, version: int, selection: Selection, timeout: float) -> tuple[list[Change], int]:
        """Wait for selected changes after a version. Return them and the version up to which there are no others.

        Raises:
            Refused: The changes are forgotten (410).
        """
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                if version < self.compacted:
                    raise expired()
                found = [
                    each
                    for each in self._history
                    if each.version > version and selection.matches(each.resource, each.namespace, each.content)
                ]
                left = deadline - time.monotonic()
                if found or left <= 0 or self.closed:
                    return found, self.version
                self.changed.wait(left)
