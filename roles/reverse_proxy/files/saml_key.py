#!/usr/bin/python3
"""Check that shibd can load the key of the SAML service. shibd starts without a key, and then signs no request.

Usage: saml-key KEY CERTIFICATE
"""

from __future__ import annotations

import ssl
import sys

FIX = "; run site.yml again"
COPY = (
    "; systemd copies the key there. This fails if mounts do not propagate on this host, as in some containers: run"
    " 'mount --make-rshared /' there, or let your container engine do it"
)


def problem(key: str, certificate: str) -> str:
    """Return why shibd cannot use the key and its certificate, what to do, or nothing."""
    for path, fix in ((key, COPY), (certificate, FIX)):
        try:
            with open(path, "rb"):  # noqa: PTH123 the daemon opens it in this way too
                pass
        except OSError as error:
            return f"shibd cannot read {path}: {error.strerror}{fix}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password, OpenSSL would ask for the one of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        # The last one is the reason if the key has another type.
        if error.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:
            return f"the key {key} does not belong to the certificate {certificate}{FIX}"
        return f"{key} or {certificate} is no usable key or certificate in PEM form{FIX}"
    return ""


if __name__ == "__main__":
    sys.exit(problem(*sys.argv[1:]) or 0)
