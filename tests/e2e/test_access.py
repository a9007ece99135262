"""Access: sign-in, refusal, and the pages of other users and of administrators."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from .lab import totp

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Dialog

    from .lab import Lab
    from .pages import Visitor


def test_user_without_a_permitted_group_is_refused_with_an_explanation(browser_page: Visitor, lab: Lab) -> None:
    """Dave has an account but no permitted group. He sees a clear page and gets no hub account and no job."""
    page = browser_page.page
    page.goto(lab.url)
    with page.expect_response(lambda answer: answer.url.startswith(lab.url) and answer.status == 403):
        browser_page.submit_password("dave", lab.user("dave").password)
    text = page.locator("body")
    expect(text).to_contain_text("You are signed in as dave, but this account does not have access to")
    expect(text).to_contain_text(lab.profile_list()["service"]["support"])

    for path in ("/hub/home", "/hub/spawn", "/user/dave/"):
        answer = page.goto(f"{lab.url}{path}")
        assert answer is not None
        assert answer.status == 403, path
    assert "dave" not in lab.hub_users()
    assert not lab.jobs("dave")


def test_wrong_password_is_refused(browser_page: Visitor, lab: Lab) -> None:
    """The identity provider asks for the password again, and the service stays closed."""
    page = browser_page.page
    page.goto(lab.url)
    browser_page.submit_password("alice", "not her password")
    expect(page.locator("[trmsg='5']")).to_be_visible()
    page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_wrong_one_time_password_is_refused(browser_page: Visitor, lab: Lab) -> None:
    """Carol's password alone does not sign her in."""
    page, carol = browser_page.page, lab.user("carol")
    page.goto(lab.url)
    browser_page.submit_password("carol", carol.password)
    # The code of tomorrow is well formed, and no clock skew can make it valid today.
    code = page.locator("input[name=code]")
    code.fill(totp(carol.totp_secret, time.time() + 86_400))
    code.press("Enter")
    expect(page.locator("[trmsg='96']")).to_be_visible()
    page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_session_of_another_user_is_refused(visitor: Callable[[], Visitor], lab: Lab) -> None:
    """Bob requests pages of Alice's running session and gets none of them."""
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    alice.start(lab.profiles()[0]["key"])
    bob.sign_in("bob")
    for path in ("/user/alice/", "/user/alice/lab", "/user/alice/api/contents", "/user/alice/api/kernels"):
        answer = bob.page.goto(f"{lab.url}{path}")
        assert answer is not None
        assert answer.status in {403, 404}, path
        assert "jupyter-config-data" not in answer.text()

    # Her server does not answer him on the cluster's own network either, although he has access to that network.
    (job,) = lab.jobs("alice")
    show = ["ss", "--listening", "--tcp", "--numeric", "--no-header", "--extended"]
    uid = lab.run(job.node, ["id", "--user", "alice"]).strip()
    hers = [line for line in lab.run(job.node, show).splitlines() if f" uid:{uid} " in f"{line} "]
    ports = lab.hub_settings()["notebook_ports"]
    open_ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in hers}
    (port,) = open_ports & set(range(ports["first"], ports["last"] + 1))
    # curl prints the number of its connections and the status of the HTTP response, or 000 without a response.
    ask = ["curl", "--silent", "--insecure", "--max-time", "10", "--write-out", "%{num_connects} %{http_code}"]
    for scheme in ("http", "https"):
        argv = ["runuser", "-u", "bob", "--", *ask, f"{scheme}://{job.node}:{port}/user/alice/api"]
        # The node's firewall admits connections from the node itself, so he reaches the server from there.
        assert lab.run(job.node, argv, check=False) == "1 000", scheme
        assert lab.run("login1", argv, check=False) in {"0 000", "1 000"}, scheme


def test_admin_pages_are_refused_to_ordinary_users(browser_page: Visitor, lab: Lab) -> None:
    """Alice is not an administrator."""
    browser_page.sign_in("alice")
    for path in ("/hub/admin", "/hub/api/users", "/hub/api/users/bob", "/hub/spawn/bob"):
        answer = browser_page.page.goto(f"{lab.url}{path}")
        assert answer is not None
        assert answer.status in {403, 404}, path


def test_admin_page_asks_twice_before_it_stops_other_people(browser_page: Visitor) -> None:
    """Carol answers the first question with yes and the second with no. The page then sends nothing to the hub."""
    page = browser_page.page
    questions: list[str] = []
    sent: list[str] = []

    def decide(dialog: Dialog) -> None:
        questions.append(dialog.message)
        (dialog.dismiss if dialog.message.startswith("Are you sure?") else dialog.accept)()

    browser_page.sign_in("carol")
    page.on("dialog", decide)
    page.goto(f"{browser_page.lab.url}/hub/admin")
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    for button in (".stop-all", "#shutdown-button"):
        page.locator(button).click()
    assert len(questions) == 4
    assert [request for request in sent if not request.startswith("GET ")] == []
