"""Mail to users: their session is ready. A mail contains no secret, and is sent in the background.

The hub passes a mail to a mail server: that of its own host, or a relay of the site. The hub's sandbox does not permit
the program ``sendmail``, which needs the rights of another group.
"""

from __future__ import annotations

import asyncio
import logging
import re
import smtplib
import socket
import ssl
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from typing import TYPE_CHECKING, Any

from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

log = logging.getLogger(__name__)

ADDRESS = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{0,62}[A-Za-z0-9_])?@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"
)
"""One mail address, without a name and in ASCII."""
MOST_PER_MINUTE = 60
"""How many mails the hub sends in a minute."""
PAUSE = 120.0
"""The minimum time between two mails to one user, in seconds."""
TIMEOUT = 10.0
"""How long the mail server may take for each answer, in seconds."""
LIMIT = 60.0
"""How long a mail may take in total, in seconds. Afterwards, it is dropped."""
THREADS = 2
"""How many mails are sent at the same time."""
MOST_AT_ONCE = 20
"""How many mails may be under way or wait for a thread. Further mails are dropped."""


@dataclass(frozen=True)
class MailServer:
    """The mail server of the hub, and the sender of its mails.

    Attributes:
        sender: The address of the sender.
        host: The host of the server.
        port: Its port.
        tls: Whether the connection must be encrypted, with a certificate for the host.
    """

    sender: str
    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> MailServer | None:
        """Return the server of the hub's settings, or None if the site has not enabled mail."""
        if not settings["enabled"]:
            return None
        return cls(settings["sender"], settings["host"], settings["port"], settings["tls"])


def address(claim: object) -> str:
    """Return the address in a claim of the single sign-on, or empty if it is not exactly one valid address."""
    text = claim.strip() if isinstance(claim, str) else ""
    return text if len(text) <= 254 and ADDRESS.fullmatch(text) else ""


def ready_mail(
    *,
    sender: str,
    recipient: str,
    service: str,
    profile: str,
    url: str,
    translate: Callable[[str], str] = str,
) -> EmailMessage:
    """Return the mail about a session that is ready.

    Args:
        sender: The address of the sender.
        recipient: The address of the user.
        service: The name of the service.
        profile: The name of the session's profile for people.
        url: The address that opens the session after the sign-on.
        translate: Returns the translation of a text into the user's language.
    """
    ready = Message("Your session on {service} is ready.", service=_line(service))
    mail = EmailMessage(SMTP)
    mail["From"] = sender
    mail["To"] = recipient
    mail["Subject"] = _line(ready.translated(translate).rstrip("."))
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"
    about = Message("Profile: {profile}", profile=_line(profile))
    link = Message("Open it: {url}", url=url)
    advice = Message("Its time runs from now on. If you do not need it any more, stop it on your home page.")
    reason = Message("You get this mail because you asked for it when the session was waiting.")
    texts = [each.translated(translate) for each in (ready, about, link, advice, reason)]
    mail.set_content("{}\n\n{}\n{}\n\n{}\n{}\n".format(*texts))
    return mail


def _line(text: str) -> str:
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:200]


class Mailer:
    """Sends mails to users, not too many of them.

    It has threads of its own, so that a slow mail server delays nothing else in the hub.

    Args:
        server: The mail server, or None. Then no mail is sent.
    """

    def __init__(self, server: MailServer | None) -> None:
        self.server = server
        self._sent: deque[float] = deque(maxlen=MOST_PER_MINUTE)
        self._users: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mail")
        self._under_way: set[Future[None]] = set()

    def admit(self, user: str, now: float) -> bool:
        """Return whether the user may get a mail now, and count it.

        Args:
            user: The user's name.
            now: The time on the monotonic clock.
        """
        is_full = len(self._sent) == MOST_PER_MINUTE and now - self._sent[0] < 60
        if is_full or now - self._users.get(user, -PAUSE) < PAUSE:
            return False
        self._users = {name: at for name, at in self._users.items() if now - at < PAUSE} | {user: now}
        self._sent.append(now)
        return True

    async def send(self, user: str, mail: EmailMessage) -> None:
        """Send a mail. A failure is only logged, because the session does not depend on it."""
        if self.server is None:
            return
        if not self.admit(user, time.monotonic()):
            log.warning("%s gets no mail, because too many were sent", user)
            return
        if len(self._under_way) >= MOST_AT_ONCE:
            log.warning("%s gets no mail, because the mail server %s is too slow", user, self.server.host)
            return
        sending = self._threads.submit(_deliver, self.server, mail)
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        try:
            await asyncio.wait_for(asyncio.wrap_future(sending), LIMIT)
        except (OSError, smtplib.SMTPException) as error:
            log.error("Cannot send a mail to %s through %s: %r", user, self.server.host, error)
        else:
            log.info("Sent a mail to %s", user)


def _deliver(server: MailServer, mail: EmailMessage) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=TIMEOUT) as connection:
        # Each answer has a time limit of its own. End the connection if all of them together take too long.
        end = threading.Timer(LIMIT, _hang_up, [connection])
        end.daemon = True
        end.start()
        try:
            if server.tls:
                connection.starttls(context=ssl.create_default_context())
            connection.send_message(mail)
        finally:
            end.cancel()


def _hang_up(connection: smtplib.SMTP) -> None:
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
