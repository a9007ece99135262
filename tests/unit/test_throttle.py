"""Turns run one after the other, and other tasks get the event loop between two turns."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from hpchub.clusters.gate_client import AT_ONCE, Answer, Gate
from hpchub.hub import handlers
from hpchub.hub import throttle as turns
from hpchub.hub.throttle import Turns
from hpchub.schedulers import Unanswered


async def test_other_tasks_run_between_two_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 60.0)
    order: list[str] = []
    queue = Turns()

    async def work(number: int) -> None:
        await queue.take()
        order.append(f"turn {number}")
        time.sleep(0.03)  # noqa: ASYNC251 a start blocks the loop like this

    async def others() -> None:
        while len(order) < 7:
            if order and order[-1] != "others":
                order.append("others")
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(4)), others())
    assert order == ["turn 0", "others", "turn 1", "others", "turn 2", "others", "turn 3"]


async def test_turn_starts_after_the_timeout_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE", 0.0)  # every sleep ends too late
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    queue = Turns()
    await queue.take()
    begin = time.monotonic()
    await asyncio.wait_for(queue.take(), 5)
    assert time.monotonic() - begin >= 0.05


async def test_first_turn_starts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE", 60.0)
    await asyncio.wait_for(Turns().take(), 5)


async def test_cancelled_turn_does_not_block_the_next() -> None:
    queue = Turns()
    await queue.take()
    waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
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
        request = SimpleNamespace(method=method)
        settings = {"hpchub_settings_file": "hub.json"}  # noqa: RUF012

        async def prepare(self) -> None:
            seen.append("prepared")

    class Handler(handlers.InTurn, Base):
        pass

    async def take() -> None:
        seen.append("turn")

    monkeypatch.setattr(handlers, "runtime", lambda path: SimpleNamespace(turns=SimpleNamespace(take=take)))
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
    assert gate.most == AT_ONCE


async def test_queued_requests_time_out_with_a_silent_gate() -> None:
    class Silent(Counting):
        async def _exchange(self, request: bytes) -> Answer:
            await asyncio.sleep(60)
            return DONE

    gate = Silent("demo", timeout=0.05)
    asked: list[Any] = [gate.request("submit", session="a" * 16) for _ in range(20)]
    begin = time.monotonic()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert time.monotonic() - begin < 1
    assert all(isinstance(each, Unanswered) for each in found)


async def test_queued_requests_wait_for_a_slow_gate() -> None:
    gate = Counting("demo", timeout=0.25)
    asked: list[Any] = [gate.request("submit", session="a" * 16) for _ in range(200)]
    assert all(each.ok for each in await asyncio.gather(*asked))


async def test_query_does_not_wait_for_submissions() -> None:
    gate = Counting("demo")
    asked = [asyncio.create_task(gate.request("submit", session="a" * 16)) for _ in range(20)]
    await asyncio.sleep(0)
    await gate.query()
    assert sum(task.done() for task in asked) <= AT_ONCE
    await asyncio.gather(*asked)
