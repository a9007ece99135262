"""The texts and the language of a site in the inventory."""

from __future__ import annotations

from typing import Any

import pytest
from hub_app import VARIABLES, profile

from hpchub.model.site import Site, SiteError


def read(**service: Any) -> Site:
    variables = {**VARIABLES, "hpc_service": {**VARIABLES["hpc_service"], **service}}
    return Site.from_vars({**variables, "hpc_profiles": [profile("small")]})


def problem(**service: Any) -> str:
    with pytest.raises(SiteError) as raised:
        read(**service)
    return str(raised.value)


def test_site_without_texts_is_english() -> None:
    assert (read().service.language, read().service.texts) == ("en", {})


def test_valid_texts_are_kept() -> None:
    texts = {"Your sessions": "Your notebooks", "Language": {"de": "Sprache der Seite"}}
    found = read(language="de", texts=texts)
    assert (found.service.language, found.service.texts) == ("de", texts)
    assert found.as_dict()["service"]["texts"] == texts


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("If you need help, contact {support}.", "Ask {support}."),
        ("If you need help, contact %(support)s.", "Ask {support}."),
        ("If you need help, contact {support}.", "Ask %(support)s, or nobody: 100 %."),
        ("If you need help, contact {support}.", "Ask somebody <else>."),
        ("{num} core", "{num} Kern"),
        ("Your job {job_id} waits in the queue {queue} of {cluster}: {reason}.", "{job_id}: {reason}"),
    ],
)
def test_placeholders_may_be_moved_and_left_out(key: str, text: str) -> None:
    assert read(texts={key: text}).service.texts == {key: text}


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"language": "fr"}, 'hpc_service: language "fr" is unknown; available: en, de'),
        ({"language": 3}, "is a number, not text"),
        ({"texts": {"Your sesions": "x"}}, 'is not a text of the pages; did you mean "Your sessions"?'),
        ({"texts": {"qqqqqqqq": "x"}}, "is not a text of the pages; copy the English text from a page in English"),
        ({"texts": {"": "x"}}, "is empty"),
        ({"texts": {"x" * 10_000: "x"}}, "is not an English text of the pages"),
        ({"texts": {"Language": ""}}, "is empty"),
        ({"texts": {"Language": " "}}, "is empty"),
        ({"texts": {"Language": None}}, "is empty"),
        ({"texts": {"Language": 3}}, "is a number, not text"),
        ({"texts": {"Language": ["x"]}}, "is a list, not text"),
        ({"texts": {"Language": "a\nb"}}, "contains a line break"),
        ({"texts": {"Language": "x" * 1001}}, "is too long"),
        ({"texts": {"Language": {"dee": "x"}}}, 'has the unknown language "dee"; did you mean "de"?'),
        ({"texts": {"Language": {"de": {"en": "x"}}}}, "is a mapping, not text"),
        ({"texts": {"Language": {3: "x"}}}, "has the unknown language"),
        ({"texts": ["Language"]}, "is a list, not a mapping"),
        ({"texts": {"Language": "{name}"}}, "has the unknown placeholder {name}"),
        (
            {"texts": {"If you need help, contact {support}.": {"de": "{suport}"}}},
            'has the unknown placeholder {suport} in its replacement "{suport}"; valid: {support}',
        ),
    ],
)
def test_mistake_is_explained(service: dict[str, Any], message: str) -> None:
    assert message in problem(**service)
