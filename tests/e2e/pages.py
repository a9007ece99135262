"""The pages of a session, from the identity provider's form to a cell in JupyterLab.

Each method waits until the page shows what it needs. No method sleeps for a fixed time.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Locator, Page, expect

from .lab import Lab, User, eventually, totp

# Timeouts in milliseconds. They are generous: five hosts, a batch job and the browser may share two cores.
PAGE = 30_000
START = 180_000
LOST = 15_000  # milliseconds after which a cell that has not begun to run was lost
CELL = 90_000

NEW_NOTEBOOK = {
    "type": "notebook",
    "format": "json",
    "content": {
        "cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    },
}
"""A notebook for the contents API: format 4, one empty cell, the Python kernel."""

# Reports every text of the progress page, including messages that a fast start replaces within a second.
_WATCH_PROGRESS = """
addEventListener("DOMContentLoaded", () => {
  if (!location.pathname.includes("/spawn-pending/")) return;
  const report = () => window.e2eProgress(document.body.textContent.replace(/\\s+/g, " "));
  new MutationObserver(report).observe(document.body, {childList: true, subtree: true, characterData: true});
  report();
});
"""

# Sends a request as the page's own scripts do, or with a token and without cookies. The hub and the notebook server
# require the XSRF token for reading as well.
_FETCH = """
async ({method, url, body, token}) => {
  const headers = {};
  if (body !== null) headers["Content-Type"] = "application/json";
  if (token) headers["Authorization"] = `token ${token}`;
  const xsrf = window.jhdata?.xsrf_token ?? document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)?.[1];
  if (!token && xsrf) headers["X-XSRFToken"] = xsrf;
  const answer = await fetch(url, {
    method, headers, credentials: token ? "omit" : "same-origin",
    body: body === null ? undefined : JSON.stringify(body),
  });
  return {status: answer.status, text: await answer.text()};
}
"""


@dataclass(frozen=True)
class Answer:
    """Status and body of a request that the browser sent from a page."""

    status: int
    text: str


def fetch(page: Page, method: str, url: str, *, body: Any = None, token: str = "") -> Answer:
    """Send a request from the open page, with the page's cookies or with a token and no cookies."""
    request = {"method": method, "url": url, "body": body, "token": token}
    return Answer(**page.evaluate(_FETCH, request))


class Visitor:
    """A user with a separate browser context, signed in or not."""

    def __init__(self, lab: Lab, page: Page) -> None:
        self.lab = lab
        self.page = page
        self.user: User | None = None
        self.progress: list[str] = []
        self.log: list[str] = []
        page.context.on("console", lambda message: self._note(f"console {message.type}: {message.text}"))
        page.context.on(
            "requestfailed", lambda request: self._note(f"{request.method} {request.url}: {request.failure}")
        )
        page.context.on(
            "response", lambda response: self._note(f"{response.status} {response.request.method} {response.url}")
        )
        page.set_default_timeout(PAGE)
        page.expose_function("e2eProgress", self._take_progress)
        page.add_init_script(_WATCH_PROGRESS)

    def _take_progress(self, text: str) -> None:
        self.progress.append(text)

    def _note(self, event: str) -> None:
        self.log.append(f"{time.strftime('%X')} {event}")

    # -- the identity provider

    @property
    def password_field(self) -> Locator:
        """The password field of the identity provider's form."""
        return self.page.locator("input[type=password][name=password]")

    def submit_password(self, name: str, password: str) -> None:
        """Fill in and submit the form of the identity provider, or of the service, which the page must show."""
        self.page.locator("input[name=user], input[name=username]").fill(name)
        self.password_field.fill(password)
        self.password_field.press("Enter")

    @property
    def identities(self) -> Locator:
        """The choice of an identity on the page of the stand-in for Globus."""
        return self.page.locator("select[name=identity]")

    def choose_identity(self, identity: str) -> None:
        """Choose an identity on the page of the stand-in for Globus, and return to the service."""
        self.identities.select_option(identity)
        self.page.get_by_role("button", name="Allow").click()
        self.page.wait_for_url(f"{self.lab.url}/**")

    def sign_in(self, name: str) -> None:
        """Open the service's URL and sign in, with a one-time password if the user has a second factor."""
        self.user = self.lab.user(name)
        self.page.goto(self.lab.url)
        if self.identities.count():
            self.choose_identity(f"{name}@uni.example")
            return
        own_form = self.page.url.startswith(self.lab.url)
        self.submit_password(name, self.user.password)
        if self.user.totp_secret and not own_form:
            code = self.page.locator("input[name=code]")
            code.fill(totp(self.user.totp_secret, time.time()))
            code.press("Enter")
        # The service's own sign-in page is below /sso.
        self.page.wait_for_url(re.compile(re.escape(self.lab.url) + "/(?!sso/)"))

    def sign_out(self) -> None:
        """Sign out with the link on the hub's page."""
        self.page.goto(f"{self.lab.url}/hub/home")
        self.page.locator("#logout").click()

    # -- the hub

    @property
    def _name(self) -> str:
        assert self.user, "the visitor has not signed in"
        return self.user.name

    def offered_profiles(self) -> dict[str, str]:
        """Return the profiles in the form: the text of each choice, by profile key."""
        self.page.goto(f"{self.lab.url}/hub/spawn")
        choices = self.page.locator("[name=profile]")
        choices.first.wait_for(state="attached")
        found: dict[str, str] = choices.evaluate_all(
            """elements => Object.fromEntries(elements.flatMap(element => element.tagName === "SELECT"
                 ? [...element.options].map(option => [option.value, option.textContent.trim()])
                 : [[element.value, (element.labels[0] ?? element).textContent.trim()]]))"""
        )
        return found

    def choose_profile(self, key: str) -> None:
        """Choose a profile in the form and submit it."""
        offered = self.offered_profiles()
        assert key in offered, f"the form does not offer {key}; it offers {sorted(offered)}"
        select = self.page.locator("select[name=profile]")
        if select.count():
            select.select_option(key)
        else:
            self.page.locator(f"input[name=profile][value='{key}']").check()
        self.page.locator("#spawn_form [type=submit]").click()

    def wait_for_lab(self) -> JupyterLab:
        """Wait until the start is complete, then open JupyterLab with an empty workspace."""
        failed = self.page.locator("#progress-bar.bg-danger, .spawn-error-msg, .hpchub-outcome")
        shell = self.page.locator("#jp-main-dock-panel")
        expect(shell.or_(failed).first).to_be_visible(timeout=START)
        assert not failed.count(), f"the start failed: {self.page.locator('body').inner_text()}"
        # Without ?reset, JupyterLab reopens the tabs of the user's previous session.
        base = f"{self.page.url.partition('/user/')[0]}/user/{self._name}"
        self.page.goto(f"{base}/lab?reset")
        return JupyterLab(self.page, base)

    def wait_for_classic(self) -> Locator:
        """Wait until the classic interface shows its file list, and return that list."""
        files = self.page.locator("#filebrowser")
        expect(files).to_be_visible(timeout=START)
        return files

    def start(self, key: str) -> JupyterLab:
        """Choose a profile and wait until its JupyterLab is ready."""
        self.choose_profile(key)
        return self.wait_for_lab()

    def stop_server(self) -> None:
        """Stop the server on the hub's home page and wait until the page offers to start one."""
        self.page.goto(f"{self.lab.url}/hub/home")
        self.page.locator("#stop").click()
        expect(self.page.locator("#start")).to_contain_text("Start", timeout=START)

    def fetch(self, method: str, path: str, *, body: Any = None, token: str = "") -> Answer:
        """Send a request to the service from the open page; see ``fetch``.

        If the page is on the host of the user's server, which cannot send requests to the hub, use a page of the hub.
        """
        if self.user and urlsplit(self.page.url).hostname == f"{self.user.name}.{urlsplit(self.lab.url).hostname}":
            page = self.page.context.new_page()
            page.goto(f"{self.lab.url}/hub/home")
            try:
                return fetch(page, method, f"{self.lab.url}{path}", body=body, token=token)
            finally:
                page.close()
        return fetch(self.page, method, f"{self.lab.url}{path}", body=body, token=token)

    def wait_for_hub(self) -> None:
        """Wait until the hub answers. The open page may reload at any moment, which aborts a request from it."""

        def answers() -> bool:
            try:
                return self.fetch("GET", "/hub/api/").status == 200
            except PlaywrightError:
                return False

        eventually("the hub answers", answers)

    def new_token(self) -> str:
        """Create a token for the REST API in the same way as the hub's token page, and return it."""
        self.page.goto(f"{self.lab.url}/hub/home")
        answer = self.fetch("POST", f"/hub/api/users/{self._name}/tokens", body={"note": "e2e"})
        assert answer.status == 201, answer
        return str(json.loads(answer.text)["token"])

    def server(self) -> dict[str, Any]:
        """Return the hub's model of the user's server, or an empty one. A page of the hub must be open."""
        answer = self.fetch("GET", f"/hub/api/users/{self._name}")
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.text).get("servers", {}).get("", {})
        return found

    def leave_nothing_running(self) -> None:
        """Stop the user's servers. The test may have ended on any page."""
        if not self.user:
            return
        self.page.goto(f"{self.lab.url}/hub/home")
        inside = self.page.url.startswith(self.lab.url) and not self.page.url.startswith(f"{self.lab.url}/sso/")
        if not inside or self.password_field.count():
            if not self.lab.jobs(self._name):
                return
            # The hub must end the session. It would notice only at its next poll that a job was cancelled, and the
            # next test would still find the session.
            self.sign_in(self._name)
        answer = self.fetch("GET", f"/hub/api/users/{self._name}")
        for name in {"", *json.loads(answer.text).get("servers", {})}:
            self.fetch("DELETE", f"/hub/api/users/{self._name}/servers/{quote(name)}")
        eventually(f"all jobs of {self._name} have ended", lambda: not self.lab.jobs(self._name))


class JupyterLab:
    """JupyterLab in its user's browser."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self._ready()

    def _ready(self) -> None:
        expect(self.page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0, timeout=START)

    def kernels(self) -> dict[str, str]:
        """Return the display name of each kernel of the notebook server, by kernel name."""
        answer = fetch(self.page, "GET", f"{self.base_url}/api/kernelspecs")
        assert answer.status == 200, answer
        specs = json.loads(answer.text)["kernelspecs"]
        return {name: spec["spec"]["display_name"] for name, spec in specs.items()}

    def new_notebook(self, kernel: str) -> Notebook:
        """Open a new notebook by the launcher's tile of a kernel."""
        known = self.kernels()
        assert kernel in known, f"there is no kernel {kernel}; the kernels are {sorted(known)}"
        tile = self.page.locator(f'.jp-LauncherCard[data-category="Notebook"][title="{known[kernel]}"]:visible')
        if not tile.count():
            self.page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
        tile.click()
        return self._shown_notebook()

    def open_notebook(self, path: str) -> Notebook:
        """Open the notebook at a path below the home directory, with no other tab."""
        self.page.goto(f"{self.base_url}/lab/tree/{quote(path)}?reset")
        self._ready()
        tab = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current .lm-TabBar-tabLabel")
        expect(tab).to_have_text(path.rpartition("/")[2])
        return self._shown_notebook()

    def run_cell(self, kernel: str, code: str) -> str:
        """Run code in a new notebook with this kernel and return the cell's output."""
        return self.new_notebook(kernel).run(code)

    def _shown_notebook(self) -> Notebook:
        panel = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        panel.wait_for()
        return Notebook(self.page, f"#{panel.get_attribute('id')}")


class Notebook:
    """One notebook's panel."""

    def __init__(self, page: Page, selector: str) -> None:
        self.page = page
        self.panel = page.locator(selector)
        self._idle()

    def _idle(self) -> None:
        # Check both: the indicator is idle even before a kernel is connected, and a cell run at that time is lost.
        idle = self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        named = self.page.locator(".jp-Toolbar-kernelName:not(:has-text('No Kernel'))")
        expect(self.panel.filter(has=idle).filter(has=named)).to_be_visible(timeout=CELL)

    def run(self, code: str) -> str:
        """Put code into the notebook's last cell, run it and return its output."""
        cells = self.panel.locator(".jp-Notebook .jp-CodeCell")
        # Do not use .last here: running the cell adds another one, and .last would then select that one.
        cell = cells.nth(cells.count() - 1)
        cell.locator(".cm-content").fill(code)
        cell.locator(".cm-content").press("Shift+Enter")
        prompt = cell.locator(".jp-InputArea-prompt")
        try:
            expect(prompt).not_to_have_text("[ ]:", timeout=LOST)
        except AssertionError:
            # On a slow machine, JupyterLab shows a kernel as idle before it is connected, and loses the cell.
            cell.locator(".cm-content").press("Shift+Enter")
        expect(prompt).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=CELL)
        self._idle()
        return "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts()).strip()

    def save(self) -> None:
        """Save the notebook with the toolbar's button and wait until its tab shows no unsaved change."""
        changed = self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")
        expect(changed).to_have_count(1)
        self.panel.locator("[data-jp-item-name=save]").click()
        # JupyterLab asks for the name of a new notebook.
        name = self.page.locator(".jp-Dialog button", has_text="Rename and Save")
        saved = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current:not(.jp-mod-dirty)")
        expect(name.or_(saved).first).to_be_visible()
        if name.count():
            name.click()
        expect(changed).to_have_count(0)
