"""The attack target of upstream packages, set up as their documentation shows; see ``bench.stock``."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import pytest
from bench.stock import HOST, PROGRAMS, STATE, UNIT, Stock

from .target import Person, Session, Target, Unusable, basic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab import Lab
    from playwright.sync_api import Browser, HttpCredentials, Page


class StockService(Target):
    """JupyterHub running as root on the login node, behind Apache. A password stands in for the single sign-on."""

    name = "stock"
    hub = HOST
    account = "root"
    unit = UNIT
    identity_header = "REMOTE_USER"
    state = (STATE,)

    def __init__(self, lab: Lab, stock: Stock) -> None:
        super().__init__(lab)
        self._stock = stock
        self.url = stock.url
        address = lab.addresses[lab.host(HOST)]
        self.addresses = {address: address}

    @classmethod
    @contextmanager
    def set_up(cls, lab: Lab) -> Iterator[Self]:
        with Stock(lab, lab.profiles(), "alice", web_server=True) as stock:
            yield cls(lab, stock)

    def _sign_in(self, name: str) -> Person:
        person = Person(self, name, [basic(name, self.lab.user(name).password)])
        person.page("/hub/home")
        return person

    def browser_page(self, browser: Browser, name: str) -> Page:
        password: HttpCredentials = {"username": name, "password": self.lab.user(name).password}
        page = browser.new_context(ignore_https_errors=True, http_credentials=password).new_page()
        page.goto(f"{self.url}/hub/home")
        return page

    def identity_endpoint(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": 8000}

    def accounts(self) -> set[str]:
        query = (
            "import sqlite3; db = sqlite3.connect('jupyterhub.sqlite'); print(*db.execute('select name from users'))"
        )
        output = self.lab.run(HOST, ["sh", "-c", f'cd {STATE} && python3 -c "{query}"'])
        return {name.strip("'\"") for name in output.strip("()\n").rstrip(",").split(",) (")}

    def script(self, session: Session) -> str | None:
        return None

    def _secrets(self) -> dict[str, str]:
        return {**self._stock.environment, "token of a service": self._stock.token}

    def proxy_api(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": 8001}

    @contextmanager
    def without_profile(self) -> Iterator[None]:
        path = f"{PROGRAMS}/settings.json"
        before = self.lab.run(HOST, ["cat", path])
        after = json.loads(before)
        kept = [entry for entry in after["profiles"] if entry["key"] != self.profile]
        if len(kept) == len(after["profiles"]):
            raise Unusable(f"{path} has no profile {self.profile}")
        after["profiles"] = kept
        self.write(HOST, "root", path, json.dumps(after))
        try:
            yield
        finally:
            self.write(HOST, "root", path, before)
            self.restart()

    @contextmanager
    def batchspawner_alone(self) -> Iterator[None]:
        for name in ("alice", "bob"):
            self.stop(name)
        self._stock.set(profiles=[])
        try:
            yield
        finally:
            self.stop("alice")
            self._stock.set()

    def needs_job_certificates(self) -> None:
        pytest.skip("jobs have no certificates here, because internal_ssl is off by default")

    def needs_adoption(self) -> None:
        pytest.skip("this hub has no adoption: a session that a restored database lacks stays unreachable")

    def needs_a_secret_of_the_web_server(self) -> None:
        pytest.skip("the web server has no secret here: the hub trusts every client that reaches the proxy, see H5")

    def submits_as_root(self) -> bool:
        return False  # The hub runs as root. The test itself observes whether it submits jobs as root.

    def proxy_without_token(self) -> bool:
        if (status := self._second_proxy(["--setenv=CONFIGPROXY_AUTH_TOKEN=control"])) != 403:
            raise Unusable(f"a second proxy that has a token must refuse requests without it, but answers {status}")
        return self._second_proxy([]) == 200

    def _second_proxy(self, options: list[str]) -> int | None:
        """Start a second proxy with options of systemd-run, and send a request without a token to its API.

        Returns:
            The status of the response, or None if there is no response.
        """
        unit = "hpchub-test-proxy"
        program = f"{PROGRAMS}/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy"
        ports = ["--port=18000", "--api-port=18001"]
        start = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", *options, "node", program, *ports]
        try:
            self.lab.run(HOST, start)
            ask = {"host": "127.0.0.1", "port": 18001, "target": "/api/routes"}
            status: int | None = None
            deadline = time.monotonic() + 20
            while status is None and time.monotonic() < deadline:
                time.sleep(0.5)
                status = self.python("ask.py", HOST, "nobody", [ask])[0].get("status")
            return status
        finally:
            self.run(HOST, "root", ["systemctl", "stop", unit])
