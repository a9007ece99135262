"""Sessions with two nodes: programs that the notebook starts run on both, and end with the session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .test_form import change_list, field, message_of, post  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from .batches import Job
    from .lab import Lab
    from .pages import JupyterLab, Visitor

NODES = ("compute1", "compute2")
PROGRAM = """
from mpi4py import MPI

world = MPI.COMM_WORLD
ranks = world.allreduce(world.Get_rank() + 1)
names = world.gather(MPI.Get_processor_name().split(".")[0])
if names:
    print("sum", ranks, *sorted(names))
"""
"""What each process of MPI runs. The sum of the ranks shows that the processes know of each other."""


@pytest.fixture
def wide(lab: Lab, change_list: Callable[..., None]) -> dict[str, Any]:  # noqa: F811 the fixture
    """Return the profile with two nodes. If the lab can give two nodes but has no such profile, offer one."""
    profiles = lab.profiles()
    for profile in profiles:
        if profile["nodes"] == 2 and profile["adjustable"]["nodes"]:
            return profile
    queues = [(each["name"], queue) for each in lab.profile_list()["clusters"] for queue in each["queues"]]
    permitting = [(name, queue) for name, queue in queues if queue["max_nodes"] >= 2]
    if not permitting:
        pytest.skip("no queue of the lab permits two nodes")
    cluster, queue = permitting[0]
    limits: dict[str, Any] = {"min": None, "max": 2, "step": None, "default": None, "choices": []}
    offered = {
        **profiles[0],
        "key": "e2e-nodes",
        "display_name": "Two nodes",
        "cluster": cluster,
        "queue": queue["name"],
        "nodes": 2,
        "cores": 2,
        "adjustable": {**profiles[0]["adjustable"], "nodes": limits},
    }
    change_list(lambda content: content["profiles"].append(offered))
    return offered


@pytest.fixture
def scheduler(lab: Lab, wide: dict[str, Any]) -> str:
    """Return the scheduler of the profile's cluster."""
    return str(next(each["scheduler"] for each in lab.profile_list()["clusters"] if each["name"] == wide["cluster"]))


@pytest.fixture
def slurm(scheduler: str) -> None:
    """Skip the tests of srun."""
    if scheduler != "slurm":
        pytest.skip("only Slurm has srun")


@pytest.fixture
def session(browser_page: Visitor, lab: Lab, wide: dict[str, Any]) -> tuple[JupyterLab, Job]:
    """Return a session with two nodes, and its job."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(wide["key"])
    (job,) = lab.jobs("alice")
    return notebooks, job


def test_form_offers_nodes_within_the_limits_of_the_profile(
    browser_page: Visitor, lab: Lab, wide: dict[str, Any]
) -> None:
    key = wide["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={key}")
    card = page.locator(f".hpchub-profile:has(input[value='{key}'])")
    expect(card).to_contain_text(f"2 nodes \N{MULTIPLICATION SIGN} {wide['cores']} cores")
    expect(card).to_contain_text("memory per node")
    assert field(page, key, "nodes").locator("option").evaluate_all("all => all.map(each => each.value)") == ["1", "2"]
    for value in ("0", "3", "1001", "-1", "1.5", "all", "2 --exclusive"):
        post(browser_page, lab, {"profile": key, f"{key}.nodes": value})
        expect(message_of(page, field(page, key, "nodes"))).to_be_visible()
    assert not lab.jobs("alice")


@pytest.mark.usefixtures("slurm")
def test_srun_in_a_notebook_runs_on_each_node(lab: Lab, session: tuple[JupyterLab, Job]) -> None:
    notebooks, job = session
    shown = lab.run("login1", ["scontrol", "--oneliner", "show", "job", job.id])
    assert "NumNodes=2 NumCPUs=4 NumTasks=2 CPUs/Task=2" in shown
    batch = re.search(r"BatchHost=(\S+)", shown)
    notebook = notebooks.new_notebook("python3")
    assert batch is not None
    assert notebook.run("import socket; print(socket.gethostname().split('.')[0])") == batch[1]
    for command in ("srun hostname", "srun -N2 -n2 --overlap hostname"):
        assert sorted(notebook.run(f"!{command}").split()) == list(NODES), command
    assert sorted(notebook.run("!srun --ntasks=4 --cpus-per-task=1 hostname").split()) == sorted(NODES * 2)


@pytest.mark.usefixtures("slurm")
def test_two_nodes_compute_together_with_mpi(lab: Lab, session: tuple[JupyterLab, Job]) -> None:
    if not all(lab.run(node, ["sh", "-c", "command -v mpiexec || true"]) for node in NODES):
        pytest.skip("the nodes have no mpiexec")
    notebook = session[0].new_notebook("python3")
    notebook.run(f"import pathlib; _ = pathlib.Path('e2e_mpi.py').write_text({PROGRAM!r})")
    assert notebook.run("!mpiexec /usr/bin/python3 e2e_mpi.py").splitlines()[-1] == f"sum 3 {' '.join(NODES)}"


@pytest.mark.usefixtures("slurm")
def test_programs_on_all_nodes_end_with_the_session(
    browser_page: Visitor, lab: Lab, session: tuple[JupyterLab, Job]
) -> None:
    def running() -> list[str]:
        command = ["pgrep", "-u", "alice", "-x", "sleep"]
        return [node for node in NODES if lab.run(node, command, check=False).strip()]

    session[0].new_notebook("python3").run("import subprocess; _ = subprocess.Popen(['srun', 'sleep', '31536'])")
    eventually("a program runs on each node", lambda: running() == list(NODES))
    browser_page.stop_server()
    eventually("no program is left", lambda: not running())


def test_record_of_the_session_has_the_cores_of_all_nodes(
    lab: Lab, wide: dict[str, Any], session: tuple[JupyterLab, Job]
) -> None:
    name = session[1].name.split("-")[1]
    statement = f"SELECT cores FROM hpchub_events WHERE kind = 'requested' AND session = '{name}'"
    assert lab.database(statement) == [[2 * wide["cores"]]]


def test_grid_engine_gives_slots_on_each_node(scheduler: str, session: tuple[JupyterLab, Job]) -> None:
    if scheduler != "gridengine":
        pytest.skip("another scheduler")
    notebook = session[0].new_notebook("python3")
    lines = notebook.run("!cut -d' ' -f1,2 $PE_HOSTFILE").splitlines()
    assert sorted((node.split(".")[0], slots) for node, slots in map(str.split, lines)) == [
        (node, "2") for node in NODES
    ]
    first = notebook.run("import socket; print(socket.gethostname().split('.')[0])")
    assert lines[0].split(".")[0].split()[0] == first, "the notebook runs on the first node"
    (other,) = {line.split()[0] for line in lines[1:]}
    assert notebook.run(f"!qrsh -inherit -nostdin {other} hostname").split(".")[0] == other.split(".")[0]
