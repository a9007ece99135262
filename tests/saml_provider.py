"""A SAML identity provider on the loopback address, for tests. A test chooses who signs in. There is no password.

It implements what mod_auth_mellon uses of the Web Browser SSO Profile and the Single Logout Profile of SAML 2.0.
xmlsec1 signs its assertions. ``faults`` makes it fail.
"""

from __future__ import annotations

import base64
import datetime as dt
import html
import importlib.util
import json
import re
import secrets
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit
from xml.sax.saxutils import escape

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from provider_server import ProviderHandler, ProviderServer
from web_site import ROLE, render, template

if TYPE_CHECKING:
    from pathlib import Path

    from web_site import Browser, Site

NAMES = 'xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion"'
SIGNATURE = (
    '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>'
    '<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/>'
    '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"/><ds:Reference URI="#{id}">'
    '<ds:Transforms><ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<ds:Transform Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"/></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><ds:DigestValue/></ds:Reference>'
    "</ds:SignedInfo><ds:SignatureValue/></ds:Signature>"
)


def sign(text: str, key: Path, element: str) -> str:
    """Fill in the signature template of a document and return it, for the element with the attribute ``ID``."""
    unsigned = key.parent / f"unsigned-{secrets.token_hex(4)}.xml"
    unsigned.write_text(text)
    try:
        return subprocess.run(
            ["xmlsec1", "--sign", "--privkey-pem", str(key), "--id-attr:ID", element, str(unsigned)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        unsigned.unlink()


def moment(seconds: float) -> str:
    """Return a time relative to now, as SAML writes it."""
    now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


class SamlServer(ProviderServer):
    """The provider.

    Attributes:
        attributes: The attributes of the person who signs in next. A list has one element for each value.
        context: The class of the authentication, which may report a second factor.
        clock: How far the clock of the provider is ahead, in seconds.
        faults: What is wrong with the next assertion: ``unsigned``, ``other-key``, ``expired``, ``early``,
            ``audience``, or ``long`` for one that is valid for 20 hours.
        service: The name of the service.
        url: The address, which is also the name of the provider.
    """

    def __init__(self, tls: Path, service: str) -> None:
        self.tls, self.service = tls, service
        self.attributes: dict[str, Any] = {}
        self.context = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport"
        self.faults: set[str] = set()
        self.clock = 0.0
        self.requests: list[str] = []
        other = rsa.generate_private_key(65537, 2048)
        encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        (tls / "other.key").write_bytes(other.private_bytes(encoding, kind, serialization.NoEncryption()))
        super().__init__(tls, _Handler)

    def metadata(self, *, within: str = "", before: str = "", entity_id: str = "", **attributes: str) -> str:
        """Return the metadata of the provider.

        Args:
            within: Further elements of the provider's role, such as its extensions.
            before: Further elements before the role, such as a signature.
            entity_id: The name of the provider, if it is another.
            attributes: Further attributes, such as ``validUntil``.
        """
        further = "".join(f' {name}="{value}"' for name, value in attributes.items())
        certificate = "".join((self.tls / "signing.pem").read_text().splitlines()[1:-1])
        redirect = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
        return (
            '<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'
            f' entityID="{entity_id or self.url}"{further}>{before}'
            f'<IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">{within}'
            f'<KeyDescriptor use="signing"><ds:KeyInfo><ds:X509Data><ds:X509Certificate>{certificate}'
            "</ds:X509Certificate></ds:X509Data></ds:KeyInfo></KeyDescriptor>"
            f'<SingleLogoutService Binding="{redirect}" Location="{self.url}/slo"/>'
            "<NameIDFormat>urn:oasis:names:tc:SAML:2.0:nameid-format:transient</NameIDFormat>"
            f'<SingleSignOnService Binding="{redirect}" Location="{self.url}/sso"/>'
            "</IDPSSODescriptor></EntityDescriptor>"
        )

    def response(self, answers: str, address: str) -> str:
        """Return a response with an assertion about the current person, in base64.

        Args:
            answers: The ID of the request, or nothing for a response that nobody has asked for.
            address: Where the service expects the response.
        """
        now = moment(self.clock)
        last = moment(self.clock + (-120 if "expired" in self.faults else 72000 if "long" in self.faults else 300))
        first = moment(self.clock + (120 if "early" in self.faults else -10))
        audience = "https://other.example/sp" if "audience" in self.faults else self.service
        own = f"_{secrets.token_hex(16)}"
        to = f' InResponseTo="{answers}"' if answers else ""
        values = "".join(
            f'<saml:Attribute Name="{name}"><saml:AttributeValue>'
            + "</saml:AttributeValue><saml:AttributeValue>".join(
                escape(each) for each in (value if isinstance(value, list) else [value])
            )
            + "</saml:AttributeValue></saml:Attribute>"
            for name, value in self.attributes.items()
            if value != []
        )
        values = f"<saml:AttributeStatement>{values}</saml:AttributeStatement>" if values else ""
        text = (
            f'<samlp:Response {NAMES} ID="_{secrets.token_hex(16)}" Version="2.0" IssueInstant="{now}"'
            f' Destination="{address}"{to}><saml:Issuer>{self.url}</saml:Issuer><samlp:Status><samlp:StatusCode'
            ' Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>'
            f'<saml:Assertion ID="{own}" Version="2.0" IssueInstant="{now}"><saml:Issuer>{self.url}</saml:Issuer>'
            f"{'' if 'unsigned' in self.faults else SIGNATURE.format(id=own)}"
            '<saml:Subject><saml:NameID Format="urn:oasis:names:tc:SAML:2.0:nameid-format:transient">'
            f"_{secrets.token_hex(16)}</saml:NameID>"
            '<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData'
            f' NotOnOrAfter="{last}" Recipient="{address}"{to}/></saml:SubjectConfirmation></saml:Subject>'
            f'<saml:Conditions NotBefore="{first}" NotOnOrAfter="{last}"><saml:AudienceRestriction>'
            f"<saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>"
            f'<saml:AuthnStatement AuthnInstant="{now}" SessionIndex="s{own}"><saml:AuthnContext>'
            f"<saml:AuthnContextClassRef>{self.context}</saml:AuthnContextClassRef></saml:AuthnContext>"
            f"</saml:AuthnStatement>{values}</saml:Assertion></samlp:Response>"
        )
        if "unsigned" not in self.faults:
            key = self.tls / ("other.key" if "other-key" in self.faults else "signing.key")
            text = sign(text, key, "urn:oasis:names:tc:SAML:2.0:assertion:Assertion")
        return base64.b64encode(text.encode()).decode()

    def signed_query(self, pairs: dict[str, str]) -> str:
        """Return a query with a signature, as the binding HTTP-Redirect has it."""
        query = urlencode({**pairs, "SigAlg": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"})
        key: Any = serialization.load_pem_private_key((self.tls / "signing.key").read_bytes(), None)
        signature = key.sign(query.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{query}&{urlencode({'Signature': base64.b64encode(signature).decode()})}"


def metadata_of_two(*servers: SamlServer) -> str:
    """Return the metadata of a federation: University A and B, with the scopes a.example and b.example."""
    scope = "<Extensions><s:Scope xmlns:s='urn:mace:shibboleth:metadata:1.0'>{}.example</s:Scope>{}</Extensions>"
    ui = (
        "<m:UIInfo xmlns:m='urn:oasis:names:tc:SAML:metadata:ui'><m:DisplayName xml:lang='en'>University {}"
        "</m:DisplayName></m:UIInfo>"
    )
    parts = [
        server.metadata(within=scope.format(name, ui.format(name.upper())))
        for server, name in zip(servers, ("a", "b"), strict=True)
    ]
    return f"<EntitiesDescriptor xmlns='urn:oasis:names:tc:SAML:2.0:metadata'>{''.join(parts)}</EntitiesDescriptor>"


def metadata_program() -> Any:
    """Return the program that checks metadata, as a module."""
    spec = importlib.util.spec_from_file_location("saml_metadata", ROLE / "files" / "saml_metadata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_metadata(files: Path, metadata: str, **chosen: Any) -> dict[str, Any]:
    """Run the program of the role on metadata, as the role does. Return its settings, for the given choices."""
    state = files / "state"
    state.mkdir(exist_ok=True)
    (files / "given.xml").write_text(metadata)
    words = {"label": "Your organisation", "button": "Continue"}
    settings = {
        "url": "", "file": str(files / "given.xml"), "ca": "", "certificate": "", "providers": [], "all": False,
        "directory": str(state), "parameter": "IdP", "languages": dict.fromkeys(("en", "de"), words), **chosen,
    }  # fmt: skip
    (files / "metadata.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-I", str(ROLE / "files" / "saml_metadata.py"), str(files / "metadata.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return settings


def saml_arguments(site: Site, provider: SamlServer, metadata: str | None = None, **chosen: Any) -> dict[str, Any]:
    """Write the files that the role writes for a provider, and return the arguments of the role.

    Args:
        site: The site.
        provider: The provider.
        metadata: The metadata, if it is not that of the provider alone.
        chosen: The settings ``providers``, ``all`` and ``parameter`` of the program that checks metadata.
    """
    files = site.directory / "etc" / "saml"
    files.mkdir()
    settings = write_metadata(files, provider.metadata() if metadata is None else metadata, **chosen)
    (files / "sp.pem").write_text((site.directory / "tls" / "signing.pem").read_text())
    (site.directory / "secrets" / "saml-sp.key").write_text((site.directory / "tls" / "signing.key").read_text())
    given = {"reverse_proxy_public_url": site.url}
    certificate = "".join((files / "sp.pem").read_text().splitlines()[1:-1])
    text = render(given, {"metadata": template("sp-metadata.xml.j2", __reverse_proxy_saml_certificates=[certificate])})
    (files / "sp-metadata.xml").write_text(text["metadata"])
    return {
        "reverse_proxy_sso_provider": "saml",
        "reverse_proxy_saml_user_attribute": "uid",
        "reverse_proxy_saml_groups_attribute": "groups",
        "__reverse_proxy_saml_state": settings["directory"],
        "reverse_proxy_saml_providers": settings["providers"],
        "reverse_proxy_saml_all_providers": settings["all"],
        "__reverse_proxy_saml_lock": str(site.directory / "cache" / "saml.lock"),
        "__reverse_proxy_saml_sessions": 64,
    }


def send_form(browser: Browser, text: str) -> Any:
    """Send the form of the provider's page, as its script does."""
    form = re.search(r'action="([^"]+)"', text)
    assert form is not None
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', text)
    body = urlencode({name: html.unescape(value) for name, value in fields})
    sent = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site"}
    return browser.ask(form[1], sent, method="POST", body=body)


def post_response(browser: Browser, page: Any) -> Any:
    """Send the form of the provider's page if it is one, and follow the redirects after it."""
    if "<form" not in page.text:
        return page
    answer = send_form(browser, page.text)
    return browser.open(answer.headers["Location"]) if answer.status in (302, 303) else answer


def deflated(text: str) -> str:
    """Return a message as the binding HTTP-Redirect encodes it."""
    packed = zlib.compressobj(wbits=-15)
    return base64.b64encode(packed.compress(text.encode()) + packed.flush()).decode()


class _Handler(ProviderHandler):
    server: SamlServer

    def do_GET(self) -> None:  # noqa: N802 the name of the base class
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if "SAMLRequest" not in query:
            self._page("")
            return
        request = zlib.decompress(base64.b64decode(query["SAMLRequest"]), -15).decode()
        self.server.requests.append(request)
        own = re.search(r'\bID="([^"]+)"', request)
        assert own is not None
        if address.path == "/slo":
            base = self.server.service.removesuffix("/metadata")
            answer = (
                f'<samlp:LogoutResponse {NAMES} ID="_{secrets.token_hex(16)}" Version="2.0" IssueInstant="{moment(0)}"'
                f' Destination="{base}/logout" InResponseTo="{own[1]}"><saml:Issuer>{self.server.url}</saml:Issuer>'
                '<samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>'
                "</samlp:LogoutResponse>"
            )
            pairs = {"SAMLResponse": deflated(answer), "RelayState": query.get("RelayState", "")}
            self.redirect(f"{base}/logout?{self.server.signed_query(pairs)}")
            return
        found = re.search(r'AssertionConsumerServiceURL="([^"]+)"', request)
        target = found[1] if found else f"{self.server.service.removesuffix('/metadata')}/postResponse"
        fields = {"SAMLResponse": self.server.response(own[1], target), "RelayState": query.get("RelayState", "")}
        inputs = "".join(f'<input name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
        self._page(f'<form method="post" action="{target}">{inputs}</form>')

    def _page(self, text: str) -> None:
        self.answer("text/html", text.encode())
