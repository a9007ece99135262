"""The lab's container images. They are built from Debian packages, so the lab needs no image registry.

The tag of an image is a hash of its recipe. An image is therefore built again if, and only if, its recipe changes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab.console import LabError, step
from lab.host import CA_BUNDLE, CACHE, LIMITS, REPOSITORY, mirror, podman, podman_prefix

APT_CACHE = CACHE / "apt"

# Some of these units would change kernel settings of the whole machine, because the containers are privileged. The
# others would wait for hardware that a container does not have.
_MASKED = (
    *("console-getty.service", "getty.target", "systemd-binfmt.service", "systemd-firstboot.service"),
    *("systemd-modules-load.service", "systemd-sysctl.service", "systemd-udevd.service"),
)

_BASE_SCRIPT = f"""
update-ca-certificates
systemctl mask {" ".join(_MASKED)}
# Remove the ssh host keys of the image, so that each host generates its own keys when it first starts.
rm -f /etc/ssh/ssh_host_*
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=\\nExecStartPre=/usr/bin/ssh-keygen -A\\nExecStartPre=/usr/sbin/sshd -t\\n' \\
  > /etc/systemd/system/ssh.service.d/lab.conf
printf 'UseDNS no\\nMaxStartups 50\\nMaxSessions 100\\n' > /etc/ssh/sshd_config.d/lab.conf
printf 'Acquire::Languages "none";\\nAPT::Install-Recommends "false";\\n' > /etc/apt/apt.conf.d/90lab
rm -f /etc/machine-id /var/lib/dbus/machine-id && touch /etc/machine-id
"""

_SESSION_SCRIPT = """
update-ca-certificates
rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/locale /usr/share/man
"""
SESSION = "session"
"""The name of the image of sessions in containers."""


@dataclass(frozen=True)
class Recipe:
    """The contents of an image.

    Attributes:
        packages: The Debian packages to install. Recommended packages are not installed.
        disabled: Units that do not start on boot. The lab's roles start them after configuring them.
        parent: The image to build on, or None for a base image.
        suite: The name of the Debian release. Only base images use it.
        script: What to run in the new system. Only base images use it.
        requirements: A lock file in the repository. Its Python packages are installed in /opt/jupyter.
    """

    packages: tuple[str, ...]
    disabled: tuple[str, ...] = ()
    parent: str | None = "base"
    suite: str = "trixie"
    script: str = ""
    requirements: str = ""


_BASE = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "openssh-client", "sudo"),
    *("python3", "python3-apt", "ca-certificates", "curl", "iproute2", "procps", "less"),
)
# The packages of a cluster's hosts, in addition to the batch system.
_NODE = ("python3-venv", "git", "r-base-core", "r-cran-irkernel")
_WORKBENCH = (
    *("tigervnc-standalone-server", "dbus-daemon", "xfce4", "xterm", "xclip"),  # desktops
    *("ripgrep", "openjdk-21-jre-headless", "charliecloud"),  # VS Code, Spark, and kernels in containers
)
_SLURM = ("slurmctld", "slurmd", "slurm-client", "munge", "openmpi-bin", "python3-mpi4py")
_SLURM_UNITS = ("slurmctld", "slurmd", "munge")

RECIPES = {
    "base": Recipe(packages=_BASE, parent=None),
    "node": Recipe(packages=(*_SLURM, *_NODE), disabled=_SLURM_UNITS),
    "node_accounting": Recipe(packages=("slurmdbd", "mariadb-server"), disabled=("slurmdbd", "mariadb"), parent="node"),
    # The programs of applications and kernels that Debian has. molecule/workbench installs the others.
    "node_workbench": Recipe(packages=_WORKBENCH, parent="node"),
    "base_debian12": Recipe(packages=_BASE, parent=None, suite="bookworm"),
    "node_debian12": Recipe(packages=(*_SLURM, *_NODE), disabled=_SLURM_UNITS, parent="base_debian12"),
    "node_gridengine": Recipe(
        packages=("gridengine-master", "gridengine-exec", "gridengine-client", *_NODE),
        # exim4 is a mail server that Grid Engine depends on.
        disabled=("gridengine-master", "gridengine-exec", "exim4"),
    ),
    "node_htcondor": Recipe(packages=("htcondor", *_NODE), disabled=("condor",)),
    "idp": Recipe(
        packages=(
            *("apache2", "libapache2-mod-fcgid", "sqlite3", "liblemonldap-ng-portal-perl", "python3-aiosmtpd"),
            *("libcrypt-jwt-perl", "libdbd-sqlite3-perl", "libfcgi-perl", "libio-string-perl", "libstring-random-perl"),
            "libxml-libxml-perl",  # for CAS
        ),
        disabled=("apache2",),
    ),
    # Beside it, SAML, a directory and a Kerberos realm.
    "idp_all": Recipe(
        packages=("liblasso-perl", "slapd", "ldap-utils", "krb5-kdc", "krb5-admin-server", "xmlsec1", "faketime"),
        disabled=("slapd", "krb5-kdc", "krb5-admin-server"),
        parent="idp",
    ),
    # The hosts of places. The role docker_place and the lab's role lab_kubernetes start the engines.
    "docker": Recipe(
        packages=("docker.io", "docker-cli", "iptables", "python3-cryptography"),
        disabled=("docker.service", "docker.socket", "containerd"),
    ),
    "kubernetes": Recipe(packages=("podman", "crun", "nftables", "netavark", "aardvark-dns")),
    # The image of sessions in these places. It has no systemd, and is small, because an engine may copy it.
    "session_base": Recipe(
        packages=("python3", "python3-venv", "ca-certificates"), parent=None, script=_SESSION_SCRIPT
    ),
    SESSION: Recipe(
        packages=(), parent="session_base", requirements="roles/notebook_environment/files/requirements.lock"
    ),
}


def tag(name: str) -> str:
    """Return the full name of an image. Its tag is a hash of everything that the image is built from."""
    recipe = RECIPES[name]
    parts: list[object] = [recipe.suite, recipe.packages, recipe.disabled]
    parts += [tag(recipe.parent)] if recipe.parent else [recipe.script or _BASE_SCRIPT, _site_certificates()]
    parts += [(REPOSITORY / recipe.requirements).read_text()] if recipe.requirements else []
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return f"localhost/hpchub-lab-{name}:{digest}"


def missing(names: set[str]) -> list[str]:
    """Return the images that must be built, parents first.

    These are the images in `names` and their parents, except those that already exist.
    """
    wanted = names | {parent for name in names if (parent := RECIPES[name].parent)}
    return [name for name in RECIPES if name in wanted and not _exists(tag(name))]


def build(names: list[str]) -> None:
    """Build images in the given order.

    Raises:
        LabError: A package cannot be installed, or podman fails.
    """
    for name in names:
        with step(f"Building the image {name} from Debian packages (about 40 s with a warm package cache)"):
            recipe = RECIPES[name]
            if recipe.parent is None:
                _build_base(name)
            elif recipe.requirements:
                _build_environment(name, recipe.parent)
            else:
                _build_derived(name, recipe.parent)


def session_archive() -> tuple[Path, str]:
    """Write the image of sessions to an archive that Docker and podman can load. Return the archive and the image's id.

    The id is the digest of the image's configuration, so it is the same in every engine.
    """
    image = tag(SESSION)
    path = CACHE / f"session-{image.rpartition(':')[2]}.tar"
    if not path.exists():
        for old in CACHE.glob("session-*.tar"):
            old.unlink()
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        podman("save", "--quiet", "--format=docker-archive", f"--output={partial}", image)
        partial.replace(path)
    with tarfile.open(path) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest  # noqa: S101 every archive of an image has one
        (entry,) = json.load(manifest)
        config = archive.extractfile(entry["Config"])
        assert config  # noqa: S101 the manifest names it
        return path, hashlib.sha256(config.read()).hexdigest()


def remove_all() -> None:
    """Remove all images of the lab that no container uses."""
    done = podman("images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=localhost/hpchub-lab-*")
    for image in reversed(done.stdout.split()):
        podman("rmi", image, check=False)


def _exists(image: str) -> bool:
    return podman("image", "exists", image, check=False).returncode == 0


def _site_certificates() -> list[str]:
    """Return the certificates (PEM) that this machine trusts in addition to those of Debian's package."""
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
        script.write_text(RECIPES[name].script or _BASE_SCRIPT)
        tarball = Path(scratch) / "image.tar"
        command = [
            *("mmdebstrap", "--variant=minbase", f"--include={','.join(RECIPES[name].packages)}"),
            '--aptopt=Acquire::Languages "none"',
            # Keep the package files in this machine's cache and the package lists in the image, so that the hosts do
            # not download them again.
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
        # Packages must not start their services during the installation, because this container has no systemd.
        "printf 'exit 101' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d\n"
        f"apt-get install -y -q {shlex.join(recipe.packages)}\n"
        + (f"systemctl disable -q {shlex.join(recipe.disabled)}\n" if recipe.disabled else "")
        + "rm /usr/sbin/policy-rc.d\n"
    )
    # An interrupted build may have left this container behind.
    podman("rm", "--force", "--time=0", "--ignore", container)
    with AptArchives(f"build-{name}") as archives:
        mount = f"--volume={archives}:/var/cache/apt/archives"
        try:
            run = ["run", f"--name={container}", "--privileged", *LIMITS, mount, tag(parent)]
            _run("apt-get", [*podman_prefix(), *run, "sh", "-ec", script])
            podman("commit", "--quiet", "--change=CMD /sbin/init", container, tag(name))
        finally:
            podman("rm", "--force", "--time=0", "--ignore", container)


def _build_environment(name: str, parent: str) -> None:
    """Install the packages of a lock file in a virtual environment."""
    container = f"hpchub-lab-build-{name}"
    script = (
        "python3 -m venv /opt/jupyter\n"
        "export PIP_CACHE_DIR=/var/cache/hpchub/pip PIP_CERT=/etc/ssl/certs/ca-certificates.crt\n"
        "export PIP_DISABLE_PIP_VERSION_CHECK=1\n"
        # The lock file leaves out two packages on purpose, so pip must not look for dependencies.
        "/opt/jupyter/bin/pip install --quiet --no-deps --require-hashes -r /requirements.lock\n"
    )
    podman("rm", "--force", "--time=0", "--ignore", container)
    (CACHE / "pip").mkdir(parents=True, exist_ok=True)
    options = [
        f"--volume={REPOSITORY / RECIPES[name].requirements}:/requirements.lock:ro",
        f"--volume={CACHE / 'pip'}:/var/cache/hpchub/pip",
    ]
    try:
        run = ["run", f"--name={container}", "--privileged", *LIMITS, *options, tag(parent)]
        _run("pip", [*podman_prefix(), *run, "sh", "-ec", script])
        podman("commit", "--quiet", "--format=docker", container, tag(name))
    finally:
        podman("rm", "--force", "--time=0", "--ignore", container)


def _run(what: str, command: list[str]) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        log = CACHE / f"failed-{what}.log"
        log.write_text(done.stdout)
        errors = [line for line in done.stdout.splitlines() if line.startswith(("E:", "Error", "ERROR"))]
        reason = (errors or done.stdout.strip().splitlines() or ["no output"])[0]
        raise LabError(
            f"{what} failed while building an image: {reason}. To fix this, read the full output in {log}, correct "
            "the cause, then run the same command again"
        )


class AptArchives:
    """The directory /var/cache/apt/archives of one host, filled from the common package cache.

    Each host has its own directory, because apt locks it. The files are hard links, so they need no extra space.
    Newly downloaded packages are added to the common cache afterwards.
    """

    def __init__(self, name: str) -> None:
        self.path = APT_CACHE / "hosts" / name
        self._common = APT_CACHE / "archives"

    def fill(self) -> Path:
        """Link all package files of the common cache into the directory, and return its path."""
        self._common.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        _link_missing(self._common, self.path)
        return self.path

    def harvest(self) -> None:
        """Link the downloaded package files into the common cache."""
        if self.path.is_dir():
            _link_missing(self.path, self._common)

    def remove(self) -> None:
        """Link the downloaded package files into the common cache, then remove the directory."""
        self.harvest()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Path:
        return self.fill()

    def __exit__(self, *_: object) -> None:
        self.remove()


def _link_missing(source: Path, target: Path) -> None:
    existing = {path.name for path in target.glob("*.deb")}
    for path in source.glob("*.deb"):
        if path.name not in existing:
            (target / path.name).hardlink_to(path)
