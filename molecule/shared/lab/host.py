"""The machine that the lab runs on: podman, its mount namespace, and what must be there before anything starts."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from lab.console import LabError

REPOSITORY = Path(__file__).resolve().parents[3]
CACHE = Path.home() / ".cache" / "hpchub"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

# For every container: raising a limit is not permitted everywhere, and these are what systemd and Slurm need.
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=8192:8192", "--pids-limit=0")

_INOTIFY_INSTANCES = 1024

# One namespace for every run on this machine: a container's network namespace file is visible only in the mount
# namespace that created it.
_NAMESPACE_DIR = Path("/run/hpchub-lab")
_NAMESPACE = _NAMESPACE_DIR / "mnt"
_CGROUP = Path("/sys/fs/cgroup")


@cache
def podman_prefix() -> tuple[str, ...]:
    """Return the start of every podman command on this machine.

    Where cgroup2 is all there is, that is `podman`. Where cgroup v1 controllers are mounted beside it, crun refuses
    to work, and podman has to run in a mount namespace of its own that sees cgroup2 only.

    Raises:
        LabError: podman is missing, or this is not root.
    """
    if os.geteuid() != 0:
        raise LabError("this is not root, and containers that run systemd need it; mend: start it with sudo")
    if shutil.which("podman") is None:
        raise LabError("podman is missing; mend: run `bin/demo up`, which installs it")
    if (_CGROUP / "cgroup.controllers").exists():
        return ("podman",)
    _make_namespace()
    return ("nsenter", f"--mount={_NAMESPACE}", "podman")


def _make_namespace() -> None:
    _NAMESPACE_DIR.mkdir(exist_ok=True)
    with Path("/run/hpchub-lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        if any(fields[4] == str(_NAMESPACE) for fields in mounts):
            return
        if not any(fields[4] == str(_NAMESPACE_DIR) for fields in mounts):
            # A file that holds a mount namespace must itself be on a private mount.
            subprocess.run(["mount", "--bind", _NAMESPACE_DIR, _NAMESPACE_DIR], check=True)
        subprocess.run(["mount", "--make-private", _NAMESPACE_DIR], check=True)
        _NAMESPACE.touch()
        cgroup2_only = f"umount -R -l {_CGROUP}; mount -t cgroup2 none {_CGROUP}"
        subprocess.run(["unshare", f"--mount={_NAMESPACE}", "sh", "-ec", cgroup2_only], check=True)


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman and return its output.

    Raises:
        LabError: it failed and `check` is true; the message is podman's last line.
    """
    # Standard error goes to a pipe of its own: podman warns there about things of no concern to the lab.
    done = subprocess.run([*podman_prefix(), *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode != 0:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LabError(f"podman {' '.join(arguments[:2])} failed: {words[-1]}")
    return done


def inspect_container(name: str) -> tuple[str, str] | None:
    """Return a container's state (`running`, `exited`, …) and its recipe label, or None if there is none."""
    form = '{{.State.Status}} {{index .Config.Labels "hpchub.recipe"}}'
    done = podman("container", "inspect", "--format", form, name, check=False)
    if done.returncode != 0:
        return None
    state, _, label = done.stdout.strip().partition(" ")
    return state, label


def raise_inotify_limit() -> None:
    """Let systemd start in as many containers as there are: each takes some eight inotify instances of root's 128.

    Without them it exits at once, without a word. The setting lasts until this machine starts again.
    """
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < _INOTIFY_INSTANCES:
        # Where that is not permitted, fewer containers may still do.
        with contextlib.suppress(OSError):
            limit.write_text(str(_INOTIFY_INSTANCES))


def require_disk(gigabytes: int) -> None:
    """Refuse to start on a disk that would fill up.

    Raises:
        LabError: less is free where containers and caches are kept.
    """
    places = {Path(podman("info", "--format", "{{.Store.GraphRoot}}").stdout.strip()), CACHE}
    for place in sorted(places):
        there = next(parent for parent in (place, *place.parents) if parent.exists())
        if (free := shutil.disk_usage(there).free / 1e9) < gigabytes:
            raise LabError(
                f"too little disk: {free:.1f} GB free at {there}, {gigabytes} GB needed; mend: make room there, "
                "for example with `podman system prune`"
            )


def require_ports(ports: tuple[int, ...]) -> None:
    """Refuse to start when a port that the lab publishes is taken.

    Raises:
        LabError: another program listens there.
    """
    for port in ports:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise LabError(
                        f"port {port} is taken by another program; mend: stop it "
                        f"(`ss -ltnp 'sport = :{port}'` shows which)"
                    ) from None
                # No IPv6 on this machine: nobody can hold the port there.


@cache
def mirror() -> str:
    """Return the URL of the Debian mirror: HPCHUB_DEBIAN_MIRROR, or this machine's own.

    Raises:
        LabError: there is neither.
    """
    if chosen := os.environ.get("HPCHUB_DEBIAN_MIRROR"):
        return chosen.rstrip("/")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=False,
        capture_output=True,
        text=True,
    )
    # Known before the first `apt-get update`, too. Security updates and other people's packages live elsewhere.
    for line in targets.stdout.splitlines():
        if re.fullmatch(r"https?://\S+/debian/?", line):
            return line.rstrip("/")
    raise LabError("apt knows no Debian mirror; mend: name one in HPCHUB_DEBIAN_MIRROR")


def require_network() -> None:
    """Refuse to start without a way to the Debian mirror.

    Raises:
        LabError: it does not answer.
    """
    url = f"{mirror()}/dists/trixie/InRelease"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20):  # noqa: S310
            pass
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise LabError(
            f"no network: {url} does not answer ({reason}); mend: connect this machine, set http_proxy, or name a "
            "mirror in HPCHUB_DEBIAN_MIRROR"
        ) from None
