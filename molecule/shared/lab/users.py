"""The users of the demo and of the other instances of the lab: alice, bob, carol, dave, and a class of students."""

from __future__ import annotations

import base64
import secrets
from typing import Any

# Each user's groups at the identity provider, and whether the user needs a one-time password to sign in.
_USERS: dict[str, tuple[list[str], bool]] = {
    "alice": (["hpc"], False),
    "bob": (["hpc"], False),
    "carol": (["hpc-admins"], True),
    "dave": ([], False),
    # A class of students who all start their servers at the same time.
    **{f"student{number:02}": (["hpc"], False) for number in range(1, 11)},
}
_EASY_TO_READ = "abcdefghijkmnpqrstuvwxyz23456789"


def generate_users() -> list[dict[str, Any]]:
    """Return all users with new passwords: ``[{"name", "password", "groups", "totp_secret"}, …]``."""
    return [
        {
            "name": name,
            "password": "-".join("".join(secrets.choice(_EASY_TO_READ) for _ in range(5)) for _ in range(3)),
            "groups": groups,
            "totp_secret": base64.b32encode(secrets.token_bytes(20)).decode() if totp else None,
        }
        for name, (groups, totp) in _USERS.items()
    ]
