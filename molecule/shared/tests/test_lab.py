"""The lab itself provides what the product needs: working schedulers and a reachable identity provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host


@pytest.mark.parametrize("node", ["login", "compute"])
def test_no_unit_has_failed(node: str, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue(node)
    done = host.run("systemctl --failed --plain --no-legend")
    assert (done.rc, done.stdout) == (0, ""), done


def test_slurm_runs_a_job_as_its_user(login: Host, state: dict[str, Any]) -> None:
    if state["topology"] in ("gridengine", "htcondor"):
        pytest.skip("this topology has no Slurm")
    script = "srun --mem=100M --time=1 sh -c 'id -un'"
    done = login.run("runuser --login alice --command=%s", script)
    assert (done.rc, done.stdout.strip()) == (0, "alice"), done.stderr


def test_hub_host_reaches_the_identity_provider_at_its_public_address(hub: Host, state: dict[str, Any]) -> None:
    issuer = hub.run("curl --silent --insecure %s/.well-known/openid-configuration", state["idp_url"])
    assert f'"issuer":"{state["idp_url"]}/"' in issuer.stdout
