"""An error of a request, with a message for the user who sent it."""

from __future__ import annotations

from tornado import web

from hpchub.hub.page_texts import tr


class UserError(web.HTTPError):
    """An error with a message in the user's language. The log contains the English one.

    Args:
        status: The HTTP status.
        message: What is wrong and what to do, in whole sentences.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.message = message

    @property
    def jupyterhub_message(self) -> str:
        """The message that JupyterHub's pages and its API show instead of the one in the log."""
        return str(tr(self.message))
