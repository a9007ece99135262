"""What a session's job uses of its node: memory, cores and GPUs.

If the scheduler runs each job in a control group of its own (version 1 or 2), the kernel's figures of this group are
used. They include everything that the job runs. Otherwise, the figures are those of all processes that the job started,
from ``/proc``. A figure that cannot be read is None, never an error.

The role ``notebook_environment`` installs this file beside the single-user server. It uses the standard library only
(Python 3.9 and later).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60
"""A control group of version 1 without a limit has a limit of almost 2 to the power of 63."""
SHORTEST = 0.5
"""The shortest time for which the use of cores is calculated, in seconds."""

GPU_FIELDS = ("name", "utilization.gpu", "memory.used", "memory.total")
GPU_TIMEOUT = 5.0  # seconds; a broken driver does not answer at all
_DEVICES = re.compile(r"[0-9A-Za-z-]+(?:,[0-9A-Za-z-]+)*")

JOB_ID_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID", "CLUSTER_ID")


class Group(Protocol):
    """The processes of a job."""

    def memory(self) -> int | None:
        """Return the memory that they use, in bytes."""

    def cpu(self) -> float | None:
        """Return the core time that they have used, in seconds."""


@dataclass(frozen=True)
class Cgroup2:
    """A control group of version 2."""

    path: Path

    def memory(self) -> int | None:
        """Return the memory in use, without file contents that the kernel can drop at any time."""
        return _working_set(self.path / "memory.current", self.path / "memory.stat", "inactive_file")

    def cpu(self) -> float | None:
        """Return the core time."""
        used = _table(self.path / "cpu.stat").get("usage_usec")
        return None if used is None else used / 1e6


@dataclass(frozen=True)
class Cgroup1:
    """Control groups of version 1: one for memory, and one for core time. Either may be missing."""

    memory_path: Path | None
    cpu_path: Path | None

    def memory(self) -> int | None:
        """Return the memory in use, without file contents that the kernel can drop at any time."""
        path = self.memory_path
        if path is None:
            return None
        return _working_set(path / "memory.usage_in_bytes", path / "memory.stat", "total_inactive_file")

    def cpu(self) -> float | None:
        """Return the core time."""
        used = _number(self.cpu_path / "cpuacct.usage") if self.cpu_path else None
        return None if used is None else used / 1e9


@dataclass
class Processes:
    """The processes that the job has started, for a node without control groups.

    Attributes:
        root: The process id of the job's first process.
        proc: The directory ``/proc``.
        ended: The core time of processes that have ended, which the sum must not lose, in seconds.
    """

    root: int
    proc: Path = PROC
    ended: float = 0.0
    _seen: dict[int, float] = field(default_factory=dict)

    def memory(self) -> int | None:
        """Return the memory of the processes. Memory that several processes share counts for each of them."""
        page = os.sysconf("SC_PAGE_SIZE")
        sizes = []
        for pid in self._members():
            with contextlib.suppress(OSError, ValueError, IndexError):
                _, resident, shared = (self.proc / str(pid) / "statm").read_text(encoding="ascii").split()[:3]
                sizes.append(max(int(resident) - int(shared), 0) * page)
        return sum(sizes) if sizes else None

    def cpu(self) -> float | None:
        """Return the core time of the processes."""
        ticks = os.sysconf("SC_CLK_TCK")
        now = {}
        for pid in self._members():
            fields = _stat(self.proc / str(pid))
            if fields:
                now[pid] = (int(fields[11]) + int(fields[12])) / ticks
        self.ended += sum(used for pid, used in self._seen.items() if pid not in now)
        self._seen = now
        return self.ended + sum(now.values()) if now else None

    def _members(self) -> list[int]:
        parents = {}
        for entry in self.proc.iterdir():
            fields = _stat(entry) if entry.name.isdecimal() else []
            if fields:
                parents[int(entry.name)] = int(fields[1])
        return [pid for pid in parents if self.root in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: Mapping[int, int]) -> list[int]:
    """Return a process and its ancestors, the nearest first."""
    found: list[int] = []
    while pid and pid not in found:
        found.append(pid)
        pid = parents.get(pid, 0)
    return found


def _stat(process: Path) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on, or nothing. The name before may contain anything."""
    try:
        return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def children(pid: int, proc: Path = PROC) -> list[int]:
    """Return the running child processes of a process. Stopped and ended ones do not count."""
    try:
        text = (proc / str(pid) / "task" / str(pid) / "children").read_text(encoding="ascii")
    except OSError:
        return []
    states = {int(child): (_stat(proc / child) or ["X"])[0] for child in text.split()}
    return [child for child, state in states.items() if state not in "TtZX"]


# -- the job's processes


def job_group(env: Mapping[str, str], cgroups: Path = CGROUPS, proc: Path = PROC) -> Group:
    """Return the processes of the job that this process belongs to.

    Args:
        env: The environment of the job, which contains its id.
        cgroups: The directory of the control groups.
        proc: The directory ``/proc``.
    """
    job_id = next((env[name] for name in JOB_ID_VARIABLES if env.get(name)), "")
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = dict(_hierarchy(line) for line in lines if line.count(":") >= 2)
    if "" in paths:
        unified = _of_job(cgroups, paths[""], job_id, "memory.max")
        if unified and (unified / "memory.current").is_file():
            return Cgroup2(unified)
    memory = _of_job(cgroups / "memory", paths.get("memory", ""), job_id, "memory.limit_in_bytes")
    cpu = _of_job(cgroups / "cpuacct", paths.get("cpuacct", ""), job_id, "")
    if memory == cgroups / "memory" and (cgroups / "cpuacct" / "cpuacct.usage").is_file():
        cpu = cgroups / "cpuacct"  # a container
    if memory or cpu:
        return Mixed(Cgroup1(memory, cpu), Processes(first_process(proc), proc))
    return Processes(first_process(proc), proc)


@dataclass
class Mixed:
    """A group whose figures may be missing, and another one that has them."""

    first: Group
    second: Group

    def memory(self) -> int | None:
        """Return the memory."""
        found = self.first.memory()
        return self.second.memory() if found is None else found

    def cpu(self) -> float | None:
        """Return the core time."""
        found = self.first.cpu()
        return self.second.cpu() if found is None else found


def _hierarchy(line: str) -> tuple[str, str]:
    """Return the controller and the path in a line of ``/proc/self/cgroup``. Version 2 names no controller."""
    _, controllers, path = line.split(":", 2)
    names = controllers.split(",")
    return next((name for name in ("memory", "cpuacct") if name in names), controllers), path


def _of_job(root: Path, path: str, job_id: str, limit: str) -> Path | None:
    """Return the control group of the whole job, or None if the job has none of its own.

    This is the topmost group with the job's id in its name, or otherwise the nearest group with a limit. A group
    without either contains other programs of the node as well.

    Args:
        root: The directory of the hierarchy.
        path: The group of this process.
        job_id: The job's id, or empty.
        limit: The name of the file with the limit, or empty.
    """
    parts = [part for part in path.split("/") if part]
    # A container sees its own group as the topmost one, whatever its path. The topmost group of a node has no limit.
    if limit and (_number(root / limit) or UNLIMITED) < UNLIMITED:
        return root
    if not parts or ".." in parts:  # not visible in this namespace
        return None
    own = re.compile(rf"(?<![0-9]){re.escape(job_id)}(?![0-9])") if job_id else None
    groups = [(part, root.joinpath(*parts[: index + 1])) for index, part in enumerate(parts)]
    for part, group in groups:
        if own and own.search(part) and group.is_dir():
            return group
    for _, group in reversed(groups):
        value = _number(group / limit) if limit else None
        if value is not None and value < UNLIMITED:
            return group
    return None


def first_process(proc: Path = PROC) -> int:
    """Return the process id of the topmost ancestor of this process that belongs to the same user."""
    pid, user = os.getpid(), os.getuid()
    while True:
        fields = _stat(proc / str(pid))
        parent = int(fields[1]) if fields else 0
        try:
            if parent <= 1 or (proc / str(parent)).stat().st_uid != user:
                return pid
        except OSError:
            return pid
        pid = parent


def _number(file: Path) -> int | None:
    """Return the number in a file, or None. The word ``max`` stands for no limit."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _table(file: Path) -> dict[str, int]:
    """Return the numbers in a file with a name and a number in each line."""
    try:
        pairs = [line.split() for line in file.read_text(encoding="ascii").splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    except (OSError, ValueError):
        return {}


def _working_set(current: Path, statistics: Path, reclaimable: str) -> int | None:
    used = _number(current)
    return None if used is None else max(used - _table(statistics).get(reclaimable, 0), 0)


# -- the figures


class Meter:
    """Reads what a job uses.

    Args:
        group: The job's processes.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._cores: float | None = None

    def read(self, now: float | None = None) -> dict[str, Any]:
        """Return ``{"memory": BYTES, "cores": NUMBER}``. A figure is None if it is not known.

        Args:
            now: A monotonic time, in seconds.
        """
        with self._lock:
            now = time.monotonic() if now is None else now
            used = self._group.cpu()
            if used is None:
                self._last = self._cores = None
            elif self._last is None:
                self._last = (now, used)
            elif now - self._last[0] >= SHORTEST:
                self._cores = round(max(used - self._last[1], 0.0) / (now - self._last[0]), 2)
                self._last = (now, used)
            return {"memory": self._group.memory(), "cores": self._cores}


# -- GPUs


def gpus(env: Mapping[str, str], program: str = "nvidia-smi") -> list[dict[str, Any]]:
    """Return the job's GPUs: ``[{"name": …, "load": PERCENT, "memory": BYTES, "total": BYTES}, …]``.

    A node without GPUs, or with a driver that does not answer, has none. This function may block for seconds.

    Args:
        env: The environment of the job. The scheduler sets ``CUDA_VISIBLE_DEVICES``.
        program: The name or path of ``nvidia-smi``.
    """
    devices = env.get("CUDA_VISIBLE_DEVICES", "")
    chosen = [f"--id={devices}"] if _DEVICES.fullmatch(devices) else []
    command = [program, *chosen, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GPU_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def parse_gpus(text: str) -> list[dict[str, Any]]:
    """Return the GPUs in the output of ``nvidia-smi``. A figure that it does not know is None."""
    found = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(GPU_FIELDS):
            name, load, used, total = values
            found.append({"name": name[:80], "load": _count(load), "memory": _bytes(used), "total": _bytes(total)})
    return found


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _bytes(mebibytes: str) -> int | None:
    number = _count(mebibytes)
    return None if number is None else number * 1024 * 1024
