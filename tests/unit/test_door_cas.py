"""CAS: messages that end a session, tickets that are not for this browser, and what the server may send."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from apache_server import ask, needs_apache
from cas_provider import CasDoor, logout_message
from web_site import Browser, Site, received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_apache("auth_cas", "lua")


COMMON = {"reverse_proxy_allowed_groups": ["hpc"], "reverse_proxy_allowed_users": ["dave"]}


def told(answer: Any) -> dict[str, Any]:
    """Return what the program behind Apache learns of the user."""
    headers = received(answer)
    claims = [json.loads(base64.urlsafe_b64decode(value)) for value in headers["x-hpchub-userinfo"]]
    return {"user": headers["x-hpchub-user"], "claims": claims[0]}


def started(arguments: dict[str, Any]) -> Iterator[CasDoor]:
    with Site() as site:
        door = CasDoor(site)
        try:
            site.start(door.arguments() | COMMON | arguments)
            yield door
        finally:
            door.stop()


@pytest.fixture(scope="module")
def door() -> Iterator[CasDoor]:
    """A site with a CAS server."""
    yield from started({})


@pytest.fixture(scope="module")
def strict_door() -> Iterator[CasDoor]:
    """A site that requires a second factor, and takes the name from an attribute."""
    yield from started({"reverse_proxy_second_factors": ["mfa"], "reverse_proxy_cas_user_attribute": "uid"})


OPEN: list[Browser] = []


def open_browser(door: CasDoor) -> Browser:
    OPEN.append(door.site.browser())
    return OPEN[-1]


@pytest.fixture(autouse=True)
def _close_browsers() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def test_message_of_the_server_ends_the_session(door: CasDoor) -> None:
    browser = open_browser(door)
    door.sign_in(browser, "alice", "hpc")
    ticket = next(iter(reversed(door.provider.services)))
    send(door, logout_message("ST-unknown"))
    assert browser.ask("/hub/api/user").status == 200
    send(door, logout_message(ticket))
    assert browser.ask("/hub/api/user").status == 401
    assert browser.ask("/hub/home").status == 302


def send(door: CasDoor, body: str) -> None:
    """Send a message to the service as a CAS server does: without cookies and without the headers of browsers."""
    connections: dict[int, Any] = {}
    headers = [
        ("Host", f"hub.localhost:{door.site.apache.port}"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ]
    answer = ask(door.site.apache.port, "/hub/home", headers, method="POST", body=body, connections=connections)
    for connection in connections.values():
        connection.close()
    assert answer.status == 204


def test_session_that_is_being_written_is_not_taken_for_ended(door: CasDoor) -> None:
    """A page loads many scripts at once. The module writes the session's file at each of these requests."""
    browser = open_browser(door)
    door.sign_in(browser, "alice", "hpc")
    cookie = "; ".join(f"{name}={value}" for (_, name), value in browser.cookies.items())

    def load(_: int) -> int:
        connections: dict[int, Any] = {}
        headers = [
            ("Host", f"hub.localhost:{door.site.apache.port}"),
            ("Cookie", cookie),
            ("Sec-Fetch-Mode", "no-cors"),
        ]
        try:
            return int(ask(door.site.apache.port, "/user/alice/static/lab.js", headers, connections=connections).status)
        finally:
            for connection in connections.values():
                connection.close()

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(load, range(400))) == {200}


@pytest.mark.parametrize("text", ["", "<cacheEntry>"])
def test_module_decides_about_an_incomplete_session(door: CasDoor, text: str) -> None:
    browser = open_browser(door)
    door.sign_in(browser, "alice", "hpc")
    cookie = next(value for (_, name), value in browser.cookies.items() if name == "__Host-hpchub-sso")
    session = door.site.directory / "cache" / "hpchub-cas" / cookie
    assert session.exists()
    try:
        session.write_text(text)
        assert browser.ask("/hub/api/user").status == 302
    finally:
        # When the module removes such a file itself, its process may crash and lose the ticket of the next test.
        session.unlink(missing_ok=True)


def test_ticket_is_accepted_only_by_a_browser_that_has_begun_a_sign_in(door: CasDoor) -> None:
    browser = open_browser(door)
    door.provider.user, door.provider.attributes = "dave", {}
    address = f"{door.site.url}/hub/home"
    ticket = door.provider.ticket(f"{address}?x=1")
    answer = browser.ask(f"/hub/home?x=1&ticket={ticket}", {"Sec-Fetch-Site": "cross-site"})
    assert (answer.status, answer.headers["Location"]) == (302, f"{address}?x=1")
    assert ticket in door.provider.tickets  # nobody has used it
    assert not any(name == "__Host-hpchub-sso" for _, name in browser.cookies)


@pytest.mark.parametrize("fault", ["unknown", "used", "other-service"])
def test_ticket_that_the_server_does_not_confirm_signs_nobody_in(door: CasDoor, fault: str) -> None:
    browser = open_browser(door)
    browser.ask("/hub/home")
    door.provider.user, door.provider.attributes = "dave", {}
    service = f"{door.site.url}/hub/{'spawn' if fault == 'other-service' else 'home'}"
    ticket = "ST-0123456789" if fault == "unknown" else door.provider.ticket(service)
    if fault == "used":
        door.provider.tickets.pop(ticket)
    answer = browser.ask(f"/hub/home?ticket={ticket}")
    assert answer.status == 401
    path, log = door.site.directory / "log" / "error.log", ""
    for _ in range(100):  # Apache writes it after the answer
        if log := path.read_text():
            break
        time.sleep(0.05)
    path.write_text("")
    assert f"this host can open {door.provider.url}/cas/p3/serviceValidate" in log
    assert ticket not in log
    assert not any(name == "__Host-hpchub-sso" for _, name in browser.cookies)


def test_server_with_another_certificate_is_not_asked(door: CasDoor) -> None:
    browser = open_browser(door)
    browser.ask("/hub/home")
    kept = door.provider.tickets
    door.provider.user = "dave"
    ticket = door.provider.ticket(f"{door.site.url}/hub/home")
    authority = door.site.directory / "tls" / "sso-ca.pem"
    text = authority.read_text()
    try:
        authority.unlink()
        authority.write_text((door.site.directory / "tls" / "server.pem").read_text())
        assert browser.ask(f"/hub/home?ticket={ticket}").status == 401
        assert ticket in kept
    finally:
        authority.write_text(text)


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"uid": "dave", "authnContextClass": "mfa"}, 200),
        ({"uid": "dave", "authnContextClass": ["password", "mfa"]}, 200),
        ({"uid": "dave", "authnContextClass": "password"}, 403),
        ({"uid": "dave"}, 403),
        ({"authnContextClass": "mfa"}, 403),
        ({"uid": ["dave", "alice"], "authnContextClass": "mfa"}, 403),
        ({"uid": ["dave", "dave"], "authnContextClass": "mfa"}, 200),
        ({"uid": "eve", "authnContextClass": "mfa"}, 403),
    ],
    ids=[
        "second-factor",
        "among-others",
        "password-only",
        "no-factor",
        "no-name",
        "two-names",
        "twice-one-name",
        "eve",
    ],
)
def test_attributes_decide(strict_door: CasDoor, claims: dict[str, Any], status: int) -> None:
    answer = strict_door.sign_in(open_browser(strict_door), "someone", "other", **claims)
    assert answer.status == status
    if status == 200:
        assert told(answer)["user"] == ["dave"]


def test_attributes_go_to_the_hub_only_in_its_own_header(door: CasDoor) -> None:
    answer = door.sign_in(open_browser(door), "alice", "hpc", displayName="Alice", secret="x1y2z3")
    assert told(answer)["claims"] == {"groups": "hpc", "mail": "alice@example.org", "displayName": "Alice"}
    assert "x1y2z3" not in answer.text
    assert "hpchub-cas" not in answer.text.lower()
    answer = open_browser(door).ask("/hub/home", {"X-Hpchub-Cas-Groups": "hpc"})
    assert answer.status == 400
