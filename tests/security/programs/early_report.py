"""Report to the hub on behalf of a job before the job does, with a body that the job's owner chooses.

The owner runs it on a compute node. Standard input: ``{"body": JSON, "patience": SECONDS}``. Standard output: the
response's status code, or 0 if no job appeared. The token is in the owner's file or in the job's environment.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


request = json.load(sys.stdin)
deadline = time.monotonic() + request["patience"]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
NAMES = ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL")


def found() -> Iterator[dict[str, str]]:
    for path in Path.home().glob(".hpchub/*.json"):
        yield json.loads(path.read_text())
    for path in Path("/proc").glob("[0-9]*/environ"):
        if path.stat().st_uid == os.getuid():
            yield dict(line.split("=", 1) for line in path.read_text().split("\0") if "=" in line)


def report() -> int:
    try:
        for known in found():
            if all(name in known for name in NAMES):
                url, token = known["JUPYTERHUB_API_URL"], known["JUPYTERHUB_API_TOKEN"]
                headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
                body = json.dumps(request["body"]).encode()
                sent = urllib.request.Request(f"{url}/batchspawner", body, headers, method="POST")
                with urllib.request.urlopen(sent, timeout=10, context=context) as answer:
                    return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        pass
    return 0


status = 0
while not status and time.monotonic() < deadline:
    status = report()
    time.sleep(0.005)
print(json.dumps(status))
