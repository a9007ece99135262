"""What a session's job uses: the kernel's figures of control groups, those of processes, and the GPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.remote import job_usage
from hpchub.remote.job_usage import Cgroup1, Cgroup2, Meter, Mixed, Processes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


class Node:
    """The files of a node's kernel about control groups and processes."""

    def __init__(self, root: Path) -> None:
        self.cgroups, self.proc = root / "cgroup", root / "proc"
        self.write("proc/self/cgroup", "")

    def write(self, path: str, text: object) -> None:
        """Write a file."""
        file = self.cgroups.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def process(self, pid: int, parent: int, *, ticks: int = 0, pages: int = 0, shared: int = 0) -> None:
        """Add a process. Its name looks like the end of a name."""
        self.write(f"proc/{pid}/stat", f"{pid} (a) R (b) S {parent} {'0 ' * 9}{ticks} 0 0 0")
        self.write(f"proc/{pid}/statm", f"{pages * 2} {pages} {shared} 0 0 0 0")

    def group(self, **env: str) -> Any:
        """Return the job's processes."""
        return job_usage.job_group(env, self.cgroups, self.proc)


def test_job_of_slurm_is_the_whole_job_and_not_one_of_its_steps(node: Node) -> None:
    job = "cgroup/system.slice/slurmstepd.scope/job_17"
    node.write("proc/self/cgroup", "0::/system.slice/slurmstepd.scope/job_17/step_batch/user/task_0")
    node.write(f"{job}/step_batch/user/task_0/memory.current", 1)
    node.write(f"{job}/memory.current", 3 * GIB)
    node.write(f"{job}/memory.stat", f"anon {2 * GIB}\ninactive_file {GIB}")
    node.write(f"{job}/cpu.stat", "usage_usec 2500000\nuser_usec 1")
    group = node.group(SLURM_JOB_ID="17")
    assert group == Cgroup2(node.cgroups.parent / job)
    assert (group.memory(), group.cpu()) == (2 * GIB, 2.5)


@pytest.mark.parametrize(
    ("path", "env"),
    [
        ("/pbs_jobs.service/jobid/17.server", {"PBS_JOBID": "17.server"}),
        ("/lsf/cluster/job.17.1200.1", {"LSB_JOBID": "17"}),
        ("/htcondor/slot1", {}),
    ],
    ids=["pbs", "lsf", "limit-only"],
)
def test_job_of_another_scheduler_is_found_by_its_id_or_its_limit(node: Node, path: str, env: dict[str, str]) -> None:
    node.write("proc/self/cgroup", f"0::{path}")
    node.write(f"cgroup{path}/memory.current", 5)
    node.write(f"cgroup{path}/memory.max", "max" if env else GIB)
    assert node.group(**env).memory() == 5


@pytest.mark.parametrize("path", ["/", "/system.slice/sge.service", "/../../job_17", "/job_171"], ids=str)
def test_group_that_other_programs_share_is_not_used(node: Node, path: str) -> None:
    node.write("proc/self/cgroup", f"0::{path}")
    node.write(f"cgroup/{path.strip('/.') or 'x'}/memory.current", 5)
    node.write(f"cgroup/{path.strip('/.') or 'x'}/memory.max", "max")
    assert isinstance(node.group(JOB_ID="17"), Processes)


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../kubepods.slice/pod7"])
def test_container_sees_its_own_group_as_the_topmost_one(node: Node, path: str) -> None:
    node.write("proc/self/cgroup", f"0::{path}")
    node.write("cgroup/memory.current", 3 * GIB)
    node.write("cgroup/memory.stat", f"inactive_file {GIB}")
    node.write("cgroup/memory.max", 4 * GIB)
    node.write("cgroup/cpu.stat", "usage_usec 1500000")
    group = node.group()
    assert group == Cgroup2(node.cgroups)
    assert (group.memory(), group.cpu()) == (2 * GIB, 1.5)


def test_container_sees_its_own_groups_of_version_1(node: Node) -> None:
    node.write("proc/self/cgroup", "5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123")
    node.write("cgroup/memory/memory.usage_in_bytes", 3 * GIB)
    node.write("cgroup/memory/memory.stat", f"total_inactive_file {GIB}")
    node.write("cgroup/memory/memory.limit_in_bytes", 4 * GIB)
    node.write("cgroup/cpuacct/cpuacct.usage", 1_500_000_000)
    group = node.group()
    assert (group.memory(), group.cpu()) == (2 * GIB, 1.5)


def test_version_1_has_a_group_for_each_figure(node: Node) -> None:
    node.write("proc/self/cgroup", "5:cpu,cpuacct:/slurm/job_17\n4:memory:/slurm/job_17/step_0\n0::/")
    node.write("cgroup/memory/slurm/job_17/memory.usage_in_bytes", 3000)
    node.write("cgroup/memory/slurm/job_17/memory.stat", "total_inactive_file 1000")
    node.write("cgroup/cpuacct/slurm/job_17/cpuacct.usage", 1_500_000_000)
    group = node.group(SLURM_JOB_ID="17")
    assert isinstance(group, Mixed)
    assert (group.memory(), group.cpu()) == (2000, 1.5)
    without_cores = Mixed(Cgroup1(node.cgroups / "memory/slurm/job_17", None), Fixed(7, 8.0))
    assert (without_cores.memory(), without_cores.cpu()) == (2000, 8.0)


class Fixed:
    """A group with given figures."""

    def __init__(self, memory: int | None, *cpu: float | None) -> None:
        self._memory, self._cpu = memory, list(cpu)

    def memory(self) -> int | None:
        return self._memory

    def cpu(self) -> float | None:
        return self._cpu.pop(0)


def test_processes_of_the_job_are_those_that_it_started(node: Node) -> None:
    page, second = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    node.process(10, 1, pages=9)
    node.process(20, 1, ticks=second, pages=5, shared=2)
    node.process(21, 20, ticks=2 * second, pages=1)
    node.process(22, 21, ticks=0, pages=1)
    group = Processes(20, node.proc)
    assert (group.memory(), group.cpu()) == (5 * page, 3.0)
    (node.proc / "21" / "stat").unlink()  # the process ends
    node.process(22, 20, ticks=second)
    assert group.cpu() == 4.0
    assert Processes(99, node.proc).memory() is None
    assert Processes(99, node.proc).cpu() is None


def test_own_processes_are_measured() -> None:
    group = Processes(os.getpid())
    assert (group.memory() or 0) > 1_000_000
    assert (group.cpu() or 0) > 0
    assert job_usage.first_process() > 0


def test_meter_shows_the_cores_since_the_last_reading() -> None:
    meter = Meter(Fixed(5, 10.0, 13.0, 13.1, 14.0, None, 1.0))
    assert meter.read(100.0) == {"memory": 5, "cores": None}
    assert meter.read(102.0)["cores"] == 1.5
    assert meter.read(102.1)["cores"] == 1.5  # too soon for another one
    assert meter.read(104.0)["cores"] == 0.5
    assert meter.read(105.0)["cores"] is None
    assert meter.read(106.0)["cores"] is None


def test_only_running_children_of_a_shell_count(node: Node) -> None:
    node.write("proc/5/task/5/children", "6 7 8")
    for pid, state in ((6, "S"), (7, "T"), (8, "Z")):
        node.write(f"proc/{pid}/stat", f"{pid} (x) {state} 5 0")
    assert job_usage.children(5, node.proc) == [6]
    assert job_usage.children(9, node.proc) == []


def test_gpus_of_the_job_are_read(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\necho "$1" >&2\ncase "$1" in --id=0,1) echo "A100, 35, 2048, 40960";; *) exit 9;; esac\n'
    )
    program.chmod(0o755)
    expected = {"name": "A100", "load": 35, "memory": 2 * GIB, "total": 40 * GIB}
    assert job_usage.gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, str(program)) == [expected]
    assert job_usage.gpus({"CUDA_VISIBLE_DEVICES": "NoDevFiles; rm"}, str(program)) == []
    assert job_usage.gpus({}, str(tmp_path / "gone")) == []


def test_gpu_without_figures_has_none() -> None:
    assert job_usage.parse_gpus("A100, [N/A], [N/A], 40960\nnonsense\n") == [
        {"name": "A100", "load": None, "memory": None, "total": 40 * GIB}
    ]
