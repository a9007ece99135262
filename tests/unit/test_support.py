"""The report of a failure, and the link that sends it."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hpchub.hub.outcome import NOT_STARTED, Outcome
from hpchub.hub.support import MAX_LINK, HelpRequest, help_request

OUTCOME = Outcome(
    "a" * 16,
    NOT_STARTED,
    "Your job 7 ended & more?",
    1_764_000_000.0,
    "7",
    "demo",
    "COMPLETING",
    ("line 1", "line 2"),
    profile="small",
    profile_name="Small",
    queue="q",
)
FORM = "https://desk.example.org/new?title={subject}&text={report}"


def ask(outcome: Outcome = OUTCOME, **changes: Any) -> HelpRequest:
    settings = {"service": "Example HPC", "user": "alice", "support": "help@example.org", "form": ""}
    return help_request(outcome, **{**settings, **changes})


@pytest.mark.parametrize("form", ["", FORM], ids=["mail", "form"])
def test_link_contains_the_whole_report(form: str) -> None:
    request = ask(form=form)
    fields = parse_qs(urlsplit(request.link).query)
    (subject,), (report,) = (fields[name] for name in (("title", "text") if form else ("subject", "body")))
    assert subject == "Example HPC: a session did not start"
    assert report.replace("\r\n", "\n") == request.report
    for fact in ("job: 7", "cluster: demo", "queue: q", "profile: Small", "user: alice", "COMPLETING", "line 2"):
        assert fact in request.report


@pytest.mark.parametrize(
    ("support", "page"),
    [
        ("+49 30 1234", ""),
        ("", ""),
        ("help@example.org and others", ""),
        ("https://desk.example.org/", "https://desk.example.org/"),
        ("javascript:alert(1)", ""),
        ("x@example.org?cc=y@example.org", ""),
    ],
)
def test_contact_that_takes_no_report_is_only_a_page_or_nothing(support: str, page: str) -> None:
    request = ask(support=support)
    assert (request.link, request.page) == ("", page)


@pytest.mark.parametrize(
    "line", ["x y " * 100, "\N{SNOWMAN}" * 400, "&cc=eve@example.org\r\nBcc: eve@example.org", "%0d"]
)
@pytest.mark.parametrize("form", ["", FORM], ids=["mail", "form"])
def test_long_or_hostile_log_keeps_the_link_short_and_its_fields_apart(line: str, form: str) -> None:
    outcome = dataclasses.replace(OUTCOME, log=(line,) * 50, text="T" * 2000 + line)
    for each in (outcome, dataclasses.replace(outcome, text="text")):
        request = ask(each, form=form)
        assert len(request.link) <= MAX_LINK
        assert request.link.isascii()
        assert set(parse_qs(urlsplit(request.link).query)) == ({"title", "text"} if form else {"subject", "body"})
        assert request.report.count(line) >= 50


def test_shortened_log_keeps_its_last_lines() -> None:
    link = ask(dataclasses.replace(OUTCOME, log=tuple(f"line {i}" for i in range(500)))).link
    assert "line%20499" in link
    assert "line%200%0D" not in link


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("token=a1b2c3d4e5", "a1b2c3d4e5"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
        ("https://ann:pw1234@host/", "pw1234"),
        ("0123456789abcdef" * 2, "0123456789abcdef"),
    ],
)
def test_report_and_link_contain_no_secrets(text: str, hidden: str) -> None:
    request = ask(dataclasses.replace(OUTCOME, text=f"It failed: {text}", detail=text, log=(text,)))
    assert hidden not in request.report
    assert hidden not in request.link


def test_unpaired_surrogates_are_replaced() -> None:
    assert ask(dataclasses.replace(OUTCOME, log=("\ud800",))).link.isascii()
