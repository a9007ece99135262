"""The service under attack: what an attack may know of it, and from where it can be tried.

``Target`` has two implementations: ``hpchub`` as it is deployed, and ``stock`` as the packages' documentation shows it.
"""

from __future__ import annotations

import base64
import itertools
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

from lab.web_client import Answer, Visitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from e2e.lab import Job, Lab

PROGRAMS = Path(__file__).parent / "programs"
COMMANDS = ("squeue", "sbatch")
PROBE = "/run/hpchub-probe"
REAL = "/usr/libexec/hpchub-probe"
START = 120  # seconds that a session may take to start

IDENTITY = ["X-Hpchub-User", "X-Hpchub-Groups", "Remote-User", "X-Remote-User", "X-Forwarded-User"]
"""Names of headers that say who somebody is, each to be tried in every spelling."""


class Unusable(RuntimeError):
    """The attack could not be tried: that says nothing about the service."""


def wait(what: str, probe: Callable[[], Any], *, timeout: float = 60, interval: float = 0.5) -> Any:
    """The first truthy answer; unlike in an assertion, none is a failure of the attempt, not of the service.

    Raises:
        Unusable: none came within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise Unusable(f"not within {timeout:.0f} s: {what} (last answer: {answer!r})")
        time.sleep(interval)
    return answer


def spellings(name: str) -> list[str]:
    """A header's name with every mixture of dashes and underscores, in three cases."""
    words = name.split("-")
    found = []
    for marks in itertools.product("-_", repeat=len(words) - 1):
        spelt = words[0] + "".join(mark + word for mark, word in zip(marks, words[1:], strict=True))
        found += [spelt, spelt.lower(), spelt.upper()]
    return found


def forged(name: str) -> list[tuple[str, str]]:
    """Every header that could tell a hub who somebody is, in every spelling."""
    return [(spelt, name) for header in IDENTITY for spelt in spellings(header)]


def signed_in_as(text: str) -> str:
    """The name that the hub shows on its pages, or nothing."""
    found = re.search(r'\buser: "([^"]*)"', text)
    return found[1] if found else ""


def hub_cookie(headers: list[list[str]]) -> bool:
    """Whether an answer, as ``programs/ask.py`` gives it, signs somebody in."""
    return any(name.lower() == "set-cookie" and value.startswith("jupyterhub-hub-login=") for name, value in headers)


class Person(Visitor):
    """A person at the public door: one browser, without its scruples.

    Args:
        always: headers that go with each request, as a browser sends a password that it knows.
    """

    def __init__(self, target: Target, name: str, always: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(target.addresses, target.url)
        self.name = name
        self.always = list(always)
        self.set_cookies: list[str] = []

    def ask(self, target: str, headers: Sequence[tuple[str, str]] = (), **more: Any) -> Answer:
        """See Visitor.ask."""
        answer = super().ask(target, [*self.always, *headers], **more)
        self.set_cookies += answer.headers.get_all("Set-Cookie") or []
        return answer

    @property
    def jar(self) -> dict[str, str]:
        """The cookies for the service."""
        return self.cookies.setdefault(self.url.split("//", 1)[1], {})

    def page(self, target: str) -> Answer:
        """The page where one arrives."""
        return self.follow(self.ask(target))[0]

    def api(self, method: str, path: str, body: Any = None) -> Answer:
        """The REST API, as the hub's own pages use it: with cookies and the XSRF token."""
        self.page("/hub/home")
        headers = [("X-XSRFToken", self.jar.get("_xsrf", "")), ("Accept", "application/json")]
        text = None if body is None else json.dumps(body).encode()
        return self.ask(f"/hub/api/{path}", [*headers, ("Content-Type", "application/json")], method=method, body=text)

    def server(self) -> dict[str, Any]:
        """What the hub says of this person's server, empty if there is none."""
        answer = self.api("GET", f"users/{self.name}")
        if answer.status != 200:
            raise Unusable(f"the hub does not say what {self.name} has: {answer}")
        found: dict[str, Any] = json.loads(answer.text).get("servers", {}).get("", {})
        return found


@dataclass
class Session:
    """One user's session and what its user can know of it.

    Attributes:
        user: whose it is.
        job: the batch job.
        pid: the notebook server's process on the job's node.
        environment: of the notebook server; with its token.
        pem: the server's key and certificate, empty where it has none.
        port: where it listens.
    """

    user: str
    job: Job
    pid: int
    environment: dict[str, str]
    pem: str

    @property
    def port(self) -> int:
        """Where it listens."""
        found = re.search(r":(\d+)/", self.environment["JUPYTERHUB_SERVICE_URL"])
        assert found
        return int(found[1])

    @property
    def token(self) -> str:
        """Its own token for the hub."""
        return self.environment["JUPYTERHUB_API_TOKEN"]

    @property
    def api_url(self) -> str:
        """Where it finds the hub."""
        return self.environment["JUPYTERHUB_API_URL"]


class Target(ABC):
    """The service under attack.

    Attributes:
        name: ``hpchub`` or ``stock``.
        url: the public door's, without a path.
        addresses: host names of URLs to the addresses that are really asked.
        hub: the host that the hub runs on.
        account: the hub's account on it.
        unit: the hub's unit.
        identity_header: what tells this hub who somebody is.
        state: directories on the hub host that hold what the service keeps and logs.
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
    """Beginnings of the names of the cookies by which the web server knows who has signed in."""

    @classmethod
    @contextmanager
    def set_up(cls, lab: Lab) -> Iterator[Self]:
        """The service, there while the context lasts."""
        yield cls(lab)

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.profile = lab.profiles()[0]["key"]
        self._people: dict[str, Person] = {}

    # -- hosts

    def run(self, host: str, user: str, argv: Sequence[str], *, text: str = "", timeout: float = 60) -> str:
        """Standard output and error of a command that an account runs on a host, whatever its exit code."""
        words = argv if user == "root" else ["runuser", "--user", user, "--", *argv]
        done = subprocess.run(
            ["ssh", "-F", str(self.lab.directory / "ssh_config"), self.lab.host(host), "--", shlex.join(words)],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.stdout + done.stderr

    def python(self, program: str, host: str, user: str, value: Any, *, job: bool = False) -> Any:
        """The JSON that one of ``programs`` answers to a JSON value, run by an account, alone or in a Slurm job.

        Raises:
            Unusable: it did not run.
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
        """What ``programs/ask.py`` answers on this machine, which is no host of the cluster's."""
        argv = [sys.executable, "-c", self.program("ask.py")]
        done = subprocess.run(argv, input=json.dumps(steps), capture_output=True, text=True, check=True, timeout=180)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    @staticmethod
    def program(name: str) -> str:
        """The text of one of ``programs``."""
        return (PROGRAMS / name).read_text()

    def write(self, host: str, user: str, path: str, text: str, mode: str = "0600") -> None:
        """Write a file as an account."""
        program = 'umask 077; mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        done = self.run(host, user, ["sh", "-c", program, "write", path, mode], text=text)
        if done:
            raise Unusable(f"{host}:{path} cannot be written: {done}")

    def ports(self) -> list[int]:
        """Every TCP port on which something listens on the hub host."""
        lines = self.run(self.hub, "root", ["ss", "-ltnH"]).splitlines()
        return sorted({int(line.split()[3].rsplit(":", 1)[1]) for line in lines})

    # -- people

    def person(self, name: str = "") -> Person:
        """Somebody new at the public door, signed in if named."""
        return self._sign_in(name) if name else Person(self, name)

    def known(self, name: str) -> Person:
        """Somebody who signed in before, and whose cookies are good; the same for all tests."""
        person = self._people.get(name)
        if person is None or signed_in_as(person.page("/hub/home").text) != name:
            person = self._people[name] = self.person(name)
        return person

    @abstractmethod
    def _sign_in(self, name: str) -> Person:
        """Somebody signed in through the single sign-on."""

    @abstractmethod
    def browser_page(self, browser: Any, name: str) -> Any:
        """A page of a real browser, for somebody signed in."""

    @abstractmethod
    def identity_door(self) -> dict[str, Any]:
        """Where the web server tells the hub who somebody is: the first fields of a request of ``programs/ask.py``."""

    def vouch(self, names: Sequence[str | list[str]], *, permitted: bool = True) -> list[dict[str, Any]]:
        """What the hub answers when the web server itself says that somebody with such a name has signed in.

        A list of names is a header that comes as often.
        """
        steps = []
        for name in names:
            values = [name] if isinstance(name, str) else name
            sent = [[self.identity_header, value] for value in values]
            also = self.vouched_with() if permitted else []
            steps.append({**self.identity_door(), "target": "/hub/login", "headers": [*sent, *also]})
        found: list[dict[str, Any]] = self.python("ask.py", self.hub, "www-data", steps)
        return found

    def vouched_with(self) -> list[list[str]]:
        """Further headers with which the web server vouches for somebody who is permitted."""
        return []

    @abstractmethod
    def accounts(self) -> set[str]:
        """The names in the hub's database."""

    # -- sessions

    def session(self, name: str) -> Session:
        """Somebody's session: the one that runs, or a new one.

        Raises:
            Unusable: it does not start.
        """
        person = self.known(name)
        if not person.server().get("ready"):
            self.stop(name)
            self.prepare_home(name)
            self.start(name)
        return self.running(name)

    def start(self, name: str, choice: dict[str, Any] | None = None) -> None:
        """Start a session and wait until the hub calls it ready."""
        person = self.known(name)
        answer = person.api("POST", f"users/{name}/server", choice or {"profile": self.profile})
        if answer.status not in {201, 202}:
            raise Unusable(f"no session for {name}: {answer}")
        wait(f"the session of {name} is ready", lambda: person.server().get("ready"), timeout=START)

    def running(self, name: str) -> Session:
        """The session that runs.

        Raises:
            Unusable: there is not exactly one job, or its server has not written down what it knows.
        """
        jobs = self.lab.jobs(name)
        if len(jobs) != 1:
            raise Unusable(f"{name} has the jobs {jobs}")
        known = json.loads(self.run(jobs[0].node, name, ["cat", f"/home/{name}/.hostile/server.json"]))
        return Session(name, jobs[0], known["pid"], known["environment"], known["pem"])

    def stop(self, name: str) -> None:
        """End somebody's session and jobs, whatever state they are in."""
        person = self.known(name)
        if person.server():
            person.api("DELETE", f"users/{name}/server")
            wait(f"{name} has no server", lambda: not person.server(), timeout=90)
        self.run("login1", "root", ["scancel", f"--user={name}"])
        wait(f"{name} has no job", lambda: not self.lab.jobs(name))

    def prepare_home(self, name: str) -> None:
        """What a hostile user has at home: a notebook server of his own making, and login files that talk."""
        server = self.program("own_server.py")
        self.write("login1", name, f"/home/{name}/.jupyter/jupyter_server_config.py", server)
        self.run("login1", name, ["rm", "-f", f"/home/{name}/.hostile/requests"])
        self.write("login1", name, f"/home/{name}/.bashrc", f"echo '1; touch {PROBE}/seen/hole'\n")

    def clean_home(self, name: str) -> None:
        """Remove it again."""
        skeleton = f"cd /home/{name} && rm -rf .hostile .jupyter/jupyter_server_config.py && cp /etc/skel/.bashrc ."
        self.run("login1", name, ["sh", "-c", skeleton])

    def received(self, name: str) -> list[list[Any]]:
        """The requests that somebody's own hostile pages have had: ``[METHOD, URI, [[NAME, VALUE]], BODY]``."""
        text = self.run("login1", name, ["sh", "-c", f"cat /home/{name}/.hostile/requests 2> /dev/null"])
        return [json.loads(line) for line in text.splitlines()]

    def api_of(self, session: Session) -> dict[str, Any]:
        """Where a session finds the hub, as the first fields of a request of ``programs/ask.py``."""
        where = urlsplit(session.api_url)
        return {"host": where.hostname, "port": where.port, "tls": where.scheme == "https", "name": where.hostname}

    def as_job(self, session: Session, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """What the hub answers to a request with the session's own token, from its node."""
        step = {
            **self.api_of(session),
            "method": method,
            "target": f"{urlsplit(session.api_url).path}/{path}",
            "headers": [["Authorization", f"token {session.token}"], ["Content-Type", "application/json"]],
            "body": None if body is None else json.dumps(body),
        }
        found: dict[str, Any] = self.python("ask.py", session.job.node, session.user, [step])[0]
        return found

    def lives(self, session: Session) -> bool:
        """Whether the job is the same, and the door still leads its owner to its server."""
        if session.job.id not in {job.id for job in self.lab.jobs(session.user)}:
            return False
        mark = f"/user/{session.user}/hostile/{secrets.token_hex(4)}"
        answer = self.known(session.user).ask(mark)
        return answer.status == 200 and "Look at my notebook" in answer.text

    @abstractmethod
    def script(self, session: Session) -> str | None:
        """What the session's batch script must be, byte for byte; None where nothing says so."""

    # -- the service

    def restart(self) -> None:
        """Restart the hub as its administrator does."""
        self.lab.run(self.hub, ["systemctl", "restart", self.unit], timeout=180)
        self._wait_for_hub()

    def kill(self) -> None:
        """Kill the hub, and see that it does not come back by itself."""
        self.lab.run(self.hub, ["systemctl", "kill", "--signal=KILL", "--kill-whom=main", self.unit])
        self.lab.run(self.hub, ["systemctl", "stop", self.unit], check=False)

    def start_hub(self) -> None:
        """Start a hub that is not running."""
        self.lab.run(self.hub, ["systemctl", "reset-failed", self.unit], check=False)
        self.lab.run(self.hub, ["systemctl", "start", self.unit], timeout=180)
        self._wait_for_hub()

    def _wait_for_hub(self) -> None:
        step = {**self.identity_door(), "target": "/hub/health"}
        wait(
            "the hub answers",
            lambda: self.python("ask.py", self.hub, "www-data", [step])[0].get("status") == 200,
            timeout=90,
        )

    def log(self, since: float) -> str:
        """What the hub and the doors before it have logged since a Unix time in seconds."""
        journal = ["journalctl", "--no-pager", "--output=cat", f"--since=@{int(since)}", f"--unit={self.unit}"]
        return self.run(self.hub, "root", journal) + self.run(
            self.hub, "root", ["sh", "-c", "tail -qn 200 /var/log/apache2/*access.log"]
        )

    @abstractmethod
    def secrets(self) -> dict[str, str]:
        """The service's own secrets by name: nobody but its accounts may know them."""

    @abstractmethod
    def proxy_api(self) -> dict[str, Any]:
        """Where the proxy takes its routes, as the first fields of a request of ``programs/ask.py``."""

    @contextmanager
    def without_profile(self) -> Iterator[None]:
        """The administrator removes the profile that sessions use."""
        raise NotImplementedError
        yield

    @contextmanager
    def batchspawner_alone(self) -> Iterator[None]:
        """Where wrapspawner stands before batchspawner and hides it, without it."""
        yield

    def needs_job_certificates(self) -> None:  # noqa: B027 most services need nothing
        """Skip the test where jobs have no certificates."""

    def needs_a_secret_between_the_doors(self) -> None:  # noqa: B027
        """Skip the test where no web server shows the hub a secret of theirs."""

    @abstractmethod
    def submits_as_root(self) -> bool:
        """Whether the hub's account may submit a job of root's."""

    @abstractmethod
    def proxy_without_token(self) -> bool:
        """Whether a proxy that is started without its token gives its routes to whoever asks."""

    # -- the scheduler's commands

    @contextmanager
    def watched_commands(self) -> Iterator[None]:
        """Put a program of ours in the place of the scheduler's commands on the login node."""
        self.restore_commands()
        program = self.program("command.sh")
        try:
            self.lab.run("login1", ["install", "-d", "-m", "1777", PROBE, f"{PROBE}/seen"])
            self.lab.run("login1", ["install", "-d", REAL])
            for name in COMMANDS:
                self.lab.run("login1", ["cp", "--preserve", f"/usr/bin/{name}", f"{REAL}/{name}"])
                self.write("login1", "root", f"/usr/bin/.{name}", program, "0755")
                self.lab.run("login1", ["mv", f"/usr/bin/.{name}", f"/usr/bin/{name}"])
            yield
        finally:
            self.restore_commands()

    def restore_commands(self) -> None:
        """Put the scheduler's own commands back."""
        for name in COMMANDS:
            self.run("login1", "root", ["sh", "-c", f"test -e {REAL}/{name} && mv {REAL}/{name} /usr/bin/{name}"])
        self.run("login1", "root", ["rm", "-rf", PROBE, REAL])

    @contextmanager
    def command_is(self, name: str, mode: str) -> Iterator[None]:
        """Have a command behave as ``programs/command.sh`` has it."""
        self.write("login1", "root", f"{PROBE}/mode.{name}", mode, "0644")
        try:
            yield
        finally:
            self.run("login1", "root", ["rm", "-f", f"{PROBE}/mode.{name}"])
            # Whoever waits for a command that hangs need not wait any longer.
            self.run("login1", "root", ["pkill", "-KILL", "-f", "^sleep 600$"])

    def calls(self, name: str) -> int:
        """How often the service has called a command since the tests began."""
        return len(self.run("login1", "root", ["sh", "-c", f"ls -d {PROBE}/seen/{name}.* 2> /dev/null"]).split())

    def seen_by_commands(self) -> str:
        """Environments and argument lists of every command that the service has run, and of what ran it."""
        return self.run("login1", "root", ["sh", "-c", f"cat {PROBE}/seen/*/* | tr '\\0' '\\n'"])

    @property
    def hole(self) -> bool:
        """Whether a command of an attacker's has been run by the way of the scheduler's commands."""
        return "hole" in self.run("login1", "root", ["sh", "-c", f"ls {PROBE}/seen"]).split()


def basic(name: str, password: str) -> tuple[str, str]:
    """A browser's header for a password."""
    return "Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
