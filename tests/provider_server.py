"""What the stand-ins for identity providers share: a web server with TLS on the loopback address."""

from __future__ import annotations

import http.server
import ssl
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ProviderServer(http.server.ThreadingHTTPServer):
    """The server. It answers from the end of the constructor on.

    Args:
        tls: The directory of ``provider.pem`` and ``provider.key``.
        handler: The class that answers requests.

    Attributes:
        url: The address of the server.
    """

    daemon_threads = True

    def __init__(self, tls: Path, handler: type[ProviderHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "provider.pem", tls / "provider.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ProviderHandler(http.server.BaseHTTPRequestHandler):
    """Answers requests."""

    def answer(self, content_type: str, body: bytes) -> None:
        """Send a page or a document."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, url: str) -> None:
        """Send the browser to another address."""
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
