"""The agent of a compute host. It starts jobs as their users, sends them signals and reports their state.

For each job, the agent starts a separate process called the shepherd. The shepherd waits for the job and writes its
exit code into a file in the spool directory. So no job is lost when the agent or the server restarts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from lab_emulator import environment
from lab_emulator.common import Job, name_of, read_config, receive, send, signature, write

INTERVAL = 0.5  # seconds


class Agent:
    """The jobs of one host.

    Each run of a job has a file ``NAME.json`` in the spool directory. NAME ends with the number of the run.
    """

    def __init__(self, config: dict[str, Any], node: str) -> None:
        """Create the agent for the host ``node`` and its spool directory."""
        self.config = config
        self.node = node
        self.spool = Path(config["spool"], node)
        self.spool.mkdir(mode=0o711, parents=True, exist_ok=True)

    def exchange(self) -> None:
        """Report the state of all jobs to the server once, then carry out the server's orders.

        Raises:
            OSError: The server does not answer.
        """
        jobs = {path.stem: json.loads(path.read_text()) for path in self.spool.glob("*.json")}
        for name, found in jobs.items():
            with contextlib.suppress(FileNotFoundError):
                found.update(json.loads((self.spool / f"{name}.signal").read_text()))
            if "exit" not in found and found["booted"] != _booted():
                found["exit"] = 265  # the job and its shepherd ended when the host rebooted
        orders = self.ask({"node": self.node, "jobs": jobs})
        for job in orders["start"]:
            self.start(job)
        for name, (word, note) in orders["signal"].items():
            if name in jobs:
                self.signal(jobs[name], name, word, note)
        for name in orders["forget"]:
            for path in self.spool.glob(f"{name}.*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def ask(self, report: dict[str, Any]) -> dict[str, Any]:
        """Send a report to the server and return its orders. Both sides authenticate with the lab's key."""
        with socket.create_connection((self.config["server"], self.config["port"]), timeout=10) as connection:
            nonce = receive(connection)
            body = json.dumps(report)
            send(connection, {"body": body, "signature": signature(self.config, nonce, body)})
            signed = receive(connection)
        if signed["signature"] != signature(self.config, nonce, signed["body"]):
            raise ConnectionRefusedError("the server uses a different key than this agent")
        orders: dict[str, Any] = json.loads(signed["body"])
        return orders

    def start(self, job: Job) -> None:
        """Start the shepherd of a job, unless it already exists."""
        name = f"{name_of(job)}-{job['runs']}"
        record = self.spool / f"{name}.json"
        if record.exists():
            return
        write(record, json.dumps({"booted": _booted(), "session_id": None}))
        if os.fork():
            return
        # The second fork makes the shepherd a grandchild, so that the agent does not have to wait for it. The new
        # session keeps it out of the agent's process group.
        os.setsid()
        if os.fork():
            os._exit(0)
        code = 254
        try:
            code = self.shepherd(job, name, record)
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
        finally:
            found = json.loads(record.read_text())
            write(record, json.dumps(found | {"exit": code}))
            os._exit(0)

    def shepherd(self, job: Job, name: str, record: Path) -> int:
        """Run a job until it ends, and return its exit code in the scheduler's numbering."""
        directory = self.spool / f"{name}.d"
        directory.mkdir(mode=0o711)
        script = directory / "script"
        script.write_text(job["script"])
        script.chmod(0o700)
        (directory / "stdout").touch(mode=0o600)
        (directory / "stderr").touch(mode=0o600)
        nodefile = directory / "nodes"
        nodefile.write_text("".join(f"{host}\n" * job["cores"] for host in job["hosts"]))
        if not self.config.get("unprivileged"):
            for path in (script, directory / "stdout", directory / "stderr"):
                os.chown(path, job["uid"], job["gid"])
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write_end)
            os.read(read_end, 1)
            self.become(job, directory)
        os.close(read_end)
        # Signals go to the job's session, so the record must contain the session before the job starts.
        write(record, json.dumps({"booted": _booted(), "session_id": child}))
        os.close(write_end)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        _signal_session(child, signal.SIGKILL)
        code = 256 - code if code < 0 else code  # PBS RG 14: 256 plus the number of the signal
        self.deliver(job, directory, code)
        return code

    def become(self, job: Job, directory: Path) -> None:
        """Replace this process with the job. The method never returns."""
        try:
            os.setsid()
            if not self.config.get("unprivileged"):
                os.initgroups(job["user"], job["gid"])
                os.setgid(job["gid"])
                os.setuid(job["uid"])
            os.umask(0o077 if job["flavour"] != "lsf" else 0o022)
            given = environment.make(job, self.node, directory)
            os.chdir(job["home"])
            if job["directory"]:
                with contextlib.suppress(OSError):
                    os.chdir(job["directory"])
            where = outputs(job) if job["direct"] else {}
            for number, stream in ((1, "stdout"), (2, "stderr")):
                target = str(where.get(stream) or directory / stream)
                descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(1 if stream == "stderr" and job["join"] else descriptor, number)
            if job["flavour"] == "lsf":
                # LSF executes the spooled script. A script without an interpreter line runs with /bin/sh.
                os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                arguments = [job["shell_argument"] or "/bin/sh", str(directory / "script")]
                if job["script"].startswith("#!"):
                    arguments = arguments[1:]
                os.execvpe(arguments[0], arguments, given)
            # PBS and Torque start the user's login shell and write the script's path to its standard input.
            read_end, write_end = os.pipe()
            os.write(write_end, f"{directory / 'script'}\n".encode())
            os.close(write_end)
            os.dup2(read_end, 0)
            os.execve(job["shell"], [f"-{Path(job['shell']).name}"], given)
        except OSError as error:
            os.write(2, f"{job['flavour']}: cannot start the job: {error}\n".encode())
        finally:
            os._exit(254)

    def deliver(self, job: Job, directory: Path, code: int) -> None:
        """Copy the output of a job to the requested files.

        The copy runs as the job's user, because possibly nobody else can write to that directory.
        """
        if job["direct"]:
            return
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            if not self.config.get("unprivileged"):
                os.initgroups(job["user"], job["gid"])
                os.setgid(job["gid"])
                os.setuid(job["uid"])
            os.umask(0o077)
            os.chdir(job["home"])
            for stream, target in outputs(job).items():
                if target is None:
                    continue
                append = "a" if job["append"] else "w"
                with target.open(append) as wanted, (directory / stream).open(errors="replace") as written:
                    if job["flavour"] == "lsf" and stream == "stdout":
                        wanted.write(environment.lsf_report(job, self.node, code))
                    shutil.copyfileobj(written, wanted)
        except OSError as error:
            os.write(2, f"{job['flavour']}: the output of {name_of(job)}: {error}\n".encode())
        finally:
            os._exit(0)

    def signal(self, found: dict[str, Any], name: str, word: str, note: str) -> None:
        """Send the signal ``word``, for example TERM, to all processes of a job."""
        if found["session_id"] is None or found.get("signal") == word:
            return
        # Only the shepherd writes the job's record, so the last signal is stored in a separate file.
        write(self.spool / f"{name}.signal", json.dumps({"signal": word, "stopped": word == "STOP"}))
        if word in ("TERM", "KILL"):
            # A stopped process does not act on SIGTERM before it continues.
            _signal_session(found["session_id"], signal.SIGCONT)
            if note and found.get("signal") != "TERM":
                with contextlib.suppress(OSError), (self.spool / f"{name}.d" / "stderr").open("a") as stream:
                    stream.write(f"=>> PBS: job killed: {note}\n")
        _signal_session(found["session_id"], signal.Signals[f"SIG{word}"])


def outputs(job: Job) -> dict[str, Path | None]:
    """Return the file for each output stream of a job, or None if the user does not want the stream."""
    found: dict[str, Path | None] = {}
    for stream, letter in (("stdout", "o"), ("stderr", "e")):
        if stream == "stderr" and job["join"]:
            continue
        wanted = job[stream]
        if wanted is None:
            found[stream] = None
            continue
        path = Path(job["home"], environment.expand(wanted, job))
        if not wanted:
            path = Path(job["origin"]["PBS_O_WORKDIR"], f"{job['name']}.{letter}{job['number']}")
        elif path.is_dir():
            path /= environment.output_name(job, letter)
        found[stream] = path
    return found


def _booted() -> str:
    """Return a text that changes when this host or container reboots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + Path("/proc/1/stat").read_text().split()[21]


def _signal_session(session: int, number: signal.Signals) -> None:
    """Send a signal to every process of a session. A job may consist of several process groups."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                os.kill(int(entry.name), number)


def serve(node: str) -> None:
    """Run the agent of the host ``node`` forever."""
    config = read_config()
    agent = Agent(config, node)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            agent.exchange()
        except OSError as error:
            print(f"the server does not answer, the agent tries again: {error}", file=sys.stderr, flush=True)
            time.sleep(2)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(INTERVAL)
