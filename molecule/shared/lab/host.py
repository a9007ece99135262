"""Functions for the machine that runs the lab: they call podman and check the machine's requirements."""

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

# The limits of every container. systemd and Slurm need these values. Higher values fail on machines where podman may
# not raise a limit.
LIMITS = ("--ulimit=nofile=20000:20000", "--ulimit=nproc=8192:8192", "--pids-limit=0")

_INOTIFY_INSTANCES = 1024

# All runs on this machine share one mount namespace, because a container's network namespace file is visible only in
# the mount namespace that created it.
_NAMESPACE_DIR = Path("/run/hpchub-lab")
_NAMESPACE = _NAMESPACE_DIR / "mnt"
_CGROUP = Path("/sys/fs/cgroup")


@cache
def podman_prefix() -> tuple[str, ...]:
    """Return the words that every podman command on this machine starts with.

    On a machine with only cgroup v2, this is just `podman`. If cgroup v1 controllers are mounted as well, crun refuses
    to run. podman is then called in a separate mount namespace that contains only cgroup v2.

    Raises:
        LabError: podman is not installed, or the user is not root.
    """
    if os.geteuid() != 0:
        raise LabError(
            "you are not root, but containers with systemd need root. To fix this, run the same command with sudo"
        )
    if shutil.which("podman") is None:
        raise LabError("podman is not installed on this machine. To fix this, run `bin/demo up`, which installs it")
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
            # The kernel pins a mount namespace only to a file on a private mount.
            subprocess.run(["mount", "--bind", _NAMESPACE_DIR, _NAMESPACE_DIR], check=True)
        subprocess.run(["mount", "--make-private", _NAMESPACE_DIR], check=True)
        _NAMESPACE.touch()
        cgroup2_only = f"umount -R -l {_CGROUP}; mount -t cgroup2 none {_CGROUP}"
        subprocess.run(["unshare", f"--mount={_NAMESPACE}", "sh", "-ec", cgroup2_only], check=True)


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman and return the completed process with its output.

    Raises:
        LabError: podman failed and `check` is true. The message contains podman's last line of output.
    """
    # Standard error is captured separately, because podman also prints warnings there that do not matter to the lab.
    done = subprocess.run([*podman_prefix(), *arguments], check=False, capture_output=True, text=True)
    if check and done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise LabError(f"podman {' '.join(arguments[:2])} failed: {lines[-1]}")
    return done


def inspect_container(name: str) -> tuple[str, str] | None:
    """Return the state (`running`, `exited`, …) and the recipe label of a container, or None if it does not exist."""
    form = '{{.State.Status}} {{index .Config.Labels "hpchub.recipe"}}'
    done = podman("container", "inspect", "--format", form, name, check=False)
    if done.returncode != 0:
        return None
    state, _, label = done.stdout.strip().partition(" ")
    return state, label


def raise_inotify_limit() -> None:
    """Raise the kernel's limit on inotify instances, so that systemd can start in every container.

    Each container needs about eight inotify instances, and the default for root is 128. Without a free instance,
    systemd exits immediately and prints no message. The new limit lasts until the machine reboots.
    """
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < _INOTIFY_INSTANCES:
        # Some machines do not allow this change. A small lab may still work there.
        with contextlib.suppress(OSError):
            limit.write_text(str(_INOTIFY_INSTANCES))


def require_disk(gigabytes: int) -> None:
    """Check that the disks that hold containers and caches have enough free space.

    Raises:
        LabError: One of the disks has less free space than `gigabytes`.
    """
    directories = {Path(podman("info", "--format", "{{.Store.GraphRoot}}").stdout.strip()), CACHE}
    for directory in sorted(directories):
        existing = next(parent for parent in (directory, *directory.parents) if parent.exists())
        if (free := shutil.disk_usage(existing).free / 1e9) < gigabytes:
            raise LabError(
                f"the disk that holds {directory} is too full: {free:.1f} GB free at {existing}, but {gigabytes} GB "
                "needed. To fix this, delete files there; `podman system prune` removes unused containers and images"
            )


def require_ports(ports: tuple[int, ...]) -> None:
    """Check that no other program uses the ports that the lab publishes.

    Raises:
        LabError: Another program listens on one of the ports.
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
                        f"port {port} on {address} is in use by another program. To fix this, stop that program; "
                        f"`ss -ltnp 'sport = :{port}'` shows which one it is"
                    ) from None
                # Any other error means that this machine has no IPv6, so no program can use the port there.


@cache
def mirror() -> str:
    """Return the URL of the Debian mirror to use.

    The environment variable HPCHUB_DEBIAN_MIRROR takes precedence over the mirror that apt uses on this machine.

    Raises:
        LabError: The variable is not set, and apt has no mirror either.
    """
    if chosen := os.environ.get("HPCHUB_DEBIAN_MIRROR"):
        return chosen.rstrip("/")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        check=False,
        capture_output=True,
        text=True,
    )
    # This also works before the first `apt-get update`. The pattern skips security updates and third-party archives.
    for line in targets.stdout.splitlines():
        if re.fullmatch(r"https?://\S+/debian/?", line):
            return line.rstrip("/")
    raise LabError(
        "apt has no Debian mirror in its sources. To fix this, set the environment variable HPCHUB_DEBIAN_MIRROR to "
        "the URL of a mirror, for example http://mirror.example.org/debian"
    )


def require_network() -> None:
    """Check that the Debian mirror is reachable.

    Raises:
        LabError: The mirror does not answer.
    """
    url = f"{mirror()}/dists/trixie/InRelease"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=20):  # noqa: S310
            pass
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise LabError(
            f"the Debian mirror cannot be reached: {url} does not answer ({reason}). To fix this, check the network, "
            "set http_proxy, or set HPCHUB_DEBIAN_MIRROR to the URL of another mirror"
        ) from None
