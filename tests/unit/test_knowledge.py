"""What the hub knows of a cluster for the users' choices: the cache and its budget."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from slurm_answers import BUDGETS, CONFIG, HEADING, NODE, RESERVATIONS, RUNNING

from hpchub.clusters import knowledge
from hpchub.clusters.knowledge import Knowledge, Question
from hpchub.schedulers import SCHEDULERS, Unanswered

if TYPE_CHECKING:
    from collections.abc import Sequence

SLURM = SCHEDULERS["slurm"]
AVAILABILITY = Question(("nodes", "jobs"))


class Clock:
    """A clock that only tests move. It replaces the module ``time``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1795700000 + self.now


class FakeGate:
    """A gate with fixed answers. It records when each command ran."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.commands: list[tuple[float, str, tuple[str, ...]]] = []
        self.answers: dict[str, str | Exception] = {
            "nodes": NODE,
            "jobs": HEADING + RUNNING,
            "config": CONFIG,
            "reservations": RESERVATIONS,
            "budgets": BUDGETS,
            "qos": "normal||\n",
        }

    async def knowledge(self, topic: str, users: Sequence[str] = ()) -> tuple[dict[str, list[str]], str]:
        self.commands.append((self.clock.now, topic, tuple(users)))
        await asyncio.sleep(0)
        found = self.answers.get(topic)
        if isinstance(found, Exception):
            raise found
        permitted = [user for user in users if user != "mallory"]
        rows = "".join(f"{user}|physics|demo|physics||normal|normal|||\n" for user in permitted)
        return {user: ["hpc"] for user in permitted}, rows if found is None else found

    async def doctor(self, user: str) -> str:
        raise Unanswered("no doctor")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of the module."""
    found = Clock()
    monkeypatch.setattr(knowledge, "time", found)
    return found


@pytest.fixture
def gate(clock: Clock) -> FakeGate:
    """Return a gate with fixed answers."""
    return FakeGate(clock)


@pytest.fixture
def known(gate: FakeGate, monkeypatch: pytest.MonkeyPatch) -> Knowledge:
    """Return the knowledge of a cluster, which only the tests refresh."""
    monkeypatch.setattr(Knowledge, "_refresh", lambda self: asyncio.sleep(0))
    return Knowledge("demo", SLURM, gate)


async def run(known: Knowledge, clock: Clock, seconds: float, *users: str) -> None:
    """Let time pass while the users look at their forms."""
    end = clock.now + seconds
    while clock.now < end:
        known.availability()
        if clock.now % 60 < knowledge.TICK or clock.now == end - seconds:
            for user in users:
                known.allocations(user)
        while await known.step():
            pass
        clock.now += knowledge.TICK


def most_in_a_minute(gate: FakeGate) -> int:
    times = [when for when, _, _ in gate.commands]
    return max(sum(0 <= other - when < 60 for other in times) for when in times)


async def test_nothing_is_known_at_first_and_nobody_waits(known: Knowledge, gate: FakeGate) -> None:
    assert known.availability() is None
    assert known.allocations("alice") is None
    assert known.maintenances() == ()
    assert known.jobs_of("alice") is None
    assert gate.commands == []


async def test_first_question_is_for_the_availability(known: Knowledge, clock: Clock) -> None:
    known.availability()
    assert await known.step() == AVAILABILITY
    found = known.availability()
    assert found is not None
    assert found.taken == clock.time()
    assert set(found.queues) == {"batch", "long"}
    assert known.jobs_of("alice") == (clock.time(), {("course", "normal"): (1, 1), ("physics", "normal"): (1, 1)})
    assert known.jobs_of("zoe") == (clock.time(), {})


async def test_allocations_follow_within_a_minute(known: Knowledge, clock: Clock) -> None:
    await run(known, clock, 62, "alice")
    found = known.allocations("alice")
    assert found is not None
    assert [account.name for account in found.accounts or ()] == ["physics"]


async def test_two_commands_a_minute_serve_a_thousand_users(known: Knowledge, clock: Clock, gate: FakeGate) -> None:
    users = [f"user{number}" for number in range(1000)]
    await run(known, clock, 3600, *users)
    assert most_in_a_minute(gate) == 2
    assert all(len(asked) <= 50 for _, _, asked in gate.commands)
    assert all(known.allocations(user) for user in users)
    ages = [one - other for one, other in zip(*_times(gate, "nodes"), strict=False)]
    assert max(ages) <= 2 * knowledge.AVAILABILITY_AGE + 60


def _times(gate: FakeGate, topic: str) -> tuple[list[float], list[float]]:
    times = [when for when, asked, _ in gate.commands if asked == topic]
    return times[1:], times


async def test_users_who_have_left_are_not_asked_for(known: Knowledge, clock: Clock, gate: FakeGate) -> None:
    await run(known, clock, 600, "alice")
    clock.now += knowledge.INTEREST + 1
    gate.commands.clear()
    await run(known, clock, 600)
    assert gate.commands
    assert not any(users for _, _, users in gate.commands)


async def test_old_answer_stays_with_its_age(known: Knowledge, clock: Clock, gate: FakeGate) -> None:
    await run(known, clock, 600, "alice")
    first = known.availability()
    assert first is not None
    for topic in (*SLURM.knowledge_commands,):
        gate.answers[topic] = Unanswered("slurmctld does not answer")
    await run(known, clock, 3600, "alice")
    found = known.availability()
    assert found is not None
    assert found.taken < clock.time() - 3000
    assert known.allocations("alice") is not None
    assert most_in_a_minute(gate) == 2


@pytest.mark.parametrize("text", ["", "NodeName=node1 State=IDLE\n", "\x00", "slurm_load_node error\n"])
async def test_answer_that_is_not_valid_does_not_replace_the_last_one(
    known: Knowledge, clock: Clock, gate: FakeGate, text: str
) -> None:
    await run(known, clock, 2)
    before = known.availability()
    gate.answers["nodes"] = text
    await run(known, clock, 600)
    assert known.availability() is before is not None


async def test_unexpected_error_of_a_parser_is_no_answer(
    known: Knowledge, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(type(SLURM), "parse_availability", fail)
    await run(known, clock, 600, "alice")
    assert known.availability() is None
    assert known.allocations("alice") is not None


async def test_failing_topic_is_asked_rarely(known: Knowledge, clock: Clock, gate: FakeGate) -> None:
    gate.answers["users"] = Unanswered("sacctmgr is not installed")
    await run(known, clock, 3600, *(f"user{number}" for number in range(100)))
    asked = [when for when, topic, _ in gate.commands if topic == "users"]
    assert len(asked) <= 3600 / knowledge.RETRY + 1
    assert known.availability() is not None


async def test_users_whom_the_gate_refuses_stay_unknown(known: Knowledge, clock: Clock) -> None:
    await run(known, clock, 600, "alice", "mallory")
    assert known.allocations("alice") is not None
    assert known.allocations("mallory") is None


async def test_memory_is_bounded(known: Knowledge, clock: Clock) -> None:
    for number in range(3 * knowledge.MAX_USERS):
        known.allocations(f"user{number}")
    assert len(known._users) == knowledge.MAX_USERS
    known.allocations(f"user{3 * knowledge.MAX_USERS - 1}")
    assert f"user{3 * knowledge.MAX_USERS - 1}" in known._users


async def test_maintenances_that_are_over_are_left_out(known: Knowledge, clock: Clock) -> None:
    await run(known, clock, 300)
    assert [each.name for each in known.maintenances()] == ["maint"]
    clock.now += 10 * 86400
    assert known.maintenances() == ()


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_availability_fits_into_the_budget(name: str) -> None:
    scheduler = SCHEDULERS[name]
    assert len(scheduler.availability_topics) <= knowledge.BUDGET
    assert set(scheduler.availability_topics) <= set(scheduler.knowledge_commands)


async def test_refreshing_ends_by_itself(gate: FakeGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "time", time)
    monkeypatch.setattr(knowledge, "TICK", 0.01)
    monkeypatch.setattr(knowledge, "INTEREST", 0.1)
    known = Knowledge("demo", SLURM, gate)
    known.availability()
    await asyncio.sleep(0.05)
    assert [topic for _, topic, _ in gate.commands] == ["nodes", "jobs"]
    await asyncio.sleep(0.3)
    assert known._task is None


async def test_refused_starts_of_one_user_do_not_starve_the_policies(
    known: Knowledge, clock: Clock, gate: FakeGate
) -> None:
    """One user starts again and again, and each start is refused. The hub asks every 3 minutes at most."""
    end = clock.now + 3600
    while clock.now < end:
        known.allocations("alice")
        known.doubt("alice")
        await run(known, clock, knowledge.TICK)
    for topic in SLURM.policy_topics:
        assert len(_times(gate, topic)[1]) >= 3, topic
    for topic in SLURM.user_topics:
        _, times = _times(gate, topic)
        assert len(times) >= 10
        assert all(later - earlier >= 180 for earlier, later in pairwise(times))


async def test_endless_new_users_do_not_starve_the_policies(known: Knowledge, clock: Clock, gate: FakeGate) -> None:
    """New users come all the time. Both kinds of questions get a part of the commands."""
    end, number = clock.now + 3600, 0
    while clock.now < end:
        known.allocations(f"user{number}")
        number += 1
        await run(known, clock, knowledge.TICK)
    for topic in SLURM.policy_topics:
        assert len(_times(gate, topic)[1]) >= 2, topic
    assert len(_times(gate, SLURM.user_topics[0])[1]) >= 10


async def test_doubt_leads_to_another_question_after_three_minutes(
    known: Knowledge, clock: Clock, gate: FakeGate
) -> None:
    await run(known, clock, 120, "alice")
    known.doubt("alice")
    await run(known, clock, 240, "alice")
    assert len(_times(gate, SLURM.user_topics[0])[1]) == 2


async def test_refreshing_gets_nothing_from_the_request_that_starts_it(
    gate: FakeGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task outlives the request, so it must not keep the request's language or user."""
    request: ContextVar[str] = ContextVar("request", default="none")
    seen: list[str] = []

    async def look(self: Knowledge) -> None:
        seen.append(request.get())

    monkeypatch.setattr(Knowledge, "_refresh", look)
    request.set("alice's")
    Knowledge("demo", SLURM, gate).availability()
    await asyncio.sleep(0)
    assert seen == ["none"]
