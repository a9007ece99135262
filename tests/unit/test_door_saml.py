"""SAML: answers of a provider that must sign nobody in, and names that a provider may not report.

Both modules read the same messages of the same stand-in: mod_auth_mellon, and mod_shib with a real shibd.
"""

from __future__ import annotations

import base64
import html
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
from apache_server import REQUIRED, needs_apache
from saml_provider import SamlServer, metadata_of_two, post_response, saml_arguments, send_form
from shibboleth_service import PROGRAM, Shibd
from web_site import Browser, Site, received

if TYPE_CHECKING:
    from collections.abc import Iterator

MFA = "https://refeds.org/profile/mfa"
MELLON = needs_apache("auth_mellon", "lua")
SHIBBOLETH = (
    needs_apache("shib", "lua"),
    pytest.mark.skipif(PROGRAM is None and not REQUIRED, reason="shibd is not installed"),
)
ARGUMENTS = {
    "reverse_proxy_allowed_users": ["dave"],
    "reverse_proxy_user_mapping": [{"pattern": "(.+)@.+", "replacement": r"\1"}],
}


class Door(NamedTuple):
    """A site with its providers.

    Attributes:
        module: The role's name of the module, ``saml`` or ``shibboleth``.
        site: The site.
        servers: The providers.
        shibd: The daemon of mod_shib.
    """

    module: str
    site: Site
    servers: list[SamlServer]
    shibd: Shibd | None

    def log(self) -> str:
        """Return the log with the reason why an answer is refused."""
        return self.shibd.log() if self.shibd else self.site.apache.log()

    def choice(self, target: str, server: str) -> str:
        """Return the address to which the page of providers leads."""
        names = ("target", "entityID") if self.shibd else ("ReturnTo", "IdP")
        return f"/saml/login?{urlencode(dict(zip(names, (target, server), strict=True)))}"


@contextmanager
def open_door(module: str, count: int, **given: Any) -> Iterator[Door]:
    """Run a site with some providers, which are a federation if there are several."""
    with Site() as site:
        servers = [SamlServer(site.directory / "tls", f"{site.url}/saml/metadata") for _ in range(count)]
        text = metadata_of_two(*servers) if count > 1 else None
        chosen: dict[str, Any] = (
            {"all": True} if count > 1 else {"providers": [{"entity_id": servers[0].url, "scopes": ["example.org"]}]}
        )
        shibd = Shibd(site, servers[0], text, **chosen, **ARGUMENTS, **given) if module == "shibboleth" else None
        try:
            site.start(
                shibd.arguments if shibd else saml_arguments(site, servers[0], text, **chosen) | ARGUMENTS | given
            )
            if shibd:
                shibd.start()
            yield Door(module, site, servers, shibd)
        finally:
            if shibd:
                shibd.stop()
            for server in servers:
                server.shutdown()
                server.server_close()


BOTH = [pytest.param("saml", marks=MELLON), pytest.param("shibboleth", marks=SHIBBOLETH)]


@pytest.fixture(scope="module", params=BOTH)
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A site with a provider that may report names of example.org."""
    with open_door(request.param, 1, reverse_proxy_second_factors=[MFA]) as found:
        yield found


@pytest.fixture
def provider(door: Door) -> tuple[Site, SamlServer]:
    """The site and its provider."""
    return door.site, door.servers[0]


@pytest.fixture
def mellon(door: Door) -> Door:
    """The site, if mod_auth_mellon runs there."""
    if door.shibd:
        pytest.skip("this test is about mod_auth_mellon")
    return door


@pytest.fixture
def shibboleth(door: Door) -> Shibd:
    """The daemon of mod_shib, if it runs."""
    if not door.shibd:
        pytest.skip("this test is about mod_shib")
    return door.shibd


@pytest.fixture
def browser(provider: tuple[Site, SamlServer]) -> Iterator[Browser]:
    """A new browser. The provider has no faults."""
    provider[1].faults, provider[1].context, provider[1].clock = set(), MFA, 0
    provider[1].attributes = {"urn:oid:0.9.2342.19200300.100.1.1": "dave@example.org"}
    found = provider[0].browser()
    yield found
    found.close()


def test_name_with_an_oid_signs_in(browser: Browser) -> None:
    answer = post_response(browser, browser.open("/hub/home"))
    assert received(answer)["x-hpchub-user"] == ["dave"]


@pytest.mark.parametrize("fault", ["unsigned", "other-key", "expired", "early", "audience"])
def test_wrong_assertion_signs_nobody_in(provider: tuple[Site, SamlServer], browser: Browser, fault: str) -> None:
    provider[1].faults = {fault}
    assert post_response(browser, browser.open("/hub/home")).status == 400
    assert browser.ask("/hub/home").status in (302, 303)


@pytest.mark.parametrize(
    "values", [[], ["dave@example.org", "eve@example.org"], ["dave@evil.example"], ["dave"], ["dave@x@example.org"]]
)
def test_name_that_the_provider_may_not_report_is_refused(
    provider: tuple[Site, SamlServer], browser: Browser, values: list[str]
) -> None:
    provider[1].attributes = {"uid": values}
    assert post_response(browser, browser.open("/hub/home")).status == 403


@pytest.mark.parametrize(("clock", "direction"), [(400, "in the future"), (-400, "ago")])
def test_page_and_log_say_by_how_much_the_clocks_differ(
    mellon: Door, provider: tuple[Site, SamlServer], browser: Browser, clock: int, direction: str
) -> None:
    provider[1].clock = clock
    answer = post_response(browser, browser.open("/hub/home"))
    assert answer.status == 400
    found = re.search(r"differ by (\d+) seconds", answer.text)
    assert found is not None, answer.text
    assert abs(int(found[1]) - 400) < 20
    assert re.search(
        rf"The answer of the SAML provider was issued (39|40|41)\d s {direction}", provider[0].apache.log()
    )


@pytest.mark.parametrize(
    ("clock", "faults", "reason"),
    [
        (400, set(), "rejected not-yet-valid message, timestamp"),
        (-400, set(), "rejected expired message, timestamp"),
        (0, {"expired"}, "Assertion is no longer valid"),
        (0, {"early"}, "Assertion is not yet valid"),
    ],
)
def test_page_and_log_say_that_an_answer_is_not_valid_at_this_time(
    shibboleth: Shibd, browser: Browser, clock: int, faults: set[str], reason: str
) -> None:
    shibboleth.provider.clock, shibboleth.provider.faults = clock, faults
    answer = post_response(browser, browser.open("/hub/home"))
    assert (answer.status, "because it was not valid at this time" in answer.text) == (400, True)
    assert reason in shibboleth.log()


def test_only_shibd_refuses_an_old_answer_that_the_provider_calls_valid(
    door: Door, provider: tuple[Site, SamlServer], browser: Browser
) -> None:
    """mod_auth_mellon has no limit of its own for the age of an answer. Apache's log contains a warning."""
    provider[1].clock, provider[1].faults = -400, {"long"}
    answer = post_response(browser, browser.open("/hub/home"))
    assert answer.status == (400 if door.shibd else 200)
    assert ("rejected expired message" if door.shibd else "s ago. If it was not delayed, compare") in door.log()


def test_page_of_another_wrong_answer_does_not_speak_of_clocks(
    provider: tuple[Site, SamlServer], browser: Browser
) -> None:
    provider[1].faults = {"audience"}
    text = post_response(browser, browser.open("/hub/home")).text
    assert "could not accept the answer of your organisation" in text
    assert "clock" not in text


def test_nobody_signs_in_when_the_metadata_has_expired(provider: tuple[Site, SamlServer], browser: Browser) -> None:
    flag = provider[0].directory / "etc" / "saml" / "state" / "unusable"
    page = browser.open("/hub/home")
    flag.touch()
    try:
        answer = post_response(browser, page)
        assert (answer.status, "description of the organisations has expired" in answer.text) == (503, True)
        assert browser.open("/hub/home").status == 503
        assert browser.open("/user/alice/lab").status == 503
        # A token of a program, and the hub's answers to everybody, do not need the provider.
        assert browser.open("/user/alice/api/status", {"Authorization": f"token {'t' * 32}"}).status == 200
        assert browser.open("/hub/health").status == 200
    finally:
        flag.unlink()
    assert post_response(browser, browser.open("/hub/home")).status == 200


@pytest.fixture(scope="module", params=BOTH)
def federation(request: pytest.FixtureRequest) -> Iterator[Door]:
    """A site with two providers. The metadata contains their scopes."""
    with open_door(
        request.param,
        2,
        reverse_proxy_allowed_groups=["staff@a.example"],
        reverse_proxy_saml_groups_attribute="eduPersonScopedAffiliation",
    ) as found:
        yield found


def choose(door: Door, browser: Browser, path: str, server: SamlServer) -> Any:
    """Open a page, choose a provider, and return the answer after it."""
    page = browser.open(path)
    found = re.search(r'name="(?:ReturnTo|target)" value="([^"]*)"', page.text)
    assert found is not None, page.text
    button = re.search(f'<button name="(IdP|entityID)" value="{server.url}">University ', page.text)
    assert button is not None, page.text
    return post_response(browser, browser.open(door.choice(html.unescape(found[1]), server.url)))


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("name", ["a", "b"])
def test_user_chooses_a_provider_that_reports_names_with_its_own_scope_only(
    federation: Door, chosen: int, name: str
) -> None:
    servers, browser = federation.servers, federation.site.browser()
    servers[chosen].attributes = {"uid": f"dave@{name}.example"}
    answer = choose(federation, browser, "/hub/home?x=1&y=%26%22", servers[chosen])
    browser.close()
    if name == "ab"[chosen]:
        assert received(answer)["x-hpchub-user"] == ["dave"]
        assert json.loads(answer.text)["path"] == "/hub/home?x=1&y=%26%22"
    else:
        assert answer.status == 403


@pytest.mark.parametrize(
    "mark", ["%22%3E%3Cscript%3E", "%2522%253E%253Cscript%253E", "%252522%25253E%25253Cscript%25253E"]
)
def test_page_of_providers_shows_what_a_link_contains_as_text(federation: Door, mark: str) -> None:
    browser = federation.site.browser()
    name = "target" if federation.shibd else "ReturnTo"
    answer = browser.ask(f"/sso/providers?return=https%3A%2F%2Fx%2Fsaml%2Flogin%3F{name}%3D{mark}")
    browser.close()
    assert (answer.status, "<script>" in answer.text) == (200, False)
    assert "form-action" not in answer.headers["Content-Security-Policy"]  # the provider is on another host


@pytest.mark.parametrize("server", ["", "https://evil.example/idp"])
def test_unknown_provider_is_not_asked(federation: Door, server: str) -> None:
    site, servers = federation.site, federation.servers
    browser = site.browser()
    answer = browser.ask(federation.choice(f"{site.url}/hub/home", server))
    browser.close()
    assert "evil" not in urlsplit(answer.headers["Location"] or "").netloc
    assert not any((answer.headers["Location"] or "").startswith(server.url) for server in servers)


def test_sign_in_without_a_second_factor_is_refused(provider: tuple[Site, SamlServer], browser: Browser) -> None:
    provider[1].context = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"
    assert post_response(browser, browser.open("/hub/home")).status == 403
    assert MFA in provider[1].requests[-1]


def test_answer_is_valid_once_and_only_in_the_browser_that_asked(
    provider: tuple[Site, SamlServer], browser: Browser
) -> None:
    page = browser.open("/hub/home")
    other = provider[0].browser()
    assert post_response(other, page).status == 403
    other.cookies = {(host, "mellon-hpchub"): value for (host, _), value in browser.cookies.items()}
    assert post_response(other, page).status == 403  # a subdomain has set a cookie with the module's own name
    other.close()
    assert post_response(browser, page).status == 200
    assert post_response(browser, page).status == 403  # the back button


def test_attributes_go_to_the_hub(provider: tuple[Site, SamlServer], browser: Browser) -> None:
    provider[1].attributes |= {"groups": ["hpc", "x,y"]}
    (value,) = received(post_response(browser, browser.open("/hub/home")))["x-hpchub-userinfo"]
    claims = json.loads(base64.urlsafe_b64decode(value))
    assert claims["groups"] == ["hpc", "x,y"]


@pytest.mark.usefixtures("mellon")
def test_only_the_cookie_of_a_sign_in_that_has_begun_comes_back_with_the_form_of_the_provider(browser: Browser) -> None:
    start = browser.ask(browser.ask("/hub/home").headers["Location"])
    end = send_form(browser, browser.open(start.headers["Location"]).text)
    (begun,), (signed_in,) = (answer.headers.get_all("Set-Cookie", []) for answer in (start, end))
    assert begun == "__Host-hpchub-sso=cookietest; Path=/; Secure; HttpOnly; SameSite=None"
    assert re.fullmatch(r"__Host-hpchub-sso=[0-9a-f]+; Path=/; Secure; HttpOnly; SameSite=Lax", signed_in)


@pytest.mark.usefixtures("shibboleth")
def test_cookies_of_the_module_have_names_that_no_subdomain_can_set(browser: Browser) -> None:
    start = browser.ask("/hub/home")
    end = send_form(browser, browser.open("/hub/home").text)
    (begun,) = start.headers.get_all("Set-Cookie", [])
    assert re.fullmatch(
        r"__Host-hpchub-started-ss[^=;]+=_[0-9a-f]+; Path=/; Max-Age=1800; Secure; HttpOnly; SameSite=None", begun
    )
    over, signed_in = end.headers.get_all("Set-Cookie", [])
    assert re.fullmatch(r"__Host-hpchub-started-ss[^=;]+=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=None", over)
    assert re.fullmatch(r"__Host-hpchub-sso=_[0-9a-f]+; Path=/; Secure; HttpOnly; SameSite=Lax", signed_in)


@pytest.mark.usefixtures("shibboleth")
def test_answer_to_another_browser_signs_nobody_in(provider: tuple[Site, SamlServer], browser: Browser) -> None:
    page = browser.open("/hub/home")
    other = provider[0].browser()
    other.ask("/hub/home")  # this one has begun a sign-in too
    assert post_response(other, page).status == 400
    assert other.ask("/hub/api/user").status == 401
    other.close()


@pytest.mark.usefixtures("shibboleth")
def test_value_with_a_semicolon_is_one_value(provider: tuple[Site, SamlServer], browser: Browser) -> None:
    provider[1].attributes |= {"groups": ["x;hpc", "y\\;hpc", "100%25;"]}
    (value,) = received(post_response(browser, browser.open("/hub/home")))["x-hpchub-userinfo"]
    assert json.loads(base64.urlsafe_b64decode(value))["groups"] == ["x;hpc", "y\\;hpc", "100%25;"]


@pytest.mark.usefixtures("shibboleth")
def test_session_under_the_name_of_the_module_is_none(browser: Browser) -> None:
    post_response(browser, browser.open("/hub/home"))
    (host, _), value = next(iter(browser.cookies.items()))
    browser.cookies = {(host, "_shibsession_hpchub"): value}  # a subdomain has set it
    assert browser.ask("/hub/api/user").status == 401


@pytest.mark.usefixtures("shibboleth")
def test_nothing_of_the_module_goes_to_the_hub(browser: Browser) -> None:
    learned = received(post_response(browser, browser.open("/hub/home")))
    assert {name for name in learned if "hpchub" in name or "shib" in name or "remote" in name} == {
        "x-hpchub-user", "x-hpchub-userinfo", "x-hpchub-sign-on",
    }  # fmt: skip


def test_group_with_a_scope_that_the_provider_does_not_have_admits_nobody(federation: Door) -> None:
    if not federation.shibd:
        pytest.skip("only mod_shib knows which attributes have a scope")
    for chosen, status in ((0, 200), (1, 403)):
        server, browser = federation.servers[chosen], federation.site.browser()
        server.attributes = {"uid": f"eve@{'ab'[chosen]}.example", "eduPersonScopedAffiliation": ["staff@a.example"]}
        assert choose(federation, browser, "/hub/home", server).status == status
        browser.close()


def test_without_shibd_nobody_signs_in_and_no_session_counts(shibboleth: Shibd, browser: Browser) -> None:
    assert post_response(browser, browser.open("/hub/home")).status == 200
    new = browser.site.browser()
    shibboleth.stop()
    try:
        assert new.open("/hub/home").status == 503
        # A process of Apache that has asked shibd before answers 401. Other processes redirect to the page above.
        script = new.ask("/hub/api/user")
        assert script.status == 401 or "/saml/refused?" in script.headers["Location"], script
        assert new.open("/hub/api/user").status in (401, 503)
        program = {"Authorization": f"token {'a' * 32}", "Sec-Fetch-Site": "", "Sec-Fetch-Mode": "", "Accept": "*/*"}
        assert new.ask("/hub/api/user", program).status == 200
        for _ in range(3):
            assert browser.open("/hub/home").status in (200, 503)
    finally:
        shibboleth.start()
        new.close()


def test_cookie_is_removed_from_the_browser_at_the_logout(browser: Browser) -> None:
    post_response(browser, browser.open("/hub/home"))
    assert any(name == "__Host-hpchub-sso" for _, name in browser.cookies)
    set_cookies: list[str] = []
    ask = browser.ask

    def remember(*arguments: Any) -> Any:
        answer = ask(*arguments)
        set_cookies.extend(answer.headers.get_all("Set-Cookie", []))
        return answer

    browser.ask = remember  # type: ignore[method-assign, assignment]
    assert browser.open("/sso/logout", {"Sec-Fetch-Site": "same-origin"}).status == 200
    assert browser.cookies == {}
    assert "__Host-hpchub-sso=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax" in set_cookies


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "///evil.example/", "https:/evil.example"]
)
@pytest.mark.parametrize("page", ["login", "logout"])
@pytest.mark.usefixtures("mellon")
def test_redirect_leads_nowhere_else(browser: Browser, page: str, target: str) -> None:
    answer = browser.ask(f"/saml/{page}?ReturnTo={target}")
    assert "evil" not in (answer.headers["Location"] or "").split("?")[0]
    assert answer.status == 400


@pytest.mark.usefixtures("shibboleth")
@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example/",
        "https:/evil.example",
        "https://hub.localhost.evil.example/",
    ],
)
@pytest.mark.parametrize("page", ["login?target", "end?return"])
def test_redirect_of_shibboleth_leads_nowhere_else(browser: Browser, page: str, target: str) -> None:
    answer = browser.ask(f"/saml/{page}={target}")
    assert "evil" not in urlsplit(answer.headers["Location"]).netloc
    if target.startswith("https"):
        assert browser.open(f"/saml/{page}={target}").status == 400


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "///evil.example/"])
def test_answer_leads_nowhere_else(browser: Browser, target: str) -> None:
    page = browser.open("/hub/home").text
    answer = send_form(browser, re.sub(r'(name="RelayState" value=)"[^"]*"', rf'\1"{target}"', page))
    assert "evil" not in urlsplit(answer.headers["Location"] or "").netloc


@pytest.mark.parametrize(
    "path",
    [
        "/saml/invalidate",
        "/saml/probeDisco",
        "/saml/auth",
        "/saml/artifactResponse",
        "/saml/",
        "/saml/Status",
        "/saml/Session",
        "/saml/DiscoFeed",
        "/Shibboleth.sso/Status",
        "/Shibboleth.sso/Login",
        "/shibboleth-sp/main.css",
    ],
)
def test_other_pages_of_the_module_are_closed(browser: Browser, path: str) -> None:
    assert browser.ask(path).status in (403, 404)


def test_message_without_a_signature_ends_no_session(browser: Browser) -> None:
    assert browser.ask("/saml/logout?SAMLRequest=x", {"Sec-Fetch-Site": "cross-site"}).status == 403
