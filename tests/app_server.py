"""A web application that listens on the unix socket of its argument.

It answers with the path, ``$GREETING``, and the credentials that it gets.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer


class Handler(BaseHTTPRequestHandler):
    """Answers every request."""

    def do_GET(self) -> None:
        """Answer with the path."""
        credentials = " ".join(self.headers.get(name, "") for name in ("Cookie", "Authorization")).strip()
        body = f"{self.path} {os.environ.get('GREETING', '')} {credentials}".rstrip().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        """Return the client's name in the log. Unix sockets have none."""
        return "client"


if __name__ == "__main__":
    ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
