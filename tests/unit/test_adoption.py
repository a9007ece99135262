"""A hub with a restored database adopts a session only if everything proves that the hub started it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import shutil
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import CLUSTER, PORTS, Hub, job, make_authority, make_hub, profile, write_profiles
from jupyterhub import orm
from sqlalchemy import delete

from hpchub.hub.adoption import INTERVAL, NOT_PROVEN, Statement, digest
from hpchub.hub.ledger import KEEP, SESSIONS, UNKNOWN_JOBS, end_unknown_job, unknown_jobs
from hpchub.hub.orphans import OrphanCollector
from hpchub.remote import launcher
from hpchub.schedulers import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hub_app import Ask
    from tornado.httpclient import HTTPResponse

    from hpchub.hub.certificates import ServerIdentity

PAGES = [str(Path(__file__).parents[2] / "templates" / "pages")]


@dataclasses.dataclass
class Session:
    """What alice's job got from the hub, and its notebook server."""

    name: str
    secrets: dict[str, str]
    port: int = 0
    server: asyncio.Server | None = None

    @property
    def claim(self) -> dict[str, Any]:
        """The body of the request for adoption."""
        return {"certificate": self.secrets["HPCHUB_TLS_CERTIFICATE"], "port": self.port, "addresses": []}

    async def listen(self, directory: Path, identity: ServerIdentity | None = None) -> None:
        """Start a server with the session's certificate, or with another one."""
        key, certificate, clients = (
            (identity.key, identity.certificate, identity.clients)
            if identity
            else (self.secrets[f"HPCHUB_TLS_{each}"] for each in ("KEY", "CERTIFICATE", "CLIENTS"))
        )
        (directory / "server.pem").write_text(key + certificate)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=clients)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(directory / "server.pem")
        if self.server:
            self.server.close()
        held = launcher.reserve_port(PORTS["first"], PORTS["last"])
        self.port = held[0].getsockname()[1]
        self.server = await asyncio.start_server(lambda *_: None, "127.0.0.1", self.port, ssl=context)
        for each in held:
            each.close()


@dataclasses.dataclass
class Restored:
    """A hub that started alice's session and then got a backup of its database from before the start."""

    hub: Hub
    session: Session


@pytest.fixture
async def restored(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Restored]:
    server = getattr(request, "param", "")
    authority = make_authority(tmp_path / "tls")
    database, backup = tmp_path / "hub.sqlite", tmp_path / "backup.sqlite"
    url = f"sqlite:///{database}"
    before = await make_hub(tmp_path, PAGES, url)
    before.runtime.authority = authority
    user = before.user()
    before.app.db.add(orm.Group(name="hpc", users=[user.orm_user]))
    before.app.db.commit()
    shutil.copy(database, backup)
    start = asyncio.ensure_future(user.spawn(server, options={"profile": "small"}))
    async with asyncio.timeout(30):
        while not before.gate.submissions:  # noqa: ASYNC110 the fake offers no event
            await asyncio.sleep(0.01)
    submission = before.gate.submissions[0]
    await before.close()
    assert start.done()

    shutil.copy(backup, database)
    after = await make_hub(tmp_path, PAGES, url)
    after.runtime.authority = authority
    session = Session(submission["session"], submission["secrets"])
    await session.listen(tmp_path)
    after.show(job(session=session.name, database=after.runtime.ledger.database))
    await sweep(after)
    yield Restored(after, session)
    assert session.server is not None
    session.server.close()
    await after.close()


@pytest.fixture
def hub(restored: Restored) -> Hub:
    return restored.hub


@pytest.fixture
def session(restored: Restored) -> Session:
    return restored.session


async def sweep(hub: Hub) -> None:
    def known() -> set[str]:
        return {spawner.session for user in hub.app.users.values() for spawner in user.spawners.values()}

    await OrphanCollector(hub.runtime, known, grace=0.0).sweep(CLUSTER)


@pytest.fixture
def claim(ask: Ask, session: Session) -> Callable[..., Any]:
    """Return a function that asks the hub to adopt alice's session, with changes."""

    async def send(token: str = "", **changes: Any) -> HTTPResponse:
        token = token or session.secrets["JUPYTERHUB_API_TOKEN"]
        body = json.dumps({**session.claim, **changes}).encode()
        headers = {"Authorization": f"token {token}", "Content_Type": "application/json"}
        return await ask("api/hpchub/adoption", "POST", body, **headers)

    return send


def assert_not_adopted(hub: Hub, answered: HTTPResponse, status: int, message: str) -> None:
    """Assert that the hub has refused the claim, and that nothing has changed."""
    assert (answered.code, json.loads(answered.body)["message"][: len(message)]) == (status, message)
    spawner = hub.user().spawner
    assert (spawner.server, spawner.session, spawner.orm_spawner.state or {}) == (None, "", {})
    assert hub.app.db.query(orm.APIToken).filter(orm.APIToken.user_id.is_not(None)).all() == []
    assert hub.app.db.query(orm.OAuthClient).filter(orm.OAuthClient.identifier.like("jupyterhub-user-%")).all() == []
    assert "/user/alice/" not in hub.routes
    assert hub.gate.cancelled == []


async def test_restored_hub_adopts_a_session_that_it_started(hub: Hub, session: Session, claim: Any, ask: Ask) -> None:
    token = session.secrets["JUPYTERHUB_API_TOKEN"]
    assert (await ask("api/user", Authorization=f"token {token}")).code == 403
    answered = await claim()
    assert (answered.code, json.loads(answered.body)) == (201, {"message": "adopted"})

    spawner = hub.user().spawners[""]
    assert (spawner.ready, spawner.is_serving, spawner.session) == (True, True, session.name)
    assert (spawner.server.proto, spawner.server.ip, spawner.server.port) == ("https", "127.0.0.1", session.port)
    assert (spawner.child_spawner.profile.key, spawner.child_spawner.job_id) == ("small", "7")
    assert await spawner.poll() is None
    found = await ask("api/user", Authorization=f"token {token}")
    assert json.loads(found.body)["name"] == "alice"
    assert "users:activity!user=alice" in json.loads(found.body)["scopes"]
    client = hub.app.db.query(orm.OAuthClient).filter_by(identifier="jupyterhub-user-alice").one()
    assert client.redirect_uri == session.secrets["JUPYTERHUB_OAUTH_CALLBACK_URL"]
    await asyncio.sleep(0)
    assert hub.routes["/user/alice/"] == f"https://127.0.0.1:{session.port}"
    await sweep(hub)
    assert unknown_jobs(hub.runtime.ledger.db.connection()) == []

    assert (await claim()).code == 409  # the hub knows the token now
    await hub.user().stop("")
    assert hub.gate.cancelled == ["7"]
    assert (await ask("api/user", Authorization=f"token {token}")).code == 403


@pytest.mark.parametrize("restored", ["genome"], indirect=True)
async def test_named_session_is_adopted_beside_another_session(
    hub: Hub, session: Session, claim: Any, ask: Ask
) -> None:
    other = hub.restored_spawner()
    assert set(hub.user().orm_spawners) == {""}
    answered = await claim()
    assert (answered.code, json.loads(answered.body)) == (201, {"message": "adopted"})

    spawner = hub.user().spawners["genome"]
    assert (spawner.ready, spawner.session, spawner.child_spawner.job_id) == (True, session.name, "7")
    assert spawner.server.base_url == session.secrets["JUPYTERHUB_SERVICE_PREFIX"] == "/user/alice/genome/"
    client = hub.app.db.query(orm.OAuthClient).filter_by(identifier="jupyterhub-user-alice-genome").one()
    assert client.redirect_uri == session.secrets["JUPYTERHUB_OAUTH_CALLBACK_URL"]
    token = {"Authorization": f"token {session.secrets['JUPYTERHUB_API_TOKEN']}"}
    scopes = json.loads((await ask("api/user", **token)).body)["scopes"]
    assert "access:servers!server=alice/genome" in scopes
    assert "access:servers!server=alice/" not in scopes
    assert (await ask("api/hpchub/sessions/alice/genome", **token)).code == 200
    await asyncio.sleep(0)
    assert hub.routes["/user/alice/genome/"] == f"https://127.0.0.1:{session.port}"
    assert hub.user().spawners[""] is other
    await hub.user().stop("genome")
    assert hub.gate.cancelled == ["7"]
    assert other.session


@pytest.mark.parametrize("restored", ["genome"], indirect=True)
async def test_named_session_does_not_replace_a_session_of_the_same_name(hub: Hub, claim: Any) -> None:
    hub.user().get_or_create_spawner("genome", "Genome")._spawn_pending = True
    answered = await claim()
    message = "user alice has another session named genome"
    assert (answered.code, json.loads(answered.body)["message"]) == (409, message)
    hub.user().spawners["genome"]._spawn_pending = False


@pytest.mark.parametrize("server", ["lab", "../x", "A", 5])
async def test_certificate_with_a_bad_server_name_adopts_nothing(
    hub: Hub, session: Session, claim: Any, server: Any
) -> None:
    identity = hub.runtime.authority.issue("alice", statement(hub, session, server=server).text)
    assert_not_adopted(hub, await claim(certificate=identity.certificate), 403, NOT_PROVEN)


def test_statement_of_an_older_version_names_no_server(hub: Hub, session: Session) -> None:
    text = statement(hub, session).text
    assert "server" not in json.loads(text)
    assert Statement(**json.loads(text)).server == ""


async def test_restarted_hub_waits_for_a_server_that_its_authority_did_not_certify(
    hub: Hub, session: Session, claim: Any, tmp_path: Path
) -> None:
    """As on a new host before its secrets are restored. JupyterHub would end the session after an hour."""
    assert (await claim()).code == 201
    user = hub.user()
    del user.spawners[""]
    hub.runtime.client_context = make_authority(tmp_path / "foreign").client_context()
    spawner = user.spawners[""]
    spawner._check_pending = True
    check = asyncio.ensure_future(spawner.get_url())
    await asyncio.sleep(0.5)
    assert not check.done()
    hub.runtime.client_context = make_authority(tmp_path / "tls").client_context()  # a restore starts the hub again
    assert await asyncio.wait_for(check, 10) == f"https://127.0.0.1:{session.port}/user/alice/"
    assert hub.gate.cancelled == []


async def test_adopted_session_survives_a_restart_of_the_hub(hub: Hub, session: Session, claim: Any) -> None:
    assert (await claim()).code == 201
    user = hub.user()
    del user.spawners[""]
    spawner = user.spawners[""]
    assert (spawner.session, spawner.child_spawner.profile.key) == (session.name, "small")
    assert spawner.token == hub.app.db.query(orm.APIToken).filter_by(user_id=user.id).one().hashed


def statement(hub: Hub, session: Session, /, **changes: Any) -> Statement:
    granted = profile("small")
    known = {
        "hub": hub.runtime.hub_name,
        "user": "alice",
        "session": session.name,
        "token": digest(session.secrets["JUPYTERHUB_API_TOKEN"]),
        "profile": granted,
    }
    return Statement(**{**known, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"hub": "hub.example.org~0badcafe"}, id="another-database"),
        pytest.param({"hub": "other.example.org"}, id="another-hub"),
        pytest.param({"token": digest("another")}, id="another-token"),
        pytest.param({"session": "b" * 16}, id="another-session"),
        pytest.param({"user": "bob"}, id="another-user"),
    ],
)
async def test_certificate_of_something_else_adopts_nothing(
    hub: Hub, session: Session, claim: Any, tmp_path: Path, changes: dict[str, str]
) -> None:
    hub.user("bob")
    identity = hub.runtime.authority.issue("alice", statement(hub, session, **changes).text)
    await session.listen(tmp_path, identity)
    assert_not_adopted(hub, await claim(certificate=identity.certificate), 403, NOT_PROVEN)


async def test_certificate_without_a_statement_or_of_another_authority_adopts_nothing(
    hub: Hub, session: Session, claim: Any, tmp_path: Path
) -> None:
    foreign = make_authority(tmp_path / "foreign").issue("alice", statement(hub, session).text)
    for certificate in (foreign.certificate, hub.runtime.authority.issue("alice").certificate, "", "x" * 1000):
        assert_not_adopted(hub, await claim(certificate=certificate), 403, NOT_PROVEN)


async def test_request_with_another_token_adopts_nothing(hub: Hub, claim: Any, ask: Ask, session: Session) -> None:
    assert_not_adopted(hub, await claim("0" * 32), 403, NOT_PROVEN)
    answered = await ask(
        "api/hpchub/adoption", "POST", json.dumps(session.claim).encode(), Content_Type="application/json"
    )
    assert_not_adopted(hub, answered, 403, NOT_PROVEN)


async def test_old_certificate_adopts_nothing(hub: Hub, claim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = hub.runtime.authority.read

    def old(text: str) -> Any:
        return dataclasses.replace(read(text), issued=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=KEEP + 1))

    monkeypatch.setattr(hub.runtime.authority, "read", old)
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)


async def test_session_that_is_over_is_not_adopted(hub: Hub, session: Session, claim: Any) -> None:
    hub.end_session(session.name)
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)


async def test_session_that_the_database_knows_is_not_adopted(hub: Hub, session: Session, claim: Any) -> None:
    hub.runtime.ledger.record(session.name, user="bob", cluster="demo", job_id="7")
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)
    assert len(hub.app.db.execute(SESSIONS.select()).all()) == 1


async def test_job_that_is_not_listed_or_to_be_ended_is_not_adopted(hub: Hub, claim: Any) -> None:
    (listed,) = unknown_jobs(hub.app.db.connection())
    end_unknown_job(hub.app.db.connection(), listed)
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)
    hub.app.db.execute(delete(UNKNOWN_JOBS))
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param([], id="no-job"),
        pytest.param([{"state": JobState.PENDING}], id="pending"),
        pytest.param([{"state": JobState.ENDED}], id="ended"),
        pytest.param([{"user": "bob"}], id="job-of-another-user"),
        pytest.param([{"job_id": "8"}], id="another-job"),
        pytest.param([{"database": "0badcafe"}], id="tag-of-another-database"),
        pytest.param([{"database": ""}], id="tag-without-a-database"),
        pytest.param([{"session": "b" * 16}], id="tag-of-another-session"),
        pytest.param([{}, {"job_id": "8"}], id="two-jobs-of-this-session"),
    ],
)
async def test_job_that_the_scheduler_does_not_show_is_not_adopted(
    hub: Hub, session: Session, claim: Any, shown: list[dict[str, Any]]
) -> None:
    known = {"session": session.name, "database": hub.runtime.ledger.database}
    hub.show(*(dataclasses.replace(job(**{**known, **each}), host="127.0.0.1") for each in shown))
    assert_not_adopted(hub, await claim(), 409, "2 jobs" if len(shown) > 1 else "job 7 does not run")


async def test_job_with_the_tag_of_another_database_is_not_adopted(hub: Hub, session: Session, claim: Any) -> None:
    hub.app.db.execute(delete(UNKNOWN_JOBS))
    hub.show(job(session=session.name, database="0badcafe"))
    await sweep(hub)
    assert_not_adopted(hub, await claim(), 403, NOT_PROVEN)


@pytest.mark.parametrize(
    ("other", "listed"),
    [
        pytest.param({"user": "bob"}, 2, id="of-another-user"),
        pytest.param({"state": JobState.ENDED}, 1, id="that-has-ended"),
    ],
)
async def test_other_job_with_the_name_of_the_session_prevents_nothing(
    hub: Hub, session: Session, claim: Any, other: dict[str, Any], listed: int
) -> None:
    known: dict[str, Any] = {"session": session.name, "database": hub.runtime.ledger.database}
    hub.show(job(**known), job(**known, **other, job_id="8"))
    await sweep(hub)
    assert len(unknown_jobs(hub.app.db.connection())) == listed
    assert (await claim()).code == 201
    assert hub.user().spawner.session == session.name


async def test_session_that_starts_during_the_check_is_not_replaced(
    hub: Hub, claim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = hub.user().spawner

    async def start() -> None:
        spawner._spawn_pending = True

    monkeypatch.setattr(hub.runtime.throttle, "wait_for_turn", start)
    answered = await claim()
    spawner._spawn_pending = False
    assert_not_adopted(hub, answered, 409, "user alice has another session")


async def test_silent_scheduler_adopts_nothing(hub: Hub, claim: Any) -> None:
    hub.poller.silent = True
    assert_not_adopted(hub, await claim(), 503, "the scheduler of demo does not answer")


async def test_server_without_the_sessions_key_is_not_adopted(
    hub: Hub, session: Session, claim: Any, tmp_path: Path
) -> None:
    same = hub.runtime.authority.issue("alice", statement(hub, session).text)
    await session.listen(tmp_path, same)  # another certificate of the same session, as a thief of the token has none
    assert_not_adopted(hub, await claim(), 409, "no server at 127.0.0.1")


async def test_port_without_a_server_is_not_adopted(hub: Hub, session: Session, claim: Any) -> None:
    assert session.server is not None
    session.server.close()
    assert_not_adopted(hub, await claim(), 409, "no server at 127.0.0.1")


async def test_user_who_may_not_use_the_service_gets_no_session(hub: Hub, claim: Any) -> None:
    hub.user().orm_user.groups = []
    hub.app.db.commit()
    assert_not_adopted(hub, await claim(), 409, "user alice may not use the service")


async def test_blocked_user_gets_no_session(hub: Hub, claim: Any) -> None:
    hub.app.authenticator.blocked_users = {"alice"}
    assert_not_adopted(hub, await claim(), 409, "user alice may not use the service")


async def test_user_whom_the_database_does_not_know_gets_no_session(hub: Hub, claim: Any) -> None:
    hub.app.users.delete(hub.user())
    answered = await claim()
    assert (answered.code, "must sign in first" in json.loads(answered.body)["message"]) == (409, True)
    assert orm.User.find(hub.app.db, "alice") is None


async def test_other_session_of_the_user_is_not_replaced(hub: Hub, claim: Any) -> None:
    spawner = hub.restored_spawner()
    server = spawner.server.url
    answered = await claim()
    assert (answered.code, json.loads(answered.body)["message"]) == (409, "user alice has another session")
    assert (hub.user().spawners[""].session, hub.user().spawners[""].server.url) == ("a" * 16, server)


async def test_session_of_a_removed_cluster_is_not_adopted(
    hub: Hub, session: Session, claim: Any, tmp_path: Path
) -> None:
    granted = profile("small", cluster="gone")
    identity = hub.runtime.authority.issue("alice", statement(hub, session, profile=granted).text)
    await session.listen(tmp_path, identity)
    assert_not_adopted(
        hub, await claim(certificate=identity.certificate), 409, f"the cluster of session {session.name}"
    )


async def test_session_keeps_the_profile_that_the_hub_granted(hub: Hub, claim: Any, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("other", cores=4))
    assert (await claim()).code == 201
    assert (hub.user().spawner.child_spawner.profile.key, hub.user().spawner.child_spawner.profile.cores) == (
        "small",
        1,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"port": PORTS["first"] - 1},
        {"port": True},
        {"port": "20001"},
        {"addresses": ["127.0.0.1"]},
        {"addresses": [{"interface": "eth0", "address": "hub.example"}]},
        {"certificate": None},
        {"certificate": "x" * 40_000},
        {"profile": {"key": "big"}},
        {"cmd": ["id"]},
        {"user_options": {"profile": "big"}},
        {"state": {"grant": {}}},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_request_with_anything_else_is_refused(hub: Hub, claim: Any, changes: dict[str, Any]) -> None:
    assert_not_adopted(hub, await claim(**changes), 400, "")


async def test_attempts_for_one_session_are_limited(hub: Hub, claim: Any, session: Session) -> None:
    hub.poller.silent = True
    assert (await claim()).code == 503
    assert_not_adopted(hub, await claim(), 429, f"session {session.name} has just been tried")
    hub.poller.silent = False
    hub.runtime.adoptions[session.name] -= INTERVAL
    assert (await claim()).code == 201


async def test_failure_in_the_middle_leaves_nothing_behind(
    hub: Hub, claim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(hub.runtime.ledger, "record", fail)
    assert (await claim()).code == 500
    monkeypatch.undo()
    assert hub.app.db.query(orm.APIToken).filter(orm.APIToken.user_id.is_not(None)).all() == []
    assert (hub.user().spawner.server, hub.user().spawner.session) == (None, "")
    hub.runtime.adoptions.clear()
    assert (await claim()).code == 201
