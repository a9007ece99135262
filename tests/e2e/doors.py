"""What the tests of the sign-ons at the web server know about each of them: the doors of the service."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lab.web_client import Visitor as Client

from .lab import LabError, User

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .lab import Lab
    from .pages import Visitor

SETTINGS = "/etc/hpchub/sign-on/settings.json"
FORM_SESSIONS = "/var/cache/apache2/hpchub-sso"
CAS_SESSIONS = "/var/cache/apache2/hpchub-cas"
_SAML = ("/etc/hpchub/secrets/saml-sp.key", "/var/lib/hpchub-saml", "/etc/hpchub/saml")
_FORM = ("/etc/hpchub/sign-on/sign_in.lua", "/etc/tmpfiles.d/hpchub-sso.conf")
COOKIE = "__Host-hpchub-sso"
HUB_COOKIE = "jupyterhub-hub-login"
STARTED_WITH_PASSWORD_OF = "alice"


@dataclass(frozen=True)
class Door:
    """A provider of the single sign-on, as the lab has it.

    Attributes:
        name: The provider in the inventory.
        module: Apache's module, as Apache lists it.
        redirects: How many redirects of the service a sign-in with this module needs.
        sessions: The directory of Apache's sessions, or nothing if they are in its memory.
        factor: The keys and the values that report a second factor.
        names: The unusual names of users that sign in, with the names of their accounts.
    """

    name: str
    module: str
    redirects: int
    sessions: str = FORM_SESSIONS
    factor: tuple[tuple[str, object], ...] = ()
    names: tuple[tuple[str, str], ...] = (("first.last", "first.last"), ("2023abc", "2023abc"), ("AB1234", "AB1234"))

    @property
    def portal(self) -> bool:
        """Whether users sign in on the page of LemonLDAP::NG, not on a page of the service."""
        return self.name in {"oidc", "saml", "shibboleth", "cas"}

    @property
    def files(self) -> tuple[str, ...]:
        """Files and directories of the hub host that only this door has, and that contain secrets or sessions."""
        found = {
            "oidc": ("/etc/hpchub/secrets/sso-sessions.conf",),
            "saml": _SAML,
            "shibboleth": (*_SAML, "/etc/tmpfiles.d/hpchub-shibd.conf"),
            "cas": (CAS_SESSIONS, "/etc/hpchub/sign-on/cas.lua"),
            "kerberos": (*_FORM, "/etc/hpchub/sign-on/http.keytab"),
            "ldap": _FORM,
            "local": (*_FORM, "/etc/pam.d/hpchub"),
        }
        return found.get(self.name, ())


TLS_CLIENT = "urn:oasis:names:tc:SAML:2.0:ac:classes:TLSClient"
"""LemonLDAP::NG reports a one-time password with the highest level that SAML knows."""
DOORS = {
    door.name: door
    for door in (
        Door("oidc", "auth_openidc_module", 2, factor=(("acr", "loa-5"), ("amr", ["mfa"]))),
        # The module sends the browser to the provider from an address of its own.
        Door("saml", "auth_mellon_module", 3, sessions="", factor=(("acr", TLS_CLIENT),)),
        Door("shibboleth", "mod_shib", 2, sessions="", factor=(("acr", TLS_CLIENT),)),
        Door(
            "cas",
            "auth_cas_module",
            2,
            sessions=CAS_SESSIONS,
            factor=(("acr", "https://refeds.org/profile/mfa"),),
            names=(("first.last", "first.last"), ("2023abc", "2023abc"), ("EVE", "eve")),
        ),
        Door("kerberos", "auth_gssapi_module", 2),
        Door("ldap", "authnz_ldap_module", 2),
        Door("local", "authnz_pam_module", 2),
    )
}


def deployed(lab: Lab) -> Door:
    """Return the door of the lab, as the hub host has it."""
    modules = lab.run("hub", ["apache2ctl", "-M"])
    found = [door for door in DOORS.values() if f" {door.module} " in modules]
    if len(found) != 1:
        raise LabError(f"Apache has the modules of {[door.name for door in found]}; it must have those of one sign-on")
    if (expected := os.environ.get("HPCHUB_DOOR", found[0].name)) != found[0].name:
        raise LabError(f"Apache has the sign-on {found[0].name}, but HPCHUB_DOOR is {expected}")
    return found[0]


def person(lab: Lab, name: str) -> User:
    """Return somebody who can sign in. Not all of them are users of the demo; see ``molecule/shared/group_vars``."""
    known = {user["name"] for user in lab.state["users"]}
    return lab.user(name) if name in known else User(name, lab.user(STARTED_WITH_PASSWORD_OF).password)


def knock(visitor: Visitor, name: str, path: str = "/hub/home") -> Page:
    """Open a page, and send a person's name and password. It does not matter whether the person gets in."""
    visitor.page.goto(f"{visitor.lab.url}{path}")
    visitor.submit_password(name, person(visitor.lab, name).password)
    visitor.page.wait_for_load_state()
    return visitor.page


def signed_in_as(page: Page) -> str:
    """Return the user that the hub's page is for."""
    return str(page.evaluate("window.jhdata ? window.jhdata.user || '' : ''"))


def client_of(lab: Lab, page: Page | None = None) -> Client:
    """Return a client that sends any header, with the cookies of a browser or without any."""
    name = urlsplit(lab.url).hostname or ""
    client = Client({name: lab.addresses[lab.host("hub")]}, lab.url)
    if page is not None:
        jar = client.cookies.setdefault(urlsplit(lab.url).netloc, {})
        jar.update({cookie["name"]: cookie["value"] for cookie in page.context.cookies(f"{lab.url}/hub/home")})
    return client


def forget_sessions(lab: Lab, door: Door) -> None:
    """End all sessions in Apache, as if their time were over."""
    if door.sessions:
        lab.run("hub", ["find", door.sessions, "-type", "f", "-delete"])
    else:
        lab.run("hub", ["systemctl", "restart", "shibd" if door.name == "shibboleth" else "apache2"])


def forget_attempts(lab: Lab) -> None:
    """Forget the wrong passwords of earlier tests."""
    lab.run("hub", ["find", FORM_SESSIONS, "-name", "account-*", "-delete", "-o", "-name", "address-*", "-delete"])


def drop_provider(visitor: Visitor) -> None:
    """Remove the cookies of the provider and of Apache from a browser. The hub's own stay."""
    context = visitor.page.context
    context.clear_cookies(domain=re.compile(rf"\.?{re.escape(urlsplit(visitor.lab.state['idp_url']).hostname or '')}"))
    context.clear_cookies(name=COOKIE)


def auth_state(admin: Visitor, name: str) -> dict[str, object]:
    """Return what the hub keeps of a user's sign-in, as an administrator may read it."""
    answer = admin.fetch("GET", f"/hub/api/users/{name}")
    assert answer.status == 200, answer
    found: dict[str, object] = json.loads(answer.text)["auth_state"]
    return found
