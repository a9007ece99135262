"""Dask in a session: real schedulers and workers with TLS, whose jobs a stand-in for Slurm runs, and the dashboard."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import slurm_standin
from app_supervisor import Supervisor
from fake_place import PLACE
from hub_app import Hub, profile, site, write_profiles

from hpchub.clusters.dask_jobs import FORMS, dask_jobs, worker_profile
from hpchub.model.apps import APPS, DaskApp
from hpchub.model.entries import Cluster
from hpchub.model.fields import gpus_of
from hpchub.model.problems import SiteError
from hpchub.remote import dask_dashboard
from hpchub.schedulers import SCHEDULERS, Job, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notebook_server import Session

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.find_spec("dask_jobqueue")
needs_dask = pytest.mark.skipif(
    SPEC is None and os.environ.get("HPCHUB_SERVERS") != "required",
    reason="this environment lacks Dask (PyPI's packages dask, distributed, dask-jobqueue and bokeh)",
)
PREFIX = "/user/alice/"
HUB = "hub.example~0123abcd"
PAGES = PREFIX + "demo/"


# -- what the hub sends


def made(**more: Any) -> DaskApp:
    return DaskApp.model_validate({"name": "demo", "display_name": "Dask", "kind": "dask", "memory": "1G", **more})


def jobs(app: DaskApp | None = None, **changes: Any) -> dict[str, Any]:
    """Return the jobs of a session with this profile."""
    found = site(profile("small", **changes))
    return dask_jobs(app or made(), found.profiles[0], found.clusters[0], hub=HUB, username="alice")


def directives(text: str) -> list[str]:
    return re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE)


def test_session_gets_the_script_of_the_jobs(hub: Hub, tmp_path: Path) -> None:
    app = {"name": "dask", "kind": "dask", "cores": 2, "memory": "3G", "max_jobs": 4, "arguments": ["--lifetime", "1h"]}
    write_profiles(tmp_path, profile("small", account="bio"), hpc_apps=[app])
    spawner = hub.user().spawners[""]
    spawner.user_options = {"profile": "small"}
    (found,) = json.loads(spawner.construct_child().session_files[APPS])["apps"]
    assert (found["kind"], found["keeps_prefix"], found["command"]) == ("dask", True, ["--lifetime", "1h"])
    assert (found["cores"], found["memory_mib"], found["max_jobs"]) == (2, 3072, 4)
    assert (found["jobs"]["class"], found["jobs"]["session_seconds"]) == ("SLURMCluster", 3600)
    lines = directives(found["jobs"]["script"])
    wanted = {"job-name=hpchub-dask", "partition=q", "cpus-per-task=2", "mem=3G", "account=bio", "export=NIL"}
    assert wanted <= set(lines)
    assert "exec @HPCHUB_COMMAND@ dask" in found["jobs"]["script"]


def test_place_offers_no_dask(hub: Hub, tmp_path: Path) -> None:
    where = {"cluster": "", "queue": "", "place": PLACE["name"]}
    apps = [{"name": "dask", "kind": "dask"}, {"name": "tb", "kind": "web", "command": ["tb", "{socket}"]}]
    entry = {name: value for name, value in profile("small", **where).items() if value}
    write_profiles(tmp_path, entry, hpc_places=[PLACE], hpc_apps=apps)
    spawner = hub.user().spawners[""]
    chosen = spawner.profile_list.profiles[0]
    assert [each["name"] for each in json.loads(spawner._apps_file(chosen)[APPS])["apps"]] == ["tb"]


@pytest.mark.parametrize(
    ("queue", "kept"),
    [("", True), ("q", True), ("other", False)],
    ids=["of-the-session", "the-same", "another"],
)
def test_jobs_get_what_the_session_has_in_its_queue(queue: str, kept: bool) -> None:
    more = {"reservation": "r", "qos": "high", "node_constraint": "ib", "options": ["--exclusive"]}
    found = (
        site(profile("small", account="bio", **more)).profiles[0].model_copy(update={"gpus": gpus_of(2), "nodes": 2})
    )
    wanted = worker_profile(made(queue=queue), found)
    assert wanted.queue == (queue or "q")
    assert (wanted.account, wanted.nodes, int(wanted.gpus)) == ("bio", 1, 0)
    kept_values = (wanted.reservation, wanted.qos, wanted.node_constraint, wanted.options)
    assert kept_values == (("r", "high", "ib", ["--exclusive"]) if kept else ("", "", "", []))


@pytest.mark.parametrize(
    ("app", "session", "seconds"),
    [({}, "1:00:00", 3600), ({"runtime": "0:10:00"}, "1:00:00", 600), ({"runtime": "8:00:00"}, "1:00:00", 3600)],
    ids=["as-the-session", "shorter", "longer-than-the-session"],
)
def test_jobs_are_no_longer_than_the_session(app: dict[str, Any], session: str, seconds: int) -> None:
    assert jobs(made(**app), runtime=session)["seconds"] == seconds


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"systemd"}))
def test_script_of_every_scheduler_has_the_command_and_the_time_once(name: str) -> None:
    found = site(profile("small"))
    cluster = Cluster.model_validate({**found.clusters[0].model_dump(exclude_unset=True), "scheduler": name})
    sent = dask_jobs(made(), found.profiles[0], cluster, hub=HUB, username="alice")
    assert sent["class"].endswith("Cluster")
    assert sent["script"].count("@HPCHUB_COMMAND@") == 1
    assert sum(sent["script"].count(form) for form in FORMS.values()) == 1, sent["script"]
    assert not any(text in sent["script"] for text in FORMS)
    if SPEC:
        import dask_jobqueue  # noqa: PLC0415

        assert hasattr(dask_jobqueue, sent["class"])


def test_hub_takes_no_job_of_dask_for_a_session() -> None:
    lines = dict(line.partition("=")[::2] for line in directives(jobs()["script"]))
    found = Job("1", JobState.RUNNING, name=lines["job-name"], user="alice", comment=lines["comment"])
    assert found.tag is None
    assert found.session(HUB) == ""


@pytest.mark.parametrize(
    ("app", "more", "words"),
    [
        ({"clusters": ["cloud"]}, {}, 'needs a scheduler for its jobs, and the place "cloud" has none'),
        ({}, {"interface": "demo"}, 'needs a scheduler for its jobs, and the place "cloud" has none'),
    ],
    ids=["in-clusters", "as-an-interface"],
)
def test_place_cannot_name_dask(app: dict[str, Any], more: dict[str, Any], words: str) -> None:
    entry = {**profile("cloudy", **more), "place": "cloud"}
    del entry["cluster"], entry["queue"]
    with pytest.raises(SiteError, match=re.escape(words)):
        site(profile("small"), entry, hpc_places=[PLACE], hpc_apps=[{"name": "demo", "kind": "dask", **app}])


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "queue": ({"queue": "qq"}, 'hpc_apps[0] (name "demo"): queue "qq" is not a queue of cluster "demo"'),
    "cores": ({"cores": 99}, "cores 99 is above max_cores"),
    "cores-of-a-queue": ({"cores": 99, "queue": "q"}, "cores 99 is above max_cores"),
    "memory": ({"memory": "9T"}, 'memory "9T" is above max_memory'),
    "runtime": ({"runtime": "99-00:00:00"}, 'runtime "99-00:00:00" is above max_runtime'),
    "max_jobs": ({"max_jobs": 0}, "max_jobs 0 is below 1; write a whole number from 1 to 10000"),
    "interface": ({"interface": "ib 0"}, 'interface "ib 0" is not a network interface; write its name'),
    "python": ({"python": "python3"}, 'python "python3" is not an absolute path'),
}


@pytest.mark.parametrize(("more", "words"), CASES.values(), ids=CASES)
def test_mistake_in_the_inventory_is_named(more: dict[str, Any], words: str) -> None:
    app = {"name": "demo", "kind": "dask", **more}
    with pytest.raises(SiteError, match=re.escape(words)):
        site(profile("small"), hpc_apps=[app])


# -- real clusters


class Kernels:
    """The kernels of a session, and its application for the dashboards.

    Args:
        directory: A directory for its files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.state = directory / "slurm"
        self.started: list[subprocess.Popen[str]] = []
        self.supervisor = Supervisor(
            dask_dashboard, directory, {**made().for_session(), "environment": {}}, JUPYTERHUB_SERVICE_PREFIX=PREFIX
        )
        self.sockets = self.supervisor.directory / "demo"
        assert SPEC
        assert SPEC.submodule_search_locations
        packages = Path(SPEC.submodule_search_locations[0]).parent
        self.path = f"{ROOT / 'src'}:{packages}"
        self.start = f"cluster = Cluster(job_script_prologue=['export PYTHONPATH=$PYTHONPATH:{packages}'])"
        self.environment = {
            **os.environ,
            **slurm_standin.install(directory),
            "HOME": str(self.home),
            "TMPDIR": str(directory),
            "HPCHUB_FILE_APPS": str(directory / "apps.json"),
            "HPCHUB_APPS": str(self.supervisor.directory),
            "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
            "JUPYTERHUB_API_TOKEN": "s3cret",
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "PYTHONPATH": self.path,
        }
        self.offer(made())

    def offer(self, *apps: DaskApp, **changes: Any) -> None:
        """Write the file with the session's applications."""
        content = [{**app.for_session(), "jobs": jobs(app, **changes)} for app in apps]
        Path(self.environment["HPCHUB_FILE_APPS"]).write_text(json.dumps({"apps": content}))

    def run(self, *lines: str) -> str:
        """Run a notebook to its end. Return what it prints, also its errors."""
        text = "\n".join(["from hpchub_dask import Cluster", *lines])
        done = subprocess.run(
            [sys.executable, "-c", text],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
            check=False,
        )
        return done.stdout

    def kernel(self, *lines: str) -> tuple[subprocess.Popen[str], Any]:
        """Start a kernel with a cluster, which goes on until somebody ends it. Return what it prints, read as JSON."""
        text = ["import json, time", "from hpchub_dask import Cluster", self.start, *lines, "time.sleep(300)"]
        process = subprocess.Popen(
            [sys.executable, "-c", "\n".join(text)],
            env=self.environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        assert process.stdout
        line = process.stdout.readline()
        assert line, self.logs()
        return process, json.loads(line)

    def jobs(self) -> dict[str, dict[str, Any]]:
        return slurm_standin.jobs(self.state)

    def files(self) -> list[Path]:
        """Return what the clusters have in the home."""
        return list(self.home.glob(".hpchub/dask/*"))

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.home.glob(".hpchub/logs/*"))

    def close(self) -> None:
        self.supervisor.close()
        for process in self.started:
            process.kill()
            process.communicate()
        for job in self.jobs().values():
            for process_id in slurm_standin.processes_of(job["pid"]) if job["pid"] else []:
                os.kill(process_id, signal.SIGKILL)


@pytest.fixture
def kernels(tmp_path: Path) -> Iterator[Kernels]:
    found = Kernels(tmp_path)
    yield found
    found.close()


def eventually(condition: Any, timeout: float = 30) -> Any:
    end = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


WORKERS = ("cluster.scale(jobs=2)", "client = cluster.get_client()", "client.wait_for_workers(2, timeout=60)")


def ports_of(processes: list[int]) -> list[int]:
    """Return the ports on which processes listen."""
    from hpchub.remote.app import ports_of as addresses  # noqa: PLC0415

    return sorted({int(each.rpartition(":")[2]) for each in addresses(processes)})


def greet(port: int, greeting: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Return what a server answers a neighbour. Empty: nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as sock:
        try:
            if context is None:
                sock.sendall(greeting)
                return sock.recv(100)
            with context.wrap_socket(sock) as encrypted:
                encrypted.sendall(greeting)
                return encrypted.recv(100)
        except OSError:
            return b""


# What another account of the node tries: Dask's own client, with and without TLS, and with a certificate of its own.
NEIGHBOUR = """
import asyncio, json, sys
from distributed import Security, rpc
async def attempt(address, security):
    try:
        found = rpc(address, timeout="3s", connection_args=security.get_connection_args("client") if security else {})
        await asyncio.wait_for(found.identity(), 5)
        return address
    except Exception as error:
        return None
async def main(ports):
    own = Security.temporary()
    tries = [attempt(f"tcp://127.0.0.1:{port}", None) for port in ports]
    tries += [attempt(f"tls://127.0.0.1:{port}", own) for port in ports]
    print(json.dumps([each for each in await asyncio.gather(*tries) if each]))
asyncio.run(main(sys.argv[1:]))
"""


@needs_dask
def test_cluster_computes_and_nobody_else_reaches_it(kernels: Kernels) -> None:
    lines = [*WORKERS, "print(json.dumps([client.submit(sum, range(100)).result(), cluster.dashboard_link]))"]
    kernel, (result, link) = kernels.kernel(*lines)
    assert result == 4950
    assert kernels.supervisor.get(link)[0] == 200
    assert re.fullmatch(PAGES + "[0-9a-f]{6}/status", link)
    assert len(kernels.jobs()) == 2
    workers = [each for job in kernels.jobs().values() for each in slurm_standin.processes_of(job["pid"])]
    ports = ports_of([kernel.pid, *workers])
    assert len(ports) == 5, "the scheduler, two nannies and two workers"
    anybody = ssl._create_unverified_context()
    for port in ports:
        request = b"GET / HTTP/1.0\r\n\r\n"
        assert b"HTTP" not in greet(port, request), port
        assert greet(port, request, anybody) == b"", port
    done = subprocess.run(
        [sys.executable, "-c", NEIGHBOUR, *map(str, ports)],
        env={**os.environ, "PYTHONPATH": kernels.path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
    for path in (*kernels.home.rglob("*.pem"), *kernels.sockets.iterdir(), *kernels.files(), kernels.sockets):
        assert not path.stat().st_mode & 0o077, path


@needs_dask
def test_jobs_get_no_secret(kernels: Kernels) -> None:
    kernels.kernel(*WORKERS, "print(1)")
    key = next(kernels.home.rglob("key.pem")).read_text()
    for job in kernels.jobs().values():
        assert "s3cret" not in json.dumps(job)
        assert not any(line in json.dumps(job) for line in key.splitlines()[1:-1])
        for process in slurm_standin.processes_of(job["pid"]):
            for name in ("environ", "cmdline"):
                shown = Path(f"/proc/{process}/{name}").read_text()
                assert "s3cret" not in shown
                assert "PRIVATE KEY" not in shown


@needs_dask
def test_data_of_workers_are_in_a_directory_of_the_user_alone(kernels: Kernels) -> None:
    code = "print(json.dumps(client.run(lambda dask_worker: dask_worker.local_directory)))"
    _, found = kernels.kernel(*WORKERS, code)
    for directory in map(Path, found.values()):
        private = next(each for each in directory.parents if each.name.startswith("hpchub-dask-"))
        assert not private.stat().st_mode & 0o077


@needs_dask
def test_dashboard(kernels: Kernels) -> None:
    assert kernels.supervisor.get(PAGES)[0] == 200
    assert "No Dask cluster runs" in kernels.supervisor.get(PAGES)[1]
    _, link = kernels.kernel("print(json.dumps(cluster.dashboard_link))")
    base = link.removesuffix("status")
    assert kernels.supervisor.get(PAGES)[0] == 302
    status, page = kernels.supervisor.get(link)
    assert status == 200
    assert "Task Stream" in page
    assert kernels.supervisor.get(base + "health")[0] == 200
    # Its graphs come through a websocket, and the page contains the token for it.
    (token,) = re.findall(r'"token":"([^"]+)"', page)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(kernels.supervisor.socket))
        sock.settimeout(10)
        head = f"GET {link}/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Origin: https://hub.example\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        head += f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: bokeh, {token}\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")
    # It does not pass requests on to other hosts.
    assert kernels.supervisor.get(base + "proxy/22/localhost/status")[0] == 404


@needs_dask
def test_dashboards_of_several_clusters(kernels: Kernels) -> None:
    first, link = kernels.kernel("print(json.dumps(cluster.dashboard_link))")
    _, other = kernels.kernel("print(json.dumps(cluster.dashboard_link))")
    page = kernels.supervisor.get(PAGES)[1]
    assert page.index(other) < page.index(link), "the newest is the first one"
    first.kill()
    eventually(lambda: "This Dask cluster has ended" in kernels.supervisor.get(link)[1])
    assert kernels.supervisor.get(PAGES)[0] == 302


@needs_dask
@pytest.mark.parametrize("waiting", [False, True], ids=["running", "waiting"])
def test_jobs_end_with_a_killed_kernel(kernels: Kernels, waiting: bool) -> None:
    if waiting:
        Path(kernels.state, "hold").touch()
        submitted = "while not cluster.workers: time.sleep(0.1)"
        kernel, _ = kernels.kernel("cluster.scale(jobs=2)", submitted, "print(1)")
        assert len(kernels.jobs()) == 2
    else:
        kernel, _ = kernels.kernel(*WORKERS, "task = client.submit(time.sleep, 300)", "print(1)")
    kernel.kill()
    eventually(lambda: not kernels.jobs())
    eventually(lambda: not kernels.files() and not list(kernels.sockets.glob("[0-9a-f]" * 6)))


@needs_dask
def test_jobs_end_with_a_session_that_is_stopped(kernels: Kernels) -> None:
    kernel, keeper = kernels.kernel(*WORKERS, "print(cluster._plan.keeper._process.pid)")
    os.kill(keeper, signal.SIGTERM)  # the scheduler sends it to each process of the job
    kernel.send_signal(signal.SIGSTOP)
    eventually(lambda: not kernels.jobs())
    assert not kernels.files()


@needs_dask
def test_jobs_end_if_the_node_of_the_session_is_gone(kernels: Kernels) -> None:
    kernel, keeper = kernels.kernel(*WORKERS, "print(cluster._plan.keeper._process.pid)")
    os.kill(keeper, signal.SIGKILL)
    kernel.kill()
    eventually(lambda: not kernels.jobs())
    assert "worker-handle-scheduler-connection-broken" in kernels.logs()


@needs_dask
def test_closed_cluster_leaves_nothing_behind(kernels: Kernels) -> None:
    printed = kernels.run(kernels.start, *WORKERS, "print(client.submit(sum, [1, 2]).result())", "cluster.close()")
    assert printed.splitlines()[-1] == "3", printed
    eventually(lambda: not kernels.files() and not kernels.jobs() and not list(kernels.sockets.glob("[0-9a-f]" * 6)))


@needs_dask
def test_job_that_starts_after_the_session_ends_at_once(kernels: Kernels) -> None:
    os.utime(kernels.environment["HPCHUB_FILE_APPS"], (0, time.time() - 3602))  # the session has lasted its hour
    kernels.kernel("cluster.scale(jobs=1)", "print(1)")
    eventually(lambda: list(kernels.state.glob("1.json")) and not kernels.jobs())
    assert kernels.logs() == ""


@needs_dask
def test_job_requests_the_time_that_is_left(kernels: Kernels) -> None:
    lines = [
        "import os, re, time",
        "for age in (0, 1800, 3590):",  # of a session of an hour
        "    os.utime(os.environ['HPCHUB_FILE_APPS'], (0, time.time() - age - 1))",
        "    with Cluster() as cluster:",
        "        print(*re.findall('--time=(.*)', cluster.job_script()))",
    ]
    new, half, almost_over = kernels.run(*lines).split()
    assert (new[:5], half[:5], almost_over) == ("0:59:", "0:29:", "0:01:00")


@needs_dask
def test_inventory_decides_how_workers_run(kernels: Kernels) -> None:
    app = made(environment={"GREETING": "hello {user}"}, arguments=["--resources", "a b=1"], cores=2, max_jobs=2)
    kernels.environment["USER"] = "alice"
    kernels.offer(app)
    lines = [
        kernels.start,
        "cluster.scale(jobs=1)",
        "import time; time.sleep(1)",
        "print('cores', cluster._dummy_job.worker_cores)",
    ]
    lines += ["print(next(cluster._plan.directory.glob('*.sh')).read_text())", "cluster.scale(jobs=3)"]
    printed = kernels.run(*lines)
    assert "cores 2" in printed
    assert "export GREETING='hello alice'" in printed
    assert "--nthreads 2 --memory-limit 1.00GiB" in printed
    assert "--resources 'a b=1'" in printed
    assert "A Dask cluster of this session can have at most 2 jobs at once." in printed


@needs_dask
def test_cluster_says_why_it_cannot_start(kernels: Kernels) -> None:
    assert "This session has no application 'big' for Dask. It has demo." in kernels.run("Cluster('big')")
    Path(kernels.state, "refuse").write_text("Invalid account\n")
    lines = [kernels.start, "cluster.scale(jobs=1)", "import time; time.sleep(1)"]
    assert "sbatch has refused the job: sbatch: error: Invalid account" in kernels.run(*lines)
    kernels.environment["PATH"] = str(kernels.directory)
    assert "The program sbatch is not on " in kernels.run("Cluster()")
    del kernels.environment["HPCHUB_FILE_APPS"]
    assert "This session offers no Dask clusters." in kernels.run("Cluster()")


@needs_dask
def test_files_of_a_lost_node_are_removed_later(kernels: Kernels) -> None:
    old, recent = (kernels.home / ".hpchub" / "dask" / f"{int(time.time()) - age}-x" for age in (9000, 10))
    for path in (old, recent):
        path.mkdir(parents=True)
    kernels.run("Cluster().close()")
    assert kernels.files() == [recent]


@needs_dask
def test_session_shows_the_dashboard(session: Session, tmp_path: Path) -> None:
    """The kernel and the dashboard in a real notebook server."""
    assert SPEC
    assert SPEC.submodule_search_locations
    packages = Path(SPEC.submodule_search_locations[0]).parent
    app = made(name="dask", python=sys.executable)
    session.variables["FILE:apps"] = json.dumps({"apps": [{**app.for_session(), "jobs": jobs(app)}]})
    session.start(slurm_standin.install(tmp_path)).wait_for_report()
    assert "No Dask cluster runs" in str(session.request("dask/")[1])
    # The notebook environment of the tests need not have Dask.
    code = f"""
import sys
sys.path[:0] = [{str(ROOT / "src")!r}, {str(packages)!r}]
from hpchub_dask import Cluster
cluster = Cluster(job_script_prologue=["export PYTHONPATH=$PYTHONPATH:{packages}"])
cluster.scale(jobs=1)
with cluster.get_client() as client:
    print(client.submit(sum, range(100)).result(), cluster.dashboard_link)
"""
    result, link = session.execute(code).split()[-2:]
    assert result == "4950"
    assert link.startswith("/user/alice/dask/")
    status, page = session.request(link.removeprefix("/user/alice/"))
    assert (status, "Task Stream" in page) == (200, True)
    assert session.request("dask/")[0] == 302
    assert session.process
    session.process.terminate()
    session.process.wait(20)
    eventually(lambda: not slurm_standin.jobs(tmp_path / "slurm"))
