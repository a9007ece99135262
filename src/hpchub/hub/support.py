"""The report of a failure, and the link that sends it to the site's support. No I/O.

The report contains what the failure page shows. Whatever looks like a secret is replaced, as in the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from hpchub.hub.outcome import utc
from hpchub.messages import Message, marked, translated
from hpchub.remote.gate import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.hub.outcome import Outcome

MAX_LINK = 1900
"""The maximum length of a link, in characters. Some mail programs and web servers accept about 2000."""
SUBJECT, REPORT = "{subject}", "{report}"
"""The placeholders in the address of a site's form."""

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_WEB = re.compile(r"https?://[^\s\"'<>\\]+")
_LAST_LINES = marked("Last lines of the log:")
_NAMES = {
    "job_id": marked("job: {value}"),
    "cluster": marked("cluster: {value}"),
    "queue": marked("queue: {value}"),
    "profile": marked("profile: {value}"),
    "node": marked("node: {value}"),
    "submitted": marked("submitted: {value}"),
    "started": marked("started: {value}"),
}


@dataclass(frozen=True)
class HelpRequest:
    """A request for help.

    Attributes:
        link: The address that sends the report, or empty if the site has no address for it.
        report: The whole report.
        page: The site's page for help, which does not take the report, or empty.
    """

    link: str
    report: str
    page: str = ""


def help_request(
    outcome: Outcome,
    *,
    service: str,
    user: str,
    support: str,
    form: str = "",
    translate: Callable[[str], str] = str,
) -> HelpRequest:
    """Return the request for help after a failure.

    Args:
        outcome: The outcome of the session.
        service: The name of the service.
        user: The session's user.
        support: The contact of the site: a mail address, or anything else.
        form: The address of the site's form for requests, with placeholders, or empty.
        translate: Returns the translation of a text into the user's language.
    """
    subject = Message("{service}: a session ended", service=service)
    if outcome.not_started:
        subject = Message("{service}: a session did not start", service=service)
    head = redact("\n".join(str(translated(line, translate)) for line in _head(outcome, service, user)))
    title = translate(_LAST_LINES)
    log = [redact(line) for line in outcome.log]
    report = "\n".join([head, *(["", title, *log] if log else [])])
    support = support.strip()
    link = _link(subject.translated(translate), head, [title, *log], support=support, form=form)
    return HelpRequest(link, report, page=support if not link and _WEB.fullmatch(support) else "")


def _head(outcome: Outcome, service: str, user: str) -> list[str]:
    facts = [Message(_NAMES[name], value=text) for name, text in outcome.facts.items()]
    detail = [Message("reported by the scheduler: {value}", value=outcome.detail)] if outcome.detail else []
    return [
        outcome.text,
        "",
        Message("service: {value}", value=service),
        Message("user: {value}", value=user),
        Message("time: {value}", value=utc(outcome.at)),
        Message("session: {value}", value=outcome.session),
        *facts,
        Message("own settings: yes") if outcome.own_settings else Message("own settings: no"),
        *detail,
    ]


def _link(subject: str, head: str, log: list[str], *, support: str, form: str) -> str:
    """Return the link with as many of the last lines of the log as fit, or empty. The first line is their title."""
    if form and _WEB.fullmatch(form):
        template = form
    elif _MAIL.fullmatch(support):
        template = f"mailto:{quote(support, safe='@')}?subject={SUBJECT}&body={REPORT}"
    else:
        return ""
    template = template.replace(SUBJECT, _encoded(subject[:100]))
    room = MAX_LINK - len(template.replace(REPORT, ""))
    body = _shortened(head, room)
    kept: list[str] = []
    for line in reversed(log[1:]):
        attempt = _encoded("\n".join([head, "", log[0], line, *kept]))
        if len(attempt) > room:
            break
        kept.insert(0, line)
        body = attempt
    return template.replace(REPORT, body)


def _shortened(text: str, room: int) -> str:
    """Return the beginning of a text that fits when it is encoded. A character is never cut in the middle."""
    encoded = _encoded(text)
    while text and len(encoded) > room:
        text = text[: len(text) - max(1, (len(encoded) - room) // 12)]
        encoded = _encoded(text)
    return encoded


def _encoded(text: str) -> str:
    """Return a text as a part of an address. Mail programs expect the line breaks of mail."""
    return quote(text.replace("\n", "\r\n"), safe="", errors="replace")
