"""The static pages of Apache and of the proxy: each text is in the language that the reader wants, with its values."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hpchub.catalogue import languages

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "roles"
PAGES = sorted(path.name.removesuffix(".j2") for path in (ROLES / "reverse_proxy/templates/pages").glob("*.s*.j2"))
ERRORS = ("400", "401", "404", "503", "error")
SERVICE = {"service_name": "A & <B>", "support": "<help@example.org>", "language": "en"}
REPLACED = {"Page not found": {"de": 'Nichts "hier" & <dort>'}}

# Renders templates as the roles do. It runs in a process of its own, because Ansible changes how Python imports.
RENDER = """
import json, sys
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template
init_plugin_loader([sys.argv[1]])
found = {}
for name, expression, variables in json.load(sys.stdin):
    found[name] = Templar(DataLoader(), variables=variables).template(trust_as_template(expression))
json.dump(found, sys.stdout)
"""


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    """Return the name, the expression and the variables of each page."""
    apache: dict[str, Any] = {f"reverse_proxy_{name}": value for name, value in SERVICE.items()}
    apache |= {"reverse_proxy_texts": REPLACED, "ansible_search_path": [str(ROLES / "reverse_proxy")]}
    apache["reverse_proxy_public_url"] = "https://hub.example.org"
    apache |= {"reverse_proxy_sso_provider": "oidc", "reverse_proxy_oidc_providers": [{"key": "a", "title": "A & B"}]}
    wrapped = "{{ lookup('ansible.builtin.template', 'pages/in_each_language.j2') }}"
    found = [(page, wrapped, {**apache, "__reverse_proxy_page": page}) for page in PAGES]
    proxy: dict[str, Any] = {f"configurable_http_proxy_{name}": value for name, value in SERVICE.items()}
    proxy |= {"configurable_http_proxy_texts": {}, "ansible_search_path": [str(ROLES / "configurable_http_proxy")]}
    for language in languages():
        for page in ERRORS:
            expression = f"{{{{ lookup('ansible.builtin.template', '{page}.html.j2') }}}}"
            variables = {**proxy, "__configurable_http_proxy_page_language": language}
            found.append((f"{language}/{page}.html", expression, variables))
    return found


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """Return the content of each page."""
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(ROOT / "collections")],
        input=json.dumps(jobs()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


_DIRECTIVE = re.compile(r"<!--#(if|elif|else|endif|echo)(?: (?:expr|var)=(?:'([^']*)'|\"([^\"]*)\"))? -->")
_MATCH = re.compile(r"v\(\"(\w+)\"\) =~ m#([^#]*)#(i?)")
_EQUAL = re.compile(r"v\(\"(\w+)\"\) = \"(\w+)\"")


def is_true(expression: str, variables: Mapping[str, str]) -> bool:
    """Return the value of an expression of Apache."""
    text = _MATCH.sub(
        lambda found: str(bool(re.search(found[2], variables.get(found[1], ""), re.IGNORECASE if found[3] else 0))),
        expression,
    )
    text = _EQUAL.sub(lambda found: str(variables.get(found[1], "") == found[2]), text)
    text = text.replace("||", " or ").replace("&&", " and ").replace("!", " not ")
    assert re.fullmatch(r"(True|False|or|and|not|[() ])+", text), text
    return bool(eval(text))  # only these words


def served(content: str, **variables: str) -> str:
    """Return what Apache makes of a page with server-side includes."""
    out: list[str] = []
    # For each open "if": whether its branch is shown, and whether one of its branches was.
    open_ifs: list[tuple[bool, bool]] = []
    end = 0
    for found in _DIRECTIVE.finditer(content):
        if all(shown for shown, _ in open_ifs):
            out.append(content[end : found.start()])
        end = found.end()
        kind, value = found[1], found[2] or found[3] or ""
        if kind == "echo" and all(shown for shown, _ in open_ifs):
            out.append(variables.get(value, "(none)"))
        elif kind == "if":
            now = is_true(value, variables)
            open_ifs.append((now, now))
        elif kind in ("elif", "else"):
            _, before = open_ifs.pop()
            now = not before and (kind == "else" or is_true(value, variables))
            open_ifs.append((now, before or now))
        elif kind == "endif":
            open_ifs.pop()
    assert not open_ifs
    assert "<!--" not in content[end:]
    return "".join(out) + content[end:]


def language_of(page: str) -> str:
    """Return the language of a page, which has only one."""
    (found,) = re.findall(r'<html lang="(\w+)">', page)
    return str(found)


@pytest.mark.parametrize(
    ("accepted", "cookie", "language"),
    [
        ("", "", "en"),
        ("de", "", "de"),
        ("DE-at,de;q=0.9,en;q=0.8", "", "de"),
        ("en-US,en,de", "", "en"),
        ("fr, de", "", "de"),
        ("fr", "", "en"),
        ("den", "", "en"),
        ("en", "hpchub-language=de", "de"),
        ("de", "a=b; hpchub-language=en; c=d", "en"),
        ("de", "hpchub-language=fr", "de"),
        ("en", "hpchub-language=denk", "en"),
        ("en", "x-hpchub-language=de", "en"),
        ("en", "", "en"),
    ],
)
def test_apache_shows_the_language_that_the_reader_wants(
    rendered: dict[str, str], accepted: str, cookie: str, language: str
) -> None:
    page = served(rendered["not-found.shtml"], HTTP_ACCEPT_LANGUAGE=accepted, HTTP_COOKIE=cookie)
    assert language_of(page) == language


@pytest.mark.parametrize("page", [name for name in PAGES if name.endswith(".shtml")])
@pytest.mark.parametrize("language", languages())
def test_page_is_complete_in_each_language(rendered: dict[str, str], page: str, language: str) -> None:
    reader = {"HTTP_ACCEPT_LANGUAGE": language, "REDIRECT_REMOTE_USER": "alice"}
    for extra in ({}, {"REDIRECT_hpchub_maintenance": "1"}, {"REDIRECT_hpchub_foreign_page": "1"}):
        content = served(rendered[page], **reader, **extra)
        assert language_of(content) == language
        assert "A &amp; &lt;B&gt;" in content
        assert "<B>" not in content
        assert not re.search(r"\{\w+\}", re.sub(r"<style>.*?</style>", "", content, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_languages_have_different_texts(rendered: dict[str, str], page: str) -> None:
    texts = [served(rendered[page], HTTP_ACCEPT_LANGUAGE=language) for language in languages()]
    paragraphs = [re.findall(r"<p>(?!A &amp;)[^<]{20}|\"message.*", text) for text in texts]
    assert all(paragraphs)
    assert not set(paragraphs[0]) & set(paragraphs[1])


@pytest.mark.parametrize("reason", ["backslash", "dots", "slashes", "characters", "header", "line", ""])
@pytest.mark.parametrize("language", languages())
def test_answer_for_scripts_is_json(rendered: dict[str, str], reason: str, language: str) -> None:
    reader = {"HTTP_ACCEPT_LANGUAGE": language, "REDIRECT_hpchub_reason": reason}
    for status in ("400", "401", "403", "404", "413", "414", "431", "502"):
        answer = json.loads(served(rendered["error.sjson"], REDIRECT_STATUS=status, **reader))
        assert answer["status"] == int(status)
        assert len(answer["message"]) > 20


@pytest.mark.parametrize(("status", "words"), [("414", "The address is too long"), ("431", "The request is too long")])
def test_request_that_is_too_long_is_explained(rendered: dict[str, str], status: str, words: str) -> None:
    assert words in served(rendered["bad-request.shtml"], REDIRECT_STATUS=status)
    assert words in json.loads(served(rendered["error.sjson"], REDIRECT_STATUS=status))["message"]


def test_each_error_of_apache_has_a_page_and_an_answer_for_programs() -> None:
    macros = (ROLES / "reverse_proxy/templates/macros.conf.j2").read_text()
    pages = dict(re.findall(r"^  ErrorDocument (\d+) /sso/(\S+)$", macros, flags=re.MULTILINE))
    (listed,) = re.findall(r"for status in \[(.*)\]", macros)
    assert listed.split(", ") == list(pages)
    assert set(pages.values()) <= set(PAGES)


def test_text_of_the_site_is_escaped(rendered: dict[str, str]) -> None:
    german = served(rendered["not-found.shtml"], HTTP_ACCEPT_LANGUAGE="de")
    assert '<h1>Nichts "hier" &amp; &lt;dort&gt;</h1>' in german
    assert "<h1>Page not found</h1>" in served(rendered["not-found.shtml"])


@pytest.mark.parametrize("page", ERRORS)
def test_page_of_the_proxy_is_complete_in_each_language(rendered: dict[str, str], page: str) -> None:
    contents = [rendered[f"{language}/{page}.html"] for language in languages()]
    assert [language_of(content) for content in contents] == list(languages())
    for content in contents:
        assert "<strong>&lt;help@example.org&gt;</strong>" in content
        assert not re.search(r"\{\w+\}", re.sub(r"<(style|script)>.*?</\1>", "", content, flags=re.DOTALL))
    titles = [re.findall(r"<h1>(.*)</h1>", content) for content in contents]
    assert titles[0] != titles[1]


def test_role_writes_every_page() -> None:
    tasks = yaml.safe_load((ROLES / "reverse_proxy/tasks/configure.yml").read_text())
    text = json.dumps(tasks)
    for page in PAGES:
        assert f"/{page}" in text
        assert f"'__reverse_proxy_page': '{page}'" in text
