"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub_app
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from hpchub.model.entries import Cluster, Profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tornado.httpclient import HTTPResponse


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
