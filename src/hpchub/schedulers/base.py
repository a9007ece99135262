"""What every scheduler's module says."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpchub.model import Profile


class JobState(Enum):
    """What a job is to a session."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """The scheduler says something that no table here knows: never a reason to forget a job."""


@dataclass(frozen=True)
class Job:
    """One job, as the scheduler's bulk answer shows it.

    Attributes:
        id: the scheduler's own name for it.
        state: what it is to a session.
        detail: the scheduler's own word for the state, as ``RUNNING`` or ``NODE_FAIL``.
        reason: why it waits, in the scheduler's word, or empty.
        host: where it runs, or empty.
        start: when it is expected to start, ISO 8601 in the scheduler's time zone, or empty.
        name: the job's name; anybody may give theirs any text.
        user: whose job it is.
        comment: the job's comment, likewise.
    """

    id: str
    state: JobState
    detail: str = ""
    reason: str = ""
    host: str = ""
    start: str = ""
    name: str = ""
    user: str = ""
    comment: str = ""

    def session(self, hub: str) -> str:
        """The session whose job this is, if it is one of that hub's; else empty.

        Name and comment have to agree, and to name the very user who owns the job: what somebody else writes there
        can at most speak of a session of their own.
        """
        found = re.fullmatch(r"hpchub/([^/]+)/([^/]+)/([0-9a-f]{16})", self.comment)
        if found is None or (found[1], found[2]) != (hub, self.user) or self.name != job_name(found[3]):
            return ""
        return found[3]


def job_name(session: str) -> str:
    """The name of a session's job."""
    return f"hpchub-{session}"


def job_comment(hub: str, username: str, session: str) -> str:
    """The comment of a session's job; see ``Job.session``."""
    return f"hpchub/{hub}/{username}/{session}"


class Unanswered(Exception):
    """The scheduler did not answer, or not completely: nothing is known of any job."""


class Scheduler(ABC):
    """One scheduler. Commands are argument vectors, run by the gate without a shell."""

    name: str
    submit_command: tuple[str, ...]
    """Takes the batch script on standard input and prints the job's id."""
    cancel_command: tuple[str, ...]
    """Takes the job's id as its last argument."""
    query_command: tuple[str, ...]
    """Lists all jobs at once, in a fixed format."""
    job_id_pattern: str
    propagation = 30.0
    """Seconds for which a live job may be missing from the answer: after its submission, or while it changes state."""

    @abstractmethod
    def directives(self, profile: Profile, *, session: str, comment: str) -> list[str]:
        """The profile's resources in the scheduler's own words, one option a line, without the prefix."""

    @abstractmethod
    def parse_submit(self, stdout: str) -> str:
        """The job's id from the submit command's output.

        Raises:
            Unanswered: the last line is not a job id.
        """

    @abstractmethod
    def parse_query(self, stdout: str) -> dict[str, Job]:
        """All jobs by id, from the query command's output.

        Raises:
            Unanswered: the output is not in the format that was asked for, or is cut off.
        """

    def explain(self, reason: str) -> str:
        """Why a job waits, in plain words; the scheduler's own word where none is known."""
        return reason
