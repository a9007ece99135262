"""The mail that a user asks for while a session waits, and a mail server that does not answer."""

from __future__ import annotations

import email
import email.policy
import json
import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .pages import START
from .test_language import choose
from .test_waiting import wait_in_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import EmailMessage

    from .lab import Lab
    from .pages import Visitor

MAILS = "/var/lib/lab-mail/mails/new"
"""Where the lab's mail server keeps the mails that it has received, one in each file."""


@pytest.fixture
def mails(lab: Lab) -> Callable[[], list[EmailMessage]]:
    """Return a function that returns the mails that the lab's mail server has received since the test began."""
    if lab.hub_settings()["mail"]["host"] != "idp":
        pytest.skip("the hub of this lab sends no mail")
    lab.run("idp", ["sh", "-c", f"rm -f {MAILS}/*"])
    read = f"import json, pathlib; print(json.dumps([each.read_text() for each in pathlib.Path({MAILS!r}).glob('*')]))"

    def received() -> list[EmailMessage]:
        texts = json.loads(lab.run("idp", ["python3", "-c", read]))
        return [email.message_from_string(text, policy=email.policy.default) for text in texts]

    return received


@pytest.fixture
def stopped_mail_server(
    lab: Lab, mails: Callable[[], list[EmailMessage]]
) -> Iterator[Callable[[], list[EmailMessage]]]:
    """Stop the process of the lab's mail server. Its host still accepts connections, but nothing ever answers."""
    lab.run("idp", ["systemctl", "kill", "--signal=STOP", "lab-mail"])
    yield mails
    lab.run("idp", ["systemctl", "kill", "--signal=CONT", "lab-mail"])


def test_mail_in_the_users_language_opens_the_session(
    browser_page: Visitor, lab: Lab, mails: Callable[[], list[EmailMessage]], closed_queue: Callable[[], None]
) -> None:
    """The user closes the page. The address comes from the sign-on, and the mail contains no secret."""
    wait_in_queue(browser_page, lab)
    page = browser_page.page
    choose(page, "Deutsch")
    page.locator("#mail").click()
    expect(page.locator("#mail-on")).to_contain_text("schickt eine E-Mail an alice@example.org")
    page.goto("about:blank")
    closed_queue()

    (mail,) = eventually("the mail has arrived", mails, timeout=START / 1000)
    assert (mail["To"], mail["X-RcptTo"]) == ("alice@example.org", "alice@example.org")
    assert (mail["From"], mail["Subject"]) == ("jupyter@example.org", "Ihre Sitzung auf Demo cluster ist bereit")
    lines = mail.get_content().splitlines()
    assert f"Profil: {lab.profiles()[0]['display_name']}" in lines
    (link,) = [line.removeprefix("Öffnen: ") for line in lines if line.startswith("Öffnen: ")]
    assert link == f"{lab.url}/hub/spawn-pending/alice"
    page.goto(link)
    browser_page.wait_for_lab()
    assert len(mails()) == 1


def test_mail_server_that_does_not_answer_delays_nothing_else(
    browser_page: Visitor,
    lab: Lab,
    stopped_mail_server: Callable[[], list[EmailMessage]],
    closed_queue: Callable[[], None],
) -> None:
    """While the mail waits for its server, pages open, and so does the session."""
    began = int(time.time())
    wait_in_queue(browser_page, lab, user="bob")
    page = browser_page.page
    page.locator("#mail").click()
    expect(page.locator("#mail-on")).to_contain_text("bob@example.org")
    page.goto(f"{lab.url}/hub/home")
    closed_queue()

    port = str(lab.hub_settings()["mail"]["port"])
    connections = ["ss", "--no-header", "--tcp", "--numeric", "state", "established", "dport", "=", f":{port}"]
    eventually(
        "the hub has connected to the mail server", lambda: lab.run("hub", connections), timeout=180, interval=0.2
    )
    page.goto(f"{lab.url}/hub/home")
    expect(page.locator('.hpchub-card[data-server=""]')).to_contain_text("Running")
    assert browser_page.fetch("GET", "/hub/health").status == 200
    assert lab.run("hub", connections), "the pages waited until the hub had given up the mail"
    page.goto(f"{lab.url}/hub/spawn-pending/bob")
    browser_page.wait_for_lab()

    journal = ["journalctl", "--unit=jupyterhub", "--no-pager", "--output=cat", f"--since=@{began}"]
    eventually("the hub gives up", lambda: "Cannot send a mail to bob" in lab.run("hub", journal), timeout=90)
    page.goto(f"{lab.url}/hub/home")
    expect(page.locator('.hpchub-card[data-server=""]')).to_contain_text("Running")
    assert stopped_mail_server() == []
