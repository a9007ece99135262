"""Reports to the hub in a job's name before the job does, with whatever the job's owner wants to report.

Run by the owner on a compute node. Standard input: ``{"body": JSON, "patience": SECONDS}``; standard output: the
answer's status, or 0 when there was no job. The token is in the owner's file or in the environment of the job.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

request = json.load(sys.stdin)
deadline = time.monotonic() + request["patience"]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
NAMES = ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL")


def found():
    for path in Path.home().glob(".hpchub/*.json"):
        yield json.loads(path.read_text())
    for path in Path("/proc").glob("[0-9]*/environ"):
        if path.stat().st_uid == os.getuid():
            yield dict(line.split("=", 1) for line in path.read_text().split("\0") if "=" in line)


def report():
    try:
        for known in found():
            if all(name in known for name in NAMES):
                url, token = known["JUPYTERHUB_API_URL"], known["JUPYTERHUB_API_TOKEN"]
                headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
                body = json.dumps(request["body"]).encode()
                sent = urllib.request.Request(f"{url}/batchspawner", body, headers, method="POST")
                with urllib.request.urlopen(sent, timeout=10, context=context) as answer:
                    return answer.status
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
