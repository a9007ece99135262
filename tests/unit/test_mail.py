"""Mail to users about sessions that are ready."""

from __future__ import annotations

import asyncio
import dataclasses
import smtplib
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hub_browser import WAITING_PAGE as PAGE
from hub_browser import eventually, form, interrupt

from hpchub.hub import mail
from hpchub.hub.mail import MOST_AT_ONCE, MOST_PER_MINUTE, PAUSE, Mailer, MailServer, address, ready_mail
from hpchub.hub.ready_mail import ReadyMail

if TYPE_CHECKING:
    from email.message import EmailMessage

    from hub_app import Hub
    from hub_browser import Browser

    from hpchub.hub.profiles_spawner import HPCProfilesSpawner

SERVER = MailServer("jupyter@example.org", "localhost", 25, tls=False)


def make(**changes: str) -> EmailMessage:
    fields: dict[str, Any] = {
        "sender": "jupyter@example.org",
        "recipient": "ann@example.org",
        "service": "Example HPC",
        "profile": "Small",
        "url": "https://hub.example.org/hub/spawn-pending/ann",
    }
    return ready_mail(**{**fields, **changes})


@pytest.mark.parametrize(
    "claim", ["ann@example.org", " ann@example.org ", "ann.b+c@mail.example.org", "o'neil@example.org"]
)
def test_valid_address_is_used(claim: str) -> None:
    assert address(claim) == claim.strip()


@pytest.mark.parametrize(
    "claim",
    [
        None,
        7,
        ["ann@example.org"],
        "",
        "ann",
        "ann@localhost",
        "ann@example.org, eve@example.org",
        "ann@example.org\nBcc: eve@example.org",
        "Ann <ann@example.org>",
        "-oQ/tmp@example.org",
        "|sh@example.org",
        "a" * 65 + "@example.org",
        "ann@" + "a." * 200 + "org",
        "\u00e4nn@example.org",
    ],
    ids=str,
)
def test_anything_else_gets_no_mail(claim: object) -> None:
    assert address(claim) == ""


def test_mail_says_what_is_ready_and_how_to_open_it() -> None:
    found = make()
    assert found["To"] == "ann@example.org"
    assert found["Subject"] == "Your session on Example HPC is ready"
    assert "https://hub.example.org/hub/spawn-pending/ann" in found.get_content()


def test_names_with_line_breaks_add_no_headers() -> None:
    found = make(service="A\r\nBcc: eve@example.org", profile="B\n\nC")
    assert "Bcc" not in found
    assert "Profile: B C" in found.get_content()
    assert found.as_bytes()


def test_one_user_gets_at_most_one_mail_in_some_minutes() -> None:
    mailer = Mailer(SERVER)
    assert mailer.admit("ann", 1000)
    assert not mailer.admit("ann", 1000 + PAUSE - 1)
    assert mailer.admit("bob", 1001)
    assert mailer.admit("ann", 1000 + PAUSE)


def test_all_users_get_a_limited_number_of_mails_in_a_minute() -> None:
    mailer = Mailer(SERVER)
    assert all(mailer.admit(f"user{i}", 1000 + i / 10) for i in range(MOST_PER_MINUTE))
    assert not mailer.admit("ann", 1010)
    assert mailer.admit("ann", 1060)


@pytest.mark.parametrize("error", [ConnectionRefusedError(), smtplib.SMTPRecipientsRefused({}), TimeoutError()])
async def test_failure_to_send_is_only_logged(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(server: MailServer, message: EmailMessage) -> None:
        raise error

    monkeypatch.setattr(mail, "_deliver", refuse)
    await Mailer(SERVER).send("ann", make())


async def test_hub_speaks_smtp() -> None:
    received: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org\r\n")
        in_data = False
        while line := (await reader.readline()).decode():
            received.append(line.rstrip())
            in_data = (in_data or line.upper().startswith("DATA")) and line != ".\r\n"
            if line.startswith("QUIT"):
                break
            if not in_data or line.upper().startswith("DATA"):
                writer.write(b"354 go on\r\n" if in_data else b"250 OK\r\n")
        writer.write(b"221 bye\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await Mailer(dataclasses.replace(SERVER, host="127.0.0.1", port=port)).send("ann", make())
    server.close()
    assert "rcpt TO:<ann@example.org>" in received
    assert "Subject: Your session on Example HPC is ready" in received


async def test_slow_mail_server_delays_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Health, tokens and starts use the threads of the event loop. Mails wait elsewhere, and not too many of them."""
    released = threading.Event()
    delivered: list[EmailMessage] = []

    def wait(server: MailServer, message: EmailMessage) -> None:
        released.wait(20)
        delivered.append(message)

    monkeypatch.setattr(mail, "_deliver", wait)
    mailer = Mailer(SERVER)
    sending = [asyncio.create_task(mailer.send(f"user{i}", make())) for i in range(MOST_AT_ONCE + 5)]
    try:
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.to_thread(time.monotonic), 2)
        assert caplog.text.count("is too slow") == 5
    finally:
        released.set()
        await asyncio.gather(*sending)
    assert len(delivered) == MOST_AT_ONCE


async def test_mail_that_takes_too_long_is_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mail server answers each command slowly, but in time. Together, the answers take too long."""
    monkeypatch.setattr(mail, "LIMIT", 0.3)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org\r\n")
        while await reader.readline():
            await asyncio.sleep(0.15)
            writer.write(b"250-slow\r\n250 OK\r\n")
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    slow = dataclasses.replace(SERVER, host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    began = time.monotonic()
    await Mailer(slow).send("ann", make())
    assert time.monotonic() - began < 2
    assert "Cannot send a mail to ann" in caplog.text
    await asyncio.wait_for(ended.wait(), 2)
    server.close()


# The wish of the user


@pytest.fixture
def sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """The mails that a hub with a mail server has sent."""
    found: list[EmailMessage] = []
    monkeypatch.setattr(mail, "_deliver", lambda server, message: found.append(message))
    hub.runtime.mailer.server = SERVER
    return found


async def know(hub: Hub, claim: Any = "alice@example.org") -> None:
    """Save the address of alice, as a sign-on does."""
    await hub.user().save_auth_state({"mail": claim, "groups": []})


async def test_user_asks_for_a_mail_and_gets_one_when_the_session_is_ready(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, sent: list[EmailMessage]
) -> None:
    await know(hub)
    page = await browser.page(PAGE)
    assert "Send me a mail when it is ready" in page
    response = await browser.post(*form(page, "mail"))
    assert (response.code, response.headers["Location"]) == (302, PAGE)
    assert waiting.orm_spawner.state["mail"] is True
    assert "will send a mail to alice@example.org" in await browser.page(PAGE)
    waiting.add_poll_callback(lambda: None)  # as JupyterHub does when the server is ready
    await eventually(lambda: sent)
    waiting.add_poll_callback(lambda: None)
    assert [message["To"] for message in sent] == ["alice@example.org"]
    assert "https://hub.example.org/hub/spawn-pending/alice" in sent[0].get_content()
    assert "mail" not in waiting.orm_spawner.state
    interrupt(waiting)


async def test_user_withdraws_the_wish(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, sent: list[EmailMessage]
) -> None:
    await know(hub)
    for wanted in (True, False):
        await browser.post(*form(await browser.page(PAGE), "mail"))
        assert waiting.wants_mail is wanted
    waiting.add_poll_callback(lambda: None)
    await asyncio.sleep(0.1)
    assert sent == []


@pytest.mark.parametrize("claim", ["", "a@b.org, c@d.org"])
async def test_page_offers_no_mail_without_a_valid_address(
    hub: Hub, browser: Browser, waiting: HPCProfilesSpawner, sent: list[EmailMessage], claim: str
) -> None:
    await know(hub, claim)
    page = await browser.page(PAGE)
    assert "mail-when-ready" not in page
    _, fields = form(page, "cancel")
    await browser.post("/hub/mail-when-ready/alice", {**fields, "wanted": "yes"})
    assert not waiting.wants_mail
    assert sent == []


async def test_mail_is_off_by_default(hub: Hub, browser: Browser, waiting: HPCProfilesSpawner) -> None:
    await know(hub)
    assert hub.runtime.mailer.server is None
    assert "mail-when-ready" not in await browser.page(PAGE)
    waiting.wants_mail = True
    waiting.add_poll_callback(lambda: None)
    await asyncio.sleep(0.05)


async def test_wish_survives_a_restart_of_the_hub(hub: Hub) -> None:
    spawner = hub.restored_spawner(submitted=time.time())
    spawner.load_state({**spawner.orm_spawner.state, "mail": True})
    assert spawner.wants_mail
    spawner.load_state({**spawner.orm_spawner.state, "mail": "yes"})
    assert not spawner.wants_mail


class Waiting(ReadyMail):
    """A session that waits, with what the wish for a mail needs of a spawner."""

    session = "s"
    name = ""
    user = SimpleNamespace(name="alice", escaped_name="alice")
    child_spawner = SimpleNamespace(profile=SimpleNamespace(display_name="Small"))

    def __init__(self) -> None:
        self.saved: list[tuple[bool, str]] = []
        self.started: list[Any] = []
        self.languages: list[str] = []
        self.runtime = SimpleNamespace(
            mailer=SimpleNamespace(server=SERVER, send=self.send),
            settings={"service_name": "Jupyter", "public_url": "https://hub.example.org"},
            languages=SimpleNamespace(in_language=self.in_language),
            background=lambda _, started: self.started.append(started),
        )

    def in_language(self, name: str) -> SimpleNamespace:
        self.languages.append(name)
        return SimpleNamespace(texts=SimpleNamespace(gettext=str))

    def _save(self) -> None:
        self.saved.append((self.wants_mail, self.mail_language))

    async def mail_address(self) -> str:
        return "alice@example.org"

    async def send(self, user: str, mail: EmailMessage) -> None:
        assert (user, mail["To"]) == ("alice", "alice@example.org")


async def test_mail_has_the_language_in_which_the_user_asked_for_it() -> None:
    """The session is ready when no page of the user is being read, so the wish must keep the language."""
    waiting = Waiting()
    waiting.wants_mail, waiting.mail_language = True, "de"
    waiting.send_ready_mail()
    waiting.send_ready_mail()
    assert [wanted for wanted, _ in waiting.saved] == [False]
    (sending,) = waiting.started
    await sending
    assert waiting.languages == ["de"]
