"""The Ansible module ``notebook_certificates``: create the certificates that secure the way to notebook servers."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    has_cryptography = True
except ImportError:  # main() reports it in Ansible's form.
    has_cryptography = False

DOCUMENTATION = r"""
module: notebook_certificates
short_description: Create the certificate authority of notebook servers
version_added: 1.0.0
author: The hpchub contributors
description:
  - The hub issues a server certificate of this authority for each session, in the name of the session's user. The proxy
    and the hub have one client certificate each. Therefore the proxy connects only to the user's own server, and a
    server accepts only the proxy and the hub.
  - There are up to three authorities. The I(current) one signs. Every session that starts already trusts the I(next)
    one. The I(previous) one is still trusted, for sessions that run. A rotation makes the next authority the current
    one, and does not interrupt any session.
  - The private key of each authority and client is in the same file as its certificate, so that they always match.
options:
  path:
    description: The directory of the files. The module creates it.
    type: path
    required: true
  owner:
    description: The account of the hub. It can read the key of the current authority and the key of the hub.
    type: str
    required: true
  proxy_group:
    description: The group of the proxy. It can read the key of the proxy.
    type: str
    required: true
  rotate:
    description: Whether to make the next authority the current one.
    type: bool
    default: false
requirements:
  - cryptography
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Create the authority of notebook servers
  hpchub.hpchub.notebook_certificates:
    path: /etc/hpchub/notebook-tls
    owner: jupyterhub
    proxy_group: hpchub-proxy

- name: Continue with the next authority
  hpchub.hpchub.notebook_certificates:
    path: /etc/hpchub/notebook-tls
    owner: jupyterhub
    proxy_group: hpchub-proxy
    rotate: true
"""

RETURN = r"""
made:
  description: The names of the files that were created or changed. In check mode, those that would be.
  type: list
  elements: str
  returned: always
"""

AUTHORITY_DAYS = 3650
CLIENTS = ("proxy", "hub")


class Authority:
    """The files in the directory.

    ``NAME.pem`` holds the key and the certificate of each authority and client. ``servers.pem`` holds the authorities
    that the proxy and the hub trust; ``clients.pem`` holds the authorities that notebook servers trust.

    Args:
        module: The running module.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = Path(module.params["path"])
        self.made: list[str] = []

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.directory / f"{name}.pem"

    def make(self, *, rotate: bool) -> None:
        """Create what is missing. With ``rotate``, switch to the next authority first."""
        if rotate and self.path("current").exists() and self.path("next").exists():
            self.made.append("rotation")
            if not self.module.check_mode:
                self.rotate()
        for name in ("current", "next"):
            if not self.path(name).exists():
                self.made.append(name)
                if not self.module.check_mode:
                    self.make_authority(name)
        if self.module.check_mode and self.made:
            return
        for name in CLIENTS:
            if not self.is_good(name):
                self.made.append(name)
                if not self.module.check_mode:
                    self.make_client(name)
        self.bundle("servers", "previous", "current", "next")
        self.bundle("clients", "current", "next")
        self.permit()

    def rotate(self) -> None:
        """Switch to the next authority. The files match each other even if this is interrupted between two steps."""
        self.write("previous", self.certificate("current").public_bytes(serialization.Encoding.PEM), 0o444)
        self.path("next").replace(self.path("current"))

    def make_authority(self, name: str) -> None:
        """Create an authority. It can sign servers and clients, but no other authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hpchub notebook servers {stamp()}")])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            builder(subject, subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.write_pair(name, key, certificate)

    def make_client(self, name: str) -> None:
        """Create the certificate of a client. A server cannot use it."""
        authority = self.certificate("current")
        signer = serialization.load_pem_private_key(self.path("current").read_bytes(), password=None)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hpchub {name}")])
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())  # type: ignore[arg-type]
        certificate = (
            builder(subject, authority.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True)
            .add_extension(identifier, critical=False)
            .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
        )
        self.write_pair(name, key, certificate)

    def is_good(self, name: str) -> bool:
        """Return whether a client has a certificate of the current authority."""
        return self.path(name).exists() and self.certificate(name).issuer == self.certificate("current").subject

    def certificate(self, name: str) -> x509.Certificate:
        """Return the certificate in a file."""
        return x509.load_pem_x509_certificate(self.path(name).read_bytes())

    def bundle(self, name: str, *authorities: str) -> None:
        """Write the certificates of those authorities that exist into one file."""
        certificates = [self.certificate(each) for each in authorities if self.path(each).exists()]
        text = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
        if self.path(name).exists() and self.path(name).read_bytes() == text:
            return
        self.made.append(name)
        if not self.module.check_mode:
            self.write(name, text, 0o444)

    def permit(self) -> None:
        """Set the owner and the mode of each file. The owner is root unless another one is named here."""
        owner, group = self.module.params["owner"], self.module.params["proxy_group"]
        wanted: dict[Path, dict[str, str]] = {
            self.directory: {"mode": "0755"},
            self.path("previous"): {"mode": "0444"},
            self.path("current"): {"owner": owner, "mode": "0400"},
            self.path("next"): {"mode": "0400"},
            self.path("proxy"): {"group": group, "mode": "0440"},
            self.path("hub"): {"owner": owner, "mode": "0400"},
            self.path("servers"): {"mode": "0444"},
            self.path("clients"): {"mode": "0444"},
        }
        for path, attributes in wanted.items():
            if path.exists():
                arguments = self.module.load_file_common_arguments(attributes, path=str(path))
                if self.module.set_fs_attributes_if_different(arguments, changed=False) and path.stem not in self.made:
                    self.made.append(f"permissions of {path.name}")

    def write_pair(self, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        """Write a key and its certificate into one file, so that they always match."""
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.write(name, text + certificate.public_bytes(serialization.Encoding.PEM), 0o400)

    def write(self, name: str, content: bytes, mode: int) -> None:
        """Replace a file atomically."""
        fresh = self.directory / f".{name}.new"
        fresh.unlink(missing_ok=True)
        # The file never has a wider mode than in the end, not even while it is empty.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        fresh.replace(self.path(name))


def stamp() -> str:
    """Return a unique suffix for the name of an authority. Two authorities of one name would be confused."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")  # noqa: UP017 - hosts may have Python 3.9


def builder(subject: x509.Name, issuer: x509.Name, public: Any) -> x509.CertificateBuilder:
    """Return a builder for a certificate that is valid as long as an authority is."""
    now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)  # noqa: UP017
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # The clocks of hosts may differ.
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"required": True},
            "proxy_group": {"required": True},
            "rotate": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if not has_cryptography:
        if module.check_mode:  # An earlier task would have installed it.
            module.exit_json(changed=True, made=["everything"])
        module.fail_json(msg=missing_required_lib("cryptography"))
    authority = Authority(module)
    try:
        if not module.check_mode:
            authority.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        authority.make(rotate=module.params["rotate"])
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=bool(authority.made), made=authority.made)


if __name__ == "__main__":
    main()
