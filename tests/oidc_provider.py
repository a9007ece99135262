"""An OpenID provider on the loopback address, for tests. A test chooses who signs in. There is no password.

It implements what mod_auth_openidc uses of OpenID Connect Core 1.0 (sections 3.1.2 to 3.1.3, 5.3), of Discovery 1.0,
of RP-Initiated Logout 1.0, and of RFC 9207 (the issuer in the answer).
"""

from __future__ import annotations

import base64
import html
import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from provider_server import ProviderHandler, ProviderServer

if TYPE_CHECKING:
    from pathlib import Path

    from web_site import Browser, Site


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Provider(ProviderServer):
    """The provider.

    Attributes:
        claims: The claims of the person who signs in next.
        url: The address of the provider.
    """

    def __init__(self, tls: Path) -> None:
        self.claims: dict[str, Any] = {"sub": "nobody"}
        self.codes: dict[str, tuple[str, dict[str, Any]]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        key = serialization.load_pem_private_key((tls / "signing.key").read_bytes(), None)
        self.key = cast("rsa.RSAPrivateKey", key)
        super().__init__(tls, _Handler)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the provider."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/jwks",
            "end_session_endpoint": f"{self.url}/logout",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def token(self, claims: dict[str, Any]) -> str:
        """Return a signed token."""
        head = _base64(json.dumps({"alg": "RS256", "typ": "JWT", "kid": "k"}).encode())
        text = f"{head}.{_base64(json.dumps(claims).encode())}"
        return f"{text}.{_base64(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def several(site: Site, providers: dict[str, Provider]) -> dict[str, Any]:
    """Write the files that the role writes for several providers, and return the arguments of the role."""
    directory = site.directory / "etc" / "oidc"
    directory.mkdir(exist_ok=True)
    for provider in providers.values():
        stem = quote(provider.url.removeprefix("https://"), safe="")
        files = {
            "provider": provider.metadata(),
            "client": {"client_id": "hpchub", "client_secret": "secret"},
            "conf": {"scope": "openid profile"},
        }
        for suffix, value in files.items():
            (directory / f"{stem}.{suffix}").write_text(json.dumps(value))
    return {
        "reverse_proxy_oidc_metadata_url": "",
        "reverse_proxy_oidc_client_secret": "",
        "reverse_proxy_oidc_providers": [
            {"key": key, "title": f"The {key} & co", "issuer": each.url} for key, each in providers.items()
        ],
    }


def choose(browser: Browser, page: Any, key: str) -> Any:
    """Choose a provider on the page, if it is the one with the choice. Return the answer after the sign-in."""
    found = re.search(r'name="target" value="([^"]*)"', page.text)
    if found is None:
        return page
    assert f'<button name="provider" value="{key}">The {key} &amp; co</button>' in page.text, page.text
    return browser.open(f"/sso/choose?{urlencode({'target': html.unescape(found[1]), 'provider': key})}")


class _Handler(ProviderHandler):
    server: Provider

    def do_GET(self) -> None:  # noqa: N802 the name of the base class
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        name = "metadata" if address.path == "/.well-known/openid-configuration" else address.path.strip("/")
        getattr(self, f"_{name}")(query)

    def do_POST(self) -> None:  # noqa: N802 the name of the base class
        length = int(self.headers.get("Content-Length") or 0)
        form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
        getattr(self, f"_{self.path.strip('/')}")(form)

    def _json(self, value: object) -> None:
        self.answer("application/json", json.dumps(value).encode())

    def _metadata(self, _: dict[str, str]) -> None:
        self._json(self.server.metadata())

    def _jwks(self, _: dict[str, str]) -> None:
        numbers = self.server.key.public_key().public_numbers()
        parts = {name: _base64(value.to_bytes((value.bit_length() + 7) // 8)) for name, value in
                 (("n", numbers.n), ("e", numbers.e))}  # fmt: skip
        self._json({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k", **parts}]})

    def _authorize(self, query: dict[str, str]) -> None:
        code = secrets.token_urlsafe(16)
        self.server.codes[code] = (query.get("nonce", ""), dict(self.server.claims))
        answer = {"code": code, "state": query["state"], "iss": self.server.url}
        self.redirect(f"{query['redirect_uri']}?{urlencode(answer)}")

    def _token(self, form: dict[str, str]) -> None:
        nonce, claims = self.server.codes.pop(form["code"])
        access = secrets.token_urlsafe(16)
        self.server.tokens[access] = claims
        now = int(time.time())
        own = {name: claims[name] for name in ("acr", "amr", "sub") if name in claims}
        identity = own | {"iss": self.server.url, "aud": "hpchub", "exp": now + 600, "iat": now, "nonce": nonce}
        identity |= {name: claims[name] for name in ("exp", "iat", "nonce") if name in claims}
        self._json(
            {"access_token": access, "token_type": "Bearer", "expires_in": 600, "id_token": self.server.token(identity)}
        )

    def _userinfo(self, _: dict[str, str]) -> None:
        self._json(self.server.tokens[self.headers["Authorization"].split()[1]])

    def _logout(self, query: dict[str, str]) -> None:
        self.redirect(query["post_logout_redirect_uri"])
