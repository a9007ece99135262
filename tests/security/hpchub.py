"""The attack target that hpchub deploys."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from e2e import pages
from e2e.database import Server

from hpchub.clusters.batch_script import render_batch_script
from hpchub.model.entries import Cluster, Profile

from .target import Person, Session, Target, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from e2e.lab import Lab
    from playwright.sync_api import Browser, Page

PROFILES = "/etc/hpchub/profiles.json"


class HPCHub(Target):
    """The service of the lab, unchanged."""

    name = "hpchub"
    hub = "hub"
    account = "jupyterhub"
    unit = "jupyterhub"
    identity_header = "X-Hpchub-User"
    sign_on_cookies = ("__Host-hpchub-sso", "mod_auth_openidc")
    state = ("/var/lib/hpchub", "/etc/hpchub", "/var/log/apache2", "/run/hpchub-hub", "/run/hpchub-proxy")

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.url = lab.url
        self.addresses = {"hub.localhost": lab.addresses[lab.host("hub")], "auth.localhost": lab.addresses["idp"]}
        self.settings: dict[str, Any] = lab.hub_settings()

    def _sign_in(self, name: str) -> Person:
        person = Person(self, name)
        user = self.lab.user(name)
        page = person.sign_in({"name": name, "password": user.password})
        if page.status != 200:
            raise Unusable(f"{name} cannot sign in; the service answers {page}")
        return person

    def browser_page(self, browser: Browser, name: str) -> Page:
        page = browser.new_context(ignore_https_errors=True).new_page()
        pages.Visitor(self.lab, page).sign_in(name)
        return page

    def identity_endpoint(self) -> dict[str, Any]:
        return {"unix": "/run/hpchub-proxy/public/proxy.sock"}

    def permission_headers(self) -> list[list[str]]:
        return [self._claims(self.settings["access"]["allowed_groups"][:1])]

    def _claims(self, groups: Sequence[str]) -> list[str]:
        """Return the header with the claims of the sign-on, as the web server sends it."""
        claims = {self.settings["claims"]["groups"]: groups}
        return ["X-Hpchub-Userinfo", base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")]

    def administrators_with_groups(self, groups: Sequence[str]) -> set[str]:
        access = self.settings["access"]
        named = [group.replace("ADMINS", access["admin_groups"][0]) for group in groups]
        step = {**self.identity_endpoint(), "target": "/hub/login"}
        for claim in ([access["allowed_groups"][0], *named], *named):
            headers = [[self.identity_header, "alice"], self._claims(claim)]
            self.python("ask.py", self.hub, "www-data", [{**step, "headers": headers}])
        return {name for (name,) in self.lab.database("SELECT name FROM users WHERE admin")}

    @contextmanager
    def empty_database(self) -> Iterator[None]:
        if not Server.exists(self.lab):
            with super().empty_database():
                yield
            return
        self.kill()
        self.lab.database("ALTER SCHEMA public RENAME TO kept")
        self.lab.database("CREATE SCHEMA public")
        try:
            self.start_hub()
            yield
        finally:
            self.kill()
            self.lab.database("DROP SCHEMA public CASCADE")
            self.lab.database("ALTER SCHEMA kept RENAME TO public")
            self.start_hub()

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        if not Server.exists(self.lab):
            with super().full_disk():
                yield
            return
        server = Server(self.lab)
        try:
            with server.full_disk():
                yield
        finally:
            server.leave_small_disk()
            self._wait_for_hub()

    def accounts(self) -> set[str]:
        return self.lab.hub_users()

    def script(self, session: Session) -> str | None:
        known = self.lab.profile_list()
        profile = Profile.model_validate(next(entry for entry in known["profiles"] if entry["key"] == self.profile))
        cluster = Cluster.model_validate(next(each for each in known["clusters"] if each["name"] == profile.cluster))
        name = session.job.name.removeprefix("hpchub-")
        database = self.lab.database("SELECT id FROM hpchub_database")[0][0]
        hub = f"hub.localhost~{database}"
        return render_batch_script(cluster, profile, session=name, hub=hub, username=session.user)

    def _secrets(self) -> dict[str, str]:
        found = {"cookie secret": self.lab.run("hub", ["cat", "/var/lib/hpchub/cookie_secret"]).strip()}
        for name in ("hub", "proxy"):
            text = self.lab.run("hub", ["cat", f"/etc/hpchub/secrets/{name}.env"])
            values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
            if not values:
                raise Unusable(f"/etc/hpchub/secrets/{name}.env has no secret")
            found |= values
        return found

    def proxy_api(self) -> dict[str, Any]:
        return {"unix": "/run/hpchub-proxy/api/api.sock"}

    @contextmanager
    def without_profile(self) -> Iterator[None]:
        before = self.lab.run("hub", ["cat", PROFILES])
        after = json.loads(before)
        kept = [entry for entry in after["profiles"] if entry["key"] != self.profile]
        if len(kept) == len(after["profiles"]):
            raise Unusable(f"{PROFILES} has no profile {self.profile}")
        after["profiles"] = kept
        try:
            self.write("hub", "root", PROFILES, json.dumps(after, indent=2), "0644")
            yield
        finally:
            self.write("hub", "root", PROFILES, before, "0644")

    def submits_as_root(self) -> bool:
        def reaches_the_program(user: str) -> bool:
            asked = ["sudo", "-n", "-u", user, "/usr/local/libexec/hpchub/job"]
            return "the request is not JSON" in self.run("login1", "hpchub", asked)

        if not reaches_the_program("alice"):
            raise Unusable("the gate's account cannot submit as alice either")
        return reaches_the_program("root")

    def proxy_without_token(self) -> bool:
        if (status := self._second_proxy([])) != 403:
            raise Unusable(f"a second proxy that has its token must refuse requests without it, but answers {status}")
        return self._second_proxy(["s#^EnvironmentFile=.*#EnvironmentFile=/dev/null#"]) == 200

    def _second_proxy(self, changes: list[str]) -> int | None:
        """Start a second proxy with a changed unit, and send a request without a token to its API.

        Args:
            changes: Commands of sed that change the proxy's unit.

        Returns:
            The status of the response, or None if there is no response.
        """
        unit, directory = "hpchub-test-proxy", "/run/systemd/system"
        changes = [*changes, "s#proxy[.]sock#test.sock#", "s#api[.]sock#t.sock#", "s/^Restart=.*/Restart=no/"]
        words = [word for change in changes for word in ("-e", change)]
        try:
            text = self.lab.run("hub", ["sed", *words, "/etc/systemd/system/configurable-http-proxy.service"])
            self.write("hub", "root", f"{directory}/{unit}.service", text, "0644")
            self.lab.run("hub", ["systemctl", "daemon-reload"])
            self.run("hub", "root", ["systemctl", "start", unit])
            step = {"unix": "/run/hpchub-proxy/api/t.sock", "target": "/api/routes"}
            deadline = time.monotonic() + 10
            status: int | None = None
            while status is None and time.monotonic() < deadline:
                if "failed" in self.run("hub", "root", ["systemctl", "is-active", unit]):
                    break
                status = self.python("ask.py", "hub", self.account, [step])[0].get("status")
                time.sleep(0.5)
            return status
        finally:
            self.run("hub", "root", ["systemctl", "stop", unit])
            sockets = ["/run/hpchub-proxy/public/test.sock", "/run/hpchub-proxy/api/t.sock"]
            self.run("hub", "root", ["rm", "-f", f"{directory}/{unit}.service", *sockets])
            self.run("hub", "root", ["systemctl", "daemon-reload"])
            self.run("hub", "root", ["systemctl", "reset-failed", unit])
