"""The pages that a person meets, from the identity provider's form to a cell in JupyterLab.

Each method waits for what it needs to see; nothing here waits for time to pass.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect

from .lab import Lab, User, eventually, totp

# Milliseconds. Two cores may be shared by five hosts, a batch job and the browser.
PAGE = 30_000
START = 180_000
CELL = 90_000

# Reports every text that the progress page has shown, also what a fast start replaces within a second.
_WATCH_PROGRESS = """
addEventListener("DOMContentLoaded", () => {
  if (!location.pathname.includes("/spawn-pending/")) return;
  const report = () => window.e2eProgress(document.body.textContent.replace(/\\s+/g, " "));
  new MutationObserver(report).observe(document.body, {childList: true, subtree: true, characterData: true});
  report();
});
"""

# Asks the hub or the notebook server as the page's own scripts do, or with a token and without any cookie. Hub and
# notebook server want the XSRF token for reading, too.
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
    """Status and body of a request that the browser made from within a page."""

    status: int
    text: str


def fetch(page: Page, method: str, url: str, *, body: Any = None, token: str = "") -> Answer:
    """A request from within the page that is open: with its cookies, or with a token and no cookie."""
    request = {"method": method, "url": url, "body": body, "token": token}
    return Answer(**page.evaluate(_FETCH, request))


class Visitor:
    """A person at a browser of their own, signed in or not."""

    def __init__(self, lab: Lab, page: Page) -> None:
        self.lab = lab
        self.page = page
        self.user: User | None = None
        self.progress: list[str] = []
        page.set_default_timeout(PAGE)
        page.expose_function("e2eProgress", self._take_progress)
        page.add_init_script(_WATCH_PROGRESS)

    def _take_progress(self, text: str) -> None:
        self.progress.append(text)

    # -- the identity provider

    @property
    def password_field(self) -> Locator:
        """Where the identity provider asks for the password."""
        return self.page.locator("input[type=password][name=password]")

    def submit_password(self, name: str, password: str) -> None:
        """Fill the identity provider's form, which must be what the page shows, and send it."""
        self.page.locator("input[name=user]").fill(name)
        self.password_field.fill(password)
        self.password_field.press("Enter")

    def sign_in(self, name: str) -> None:
        """From the service's URL to one of its pages, with the second factor where the user has one."""
        self.user = self.lab.user(name)
        self.page.goto(self.lab.url)
        self.submit_password(name, self.user.password)
        if self.user.totp_secret:
            code = self.page.locator("input[name=code]")
            code.fill(totp(self.user.totp_secret, time.time()))
            code.press("Enter")
        self.page.wait_for_url(f"{self.lab.url}/**")

    def sign_out(self) -> None:
        """By the link on the hub's page."""
        self.page.goto(f"{self.lab.url}/hub/home")
        self.page.locator("#logout").click()

    # -- the hub

    @property
    def _name(self) -> str:
        assert self.user, "nobody has signed in"
        return self.user.name

    def offered_profiles(self) -> dict[str, str]:
        """What the form offers: profile key to the text beside it."""
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
        """Choose a profile in the form and press its button."""
        offered = self.offered_profiles()
        assert key in offered, f"the form offers {sorted(offered)}, not {key}"
        select = self.page.locator("select[name=profile]")
        if select.count():
            select.select_option(key)
        else:
            self.page.locator(f"input[name=profile][value='{key}']").check()
        self.page.locator("#spawn_form [type=submit]").click()

    def wait_for_lab(self) -> JupyterLab:
        """From the progress page, or straight, to a JupyterLab that can be worked in."""
        failed = self.page.locator("#progress-bar.bg-danger, .spawn-error-msg")
        shell = self.page.locator("#jp-main-dock-panel")
        expect(shell.or_(failed).first).to_be_visible(timeout=START)
        assert not failed.count(), f"the start failed: {self.page.locator('body').inner_text()}"
        # Not with the tabs that this person's last session was left with.
        base = f"{self.page.url.partition('/user/')[0]}/user/{self._name}"
        self.page.goto(f"{base}/lab?reset")
        return JupyterLab(self.page, base)

    def wait_for_classic(self) -> Locator:
        """From the progress page, or straight, to the classic interface's list of files, which is returned."""
        files = self.page.locator("#filebrowser")
        expect(files).to_be_visible(timeout=START)
        return files

    def start(self, key: str) -> JupyterLab:
        """Choose a profile and wait until its JupyterLab can be worked in."""
        self.choose_profile(key)
        return self.wait_for_lab()

    def stop_server(self) -> None:
        """By the button on the hub's home page; done when it offers to start again."""
        self.page.goto(f"{self.lab.url}/hub/home")
        self.page.locator("#stop").click()
        expect(self.page.locator("#start")).to_contain_text("Start", timeout=START)

    def fetch(self, method: str, path: str, *, body: Any = None, token: str = "") -> Answer:
        """A request to the service from within the page that is open; see ``fetch``."""
        return fetch(self.page, method, f"{self.lab.url}{path}", body=body, token=token)

    def new_token(self) -> str:
        """A token of the user's own for the REST API, made as the hub's token page makes it."""
        self.page.goto(f"{self.lab.url}/hub/home")
        answer = self.fetch("POST", f"/hub/api/users/{self._name}/tokens", body={"note": "e2e"})
        assert answer.status == 201, answer
        return str(json.loads(answer.text)["token"])

    def server(self) -> dict[str, Any]:
        """What the hub says of the user's server, empty if there is none; a page of the hub must be open."""
        answer = self.fetch("GET", f"/hub/api/users/{self._name}")
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.text).get("servers", {}).get("", {})
        return found

    def leave_nothing_running(self) -> None:
        """Stop the user's server if there is one, whatever page the test ended on."""
        if not self.user:
            return
        self.page.goto(f"{self.lab.url}/hub/home")
        if self.page.url.startswith(self.lab.url):
            self.fetch("DELETE", f"/hub/api/users/{self._name}/server")
        elif self.lab.jobs(self._name):
            self.lab.cancel_jobs(self._name)
        eventually(f"no job of {self._name}'s is left", lambda: not self.lab.jobs(self._name))


class JupyterLab:
    """JupyterLab in the page of its user."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self._ready()

    def _ready(self) -> None:
        expect(self.page.locator("#jp-main-dock-panel")).to_be_visible(timeout=START)
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0, timeout=START)

    def kernels(self) -> dict[str, str]:
        """Kernel name to display name, as the notebook server lists them."""
        answer = fetch(self.page, "GET", f"{self.base_url}/api/kernelspecs")
        assert answer.status == 200, answer
        specs = json.loads(answer.text)["kernelspecs"]
        return {name: spec["spec"]["display_name"] for name, spec in specs.items()}

    def new_notebook(self, kernel: str) -> Notebook:
        """A new notebook with the kernel of this name, from the launcher's tile."""
        known = self.kernels()
        assert kernel in known, f"the kernels are {sorted(known)}, not {kernel}"
        tile = self.page.locator(f'.jp-LauncherCard[data-category="Notebook"][title="{known[kernel]}"]:visible')
        if not tile.count():
            self.page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
        tile.click()
        return self._shown_notebook()

    def open_notebook(self, path: str) -> Notebook:
        """The notebook at a path, relative to the home directory, by its address, and no other tab."""
        self.page.goto(f"{self.base_url}/lab/tree/{quote(path)}?reset")
        self._ready()
        tab = self.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current .lm-TabBar-tabLabel")
        expect(tab).to_have_text(path.rpartition("/")[2])
        return self._shown_notebook()

    def run_cell(self, kernel: str, code: str) -> str:
        """What a cell prints or returns in a new notebook with the kernel of this name."""
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
        # Both at once: the indicator says idle before there is a kernel too, and a cell run then is lost.
        idle = self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        named = self.page.locator(".jp-Toolbar-kernelName:not(:has-text('No Kernel'))")
        expect(self.panel.filter(has=idle).filter(has=named)).to_be_visible(timeout=CELL)

    def run(self, code: str) -> str:
        """What the notebook's last cell prints or returns once it holds ``code`` and has run."""
        cells = self.panel.locator(".jp-Notebook .jp-CodeCell")
        cell = cells.nth(cells.count() - 1)  # not .last, which moves on to the cell that running adds
        cell.locator(".cm-content").fill(code)
        cell.locator(".cm-content").press("Shift+Enter")
        expect(cell.locator(".jp-InputArea-prompt")).to_have_text(re.compile(r"^\[\d+\]:$"), timeout=CELL)
        self._idle()
        return "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts()).strip()

    def save(self) -> None:
        """Save what has changed, by the toolbar's button; done when the tab shows no change any more."""
        changed = self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")
        expect(changed).to_have_count(1)
        self.panel.locator("[data-jp-item-name=save]").click()
        expect(changed).to_have_count(0)
