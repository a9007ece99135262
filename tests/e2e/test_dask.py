"""Dask in a session: workers are jobs of the cluster, only the user reaches them, and they end with the session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from .lab import eventually
from .pages import START
from .test_apps import open_tile

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Notebook, Visitor

END = 60
"""How long jobs may take to end, in seconds."""
CLUSTER = """\
from hpchub_dask import Cluster
cluster = Cluster()
cluster.scale(jobs=2)
client = cluster.get_client()
client.wait_for_workers(2, timeout=90)
print("sum", client.submit(sum, range(100)).result())
"""
ADDRESSES = "print(*[cluster.scheduler_address, *client.scheduler_info()['workers'], *client.nthreads(), *NANNIES])"
NANNIES = "NANNIES = [each['nanny'] for each in client.scheduler_info()['workers'].values()]\n"

# What another account can do: connect to every address, with and without TLS, and to the sockets of the dashboard.
NEIGHBOUR = """
import socket, ssl, sys
found = []
anybody = ssl._create_unverified_context()
for address in sys.argv[1:]:
    if address.startswith("/"):
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(address)
                found.append(address)
            except OSError:
                pass
        continue
    host, _, port = address.rpartition(":")
    for wrap in (lambda sock: sock, anybody.wrap_socket):
        try:
            with socket.create_connection((host, int(port)), timeout=5) as sock:
                used = wrap(sock)
                used.settimeout(5)
                used.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                # Dask's scheduler without TLS greets each client.
                if used.recv(100):
                    found.append(address)
        except OSError:
            pass
print(found)
"""


@pytest.fixture
def offered(lab: Lab) -> str:
    """The title of the application, or skip the test."""
    apps = [each for each in lab.profile_list()["apps"] if each["kind"] == "dask"]
    if not apps:
        pytest.skip("the lab offers no Dask")
    return str(apps[0]["display_name"])


def workers(lab: Lab) -> list[str]:
    """Return the ids of alice's jobs of Dask."""
    found = []
    for cluster in lab.profile_list()["clusters"]:
        host = cluster["submit"].get("host") or "hub"
        listed = lab.run(host, ["squeue", "--noheader", "--user=alice", "--name=hpchub-dask", "--format=%i"])
        found += listed.split()
    return found


def start(visitor: Visitor, lab: Lab) -> Notebook:
    """Start a session, and a cluster with two jobs in a notebook."""
    visitor.sign_in("alice")
    notebook = visitor.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert "sum 4950" in notebook.run(CLUSTER)
    assert len(workers(lab)) == 2
    return notebook


def expect_graphs(page: Page) -> None:
    """Expect the dashboard with its graphs, which come through a websocket."""
    page.wait_for_url(re.compile(r"/user/alice/[^/]+/[0-9a-f]{6}/status"), timeout=START)
    expect(page.get_by_text("Task Stream").first).to_be_visible(timeout=START)
    canvas = page.locator("canvas").first
    expect(canvas).to_be_visible(timeout=START)


def test_workers_are_jobs_and_the_dashboard_shows_them(browser_page: Visitor, lab: Lab, offered: str) -> None:
    """Bob, on each node of alice's workers, uses none of them. The jobs end with the session."""
    browser_page.sign_in("alice")
    jupyter = browser_page.start(lab.profiles()[0]["key"])
    dashboard = open_tile(jupyter, offered)
    expect(dashboard.locator("h1")).to_contain_text("No Dask cluster runs in this session.", timeout=START)
    notebook = jupyter.new_notebook("python3")
    assert "sum 4950" in notebook.run(CLUSTER)
    assert len(workers(lab)) == 2
    expect_graphs(dashboard)
    found = notebook.run(NANNIES + ADDRESSES).split()
    addresses = sorted({each.removeprefix("tls://") for each in found if each.startswith("tls://")})
    assert len(addresses) == 5, found
    (session,) = (job for job in lab.jobs("alice") if job.id not in workers(lab))
    nodes = {job.node.split(".")[0] for job in lab.jobs("alice")}
    sockets = lab.run(
        session.node.split(".")[0], ["find", "/tmp", "/var/tmp", "-path", "*/apps/*", "-type", "s"]
    ).split()
    assert sockets
    for node in nodes:
        program = ["runuser", "-u", "bob", "--", "/usr/bin/python3", "-c", NEIGHBOUR, *addresses, *sockets]
        assert lab.run(node, program, timeout=300).strip() == "[]", node
    owner = lab.run("login1", ["stat", "-c", "%a %U", "/home/alice/.hpchub/dask"]).split()
    assert owner == ["700", "alice"]
    assert lab.unknown_jobs() == set()

    browser_page.stop_server()
    eventually("the jobs have ended", lambda: not workers(lab), timeout=END)
    assert not lab.run("login1", ["find", "/home/alice/.hpchub/dask", "-mindepth", "1", "-name", "key.pem"]).split()


def test_workers_end_with_a_killed_kernel(browser_page: Visitor, lab: Lab, offered: str) -> None:
    """The session lives on, and its dashboard says that there is no cluster any more."""
    notebook = start(browser_page, lab)
    pid = notebook.run("import os; print('pid', os.getpid())").split()[-1]
    (session,) = (job for job in lab.jobs("alice") if job.id not in workers(lab))
    lab.run(session.node.split(".")[0], ["kill", "-KILL", pid])
    eventually("the jobs have ended", lambda: not workers(lab), timeout=END)
    assert [job.id for job in lab.jobs("alice")] == [session.id]
