"""The doctor: what would make a job fail, before it is submitted."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.clusters import knowledge
from hpchub.clusters.doctor import Jobs, count_live, examine_account, examine_home, examine_jobs
from hpchub.clusters.knowledge import Knowledge
from hpchub.model.entries import Profile
from hpchub.model.notices import maintenance_notices, offer
from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered
from hpchub.schedulers.knowledge import Account, Allocations, JobLimits, JobNumbers, Maintenance

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_800_000_000.0
HEALTHY = {"home": "/home/alice", "error": "", "quota": "", "message": ""}
FINE = json.dumps(HEALTHY)


def profile(**changes: object) -> Profile:
    entry = {
        "key": "small",
        "display_name": "Small",
        "cluster": "demo",
        "queue": "batch",
        "cores": 2,
        "memory": "4G",
        "runtime": "8:00:00",
    }
    return Profile.model_validate({**entry, **changes})


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, "", ""),
        ({"error": "EACCES"}, "home", "/home/alice cannot be written on the cluster demo"),
        ({"error": "EROFS"}, "home", "cannot be written"),
        ({"error": "ENOENT"}, "home", "/home/alice does not exist on the cluster demo"),
        ({"error": "EDQUOT"}, "quota", "/home/alice is full"),
        ({"error": "ENOSPC"}, "quota", "/home/alice is full"),
        ({"quota": "blocks"}, "quota", "/home/alice is full"),
        ({"quota": "files"}, "quota", "as many files in /home/alice as you may have"),
        ({"message": "Your project is full."}, "quota", "Your project is full."),
    ],
)
def test_home_is_judged(changes: dict[str, str], kind: str, words: str) -> None:
    found = examine_home(HEALTHY | changes, "demo")
    assert [each.kind for each in found] == ([kind] if kind else [])
    assert all(words in each.message and each.advice.endswith(".") for each in found)


def allocations(*accounts: Account, **more: Any) -> Allocations:
    return Allocations(NOW - 60, accounts, **{"default_account": "physics", **more})


PHYSICS = Account("physics", qos=("normal",), default_qos="normal")


@pytest.mark.parametrize(
    ("known", "changes", "words"),
    [
        pytest.param(None, {}, "", id="unknown"),
        pytest.param(Allocations(NOW), {"account": "biology"}, "", id="no-accounts-in-this-scheduler"),
        pytest.param(allocations(PHYSICS), {}, "", id="default-account"),
        pytest.param(allocations(), {}, "You have no account on the cluster demo", id="no-account"),
        pytest.param(
            allocations(PHYSICS), {"account": "biology"}, "may not use the account biology", id="other-account"
        ),
        pytest.param(
            allocations(Account("physics", unusable="used_up")),
            {},
            "physics has used up its computing time",
            id="used-up",
        ),
        pytest.param(allocations(Account("physics", unusable="closed")), {}, "physics accepts no jobs", id="closed"),
        pytest.param(allocations(Account("physics", queues=("gpu",))), {}, "in the queue batch", id="queue"),
        pytest.param(allocations(PHYSICS), {"qos": "fast"}, "the quality of service fast", id="qos"),
        pytest.param(allocations(PHYSICS), {"qos": "normal"}, "", id="permitted-qos"),
        pytest.param(Allocations(NOW - 3600, ()), {}, "", id="old-answer"),
        pytest.param(allocations(PHYSICS, default_account=""), {}, "", id="no-default-account"),
    ],
)
def test_account_is_judged(known: Allocations | None, changes: dict[str, str], words: str) -> None:
    found = examine_account(profile(**changes), known, "demo", NOW)
    assert [each.kind for each in found] == (["account"] if words else [])
    assert all(words in each.message for each in found)


@pytest.mark.parametrize(
    ("known", "counted", "live", "words"),
    [
        pytest.param(None, {}, Jobs(9, 9), "", id="unknown"),
        pytest.param(allocations(PHYSICS), None, Jobs(9, 9), "", id="no-limit"),
        pytest.param(allocations(PHYSICS, max_jobs=2), None, Jobs(2, 5), "2 running jobs", id="reached"),
        pytest.param(allocations(PHYSICS, max_jobs=2), None, Jobs(1, 5), "", id="waiting-jobs-do-not-run"),
        pytest.param(allocations(PHYSICS, max_submitted=5), None, Jobs(1, 5), "5 jobs", id="submitted"),
        pytest.param(
            allocations(Account("physics", max_jobs=1)),
            {("physics", "n"): (1, 1)},
            Jobs(1, 1),
            "1 running",
            id="account",
        ),
        pytest.param(
            allocations(Account("physics", max_jobs=1)), {("course", "n"): (1, 1)}, Jobs(1, 1), "", id="other-account"
        ),
        pytest.param(
            allocations(Account("physics", max_jobs=1)), {("physics", "n"): (1, 1)}, Jobs(0, 0), "", id="has-just-ended"
        ),
        pytest.param(
            allocations(PHYSICS, limits_of_qos={"normal": JobLimits(2)}),
            {("physics", "normal"): (1, 1), ("course", "normal"): (1, 1)},
            Jobs(2, 2),
            "2 running jobs",
            id="qos",
        ),
    ],
)
def test_limits_of_jobs_are_judged(
    known: Allocations | None, counted: Mapping[tuple[str, str], tuple[int, int]] | None, live: Jobs, words: str
) -> None:
    numbers = None if counted is None else {key: JobNumbers(*each) for key, each in counted.items()}
    found = examine_jobs(profile(), known, numbers, live, NOW)
    assert [each.kind for each in found] == (["jobs"] if words else [])
    assert all(words in each.message for each in found)


def test_only_the_live_jobs_of_the_user_count() -> None:
    states = [
        ("alice", JobState.RUNNING),
        ("alice", JobState.PENDING),
        ("alice", JobState.ENDED),
        ("bob", JobState.RUNNING),
    ]
    jobs = [Job(str(number), state, user=user) for number, (user, state) in enumerate(states)]
    assert count_live(jobs, "alice") == Jobs(1, 2)


def test_session_gets_the_time_that_is_left_before_a_maintenance() -> None:
    notices = list(maintenance_notices("demo", [Maintenance("m", NOW + 7200, NOW + 9000)]))
    offered = offer(notices, profile(), NOW)
    assert (offered.profile.runtime, offered.is_refused) == ("2:00:00", False)
    assert offer(notices, profile(runtime="1:00:00"), NOW).profile.runtime == "1:00:00"
    assert offer(notices, profile(), NOW + 7000).refusal.startswith("Maintenance of the cluster demo begins at")
    assert offer(notices, profile(), NOW + 8000).has_begun
    assert offer(notices, profile(), NOW + 9000).drain is None


def test_maintenance_of_a_queue_concerns_this_queue_only() -> None:
    notices = list(maintenance_notices("demo", [Maintenance("m", NOW + 60, None, ("gpu", "long"))]))
    assert [notice.title for notice in notices] == [
        "Maintenance of the queue gpu of the cluster demo",
        "Maintenance of the queue long of the cluster demo",
    ]
    assert notices[0].ends == math.inf
    assert not offer(notices, profile(), NOW).is_refused
    assert offer(notices, profile(queue="gpu"), NOW).is_refused


# The request


class FakeGate:
    """A gate with a doctor that gives fixed answers."""

    def __init__(self, answer: str | Exception = FINE, delay: float = 0.0) -> None:
        self.answer, self.delay, self.asked, self.at_once, self.most = answer, delay, 0, 0, 0

    async def knowledge(self, topic: str, users: object = ()) -> tuple[dict[str, list[str]], str]:
        raise Unanswered("not now")

    async def doctor(self, user: str) -> str:
        self.asked += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self.delay)
        self.at_once -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def known(gate: FakeGate) -> Knowledge:
    return Knowledge("demo", SCHEDULERS["slurm"], gate)


async def test_healthy_home_is_examined_once_a_minute() -> None:
    gate = FakeGate()
    cluster = known(gate)
    assert [await cluster.doctor("alice") for _ in range(3)] == [(), (), ()]
    assert gate.asked == 1


async def test_unhealthy_home_is_examined_again_at_once() -> None:
    gate = FakeGate(json.dumps(HEALTHY | {"error": "EDQUOT"}))
    cluster = known(gate)
    assert [each.kind for each in await cluster.doctor("alice")] == ["quota"]
    gate.answer = json.dumps(HEALTHY)
    assert await cluster.doctor("alice") == ()


@pytest.mark.parametrize("answer", [Unanswered("no answer"), "", "[]", "null", "7"])
async def test_doctor_without_an_answer_prevents_nothing(answer: str | Exception) -> None:
    assert await known(FakeGate(answer)).findings("alice", profile(), None) == ()


async def test_start_asks_no_doctor_again_that_has_just_failed() -> None:
    """A home that hangs costs the submit host some processes. So wait a minute, whatever the user does."""
    gate = FakeGate(Unanswered("no answer"))
    cluster = known(gate)
    assert [await cluster.doctor("alice") for _ in range(3)] == [(), (), ()]
    assert gate.asked == 1


async def test_slow_doctor_prevents_nothing_and_its_late_answer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "DOCTOR_PATIENCE", 0.05)
    gate = FakeGate(json.dumps(HEALTHY | {"error": "EACCES"}), delay=0.2)
    cluster = known(gate)
    began = asyncio.get_running_loop().time()
    assert await cluster.doctor("alice") == ()
    assert await cluster.doctor("alice") == ()
    assert asyncio.get_running_loop().time() - began < 0.2
    await asyncio.sleep(0.3)
    assert gate.asked == 1
    assert "alice" in cluster._homes


async def test_many_starts_ask_only_two_doctors_at_once() -> None:
    gate = FakeGate(delay=0.01)
    cluster = known(gate)
    await asyncio.gather(*(cluster.doctor(f"user{number}") for number in range(20)))
    assert (gate.asked, gate.most) == (20, 2)
