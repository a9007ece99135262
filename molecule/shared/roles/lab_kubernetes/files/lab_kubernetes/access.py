"""Who may do what: bearer tokens, Roles and RoleBindings.

Source: "Authenticating", the section "Service account tokens"; "Using RBAC Authorization", the sections "Role and
ClusterRole", "RoleBinding and ClusterRoleBinding" and "Referring to resources"; "Authorization Overview", the section
"Request verbs" (kubernetes.io/docs/reference/access-authn-authz/).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from lab_kubernetes.store import Refused, Selection, Store

ADMINISTRATOR = "kubernetes-admin"
"""The user who may do everything."""


class Action(NamedTuple):
    """What a request does.

    Attributes:
        verb: ``get``, ``list``, ``watch``, ``create``, ``delete``, …
        group: The API group, empty for the core group.
        resource: The resource, with its subresource: ``pods/log``.
        namespace: The namespace, or empty.
    """

    verb: str
    group: str
    resource: str
    namespace: str


@dataclass
class Access:
    """The tokens and the rights of their users.

    Attributes:
        store: The objects, which include the Roles.
        tokens: The user of each valid token. A service account is ``system:serviceaccount:NAMESPACE:NAME``.
        used: The actions of each user that were permitted.
    """

    store: Store
    tokens: dict[str, str] = field(default_factory=dict)
    used: dict[str, set[Action]] = field(default_factory=dict)

    def user(self, header: str) -> str:
        """Return the user of an ``Authorization`` header.

        Raises:
            Refused: The token is missing, unknown or expired (401).
        """
        user = self.tokens.get(header.removeprefix("Bearer ")) if header.startswith("Bearer ") else None
        if user is None:
            raise Refused(401, "Unauthorized", "Unauthorized")
        return user

    def check(self, user: str, action: Action) -> None:
        """Check that a user may do something.

        Raises:
            Refused: No Role permits it (403).
        """
        if user != ADMINISTRATOR and not self._permitted(user, action):
            resource, _, subresource = action.resource.partition("/")
            raise Refused(
                403,
                "Forbidden",
                f'{resource} is forbidden: User "{user}" cannot {action.verb} resource "{resource}'
                f'{"/" * bool(subresource)}{subresource}" in API group "{action.group}" in the namespace '
                f'"{action.namespace}"',
            )
        self.used.setdefault(user, set()).add(action)

    def _permitted(self, user: str, action: Action) -> bool:
        if not action.namespace:
            return False  # there are no ClusterRoles here
        bindings, _ = self.store.select(Selection("rolebindings", action.namespace))
        names = {
            binding["roleRef"]["name"]
            for binding in bindings
            for subject in binding.get("subjects", [])
            if f"system:serviceaccount:{subject.get('namespace', '')}:{subject.get('name', '')}" == user
        }
        roles, _ = self.store.select(Selection("roles", action.namespace))
        return any(
            action.group in rule["apiGroups"] and action.resource in rule["resources"] and action.verb in rule["verbs"]
            for role in roles
            if role["metadata"]["name"] in names
            for rule in role["rules"]
        )
