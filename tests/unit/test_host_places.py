"""Places that are hosts without a scheduler: their entries, and the clusters that they become."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hpchub.clusters.batch_script import render_batch_script
from hpchub.deploy import role_arguments
from hpchub.model.problems import SiteError
from hpchub.model.profile_list import ProfileList, profile_list
from hpchub.model.site import Site

SSH: dict[str, Any] = {
    "name": "bigmem",
    "kind": "ssh",
    "host": "bigmem1",
    "networks": ["10.1.2.3/32"],
    "cores": 64,
    "memory": "1T",
    "max_sessions": 20,
    "max_cores": 16,
    "max_memory": "256G",
    "max_runtime": "12:00:00",
}
LOCAL: dict[str, Any] = {**SSH, "name": "here", "kind": "local", "host": "hub1", "enabled": True, "on_hub_host": True}
PROFILE: dict[str, Any] = {
    "key": "bigmem",
    "display_name": "Large memory",
    "place": "bigmem",
    "cores": 8,
    "memory": "128G",
    "runtime": "8:00:00",
}
VARIABLES: dict[str, Any] = {
    "hpc_service": {"url": "https://hub.example.org"},
    "hpc_sso": {
        "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
        "client_id": "hpchub",
        "client_secret": "a secret that is long enough",
    },
    "hpc_access": {"job_groups": ["hpc"], "allowed_groups": ["hpc"]},
    "hpc_places": [SSH],
    "hpc_profiles": [PROFILE],
}
GROUPS = {
    "hub": ["hub1"],
    "login_nodes": ["bigmem1", "hub1"],
    "compute_nodes": ["bigmem1", "hub1"],
    "cluster_bigmem": ["bigmem1"],
    "cluster_here": ["hub1"],
}


def read(**changes: Any) -> Site:
    return Site.from_vars({**copy.deepcopy(VARIABLES), **changes})


def problems(groups: dict[str, list[str]] | None = None, **changes: Any) -> list[str]:
    """Return the problems of the inventory with changes."""
    inventory = None if groups is None else {"groups": groups}
    try:
        Site.from_vars({**copy.deepcopy(VARIABLES), **changes}, inventory)
    except SiteError as error:
        return [str(problem) for problem in error.problems]
    return []


def with_groups(*names: str) -> dict[str, list[str]]:
    """Return the groups of the inventory without the clusters that are not named."""
    nodes = [host for name in names for host in GROUPS[name]]
    clusters = {name: GROUPS[name] for name in names}
    return {"hub": GROUPS["hub"], "login_nodes": nodes, "compute_nodes": nodes, **clusters}


def test_a_host_is_a_cluster_for_everything_but_the_inventory() -> None:
    site = read()
    (cluster,), (profile,) = site.clusters, site.profiles
    assert (cluster.name, cluster.scheduler, cluster.submit.hosts) == ("bigmem", "systemd", ["bigmem1"])
    assert (profile.cluster, profile.queue, profile.place) == ("bigmem", "host", "")
    listed = ProfileList.model_validate(profile_list(site))
    assert [each.name for each in listed.clusters] == ["bigmem"]
    assert listed.places == []
    assert [each.key for each in ProfileList.model_validate(profile_list(site, "bigmem")).profiles] == ["bigmem"]
    script = render_batch_script(cluster, profile, session="0" * 16, hub="h~00000000", username="alice")
    assert "#HPCHUB --cores=8\n#HPCHUB --memory=131072\n#HPCHUB --time=28800\n" in script
    assert role_arguments.submit_hosts(site) == ["bigmem1"]
    assert site.warnings() == []


def test_ansible_gets_the_same_site() -> None:
    site = read()
    assert Site.model_validate(site.as_dict()).as_dict() == site.as_dict()


def test_a_host_needs_no_group_of_another_kind_of_place() -> None:
    assert problems(with_groups("cluster_bigmem")) == []


def test_a_docker_host_must_be_in_its_group() -> None:
    docker = {
        "name": "cloud",
        "kind": "docker",
        "host": "docker1",
        "url": "https://docker1:2376",
        "networks": ["10.1.0.5/32"],
        "images": [{"name": "lab", "image": f"sha256:{'0' * 64}"}],
        "max_cores": 8,
        "max_memory": "32G",
        "max_runtime": "12:00:00",
    }
    groups = with_groups("cluster_bigmem")
    places = [SSH, docker]
    assert "is not a host of the inventory" in problems(groups, hpc_places=places)[0]
    groups["others"] = ["docker1"]
    assert "is not in the group docker_hosts" in problems(groups, hpc_places=places)[0]
    assert problems({**groups, "docker_hosts": ["docker1"]}, hpc_places=places) == []


def test_the_settings_of_the_host() -> None:
    site = read()
    assert role_arguments.host_units(site, "login1") == {}
    found = role_arguments.host_units(site, "bigmem1")
    assert found["capacity"] == {"cores": 64, "memory": 1024 * 1024, "sessions": 20}
    assert found["limits"] == {"queue": "host", "cores": 16, "memory": 256 * 1024, "runtime": 43200}
    assert (found["host"], found["gate_account"], found["permitted_groups"]) == ("bigmem1", "hpchub", ["hpc"])
    assert (found["minimum_uid"], found["user_pattern"]) == (1000, "[a-z_][a-z0-9_-]{0,31}")


def test_a_place_of_the_kind_local_is_off_by_default() -> None:
    place = {name: value for name, value in LOCAL.items() if name not in ("enabled", "on_hub_host")}
    site = read(hpc_places=[SSH, {**place, "host": "neighbour1"}])
    assert [cluster.enabled for cluster in site.clusters] == [True, False]
    assert site.clusters[1].submit.hosts == ["neighbour1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"max_cores": 65}, "has max_cores 65 above cores 64", id="cores-above-the-capacity"),
        pytest.param({"max_memory": "2T"}, "above memory", id="memory-above-the-capacity"),
        pytest.param({"max_gpus": 1}, "max_gpus, which systemd cannot grant", id="gpus"),
        pytest.param({"max_sessions": 0}, "max_sessions", id="no-sessions"),
        pytest.param({"host": "big mem"}, "host", id="name-of-the-host"),
        pytest.param({"name": "Big-Mem"}, "name", id="name-of-the-place"),
        pytest.param({"on_hub_host": True}, "on_hub_host", id="ssh-on-the-hub-host"),
    ],
)
def test_a_place_that_is_not_valid(changes: dict[str, Any], message: str) -> None:
    found = problems(hpc_places=[{**SSH, **changes}])
    assert any(message in problem for problem in found), found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"cores": 17}, "is above max_cores 16 of place", id="cores"),
        pytest.param({"memory": "512G"}, "is above max_memory", id="memory"),
        pytest.param({"runtime": "1-00:00:00"}, "is above max_runtime", id="runtime"),
        pytest.param({"gpus": 1}, "gpus", id="gpus"),
        pytest.param({"qos": "high"}, "has no meaning", id="quality-of-service"),
        pytest.param({"queue": "batch"}, "has no meaning", id="queue"),
        pytest.param({"options": ["--property=User=root"]}, "valid: --nice=0 to 19", id="option"),
        pytest.param({"options": ["--cpu-weight=1000"]}, "valid: --nice=0 to 19", id="weight"),
        pytest.param({"place": "bigmen"}, "bigmem", id="unknown-place"),
    ],
)
def test_a_profile_that_does_not_fit_the_place(changes: dict[str, Any], message: str) -> None:
    (found,) = problems(hpc_profiles=[{**PROFILE, **changes}])
    assert message in found


def test_a_profile_can_lower_the_weight_of_its_sessions() -> None:
    assert read(hpc_profiles=[{**PROFILE, "options": ["--nice=5", "--cpu-weight=50"]}]).profiles[0].options


def test_a_host_has_one_place() -> None:
    (found,) = problems(hpc_places=[SSH, {**SSH, "name": "other"}])
    assert 'is already the host of place "bigmem"' in found


def test_systemd_is_no_scheduler_of_clusters() -> None:
    cluster = {
        "name": "demo",
        "scheduler": "systemd",
        "submit": {"method": "local"},
        "networks": ["10.0.0.0/8"],
        "queues": [{"name": "q", "max_cores": 1, "max_memory": "1G", "max_runtime": "1:00:00"}],
    }
    (found,) = problems(hpc_clusters=[cluster])
    assert "describe the host in hpc_places" in found


def test_the_hub_host_must_be_stated_twice() -> None:
    access = {**VARIABLES["hpc_access"], "sessions_on_hub_host": True}
    groups = with_groups("cluster_here")
    profile = {**PROFILE, "place": "here"}
    both = {"hpc_places": [LOCAL], "hpc_access": access, "hpc_profiles": [profile]}
    assert problems(groups, **both) == []
    (warning,) = Site.from_vars({**VARIABLES, **both}).warnings()
    assert "runs users' programs on the hub host" in str(warning)
    (once,) = problems(groups, hpc_places=[LOCAL], hpc_profiles=[profile])
    assert "hpc_places[0]" in once
    assert "is stated only once" in once
    for place in ({**LOCAL, "on_hub_host": False}, {**SSH, "name": "here", "host": "hub1"}):
        (other,) = problems(groups, **{**both, "hpc_places": [place]})
        assert "is the hub host" in other


def test_on_hub_host_names_the_hub_host() -> None:
    access = {**VARIABLES["hpc_access"], "sessions_on_hub_host": True}
    place = {**LOCAL, "host": "bigmem1", "name": "bigmem"}
    found = problems(with_groups("cluster_bigmem"), hpc_places=[place], hpc_access=access)
    assert any("is not the hub host, but on_hub_host is true" in problem for problem in found), found


def test_the_hub_host_is_reached_without_ssh() -> None:
    access = {**VARIABLES["hpc_access"], "sessions_on_hub_host": True}
    site = read(hpc_places=[LOCAL], hpc_access=access, hpc_profiles=[{**PROFILE, "place": "here"}])
    assert site.clusters[0].submit.method == "local"
    assert role_arguments.host_units(site, "hub1")["host"] == "hub1"


def test_the_host_is_a_node_of_the_inventory() -> None:
    assert problems(with_groups("cluster_bigmem")) == []
    groups = with_groups("cluster_bigmem")
    groups["login_nodes"] = []
    (found,) = problems(groups)
    assert found.startswith("hpc_places[0]")
    assert 'host "bigmem1"' in found
    assert "is not in both cluster_bigmem and login_nodes" in found
    assert any("has no group cluster_bigmem" in problem for problem in problems(with_groups()))


def test_a_drain_names_the_place_as_a_cluster() -> None:
    drain = {"id": "d", "from": "2026-12-01 08:00", "to": "2026-12-01 12:00", "clusters": ["bigmem"], "message": "x"}
    found = problems(hpc_drains=[drain])
    assert not [problem for problem in found if "bigmem" in problem], found
