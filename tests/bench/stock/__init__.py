"""What a site gets that follows the packages' own documentation: JupyterHub, wrapspawner and batchspawner as root.

It runs on the login node from the very files that are deployed: the hub's environment and proxy are copied from the
hub host, sessions use the cluster's notebook environment.
"""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from e2e.lab import Lab, LabError, eventually

from bench.client import Hub

if TYPE_CHECKING:
    from types import TracebackType

HERE = Path(__file__).parent
HOST = "login1"
PORT = 8000
DIRECTORY = "/opt/stock"
UNIT = "hpchub-bench-stock"
# On the tree that compute nodes see: batchspawner's wrapper, which the deployed notebook environment does not have.
SHARED = "/opt/hpchub/bench"


class Stock:
    """The stock hub, there while the context lasts."""

    def __init__(self, lab: Lab, profile: dict[str, Any], user: str) -> None:
        self._lab = lab
        token = secrets.token_hex(32)
        self._settings = {"token": token, "port": PORT, "profile": profile, "user": user, "shared": SHARED}
        address = lab.addresses[lab.host(HOST)]
        self.hub = Hub("stock", f"http://{address}:{PORT}", address, token, user, {"profile": profile["key"]})

    def __enter__(self) -> Self:
        self._remove()
        self._lab.run(HOST, ["install", "-d", "-m", "0700", DIRECTORY])
        self._lab.run(HOST, ["install", "-d", "-m", "0755", SHARED])
        self._copy("/opt/hpchub/hub/current/", f"{DIRECTORY}/hub")
        self._copy("/opt/hpchub/proxy/current/", f"{DIRECTORY}/proxy")
        if not self._lab.run(HOST, ["sh", "-c", "command -v node || true"]):
            self._lab.run(HOST, ["apt-get", "update", "-qq"])
            self._lab.run(HOST, ["apt-get", "install", "-qq", "--no-install-recommends", "nodejs"], timeout=600)
        packages = f"{DIRECTORY}/hub/lib/python3.*/site-packages/batchspawner"
        self._lab.run(HOST, ["sh", "-c", f"cp -r {packages} {SHARED}/"])
        self._write(f"{SHARED}/batchspawner-singleuser", (HERE / "singleuser.py").read_text(), "0755")
        self._write(f"{DIRECTORY}/config.py", (HERE / "config.py").read_text(), "0600")
        self._write(f"{DIRECTORY}/settings.json", json.dumps(self._settings), "0600")
        python = f"{DIRECTORY}/hub/bin/python"
        directory = f"--working-directory={DIRECTORY}"
        command = [python, "-m", "jupyterhub", "--config", f"{DIRECTORY}/config.py"]
        self._lab.run(HOST, ["systemd-run", f"--unit={UNIT}", "--collect", directory, *command])
        eventually("the stock hub answers", self._answers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            print(self._lab.run(HOST, ["journalctl", "--no-pager", "--lines=80", f"--unit={UNIT}"], check=False))
        self._remove()

    def _answers(self) -> bool:
        try:
            return self.hub.ask("GET", "/hub/api/")[0] == 200
        except OSError:
            return False

    def _remove(self) -> None:
        self._lab.run(HOST, ["systemctl", "stop", UNIT], check=False)
        self._lab.run(HOST, ["rm", "-rf", DIRECTORY, SHARED])

    def _ssh(self, host: str, command: str) -> list[str]:
        return ["ssh", "-F", str(self._lab.directory / "ssh_config"), self._lab.host(host), "--", command]

    def _copy(self, source: str, target: str) -> None:
        """Copy a directory from the hub host, following the link that it may be."""
        with subprocess.Popen(self._ssh("hub", f"tar -C {shlex.quote(source)} -c ."), stdout=subprocess.PIPE) as sender:
            unpack = f"mkdir -p {shlex.quote(target)} && tar -C {shlex.quote(target)} -x"
            subprocess.run(self._ssh(HOST, unpack), stdin=sender.stdout, check=True)
        if sender.returncode:
            raise LabError(f"copying {source} from the hub host failed")

    def _write(self, path: str, content: str, mode: str) -> None:
        argv = self._ssh(HOST, shlex.join(["install", "-m", mode, "/dev/stdin", path]))
        subprocess.run(argv, input=content, text=True, check=True)
