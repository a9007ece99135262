"""The poller: one answer for all, and silence is never an answer."""

from __future__ import annotations

import asyncio

import pytest

from hpchub.poller import Poller
from hpchub.schedulers import SCHEDULERS, Unanswered

LINE = "7d1f0c3a9b5e2468|7|RUNNING|None|compute1|N/A|alice|hpchub-x|c\n"


class Scheduler:
    """A stand-in for the query: counts, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.output: str | Exception = LINE

    async def query(self) -> str:
        self.asked += 1
        await asyncio.sleep(0.01)
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


def make(scheduler: Scheduler, interval: float = 0.0) -> Poller:
    return Poller(SCHEDULERS["slurm"], scheduler.query, interval=interval, longest_backoff=0.05)


def test_a_thousand_waiters_ask_once() -> None:
    async def run() -> None:
        scheduler = Scheduler()
        poller = make(scheduler)
        answers = await asyncio.gather(*(poller.snapshot(0.0) for _ in range(1000)))
        assert scheduler.asked == 1
        assert all("7" in answer.jobs for answer in answers)
        await poller.snapshot(60.0)
        assert scheduler.asked == 1

    asyncio.run(run())


def test_no_more_than_one_query_per_interval() -> None:
    async def run() -> None:
        scheduler = Scheduler()
        poller = make(scheduler, interval=0.1)
        begin = asyncio.get_running_loop().time()
        for _ in range(4):
            await poller.snapshot(0.0)
        assert asyncio.get_running_loop().time() - begin >= 0.3

    asyncio.run(run())


@pytest.mark.parametrize("output", [Unanswered("down"), "7|RUN"], ids=["down", "cut-off"])
def test_no_answer_is_told_and_backed_off_from(output: str | Exception) -> None:
    async def run() -> None:
        scheduler = Scheduler()
        scheduler.output = output
        poller = make(scheduler, interval=0.01)
        for _ in range(20):
            with pytest.raises(Unanswered):
                await poller.snapshot(0.0)
        assert scheduler.asked < 20
        scheduler.output = LINE
        await asyncio.sleep(0.1)
        assert "7" in (await poller.snapshot(0.0)).jobs

    asyncio.run(run())


def test_a_waiter_that_gives_up_leaves_the_answer_to_the_others() -> None:
    async def run() -> None:
        scheduler = Scheduler()
        poller = make(scheduler)
        first = asyncio.create_task(poller.snapshot(0.0))
        second = asyncio.create_task(poller.snapshot(0.0))
        await asyncio.sleep(0)
        first.cancel()
        assert "7" in (await second).jobs

    asyncio.run(run())
