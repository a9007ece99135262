"""systemd on one host: the places ``ssh`` and ``local``, which have no scheduler of their own.

The commands are hpchub's own program on the host, :mod:`hpchub.remote.host_units`. It starts each session as a unit of
systemd, and keeps the line of those that wait.

Sources: the manual pages systemd-run(1), systemd.service(5) and systemd.exec(5) of version 257.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from hpchub.schedulers.base import Job, JobState, QueueLimits, Scheduler, Unanswered, job_name
from hpchub.schedulers.endings import OWNER, Cause, Ending, ending_of_status
from hpchub.schedulers.options import ReservedOptions
from hpchub.schedulers.parsing import SHOWN, find_job_id, inconclusive, unexpected_output
from hpchub.schedulers.reasons import Reason
from hpchub.schedulers.records import jobs_by_id, unreadable
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpchub.schedulers.request import ClusterSettings, JobRequest

_STATES = {
    "waiting": JobState.PENDING,
    "running": JobState.RUNNING,
    # The unit has received the signal to end, so its notebook server no longer answers.
    "stopping": JobState.ENDED,
    "ended": JobState.ENDED,
}
_MARK = re.compile(r"^\ufeff?([0-9a-f]{16})\|", re.MULTILINE)
_OPTION = re.compile(r"--(?:nice=(?:1?[0-9])|(?:cpu|io)-weight=(?:100|[1-9][0-9]?))")
_OPTIONS = "valid: --nice=0 to 19, and --cpu-weight and --io-weight from 1 to 100"
_CAUSES = {
    "cancelled": Cause.CANCELLED,
    "time-limit": Cause.TIME_LIMIT,
    "out-of-memory": Cause.OUT_OF_MEMORY,
    "host-restarted": Cause.NODE_LOST,
    "not-started": Cause.FAILED,
    "lost": Cause.UNKNOWN,
}
_DETAILS = {"host-restarted": "host restarted", "lost": "the unit disappeared", "not-started": "not started"}


class Systemd(Scheduler):
    """systemd on one host, which has no scheduler."""

    name = "systemd"
    submit_command = ("hpchub-host", "submit")
    cancel_command = ("hpchub-host", "cancel")
    query_command = ("hpchub-host", "query", "{mark}")
    find_command = ("hpchub-host", "find", "{mark}")
    limits_command = ("hpchub-host", "limits")
    history_commands = (("hpchub-host", "history"),)
    usage_command = ("hpchub-host", "usage")
    job_id_pattern = r"[1-9][0-9]{0,18}"
    directive_prefix = "#HPCHUB"
    reserved_options = ReservedOptions(
        long={"name": "", "tag": "", "queue": "queue", "cores": "cores", "memory": "memory", "time": "runtime"}
        | {"gpus": "gpus", "account": "account", "qos": "qos", "reservation": "reservation"}
        | {"constraint": "node_constraint"},
        short={},
        example="[--nice=5, --cpu-weight=50]",
    )
    reasons = (
        (r"^cores$", Reason("other sessions use the cores of the host")),
        (r"^memory$", Reason("other sessions use the memory of the host")),
        (r"^sessions$", Reason("the host has as many sessions as it may have")),
        (r"^line$", Reason("earlier sessions start first")),
    )
    # The program writes a session into its list before it prints the id.
    propagation = 5.0

    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the request of a session. The host refuses what systemd cannot provide, such as GPUs."""
        found = [
            f"--name={job_name(session)}",
            f"--tag={comment}",
            f"--queue={profile.queue}",
            f"--cores={profile.cores}",
            f"--memory={mebibytes(profile.memory)}",
            f"--time={seconds(profile.runtime)}",
        ]
        more = {
            "gpus": profile.gpus,
            "account": profile.account,
            "qos": profile.qos,
            "reservation": profile.reservation,
            "constraint": profile.node_constraint,
        }
        return [*found, *(f"--{name}={value}" for name, value in more.items() if value), *profile.options]

    def option_problem(self, option: str) -> tuple[str, str] | None:
        """Accept only the weights of a session, because the host's program passes them to systemd as root."""
        found = super().option_problem(option)
        if found is None and not _OPTION.fullmatch(option):
            return "is not an option of a host without a scheduler", _OPTIONS
        return found

    def parse_submit(self, stdout: str) -> str:
        """Return the job's id from the line ``job ID``."""
        return find_job_id(stdout, rf"job ({self.job_id_pattern})", "hpchub-host")

    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs: lines ``MARK|{…}`` between the lines ``MARK|jobs NUMBER`` and ``MARK|end``."""
        return jobs_by_id(map(_job, _records(stdout)), "hpchub-host", stdout)

    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job, or None if the host states with the query's mark that it does not know the id."""
        found = _MARK.search(stdout)
        if (
            code == 3
            and found
            and re.search(rf"^\ufeff?{found[1]}\|unknown {re.escape(job_id)}$", stdout, re.MULTILINE)
        ):
            return None
        if code == 0 and found and (job := self.parse_query(stdout).get(job_id)):
            return job
        raise inconclusive("hpchub-host", code, stdout, stderr)

    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the largest session that the host accepts, as its only queue."""
        found = _object(stdout, "queue")
        try:
            return [
                QueueLimits(
                    str(found["queue"]),
                    cores=int(found["cores"]),
                    memory=int(found["memory"]),
                    runtime=int(found["runtime"]),
                    gpus=0,
                )
            ]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise unexpected_output("hpchub-host", stdout) from None

    def parse_usage(self, stdout: str) -> dict[str, tuple[str, float, float | None]]:
        """Return the sessions of lines ``ID|NAME|START|END``. The end is empty while a session runs."""
        found = {}
        for line in stdout.splitlines():
            match line.split("|"):
                case [job_id, name, start, end] if start.isdecimal():
                    found[job_id] = name, float(start), float(end) if end.isdecimal() else None
        return found

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a session ended, as the host has recorded it when its unit ended."""
        try:
            found = _object(stdout, "ended")
        except Unanswered:
            found = {}
        if found.get("id") != job_id or not found.get("ended"):
            raise Unanswered(f"hpchub-host does not show the end of job {job_id}: {stdout[:SHOWN]!r}")
        result, status, host = (found.get(name) for name in ("result", "status", "host"))
        if result == "exit":
            return ending_of_status(status) if isinstance(status, int) else Ending(Cause.UNKNOWN)
        cause = _CAUSES.get(str(result), Cause.UNKNOWN)
        detail = str(found.get("detail") or _DETAILS.get(str(result), "")) or str(result)
        if cause is Cause.CANCELLED:
            return Ending(cause, detail, by=OWNER if found.get("by") == found.get("user") else str(found.get("by", "")))
        return Ending(cause, detail, node=str(host) if cause is Cause.NODE_LOST and host else "")


def _records(stdout: str) -> Iterator[str]:
    """Yield the records of an answer, each a text that should be JSON.

    Raises:
        Unanswered: The answer lacks its begin or its end, or has another number of records than it announces.
    """
    stdout = stdout.replace("\r\n", "\n")
    begin = _MARK.search(stdout)
    if begin is None:
        raise unexpected_output("hpchub-host", stdout)
    prefix = f"{begin[1]}|"
    lines = [
        line.removeprefix("\ufeff").removeprefix(prefix)
        for line in stdout.split("\n")[:-1]
        if line.removeprefix("\ufeff").startswith(prefix)
    ]
    announced = re.fullmatch(r"jobs ([0-9]{1,9})", lines[0]) if lines else None
    if announced is None:
        raise unexpected_output("hpchub-host", stdout)
    if lines[-1] != "end" or len(lines) != int(announced[1]) + 2:
        raise Unanswered(f"hpchub-host printed incomplete output, which ends with {stdout[-SHOWN:]!r}")
    yield from lines[1:-1]


def _job(text: str) -> Job:
    """Return the job of a record."""
    try:
        value: Any = json.loads(text)
        job_id = value["id"]
        if not re.fullmatch(Systemd.job_id_pattern, job_id):
            return unreadable("", text)
        fields = {name: str(value.get(name) or "") for name in ("reason", "host", "start", "name", "user")}
        return Job(
            id=job_id,
            state=_STATES.get(value["state"], JobState.UNKNOWN),
            detail=str(value["state"]),
            comment=str(value.get("tag") or ""),
            priority=-float(value.get("place") or 0) if value["state"] == "waiting" else None,
            **fields,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        ids = re.findall(r'"id": ?"([1-9][0-9]{0,18})"', text)
        return unreadable(ids[0] if len(ids) == 1 else "", text)


def _object(stdout: str, key: str) -> dict[str, Any]:
    """Return the JSON object with a key, which is one line of an output.

    Raises:
        Unanswered: There is no such line, or several.
    """
    found = []
    for line in stdout.splitlines():
        try:
            value = json.loads(line.strip().removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and key in value:
            found.append(value)
    if len(found) != 1:
        raise unexpected_output("hpchub-host", stdout)
    return found[0]
