"""What starts a session, and what does not."""

import json

from playwright.sync_api import expect

from .lab import eventually


def nothing_started(visitor, lab):
    """No job, and the hub neither has a server of theirs nor is about to."""
    visitor.page.goto(f"{lab.url}/hub/home")
    server = visitor.server()
    return not lab.jobs(visitor.user.name) and not server.get("ready") and not server.get("pending")


def test_a_link_starts_nothing(browser_page, lab):
    """Opening a page that names a profile is not a start."""
    browser_page.sign_in("alice")
    key = lab.profiles()[0]["key"]
    for path in (f"/hub/spawn?profile={key}", f"/hub/spawn/alice?profile={key}"):
        browser_page.page.goto(f"{lab.url}{path}")
        assert nothing_started(browser_page, lab), path


def test_a_form_of_another_site_starts_nothing(browser_page, lab):
    """The form without the XSRF token is refused."""
    browser_page.sign_in("alice")
    key = lab.profiles()[0]["key"]
    browser_page.page.goto(f"{lab.url}/hub/home")
    post = "async ([url, profile]) => (await fetch(url, {method: 'POST', body: new URLSearchParams({profile})})).status"
    status = browser_page.page.evaluate(post, [f"{lab.url}/hub/spawn", key])
    assert status == 403
    assert nothing_started(browser_page, lab)


def wrong_choices(key):
    """Requests to start a server through the REST API that the form could not have made."""
    return {
        "unknown profile": {"profile": "no-such-profile"},
        "no profile": {},
        "empty profile": {"profile": ""},
        "list of profiles": {"profile": [key]},
        "long profile": {"profile": "x" * 10_000},
        "partition": {"profile": key, "partition": "batch"},
        "batch options": {"profile": key, "options": "--nodelist=compute2"},
        "command": {"profile": key, "cmd": ["id"]},
        "newline": {"profile": f"{key}\n#SBATCH --exclusive"},
    }


def test_the_rest_api_reaches_no_more_than_the_form(browser_page, lab):
    """400 with the profiles that there are, and no job."""
    keys = [profile["key"] for profile in lab.profiles()]
    browser_page.sign_in("alice")
    token = browser_page.new_token()
    for case, choice in wrong_choices(keys[0]).items():
        answer = browser_page.fetch("POST", "/hub/api/users/alice/server", body=choice, token=token)
        assert answer.status == 400, f"{case}: {answer}"
        message = json.loads(answer.text)["message"]
        assert all(key in message for key in keys), f"{case}: {message}"
        assert nothing_started(browser_page, lab), case


def test_the_rest_api_starts_what_the_form_offers(browser_page, lab):
    """With a token, and without a browser's cookies."""
    browser_page.sign_in("alice")
    token = browser_page.new_token()
    choice = {"profile": lab.profiles()[0]["key"]}
    answer = browser_page.fetch("POST", "/hub/api/users/alice/server", body=choice, token=token)
    assert answer.status in {201, 202}, answer
    eventually("the server is ready", lambda: browser_page.server().get("ready"), timeout=180)
    (job,) = lab.jobs("alice")
    assert job.partition == lab.profiles()[0]["queue"]
    status = browser_page.fetch("GET", "/user/alice/api/status", token=token)
    assert status.status == 200, status
    expect(browser_page.page.locator("#start")).to_be_visible()
