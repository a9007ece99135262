"""Each user's server has its own host name, and users can share servers. The site is restored afterwards."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from lab.web_client import Visitor as Client

from .pages import START, JupyterLab, Visitor, fetch
from .site import Site
from .test_language import choose
from .test_unsaved_work import CONTENT, NOTEBOOK, banner, edit, end_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab

ROLES = ("--tags", "configurable_http_proxy,jupyterhub,reverse_proxy")


def host_of(lab: Lab, name: str) -> str:
    """Return the URL of a user's own host, without a trailing slash."""
    return lab.url.replace("://", f"://{name}.")


@pytest.fixture(scope="module")
def hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Turn on user subdomains for these tests, and turn them off afterwards."""
    site = Site(lab, tmp_path_factory.mktemp("site"))
    try:
        site.service["user_subdomains"] = True
        site.apply(*ROLES)
        yield
    finally:
        del site.service["user_subdomains"]
        site.apply(*ROLES)


@pytest.fixture
def client(lab: Lab, hosts: None) -> Client:
    """Return an HTTP client that has not signed in."""
    hub = lab.addresses[lab.host("hub")]
    names = [urlsplit(url).hostname or "" for url in (lab.url, host_of(lab, "alice"))]
    return Client(dict.fromkeys(names, hub), lab.url)


def test_shared_server_admits_the_visitor_but_cannot_act_for_them(
    hosts: None, lab: Lab, visitor: Callable[[], Visitor], client: Client
) -> None:
    """Alice's host refuses Bob until she shares her server. Her server cannot abuse his visit."""
    alice, bob = visitor(), visitor()
    home = host_of(lab, "alice")
    alice.sign_in("alice")
    choose(alice.page, "Deutsch")
    alice.start(lab.profiles()[0]["key"])
    alice.page.goto(f"{lab.url}/user/alice/lab?reset")  # the address without subdomains
    session = JupyterLab(alice.page, f"{home}/user/alice")
    assert alice.page.url.startswith(f"{home}/user/alice/lab")
    expect(alice.page.locator("#hpchub-status")).to_contain_text(re.compile(r"von \d+ Kern"))  # as chosen on the hub
    assert session.run_cell("python3", "6*7") == "42"

    token = [("Authorization", f"token {alice.new_token()}")]
    listing = client.ask("/user/alice/api/contents", token, base=home)
    assert (listing.status, json.loads(listing.text)["type"]) == (200, "directory")

    assert alice.fetch("DELETE", "/hub/api/shares/alice/").status == 204  # left over by a test run that was killed
    bob.sign_in("bob")
    refused = bob.page.goto(f"{home}/user/alice/lab")
    assert refused is not None
    assert refused.status == 403
    assert refused.url.startswith(f"{lab.url}/hub/api/oauth2/authorize")
    expect(bob.page.locator("body")).to_contain_text("permission")

    shared = alice.fetch("POST", "/hub/api/shares/alice/", body={"user": "bob"})
    assert shared.status == 200, shared
    bob.page.goto(f"{home}/user/alice/lab?reset")
    bob.page.locator("input[type=submit], button[type=submit]").click()  # the hub asks Bob for confirmation
    JupyterLab(bob.page, f"{home}/user/alice")
    assert bob.page.url.startswith(f"{home}/user/alice/lab")

    sent = cookies(bob, f"{home}/user/alice/")
    assert sent <= {"jupyterhub-session-id", "__Host-jupyterhub-user-alice", "_xsrf"}
    assert "__Host-jupyterhub-user-alice" in sent
    shared_by_all = {each["name"] for each in bob.page.context.cookies() if each["domain"] == ".hub.localhost"}
    assert shared_by_all == {"jupyterhub-session-id"}
    act_as_bob(lab, bob, client)
    assert alice.fetch("DELETE", "/hub/api/shares/alice/").status == 204


@pytest.mark.slow  # test_unsaved_work.py does the same without subdomains
def test_tab_of_an_ended_session_saves_into_the_next_one(hosts: None, lab: Lab, browser_page: Visitor) -> None:
    """The hub has another host name. The tab knows why its session ended, and finds the next one."""
    page = browser_page.page
    browser_page.sign_in("alice")
    session = browser_page.start(lab.profiles()[0]["key"])
    assert session.base_url == f"{host_of(lab, 'alice')}/user/alice"
    address = f"{session.base_url}/api/contents/{quote(NOTEBOOK)}"
    answer = fetch(page, "PUT", address, body={"type": "notebook", "format": "json", "content": CONTENT})
    assert answer.status in (200, 201), answer
    session.open_notebook(NOTEBOOK)
    edit(page, "6*7")
    page.evaluate("window.notReloaded = true")
    end_session(lab)
    expect(banner(page)).to_contain_text("Your session ended at", timeout=START)
    expect(banner(page)).to_contain_text("cancelled")
    with page.expect_popup() as opened:
        banner(page).get_by_role("button", name="Continue in a new session").click()
    form = opened.value
    form.wait_for_url(f"{lab.url}/hub/spawn?**")
    expect(form.locator(f"input[name=profile][value='{lab.profiles()[0]['key']}']")).to_be_checked()
    form.locator("#spawn_form [type=submit]").click()

    expect(banner(page)).to_contain_text("connected to your new session", timeout=START)
    saved = json.loads(fetch(page, "GET", address).text)["content"]["cells"][0]["source"]
    assert (saved, page.evaluate("window.notReloaded")) == ("6*7", True)
    assert fetch(page, "DELETE", address).status == 204


def cookies(visitor: Visitor, url: str) -> set[str]:
    """Return the names of the cookies that a visitor's browser sends to a URL."""
    return {cookie["name"] for cookie in visitor.page.context.cookies(url)}


# Requests that any page can send without permission: a simple request and a form, with the visitor's cookies.
_POST = """
url => fetch(url, {method: "POST", mode: "no-cors", credentials: "include", body: '{"note": "planted"}'})
  .catch(String)
"""
_FORM = """
url => {
  const form = Object.assign(document.createElement("form"), {method: "POST", action: url});
  document.body.append(form);
  form.submit();
}
"""
_PLANT = """
() => { document.cookie = "__Host-jupyterhub-hub-login=planted; Domain=hub.localhost; Path=/; Secure"; }
"""


def act_as_bob(lab: Lab, bob: Visitor, client: Client) -> None:
    """Check that a page of Alice's server, open in Bob's browser, cannot act in the hub."""
    tokens = f"{lab.url}/hub/api/users/bob/tokens"
    with bob.page.expect_response(tokens) as response:
        bob.page.evaluate(_POST, tokens)
    assert response.value.status == 403
    bob.page.evaluate(_PLANT)
    assert "planted" not in {cookie["value"] for cookie in bob.page.context.cookies()}
    with bob.page.expect_navigation():
        bob.page.evaluate(_FORM, f"{lab.url}/hub/spawn")
    expect(bob.page.locator("body")).to_contain_text("a page of another host sent it in your name")

    # An old browser sends no Origin header. The hub then requires the XSRF token, which only its own pages know.
    sent = "; ".join(f"{each['name']}={each['value']}" for each in bob.page.context.cookies(lab.url))
    headers = [("Cookie", sent), ("Content-Type", "application/json")]
    answer = client.ask("/hub/api/users/bob/tokens", headers, method="POST", body=b'{"note": "planted"}')
    assert answer.status == 403
    assert "_xsrf" in answer.text

    bob.page.goto(f"{lab.url}/hub/token")
    listed = bob.fetch("GET", "/hub/api/users/bob/tokens")
    assert listed.status == 200
    assert "api_tokens" in json.loads(listed.text)
    assert "planted" not in listed.text
    assert not lab.jobs("bob")


@pytest.mark.parametrize(
    ("target", "status", "location"),
    [
        ("/", 302, "{hub}/"),
        ("/hub/home", 302, "{hub}/hub/home"),
        ("/hub/login", 404, ""),
        ("/hub/api", 404, ""),
        ("/hub/api/oauth2/authorize", 404, ""),
        ("/services/x/", 404, ""),
        ("/oidc/callback", 404, ""),
        ("/user/bob/lab", 302, "{hub}/hub/user/bob/lab"),
        ("/user/alice/../bob/", 400, ""),
        ("/user/alice/%2e%2e/bob/", 400, ""),
        ("/sso/signed-out", 200, ""),
    ],
)
def test_user_host_serves_neither_hub_nor_other_users(
    lab: Lab, client: Client, target: str, status: int, location: str
) -> None:
    """A user's host redirects to the hub or refuses everything except that user's server."""
    answer = client.ask(target, [("X-Hpchub-User", "alice")], base=host_of(lab, "alice"))
    assert (answer.status, answer.location) == (status, location.format(hub=lab.url))
    assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert "max-age=" in answer.headers["Strict-Transport-Security"]


@pytest.mark.parametrize(
    "host", ["a.b.hub.localhost", "hub.localhost.example", "elsewhere.example", "a_b.hub.localhost"]
)
def test_unknown_host_name_is_refused(client: Client, host: str) -> None:
    """Names that are not a user's host are refused, including names below one."""
    assert client.ask("/user/alice/", host=host).status == 421
