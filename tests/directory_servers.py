"""A directory (OpenLDAP's slapd) and a Kerberos realm (MIT's krb5kdc) on the loopback address, for tests."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from apache_server import free_port, make_own, own_account

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

REALM = "EXAMPLE.ORG"
BASE = "dc=example,dc=org"
_SBIN = f"{os.environ['PATH']}:/usr/sbin"


def _find(name: str) -> str | None:
    return shutil.which(name, path=_SBIN)


def has_slapd() -> bool:
    """Return whether this machine has slapd and the programs for it."""
    return all(_find(name) for name in ("slapd", "ldapadd", "slapadd"))


def has_kdc() -> bool:
    """Return whether this machine has a KDC and the programs for it."""
    return all(_find(name) for name in ("krb5kdc", "kadmin.local", "kdb5_util"))


def _run(command: Sequence[str], text: str = "", environment: dict[str, str] | None = None) -> None:
    """Run a command as the account of Apache, so that no mistake in a test can change the machine."""
    done = subprocess.run(
        [str(_find(command[0])), *command[1:]],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **own_account(),
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def _wait(port: int) -> None:
    for _ in range(250):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


class Directory:
    """A directory with TLS.

    Attributes:
        url: Its address.
    """

    def __init__(self, top: Path, tls: Path) -> None:
        make_own(top, top / "db")
        self._password = "correct horse"
        self._names: set[str] = set()
        plain, port = free_port(), free_port()
        self.url = f"ldaps://localhost:{port}"
        self._plain = f"ldap://127.0.0.1:{plain}"
        (top / "slapd.conf").write_text(
            "\n".join(
                [
                    *(f"include /etc/ldap/schema/{name}.schema" for name in ("core", "cosine", "inetorgperson")),
                    f"pidfile {top}/pid",
                    "modulepath /usr/lib/ldap",
                    "moduleload back_mdb",
                    f"TLSCertificateFile {tls}/provider.pem",
                    f"TLSCertificateKeyFile {tls}/provider.key",
                    "database mdb",
                    f'suffix "{BASE}"',
                    f'rootdn "cn=admin,{BASE}"',
                    f'rootpw "{self._password}"',
                    f"directory {top}/db",
                ]
            )
            + "\n"
        )
        entries = f"dn: {BASE}\nobjectClass: domain\ndc: example\n\n"
        entries += f"dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n"
        _run(["slapadd", "-f", str(top / "slapd.conf")], entries)
        command = [str(_find("slapd")), "-d", "0", "-f", str(top / "slapd.conf"), "-h", f"{self._plain} {self.url}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **own_account())
        _wait(port)

    def add(self, name: str, password: str) -> None:
        """Add an account, unless another one differs from it in case only."""
        if name.lower() in self._names:
            return
        self._names.add(name.lower())
        number = len(self._names)
        entry = [f"dn: cn=n{number},ou=people,{BASE}", "objectClass: inetOrgPerson", f"cn: n{number}", "sn: x"]
        values = {"uid": name, "mail": f"n{number}@example.org", "userPassword": password}
        entry += [f"{key}:: {base64.b64encode(value.encode()).decode()}" for key, value in values.items()]
        admin = ["-x", "-D", f"cn=admin,{BASE}", "-w", self._password]
        _run(["ldapadd", "-H", self._plain, *admin], "\n".join(entry) + "\n")

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(timeout=20)


class Realm:
    """A realm.

    Attributes:
        environment: The environment variables of programs that use this realm.
    """

    def __init__(self, top: Path, host: str) -> None:
        make_own(top)
        port = free_port()
        (top / "krb5.conf").write_text(
            f"[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\nrdns = false\nudp_preference_limit = 1\n"
            "dns_canonicalize_hostname = false\n"
            f"[realms]\n{REALM} = {{\n  kdc = 127.0.0.1:{port}\n}}\n[domain_realm]\n{host} = {REALM}\n"
        )
        (top / "kdc.conf").write_text(
            f'[kdcdefaults]\nkdc_listen = ""\nkdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{REALM} = {{\n'
            f"  database_name = {top}/principal\n  key_stash_file = {top}/stash\n"
            f"  kdc_listen = 127.0.0.1:{port}\n  kdc_tcp_listen = 127.0.0.1:{port}\n}}\n"
        )
        self._host = host
        self._names: set[str] = set()
        self.environment = {
            "KRB5_CONFIG": str(top / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(top / "kdc.conf"),
            "KRB5RCACHENAME": "none:",
        }
        self._all = os.environ | self.environment
        _run(["kdb5_util", "create", "-r", REALM, "-s", "-P", "master"], environment=self._all)
        _run(["kadmin.local", "-q", f"addprinc -randkey HTTP/{host}"], environment=self._all)
        self._process = subprocess.Popen(
            [str(_find("krb5kdc")), "-n"],
            env=self._all,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **own_account(),
        )
        _wait(port)

    def keytab(self, path: Path) -> None:
        """Write the keytab of the web server."""
        _run(["kadmin.local", "-q", f"ktadd -k {path} HTTP/{self._host}"], environment=self._all)

    def add(self, name: str, password: str) -> None:
        """Add a principal, unless it exists or the name cannot be one on kadmin's command line."""
        if name in self._names or not name.replace("/", "").replace("@", "").isprintable() or set(name) & set(' "\n'):
            return
        self._names.add(name)
        escaped = name.replace("@", "\\@")
        _run(["kadmin.local", "-q", f'addprinc -pw "{password}" {escaped}'], environment=self._all)

    def stop(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(timeout=20)
