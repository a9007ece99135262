"""The lab's container images, built from Debian packages because an image registry may be out of reach.

An image's tag is the hash of its recipe: what has not changed is never built again, and what has changed always is.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.console import LabError, step
from lab.host import CA_BUNDLE, CACHE, LIMITS, mirror, podman, podman_prefix

APT_CACHE = CACHE / "apt"

# Kernel settings belong to the machine, and a privileged container could change them; the others would wait for
# hardware that a container has not.
_MASKED = (
    *("console-getty.service", "getty.target", "systemd-binfmt.service", "systemd-firstboot.service"),
    *("systemd-modules-load.service", "systemd-sysctl.service", "systemd-udevd.service"),
)

_BASE_SCRIPT = f"""
update-ca-certificates
systemctl mask {" ".join(_MASKED)}
# Debian's image would give every host the same keys; each makes its own when it first starts.
rm -f /etc/ssh/ssh_host_*
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n' \\
  > /etc/systemd/system/ssh.service.d/lab.conf
printf 'UseDNS no\\nMaxStartups 50\\nMaxSessions 100\\n' > /etc/ssh/sshd_config.d/lab.conf
printf 'Acquire::Languages "none";\\nAPT::Install-Recommends "false";\\n' > /etc/apt/apt.conf.d/90lab
rm -f /etc/machine-id /var/lib/dbus/machine-id && touch /etc/machine-id
"""


@dataclass(frozen=True)
class Recipe:
    """What goes into an image.

    Attributes:
        packages: Debian packages, without those that they merely recommend.
        disabled: Units that the lab's roles start once they are configured.
        parent: Image that this one adds to; None for a base image.
        suite: Debian's name of the release, for a base image.
    """

    packages: tuple[str, ...]
    disabled: tuple[str, ...] = ()
    parent: str | None = "base"
    suite: str = "trixie"


_BASE = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "openssh-client", "sudo"),
    *("python3", "python3-apt", "ca-certificates", "curl", "iproute2", "procps", "less"),
)
# What a host of a cluster has beside its batch system.
_NODE = ("python3-venv", "r-base-core", "r-cran-irkernel")
_SLURM = ("slurmctld", "slurmd", "slurm-client", "munge")
_SLURM_UNITS = ("slurmctld", "slurmd", "munge")

RECIPES = {
    "base": Recipe(packages=_BASE, parent=None),
    "node": Recipe(packages=(*_SLURM, *_NODE), disabled=_SLURM_UNITS),
    "base_debian12": Recipe(packages=_BASE, parent=None, suite="bookworm"),
    "node_debian12": Recipe(packages=(*_SLURM, *_NODE), disabled=_SLURM_UNITS, parent="base_debian12"),
    "node_gridengine": Recipe(
        packages=("gridengine-master", "gridengine-exec", "gridengine-client", *_NODE),
        # Grid Engine brings a mail server.
        disabled=("gridengine-master", "gridengine-exec", "exim4"),
    ),
    "node_htcondor": Recipe(packages=("htcondor", *_NODE), disabled=("condor",)),
    "idp": Recipe(
        packages=(
            *("apache2", "libapache2-mod-fcgid", "sqlite3", "liblemonldap-ng-portal-perl"),
            *("libcrypt-jwt-perl", "libdbd-sqlite3-perl", "libfcgi-perl", "libio-string-perl", "libstring-random-perl"),
        ),
        disabled=("apache2",),
    ),
}


def tag(name: str) -> str:
    """Return an image's full name, whose tag is the hash of all that it is made from."""
    recipe = RECIPES[name]
    parts: list[object] = [recipe.suite, recipe.packages, recipe.disabled]
    parts += [tag(recipe.parent)] if recipe.parent else [_BASE_SCRIPT, _site_certificates()]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"localhost/hpchub-lab-{name}:{digest}"


def missing(names: set[str]) -> list[str]:
    """Return which of these images, and of those that they are built on, have to be built; parents first."""
    wanted = names | {parent for name in names if (parent := RECIPES[name].parent)}
    return [name for name in RECIPES if name in wanted and not _exists(tag(name))]


def build(names: list[str]) -> None:
    """Build images in the order given.

    Raises:
        LabError: a package cannot be installed, or podman fails.
    """
    for name in names:
        with step(f"Building the image {name} from Debian packages (about 40 s with a warm package cache)"):
            parent = RECIPES[name].parent
            _build_derived(name, parent) if parent else _build_base(name)


def remove_all() -> None:
    """Remove every image of the lab that no container uses."""
    done = podman("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=localhost/hpchub-lab-*")
    for image in reversed(done.stdout.split()):
        podman("rmi", image, check=False)


def _exists(image: str) -> bool:
    return podman("image", "exists", image, check=False).returncode == 0


def _site_certificates() -> list[str]:
    """Return the PEM certificates that this machine trusts beside those that Debian brings."""
    if not CA_BUNDLE.exists():
        return []
    debian = {path.read_text().strip() for path in Path("/usr/share/ca-certificates").rglob("*.crt")}
    block = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
    return sorted(set(block.findall(CA_BUNDLE.read_text())) - debian)


def _build_base(name: str) -> None:
    archives = APT_CACHE / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hpchub-lab-", dir=CACHE) as scratch:
        certificates = Path(scratch) / "certificates"
        certificates.mkdir()
        for number, pem in enumerate(_site_certificates()):
            (certificates / f"site-{number}.crt").write_text(pem + "\n")
        script = Path(scratch) / "script"
        script.write_text(_BASE_SCRIPT)
        tarball = Path(scratch) / "image.tar"
        command = [
            *("mmdebstrap", "--variant=minbase", f"--include={','.join(RECIPES[name].packages)}"),
            '--aptopt=Acquire::Languages "none"',
            # Debian's package files are kept on this machine, and the lists stay in the image: no host has to
            # fetch them again.
            *("--skip=essential/unlink,download/empty,cleanup/apt/lists,cleanup/apt/cache",),
            '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
            f"--setup-hook=sync-in {archives} /var/cache/apt/archives",
            f"--customize-hook=sync-out /var/cache/apt/archives {archives}",
            '--customize-hook=rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/cache/apt/*.bin',
            f"--customize-hook=sync-in {certificates} /usr/local/share/ca-certificates",
            f"--customize-hook=upload {script} /root/script",
            '--customize-hook=chroot "$1" sh -eux /root/script',
            '--customize-hook=rm "$1/root/script"',
            *(RECIPES[name].suite, str(tarball), mirror()),
        ]
        _run("mmdebstrap", command)
        podman("import", "--quiet", str(tarball), tag(name))


def _build_derived(name: str, parent: str) -> None:
    recipe = RECIPES[name]
    container = f"hpchub-lab-build-{name}"
    script = (
        "export DEBIAN_FRONTEND=noninteractive\n"
        # Nothing may start while packages are being installed: there is no systemd in this container.
        "printf 'exit 101' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d\n"
        f"apt-get install -y -q {shlex.join(recipe.packages)}\n"
        f"systemctl disable -q {shlex.join(recipe.disabled)}\n"
        "rm /usr/sbin/policy-rc.d\n"
    )
    # What an interrupted build left behind is in the way, and worth nothing.
    podman("rm", "--force", "--time=0", "--ignore", container)
    with AptArchives(f"build-{name}") as archives:
        mount = f"--volume={archives}:/var/cache/apt/archives"
        try:
            run = ["run", f"--name={container}", "--privileged", *LIMITS, mount, tag(parent)]
            _run("apt-get", [*podman_prefix(), *run, "sh", "-ec", script])
            podman("commit", "--quiet", "--change=CMD /sbin/init", container, tag(name))
        finally:
            podman("rm", "--force", "--time=0", "--ignore", container)


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        log = CACHE / f"failed-{what}.log"
        log.write_text(done.stdout)
        told = [line for line in done.stdout.splitlines() if line.startswith(("E:", "Error"))]
        words = (told or done.stdout.strip().splitlines() or ["no output"])[0]
        raise LabError(f"{what} failed: {words}; mend: see {log}, then run the same command again")


class AptArchives:
    """A directory for /var/cache/apt/archives of one host, filled from the common package cache.

    Each host has its own, because apt locks the directory; the files are hard links, so that it costs nothing. At
    the end, what is new goes back to the common cache.
    """

    def __init__(self, name: str) -> None:
        self.path = APT_CACHE / "hosts" / name
        self._common = APT_CACHE / "archives"

    def fill(self) -> Path:
        """Link every package file of the common cache, and return the directory."""
        self._common.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        _link_missing(self._common, self.path)
        return self.path

    def harvest(self) -> None:
        """Link what was downloaded into the common cache."""
        if self.path.is_dir():
            _link_missing(self.path, self._common)

    def remove(self) -> None:
        """Keep what was downloaded, and remove the directory."""
        self.harvest()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.fill()

    def __exit__(self, *_: object) -> None:
        self.remove()


def _link_missing(source: Path, target: Path) -> None:
    there = {path.name for path in target.glob("*.deb")}
    for path in source.glob("*.deb"):
        if path.name not in there:
            (target / path.name).hardlink_to(path)
