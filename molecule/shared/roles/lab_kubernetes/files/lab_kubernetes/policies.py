"""The policies of the cluster's administrators for what may be in an object.

Source: "Validating Admission Policy" and "Common Expression Language in Kubernetes" (kubernetes.io/docs/reference/).
This module understands the part of the language that hpchub's policies use: fields, ``has``, ``size``, ``all``, ``in``,
``startsWith``, ``matches``, comparisons, and logical operators.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lab_kubernetes.store import Refused, Selection

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab_kubernetes.store import Object, Store


class Map(dict[str, Any]):
    """An object whose fields are attributes. A missing one is an error."""

    def __getattr__(self, name: str) -> Any:
        try:
            return wrapped(self[name])
        except KeyError:
            raise AttributeError(f"no such key: {name}") from None


class Items(list[Any]):
    """A list with the macros of the language."""

    def all(self, function: Callable[[Any], Any]) -> bool:
        """Return whether a condition is true for all items."""
        return all(function(wrapped(each)) for each in self)


class Text(str):
    """A text with the methods of the language."""

    __slots__ = ()

    def startsWith(self, prefix: str) -> bool:  # noqa: N802 the name in the language
        """Return whether it begins with a prefix."""
        return self.startswith(prefix)

    def matches(self, pattern: str) -> bool:
        """Return whether a part of it matches a regular expression."""
        return re.search(pattern, self) is not None


def wrapped(value: Any) -> Any:
    """Return a value of JSON with the fields and methods of the language."""
    if isinstance(value, dict):
        return Map(value)
    if isinstance(value, list):
        return Items(value)
    return Text(value) if isinstance(value, str) else value


_OPERATORS = (
    (r"&&", " and "),
    (r"\|\|", " or "),
    (r"!(?!=)", " not "),
    (r"\bhas\(([\w.]+)\.(\w+)\)", r"has(\1, '\2')"),
    (r"\.all\((\w+), ", r".all(lambda \1: "),
)


def in_python(expression: str) -> str:
    """Return an expression in Python. Texts stay as they are."""
    parts = re.split(r"('[^']*')", expression)
    for index in range(0, len(parts), 2):
        for pattern, replacement in _OPERATORS:
            parts[index] = re.sub(pattern, replacement, parts[index])
    return "".join(parts).strip()


def holds(expression: str, content: Object, user: str) -> bool:
    """Return whether an expression is true for an object that a user creates."""
    names = {
        "object": Map(content),
        "request": Map({"userInfo": {"username": user}}),
        "has": lambda parent, name: name in parent,
        "size": len,
    }
    return bool(eval(in_python(expression), {"__builtins__": {}, **names}))  # noqa: S307 only administrators write policies


def check_policies(store: Store, resource: str, namespace: str, content: Object, user: str) -> None:
    """Check an object that a user creates.

    Raises:
        Refused: A policy denies it (422), or cannot be evaluated (500).
    """
    labels = {"kubernetes.io/metadata.name": namespace}
    policies = {
        each["metadata"]["name"]: each["spec"] for each in store.select(Selection("validatingadmissionpolicies"))[0]
    }
    for each in store.select(Selection("validatingadmissionpolicybindings"))[0]:
        binding = each["spec"]
        spec = policies[binding["policyName"]]
        selected = binding["matchResources"]["namespaceSelector"]["matchLabels"].items() <= labels.items()
        rules = spec["matchConstraints"]["resourceRules"]
        if not selected or not any(resource in rule["resources"] for rule in rules):
            continue
        name = binding["policyName"]
        prefix = (
            f"{resource} \"{content['metadata'].get('name', '')}\" is forbidden: ValidatingAdmissionPolicy '{name}'"
        )
        try:
            if not all(holds(condition["expression"], content, user) for condition in spec["matchConditions"]):
                continue
            denied = [rule["message"] for rule in spec["validations"] if not holds(rule["expression"], content, user)]
        except (AttributeError, TypeError) as error:
            raise Refused(422, "Invalid", f"{prefix} with binding '{name}' denied request: {error}") from None
        if denied:
            raise Refused(422, "Invalid", f"{prefix} with binding '{name}' denied request: {denied[0]}")
