"""The language of the pages: the menu, the browser's wish, and texts in templates, requested from a real JupyterHub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hub_app import HUB, signed_on
from jinja2 import Environment

from hpchub.hub import page_texts
from hpchub.hub.page_texts import JUPYTERHUB_TEMPLATES, Languages, PageTexts, mark
from hpchub.messages import Message

if TYPE_CHECKING:
    from hub_app import Ask, Hub


def xsrf(page: str) -> str:
    found = re.search(r'name="_xsrf" value="([^"]*)"', page)
    assert found
    return found[1]


async def login(ask: Ask) -> str:
    response = await ask("login", **signed_on("alice", "hpc"))
    return "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))


def language(page: str) -> str:
    found = re.search(r'<html lang="([^"]*)">', page)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "en"),
        ({"Accept-Language": "de-DE,en;q=0.5"}, "de"),
        ({"Accept-Language": "de", "Cookie": "hpchub-language=en"}, "en"),
        ({"Accept-Language": "x" * 10_000}, "en"),
        ({"Cookie": "hpchub-language=" + "y" * 3000, "Accept-Language": "de"}, "de"),
    ],
    ids=["nothing", "browser", "cookie", "long header", "bad cookie"],
)
async def test_page_is_in_the_language_of_the_reader(ask: Ask, headers: dict[str, str], expected: str) -> None:
    response = await ask("error/404", **headers)
    page = response.body.decode()
    assert language(page) == expected
    assert f'value="{expected}" lang="{expected}" aria-pressed="true"' in page


@pytest.mark.parametrize("subdomains", [False, True])
async def test_menu_sets_a_safe_cookie_and_returns_to_the_page(
    ask: Ask, hub: Hub, monkeypatch: pytest.MonkeyPatch, subdomains: bool
) -> None:
    if subdomains:  # the sessions have hosts below the hub's
        monkeypatch.setitem(hub.app.tornado_application.settings, "subdomain_host", f"https://{HUB}")
        monkeypatch.setitem(hub.app.tornado_application.settings, "domain", HUB)
    cookie = await login(ask)
    response = await ask("spawn?profile=small", **signed_on("alice", "hpc"), Cookie=cookie)
    page = response.body.decode()
    assert 'name="next" value="/hub/spawn?profile=small"' in page
    new = "; ".join(header.split(";")[0] for header in response.headers.get_list("Set-Cookie"))
    cookies = f"{cookie}; {new}" if new else cookie
    body = f"_xsrf={xsrf(page)}&language=de&next=%2Fhub%2Fspawn%3Fprofile%3Dsmall"
    response = await ask("language", method="POST", body=body, **signed_on("alice", "hpc"), Cookie=cookies)
    assert response.code == 303
    assert response.headers["Location"] == "/hub/spawn?profile=small"
    found = [each for each in response.headers.get_list("Set-Cookie") if each.startswith("hpchub-language=de;")]
    assert len(found) == 1
    attributes = set(found[0].split("; "))
    assert {"Secure", "SameSite=Lax", "Path=/"} <= attributes
    assert {each for each in attributes if each.startswith("Domain=")} == ({f"Domain={HUB}"} if subdomains else set())


@pytest.mark.parametrize(
    ("body", "code", "location"),
    [
        ("language=xx", 400, ""),
        ("language=de&next=https://evil.example/", 303, "/hub/home"),
        ("language=de&next=//evil.example/", 303, "/hub/home"),
        ("language=de&next=%5Cevil", 303, None),
    ],
)
async def test_menu_refuses_unknown_languages_and_other_hosts(
    ask: Ask, body: str, code: int, location: str | None
) -> None:
    cookie = await login(ask)
    response = await ask("home", **signed_on("alice", "hpc"), Cookie=cookie)
    body = f"{body}&_xsrf={xsrf(response.body.decode())}"
    response = await ask("language", method="POST", body=body, **signed_on("alice", "hpc"), Cookie=cookie)
    assert response.code == code
    assert "evil.example" not in response.headers.get("Location", "")
    if location:
        assert response.headers["Location"] == location


async def test_menu_needs_the_xsrf_token(ask: Ask) -> None:
    cookie = await login(ask)
    response = await ask("language", method="POST", body="language=de", **signed_on("alice", "hpc"), Cookie=cookie)
    assert response.code == 403


def test_text_never_becomes_html() -> None:
    environment = Environment(autoescape=True, extensions=[PageTexts])
    shown = environment.from_string(
        '{{ _("<b>%(name)s</b>", name="<i>") }}{% set n %}<u>{% endset %}{{ _("<b>%(n)s", n=n) }}'
    )
    assert shown.render() == "&lt;b&gt;&lt;i&gt;&lt;/b&gt;&lt;b&gt;<u>"


def test_percent_sign_in_a_text_is_harmless() -> None:
    environment = Environment(autoescape=True, extensions=[PageTexts])
    assert environment.from_string('{{ _("100 % of %(x)s %d %(y)s", x=1) }}').render() == "100 % of 1 %d %(y)s"


@pytest.mark.parametrize("name", sorted(path.name for path in JUPYTERHUB_TEMPLATES.glob("*.html")))
def test_marked_template_of_jupyterhub_is_valid(name: str) -> None:
    marked_source = mark((JUPYTERHUB_TEMPLATES / name).read_text())
    Environment(autoescape=True, extensions=[PageTexts]).parse(marked_source)


def test_english_text_of_jupyterhub_is_marked() -> None:
    source = (
        '<p title="Go on">You ({{ user.name }}) can\'t go.</p>'
        '<script>let a = ">no<";</script>{% if a > b %}<i></i>{% endif %}'
    )
    assert mark(source) == (
        "<p title=\"{{ _('Go on') }}\">{{ _('You (%(user_name)s) can\\'t go.', user_name=user.name) }}</p>"
        '<script>let a = ">no<";</script>{% if a > b %}<i></i>{% endif %}'
    )


def test_hub_with_an_unknown_language_does_not_start() -> None:
    with pytest.raises(ValueError, match='language: "xx" is unknown; valid: en, de'):
        Languages({"language": "xx"})


@pytest.mark.parametrize("source", ["{{ m }}", "{{ _(m) }}", "{{ m | tr }}", '{{ _("%(m)s", m=m) }}'])
def test_template_shows_a_message_in_the_language_of_the_reader(source: str) -> None:
    environment = Environment(autoescape=True, extensions=[PageTexts])
    message = Message("Your job {job_id} ended before its notebook server was ready.", job_id="<7>")
    token = page_texts._READER.set(Languages({}).reader("de", ""))
    try:
        shown = environment.from_string(source).render(m=message)
    finally:
        page_texts._READER.reset(token)
    assert shown == "Ihr Job &lt;7&gt; endete, bevor sein Notebook-Server bereit war."
    assert environment.from_string(source).render(m=message).startswith("Your job &lt;7&gt; ended")
