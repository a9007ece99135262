"""The lab's emulated schedulers. The server and the agents run as real processes, and the tests call the clients."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from hpchub.clusters.limits import parse_report
from hpchub.schedulers import SCHEDULERS, Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = Path(__file__).resolve().parents[2] / "molecule/shared/roles/lab_emulator/files"
PROGRAMS = {
    "pbs": ["qsub", "qstat", "qdel", "qhold", "qrls", "qrerun", "pbsnodes"],
    "torque": ["qsub", "qstat", "qdel", "qhold", "qrls", "qrerun", "pbsnodes"],
    "moab": ["msub", "mdiag", "showq", "checkjob", "mjobctl", "canceljob", "qstat"],
    "lsf": ["bsub", "bjobs", "bkill", "bstop", "bresume", "brequeue", "bqueues", "bhosts", "bparams", "lsid"],
}
QUEUES = [
    {"name": "interactive", "max_cores": 4, "max_memory": 8192, "max_runtime": 43200, "max_gpus": 1},
    {"name": "batch", "max_cores": 64, "max_memory": 65536, "max_runtime": 172800},
]
TIMEOUT = 40  # seconds

T = TypeVar("T")


def until(condition: Callable[[], T], timeout: float = TIMEOUT) -> T:
    """Return the result of the condition as soon as it is true."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"the condition was not met within {timeout} seconds")


def find(pattern: str, text: str) -> str:
    """Return the first group of the match, or the whole match if the pattern has no groups."""
    found = re.search(pattern, text)
    assert found is not None, f"{pattern} does not occur in {text!r}"
    return found[1] if found.re.groups else found[0]


def content(path: Path) -> str:
    """Return the content of a file, or an empty string if the file does not exist yet."""
    return path.read_text() if path.exists() else ""


class Lab:
    """An installation in its own directory, with two nodes on this host and the same files as the role installs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(FILES, root, ignore=shutil.ignore_patterns("__pycache__"))
        # Run the program with the interpreter of the tests.
        program = root / "lab-emulator"
        program.write_text(program.read_text().replace("#!/usr/bin/python3", f"#!{sys.executable}", 1))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.config: dict[str, Any] = {
            "server": "127.0.0.1",
            "port": port,
            "key": str(root / "key"),
            "state": str(root / "state"),
            "spool": str(root / "spool"),
            "socket": str(root / "socket"),
            "grace": 1,
            "history": 300,
            "unprivileged": True,
            "nodes": {
                "node1": {"cores": 4, "memory": 8192, "gpus": 0},
                "node2": {"cores": 4, "memory": 4096, "gpus": 1},
            },
            "flavours": {name: {"queues": QUEUES} for name in PROGRAMS},
        }
        self.configure()
        (root / "key").write_text("a key of the lab\n")
        for flavour, programs in PROGRAMS.items():
            (root / flavour / "bin").mkdir(parents=True)
            for name in programs:
                (root / flavour / "bin" / name).symlink_to("../../lab-emulator")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def configure(self, **changes: Any) -> None:
        self.config |= changes
        (self.root / "config.json").write_text(json.dumps(self.config))

    def start(self, *services: str) -> None:
        for service in services:
            arguments = ["agent", "--node", service] if service.startswith("node") else [service]
            with (self.root / f"{service}.log").open("a") as log:
                self.processes[service] = subprocess.Popen(
                    [self.root / "lab-emulator", *arguments], stdout=log, stderr=log
                )
        nodes = [name for name in self.processes if name.startswith("node")]
        if "server" in self.processes:
            until(lambda: self.is_up(nodes))

    def stop(self, service: str) -> None:
        process = self.processes.pop(service)
        process.kill()
        process.wait()

    def run(
        self,
        flavour: str,
        program: str,
        *arguments: str,
        script: str = "",
        environment: dict[str, str] | None = None,
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a client program."""
        done = subprocess.run(
            [self.root / flavour / "bin" / program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            cwd=self.root,
            env={**os.environ, **(environment or {})},
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def out(self, flavour: str, program: str, *arguments: str, **more: Any) -> str:
        """Run a client program that must succeed, and return its output."""
        done = self.run(flavour, program, *arguments, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def order(self, flavour: str, *words: str) -> None:
        """Give an administrator's order to the server."""
        subprocess.run([self.root / "lab-emulator", flavour, *words], capture_output=True, check=True)

    def ask(self, op: str, flavour: str, **fields: Any) -> Any:
        """Send a request to the server directly, without starting a client program."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.config["socket"])
            connection.sendall(json.dumps({"op": op, "flavour": flavour, **fields}).encode() + b"\n")
            with connection.makefile() as stream:
                return json.loads(stream.readline())

    def status(self, flavour: str = "pbs") -> Any:
        return self.ask("status", flavour)

    def is_up(self, nodes: list[str]) -> bool:
        try:
            return all(self.status()["nodes"][name]["up"] for name in nodes)
        except OSError:
            return False

    def job(self, flavour: str, number: str) -> dict[str, Any]:
        jobs: list[dict[str, Any]] = self.status(flavour)["jobs"]
        return next(job for job in jobs if job["number"] == int(number))

    def wait(self, flavour: str, number: str, *states: str) -> None:
        until(lambda: self.job(flavour, number)["state"] in states)

    def submit(self, flavour: str, script: str, *arguments: str, **more: Any) -> str:
        """Submit a job and return its number."""
        program = {"moab": "msub", "lsf": "bsub"}.get(flavour, "qsub")
        return find("[0-9]+", self.out(flavour, program, *arguments, script=script, **more))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab") / "emulator")
    lab.start("server", "node1", "node2")
    yield lab
    for flavour in PROGRAMS:
        for job in lab.status(flavour)["jobs"]:
            if job["session_id"] and job["state"] != "F":
                for path in Path("/proc").glob("[0-9]*"):
                    if _session(path) == job["session_id"]:
                        os.kill(int(path.name), signal.SIGKILL)
    for service in list(lab.processes):
        lab.stop(service)


def _session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, IndexError):
        return 0


@pytest.fixture
def lab(started: Lab) -> Iterator[Lab]:
    yield started
    for flavour in PROGRAMS:
        started.ask("admin", flavour, fault={}, hide=False)
        for job in started.status(flavour)["jobs"]:
            if job["state"] not in ("F", "E"):
                started.ask("act", flavour, what="delete", number=job["number"])
    until(lambda: all(job["state"] == "F" for flavour in PROGRAMS for job in started.status(flavour)["jobs"]))


FLAVOURS = pytest.mark.parametrize("flavour", PROGRAMS)
SLEEP = "#!/bin/sh\nsleep 60\n"


# -- a job from its submission to its end


def script(flavour: str, output: str | Path, text: str) -> str:
    """Return the same job in the syntax of a flavour."""
    if flavour == "lsf":
        lines = ["-J hello", "-q interactive", "-n 2", '-R "span[hosts=1] rusage[mem=1G]"', "-W 10", f"-o {output}"]
        lines += ["-env none"]
    else:
        size = "select=1:ncpus=2:mem=1gb" if flavour == "pbs" else "nodes=1:ppn=2,mem=1gb"
        lines = ["-N hello", "-q interactive", f"-l {size}", "-l walltime=10:00", "-j oe", f"-o {output}", "-v TAG=a/b"]
    prefix = "#BSUB" if flavour == "lsf" else "#PBS"
    return "#!/bin/bash\n" + "".join(f"{prefix} {line}\n" for line in lines) + text


@FLAVOURS
def test_job_runs_and_writes_its_output(lab: Lab, flavour: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    number = lab.submit(flavour, script(flavour, output, "env; pwd; echo oops >&2; exit 3\n"))
    lab.wait(flavour, number, "F")
    job = lab.job(flavour, number)
    assert (job["exit"], job["cores"], job["memory"], job["runtime"]) == (3, 2, 1024, 600)
    text = until(lambda: content(output))
    assert "oops" in text
    variables = {"lsf": [f"LSB_JOBID={number}", "LSB_QUEUE=interactive", "LSB_JOBNAME=hello"]}.get(
        flavour, [f"PBS_JOBID={number}.{flavour}", "PBS_ENVIRONMENT=PBS_BATCH", "PBS_O_WORKDIR=", "TAG=a/b"]
    )
    assert [word for word in variables if word not in text] == []
    # The variables of the submitter are passed on only on request.
    assert "\nPYTEST" not in text


@pytest.mark.parametrize(
    ("flavour", "arguments", "passed_on"),
    [
        ("pbs", [], False),
        ("pbs", ["-V"], True),
        ("pbs", ["-v", "LAB_WORD"], True),
        ("lsf", [], True),
        ("lsf", ["-env", "none"], False),
        ("lsf", ["-env", "all, ~LAB_WORD"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_submitters_environment_is_passed_on_only_with_the_option(
    lab: Lab, flavour: str, arguments: list[str], passed_on: bool, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    number = lab.submit(flavour, "env\n", "-o", str(output), *arguments, environment={"LAB_WORD": "here"})
    lab.wait(flavour, number, "F")
    assert ("LAB_WORD=here" in until(lambda: content(output))) == passed_on


@FLAVOURS
def test_deleting_a_job_ends_all_its_processes(lab: Lab, flavour: str, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    number = lab.submit(flavour, f"#!/bin/bash\ntrap '' TERM\nsleep 97 &\necho $! > {mark}\nwait\nsleep 97\n")
    pid = until(lambda: content(mark).strip())
    program = {"moab": "canceljob", "lsf": "bkill"}.get(flavour, "qdel")
    lab.out(flavour, program, number)
    lab.wait(flavour, number, "F")
    until(lambda: not Path("/proc", pid).exists() or "Z" in (Path("/proc", pid) / "stat").read_text().split()[2])
    assert lab.job(flavour, number)["exit"] > 128


def test_job_over_its_time_limit_is_killed(lab: Lab, tmp_path: Path) -> None:
    number = lab.submit("pbs", f"#PBS -l walltime=1\n#PBS -e {tmp_path}/errors\nsleep 60\n")
    lab.wait("pbs", number, "F")
    assert "exceeded limit 1" in until(lambda: content(tmp_path / "errors"))


def test_output_file_in_a_directory_has_the_vendors_name(lab: Lab, tmp_path: Path) -> None:
    for flavour, name in (("pbs", "{}.pbs.OU"), ("torque", "hello.o{}"), ("lsf", "{}.out")):
        number = lab.submit(flavour, script(flavour, f"{tmp_path}/", "echo\n"))
        path = tmp_path / name.format(number)
        until(path.exists)


# -- the format of the output


def test_pbs_qstat_json(lab: Lab) -> None:
    number = lab.submit("pbs", script("pbs", "/dev/null", "sleep 60\n"))
    until(lambda: lab.job("pbs", number)["session_id"])
    shown = json.loads(lab.out("pbs", "qstat", "-f", "-F", "json"))
    assert set(shown) == {"timestamp", "pbs_version", "pbs_server", "Jobs"}
    job = shown["Jobs"][f"{number}.pbs"]
    assert (job["job_state"], job["Job_Name"], job["queue"]) == ("R", "hello", "interactive")
    assert re.fullmatch(r"node[12]/0\*2", job["exec_host"])
    assert job["Variable_List"]["TAG"] == "a/b"
    assert job["Resource_List"]["walltime"] == "00:10:00"
    lab.out("pbs", "qdel", f"{number}.pbs")
    lab.wait("pbs", number, "F")
    gone = lab.run("pbs", "qstat", "-f", "-F", "json", number)
    assert gone.returncode == 35
    assert gone.stderr == f"qstat: {number}.pbs Job has finished, use -x or -H to obtain historical job information\n"
    # PBS prints the document nevertheless, but without jobs.
    assert "Jobs" not in json.loads(gone.stdout)
    assert json.loads(lab.out("pbs", "qstat", "-xf", "-F", "json", number))["Jobs"][f"{number}.pbs"]["job_state"] == "F"


def test_pbs_qstat_breaks_long_lines(lab: Lab) -> None:
    number = lab.submit("pbs", script("pbs", "/dev/null", "sleep 60\n"), "-v", f"LONG={'x' * 200}")
    text = lab.out("pbs", "qstat", "-f", number)
    assert max(map(len, text.splitlines())) <= 80
    joined = text.replace("\n\t", "")
    assert f"LONG={'x' * 200}" in joined
    assert f"Job Id: {number}.pbs\n    Job_Name = hello\n" in text


def test_torque_qstat_xml(lab: Lab) -> None:
    number = lab.submit("torque", script("torque", "/dev/null", "sleep 60\n"))
    until(lambda: lab.job("torque", number)["session_id"])
    data = ET.fromstring(lab.out("torque", "qstat", "-x", number))
    assert data.tag == "Data"
    job = element(data, "Job")
    assert job.findtext("Job_Id") == f"{number}.torque"
    assert job.findtext("job_state") == "R"
    assert re.fullmatch(r"node[12]/0-1", job.findtext("exec_host", ""))
    assert "TAG=a/b" in job.findtext("Variable_List", "").split(",")
    assert job.findtext("qtime", "").isdigit()
    lab.out("torque", "qdel", number)
    lab.wait("torque", number, "F")
    assert ET.fromstring(lab.out("torque", "qstat", "-x", number)).findtext("Job/job_state") == "C"


def element(parent: ET.Element, path: str) -> ET.Element:
    """Return the element at a path, which must exist."""
    found = parent.find(path)
    assert found is not None, ET.tostring(parent)
    return found


def test_moab_mdiag_and_showq_xml(lab: Lab) -> None:
    number = lab.submit("moab", script("moab", "/dev/null", "sleep 60\n"), "-l", "var=tag:value")
    until(lambda: lab.job("moab", number)["session_id"])
    job = element(ET.fromstring(lab.out("moab", "mdiag", "-j", number, "--xml")), "job")
    assert (job.get("JobID"), job.get("State"), job.get("JobName")) == (number, "Running", "hello")
    assert job.get("DRMJID") == f"{number}.moab"
    assert re.fullmatch(r"node[12]:2", element(job, "req").get("AllocNodeList", ""))
    assert job.findtext("Variables/Variable") == "value"
    queues = ET.fromstring(lab.out("moab", "showq", "--xml")).findall("queue")
    assert [(queue.get("option"), queue.get("count")) for queue in queues] == [
        ("active", "1"),
        ("eligible", "0"),
        ("blocked", "0"),
    ]
    assert lab.out("moab", "mjobctl", "-c", number) == f"\njob '{number}' cancelled\n\n"
    lab.wait("moab", number, "F")
    assert ET.fromstring(lab.out("moab", "mdiag", "-j", "--xml")).find("job") is None
    ended = ET.fromstring(lab.out("moab", "mdiag", "-j", "--xml", "-w", "completed=true")).findall("job")
    assert [job.get("State") for job in ended if job.get("JobID") == number] == ["Removed"]


def test_lsf_bjobs_json(lab: Lab) -> None:
    number = lab.submit("lsf", script("lsf", "/dev/null", "sleep 60\n"), "-Jd", "a/b")
    until(lambda: lab.job("lsf", number)["session_id"])
    wanted = "jobid stat user queue job_name job_description exec_host"
    text = lab.out("lsf", "bjobs", "-u", "all", "-o", wanted, "-json")
    assert '"JOB_DESCRIPTION":"a\\/b"' in text
    shown = json.loads(text)
    assert (shown["COMMAND"], shown["JOBS"]) == ("bjobs", 1)
    (record,) = shown["RECORDS"]
    assert list(record) == wanted.upper().split()
    assert (record["JOBID"], record["STAT"], record["JOB_NAME"]) == (number, "RUN", "hello")
    assert re.fullmatch("(node[12]):\\1", record["EXEC_HOST"])
    assert re.fullmatch(
        r"RUN;node[12]:node[12]\n", lab.out("lsf", "bjobs", "-noheader", "-o", "stat exec_host delimiter=';'", number)
    )
    assert lab.run("lsf", "bjobs", "-json", "-noheader", "-o", "jobid").returncode == 255


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["pbs", "qstat", "-Q"], "interactive"),
        (["pbs", "qstat", "-Qf"], "resources_max.walltime = 12:00:00"),
        (["pbs", "qstat", "-Qf", "-F", "json"], '"ncpus":4'),
        (["pbs", "qstat", "-B"], "Active"),
        (["pbs", "pbsnodes", "-a"], "resources_available.ncpus = 4"),
        (["torque", "pbsnodes"], "node1\n     state = "),
        (["torque", "pbsnodes", "-x", "node2"], "<Data><Node><name>node2</name><state>"),
        (["torque", "qstat", "-Q", "-f"], "resources_max.mem = 8192mb"),
        (["moab", "mdiag", "-c"], "MAX.WCLIMIT=12:00:00"),
        (["lsf", "bqueues", "-l"], "720.0 min"),
        (["lsf", "bqueues", "-o", "queue_name status", "-json"], '"STATUS":"Open:Active"'),
        (["lsf", "bhosts"], "node1"),
        (["lsf", "lsid"], "My cluster name is lsf\nMy master name is 127.0.0.1\n"),
        (["lsf", "bparams", "-a"], "    SECURE_JOB_INFO_LEVEL = 0\n"),
        (["pbs", "qstat", "-B", "-f"], "    query_other_jobs = True\n"),
        (["torque", "qstat", "-B", "-f"], "    query_other_jobs = True\n"),
    ],
    ids=" ".join,
)
def test_queues_and_hosts_are_shown(lab: Lab, command: list[str], text: str) -> None:
    assert text in lab.out(*command)


def test_version_options_print_the_release(lab: Lab) -> None:
    assert lab.run("torque", "qstat", "--version").stderr.startswith("Version: 6.1")
    assert lab.run("torque", "qsub", "--version", script="").stderr.startswith("Version: 6.1")
    assert lab.run("lsf", "bjobs", "-V").stderr.startswith("IBM Spectrum LSF Standard 10.1")


# -- refused requests


@pytest.mark.parametrize(
    ("flavour", "command", "code", "message"),
    [
        ("pbs", ["qsub", "-q", "nope"], 170, "qsub: Unknown queue\n"),
        ("pbs", ["qsub", "-l", "walltime=99:00:00"], 188, "qsub: Job violates queue and/or server resource limits\n"),
        ("pbs", ["qsub", "-l", "select=1:ncpus=5"], 188, "qsub: Job violates queue and/or server resource limits\n"),
        ("pbs", ["qsub", "-l", "walltime=soon"], 166, "qsub: Illegal attribute or resource value"),
        ("pbs", ["qsub", "-Y"], 2, "qsub: invalid option -- 'Y'\nusage: qsub "),
        ("pbs", ["qstat", "99"], 153, "qstat: Unknown Job Id 99.pbs\n"),
        ("pbs", ["qdel", "99"], 153, "qdel: Unknown Job Id 99.pbs\n"),
        ("pbs", ["qstat", "-Y"], 2, "qstat: invalid option -- 'Y'\nusage: \nqstat "),
        ("torque", ["qsub", "-q", "nope"], 172, "qsub: submit error (Unknown queue MSG=cannot locate queue)\n"),
        ("torque", ["qsub", "-l", "mem=9gb"], 190, "qsub: submit error (Job exceeds queue resource limits MSG="),
        ("torque", ["qstat", "-x", "99"], 153, "qstat: Unknown Job Id Error 99.torque\n"),
        ("torque", ["qdel", "99"], 153, "qdel: nonexistent job id: 99.torque\n"),
        ("moab", ["msub", "-q", "nope"], 1, "ERROR:    cannot submit job - invalid class/queue specified 'nope'\n"),
        ("moab", ["msub", "-l", "walltime=99:00:00"], 1, "ERROR:    cannot submit job - job violates class config"),
        ("moab", ["mdiag", "-j", "99", "--xml"], 1, "ERROR:  invalid job specified (99)\n"),
        ("moab", ["canceljob", "99"], 1, "ERROR:  invalid job specified (99)\n"),
        ("lsf", ["bsub", "-q", "nope"], 255, "nope: No such queue. Job not submitted.\n"),
        ("lsf", ["bsub", "-W", "800"], 255, "RUNLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.\n"),
        ("lsf", ["bsub", "-M", "9G"], 255, "MEMLIMIT: Cannot exceed queue's hard limit(s). Job not submitted.\n"),
        ("lsf", ["bsub", "-Z"], 255, "bsub: illegal option -- Z\nUsage:"),
        ("lsf", ["bjobs", "99"], 255, "Job <99> is not found\n"),
        ("lsf", ["bkill", "99"], 255, "Job <99>: No matching job found\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value)[:20],
)
def test_invalid_requests_get_the_vendors_error(
    lab: Lab, flavour: str, command: list[str], code: int, message: str
) -> None:
    done = lab.run(flavour, *command, script="sleep 1\n")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(message)


def test_finished_job_cannot_be_deleted(lab: Lab) -> None:
    for flavour, program, code, message in (
        ("pbs", "qdel", 35, "qdel: Job has finished {}.pbs\n"),
        (
            "torque",
            "qdel",
            170,
            "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE {}.torque\n",
        ),
        ("lsf", "bkill", 255, "Job <{}>: Job has already finished\n"),
    ):
        number = lab.submit(flavour, "true\n", *(["-o", "/dev/null", "-e", "/dev/null"]))
        lab.wait(flavour, number, "F")
        done = lab.run(flavour, program, number)
        assert (done.returncode, done.stderr) == (code, message.format(number))


def test_other_users_can_see_but_not_change_a_job(started: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel normally reports the user id. This test passes other ids to the server's method directly."""
    monkeypatch.syspath_prepend(str(FILES))
    Server = importlib.import_module("lab_emulator.server").Server  # noqa: N806
    state = started.root / "other"
    state.mkdir()
    server = Server(started.config | {"state": str(state), "unprivileged": False})
    job = {"queue": "", "cores": 1, "nodes": 1, "memory": 0, "gpus": 0, "runtime": 60, "indices": None, "hold": "",
           "shell": "", "wanted_hosts": [], "features": []}  # fmt: skip
    owner, other = 1, 2  # the users daemon and bin, which exist on every system
    assert server.handle({"op": "submit", "flavour": "pbs", "job": dict(job)}, 0) == {"error": "user"}
    number = server.handle({"op": "submit", "flavour": "pbs", "job": dict(job)}, owner)["number"]
    act = {"op": "act", "flavour": "pbs", "number": number}
    assert server.handle(act | {"what": "delete"}, other) == {"error": "denied"}
    assert server.handle(act | {"what": "requeue"}, owner) == {"error": "denied"}
    assert server.handle({"op": "admin", "flavour": "pbs", "hide": True}, owner) == {"error": "denied"}
    status = {"op": "status", "flavour": "pbs"}
    assert len(server.handle(status, other)["jobs"]) == 1
    server.handle({"op": "admin", "flavour": "pbs", "hide": True}, 0)
    assert server.handle(status, other)["jobs"] == []
    assert len(server.handle(status, owner)["jobs"]) == 1
    assert server.handle(act | {"what": "delete"}, owner) == {"ok": True}


# -- waiting jobs, held jobs and arrays


def test_job_that_does_not_fit_waits_with_a_reason(lab: Lab) -> None:
    big = {"pbs": ["-l", "select=1:ncpus=4"], "lsf": ["-n", "4"], "moab": ["-l", "nodes=1:ppn=4"],
           "torque": ["-l", "nodes=1:ppn=4"]}  # fmt: skip
    first = [lab.submit("pbs", SLEEP, *big["pbs"]), lab.submit("lsf", SLEEP, *big["lsf"])]
    lab.wait("pbs", first[0], "R")
    lab.wait("lsf", first[1], "R")
    waiting = {flavour: lab.submit(flavour, SLEEP, *big[flavour]) for flavour in PROGRAMS}
    time.sleep(1.2)
    job = json.loads(lab.out("pbs", "qstat", "-f", "-F", "json", waiting["pbs"]))["Jobs"][f"{waiting['pbs']}.pbs"]
    assert job["job_state"] == "Q"
    assert job["comment"] == "Not Running: Insufficient amount of resource: ncpus"
    assert time.strptime(job["estimated"]["start_time"])
    torque = element(ET.fromstring(lab.out("torque", "qstat", "-x", waiting["torque"])), "Job")
    assert torque.findtext("comment", "").startswith("Not Running")
    moab = element(ET.fromstring(lab.out("moab", "mdiag", "-j", waiting["moab"], "--xml")), "job")
    assert (moab.get("State"), moab.get("StartTime")) == ("Idle", "0")
    assert int(moab.get("RsvStartTime", "0")) > time.time()
    (lsf,) = json.loads(
        lab.out("lsf", "bjobs", "-json", "-o", "stat pend_reason estimated_start_time", waiting["lsf"])
    )["RECORDS"]
    assert lsf["STAT"] == "PEND"
    assert "job slot" in lsf["PEND_REASON"]
    assert lsf["ESTIMATED_START_TIME"].endswith(" E")
    lab.out("pbs", "qdel", first[0])
    lab.wait("pbs", waiting["pbs"], "R")


def test_jobs_can_be_held_suspended_and_requeued(lab: Lab) -> None:
    number = lab.submit("pbs", SLEEP, "-h")
    text = lab.out("pbs", "qstat", "-f", number)
    assert "job_state = H" in text
    assert "Hold_Types = u" in text
    lab.out("pbs", "qrls", number)
    lab.wait("pbs", number, "R")
    lab.order("pbs", "suspend", number)
    session = until(lambda: lab.job("pbs", number)["session_id"])
    assert "job_state = S" in lab.out("pbs", "qstat", "-f", number)
    until(lambda: "T" in Path("/proc", str(session), "stat").read_text().rpartition(")")[2].split()[0])
    lab.order("pbs", "resume", number)
    until(lambda: Path("/proc", str(session), "stat").read_text().rpartition(")")[2].split()[0] != "T")
    lab.out("pbs", "qrerun", number)
    until(lambda: lab.job("pbs", number)["runs"] == 2)
    assert "run_count = 2" in lab.out("pbs", "qstat", "-f", number)
    lsf = lab.submit("lsf", SLEEP, "-H")
    assert "PSUSP" in lab.out("lsf", "bjobs", lsf)
    moab = lab.submit("moab", SLEEP, "-h")
    assert 'State="Hold"' in lab.out("moab", "mdiag", "-j", moab, "--xml")


def test_job_deleted_during_a_requeue_does_not_run_again(lab: Lab) -> None:
    number = lab.submit("pbs", "trap '' TERM\nsleep 60 & wait\nwait\n")
    lab.wait("pbs", number, "R")
    until(lambda: lab.job("pbs", number)["session_id"])
    # The job has one second to end. On a busy machine, the clients would take longer to start than that.
    lab.ask("act", "pbs", what="requeue", number=int(number))
    assert lab.job("pbs", number)["state"] == "E"
    lab.ask("act", "pbs", what="delete", number=int(number))
    lab.wait("pbs", number, "F")
    assert lab.job("pbs", number)["runs"] == 1


def test_job_arrays(lab: Lab) -> None:
    number = find(r"\A([0-9]+)\[\]\.pbs\n\Z", lab.out("pbs", "qsub", "-J", "1-3", script=SLEEP))
    until(
        lambda: json.loads(lab.out("pbs", "qstat", "-f", "-F", "json"))["Jobs"][f"{number}[].pbs"]["job_state"] == "B"
    )
    each = json.loads(lab.out("pbs", "qstat", "-t", "-f", "-F", "json"))["Jobs"]
    assert {f"{number}[{index}].pbs" for index in (1, 2, 3)} < set(each)
    assert lab.out("torque", "qsub", "-t", "1-2", script=SLEEP).endswith("[].torque\n")
    lsf = lab.submit("lsf", SLEEP, "-J", "many[1-2]")
    assert lab.out("lsf", "bjobs", "-noheader", "-o", "jobid jobindex", lsf) == f"{lsf} 1\n{lsf} 2\n"
    lab.out("pbs", "qdel", f"{number}[2].pbs")
    until(lambda: "job_state = X" in lab.out("pbs", "qstat", "-xtf", f"{number}[2].pbs"))


# -- faults


@pytest.mark.parametrize("flavour", PROGRAMS)
def test_unreachable_server_gives_the_vendors_error(lab: Lab, flavour: str) -> None:
    messages = {
        "pbs": "qstat: cannot connect to server pbs (errno=111)",
        "torque": "qstat: cannot connect to server torque",
        "moab": "ERROR:    cannot connect to server",
        "lsf": "Failed in an LSF library call",
    }
    program = {"moab": "showq", "lsf": "bjobs"}.get(flavour, "qstat")
    lab.order(flavour, "fault", "refused")
    done = lab.run(flavour, program)
    assert done.returncode != 0
    assert done.stdout == ""
    assert messages[flavour] in done.stderr


def test_each_fault_has_its_effect(lab: Lab) -> None:
    number = lab.submit("pbs", SLEEP)
    whole = lab.out("pbs", "qstat", "-f", "-F", "json")
    lab.order("pbs", "fault", "half")
    half = lab.out("pbs", "qstat", "-f", "-F", "json")
    assert 0 < len(half) < len(whole)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|property name"):
        json.loads(half)
    lab.order("pbs", "fault", "error-exit0")
    done = lab.run("pbs", "qstat", "-f", "-F", "json")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr
    lab.order("pbs", "fault", "garbage-id")
    assert not re.search("[0-9]", lab.out("pbs", "qsub", script=SLEEP))
    assert lab.status()["jobs"][-1]["number"] == int(number) + 1  # the job was accepted nevertheless
    lab.order("pbs", "fault", "locale")
    assert "Unbekannte" in lab.run("pbs", "qstat", "99").stderr
    lab.order("pbs", "fault", "slow=1")
    begin = time.monotonic()
    lab.out("pbs", "qstat")
    assert time.monotonic() - begin > 1
    lab.order("pbs", "fault", "silent", "only=qstat")
    with pytest.raises(subprocess.TimeoutExpired):
        lab.run("pbs", "qstat", timeout=1)
    lab.out("pbs", "qdel", number)


@pytest.mark.parametrize("flavour", PROGRAMS)
def test_product_reads_queues_and_rejects_truncated_output(lab: Lab, flavour: str) -> None:
    """The product's own commands and parsers work with the emulated schedulers."""
    words = SCHEDULERS[flavour]
    commands = [command for command in (words.limits_command, *words.limits_more) if command[0] != "echo"]

    def answer() -> Any:
        text = "".join(lab.out(flavour, *command) for command in commands)
        return parse_report(flavour, text + "account = hpchub\n" * (flavour in ("pbs", "torque")))

    lab.order(flavour, "queue", "interactive", "close")
    found = answer()
    lab.order(flavour, "queue", "interactive", "open")
    assert [(limits.name, limits.open) for limits in found.queues] == [("interactive", False), ("batch", True)]
    assert [(limits.cores, limits.memory, limits.runtime) for limits in found.queues] == [
        (4, 8192, 43200),
        (64, 65536, 172800),
    ]
    lab.order(flavour, "fault", "half")
    half = answer()
    assert half.unanswered
    assert half.hidden is None


@pytest.mark.parametrize(
    ("text", "causes"),
    [("true", {Cause.FINISHED}), ("exit 3", {Cause.FAILED}), ("sleep 60", {Cause.CANCELLED, Cause.KILLED})],
    ids=["finished", "failed", "cancelled"],
)
@FLAVOURS
def test_product_reads_how_a_job_ended(lab: Lab, flavour: str, text: str, causes: set[Cause]) -> None:
    """The emulated PBS and Torque do not record who deleted a job, so its end looks like a signal."""
    number = lab.submit(flavour, f"{text}\n")
    if text == "sleep 60":
        until(lambda: lab.job(flavour, number)["state"] == "R")
        lab.out(flavour, {"moab": "canceljob", "lsf": "bkill"}.get(flavour, "qdel"), number)
    lab.wait(flavour, number, "F")
    job_id = f"{number}.{flavour}" if flavour in ("pbs", "torque") else number
    words = SCHEDULERS[flavour]
    # The lab has neither tracejob nor bhist.
    commands = [command for command in words.history_commands if command[0] in PROGRAMS[flavour]]
    found = words.parse_history(job_id, "".join(lab.out(flavour, *command, job_id) for command in commands))
    assert found.cause in causes


def test_no_job_is_lost_when_server_and_agents_restart(lab: Lab, tmp_path: Path) -> None:
    output = tmp_path / "output"
    number = lab.submit("torque", script("torque", output, "echo begun\nsleep 6\necho done\n"))
    until(lambda: lab.job("torque", number)["session_id"])
    lab.stop("server")
    done = lab.run("torque", "qstat")
    assert (done.returncode, done.stdout) == (15133 & 255, "")
    assert "cannot connect to server torque" in done.stderr
    nodes = [name for name in lab.processes if name.startswith("node")]
    for name in nodes:
        lab.stop(name)
    lab.start("server", *nodes)
    assert lab.job("torque", number)["state"] == "R"
    lab.wait("torque", number, "F")
    assert lab.job("torque", number)["exit"] == 0
    assert until(lambda: content(output)) == "begun\ndone\n"


def test_finished_jobs_are_forgotten_after_the_history_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "emulator")
    lab.configure(history=1)
    try:
        lab.start("server", "node1")
        number = lab.submit("pbs", "true\n", "-o", "/dev/null", "-e", "/dev/null")
        until(lambda: lab.run("pbs", "qstat", "-x", number).returncode == 153)
    finally:
        for service in list(lab.processes):
            lab.stop(service)


def test_server_rejects_an_agent_with_another_key(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "emulator"
    shutil.copytree(lab.root, other, symlinks=True, ignore=shutil.ignore_patterns("socket", "state", "spool"))
    (other / "key").write_text("another key\n")
    (other / "config.json").write_text(
        json.dumps(lab.config | {"key": str(other / "key"), "spool": str(other / "spool")})
    )
    with subprocess.Popen(
        [other / "lab-emulator", "agent", "--node", "node3"], stderr=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stderr is not None
        try:
            assert "the server does not answer" in agent.stderr.readline()
        finally:
            agent.kill()
    until(lambda: "its report is not signed with the lab's key" in (lab.root / "server.log").read_text())
