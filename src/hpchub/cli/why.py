"""``hpchub why``: gather what the hub, its log, the scheduler and the session's log know of a user's session."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select, text

from hpchub.cli import inventory
from hpchub.cli.database import hub_database
from hpchub.cli.failure import UNUSABLE, VALID, Failure
from hpchub.cli.output import print_json
from hpchub.clusters.gate_client import Gate, make_gate
from hpchub.hub import outcome as outcomes
from hpchub.hub.ledger import SESSIONS
from hpchub.places import kind_of
from hpchub.profile_file import load_profile_list
from hpchub.remote.gate import redact
from hpchub.schedulers import SCHEDULERS, Scheduler, Unanswered

if TYPE_CHECKING:
    import argparse

    from sqlalchemy import Engine, Row

    from hpchub.model.places import PlaceBase

_JOURNAL = ("journalctl", "--unit=jupyterhub", "--no-pager", "--output=short-iso", "--lines=20000")
_ANSWERED = re.compile(r"\] [23][0-9][0-9] (?:GET|HEAD|POST|DELETE) ")
"""A request that the hub answered without an error."""
_LINES = 40
"""How many lines of the hub's log the report contains."""
_STATES = text(
    "SELECT spawners.state FROM spawners JOIN users ON spawners.user_id = users.id WHERE users.name = :user"
    " ORDER BY spawners.name"
)
"""JupyterHub's tables. This command also exists where JupyterHub is not installed."""
_RECORD = 2000
"""How many characters of the scheduler's record the report contains."""


@dataclass
class Report:
    """What is known of a session. Nothing in it is a secret.

    Attributes:
        session: The session's name.
        user: The session's user.
        cluster: The session's cluster.
        job_id: The id of the job, or empty if the submission was not confirmed.
        begun: When the session began.
        over: When the hub gave the session up, or empty.
        hub: What the hub remembers, one sentence per item.
        scheduler: What the scheduler reports of the job, one sentence per item.
        log: The last lines of the session's log on the cluster, or the reason why there are none.
        journal: The lines of the hub's log that name the session, the job or the user.
    """

    session: str
    user: str
    cluster: str
    job_id: str
    begun: str
    over: str
    hub: list[str] = field(default_factory=list)
    scheduler: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)


def why(options: argparse.Namespace) -> int:
    """Run ``hpchub why``."""
    journal = _read_journal()  # before the process gives up root's rights
    settings = inventory.hub_settings()
    with hub_database(settings["db_url"]) as engine:
        report = _read_database(engine, options.subject)
    asyncio.run(_ask_cluster(report, settings))
    words = [word for word in (report.session, report.user, report.job_id and f"job {report.job_id}") if word]
    report.journal = [line for line in journal if any(word in line for word in words) and not _ANSWERED.search(line)][
        -_LINES:
    ]
    report = Report(**{name: _without_secrets(value) for name, value in asdict(report).items()})
    if options.json:
        print_json(asdict(report))
    else:
        _print(report)
    return VALID


def _without_secrets(value: Any) -> Any:
    return [redact(line) for line in value] if isinstance(value, list) else value


def _read_journal() -> list[str]:
    """Return the latest lines of the hub's log, or one line that explains why they are missing."""
    try:
        done = subprocess.run(_JOURNAL, capture_output=True, text=True, check=False, errors="replace")
    except OSError:
        return []
    return done.stdout.splitlines()


# The database


def _read_database(engine: Engine, subject: str) -> Report:
    """Return what the database knows of the last session of a user, or of a job.

    Raises:
        Failure: There is no such session.
    """
    with engine.connect() as db:
        known = select(SESSIONS).where(or_(SESSIONS.c.user == subject, SESSIONS.c.job_id == subject))
        rows = db.execute(known.order_by(SESSIONS.c.started.desc())).all()
        row = next((row for row in rows if row.user == subject), rows[0] if rows else None)
        if row is None:
            raise Failure(
                f"the hub's database has no session of a user or with a job {subject!r}; write the name of a user, or"
                " the id of a job as the scheduler shows it",
                UNUSABLE,
            )
        going = [each for each in rows if each.user == row.user and each.ended is None and each != row]
        over = _time(row.ended) if row.ended else ""
        report = Report(row.session, row.user, row.cluster, row.job_id, _time(row.started), over)
        states = db.execute(_STATES, {"user": row.user}).scalars().all()
        report.hub = _memory([json.loads(each or "{}") for each in states], row)
        report.hub += [
            f"The user has another session, {each.session} on {each.cluster}, job {each.job_id or 'unknown'}. To see"
            " it, give this command the id of its job."
            for each in going
        ]
    return report


def _memory(states: list[dict[str, Any]], row: Row[Any]) -> list[str]:
    """Return what the hub remembers of a session, from the saved states of the user's spawners."""
    found = []
    for state in states:
        if (state.get("job") or {}).get("session") == row.session:
            profile = ((state.get("grant") or {}).get("profile") or {}).get("key", "unknown")
            job = state["job"]
            found.append(f"The hub has this session. Its profile is {profile}.")
            where = f"ready on {job['host']}, port {job.get('port')}" if job.get("host") else "not ready"
            found.append(f"Its notebook server is {where}.")
        outcome = outcomes.restore(state.get("outcome"))
        if outcome and outcome.session == row.session:
            found.append(f"{_time(outcome.at)}: {outcome.cause}: {outcome.text}")
    return found or ["The hub remembers no outcome, because a newer session of this user exists, or this one goes on."]


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


# The cluster


async def _ask_cluster(report: Report, settings: dict[str, Any]) -> None:
    """Add what the cluster knows."""
    if not report.job_id:
        report.scheduler = ["The submission was not confirmed, so the id of the job is not known."]
        return
    profiles = load_profile_list(settings["profiles_file"])
    if place := profiles.place(report.cluster):
        await _ask_place(report, place, settings)
        return
    cluster = profiles.cluster(report.cluster)
    if cluster is None or report.cluster not in settings["gates"]:
        report.scheduler = [f"The hub no longer has a cluster {report.cluster}."]
        return
    gate = make_gate(report.cluster, settings["gates"][report.cluster])
    scheduler = SCHEDULERS[cluster.scheduler]
    now, ending, log = await asyncio.gather(
        _state(gate, scheduler, report.job_id),
        _ending(gate, scheduler, report.job_id),
        _log(gate, report.user, report.job_id),
    )
    report.scheduler, report.log = [now, *ending], log


async def _ask_place(report: Report, place: PlaceBase, settings: dict[str, Any]) -> None:
    """Add what the place knows."""
    try:
        connection = kind_of(place.kind).connection(place, settings)
    except ValueError as error:
        report.scheduler = [str(error)]
        return
    try:
        job = await connection.find(report.job_id)
        report.scheduler = ["The place does not know the session any more."]
        if job is not None:
            reason = f", because {connection.terms.describe(job.reason)}" if job.reason else ""
            report.scheduler = [f"Its state is {job.detail or job.state.value}{reason}."]
            report.log = list(await connection.log(report.job_id, report.user))
            ending = await connection.ending(report.job_id)
            report.scheduler.append(f"It ended: {ending.cause.value} ({ending.detail or 'no detail'}).")
    except Unanswered as error:
        report.scheduler.append(f"More is not known: {error}")
    finally:
        await connection.close()


async def _state(gate: Gate, scheduler: Scheduler, job_id: str) -> str:
    try:
        answer = await gate.find(job_id)
        job = scheduler.parse_find(job_id, answer.exit, answer.stdout, answer.stderr)
    except Unanswered as error:
        return f"Its state is not known: {error}"
    if job is None:
        return f"{scheduler.name} does not know the job any more."
    reason = f", because {scheduler.describe(job.reason)}" if job.reason else ""
    return f"Its state is {job.detail or job.state.value}{f' on {job.host}' if job.host else ''}{reason}."


async def _ending(gate: Gate, scheduler: Scheduler, job_id: str) -> list[str]:
    try:
        record = await gate.history(job_id)
    except Unanswered as error:
        return [f"Its end is not recorded: {error}"]
    try:
        ending = scheduler.parse_history(job_id, record)
    except Unanswered:
        return ["The scheduler's record does not show an end:", *record[:_RECORD].splitlines()]
    by = f", by {ending.by}" if ending.by else ""
    return [
        f"It ended: {ending.cause.value} ({ending.detail or 'no detail'}){by}. The scheduler's record:",
        *record[:_RECORD].splitlines(),
    ]


async def _log(gate: Gate, user: str, job_id: str) -> list[str]:
    try:
        return await gate.log(user, job_id)
    except Unanswered as error:
        return [f"The log was not read: {error}"]


# The output


def _log_name(report: Report) -> str:
    return "its output" if report.job_id.startswith("hpchub-") else f"~/.hpchub/logs/{report.job_id}.log"


def _print(report: Report) -> None:
    print(f"Session {report.session} of {report.user} on {report.cluster}, job {report.job_id or 'unknown'}")
    print(f"begun {report.begun}, {f'over {report.over}' if report.over else 'not over for the hub'}")
    for title, lines in (
        ("The hub", report.hub),
        ("The scheduler", report.scheduler),
        (f"The last lines of {_log_name(report)}", report.log),
        ("The hub's log", report.journal or ["no lines; run this command as root, or see journalctl -u jupyterhub"]),
    ):
        if lines:
            print(f"\n{title}")
            for line in lines:
                print(f"  {line}")
