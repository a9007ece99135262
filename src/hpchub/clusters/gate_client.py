"""The hub's side of the gate: one JSON request to a submit host, one JSON answer back.

A gate is reached over a local unix socket or over ssh with a forced command. See ``hpchub.remote.gate`` for the
requests that it accepts.
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
    from collections.abc import Sequence

log = logging.getLogger(__name__)

NOT_RUN = (124, 126, 127)
"""The gate's exit codes for a command that took too long, cannot be run, or is not there."""
AT_ONCE = 4
"""Submissions and cancellations that a gate is asked for at the same time. An ssh server takes 10 in one connection."""
ANSWER_LIMIT = 256 * 1024 * 1024  # bytes: a bulk answer for a million jobs
NOT_REACHED = re.compile(
    r"^ssh: |^kex_exchange_identification: |timed out during banner exchange|^Host key verification failed"
    r"|Permission denied \(|^Connection closed by \S+ port ",
    re.MULTILINE,
)
"""What ssh says before it has a connection: no such name, no route, refused, timed out, not the host, not let in, in
maintenance. Of a connection that is lost later it says that it was closed by the remote host."""


@dataclass(frozen=True)
class Answer:
    """What the gate said; see ``hpchub.remote.gate`` for the fields."""

    ok: bool
    exit: int
    stdout: str
    stderr: str
    command: list[str]
    error: str

    def __str__(self) -> str:
        output = (self.stderr.strip() or self.stdout.strip())[:500]
        return f"{self.error or 'done'} (command {' '.join(self.command) or 'none'}, exit code {self.exit}): {output!r}"

    @property
    def timed_out(self) -> bool:
        """Whether the command was given up: what it did, nobody knows."""
        return self.exit == 124


class Gate(ABC):
    """One cluster's submit host.

    Args:
        cluster: the cluster's name.
        timeout: how long a request may take, in seconds; longer than the gate's own limit for a command.
    """

    def __init__(self, cluster: str, timeout: float = 90.0) -> None:
        self.cluster = cluster
        self.timeout = timeout
        self._places = asyncio.Semaphore(AT_ONCE)
        self._answered = -math.inf

    async def request(self, action: str, **fields: Any) -> Answer:
        """Send one request. Of those that are about one session only a few go at a time; the others wait here.

        Raises:
            Unanswered: the submit host was not reached or its answer was not one. What happened there is not known.
        """
        if "session" not in fields:
            return await self._request(action, fields)
        while not await self._place():
            if time.monotonic() - self._answered > self.timeout:
                raise Unanswered(f"the submit host of {self.cluster} has answered nobody for {self.timeout:g} seconds")
        try:
            return await self._request(action, fields)
        finally:
            self._places.release()

    async def _place(self) -> bool:
        """Wait for one of the few places, for a while."""
        try:
            async with asyncio.timeout(self.timeout):
                return await self._places.acquire()
        except TimeoutError:
            return False

    async def _request(self, action: str, fields: dict[str, Any]) -> Answer:
        text = json.dumps({"action": action, **fields}).encode()
        try:
            answer = await asyncio.wait_for(self._exchange(text), self.timeout)
        except TimeoutError:
            raise Unanswered(f"the submit host of {self.cluster} took more than {self.timeout:g} seconds") from None
        except OSError as error:
            raise Unanswered(f"the submit host of {self.cluster} is not reached: {error}") from None
        self._answered = time.monotonic()
        return answer

    def _read(self, output: bytes) -> Answer:
        """The answer in what a gate wrote.

        Raises:
            Unanswered: there is none.
        """
        try:
            return Answer(**json.loads(output))
        except (ValueError, TypeError):
            raise Unanswered(f"the gate of {self.cluster} gave no answer but {output[:200]!r}") from None

    @abstractmethod
    async def _exchange(self, request: bytes) -> Answer:
        """Carry the request there and the answer back.

        Raises:
            OSError: there is no way.
            Unanswered: what came back is no answer.
        """

    async def query(self) -> str:
        """The bulk query's output.

        Raises:
            Unanswered: there is none.
        """
        return await self._question("query")

    async def limits(self) -> str:
        """The limits commands' output.

        Raises:
            Unanswered: there is none.
        """
        return await self._question("limits")

    async def _question(self, action: str) -> str:
        answer = await self.request(action)
        # Some clients have no exit code for "I could not ask".
        if not answer.ok or (answer.stderr.strip() and not answer.stdout.strip()):
            raise Unanswered(str(answer))
        return answer.stdout

    async def find(self, job_id: str) -> Answer:
        """What the scheduler says of one job.

        Raises:
            Unanswered: it was not asked, or did not answer in time.
        """
        answer = await self.request("find", job_id=job_id)
        if not answer.command or answer.exit in NOT_RUN:
            raise Unanswered(str(answer))
        return answer


class LocalGate(Gate):
    """The hub host submits itself: systemd starts a gate for each connection to its socket."""

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
    """Login nodes submit, over one multiplexed connection that outlives a request.

    Args:
        cluster: the cluster's name.
        hosts: its login nodes. Who answers is asked again; who does not, or cannot ask the scheduler, last of all.
        user: the account there.
        key: the file with the hub's private key.
        known_hosts: the file with the login nodes' host keys.
        control_dir: where the connections' sockets are.
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

    async def _exchange(self, request: bytes) -> Answer:
        errors = []
        for host in list(self._hosts):
            try:
                answer = self._read(await self._ask(host, request))
                if answer.exit in NOT_RUN:
                    self._leave(host, answer)
                return answer
            except ConnectionRefusedError as error:
                # Nothing was asked there, so another may be asked: never may one request be served twice.
                errors.append(f"{host}: {error}")
                self._leave(host, error)
            except asyncio.CancelledError:
                self._leave(host, "it takes too long")
                raise
            except (OSError, Unanswered) as error:
                self._leave(host, error)
                raise
        raise ConnectionError("; ".join(errors))

    def _leave(self, host: str, why: object) -> None:
        """From now on another login node is asked first, where there is one."""
        if self._hosts[0] == host and len(self._hosts) > 1:
            self._hosts.append(self._hosts.pop(0))
            log.warning("%s: %s does not serve (%s); next is %s", self.cluster, host, why, self._hosts[0])

    async def _ask(self, host: str, request: bytes) -> bytes:
        """Ask one login node.

        Raises:
            ConnectionRefusedError: it was not reached, and has seen nothing of the request.
            ConnectionError: what has happened there is not known.
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
    """Make a cluster's gate from its entry in the hub's settings.

    Raises:
        ValueError: the entry names no known method.
    """
    arguments = {name: value for name, value in settings.items() if name != "method"}
    match settings.get("method"):
        case "local":
            return LocalGate(cluster, **arguments)
        case "ssh":
            return SSHGate(cluster, **arguments)
        case method:
            raise ValueError(f"gates.{cluster}.method: {method!r} is neither local nor ssh")
