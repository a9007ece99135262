"""An Ansible module that makes the certificate authority of notebook servers, and its two clients' certificates."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    has_cryptography = True
except ImportError:  # said in main, by Ansible's own way
    has_cryptography = False

DOCUMENTATION = r"""
module: hpchub_authority
short_description: Make the certificate authority of notebook servers
description:
  - The hub gives each session a server certificate of this authority, in its user's name; the proxy and the hub have
    one client certificate each. So the proxy speaks to nobody but the user's own server, and a server to nobody else.
  - There are up to three authorities at a time. The I(current) one signs. The I(next) one is trusted already, by every
    session that starts; the I(previous) one is trusted still, for those that run. A rotation moves each one place on,
    and no session notices.
options:
  path:
    description: The directory of the files; it is made.
    type: path
    required: true
  owner:
    description: The hub's account, which signs and so reads the current authority's key, and its own.
    type: str
    required: true
  proxy_group:
    description: The proxy's group, which reads the proxy's key.
    type: str
    required: true
  rotate:
    description: Whether to move each authority one place on.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the authority of notebook servers
  hpchub_authority:
    path: /etc/hpchub/notebook-tls
    owner: jupyterhub
    proxy_group: hpchub-proxy
"""

RETURN = r"""
made:
  description: Names of what was made, or would be.
  type: list
  elements: str
  returned: always
"""

AUTHORITY_DAYS = 3650
CLIENTS = ("proxy", "hub")


class Authority:
    """The files in a directory: NAME.pem, key and certificate, of each authority and client; and whom to trust."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.directory = Path(module.params["path"])
        self.made: list[str] = []

    def path(self, name: str) -> Path:
        """A file's path."""
        return self.directory / f"{name}.pem"

    def make(self, *, rotate: bool) -> None:
        """Make what is missing; with ``rotate``, move on first."""
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
        # Whom proxy and hub trust to be a server, and whom servers trust to be the proxy or the hub.
        self.bundle("servers", "previous", "current", "next")
        self.bundle("clients", "current", "next")
        self.permit()

    def rotate(self) -> None:
        """Move on. Whichever of these steps was the last that was done, what there is goes together."""
        self.write("previous", self.certificate("current").public_bytes(serialization.Encoding.PEM), 0o444)
        self.path("next").replace(self.path("current"))

    def make_authority(self, name: str) -> None:
        """Make an authority, which signs servers and clients and no other authority."""
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
        """Make a client's certificate, good for that and not for a server."""
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
        """Whether a client's certificate is there and of the current authority."""
        return self.path(name).exists() and self.certificate(name).issuer == self.certificate("current").subject

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate in a file."""
        return x509.load_pem_x509_certificate(self.path(name).read_bytes())

    def bundle(self, name: str, *authorities: str) -> None:
        """Write the certificates of the authorities that there are."""
        certificates = [self.certificate(each) for each in authorities if self.path(each).exists()]
        text = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)
        if self.path(name).exists() and self.path(name).read_bytes() == text:
            return
        self.made.append(name)
        if not self.module.check_mode:
            self.write(name, text, 0o444)

    def permit(self) -> None:
        """Let those read who need to; who is not named here is root, who made the files."""
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
        """Write a key and its certificate, in one file, so that they are always of a pair."""
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.write(name, text + certificate.public_bytes(serialization.Encoding.PEM), 0o400)

    def write(self, name: str, content: bytes, mode: int) -> None:
        """Replace a file in one step."""
        fresh = self.directory / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=mode)
        fresh.write_bytes(content)
        fresh.replace(self.path(name))


def stamp() -> str:
    """Tells one authority from another: two of one name would be taken for each other."""
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")  # noqa: UP017 Python 3.9


def builder(subject: x509.Name, issuer: x509.Name, public: Any) -> x509.CertificateBuilder:
    """A certificate that is good for as long as an authority is."""
    now = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)  # noqa: UP017
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # clocks differ
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
    )


def main() -> None:
    """Entry point."""
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
        if module.check_mode:  # of a host that has nothing yet
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
