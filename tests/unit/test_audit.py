"""The audit log: one line of JSON for each event, in a file that only the hub can read, without secrets."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import Hub, signed_on
from prometheus_client import REGISTRY
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.netutil import bind_unix_socket
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from hpchub.hub import events
from hpchub.hub.audit import LOGGED, AuditLog, line_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from hub_app import Ask
    from tornado.httpclient import HTTPResponse


@pytest.fixture
def audit_log(tmp_path: Path) -> Iterator[Callable[..., AuditLog]]:
    """Return a function that opens an audit log, by default ``audit.jsonl``."""
    with ExitStack() as opened:

        def create(path: Path = tmp_path / "audit.jsonl", days: int = 30) -> AuditLog:
            return opened.enter_context(closing(AuditLog(path, days)))

        yield create


SESSION = events.Session(
    name="a" * 16, user="alice", cluster="demo", queue="q", profile="small", cores=1, gpus=0, runtime=3600
)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_one_line_of_json(tmp_path: Path, audit_log: Callable[..., AuditLog]) -> None:
    audit = audit_log()
    origin = events.Origin("alice", "192.0.2.1")
    audit.receive(events.SignedIn(at=0.0, user="alice", address="192.0.2.1"))
    audit.receive(events.SignInRefused(at=1.5, user="", address="192.0.2.2", reason="no_identity"))
    audit.receive(events.StartRequested(at=2.0, session=SESSION, origin=origin))
    audit.receive(events.JobStarted(at=3.0, session=SESSION, job_id="7", node="n1", waited=1.0))
    found = lines(tmp_path / "audit.jsonl")
    assert [line["event"] for line in found] == ["signed_in", "sign_in_refused", "start_requested"]
    assert found[0]["time"] == "1970-01-01T00:00:00.000+00:00"
    assert found[1] | {"time": ""} == {
        "time": "",
        "event": "sign_in_refused",
        "user": "",
        "address": "192.0.2.2",
        "reason": "no_identity",
    }
    assert found[2]["session"]["user"] == "alice"
    assert found[2]["origin"]["address"] == "192.0.2.1"


def test_text_from_outside_cannot_forge_a_line() -> None:
    line = line_of(events.SignInRefused(user='x"}\n{"event": "signed_in"', address="\u2028\x00", reason="no_identity"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["event"] == "sign_in_refused"


def test_only_the_owner_can_read_the_file_whatever_the_umask_is(
    tmp_path: Path, audit_log: Callable[..., AuditLog]
) -> None:
    path = tmp_path / "audit.jsonl"
    before = os.umask(0)
    try:
        audit_log(path).receive(events.SignedIn(user="alice", address=""))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_next_hub_process_appends(tmp_path: Path, audit_log: Callable[..., AuditLog]) -> None:
    for user in ("alice", "bob"):
        audit_log().receive(events.SignedIn(user=user, address=""))
    assert [line["user"] for line in lines(tmp_path / "audit.jsonl")] == ["alice", "bob"]


def test_old_files_are_deleted(tmp_path: Path, audit_log: Callable[..., AuditLog]) -> None:
    path = tmp_path / "audit.jsonl"
    audit = audit_log(path, 2)
    for day in range(5):
        audit.rolloverAt = day * 86400  # a midnight that has passed
        audit.receive(events.SignedIn(user="alice", address=""))
    kept = sorted(tmp_path.glob("audit.jsonl*"))
    assert 1 < len(kept) <= 3
    assert len(lines(path)) == 1


def test_failure_is_counted_and_harms_nothing(
    tmp_path: Path, audit_log: Callable[..., AuditLog], caplog: pytest.LogCaptureFixture
) -> None:
    audit = audit_log(tmp_path / "missing" / "audit.jsonl")
    before = REGISTRY.get_sample_value("hpchub_audit_failures_total") or 0.0
    audit.receive(events.SignedIn(user="alice", address="192.0.2.1"))
    assert REGISTRY.get_sample_value("hpchub_audit_failures_total") == before + 1
    assert '"user": "alice"' in caplog.text, "the log keeps the line"
    (tmp_path / "missing").mkdir()
    audit.receive(events.SignedIn(user="bob", address="192.0.2.1"))
    assert [line["user"] for line in lines(tmp_path / "missing" / "audit.jsonl")] == ["bob"]


def test_every_event_of_a_person_is_logged() -> None:
    """All events except for those about how the cluster runs a session."""
    kinds = [events.Event]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.__name__ for kind in set(kinds) - set(LOGGED)} == {
        *("Event", "UserEvent", "SessionEvent"),
        *("JobSubmitted", "JobStarted", "SessionReady", "SessionRestored"),
    }


@pytest.fixture
async def ask(hub: Hub, tmp_path: Path) -> AsyncIterator[Ask]:
    """Return a function that sends a request over the hub's socket, with the address that Apache adds."""
    path = str(tmp_path / "hub.sock")
    # JupyterHub starts its server with this argument too.
    server = HTTPServer(hub.app.tornado_application, xheaders=True)
    server.add_socket(bind_unix_socket(path))

    async def connect(host: str, port: int, *_: object, **__: object) -> IOStream:
        stream = IOStream(socket.socket(socket.AF_UNIX))
        await stream.connect(path)
        return stream

    client = SimpleAsyncHTTPClient(force_instance=True)
    client.tcp_client.connect = connect  # type: ignore[method-assign]

    async def request(page: str, **headers: str) -> HTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://localhost/hub/{page}"
        return await client.fetch(url, headers=named, follow_redirects=False, raise_error=False)

    yield request
    client.close()
    server.stop()
    await server.close_all_connections()


async def test_sign_in_is_logged_with_the_address_of_the_browser_and_without_secrets(
    hub: Hub, ask: Ask, tmp_path: Path
) -> None:
    await ask("login", X_Forwarded_For="198.51.100.7", **signed_on("alice", "hpc"))
    await ask("login", X_Forwarded_For="198.51.100.8", **signed_on("mallory"))
    text = (tmp_path / "audit.jsonl").read_text()
    found = lines(tmp_path / "audit.jsonl")
    assert [(line["event"], line["user"], line["address"]) for line in found] == [
        ("signed_in", "alice", "198.51.100.7"),
        ("sign_in_refused", "mallory", "198.51.100.8"),
    ]
    for token in hub.user("alice").orm_user.api_tokens:
        assert token.hashed not in text
