"""The users of the demo and of the other instances of the lab: alice, bob, carol, dave, a class, and odd names."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Each user's groups at the identity provider, and whether the user needs a one-time password to sign in.
_USERS: dict[str, tuple[list[str], bool]] = {
    "alice": (["hpc"], False),
    "bob": (["hpc"], False),
    "carol": (["hpc-admins"], True),
    "dave": ([], False),
    # Students who all start their servers at the same time.
    **{f"student{number:02}": (["hpc"], False) for number in range(1, 21)},
    # Names of accounts and groups in the forms that directories and identity providers use.
    "first.last": (["/staff/hpc"], False),
    "2023abc": (["HPC Users"], False),
    "AB1234": (["CN=HPC Users,OU=Groups,DC=cl,DC=org"], False),
    "ann@CL.ORG": (["hpc", "x,hpc-admins", "x;hpc-admins"], False),
}
_EASY_TO_READ = "abcdefghijkmnpqrstuvwxyz23456789"


def generate_users(known: Iterable[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Return all users: ``[{"name", "password", "groups", "totp_secret"}, …]``. Known users keep their passwords."""
    kept = {user["name"]: user for user in known}
    return [
        kept.get(name)
        or {
            "name": name,
            "password": "-".join("".join(secrets.choice(_EASY_TO_READ) for _ in range(5)) for _ in range(3)),
            "groups": groups,
            "totp_secret": base64.b32encode(secrets.token_bytes(20)).decode() if totp else None,
        }
        for name, (groups, totp) in _USERS.items()
    ]
