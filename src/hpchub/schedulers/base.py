"""The base class of all schedulers, and the types that its methods return. No I/O."""

from __future__ import annotations

import datetime as dt
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from hpchub.names import DATABASE, SESSION
from hpchub.schedulers.knowledge import KnowledgeSource
from hpchub.schedulers.reasons import OUT_OF_LINE, Outlook
from hpchub.schedulers.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.schedulers.endings import Ending
    from hpchub.schedulers.options import ReservedOptions
    from hpchub.schedulers.request import ClusterSettings, JobRequest


class JobState(Enum):
    """The state of a job, reduced to what matters to a session."""

    PENDING = "pending"
    """The job has no running process yet. It waits, is held, or was requeued."""
    RUNNING = "running"
    """The job has processes, perhaps suspended ones. Its notebook server can answer, or will answer again."""
    ENDED = "ended"
    """The job has ended, or is about to end. Its notebook server no longer answers. The session ends."""
    UNKNOWN = "unknown"
    """The scheduler reports a state that the class does not know. This never ends a session."""


UNREADABLE = "unreadable"
"""The detail of a job with a damaged record. Its state is unknown."""


class Tag(NamedTuple):
    """The mark of a session's job; see ``Job.tag``."""

    host: str
    """The host name of the hub that submitted the job."""
    database: str
    """The id of that hub's database, or empty if an older version submitted the job."""
    session: str
    """The session's name."""


@dataclass(frozen=True)
class Job:
    """One job, as the scheduler reports it.

    Attributes:
        id: The job's id, as ``Scheduler.parse_submit`` returns it.
        state: What the job's state means for a session.
        detail: The state in the scheduler's terms, for example ``RUNNING`` or ``NODE_FAIL``.
        reason: Why a pending job waits, in the scheduler's terms, or empty.
        host: The first node that runs the job, as the scheduler names it, or empty.
        start: The expected start of a pending job, in ISO 8601 and UTC, or empty.
        name: The job's name. Users can give their jobs any name, so do not trust it; see ``tag``.
        user: The user who owns the job.
        comment: The job's comment. Users can choose it too; see ``tag``.
        queue: The line that a pending job waits in, or empty if the scheduler has one line for all jobs.
        priority: The priority of a pending job in its line, or None if the scheduler does not report it. The job with
            the highest priority is the first one.
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
    queue: str = ""
    priority: float | None = None

    @property
    def expected(self) -> float | None:
        """When the scheduler expects to start a pending job, in seconds since 1970, or None if it does not know."""
        try:
            return dt.datetime.fromisoformat(self.start).replace(tzinfo=dt.UTC).timestamp()
        except ValueError:
            return None

    @property
    def is_unreadable(self) -> bool:
        """Whether the job's record is damaged, so that nothing but its id is known, or not even that."""
        return self.detail == UNREADABLE

    @property
    def tag(self) -> Tag | None:
        """The tag that marks the job as a session of a hub, or None if the job has no valid tag.

        The name and the comment must agree, and the comment must name the owner of the job. Therefore a user who
        forges them can only refer to a session of the same user.
        """
        found = re.fullmatch(rf"hpchub/([^/~]+)(?:~({DATABASE}))?/([^/]+)/({SESSION})", self.comment)
        if found is None or found[3] != self.user or self.name != job_name(found[4]):
            return None
        return Tag(found[1], found[2] or "", found[4])

    def session(self, hub: str) -> str:
        """Return the session that the job belongs to, or an empty text if it is no session of this hub.

        A tag without a database is accepted too: older versions wrote it.

        Args:
            hub: The name of the hub, as in its tags: ``HOST~DATABASE``.
        """
        host, _, database = hub.partition("~")
        tag = self.tag
        return tag.session if tag and tag.host == host and tag.database in ("", database) else ""


def job_name(session: str) -> str:
    """Return the name of a session's job: ``hpchub-SESSION``."""
    return f"hpchub-{session}"


def job_comment(hub: str, username: str, session: str) -> str:
    """Return the comment of a session's job: ``hpchub/HUB/USER/SESSION``. ``Job.tag`` reads it.

    Args:
        hub: The hub's name, ``HOST~DATABASE``.
        username: The user.
        session: The session's name.
    """
    return f"hpchub/{hub}/{username}/{session}"


@dataclass(frozen=True)
class QueueRules:
    """Which jobs a queue accepts and starts, apart from their sizes.

    Attributes:
        never: Why no job of hpchub can ever start in the queue, as the rest of a sentence, or empty.
        closed: Why the queue does not accept or start jobs at present, for example ``its state is DRAIN``, or empty.
        accounts: The accounts that may use the queue. None means all.
        denied_accounts: The accounts that may not use the queue.
        users: The users who may use the queue, in the scheduler's notation. None means all.
        groups: The groups that may use the queue, in the scheduler's notation. None means all.
        denied: Users and groups that may not use the queue.
        hosts: The hosts that may submit jobs to the queue, in the scheduler's notation. None means all.
        qos: The qualities of service that may use the queue. None means all.
        denied_qos: The qualities of service that may not use the queue.
        projects: The projects that may use the queue. None means all. Only Grid Engine has them.
        denied_projects: The projects that may not use the queue.
        times: When the queue starts jobs, for example ``20:00-8:00``, or empty if it always does.
        needs_reservation: Whether each job needs a reservation.
        min_nodes: The smallest number of nodes of a job.
        max_nodes: The largest number of nodes of a job. None means that the scheduler reports no limit.
    """

    never: str = ""
    closed: str = ""
    accounts: tuple[str, ...] | None = None
    denied_accounts: tuple[str, ...] = ()
    users: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    denied: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None
    denied_qos: tuple[str, ...] = ()
    projects: tuple[str, ...] | None = None
    denied_projects: tuple[str, ...] = ()
    times: str = ""
    needs_reservation: bool = False
    min_nodes: int = 1
    max_nodes: int | None = None


@dataclass(frozen=True)
class QueueLimits:
    """The largest job that a queue accepts. None means that the scheduler reports no limit.

    Attributes:
        name: The name of the queue, or ``ANY_QUEUE``.
        cores: The largest number of cores on one node.
        memory: The largest memory on one node, in MiB.
        runtime: The longest time, in seconds.
        gpus: The largest number of GPUs on one node.
        open: Whether the queue accepts jobs and starts them.
        nodes: The cores, the memory in MiB and the GPUs of each kind of node. Empty if only the maxima are known.
        environments: The parallel environments of the queue. Only Grid Engine has them.
        rules: Which jobs the queue accepts and starts.
        least: The smallest ``cores``, ``memory``, ``runtime`` and ``gpus`` of a job on all its nodes, as far as there
            are limits.
        gpu_types: The largest number of GPUs of each type on one node. None means that the types are unknown.
        node_gpus: For each of ``nodes``, the number of its GPUs of each type. Empty if the types are unknown.
        with_qos: The limits of jobs with each quality of service. Empty if they are unknown. Only Slurm has them.
        consumables: The amounts of other resources that one node of the queue has. Only Grid Engine has them.
        per_slot: The limits of other resources of each slot. Only Grid Engine has them.
        of_job: The largest ``cores``, ``memory`` and ``gpus`` of a job on all its nodes, as far as there are limits.
    """

    name: str
    cores: int | None = None
    memory: int | None = None
    runtime: int | None = None
    gpus: int | None = None
    open: bool = True
    nodes: tuple[tuple[int, int, int], ...] = ()
    environments: tuple[str, ...] | None = None
    rules: QueueRules = field(default=QueueRules(), compare=False)
    least: Mapping[str, int] = field(default_factory=dict, compare=False)
    gpu_types: Mapping[str, int] | None = field(default=None, compare=False)
    node_gpus: tuple[Mapping[str, int], ...] = field(default=(), compare=False)
    with_qos: Mapping[str, QueueLimits] = field(default_factory=dict, compare=False)
    consumables: Mapping[str, str] = field(default_factory=dict, compare=False)
    per_slot: Mapping[str, str] = field(default_factory=dict, compare=False)
    of_job: Mapping[str, int] = field(default_factory=dict, compare=False)


class Unanswered(Exception):
    """The scheduler gave no answer, or an incomplete or unexpected one.

    Nothing is known about any job then, so no session ends. The hub queries again later. The text states which program
    printed what. It appears in the hub's log and in the output of ``hpchub check --live``.
    """


class Scheduler(Terms, KnowledgeSource, ABC):
    """A scheduler: its commands, how it requests resources, and the parsers of its output.

    This class is the extension point for schedulers. A subclass contains everything that hpchub knows about one
    scheduler. An instance of it in ``hpchub.schedulers.SCHEDULERS`` makes the scheduler available in inventories.

    A subclass has no state and does no I/O. The gate, a program on the cluster's submit host, runs the commands without
    a shell and returns their output. In the environment, ``PATH`` has the system's directories and the locale is
    ``C.UTF-8``. The inventory can change both.

    The hub uses the commands as follows:

    1. It runs ``submit_command`` as the user, with the batch script on standard input. ``directives`` returns the part
       of the script that requests resources, and ``parse_submit`` reads the job's id.
    2. While there are sessions, it runs ``query_command`` every few seconds. One query returns all jobs of all users,
       and ``parse_query`` reads them.
    3. If the answers do not show a session's job for longer than ``propagation``, it runs ``find_command`` for this
       job. ``parse_find`` decides whether the job has ended.
    4. If the user stops the session, it runs ``cancel_command`` as the user.
    5. After a job's end, it runs ``history_commands``. ``parse_history`` reads from their joined output how it ended.
    6. ``hpchub check --live`` and ``hpchub discover`` run ``limits_command`` and the commands of ``limits_more``.
       ``parse_limits`` and ``parse_privacy`` read their combined output.
    7. For the users' choices, it runs ``knowledge_commands``; see ``KnowledgeSource``.

    A session must not end because a scheduler is slow, restarts, or prints something unexpected. Therefore each parser
    either returns a complete answer or raises ``Unanswered``, which means that nothing is known. A session ends only if
    a parser states that its job has ended (``JobState.ENDED``) or does not exist (``parse_find`` returns None).

    The attributes without a default value are required.
    """

    # The attributes that each scheduler needs besides these are in ``Terms``: ``name``, which is the value of
    # ``scheduler`` in an inventory, and ``job_id_pattern``.

    submit_command: tuple[str, ...]
    """The command that reads a batch script from standard input, submits it, and prints the job's id."""
    cancel_command: tuple[str, ...]
    """The command that cancels a job. The gate appends the job's id as the last argument."""
    query_command: tuple[str, ...]
    """The command that lists all jobs of all users in a machine-readable format.

    The gate replaces ``{mark}`` with 16 random hexadecimal digits. If a user's text, such as a job's name, can contain
    line breaks, start each record with the mark. Nobody can guess it, so nobody can forge a record.
    """
    no_jobs = ""
    """A regular expression for schedulers that treat an empty list of jobs as an error, or empty.

    If ``query_command`` fails or prints nothing on standard output, and a line of its output or of its error messages
    matches, ``parse_query`` receives an empty text.
    """
    find_command: tuple[str, ...]
    """The command that looks up one job. The gate appends the job's id as the last argument, and replaces ``{mark}``.

    It must print different things for a job that exists, for a job that does not exist, and for a failure.
    """
    limits_command: tuple[str, ...]
    """The command that lists the queues and their limits."""
    limits_more: tuple[tuple[str, ...], ...] = ()
    """Further commands that ``parse_limits`` and ``parse_privacy`` need.

    The gate appends their output to the output of ``limits_command``. It omits the output of a command that fails. It
    replaces ``{account}`` with the account that runs the commands.
    """
    history_commands: tuple[tuple[str, ...], ...] = ()
    """The commands that show how a job ended. The gate appends the job's id to each as the last argument.

    The gate joins the output of the commands that succeed. Therefore a command may be missing or not permitted.
    """
    usage_command: tuple[str, ...] = ()
    """The command that shows when jobs ran, from the scheduler's accounting. The gate appends ids, joined by commas."""
    directive_prefix = "#"
    """The text before each directive in the default batch script, for example ``#SBATCH``.

    A scheduler needs it only if there is no batch script template with the scheduler's name.
    """
    batchspawner_class = "BatchSpawnerBase"
    """The name of batchspawner's class for this scheduler. The default suits schedulers that batchspawner lacks."""
    dask_class = ""
    """The name of dask-jobqueue's class for this scheduler, or empty if there is none. Sessions then offer no Dask."""
    reserved_options: ReservedOptions
    """The options of the scheduler that profiles must not add, because hpchub sets them or they would break the job."""
    settings_field = ""
    """The field of a cluster in the inventory that has settings of this scheduler, or empty if there is none."""

    @property
    def template_names(self) -> list[str]:
        """The names of suitable batch script templates, the preferred one first.

        They are the name of the scheduler, the names of its base classes, and ``default``.
        """
        return [cls.__dict__["name"] for cls in type(self).__mro__ if "name" in cls.__dict__] + ["default"]

    @abstractmethod
    def directives(self, profile: JobRequest, cluster: ClusterSettings, *, session: str, comment: str) -> list[str]:
        """Return the options that request a job for a profile, in the scheduler's syntax.

        The options must place all cores of each node on one host, and each node on another host. They must run the
        batch script once, on the first node. They must prevent a second start of the job, and must not pass on the
        submitter's environment. The job's name and other visible fields must contain ``session`` and ``comment``, or
        enough of them for ``parse_query`` to restore ``Job.name`` and ``Job.comment``. They are visible to all users of
        the cluster, so they contain no secrets. The options of the profile come last.

        Each field of the profile must have an effect. If the scheduler lacks a concept, such as reservations, add the
        value as an attribute of the job, so that the site's own policies can use it.

        Args:
            profile: The resources that the job requests.
            cluster: The settings of the cluster that runs the job.
            session: The session's name, 16 hexadecimal digits.
            comment: The text that assigns the job to the session; see ``job_comment``.

        Returns:
            One option per item, without ``directive_prefix``. An item is a single printable line.
        """

    def option_problem(self, option: str) -> tuple[str, str] | None:
        """Check an option that a profile adds to the directives.

        Args:
            option: The option with its value, for example ``--exclusive`` or ``-q debug``.

        Returns:
            The problem with the option and what to do, or None if the option is permitted.
        """
        return self.reserved_options.problem(option)

    def constraint_problem(self, constraint: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Check the ``node_constraint`` of a profile.

        Args:
            constraint: The constraint in the scheduler's syntax, not empty.
            cluster: The settings of the cluster that runs the job.

        Returns:
            The problem with the constraint and what to do, or None if it is permitted. The default permits all.
        """
        return None

    def reservation_problem(self, reservation: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Check the reservation of a profile, or the one that a user writes if the hub does not know the user's own.

        Refuse each text that ``directives`` would turn into another request, such as another queue or a second flag.

        Args:
            reservation: The reservation, not empty.
            cluster: The settings of the cluster that runs the job.

        Returns:
            The problem with the reservation and what to do, or None if it is permitted. The default permits all. If
            users can read what to do, it is one of ``hpchub.model.choice.ADVICE``.
        """
        return None

    def gpu_type_problem(self, gpu_type: str, cluster: ClusterSettings) -> tuple[str, str] | None:
        """Check the type of GPU that a profile names.

        ``directives`` gets the type with ``hpchub.gpus.gpu_type(profile.gpus)``.

        Args:
            gpu_type: The type, for example ``a100``.
            cluster: The settings of the cluster that runs the job.

        Returns:
            The problem and what to do, or None if jobs can request the type. By default they cannot.
        """
        return f"names a type of GPU, which hpchub cannot request from {self.name}", "write only their number"

    def nodes_problem(self, cluster: ClusterSettings, *, gpus: int, options: Sequence[str]) -> tuple[str, str] | None:
        """Check whether a profile can have several nodes.

        Args:
            cluster: The settings of the cluster that runs the job.
            gpus: The largest number of GPUs that the profile requests on each node.
            options: The further options of the profile.

        Returns:
            The problem and what to do, or None if ``directives`` can request several nodes. By default it cannot.
        """
        return f"is more than one node, which hpchub cannot request from {self.name}", "write 1, or remove it"

    @abstractmethod
    def parse_submit(self, stdout: str) -> str:
        """Return the job's id from the output of the submit command.

        Args:
            stdout: The output. Sites' own programs may have printed lines before and after the scheduler's line.

        Raises:
            Unanswered: No line has a job id, or several lines have different ones. The hub then searches for the job by
                its name.
        """

    @abstractmethod
    def parse_query(self, stdout: str) -> dict[str, Job]:
        """Return all jobs by their ids from the output of the query command.

        Users choose the names and the comments of their jobs. Expect any text in them, including line breaks,
        separators and incomplete records. Such a text may spoil the record of its own job, but not of other jobs: the
        damaged job is then ``hpchub.schedulers.records.unreadable``, and the others are complete. A site's wrapper may
        print lines before and after the answer.

        Args:
            stdout: The output. If ``no_jobs`` matched, it is empty.

        Returns:
            Each job by its id. Empty if the scheduler reports that there are no jobs.

        Raises:
            Unanswered: The output has an unexpected format or is truncated.
        """

    @abstractmethod
    def parse_find(self, job_id: str, code: int, stdout: str, stderr: str) -> Job | None:
        """Return a job from the output of the find command, or None if the job does not exist.

        None ends the session. Return it only if the scheduler states that it does not know the job. An empty output, or
        an exit code alone, is not such a statement: programs also fail when the scheduler cannot be reached.

        Args:
            job_id: The id that was looked up.
            code: The exit code.
            stdout: The output.
            stderr: The error messages.

        Returns:
            The job, or None. If the command reports only that the job exists, its state is ``JobState.UNKNOWN``.

        Raises:
            Unanswered: The output shows neither that the job exists nor that it is unknown.
        """

    @abstractmethod
    def parse_limits(self, stdout: str) -> list[QueueLimits]:
        """Return the queues and their limits.

        Args:
            stdout: The output of ``limits_command`` and of the commands of ``limits_more``, one after the other.

        Raises:
            Unanswered: The output has an unexpected format or is truncated.
        """

    def parse_privacy(self, stdout: str) -> tuple[str, str] | None:
        """Return how the scheduler hides jobs of other users from the gate's account, or None if it shows them.

        A hidden job looks like a job that does not exist. If jobs are hidden, the hub does not trust such an answer.

        Args:
            stdout: The output of ``limits_command`` and of the commands of ``limits_more``, one after the other.

        Returns:
            Two parts of a sentence: what the scheduler hides, starting with a verb, and which right to grant. For
            example: ``hides the jobs of other users from the hub's account``, ``make the account an operator``. The
            default is None, for schedulers that always show all jobs or do not report it.

        Raises:
            Unanswered: The output is truncated.
        """
        return None

    def places(self, jobs: Mapping[str, Job]) -> dict[str, int]:
        """Return the place of each pending job in its line, by the job's id. The first job has the place 1.

        The default orders the jobs of each line by ``Job.priority``, and earlier jobs first. Jobs that cannot start
        before a person or another job acts are no part of the line. A scheduler that starts jobs in another order, such
        as one that shares its resources among users, reports no priorities. Then no place is known.
        """
        stuck: dict[str, bool] = {}
        lines: dict[str, list[Job]] = {}
        for job in jobs.values():
            if job.state is JobState.PENDING and job.priority is not None:
                if job.reason not in stuck:
                    stuck[job.reason] = self._is_stuck(job.reason)
                if not stuck[job.reason]:
                    lines.setdefault(job.queue, []).append(job)
        found = {}
        for line in lines.values():
            # The sort is stable, and schedulers list earlier jobs first.
            line.sort(key=lambda job: (-(job.priority or 0.0), _number(job.id)))
            found.update({job.id: place for place, job in enumerate(line, 1)})
        return found

    def _is_stuck(self, reason: str) -> bool:
        found = self.understand(reason) if reason else None
        return found is not None and (found.outlook is not Outlook.WAITS or found.words in OUT_OF_LINE)

    def parse_usage(self, stdout: str) -> dict[str, tuple[str, float, float | None]]:
        """Return the name, the start and the end of each job in the output of ``usage_command``, by the job's id.

        Times are in seconds since 1970. The end is None if the job runs. Jobs that have not started are left out.
        """
        return {}

    def parse_history(self, job_id: str, stdout: str) -> Ending:
        """Return how a job ended. The default suits schedulers without ``history_commands``.

        Args:
            job_id: The job's id.
            stdout: The joined output of those ``history_commands`` that succeeded.

        Raises:
            Unanswered: The output does not show the end of this job. A scheduler may record the end some seconds later.
        """
        raise Unanswered(f"{self.name} does not report how jobs end")


def _number(job_id: str) -> int:
    """Return the number in a job's id. Later jobs have higher numbers."""
    found = re.search(r"[0-9]+", job_id)
    return int(found[0]) if found else 0
