"""The hub's side of a gate: requests over a Unix socket, and what counts as an answer."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.clusters.gate_client import MAX_CONCURRENT_REQUESTS, NOT_RUN, Answer, LocalGate, make_gate
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GOOD = {"ok": True, "exit": 0, "stdout": "jobs\n", "stderr": "", "command": ["squeue"], "error": ""}


class Server:
    """A gate that records the requests on its socket and sends the answers that a test sets."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.requests: list[Any] = []
        self.reply: bytes = json.dumps(GOOD).encode()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    def answer(self, **changes: Any) -> None:
        self.reply = json.dumps(GOOD | changes).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(json.loads(await reader.read()))
        await self.may_answer.wait()
        writer.write(self.reply)
        writer.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "gate.sock")
    listener = await asyncio.start_unix_server(made.serve, made.socket)
    yield made
    made.may_answer.set()
    listener.close()
    await listener.wait_closed()


@pytest.fixture
def gate(server: Server) -> LocalGate:
    return LocalGate("demo", socket=str(server.socket))


async def test_request_and_answer_pass_through_the_socket(server: Server, gate: LocalGate) -> None:
    answer = await gate.request("submit", user="alice", session="0" * 16)
    assert server.requests == [{"action": "submit", "user": "alice", "session": "0" * 16}]
    assert answer == Answer(**GOOD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reply",
    [b"", b"busy", b"[]", json.dumps(GOOD).encode()[:-9], json.dumps(GOOD | {"more": 1}).encode(), b'{"ok": true}'],
    ids=["empty", "not JSON", "not an object", "cut off", "unknown field", "missing fields"],
)
async def test_invalid_answer_is_no_answer(server: Server, gate: LocalGate, reply: bytes) -> None:
    server.reply = reply
    with pytest.raises(Unanswered, match="the gate of demo did not send a valid answer"):
        await gate.request("query")


async def test_missing_socket_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Unanswered, match=r"the submit host of demo cannot be reached: .*No such file"):
        await LocalGate("demo", socket=str(tmp_path / "nowhere.sock")).request("query")


async def test_silent_gate_is_reported_after_the_timeout(server: Server, gate: LocalGate) -> None:
    server.may_answer.clear()
    gate.timeout = 0.05
    with pytest.raises(Unanswered, match=r"took more than 0\.05 seconds"):
        await gate.request("query")


@pytest.mark.parametrize(
    "changes",
    [{"ok": False, "exit": 1, "stderr": "down"}, {"stdout": " \n", "stderr": "connection refused"}],
    ids=["failed", "exit code 0 with an error and no output"],
)
@pytest.mark.parametrize("action", ["query", "limits"])
async def test_query_without_output_is_no_answer(
    server: Server, gate: LocalGate, action: str, changes: dict[str, Any]
) -> None:
    server.answer(**changes)
    with pytest.raises(Unanswered, match=r"down|connection refused"):
        await (gate.query() if action == "query" else gate.limits())


async def test_query_returns_output_in_spite_of_warnings(server: Server, gate: LocalGate) -> None:
    server.answer(stderr="warning")
    assert await gate.query() == "jobs\n"
    server.answer(stdout="", stderr="")
    assert await gate.limits() == ""
    assert [request["action"] for request in server.requests] == ["query", "limits"]


@pytest.mark.parametrize("code", NOT_RUN)
async def test_look_up_that_did_not_run_is_no_answer(server: Server, gate: LocalGate, code: int) -> None:
    server.answer(ok=False, exit=code)
    with pytest.raises(Unanswered):
        await gate.find("7")


async def test_look_up_that_the_gate_refused_is_no_answer(server: Server, gate: LocalGate) -> None:
    server.answer(ok=False, exit=1, command=[], error="the job id is not valid")
    with pytest.raises(Unanswered, match="the job id is not valid"):
        await gate.find("7")


async def test_look_up_of_an_unknown_job_is_an_answer(server: Server, gate: LocalGate) -> None:
    server.answer(ok=False, exit=1, stderr="Invalid job id")
    assert (await gate.find("7")).exit == 1
    assert server.requests == [{"action": "find", "job_id": "7"}]


async def test_history_and_log_return_the_output_or_are_unanswered(server: Server, gate: LocalGate) -> None:
    server.answer(stdout="one\ntwo\n")
    assert await gate.history("7") == "one\ntwo\n"
    assert await gate.log("alice", "7") == ["one", "two"]
    assert server.requests == [
        {"action": "history", "job_id": "7"},
        {"action": "log", "user": "alice", "job_id": "7"},
    ]
    server.answer(ok=False, exit=1, error="there is no log")
    with pytest.raises(Unanswered):
        await gate.history("7")
    with pytest.raises(Unanswered, match="there is no log"):
        await gate.log("alice", "7")


# Slots for requests about single sessions


async def occupy_all_slots(gate: LocalGate) -> None:
    for _ in range(MAX_CONCURRENT_REQUESTS):
        await gate._slots.acquire()


async def test_waiting_submission_fails_if_the_host_is_silent(server: Server, gate: LocalGate) -> None:
    await occupy_all_slots(gate)
    gate.timeout = 0.05
    with pytest.raises(Unanswered, match=r"has not answered for 0\.05 seconds"):
        await gate.request("submit", session="0" * 16)
    assert server.requests == []


async def test_waiting_submission_keeps_waiting_while_the_host_answers_others(server: Server, gate: LocalGate) -> None:
    await occupy_all_slots(gate)
    gate.timeout = 0.05
    gate._answered = time.monotonic() + 60  # the host's last answer to others is never too long ago
    waiting = asyncio.ensure_future(gate.request("submit", session="0" * 16))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    gate.timeout = 30
    gate._slots.release()
    assert (await waiting).ok


async def test_query_needs_no_slot(server: Server, gate: LocalGate) -> None:
    await occupy_all_slots(gate)
    assert await gate.query() == "jobs\n"


async def test_failed_submission_frees_its_slot(server: Server, gate: LocalGate) -> None:
    server.reply = b"busy"
    for _ in range(MAX_CONCURRENT_REQUESTS + 1):
        with pytest.raises(Unanswered, match="valid answer"):
            await gate.request("submit", session="0" * 16)


def test_unknown_method_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"gates\.demo\.method: 'rsh' is unknown; valid: local, ssh"):
        make_gate("demo", {"method": "rsh"})
