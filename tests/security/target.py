"""The service under attack, and the positions that attacks start from.

``Target`` has two implementations: ``HPCHub`` is the deployed service, and ``StockService`` consists of the upstream
packages, set up as their documentation shows.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from lab.web_client import IDENTITY, Answer, Visitor, spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from e2e.batches import Job
    from e2e.lab import Lab
    from playwright.sync_api import Browser, Page

PROGRAMS = Path(__file__).parent / "programs"
COMMANDS = ("squeue", "sbatch")
PROBE = "/run/hpchub-probe"
REAL = "/usr/libexec/hpchub-probe"
START = 120
"""How long a session may take to start, in seconds."""

NOT_RUN = {126, 127, 255}
"""Exit codes that mean that a command did not run: not executable, not found, or the ssh connection failed."""

SHORTEST_SECRET = 16
"""How many characters a secret has at least. A shorter one would occur in other text by chance."""


class Unusable(RuntimeError):
    """The attack could not be tried. This proves nothing about the service."""


def wait(what: str, probe: Callable[[], Any], *, timeout: float = 60, interval: float = 0.5) -> Any:
    """Call ``probe`` until it returns a truthy value, and return that value.

    Unlike an assertion, a timeout means that the attack could not be tried, not that it worked.

    Raises:
        Unusable: No truthy value came within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise Unusable(f"timed out after {timeout:.0f} s: {what} (last value: {answer!r})")
        time.sleep(interval)
    return answer


def forged(name: str) -> list[tuple[str, str]]:
    """Return every header that could carry a user's identity, in every spelling, with this name as its value."""
    return [(spelt, name) for header in IDENTITY for spelt in spellings(header)]


def signed_in_as(text: str) -> str:
    """Return the name of the signed-in user on a page of the hub, or an empty string."""
    found = re.search(r'\buser: "([^"]*)"', text)
    return found[1] if found else ""


def hub_cookie(headers: list[list[str]]) -> bool:
    """Return whether a response of ``programs/ask.py`` sets the hub's login cookie."""
    return any(name.lower() == "set-cookie" and value.startswith("jupyterhub-hub-login=") for name, value in headers)


class Person(Visitor):
    """A client at the public endpoint with cookies of its own, which sends requests that no browser would send.

    Args:
        target: The service to talk to.
        name: The user's name, or an empty string.
        always: Headers to send with each request, for example a password that a browser remembers.
    """

    def __init__(self, target: Target, name: str, always: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(target.addresses, target.url)
        self.name = name
        self.always = list(always)
        self.set_cookies: list[str] = []

    def ask(self, target: str, headers: Sequence[tuple[str, str]] = (), **more: Any) -> Answer:
        """Send one request; see ``Visitor.ask``. Record the cookies that the response sets."""
        answer = super().ask(target, [*self.always, *headers], **more)
        self.set_cookies += answer.headers.get_all("Set-Cookie") or []
        return answer

    @property
    def jar(self) -> dict[str, str]:
        """The cookies for the service, by name."""
        return self.cookies.setdefault(self.url.split("//", 1)[1], {})

    def page(self, target: str) -> Answer:
        """Request a path and follow the redirects to a page."""
        return self.follow(self.ask(target))[0]

    def api(self, method: str, path: str, body: Any = None) -> Answer:
        """Send a request to the REST API with cookies and the XSRF token, as the hub's own pages do."""
        self.page("/hub/home")
        headers = [("X-XSRFToken", self.jar.get("_xsrf", "")), ("Accept", "application/json")]
        text = None if body is None else json.dumps(body).encode()
        return self.ask(f"/hub/api/{path}", [*headers, ("Content-Type", "application/json")], method=method, body=text)

    def server(self) -> dict[str, Any]:
        """Return the hub's model of this user's server, or an empty one."""
        answer = self.api("GET", f"users/{self.name}")
        if answer.status != 200:
            raise Unusable(f"the hub does not list the servers of {self.name}: {answer}")
        found: dict[str, Any] = json.loads(answer.text).get("servers", {}).get("", {})
        return found


@dataclass
class Session:
    """A user's session, with everything that the user can know about it.

    Attributes:
        user: The user's name.
        job: The batch job.
        pid: The process id of the notebook server on the job's node.
        environment: The environment of the notebook server, including its token.
        pem: The notebook server's key and certificate, or an empty string.
    """

    user: str
    job: Job
    pid: int
    environment: dict[str, str]
    pem: str

    @property
    def port(self) -> int:
        """The port of the notebook server."""
        found = re.search(r":(\d+)/", self.environment["JUPYTERHUB_SERVICE_URL"])
        assert found
        return int(found[1])

    @property
    def certificate(self) -> str:
        """The notebook server's certificate, without its key."""
        _, begin, rest = self.pem.partition("-----BEGIN CERTIFICATE-----")
        assert begin, f"the notebook server of {self.user} has no certificate"
        return begin + rest

    @property
    def token(self) -> str:
        """The notebook server's token for the hub's API."""
        return self.environment["JUPYTERHUB_API_TOKEN"]

    @property
    def api_url(self) -> str:
        """The URL of the hub's API for the notebook server."""
        return self.environment["JUPYTERHUB_API_URL"]


class Target(ABC):
    """The service under attack.

    Attributes:
        name: ``hpchub`` or ``stock``.
        url: The public URL, without a path.
        addresses: The IP addresses to connect to, by the host names in URLs.
        hub: The host that the hub runs on.
        account: The hub's account on that host.
        unit: The hub's systemd unit.
        identity_header: The header that carries a user's identity to this hub.
        state: Directories on the hub host with the service's data and logs.
    """

    name: str
    url: str
    addresses: dict[str, str]
    hub: str
    account: str
    unit: str
    identity_header: str
    state: tuple[str, ...]
    sign_on_cookies: tuple[str, ...] = ()
    """Prefixes of the cookies in which the web server keeps a user's sign-on."""

    @classmethod
    @contextmanager
    def set_up(cls, lab: Lab) -> Iterator[Self]:
        """Provide the service while the context lasts."""
        yield cls(lab)

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.profile = lab.profiles()[0]["key"]
        self._people: dict[str, Person] = {}

    # -- hosts

    def run(self, host: str, user: str, argv: Sequence[str], *, text: str = "", timeout: float = 60) -> str:
        """Run a command on a host as an account. Return its standard output and error. The command may fail.

        Raises:
            Unusable: The command did not run, so its output proves nothing.
        """
        words = argv if user == "root" else ["runuser", "--user", user, "--", *argv]
        # Only ssh itself exits with code 255. Some commands of Slurm do so on any error.
        command = f"{shlex.join(words)}; code=$?; test $code -ne 255 || code=1; exit $code"
        done = subprocess.run(
            ["ssh", "-F", str(self.lab.directory / "ssh_config"), self.lab.host(host), "--", command],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = done.stdout + done.stderr
        if done.returncode in NOT_RUN or output.startswith("runuser: "):
            raise Unusable(f"{shlex.join(argv)[:200]} did not run as {user} on {host}: {output[-2000:]}")
        return output

    def python(self, program: str, host: str, user: str, value: Any, *, job: bool = False) -> Any:
        """Run one of ``programs`` as an account, optionally in a Slurm job. It reads and writes one JSON value.

        Raises:
            Unusable: The program did not run.
        """
        argv = ["python3", "-c", self.program(program)]
        if job:
            argv = ["srun", "--quiet", f"--nodelist={host}", "--mem=100M", "--chdir=/tmp", *argv]
            host = "login1"
        output = self.run(host, user, argv, text=json.dumps(value), timeout=180)
        try:
            return json.loads(output)
        except ValueError:
            raise Unusable(f"{program} did not run as {user} on {host}: {output[-2000:]}") from None

    def outside(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run ``programs/ask.py`` on this machine, which is outside the cluster, and return its responses."""
        argv = [sys.executable, "-c", self.program("ask.py")]
        done = subprocess.run(argv, input=json.dumps(steps), capture_output=True, text=True, check=True, timeout=180)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    @staticmethod
    def program(name: str) -> str:
        """Return the source of one of ``programs``."""
        return (PROGRAMS / name).read_text()

    def write(self, host: str, user: str, path: str, text: str, mode: str = "0600") -> None:
        """Write a file on a host as an account."""
        program = 'umask 077; mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        done = self.run(host, user, ["sh", "-c", program, "write", path, mode], text=text)
        if done:
            raise Unusable(f"{host}:{path} cannot be written: {done}")

    def ports(self) -> list[int]:
        """Return every TCP port with a listener on the hub host."""
        lines = self.run(self.hub, "root", ["ss", "-ltnH"]).splitlines()
        return sorted({int(line.split()[3].rsplit(":", 1)[1]) for line in lines})

    def sockets(self) -> list[str]:
        """Return the path of every Unix socket on the hub host that accepts connections at this path.

        Some listeners are not reachable by their path, for example the sockets in another mount namespace.

        Raises:
            Unusable: The list lacks a socket that the service itself uses.
        """
        lines = self.run(self.hub, "root", ["ss", "-lxnH"]).splitlines()
        listed = sorted({path for line in lines if (path := line.split()[4]).startswith("/")})
        answers = self.python("ask.py", self.hub, "root", [{"unix": path, "timeout": 2} for path in listed])
        found = [path for path, answer in zip(listed, answers, strict=True) if answer["connected"]]
        own = {each["unix"] for each in (self.identity_endpoint(), self.proxy_api()) if "unix" in each}
        if not found or not own <= set(found):
            raise Unusable(f"root cannot connect to {own - set(found) or 'any socket'} on {self.hub}: {answers}")
        return found

    # -- people

    def person(self, name: str = "") -> Person:
        """Return a new client at the public endpoint. It is signed in if a name is given."""
        return self._sign_in(name) if name else Person(self, name)

    def signed_in(self, name: str) -> Person:
        """Return a signed-in client, which all tests share. Sign it in again if its cookies are no longer valid."""
        person = self._people.get(name)
        if person is None or signed_in_as(person.page("/hub/home").text) != name:
            person = self._people[name] = self.person(name)
        return person

    @abstractmethod
    def _sign_in(self, name: str) -> Person:
        """Sign a user in through the single sign-on and return the client."""

    @abstractmethod
    def browser_page(self, browser: Browser, name: str) -> Page:
        """Open a page in a real browser with a user signed in."""

    @abstractmethod
    def identity_endpoint(self) -> dict[str, Any]:
        """Return the endpoint at which the web server passes a user's identity to the hub.

        Returns:
            The first fields of a request of ``programs/ask.py``.
        """

    def send_identities(self, names: Sequence[str | list[str]], *, permitted: bool = True) -> list[dict[str, Any]]:
        """Send each name to the hub as the web server would after a sign-on, and return the hub's responses.

        Args:
            names: The names to send. A list of names becomes a header that appears several times.
            permitted: Whether to send the headers that permit the user to use the service.
        """
        steps = []
        for name in names:
            values = [name] if isinstance(name, str) else name
            sent = [[self.identity_header, value] for value in values]
            also = self.permission_headers() if permitted else []
            steps.append({**self.identity_endpoint(), "target": "/hub/login", "headers": [*sent, *also]})
        found: list[dict[str, Any]] = self.python("ask.py", self.hub, "www-data", steps)
        return found

    def require_that_alice_signs_in(self) -> None:
        """Check that the hub signs in an ordinary user if the web server gives the name.

        Only then does a refusal of another name or of another client mean that the hub refuses this name or client.

        Raises:
            Unusable: The hub does not sign in alice, or its list of accounts does not show it.
        """
        (answer,) = self.send_identities(["alice"])
        if not hub_cookie(answer.get("headers", [])):
            raise Unusable(f"the hub does not sign in alice: {answer}")
        if "alice" not in self.accounts():
            raise Unusable(f"the hub signs in alice, but its accounts are {self.accounts()}")

    def administrators_with_groups(self, groups: Sequence[str]) -> set[str]:
        """Let alice sign in with a permitted group and further ones. Return the accounts that administer the hub.

        Args:
            groups: Names of groups in which ``ADMINS`` stands for the administrators' group.
        """
        raise Unusable("the hub takes no groups from the sign-on here")

    def permission_headers(self) -> list[list[str]]:
        """Return further headers that the web server sends for a permitted user."""
        return []

    @abstractmethod
    def accounts(self) -> set[str]:
        """Return the account names in the hub's database."""

    # -- sessions

    def session(self, name: str) -> Session:
        """Return a user's running session. Start one if there is none.

        Raises:
            Unusable: The session does not start.
        """
        person = self.signed_in(name)
        if not person.server().get("ready"):
            self.stop(name)
            self.prepare_home(name)
            self.start(name)
        return self.running(name)

    def start(self, name: str, choice: dict[str, Any] | None = None) -> None:
        """Start a session and wait until the hub reports it as ready."""
        person = self.signed_in(name)
        answer = person.api("POST", f"users/{name}/server", choice or {"profile": self.profile})
        if answer.status not in {201, 202}:
            raise Unusable(f"{name} cannot start a session: {answer}")
        wait(f"the session of {name} is ready", lambda: person.server().get("ready"), timeout=START)

    def running(self, name: str) -> Session:
        """Return a user's running session.

        Raises:
            Unusable: The user does not have exactly one job.
        """
        jobs = self.lab.jobs(name)
        if len(jobs) != 1:
            raise Unusable(f"{name} must have exactly one job, but has {jobs}")
        known = json.loads(self.run(jobs[0].node, name, ["cat", f"/home/{name}/.hostile/server.json"]))
        return Session(name, jobs[0], known["pid"], known["environment"], known["pem"])

    def stop(self, name: str) -> None:
        """End a user's session and jobs, in whatever state they are."""
        person = self.signed_in(name)
        if person.server():
            person.api("DELETE", f"users/{name}/server")
            wait(f"{name} has no server", lambda: not person.server(), timeout=90)
        self.run("login1", "root", ["scancel", f"--user={name}"])
        wait(f"{name} has no job", lambda: not self.lab.jobs(name))

    def prepare_home(self, name: str) -> None:
        """Give a user a hostile notebook server and login files that print a command."""
        server = self.program("own_server.py")
        self.write("login1", name, f"/home/{name}/.jupyter/jupyter_server_config.py", server)
        self.run("login1", name, ["rm", "-f", f"/home/{name}/.hostile/requests"])
        self.write("login1", name, f"/home/{name}/.bashrc", f"echo '1; touch {PROBE}/seen/injected'\n")

    def clean_home(self, name: str) -> None:
        """Remove the hostile files again."""
        skeleton = f"cd /home/{name} && rm -rf .hostile .jupyter/jupyter_server_config.py && cp /etc/skel/.bashrc ."
        self.run("login1", name, ["sh", "-c", skeleton])

    def received(self, name: str) -> list[list[Any]]:
        """Return the requests to a user's hostile pages, as ``[METHOD, URI, [[NAME, VALUE]], BODY]``.

        The list is empty if no request has arrived yet. A test must show that its own requests can arrive.
        """
        text = self.run("login1", name, ["sh", "-c", f"cat /home/{name}/.hostile/requests 2> /dev/null"])
        return [json.loads(line) for line in text.splitlines()]

    def api_of(self, session: Session) -> dict[str, Any]:
        """Return the hub's address for a session, as the first fields of a request of ``programs/ask.py``."""
        where = urlsplit(session.api_url)
        return {"host": where.hostname, "port": where.port, "tls": where.scheme == "https", "name": where.hostname}

    def as_job(self, session: Session, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Send a request from the session's node with the session's own token, and return the hub's response.

        Raises:
            Unusable: The hub did not answer, or it has no such endpoint, or it does not know the token. The last two
                would be refusals for the wrong reason.
        """
        step = {
            **self.api_of(session),
            "method": method,
            "target": f"{urlsplit(session.api_url).path}/{path}",
            "headers": [["Authorization", f"token {session.token}"], ["Content-Type", "application/json"]],
            "body": None if body is None else json.dumps(body),
        }
        known = {**step, "method": "GET", "target": f"{urlsplit(session.api_url).path}/user", "body": None}
        owner, found = self.python("ask.py", session.job.node, session.user, [known, step])
        if owner.get("status") != 200 or json.loads(owner["text"])["name"] != session.user:
            raise Unusable(f"the hub does not accept the token of {session.user}: {owner}")
        if found.get("status", 404) == 404:
            raise Unusable(f"the hub has no endpoint {method} {path}: {found}")
        answer: dict[str, Any] = found
        return answer

    def is_alive(self, session: Session) -> bool:
        """Return whether the session's job still runs and its owner still reaches the notebook server."""
        if session.job.id not in {job.id for job in self.lab.jobs(session.user)}:
            return False
        mark = f"/user/{session.user}/hostile/{secrets.token_hex(4)}"
        answer = self.signed_in(session.user).ask(mark)
        return answer.status == 200 and "Look at my notebook" in answer.text

    @abstractmethod
    def script(self, session: Session) -> str | None:
        """Return the expected batch script of a session, or None if nothing defines it."""

    # -- the service

    def restart(self) -> None:
        """Restart the hub as an administrator does."""
        self.lab.run(self.hub, ["systemctl", "restart", self.unit], timeout=180)
        self._wait_for_hub()

    def kill(self) -> None:
        """Kill the hub and keep systemd from starting it again."""
        self.lab.run(self.hub, ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", self.unit])
        self.lab.run(self.hub, ["systemctl", "stop", self.unit], check=False)

    def start_hub(self) -> None:
        """Start a hub that is not running."""
        self.lab.run(self.hub, ["systemctl", "reset-failed", self.unit], check=False)
        self.lab.run(self.hub, ["systemctl", "start", self.unit], timeout=180)
        self._wait_for_hub()

    def _wait_for_hub(self) -> None:
        step = {**self.identity_endpoint(), "target": "/hub/health"}
        wait(
            "the hub answers",
            lambda: self.python("ask.py", self.hub, "www-data", [step])[0].get("status") == 200,
            timeout=90,
        )

    @property
    def database(self) -> str:
        """The file of the hub's database."""
        return f"{self.state[0]}/jupyterhub.sqlite"

    @contextmanager
    def empty_database(self) -> Iterator[None]:
        """Let the hub start with an empty database. Restore its own database afterwards."""
        kept = "/run/hpchub-kept-database"
        self.kill()
        self.run(self.hub, "root", ["sh", "-c", f"rm -rf {kept}; mkdir -m 700 {kept} && mv {self.database}* {kept}"])
        try:
            self.start_hub()
            yield
        finally:
            self.kill()
            restore = f"rm -f {self.database}*; mv {kept}/* {self.state[0]}/ && rmdir {kept}"
            self.run(self.hub, "root", ["sh", "-c", restore])
            self.start_hub()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fill the file system of the hub's database while the hub runs."""
        state, small = self.state[0], "/run/hpchub-small-disk"
        self.kill()
        mount = (
            f"mkdir -p {small} && mount -t tmpfs -o size=32m,mode=700 tmpfs {small} && cp -a {state}/. {small}/"
            f" && chown --reference={state} {small} && mount --bind {small} {state}"
        )
        self.run(self.hub, "root", ["sh", "-c", mount])
        try:
            self.start_hub()
            self.run(self.hub, "root", ["sh", "-c", f"dd if=/dev/zero of={small}/filler bs=4k; true"])
            yield
        finally:
            self.run(self.hub, "root", ["rm", "-f", f"{small}/filler"])
            self.kill()
            restore = f"umount {state} && cp -a {small}/. {state}/ && umount {small} && rmdir {small}"
            self.run(self.hub, "root", ["sh", "-c", restore])
            self.start_hub()

    def log(self, since: float) -> str:
        """Return the log lines of the hub and its web server since a Unix time in seconds."""
        journal = ["journalctl", "--no-pager", "--output=cat", f"--since=@{int(since)}", f"--unit={self.unit}"]
        return self.run(self.hub, "root", journal) + self.run(
            self.hub, "root", ["sh", "-c", "tail -qn 200 /var/log/apache2/*access.log"]
        )

    def secrets(self) -> dict[str, str]:
        """Return the service's own secrets by name. Only the service's accounts may know them.

        Raises:
            Unusable: There is no secret, or one of them is too short to be a secret.
        """
        found = self._secrets()
        if not found or min(map(len, found.values())) < SHORTEST_SECRET:
            raise Unusable(f"the secrets of the service were not found; there are only {sorted(found)}")
        return found

    @abstractmethod
    def _secrets(self) -> dict[str, str]:
        """Read the service's own secrets."""

    @abstractmethod
    def proxy_api(self) -> dict[str, Any]:
        """Return the endpoint of the proxy's API, as the first fields of a request of ``programs/ask.py``."""

    @contextmanager
    @abstractmethod
    def without_profile(self) -> Iterator[None]:
        """Remove the profile that sessions use, as an administrator would. Restore it afterwards."""
        yield

    @contextmanager
    def batchspawner_alone(self) -> Iterator[None]:
        """Remove wrapspawner in front of batchspawner, which hides it, where the target uses both."""
        yield

    def needs_job_certificates(self) -> None:  # noqa: B027 most targets need nothing
        """Skip the test if jobs have no certificates."""

    def needs_adoption(self) -> None:  # noqa: B027
        """Skip the test if the hub does not adopt the sessions that its database lacks."""

    def needs_a_secret_of_the_web_server(self) -> None:  # noqa: B027
        """Skip the test if the web server does not prove its identity to the hub by a secret."""

    @abstractmethod
    def submits_as_root(self) -> bool:
        """Return whether the hub's account may submit a job as root."""

    @abstractmethod
    def proxy_without_token(self) -> bool:
        """Return whether a proxy that was started without its token accepts requests to its API."""

    # -- the scheduler's commands

    @contextmanager
    def watched_commands(self) -> Iterator[None]:
        """Replace the scheduler's commands on the login node by ``programs/command.sh``. Restore them afterwards."""
        self.restore_commands()
        program = self.program("command.sh")
        try:
            self.lab.run("login1", ["install", "-d", "-m", "1777", PROBE, f"{PROBE}/seen"])
            self.lab.run("login1", ["install", "-d", REAL])
            for name in COMMANDS:
                self.lab.run("login1", ["cp", "--preserve", f"/usr/bin/{name}", f"{REAL}/{name}"])
                self.write("login1", "root", f"/usr/bin/.{name}", program, "0755")
                self.lab.run("login1", ["mv", f"/usr/bin/.{name}", f"/usr/bin/{name}"])
            self._require_that_calls_are_recorded()
            yield
        finally:
            self.restore_commands()

    def _require_that_calls_are_recorded(self) -> None:
        """Call each command as alice, check that the call is recorded, and delete the records.

        Raises:
            Unusable: A call is not recorded, so the tests would not see the calls of the service either.
        """
        for name in COMMANDS:
            mark = f"--{secrets.token_hex(4)}"
            self.run("login1", "alice", [name, mark])
            if not self.calls(name) or mark not in self.seen_by_commands():
                raise Unusable(f"a call of {name} on the login node is not recorded: {self.seen_by_commands()[:2000]}")
        self.run("login1", "root", ["sh", "-c", f"rm -rf {PROBE}/seen/*"])

    def restore_commands(self) -> None:
        """Restore the scheduler's own commands."""
        for name in COMMANDS:
            self.run("login1", "root", ["sh", "-c", f"test -e {REAL}/{name} && mv {REAL}/{name} /usr/bin/{name}"])
        self.run("login1", "root", ["rm", "-rf", PROBE, REAL])

    @contextmanager
    def command_is(self, name: str, mode: str) -> Iterator[None]:
        """Make a scheduler command behave in one of the modes of ``programs/command.sh``."""
        self.write("login1", "root", f"{PROBE}/mode.{name}", mode, "0644")
        try:
            yield
        finally:
            self.run("login1", "root", ["rm", "-f", f"{PROBE}/mode.{name}"])
            # Release a caller that waits for a hanging command.
            self.run("login1", "root", ["pkill", "-KILL", "-f", "^sleep 600$"])

    def calls(self, name: str) -> int:
        """Return how often the service has called a command since the tests began."""
        return len(self.run("login1", "root", ["sh", "-c", f"ls -d {PROBE}/seen/{name}.* 2> /dev/null"]).split())

    def seen_by_commands(self) -> str:
        """Return the environments and arguments of all commands that the service ran, and of their parents."""
        return self.run("login1", "root", ["sh", "-c", f"cat {PROBE}/seen/*/* | tr '\\0' '\\n'"])

    @property
    def injected(self) -> bool:
        """Whether a command of the attacker was executed while the service called the scheduler's commands."""
        listed = self.run("login1", "root", ["ls", "-a", f"{PROBE}/seen"]).split()
        if "." not in listed:
            raise Unusable(f"the directory with the records of the calls cannot be read: {' '.join(listed)}")
        return "injected" in listed


def basic(name: str, password: str) -> tuple[str, str]:
    """Return the Authorization header of HTTP basic authentication."""
    return "Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
