"""The start form: who sees which profile, fields and their messages, links, saved settings, and availability."""

from __future__ import annotations

import functools
import html
import json
import re
import time
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from hub_app import VARIABLES, answer, profile, site
from hub_browser import Browser, eventually
from jupyterhub import orm
from jupyterhub.handlers.pages import SpawnPendingHandler

from hpchub.hub.saved_settings import MOST, SavedSettings
from hpchub.hub.start_error import StartError
from hpchub.hub.unix_groups import UnixGroups
from hpchub.model.profile_list import profile_list
from hpchub.schedulers.knowledge import Account, Allocations, Availability

if TYPE_CHECKING:
    from pathlib import Path

    from hub_app import Hub

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner
    from hpchub.schedulers.offers import Wanted

LONG = "n" * 10_240
FLEXIBLE = profile(
    "flexible",
    adjustable={
        "cores": {"max": 4},
        "memory": {"max": "8G"},
        "account": {},
        "qos": {},
        "working_directory": {},
    },
)


@pytest.fixture
async def browser(hub: Hub, port: int) -> Browser:
    """A signed-in browser."""
    found = Browser(port)
    hub.app.authenticator.allowed_users = {"alice"}
    assert (await found.get("/hub/login?next=/hub/home")).code == 302
    return found


@pytest.fixture
def spawner(hub: Hub) -> HPCProfilesSpawner:
    """Alice's spawner."""
    found: HPCProfilesSpawner = hub.user().spawners[""]
    return found


def offer(directory: Path, *profiles: dict[str, Any], shown: str = "hidden") -> None:
    """Write the profile list that the hub reads."""
    service = {"url": "https://hub.example.org", "restricted_profiles": shown}
    (directory / "profiles.json").write_text(json.dumps(profile_list(site(*profiles, hpc_service=service))))


def offer_nodes(directory: Path, *profiles: dict[str, Any]) -> None:
    """Write a profile list whose queue permits 4 nodes."""
    (cluster,) = VARIABLES["hpc_clusters"]
    (queue,) = cluster["queues"]
    permitting = {**cluster, "queues": [{**queue, "max_nodes": 4}]}
    (directory / "profiles.json").write_text(json.dumps(profile_list(site(*profiles, hpc_clusters=[permitting]))))


class Knows:
    """What the hub knows of a cluster."""

    def __init__(self, allocations: Allocations | None = None, free: int | None = None, age: float = 30.0) -> None:
        self._allocations = allocations
        self._free = free
        self._age = age

    def allocations(self, user: str) -> Allocations | None:
        """Return what the user may request."""
        return self._allocations

    def maintenances(self) -> tuple[()]:
        """Return no maintenance."""
        return ()

    def availability(self) -> Availability | None:
        """Return an answer in which jobs with at most so many cores start now, and all others in 2 hours."""
        if self._free is None:
            return None
        free = self._free

        class Fixed(Availability):
            def wait(self, queue: str, wanted: Wanted, nodes: int = 1) -> float | None:
                return 0.0 if wanted.cores <= free else 7200.0

        return Fixed(time.time() - self._age)


def know(hub: Hub, monkeypatch: pytest.MonkeyPatch, knows: Knows) -> None:
    """Let the hub know something of its cluster."""
    monkeypatch.setattr(hub.runtime, "knowledge", lambda cluster: knows)


OWN = Allocations(
    time.time(),
    (Account("physics", qos=("normal", "high")), Account("course", qos=("normal",))),
    "physics",
    ("normal", "high"),
    (),
)


class Controls(HTMLParser):
    """The fields of a form by their names, each with its attributes, its value and the text of its message."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, dict[str, Any]] = {}
        self.messages: dict[str, str] = {}
        self._select: dict[str, Any] | None = None
        self._message = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("name")
        if tag == "select" and name:
            self._select = self.found[name] = {**given, "options": []}
        elif tag == "option" and self._select is not None:
            self._select["options"].append(given.get("value"))
            if "selected" in given:
                self._select["value"] = given.get("value")
        elif tag == "input" and name and given.get("type") == "radio":
            radio = self.found.setdefault(name, {"options": [], "value": ""})
            if "disabled" not in given:
                radio["options"].append(given["value"])
            if "checked" in given:
                radio["value"] = given["value"]
        elif tag == "input" and name:
            self.found[name] = given
        if "hpchub-error" in (given.get("class") or ""):
            self._message = given.get("id") or ""
            self.messages[self._message] = ""

    def handle_data(self, data: str) -> None:
        if self._message:
            self.messages[self._message] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None
        if tag == "div":
            self._message = ""

    def message(self, name: str) -> str:
        """Return the message that a field refers to with ``aria-describedby``."""
        control = self.found[name]
        assert control.get("aria-invalid") == "true"
        (error,) = [each for each in control["aria-describedby"].split() if each in self.messages]
        return self.messages[error]


async def send(browser: Browser, path: str = "/hub/spawn", **fields: str) -> Any:
    """Send the form. Dots in the names of fields are written as two underscores."""
    await browser.get("/hub/spawn")
    names = {name.replace("__", "."): value for name, value in fields.items()}
    return await browser.post(f"{path}?_xsrf={quote(browser.cookies['_xsrf'])}", names)


# The profiles that each user sees


async def test_heading_names_the_session(hub: Hub, browser: Browser) -> None:
    page = await browser.page("/hub/spawn/alice/genome?display_name=Genome%20%3CRun%3E")
    assert re.findall(r"<h1[^>]*>(.*?)\s*</h1>", page) == ["Start the session &#39;Genome &lt;Run&gt;&#39;"]
    assert re.findall(r"<h1[^>]*>(.*?)\s*</h1>", await browser.page("/hub/spawn")) == ["Start a session on Example HPC"]


async def test_profiles_are_grouped(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("a", group="CPU <1>"), profile("b", group="GPU"), profile("c", group="CPU <1>"))
    page = await browser.page("/hub/spawn")
    headings = re.findall(r'<legend class="h5 mt-3">(.*?)</legend>|name="profile" value="(\w)"', page)
    assert [first or second for first, second in headings] == ["CPU &lt;1&gt;", "a", "c", "GPU", "b"]


@pytest.mark.parametrize("limits", [{"groups": ["staff"]}, {"users": ["bob"]}, {"unix_groups": ["staff"]}], ids=str)
async def test_restricted_profile_is_hidden_and_refused(
    hub: Hub, browser: Browser, spawner: HPCProfilesSpawner, tmp_path: Path, limits: dict[str, Any]
) -> None:
    hub.runtime.unix_groups = UnixGroups(lambda user: frozenset({"users"}))
    offer(tmp_path, profile("small"), profile("secret", **limits))
    assert "secret" not in await browser.page("/hub/spawn?profile=small")
    response = await send(browser, profile="secret")
    assert response.code == 400
    assert "is not offered" in response.body.decode()
    for action in (spawner._run_apply_user_options({"profile": "secret"}),):
        with pytest.raises(StartError, match=r"There is no profile 'secret'. The profiles are: small\."):
            await action
    with pytest.raises(StartError, match="There is no profile 'secret'"):
        spawner.select_profile("secret")
    assert hub.gate.submissions == []


async def test_restricted_profile_is_shown_with_the_reason(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), profile("staffed", groups=["staff"]), shown="shown")
    page = await browser.page("/hub/spawn")
    assert "This profile is only for members of these groups: staff." in page
    assert Controls(page).found["profile"]["options"] == ["small"]
    response = await send(browser, profile="staffed")
    assert response.code == 400
    assert hub.gate.submissions == []


async def test_member_of_an_sso_group_may_use_its_profile(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    offer(tmp_path, profile("staffed", groups=["staff"]))
    with pytest.raises(StartError, match="There is no profile that you may use"):
        await spawner._run_apply_user_options({"profile": "staffed"})
    spawner.user.orm_user.groups = [orm.Group(name="staff")]
    await spawner._run_apply_user_options({"profile": "staffed"})


async def test_member_of_a_unix_group_may_use_its_profile(
    hub: Hub, browser: Browser, spawner: HPCProfilesSpawner, tmp_path: Path
) -> None:
    hub.runtime.unix_groups = UnixGroups(lambda user: frozenset({"staff", "1500"} if user == "alice" else ()))
    offer(tmp_path, profile("a", unix_groups=["staff"]), profile("b", unix_groups=[1500]), profile("c", users=["bob"]))
    assert Controls(await browser.page("/hub/spawn")).found["profile"]["options"] == ["a", "b"]
    await spawner._run_apply_user_options({"profile": "a"})
    with pytest.raises(StartError, match="There is no profile 'a'"):
        await hub.user("bob").spawners[""]._run_apply_user_options({"profile": "a"})


async def test_directory_that_does_not_answer_permits_nothing(
    hub: Hub, spawner: HPCProfilesSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(user: str) -> frozenset[str]:
        raise OSError("no answer")

    hub.runtime.unix_groups = UnixGroups(fail)
    offer(tmp_path, profile("small"), profile("staffed", unix_groups=["staff"]), shown="shown")
    assert "cannot find out at the moment" in await spawner.get_options_form()
    with pytest.raises(StartError, match="There is no profile 'staffed'"):
        await spawner._run_apply_user_options({"profile": "staffed"})


# Fields


async def test_form_shows_the_users_own_accounts(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, FLEXIBLE)
    know(hub, monkeypatch, Knows(OWN))
    found = Controls(await browser.page("/hub/spawn")).found
    assert found["flexible.account"]["options"] == ["", "physics", "course"]
    assert found["flexible.qos"]["options"] == ["", "normal", "high"]
    assert found["flexible.cores"]["options"] == ["1", "2", "3", "4"]
    assert found["flexible.working_directory"]["value"] == ""


async def test_form_works_while_nothing_is_known(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, FLEXIBLE)
    page = await browser.page("/hub/spawn")
    assert "options" not in Controls(page).found["flexible.account"]
    assert "The cluster has not told which values you may use" in page


@pytest.mark.parametrize(
    "case",
    [
        ({"cores": "99"}, "cores", "99 is not possible here. Choose 1 to 4."),
        ({"cores": "-1"}, "cores", "Write a whole number"),
        ({"account": "chemistry"}, "account", "You cannot charge the account"),
        ({"account": LONG}, "account", "The value is too long"),
        ({"qos": "vanished"}, "qos", "You cannot use the quality of service"),
        ({"working_directory": "<script>"}, "working_directory", "is not valid here"),
    ],
    ids=lambda case: str(case[0])[:40],
)
async def test_message_is_beside_the_field_and_nothing_starts(
    hub: Hub,
    browser: Browser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[dict[str, str], str, str],
) -> None:
    fields, name, message = case
    offer(tmp_path, profile("small"), FLEXIBLE)
    know(hub, monkeypatch, Knows(OWN))
    sent = {"flexible__memory": "3G", **{f"flexible__{each}": value for each, value in fields.items()}}
    response = await send(browser, profile="flexible", **sent)
    page = response.body.decode()
    controls = Controls(page)
    assert response.code == 400
    assert message in controls.message(f"flexible.{name}")
    assert controls.found["profile"]["value"] == "flexible"
    assert controls.found["flexible.memory"]["value"] == "3G"
    assert "No session was started." in page
    assert "<script>'" not in page
    assert len(page) < 60_000
    assert hub.gate.submissions == []


async def test_fields_of_another_profile_do_not_count(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    form = {"profile": ["small"], "flexible.cores": ["99"], "_xsrf": ["x"]}
    assert spawner.options_from_form(form) == {"profile": "small"}
    form = {"profile": ["flexible"], "flexible.cores": ["3"], "flexible.memory": ["2048M"], "_xsrf": ["x"]}
    options = {"profile": "flexible", "fields": {"cores": "3", "memory": "2G"}}
    assert spawner.options_from_form(form) == options


async def test_session_gets_what_the_user_chose(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    offer(tmp_path, FLEXIBLE)
    spawner.user_options = {"profile": "flexible", "fields": {"cores": 3, "memory": "2G"}}
    await spawner._run_apply_user_options(spawner.user_options)
    granted = spawner.construct_child().profile
    assert (granted.cores, granted.memory, granted.adjustable.names) == (3, "2G", [])


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "flexible", "fields": {"cores": 5}},
        {"profile": "flexible", "fields": {"options": ["--uid=0"]}},
        {"profile": "flexible", "fields": ["cores"]},
        {"profile": "flexible", "fields": None},
        {"profile": "flexible", "cores": 2},
        {"profile": "small", "fields": {"cores": 2}},
        {"profile": "small", "fields": {"nodes": 2}},
        {"profile": "flexible", "fields": {"nodes": 2}},
        {"profile": "wide", "fields": {"nodes": 3}},
        {"profile": "wide", "fields": {"nodes": "0"}},
        {"profile": "wide", "nodes": 2},
    ],
    ids=str,
)
async def test_limits_hold_however_the_choice_arrived(
    spawner: HPCProfilesSpawner, tmp_path: Path, options: dict[str, Any]
) -> None:
    offer_nodes(tmp_path, profile("small"), FLEXIBLE, profile("wide", adjustable={"nodes": {"max": 2}}))
    with pytest.raises(StartError) as caught:
        await spawner._run_apply_user_options(options)
    assert caught.value.status_code == 400
    spawner.user_options = options
    with pytest.raises(StartError):
        spawner.construct_child()


async def test_text_in_another_encoding_is_refused(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, FLEXIBLE)
    await browser.get("/hub/spawn")
    from tornado.httpclient import AsyncHTTPClient, HTTPRequest  # noqa: PLC0415

    headers = {
        "X-Hpchub-User": "alice",
        "Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items()),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    url = f"http://127.0.0.1:{browser.port}/hub/spawn?_xsrf={quote(browser.cookies['_xsrf'])}"
    request = HTTPRequest(url, method="POST", headers=headers, body=b"profile=flexible&flexible.account=%FF")
    response = await AsyncHTTPClient(force_instance=True).fetch(request, raise_error=False)
    assert response.code == 400


# Links


async def test_link_fills_in_the_form_and_starts_nothing(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    page = await browser.page("/hub/spawn?profile=flexible&cores=3&memory=4G&next=/user/alice/lab/tree/x.ipynb")
    found = Controls(page).found
    assert found["profile"]["value"] == "flexible"
    assert (found["flexible.cores"]["value"], found["flexible.memory"]["value"]) == ("3", "4G")
    assert hub.gate.submissions == []


async def test_link_with_invalid_values_shows_messages(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    controls = Controls(await browser.page(f"/hub/spawn?profile=flexible&cores=99&account={LONG[:9000]}"))
    assert "99 is not possible here" in controls.message("flexible.cores")
    assert "too long" in controls.message("flexible.account")


LAST = {"profile": "flexible", "fields": {"cores": "3", "account": "physics"}}


@pytest.mark.parametrize(
    ("query", "cores"),
    [
        ("profile=flexible&again=on&next=/user/alice/lab", "3"),
        ("profile=flexible", "1"),
        ("profile=flexible&again=on&memory=2G", "1"),
    ],
)
async def test_link_to_the_last_start_fills_in_its_values(
    hub: Hub, browser: Browser, tmp_path: Path, query: str, cores: str
) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    hub.user().spawner.orm_spawner.user_options = LAST
    hub.app.db.commit()
    found = Controls(await browser.page(f"/hub/spawn?{query}")).found
    assert (found["profile"]["value"], found["flexible.cores"]["value"]) == ("flexible", cores)
    assert (found["flexible.account"]["value"] == "physics") is (cores == "3")


@pytest.mark.parametrize("key", ["small", "gone"])
async def test_link_to_an_earlier_start_keeps_its_profile(
    hub: Hub, browser: Browser, spawner: HPCProfilesSpawner, tmp_path: Path, key: str
) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    spawner.orm_spawner.user_options = LAST if key == "small" else {"profile": "gone", "fields": {"cores": "3"}}
    hub.app.db.commit()
    page = await browser.page(f"/hub/spawn?profile={key}&again=on")
    assert Controls(page).found["profile"]["value"] == "small"
    assert ("which is not offered" in page) is (key == "gone")


async def test_refused_values_of_the_last_start_are_not_offered_again(
    hub: Hub, browser: Browser, spawner: HPCProfilesSpawner, tmp_path: Path
) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    spawner.orm_spawner.user_options = {"profile": "flexible", "fields": {"cores": "99", "memory": "4G", "x": "y"}}
    hub.app.db.commit()
    controls = Controls(await browser.page("/hub/spawn"))
    assert controls.found["profile"]["value"] == "flexible"
    assert controls.found["flexible.memory"]["value"] == "4G"
    assert controls.found["flexible.cores"]["value"] != "99"
    assert controls.messages == {}


# Saved settings


async def test_setting_is_saved_shown_and_deleted(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    name = "My <b> & course"
    response = await send(
        browser, profile="flexible", flexible__cores="3", settings_name=f" {name} ", save_settings="1"
    )
    assert response.code == 303
    place = urlsplit(response.headers["Location"])
    assert (place.path, parse_qs(place.query)) == ("/hub/spawn", {"settings": [name]})
    page = await browser.page(response.headers["Location"])
    assert "My &lt;b&gt; &amp; course" in page
    assert Controls(page).found["flexible.cores"]["value"] == "3"
    assert hub.gate.submissions == []
    assert (await send(browser, delete_settings=name)).code == 303
    assert "My &lt;b&gt;" not in await browser.page("/hub/spawn")


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "Write a name"), (LONG, "The name is too long"), ("a\nb", "line break"), ("a\u202eb", "invisible")],
    ids=["empty", "10-kB", "line-break", "invisible"],
)
async def test_invalid_name_is_explained_beside_its_field(
    hub: Hub, browser: Browser, tmp_path: Path, name: str, message: str
) -> None:
    offer(tmp_path, FLEXIBLE)
    response = await send(browser, profile="flexible", flexible__cores="3", settings_name=name, save_settings="1")
    controls = Controls(response.body.decode())
    assert response.code == 400
    assert message in controls.message("settings_name")
    assert controls.found["flexible.cores"]["value"] == "3"
    assert SavedSettings(hub.app.db, "alice").all() == []


async def test_invalid_choice_is_not_saved(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, FLEXIBLE)
    response = await send(browser, profile="flexible", flexible__cores="9", settings_name="x", save_settings="1")
    assert "is not possible here" in Controls(response.body.decode()).message("flexible.cores")
    assert SavedSettings(hub.app.db, "alice").all() == []
    response = await send(browser, profile="flexible", flexible__cores="9", settings_name=LONG, save_settings="1")
    controls = Controls(response.body.decode())
    assert "is not possible here" in controls.message("flexible.cores")
    assert "too long" in controls.message("settings_name")


async def test_setting_of_a_profile_that_is_gone_is_explained(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"), FLEXIBLE)
    await send(browser, profile="flexible", settings_name="mine", save_settings="1")
    offer(tmp_path, profile("small"))
    page = await browser.page("/hub/spawn?settings=mine")
    assert "Your saved setting 'mine' uses the profile 'flexible', which is not offered any more" in unescape(page)
    assert Controls(page).found["profile"]["value"] == "small"
    assert "You have no saved setting 'other'" in unescape(await browser.page("/hub/spawn?settings=other"))


async def test_settings_belong_to_one_user_and_are_limited(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"))
    await browser.get("/hub/spawn")
    SavedSettings(hub.app.db, "bob").save("bobs", {"profile": "small"})
    assert "bobs" not in await browser.page("/hub/spawn")
    await send(browser, delete_settings="bobs")
    assert [each.name for each in SavedSettings(hub.app.db, "bob").all()] == ["bobs"]
    mine = SavedSettings(hub.app.db, "alice")
    for number in range(MOST):
        mine.save(f"s{number}", {"profile": "small"})
    response = await send(browser, profile="small", settings_name="one more", save_settings="1")
    assert "Delete one first" in Controls(response.body.decode()).message("settings_name")
    response = await send(browser, profile="small", settings_name="s1", save_settings="1")
    assert response.code == 303


async def test_request_without_the_token_of_the_form_changes_nothing(
    hub: Hub, browser: Browser, tmp_path: Path
) -> None:
    offer(tmp_path, profile("small"))
    await browser.get("/hub/spawn")
    response = await browser.post("/hub/spawn", {"profile": "small", "settings_name": "x", "save_settings": "1"})
    assert response.code == 403
    assert SavedSettings(hub.app.db, "alice").all() == []


# Availability


async def test_form_says_which_profiles_start_now(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, profile("big", cores=4), profile("middle", cores=2), profile("small"))
    know(hub, monkeypatch, Knows(free=2))
    page = re.sub(r"\s+", " ", await browser.page("/hub/spawn"))
    assert "in about 2 hours</span>, as of <time" in page
    assert page.count("Starts now</strong>, as of <time") == 2
    assert re.search(r'href="\?profile=middle"[^>]*>This smaller one starts now: middle</a>', page)


async def test_form_suggests_smaller_values_that_start_now(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, {**FLEXIBLE, "cores": 4, "memory": "4G"})
    know(hub, monkeypatch, Knows(OWN, free=2))
    page = re.sub(r"\s+", " ", await browser.page("/hub/spawn"))
    assert 'href="?profile=flexible&amp;cores=2&amp;memory=2G"' in page
    assert "This smaller one starts now: cores 2, memory 2 GB</a>" in page


async def test_links_of_the_form_keep_the_page_that_the_user_wanted(
    hub: Hub, browser: Browser, spawner: HPCProfilesSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, {**FLEXIBLE, "cores": 4, "memory": "4G"})
    know(hub, monkeypatch, Knows(OWN, free=2))
    spawner.saved_settings.save("A & B", {"profile": "flexible"})
    kept = "&amp;next=/user/alice/lab%3Freset%26x"
    page = await browser.page("/hub/spawn?next=/user/alice/lab%3Freset%26x")
    assert f'href="?settings=A%20%26%20B{kept}"' in page
    assert f'href="?profile=flexible&amp;cores=2&amp;memory=2G{kept}"' in page
    choice = "profile=flexible&cores=4&memory=4G"
    part = await browser.page(f"/hub/availability/alice?{choice}&next=/user/alice/lab%3Freset%26x")
    assert f"memory=2G{kept}" in part


async def test_old_answer_is_not_called_now(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, profile("small"))
    know(hub, monkeypatch, Knows(free=2, age=3600))
    page = await browser.page("/hub/spawn")
    assert "Starts now" not in page
    assert "The scheduler has not answered lately" in page


@pytest.mark.parametrize(
    ("language", "words"),
    [
        pytest.param("en", "3 nodes \N{MULTIPLICATION SIGN} 2 cores, 1 GB memory per node,", id="english"),
        pytest.param("de", "3 Knoten \N{MULTIPLICATION SIGN} 2 Kerne, 1 GB Speicher je Knoten,", id="german"),
    ],
)
async def test_card_shows_several_nodes(hub: Hub, browser: Browser, tmp_path: Path, language: str, words: str) -> None:
    offer_nodes(tmp_path, profile("wide", nodes=3, cores=2, adjustable={"nodes": {"max": 4}}))
    browser.cookies["hpchub-language"] = language
    page = await browser.page("/hub/spawn")
    assert words in re.sub(r"\s+", " ", page)
    assert Controls(page).found["wide.nodes"]["options"] == ["1", "2", "3", "4"]


async def test_session_gets_the_nodes_that_the_user_chose(spawner: HPCProfilesSpawner, tmp_path: Path) -> None:
    offer_nodes(tmp_path, profile("wide", adjustable={"nodes": {"max": 4}}))
    spawner.user_options = {"profile": "wide", "fields": {"nodes": "3"}}
    spawner.construct_child()
    assert spawner.child_spawner.profile.nodes == 3


async def availability(browser: Browser, **fields: str) -> str:
    """Return the words of the availability of a choice, as the page asks for them when a field changes."""
    response = await browser.get(f"/hub/availability/alice?{urlencode(fields)}")
    assert response.code == 200
    return re.sub(r"\s+", " ", response.body.decode())


async def test_availability_follows_the_fields(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, FLEXIBLE, profile("small"))
    know(hub, monkeypatch, Knows(OWN, free=2))
    page = await browser.page("/hub/spawn")
    assert 'data-availability="/hub/availability/alice"' in page
    assert "Starts now" in await availability(browser, profile="flexible", cores="2")
    later = await availability(browser, profile="flexible", cores="4", memory="8G", account="course", qos="normal")
    assert "Starts now" not in later
    assert "in about 2 hours</span>, as of <time" in later
    assert "This smaller one starts now: cores 2, memory 4 GB</a>" in later
    link = parse_qs(urlsplit(html.unescape(re.findall(r'href="([^"]*)"', later)[0])).query)
    chosen = {"profile": "flexible", "cores": "2", "memory": "4G", "account": "course", "qos": "normal"}
    assert link == {name: [value] for name, value in chosen.items()}
    monkeypatch.setattr(hub.runtime, "knowledge", lambda cluster: Knows(OWN, free=0))
    assert "smaller" not in await availability(browser, profile="flexible", cores="4")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"profile": "none"},
        {"profile": "secret"},
        {"profile": "flexible", "cores": "99"},
        {"profile": "flexible", "cores": "x"},
        {"profile": "flexible", "account": LONG},
        {"profile": "small", "cores": "2"},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_availability_of_an_invalid_choice_is_empty(
    hub: Hub, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str]
) -> None:
    offer(tmp_path, FLEXIBLE, profile("small"), profile("secret", users=["bob"]), shown="shown")
    know(hub, monkeypatch, Knows(OWN, free=2))
    assert (await availability(browser, **fields)).strip() == ""


async def test_availability_is_for_the_user_alone(hub: Hub, browser: Browser, port: int, tmp_path: Path) -> None:
    hub.user("bob")
    assert (await browser.get("/hub/availability/bob?profile=small")).code == 404
    assert (await Browser(port, user="").get("/hub/availability/alice?profile=small")).code in (302, 403)


async def test_form_without_knowledge_says_nothing_about_starts(hub: Hub, browser: Browser, tmp_path: Path) -> None:
    offer(tmp_path, profile("small"))
    assert "hpchub-start" not in await browser.page("/hub/spawn")


# Values that vanish between the form and the start


@pytest.fixture
def refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cluster that refuses the quality of service that the form offers. Returns the users it is asked for again."""
    offer(tmp_path, profile("small"), FLEXIBLE)
    doubted: list[str] = []
    knows = Knows(OWN)
    monkeypatch.setattr(knows, "doubt", doubted.append, raising=False)
    know(hub, monkeypatch, knows)
    stderr = "sbatch: error: Batch job submission failed: Invalid qos specification\n"
    hub.gate.on_submit = lambda session: answer(code=1, stderr=stderr)
    return doubted


CHOICE = {"profile": "flexible", "flexible__cores": "3", "flexible__account": "physics", "flexible__qos": "high"}


@pytest.mark.parametrize("answer_comes", ["later", "while-the-page-is-prepared", "quickly"])
@pytest.mark.parametrize("path", ["/hub/spawn", "/hub/spawn/alice/genome"])
async def test_value_that_the_scheduler_refuses_gets_a_message_beside_the_field(
    hub: Hub,
    browser: Browser,
    refused: list[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    answer_comes: str,
    path: str,
) -> None:
    is_quick = answer_comes == "quickly"
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10 if is_quick else 0
    response = await send(browser, path, **CHOICE)
    if is_quick:
        assert response.code == 400
        page = response.body.decode()
    else:
        pending = response.headers["Location"].partition("?")[0]
        assert pending.startswith("/hub/spawn-pending/alice")
        refusal = functools.partial(eventually, lambda: not any(each.active for each in hub.user().spawners.values()))
        if answer_comes == "later":
            await refusal()
        else:
            prepare = SpawnPendingHandler.get

            async def get(handler: SpawnPendingHandler, *names: str) -> None:
                await refusal()
                await prepare(handler, *names)

            monkeypatch.setattr(SpawnPendingHandler, "get", get)
        response = await browser.get(f"{pending}?next=%2Fuser%2Falice%2Flab")
        assert response.code == 302
        assert response.headers["Location"].startswith("/hub/spawn/alice")
        assert response.headers["Location"].endswith("?next=%2Fuser%2Falice%2Flab")
        page = await browser.page(response.headers["Location"])
    controls = Controls(page)
    text = "The cluster demo does not let you use the quality of service 'high' at the moment"
    assert f"{text} (Invalid qos specification)." in controls.message("flexible.qos")
    shown = {name: controls.found[name]["value"] for name in ("profile", "flexible.cores", "flexible.account")}
    assert shown == {"profile": "flexible", "flexible.cores": "3", "flexible.account": "physics"}
    assert controls.found["flexible.qos"]["value"] == "high"
    assert "aria-invalid" not in controls.found["flexible.cores"]
    assert refused == ["alice"]
    assert hub.jobs == []


async def test_message_about_a_refused_value_goes_with_another_choice(
    hub: Hub, browser: Browser, refused: list[str]
) -> None:
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10
    await send(browser, **CHOICE)
    assert "Invalid qos specification" in Controls(await browser.page("/hub/spawn")).message("flexible.qos")
    again = await browser.page("/hub/spawn?profile=flexible&again=on")
    assert "Invalid qos specification" in Controls(again).message("flexible.qos")
    for address in ("/hub/spawn?profile=small", "/hub/spawn?profile=flexible&qos=high"):
        assert Controls(await browser.page(address)).messages == {}
    response = await send(browser, **{**CHOICE, "flexible__qos": "normal", "flexible__cores": "99"})
    controls = Controls(response.body.decode())
    assert "99 is not possible" in controls.message("flexible.cores")
    assert len(controls.messages) == 1


async def test_refused_value_that_users_cannot_change_is_explained_at_the_profile(
    hub: Hub, browser: Browser, refused: list[str], tmp_path: Path
) -> None:
    hub.app.tornado_application.settings["slow_spawn_timeout"] = 10
    offer(tmp_path, profile("small", qos="high", adjustable={"cores": {"max": 4}}))
    response = await send(browser, profile="small")
    assert "quality of service 'high'" in Controls(response.body.decode()).messages["profile-small-error"]


# Speed


async def test_form_with_50_profiles_makes_few_queries(
    hub: Hub, spawner: HPCProfilesSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, *({**FLEXIBLE, "key": f"p{number}"} for number in range(50)))
    asked = SimpleNamespace(count=0)
    knows = Knows(OWN, free=2)

    def knowledge(cluster: str) -> Knows:
        asked.count += 1
        return knows

    monkeypatch.setattr(hub.runtime, "knowledge", knowledge)
    await spawner.get_options_form()
    asked.count = 0
    assert (await spawner.get_options_form()).count('type="radio"') == 50
    assert asked.count <= 2  # for the maintenances, and for the profiles of one cluster
