"""A real JupyterHub for tests: its application, database and users. The proxy, the gate and the poller are fakes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from ansible_collections.hpchub.hpchub.plugins.modules import notebook_certificates
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from jinja2 import BytecodeCache
from jupyterhub import orm, roles
from jupyterhub.app import JupyterHub
from jupyterhub.crypto import CryptKeeper
from jupyterhub.httpclient import JupyterHubHTTPClient
from jupyterhub.objects import Server
from jupyterhub.proxy import Proxy
from sqlalchemy import make_url
from traitlets import default
from traitlets.config import Config

from hpchub.clusters.gate_client import Answer, Gate
from hpchub.clusters.poller import Poller, Snapshot
from hpchub.hub import config as hub_config
from hpchub.hub import monitoring
from hpchub.hub.certificates import Authority, ServerIdentity
from hpchub.hub.database import Guard, engine_options
from hpchub.hub.health import Health
from hpchub.hub.runtime import Runtime, runtime
from hpchub.model.profile_list import profile_list
from hpchub.model.site import Site
from hpchub.names import USER_PATTERN
from hpchub.remote.gate import PROTOCOL
from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import CodeType

    from jinja2.bccache import Bucket
    from tornado.httpclient import HTTPResponse

    from hpchub.hub.audit import AuditLog
    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

    Ask = Callable[..., Awaitable[HTTPResponse]]

HUB = "hub.example.org"
SESSION = "a" * 16
PORTS = {"first": 20000, "last": 29999}
IN_MEMORY = "sqlite:///:memory:"

VARIABLES: dict[str, Any] = {
    "hpc_service": {"url": f"https://{HUB}"},
    "hpc_sso": {
        "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
        "client_secret": "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
    },
    "hpc_access": {"allowed_groups": ["hpc"], "job_groups": ["hpc"]},
    "hpc_clusters": [
        {
            "name": "demo",
            "scheduler": "slurm",
            "submit": {"method": "local"},
            "networks": ["192.0.2.0/24"],
            "node_hosts": [{"node": "n1", "host": "n1.example"}],
            "queues": [{"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "12:00:00"}],
        }
    ],
}


def profile(key: str, **changes: Any) -> dict[str, Any]:
    """Return a profile as an inventory contains it."""
    return {
        "key": key,
        "display_name": key,
        "cluster": "demo",
        "queue": "q",
        "cores": 1,
        "memory": "1G",
        "runtime": "1:00:00",
        **changes,
    }


def site(*profiles: dict[str, Any], **variables: Any) -> Site:
    """Return the site with these profiles and other variables."""
    return Site.from_vars({**VARIABLES, "hpc_profiles": list(profiles), **variables})


def write_profiles(directory: Path, *profiles: dict[str, Any], **variables: Any) -> None:
    """Write the profile list that the hub reads."""
    (directory / "profiles.json").write_text(json.dumps(profile_list(site(*profiles, **variables))))


def write_notices(directory: Path, *drains: dict[str, Any], by_hand: bool = False, **others: Any) -> None:
    """Write a file of drains and announcements that the hub reads."""
    name = "notices-by-hand.json" if by_hand else "notices.json"
    (directory / name).write_text(json.dumps({"version": 1, "drains": list(drains), **others}))


async def eventually(condition: Callable[[], object]) -> Any:
    """Wait until a condition is true, and return its value."""
    async with asyncio.timeout(30):
        while not (found := condition()):  # noqa: ASYNC110 the condition has no event
            await asyncio.sleep(0.005)
    return found


def after(seconds: float) -> str:
    """Return the time after so many seconds from now, as an inventory contains it."""
    return datetime.fromtimestamp(time.time() + seconds, UTC).isoformat(timespec="seconds")


SITE = site(profile("small"))
CLUSTER = SITE.clusters[0]
GRANT = {"profile": SITE.profiles[0].model_dump(mode="json"), "cluster": CLUSTER.model_dump(mode="json")}


def job(
    state: JobState = JobState.RUNNING,
    *,
    job_id: str = "7",
    session: str = SESSION,
    user: str = "alice",
    database: str = "",
) -> Job:
    """Return a session's job as the scheduler shows it. Without a database, its tag is that of older versions."""
    host = "127.0.0.1" if state is JobState.RUNNING else ""
    comment = f"hpchub/{HUB}{database and '~'}{database}/{user}/{session}"
    return Job(job_id, state, state.name, host=host, name=f"hpchub-{session}", user=user, comment=comment)


def signed_on(user: str, *groups: str) -> dict[str, str]:
    """Return the headers that the web server adds to the requests of a user after the single sign-on."""
    return {"X_Hpchub_User": user, "X_Hpchub_Userinfo": encode_claims(groups=groups)}


def answer(stdout: str = "", code: int = 0, stderr: str = "") -> Answer:
    """Return an answer of the gate."""
    return Answer(ok=code == 0, exit=code, stdout=stdout, stderr=stderr, command=[], error="error" if code else "")


class FakeGate(Gate):
    """A gate with scripted answers to submissions and cancellations."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__("demo")
        self.jobs = jobs
        self.delay = 0.0
        self.on_submit: Callable[[str], Answer | Exception] = lambda session: answer("7\n")
        self.on_cancel: Callable[[str], Answer | Exception] = lambda job_id: answer()
        self.on_history: Callable[[str], Answer | Exception] = lambda job_id: answer(code=1)
        self.on_log: Callable[[str], Answer | Exception] = lambda job_id: answer(code=1)
        self.versions: Answer | Exception = answer(json.dumps({"protocol": PROTOCOL, "notebook": None}))
        self.questions = 0  # how often the hub has asked for the versions
        self.submissions: list[dict[str, Any]] = []
        self.cancelled: list[str] = []

    async def _exchange(self, request: bytes) -> Answer:
        fields = json.loads(request)
        if fields["action"] == "versions":
            self.questions += 1
            return self._result(self.versions)
        if fields["action"] in ("doctor", "knowledge"):
            return answer(code=1)
        await asyncio.sleep(self.delay)
        if fields["action"] == "submit":
            self.submissions.append(fields)
            return self._result(self.on_submit(fields["session"]))
        if fields["action"] in ("history", "log"):
            return self._result((self.on_history if fields["action"] == "history" else self.on_log)(fields["job_id"]))
        assert fields["action"] == "cancel"
        result = self._result(self.on_cancel(fields["job_id"]))
        if result.ok:
            self.cancelled.append(fields["job_id"])
            self.jobs[:] = [each for each in self.jobs if each.id != fields["job_id"]]
        return result

    @staticmethod
    def _result(result: Answer | Exception) -> Answer:
        if isinstance(result, Exception):
            raise result
        return result


class FakePoller(Poller):
    """A poller that shows the given jobs at once."""

    def __init__(self, jobs: list[Job], gate: Gate) -> None:
        super().__init__(SCHEDULERS["slurm"], gate)
        self.jobs = jobs
        self.silent = False
        self.hides_jobs = False
        self.clock: Callable[[], float] = time.monotonic
        self.lookups = 0
        self.lookup: Job | Exception | None = None

    async def snapshot(self, max_age: float) -> Snapshot:
        await asyncio.sleep(0)
        if self.silent:
            raise Unanswered("the scheduler does not answer")
        return Snapshot(self.clock(), {job.id: job for job in self.jobs if not self.hides_jobs})

    async def find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        self.lookups += 1
        if isinstance(self.lookup, Exception):
            raise self.lookup
        return self.lookup or next((job for job in self.jobs if job.id == job_id), None)


def make_authority(directory: Path) -> Authority:
    """Create the files of an authority, as the role does."""
    module: Any = SimpleNamespace(
        params={"path": str(directory), "owner": "", "proxy_group": ""},
        check_mode=False,
        load_file_common_arguments=lambda attributes, path: {},
        set_fs_attributes_if_different=lambda arguments, changed: False,
    )
    directory.mkdir(exist_ok=True)
    notebook_certificates.Authority(module).make(rotate=False)
    return Authority(directory)


def certificate(validity: timedelta) -> bytes:
    """Create a self-signed certificate, as PEM text, that is valid for this time from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub.example.org")])
    end = datetime.now(UTC) + validity
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(end - timedelta(days=365)).not_valid_after(end)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class FakeAuthority:
    """A certificate authority that creates no keys. Servers have no certificates."""

    def client_context(self) -> None:
        return None

    def issue(self, user: str, statement: str = "") -> ServerIdentity:
        return ServerIdentity(key="KEY", certificate=f"CERTIFICATE OF {user}", clients="CLIENTS")


class MemoryProxy(Proxy):  # type: ignore[misc]
    """A proxy that only remembers its routes, and the logins that have ended."""

    should_start = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.routes: dict[str, str] = {}
        self.data: dict[str, dict[str, Any]] = {}
        self.ended: list[tuple[str, str | None]] = []

    async def end_login(self, user: str, login: str | None) -> None:
        self.ended.append((user, login))

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        self.routes[routespec], self.data[routespec] = target, data

    async def get_all_routes(self) -> dict[str, Any]:
        return {spec: {"target": target, "data": self.data[spec]} for spec, target in self.routes.items()}

    async def delete_route(self, routespec: str) -> None:
        self.routes.pop(routespec, None)


class Application(JupyterHub):  # type: ignore[misc]
    """JupyterHub's application, without the work that is the same for each hub of this process."""

    plugins: list[type] | None = None

    @default("classes")
    def _load_classes(self) -> list[type]:
        if Application.plugins is None:
            Application.plugins = super()._load_classes()
        return list(Application.plugins)

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Do nothing. Hubs of tests have no command line, and its parser is expensive."""
        assert not argv


@functools.cache
def _empty_database() -> bytes:
    """Return the content of a database with JupyterHub's tables, and nothing in them."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/hub.sqlite"
        make_session = orm.new_session_factory(f"sqlite:///{path}")
        make_session.kw["bind"].dispose()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            return connection.serialize()


def _new_database() -> sqlite3.Connection:
    """Return a connection to a new database in memory, with JupyterHub's tables."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.deserialize(_empty_database())
    return connection


def make_tables(url: str) -> None:
    """Write JupyterHub's tables into the file of a database, unless it exists."""
    path = Path(str(make_url(url).database))
    if not path.exists():
        path.write_bytes(_empty_database())


class CompiledTemplates(BytecodeCache):
    """The compiled templates of all hubs in this process. JupyterHub has an environment with and one without async."""

    codes: ClassVar[dict[tuple[str, str, bool], CodeType]] = {}  # traitlets copies the instances

    @staticmethod
    def _key(bucket: Bucket) -> tuple[str, str, bool]:
        return bucket.key, bucket.checksum, bucket.environment.is_async

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self.codes.get(self._key(bucket))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self.codes[self._key(bucket)] = bucket.code


@dataclass
class Hub:
    """A JupyterHub application with its fakes."""

    app: JupyterHub
    runtime: Runtime
    gate: FakeGate
    poller: FakePoller
    audit: AuditLog
    jobs: list[Job] = field(default_factory=list)

    def show(self, *jobs: Job) -> None:
        """Replace the jobs that the scheduler shows."""
        self.jobs[:] = jobs

    @property
    def routes(self) -> dict[str, str]:
        """The proxy's routes."""
        return self.app.proxy.routes  # type: ignore[no-any-return]

    def user(self, name: str = "alice") -> Any:
        """Return JupyterHub's user, and create it if necessary."""
        found = orm.User.find(self.app.db, name)
        if found is None:
            found = orm.User(name=name)
            self.app.db.add(found)
            self.app.db.commit()
            roles.assign_default_roles(self.app.db, entity=found)
        return self.app.users[found]

    def end_session(self, session: str, user: str = "alice") -> None:
        """Record in the hub's database that a session is over."""
        self.runtime.ledger.end(session, user=user, cluster="demo", job_id="")

    def new_spawner(self) -> HPCProfilesSpawner:
        """Return a spawner that is about to start a session, prepared as JupyterHub does."""
        user = self.user()
        spawner: HPCProfilesSpawner = user.spawners[""]
        server = orm.Server(base_url="/user/alice/")
        self.app.db.add(server)
        self.app.db.commit()
        spawner.server = Server(orm_server=server)
        spawner.user_options = {"profile": "small"}
        spawner.construct_child()
        return spawner

    def restored_spawner(self, url: str = "https://:0", **job_state: Any) -> HPCProfilesSpawner:
        """Return the spawner of a session that an earlier hub process saved."""
        user = self.user()
        saved = {"session": SESSION, "job_id": "7", "submitted": 0.0, "host": "", "port": 0, **job_state}
        host, _, port = url.removeprefix("https://").rpartition(":")
        server = orm.Server(proto="https", ip=host, port=int(port), base_url="/user/alice/")
        known = orm.Spawner(name="", user=user.orm_user, server=server)
        known.state = {"grant": GRANT, "job": saved, "token": "hash"}
        self.app.db.add(known)
        self.app.db.commit()
        spawner: HPCProfilesSpawner = user.spawners[""]
        return spawner

    async def close(self) -> None:
        """Stop all tasks of the hub, and close its connections. No job is cancelled, as when the hub stops."""
        # Python 3.11's wait_for may swallow a cancellation, if its future is done at the same time.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
        await JupyterHubHTTPClient.instance().close()
        CryptKeeper.clear_instance()
        self.audit.close()
        engine = self.app.db.get_bind()
        self.app.db.close()
        engine.dispose()


def settings(directory: Path, templates: Sequence[str]) -> dict[str, Any]:
    """Return the content of the hub's settings file."""
    return {
        "public_url": f"https://{HUB}",
        "api_url": f"https://{HUB}:8445/hub/api",
        "gates": {"demo": {"method": "local", "socket": str(directory / "gate.sock")}},
        "proxy_api_url": f"http+unix://{quote(str(directory / 'proxy-api.sock'), safe='')}",
        "profiles_file": str(directory / "profiles.json"),
        "notices_file": str(directory / "notices.json"),
        "notices_by_hand_file": str(directory / "notices-by-hand.json"),
        "template_paths": list(templates),
        "service_name": "Example HPC",
        "support": "help@example.org",
        "support_form": "",
        "notebook_ports": PORTS,
        "notebook_tls_directory": str(directory / "tls"),
        "state_dir": str(directory),
        "json_logs": False,
        "audit_file": str(directory / "audit.jsonl"),
        "audit_days": 180,
        "token_days": 30,
        "unknown_jobs_end_after": 0,
        "max_sessions": 3,
        "canary": {"user": ""},
        "mail": {"enabled": False, "sender": "", "host": "localhost", "port": 25, "tls": False},
        "events": {"keep_days": 400, "pseudonyms": True},
        "logout_url": "/logout",
        "cookie_secret_file": str(directory / "cookie_secret"),
        "access": {
            "allowed_users": [],
            "blocked_users": [],
            "admin_users": [],
            "allowed_groups": ["hpc"],
            "admin_groups": [],
            "user_pattern": USER_PATTERN,
            "minimum_uid": 1000,
            "hub_accounts": False,
        },
        "claims": {"groups": "groups", "groups_separator": "", "mail": "email"},
        "attributes": ["department"],
        "host_groups": False,
    }


def encode_claims(**claims: Any) -> str:
    """Return the value of a header with claims, as Apache sends it to the hub."""
    return base64.urlsafe_b64encode(json.dumps(claims, ensure_ascii=False).encode()).decode().rstrip("=")


async def make_hub(
    directory: Path,
    templates: Sequence[str],
    db_url: str = IN_MEMORY,
    guard: Guard | None = None,
    changes: dict[str, Any] | None = None,
) -> Hub:
    """Create and initialise a hub with hpchub's own configuration, a database, and fakes.

    Args:
        directory: A directory for its files.
        templates: The directories of its pages.
        db_url: The address of its database.
        guard: The guard of its database.
        changes: Settings that differ.
    """
    path = directory / "hub.json"
    path.write_text(json.dumps(settings(directory, templates) | (changes or {})))
    (directory / "cookie_secret").write_text("ab" * 32)
    (directory / "cookie_secret").chmod(0o600)
    write_profiles(directory, profile("small"))
    runtime.cache_clear()
    shared = runtime(str(path))
    jobs: list[Job] = []
    gate = FakeGate(jobs)
    poller = FakePoller(jobs, gate)
    shared.gates["demo"] = gate
    shared._pollers["demo"] = poller
    shared.authority = FakeAuthority()  # type: ignore[assignment]

    c = Config()
    hub_config._identity(c, shared.settings, str(path))
    hub_config._sessions(c, shared.settings, str(path))
    hub_config._pages(c, shared.settings, str(path))
    hub_config._monitoring(c, shared.settings)
    hub_config._canary(c, shared.settings)
    c.JupyterHub.tornado_settings["slow_spawn_timeout"] = 0  # answer a start at once
    c.JupyterHub.db_url = db_url
    if db_url == IN_MEMORY:
        c.JupyterHub.db_kwargs = {"creator": _new_database}
    elif db_url.startswith("sqlite:"):
        make_tables(db_url)
    if guard is not None:
        shared.guard, shared.health = guard, Health(guard)
        c.JupyterHub.db_kwargs = engine_options(db_url, guard)
    c.JupyterHub.jinja_environment_options["bytecode_cache"] = CompiledTemplates()
    c.JupyterHub.proxy_class = MemoryProxy
    c.JupyterHub.pid_file = ""
    c.JupyterHub.log_level = "WARN"
    c.JobSpawner.startup_poll_interval = 0.01
    c.JobSpawner.stop_timeout = 0.1
    CryptKeeper.clear_instance()
    CryptKeeper.instance(keys=[b"k" * 32])
    app = Application(config=c)
    await app.initialize([])
    app.log.propagate = True
    shared.open_ledger(app.db)
    audit = monitoring.start(
        shared, app, lambda: [each for user in app.users.values() for each in user.spawners.values()]
    )
    return Hub(app, shared, gate, poller, audit, jobs)
