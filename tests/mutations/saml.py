"""The mutants of the single sign-on with SAML: which metadata and which names are refused."""

from __future__ import annotations

from .mutants import HandWritten

_PROGRAM = "roles/reverse_proxy/files/saml_metadata.py"
_TESTS = ("tests/unit/test_saml_metadata.py",)


def _metadata(name: str, old: str, new: str, keyword: str = "wrong_metadata_is_refused") -> HandWritten:
    return HandWritten(name, _PROGRAM, old, new, _TESTS, keyword)


SAML = (
    _metadata("document-type", "    def doctype(self,", "    def other(self,"),
    _metadata("signature", 'if settings["certificate"] and signature:', "if False:"),
    _metadata("signature-first", "root[0].tag == f", "True or f"),
    _metadata("covers-all", 'references[0].get("URI") not in targets', "False"),
    _metadata("same-id", "ids.count(own) != 1", "False"),
    _metadata("algorithms", 'if element.get("Algorithm") not in valid:', "if False:"),
    _metadata("valid-until", 'return "" if now < until else', 'return "" if True else'),
    _metadata("unreadable-time", 'return f"an unreadable time, {text[:40]!r}"', 'return ""'),
    _metadata(
        "https-endpoints", '.startswith("https://"):\n                kept', ":\n                kept", "cannot_be_used"
    ),
    _metadata("choice", "if len(found) > 1:", "if False:", "needs_a_choice"),
    _metadata("scopes", "wanted.get(name) or each.scopes for", "None for", "chosen_providers or report_no_name"),
    _metadata("redirects", 'if not newurl.startswith("https://"):', "if False:", "stays_in_use"),
    _metadata("size", "if len(data) > LARGEST:", "if False:", "stays_in_use"),
    _metadata("unusable", '(directory / "unusable").touch(mode=0o644)', "pass", "nobody_signs_in"),
    _metadata("server-certificate", "context=context", "context=ssl._create_unverified_context()", "valid_certificate"),
)
