"""Twenty sessions work while one part of the service after the other fails in a random order. No session is lost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from hpchub.canary.client import FixedResolver

from . import versions
from .backups import fetch_backup, replace_hub
from .database import Server
from .lab import eventually
from .site import Site
from .students import SETTLED, Class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab

ROUNDS = int(os.environ.get("HPCHUB_CHAOS", "0"))
"""How often everything fails. Each round causes each fault once."""
SESSIONS = 20


class Kernels:
    """A kernel of each student, with a variable. The requests go through the service's public address."""

    def __init__(self, lab: Lab, students: Class) -> None:
        """Start a kernel in each session, which must be ready, and set the variable ``kept`` in it."""
        self._resolver = lab.addresses[lab.host("hub")], urlsplit(lab.url).port or 443
        self._url = lab.url
        self._tokens = dict(zip((student.name for student in students.students), students.each(_token), strict=True))
        self._ids: dict[str, str] = {}
        asyncio.run(self._each(self._start))

    def values(self) -> dict[str, str]:
        """Return what each kernel prints for its variable, or why it does not answer."""
        return asyncio.run(self._each(self._value))

    def all_kept(self) -> bool:
        """Return whether each kernel has its variable."""
        return all(value == name for name, value in self.values().items())

    async def _each(self, work: Callable[[aiohttp.ClientSession, str], Any]) -> dict[str, str]:
        connector = aiohttp.TCPConnector(ssl=False, resolver=FixedResolver(*self._resolver))
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            found = await asyncio.gather(*(work(http, name) for name in self._tokens))
        await asyncio.sleep(0.25)  # aiohttp closes TLS connections in the background
        return dict(zip(self._tokens, found, strict=True))

    async def _start(self, http: aiohttp.ClientSession, name: str) -> None:
        address = f"{self._url}/user/{name}/api/kernels"
        async with http.post(address, json={"name": "python3"}, headers=self._headers(name)) as answer:
            assert answer.status == 201, await answer.text()
            self._ids[name] = (await answer.json())["id"]
        await self._run(http, name, f"kept = {name!r}")

    async def _value(self, http: aiohttp.ClientSession, name: str) -> str:
        try:
            return (await self._run(http, name, "print(kept)")).strip()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{type(error).__name__}: {error}"

    async def _run(self, http: aiohttp.ClientSession, name: str, code: str) -> str:
        """Run code in a student's kernel, and return what it prints."""
        header = {"msg_id": uuid.uuid4().hex, "session": uuid.uuid4().hex, "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {"header": {**header, "msg_type": "execute_request"}, "parent_header": {}, "metadata": {}}
        url = f"{self._url}/user/{name}/api/kernels/{self._ids[name]}/channels"
        output = ""
        async with asyncio.timeout(30), http.ws_connect(url, headers=self._headers(name)) as channel:
            await channel.send_str(json.dumps({**message, "content": content, "channel": "shell"}))
            async for received in channel:
                if received.type is not aiohttp.WSMsgType.TEXT:
                    continue
                answer = json.loads(received.data)
                if answer["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                output += answer["content"].get("text", "") + answer["content"].get("evalue", "")
                if answer["content"].get("execution_state") == "idle":
                    break
        return output

    def _headers(self, name: str) -> dict[str, str]:
        return {"Authorization": f"token {self._tokens[name]}"}


def _token(student: Any) -> str:
    """Create a token for the student's notebook server."""
    answer = student.api("POST", f"users/{student.name}/tokens", {"note": "chaos"})
    assert answer is not None
    assert answer.status == 201, answer
    return str(json.loads(answer.text)["token"])


class Faults:
    """The faults. Each method causes one and repairs what an administrator has to repair."""

    def __init__(self, lab: Lab, directory: Path, key: Path) -> None:
        self._lab = lab
        self._key = key
        self._site = Site(lab, directory)
        self._package = versions.copy_package(directory)
        versions.use_other_schema(self._package)

    def one_round(self) -> list[Callable[[], None]]:
        """Return all faults in a random order."""
        faults = [
            self.hub_is_killed,
            self.proxy_is_killed,
            self.services_restart,
            self.scheduler_is_away,
            self.upgrade_breaks_off,
            self.hub_host_is_destroyed,
        ]
        if Server.exists(self._lab):
            faults += [self.database_is_killed, self.database_disk_is_full]
        return random.sample(faults, len(faults))

    def hub_is_killed(self) -> None:
        for _ in range(3):
            self._lab.run("hub", ["systemctl", "kill", "--signal=KILL", "jupyterhub"])
            time.sleep(random.uniform(0, 8))

    def proxy_is_killed(self) -> None:
        self._lab.run("hub", ["systemctl", "kill", "--signal=KILL", "configurable-http-proxy"])

    def services_restart(self) -> None:
        units = ["jupyterhub", "configurable-http-proxy", "apache2"]
        self._lab.run("hub", ["systemctl", "stop", *units])
        time.sleep(random.uniform(0, 10))
        self._lab.run("hub", ["systemctl", "start", *units])

    def scheduler_is_away(self) -> None:
        for batch in self._lab.batches.values():
            batch.stop()
        time.sleep(45)
        for batch in self._lab.batches.values():
            batch.start()

    def database_is_killed(self) -> None:
        server = Server(self._lab)
        for _ in range(3):
            server.kill()
            time.sleep(random.uniform(0, 8))

    def database_disk_is_full(self) -> None:
        server = Server(self._lab)
        try:
            with server.full_disk():
                time.sleep(20)
        finally:
            server.leave_small_disk()

    def upgrade_breaks_off(self) -> None:
        """Break off an upgrade with another schema of the database, repeat it, and go back."""
        before = versions.environment(self._lab), versions.schema(self._lab)
        moment = random.choice(versions.MOMENTS)
        print(f"  at {moment!r}")
        versions.add(self._package, "__init__.py", f"\n# {uuid.uuid4().hex}\n")
        options = versions.of_package(self._package)
        versions.kill_deployment(self._site, moment, *options)
        self._site.apply(*options)
        assert versions.schema(self._lab) != before[1]
        self._site.apply(playbook="rollback.yml")
        assert (versions.environment(self._lab), versions.schema(self._lab)) == before

    def hub_host_is_destroyed(self) -> None:
        backup = fetch_backup(self._lab, self._key)
        replace_hub(self._lab, self._site)
        self._site.apply("-e", f"backup={backup}", "-e", f"identity={self._key}")


@pytest.fixture
def many(lab: Lab) -> Iterator[Class]:
    """Sign in twenty students, and stop their sessions afterwards."""
    with ThreadPoolExecutor(SESSIONS) as pool:
        found = Class(lab, pool, size=SESSIONS)
        yield found
        found.stop()


@pytest.mark.skipif(not ROUNDS, reason="HPCHUB_CHAOS is not set; bin/test --all sets it")
def test_no_fault_loses_a_session(lab: Lab, many: Class, tmp_path: Path, key: Path) -> None:
    """After each fault, every kernel has its variable, in the job of before, and the hub agrees with the scheduler.

    The random order depends on the environment variable ``HPCHUB_SEED``, which the test prints.
    """
    seed = os.environ.get("HPCHUB_SEED") or uuid.uuid4().hex
    print(f"HPCHUB_SEED={seed}")
    random.seed(seed)
    jobs = many.start_and_wait()
    kernels, faults = Kernels(lab, many), Faults(lab, tmp_path, key)
    assert kernels.all_kept()
    for fault in (fault for _ in range(ROUNDS) for fault in faults.one_round()):
        name, started = fault.__name__, time.monotonic()
        fault()
        over = time.monotonic()
        eventually(f"every kernel answers after {name}", kernels.all_kept, timeout=SETTLED)
        eventually(f"the hub and the scheduler agree after {name}", lambda: many.agree() == jobs, timeout=SETTLED)
        print(f"{name}: {over - started:.0f} s, and {time.monotonic() - over:.0f} s until everything works")
