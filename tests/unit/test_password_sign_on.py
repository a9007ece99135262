"""A hub with users who sign in with the password of a directory, over HTTP, with a real LDAP server."""

from __future__ import annotations

import json
import pwd
import re
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hub_app
import pytest
from jupyterhub import orm
from sign_on_app import Visitor, message
from slapd_server import BASE, PEOPLE, SERVICE, SERVICE_PASSWORD, Slapd, needs_slapd

from hpchub.hub import password_sign_on, sign_on_settings
from hpchub.hub.identities import SUBJECT
from hpchub.hub.password_sign_on import MOST_PER_ADDRESS, MOST_PER_NAME, WINDOW, Guesses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from hub_app import Hub
    from tornado.httpclient import HTTPResponse

pytestmark = needs_slapd

PAGES = Path(__file__).parents[2] / "templates" / "pages"


@pytest.fixture
def slapd() -> Iterator[Slapd]:
    started = Slapd()
    yield started
    started.close()


def own_settings(slapd: Slapd, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "ldap",
        "server": "127.0.0.1",
        "port": slapd.port,
        "tls": "starttls",
        "ca_file": slapd.ca_file,
        "bind_dn": SERVICE,
        "user_base": f"ou=people,{BASE}",
        "user_attribute": "uid",
        "user_filter": "(employeeType=active)",
        "group_base": f"ou=groups,{BASE}",
        "group_attribute": "cn",
        "mail_attribute": "mail",
        "login_hours": 12,
        "refresh_minutes": 5,
        "outage_hours": 4,
        **changes,
    }


@pytest.fixture
async def hub(tmp_path: Path, slapd: Slapd, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setenv(sign_on_settings.SECRET, SERVICE_PASSWORD)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_name=name, pw_uid=2000))
    monkeypatch.setattr(password_sign_on, "FAILURE_TIME", 0.1)
    access = hub_app.settings(tmp_path, [])["access"] | {"allowed_groups": ["hpc"], "user_pattern": r"[a-z.]+"}
    changes = {"sign_on": own_settings(slapd), "access": access, "user_subdomains": True}
    started = await hub_app.make_hub(tmp_path, [str(PAGES)], changes=changes)
    yield started
    await started.close()


@pytest.fixture
def visitor(port: int) -> Visitor:
    return Visitor(port)


def reasons(hub: Hub) -> set[str]:
    """Return the reasons of the refused sign-ins in the audit log."""
    return {json.loads(line)["reason"] for line in Path(hub.audit.baseFilename).read_text().splitlines()}


async def sign_in(visitor: Visitor, username: str, password: str, token: str = "") -> HTTPResponse:
    """Fill in the form."""
    if not token:
        page = (await visitor.get("/hub/login?next=/hub/home")).body.decode()
        token = re.findall(r'name="_xsrf" value="([^"]*)"', page)[0]
    fields = {"username": username, "password": password, "_xsrf": token}
    return await visitor.get("/hub/login?next=/hub/home", post=fields)


async def test_user_signs_in_with_a_password(hub: Hub, visitor: Visitor) -> None:
    response = await sign_in(visitor, "alice", PEOPLE["alice"])
    assert (response.code, response.headers["Location"]) == (302, "/hub/home")
    assert (await visitor.get("/hub/home")).code == 200
    state = await hub.user("alice").get_auth_state()
    assert (state["mail"], state["groups"]) == ("alice@uni.example", ["hpc"])
    assert state["sign_on"]["provider"] == "ldap"
    assert state["sign_on"]["claim"] == SUBJECT
    assert PEOPLE["alice"] not in str(state)


async def test_name_is_the_one_of_the_directory(hub: Hub, visitor: Visitor) -> None:
    assert (await sign_in(visitor, "FIRST.LAST", "p")).code == 302
    assert [user.name for user in hub.app.db.query(orm.User)] == ["first.last"]


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("alice", "t0p-s3cret"),
        ("nobody", "t0p-s3cret"),
        ("alice", ""),
        ("", "x"),
        ("al*", PEOPLE["alice"]),
        ("alice)(uid=*", PEOPLE["alice"]),
        ("*", "x"),
        ("uid=alice,ou=people,dc=uni,dc=example", PEOPLE["alice"]),
        ("a" * 300, "x"),
        ("alice", "x" * 300),
    ],
    ids=lambda value: value[:12],
)
async def test_wrong_name_and_wrong_password_have_the_same_answer(
    hub: Hub, visitor: Visitor, username: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    response = await sign_in(visitor, username, password)
    assert response.code == 403
    assert "The user name or the password is wrong." in message(response)
    assert "jupyterhub-hub-login" not in visitor.cookies
    assert not password or len(password) < 5 or password not in caplog.text
    assert reasons(hub) <= {"wrong_password", "no_identity"}


@pytest.mark.parametrize("username", ["alice", "nobody"])
async def test_refusal_takes_the_same_time_for_all_names(
    monkeypatch: pytest.MonkeyPatch, visitor: Visitor, username: str
) -> None:
    monkeypatch.setattr(password_sign_on, "FAILURE_TIME", 0.5)
    page = (await visitor.get("/hub/login")).body.decode()
    token = re.findall(r'name="_xsrf" value="([^"]*)"', page)[0]
    began = time.monotonic()
    await sign_in(visitor, username, "wrong", token)
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    ("username", "text"),
    [("bob", "this account may not use the service"), ("twin", "password is wrong")],
)
async def test_other_people_are_refused(hub: Hub, visitor: Visitor, username: str, text: str) -> None:
    response = await sign_in(visitor, username, {"bob": "b", "twin": "t"}[username])
    assert response.code == 403
    assert text in message(response)


async def test_guesses_are_limited_for_a_name(visitor: Visitor) -> None:
    for _ in range(MOST_PER_NAME):
        assert (await sign_in(visitor, "alice", "wrong")).code == 403
    response = await sign_in(visitor, "ALICE", PEOPLE["alice"])
    assert response.code == 429
    assert "too many wrong passwords" in message(response)
    assert (await sign_in(visitor, "dave", PEOPLE["dave"])).code == 302


@pytest.mark.parametrize(
    "spellings",
    [["alice", "ALICE", " alice", "al ice", "alice  "], ["\uff41lice", "a\u00adlice", "\u212alice", "\u0430lice"]],
    ids=["ASCII", "other letters"],
)
def test_all_spellings_of_a_name_share_their_guesses(spellings: list[str]) -> None:
    """Directories take many of them for the same name."""
    guesses = Guesses(lambda: 0.0)
    found = [guesses.begin(spellings[number % len(spellings)], str(number)) for number in range(MOST_PER_NAME + 2)]
    assert found == [True] * MOST_PER_NAME + [False] * 2
    assert guesses.begin("bob", "1")


def test_guesses_are_limited_for_an_address_and_forgotten() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    assert all(guesses.begin(f"user{number}", "1") for number in range(MOST_PER_ADDRESS))
    assert not guesses.begin("alice", "1")
    assert guesses.begin("alice", "2")
    now[0] = WINDOW + 1
    assert guesses.begin("alice", "1")


def test_right_password_does_not_count_but_guesses_at_once_do() -> None:
    guesses = Guesses(lambda: 0.0)
    for _ in range(100):
        assert guesses.begin("alice", "1")
        guesses.succeeded("alice", "1")
    assert [guesses.begin("alice", "1") for _ in range(MOST_PER_NAME + 1)] == [True] * MOST_PER_NAME + [False]


async def test_directory_that_does_not_answer_is_no_wrong_password(
    slapd: Slapd, hub: Hub, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    page = (await visitor.get("/hub/login")).body.decode()
    token = re.findall(r'name="_xsrf" value="([^"]*)"', page)[0]
    slapd.stop()
    response = await sign_in(visitor, "alice", PEOPLE["alice"], token)
    assert response.code == 503
    assert "does not answer" in message(response)
    assert "the directory 127.0.0.1" in caplog.text


async def test_certificate_of_the_directory_is_checked(hub: Hub, visitor: Visitor, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(hub_app.certificate(timedelta(days=9)))
    hub.app.authenticator.tls_kwargs = {"ca_certs_file": str(other)}
    assert (await sign_in(visitor, "alice", PEOPLE["alice"])).code == 503


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ldap3 does not close the socket
async def test_name_in_the_certificate_of_the_directory_is_checked(hub: Hub, visitor: Visitor) -> None:
    hub.app.authenticator.server_address = "localhost"
    assert (await sign_in(visitor, "alice", PEOPLE["alice"])).code == 503


async def test_password_is_never_sent_without_tls(
    slapd: Slapd, hub: Hub, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    slapd.stop()
    slapd.forget_tls()
    slapd.start()
    assert (await sign_in(visitor, "alice", PEOPLE["alice"])).code == 503
    assert "starttls fail" in caplog.text.lower()


async def test_form_without_its_token_signs_nobody_in(visitor: Visitor) -> None:
    response = await sign_in(visitor, "alice", PEOPLE["alice"], "x")
    assert response.code == 403
    assert "jupyterhub-hub-login" not in visitor.cookies


@pytest.mark.parametrize(
    "change",
    [
        f"dn: cn=hpc,ou=groups,{BASE}\nchangetype: modify\ndelete: member\nmember: uid=alice,ou=people,{BASE}\n",
        f"dn: uid=alice,ou=people,{BASE}\nchangetype: delete\n",
        f"dn: uid=alice,ou=people,{BASE}\nchangetype: modify\nreplace: employeeType\nemployeeType: left\n",
    ],
    ids=["group", "deleted", "deactivated"],
)
async def test_user_who_leaves_loses_access(slapd: Slapd, hub: Hub, visitor: Visitor, change: str) -> None:
    await sign_in(visitor, "alice", PEOPLE["alice"])
    token = hub.user().new_api_token()
    slapd.change(change)
    hub.user()._auth_refreshed = None
    assert (await visitor.get("/hub/api/user", Authorization=f"token {token}")).code == 403
    assert (await visitor.get("/hub/home")).code == 302


async def test_login_goes_on_while_the_directory_does_not_answer(slapd: Slapd, hub: Hub, visitor: Visitor) -> None:
    await sign_in(visitor, "alice", PEOPLE["alice"])
    slapd.stop()
    hub.user()._auth_refreshed = None
    assert (await visitor.get("/hub/home")).code == 200


async def test_wrong_password_of_the_service_is_a_fault(hub: Hub, visitor: Visitor) -> None:
    hub.app.authenticator.lookup_dn_search_password = "wrong"
    assert (await sign_in(visitor, "alice", PEOPLE["alice"])).code == 503


async def test_logout_ends_the_login(hub: Hub, visitor: Visitor) -> None:
    await sign_in(visitor, "alice", PEOPLE["alice"])
    stolen = Visitor(visitor.port, dict(visitor.cookies))
    response = await visitor.get("/hub/logout")
    assert (response.code, response.headers["Location"]) == (302, "/sso/signed-out")
    assert (await stolen.get("/hub/home")).code == 302
    assert hub.app.proxy.ended
