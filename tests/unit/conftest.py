"""Fixtures that several test modules share."""

from __future__ import annotations

import dataclasses
import grp
import io
import json
import os
import pwd
import re
import time
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub_app
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import notebook_certificates
from backup_host import keygen, make_database, make_host
from hub_browser import Browser, eventually, interrupt
from notebook_server import Session
from postgresql_server import Server
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from hpchub.model.entries import Cluster, Profile, PythonKernel
from hpchub.model.kernels import kernel_spec
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tornado.httpclient import HTTPResponse

    from hpchub.backup.host import Host
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A PostgreSQL server, which tests may stop and change."""
    started = Server()
    yield started
    started.close()


@pytest.fixture
def server(running: Server) -> Server:
    """The same server with an empty database."""
    running.empty()
    return running


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The path of a private key for backups."""
    return tmp_path / "key.txt"


@pytest.fixture
def recipient(key: Path) -> str:
    """Create the private key, and return its public key."""
    return keygen(key)


@pytest.fixture
def host(tmp_path: Path, recipient: str) -> Host:
    """A hub host with backups and one open session."""
    made = make_host(tmp_path / "host", [recipient])
    make_database(made, "a" * 16)
    return made


@pytest.fixture
def profile() -> Callable[..., Profile]:
    """Return a function that creates a profile of 2 cores, 4G and 8 hours, with changes."""

    def make(**changes: Any) -> Profile:
        return Profile(
            **{
                "key": "small",
                "display_name": "Small",
                "cluster": "demo",
                "queue": "interactive",
                "cores": 2,
                "memory": "4G",
                "runtime": "8:00:00",
                **changes,
            }
        )

    return make


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Return a cluster with Slurm, or with the scheduler that a test chooses with ``indirect``."""
    queue = {"name": "interactive", "max_cores": 8, "max_memory": "64G", "max_runtime": "2-00:00:00", "max_gpus": 4}
    return Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": getattr(request, "param", "slurm"),
            "submit": {"method": "local"},
            "networks": ["10.0.0.0/8"],
            "queues": [queue],
        }
    )


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[hub_app.Hub]:
    """A real JupyterHub with fakes for the proxy, the gate and the poller."""
    pages = Path(__file__).parents[2] / "templates" / "pages"
    started = await hub_app.make_hub(tmp_path, [str(pages)])
    yield started
    await started.close()


@pytest.fixture
async def port(hub: hub_app.Hub) -> AsyncIterator[int]:
    """The port of a real HTTP server with the hub's application."""
    listener, port = bind_unused_port()
    server = HTTPServer(hub.app.tornado_application)
    server.add_socket(listener)
    yield port
    server.stop()
    await server.close_all_connections()


@pytest.fixture
async def ask(port: int) -> AsyncIterator[hub_app.Ask]:
    """Return a function that sends a request to the hub over HTTP. Underscores in names of headers mean dashes."""
    client = AsyncHTTPClient(force_instance=True)

    async def request(path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> HTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{port}/hub/{path}"
        return await client.fetch(
            url, method=method, body=body, headers=named, follow_redirects=False, raise_error=False
        )

    yield request
    client.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Return a session in an empty home, with a certificate authority and the site's python3 kernel."""
    tls = tmp_path / "tls"
    tls.mkdir()
    arguments = {
        "path": str(tls),
        "owner": pwd.getpwuid(os.getuid()).pw_name,
        "proxy_group": grp.getgrgid(os.getgid()).gr_name,
        "rotate": False,
        "_ansible_remote_tmp": str(tmp_path / "ansible"),
    }
    with patch_module_args(arguments), pytest.raises(SystemExit), redirect_stdout(io.StringIO()):
        notebook_certificates.main()
    kernel = tmp_path / "site" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    spec = kernel_spec(PythonKernel(name="python3", display_name="Python 3", kind="python"))
    kernel.write_text(json.dumps(spec))
    made = Session(tmp_path / "home", tls, tmp_path / "site")
    yield made
    made.close()


@pytest.fixture
async def browser(hub: hub_app.Hub, port: int) -> Browser:
    """The browser of alice, who has signed in."""
    found = Browser(port)
    hub.app.authenticator.allowed_users = {"alice"}
    response = await found.get("/hub/login?next=/hub/home")
    assert response.code == 302
    return found


@pytest.fixture
async def waiting(hub: hub_app.Hub, browser: Browser) -> AsyncIterator[HPCProfilesSpawner]:
    """The spawner of a start. Its job waits in the second place of the queue."""

    def submit(session: str) -> Any:
        start = datetime.fromtimestamp(time.time() + 1800, UTC).replace(tzinfo=None).isoformat(timespec="seconds")
        mine = dataclasses.replace(hub_app.job(JobState.PENDING, session=session), reason="Priority", start=start)
        other = dataclasses.replace(hub_app.job(JobState.PENDING, job_id="6", user="bob"), reason="Priority")
        hub.show(*(dataclasses.replace(each, queue="q", priority=5.0) for each in (other, mine)))
        return hub_app.answer("7\n")

    hub.gate.on_submit = submit
    page = await browser.page("/hub/spawn")
    token = re.findall(r"_xsrf=([^\"&]*)", page)[0]
    response = await browser.post(f"/hub/spawn?_xsrf={token}", {"profile": "small"})
    assert response.code == 302
    spawner = hub.user().spawners[""]
    await eventually(lambda: spawner.start_progress.place)
    yield spawner
    if spawner.pending:
        interrupt(spawner)
