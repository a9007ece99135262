"""Who gets in, and who does not."""

import time

from playwright.sync_api import expect

from .lab import totp


def test_who_is_not_permitted_is_told_so(browser_page, lab):
    """Dave has an account and no permitted group: a clear page, no account in the hub, no job."""
    page = browser_page.page
    page.goto(lab.url)
    with page.expect_response(lambda answer: answer.url.startswith(lab.url) and answer.status == 403):
        browser_page.submit_password("dave", lab.user("dave").password)
    text = page.locator("body")
    expect(text).to_contain_text("You are signed in as dave, and this account may not use")
    expect(text).to_contain_text(lab.profile_list()["service"]["support"])

    for path in ("/hub/home", "/hub/spawn", "/user/dave/"):
        answer = page.goto(f"{lab.url}{path}")
        assert answer.status == 403, path
    assert "dave" not in lab.hub_users()
    assert not lab.jobs("dave")


def test_a_wrong_password(browser_page, lab):
    """The identity provider asks again, and the service stays closed."""
    page = browser_page.page
    page.goto(lab.url)
    browser_page.submit_password("alice", "not her password")
    expect(page.locator("[trmsg='5']")).to_be_visible()
    page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_a_wrong_one_time_password(browser_page, lab):
    """Carol's password alone opens nothing."""
    page, carol = browser_page.page, lab.user("carol")
    page.goto(lab.url)
    browser_page.submit_password("carol", carol.password)
    # A day from now: well formed, and not the code of any step that a clock could be off by.
    code = page.locator("input[name=code]")
    code.fill(totp(carol.totp_secret, time.time() + 86_400))
    code.press("Enter")
    expect(page.locator("[trmsg='96']")).to_be_visible()
    page.goto(f"{lab.url}/hub/home")
    expect(browser_page.password_field).to_be_visible()


def test_another_persons_session_is_closed(visitor, lab):
    """Bob asks for pages of Alice's running session and gets none."""
    alice, bob = visitor(), visitor()
    alice.sign_in("alice")
    alice.start(lab.profiles()[0]["key"])
    bob.sign_in("bob")
    for path in ("/user/alice/", "/user/alice/lab", "/user/alice/api/contents", "/user/alice/api/kernels"):
        answer = bob.page.goto(f"{lab.url}{path}")
        assert answer.status in {403, 404}, path
        assert "jupyter-config-data" not in answer.text()

    # Nor does her server answer him on the cluster's own network, where he may be.
    (job,) = lab.jobs("alice")
    listeners = lab.run(job.node, ["ss", "--listening", "--tcp", "--numeric", "--no-header"]).splitlines()
    taken = {int(line.split()[3].rsplit(":", 1)[1]) for line in listeners}
    port = next(port for port in taken if 20000 <= port <= 29999)
    for scheme in ("http", "https"):
        ask = ["curl", "--silent", "--insecure", "--max-time", "10", f"{scheme}://{job.node}:{port}/user/alice/api"]
        assert lab.run("login1", ["runuser", "-u", "bob", "--", *ask], check=False) == "", scheme


def test_what_is_an_administrators(browser_page, lab):
    """Alice is not one."""
    browser_page.sign_in("alice")
    for path in ("/hub/admin", "/hub/api/users", "/hub/api/users/bob", "/hub/spawn/bob"):
        answer = browser_page.page.goto(f"{lab.url}{path}")
        assert answer.status in {403, 404}, path
