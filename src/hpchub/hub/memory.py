"""The memory of a user's last session: it finds out how the session ended, and saves it until the next start."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import inspect

from hpchub.hub import outcome as outcomes
from hpchub.hub.events import EndExplained, Session, SessionEnded, StartFailed
from hpchub.hub.outcome import NOT_STARTED, STOPPED, Outcome
from hpchub.hub.session_events import facts as session_facts
from hpchub.hub.session_texts import TELL
from hpchub.schedulers import Cause, Ending, Unanswered
from hpchub.schedulers.endings import with_log

if TYPE_CHECKING:
    import logging
    from collections.abc import AsyncIterator, Iterable
    from typing import Any

    from jupyterhub import orm

    from hpchub.hub.runtime import Runtime
    from hpchub.hub.session_spawner import SessionSpawner
    from hpchub.hub.start_error import StartError
    from hpchub.model.entries import Cluster, Profile
    from hpchub.model.places import PlaceBase

PATIENCE = 10.0
"""How long a failed start may wait for its log and for the scheduler's record, in seconds."""
PAUSES = (0.0, 3.0, 12.0, 45.0)
"""The pauses before the questions how a session ended, in seconds. Some schedulers record an end with a delay."""
START_PAUSES = (0.0, 2.0, 3.0)
"""The same while a user waits for the explanation of a failed start. Slurm reports no cause while a job completes."""
WITH_LOG = (Cause.FAILED, Cause.KILLED, Cause.OUT_OF_MEMORY, Cause.NODE_LOST)
"""The causes of an end that the log may explain."""


@dataclass(frozen=True)
class Ended:
    """The facts of a session that is over. Its spawner no longer has them."""

    session: str
    facts: Session
    job_id: str
    user: str
    cluster: Cluster | PlaceBase
    profile: Profile


class Memory:
    """The outcome of a user's last session. It is a part of the spawner's saved state.

    Args:
        row: The spawner's row in the database.
        db: The session of the database.
        runtime: The objects that all spawners of the hub share.
        log: The spawner's logger.
    """

    def __init__(self, row: orm.Spawner, db: Any, runtime: Runtime, log: logging.Logger) -> None:
        self._row = row
        self._db = db
        self._runtime = runtime
        self._log = log

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the last session, or None if there is none, or since a new session has begun."""
        return outcomes.restore((self._row.state or {}).get("outcome"))

    def forget(self) -> None:
        """Forget the outcome, because a new session begins."""
        self._save(None)

    def knows(self, child: SessionSpawner) -> bool:
        """Return whether the outcome of this spawner's session is known."""
        known = self.outcome
        return known is not None and known.session == child.session

    def stopped(self, child: SessionSpawner, who: str, *, starting: bool, reason: str = "") -> None:
        """Remember that somebody stopped a session through the hub, or that the hub did for the given reason."""
        state = child.driver.state
        child.announce_end(
            SessionEnded(session=session_facts(state), cause=STOPPED, by=who, was_ready=bool(state.ready))
        )
        self._record(child, STOPPED, reason or outcomes.stopped_by(who, child.user.name, starting=starting))

    def unreachable(self, child: SessionSpawner) -> None:
        """Remember that the notebook server did not answer the hub."""
        state = child.driver.state
        child.announce_end(StartFailed(session=session_facts(state), reason="no_answer"))
        self._record(child, NOT_STARTED, outcomes.unreachable(state.host, state.port), TELL)

    def ended(self, child: SessionSpawner) -> None:
        """Remember that a session has ended, and find out in the background how."""
        state, cause = child.driver.state, Cause.UNKNOWN.value
        child.announce_end(SessionEnded(session=session_facts(state), cause=cause, was_ready=bool(state.ready)))
        unknown, facts = Ending(Cause.UNKNOWN), _facts(child)
        self._record(child, cause, *self._explained(unknown, facts, starting=False))
        if child.job_id:
            self._runtime.background("Cannot find out how a session ended", self._find_out(facts))

    async def start_failed(self, child: SessionSpawner | None, failure: StartError) -> None:
        """Remember that a start failed, with the last lines of its log.

        Args:
            child: The session's spawner, or None if there is none.
            failure: The failure. Its reason is ``ended`` if the start failed because its job ended.
        """
        message, advice, job_ended = failure.message, failure.advice, failure.reason == "ended"
        if child is None:
            self._save(Outcome("", NOT_STARTED, message, time.time(), advice=advice))
            return
        if child.session:
            child.announce_end(StartFailed(session=session_facts(child.driver.state), reason=str(failure.reason)))
        if not child.job_id:
            self._record(child, NOT_STARTED, message, advice, field=failure.field)
            return
        facts = _facts(child)
        lines, ending = await asyncio.gather(
            self._log_lines(facts), self._ending_of_start(facts) if job_ended else _nothing()
        )
        self._record(child, NOT_STARTED, message, advice, outcomes.plain_lines(lines), field=failure.field)
        if ending is not None:
            self._add(with_log(ending, lines), facts)
        elif job_ended:
            self._runtime.background("Cannot find out how a job ended", self._find_out(facts))

    # -- questions to the cluster

    async def _find_out(self, facts: Ended) -> None:
        async for ending in self._endings(facts, PAUSES):
            lines = await self._log_lines(facts) if ending.cause in WITH_LOG else []
            self._add(with_log(ending, lines), facts)
            self._add_log(lines, facts)
            # Slurm's database receives the name of the canceller later than the controller knows the end.
            if ending.cause is not Cause.CANCELLED or ending.by:
                return

    async def _ending_of_start(self, facts: Ended) -> Ending | None:
        """Return how the job of a failed start ended, or None if the scheduler does not report it soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                async for ending in self._endings(facts, START_PAUSES):
                    return ending
        return None

    async def _endings(self, facts: Ended, pauses: Iterable[float]) -> AsyncIterator[Ending]:
        """Ask after each pause how a job ended, and yield the answers of the scheduler."""
        for pause in pauses:
            await asyncio.sleep(pause)
            if (ending := await self._ending(facts)) is not None:
                yield ending

    async def _ending(self, facts: Ended) -> Ending | None:
        """Return how a job ended, or None if the scheduler does not report it now."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._runtime.ending(facts.cluster, facts.job_id)
        except (Unanswered, TimeoutError, ValueError) as error:
            self._log.info("It is not known how job %s on %s ended: %s", facts.job_id, facts.cluster.name, error)
        except Exception:  # noqa: BLE001 whatever the scheduler printed must not disturb the session's end
            self._log.exception("The record of job %s on %s cannot be parsed", facts.job_id, facts.cluster.name)
        return None

    async def _log_lines(self, facts: Ended) -> list[str]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._runtime.log(facts.cluster.name, facts.user, facts.job_id)
        except (Unanswered, TimeoutError, ValueError) as error:
            self._log.info("The log of job %s on %s was not read: %s", facts.job_id, facts.cluster.name, error)
            return []

    # -- the database

    def _add(self, ending: Ending, facts: Ended) -> None:
        """Add the scheduler's explanation to the outcome, unless a new session has begun."""
        self._runtime.events.emit(EndExplained(session=facts.facts, cause=ending.cause.value, by=ending.by))
        if not inspect(self._row).persistent:
            return  # the user has removed the session's name in the meantime
        known = self.outcome
        if known is None or known.session != facts.session:
            return
        text, advice = self._explained(ending, facts, starting=known.not_started)
        if known.not_started and ending.cause is Cause.UNKNOWN:
            text, advice = known.text, known.advice
        self._log.info("Job %s on %s ended: %s (%s)", facts.job_id, facts.cluster.name, ending.cause.value, ending)
        self._save(known.explained(ending, text, advice))

    def _add_log(self, lines: list[str], facts: Ended) -> None:
        """Add the last lines of the log to the outcome, unless it has them or a new session has begun."""
        known = self.outcome
        if lines and known is not None and known.session == facts.session and not known.log:
            self._save(replace(known, log=outcomes.plain_lines(lines)))

    def _explained(self, ending: Ending, facts: Ended, *, starting: bool) -> tuple[str, str]:
        """Return how a session ended, and what the user can do."""
        place = outcomes.place_name(facts.cluster)
        text = outcomes.explain(
            ending, user=facts.user, profile=facts.profile, job_id=facts.job_id, starting=starting, place=place
        )
        return text, outcomes.advise(ending, user=facts.user, place=place)

    def _record(
        self,
        child: SessionSpawner,
        cause: str,
        text: str,
        advice: str = "",
        log: tuple[str, ...] = (),
        *,
        field: str = "",
    ) -> None:
        state = child.driver.state
        outcome = Outcome(
            session=child.session,
            cause=cause,
            text=text,
            at=time.time(),
            job_id=child.job_id,
            cluster=child.cluster.name,
            detail=state.job.detail if state.job else "",
            log=log,
            advice=advice,
            profile=child.profile.key,
            profile_name=child.profile.display_name,
            queue=child.profile.queue,
            node=state.node or (state.job.host if state.job else ""),
            submitted=state.submitted,
            started=state.started,
            own_settings=not child.without_settings,
            field=field,
        )
        self._save(outcome)

    def _save(self, outcome: Outcome | None) -> None:
        state = {name: value for name, value in (self._row.state or {}).items() if name != "outcome"}
        self._row.state = state | ({"outcome": outcome.saved} if outcome else {})
        self._db.commit()


def _facts(child: SessionSpawner) -> Ended:
    return Ended(
        child.session, session_facts(child.driver.state), child.job_id, child.user.name, child.cluster, child.profile
    )


async def _nothing() -> None:
    return None
