"""The mutants of SAML, and of the choice among OpenID Connect providers: what is refused."""

from __future__ import annotations

from .mutants import HandWritten

_PROGRAM = "roles/reverse_proxy/files/saml_metadata.py"
_TESTS = ("tests/unit/test_saml_metadata.py",)


def _metadata(name: str, old: str, new: str, keyword: str = "wrong_metadata_is_refused") -> HandWritten:
    return HandWritten(name, _PROGRAM, old, new, _TESTS, keyword)


_TEMPLATES = "roles/reverse_proxy/templates"
_SIGN_ON = "roles/reverse_proxy/files/sign_on.lua"
_DOOR = ("tests/unit/test_door_saml.py",)


def _shibboleth(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"shibboleth/{name}", path, old, new, _DOOR, f"shibboleth and ({keyword})")


def _oidc(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"oidc-choice/{name}", path, old, new, ("tests/unit/test_door_oidc.py",), keyword)


SAML = (
    _oidc(
        "providers",
        f"{_TEMPLATES}/sso_oidc.conf.j2",
        '"^/oidc/callback$" "-" [R=400',
        '"^/none$" "-" [R=400',
        "no_other",
    ),
    _oidc("accounts", _SIGN_ON, 'received = received .. "@"', 'received = received or "@"', "not_those_of_another"),
    _oidc(
        "groups", _SIGN_ON, 'list[index] = ("%s@%s"):format(group, key)', "list[index] = group", "not_those_of_another"
    ),
    _oidc("page", f"{_TEMPLATES}/pages/providers.shtml.j2", 'encoding="entity" var', 'encoding="none" var', "as_text"),
    _shibboleth(
        "answers-of-others",
        f"{_TEMPLATES}/shibboleth2.xml.j2",
        'policyId="blockUnsolicited"',
        'policyId="default"',
        "answer_to_another_browser",
    ),
    _shibboleth("redirects", f"{_TEMPLATES}/shibboleth2.xml.j2", ' redirectLimit="exact"', "", "nowhere_else"),
    _shibboleth(
        "scopes",
        f"{_TEMPLATES}/attribute-policy.xml.j2",
        "'ScopeMatchesShibMDScope' if",
        "'ANY' if",
        "scope_that_the_provider",
    ),
    _shibboleth(
        "encoded-values",
        f"{_TEMPLATES}/sso_shibboleth.conf.j2",
        "    ShibRequestSetting encoding URL\n",
        "",
        "semicolon",
    ),
    _shibboleth(
        "second-factor",
        f"{_TEMPLATES}/sso_shibboleth.conf.j2",
        "ShibRequestSetting authnContextClassRef",
        "#",
        "factor",
    ),
    _shibboleth(
        "headers-of-the-module",
        _SIGN_ON,
        "then r.headers_in[name] = nil end",
        "then r.headers_in[name] = r.headers_in[name] end",
        "goes_to_the_hub",
    ),
    _shibboleth(
        "no-session",
        _SIGN_ON,
        'header(r, own.session) == ""',
        "false",
        "without_shibd or scripts",
    ),
    _shibboleth(
        "unsigned-logout",
        f"{_TEMPLATES}/saml.conf.j2",
        '"^/saml/logout$" "-" [R=403',
        '"^/none$" "-" [R=403',
        "without_a_signature",
    ),
    _shibboleth(
        "expired-metadata",
        f"{_TEMPLATES}/saml.conf.j2",
        '"^/saml/(login|postResponse)$" "-" [R=503',
        '"^/none$" "-" [R=503',
        "expired",
    ),
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
