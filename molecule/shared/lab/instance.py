"""One instance of the lab: its containers, network, volumes and directory.

The directory `~/.cache/hpchub/lab/NAME` describes how to reach the instance. It contains `state.json` (hosts, users
and secrets), `ssh_config` with its private key, the certificate authority and the servers' certificates. The lab's
inventories read these files.
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
from lab.console import LabError, progress, step
from lab.host import (
    CACHE,
    LIMITS,
    inspect_container,
    mirror,
    podman,
    podman_prefix,
    raise_inotify_limit,
    require_disk,
    require_network,
    require_ports,
)
from lab.topology import IDP_NAME, IDP_PORT, SERVICE_NAME, SERVICE_PORT, TOPOLOGIES, Host
from lab.users import generate_users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = "demo"

_CACHES = ("npm", "pip", "uv")
_START_SECONDS = 120


class Instance:
    """A named instance of the lab.

    Attributes:
        name: `demo`, or the name of a Molecule scenario.
        directory: The directory with the instance's files.
        hosts: The hosts of the instance's topology.
        network: The name of the podman network.
    """

    def __init__(self, name: str, topology: str | None = None) -> None:
        """Open an instance, which need not exist yet.

        Args:
            name: The instance's name.
            topology: The name of its topology. The default is the topology that the instance was created with, or
                the topology with the instance's name.

        Raises:
            LabError: The topology does not exist.
        """
        self.name = name
        self.directory: Path = CACHE / "lab" / name
        self._topology = topology or self.state().get("topology", name)
        if self._topology not in TOPOLOGIES:
            raise LabError(
                f"the instance {name!r} has the topology {self._topology!r}, which does not exist. To fix this, choose "
                f"one of these topologies: {', '.join(TOPOLOGIES)}"
            )
        self.hosts = TOPOLOGIES[self._topology].hosts
        self._offline = TOPOLOGIES[self._topology].offline
        self._session_image = TOPOLOGIES[self._topology].session_image
        self._published = name == DEMO
        self._label = [f"--label=hpchub.instance={name}"]
        # The containers of the demo have short names, which the documentation uses. All other instances add a prefix,
        # so that they never conflict with the demo.
        self.network = "hpchub" if self._published else f"hpchub-{name}"

    def container(self, host: str) -> str:
        """Return the name of a host's container."""
        return host if self._published else f"hpchub-{self.name}-{host}"

    def state(self) -> dict[str, Any]:
        """Return the contents of state.json, or an empty dictionary if the instance does not exist."""
        try:
            found: dict[str, Any] = json.loads((self.directory / "state.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the instance against concurrent runs.

        Raises:
            LabError: Another run holds the lock.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / f"{self.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(
                    f"another run is using the lab instance {self.name!r}. To fix this, wait until it has finished, "
                    "then run the same command again"
                ) from None
            yield

    def check(self) -> list[str]:
        """Check this machine's requirements and return the images that `create` would build.

        Raises:
            LabError: A requirement is not met. Nothing on the machine has been changed.
        """
        podman_prefix()
        sessions = {images.SESSION} if self._session_image else set()
        to_build = images.missing({host.image for host in self.hosts} | sessions)
        # A complete lab with its caches takes 5 GB. Existing images already take their part of it.
        require_disk(8 if to_build else 2)
        if to_build:
            require_network()
        if self._published:
            own_ports = {host.port for host in self.hosts if self._running(host)}
            require_ports(tuple(host.port for host in self.hosts if host.port and host.port not in own_ports))
        return to_build

    def create(self) -> None:
        """Create and start everything that does not exist yet, then wait until all hosts are reachable.

        You can call this method again at any time. After an interruption it creates the rest. If the instance is
        complete, nothing changes.

        Raises:
            LabError: This machine does not meet a requirement, or a host does not start.
        """
        images.build(self.check())
        raise_inotify_limit()
        self._make_directory()
        addresses = self._make_network()
        self._make_volumes()
        started = [host.name for host in self.hosts if self._make_container(host, addresses)]
        self._write_state(addresses)
        if self._offline:
            self._join_network()
        self._wait()
        if not started:
            progress(f"The lab instance {self.name!r} is already running")

    def destroy(self) -> None:
        """Remove the containers, network, volumes and directory of this instance, but no images and caches."""
        # The label also finds hosts of an older topology, which are not in self.hosts.
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
        """Add the packages that the hosts downloaded to the common cache, so that the next instance can use them."""
        for host in self.hosts:
            self._archives(host.name).harvest()

    def status(self) -> dict[str, Any]:
        """Return the service's address, the hosts with their current state, and the users with their passwords."""
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
        """Return a text that changes whenever a container or a secret is replaced."""
        ids = podman("ps", "--filter", f"label=hpchub.instance={self.name}", "--no-trunc", "--format", "{{.ID}}")
        return json.dumps([sorted(ids.stdout.split()), self.state()], sort_keys=True)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of this process, plus the one that selects this instance."""
        return {**os.environ, "HPCHUB_LAB_DIR": str(self.directory)}

    def _running(self, host: Host) -> bool:
        found = inspect_container(self.container(host.name))
        return found is not None and found[0] == "running"

    def _archives(self, host: str) -> images.AptArchives:
        return images.AptArchives(f"{self.name}-{host}")

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        # OpenSSH puts its control sockets here. The path of a unix socket is limited to 108 characters.
        (self.directory / "cp").mkdir(exist_ok=True)
        key = self.directory / "id_ed25519"
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"hpchub lab {self.name}", "-f", str(key)]
            subprocess.run(command, check=True)
        # This import needs the Python environment. It is here so that all other commands work without it.
        from lab.certificates import make_certificates  # noqa: PLC0415

        make_certificates(
            self.directory,
            {
                "hub": [SERVICE_NAME, f"*.{SERVICE_NAME}", "hub", "node"],
                "idp": [IDP_NAME, "idp"],
                "kubernetes": ["kube1", "localhost"],
            },
        )
        if not (self.directory / "state.json").exists():
            self._write_state({})

    def _make_network(self) -> dict[str, str]:
        """Create the network if necessary, and return the address of each host.

        The addresses are fixed, so that they stay the same when a container restarts.
        """
        if podman("network", "exists", self.network, check=False).returncode != 0:
            # With DNS, the hosts could send requests to other networks through podman's name server.
            cut = ["--internal", "--disable-dns"] if self._offline else []
            podman("network", "create", *cut, *self._label, self.network)
        found = json.loads(podman("network", "inspect", self.network).stdout)[0]
        subnet = ipaddress.ip_network(found["subnets"][0]["subnet"])
        return {host.name: str(subnet[10 + number]) for number, host in enumerate(self.hosts)}

    def _join_network(self) -> None:
        """Give this machine an address in the network, which podman does not do for a network that is cut off."""
        found = json.loads(podman("network", "inspect", self.network).stdout)[0]
        subnet = ipaddress.ip_network(found["subnets"][0]["subnet"])
        address = f"{subnet[1]}/{subnet.prefixlen}"
        subprocess.run(["ip", "address", "replace", address, "dev", found["network_interface"]], check=True)

    def _volume(self, path: str) -> str:
        return f"hpchub-{self.name}{path.replace('/', '-')}"

    def _make_volumes(self) -> None:
        for volume in sorted({self._volume(path) for host in self.hosts for path in host.shared}):
            if podman("volume", "exists", volume, check=False).returncode != 0:
                podman("volume", "create", *self._label, volume)

    def _make_container(self, host: Host, addresses: dict[str, str]) -> bool:
        """Create and start a host's container; return False if the right one is already running."""
        name = self.container(host.name)
        arguments = self._run_arguments(host, addresses)
        recipe = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:12]
        found = inspect_container(name)
        if found == ("running", recipe):
            return False
        # These directories must exist before the container mounts them.
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

    def _run_arguments(self, host: Host, addresses: dict[str, str]) -> list[str]:
        volumes = {
            self.directory / "id_ed25519.pub": "/root/.ssh/authorized_keys:ro",
            self._archives(host.name).path: "/var/cache/apt/archives",
            # Hosts without a network must not find packages in the caches of this machine.
            **({} if self._offline else {CACHE / kind: f"/var/cache/hpchub/{kind}" for kind in _CACHES}),
        }
        named = {self._volume(path): path for path in host.shared}
        return [
            *self._label,
            f"--hostname={host.name}",
            *self._network_arguments(host, addresses),
            # Browsers resolve `.localhost` names themselves. Other programs need these entries in /etc/hosts.
            *(f"--add-host={name}:127.0.0.1" for name in (SERVICE_NAME, IDP_NAME)),
            *("--systemd=always", "--privileged", *LIMITS),
            *(f"--volume={source}:{target}" for source, target in (*volumes.items(), *named.items())),
            *(f"--volume={path}" for path in host.own),
            *([f"--publish=127.0.0.1:{host.port}:{host.port}"] if self._published and host.port else []),
            *(images.tag(host.image), "/sbin/init"),
        ]

    def _network_arguments(self, host: Host, addresses: dict[str, str]) -> list[str]:
        address = addresses[host.name]
        if not self._offline:
            return [f"--network={self.network}", f"--network-alias={host.name}", f"--ip={address}"]
        others = [f"--add-host={name}:{ip}" for name, ip in addresses.items() if name != host.name]
        # podman's default network has a route to other networks.
        return [f"--network={self.network}:ip={address}", *(["--network=podman"] if host.network else []), *others]

    def _wait(self) -> None:
        """Wait until the ssh service of every host is running."""
        for host in self.hosts:
            name = self.container(host.name)
            deadline = time.monotonic() + _START_SECONDS
            while True:
                done = podman("exec", name, "systemctl", "is-active", "ssh.service", check=False)
                if done.stdout.strip() == "active":
                    break
                if not self._running(host):
                    raise LabError(
                        f"systemd exited right after its start in the container {name}. To fix this, stop other "
                        "containers or raise fs.inotify.max_user_instances with sysctl, then run the same command again"
                    )
                if time.monotonic() > deadline:
                    raise LabError(
                        f"the container {name} did not start within {_START_SECONDS} s. To fix this, find the failed "
                        f"units with `{' '.join(podman_prefix())} exec {name} systemctl`, then run the same command "
                        "again"
                    )
                time.sleep(0.3)

    def _write_state(self, addresses: dict[str, str]) -> None:
        """Write state.json and ssh_config. Passwords and secrets that already exist stay the same."""
        old = self.state()
        state = {
            "instance": self.name,
            "topology": self._topology,
            "inventory": TOPOLOGIES[self._topology].inventory or self._topology,
            "url": f"https://{SERVICE_NAME}:{SERVICE_PORT}",
            "idp_url": f"https://{IDP_NAME}:{IDP_PORT}",
            "users": generate_users(old.get("users") or ()),
            "sso_client_secret": old.get("sso_client_secret") or secrets.token_urlsafe(32),
            "debian_mirror": mirror() if self._offline else "",
            **(self._containers(old) if self._session_image else {}),
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
            # The host keys change with every new instance, and the network exists only on this machine.
            "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
            f"  ControlMaster auto\n  ControlPath {self.directory}/cp/%C\n  ControlPersist 120s\n"
        )
        self._write("ssh_config", "".join(lines))
        self._write("state.json", json.dumps(state, indent=2) + "\n")

    def _containers(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return what places that run containers need: the image of sessions, and the tokens for Kubernetes."""
        found = {name: old.get(name) for name in ("session_archive", "session_image")}
        if images.missing({images.SESSION}) == []:
            path, found["session_image"] = images.session_archive()
            found["session_archive"] = str(path)
        tokens = ("kubernetes_token", "kubernetes_administrator_token")
        return found | {name: old.get(name) or secrets.token_urlsafe(32) for name in tokens}

    def _write(self, name: str, content: str) -> None:
        partial = self.directory / f".{name}.partial"
        partial.touch(0o600)
        partial.write_text(content)
        partial.replace(self.directory / name)
