"""Send unmodified HTTP requests in parallel and print the responses. It runs on the hosts: standard library only.

Standard input: ``[{"unix"} or {"host", "port", "tls"}, with "method", "target", "headers": [[NAME, VALUE]], "body"]``.
Without a target, the program only connects. Standard output, in the order of the requests: ``[{"connected", "status",
"headers": [[NAME, VALUE]], "text"} or {"connected", "error"}]``. A refusal by a server and a server that does not exist
are different results, so "connected" states whether the connection was made, before TLS and before the request.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def connect(step: dict[str, Any]) -> socket.socket:
    timeout = step.get("timeout", 10)
    if "unix" not in step:
        return socket.create_connection((step["host"], step["port"]), timeout=timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(step["unix"])
    return connection


def ask(step: dict[str, Any], plain: socket.socket) -> dict[str, Any]:
    # Any, because the attacks bypass the checks of the class: paths and headers are sent as they are.
    connection: Any = http.client.HTTPConnection("localhost", timeout=step.get("timeout", 10))
    connection._validate_path = lambda _: None
    connection.sock = plain
    if step.get("tls"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if step.get("certificate"):
            context.load_cert_chain(step["certificate"])
        connection.sock = context.wrap_socket(plain, server_hostname=step.get("name"))
    body = step.get("body")
    connection.putrequest(step.get("method", "GET"), step["target"], skip_accept_encoding=True, skip_host=True)
    for name, value in [["Host", step.get("name") or "localhost"], *step.get("headers", [])]:
        connection._buffer.append(f"{name}: {value}".encode())
    if body is not None:
        connection.putheader("Content-Length", str(len(body.encode())))
    connection.endheaders(None if body is None else body.encode())
    answer = connection.getresponse()
    return {
        "connected": True,
        "status": answer.status,
        "headers": answer.getheaders(),
        "text": answer.read(200000).decode(errors="replace"),
    }


def tried(step: dict[str, Any]) -> dict[str, Any]:
    try:
        plain = connect(step)
    except OSError as error:
        return {"connected": False, "error": f"{type(error).__name__}: {error}"}
    with plain:
        if "target" not in step:
            return {"connected": True}
        try:
            return ask(step, plain)
        except (OSError, http.client.HTTPException) as error:
            return {"connected": True, "error": f"{type(error).__name__}: {error}"}


with ThreadPoolExecutor(16) as pool:
    json.dump(list(pool.map(tried, json.load(sys.stdin))), sys.stdout)
