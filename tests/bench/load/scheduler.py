"""A fake scheduler and its nodes in one process. Each running job contains a fake notebook server.

It serves the stand-in commands of ``client.pl`` over a Unix socket. A running job becomes a notebook server after the
time that JupyterLab would need. The server listens, with TLS if its session's file contains a certificate, reports its
port to the hub as the launcher or batchspawner's wrapper does, and answers each request with 200.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import ssl
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from jupyterhub import __version__

RESPONSE_TIME = 0.02
"""How long the controller takes to answer a command, in seconds."""
CYCLE = 0.5
"""Time between two scheduling cycles, in seconds."""
SERVER_START = (1.5, 3.0)
"""How long JupyterLab takes until it listens: minimum and maximum, in seconds."""
NODE = "localhost"
ANSWER = f"HTTP/1.1 200 OK\r\nX-JupyterHub-Version: {__version__}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
FORMAT = {"i": "id", "T": "state", "r": "reason", "B": "host", "S": "start", "u": "user", "j": "name", "k": "comment"}


@dataclass
class Job:
    """One job. Unknown values have the form that squeue prints."""

    id: str
    user: str
    name: str
    comment: str
    environment: dict[str, str]
    state: str = "PENDING"
    reason: str = "Resources"
    host: str = "n/a"
    start: str = "N/A"
    running: float = 0.0
    servers: list[asyncio.Server] = field(default_factory=list)


class Scheduler:
    """The state of all jobs, and the commands of the stand-in clients.

    Args:
        homes: The directory of the users' homes, which contain the sessions' files.
        hub: The hub's Unix socket, or an empty string if the hub listens on TCP.
    """

    def __init__(self, homes: Path, hub: str) -> None:
        self.jobs: dict[str, Job] = {}
        self.held = False
        self._homes = homes
        self._hub = hub
        self._chance = random.Random(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one command."""
        name, user, rest = (await reader.read()).decode().split("\0", 2)
        words = rest.split("\0")
        arguments, words = words[1 : 1 + int(words[0])], words[1 + int(words[0]) :]
        environment = dict(word.split("=", 1) for word in words[1 : 1 + int(words[0])])
        script = words[-1]
        await asyncio.sleep(RESPONSE_TIME if name != "control" else 0)
        match name:
            case "sbatch":
                answer = self._submit(user, script, environment)
            case "squeue":
                answer = self._list(arguments)
            case "scancel":
                answer = self._cancel(arguments[-1])
            case _:
                answer = self._control(arguments[0])
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    def _submit(self, user: str, script: str, environment: dict[str, str]) -> str:
        options = dict(re.findall(r"^#SBATCH --(job-name|comment)=(.*)$", script, re.MULTILINE))
        job = Job(str(len(self.jobs) + 1), user, options.get("job-name", ""), options.get("comment", ""), environment)
        self.jobs[job.id] = job
        return f"0{job.id}\n"

    def _list(self, arguments: list[str]) -> str:
        one = next((arguments[n + 1] for n, word in enumerate(arguments) if word in ("-j", "--jobs")), "")
        if one and one not in self.jobs:
            return "1slurm_load_jobs error: Invalid job id specified\n"
        found = [self.jobs[one]] if one else self.jobs.values()
        form = next(word.removeprefix("--format=") for word in [*arguments] if "%" in word)
        words = re.split("%([a-zA-Z])", form)  # literal text and column letters, in turn

        def line(job: Job) -> str:
            return "".join(getattr(job, FORMAT[word]) if n % 2 else word for n, word in enumerate(words))

        return "0" + "".join(line(job) + "\n" for job in found)

    def _cancel(self, number: str) -> str:
        job = self.jobs[number]
        job.state = "CANCELLED"
        for server in job.servers:
            server.close()
        return "0"

    def _control(self, word: str) -> str:
        if word in ("hold", "release"):
            self.held = word == "hold"
        return "0" + json.dumps(
            [{"user": job.user, "state": job.state, "running": job.running} for job in self.jobs.values()]
        )

    async def run(self) -> None:
        """Start pending jobs until the process is terminated."""
        connector = aiohttp.UnixConnector(self._hub) if self._hub else aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector)
        while True:
            await asyncio.sleep(CYCLE)
            for job in self.jobs.values():
                if job.state == "PENDING" and not self.held:
                    job.state, job.reason, job.host, job.running = "RUNNING", "None", NODE, time.time()
                    task = asyncio.create_task(self._server(job, self._chance.uniform(*SERVER_START)))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _server(self, job: Job, seconds: float) -> None:
        """Start a job's notebook server and report its port to the hub."""
        await asyncio.sleep(seconds)
        environment, context = job.environment, None
        file = self._homes / job.user / ".hpchub" / f"{job.name.removeprefix('hpchub-')}.json"
        if job.comment:
            environment = json.loads(file.read_text())
            file.unlink()
            context = identity(environment)
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        job.servers.append(server)
        port = server.sockets[0].getsockname()[1]
        assert self._session is not None
        headers = {"Authorization": f"token {environment['JUPYTERHUB_API_TOKEN']}"}
        url = environment["JUPYTERHUB_API_URL"].rstrip("/") + "/batchspawner"
        while True:
            try:
                async with self._session.post(url, json={"port": port}, headers=headers) as response:
                    if response.status < 500:
                        if response.status >= 300:
                            print(job.id, response.status, await response.text(), flush=True)
                        return
            except OSError as error:
                print(job.id, error, flush=True)
            await asyncio.sleep(0.5)


def identity(environment: dict[str, str]) -> ssl.SSLContext:
    """Return the TLS context that the launcher would create from a session's file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=environment["HPCHUB_TLS_CLIENTS"])
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        pair.write(environment["HPCHUB_TLS_KEY"] + environment["HPCHUB_TLS_CERTIFICATE"])
        pair.flush()
        context.load_cert_chain(pair.name)
    return context


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request on a connection."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Run the scheduler until the process is terminated."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--homes", type=Path, required=True)
    parser.add_argument("--hub", default="")
    arguments = parser.parse_args()
    scheduler = Scheduler(arguments.homes, arguments.hub)
    await asyncio.start_unix_server(scheduler.serve, arguments.socket, backlog=4096)
    arguments.socket.chmod(0o666)
    await scheduler.run()


if __name__ == "__main__":
    asyncio.run(main())
