"""Each place of the portal accepts the hub and nobody else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import testinfra

if TYPE_CHECKING:
    from testinfra.host import Host

LAB = Path(os.environ.get("HPCHUB_LAB_DIR") or Path.home() / ".cache/hpchub/lab/science_portal")
CLIENT = "/etc/hpchub/places/docker"
TOKEN = "/etc/hpchub/kubernetes/token"


def host(name: str) -> Host:
    """Return a host of the lab."""
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(LAB / "ssh_config"))


@pytest.fixture(scope="module")
def hub() -> Host:
    """Return the hub host."""
    return host("hub")


def ask(host: Host, *options: str, url: str) -> tuple[int, str]:
    """Send a request with curl. Return its exit code, and the status and the text of the answer."""
    words = " ".join(host.backend.quote("%s", word) for word in options)
    done = host.run("curl --silent --max-time 20 --write-out '%%{http_code}' " + words + " %s", url)
    return done.rc, done.stdout


def test_form_has_a_profile_in_the_cluster_and_in_each_place(hub: Host) -> None:
    found = json.loads(hub.check_output("cat /etc/hpchub/profiles.json"))
    used = {each.get("place") or each.get("cluster") for each in found["profiles"]}
    assert used == {"campus", "docker", "swarm", "kube", "bigmem"}


def test_hub_reaches_every_place(hub: Host) -> None:
    done = hub.run("runuser -u jupyterhub -- /opt/hpchub/hub/current/bin/python -I -m hpchub.cli.check_clusters")
    assert done.rc == 0, done.stdout + done.stderr
    for name in ("campus", "docker", "swarm", "kube", "bigmem"):
        assert name in done.stdout


def test_gate_of_docker_permits_the_hub_to_list_its_containers_only(hub: Host) -> None:
    identity = ("--cacert", f"{CLIENT}/ca.pem", "--cert", f"{CLIENT}/cert.pem", "--key", f"{CLIENT}/key.pem")
    code, text = ask(hub, *identity, url="https://docker1:2376/containers/json")
    assert (code, text[0], text[-3:]) == (0, "[", "200")
    for path in ("images/json", "info", "volumes", "containers/json/../../info"):
        assert ask(hub, "--path-as-is", *identity, url=f"https://docker1:2376/{path}")[1].endswith("403"), path


@pytest.mark.parametrize("name", ["login1", "compute1", "bigmem1", "kube1"])
def test_gate_of_docker_refuses_clients_without_a_certificate(name: str) -> None:
    assert host(name).run("getent hosts docker1").rc == 0
    code, text = ask(host(name), "--insecure", url="https://docker1:2376/containers/json")
    assert (code != 0, text) == (True, "000")


def test_engine_of_docker_listens_on_no_port() -> None:
    docker = host("docker1")
    assert docker.file("/run/docker.sock").mode & 0o007 == 0
    assert "dockerd" not in docker.check_output("ss -H -lntp")


def test_swarm_has_all_nodes() -> None:
    nodes = host("docker2").check_output("docker node ls --format '{{.Hostname}} {{.Status}} {{.Availability}}'")
    assert sorted(nodes.splitlines()) == ["docker2 Ready Active", "docker3 Ready Active"]


def test_network_of_the_swarm_is_a_bridge_of_each_node_without_communication() -> None:
    for name in ("docker2", "docker3"):
        found = json.loads(host(name).check_output("docker network inspect hpchub-nodes"))[0]
        assert found["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert json.loads(host("docker2").check_output("docker network inspect hpchub"))[0]["Driver"] == "bridge"


def test_gate_of_the_swarm_permits_the_hub_to_list_its_services_only(hub: Host) -> None:
    own = "/etc/hpchub/places/swarm"
    identity = ("--cacert", f"{own}/ca.pem", "--cert", f"{own}/cert.pem", "--key", f"{own}/key.pem")
    code, text = ask(hub, *identity, url="https://docker2:2376/services")
    assert (code, text[0], text[-3:]) == (0, "[", "200")
    for path in ("swarm", "info", "containers/json", "configs"):
        assert ask(hub, *identity, url=f"https://docker2:2376/{path}")[1].endswith("403"), path


@pytest.mark.parametrize("name", ["hub", "login1", "docker1"])
@pytest.mark.parametrize("port", [2377, 7946])
def test_ports_of_the_swarm_admit_its_nodes_only(name: str, port: int) -> None:
    program = f"import socket; socket.create_connection(('docker2', {port}), 3)"
    assert host("docker3").run("python3 -c %s", program).rc == 0
    assert host(name).run("python3 -c %s", program).rc != 0


def test_kubernetes_refuses_clients_without_the_token_of_the_hub(hub: Host) -> None:
    url = "https://kube1:6443/api/v1/namespaces/jupyter/pods"
    ca = ("--cacert", "/etc/hpchub/kubernetes/ca.pem")
    assert ask(hub, *ca, url=url)[1].endswith("401")
    token = hub.check_output("cat %s", TOKEN).strip()
    assert ask(hub, *ca, "--header", f"Authorization: Bearer {token}", url=url)[1].endswith("200")
    secrets = url.replace("/pods", "/secrets")
    assert ask(hub, *ca, "--header", f"Authorization: Bearer {token}", url=secrets)[1].endswith("403")


@pytest.mark.parametrize(
    ("resource", "body", "problem"),
    [
        ("pods", {"spec": {"nodeName": "kube1", "containers": []}}, "ValidatingAdmissionPolicy"),
        ("secrets", {"type": "kubernetes.io/service-account-token"}, "creates no tokens of the cluster"),
        ("persistentvolumeclaims", {"spec": {}}, "not that of a user's claim"),
    ],
    ids=["pod", "secret", "claim"],
)
def test_kubernetes_refuses_what_is_no_session(hub: Host, resource: str, body: dict[str, object], problem: str) -> None:
    token = hub.check_output("cat %s", TOKEN).strip()
    content = json.dumps({**body, "metadata": {"name": "attack"}})
    options = ["--cacert", "/etc/hpchub/kubernetes/ca.pem", "--header", f"Authorization: Bearer {token}"]
    options += ["--header", "Content-Type: application/json", "--data", content]
    code, text = ask(hub, *options, url=f"https://kube1:6443/api/v1/namespaces/jupyter/{resource}")
    assert (code, text[-3:]) == (0, "422"), text
    assert problem in text


@pytest.mark.parametrize("path", [TOKEN, f"{CLIENT}/key.pem"])
def test_only_the_hub_reads_what_opens_a_place(hub: Host, path: str) -> None:
    file = hub.file(path)
    assert (file.user, file.group, file.mode) == ("root", "jupyterhub", 0o640)
    assert hub.run("runuser --user alice -- cat %s", path).rc != 0
