"""SAML: answers of a provider that must sign nobody in, and names that a provider may not report."""

from __future__ import annotations

import base64
import html
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from apache_server import needs_apache
from saml_provider import SamlServer, post_response, saml_arguments, send_form
from web_site import Browser, Site, received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_apache("auth_mellon", "lua")
MFA = "https://refeds.org/profile/mfa"


@pytest.fixture(scope="module")
def provider() -> Iterator[tuple[Site, SamlServer]]:
    """A site with a provider that may report names of example.org."""
    with Site() as site:
        server = SamlServer(site.directory / "tls", f"{site.url}/saml/metadata")
        providers = [{"entity_id": server.url, "scopes": ["example.org"]}]
        arguments = {
            "reverse_proxy_allowed_users": ["dave"],
            "reverse_proxy_user_mapping": [{"pattern": "(.+)@.+", "replacement": r"\1"}],
            "reverse_proxy_second_factors": [MFA],
        }
        try:
            site.start(saml_arguments(site, server, providers=providers) | arguments)
            yield site, server
        finally:
            server.shutdown()
            server.server_close()


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
    assert browser.ask("/hub/home").status == 303


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
    provider: tuple[Site, SamlServer], browser: Browser, clock: int, direction: str
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
    finally:
        flag.unlink()
    assert post_response(browser, browser.open("/hub/home")).status == 200


@pytest.fixture(scope="module")
def federation() -> Iterator[tuple[Site, list[SamlServer]]]:
    """A site with two providers, whose scopes are in the metadata."""
    with Site() as site:
        servers = [SamlServer(site.directory / "tls", f"{site.url}/saml/metadata") for _ in range(2)]
        scope = "<Extensions><s:Scope xmlns:s='urn:mace:shibboleth:metadata:1.0'>{}.example</s:Scope>{}</Extensions>"
        ui = (
            "<m:UIInfo xmlns:m='urn:oasis:names:tc:SAML:metadata:ui'><m:DisplayName xml:lang='en'>University {}"
            "</m:DisplayName></m:UIInfo>"
        )
        parts = [
            server.metadata(within=scope.format(name, ui.format(name.upper())))
            for server, name in zip(servers, ("a", "b"), strict=True)
        ]
        text = f"<EntitiesDescriptor xmlns='urn:oasis:names:tc:SAML:2.0:metadata'>{''.join(parts)}</EntitiesDescriptor>"
        arguments = {
            "reverse_proxy_allowed_users": ["dave"],
            "reverse_proxy_user_mapping": [{"pattern": "(.+)@.+", "replacement": r"\1"}],
        }
        try:
            site.start(saml_arguments(site, servers[0], text, all=True) | arguments)
            yield site, servers
        finally:
            for server in servers:
                server.shutdown()
                server.server_close()


def choose(browser: Browser, path: str, server: SamlServer) -> Any:
    """Open a page, and choose a provider on the page that lists them."""
    page = browser.open(path)
    assert browser.followed[-1].startswith(f"{browser.site.url}/sso/providers?"), browser.followed
    found = re.search(r'name="ReturnTo" value="([^"]*)"', page.text)
    assert found is not None, page.text
    assert f'<button name="IdP" value="{server.url}">University ' in page.text
    query = urlencode({"ReturnTo": html.unescape(found[1]), "IdP": server.url})
    return post_response(browser, browser.open(f"/saml/login?{query}"))


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("name", ["a", "b"])
def test_user_chooses_a_provider_that_reports_names_with_its_own_scope_only(
    federation: tuple[Site, list[SamlServer]], chosen: int, name: str
) -> None:
    site, servers = federation
    browser = site.browser()
    servers[chosen].attributes = {"uid": f"dave@{name}.example"}
    answer = choose(browser, "/hub/home?x=1&y=%26%22", servers[chosen])
    browser.close()
    if name == "ab"[chosen]:
        assert received(answer)["x-hpchub-user"] == ["dave"]
        assert json.loads(answer.text)["path"] == "/hub/home?x=1&y=%26%22"
    else:
        assert answer.status == 403


@pytest.mark.parametrize(
    "mark", ["%22%3E%3Cscript%3E", "%2522%253E%253Cscript%253E", "%252522%25253E%25253Cscript%25253E"]
)
def test_page_of_providers_shows_what_a_link_contains_as_text(
    federation: tuple[Site, list[SamlServer]], mark: str
) -> None:
    browser = federation[0].browser()
    answer = browser.ask(f"/sso/providers?return=https%3A%2F%2Fx%2Fsaml%2Flogin%3FReturnTo%3D{mark}")
    browser.close()
    assert (answer.status, "<script>" in answer.text) == (200, False)
    assert "form-action" not in answer.headers["Content-Security-Policy"]  # the provider is on another host


@pytest.mark.parametrize("query", ["", f"IdP={quote('https://evil.example/idp', safe='')}"])
def test_unknown_provider_is_not_asked(federation: tuple[Site, list[SamlServer]], query: str) -> None:
    site, servers = federation
    browser = site.browser()
    home = quote(f"{site.url}/hub/home", safe="")
    answer = browser.ask(f"/saml/login?ReturnTo={home}&{query}")
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


def test_only_the_cookie_of_a_sign_in_that_has_begun_comes_back_with_the_form_of_the_provider(browser: Browser) -> None:
    start = browser.ask(browser.ask("/hub/home").headers["Location"])
    end = send_form(browser, browser.open(start.headers["Location"]).text)
    (begun,), (signed_in,) = (answer.headers.get_all("Set-Cookie", []) for answer in (start, end))
    assert begun == "__Host-hpchub-sso=cookietest; Path=/; Secure; HttpOnly; SameSite=None"
    assert re.fullmatch(r"__Host-hpchub-sso=[0-9a-f]+; Path=/; Secure; HttpOnly; SameSite=Lax", signed_in)


def test_cookie_is_removed_from_the_browser_at_the_logout(browser: Browser) -> None:
    post_response(browser, browser.open("/hub/home"))
    assert any(name == "__Host-hpchub-sso" for _, name in browser.cookies)
    assert browser.open("/sso/logout", {"Sec-Fetch-Site": "same-origin"}).status == 200
    assert browser.cookies == {}


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "///evil.example/", "https:/evil.example"]
)
@pytest.mark.parametrize("page", ["login", "logout"])
def test_redirect_leads_nowhere_else(browser: Browser, page: str, target: str) -> None:
    answer = browser.ask(f"/saml/{page}?ReturnTo={target}")
    assert "evil" not in (answer.headers["Location"] or "").split("?")[0]
    assert answer.status == 400


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "///evil.example/"])
def test_answer_leads_nowhere_else(browser: Browser, target: str) -> None:
    page = browser.open("/hub/home").text
    answer = send_form(browser, re.sub(r'(name="RelayState" value=)"[^"]*"', rf'\1"{target}"', page))
    assert "evil" not in (answer.headers["Location"] or "")


@pytest.mark.parametrize(
    "path", ["/saml/invalidate", "/saml/probeDisco", "/saml/auth", "/saml/artifactResponse", "/saml/"]
)
def test_other_pages_of_the_module_are_closed(browser: Browser, path: str) -> None:
    assert browser.ask(path).status in (403, 404)


def test_message_without_a_signature_ends_no_session(browser: Browser) -> None:
    assert browser.ask("/saml/logout?SAMLRequest=x", {"Sec-Fetch-Site": "cross-site"}).status == 403
