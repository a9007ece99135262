"""The lab itself: what the product finds when it comes."""

import pytest


@pytest.mark.parametrize("node", ["login", "compute"])
def test_no_unit_is_down(node, request):
    host = request.getfixturevalue(node)
    assert host.run("systemctl --failed --plain --no-legend").stdout == ""


def test_a_job_runs_under_the_users_own_name_on_a_compute_node(login, state):
    if state["topology"] in ("gridengine", "htcondor"):
        pytest.skip("Slurm's")
    script = "srun --partition=interactive --mem=100M --time=1 sh -c 'id -un'"
    done = login.run("runuser --login alice --command=%s", script)
    assert (done.rc, done.stdout.strip()) == (0, "alice"), done.stderr


def test_the_provider_is_at_its_public_address_on_the_hub_host_too(hub, state):
    issuer = hub.run("curl --silent --insecure %s/.well-known/openid-configuration", state["idp_url"])
    assert f'"issuer":"{state["idp_url"]}/"' in issuer.stdout
