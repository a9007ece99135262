"""A service set up as the documentation of JupyterHub, wrapspawner and batchspawner shows. It runs as root.

It runs on the login node from the same files as hpchub: the hub's environment and the proxy are copied from the hub
host, and sessions use the cluster's notebook environment.
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
HTTPS_PORT = 9443
PROGRAMS = "/opt/stock"
STATE = "/srv/jupyterhub"
UNIT = "hpchub-bench-stock"
# A directory that compute nodes see. It holds batchspawner's wrapper, which the deployed notebook environment lacks.
SHARED = "/opt/hpchub/bench"
APACHE = ("/etc/apache2/sites-enabled/stock.conf", "/etc/apache2/stock.pem", "/etc/apache2/stock.htpasswd")
MODULES = ("ssl", "headers", "proxy", "proxy_http", "proxy_wstunnel", "rewrite", "http2")

SERVICE = f"""\
[Service]
User=root
WorkingDirectory={STATE}
EnvironmentFile={PROGRAMS}/environment
ExecStart={PROGRAMS}/hub/bin/python -m jupyterhub --config {PROGRAMS}/config.py
"""


class Stock:
    """The stock hub, which exists while the context lasts.

    Args:
        lab: The lab to run it in.
        profiles: The deployed profiles that it offers.
        user: The user that starts servers by ``hub``.
        web_server: Whether to put a web server with a sign-on in front of it. Otherwise this machine reaches its proxy
            directly.
    """

    def __init__(self, lab: Lab, profiles: list[dict[str, Any]], user: str, *, web_server: bool = False) -> None:
        self._lab = lab
        self._web_server = web_server
        self.token = secrets.token_hex(32)
        # JupyterHub's documentation puts these secrets into the hub's environment.
        self.environment = {name: secrets.token_hex(32) for name in ("CONFIGPROXY_AUTH_TOKEN", "JUPYTERHUB_CRYPT_KEY")}
        self._settings: dict[str, Any] = {
            "token": self.token,
            "address": "127.0.0.1" if web_server else "0.0.0.0",
            "profiles": profiles,
            "profile": profiles[0],
            "users": ["alice", "bob", "carol"],
            "shared": SHARED,
        }
        address = lab.addresses[lab.host(HOST)]
        self.url = f"https://{address}:{HTTPS_PORT}"
        self.hub = Hub("stock", f"http://{address}:{PORT}", address, self.token, user, {"profile": profiles[0]["key"]})

    def __enter__(self) -> Self:
        self._remove()
        self._lab.run(HOST, ["install", "-d", "-m", "0700", PROGRAMS])
        self._lab.run(HOST, ["install", "-d", "-m", "0755", SHARED, STATE])
        self._copy("/opt/hpchub/hub/current/", f"{PROGRAMS}/hub")
        self._copy("/opt/hpchub/proxy/current/", f"{PROGRAMS}/proxy")
        wanted = {"node": ["nodejs"], "apache2": ["apache2", "openssl"] if self._web_server else []}
        missing = [name for program, names in wanted.items() if names and not self._has(program) for name in names]
        if missing:
            self._lab.run(HOST, ["apt-get", "update", "-qq"])
            install = ["apt-get", "install", "-qq", "--no-install-recommends", *missing]
            self._lab.run(HOST, ["env", "DEBIAN_FRONTEND=noninteractive", *install], timeout=600)
        packages = f"{PROGRAMS}/hub/lib/python3.*/site-packages/batchspawner"
        self._lab.run(HOST, ["sh", "-c", f"cp -r {packages} {SHARED}/"])
        self._write(f"{SHARED}/batchspawner-singleuser", (HERE / "singleuser.py").read_text(), "0755")
        self._write(f"{PROGRAMS}/config.py", (HERE / "config.py").read_text(), "0600")
        environment = "".join(f"{name}={value}\n" for name, value in self.environment.items())
        self._write(f"{PROGRAMS}/environment", environment, "0600")
        self._write(f"/run/systemd/system/{UNIT}.service", SERVICE, "0644")
        self._lab.run(HOST, ["systemctl", "daemon-reload"])
        if self._web_server:
            self._start_web_server()
        self.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error:
            print(self._lab.run(HOST, ["journalctl", "--no-pager", "--lines=80", f"--unit={UNIT}"], check=False))
        self._remove()

    def set(self, **changes: Any) -> None:
        """Start or restart the hub with changed settings."""
        self._write(f"{PROGRAMS}/settings.json", json.dumps({**self._settings, **changes}), "0600")
        self._lab.run(HOST, ["systemctl", "restart", UNIT], timeout=180)
        eventually("the stock hub answers", self._answers)

    def _start_web_server(self) -> None:
        pem, htpasswd = APACHE[1:]
        subject = ["-subj", "/CN=stock", "-keyout", pem, "-out", f"{pem}.new"]
        self._lab.run(HOST, ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "30", *subject])
        self._lab.run(HOST, ["sh", "-c", f"cat {pem}.new >> {pem}; rm {pem}.new; chmod 0600 {pem}"])
        self._write(htpasswd, "", "0644")
        for name in self._settings["users"]:
            password = self._lab.user(name).password
            done = subprocess.run(
                self._ssh(HOST, shlex.join(["htpasswd", "-i", htpasswd, name])), input=password, text=True, check=False
            )
            if done.returncode:
                raise LabError(f"{HOST}: htpasswd failed for {name} with exit code {done.returncode}")
        self._lab.run(HOST, ["a2enmod", "--quiet", *MODULES])
        self._write(APACHE[0], (HERE / "apache.conf").read_text(), "0644")
        self._lab.run(HOST, ["systemctl", "restart", "apache2"])

    def _has(self, program: str) -> bool:
        return bool(self._lab.run(HOST, ["sh", "-c", f"command -v {program} || true"]))

    def _answers(self) -> bool:
        asked = ["python3", "-c", f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/hub/api/')"]
        try:
            self._lab.run(HOST, asked)
        except LabError:
            return False
        return True

    def _remove(self) -> None:
        self._lab.run(HOST, ["systemctl", "stop", UNIT], check=False)
        if self._has("apache2"):
            self._lab.run(HOST, ["systemctl", "disable", "--now", "--quiet", "apache2"], check=False)
        self._lab.run(HOST, ["rm", "-rf", PROGRAMS, SHARED, STATE, f"/run/systemd/system/{UNIT}.service", *APACHE])
        self._lab.run(HOST, ["systemctl", "daemon-reload"])

    def _ssh(self, host: str, command: str) -> list[str]:
        return ["ssh", "-F", str(self._lab.directory / "ssh_config"), self._lab.host(host), "--", command]

    def _copy(self, source: str, target: str) -> None:
        """Copy a directory from the hub host. The source may be a symbolic link."""
        with subprocess.Popen(self._ssh("hub", f"tar -C {shlex.quote(source)} -c ."), stdout=subprocess.PIPE) as sender:
            unpack = f"mkdir -p {shlex.quote(target)} && tar -C {shlex.quote(target)} -x"
            subprocess.run(self._ssh(HOST, unpack), stdin=sender.stdout, check=True)
        if sender.returncode:
            raise LabError(f"copying {source} from the hub host failed")

    def _write(self, path: str, content: str, mode: str) -> None:
        argv = self._ssh(HOST, shlex.join(["install", "-m", mode, "/dev/stdin", path]))
        subprocess.run(argv, input=content, text=True, check=True)
