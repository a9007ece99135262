"""The adoption of sessions that a restored database does not know.

A restored backup lacks the sessions that started after it, and the tokens of their servers. The server of such a
session asks to be adopted. The hub trusts nothing in the request except what it has written itself: the certificate of
each notebook server contains a statement about the session, which the hub's authority has signed. The authority's key
is not in the database, so it survives the restore.

The hub adopts a session only if all this is true:

- The certificate is of this authority. Its statement names this hub with this database, and the token of the request.
- The orphan collector has listed the session's job as unknown, and no record of the session exists.
- A new answer of the scheduler shows the job running, with the tag of this session, and it belongs to this user.
- A server on the job's node presents this very certificate, so that it has its key.
- The user may use the service and has no other session of the same name. The limits of sessions do not matter here,
  because the hub has granted this one already.

Every other job stays in the list of unknown jobs. A user who forges a job's tag can only get back what the hub granted
to the same user. The cheap checks come first. They need the token of a session, so a stranger makes the hub do no work.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import hmac
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from jupyterhub import orm
from jupyterhub.utils import url_path_join, utcnow

from hpchub.hub.grant import write_grant
from hpchub.hub.ledger import KEEP, unknown_jobs
from hpchub.hub.named_sessions import in_use
from hpchub.hub.session_names import check_server_name
from hpchub.model.entries import Profile
from hpchub.model.places import PlaceBase
from hpchub.schedulers import JobState, Unanswered
from hpchub.schedulers.base import Tag

if TYPE_CHECKING:
    import ssl

    from hpchub.hub.certificates import Issued
    from hpchub.hub.ledger import UnknownJob
    from hpchub.hub.runtime import Runtime
    from hpchub.model.entries import Cluster
    from hpchub.schedulers import Job

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""The minimum time between two attempts to adopt a session, in seconds."""

MAX_AGE = 5.0
"""The maximum age of the scheduler's answer, in seconds."""

CONNECT_TIMEOUT = 5.0
"""How long to try one address of the node, in seconds."""

NOT_PROVEN = "The hub does not know this session, and the request does not prove that the hub started it."


class Refused(Exception):
    """The session is not adopted.

    Args:
        reason: The reason, for the log.
        status: The status of the answer.
        public: The message of the answer. The default is the reason.
    """

    def __init__(self, reason: str, status: int = 409, public: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.public = public or reason


class Claim(NamedTuple):
    """What a notebook server sends, apart from its token."""

    certificate: str
    port: int
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Statement:
    """What the hub states about a session in the certificate of its server.

    Attributes:
        hub: The hub's name, with the id of its database.
        user: The user.
        session: The session's name.
        token: The digest of the server's token.
        profile: The profile that the hub granted, without default values.
        server: The session's server name, which is a part of its address. It is empty for the session without a name.
    """

    hub: str
    user: str
    session: str
    token: str
    profile: dict[str, Any]
    server: str = ""

    @property
    def text(self) -> str:
        """The statement as the certificate contains it. Older versions know no server name."""
        content = asdict(self)
        if not self.server:
            del content["server"]
        return json.dumps(content, separators=(",", ":"))


def digest(token: str) -> str:
    """Return the digest of a token. A token is random and long, so the digest does not reveal it."""
    return hashlib.sha256(token.encode()).hexdigest()


async def adopt(handler: Any, runtime: Runtime, token: str, claim: Claim) -> None:
    """Adopt a session.

    Args:
        handler: JupyterHub's handler of the request.
        runtime: The hub's runtime.
        token: The token of the request. JupyterHub does not know it.
        claim: The content of the request.

    Raises:
        Refused: The session is not adopted, and nothing has changed.
    """
    certificate, statement = _read(runtime, token, claim.certificate)
    unknown = _unknown_job(runtime, statement)
    profile, cluster = _grant(runtime, statement, unknown)
    _take_turn(runtime, statement.session)
    if not await handler.authenticator.find_account(statement.user):
        raise Refused("the directory of accounts does not answer", 503)
    user = _free_user(handler, statement)
    job = await _running_job(runtime, cluster, unknown)
    host = await _find_server(runtime, cluster.hosts_of(job.host, claim.addresses), claim.port, certificate)
    # The restored database may not know the name. An unused name does no harm if the adoption is refused after all.
    spawner = user.get_or_create_spawner(statement.server, statement.server)
    scopes = await spawner._get_oauth_client_allowed_scopes()  # noqa: SLF001 as in User.spawn
    await runtime.throttle.wait_for_turn()
    # Something may have changed in the meantime. From here on, no other task runs until the session exists.
    _unknown_job(runtime, statement)
    user = _free_user(handler, statement)
    state = {
        "grant": write_grant(profile, cluster),
        "job": {
            "session": statement.session,
            "job_id": job.id,
            "submitted": certificate.issued.timestamp(),
            "host": host,
            "port": claim.port,
        },
    }
    try:
        _create(handler, user.spawners[statement.server], token, state, scopes)
    except Exception:
        handler.db.rollback()
        if left := orm.APIToken.find(handler.db, token):
            handler.db.delete(left)
            handler.db.commit()
        raise
    log.warning(
        "Adopted session %s of user %s: job %s on cluster %s, at %s port %d",
        *(statement.session, statement.user, job.id, cluster.name, host, claim.port),
    )
    spawner = user.spawners[statement.server]
    spawner.add_poll_callback(handler.user_stopped, user, statement.server)
    spawner.start_polling()
    # If the proxy does not answer, JupyterHub's periodic check of the routes repeats this.
    runtime.background(f"Cannot add the route of user {user.name}", handler.proxy.add_user(user, statement.server))


def _read(runtime: Runtime, token: str, text: str) -> tuple[Issued, Statement]:
    """Return the certificate and its statement, if they are of this hub and belong to this token."""
    try:
        certificate = runtime.authority.read(text)
        statement = Statement(**json.loads(certificate.statement))
        if statement.server:
            check_server_name(statement.server)
        proven = hmac.compare_digest(statement.token, digest(token)) and statement.hub == runtime.hub_name
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"its certificate is not valid: {error}", 403, NOT_PROVEN) from None
    if not token or not proven:
        raise Refused("its certificate is of another hub, database or token", 403, NOT_PROVEN)
    if dt.datetime.now(dt.UTC) - certificate.issued > dt.timedelta(seconds=KEEP):
        # The record of an ended session may have been deleted.
        raise Refused(f"session {statement.session} is too old", 403, NOT_PROVEN)
    return certificate, statement


def _unknown_job(runtime: Runtime, statement: Statement) -> UnknownJob:
    """Return the session's job from the list of unknown jobs."""
    ledger = runtime.ledger
    # Another user's job with this session's name must not prevent the adoption.
    wanted = (statement.session, statement.user)
    found = [each for each in unknown_jobs(ledger.db.connection()) if (each.session, each.user) == wanted]
    if ledger.knows(statement.session) or len(found) != 1:
        raise Refused(f"session {statement.session} is not the session of one unknown job", 403, NOT_PROVEN)
    job = found[0]
    if job.database != ledger.database or job.end:
        raise Refused(f"job {job.job_id} belongs to another database, or is to be ended", 403, NOT_PROVEN)
    return job


def _grant(runtime: Runtime, statement: Statement, job: UnknownJob) -> tuple[Profile, Cluster | PlaceBase]:
    """Return the profile that the hub granted, and its cluster or place in the current list."""
    try:
        profile = Profile.model_validate(statement.profile)
        cluster = runtime.profiles.where(profile)
    except LookupError:
        raise Refused(f"the cluster of session {statement.session} does not exist any more") from None
    except (OSError, ValueError) as error:
        raise Refused(f"the profile of session {statement.session} is not valid any more: {error}") from None
    if cluster.name != job.cluster:
        raise Refused(f"the cluster of session {statement.session} does not exist any more")
    return profile, cluster


def _take_turn(runtime: Runtime, session: str) -> None:
    """Limit the attempts for one session."""
    now = time.monotonic()
    runtime.adoptions = {each: at for each, at in runtime.adoptions.items() if now - at < INTERVAL}
    if session in runtime.adoptions:
        raise Refused(f"session {session} has just been tried", 429)
    runtime.adoptions[session] = now


def _free_user(handler: Any, statement: Statement) -> Any:
    """Return the user, who may use the service now and has no session with the name of this one."""
    name = statement.user
    user = handler.find_user(name)
    if user is None:
        raise Refused(f"the database does not know user {name}, who must sign in first")
    authenticator = handler.authenticator
    groups = [group.name for group in user.groups]
    if not authenticator.check_blocked_users(name) or not authenticator.check_allowed(name, {"groups": groups}):
        raise Refused(f"user {name} may not use the service")
    if in_use(user, statement.server):
        raise Refused(f"user {name} has another session{f' named {statement.server}' if statement.server else ''}")
    return user


async def _running_job(runtime: Runtime, cluster: Cluster | PlaceBase, unknown: UnknownJob) -> Job:
    """Return the job from a new answer of the scheduler."""
    try:
        scheduler = "" if isinstance(cluster, PlaceBase) else cluster.scheduler
        snapshot = await runtime.poller(cluster.name, scheduler).snapshot(MAX_AGE)
    except (Unanswered, ValueError) as error:
        raise Refused(f"the scheduler of {cluster.name} does not answer: {error}", 503) from None
    tag = Tag(runtime.host, unknown.database, unknown.session)
    live = [job for job in snapshot.jobs.values() if job.state is not JobState.ENDED]
    marked = [job for job in live if job.tag == tag and job.user == unknown.user]
    for job in marked:
        if job.id == unknown.job_id and job.state is JobState.RUNNING and job.host:
            if len(marked) > 1:
                raise Refused(f"{len(marked)} jobs claim to be session {unknown.session}")
            return job
    raise Refused(f"job {unknown.job_id} does not run")


async def _find_server(runtime: Runtime, hosts: list[str], port: int, certificate: Issued) -> str:
    """Return the host of the server that presents the certificate."""
    try:
        context = runtime.authority.client_context()
    except OSError as error:
        raise Refused(f"the hub cannot connect to notebook servers: {error}", 503) from None
    for host in hosts:
        if await _presented(host, port, context) == certificate.content:
            return host
    raise Refused(f"no server at {', '.join(hosts) or 'no address'} port {port} presents this session's certificate")


async def _presented(host: str, port: int, context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a server presents, or None if there is no server of this authority."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, ValueError):
        return None
    presented: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return presented


def _create(handler: Any, spawner: Any, token: str, state: dict[str, Any], client_scopes: list[str]) -> None:
    """Create what a start leaves in the database: the server, its token, its OAuth client, and the session's state."""
    db, user, name = handler.db, spawner.user, spawner.name
    address = url_path_join(user.base_url, name, "/")
    spawner.orm_spawner.oauth_client = handler.settings["oauth_provider"].add_client(
        spawner.oauth_client_id,
        token,
        url_path_join(user.url, name, "oauth_callback"),
        allowed_scopes=client_scopes,
        description=f"Server at {address}",
    )
    own = f"={user.name}/{name}"
    scopes = {f"{each}{own}" if each.endswith("!server") else each for each in orm.Role.find(db, "server").scopes}
    user.new_api_token(token, note=f"Server at {address}", scopes=sorted(scopes))
    row = spawner.orm_spawner
    row.state = {**state, "token": orm.APIToken.find(db, token).hashed}
    row.user_options = {"profile": state["grant"]["profile"]["key"]}
    row.started = row.last_activity = utcnow(with_tz=False)
    job = state["job"]
    row.server = orm.Server(proto="https", ip=job["host"], port=job["port"], base_url=address)
    db.flush()
    # A new spawner restores the session from the row and records it, as after a restart of the hub.
    del user.spawners[name]
    if user.spawners[name].session != job["session"]:
        raise RuntimeError("the state of an adopted session cannot be restored")
    db.commit()
