"""The start form: profiles for people, fields within limits, messages beside the fields, saved settings, and links."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Locator, Page

    from .lab import Lab
    from .pages import Visitor

LIST = "/etc/hpchub/profiles.json"
LONG_NAME = "n" * 10_240
SILENT = 200_000
"""The hub asks the scheduler at least once in this time, in milliseconds."""


@pytest.fixture
def change_list(lab: Lab) -> Iterator[Callable[[Callable[[dict[str, Any]], None]], None]]:
    """Return a function that changes the profile list on the hub. The test's end restores the list."""
    before = lab.profile_list()

    def write(content: dict[str, Any]) -> None:
        text = base64.b64encode(json.dumps(content, sort_keys=True, indent=4).encode()).decode()
        lab.run("hub", ["sh", "-c", f"echo {text} | base64 -d > {LIST}"])

    def change(edit: Callable[[dict[str, Any]], None]) -> None:
        content = lab.profile_list()
        edit(content)
        write(content)

    yield change
    write(before)


def adjustable(lab: Lab) -> dict[str, Any]:
    """Return a profile with cores and memory that users can change."""
    for profile in lab.profiles():
        if (profile["adjustable"]["cores"] or {}).get("max") and profile["adjustable"]["memory"]:
            return profile
    pytest.skip("the lab has no profile with adjustable fields")


def field(page: Page, key: str, name: str) -> Locator:
    """Return a field of a profile in the form."""
    return page.locator(f"[name='{key}.{name}']")


def submit(page: Page) -> None:
    """Press the button that starts a session."""
    page.locator("#spawn_form [type=submit]").click()


def post(visitor: Visitor, lab: Lab, fields: dict[str, str]) -> str:
    """Send the form with values that its controls do not permit, as a program could. Show the answer."""
    page = visitor.page
    page.goto(f"{lab.url}/hub/spawn")
    send = """fields => {
        const form = document.createElement("form");
        form.method = "post";
        form.action = document.getElementById("spawn_form").action;
        for (const [name, value] of Object.entries(fields)) {
            const input = document.createElement("input");
            [input.type, input.name, input.value] = ["hidden", name, value];
            form.append(input);
        }
        document.body.append(form);
        form.submit();
    }"""
    with page.expect_navigation():
        page.evaluate(send, fields)
    return page.content()


def message_of(page: Page, control: Locator) -> Locator:
    """Return the message that belongs to a control."""
    expect(control).to_have_attribute("aria-invalid", "true")
    described = (control.get_attribute("aria-describedby") or "").split()
    (error,) = [each for each in described if each.endswith("-error")]
    return page.locator(f"[id='{error}']")


def test_restricted_profile_is_hidden_and_cannot_be_started(
    browser_page: Visitor, lab: Lab, change_list: Callable[..., None]
) -> None:
    key = lab.profiles()[1]["key"]

    def restrict(content: dict[str, Any]) -> None:
        content["profiles"][1]["users"] = ["bob"]

    change_list(restrict)
    browser_page.sign_in("alice")
    assert key not in browser_page.offered_profiles()
    answer = browser_page.fetch("POST", "/hub/api/users/alice/server", body={"profile": key})
    assert answer.status == 400
    assert "There is no profile" in answer.text
    assert "is not offered" in post(browser_page, lab, {"profile": key})
    assert not lab.jobs("alice")


def test_profile_of_a_group_is_offered_to_its_members_only(visitor: Callable[[], Visitor], lab: Lab) -> None:
    restricted = [each["key"] for each in lab.profile_list()["profiles"] if "hpc-admins" in each["groups"]]
    if not restricted:
        pytest.skip("the lab has no profile for a group")
    for name, offered in (("alice", False), ("carol", True)):
        person = visitor()
        person.sign_in(name)
        assert (restricted[0] in person.offered_profiles()) is offered


def test_restricted_profile_is_shown_with_the_reason(
    browser_page: Visitor, lab: Lab, change_list: Callable[..., None]
) -> None:
    key = lab.profiles()[1]["key"]

    def restrict(content: dict[str, Any]) -> None:
        content["profiles"][1]["groups"] = ["a-group-of-nobody"]
        content["service"]["restricted_profiles"] = "shown"

    change_list(restrict)
    browser_page.sign_in("alice")
    browser_page.page.goto(f"{lab.url}/hub/spawn")
    choice = browser_page.page.locator(f"input[name=profile][value='{key}']")
    expect(choice).to_be_disabled()
    expect(browser_page.page.get_by_text("only for members of these groups: a-group-of-nobody")).to_be_visible()


def test_profile_of_a_unix_group_is_for_its_members(
    visitor: Callable[[], Visitor], lab: Lab, change_list: Callable[..., None]
) -> None:
    key = lab.profiles()[1]["key"]
    if "alice" not in lab.run("hub", ["getent", "passwd"], check=False):
        pytest.skip("the hub host does not know the users' accounts")
    group = lab.run("hub", ["id", "-gn", "alice"]).strip()
    other = "nogroup"

    def restrict(to: str) -> Callable[[dict[str, Any]], None]:
        def edit(content: dict[str, Any]) -> None:
            content["profiles"][1]["unix_groups"] = [to]

        return edit

    alice = visitor()
    alice.sign_in("alice")
    change_list(restrict(group))
    assert key in alice.offered_profiles()
    change_list(restrict(other))
    assert key not in alice.offered_profiles()


def test_user_changes_fields_within_their_limits(browser_page: Visitor, lab: Lab) -> None:
    """The job gets what the user chose, and the next form shows it again."""
    profile = adjustable(lab)
    key = profile["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn")
    expect(field(page, key, "cores")).to_be_hidden()
    page.locator(f"input[name=profile][value='{key}']").check()
    expect(field(page, key, "cores")).to_be_visible()
    field(page, key, "cores").select_option("2")
    submit(page)
    notebooks = browser_page.wait_for_lab()
    output = notebooks.new_notebook("python3").run(
        "import os; print(len(os.sched_getaffinity(0)), os.getenv('HPCHUB_CORES'))"
    )
    assert "2" in output.split()
    browser_page.stop_server()
    page.goto(f"{lab.url}/hub/spawn")
    expect(page.locator(f"input[name=profile][value='{key}']")).to_be_checked()
    expect(field(page, key, "cores")).to_have_value("2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cores", "9999"),
        ("cores", "-1"),
        ("memory", "much"),
        ("account", "account-of-somebody-else"),
        ("qos", "vanished"),
        ("account", LONG_NAME),
        ("queue", "another"),
    ],
    ids=["above", "below", "no-size", "foreign-account", "vanished-qos", "10-kB-name", "unknown-queue"],
)
def test_bad_value_gets_a_message_beside_its_field(browser_page: Visitor, lab: Lab, name: str, value: str) -> None:
    profile = adjustable(lab)
    key = profile["key"]
    if not profile["adjustable"][name]:
        pytest.skip(f"the profile does not let users change {name}")
    if name in ("account", "qos") and value != LONG_NAME:
        if {cluster["scheduler"] for cluster in lab.profile_list()["clusters"]} != {"slurm"}:
            pytest.skip("only Slurm tells what a user may use")
        browser_page.sign_in("alice")

        def offered() -> int:
            browser_page.page.goto(f"{lab.url}/hub/spawn")
            return field(browser_page.page, key, name).locator("option").count()

        eventually("the hub knows the user's accounts", offered, interval=5)
    else:
        browser_page.sign_in("alice")
    post(browser_page, lab, {"profile": key, f"{key}.{name}": value})
    control = field(browser_page.page, key, name)
    expect(message_of(browser_page.page, control)).to_be_visible()
    expect(browser_page.page.locator(f"input[name=profile][value='{key}']")).to_be_checked()
    assert not lab.jobs("alice")


@pytest.fixture
def course(lab: Lab) -> Iterator[str]:
    """The lab's reservation for the account course. The test may delete it."""
    show = ["scontrol", "--oneliner", "show", "reservation"]
    if "ReservationName=course " not in lab.run("login1", show, check=False):
        pytest.skip("the lab has no Slurm with a reservation")
    yield "course"
    if "ReservationName=course " not in lab.run("login1", show, check=False):
        queue = adjustable(lab)["queue"]
        values = f"StartTime=now Duration=365-0 Accounts=course PartitionName={queue} NodeCnt=1 CoreCnt=2"
        lab.run("login1", ["scontrol", "create", "reservation", "ReservationName=course", *values.split()])


def test_reservation_that_vanishes_between_form_and_start(browser_page: Visitor, lab: Lab, course: str) -> None:
    """The hub still knows the reservation, so Slurm refuses the job. The form shows why, and keeps the other values."""
    key = adjustable(lab)["key"]
    browser_page.sign_in("alice")
    page = browser_page.page

    def offered() -> bool:
        page.goto(f"{lab.url}/hub/spawn?profile={key}")
        return field(page, key, "reservation").locator(f"option[value={course}]").count() > 0

    eventually("the hub knows the reservation", offered, timeout=180, interval=5)
    for name, value in (("cores", "2"), ("account", "course"), ("reservation", course)):
        field(page, key, name).select_option(value)
    lab.run("login1", ["scontrol", "delete", f"ReservationName={course}"])
    submit(page)
    control = field(page, key, "reservation")
    expect(control).to_have_attribute("aria-invalid", "true", timeout=60_000)
    expect(message_of(page, control)).to_contain_text(f"does not let you use the reservation '{course}'")
    for name, value in (("cores", "2"), ("account", "course"), ("reservation", course)):
        expect(field(page, key, name)).to_have_value(value)
    assert not lab.jobs("alice")


def test_api_obeys_the_limits_of_fields(browser_page: Visitor, lab: Lab) -> None:
    profile = adjustable(lab)
    browser_page.sign_in("alice")
    for fields in ({"cores": 9999}, {"options": ["--uid=0"]}, {"cores": "1\n#SBATCH --exclusive"}):
        body = {"profile": profile["key"], "fields": fields}
        answer = browser_page.fetch("POST", "/hub/api/users/alice/server", body=body)
        assert answer.status == 400, fields
    assert not lab.jobs("alice")


def test_link_fills_in_the_form_and_starts_nothing(browser_page: Visitor, lab: Lab) -> None:
    profile = adjustable(lab)
    key = profile["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={key}&cores=2&next=/user/alice/lab/tree/.hpchub")
    expect(page.locator(f"input[name=profile][value='{key}']")).to_be_checked()
    expect(field(page, key, "cores")).to_have_value("2")
    page.goto(f"{lab.url}/hub/spawn?profile={key}&cores=9999")
    expect(message_of(page, field(page, key, "cores"))).to_be_visible()
    assert not lab.jobs("alice")


def test_settings_are_saved_filled_in_and_deleted(browser_page: Visitor, lab: Lab) -> None:
    profile = adjustable(lab)
    key = profile["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={key}&cores=2")
    page.get_by_label("Name for saving these settings").fill("Course & <b>")
    page.get_by_role("button", name="Save without starting").click()
    page.goto(f"{lab.url}/hub/spawn?profile={lab.profiles()[0]['key']}")
    page.get_by_role("link", name="Course & <b>").click()
    expect(field(page, key, "cores")).to_have_value("2")
    page.get_by_role("button", name="Delete the saved setting Course & <b>").click()
    expect(page.get_by_role("link", name="Course & <b>")).to_have_count(0)
    assert not lab.jobs("alice")


def test_long_name_of_a_setting_is_explained(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn")
    page.locator("#settings_name").fill(LONG_NAME)
    page.get_by_role("button", name="Save without starting").click()
    expect(message_of(page, page.locator("#settings_name"))).to_contain_text("too long")


def test_setting_of_a_profile_that_is_gone_is_explained(
    browser_page: Visitor, lab: Lab, change_list: Callable[..., None]
) -> None:
    key = lab.profiles()[-1]["key"]
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={key}")
    page.locator("#settings_name").fill("gone soon")
    page.get_by_role("button", name="Save without starting").click()

    def remove(content: dict[str, Any]) -> None:
        content["profiles"] = [each for each in content["profiles"] if each["key"] != key]

    change_list(remove)
    page.goto(f"{lab.url}/hub/spawn?settings=gone%20soon")
    expect(page.get_by_text("which is not offered any more")).to_be_visible()
    page.get_by_role("button", name="Delete the saved setting gone soon").click()
    assert not lab.jobs("alice")


def test_availability_follows_a_changed_field(browser_page: Visitor, lab: Lab) -> None:
    """The hub answers from what it knows. If it knows nothing yet, the answer is empty."""
    profile = adjustable(lab)
    browser_page.sign_in("alice")
    page = browser_page.page
    page.goto(f"{lab.url}/hub/spawn?profile={profile['key']}")
    with page.expect_response(lambda response: "/hub/availability/alice" in response.url) as answered:
        field(page, profile["key"], "cores").select_option("2")
    assert answered.value.status == 200
    assert "cores=2" in answered.value.url
    assert page.url.endswith(f"?profile={profile['key']}")


def test_form_tells_when_a_session_would_start(browser_page: Visitor, lab: Lab) -> None:
    """The hub asks the scheduler in the background, so the figure may be missing at first. It has an age."""
    browser_page.sign_in("alice")

    def shown() -> bool:
        browser_page.page.goto(f"{lab.url}/hub/spawn")
        return browser_page.page.locator(".hpchub-start time").count() > 0

    eventually("the form shows when a session would start", shown, timeout=180, interval=5)


@pytest.mark.slow
def test_form_stays_usable_while_the_scheduler_does_not_answer(browser_page: Visitor, lab: Lab) -> None:
    """The form shows what the hub knows, and the time of the answer. A session starts when the scheduler is back."""
    page = browser_page.page
    browser_page.sign_in("alice")
    key = lab.profiles()[0]["key"]

    def seen() -> float:
        """Load the form, and return the time of the answer that it shows, in seconds since the epoch, or 0."""
        page.goto(f"{lab.url}/hub/spawn")
        expect(page.locator(f"input[value='{key}']")).to_be_enabled(timeout=5_000)
        expect(page.locator("#spawn_form [type=submit]")).to_be_enabled()
        time = page.locator(".hpchub-start time")
        return float(time.first.get_attribute("data-time") or 0) if time.count() else 0.0

    # The hub asks again after up to 5 minutes if the scheduler did not answer an earlier test.
    eventually("the form shows when a session would start", seen, timeout=600, interval=5)
    for batch in lab.batches.values():
        batch.stop()
    try:
        page.wait_for_timeout(10_000)  # an answer that was on its way has arrived
        before = seen()
        assert before
        page.wait_for_timeout(SILENT)
        assert seen() == before
    finally:
        for batch in lab.batches.values():
            batch.start()
    eventually("the form shows a new answer", lambda: seen() > before, timeout=600, interval=5)
    browser_page.start(key)
