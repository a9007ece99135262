"""How many sessions a user may have at once: altogether, and with one profile. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import Message

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
        return Message(
            "You have {held} {sessions}, and this service permits {limit} at once. Stop a session "
            "on your home page first.",
            held=len(held),
            sessions="session" if len(held) == 1 else "sessions",
            limit=limit,
        )
    same = held.count(profile.key)
    if profile.max_sessions and same >= profile.max_sessions:
        return Message(
            "You have {same} {sessions} with the profile '{display_name}', which permits "
            "{max_sessions} at once. Choose another profile, or stop a session on your home page "
            "first.",
            same=same,
            sessions="session" if same == 1 else "sessions",
            display_name=profile.display_name,
            max_sessions=profile.max_sessions,
        )
    return ""
