"""How many sessions a user may have at once: altogether, and with one profile. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import Message, marked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.entries import Profile


def refusal(held: Sequence[str], profile: Profile, limit: int) -> str:
    """Return why a user may not have one more session, or an empty text.

    Args:
        held: The keys of the profiles of the user's other sessions, also of those that are about to start.
        profile: The profile of the new session.
        limit: How many sessions the user may have at once.
    """
    if len(held) >= limit:
        text = marked(
            "You have {count} sessions, and this service permits {limit} at once. Stop a session on your home"
            " page first."
        )
        if len(held) == 1:
            text = marked(
                "You have 1 session, and this service permits {limit} at once. Stop a session on your home page first."
            )
        return Message(text, count=len(held), limit=limit)
    same = held.count(profile.key)
    if profile.max_sessions and same >= profile.max_sessions:
        text = marked(
            "You have {count} sessions with the profile '{profile}', which permits {limit} at once. Choose another"
            " profile, or stop a session on your home page first."
        )
        if same == 1:
            text = marked(
                "You have 1 session with the profile '{profile}', which permits {limit} at once. Choose another"
                " profile, or stop a session on your home page first."
            )
        return Message(text, count=same, profile=profile.display_name, limit=profile.max_sessions)
    return ""
