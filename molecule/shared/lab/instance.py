"""One instance of the lab: its containers, network and volumes, and the directory that says how to reach them.

The directory `~/.cache/hpchub/lab/NAME` holds `state.json` (hosts, people, secrets), `ssh_config` with its key, the
certificate authority with the servers' certificates, and what else an inventory wants to look up.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import ipaddress
import json
import os
import secrets
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lab import images
from lab.console import LabError, say, step
from lab.host import (
    CACHE,
    LIMITS,
    inspect_container,
    podman,
    podman_prefix,
    raise_inotify_limit,
    require_disk,
    require_network,
    require_ports,
)
from lab.topology import IDP_NAME, IDP_PORT, SERVICE_NAME, SERVICE_PORT, TOPOLOGIES, Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = "demo"

# Who there is: single sign-on groups, and whether a one-time password is asked for at sign-in.
_PEOPLE: dict[str, tuple[list[str], bool]] = {
    "alice": (["hpc"], False),
    "bob": (["hpc"], False),
    "carol": (["hpc-admins"], True),
    "dave": ([], False),
    # A class, which starts at once.
    **{f"student{number:02}": (["hpc"], False) for number in range(1, 11)},
}
_EASY_TO_READ = "abcdefghijkmnpqrstuvwxyz23456789"
_CACHES = ("npm", "pip", "uv")
_START_SECONDS = 120


class Instance:
    """A named lab.

    Attributes:
        name: `demo`, or the name of a Molecule scenario.
        directory: Where everything about it is kept.
    """

    def __init__(self, name: str, topology: str | None = None) -> None:
        """Take the topology given, or the one that the instance was created with.

        Raises:
            LabError: there is no such topology.
        """
        self.name = name
        self.directory: Path = CACHE / "lab" / name
        self._topology = topology or self.state().get("topology", name)
        if self._topology not in TOPOLOGIES:
            raise LabError(f"no topology {self._topology!r}; there are: {', '.join(TOPOLOGIES)}")
        self.hosts = TOPOLOGIES[self._topology].hosts
        self._published = name == DEMO
        self._label = [f"--label=hpchub.instance={name}"]
        # The demo's names are what its README says; another instance stays out of its way.
        self.network = "hpchub" if self._published else f"hpchub-{name}"

    def container(self, host: str) -> str:
        """Return the name of a host's container."""
        return host if self._published else f"hpchub-{self.name}-{host}"

    def state(self) -> dict[str, Any]:
        """Return what state.json holds, or nothing if the instance was never created."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs away from this instance.

        Raises:
            LabError: another run is at work.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f"{self.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(
                    f"another run is at work on the lab {self.name!r}; mend: wait until it has finished"
                ) from None
            yield

    def check(self) -> list[str]:
        """Look for what would stop `create` on this machine, and return the images that it would build.

        Raises:
            LabError: something is missing; nothing has been changed.
        """
        podman_prefix()
        to_build = images.missing({host.image for host in self.hosts})
        # A complete lab takes 5 GB with its caches; what is built already is paid for.
        require_disk(8 if to_build else 2)
        if to_build:
            require_network()
        if self._published:
            taken_by_us = {host.port for host in self.hosts if self._running(host)}
            require_ports(tuple(host.port for host in self.hosts if host.port and host.port not in taken_by_us))
        return to_build

    def create(self) -> None:
        """Make whatever is not there yet, start it, and wait until every host can be reached.

        May be called again at any time: after an interruption it completes, and on a complete instance it changes
        nothing.

        Raises:
            LabError: this machine lacks something, or a host does not come up.
        """
        images.build(self.check())
        raise_inotify_limit()
        self._make_directory()
        addresses = self._make_network()
        self._make_volumes()
        made = [host.name for host in self.hosts if self._make_container(host, addresses[host.name])]
        self._write_state(addresses)
        self._wait()
        if not made:
            say(f"The lab {self.name!r} is running already")

    def destroy(self) -> None:
        """Remove the containers, network, volumes and directory of this instance. Images and caches stay."""
        # By label, not by list: an older topology may have had other hosts.
        chosen = ["--filter", f"label=hpchub.instance={self.name}"]
        names = podman("ps", "--all", *chosen, "--format", "{{.Names}}").stdout.split()
        if names:
            podman("rm", "--force", "--time=0", "--volumes", *names)
        if volumes := podman("volume", "ls", "--quiet", *chosen).stdout.split():
            podman("volume", "rm", "--force", *volumes)
        podman("network", "rm", "--force", self.network, check=False)
        for host in self.hosts:
            self._archives(host.name).remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    def harvest(self) -> None:
        """Keep the packages that the hosts downloaded for the next instance."""
        for host in self.hosts:
            self._archives(host.name).harvest()

    def status(self) -> dict[str, Any]:
        """Return where the service is, the hosts with their present state, and the people with their passwords."""
        state = self.state()
        hosts = [
            {**entry, "state": (inspect_container(entry["container"]) or ("absent",))[0]}
            for entry in state.get("hosts", [])
        ]
        running = bool(hosts) and all(entry["state"] == "running" for entry in hosts)
        shown = ("url", "idp_url", "users", "ssh_config", "ca_certificate")
        known: dict[str, Any] = {key: state[key] for key in shown if key in state}
        playbook = str(CACHE / "venv" / "bin" / "ansible-playbook")
        return {"instance": self.name, "running": running, **known, "ansible_playbook": playbook, "hosts": hosts}

    def identity(self) -> str:
        """Return a text that changes whenever a container is made anew, or a secret."""
        ids = podman("ps", "--filter", f"label=hpchub.instance={self.name}", "--no-trunc", "--format", "{{.ID}}")
        return json.dumps([sorted(ids.stdout.split()), self.state()], sort_keys=True)

    def environment(self) -> dict[str, str]:
        """Return the environment in which a playbook or a test finds this instance."""
        return {**os.environ, "HPCHUB_LAB_DIR": str(self.directory)}

    def _running(self, host: Host) -> bool:
        found = inspect_container(self.container(host.name))
        return found is not None and found[0] == "running"

    def _archives(self, host: str) -> images.AptArchives:
        return images.AptArchives(f"{self.name}-{host}")

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        # OpenSSH's control sockets: their names must stay below 108 characters with the directory's.
        (self.directory / "cp").mkdir(exist_ok=True)
        key = self.directory / "id_ed25519"
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"hpchub lab {self.name}", "-f", str(key)]
            subprocess.run(command, check=True)
        # Here, so that all but `create` works without the Python environment.
        from lab.certificates import make_certificates  # noqa: PLC0415

        make_certificates(
            self.directory, {"hub": [SERVICE_NAME, f"*.{SERVICE_NAME}", "hub", "node"], "idp": [IDP_NAME, "idp"]}
        )
        if not (self.directory / "state.json").exists():
            self._write_state({})

    def _make_network(self) -> dict[str, str]:
        """Return each host's address: fixed ones, so that nothing has to be looked up again after a restart."""
        if podman("network", "exists", self.network, check=False).returncode != 0:
            podman("network", "create", *self._label, self.network)
        found = json.loads(podman("network", "inspect", self.network).stdout)[0]
        subnet = ipaddress.ip_network(found["subnets"][0]["subnet"])
        return {host.name: str(subnet[10 + number]) for number, host in enumerate(self.hosts)}

    def _volume(self, path: str) -> str:
        return f"hpchub-{self.name}{path.replace('/', '-')}"

    def _make_volumes(self) -> None:
        for volume in sorted({self._volume(path) for host in self.hosts for path in host.shared}):
            if podman("volume", "exists", volume, check=False).returncode != 0:
                podman("volume", "create", *self._label, volume)

    def _make_container(self, host: Host, address: str) -> bool:
        """Return whether there was anything to do."""
        name = self.container(host.name)
        arguments = self._run_arguments(host, address)
        recipe = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:12]
        found = inspect_container(name)
        if found == ("running", recipe):
            return False
        # The directory must be there before the container that mounts it.
        self._archives(host.name).fill()
        for kind in _CACHES:
            (CACHE / kind).mkdir(parents=True, exist_ok=True)
        if found and found[1] == recipe and found[0] in {"exited", "created", "stopped"}:
            with step(f"Starting {name}"):
                podman("start", name)
            return True
        with step(f"Creating {name}"):
            podman("rm", "--force", "--time=0", "--volumes", "--ignore", name)
            podman("run", "--detach", f"--name={name}", f"--label=hpchub.recipe={recipe}", *arguments)
        return True

    def _run_arguments(self, host: Host, address: str) -> list[str]:
        volumes = {
            self.directory / "id_ed25519.pub": "/root/.ssh/authorized_keys:ro",
            self._archives(host.name).path: "/var/cache/apt/archives",
            **{CACHE / kind: f"/var/cache/hpchub/{kind}" for kind in _CACHES},
        }
        named = {self._volume(path): path for path in host.shared}
        return [
            *self._label,
            f"--hostname={host.name}",
            *(f"--network={self.network}", f"--network-alias={host.name}", f"--ip={address}"),
            # As on every desktop; a program that asks the resolver would not find them.
            *(f"--add-host={name}:127.0.0.1" for name in (SERVICE_NAME, IDP_NAME)),
            *("--systemd=always", "--privileged", *LIMITS),
            *(f"--volume={source}:{target}" for source, target in (*volumes.items(), *named.items())),
            *([f"--publish=127.0.0.1:{host.port}:{host.port}"] if self._published and host.port else []),
            *(images.tag(host.image), "/sbin/init"),
        ]

    def _wait(self) -> None:
        """Wait until systemd has started every host, and ssh answers."""
        for host in self.hosts:
            name = self.container(host.name)
            deadline = time.monotonic() + _START_SECONDS
            while True:
                done = podman("exec", name, "systemctl", "is-active", "ssh.service", check=False)
                if done.stdout.strip() == "active":
                    break
                if not self._running(host):
                    raise LabError(
                        f"systemd ended as soon as it had started in {name}; mend: stop other containers, or raise "
                        "fs.inotify.max_user_instances with sysctl, then run the same command again"
                    )
                if time.monotonic() > deadline:
                    raise LabError(
                        f"{name} did not start in {_START_SECONDS} s; mend: look at `podman exec {name} systemctl`, "
                        "then run the same command again"
                    )
                time.sleep(0.3)

    def _write_state(self, addresses: dict[str, str]) -> None:
        """Write state.json and ssh_config; what was drawn by lot once is kept."""
        old = self.state()
        state = {
            "instance": self.name,
            "topology": self._topology,
            "inventory": TOPOLOGIES[self._topology].inventory or self._topology,
            "url": f"https://{SERVICE_NAME}:{SERVICE_PORT}",
            "idp_url": f"https://{IDP_NAME}:{IDP_PORT}",
            "users": old.get("users") or _draw_people(),
            "sso_client_secret": old.get("sso_client_secret") or secrets.token_urlsafe(32),
            "munge_key": old.get("munge_key") or base64.b64encode(secrets.token_bytes(128)).decode(),
            "ssh_config": str(self.directory / "ssh_config"),
            "ca_certificate": str(self.directory / "ca.pem"),
            "hosts": [
                {"name": host.name, "container": self.container(host.name), "ip": addresses[host.name]}
                for host in self.hosts
                if host.name in addresses
            ],
        }
        lines = [
            f"Host {' '.join((host.name, *host.also))}\n  HostName {addresses[host.name]}\n"
            for host in self.hosts
            if host.name in addresses
        ]
        lines.append(
            "Host *\n  User root\n"
            f"  IdentityFile {self.directory}/id_ed25519\n  IdentitiesOnly yes\n"
            # The hosts live as long as the lab; nobody is between them and this machine.
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
            f"  ControlMaster auto\n  ControlPath {self.directory}/cp/%C\n  ControlPersist 120s\n"
        )
        self._write("ssh_config", "".join(lines))
        self._write("state.json", json.dumps(state, indent=2) + "\n")

    def _write(self, name: str, content: str) -> None:
        partial = self.directory / f".{name}.partial"
        partial.touch(0o600)
        partial.write_text(content)
        partial.replace(self.directory / name)


def _draw_people() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "password": "-".join("".join(secrets.choice(_EASY_TO_READ) for _ in range(5)) for _ in range(3)),
            "groups": groups,
            "totp_secret": base64.b32encode(secrets.token_bytes(20)).decode() if totp else None,
        }
        for name, (groups, totp) in _PEOPLE.items()
    ]
