#!/usr/bin/python3
"""Check the metadata of SAML identity providers, and write what Apache needs of it.

Usage: saml-metadata SETTINGS           fetch the metadata, check it, and write the files
       saml-metadata --check SETTINGS   check the metadata, and write nothing; without xmlsec1, not its signature

SETTINGS is a file with a JSON object. ``url`` or ``file`` says where the metadata is. ``certificate`` is a file with
the certificates that may sign it. ``providers`` lists those that may sign users in, and ``all`` admits all of them.

The last valid metadata stays in use if a new one cannot be fetched or is not valid. When it has expired itself, nobody
can sign in: Apache looks for the file ``unusable``. The exit status is 0, 3 if the last metadata stays, and 1 if there
is none.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import html
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 100 * 1024 * 1024
SECONDS = 120
CHECK_SECONDS = 120
DEEPEST = 10
BUTTONS = 12
"""With more providers than this, the page has a list to choose from instead of buttons."""
KEPT = 3

PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
METADATA = "urn:oasis:names:tc:SAML:2.0:metadata"
MD = f"{{{METADATA}}}"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
UI = "{urn:oasis:names:tc:SAML:metadata:ui}"
SCOPE = "{urn:mace:shibboleth:metadata:1.0}Scope"
LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
USED = tuple(MD + name for name in ("KeyDescriptor", "SingleLogoutService", "NameIDFormat", "SingleSignOnService"))

_MORE, _ENC = "http://www.w3.org/2001/04/xmldsig-more#", "http://www.w3.org/2001/04/xmlenc#"
SIGNATURES = frozenset(f"{_MORE}{kind}-sha{size}" for kind in ("rsa", "ecdsa") for size in (256, 384, 512))
DIGESTS = frozenset((f"{_ENC}sha256", f"{_MORE}sha384", f"{_ENC}sha512"))
TRANSFORMS = frozenset(
    (
        "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
        "http://www.w3.org/2001/10/xml-exc-c14n#",
        "http://www.w3.org/2001/10/xml-exc-c14n#WithComments",
        "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
    )
)

ET.register_namespace("", METADATA)
ET.register_namespace("ds", DS[1:-1])
ET.register_namespace("shibmd", SCOPE[1:].partition("}")[0])


class Refused(Exception):
    """The metadata must not be used. The message says what is wrong with it, and what to do."""


class Unchecked(Refused):
    """Nobody knows whether the metadata is valid, because xmlsec1 gave no answer."""


class Provider(NamedTuple):
    """An identity provider.

    Attributes:
        element: What Apache needs of its metadata.
        names: Its names for users, by language.
        scopes: What may follow the ``@`` in the names that it reports, as the metadata says.
    """

    element: ET.Element
    names: dict[str, str]
    scopes: list[str]


def log(text: str) -> None:
    """Write a line to the journal."""
    print(text, file=sys.stderr, flush=True)


# XML


class _Builder(ET.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise Refused("contains a document type (DTD), which SAML metadata never has; get it from the provider again")


def parse(data: bytes) -> ET.Element:
    """Parse a document. Document types, and therefore entities, are refused before they have any effect."""
    parser = ET.XMLParser(target=_Builder())  # noqa: S314 the builder refuses what is dangerous
    try:
        parser.feed(data)
        root: ET.Element = parser.close()
    except ET.ParseError as error:
        raise Refused(f"is not well-formed XML ({error}); get it from the provider again") from None
    if root.tag not in (f"{MD}EntityDescriptor", f"{MD}EntitiesDescriptor"):
        raise Refused(f"is not SAML metadata: its first element is {root.tag[:80]}; check where it is from")
    return root


def expired(element: ET.Element, now: dt.datetime) -> str:
    """Return when an element's time ended, or nothing if it has not."""
    text = element.get("validUntil")
    if text is None:
        return ""
    try:
        until = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return f"an unreadable time, {text[:40]!r}"
    until = until if until.tzinfo else until.replace(tzinfo=dt.UTC)
    return "" if now < until else f"{until:%Y-%m-%d %H:%M:%S} UTC"


def entities(element: ET.Element, now: dt.datetime, depth: int = 0) -> Iterator[ET.Element]:
    """Yield the entities whose time has not ended."""
    if depth > DEEPEST:
        raise Refused(f"is nested more than {DEEPEST} times; get it from the provider again")
    if ended := expired(element, now):
        if not depth:
            raise Refused(f"expired at {ended} (validUntil); get the current metadata, or check the clock of this host")
        return
    if element.tag == f"{MD}EntityDescriptor":
        yield element
    elif element.tag == f"{MD}EntitiesDescriptor":
        for child in element:
            yield from entities(child, now, depth + 1)


# The signature


def check_signature(root: ET.Element, data: bytes, certificates: str) -> None:
    """Refuse a document unless its first element as a whole has a signature of one of the certificates."""
    signature = root[0] if len(root) and root[0].tag == f"{DS}Signature" else None
    if signature is None:
        raise Refused("is not signed; use the signed metadata, or remove metadata_certificate for a file")
    references = signature.findall(f"./{DS}SignedInfo/{DS}Reference")
    own = root.get("ID") or ""
    targets = ("", f"#{own}") if own else ("",)
    ids = [
        value for each in root.iter() for name, value in each.attrib.items() if name.rpartition("}")[2].lower() == "id"
    ]
    if len(references) != 1 or references[0].get("URI") not in targets or signature.find(f".//{DS}Object") is not None:
        raise Refused("has a signature that does not cover all of it; ask the provider")
    if own and ids.count(own) != 1:
        raise Refused("has a signature that does not cover all of it: an ID is used twice; ask the provider")
    for path, valid in (("SignatureMethod", SIGNATURES), ("DigestMethod", DIGESTS), ("Transform", TRANSFORMS)):
        for element in signature.iter(f"{DS}{path}"):
            if element.get("Algorithm") not in valid:
                raise Refused(
                    f"is signed with the algorithm {element.get('Algorithm')}, which is not accepted; "
                    "ask the provider for a signature with SHA-256"
                )
    pem = re.findall(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", certificates, re.DOTALL)
    if not any(_verifies(root.tag, data, each) for each in pem):
        raise Refused(
            "has a signature that is not of metadata_certificate, or has been changed; compare the certificate with "
            "the one that the provider publishes"
        )


def _verifies(tag: str, data: bytes, certificate: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        document, pem = Path(name, "metadata.xml"), Path(name, "certificate.pem")
        document.write_bytes(data)
        pem.write_text(f"{certificate}\n")
        # The key must never come from the document itself.
        command = ["xmlsec1", "--verify", "--enabled-reference-uris", "empty,same-doc", "--enabled-key-data"]
        command += ["raw-x509-cert", "--pubkey-cert-pem", str(pem), "--id-attr:ID", tag[1:].replace("}", ":")]
        try:
            done = subprocess.run([*command, str(document)], capture_output=True, check=False, timeout=CHECK_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unchecked(f"could not be checked with xmlsec1: {error}") from None
        return done.returncode == 0


# The providers


def _texts(element: ET.Element, path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in element.iterfind(path):
        text = re.sub(r"[\s\x00-\x1f\x7f]+", " ", each.text or "").strip()[:100]
        if text:
            found.setdefault((each.get(LANGUAGE) or "en").lower().partition("-")[0], text)
    return found


def _provider(entity: ET.Element, now: dt.datetime) -> Provider | None:
    for role in entity.findall(f"{MD}IDPSSODescriptor"):
        if PROTOCOL not in (role.get("protocolSupportEnumeration") or "").split() or expired(role, now):
            continue
        new = ET.Element(f"{MD}EntityDescriptor", {"entityID": entity.get("entityID") or ""})
        kept = ET.SubElement(new, f"{MD}IDPSSODescriptor", {"protocolSupportEnumeration": PROTOCOL})
        if signed := role.get("WantAuthnRequestsSigned"):
            kept.set("WantAuthnRequestsSigned", signed)
        for child in role:
            if child.tag in USED and (child.get("Location") or "https://").startswith("https://"):
                kept.append(child)
        certificates = kept.find(f"./{MD}KeyDescriptor//{DS}X509Certificate")
        if certificates is None or kept.find(f"{MD}SingleSignOnService") is None:
            continue
        scopes = [
            (scope.text or "").strip()
            for holder in (entity, role)
            for scope in holder.iterfind(f"./{MD}Extensions/{SCOPE}")
            if (scope.get("regexp") or "false").strip() in ("false", "0")
        ]
        names = _texts(role, f"./{MD}Extensions/{UI}UIInfo/{UI}DisplayName")
        names = names or _texts(entity, f"./{MD}Organization/{MD}OrganizationDisplayName")
        scopes = [scope for scope in scopes if re.fullmatch(r"[A-Za-z0-9.-]{1,253}", scope)]
        return Provider(new, names, scopes)
    return None


def choose(found: dict[str, Provider], settings: dict[str, Any]) -> dict[str, list[str] | None]:
    """Return the providers that may sign users in, with their scopes. None means any name.

    Raises:
        Refused: There is none, or the site has not chosen.
    """
    wanted: dict[str, list[str]] = {each["entity_id"]: each.get("scopes") or [] for each in settings["providers"]}
    some = ", ".join(list(found)[:5]) + (", ..." if len(found) > 5 else "")
    if not found:
        raise Refused("contains no identity provider for SAML 2.0 with a certificate and an https address; get another")
    if not wanted and not settings["all"]:
        if len(found) > 1:
            raise Refused(
                f"contains {len(found)} identity providers ({some}); list those that may sign users in in "
                "identity_providers, or set all_identity_providers"
            )
        return dict.fromkeys(found)
    for name in wanted:
        if name not in found:
            log(f"The metadata does not contain {name}, or its time has ended. Nobody can sign in there.")
    chosen = {name: wanted.get(name) or each.scopes for name, each in found.items() if name in wanted or not wanted}
    if not chosen:
        raise Refused(f"contains none of identity_providers ({', '.join(wanted)}); it contains {some}")
    for name, scopes in chosen.items():
        if not scopes:
            log(f"The metadata gives {name} no scope. Nobody can sign in there.")
    return dict(chosen)


def evaluate(data: bytes, settings: dict[str, Any], *, signature: bool = True) -> dict[str, str]:
    """Return the files that Apache needs, by name.

    Raises:
        Refused: The metadata must not be used.
    """
    root = parse(data)
    if settings["certificate"] and signature:
        check_signature(root, data, Path(settings["certificate"]).read_text())
    now = dt.datetime.now(dt.UTC)
    found: dict[str, Provider] = {}
    for entity in entities(root, now):
        name, provider = entity.get("entityID") or "", _provider(entity, now)
        if provider and name:
            found.setdefault(name, provider)
    chosen = choose(found, settings)
    if len(chosen) == 1:
        top = found[next(iter(chosen))].element
    else:
        top = ET.Element(f"{MD}EntitiesDescriptor")
        top.extend(found[name].element for name in chosen)
    for name, permitted in chosen.items():
        _set_scopes(found[name].element, permitted or [])
    files = {"idp-metadata.xml": ET.tostring(top, encoding="unicode") + "\n"}
    for name, scopes in chosen.items():
        digest = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        files[f"scopes/{digest}"] = "*\n" if scopes is None else "".join(f"{scope}\n" for scope in scopes)
    for language, words in settings["languages"].items():
        files[f"pages/{language}.html"] = page(
            {name: found[name].names for name in chosen}, language, words, settings["parameter"]
        )
    return files


def _set_scopes(entity: ET.Element, scopes: list[str]) -> None:
    """Write the scopes of a provider into its metadata, where mod_shib looks for them."""
    role = entity[0]
    if scopes:
        role.insert(0, ET.Element(f"{MD}Extensions"))
    for scope in scopes:
        ET.SubElement(role[0], SCOPE, {"regexp": "false"}).text = scope


def page(providers: dict[str, dict[str, str]], language: str, words: dict[str, str], parameter: str) -> str:
    """Return the part of a form in which a user chooses the provider: buttons, or a list."""
    shown = {
        entity: names.get(language) or names.get("en") or next(iter(names.values()), entity)
        for entity, names in providers.items()
    }
    ordered = sorted(shown.items(), key=lambda pair: (pair[1].casefold(), pair[0]))
    values = [(_escape(entity), _escape(name)) for entity, name in ordered]
    if len(values) <= BUTTONS:
        items = "".join(
            f'<li><button name="{parameter}" value="{entity}">{name}</button></li>\n' for entity, name in values
        )
        return f"<ul>\n{items}</ul>\n"
    options = "".join(f'<option value="{entity}">{name}</option>\n' for entity, name in values)
    button = f"<p><button>{words['button']}</button></p>\n"
    label = f'<p><label for="provider">{words["label"]}</label><br>\n'
    return f'{label}<select id="provider" name="{parameter}" required>\n{options}</select></p>\n{button}'


def _escape(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


# Where the metadata comes from


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: PLR0917 urllib's
        if not newurl.startswith("https://"):
            raise Refused(f"could not be fetched: the server redirects to {newurl[:200]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, authorities: str, tag: str) -> tuple[bytes, str] | None:
    """Return a document and its tag, or nothing if it still has the given tag.

    Raises:
        Refused: It could not be fetched, within the limits of time and size.
    """

    def too_late(*_: object) -> None:
        raise Refused(f"could not be fetched within {SECONDS} s; check the network and the server")

    if not url.startswith("https://"):
        raise Refused("could not be fetched, because it is not an https address; correct metadata_url")
    request = urllib.request.Request(url, headers={"If-None-Match": tag} if tag else {})  # noqa: S310 checked above
    former = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(SECONDS)
    try:
        context = ssl.create_default_context(cafile=authorities or None)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _OnlyHttps())
        with opener.open(request, timeout=30) as answer:
            data: bytes = answer.read(LARGEST + 1)
            if len(data) > LARGEST:
                raise Refused(f"is larger than {LARGEST // 1024**2} MiB; use metadata of fewer providers")
            return data, answer.headers.get("ETag") or ""
    except urllib.error.HTTPError as error:
        if error.code == 304:
            return None
        raise Refused(
            f"could not be fetched: the server answered {error.code} {error.reason}; check the address"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error) or error
        raise Refused(f"could not be fetched: {reason}; check the address, the network and ca_bundle") from None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def read(path: Path) -> bytes | None:
    """Return the content of a file, or nothing if there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def write(path: Path, data: bytes) -> bool:
    """Replace a file at once if its content is another. Return whether it was."""
    if read(path) == data:
        return False
    path.parent.mkdir(mode=0o755, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.chmod(0o644)
    new.replace(path)
    return True


def _publish(directory: Path, files: dict[str, str]) -> bool:
    changed = [write(directory / name, text.encode()) for name, text in files.items()]
    for kind in ("scopes", "pages"):
        for path in (directory / kind).glob("*"):
            if f"{kind}/{path.name}" not in files:
                path.unlink()
                changed.append(True)
    (directory / "unusable").unlink(missing_ok=True)
    return any(changed)


def refresh(settings: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Fetch the metadata, and write the files for Apache. Return the exit status, and what happened."""
    directory = Path(settings["directory"])
    source, tag = directory / "source.xml", directory / "source.tag"
    kept, where = read(source), settings["url"] or settings["file"]
    problem = ""
    try:
        if settings["url"]:
            current = (read(tag) or b"").decode(errors="replace").strip() if kept else ""
            fetched = fetch(settings["url"], settings["ca"], current)
        else:
            fetched = (Path(settings["file"]).read_bytes(), "")
        if fetched:
            files = evaluate(fetched[0], settings)
            write(source, fetched[0])
            write(tag, f"{fetched[1]}\n".encode())
            changed = _publish(directory, files)
            return 0, {"changed": changed, "problem": "", "providers": len(list((directory / "scopes").iterdir()))}
    except Refused as error:
        problem = f"The SAML metadata of {where} {error}."
        log(problem)
    try:
        changed = _publish(directory, evaluate(kept, settings)) if kept else False
    except Unchecked as error:  # it was valid, and the program tries again
        changed, kept = False, read(directory / "idp-metadata.xml")
        problem = problem or f"The SAML metadata of {where} {error}."
    except Refused as error:
        log(f"The last valid SAML metadata {error}.")
        problem, kept = problem or f"The SAML metadata of {where} {error}.", None
    if kept is None:
        (directory / "unusable").touch(mode=0o644)
        log("Nobody can sign in until there is valid metadata.")
        return 1, {"changed": False, "problem": problem, "providers": 0}
    if problem:
        log("The last valid metadata stays in use.")
    status = {"changed": changed, "problem": problem, "providers": len(list((directory / "scopes").iterdir()))}
    return (KEPT if problem else 0), status


def record(directory: Path, status: int) -> None:
    """Write for the hub's metrics when the metadata was last valid, and whether it can be used."""
    path = directory / "status.json"
    try:
        before = json.loads(read(path) or b"{}").get("time", 0)
    except (ValueError, AttributeError):
        before = 0
    found = {"time": before if status else int(dt.datetime.now(dt.UTC).timestamp()), "usable": status in (0, KEPT)}
    write(path, json.dumps(found).encode())


def main(arguments: list[str]) -> int:
    """Run the program. Return its exit status."""
    check = arguments[:1] == ["--check"]
    settings: dict[str, Any] = json.loads(Path(arguments[-1]).read_text())
    if check:
        try:
            evaluate(Path(settings["file"]).read_bytes(), settings, signature=shutil.which("xmlsec1") is not None)
        except Refused as error:
            print(f"{settings['file']} {error}")
            return 1
        return 0
    os.umask(0o022)
    with Path(settings["directory"], ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, report = refresh(settings)
        record(Path(settings["directory"]), status)
    print(json.dumps(report))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
