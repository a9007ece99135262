"""A real JupyterHub on a real PostgreSQL server: what happens to sessions while the database is at fault."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import Hub, answer, job, make_hub
from jupyterhub import orm
from postgresql_server import Server, needs_server
from sqlalchemy.exc import DBAPIError

from hpchub.hub import health
from hpchub.hub.database import TRY_AGAIN, Guard
from hpchub.hub.job_events import PortReported
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from hub_app import Ask

    from hpchub.clusters.gate_client import Answer

PAGES = str(Path(__file__).parents[2] / "templates" / "pages")

pytestmark = needs_server


@pytest.fixture
def left() -> list[int]:
    """The exit codes that the hub would have had."""
    return []


@pytest.fixture
async def hub(server: Server, tmp_path: Path, left: list[int]) -> AsyncIterator[Hub]:
    started = await make_hub(tmp_path, [PAGES], server.url, Guard(left.append))
    yield started
    await started.close()


def refuse_writes(server: Server, hub: Hub) -> None:
    """Make the database read-only, as after a failover, and let the hub notice it."""
    server.sql("ALTER DATABASE hub SET default_transaction_read_only = on")
    hub.app.db.commit()
    server.cut_connections()
    with pytest.raises(DBAPIError):
        hub.runtime.ledger.record("f" * 16, user="bob", cluster="demo", job_id="1")
    hub.app.db.rollback()


def permit_writes(server: Server) -> None:
    server.sql("ALTER DATABASE hub RESET default_transaction_read_only", database="postgres")
    server.cut_connections()


async def waits(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Check that a task does not end as long as the database is at fault. Return the task."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=1)
    assert not task.done()
    return task


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_session_that_ends_during_a_fault_is_over_after_it(
    hub: Hub, server: Server, tmp_path: Path, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = hub.restored_spawner("https://127.0.0.1:20001", host="127.0.0.1", port=20001)
    hub.show(job())
    assert await spawner.poll() is None
    refuse_writes(server, hub)
    hub.show()
    assert await spawner.poll() is None, "the end could not be saved"
    await waits(spawner.user.stop(""))

    monkeypatch.setattr(health, "INTERVAL", 0.1)
    watch = asyncio.ensure_future(hub.runtime.health.watch(hub.app.db.get_bind()))
    await asyncio.sleep(1)
    assert left == []
    permit_writes(server)
    await until(lambda: left)
    assert set(left) == {TRY_AGAIN}
    watch.cancel()

    restarted = await make_hub(tmp_path, [PAGES], server.url, Guard(left.append))
    try:
        restarted.show(job(JobState.ENDED))
        rows = restarted.app.db.query(orm.Spawner).all()
        await until(lambda: all(row.server is None for row in rows))
        user = restarted.user()
        await until(lambda: user.spawners[""].pending is None)
        assert restarted.runtime.ledger.ended(["a" * 16]) == {"a" * 16: ("alice", "demo")}
    finally:
        await restarted.close()


async def test_start_that_cannot_be_saved_cancels_no_job(hub: Hub, server: Server, left: list[int]) -> None:
    """JupyterHub stops a server if it cannot save its start."""
    spawner = hub.new_spawner()
    hub.gate.on_submit = lambda session: _submit(hub, session)
    start = asyncio.ensure_future(spawner.start())
    await until(lambda: hub.jobs and spawner.child_spawner.job_id)
    refuse_writes(server, hub)
    spawner._spawn_pending = True
    with pytest.raises(DBAPIError):
        spawner.report(PortReported(20001))
    hub.app.db.rollback()
    await waits(spawner.stop())
    start.cancel()
    assert hub.gate.cancelled == []
    assert left == []


async def test_hub_that_is_stopped_during_a_fault_forgets_no_session(hub: Hub, server: Server, left: list[int]) -> None:
    """JupyterHub cancels its tasks when it stops, and would then forget the session with a pending stop."""
    spawner = hub.new_spawner()
    refuse_writes(server, hub)
    stop = await waits(spawner.stop())
    stop.cancel()
    await asyncio.wait({stop})
    assert left == [TRY_AGAIN]


def _submit(hub: Hub, session: str) -> Answer:
    hub.show(job(JobState.RUNNING, session=session))
    return answer("7\n")


async def test_report_that_cannot_be_saved_is_accepted_later(hub: Hub, server: Server) -> None:
    spawner = hub.restored_spawner()
    hub.show(job())
    spawner._check_pending = True
    refuse_writes(server, hub)
    with pytest.raises(DBAPIError):
        spawner.report(PortReported(20001))
    permit_writes(server)
    assert spawner.report(PortReported(20001))
    assert spawner.orm_spawner.state["job"]["port"] == 20001


async def test_nobody_can_start_or_stop_a_session_during_a_fault(hub: Hub, server: Server, ask: Ask) -> None:
    headers = {"Authorization": f"token {hub.user().new_api_token()}"}
    refuse_writes(server, hub)
    for method, body in (("POST", b"{}"), ("DELETE", None)):
        refused = await ask("api/users/alice/server", method, body, **headers)
        assert refused.code == 503, refused.body
        assert b"no session can start or stop" in refused.body
    assert (await ask("health")).code == 503
