"""The program that fetches and checks SAML metadata, with a real xmlsec1 and a real HTTPS server."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import re
import shutil
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from saml_provider import SIGNATURE, SamlServer, metadata_program, moment, sign

from lab.certificates import make_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(shutil.which("xmlsec1") is None, reason="xmlsec1 is not installed")
program = metadata_program()
NAMESPACE = "urn:oasis:names:tc:SAML:2.0:metadata"
UI = 'xmlns:mdui="urn:oasis:names:tc:SAML:metadata:ui"'
ONE, TWO = "https://one.example/idp", "https://two.example/idp"
WORDS = {"label": "Your organisation", "button": "Continue"}


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamlServer]:
    """A provider. Its key ``signing.key`` signs the metadata."""
    tls = tmp_path_factory.mktemp("tls")
    make_certificates(tls, {"provider": ["localhost"]})
    server = SamlServer(tls, "https://sp.example/saml/metadata")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, provider: SamlServer) -> dict[str, Any]:
    """The settings of the program, for metadata in a file that ``signing.pem`` signs."""
    (tmp_path / "state").mkdir()
    return {
        "url": "", "file": str(tmp_path / "given.xml"), "ca": str(provider.tls / "ca.pem"), "all": False,
        "providers": [],
        "certificate": str(provider.tls / "signing.pem"), "directory": str(tmp_path / "state"),
        "languages": {"en": WORDS, "de": WORDS}, "parameter": "IdP",
    }  # fmt: skip


def signed(provider: SamlServer, text: str, key: str = "signing.key", kind: str = "EntityDescriptor") -> str:
    return sign(text, provider.tls / key, f"{NAMESPACE}:{kind}")


def one(provider: SamlServer, **attributes: str) -> str:
    """Return metadata with the place of a signature."""
    return provider.metadata(before=SIGNATURE.format(id="_m"), ID="_m", **attributes)


def extensions(name: str, *scopes: str) -> str:
    texts = "".join(f'<s:Scope xmlns:s="urn:mace:shibboleth:metadata:1.0">{scope}</s:Scope>' for scope in scopes)
    names = f'<mdui:UIInfo {UI}><mdui:DisplayName xml:lang="en">{name}</mdui:DisplayName></mdui:UIInfo>'
    return f"<Extensions>{texts}{names}</Extensions>"


def federation(provider: SamlServer, **attributes: str) -> str:
    """Return unsigned metadata of two providers with scopes, and of a service."""
    parts = [
        provider.metadata(entity_id=ONE, within=extensions("Ünï &amp; &lt;Öne&gt;", "one.example", "1.example")),
        provider.metadata(entity_id=TWO, within=extensions("Two", "two.example")),
        f'<EntityDescriptor xmlns="{NAMESPACE}" entityID="https://service.example"/>',
    ]
    further = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<EntitiesDescriptor xmlns="{NAMESPACE}"{further}>{"".join(parts)}</EntitiesDescriptor>'


def refusal(text: str | bytes, settings: dict[str, Any]) -> str:
    with pytest.raises(program.Refused) as found:
        program.evaluate(text.encode() if isinstance(text, str) else text, settings)
    return str(found.value)


def test_signed_metadata_is_accepted(provider: SamlServer, settings: dict[str, Any]) -> None:
    files = program.evaluate(signed(provider, one(provider)).encode(), settings)
    assert provider.url in files["idp-metadata.xml"]
    assert [text for name, text in files.items() if name.startswith("scopes/")] == ["*\n"]


def test_any_of_several_certificates_may_sign(provider: SamlServer, settings: dict[str, Any], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text((provider.tls / "provider.pem").read_text() + (provider.tls / "signing.pem").read_text())
    program.evaluate(signed(provider, one(provider)).encode(), settings | {"certificate": str(both)})


def _key_value(provider: SamlServer) -> str:
    """Return a signature with another key, which also contains the key that verifies it. xmlsec1 fills the key in."""
    own = "<ds:SignatureValue/><ds:KeyInfo><ds:KeyValue/></ds:KeyInfo>"
    return signed(provider, one(provider).replace("<ds:SignatureValue/>", own), "other.key")


def _wrapped(provider: SamlServer) -> str:
    """Return metadata of an attacker around signed metadata. The signature comes first."""
    good = signed(provider, one(provider)).split("?>", 1)[-1].strip()
    signature = re.search(r"<ds:Signature.*</ds:Signature>", good, re.DOTALL)
    assert signature is not None
    evil = provider.metadata(entity_id="https://evil.example/idp")
    rest = good.replace(signature[0], "")
    return f'<EntitiesDescriptor xmlns="{NAMESPACE}" ID="_e">{signature[0]}{evil}{rest}</EntitiesDescriptor>'


def _twice(provider: SamlServer) -> str:
    """Return metadata of an attacker with the ID of the signed metadata that it contains."""
    return _wrapped(provider).replace('ID="_e"', 'ID="_m"')


def _inner(provider: SamlServer) -> str:
    good = signed(provider, one(provider)).split("?>", 1)[-1]
    return f'<EntitiesDescriptor xmlns="{NAMESPACE}">{good}</EntitiesDescriptor>'


WRONG: dict[str, tuple[Callable[[SamlServer], str], str]] = {
    "unsigned": (lambda p: p.metadata(), "is not signed"),
    "other-key": (lambda p: signed(p, one(p), "other.key"), "not of metadata_certificate"),
    "own-key": (_key_value, "not of metadata_certificate"),
    "changed": (lambda p: signed(p, one(p)).replace("/sso", "/evil"), "not of metadata_certificate"),
    "wrapped": (_wrapped, "does not cover all of it"),
    "same-id": (_twice, "an ID is used twice"),
    "inner": (_inner, "is not signed"),
    "no-transform": (lambda p: signed(p, one(p).replace("xmldsig#enveloped-signature", "xmldsig#base64")), "algorithm"),
    "weak": (
        lambda p: signed(p, one(p).replace("2001/04/xmldsig-more#rsa-sha256", "2000/09/xmldsig#rsa-sha1")),
        "rsa-sha1, which is not accepted",
    ),
    "weak-digest": (
        lambda p: signed(p, one(p).replace("2001/04/xmlenc#sha256", "2000/09/xmldsig#sha1")),
        "sha1, which is not accepted",
    ),
    "expired": (lambda p: signed(p, one(p, validUntil=moment(-5))), "expired at"),
    "odd-time": (lambda p: signed(p, one(p, validUntil="soon")), "expired at an unreadable time"),
    "dtd": (lambda p: '<!DOCTYPE x [<!ENTITY a "b">]>' + signed(p, one(p)).split("?>", 1)[-1], "document type"),
    "no-xml": (lambda _: "<a", "not well-formed"),
    "page": (lambda _: "<html/>", "is not SAML metadata"),
    "empty": (lambda _: "", "not well-formed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_metadata_is_refused(provider: SamlServer, settings: dict[str, Any], case: str) -> None:
    make, reason = WRONG[case]
    if case == "no-transform":
        text = signed(provider, one(provider)).replace("xmldsig#enveloped-signature", "xmldsig#base64")
    else:
        text = make(provider)
    assert reason in refusal(text, settings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("https://localhost", "http://localhost"), "no identity provider"),
        (lambda text: re.sub(r"<KeyDescriptor.*</KeyDescriptor>", "", text), "no identity provider"),
        (lambda text: text.replace("SAML:2.0:protocol", "SAML:1.1:protocol"), "no identity provider"),
        (lambda text: text.replace("<IDPSSO", f'<IDPSSODescriptor validUntil="{moment(-5)}" x="', 1).replace(
            'x="Descriptor', 'x="'), "not well-formed|no identity provider"),
    ],
    ids=["no-https", "no-key", "saml-1", "role-expired"],
)  # fmt: skip
def test_provider_that_cannot_be_used_is_none(
    provider: SamlServer, settings: dict[str, Any], change: Any, reason: str
) -> None:
    assert re.search(reason, refusal(change(provider.metadata()), settings | {"certificate": ""}))


@pytest.mark.parametrize(
    ("chosen", "scopes"),
    [
        ({"all": True}, {ONE: "one.example\n1.example\n", TWO: "two.example\n"}),
        ({"providers": [{"entity_id": ONE, "scopes": []}]}, {ONE: "one.example\n1.example\n"}),
        ({"providers": [{"entity_id": TWO, "scopes": ["2.example"]}, {"entity_id": "x"}]}, {TWO: "2.example\n"}),
    ],
    ids=["all", "one", "own-scopes"],
)
def test_federation_has_the_chosen_providers_with_their_scopes(
    provider: SamlServer, settings: dict[str, Any], chosen: dict[str, Any], scopes: dict[str, str]
) -> None:
    text = signed(provider, federation(provider, ID="_f").replace(
        ">", f">{SIGNATURE.format(id='_f')}", 1), kind="EntitiesDescriptor")  # fmt: skip
    files = program.evaluate(text.encode(), settings | chosen)
    names = {name: f"scopes/{program.hashlib.sha1(name.encode()).hexdigest()}" for name in (ONE, TWO)}
    assert {name: files[path] for name, path in names.items() if path in files} == scopes
    assert {name for name in (ONE, TWO, "https://service.example") if name in files["idp-metadata.xml"]} == set(scopes)
    written = {
        entity.get("entityID"): "".join(f"{scope.text}\n" for scope in entity.iter(program.SCOPE))
        for entity in program.parse(files["idp-metadata.xml"].encode()).iter(f"{program.MD}EntityDescriptor")
    }
    assert written == scopes


def test_federation_needs_a_choice(provider: SamlServer, settings: dict[str, Any]) -> None:
    settings["certificate"] = ""
    assert f"contains 2 identity providers ({ONE}, {TWO})" in refusal(federation(provider), settings)
    settings["providers"] = [{"entity_id": "https://three.example", "scopes": []}]
    assert "contains none of identity_providers (https://three.example)" in refusal(federation(provider), settings)


def test_expired_part_of_a_federation_is_left_out(provider: SamlServer, settings: dict[str, Any]) -> None:
    text = federation(provider).replace(f'entityID="{TWO}"', f'entityID="{TWO}" validUntil="{moment(-5)}"')
    assert TWO not in "".join(program.evaluate(text.encode(), settings | {"all": True, "certificate": ""}).values())


def test_provider_without_a_scope_may_report_no_name(
    provider: SamlServer, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    scope = '<s:Scope xmlns:s="urn:mace:shibboleth:metadata:1.0" regexp="true">.*</s:Scope>'
    text = provider.metadata(within=f"<Extensions>{scope}</Extensions>")
    files = program.evaluate(text.encode(), settings | {"all": True, "certificate": ""})
    assert [text for name, text in files.items() if name.startswith("scopes/")] == [""]
    assert "no scope" in capsys.readouterr().err


def test_page_lists_providers_by_name_and_escapes_what_the_metadata_says() -> None:
    names = {ONE: {"en": "Zoo <b>", "de": "Ärzte"}, 'https://x.example/"': {"fr": "École"}, TWO: {}}
    text = program.page(names, "de", WORDS, "IdP")
    assert re.findall(r"<button [^>]*>([^<]*)<", text) == ["https://two.example/idp", "&#196;rzte", "&#201;cole"]
    assert 'value="https://x.example/&quot;"' in text
    assert "Zoo &lt;b&gt;" in program.page(names, "en", WORDS, "IdP")
    many = {f"https://{number}.example": {"en": f"Name {number}"} for number in range(13)}
    assert program.page(many, "en", WORDS, "IdP").count("<option") == 13


class Server(http.server.ThreadingHTTPServer):
    """Serves one document over TLS. ``answer`` is its status, and ``late`` is set to let it go on."""

    def __init__(self, provider: SamlServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider, tls = provider, provider.tls
        self.body, self.status, self.to, self.late = b"", 200, "", threading.Event()
        self.late.set()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "provider.pem", tls / "provider.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_address[1]}/metadata.xml"
        self.asked: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def redirect(self, url: str) -> None:
        """Redirect every request to another address."""
        self.status, self.to = 302, url


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["If-None-Match"])
        self.send_response(304 if self.server.asked[-1] == '"1"' else self.server.status)
        if self.server.to:
            self.send_header("Location", self.server.to)
        self.send_header("ETag", '"1"' if self.server.status == 200 else "")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.server.late.wait(20)
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(provider: SamlServer, settings: dict[str, Any]) -> Iterator[Server]:
    """A server with valid metadata. The settings contain its address."""
    found = Server(provider)
    found.body = signed(provider, one(provider, validUntil=moment(3600))).encode()
    settings |= {"url": found.url, "file": ""}
    yield found
    found.late.set()
    found.shutdown()
    found.server_close()


def state(settings: dict[str, Any]) -> dict[str, str]:
    top = Path(settings["directory"])
    return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


FAULTS: dict[str, tuple[Callable[[Server, SamlServer], Any], str]] = {
    "unavailable": (lambda s, _: setattr(s, "status", 503), "the server answered 503"),
    "redirected": (lambda s, _: s.redirect("http://localhost/"), "which is not https"),
    "file": (lambda s, _: s.redirect("file:///etc/passwd"), "is not allowed"),
    "large": (lambda s, _: setattr(s, "body", s.body + b" " * 70000), "is larger than"),
    "slow": (lambda s, _: s.late.clear(), "could not be fetched within 1 s"),
    "unsigned": (lambda s, p: setattr(s, "body", p.metadata().encode()), "is not signed"),
    "expired": (lambda s, p: setattr(s, "body", signed(p, one(p, validUntil=moment(-5))).encode()), "expired at"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_last_valid_metadata_stays_in_use(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:  # fmt: skip
    assert program.refresh(settings)[1] == {"changed": True, "problem": "", "providers": 1}
    Path(settings["directory"], "source.tag").unlink()
    before = state(settings)
    change, reason = FAULTS[fault]
    change(server, server.provider)
    monkeypatch.setattr(program, "SECONDS", 1 if fault == "slow" else 60)
    monkeypatch.setattr(program, "LARGEST", 60000)
    status, report = program.refresh(settings)
    assert (status, report["changed"], state(settings)) == (3, False, before)
    assert reason in report["problem"]
    assert "The last valid metadata stays in use." in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["unavailable", "unsigned", "expired"])
def test_first_metadata_must_be_valid(server: Server, settings: dict[str, Any], fault: str) -> None:
    FAULTS[fault][0](server, server.provider)
    status, report = program.refresh(settings)
    assert (status, list(state(settings))) == (1, ["unusable"])
    assert FAULTS[fault][1] in report["problem"]


def test_metadata_that_could_not_be_checked_is_not_invalid(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program.refresh(settings)
    before = state(settings)
    monkeypatch.setattr(program, "CHECK_SECONDS", 0)
    assert program.refresh(settings)[0] == 3
    assert state(settings) == before


def test_server_needs_a_valid_certificate(server: Server, settings: dict[str, Any]) -> None:
    status, report = program.refresh(settings | {"ca": ""})
    assert (status, "CERTIFICATE_VERIFY_FAILED" in report["problem"]) == (1, True)


def test_nobody_signs_in_when_the_last_metadata_has_expired(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program.refresh(settings)
    server.status = 503
    real = dt.datetime

    class Later(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return real.now(tz) + dt.timedelta(hours=2)

    monkeypatch.setattr(program.dt, "datetime", Later)
    Path(settings["directory"], "source.tag").unlink()
    assert program.refresh(settings)[0] == 1
    assert "unusable" in state(settings)
    monkeypatch.setattr(program.dt, "datetime", real)
    server.status = 200
    assert program.refresh(settings)[0] == 0
    assert "unusable" not in state(settings)


def test_status_for_the_metrics_says_when_the_metadata_was_last_valid(
    server: Server, settings: dict[str, Any], tmp_path: Path
) -> None:
    path, own = Path(settings["directory"], "status.json"), tmp_path / "settings.json"
    own.write_text(json.dumps(settings))

    def run() -> tuple[int, float, bool]:
        Path(settings["directory"], "source.tag").unlink(missing_ok=True)
        status = program.main([str(own)])
        found = json.loads(path.read_text())
        return status, found["time"], found["usable"]

    server.status = 503
    assert run() == (1, 0, False)
    server.status = 200
    began = dt.datetime.now(dt.UTC).timestamp()
    status, at, usable = run()
    assert (status, usable) == (0, True)
    assert abs(at - began) < 60
    path.write_text(json.dumps({"time": 5, "usable": True}))
    server.status = 503
    assert run() == (3, 5, True)
    path.write_text("damaged")
    assert run() == (3, 0, True)
    assert path.stat().st_mode & 0o777 == 0o644


def test_document_is_fetched_again_only_if_it_has_changed(server: Server, settings: dict[str, Any]) -> None:
    assert program.refresh(settings)[1]["changed"]
    assert program.refresh(settings) == (0, {"changed": False, "problem": "", "providers": 1})
    assert server.asked == [None, '"1"']
    settings["certificate"] = settings["ca"]  # the site has pinned another one since then
    assert program.refresh(settings)[0] == 1


def test_files_of_a_former_provider_are_removed(provider: SamlServer, settings: dict[str, Any]) -> None:
    Path(settings["file"]).write_text(federation(provider))
    settings |= {"certificate": "", "all": True}
    program.refresh(settings)
    assert len([name for name in state(settings) if name.startswith("scopes/")]) == 2
    settings |= {"all": False, "providers": [{"entity_id": ONE, "scopes": []}]}
    assert program.refresh(settings)[1]["changed"]
    assert len([name for name in state(settings) if name.startswith("scopes/")]) == 1


def test_check_names_the_file_and_writes_nothing(
    provider: SamlServer, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    Path(settings["file"]).write_text(provider.metadata())
    assert program.main(["--check", str(tmp_path / "settings.json")]) == 1
    assert capsys.readouterr().out.startswith(f"{settings['file']} is not signed")
    Path(settings["file"]).write_text(signed(provider, one(provider)))
    assert program.main(["--check", str(tmp_path / "settings.json")]) == 0
    assert state(settings) == {}
