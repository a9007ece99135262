"""What the hub knows of a cluster for the users' choices: a cache, which is refreshed in the background.

All users of a cluster share the commands: at most ``BUDGET`` of them run in ``WINDOW`` seconds. They run only while
somebody is interested. If a command is not answered, the last answer stays, with its age. The doctor asks no scheduler.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import OrderedDict, deque
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hpchub.clusters.doctor import Finding, count_live, examine_account, examine_home, examine_jobs
from hpchub.clusters.poller import errors_mean_unanswered
from hpchub.schedulers import Scheduler, Unanswered
from hpchub.schedulers.knowledge import Availability, JobNumbers, Person

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpchub.model.entries import Profile
    from hpchub.schedulers import Job
    from hpchub.schedulers.knowledge import Allocations, Maintenance

log = logging.getLogger(__name__)

BUDGET = 2
"""How many commands may run in ``WINDOW`` seconds, for all users of a cluster together."""
WINDOW = 60.0
"""See ``BUDGET``, in seconds."""
AVAILABILITY_AGE = 180.0
"""How often to ask what the queues have free, in seconds."""
USER_AGE = 600.0
"""How often to ask what an active user may request, in seconds."""
DOUBT_AGE = 180.0
"""How often to ask again for a user if the answer is in doubt, in seconds."""
POLICY_AGE = 900.0
"""How often to ask what concerns the whole cluster and changes rarely, in seconds."""
RETRY = 300.0
"""How long to wait after a command that was not answered, in seconds."""
INTEREST = 900.0
"""How long after the last use of the knowledge the hub still refreshes it, in seconds."""
TICK = 2.0
"""How often to check whether a command is due, in seconds. This asks nobody."""
BATCH = 50
"""How many users one command may ask for. The gate has the same limit."""
MAX_USERS = 2000
"""How many users the hub remembers. It forgets those who have been away for the longest time."""
DOCTOR_PATIENCE = 2.0
"""How long a start waits for the doctor, in seconds. Afterwards, the start goes on."""
DOCTOR_AGE = 60.0
"""How long a healthy home directory, or one without an answer, is not examined again, in seconds.

An unhealthy one always is.
"""
DOCTORS = 2
"""How many home directories are examined at the same time. sshd permits 10 requests per connection."""
COUNT_AGE = 60.0
"""How old the poller's answer may be that shows which jobs a user has, in seconds."""
MAX_COUNTED = 20_000
"""For how many users the hub remembers their numbers of jobs."""


class GateKnowledge(Protocol):
    """The requests of a gate that this module uses."""

    async def knowledge(self, topic: str, users: Sequence[str] = ()) -> tuple[dict[str, list[str]], str]:
        """See Gate.knowledge."""

    async def doctor(self, user: str) -> str:
        """See Gate.doctor."""


class Answered(NamedTuple):
    """The content of an answer."""

    taken: float  # in seconds since 1970
    content: Any


@dataclass
class _User:
    """The knowledge about a user.

    Attributes:
        groups: The user's Unix groups.
        answers: The answers by topic.
        wanted: When somebody last wanted to know something of the user, on the monotonic clock.
        asked: When each topic was last asked for, on the monotonic clock.
        doubted: The topics with answers that may be wrong.
    """

    groups: frozenset[str] = frozenset()
    answers: dict[str, Answered] = field(default_factory=dict)
    wanted: float = -math.inf
    asked: dict[str, float] = field(default_factory=dict)
    doubted: set[str] = field(default_factory=set)

    def is_new(self, topic: str) -> bool:
        """Return whether nobody has asked yet. A user in doubt is not new, and so does not go before the others."""
        return topic not in self.asked

    def is_due(self, topic: str, now: float) -> bool:
        """Return whether the answer is old, or in doubt and not quite new."""
        age = DOUBT_AGE if topic in self.doubted else USER_AGE
        return now - self.asked.get(topic, -math.inf) >= age


class Question(NamedTuple):
    """Commands that are due together."""

    topics: tuple[str, ...]
    users: tuple[str, ...] = ()


class Knowledge:
    """What the hub knows of one cluster.

    Args:
        cluster: The cluster's name.
        scheduler: The cluster's scheduler.
        gate: The cluster's gate.
    """

    def __init__(self, cluster: str, scheduler: Scheduler, gate: GateKnowledge) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self._gate = gate
        self._availability: Availability | None = None
        self._jobs: Answered | None = None
        self._policies: dict[str, Answered] = {}
        self._users: OrderedDict[str, _User] = OrderedDict()
        self._asked: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._was_for_users = False
        self._commands: deque[float] = deque(maxlen=BUDGET)
        self._wanted = -math.inf
        self._task: asyncio.Task[None] | None = None
        self._homes: OrderedDict[str, tuple[float, tuple[Finding, ...]]] = OrderedDict()
        self._doctors: dict[str, asyncio.Task[tuple[Finding, ...]]] = {}
        self._doctors_at_once = asyncio.Semaphore(DOCTORS)

    # -- what is known

    def availability(self) -> Availability | None:
        """Return what the queues have free, as of the last answer, or None if it is unknown."""
        self._want()
        return self._availability

    def allocations(self, user: str) -> Allocations | None:
        """Return what a user may request, as of the last answer, or None if it is unknown."""
        self._want()
        known = self._users.setdefault(user, _User())
        known.wanted = self._wanted
        self._users.move_to_end(user)
        while len(self._users) > MAX_USERS:
            self._users.popitem(last=False)
        # A scheduler that cannot be asked for users may know something that holds for all of them.
        sources = known.answers if self.scheduler.user_topics else self._policies
        if not sources:
            return None
        return self.scheduler.allocations(
            Person(user, known.groups),
            {topic: answer.content for topic, answer in known.answers.items()},
            self._contents,
            min(answer.taken for answer in sources.values()),
        )

    def doubt(self, user: str) -> None:
        """Ask soon again what a user may request, because what is known does not agree with the scheduler."""
        if known := self._users.get(user):
            known.doubted.update(known.asked)

    def maintenances(self) -> tuple[Maintenance, ...]:
        """Return the known maintenances that are not over."""
        self._want()
        now = time.time()
        found = self.scheduler.maintenances(self._contents)
        return tuple(each for each in found if each.end is None or each.end > now)

    def jobs_of(self, user: str) -> tuple[float, Mapping[tuple[str, str], JobNumbers]] | None:
        """Return when the user's jobs were counted, and their numbers by account and quality of service.

        The time is in seconds since 1970. None means that they are unknown.
        """
        self._want()
        return None if self._jobs is None else (self._jobs.taken, self._jobs.content.get(user, {}))

    # -- the doctor

    async def doctor(self, user: str) -> tuple[Finding, ...]:
        """Return what is wrong with a user's home directory, or nothing if there is no answer in time."""
        known = self._homes.get(user)
        if known and not known[1] and time.monotonic() - known[0] < DOCTOR_AGE:
            return ()
        task = self._doctors.get(user)
        if task is None:
            task = self._doctors[user] = asyncio.get_running_loop().create_task(self._examine(user), context=Context())
            task.add_done_callback(lambda _: self._doctors.pop(user, None))
        # A late answer is kept for the next start.
        done, _ = await asyncio.wait({task}, timeout=DOCTOR_PATIENCE)
        return task.result() if done else ()

    async def _examine(self, user: str) -> tuple[Finding, ...]:
        try:
            async with self._doctors_at_once:
                found = examine_home(json.loads(await self._gate.doctor(user)), self.cluster)
        except (Unanswered, ValueError, AttributeError) as error:
            log.warning("The doctor of %s does not answer: %s", self.cluster, error)
            found = ()  # it counts like a healthy home, so that not each start asks again
        self._homes[user] = time.monotonic(), found
        self._homes.move_to_end(user)
        while len(self._homes) > MAX_USERS:
            self._homes.popitem(last=False)
        return found

    async def findings(self, user: str, profile: Profile, jobs: Iterable[Job] | None) -> tuple[Finding, ...]:
        """Return what would make a job of a user fail, as far as it is known in time. Empty if nothing is known.

        Args:
            user: The user.
            profile: The profile of the job.
            jobs: All jobs of the cluster as of now, or None if they are unknown.
        """
        allocations, now = self.allocations(user), time.time()
        found = examine_account(profile, allocations, self.cluster, now)
        if found:
            self.doubt(user)  # The user may ask the administrators and try again. Then the answer must be new.
        if not found and jobs is not None:
            counted = self.jobs_of(user)
            recent = counted[1] if counted and now - counted[0] < AVAILABILITY_AGE * 2 else None
            found = examine_jobs(profile, allocations, recent, count_live(jobs, user), now)
        return found or await self.doctor(user)

    @property
    def _contents(self) -> dict[str, Any]:
        return {topic: answer.content for topic, answer in self._policies.items()}

    # -- the refreshing

    def _want(self) -> None:
        """Note that somebody is interested, and refresh in the background."""
        self._wanted = time.monotonic()
        if self._task is None and self.scheduler.knowledge_commands:
            try:
                loop = asyncio.get_running_loop()
                # The task outlives the request that starts it, so it gets nothing from the request's context.
                self._task = loop.create_task(self._refresh(), context=Context())
            except RuntimeError:
                return  # there is no loop, so nobody can wait for the answer either

    async def _refresh(self) -> None:
        try:
            while time.monotonic() - self._wanted < INTEREST:
                while await self.step():
                    pass
                await asyncio.sleep(TICK)
        except Exception:
            log.exception("The knowledge of %s cannot be refreshed", self.scheduler.name)
        finally:
            self._task = None

    async def step(self) -> Question | None:
        """Run the commands that are most urgent now, if any are due and the budget permits them. Return them."""
        now = time.monotonic()
        question = next(self._due(now), None)
        used = sum(now - began < WINDOW for began in self._commands)
        if question is None or used + len(question.topics) > BUDGET:
            return None
        try:
            with errors_mean_unanswered():
                await self._ask(question)
        except Unanswered as error:
            self._failed(question, str(error))
        else:
            if self._failures.pop(question.topics[0], ""):
                log.warning("%s answers the question for %s again", self.scheduler.name, question.topics[0])
        return question

    def _failed(self, question: Question, error: str) -> None:
        topic = question.topics[0]
        if self._failures.get(topic) != error:
            log.warning("%s does not answer the question for %s: %s", self.scheduler.name, topic, error)
        self._failures[topic] = error

    def _due(self, now: float) -> Iterator[Question]:
        """Yield the questions that are due, the most urgent ones first: those without an answer, then old answers."""
        source = self.scheduler
        availability = source.availability_topics
        policies = [Question((topic,)) for topic in source.policy_topics]
        # Many new users must not delay the availability forever.
        longest = 0 if self._availability is None else 2 * AVAILABILITY_AGE
        if availability and self._may_ask(availability[0], now, max(longest, AVAILABILITY_AGE)):
            yield Question(availability)
        # Many new users must not delay the policies forever either, nor the other way round. So they take turns.
        new = list(self._due_users(now, new=True))
        unknown = [each for each in policies if not self._policies.get(each.topics[0]) and self._is_due(each, now)]
        late = [each for each in policies if self._may_ask(each.topics[0], now, 2 * POLICY_AGE)]
        yield from (*unknown, *late, *new) if self._was_for_users else (*new, *unknown, *late)
        if availability and self._may_ask(availability[0], now, AVAILABILITY_AGE):
            yield Question(availability)
        yield from (each for each in policies if self._is_due(each, now))
        yield from self._due_users(now, new=False)

    def _is_due(self, question: Question, now: float) -> bool:
        return self._may_ask(question.topics[0], now, POLICY_AGE)

    def _may_ask(self, topic: str, now: float, age: float) -> bool:
        wait = max(age, RETRY) if topic in self._failures else age
        return now - self._asked.get(topic, -math.inf) >= wait

    def _due_users(self, now: float, *, new: bool) -> Iterator[Question]:
        """Yield a question for the active users without recent answers."""
        for topic in self.scheduler.user_topics:
            if topic in self._failures and not self._may_ask(topic, now, RETRY):
                continue
            due = [
                name
                for name, user in reversed(self._users.items())
                if now - user.wanted < INTEREST and (user.is_new(topic) if new else user.is_due(topic, now))
            ]
            if due:
                yield Question((topic,), tuple(due[:BATCH]))

    async def _ask(self, question: Question) -> None:
        """Run commands, and keep their answers.

        Raises:
            Unanswered: A command has no valid answer. The last answers stay.
        """
        taken = time.time()
        self._was_for_users = bool(question.users)
        outputs: dict[str, str] = {}
        groups: dict[str, list[str]] = {}
        for topic in question.topics:
            now = time.monotonic()
            self._commands.append(now)
            self._asked[topic] = now
            for name in question.users:
                if user := self._users.get(name):
                    user.asked[topic] = now
                    user.doubted.discard(topic)
            groups, outputs[topic] = await self._gate.knowledge(topic, question.users)
        topic = question.topics[0]
        source = self.scheduler
        if question.topics == source.availability_topics:
            # A large cluster has a long answer. Do not let the pages wait while it is read.
            queues = await asyncio.to_thread(source.parse_availability, outputs, taken)
            counted = await asyncio.to_thread(source.count_jobs, outputs)
            self._availability = Availability(taken, queues)
            self._jobs = None if counted is None or len(counted) > MAX_COUNTED else Answered(taken, counted)
        elif question.users:
            found = source.parse_users(topic, outputs[topic], [name for name in question.users if name in groups])
            for name, content in found.items():
                if user := self._users.get(name):
                    user.groups = frozenset(groups[name])
                    user.answers[topic] = Answered(taken, content)
        else:
            self._policies[topic] = Answered(taken, source.parse_policy(topic, outputs[topic]))
