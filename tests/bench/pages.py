"""Compare the times of the home page and the form in a hub with 10 and with 1,000 users. This bench needs no demo."""

from __future__ import annotations

import asyncio
import functools
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from hub_app import GRANT, PORTS, Hub, job, make_hub, profile, signed_on, write_profiles  # noqa: E402
from jupyterhub import orm  # noqa: E402
from sqlalchemy import event, insert  # noqa: E402
from tornado.httpclient import AsyncHTTPClient  # noqa: E402
from tornado.httpserver import HTTPServer  # noqa: E402
from tornado.testing import bind_unused_port  # noqa: E402

from hpchub.clusters.knowledge import Knowledge  # noqa: E402
from hpchub.hub.ledger import EVENTS  # noqa: E402
from hpchub.schedulers import SCHEDULERS  # noqa: E402
from hpchub.schedulers.knowledge import (  # noqa: E402
    Account,
    Allocations,
    Availability,
    QueueState,
    WaitingJob,
)
from hpchub.schedulers.offers import Offer, Wanted  # noqa: E402

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

LIMIT = 0.15
"""How long a page may take at the hub, in seconds. The table shows it. Nothing fails, because machines differ."""
COUNTS = (10, 1000)
PROFILES = 50
FIELDS = {"cores": {"max": 4}, "memory": {"max": "8G"}, "account": {}, "qos": {}, "working_directory": {}}
NAMES = 5
"""How many names each user has given to sessions."""
PAST = 20
"""How many sessions of each user ended in the last week."""
OFFERS = 50
"""How many different nodes the queue has. The hub keeps no more of them."""
WAITING = 2000
"""How many jobs wait in the queue."""
DAY = 24 * 3600
CORES = itertools.cycle(range(1, 5))
PAGES: dict[str, Callable[[], str]] = {
    "home page": lambda: "home",
    "form": lambda: "spawn/alice/name-2",
    "changed field": lambda: f"availability/alice?profile=p1&cores={next(CORES)}&memory={next(CORES)}G",
}
"""The measurements. Each value of a changed field differs from the one before."""


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument("--repetitions", type=int, default=30, metavar="N", help="pages of each hub, default 30")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the pages of a user with three sessions, in a real JupyterHub with a database in a file.

    Returns:
        ``{"users": {count: {page: {"median": seconds, "longest": seconds, "queries": N}}}}``.
    """
    return {"users": {count: asyncio.run(_measure(count, arguments.repetitions)) for count in COUNTS}}


def table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the result as rows of text; the first row is the heading."""
    rows: list[tuple[str, ...]] = [("page", "users", "median, ms", "longest, ms", "limit, ms", "SQL statements")]
    for page in PAGES:
        for count, pages in result["users"].items():
            each = pages[page]
            times = (f"{seconds * 1000:.1f}" for seconds in (each["median"], each["longest"], LIMIT))
            figures = (*times, str(each["queries"]))
            rows.append((page, str(count), *figures))
    return rows


class Known(Knowledge):
    """What the hub knows of a full cluster with many waiting jobs. It asks nobody."""

    async def _refresh(self) -> None:
        pass

    def availability(self) -> Availability:
        return Availability(time.time(), self._queues)  # a new answer each time, which is the slowest case

    @functools.cached_property
    def _queues(self) -> dict[str, QueueState]:
        now = time.time()
        offers = tuple(Offer(4, 8192 - number, start=now + 60 * number) for number in range(1, OFFERS))
        waiting = tuple(WaitingJob(Wanted(4, 4096, number), start=now + number) for number in range(WAITING))
        return {"q": QueueState("q", offers=offers, waiting=waiting)}

    def allocations(self, user: str) -> Allocations:
        accounts = tuple(Account(f"account{number}", qos=("normal", "high")) for number in range(20))
        return Allocations(time.time(), accounts, "account1", ("normal", "high"), ())


async def _measure(users: int, repetitions: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        hub = await make_hub(directory, [str(ROOT / "templates" / "pages")], f"sqlite:///{directory}/hub.sqlite")
        try:
            write_profiles(directory, *(profile(f"p{number}", adjustable=FIELDS) for number in range(PROFILES)))
            hub.runtime._knowledge["demo"] = Known("demo", SCHEDULERS["slurm"], hub.gate)
            _fill(hub, users)
            return await _request(hub, repetitions)
        finally:
            await hub.close()


def _fill(hub: Hub, users: int) -> None:
    """Create the users with their names and past sessions. The first user has three sessions."""
    db = hub.app.db
    names = ["alice", *(f"user{number}" for number in range(1, users))]
    for name in names:
        user = orm.User(name=name)
        db.add(user)
        for each in ("", *(f"name-{number}" for number in range(NAMES))):
            db.add(orm.Spawner(name=each, display_name=each, user=user, user_options={"profile": "p1"}))
    db.commit()
    now = time.time()
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        for number in range(PAST):
            session, at = f"{index:08x}{number:08x}", now - number * DAY / 4
            known = {"user": hub.runtime.recorder.name_of(name), "profile": f"p{number}", "cluster": "demo"}
            empty = dict.fromkeys(known)
            rows += [
                {"kind": "requested", "at": at - 60, "session": session, "reason": None, **known},
                {"kind": "ready", "at": at - 30, "session": session, "reason": None, **empty},
                {"kind": "ended", "at": at, "session": session, "reason": "unknown", **empty},
                {"kind": "explained", "at": at + 1, "session": session, "reason": "time_limit", **empty},
            ]
    db.execute(insert(EVENTS), rows)
    alice = hub.user()
    for number, name in enumerate(("", "name-0", "name-1")):
        row, session = alice.orm_spawners[name], f"{number}" * 16
        row.server = orm.Server(proto="https", ip="127.0.0.1", port=PORTS["first"], base_url="/user/alice/")
        state = {"session": session, "job_id": str(number), "submitted": now, "started": now, "host": "n1", "port": 1}
        row.state = {"grant": GRANT, "job": state, "token": session}
        hub.jobs.append(job(job_id=str(number), session=session))
    db.commit()
    for user in db.query(orm.User):
        # Every user has visited the hub: JupyterHub has its objects in memory.
        hub.app.users[user].spawners[""]
    for name in ("name-0", "name-1"):
        alice.spawners[name]


async def _request(hub: Hub, repetitions: int) -> dict[str, Any]:
    listener, port = bind_unused_port()
    server = HTTPServer(hub.app.tornado_application)
    server.add_socket(listener)
    hub.app.authenticator.allowed_users = {"alice"}
    client = AsyncHTTPClient(force_instance=True)
    headers = {key.replace("_", "-"): value for key, value in signed_on("alice").items()}

    async def get(path: str) -> Any:
        url = f"http://127.0.0.1:{port}/hub/{path}"
        return await client.fetch(url, headers=headers, follow_redirects=False, raise_error=False)

    answered = await get("login")
    headers["Cookie"] = "; ".join(each.split(";")[0] for each in answered.headers.get_list("Set-Cookie"))
    page = (await get("home")).body.decode()
    assert page.count('class="hpchub-card card"') == 3, page
    assert page.count('class="hpchub-ended') == PAST, page
    assert (await get("spawn/alice/name-2")).body.decode().count('class="hpchub-start"') == PROFILES
    queries: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        queries.append(statement)

    event.listen(hub.app.db.get_bind(), "before_cursor_execute", count)
    figures: dict[str, Any] = {}
    for name, path in PAGES.items():
        taken = []
        for _ in range(repetitions):
            queries.clear()
            begin = time.perf_counter()
            assert (await get(path())).code == 200
            taken.append(time.perf_counter() - begin)
        figures[name] = {"median": statistics.median(taken), "longest": max(taken), "queries": len(queries)}
    client.close()
    server.stop()
    await server.close_all_connections()
    return figures
