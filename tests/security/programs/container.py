"""Try to leave a container. Standard library only.

Arguments: the addresses to try, as HOST:PORT. The output is one line of JSON: what succeeded, by the name of the
attack. An empty object means that everything was prevented.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import sys
from pathlib import Path

found: dict[str, str] = {}


def attempt(name: str, path: str, mode: str = "r") -> None:
    """Open a file that must not be usable."""
    with contextlib.suppress(OSError), Path(path).open(mode):
        found[name] = path


status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
    if int(status[kind], 16):
        found[kind] = status[kind]
if status["NoNewPrivs"] != "1":
    found["new privileges"] = status["NoNewPrivs"]
if os.getuid() == 0 or 0 in os.getgroups():
    found["root"] = f"{os.getuid()} {os.getgroups()}"

for name in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
    if Path(name).exists():
        found["socket of the engine"] = name
attempt("write to the image", "/hpchub-attack", "w")
attempt("write to /etc", "/etc/passwd", "a")
attempt("write a kernel setting", "/proc/sys/kernel/core_pattern", "w")
attempt("trigger the kernel", "/proc/sysrq-trigger", "w")
attempt("read memory", "/dev/mem", "rb")
attempt("read a disk", "/dev/sda", "rb")
attempt("read the shadow file", "/etc/shadow")
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
    found["mount"] = "/tmp"
if libc.unshare(0x10000000) == 0:  # CLONE_NEWUSER
    found["user namespace"] = "unshare"
with contextlib.suppress(OSError):
    os.setuid(0)
    found["setuid"] = "0"

# Programs of the host, or of another container, would be visible here.
home = Path(os.environ["HOME"])
with contextlib.suppress(OSError):
    others = sorted(each.name for each in home.parent.iterdir() if each != home)
    if others:
        found["homes of others"] = " ".join(others)
for entry in Path("/proc").iterdir():
    if entry.name.isdigit():
        with contextlib.suppress(OSError):
            if entry.stat().st_uid not in (0, os.getuid()):
                found["programs of others"] = entry.name
# No file with the secrets of the session is left.
if leftover := [str(path) for path in Path("/run/hpchub").glob("*/session.json")]:
    found["secrets"] = leftover[0]

for address in sys.argv[1:]:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=3):
        found[f"connection to {address}"] = "open"

print(json.dumps(found))
