"""The wish of a user for a mail when the session is ready. It is a part of the spawner's saved state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyterhub.utils import url_escape_path, url_path_join

from hpchub.hub.mail import address, ready_mail
from hpchub.hub.page_texts import reader

if TYPE_CHECKING:
    from hpchub.hub.mail import MailServer


class ReadyMail:
    """A mixin for the spawner, which sends a mail when the session is ready and the user has asked for it."""

    wants_mail: bool = False
    """Whether the user has asked for a mail when this session is ready."""
    mail_language: str = ""
    """The language of this mail, or empty for the site's language."""

    async def mail_address(self: Any) -> str:
        """Return the address for a mail, or empty if the site has no mail or the sign-on has no valid address."""
        if self.runtime.mailer.server is None:
            return ""
        return address((await self.user.get_auth_state() or {}).get("mail"))

    def wish_mail(self: Any, wanted: bool) -> None:
        """Remember whether the user wants a mail. It also survives a restart of the hub."""
        if self.session and self.wants_mail != wanted:
            self.wants_mail, self.mail_language = wanted, reader().language
            self._save()

    def send_ready_mail(self: Any) -> None:
        """Send the mail in the background if the user has asked for it. It is sent once."""
        if self.wants_mail:
            language = self.mail_language
            self.wish_mail(False)
            self.runtime.background("Cannot send a mail", self._send_ready_mail(self.runtime.mailer.server, language))

    async def _send_ready_mail(self: Any, server: MailServer | None, language: str) -> None:
        recipient = await self.mail_address()
        if server is None or not recipient:
            return
        settings = self.runtime.settings
        mail = ready_mail(
            sender=server.sender,
            recipient=recipient,
            service=settings["service_name"],
            translate=self.runtime.languages.in_language(language).texts.gettext,
            profile=self.child_spawner.profile.display_name,
            url=url_path_join(
                settings["public_url"], "hub/spawn-pending", self.user.escaped_name, url_escape_path(self.name)
            ),
        )
        await self.runtime.mailer.send(self.user.name, mail)
