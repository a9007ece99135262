"""What several schedulers' tests ask for."""

import pytest

from hpchub.model.entries import Cluster, Profile


@pytest.fixture
def profile():
    """A profile of 2 cores, 4G and 8 hours, with changes."""

    def make(**changes):
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
def cluster(request):
    """A cluster of Slurm's, or of the scheduler that a test names by ``indirect``."""
    return Cluster(
        name="demo",
        scheduler=getattr(request, "param", "slurm"),
        submit={"method": "local"},
        networks=["10.0.0.0/8"],
        queues=[
            {"name": "interactive", "max_cores": 8, "max_memory": "64G", "max_runtime": "2-00:00:00", "max_gpus": 4}
        ],
    )
