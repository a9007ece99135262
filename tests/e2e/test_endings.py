"""What users see when a start fails, when a session ends, and when they follow a link."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from .lab import eventually
from .pages import START

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor


def test_page_of_a_start_changes_by_itself_when_the_job_ends(browser_page: Visitor, lab: Lab) -> None:
    """The page shows what happened and one button. The home page and the form remember the failure."""
    browser_page.sign_in("bob")
    browser_page.choose_profile(lab.profiles()[0]["key"])
    browser_page.page.wait_for_url("**/spawn-pending/**")
    eventually("bob has a job", lambda: lab.jobs("bob"))
    lab.cancel_jobs("bob")
    page = browser_page.page
    expect(page.get_by_role("heading", name="Your session did not start")).to_be_visible(timeout=START)
    expect(page.locator(".hpchub-outcome")).to_contain_text("cancelled")
    assert not re.search(r"Error\b|Errno", page.locator("body").inner_text())
    expect(page.locator("#start")).to_have_count(1)
    page.goto(f"{lab.url}/hub/home")
    expect(page.locator(".hpchub-outcome")).to_contain_text("Did not start")
    page.goto(f"{lab.url}/hub/spawn")
    expect(page.locator(".hpchub-outcome")).to_contain_text("did not start")


def test_home_page_and_api_tell_how_a_session_ended(browser_page: Visitor, lab: Lab) -> None:
    """The scheduler's own record explains the end."""
    browser_page.sign_in("bob")
    browser_page.start(lab.profiles()[0]["key"])
    path = "/hub/api/hpchub/sessions/bob"
    running = json.loads(browser_page.fetch("GET", path).text)
    assert (running["state"], running["ending"]) == ("running", None)
    assert running["ends_at"]
    lab.cancel_jobs("bob")

    def ended() -> str:
        answer = json.loads(browser_page.fetch("GET", path).text)
        return str(answer["ending"]["cause"]) if answer["state"] == "ended" else ""

    eventually("the end is explained", lambda: ended() == "cancelled", timeout=120)
    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator(".hpchub-outcome")).to_contain_text("cancelled")


def test_link_to_a_profile_and_a_page_lands_where_it_points(browser_page: Visitor, lab: Lab) -> None:
    """The link preselects the profile and starts nothing. After the start, the page opens that the user wanted."""
    key = lab.profiles()[-1]["key"]
    browser_page.sign_in("bob")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={key}")
    expect(page.locator(f"input[name=profile][value='{key}']")).to_be_checked()
    assert not lab.jobs("bob")
    page.goto(f"{lab.url}/user/bob/lab/tree/.hpchub?reset")
    page.locator("#start").click()
    page.locator("#spawn_form [type=submit]").click()
    page.wait_for_url("**/user/bob/lab/tree/**", timeout=START)
