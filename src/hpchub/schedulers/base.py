"""What every scheduler's module says."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hpchub.names import SESSION

if TYPE_CHECKING:
    from hpchub.schedulers.options import ReservedOptions
    from hpchub.schedulers.request import ClusterSettings, JobRequest


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
        found = re.fullmatch(rf"hpchub/([^/]+)/([^/]+)/({SESSION})", self.comment)
        if found is None or (found[1], found[2]) != (hub, self.user) or self.name != job_name(found[3]):
            return ""
        return found[3]


def job_name(session: str) -> str:
    """The name of a session's job."""
    return f"hpchub-{session}"


def job_comment(hub: str, username: str, session: str) -> str:
    """The comment of a session's job; see ``Job.session``."""
    return f"hpchub/{hub}/{username}/{session}"


ANY_QUEUE = "*"
"""What a scheduler without queues gives, whatever the inventory calls its queues."""


@dataclass(frozen=True)
class QueueLimits:
    """What a scheduler gives a job of one queue; None where it says nothing.

    Attributes:
        name: the queue's, or ``ANY_QUEUE``.
        cores: most cores on one node.
        memory: most memory on one node, in MiB.
        runtime: most time, in seconds; None is also no limit.
        gpus: most GPUs on one node.
        open: whether it takes jobs and starts them.
        nodes: cores, memory in MiB and GPUs of each kind of node it has; empty where only the most is known.
        environments: Grid Engine's parallel environments of the queue.
    """

    name: str
    cores: int | None = None
    memory: int | None = None
    runtime: int | None = None
    gpus: int | None = None
    open: bool = True
    nodes: tuple[tuple[int, int, int], ...] = ()
    environments: tuple[str, ...] | None = None


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
    """Lists all jobs at once, in a fixed format. ``{mark}`` is another 16 hexadecimal digits each time."""
    no_jobs = ""
    """A pattern of what the query command says where it takes it for a failure that there are no jobs."""
    find_command: tuple[str, ...]
    """Says of the job whose id is its last argument what it is, or that there is none."""
    limits_command: tuple[str, ...]
    """Lists the queues and what they give."""
    limits_more: tuple[tuple[str, ...], ...] = ()
    """Further commands whose outputs follow, where one does not say it all; of one that fails there is none.

    ``{account}`` is the gate's account, from whom others' jobs may be hidden.
    """
    job_id_pattern: str
    directive_prefix = "#"
    """The beginning of a directive's line, if the scheduler uses the default batch script template."""
    batchspawner_class = "BatchSpawnerBase"
    """The name of batchspawner's class for this scheduler."""
    reserved_options: ReservedOptions
    """The scheduler's options that a profile must not add, because hpchub sets them itself."""
    settings_field = ""
    """The field of a cluster's entry with settings of this scheduler, or empty if there are none."""
    propagation = 30.0
    """Seconds for which a live job may be missing from the answer: after its submission, or while it changes state."""

    @property
    def template_names(self) -> list[str]:
        """The names of batch script templates, the preferred one first: its own, its base classes', the default."""
        return [cls.__dict__["name"] for cls in type(self).__mro__ if "name" in cls.__dict__] + ["default"]

    @abstractmethod
    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """The profile's resources in the scheduler's own words, one option a line, without the prefix.

        Args:
            profile: what the job gets.
            cluster: where it runs.
            session: the session's name.
            comment: what makes the job the session's; see ``job_comment``.
        """

    def option_problem(self, option: str) -> tuple[str, str] | None:
        """Return what is wrong with an option that a profile adds and what to do, or None if it is permitted."""
        return self.reserved_options.problem(option)

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Return what is wrong with a profile's ``node_constraint`` and what to do, or None if it is permitted.

        Args:
            constraint: The constraint in the scheduler's own syntax, not empty.
            cluster: The cluster's settings.
        """
        return None

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

    @abstractmethod
    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """What the find command said of a job: the job, or None for the scheduler's word that it knows of none.

        Args:
            job_id: whom it was asked for.
            code: its exit code.
            stdout: its output.
            stderr: its messages.

        Raises:
            Unanswered: it says neither.
        """

    @abstractmethod
    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """The queues, from the limits command's output.

        Raises:
            Unanswered: the output is not in the format that was asked for, or is cut off.
        """

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """What hides other people's jobs from the gate's account, by the limits commands' output.

        Returns:
            What hides them and the right that the account needs, each as a part of a sentence; None where it sees all.

        Raises:
            Unanswered: the output is cut off.
        """
        return None

    def explain(self, reason: str) -> str:
        """Why a job waits, in plain words; the scheduler's own word where none is known."""
        return reason
