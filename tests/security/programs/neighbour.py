"""Take a port as soon as it is free and record what clients send to it. Standard library only.

Arguments: the port, a log file, and a file with a key and a certificate. TLS clients get TLS with that certificate, and
other clients get plain HTTP.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

port, log, pem = int(sys.argv[1]), sys.argv[2], sys.argv[3]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(pem)


def write(text: str) -> None:
    with Path(log).open("a") as stream:
        stream.write(text + "\n")


def serve(client: socket.socket) -> None:
    client.settimeout(10)
    with contextlib.suppress(OSError):
        if client.recv(1, socket.MSG_PEEK) == b"\x16":
            write("a client started TLS")
            client = context.wrap_socket(client, server_side=True)
        if data := client.recv(65536):
            write(f"received: {data!r}")
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nneighbour")
    client.close()


while True:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0", port))
        listener.listen()
        break
    except OSError:
        listener.close()
        time.sleep(0.005)
write("bound")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
