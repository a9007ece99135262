"""How the stand-in runs the container of a pod: as a process, or as a container of podman or Docker.

A process is enough for unit tests. It gets the volumes' directories instead of their mount paths in its command and in
its environment. The lab runs containers. Both write the files of a Secret with the mode that the pod asks for.

Source: "Volumes", the section "secret"; "Configure a Security Context for a Pod or Container"; "Resource Management for
Pods and Containers" (kubernetes.io/docs/); podman-run(1).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab_kubernetes.store import Object


class Broken(Exception):
    """The container cannot be started. The message is the runtime's."""


class Runner(ABC):
    """Runs containers.

    Args:
        directory: The directory for volumes and logs.
        images: The images of the registry, each with what the runtime calls it.
    """

    def __init__(self, directory: Path, images: dict[str, str]) -> None:
        self.directory = directory
        self.images = images

    def volumes(self, pod: Object, secrets: dict[str, Object]) -> dict[str, Path]:
        """Create the volumes of a pod. Return the directory of each volume by its name.

        Args:
            pod: The pod.
            secrets: The Secrets that it mounts, by their names.
        """
        security = pod["spec"].get("securityContext") or {}
        found = {}
        for volume in pod["spec"].get("volumes") or []:
            if claim := volume.get("persistentVolumeClaim"):
                path = self.directory / "claims" / pod["metadata"]["namespace"] / claim["claimName"]
                path.mkdir(parents=True, exist_ok=True)
                group = security.get("fsGroup")
                if group is not None and os.geteuid() == 0:  # the kubelet gives the volume to the group
                    os.chown(path, -1, group)
                    path.chmod(0o2775)
            else:
                path = self.pod_directory(pod) / "volumes" / volume["name"]
                path.mkdir(parents=True, exist_ok=True)
                if secret := volume.get("secret"):
                    self._write(path, secrets[secret["secretName"]], secret, security.get("fsGroup"))
                elif "emptyDir" in volume:
                    path.chmod(0o777)  # as the kubelet does
            found[volume["name"]] = path
        return found

    @staticmethod
    def _write(path: Path, secret: Object, source: Object, group: int | None) -> None:
        mode = source.get("defaultMode", 0o644)
        data = path / "..data"  # the files are links into this directory, as in the volumes of the kubelet
        data.mkdir()
        # With fsGroup, the kubelet gives the files to the group, and lets the group read them.
        shared = group is not None and os.geteuid() == 0
        for name, value in secret.get("data", {}).items():
            file = data / name
            file.write_bytes(base64.b64decode(value))
            if shared:
                os.chown(file, 0, group if group is not None else -1)
            file.chmod(mode | 0o040 if shared else mode)
            (path / name).symlink_to(Path("..data", name))

    def pod_directory(self, pod: Object) -> Path:
        """Return the directory of a pod."""
        return self.directory / "pods" / str(pod["metadata"]["uid"])

    def log_path(self, pod: Object) -> Path:
        """Return the path of the container's log."""
        return self.pod_directory(pod) / "log"

    @abstractmethod
    def start(self, pod: Object, volumes: dict[str, Path], number: int) -> tuple[subprocess.Popen[bytes], str]:
        """Start the pod's container. Return its process and the pod's address.

        Args:
            pod: The pod.
            volumes: The directories of its volumes.
            number: A number that distinguishes the running pods.

        Raises:
            Broken: It cannot be started.
        """

    @abstractmethod
    def kill(self, pod: Object, process: subprocess.Popen[bytes], *, hard: bool) -> None:
        """Send SIGTERM, or SIGKILL if ``hard``, to the container."""

    def tidy(self, pod: Object) -> None:
        """Remove what is left of a pod that is deleted."""
        shutil.rmtree(self.pod_directory(pod), ignore_errors=True)


def environment(container: Object, address: str) -> dict[str, str]:
    """Return the environment of a container. The field ``status.podIP`` is the only one that is known."""
    found = {}
    for each in container.get("env") or []:
        field = ((each.get("valueFrom") or {}).get("fieldRef") or {}).get("fieldPath")
        found[each["name"]] = address if field == "status.podIP" else str(each.get("value") or "")
    return found


class ProcessRunner(Runner):
    """Runs the command of a pod as a process of this account, on a loopback address of its own."""

    def start(self, pod: Object, volumes: dict[str, Path], number: int) -> tuple[subprocess.Popen[bytes], str]:
        """See ``Runner``."""
        container = pod["spec"]["containers"][0]
        address = f"127.{64 + number // 65536 % 64}.{number // 256 % 256}.{number % 256 or 1}"
        paths = {each["mountPath"]: str(volumes[each["name"]]) for each in container.get("volumeMounts") or []}
        paths.pop("/tmp", None)  # noqa: S108 the process has one already

        def local(text: str) -> str:
            for mounted, path in paths.items():
                text = text.replace(mounted, path)
            return text

        command = [local(word) for word in (container.get("command") or []) + (container.get("args") or [])]
        env = {"PATH": os.environ["PATH"], **{k: local(v) for k, v in environment(container, address).items()}}
        try:
            with self.log_path(pod).open("wb") as log:
                process = subprocess.Popen(
                    command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except (OSError, IndexError) as error:
            raise Broken(f"exec: {error}") from None
        return process, address

    def kill(self, pod: Object, process: subprocess.Popen[bytes], *, hard: bool) -> None:
        """See ``Runner``."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if hard else signal.SIGTERM)


class ContainerRunner(Runner):
    """Runs the container of a pod with podman or Docker, in a network of its own.

    Args:
        directory: The directory for volumes and logs.
        images: The images of the registry, each with what the runtime calls it.
        program: ``podman`` or ``docker``.
        subnet: The first two numbers of the pods' addresses, for example ``10.244``.
        limits: Whether the host has the cgroup controllers for limits.
    """

    def __init__(
        self, directory: Path, images: dict[str, str], *, program: str, subnet: str = "10.244", limits: bool = False
    ) -> None:
        super().__init__(directory, images)
        self._program, self._subnet, self._limits = program, subnet, limits

    def _name(self, pod: Object) -> str:
        return f"k8s_{pod['metadata']['uid']}"

    def command(self, pod: Object, volumes: dict[str, Path], address: str) -> list[str]:
        """Return the command that runs the pod's container."""
        spec, name = pod["spec"], self._name(pod)
        container = spec["containers"][0]
        security = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
        options = [f"--name={name}", f"--network={name}", f"--ip={address}", "--pull=never", "--rm"]
        options += [f"--hostname={pod['metadata']['name']}", f"--user={security['runAsUser']}:{security['runAsGroup']}"]
        options += [f"--group-add={group}" for group in security.get("supplementalGroups") or []]
        if (group := security.get("fsGroup")) is not None:
            options.append(f"--group-add={group}")
        options += [f"--cap-drop={each}" for each in (security.get("capabilities") or {}).get("drop", [])]
        if security.get("allowPrivilegeEscalation") is False:
            options.append("--security-opt=no-new-privileges")
        if self._limits:
            limits = (container.get("resources") or {}).get("limits") or {}
            options += [f"--cpus={limits['cpu']}"] * ("cpu" in limits)
            options += [f"--memory={limits['memory']}"] * ("memory" in limits)
        for each in container.get("volumeMounts") or []:
            read_only = ":ro" if each.get("readOnly") else ""
            options.append(f"--volume={volumes[each['name']]}:{each['mountPath']}{read_only}")
        options += [f"--env={key}={value}" for key, value in environment(container, address).items()]
        if container.get("workingDir"):
            options.append(f"--workdir={container['workingDir']}")
        command = (container.get("command") or []) + (container.get("args") or [])
        if command:
            options.append(f"--entrypoint={json.dumps(command[:1]) if self._program == 'podman' else command[0]}")
        return [self._program, "run", *options, self.images[container["image"]], *command[1:]]

    def start(self, pod: Object, volumes: dict[str, Path], number: int) -> tuple[subprocess.Popen[bytes], str]:
        """See ``Runner``."""
        # Each pod has a network of its own, so that the host routes, and can filter, all its traffic.
        prefix, name = f"{self._subnet}.{number % 250 + 1}", self._name(pod)
        create = [self._program, "network", "create", f"--subnet={prefix}.0/24", f"--gateway={prefix}.1", name]
        done = subprocess.run(create, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(done.stderr.strip())
        address = f"{prefix}.2"
        with self.log_path(pod).open("wb") as log:
            process = subprocess.Popen(
                self.command(pod, volumes, address), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return process, address

    def kill(self, pod: Object, process: subprocess.Popen[bytes], *, hard: bool) -> None:
        """See ``Runner``."""
        name = "KILL" if hard else "TERM"
        subprocess.run([self._program, "kill", f"--signal={name}", self._name(pod)], capture_output=True, check=False)

    def tidy(self, pod: Object) -> None:
        """See ``Runner``."""
        for command in (["rm", "--force"], ["network", "rm"]):
            subprocess.run([self._program, *command, self._name(pod)], capture_output=True, check=False)
        super().tidy(pod)
