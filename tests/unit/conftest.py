"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import hub_app
import pytest

from hpchub.model.entries import Cluster, Profile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


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
