"""The poller shares one answer among all waiters, and never takes a missing answer for an empty one."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from hpchub.clusters.gate_client import Answer
from hpchub.clusters.poller import Poller
from hpchub.schedulers import SCHEDULERS, Unanswered

LINE = "7d1f0c3a9b5e2468|7|RUNNING|None|compute1|N/A|alice|hpchub-x|c\n"


class FakeGate:
    """A gate that counts the queries and returns the answers that a test sets."""

    def __init__(self) -> None:
        self.queries = 0
        self.output: str | Exception = LINE
        self.private_data: str | Exception = "none"
        self.found = Answer(ok=True, exit=0, stdout=LINE.replace("|7|", "|8|"), stderr="", command=["squeue"], error="")

    async def query(self) -> str:
        self.queries += 1
        await asyncio.sleep(0.01)
        if isinstance(self.output, Exception):
            raise self.output
        return self.output

    async def find(self, job_id: str) -> Answer:
        self.queries += 1
        await asyncio.sleep(0)
        return self.found

    async def limits(self) -> str:
        if isinstance(self.private_data, Exception):
            raise self.private_data
        return f"PrivateData = {self.private_data}\n"


def make_poller(gate: FakeGate, interval: float = 0.0) -> Poller:
    return Poller(SCHEDULERS["slurm"], gate, interval=interval, longest_backoff=0.05)


def test_a_thousand_waiters_share_one_query() -> None:
    async def run() -> None:
        gate = FakeGate()
        poller = make_poller(gate)
        answers = await asyncio.gather(*(poller.snapshot(0.0) for _ in range(1000)))
        assert gate.queries == 1
        assert all("7" in answer.jobs for answer in answers)
        await poller.snapshot(60.0)
        assert gate.queries == 1

    asyncio.run(run())


def test_at_most_one_query_runs_per_interval() -> None:
    async def run() -> None:
        gate = FakeGate()
        poller = make_poller(gate, interval=0.1)
        begin = asyncio.get_running_loop().time()
        for _ in range(4):
            await poller.snapshot(0.0)
        assert asyncio.get_running_loop().time() - begin >= 0.3

    asyncio.run(run())


@pytest.mark.parametrize("output", [Unanswered("down"), "7|RUN"], ids=["down", "cut-off"])
def test_missing_answer_raises_and_backs_off(output: str | Exception) -> None:
    async def run() -> None:
        gate = FakeGate()
        gate.output = output
        poller = make_poller(gate, interval=0.01)
        for _ in range(20):
            with pytest.raises(Unanswered):
                await poller.snapshot(0.0)
        assert gate.queries < 20
        gate.output = LINE
        await asyncio.sleep(0.1)
        assert "7" in (await poller.snapshot(0.0)).jobs

    asyncio.run(run())


def test_cancelled_waiter_does_not_cancel_the_query_of_others() -> None:
    async def run() -> None:
        gate = FakeGate()
        poller = make_poller(gate)
        first = asyncio.create_task(poller.snapshot(0.0))
        second = asyncio.create_task(poller.snapshot(0.0))
        await asyncio.sleep(0)
        first.cancel()
        assert "7" in (await second).jobs

    asyncio.run(run())


UNKNOWN_JOB = "slurm_load_jobs error: Invalid job id specified\n"


async def test_job_missing_from_the_answer_is_looked_up() -> None:
    gate = FakeGate()
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    gate.found = dataclasses.replace(gate.found, ok=False, exit=1, stdout="", stderr=UNKNOWN_JOB)
    assert await poller.find("8", snapshot) is None
    assert await poller.snapshot(60.0) is snapshot


async def test_job_that_may_be_hidden_is_not_reported_as_ended() -> None:
    gate = FakeGate()
    gate.private_data = "jobs,usage"
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    gate.found = dataclasses.replace(gate.found, ok=False, exit=1, stdout="", stderr=UNKNOWN_JOB)
    for _ in range(2):
        with pytest.raises(Unanswered, match=r"hides the jobs of other users from the hub's account .* operator"):
            await poller.find("8", snapshot)
        gate.private_data = "none"  # the poller caches the earlier answer for a while


async def test_lookup_is_trusted_if_the_settings_stay_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpchub.clusters.poller.FIND_PAUSE", 0.0)
    gate = FakeGate()
    gate.private_data = Unanswered("not set up")
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    gate.found = dataclasses.replace(gate.found, ok=False, exit=1, stdout="", stderr=UNKNOWN_JOB)
    for _ in range(2):
        with pytest.raises(Unanswered, match="not set up"):
            await poller.find("8", snapshot)
    assert await poller.find("8", snapshot) is None


async def test_failed_lookup_is_not_repeated_for_each_session() -> None:
    """For example, the hub's account may lose the right to see other users' jobs."""
    gate = FakeGate()
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    gate.found = dataclasses.replace(gate.found, ok=False, exit=159, stdout="", stderr="Unauthorized Request")
    queries = gate.queries
    for number in range(500):
        with pytest.raises(Unanswered, match="Unauthorized"):
            await poller.find(str(number), snapshot)
    assert gate.queries == queries + 1


async def test_backoff_stays_bounded_in_a_long_outage() -> None:
    """After a day of failures, the poller queries as often as after an hour."""
    gate = FakeGate()
    gate.output = Unanswered("down")
    poller = make_poller(gate, interval=1.0)
    poller.failures = 2000
    for _ in range(3):
        with pytest.raises(Unanswered):
            await poller.snapshot(0.0)
    assert gate.queries == 1


async def test_parser_failure_counts_as_a_missing_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = FakeGate()
    poller = make_poller(gate)

    def broken(*_: object) -> None:
        raise RuntimeError("the parser failed")

    monkeypatch.setattr(poller.scheduler, "parse_query", broken)
    with pytest.raises(Unanswered):
        await poller.snapshot(0.0)
    monkeypatch.undo()
    monkeypatch.setattr(poller.scheduler, "parse_find", broken)
    await asyncio.sleep(0.1)
    with pytest.raises(Unanswered, match="the parser failed"):
        await poller.find("8", await poller.snapshot(0.0))


async def test_found_job_invalidates_the_snapshot() -> None:
    gate = FakeGate()
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    first, second = poller.find("8", snapshot), poller.find("9", snapshot)
    found = await asyncio.gather(first, second, return_exceptions=True)
    assert getattr(found[0], "detail", "") == "RUNNING"
    assert isinstance(found[1], Unanswered)
    assert gate.queries == 2
    assert await poller.snapshot(60.0) is not snapshot


async def test_found_job_keeps_a_snapshot_whose_damaged_record_may_be_the_jobs() -> None:
    gate = FakeGate()
    gate.output = LINE.replace("|7|", "|6|").replace("|alice|hpchub-x|c", "") + LINE
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    assert snapshot.is_damaged
    assert getattr(await poller.find("8", snapshot), "detail", "") == "RUNNING"
    assert await poller.snapshot(60.0) is snapshot


@pytest.mark.parametrize(
    ("code", "stderr"), [(1, "slurm_load_jobs error: Unable to contact slurm controller"), (0, "")]
)
async def test_ambiguous_lookup_raises(code: int, stderr: str) -> None:
    gate = FakeGate()
    poller = make_poller(gate)
    snapshot = await poller.snapshot(0.0)
    gate.found = dataclasses.replace(gate.found, ok=not code, exit=code, stdout="", stderr=stderr)
    with pytest.raises(Unanswered, match="neither"):
        await poller.find("8", snapshot)


def test_slow_scheduler_is_queried_less_often() -> None:
    async def run() -> None:
        gate = FakeGate()
        poller = make_poller(gate)
        begin = asyncio.get_running_loop().time()
        for _ in range(4):
            await poller.snapshot(0.0)
        assert asyncio.get_running_loop().time() - begin >= 3 * 5 * 0.01

    asyncio.run(run())
