"""Which requests start a session, and which do not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from .lab import eventually

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor


def nothing_started(visitor: Visitor, lab: Lab) -> bool:
    """Return whether the user has no job and no server that runs or is about to start."""
    assert visitor.user is not None
    visitor.page.goto(f"{lab.url}/hub/home")
    server = visitor.server()
    return not lab.jobs(visitor.user.name) and not server.get("ready") and not server.get("pending")


def test_link_with_a_profile_starts_nothing(browser_page: Visitor, lab: Lab) -> None:
    """Opening a link that names a profile does not start a session."""
    browser_page.sign_in("alice")
    key = lab.profiles()[0]["key"]
    for path in (f"/hub/spawn?profile={key}", f"/hub/spawn/alice?profile={key}"):
        browser_page.page.goto(f"{lab.url}{path}")
        assert nothing_started(browser_page, lab), path


def test_form_without_xsrf_token_starts_nothing(browser_page: Visitor, lab: Lab) -> None:
    """A form of another site has no XSRF token, so the hub refuses it."""
    browser_page.sign_in("alice")
    key = lab.profiles()[0]["key"]
    browser_page.page.goto(f"{lab.url}/hub/home")
    post = "async ([url, profile]) => (await fetch(url, {method: 'POST', body: new URLSearchParams({profile})})).status"
    status = browser_page.page.evaluate(post, [f"{lab.url}/hub/spawn", key])
    assert status == 403
    assert nothing_started(browser_page, lab)


def wrong_choices(key: str) -> dict[str, dict[str, Any]]:
    """Return REST API requests to start a server that the form could not have sent."""
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


def test_rest_api_refuses_choices_that_the_form_does_not_offer(browser_page: Visitor, lab: Lab) -> None:
    """The hub answers 400 with the valid profiles, and starts no job."""
    keys = [profile["key"] for profile in lab.profiles()]
    browser_page.sign_in("alice")
    token = browser_page.new_token()
    for case, choice in wrong_choices(keys[0]).items():
        answer = browser_page.fetch("POST", "/hub/api/users/alice/server", body=choice, token=token)
        assert answer.status == 400, f"{case}: {answer}"
        message = json.loads(answer.text)["message"]
        assert all(key in message for key in keys), f"{case}: {message}"
        assert nothing_started(browser_page, lab), case


def test_rest_api_starts_a_profile_that_the_form_offers(browser_page: Visitor, lab: Lab) -> None:
    """A token is enough; no browser cookie is needed."""
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
