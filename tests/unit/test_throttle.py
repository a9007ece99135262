"""Turns: one after the other, and never two without the others' having had the loop between them."""

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


async def test_others_get_the_loop_between_two_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 60.0)
    order: list[str] = []
    queue = Turns()

    async def work(number: int) -> None:
        await queue.take()
        order.append(f"turn {number}")
        time.sleep(0.03)  # noqa: ASYNC251 a start is as much work as this, and none of it waits

    async def others() -> None:
        while len(order) < 7:
            if order and order[-1] != "others":
                order.append("others")
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(4)), others())
    assert order == ["turn 0", "others", "turn 1", "others", "turn 2", "others", "turn 3"]


async def test_a_machine_that_is_always_late_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE", 0.0)  # no sleep ends in time
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    queue = Turns()
    await queue.take()
    begin = time.monotonic()
    await asyncio.wait_for(queue.take(), 5)
    assert time.monotonic() - begin >= 0.05


async def test_who_comes_alone_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE", 60.0)
    await asyncio.wait_for(Turns().take(), 5)


async def test_who_gives_up_holds_nobody_up() -> None:
    queue = Turns()
    await queue.take()
    waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await asyncio.wait_for(waiting[2], 5)


@pytest.mark.parametrize(("method", "taken"), [("GET", 0), ("POST", 1)])
async def test_a_request_that_starts_something_takes_a_turn(
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
    """Counts the requests that it has at once."""

    now = most = 0

    async def _exchange(self, request: bytes) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.01)
        self.now -= 1
        return DONE


async def test_a_gate_is_asked_for_a_few_jobs_at_a_time() -> None:
    gate = Counting("demo")
    asked: list[Any] = [gate.request("cancel", session="a" * 16, user="u", job_id="1") for _ in range(20)]
    await asyncio.gather(*asked)
    assert gate.most == AT_ONCE


async def test_a_gate_that_answers_nobody_is_not_waited_for() -> None:
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


async def test_a_slow_gate_is_waited_for() -> None:
    gate = Counting("demo", timeout=0.25)
    asked: list[Any] = [gate.request("submit", session="a" * 16) for _ in range(200)]
    assert all(each.ok for each in await asyncio.gather(*asked))


async def test_the_query_does_not_wait_for_submissions() -> None:
    gate = Counting("demo")
    asked = [asyncio.create_task(gate.request("submit", session="a" * 16)) for _ in range(20)]
    await asyncio.sleep(0)
    await gate.query()
    assert sum(task.done() for task in asked) <= AT_ONCE
    await asyncio.gather(*asked)
