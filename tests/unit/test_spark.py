"""Apache Spark in a session: the real Spark, with its pages and its kernel, and what other accounts can reach of it.

These tests need a Python with pyspark and ipykernel, which ``HPCHUB_PYSPARK`` names, and Java. Two nodes are two
directories /tmp on this machine: the launcher of the scheduler is a stand-in that starts its command in the second one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from app_supervisor import Supervisor
from hub_app import profile, site
from notebook_server import PREFIX, TOKEN
from pydantic import ValidationError

from hpchub.model.apps import SparkApp
from hpchub.model.problems import SiteError
from hpchub.remote import app, spark, spark_kernel, spark_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notebook_server import Session

PYTHON = os.environ.get("HPCHUB_PYSPARK", "")
needs_spark = pytest.mark.skipif(
    not (PYTHON and shutil.which("java")),
    reason="HPCHUB_PYSPARK names no Python with pyspark and ipykernel, or this machine lacks Java",
)
VARIABLES = {"HPCHUB_CORES": "2", "HPCHUB_MEMORY": "2200", "JUPYTERHUB_SERVICE_PREFIX": "/user/alice/"}
BASE = "/user/alice/demo"

COUNT = """
import json, os, socket, sys, time
sys.path.insert(0, {remote!r})
import spark_kernel
spark = spark_kernel.create_session(spark_kernel.wait({path!r}))
sc = spark.sparkContext
pairs = sc.parallelize("to be or not to be".split(), 8).map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b)
print(json.dumps(dict(pairs.collect())), flush=True)
def refused(function, argument):
    try:
        function(argument)
    except PermissionError as error:
        return error
for line in sys.stdin:
    print(eval(line), flush=True)
"""
"""A notebook in a process of its own. It counts words, and then evaluates each line that it gets."""


def definition(**more: Any) -> dict[str, Any]:
    entry = {"name": "demo", "display_name": "Spark", "kind": "spark", "python": PYTHON or "/opt/python"}
    return SparkApp.model_validate({**entry, "start_limit": 60, **more}).for_session()


OPEN = """
import socket, time
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
time.sleep(60)
"""
"""A program that listens on two ports, and answers nothing."""


class Notebook:
    """A process that uses the running Spark as a notebook does.

    Attributes:
        words: How often each word occurs in the text.
    """

    def __init__(self, found: Supervisor) -> None:
        program = COUNT.format(remote=str(Path(spark_kernel.__file__).parent), path=str(found.socket))
        self.process = subprocess.Popen(
            ["timeout", "200", PYTHON, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=found.directory,
        )
        self.words = json.loads(self._line("{"))

    def _line(self, beginning: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line.strip()
        raise AssertionError("the notebook has ended")

    def run(self, expression: str) -> str:
        """Return the value of an expression."""
        assert self.process.stdin
        self.process.stdin.write(f"'= ' + str({expression})\n")
        self.process.stdin.flush()
        return self._line("= ")[2:]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    """A function that starts Spark, which ends with the test."""
    started: list[Supervisor] = []

    def run(more: dict[str, Any] | None = None, **variables: str) -> Supervisor:
        home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        started.append(Supervisor(spark, tmp_path, definition(**(more or {})), **(VARIABLES | home | variables)))
        return started[-1]

    yield run
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Supervisor, Notebook]]:
    """A running Spark, and a notebook that has counted words with it."""
    directory = tmp_path_factory.mktemp("spark")
    names = ("executorIdleTimeout", "shuffleTracking.timeout")
    short = {f"spark.dynamicAllocation.{name}": "3s" for name in names}
    found = Supervisor(
        spark, directory, definition(configuration=short), **VARIABLES, HOME=str(directory), TMPDIR=str(directory)
    )
    try:
        assert wait(found, "/json/")[0] == 200
        notebook = Notebook(found)
        yield found, notebook
        notebook.close()
    finally:
        found.close()


def wait(found: Supervisor, path: str) -> tuple[int, str]:
    """Return the first answer after the page that Spark is starting."""
    end = time.monotonic() + 90
    while (answer := found.get(path))[0] == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer


def processes(running: tuple[Supervisor, Notebook]) -> list[int]:
    """Return the processes of Spark and of the notebook."""
    roots = [running[0].process.pid, running[1].process.pid]
    return [each for root in roots for each in (root, *app.descendants(root)) if app.status_of(each)[0] != "Z"]


def request(port: int, data: bytes, timeout: float = 1) -> bytes:
    """Return what a port of this machine answers within some seconds, without any secret."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(timeout)
        sock.sendall(data)
        try:
            return sock.recv(65536)
        except TimeoutError:
            return b""


def stream(name: bytes) -> bytes:
    """Return a request for a file of Spark's driver."""
    content = struct.pack(">bi", 6, len(name)) + name
    return struct.pack(">q", len(content) + 8) + content


# -- the real Spark


@needs_spark
def test_notebook_counts_words(running: tuple[Supervisor, Notebook]) -> None:
    assert running[1].words == {"to": 2, "be": 2, "or": 1, "not": 1}
    assert running[1].run("spark.range(1000).selectExpr('sum(id)').collect()[0][0]") == "499500"


@needs_spark
def test_page_of_spark_shows_the_cores_and_the_memory_of_the_job(running: tuple[Supervisor, Notebook]) -> None:
    shown = json.loads(running[0].get("/json/")[1])
    assert (shown["aliveworkers"], shown["cores"], shown["memory"]) == (1, 2, 1100)
    assert shown["activeapps"][0]["cores"] == 2
    page = running[0].get("/")[1]
    assert f'href="{BASE}/static/webui.css"' in page
    name = shown["activeapps"][0]["id"]
    status, page = running[0].get(f"/proxy/{name}/jobs/")
    assert (status, f'href="{BASE}/proxy/{name}/stages/"' in page) == (200, True)
    assert running[0].get(f"/proxy/{shown['workers'][0]['id']}/")[0] == 200
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(running[0].socket))
        sock.sendall(f"GET /proxy/{name}/ HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n".encode())
        assert f"\r\nLocation: /proxy/{name}/jobs/\r\n".encode() in sock.recv(65536)


@needs_spark
def test_every_port_of_spark_demands_a_secret(running: tuple[Supervisor, Notebook]) -> None:
    places = spark_node.listening([each for each in processes(running) if spark_node.name_of(each) == "java"])
    assert {address for address, _ in places} == {"127.0.0.1"}
    kinds = [asyncio.run(spark_node.guard_of(*place)) for place in places]
    # Master, worker and notebook have pages. All of them and the executor have further ports. One is Py4J's.
    assert sorted(kinds) == ["", "page", "page", "page", "rpc", "rpc", "rpc", "rpc", "rpc"]
    gateway = places[kinds.index("")][1]
    assert b"Authentication error" in request(gateway, b"c\nt\ngetProperties\ne\n", 20)
    for place, kind in zip(places, kinds, strict=True):
        if kind == "page":
            for path in ("/", "/json/", "/static/webui.js", "/metrics/json/", "/environment/", "/api/v1/x", "/x"):
                for method in ("GET", "POST", "OPTIONS"):
                    text = f"{method} {path} HTTP/1.0\r\n\r\n".encode()
                    assert (answer := request(place[1], text, 20)).startswith(spark_node.FORBIDDEN), (text, answer)
        else:
            assert b"PRIVATE" not in request(place[1], stream(b"/files/private.txt"))
    python = [each for each in processes(running) if spark_node.name_of(each).startswith("python")]
    assert spark_node.listening(python) == []


@needs_spark
def test_secrets_are_in_no_argument_list_and_in_no_file_of_others(running: tuple[Supervisor, Notebook]) -> None:
    variables = json.loads(running[0].get("/hpchub/kernel")[1])["variables"]
    runtime = Path(variables["SPARK_CONF_DIR"]).parent
    settings = dict(line.split(" ", 1) for line in (runtime / "conf" / "spark-defaults.conf").read_text().splitlines())
    secrets = [settings["spark.authenticate.secret"], settings[f"spark.{spark.FILTER}.param.secretKey"]]
    assert all(len(each) >= 43 for each in secrets)
    for each in processes(running):
        arguments = Path(f"/proc/{each}/cmdline").read_bytes().decode()
        assert not [secret for secret in secrets if secret in arguments]
    assert str(variables).count(secrets[0]) == 0
    for directory in (runtime, Path(variables["SPARK_LOCAL_DIRS"]), runtime / "conf"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((runtime / "conf" / "spark-defaults.conf").stat().st_mode) == 0o600
    log = (running[0].directory / "demo" / "log").read_text()
    assert not [secret for secret in secrets if secret in log]


@needs_spark
def test_files_of_the_user_are_not_sent_to_others(running: tuple[Supervisor, Notebook], tmp_path: Path) -> None:
    """Spark sends the files of its driver without asking for the secret."""
    (tmp_path / "private.txt").write_text("PRIVATE")
    (tmp_path / "mine.py").write_text("answer = 42")
    assert "stays on this node" in running[1].run(f"refused(sc.addFile, {str(tmp_path / 'private.txt')!r})")
    assert "stays on this node" in running[1].run(f"refused(sc.addArchive, {str(tmp_path / 'private.txt')!r})")
    running[1].run(f"sc.addPyFile({str(tmp_path / 'mine.py')!r})")
    assert running[1].run("sc.parallelize([1], 1).map(lambda _: __import__('mine').answer).collect()") == "[42]"
    driver = [each for each in app.descendants(running[1].process.pid) if spark_node.name_of(each) == "java"]
    for _, port in spark_node.listening(driver):
        for name in (b"/files/mine.py", b"/files/mine.zip", b"/files/private.txt"):
            assert b"answer" not in request(port, stream(name))
            assert b"PRIVATE" not in request(port, stream(name))


@needs_spark
def test_second_notebook_gets_the_cores_of_one_that_is_idle(running: tuple[Supervisor, Notebook]) -> None:
    second = Notebook(running[0])
    assert second.words == running[1].words
    second.close()
    assert running[1].run("spark.range(5).count()") == "5"


@needs_spark
def test_two_nodes_count_together(start: Callable[..., Supervisor], tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text(f"{socket.gethostname()} 2 q <NULL>\nlocalhost 2 q <NULL>\n")
    places = " ".join({f"/tmp/{Path(each).parts[2]}" for each in (PYTHON, str(tmp_path)) if each.startswith("/tmp/")})
    root = "" if os.geteuid() == 0 else "--map-root-user"
    program = tmp_path / "bin" / "qrsh"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
        echo "$@" > {tmp_path}/arguments; shift 3
        exec unshare {root} --mount --uts sh -ec '
            hostname second; mount --bind /tmp /mnt; mount -t tmpfs -o mode=1777 none /tmp
            for each in {places}; do mkdir $each; mount --bind /mnt/${{each#/tmp/}} $each; done
            exec "$@"' sh "$@"
        """
    )
    program.chmod(0o755)
    found = start(PE_HOSTFILE=str(nodes), PATH=f"{program.parent}:{os.environ['PATH']}")
    status, page = wait(found, "/json/")
    assert (status, json.loads(page)["aliveworkers"], json.loads(page)["cores"]) == (200, 2, 4), page
    assert re.match(r"-inherit -nostdin localhost \S+ -I \S+spark_node.py \S+/.hpchub/spark-\w+.json$",
                    (tmp_path / "arguments").read_text())  # fmt: skip
    assert not list((tmp_path / ".hpchub").iterdir()), "the file with the secrets"
    notebook = Notebook(found)
    hosts = (
        "sorted(set(sc.parallelize(range(64), 64).map(lambda _: (time.sleep(.05), socket.gethostname())[1]).collect()))"
    )
    assert notebook.run(hosts) == str(sorted({socket.gethostname(), "second"}))
    notebook.close()
    before = app.descendants(found.process.pid)
    found.close()
    assert [each for each in before if app.status_of(each)[0] != "Z"] == []
    assert not list(tmp_path.glob("hpchub-spark-*"))


def stand_in(directory: Path, line: str = "") -> dict[str, str]:
    """Return the definition of a Spark whose programs are shell scripts.

    Args:
        directory: A directory for them.
        line: What Spark's programs run. ``{java}`` is a Python with the name of Java.
    """
    for name, text in (
        ("home/bin/spark-class", line.format(java=directory / "home" / "bin" / "java")),
        ("python", f"echo {directory}/home"),
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    (directory / "home" / "bin" / "java").symlink_to(sys.executable)
    return {"python": str(directory / "python"), "java_home": str(directory / "home")}


def test_spark_that_demands_no_secret_is_stopped(start: Callable[..., Supervisor], tmp_path: Path) -> None:
    """A site's Spark may ignore the settings."""
    status, page = wait(start(stand_in(tmp_path, f"exec {{java}} -c '{OPEN}'")), "/")
    assert (status, "Spark was stopped, because it listened on 127.0.0.1:" in page) == (502, True), page


@pytest.mark.parametrize(
    ("more", "variables", "words"),
    [
        ({"python": "/nonexistent/python"}, {}, "the program /nonexistent/python was not found"),
        ({"python": "/bin/false"}, {}, "the program pyspark was not found"),
        ({"java_home": "/nonexistent"}, {}, "the program java was not found"),
        ({}, {"HPCHUB_MEMORY": "1000"}, "Spark needs at least 1024 MiB of memory on each node"),
        ({}, {"PBS_NODEFILE": "/nonexistent"}, "/nonexistent: No such file or directory"),
        ({"python": "/bin/true"}, {}, "the program pyspark was not found"),
    ],
    ids=["no Python", "no pyspark", "no Java", "too little memory", "no list of nodes", "no answer"],
)
def test_failure_is_explained_in_words(
    start: Callable[..., Supervisor], tmp_path: Path, more: dict[str, Any], variables: dict[str, str], words: str
) -> None:
    more = stand_in(tmp_path) | more
    status, page = wait(start(more, **variables), "/")
    assert (status, words in page) == (502, True), page


# -- in a session


@needs_spark
def test_kernel_of_a_session_has_spark(session: Session) -> None:
    session.variables |= {
        "FILE:apps": json.dumps({"apps": [definition()]}),
        "HPCHUB_DEFAULT_KERNEL": "pydemo",
        "HPCHUB_MEMORY": "2200",
        "HPCHUB_CORES": "2",
    }
    session.start().wait_for_report()
    spec = session.request("api/kernelspecs")[1]["kernelspecs"]["pydemo"]["spec"]
    assert spec["display_name"] == "PySpark"
    code = "print('found', sc.parallelize('a b a'.split()).map(lambda w: (w, 1)).countByKey()['a'], spark.version[:2])"
    # The first cell also shows that Spark is starting.
    assert "found 2 4." in session.execute(
        code + "\nprint(__import__('sys').path[0] == '', 'app' in __import__('sys').modules)", 120
    )
    shown = session.request("demo/json/")[1]
    assert shown["aliveworkers"] == 1
    application = f"demo/proxy/{shown['activeapps'][0]['id']}/"
    connection = http.client.HTTPSConnection(
        "127.0.0.1", session.hub.reports[0]["port"], context=session._context(), timeout=30
    )
    connection.request("GET", PREFIX + application, headers={"Authorization": f"token {TOKEN}"})
    with contextlib.closing(connection), connection.getresponse() as answer:
        assert answer.headers["Location"] == f"{PREFIX}{application}jobs/"
    assert session.request("server-proxy/servers-info")[1]["server_processes"][0]["name"] == "demo"
    assert session.process
    children = [each for each in app.descendants(session.process.pid) if spark_node.name_of(each) == "java"]
    assert len(children) >= 3
    runtime = session.execute("import os; print(os.path.dirname(os.environ['SPARK_CONF_DIR']))").split()[-1]
    session.close()
    end = time.monotonic() + 15
    while left := [each for each in children if app.status_of(each)[0] != "Z"]:
        assert time.monotonic() < end, [Path(f"/proc/{each}/cmdline").read_text() for each in left]
        time.sleep(0.1)
    assert not Path(runtime).exists()


@needs_spark
def test_kernel_lives_on_without_spark(session: Session) -> None:
    session.variables |= {
        "FILE:apps": json.dumps({"apps": [definition(java_home="/nonexistent")]}),
        "HPCHUB_DEFAULT_KERNEL": "pydemo",
        "HPCHUB_MEMORY": "2200",
    }
    session.start().wait_for_report()
    printed = session.execute("print('lives on', 'spark' in globals())")
    assert "Spark is not installed on" in printed
    assert "lives on False" in printed


# -- the parts


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("spark.sql.shuffle.partitions", ""),
        ("spark.executor.extraJavaOptions", ""),
        ("spark.driver.memory", ""),
        ("spark.authenticate", "creates a secret for each session"),
        ("spark.authenticate.secret.file", "creates a secret for each session"),
        ("spark.network.crypto.enabled", "protects the user's data"),
        ("spark.io.encryption.enabled", "protects the user's data"),
        ("spark.ui.filters", "protects Spark's pages"),
        ("spark.org.apache.spark.ui.JWSFilter.param.secretKey", "protects Spark's pages"),
        ("spark.acls.enable", "protects Spark's pages"),
        ("spark.python.unix.domain.socket.enabled", "open to other users"),
        ("spark.connect.grpc.binding.port", "open to other users"),
        ("spark.shuffle.service.enabled", "the same for all users"),
        ("spark.master.rest.enabled", "starts the master"),
        ("spark.driver.host", "knows the addresses"),
        ("hadoop.x", "is not a setting of Spark"),
        ("spark.a b", "is not a setting of Spark"),
    ],
)
def test_site_cannot_change_the_settings_that_protect_the_session(name: str, reason: str) -> None:
    if not reason:
        assert definition(configuration={name: "1"})["configuration"] == {name: "1"}
        return
    with pytest.raises(ValidationError, match=reason):
        definition(configuration={name: "1"})


def test_settings_of_the_site_do_not_replace_those_of_the_session(tmp_path: Path) -> None:
    found = definition()
    found["configuration"] = {"spark.authenticate": "false", "spark.executor.memory": "700m"}
    settings = spark.Spark(found, tmp_path, {}, {})._settings(tmp_path, 600, 1)
    assert (settings["spark.authenticate"], settings["spark.executor.memory"]) == ("true", "700m")


def test_kernel_of_an_application_and_of_the_site_differ() -> None:
    kernel = {"name": "pyspark", "kind": "python"}
    entry = {"name": "spark", "kind": "spark"}
    with pytest.raises(SiteError, match="has the kernel pyspark, which is also in hpc_kernels"):
        site(profile("small"), hpc_apps=[entry], hpc_kernels=[kernel])
    assert site(profile("small"), hpc_apps=[entry]).apps[0].for_session()["kernel"]["name"] == "pyspark"


def test_kernel_runs_the_python_of_the_site_with_its_modules() -> None:
    found = definition(modules=["java/17"], python="/opt/x/bin/python", environment={"PYTHONPATH": "/opt/y"})["kernel"]
    argv = found["spec"]["argv"]
    assert (argv[0], argv[-1], argv[-5:-2]) == ("/usr/bin/env", "/opt/x/bin/python", ["-l", "-c", argv[-3]])
    assert "java/17" in argv[-3]
    assert ("LD_PRELOAD" in argv, "PYTHONPATH" in argv, found["spec"]["env"]) == (True, False, {"PYTHONPATH": "/opt/y"})


def test_token_is_signed_and_ends_soon() -> None:
    head = spark.with_token(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"k" * 32)
    first, header, rest = head.split(b"\r\n", 2)
    assert (first, rest) == (b"GET / HTTP/1.1", b"Host: x\r\n\r\n")
    signed, _, signature = header.removeprefix(b"Authorization: Bearer ").rpartition(b".")
    assert hmac.compare_digest(
        base64.urlsafe_b64decode(signature + b"=="), hmac.digest(b"k" * 32, signed, hashlib.sha256)
    )
    claims = json.loads(base64.urlsafe_b64decode(signed.partition(b".")[2] + b"=="))
    assert 0 < claims["exp"] - time.time() <= 60


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://hub/proxy/app-1/jobs/", "/proxy/app-1/jobs/"),
        ("/jobs/?a=b", "/jobs/?a=b"),
        (f"https://other.example.org{BASE}/x", "/x"),
        (f"{BASE}/x", "/x"),
        ("http://hub//other.example.org/x", "/other.example.org/x"),
    ],
)
def test_redirect_stays_at_the_application(tmp_path: Path, location: str, expected: str) -> None:
    found = spark.Spark(definition(), tmp_path, {}, {"JUPYTERHUB_SERVICE_PREFIX": "/user/alice/"})
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nX: y\r\n\r\n".encode()
    assert found.redirected(head) == f"HTTP/1.1 302 Found\r\nLocation: {expected}\r\nX: y\r\n\r\n".encode()


def test_token_goes_only_to_the_master(tmp_path: Path) -> None:
    """Another user may have taken the port of a master that has ended."""

    async def connect() -> None:
        other = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        found = spark.Spark(definition(), tmp_path, {}, {})
        master = await asyncio.create_subprocess_exec("sleep", "20")
        found._local = [master]
        found.page_address = other.sockets[0].getsockname()
        try:
            with pytest.raises(ConnectionRefusedError):
                await found._connect()
        finally:
            master.kill()
            await master.wait()
            other.close()

    asyncio.run(connect())


@pytest.mark.parametrize(
    ("variables", "lines", "others", "command"),
    [
        ({"PBS_NODEFILE": "{file}"}, "{own}.x\n{own}.x\nb.x\nb.x\n", ["b.x"], ["pbsdsh", "-n", "2", "--"]),
        ({"PE_HOSTFILE": "{file}"}, "{own} 2 q\nb 2 q\n", ["b"], ["qrsh", "-inherit", "-nostdin", "b"]),
        ({"LSB_DJOB_HOSTFILE": "{file}"}, "{own}\nb\nb\n", ["b"], ["blaunch", "b"]),
        (
            {"SLURM_JOB_NODELIST": "x[1-2]"},
            "{own}\nb\n",
            ["b"],
            [
                *("srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=b", "--cpus-per-task=4"),
                *("--input=none", "--unbuffered"),
            ],
        ),
        ({}, "", [], []),
        ({"PBS_NODEFILE": "{file}"}, "{own}\n{own}\n", [], []),
    ],
    ids=["pbs", "gridengine", "lsf", "slurm", "no-scheduler", "one-node"],
)
def test_worker_starts_with_the_launcher_of_the_scheduler(
    tmp_path: Path, variables: dict[str, str], lines: str, others: list[str], command: list[str]
) -> None:
    file = tmp_path / "nodes"
    file.write_text(lines.format(own=socket.gethostname()))
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\n[ "$*" = "show hostnames x[1-2]" ] && cat {file}\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = {name: value.format(file=file) for name, value in variables.items()}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", environment["PATH"])
        assert asyncio.run(spark.other_nodes(environment)) == others
    for host in others:
        assert spark.launch_command(environment, host, 4) == command


def test_files_with_secrets_are_for_the_user_alone(tmp_path: Path) -> None:
    path = spark.write_order(tmp_path / ".hpchub", {"settings": {}})
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    settings = tmp_path / "settings"
    settings.symlink_to(tmp_path / "other")
    for _ in range(2):
        spark_node.write_settings(settings, {"spark.a": "b\\c ä"})
    assert (stat.S_IMODE(settings.lstat().st_mode), (tmp_path / "other").exists()) == (0o600, False)
    assert settings.read_text() == "spark.a b\\\\c \\xe4\n"


@pytest.mark.parametrize(
    ("mode", "safe"),
    [(0o755, True), (0o1777, True), (0o777, False), (0o775, False)],
    ids=["own", "tmp", "all", "group"],
)
def test_directory_for_files_must_be_safe(tmp_path: Path, mode: int, safe: bool) -> None:
    tmp_path.chmod(mode)
    assert spark_node.is_safe(tmp_path) == safe
    assert not spark_node.is_safe(tmp_path / "missing")


@pytest.mark.parametrize(("memory", "expected"), [("2000", 1000), ("1023", 511)])
def test_memory_of_the_executor_is_a_part_of_the_job(memory: str, expected: int) -> None:
    assert spark.executor_memory(memory, 50) == expected
    assert spark.executor_memory("", 50) > 0


class Base:
    """A stand-in for PySpark's context."""

    def __init__(self) -> None:
        self.added: list[str] = []

    def addFile(self, path: str, recursive: bool = False) -> None:  # noqa: N802 the interface
        self.added.append(path)

    addArchive = addFile  # noqa: N815 the interface

    def addPyFile(self, path: str) -> None:  # noqa: N802 the interface
        self.addFile(path)


def test_local_files_are_not_offered_under_their_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("a = 1")
    context = spark_kernel.context_class(Base, "{path} stays", tmp_path)()
    for function in (context.addFile, context.addArchive):
        for path in ("data.csv", "/home/alice/data.csv", "file:///home/alice/data.csv"):
            with pytest.raises(PermissionError, match=f"{path} stays"):
                function(path)
        function("hdfs://host/data.csv")
    for path in (str(tmp_path / "mine.py"), f"file://{tmp_path}/mine.py"):
        context.addPyFile(path)
        assert re.fullmatch(r"[0-9a-f]{32}\.zip", Path(context.added[-1]).name)
        assert zipfile.ZipFile(context.added[-1]).namelist() == ["mine.py"]


def test_reason_for_a_failure_is_shown_without_markup() -> None:
    page = app.answer("502 Bad Gateway", "x", "<h1>Spark &lt;has&gt; ended.</h1><pre>a\nb</pre>").decode()
    assert spark_kernel.words_of(page) == "Spark <has> ended.\na\nb"
