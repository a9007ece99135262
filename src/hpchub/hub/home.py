"""The content of the home page: the user's sessions, the ended ones, and what the user can start. No I/O.

The page is made from what the hub has in memory, from the user's rows in its database, and from the event table.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpchub.hub import outcome as outcomes
from hpchub.hub.choosing import again
from hpchub.hub.collector import state_of
from hpchub.hub.history import WEEK, Past
from hpchub.hub.named_sessions import in_use
from hpchub.hub.outcome import Outcome, utc

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from hpchub.model.entries import Profile

_PENDING = ("submitting", "queued", "launching", "stopping")


@dataclass(frozen=True)
class Card:
    """A session that goes on.

    Attributes:
        server: The name of its server, which is a part of its address. Empty for the session without a name.
        name: The name that its user has chosen, or empty.
        state: ``starting``, ``running`` or ``stopping``.
        profile: The profile that it was granted.
        message: What happens during its start, or empty.
        node: The node of its job, or empty.
        job_id: The id of its job, or empty.
        ends_at: When it reaches its time limit, in seconds since 1970, or None if this is not known.
    """

    server: str
    name: str
    state: str
    profile: Profile
    message: str
    node: str
    job_id: str
    ends_at: float | None

    @property
    def is_pending(self) -> bool:
        """Whether its state will change soon."""
        return self.state != "running"


@dataclass(frozen=True)
class EndedSession:
    """A session that is over.

    Attributes:
        name: The name that its user has chosen, or empty.
        profile: The name of its profile.
        key: The key of its profile if it can be chosen again, or empty.
        cause: Why it ended; see ``Past``.
        at: When it ended, in seconds since 1970.
        cluster: Its cluster or place.
        place: Its place, or empty in a cluster; see ``outcome.place_name``.
        job_id: The id of its job, or empty.
        outcome: What the hub remembers of it, or None if it remembers a later session.
        server: The name of its server if the same choice can be started again there, or None.
        details: The name of the server with a page that explains the end, or None.
        reason: See ``Past``.
    """

    name: str
    profile: str
    key: str
    cause: str
    at: float
    cluster: str
    place: str
    job_id: str
    outcome: Outcome | None
    server: str | None
    details: str | None
    reason: str

    @property
    def when(self) -> str:
        """When it ended, for browsers that do not show the local time."""
        return utc(self.at)


@dataclass(frozen=True)
class QuickStart:
    """The user's last choice, or an earlier one.

    Attributes:
        server: The name of the server to start.
        name: The name of the session, or empty.
        profile: The chosen profile.
        fields: The fields that the user has changed, each with its value.
        is_last: Whether the user has chosen nothing later.
    """

    server: str
    name: str
    profile: Profile
    fields: tuple[tuple[str, str], ...]
    is_last: bool


def cards(user: Any) -> list[Card]:
    """Return the sessions of a user that go on.

    Args:
        user: JupyterHub's user.
    """
    found = []
    for name, spawner in sorted(dict(user.spawners).items()):
        state = state_of(spawner)
        if not state:
            continue
        job, profile = spawner.child_spawner.driver.state, spawner.child_spawner.profile
        found.append(
            Card(
                server=name,
                name=spawner.display_name if name else "",
                state="stopping" if state == "stopping" else "running" if spawner.is_serving else "starting",
                profile=profile,
                message=job.message if state in _PENDING and state != "stopping" else "",
                node=job.node or (job.job.host if job.job else "") or job.host,
                job_id=job.job_id,
                ends_at=job.ends_at,
            )
        )
    return found


def ended_sessions(
    user: Any,
    past: Sequence[Past],
    profiles: Mapping[str, Profile],
    startable: Collection[str],
    places: Collection[str] = (),
) -> list[EndedSession]:
    """Return the sessions of a user that ended in the last week, the latest first.

    Args:
        user: JupyterHub's user.
        past: The user's sessions in the event table, with the names of their servers. It may lack the latest ones.
        profiles: The profiles in the list, by key.
        startable: The keys of the profiles that the user can start now.
        places: The names of the places.
    """
    since = time.time() - WEEK
    rows = {}
    for row in user.orm_spawners.values():
        outcome = outcomes.restore((row.state or {}).get("outcome"))
        if outcome is not None and outcome.at >= since:
            rows[outcome.session or f"refused {row.name}"] = (row, outcome)
    found = [_ended(user, each, rows.pop(each.session, None), profiles, startable, places=places) for each in past]
    for row, outcome in rows.values():
        key = outcome.profile or str((row.user_options or {}).get("profile", ""))
        each = Past(outcome.session, key, outcome.cluster, outcome.cause, outcome.at, job_id=outcome.job_id)
        found.append(_ended(user, each, (row, outcome), profiles, startable, places=places))
    return sorted(found, key=lambda each: -each.at)


def _ended(
    user: Any,
    past: Past,
    remembered: tuple[Any, Outcome] | None,
    profiles: Mapping[str, Profile],
    startable: Collection[str],
    *,
    places: Collection[str],
) -> EndedSession:
    row, outcome = remembered or (None, None)
    own = row or (user.orm_spawners.get(past.server) if past.server else None)
    profile = profiles.get(past.profile)
    key = past.profile if past.profile in startable else ""
    return EndedSession(
        name=str(own.display_name or own.name) if own is not None and own.name else "",
        profile=profile.display_name if profile else past.profile,
        key=key,
        cause=outcome.cause if outcome else past.cause,
        at=past.at,
        cluster=past.cluster,
        place=past.cluster if past.cluster in places else "",
        job_id=past.job_id,
        outcome=outcome,
        server=own.name if own is not None and key and not in_use(user, own.name) else None,
        details=row.name if row is not None and outcome and not outcome.field else None,
        reason=past.reason,
    )


def quick_start(user: Any) -> QuickStart | None:
    """Return the user's last choice that can be started now, or None if there is none.

    Args:
        user: JupyterHub's user.
    """
    rows = [row for row in user.orm_spawners.values() if row.user_options and isinstance(row.user_options, dict)]
    rows.sort(key=lambda row: (row.last_activity is not None, row.last_activity), reverse=True)
    for row in rows:
        if in_use(user, row.name):
            continue
        spawner = user.spawners[row.name]
        options = again(row.user_options, without=False)
        if not spawner.accepts(options):
            continue
        shown = tuple((str(name), str(value)[:100]) for name, value in (options.get("fields") or {}).items())
        name = str(row.display_name or "") if row.name else ""
        profile = spawner.profile_list.require(options["profile"])
        return QuickStart(row.name, name, profile, shown, is_last=row is rows[0])
    return None
