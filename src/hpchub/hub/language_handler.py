"""The handler of the language menu."""

from __future__ import annotations

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_path_join

from hpchub.catalogue import languages
from hpchub.hub.page_texts import COOKIE
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, listing

_DAYS = 365


class LanguageHandler(BaseHandler):  # type: ignore[misc]
    """Choose the language of the pages: ``POST /hub/language``. It needs no sign-in.

    The field ``language`` is the code of the language. The field ``next`` is the address of the page to return to.
    """

    def post(self) -> None:
        """Remember the language in the browser, and show the page again."""
        language = self.get_body_argument("language", "")
        if language not in languages():
            raise UserError(
                400, Message("There is no such language. The languages are: {names}.", names=listing(languages()))
            )
        # The extension of JupyterLab reads the cookie, which contains no secret. With `user_subdomains`, its pages have
        # hosts below the hub's.
        domain = self.domain if self.subdomain_host else None
        self.set_cookie(COOKIE, language, expires_days=_DAYS, path="/", secure=True, samesite="Lax", domain=domain)
        home = url_path_join(self.hub.base_url, "home")
        self.redirect(self.get_next_url(self.current_user, default=home), status=303)
