"""Send unmodified HTTP requests in parallel and print the responses. It runs on the hosts: standard library only.

Standard input: ``[{"unix"} or {"host", "port", "tls"}, with "method", "target", "headers": [[NAME, VALUE]], "body"]``.
Standard output: ``[{"status", "headers": [[NAME, VALUE]], "text"} or {"error"}]``, in the order of the requests.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ask(step: dict[str, Any]) -> dict[str, Any]:
    # Any, because the attacks bypass the checks of the class: paths and headers are sent as they are.
    connection: Any = http.client.HTTPConnection("localhost", timeout=step.get("timeout", 10))
    connection._validate_path = lambda _: None
    if "unix" in step:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(step.get("timeout", 10))
        connection.sock.connect(step["unix"])
    else:
        connection.sock = socket.create_connection((step["host"], step["port"]), timeout=step.get("timeout", 10))
        if step.get("tls"):
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if step.get("certificate"):
                context.load_cert_chain(step["certificate"])
            connection.sock = context.wrap_socket(connection.sock, server_hostname=step.get("name"))
    body = step.get("body")
    connection.putrequest(step.get("method", "GET"), step["target"], skip_accept_encoding=True, skip_host=True)
    for name, value in [["Host", step.get("name") or "localhost"], *step.get("headers", [])]:
        connection._buffer.append(f"{name}: {value}".encode())
    if body is not None:
        connection.putheader("Content-Length", str(len(body.encode())))
    connection.endheaders(None if body is None else body.encode())
    answer = connection.getresponse()
    return {
        "status": answer.status,
        "headers": answer.getheaders(),
        "text": answer.read(200000).decode(errors="replace"),
    }


def tried(step: dict[str, Any]) -> dict[str, Any]:
    try:
        return ask(step)
    except (OSError, http.client.HTTPException) as error:
        return {"error": f"{type(error).__name__}: {error}"}


with ThreadPoolExecutor(16) as pool:
    json.dump(list(pool.map(tried, json.load(sys.stdin))), sys.stdout)
