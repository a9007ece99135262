"""The log line of each request, without the identity, cookies and tokens in the request's headers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from jupyterhub import log
from tornado.httputil import HTTPHeaders

if TYPE_CHECKING:
    from tornado.web import RequestHandler

SHOWN_HEADERS = frozenset(
    {"Accept", "Connection", "Content-Length", "Content-Type", "Host", "Sec-Fetch-Mode", "Sec-Fetch-Site", "User-Agent"}
)
"""The log shows the values of these headers."""


def log_request(handler: RequestHandler) -> None:
    """Log a request as JupyterHub does, with the values of most headers hidden.

    If a request fails with an unexpected error, JupyterHub logs its headers, and removes only cookies and
    ``Authorization``. The other headers can contain the claims of the single sign-on and XSRF tokens.
    """
    shown = copy.copy(handler)
    shown.request = copy.copy(handler.request)
    shown.request.headers = HTTPHeaders(
        {name: value if name in SHOWN_HEADERS else "[hidden]" for name, value in handler.request.headers.get_all()}
    )
    log.log_request(shown)
