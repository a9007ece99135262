"""The health check writes to the database and reports alarms. Sign-in explains a database that cannot be used."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import Hub, make_hub, signed_on
from sqlalchemy import event

from hpchub.hub import health
from hpchub.hub.health import INTERVAL, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hub_app import Ask

PAGES = Path(__file__).parents[2] / "templates" / "pages"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """A real JupyterHub with its database in a directory of its own."""
    (tmp_path / "state").mkdir()
    started = await make_hub(tmp_path, [str(PAGES)], f"sqlite:///{tmp_path}/state/hub.sqlite")
    yield started
    await started.close()


@pytest.fixture
def always_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each health check write."""
    monkeypatch.setattr(health, "INTERVAL", 0.0)


@pytest.mark.usefixtures("always_write")
async def test_healthy_hub_answers_200_with_an_empty_body(ask: Ask) -> None:
    for path in ("health", "api/health"):
        for method in ("GET", "HEAD"):
            answer = await ask(path, method)
            assert (answer.code, answer.body) == (200, b"")


@pytest.mark.usefixtures("always_write")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
async def test_full_disk_makes_the_health_check_fail(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    allocate = os.posix_fallocate

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    for _ in range(3):
        answer = await ask("health")
        assert answer.code == 503
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.body.decode() == "The hub cannot write to its database: its disk is full or read-only.\n"
    assert caplog.text.count(os.strerror(error)) == 1, "each problem is logged once"
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert (await ask("health")).code == 200
    assert "The hub can write to its database again" in caplog.text


@pytest.mark.usefixtures("always_write")
async def test_database_that_refuses_writes_makes_the_health_check_fail(hub: Hub, ask: Ask) -> None:
    engine = hub.app.db.get_bind()

    @event.listens_for(engine, "begin")
    def refuse(connection: Any) -> None:
        connection.exec_driver_sql("PRAGMA query_only=1")

    answer = await ask("health")
    assert (answer.code, answer.body) == (503, b"The hub cannot write to its database.\n")


async def test_database_that_hangs_blocks_neither_the_check_nor_the_hub(
    hub: Hub, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LONGEST_WRITE", 0.2)
    monkeypatch.setattr(health, "INTERVAL", 0.0)

    def hang(_: object) -> tuple[str, str]:
        time.sleep(1)
        return "", ""

    monkeypatch.setattr(health, "_write", hang)
    before = time.monotonic()
    first, page, second = await asyncio.gather(ask("health"), ask("static/favicon.ico"), ask("health"))
    assert time.monotonic() - before < 0.9
    assert [answer.code for answer in (first, second)] == [503, 503]
    assert first.body == b"The hub's database does not answer.\n"
    assert page.code == 200
    await asyncio.sleep(1)
    monkeypatch.setattr(health, "INTERVAL", INTERVAL)
    assert (await ask("health")).code == 200


async def test_health_check_writes_at_most_every_few_seconds(
    hub: Hub, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[object] = []

    def write(engine: object) -> tuple[str, str]:
        writes.append(engine)
        return "", ""

    monkeypatch.setattr(health, "_write", write)
    await asyncio.gather(*(ask("health") for _ in range(10)))
    assert writes == [hub.app.db.get_bind()]


async def test_failed_check_is_a_problem(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_write", lambda _: 1 / 0)
    assert await Health().problems(hub.app.db.get_bind()) == ["The health check failed."]


async def test_alarm_makes_the_health_check_fail(hub: Hub, ask: Ask) -> None:
    hub.runtime.health.alarms.update(demo="Something is wrong.", other="Something is wrong.")
    answer = await ask("health")
    assert (answer.code, answer.body) == (503, b"Something is wrong.\n")


async def test_sign_in_explains_in_words_that_the_database_cannot_be_written(
    hub: Hub, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=1")
    answer = await ask("login", **signed_on("alice", "hpc"))
    page = answer.body.decode()
    assert answer.code == 503
    assert "The service has a problem at the moment, so you cannot sign in. Notebooks that are running go on" in page
    assert "hub-login" not in str(answer.headers.get_list("Set-Cookie"))
    assert "attempt to write a readonly database" in caplog.text
    assert "readonly" not in page
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=0")
    assert (await ask("login", **signed_on("alice", "hpc"))).code == 302


async def test_running_session_recognises_its_visitor_while_the_database_cannot_be_written(hub: Hub, ask: Ask) -> None:
    headers = {"Authorization": f"token {hub.user('alice').new_api_token()}"}
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=1")
    for _ in range(2):
        answer = await ask("api/user", **headers)
        assert (answer.code, json.loads(answer.body)["name"]) == (200, "alice")
    assert (await ask("api/user", Authorization="token unknown")).code == 403
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=0")
    assert (await ask("api/user", **headers)).code == 200
    assert hub.user("alice").orm_user.api_tokens[0].last_activity is not None
