"""Slurm: what it knows for a user's choice.

Sources: the manual pages of squeue, scontrol, sshare and sacctmgr of version 24.11, and Slurm's source:
``slurm_sprint_node_table`` (src/api/node_info.c) and ``slurm_sprint_reservation_info`` (src/api/reservation_info.c) for
the formats, ``_valid_job_access_resv`` (src/slurmctld/reservation.c) for who may use a reservation.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.schedulers.base import Unanswered
from hpchub.schedulers.knowledge import (
    Account,
    Allocations,
    JobLimits,
    JobNumbers,
    KnowledgeSource,
    Maintenance,
    Person,
    QueueState,
    Reservation,
    WaitingJob,
)
from hpchub.schedulers.offers import Offer, Wanted, alike, best_offers
from hpchub.schedulers.parsing import SHOWN, unexpected_output
from hpchub.units import parse_size, parse_whole, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_JOB_FIELDS = ("%i", "%T", "%r", "%P", "%C", "%D", "%m", "%b", "%l", "%S", "%e", "%N", "%Y", "%u", "%a", "%q")
_USER_FIELDS = "User,DefaultAccount,Cluster,Account,Partition,QOS,DefaultQOS,MaxJobs,MaxSubmit,MaxWall"
_IN_EPOCH = ("env", "SLURM_TIME_FORMAT=%s")  # the submit host's time zone may differ from the hub's
_USABLE_STATES = {"IDLE", "MIXED", "ALLOCATED"}
_USABLE_FLAGS = {"PLANNED", "CLOUD", "DYNAMIC_NORM", "DYNAMIC_FUTURE", "COMPLETING", "UNDRAIN"}
"""Flags of nodes that start jobs. Nodes with another flag, such as DRAIN, do not, or only those of some users."""
_FOR_RESOURCES = {"Resources", "Priority", "None", "WaitingForScheduling", "SchedDefer"}
"""The reasons of jobs that start as soon as there is room."""
_CLOSED = {"PartitionDown", "PartitionInactive"}
_UNLIMITED = 10**9  # seconds
MAX_STARTS = 6
"""How many times of one node are considered at which it may have more room."""
MAX_WAITING = 500
"""How many waiting jobs of a queue are kept, those with the highest priority."""
MAX_NODES = 100_000


class _Room(NamedTuple):
    """Free or used cores, memory in MiB, GPUs, and GPUs of each of the node's types."""

    cores: int
    memory: int
    gpus: int
    of_types: tuple[int, ...] = ()

    def plus(self, other: _Room, sign: int = 1) -> _Room:
        return _Room(
            self.cores + sign * other.cores,
            self.memory + sign * other.memory,
            self.gpus + sign * other.gpus,
            tuple(one + sign * two for one, two in zip(self.of_types, other.of_types, strict=True)),
        )

    def least(self, other: _Room) -> _Room:
        return _Room(
            min(self.cores, other.cores),
            min(self.memory, other.memory),
            min(self.gpus, other.gpus),
            tuple(map(min, self.of_types, other.of_types)),
        )


class _Node(NamedTuple):
    """A node that starts jobs."""

    queues: tuple[str, ...]
    free: _Room
    types: tuple[str, ...]  # of its GPUs
    features: frozenset[str]

    def room(self, job: _Job, sign: int) -> _Room:
        """Return what a job occupies on this node when it begins (-1), or what becomes free when it ends (1).

        If the types of its GPUs are not known, it occupies GPUs of every type, and none of any type becomes free.
        """
        gpus = job.room.gpus
        unknown = gpus if sign < 0 or len(self.types) == 1 else 0
        found = (gpus if kind == job.gpu_type else 0 if job.gpu_type else unknown for kind in self.types)
        return job.room._replace(of_types=tuple(found))


class _Job(NamedTuple):
    """A job in the answer of squeue. Times are in seconds since 1970, or None."""

    state: str
    reason: str
    queues: tuple[str, ...]
    nodes: int
    room: _Room  # on each of its nodes
    gpu_type: str
    runtime: int
    start: int | None
    end: int | None
    hosts: tuple[str, ...]
    planned: tuple[str, ...]
    owner: tuple[str, str, str]  # the user, the account and the quality of service


class _Association(NamedTuple):
    """A row of sacctmgr: what a user may do with an account."""

    cluster: str
    account: str
    partition: str
    qos: tuple[str, ...]
    default_qos: str
    max_jobs: int | None
    max_submitted: int | None
    max_runtime: int | None


@dataclass(frozen=True)
class _Rows:
    """The rows of sacctmgr for a user."""

    default_account: str = ""
    rows: tuple[_Association, ...] = ()


@dataclass(frozen=True)
class _Tree:
    """The accounts of a cluster: the parent of each, and those that have used up their time."""

    parents: Mapping[str, str]
    used_up: frozenset[str]

    def path(self, account: str) -> Iterator[str]:
        """Yield an account and all accounts above it."""
        while account:
            yield account
            account = self.parents.get(account, "")


class SlurmKnowledge(KnowledgeSource):
    """What Slurm knows for a user's choice."""

    # scontrol shows what each node has free. squeue shows when backfill expects to start waiting jobs, and on which
    # nodes. Its records contain no text that users choose, but a site's wrapper may print further lines.
    knowledge_commands = {  # noqa: RUF012 the base class declares it as a mapping that does not change
        "nodes": ("scontrol", "--oneliner", "--details", "show", "node"),
        "jobs": (
            *_IN_EPOCH,
            *("squeue", "--all", "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING"),
            f"--format={{mark}}|{'|'.join(_JOB_FIELDS)}|{{mark}}",
        ),
        "config": ("scontrol", "show", "config"),
        "reservations": (*_IN_EPOCH, "scontrol", "--oneliner", "show", "reservation"),
        # Without names of users, sshare lists all accounts.
        "budgets": ("sshare", "--parsable2", "--noheader", "--format=Account,User,GrpTRESMins,GrpTRESRaw"),
        "qos": (
            *("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "qos"),
            "format=Name,MaxJobsPU,MaxSubmitPU",
        ),
        "users": (
            *("sacctmgr", "--readonly", "--noheader", "--parsable2", "show", "user", "withassoc"),
            *("where", "name={users}", f"format={_USER_FIELDS}"),
        ),
    }
    availability_topics = ("nodes", "jobs")

    def parse_availability(self, answers: Mapping[str, str], taken: float) -> dict[str, QueueState]:
        """Return what the partitions have free. Each node offers what it has, as long as backfill does not need it."""
        nodes = dict(_read_nodes(answers["nodes"]))
        jobs = list(_read_jobs(answers["jobs"]))
        events: dict[str, list[tuple[float, _Room, int]]] = defaultdict(list)
        for job in jobs:
            for host in job.hosts:
                # A job that has reached its time limit still needs some time to end.
                if job.end is not None and host in nodes:
                    events[host].append((max(job.end, taken + 60), nodes[host].room(job, 1), 1))
            if job.start is not None:
                for host in nodes.keys() & set(job.planned):
                    node = nodes[host]
                    events[host].append((job.start, node.room(job, -1), -1))
                    events[host].append((job.start + job.runtime, node.room(job, 1), 1))
        offers: dict[str, list[list[Offer]]] = {queue: [] for node in nodes.values() for queue in node.queues}
        features: dict[str, set[str]] = defaultdict(set)
        for name, node in nodes.items():
            found = list(_offers(node, sorted(events[name])))
            for queue in node.queues:
                offers[queue].append(found)
                features[queue] |= node.features
        closed = {queue for job in jobs if job.reason in _CLOSED and len(job.queues) == 1 for queue in job.queues}
        return {
            queue: QueueState(
                name=queue,
                open=queue not in closed,
                offers=best_offers(itertools.chain.from_iterable(each)),
                waiting=tuple(itertools.islice(_waiting(jobs, queue), MAX_WAITING)),
                features=tuple(sorted(features[queue])),
                nodes=alike(each),
            )
            for queue, each in offers.items()
        }

    def count_jobs(self, answers: Mapping[str, str]) -> dict[str, dict[tuple[str, str], JobNumbers]]:
        """Return the numbers of jobs of each user by account and quality of service."""
        found: dict[str, dict[tuple[str, str], JobNumbers]] = {}
        for job in _read_jobs(answers["jobs"]):
            if job.state == "COMPLETING":
                continue
            user, account, qos = job.owner
            mine = found.setdefault(user, {})
            running, total = mine.get((account, qos), JobNumbers(0, 0))
            mine[account, qos] = JobNumbers(running + (job.state != "PENDING"), total + 1)
        return found

    def parse_policy(self, topic: str, stdout: str) -> Any:
        """Return the configuration, the reservations, the tree of accounts, or the limits of qualities of service."""
        match topic:
            case "config":
                return _read_config(stdout)
            case "reservations":
                return _read_reservations(stdout)
            case "budgets":
                return _read_tree(stdout)
            case _:
                return dict(_read_qos(stdout))

    def parse_users(self, topic: str, stdout: str, users: Sequence[str]) -> dict[str, Any]:
        """Return the rows of each user. A user without a row has no association."""
        rows: dict[str, list[_Association]] = {user: [] for user in users}
        defaults = dict.fromkeys(users, "")
        # slurmdbd changes capital letters in the names of users, unless it has PreserveCaseUser.
        names_of = {user.lower(): user for user in users} | {user: user for user in users}
        for fields in _table("sacctmgr", stdout, 10):
            name, default_account, cluster, account, partition, qos, default_qos, *limits = fields
            if name not in names_of:
                raise unexpected_output("sacctmgr", stdout)
            user = names_of[name]
            defaults[user] = default_account
            if account:
                jobs, submitted = (parse_whole(limit) for limit in limits[:2])
                names = tuple(sorted(name for name in qos.split(",") if name))
                row = _Association(cluster, account, partition, names, default_qos, jobs, submitted, _time(limits[2]))
                rows[user].append(row)
        return {user: _Rows(defaults[user], tuple(found)) for user, found in rows.items()}

    def allocations(
        self, person: Person, answers: Mapping[str, Any], policies: Mapping[str, Any], taken: float
    ) -> Allocations | None:
        """Return what a user may request.

        Accounts are unknown without an accounting database, if it hides them, and if Slurm does not require them.
        """
        rows: _Rows | None = answers.get("users")
        config: dict[str, str] | None = policies.get("config")
        if config is None or rows is None:
            return None
        tree: _Tree = policies.get("budgets") or _Tree({}, frozenset())
        here = [row for row in rows.rows if row.cluster.lower() == config["ClusterName"].lower()]
        required = config["AccountingStorageEnforce"].lower().split(",")
        hidden = {"users", "accounts", "all"} & set(config["PrivateData"].lower().split(","))
        accounts: tuple[Account, ...] | None = tuple(
            _account(name, list(group), tree)
            for name, group in itertools.groupby(sorted(here), key=lambda row: row.account)
        )
        if not accounts and (hidden or not {"associations", "all"} & set(required)):
            accounts = None
        names = {name for account in accounts or () for name in account.qos or ()}
        limits: Mapping[str, JobLimits] = policies.get("qos") or {}
        return Allocations(
            taken=taken,
            accounts=accounts,
            default_account=rows.default_account if any(row.account == rows.default_account for row in here) else "",
            qos=tuple(sorted(names)) if accounts else None,
            reservations=self._reservations(person, accounts, policies.get("reservations"), tree, taken),
            limits_of_qos={name: limits[name] for name in sorted(names) if name in limits},
        )

    def _reservations(
        self,
        person: Person,
        accounts: tuple[Account, ...] | None,
        known: list[dict[str, str]] | None,
        tree: _Tree,
        taken: float,
    ) -> tuple[Reservation, ...] | None:
        if known is None:
            return None
        mine = [set(tree.path(account.name)) for account in accounts or ()]
        return tuple(
            Reservation(
                name=each["ReservationName"],
                start=int(each["StartTime"]),
                end=int(each["EndTime"]),
                queue="" if each["PartitionName"] == "(null)" else each["PartitionName"],
            )
            for each in known
            if "MAINT" not in each["Flags"].split(",") and int(each["EndTime"]) > taken and _admits(each, person, mine)
        )

    def maintenances(self, policies: Mapping[str, Any]) -> tuple[Maintenance, ...]:
        """Return the reservations with the flag MAINT that have all nodes of the cluster or of a partition."""
        found = []
        for each in policies.get("reservations") or ():
            flags = each["Flags"].split(",")
            whole = "ALL_NODES" in flags
            queue = each["PartitionName"] if "PART_NODES" in flags else "(null)"
            if "MAINT" in flags and (whole or queue != "(null)"):
                start, end = int(each["StartTime"]), int(each["EndTime"])
                queues = None if whole or queue == "(null)" else (queue,)
                found.append(Maintenance(each["ReservationName"], start, end, queues))
        return tuple(found)


# Nodes and jobs


def _fields(line: str) -> dict[str, str]:
    """Return the fields of ``NAME=VALUE NAME=VALUE``. If a name is repeated, the first one counts."""
    found: dict[str, str] = {}
    for name, value in re.findall(r"(?:^|(?<= ))([A-Za-z][A-Za-z_/]*)=(\S*)", line):
        found.setdefault(name, value)
    return found


def _read_nodes(stdout: str) -> Iterator[tuple[str, _Node]]:
    """Yield the nodes that start jobs."""
    lines = [line for line in stdout.splitlines() if line.startswith("NodeName=")]
    if not stdout.endswith("\n") or not lines:
        raise unexpected_output("scontrol", stdout)
    for line in lines:
        fields = _fields(line)
        state, *flags = fields.get("State", "").split("+")
        cores = parse_whole(fields.get("CPUEfctv", fields.get("CPUTot", "")))
        numbers = [parse_whole(fields.get(name, "")) for name in ("CPUAlloc", "RealMemory", "AllocMem")]
        if cores is None or None in numbers or "AllocTRES" not in fields:
            raise Unanswered(f"scontrol printed an incomplete node: {line[:SHOWN]!r}")
        if state not in _USABLE_STATES or not set(flags) <= _USABLE_FLAGS:
            continue
        used_cores, memory, used_memory = (number or 0 for number in numbers)
        types = _gpu_types(fields.get("Gres", ""), fields.get("GresUsed", ""))
        memory -= parse_whole(fields.get("MemSpecLimit", "")) or 0
        of_types = {kind: number for kind, number in types.items() if kind}
        features = fields.get("ActiveFeatures", "(null)")
        yield (
            fields["NodeName"],
            _Node(
                queues=tuple(name for name in fields.get("Partitions", "").split(",") if name),
                free=_Room(
                    max(0, cores - used_cores),
                    max(0, memory - used_memory),
                    sum(types.values()),
                    tuple(of_types.values()),
                ),
                types=tuple(of_types),
                features=frozenset() if features == "(null)" else frozenset(features.split(",")),
            ),
        )


def _gpu_types(gres: str, used: str) -> dict[str, int]:
    """Return the free GPUs of each type: ``gpu:a100:4(S:0-1)`` less ``gpu:a100:1(IDX:0)``. The type may be empty."""
    found: dict[str, int] = {}
    for text, sign in ((gres, 1), (used, -1)):
        for item in re.sub(r"\([^)]*\)", "", text).split(","):
            words = item.split(":")
            if words[0] == "gpu":
                number = parse_whole(words[-1])
                kind = words[1] if len(words) > 2 or number is None else ""
                found[kind] = found.get(kind, 0) + sign * (1 if number is None else number)
    return {kind: max(0, number) for kind, number in found.items()}


def _read_jobs(stdout: str) -> Iterator[_Job]:
    """Yield the jobs of squeue. The heading is a record too, so that an answer without jobs is not empty."""
    begin = re.search(r"^([0-9a-f]{16})\|", stdout, re.MULTILINE)
    if begin is None or not stdout.endswith("\n"):
        raise unexpected_output("squeue", stdout)
    mark = begin[1]
    for i, line in enumerate(line for line in stdout.splitlines() if line.startswith(f"{mark}|")):
        fields = line.split("|")
        if len(fields) != len(_JOB_FIELDS) + 2 or fields[-1] != mark:
            raise Unanswered(f"squeue printed an incomplete record: {line[:SHOWN]!r}")
        if i == 0:
            continue
        _, state, reason, queues, cores, nodes, memory, gres, limit, start, end, hosts, planned, *owner = fields[1:-1]
        number = max(1, parse_whole(nodes) or 1)
        gpus = re.fullmatch(r"(?:gres[:/])?gpu(?::([A-Za-z]\w*))?(?::([0-9]{1,6}))?", gres)
        yield _Job(
            state=state,
            reason=reason,
            queues=tuple(queues.split(",")),
            nodes=number,
            room=_Room(
                -(-(parse_whole(cores) or 1) // number),
                parse_size(memory.rstrip("cn")) or 0 if memory.rstrip("cn")[-1:].isalpha() else 0,
                int(gpus[2] or 1) if gpus else 0,
            ),
            gpu_type=(gpus[1] or "") if gpus else "",
            runtime=_time(limit) or _UNLIMITED,
            start=_moment(start),
            end=_moment(end),
            hosts=_expand(hosts),
            planned=_expand(planned) if state == "PENDING" else (),
            owner=(owner[0], owner[1], owner[2]),
        )


def _offers(node: _Node, events: list[tuple[float, _Room, int]]) -> Iterator[Offer]:
    """Yield what a node offers, now and when its jobs end, until the scheduler needs it for a job that it has planned.

    Args:
        node: The node.
        events: When the node gets and loses how much room, and the sign, in the order of time.
    """
    gains = [when for when, _, sign in events if sign > 0]
    for start in [0.0, *dict.fromkeys(gains)][: MAX_STARTS + 1]:
        free = node.free
        for when, room, sign in events:
            if when <= start:
                free = free.plus(room, sign)
        least = free
        for when, room, sign in events:
            if when <= start:
                continue
            free = free.plus(room, sign)
            if least.least(free) != least:
                yield from _offer(node, least, start, when)
                least = least.least(free)
        yield from _offer(node, least, start, None)


def _offer(node: _Node, room: _Room, start: float, until: float | None) -> Iterator[Offer]:
    if room.cores < 1 or room.memory < 1:
        return
    gpus = max(0, room.gpus)
    kinds = {kind: max(0, min(number, gpus)) for kind, number in zip(node.types, room.of_types, strict=True)}
    yield Offer(room.cores, room.memory, gpus, kinds, node.features, start, until)


def _waiting(jobs: list[_Job], queue: str) -> Iterator[WaitingJob]:
    """Yield the different jobs that wait for room in a partition, those with the highest priority first."""
    seen = set()
    for job in jobs:
        if job.state == "PENDING" and job.reason in _FOR_RESOURCES and queue in job.queues:
            wanted = Wanted(*job.room[:2], job.runtime, job.room.gpus, job.gpu_type)
            found = WaitingJob(wanted, job.nodes, job.start)
            if found not in seen:
                seen.add(found)
                yield found


def _moment(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[1-9][0-9]{8,10}", text) else None


def _time(text: str) -> int | None:
    """Return the seconds of ``1-12:00:00``, ``12:00:00`` or ``30:00``, or None for any other text."""
    found = re.fullmatch(r"(?:([0-9]{1,9})-)?(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{2})", text)
    return seconds(f"{found[1] or 0}-{found[2] or 0}:{found[3]}:{found[4]}") if found else None


def _expand(hosts: str) -> tuple[str, ...]:
    """Return the names of a list of nodes: ``n[1-2,07]``. A list that is not readable is empty."""
    found: list[str] = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", hosts):
        pieces = re.split(r"\[([0-9,-]*)\]", item)
        names = [""]
        for i, piece in enumerate(pieces):
            names = [name + number for name in names for number in (_numbers(piece) if i % 2 else [piece])]
            if len(names) > MAX_NODES:
                return ()
        found += names
    return tuple(found) if hosts not in ("", "(null)", "None assigned") else ()


def _numbers(ranges: str) -> list[str]:
    found = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        begin, end = parse_whole(first), parse_whole(last or first)
        if begin is None or end is None or end - begin > MAX_NODES:
            return []
        found += [f"{number:0{len(first)}}" for number in range(begin, end + 1)]
    return found


# Policies and users


def _table(program: str, stdout: str, columns: int) -> Iterator[list[str]]:
    """Yield the rows of a table without a heading."""
    if stdout and not stdout.endswith("\n"):
        raise unexpected_output(program, stdout)
    for line in stdout.splitlines():
        fields = line.split("|")
        if len(fields) != columns:
            raise unexpected_output(program, line)
        yield fields


def _read_config(stdout: str) -> dict[str, str]:
    found = dict(re.findall(r"^(\w+) *= (.*)$", stdout, re.MULTILINE))
    names = ("ClusterName", "AccountingStorageEnforce", "PrivateData")
    if not all(name in found for name in names):
        raise unexpected_output("scontrol", stdout)
    return {name: found[name].strip() for name in names}


def _read_reservations(stdout: str) -> list[dict[str, str]]:
    if stdout.strip() == "No reservations in the system":
        return []
    found = [_fields(line) for line in stdout.splitlines() if line.startswith("ReservationName=")]
    needed = {"StartTime", "EndTime", "PartitionName", "Flags", "Users", "Accounts"}
    if not stdout.endswith("\n") or not found or not all(needed <= set(each) for each in found):
        raise unexpected_output("scontrol", stdout)
    if any(_moment(each[name]) is None for each in found for name in ("StartTime", "EndTime")):
        raise unexpected_output("scontrol", stdout)
    return found


def _admits(reservation: Mapping[str, str], person: Person, accounts: Sequence[set[str]]) -> bool:
    """Return whether a user may use a reservation.

    Args:
        reservation: The fields of the reservation.
        person: The user.
        accounts: For each account of the user, its name and those of all accounts above it.
    """
    users = _listed(reservation["Users"], [{person.name}])
    groups = _listed(reservation.get("Groups", ""), [set(person.groups)])
    permits_account = _listed(reservation["Accounts"], accounts)
    if users is groups is permits_account is None:
        return False
    return (users is groups is None or bool(users or groups)) and permits_account is not False


def _listed(text: str, names: Sequence[set[str]]) -> bool | None:
    """Return whether a list admits any of some sets of names, or None if there is no list. ``-NAME`` is excluded."""
    if text in ("(null)", ""):
        return None
    entries = set(text.split(","))
    excluded = {entry[1:] for entry in entries if entry.startswith("-")}
    return any(not each & excluded if excluded else bool(each & entries) for each in names)


def _read_tree(stdout: str) -> _Tree:
    """Return the tree of accounts. sshare indents each account by its depth."""
    parents: dict[str, str] = {}
    used_up: set[str] = set()
    path: list[str] = []
    rows = list(_table("sshare", stdout, 4))
    if not rows or rows[0][0].strip() != "root":
        raise unexpected_output("sshare", stdout)
    for indented, user, limits, usage in rows:
        account = indented.strip()
        if user:
            continue
        depth = len(indented) - len(indented.lstrip())
        if depth > len(path):
            raise unexpected_output("sshare", indented)
        path[depth:] = [account]
        parents[account] = path[depth - 1] if depth else ""
        most, used = _amounts(limits), _amounts(usage)
        if any(used.get(name, 0) >= number for name, number in most.items()) or parents[account] in used_up:
            used_up.add(account)
    return _Tree(parents, frozenset(used_up))


def _amounts(text: str) -> dict[str, int]:
    """Return the amounts of ``cpu=100,gres/gpu=5``. sshare prints minutes."""
    return {name: int(number) for name, number in re.findall(r"([\w/:.-]+)=([0-9]{1,18})(?=,|$)", text)}


def _read_qos(stdout: str) -> Iterator[tuple[str, JobLimits]]:
    for name, running, total in _table("sacctmgr", stdout, 3):
        yield name, JobLimits(parse_whole(running), parse_whole(total))


def _account(name: str, rows: list[_Association], tree: _Tree) -> Account:
    """Return an account from a user's rows. Several rows mean several partitions."""
    queues = tuple(sorted({row.partition for row in rows}))
    limits = [
        [number for row in rows if (number := getattr(row, field)) is not None]
        for field in ("max_jobs", "max_submitted", "max_runtime")
    ]
    jobs, submitted, runtime = (max(each) if len(each) == len(rows) else None for each in limits)
    closed = 0 in (jobs, submitted)
    return Account(
        name=name,
        qos=tuple(sorted({qos for row in rows for qos in row.qos})),
        default_qos=next((row.default_qos for row in rows if row.default_qos), ""),
        queues=None if "" in queues else queues,
        max_jobs=jobs,
        max_submitted=submitted,
        max_runtime=runtime,
        unusable="closed" if closed else "used_up" if name in tree.used_up else "",
    )
