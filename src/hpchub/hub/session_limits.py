"""How many sessions a user may have at once: altogether, and with one profile. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        return (
            f"You have {len(held)} {'session' if len(held) == 1 else 'sessions'}, and this service permits {limit} at"
            " once. Stop a session on your home page first."
        )
    same = held.count(profile.key)
    if profile.max_sessions and same >= profile.max_sessions:
        return (
            f"You have {same} {'session' if same == 1 else 'sessions'} with the profile '{profile.display_name}', which"
            f" permits {profile.max_sessions} at once. Choose another profile, or stop a session on your home page"
            " first."
        )
    return ""
