"""Prints, as a JSON string, the key and certificate of a notebook server, as its owner can read them; "" without any.

Standard input: the server's process id.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

process = Path("/proc") / str(json.load(sys.stdin))
texts = []
for descriptor in (process / "fd").iterdir():
    with contextlib.suppress(OSError, ValueError):
        if "memfd:" in str(descriptor.readlink()):
            texts.append(descriptor.read_text())
environment = dict(line.split("=", 1) for line in (process / "environ").read_text().split("\0") if "=" in line)
for name in ("JUPYTERHUB_SSL_KEYFILE", "JUPYTERHUB_SSL_CERTFILE"):
    if os.path.exists(environment.get(name, "")):
        texts.append(Path(environment[name]).read_text())
keys = [text for text in texts if "PRIVATE KEY" in text]
# The server's own certificate says for whom it is, beside the authorities that it trusts: it is the shorter one.
certificates = sorted((text for text in texts if "CERTIFICATE" in text and "KEY" not in text), key=len)
print(json.dumps("\n".join([*keys, *certificates]) if keys and certificates else ""))
