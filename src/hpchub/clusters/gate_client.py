"""The client of the gate: it sends the hub's requests to a submit host, over ssh or a local socket.

A request and its answer are one JSON object each.
On a submit host, a forced command of ssh starts the gate. See ``hpchub.remote.gate`` for the requests that it accepts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

NOT_RUN = (124, 126, 127)
"""The gate's exit codes for a command that timed out, cannot be run, or does not exist."""
MAX_CONCURRENT_REQUESTS = 4
"""How many requests about single sessions a gate runs at a time. sshd permits 10 per connection."""
POLLS = ("query", "find", "limits", "versions", "knowledge", "doctor")
"""The requests that the hub sends one at a time for all sessions. They never wait for other requests.

``hpchub.clusters.knowledge`` limits the requests of the last two kinds itself.
"""
ANSWER_LIMIT = 256 * 1024 * 1024  # bytes: enough for the bulk answer of a million jobs
NOT_REACHED = re.compile(
    r"^ssh: |^kex_exchange_identification: |timed out during banner exchange|^Host key verification failed"
    r"|Permission denied \(|^Connection closed by \S+ port ",
    re.MULTILINE,
)
"""ssh's messages when no connection was established: unknown name, no route, refused, timed out, wrong host key, access
denied, or maintenance. A connection that is lost later has another message, "closed by remote host"."""


@dataclass(frozen=True)
class Answer:
    """The answer of a gate. See ``hpchub.remote.gate`` for the fields."""

    ok: bool
    exit: int
    stdout: str
    stderr: str
    command: list[str]
    error: str

    def __str__(self) -> str:
        output = (self.stderr.strip() or ("" if self._sent else self.stdout.strip()))[:500]
        return f"{self.error or 'done'} (command {' '.join(self.command) or 'none'}, exit code {self.exit}): {output!r}"

    @property
    def message(self) -> object:
        """The error as a message that can be translated, or None; see ``hpchub.hub.remote_texts``."""
        if self._sent or self.ok or not self.command or self.stderr.strip():
            return self._sent
        return {"id": "failed", "values": {"program": self.command[0], "code": str(self.exit)}}

    @property
    def _sent(self) -> object:
        """The message that the gate has sent, or None."""
        try:
            found = None if self.ok else json.loads(self.stdout)
        except ValueError:
            return None
        return found if isinstance(found, dict) and set(found) == {"id", "values"} else None

    @property
    def timed_out(self) -> bool:
        """Whether the command timed out, so that its effect is unknown."""
        return self.exit == 124


OUTCOMES = ("done", "failed", "not_run", "timed_out", "unreachable", "invalid", "abandoned")
"""The outcomes of a request, for an observer.

``done`` and ``failed``: the command ran, and exited with 0 or not. ``not_run``: the gate could not run it.
``timed_out``: there was no answer in time. ``unreachable``: the connection failed. ``invalid``: the answer was not
valid. ``abandoned``: nobody waits for the answer any more.
"""


class Gate(ABC):
    """A client for the gate of one cluster.

    Args:
        cluster: The cluster's name.
        timeout: How long a request may take, in seconds. It must exceed the gate's own timeout for a command.

    Attributes:
        observer: A function that is called after each request with its action, its outcome and its time in seconds.
    """

    def __init__(self, cluster: str, timeout: float = 90.0) -> None:
        self.cluster = cluster
        self.timeout = timeout
        self.observer: Callable[[str, str, float], None] = lambda *_: None
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self._answered = -math.inf

    @property
    def host(self) -> str:
        """The submit host that gets the next request, or empty for the hub host."""
        return ""

    async def request(self, action: str, **fields: Any) -> Answer:
        """Send one request. If too many requests about single sessions are running, wait until one of them ends.

        Raises:
            Unanswered: The submit host was not reached, or its answer is not valid. What happened there is unknown.
        """
        if action in POLLS:
            return await self._request(action, fields)
        while not await self._acquire_slot():
            if time.monotonic() - self._answered > self.timeout:
                raise Unanswered(f"the submit host of {self.cluster} has not answered for {self.timeout:g} seconds")
        try:
            return await self._request(action, fields)
        finally:
            self._slots.release()

    async def _acquire_slot(self) -> bool:
        """Wait for a slot, at most for the timeout. Return whether there was one."""
        try:
            async with asyncio.timeout(self.timeout):
                return await self._slots.acquire()
        except TimeoutError:
            return False

    async def _request(self, action: str, fields: dict[str, Any]) -> Answer:
        text = json.dumps({"action": action, **fields}).encode()
        began, outcome = time.monotonic(), "abandoned"
        try:
            answer = await asyncio.wait_for(self._exchange(text), self.timeout)
            outcome = _outcome(answer)
        except TimeoutError:
            outcome = "timed_out"
            raise Unanswered(f"the submit host of {self.cluster} took more than {self.timeout:g} seconds") from None
        except OSError as error:
            outcome = "unreachable"
            raise Unanswered(f"the submit host of {self.cluster} cannot be reached: {error}") from None
        except Unanswered:
            outcome = "invalid"
            raise
        finally:
            self.observer(action, outcome, time.monotonic() - began)
        self._answered = time.monotonic()
        return answer

    def _read(self, output: bytes) -> Answer:
        """Parse a gate's output.

        Raises:
            Unanswered: The output is not an answer.
        """
        try:
            return Answer(**json.loads(output))
        except (ValueError, TypeError):
            raise Unanswered(f"the gate of {self.cluster} did not send a valid answer: {output[:200]!r}") from None

    @abstractmethod
    async def _exchange(self, request: bytes) -> Answer:
        """Send a request and return the answer.

        Raises:
            OSError: The gate cannot be reached.
            Unanswered: The answer is not valid.
        """

    async def query(self) -> str:
        """Return the output of the bulk query.

        Raises:
            Unanswered: There is no output.
        """
        return await self._output_of("query")

    async def limits(self) -> str:
        """Return the output of the limits commands.

        Raises:
            Unanswered: There is no output.
        """
        return await self._output_of("limits")

    async def _output_of(self, action: str) -> str:
        answer = await self.request(action)
        # Some clients exit with 0 although they could not reach the scheduler.
        if not answer.ok or (answer.stderr.strip() and not answer.stdout.strip()):
            raise Unanswered(str(answer))
        return answer.stdout

    async def find(self, job_id: str) -> Answer:
        """Query one job.

        Raises:
            Unanswered: The query did not run, or timed out.
        """
        answer = await self.request("find", job_id=job_id)
        if not answer.command or answer.exit in NOT_RUN:
            raise Unanswered(str(answer))
        return answer

    async def history(self, job_id: str) -> str:
        """Return the output of the commands that show how a job ended.

        Raises:
            Unanswered: There is no output.
        """
        answer = await self.request("history", job_id=job_id)
        if not answer.ok:
            raise Unanswered(str(answer))
        return answer.stdout

    async def usage(self, job_ids: Sequence[str]) -> str:
        """Return what the scheduler's accounting knows of some jobs.

        Raises:
            Unanswered: There is no output.
        """
        answer = await self.request("usage", job_ids=",".join(job_ids))
        if not answer.ok:
            raise Unanswered(str(answer))
        return answer.stdout

    async def knowledge(self, topic: str, users: Sequence[str] = ()) -> tuple[dict[str, list[str]], str]:
        """Return what a command for the users' choices prints, and the groups of the users that it asked for.

        Args:
            topic: The command; see ``KnowledgeSource.knowledge_commands``.
            users: The users to ask for, if the command needs them.

        Returns:
            The Unix groups of each user, by name, and the output. Users who may not run jobs are left out.

        Raises:
            Unanswered: There is no output.
        """
        answer = await self.request("knowledge", topic=topic, users=",".join(users))
        if not answer.ok:
            raise Unanswered(str(answer))
        try:
            content = json.loads(answer.stdout)
            groups = {str(name): [str(group) for group in each] for name, each in content["users"].items()}
            return groups, str(content["output"])
        except (ValueError, TypeError, LookupError, AttributeError):
            raise Unanswered(
                f"the gate of {self.cluster} did not send a valid answer: {answer.stdout[:200]!r}"
            ) from None

    async def doctor(self, user: str) -> str:
        """Return what the doctor reports of a user's home directory, as JSON.

        Raises:
            Unanswered: There is no report.
        """
        answer = await self.request("doctor", user=user)
        if not answer.ok:
            raise Unanswered(str(answer))
        return answer.stdout

    async def log(self, user: str, job_id: str) -> list[str]:
        """Return the last lines of a session's log, without secrets.

        Raises:
            Unanswered: The log does not exist, or cannot be read.
        """
        answer = await self.request("log", user=user, job_id=job_id)
        if not answer.ok:
            raise Unanswered(str(answer))
        return answer.stdout.splitlines()


def _outcome(answer: Answer) -> str:
    """Return the outcome of a request that was answered; see ``OUTCOMES``."""
    if answer.ok:
        return "done"
    if answer.timed_out:
        return "timed_out"
    return "not_run" if not answer.command or answer.exit in NOT_RUN else "failed"


class LocalGate(Gate):
    """The gate on the hub host, which submits jobs itself. systemd starts a gate for each connection to its socket."""

    def __init__(self, cluster: str, *, socket: str) -> None:
        super().__init__(cluster)
        self._socket = socket

    async def _exchange(self, request: bytes) -> Answer:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=ANSWER_LIMIT)
        try:
            writer.write(request)
            writer.write_eof()
            return self._read(await reader.read())
        finally:
            writer.close()


class SSHGate(Gate):
    """The gates on login nodes, reached over one multiplexed ssh connection per node.

    Args:
        cluster: The cluster's name.
        hosts: The login nodes. A node that fails, or cannot query the scheduler, moves to the end of the list.
        user: The account on the login nodes.
        key: The file with the hub's private key.
        known_hosts: The file with the login nodes' host keys.
        control_dir: The directory for the sockets of the connections.
    """

    def __init__(
        self, cluster: str, *, hosts: Sequence[str], user: str, key: str, known_hosts: str, control_dir: str
    ) -> None:
        super().__init__(cluster)
        self._hosts = list(hosts)
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ControlMaster": "auto",
            "ControlPath": str(Path(control_dir) / f"{cluster}-%C.sock"),
            "ControlPersist": "600",
            "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes",
            "IdentityFile": key,
            "LogLevel": "ERROR",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": known_hosts,
        }
        pairs = [item for name, value in options.items() for item in ("-o", f"{name}={value}")]
        self._command = ["ssh", "-F", "none", "-T", *pairs, "-l", user, "--"]

    @property
    def host(self) -> str:
        """The login node that gets the next request."""
        return self._hosts[0]

    async def _exchange(self, request: bytes) -> Answer:
        errors = []
        for host in list(self._hosts):
            try:
                answer = self._read(await self._run_ssh(host, request))
                if answer.exit in NOT_RUN:
                    self._demote(host, answer)
                return answer
            except ConnectionRefusedError as error:
                # This node did not receive the request, so the next node may get it. A request must never run twice.
                errors.append(f"{host}: {error}")
                self._demote(host, error)
            except asyncio.CancelledError:
                self._demote(host, "it timed out")
                raise
            except (OSError, Unanswered) as error:
                self._demote(host, error)
                raise
        raise ConnectionError("; ".join(errors))

    def _demote(self, host: str, reason: object) -> None:
        """Prefer another login node from now on, if there is one."""
        if self._hosts[0] == host and len(self._hosts) > 1:
            self._hosts.append(self._hosts.pop(0))
            log.warning("%s: %s failed (%s); the next login node is %s", self.cluster, host, reason, self._hosts[0])

    async def _run_ssh(self, host: str, request: bytes) -> bytes:
        """Send a request to one login node.

        Raises:
            ConnectionRefusedError: The node was not reached and has not received the request.
            ConnectionError: The connection failed later. What happened on the node is unknown.
        """
        process = await asyncio.create_subprocess_exec(
            *self._command,
            host,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            limit=ANSWER_LIMIT,
        )
        try:
            stdout, stderr = await process.communicate(request)
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode:
            detail = stderr.decode(errors="replace").strip()[:300]
            reached = not NOT_REACHED.search(detail)
            raise (ConnectionError if reached else ConnectionRefusedError)(
                f"ssh exit code {process.returncode}: {detail}"
            )
        return stdout


def make_gate(cluster: str, settings: dict[str, Any]) -> Gate:
    """Create a cluster's gate client from its entry in the hub's settings.

    Raises:
        ValueError: The entry has an unknown method.
    """
    arguments = {name: value for name, value in settings.items() if name != "method"}
    match settings.get("method"):
        case "local":
            return LocalGate(cluster, **arguments)
        case "ssh":
            return SSHGate(cluster, **arguments)
        case method:
            raise ValueError(f"gates.{cluster}.method: {method!r} is unknown; valid: local, ssh")
