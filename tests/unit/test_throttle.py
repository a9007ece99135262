"""Turns run one after the other, and other tasks get the event loop between two turns."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import virtual_time
from virtual_time import VirtualTimeLoop

from hpchub.clusters import gate_client
from hpchub.clusters.gate_client import MAX_CONCURRENT_REQUESTS, Answer, Gate
from hpchub.hub import handlers, throttle
from hpchub.hub.database import Guard
from hpchub.hub.throttle import Throttle
from hpchub.schedulers import Unanswered


def use_clock(monkeypatch: pytest.MonkeyPatch, module: Any, loop: VirtualTimeLoop) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))


def test_other_tasks_run_between_two_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    async def main(loop: VirtualTimeLoop) -> None:
        use_clock(monkeypatch, throttle, loop)
        queue = Throttle()

        async def work(number: int) -> None:
            await queue.wait_for_turn()
            order.append(f"turn {number}")
            loop.advance(0.03)  # a start blocks the event loop like this

        async def others() -> None:
            while len(order) < 7:
                if order and order[-1] != "others":
                    order.append("others")
                await asyncio.sleep(throttle.PAUSE / 5)

        await asyncio.gather(*(work(number) for number in range(4)), others())

    virtual_time.run(main)
    assert order == ["turn 0", "others", "turn 1", "others", "turn 2", "others", "turn 3"]


def test_turn_starts_after_the_timeout_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    late = 2 * throttle.PAUSE

    async def main(loop: VirtualTimeLoop) -> float:
        use_clock(monkeypatch, throttle, loop)

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)
            loop.advance(seconds + late)

        monkeypatch.setattr(throttle, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=sleep))
        queue = Throttle()
        await queue.wait_for_turn()
        begin = loop.time()
        await queue.wait_for_turn()
        return loop.time() - begin

    waited = virtual_time.run(main)
    assert throttle.LONGEST_WAIT < waited <= throttle.LONGEST_WAIT + throttle.PAUSE + late


def test_first_turn_starts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: VirtualTimeLoop) -> float:
        use_clock(monkeypatch, throttle, loop)
        begin = loop.time()
        await Throttle().wait_for_turn()
        return loop.time() - begin

    assert virtual_time.run(main) == 0


async def test_cancelled_turn_does_not_block_the_next() -> None:
    queue = Throttle()
    await queue.wait_for_turn()
    waiting = [asyncio.create_task(queue.wait_for_turn()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.wait_for(waiting[2], 5)


@pytest.mark.parametrize(("method", "taken"), [("GET", 0), ("POST", 1)])
async def test_only_requests_that_start_a_server_take_a_turn(
    monkeypatch: pytest.MonkeyPatch, method: str, taken: int
) -> None:
    seen: list[str] = []

    class Base:
        request = SimpleNamespace(body=b"", method=method)
        settings = {"hpchub_settings_file": "hub.json"}  # noqa: RUF012

        async def prepare(self) -> None:
            seen.append("prepared")

    class Handler(handlers.Throttled, Base):
        pass

    async def wait_for_turn() -> None:
        seen.append("turn")

    shared = SimpleNamespace(throttle=SimpleNamespace(wait_for_turn=wait_for_turn), guard=Guard())
    monkeypatch.setattr(handlers, "runtime", lambda path: shared)
    await Handler().prepare()
    assert seen == ["turn"] * taken + ["prepared"]


DONE = Answer(ok=True, exit=0, stdout="", stderr="", command=["x"], error="")


class Counting(Gate):
    """A gate that counts its concurrent requests."""

    now = most = 0

    async def _exchange(self, request: bytes) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return DONE


async def test_gate_limits_concurrent_requests() -> None:
    gate = Counting("demo")
    asked: list[Any] = [gate.request("cancel", session="a" * 16, user="u", job_id="1") for _ in range(20)]
    await asyncio.gather(*asked)
    assert gate.most == MAX_CONCURRENT_REQUESTS


def test_queued_requests_time_out_together_with_a_silent_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """All twenty requests end after one timeout, instead of one timeout per batch."""

    class Silent(Counting):
        asked = 0

        async def _exchange(self, request: bytes) -> Answer:
            self.asked += 1
            await asyncio.sleep(3600)
            return DONE

    async def main(loop: VirtualTimeLoop) -> tuple[list[Any], int, float]:
        use_clock(monkeypatch, gate_client, loop)
        gate = Silent("demo", timeout=90)
        asked: list[Any] = [gate.request("submit", session="a" * 16) for _ in range(20)]
        return await asyncio.gather(*asked, return_exceptions=True), gate.asked, loop.time()

    found, asked, seconds = virtual_time.run(main)
    assert all(isinstance(each, Unanswered) for each in found)
    assert (asked, seconds) == (MAX_CONCURRENT_REQUESTS, virtual_time.START + 90)


def test_queued_requests_wait_for_a_slow_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests wait much longer than the timeout, because the gate still answers others."""

    class Slow(Counting):
        async def _exchange(self, request: bytes) -> Answer:
            await asyncio.sleep(60)
            return DONE

    async def main(loop: VirtualTimeLoop) -> tuple[list[Any], float]:
        use_clock(monkeypatch, gate_client, loop)
        gate = Slow("demo", timeout=90)
        asked: list[Any] = [gate.request("submit", session="a" * 16) for _ in range(40)]
        return await asyncio.gather(*asked), loop.time()

    found, seconds = virtual_time.run(main)
    assert all(each.ok for each in found)
    assert seconds == virtual_time.START + 40 / MAX_CONCURRENT_REQUESTS * 60


async def test_query_does_not_wait_for_submissions() -> None:
    gate = Counting("demo")
    asked = [asyncio.create_task(gate.request("submit", session="a" * 16)) for _ in range(20)]
    await asyncio.sleep(0)
    await gate.query()
    assert sum(task.done() for task in asked) <= MAX_CONCURRENT_REQUESTS
    await asyncio.gather(*asked)
