"""The connection from the hub to the compute nodes, before the first user needs it."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import reach_nodes

from hpchub.deploy.role_arguments import node_hosts
from hpchub.model.entries import NodeAddress
from hpchub.model.site import Site

if TYPE_CHECKING:
    from hpchub.model.entries import Cluster


def test_node_that_refuses_or_accepts_the_connection_is_reachable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert reach_nodes.reason("127.0.0.1", port, 1) == ""
        bound.listen()
        assert reach_nodes.reason("127.0.0.1", port, 1) == ""


def test_name_that_the_hub_cannot_resolve_is_reported() -> None:
    assert "the hub cannot resolve the name n1.invalid" in reach_nodes.reason("n1.invalid", 20000, 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(TimeoutError("timed out"), "the node is down, or a firewall drops packets", id="silence"),
        pytest.param(OSError(113, "No route to host"), "No route to host", id="no-route"),
    ],
)
def test_node_that_does_not_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, words: str
) -> None:
    def connect(*_arguments: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    node = {"cluster": "demo", "node": "n1", "host": "n1", "port": 20000}
    with patch_module_args({"nodes": [node]}), pytest.raises(SystemExit):
        reach_nodes.main()
    (found,) = json.loads(capsys.readouterr().out)["silent"]
    assert found["text"].startswith("warning: cluster demo, node n1: ")
    assert words in found["text"]


@pytest.mark.parametrize(
    ("rule", "hosts"),
    [({}, ["n1"]), ({"suffix": ".ib"}, ["n1.ib"]), ({"pattern": "10.*"}, []), ({"interface": "ib0"}, [])],
    ids=["no-rule", "suffix", "pattern", "interface"],
)
def test_nodes_are_those_of_the_inventory_by_the_rule_of_their_cluster(
    cluster: Cluster, rule: dict[str, str], hosts: list[str]
) -> None:
    ruled = cluster.model_copy(update={"node_address": NodeAddress(**rule)})
    service = Site.model_fields["service"].annotation
    assert service is not None
    site = Site.model_construct(clusters=[ruled], service=service(url="https://jupyter.example.org"))
    groups = {"cluster_demo": ["login1", "n1"], "compute_nodes": ["n1", "other1"]}
    found = node_hosts(site, groups)
    assert [node["host"] for node in found] == hosts
    assert all((node["cluster"], node["node"], node["port"]) == ("demo", "n1", 20000) for node in found)
