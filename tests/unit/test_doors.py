"""Every provider of the single sign-on: what the program behind Apache learns, and what it must not.

The web server is a real Apache with the configuration of the role ``reverse_proxy``. Each provider has one row in
``DOORS``.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, urlencode

import pytest
import yaml
from apache_server import FAKETIME, REQUIRED, make_own, needs_apache
from cas_provider import CasDoor
from directory_servers import REALM, Directory, Realm, has_kdc, has_slapd
from oidc_provider import Provider, choose, several
from saml_provider import SamlServer, post_response, saml_arguments
from shibboleth_service import PROGRAM as SHIBD
from shibboleth_service import Shibd
from web_site import HOST, TOKEN, Browser, Site, received

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLE = Path(__file__).resolve().parents[2] / "roles" / "reverse_proxy"
VARIABLES = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
PASSWORD = "correct horse"
PAM_MATRIX = next(Path("/usr/lib").glob("*/pam_wrapper/pam_matrix.so"), None)
PATTERN = "[A-Za-z0-9_.@-]+"


class Door:
    """A provider, and how the tests use it.

    Attributes:
        modules: The modules of Apache that the provider needs.
        groups: Whether the provider sends groups. Otherwise the hub alone checks them.
        other_flags: The flags that a cookie may have instead of ``SameSite=Lax``.
        suffix: What follows the names of groups.
    """

    modules: ClassVar[tuple[str, ...]] = ()
    groups: ClassVar[bool] = True
    other_flags: ClassVar[set[str]] = set()
    suffix: ClassVar[str] = ""

    def __init__(self, site: Site) -> None:
        self.site = site

    def arguments(self) -> dict[str, Any]:
        """Start the provider, write the files that its tasks write, and return the arguments of the role."""
        raise NotImplementedError

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """Open a page and sign in as a person with this name. Return the answer."""
        raise NotImplementedError

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """Return the provider and the received name that the hub learns, if it does."""
        raise NotImplementedError

    def started(self) -> None:
        """Start what needs the site."""

    def stop(self) -> None:
        """Stop the provider."""


class Oidc(Door):
    """OpenID Connect."""

    modules: ClassVar[tuple[str, ...]] = ("auth_openidc",)

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        self.provider = Provider(self.site.directory / "tls")
        secrets = self.site.directory / "secrets"
        (secrets / "sso-client.conf").write_text("OIDCClientSecret secret\n")
        (secrets / "sso-sessions.conf").write_text(f"OIDCCryptoPassphrase {'x' * 32}\n")
        return {
            "reverse_proxy_sso_provider": "oidc",
            "reverse_proxy_oidc_metadata_url": f"{self.provider.url}/.well-known/openid-configuration",
            "reverse_proxy_oidc_client_id": "hpchub",
            "reverse_proxy_oidc_client_secret": "secret",
            "reverse_proxy_oidc_ca_src": "ca.pem",
        }

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See Door."""
        self.provider.claims = {
            "sub": f"id-{name}", "preferred_username": name, "groups": groups, "email": f"{name}@example.org", **claims,
        }  # fmt: skip
        return browser.open(path)

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return []

    def stop(self) -> None:
        """See Door."""
        self.provider.shutdown()
        self.provider.server_close()


class MappedOidc(Oidc):
    """OpenID Connect with a user mapping, so that the program after the sign-on runs too."""

    modules = ("auth_openidc", "lua")

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        return super().arguments() | {"reverse_proxy_user_mapping": [{"strip_realm": ["example.org"]}]}

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See Door."""
        return super().sign_in(browser, f"{name}@example.org", *groups, path=path, **claims)

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("oidc", f"{name}@example.org")]


class ChosenOidc(Oidc):
    """OpenID Connect with two providers, among which users choose."""

    modules = ("auth_openidc", "lua")
    suffix = "@campus"

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        given = super().arguments()
        self.other = Provider(self.site.directory / "tls")
        providers = {"campus": self.provider, "partner": self.other}
        return given | several(self.site, providers) | {
            "reverse_proxy_user_mapping": [{"pattern": "(.+)@campus", "replacement": r"\1"}],
            "reverse_proxy_allowed_groups": ["hpc@campus", "x,y@campus"],
        }  # fmt: skip

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See Door."""
        page = super().sign_in(browser, name, *groups, path=path, **claims)
        return choose(browser, page, "campus")

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("oidc", f"{name}@campus")]

    def stop(self) -> None:
        """See Door."""
        super().stop()
        self.other.shutdown()
        self.other.server_close()


class FormDoor(Door):
    """A provider with a sign-in page of this service."""

    groups = False

    def add(self, name: str) -> None:
        """Create an account with the password ``PASSWORD``."""
        raise NotImplementedError

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See Door."""
        self.add(name)
        page = browser.open(path)
        assert "<form" in page.text, (page.status, browser.followed, self.site.apache.log()[-2000:])
        return self.post(browser, name, PASSWORD, path)

    def post(self, browser: Browser, name: str, password: str, path: str = "/hub/home", **headers: str) -> Any:
        """Send the form, and follow the redirects after it."""
        body = urlencode({"username": name, "password": password})
        sent = {"Origin": self.site.url, "Content-Type": "application/x-www-form-urlencoded"} | headers
        answer = browser.ask(f"/sso/sign-in?next={quote(path, safe='')}", sent, method="POST", body=body)
        return browser.open(answer.headers["Location"]) if answer.status == 303 else answer


class Local(FormDoor):
    """Accounts that PAM knows. The module is pam_matrix of pam_wrapper, which reads a file."""

    modules = ("lua", "authnz_pam")

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        services = self.site.directory / "pam"
        services.mkdir()
        self.accounts = services / "accounts"
        self.accounts.write_text("")
        lines = [f"{kind} required {PAM_MATRIX} passdb={self.accounts}" for kind in ("auth", "account")]
        (services / "hpchub").write_text("\n".join(lines) + "\n")
        self.site.environment = {
            "LD_PRELOAD": "libpam_wrapper.so", "PAM_WRAPPER": "1", "PAM_WRAPPER_SERVICE_DIR": str(services),
        }  # fmt: skip
        return {"reverse_proxy_sso_provider": "local"}

    def add(self, name: str) -> None:
        """See FormDoor."""
        if not set(name) & set(":\n"):
            with self.accounts.open("a") as accounts:
                accounts.write(f"{name}:{PASSWORD}:hpchub\n")

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("local", name)]


class Ldap(FormDoor):
    """A directory: a real slapd."""

    modules = ("lua", "authnz_ldap")

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        self.directory = Directory(self.site.directory / "ldap", self.site.directory / "tls")
        (self.site.directory / "secrets" / "sso-client.conf").write_text(f'AuthLDAPBindPassword "{PASSWORD}"\n')
        return {
            "reverse_proxy_sso_provider": "ldap",
            "reverse_proxy_ldap_url": self.directory.url,
            "reverse_proxy_ldap_base": "ou=people,dc=example,dc=org",
            "reverse_proxy_ldap_bind_dn": "cn=admin,dc=example,dc=org",
            "reverse_proxy_ldap_bind_password": PASSWORD,
            "reverse_proxy_ldap_attributes": ["mail"],
            "reverse_proxy_ldap_ca_src": "ca.pem",
        }

    def add(self, name: str) -> None:
        """See FormDoor."""
        self.directory.add(name, PASSWORD)

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("ldap", name)]

    def stop(self) -> None:
        """See Door."""
        self.directory.stop()


class Kerberos(FormDoor):
    """A Kerberos realm: a real KDC."""

    modules = ("lua", "auth_gssapi")

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        self.realm = Realm(self.site.directory / "krb5", HOST)
        make_own(self.site.directory / "etc" / "sign-on")
        self.realm.keytab(self.site.directory / "etc" / "sign-on" / "http.keytab")
        self.site.environment = self.realm.environment
        return {
            "reverse_proxy_sso_provider": "kerberos",
            "reverse_proxy_kerberos_realms": [REALM],
            "reverse_proxy_user_mapping": [{"strip_realm": [REALM]}],
        }

    def add(self, name: str) -> None:
        """See FormDoor."""
        self.realm.add(name, PASSWORD)

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("kerberos", f"{name}@{REALM}")]

    def stop(self) -> None:
        """See Door."""
        self.realm.stop()


class Cas(CasDoor, Door):
    """CAS 3.0."""

    modules = ("auth_cas", "lua")


class Saml(Door):
    """SAML with mod_auth_mellon."""

    modules = ("auth_mellon", "lua")
    other_flags: ClassVar[set[str]] = {"samesite=none"}

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        self.provider = SamlServer(self.site.directory / "tls", f"{self.site.url}/saml/metadata")
        return saml_arguments(self.site, self.provider)

    def sign_in(self, browser: Browser, name: str, *groups: str, path: str = "/hub/home", **claims: object) -> Any:
        """See Door."""
        self.provider.attributes = {"uid": name, "groups": list(groups), "mail": f"{name}@example.org", **claims}
        return post_response(browser, browser.open(path))

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("saml", name)]

    def stop(self) -> None:
        """See Door."""
        self.provider.shutdown()
        self.provider.server_close()


class Shibboleth(Saml):
    """SAML with mod_shib and a real shibd."""

    modules = ("shib", "lua")

    def arguments(self) -> dict[str, Any]:
        """See Door."""
        self.provider = SamlServer(self.site.directory / "tls", f"{self.site.url}/saml/metadata")
        self.shibd = Shibd(self.site, self.provider, **COMMON)
        return self.shibd.arguments

    def started(self) -> None:
        """See Door."""
        self.shibd.start()

    def sign_ons(self, name: str) -> list[tuple[str, str]]:
        """See Door."""
        return [("shibboleth", name)]

    def stop(self) -> None:
        """See Door."""
        self.shibd.stop()
        super().stop()


DOORS: dict[str, type[Door]] = {
    "shibboleth": Shibboleth,
    "saml": Saml,
    "oidc": Oidc,
    "oidc-with-user-mapping": MappedOidc,
    "oidc-with-a-choice": ChosenOidc,
    "local": Local,
    "ldap": Ldap,
    "kerberos": Kerberos,
    "cas": Cas,
}
COMMON: dict[str, Any] = {
    "reverse_proxy_allowed_groups": ["hpc", "x,y"],
    "reverse_proxy_allowed_users": ["dave", "AB1234"],
    "reverse_proxy_user_pattern": PATTERN,
    "reverse_proxy_sso_max_duration": 7200,
    "reverse_proxy_sso_inactivity_timeout": 600,
}


AVAILABLE = {
    "local": PAM_MATRIX is not None,
    "ldap": has_slapd(),
    "kerberos": has_kdc(),
    "shibboleth": SHIBD is not None,
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    absent = pytest.mark.skipif(
        not AVAILABLE.get(name, True) and not REQUIRED, reason=f"the server for {name} is not installed"
    )
    return [needs_apache(*DOORS[name].modules), absent]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=_marks(name)) for name in DOORS])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A site with one of the providers."""
    with Site() as site:
        found = DOORS[request.param](site)
        try:
            site.start(COMMON | found.arguments())
            found.started()
            yield found
        finally:
            found.stop()


@pytest.fixture
def browser(door: Door) -> Iterator[Browser]:
    """A new browser."""
    door.site.clock.write_text("+0s\n")
    found = door.site.browser()
    yield found
    found.close()


def told(answer: Any) -> dict[str, Any]:
    """Return what the program behind Apache learns of the user."""
    headers = received(answer)
    claims: dict[str, Any] = {}
    for name in ("x-hpchub-userinfo", "x-hpchub-id-token"):
        for value in headers.get(name, []):
            claims |= json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    return {"user": headers.get("x-hpchub-user", []), "claims": claims}


def test_hub_learns_the_name_and_the_groups_of_a_user_who_signs_in(door: Door, browser: Browser) -> None:
    answer = door.sign_in(browser, "alice", "hpc", "x,y")
    assert answer.status == 200, (browser.followed, door.site.apache.log()[-3000:])
    learned = told(answer)
    assert learned["user"] == ["alice"]
    assert sorted(learned["claims"].get("groups", [])) == (
        [f"hpc{door.suffix}", f"x,y{door.suffix}"] if door.groups else []
    )
    assert received(answer).get("authorization") is None
    sign_on = [json.loads(base64.urlsafe_b64decode(each)) for each in received(answer).get("x-hpchub-sign-on", [])]
    assert [(each["provider"], each["received"]) for each in sign_on] == door.sign_ons("alice")


def test_hub_learns_the_attributes_that_the_directory_has(door: Door, browser: Browser) -> None:
    if not isinstance(door, Ldap):
        pytest.skip("only the directory has attributes")
    claims = told(door.sign_in(browser, "alice"))["claims"]
    assert claims["mail"].endswith("@example.org")


@pytest.mark.parametrize("path", ["/hub/home", "/user/alice/lab", "/services/x/"])
def test_page_needs_a_sign_on(door: Door, browser: Browser, path: str) -> None:
    before = len(door.site.backend.seen)
    answer = browser.ask(path)
    assert answer.status in (302, 303, 401)
    assert len(door.site.backend.seen) == before


@pytest.mark.parametrize(
    ("path", "headers", "method"),
    [
        ("/hub/home", {"Accept": "application/json"}, "GET"),
        ("/hub/home", {"X-Requested-With": "XMLHttpRequest"}, "GET"),
        ("/hub/api/user", {}, "GET"),
        ("/user/alice/api/kernels", {}, "GET"),
        ("/user/alice/genome/api/kernels", {}, "GET"),
        ("/user/alice/x", {"Upgrade": "websocket", "Connection": "Upgrade"}, "GET"),
        ("/hub/spawn", {"Origin": f"https://{HOST}"}, "POST"),
        ("/hub/home", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}, "GET"),
    ],
)
def test_script_gets_401_instead_of_the_sign_in_page(
    door: Door, browser: Browser, path: str, headers: dict[str, str], method: str
) -> None:
    answer = browser.ask(path, headers, method=method, body="" if method == "POST" else None)
    assert (answer.status, answer.headers["Location"]) == (401, None)


@pytest.mark.parametrize(
    ("name", "groups", "permitted"),
    [
        ("alice", ["hpc"], True),
        ("alice", ["x,y"], True),
        ("dave", [], True),
        ("AB1234", [], True),
        ("first.last", ["hpc"], True),
        ("2023abc", ["hpc"], True),
        ("alice", ["x", "y"], False),
        ("alice", ["x;hpc"], False),
        ("alice", ["HPC"], False),
        ("alice", [], False),
        ("ab1234", [], False),
        ("root", ["hpc"], False),
        ("1000", ["hpc"], False),
        ("a/b", ["hpc"], False),
        ("..", ["hpc"], False),
        ("(null)", ["hpc"], False),
        ("a b", ["hpc"], False),
        ("alice\ndave", ["hpc"], False),
        ("alice,dave", ["hpc"], False),
        ("älice", ["hpc"], False),
        ("-x", ["hpc"], False),
    ],
)
def test_only_permitted_users_with_safe_names_reach_the_hub(
    door: Door, browser: Browser, name: str, groups: list[str], permitted: bool
) -> None:
    if not permitted and not door.groups and name in ("alice", "ab1234"):
        pytest.skip("the hub checks the groups")
    before = len(door.site.backend.seen)
    answer = door.sign_in(browser, name, *groups)
    if permitted:
        assert told(answer)["user"] == [name]
    else:
        assert answer.status in (401, 403), answer.text
        assert len(door.site.backend.seen) == before


@pytest.mark.parametrize("name", ["alice", "first.last", "AB1234", "2023abc"])
def test_user_opens_only_the_own_server(door: Door, browser: Browser, name: str) -> None:
    door.sign_in(browser, name, "hpc")
    for path in (f"/user/{name}/lab", f"/user/{name}", f"/user/{name}/genome/lab?x=1"):
        assert browser.ask(path).status == 200
    for path in ("/user/bob/lab", f"/user/{name.swapcase()}x/", f"/user/{name}x/lab", f"/user/{name}%2f../bob/lab"):
        assert browser.ask(path).status in (400, 403, 404)


def spellings(name: str) -> list[str]:
    words = name.split("-")
    found = []
    for marks in itertools.product("-_", repeat=len(words) - 1):
        text = "".join(itertools.chain(*zip(words, (*marks, ""), strict=True)))
        found += [text, text.upper(), text.lower()]
    return list(dict.fromkeys(found))


OWN = {"X-Hpchub-User", "X-Hpchub-Userinfo", "X-Hpchub-Id-Token", "X-Hpchub-Sign-On"}
FORGED = [
    spelling for name in sorted({*VARIABLES["__reverse_proxy_identity_headers"], *OWN}) for spelling in spellings(name)
]


@pytest.mark.parametrize("signed_in", [False, True], ids=["with-a-token", "signed-in"])
def test_identity_that_a_client_claims_goes_no_further(door: Door, browser: Browser, signed_in: bool) -> None:
    path = "/hub/home" if signed_in else "/hub/api/user"
    if signed_in:
        door.sign_in(browser, "alice", "hpc")
    token = {} if signed_in else {"Authorization": f"token {TOKEN}"}
    for start in range(0, len(FORGED), 50):  # Apache accepts 100 headers
        some = FORGED[start : start + 50]
        answer = browser.ask(path, dict.fromkeys(some, "bob") | token)
        learned = received(answer)
        assert "bob" not in json.dumps(learned), some
        assert learned.get("x-hpchub-user", []) == (["alice"] if signed_in else []), some


def test_cookies_of_the_sign_on_go_no_further(door: Door, browser: Browser) -> None:
    door.sign_in(browser, "alice", "hpc")
    names = [name for _, name in browser.cookies]
    answer = browser.ask("/user/alice/lab", {"Cookie": "kept=1"})
    passed = "; ".join(received(answer).get("cookie", []))
    assert [name for name in names if f"{name}=" in passed] == []
    assert "kept=1" in passed


def test_cookies_of_the_sign_on_are_safe(door: Door, browser: Browser) -> None:
    answers = []
    ask = browser.ask

    def remember(*arguments: Any, **others: Any) -> Any:
        answer = ask(*arguments, **others)
        answers.append((arguments[0], answer))
        return answer

    browser.ask = remember  # type: ignore[method-assign]
    door.sign_in(browser, "alice", "hpc")
    own = [cookie for url, answer in answers if url.startswith((door.site.url, "/"))
           for cookie in answer.headers.get_all("Set-Cookie") or [] if "1970" not in cookie]  # fmt: skip
    assert own
    for cookie in own:
        assert cookie.startswith("__Host-"), cookie
        flags = {flag.strip().lower() for flag in cookie.split(";")[1:]}
        assert flags >= {"secure", "httponly", "path=/"}, cookie
        assert flags & ({"samesite=lax"} | door.other_flags), cookie


def test_front_page_leads_to_the_login_only_until_the_browser_is_signed_in(door: Door, browser: Browser) -> None:
    assert browser.ask("/").headers["Location"] == f"{door.site.url}/hub/login"
    door.sign_in(browser, "dave")
    assert browser.ask("/").headers["Location"] == f"{door.site.url}/hub/"


def test_logout_ends_the_session_for_good(door: Door, browser: Browser) -> None:
    door.sign_in(browser, "alice", "hpc")
    kept = dict(browser.cookies)
    answer = browser.open("/sso/logout", {"Sec-Fetch-Site": "same-origin"})
    assert (answer.status, browser.followed[-1]) == (200, f"{door.site.url}/sso/signed-out")
    assert browser.ask("/hub/home").status in (302, 303, 401)
    browser.cookies = kept  # somebody has copied them
    assert browser.ask("/hub/home").status in (302, 303, 401)
    assert browser.ask("/hub/api/user").status == 401


def test_browser_of_another_person_gets_another_identity(door: Door, browser: Browser) -> None:
    assert told(door.sign_in(browser, "alice", "hpc"))["user"] == ["alice"]
    browser.open("/sso/logout", {"Sec-Fetch-Site": "same-origin"})
    assert told(door.sign_in(browser, "bob", "hpc"))["user"] == ["bob"]
    assert browser.ask("/user/alice/lab").status == 403


@pytest.mark.skipif(FAKETIME is None and not REQUIRED, reason="libfaketime is not installed")
@pytest.mark.parametrize(
    ("steps", "valid"),
    [([500, 1000, 1500], True), ([700], False), ([500 * i for i in range(1, 16)], False)],
    ids=["in-use", "idle", "total"],
)
def test_session_ends_after_its_idle_and_its_total_time(
    door: Door, browser: Browser, steps: list[int], valid: bool
) -> None:
    door.sign_in(browser, "alice", "hpc")
    try:
        for step in steps:
            door.site.clock.write_text(f"+{step}s\n")
            status = browser.ask("/hub/api/user").status
        assert status == (200 if valid else 401)
    finally:
        door.site.clock.write_text("+0s\n")


def test_signing_in_with_a_form_of_another_page_is_not_possible(door: Door, browser: Browser) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": "https://evil.example"}
    door.sign_in(browser, "alice", "hpc")
    answer = browser.ask("/hub/spawn", headers, method="POST", body="")
    assert answer.status == 403


FORMS = [name for name, door in DOORS.items() if issubclass(door, FormDoor)]


@pytest.fixture
def form(door: Door) -> FormDoor:
    """The site, if its provider has a sign-in page of this service."""
    if not isinstance(door, FormDoor):
        pytest.skip("the provider has its own sign-in page")
    return door


def sessions(form: FormDoor) -> list[Path]:
    return sorted((form.site.directory / "cache" / "hpchub-sso").glob("session-*"))


def forget_guesses(form: FormDoor) -> None:
    """Let the service forget the guesses of other tests."""
    for kind in ("account", "address"):
        for path in (form.site.directory / "cache" / "hpchub-sso").glob(f"{kind}-*"):
            path.unlink()


def test_wrong_password_and_unknown_name_have_the_same_answer(form: FormDoor, browser: Browser) -> None:
    form.add("walter")
    answers, times = [], []
    for name, password in (("walter", "wrong"), ("nobody-knows", "wrong"), ("walter", ""), ("", PASSWORD)):
        start = time.monotonic()
        answer = form.post(browser, name, password)
        times.append(time.monotonic() - start)
        answers.append((answer.status, answer.text, answer.headers["WWW-Authenticate"], answer.headers["Set-Cookie"]))
    assert len(set(answers)) == 1
    status, text, challenge, cookie = answers[0]
    assert (status, challenge, cookie) == (401, None, None)
    assert "The user name or the password is not correct." in text
    assert min(times) >= 0.29


def test_sign_in_is_not_cached(form: FormDoor, browser: Browser) -> None:
    form.add("alice")
    first = browser.ask("/hub/home")
    answers = [first, browser.ask(first.headers["Location"]), browser.ask("/sso/sign-in")]
    for origin, password in ((form.site.url, "wrong"), ("https://evil.example", PASSWORD), (form.site.url, PASSWORD)):
        headers = {"Origin": origin, "Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode({"username": "alice", "password": password})
        answers.append(browser.ask("/sso/sign-in", headers, method="POST", body=body))
    assert [answer.status for answer in answers[-3:]] == [401, 403, 303]
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}


def test_guessing_a_password_becomes_slower_and_the_right_one_waits_too(form: FormDoor, browser: Browser) -> None:
    form.add("victim")
    statuses = [form.post(browser, "victim", "wrong").status for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    answer = form.post(browser, "VICTIM", PASSWORD)
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) in (1, 2)
    assert "There were too many attempts." in answer.text
    assert form.post(browser, "somebody-else", "wrong").status == 401
    if FAKETIME is not None:
        form.site.clock.write_text("+3s\n")
        assert form.post(browser, "victim", "wrong").status == 401
        assert form.post(browser, "victim", PASSWORD).status == 429
        form.site.clock.write_text("+9s\n")
        assert form.post(browser, "victim", PASSWORD).status == 200


@pytest.mark.parametrize(
    "spellings",
    [["quarry", "QUARRY", "qua rry", "Quarry ", "quarry@example.org"], ["\uff51uarry", "q\u00aduarry", "\u0430", "é"]],
    ids=["ASCII", "other letters"],
)
def test_all_spellings_of_a_name_share_their_guesses(form: FormDoor, browser: Browser, spellings: list[str]) -> None:
    """Directories take many of them for the same name."""
    if not isinstance(form, Local):
        pytest.skip("the program is the same")
    forget_guesses(form)
    statuses = [form.post(browser, spellings[number % len(spellings)], "wrong").status for number in range(7)]
    assert statuses == [401] * 5 + [429] * 2


def test_guesses_from_an_address_become_slower_whatever_the_names_are(form: FormDoor, browser: Browser) -> None:
    if not isinstance(form, Local):
        pytest.skip("the program is the same")
    forget_guesses(form)
    browsers = [form.site.browser() for _ in range(34)]
    with ThreadPoolExecutor(10) as pool:
        names = [f"name{number}" for number in range(34)]
        statuses = sorted(pool.map(lambda each, name: form.post(each, name, "wrong").status, browsers, names))
    for each in browsers:
        each.close()
    forget_guesses(form)
    assert statuses == [401] * 30 + [429] * 4


def test_many_guesses_at_once_are_not_more_guesses(form: FormDoor) -> None:
    form.add("target")
    browsers = [form.site.browser() for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda each: form.post(each, "target", "wrong").status, browsers))
    for each in browsers:
        each.close()
    assert sorted(statuses) == [401] * 5 + [429] * 5


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", f"https://{HOST}"])
def test_page_of_another_host_cannot_sign_anybody_in(form: FormDoor, browser: Browser, origin: str) -> None:
    form.add("alice")
    answer = form.post(browser, "alice", PASSWORD, Origin=origin)
    assert (answer.status, answer.headers["Set-Cookie"]) == (403, None)


def test_session_contains_no_password_and_the_browser_gets_a_new_one_each_time(
    form: FormDoor, browser: Browser
) -> None:
    planted = "f" * 64
    host = browser.site.url.removeprefix("https://")
    browser.cookies[host, "__Host-hpchub-sso"] = planted
    form.sign_in(browser, "alice")
    first = browser.cookies[host, "__Host-hpchub-sso"]
    files = [path.read_text() for path in sessions(form)]
    assert files
    assert not any(PASSWORD in text or first in text for text in files)
    assert not any(first in path.name for path in sessions(form))
    form.post(browser, "alice", PASSWORD)
    second = browser.cookies[host, "__Host-hpchub-sso"]
    assert len({planted, first, second}) == 3
    for name in (planted, first):
        browser.cookies[host, "__Host-hpchub-sso"] = name
        assert browser.ask("/hub/api/user").status == 401
    stat = (form.site.directory / "cache" / "hpchub-sso").stat()
    assert stat.st_mode & 0o077 == 0


def test_log_names_the_reason_of_a_sign_in_that_failed(form: FormDoor, browser: Browser) -> None:
    """Without it, a directory that does not answer would leave no trace."""
    if not isinstance(form, Ldap):
        pytest.skip("the modules of the others log this without a setting")
    form.add("alice")
    before = len(form.site.apache.log())
    assert form.post(browser, "alice", "wrong").status == 401
    assert "Invalid credentials" in form.site.apache.log()[before:]


def test_session_of_another_provider_is_worth_nothing(form: FormDoor, browser: Browser) -> None:
    form.sign_in(browser, "alice")
    path = max(sessions(form), key=lambda path: path.stat().st_mtime_ns)
    session = json.loads(path.read_text())
    path.write_text(json.dumps(session | {"created": session["created"]}))
    assert browser.ask("/hub/api/user").status == 200
    path.write_text(json.dumps(session | {"provider": "another"}))
    assert browser.ask("/hub/api/user").status == 401
    assert not path.exists()


def test_time_of_the_last_use_is_replaced_in_one_step(form: FormDoor, browser: Browser) -> None:
    """Many requests of a page read it at the same time. None of them may find it empty."""
    form.sign_in(browser, "alice")
    path = max((form.site.directory / "cache" / "hpchub-sso").glob("seen-*"), key=lambda path: path.stat().st_mtime_ns)
    old = str(int(path.read_text()) - 100)
    path.write_text(old)
    with path.open() as reader:
        assert browser.ask("/hub/api/user").status == 200
        assert reader.read() == old
    assert path.read_text() != old


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "hub", "/hub\nX: y"])
def test_sign_in_leads_to_this_service_only(form: FormDoor, browser: Browser, target: str) -> None:
    form.add("alice")
    body = urlencode({"username": "alice", "password": PASSWORD})
    headers = {"Origin": form.site.url, "Content-Type": "application/x-www-form-urlencoded"}
    answer = browser.ask(f"/sso/sign-in?next={quote(target, safe='')}", headers, method="POST", body=body)
    assert (answer.status, answer.headers["Location"]) == (303, "/hub/")


@pytest.mark.parametrize("path", ["/hub/home", "/sso/sign-in", "/hub/api/user", "/user/alice/lab"])
def test_password_in_a_header_signs_nobody_in(form: FormDoor, browser: Browser, path: str) -> None:
    form.add("alice")
    basic = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
    before = len(form.site.backend.seen)
    answer = browser.ask(path, {"Authorization": f"Basic {basic}"})
    assert answer.headers["Set-Cookie"] is None
    assert len(form.site.backend.seen) == before
    assert browser.ask("/hub/api/user").status == 401


def test_page_shows_what_a_link_contains_as_text(form: FormDoor, browser: Browser) -> None:
    answer = browser.ask("/sso/sign-in?next=%22%3E%3Cscript%3E")
    assert "<script>" not in answer.text
    answer = browser.ask('/sso/sign-in?next="><script>')
    assert "<script>" not in answer.text


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("kinit")) and not REQUIRED, reason="curl or kinit is missing"
)
@pytest.mark.parametrize("ticket", [True, False], ids=["ticket", "no-ticket"])
def test_ticket_signs_in_without_a_password(door: Door, tmp_path: Path, ticket: bool) -> None:
    if not isinstance(door, Kerberos):
        pytest.skip("only Kerberos has tickets")
    door.add("tina")
    environment = os.environ | door.realm.environment | {"KRB5CCNAME": f"FILE:{tmp_path}/tickets"}
    if ticket:
        subprocess.run(["kinit", "tina"], input=PASSWORD, text=True, check=True, env=environment, capture_output=True)
    port = door.site.apache.port
    command = ["curl", "-sk", "--negotiate", "-u", ":", "-L", "-c", f"{tmp_path}/jar", "-w", "%{num_redirects}"]
    command += ["-H", "Accept: text/html", "--resolve", f"{HOST}:{port}:127.0.0.1", f"{door.site.url}/hub/home"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    if not ticket:
        assert "<form" in done.stdout
        return
    assert done.stdout.endswith("2"), "one redirect to the sign-on, and one back"
    headers = dict(json.loads(done.stdout[:-1])["headers"])
    assert headers["X-Hpchub-User"] == "tina"
    assert "Authorization" not in headers


def test_no_server_of_another_realm_is_asked(door: Door, browser: Browser) -> None:
    if not isinstance(door, Kerberos):
        pytest.skip("only Kerberos has realms")
    assert door.post(browser, "tina@EVIL.EXAMPLE", PASSWORD).status == 401
    assert "EVIL.EXAMPLE" not in door.site.apache.log()
