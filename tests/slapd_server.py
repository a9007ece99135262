"""A real LDAP server (slapd) for tests, on the loopback interface, with a certificate for TLS."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SLAPD = Path("/usr/sbin/slapd")
SCHEMAS = Path("/etc/ldap/schema")

needs_slapd = pytest.mark.skipif(
    not SLAPD.exists() and os.environ.get("HPCHUB_SERVERS") != "required",
    reason="this machine has no LDAP server (Debian's package slapd)",
)
"""Skips a test on a machine without a server, unless HPCHUB_SERVERS requires one."""

BASE = "dc=uni,dc=example"
SERVICE = f"cn=hpchub,{BASE}"
SERVICE_PASSWORD = "service-password"
PEOPLE = {"alice": "wonder land", "first.last": "p", "bob": "b", "dave": "d"}


def entries() -> str:
    """Return the content of the directory, as LDIF."""
    lines = [f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: uni\ndc: uni\n"]
    lines += [f"dn: ou={name},{BASE}\nobjectClass: organizationalUnit\nou: {name}\n" for name in ("people", "groups")]
    lines.append(
        f"dn: {SERVICE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: hpchub\n"
        f"userPassword: {SERVICE_PASSWORD}\n"
    )
    for name, password in PEOPLE.items():
        lines.append(
            f"dn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
            f"mail: {name}@uni.example\nemployeeType: active\nuserPassword: {password}\n"
        )
    lines.append(
        f"dn: cn=twin one,ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: twin\nuid: other\ncn: twin one\nsn: t\n"
        "employeeType: active\nuserPassword: t\n"
    )
    members = "".join(f"member: uid={name},ou=people,{BASE}\n" for name in ("alice", "first.last", "dave"))
    lines.append(f"dn: cn=hpc,ou=groups,{BASE}\nobjectClass: groupOfNames\ncn: hpc\n{members}")
    return "\n".join(lines)


class Slapd:
    """A running server. Tests may change its content, stop it, and start it again."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hpchub-slapd-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._certificate()
        (self.directory / "db").mkdir()
        (self.directory / "slapd.conf").write_text(
            "".join(f"include {SCHEMAS}/{name}.schema\n" for name in ("core", "cosine", "inetorgperson"))
            + f"pidfile {self.directory}/pid\nmoduleload back_mdb\n"
            f"TLSCertificateFile {self.directory}/server.pem\nTLSCertificateKeyFile {self.directory}/server.key\n"
            f"security simple_bind=128\ndatabase mdb\nmaxsize 16777216\nsuffix {BASE}\ndirectory {self.directory}/db\n"
            f'rootdn "cn=root,{BASE}"\nrootpw root\n'
            "access to attrs=userPassword by anonymous auth by * none\n"
            f'access to * by dn.exact="{SERVICE}" read by * none\n'
        )
        content = self.directory / "content.ldif"
        content.write_text(entries())
        command = ["/usr/sbin/slapadd", "-f", str(self.directory / "slapd.conf"), "-l", str(content)]
        subprocess.run(command, check=True, capture_output=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def ca_file(self) -> str:
        """The file with the certificate of the server."""
        return str(self.directory / "server.pem")

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        address = f"ldap://127.0.0.1:{self.port}"
        command = [str(SLAPD), "-f", str(self.directory / "slapd.conf"), "-h", address, "-d", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Stop the server."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def forget_tls(self) -> None:
        """Remove TLS from the configuration of the stopped server, which then accepts passwords without it."""
        path = self.directory / "slapd.conf"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(("TLS", "security"))))

    def change(self, ldif: str) -> None:
        """Change the content, as the administrator of the directory."""
        command = [
            "ldapmodify",
            "-x",
            "-ZZ",
            "-H",
            f"ldap://127.0.0.1:{self.port}",
            "-D",
            f"cn=root,{BASE}",
            "-w",
            "root",
        ]
        environment = {**os.environ, "LDAPTLS_CACERT": self.ca_file}
        subprocess.run(command, input=ldif.encode(), check=True, capture_output=True, env=environment)

    def close(self) -> None:
        """Stop the server and remove its files."""
        self.stop()
        shutil.rmtree(self.directory)

    def _certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        now = datetime.now(UTC)
        built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        built = (
            built.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
        )
        addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = built.add_extension(addresses, critical=False).sign(key, hashes.SHA256())
        (self.directory / "server.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.directory / "server.key").write_bytes(private)
