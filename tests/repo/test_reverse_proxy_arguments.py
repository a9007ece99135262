"""The role reverse_proxy, used without the site's model, refuses arguments that would open a hole."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VALID = {
    "reverse_proxy_server_name": "hub.example.org",
    "reverse_proxy_oidc_metadata_url": "https://sso.example.org/.well-known/openid-configuration",
    "reverse_proxy_oidc_client_id": "hpchub",
    "reverse_proxy_oidc_client_secret": "s3cr3t-of-the-client",
}
ACCEPTED: dict[str, dict[str, Any]] = {
    "defaults": {},
    "edges": {
        "reverse_proxy_max_connections": 256,
        "reverse_proxy_redirect_port": 80,
        "reverse_proxy_oidc_client_secret": 'a"b\\c$d%e',
        "reverse_proxy_oidc_crypto_passphrase": "0a" * 16,
    },
}
LDAP = {"reverse_proxy_sso_provider": "ldap", "reverse_proxy_ldap_url": "ldaps://ldap.example.org"}
KERBEROS = {"reverse_proxy_sso_provider": "kerberos", "reverse_proxy_kerberos_realms": ["EXAMPLE.ORG"]}
# The test writes these files.
CHOICE = {
    "key": "campus", "title": "Campus", "issuer": "https://sso.example.org", "client_id": "x", "client_secret": "y",
}  # fmt: skip
SAML = {"reverse_proxy_sso_provider": "saml", "reverse_proxy_saml_metadata_src": "DIRECTORY/valid.xml"}
SAML_URL = SAML | {
    "reverse_proxy_saml_metadata_src": "",
    "reverse_proxy_saml_metadata_url": "https://idp.example.org/metadata.xml",
}
METADATA = (
    '<EntityDescriptor xmlns="urn:oasis:names:tc:SAML:2.0:metadata" xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'
    ' entityID="https://idp.example.org" validUntil="%s"><IDPSSODescriptor'
    ' protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol"><KeyDescriptor><ds:X509Certificate>MII='
    '</ds:X509Certificate></KeyDescriptor><SingleSignOnService Location="https://idp.example.org/sso"'
    ' Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"/></IDPSSODescriptor></EntityDescriptor>'
)
ACCEPTED |= {
    "saml": SAML,
    "saml-url": SAML_URL | {"reverse_proxy_saml_certificate_src": "/site/federation.pem"},
    "ldap": LDAP | {"reverse_proxy_ldap_bind_dn": "cn=hub", "reverse_proxy_ldap_bind_password": 'a" \\b'},
    "kerberos": KERBEROS | {"reverse_proxy_kerberos_keytab_src": "/site/http.keytab"},
    "local": {"reverse_proxy_sso_provider": "local"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "oidc-provider-key": {"reverse_proxy_oidc_providers": [CHOICE | {"key": 'a"b'}]},
    "oidc-provider-issuer": {"reverse_proxy_oidc_providers": [CHOICE | {"issuer": "http://sso.example.org"}]},
    "saml-without-metadata": SAML | {"reverse_proxy_saml_metadata_src": ""},
    "saml-without-a-file": SAML | {"reverse_proxy_saml_metadata_src": "DIRECTORY/none.xml"},
    "saml-expired": SAML | {"reverse_proxy_saml_metadata_src": "DIRECTORY/expired.xml"},
    "saml-unsigned": SAML | {"reverse_proxy_saml_certificate_src": "DIRECTORY/valid.xml"},
    "saml-url-without-a-certificate": SAML_URL,
    "ldap-without-tls": LDAP | {"reverse_proxy_ldap_url": "ldap://ldap.example.org"},
    "ldap-password-that-is-a-program": LDAP | {"reverse_proxy_ldap_bind_password": "exec:/bin/SECRET"},
    "ldap-password-with-a-line-break": LDAP | {"reverse_proxy_ldap_bind_password": "SECRET\nx"},
    "kerberos-without-a-realm": KERBEROS | {"reverse_proxy_kerberos_realms": []},
    "kerberos-without-a-keytab": KERBEROS,
    "pam-service-with-a-path": {"reverse_proxy_sso_provider": "local", "reverse_proxy_local_pam_service": "pam$x"},
    "two-sites-on-one-port": {"reverse_proxy_api_port": 443},
    "redirect-on-the-port-of-a-site": {"reverse_proxy_redirect_port": 8445},
    "too-few-connections": {"reverse_proxy_max_connections": 255},
    "client-secret-with-a-line-break": {"reverse_proxy_oidc_client_secret": "SECRET\nInclude /tmp/own.conf"},
    "client-secret-with-a-trailing-line-break": {"reverse_proxy_oidc_client_secret": "SECRET\n"},
    "client-secret-with-a-space": {"reverse_proxy_oidc_client_secret": "SECRET x"},
    "client-secret-with-a-variable": {"reverse_proxy_oidc_client_secret": "SECRET${HOME}"},
    "passphrase-too-short": {"reverse_proxy_oidc_crypto_passphrase": "SECRET"},
    "passphrase-with-a-line-break": {"reverse_proxy_oidc_crypto_passphrase": "SECRET" * 8 + "\nInclude /tmp/own.conf"},
}
SECRETS = (
    "reverse_proxy_oidc_client_secret or reverse_proxy_oidc_crypto_passphrase cannot be part of Apache's configuration"
)
MESSAGES = {
    "oidc-provider-key": 'reverse_proxy_oidc_providers: "a"b" cannot be part of',
    "oidc-provider-issuer": 'reverse_proxy_oidc_providers: "http://sso.example.org" cannot be part of',
    "saml-without-metadata": "needs either reverse_proxy_saml_metadata_src",
    "saml-without-a-file": "none.xml",
    "saml-expired": "expired.xml expired at 2020-01-01 00:00:00 UTC",
    "saml-unsigned": "valid.xml is not signed",
    "saml-url-without-a-certificate": "reverse_proxy_saml_certificate_src is empty",
    "ldap-without-tls": "passwords would go without TLS; use ldaps://, or set reverse_proxy_ldap_start_tls",
    "ldap-password-that-is-a-program": "reverse_proxy_ldap_bind_password cannot be part of Apache's configuration",
    "ldap-password-with-a-line-break": "reverse_proxy_ldap_bind_password cannot be part of Apache's configuration",
    "kerberos-without-a-realm": "The provider kerberos needs reverse_proxy_kerberos_realms",
    "kerberos-without-a-keytab": "The provider kerberos needs reverse_proxy_kerberos_realms",
    "pam-service-with-a-path": "reverse_proxy_local_pam_service",
    "two-sites-on-one-port": "reverse_proxy_port is 443, reverse_proxy_api_port is 443, and "
    "reverse_proxy_redirect_port is 0; write three different ports",
    "redirect-on-the-port-of-a-site": "reverse_proxy_port is 443, reverse_proxy_api_port is 8445, and "
    "reverse_proxy_redirect_port is 8445; write three different ports",
    "too-few-connections": "reverse_proxy_max_connections is 255; write a number of at least 256",
}
VARIABLES: dict[str, Any] = yaml.safe_load((ROOT / "roles/reverse_proxy/vars/main.yml").read_text())
PROVIDERS: dict[str, dict[str, Any]] = VARIABLES["__reverse_proxy_providers"]
RESULT = "RESULT {{ inventory_hostname }}<%s>{{ ansible_failed_result.msg | default('') | replace('\\n', ' ') }}<>"


def arguments() -> dict[str, object]:
    """Return the role's arguments that become part of Apache's configuration, by name."""
    groups = [VARIABLES["__reverse_proxy_arguments"], *(provider["arguments"] for provider in PROVIDERS.values())]
    return {name: value for kinds in groups for kind in kinds.values() for name, value in kind.items()}


@pytest.fixture(scope="module")
def results(
    ansible: Callable[..., CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, tuple[str, str]], str]:
    """The outcome of the role's validation for each case ("accepted" or "refused"), and the whole output.

    Each case is a host, so that Ansible validates all of them at once.
    """
    directory = tmp_path_factory.mktemp("arguments")
    defaults = yaml.safe_load((ROOT / "roles/reverse_proxy/defaults/main.yml").read_text())
    every = {name: [' "x\n'] if isinstance(defaults.get(name), list) else ' "x\n' for name in arguments()}
    cases = {**ACCEPTED, **REFUSED}
    # A provider checks its own arguments only.
    for provider in PROVIDERS:
        own = KERBEROS | LDAP | every | {"reverse_proxy_sso_provider": provider}
        cases[f"every-argument-{provider}"] = own
    facts = {"os_family": "Debian", "distribution": "Debian", "distribution_version": "13.1"}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars": {"ansible_facts": facts | {"distribution_major_version": "13"}},
        "tasks": [
            {
                "block": [
                    {"ansible.builtin.include_role": {"name": "hpchub.hpchub.reverse_proxy", "tasks_from": "validate"}},
                    {"ansible.builtin.debug": {"msg": RESULT % "accepted"}},
                ],
                "rescue": [{"ansible.builtin.debug": {"msg": RESULT % "refused"}}],
            }
        ],
    }
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {case: here | VALID | given for case, given in cases.items()}
    for name, year in (("valid", 2999), ("expired", 2020)):
        (directory / f"{name}.xml").write_text(METADATA % f"{year}-01-01T00:00:00Z")
    (directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}).replace("DIRECTORY", str(directory)))
    (directory / "play.yml").write_text(json.dumps([play]))
    done = ansible("ansible-playbook", "-i", directory / "hosts.json", directory / "play.yml")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    found = re.findall(r"RESULT ([\w-]+)<(\w+)>(.*?)<>", done.stdout, flags=re.DOTALL)
    return {case: (outcome, " ".join(message.split())) for case, outcome, message in found}, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts_valid_arguments(results: tuple[dict[str, tuple[str, str]], str], case: str) -> None:
    assert results[0][case] == ("accepted", "")


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_refuses_invalid_arguments(results: tuple[dict[str, tuple[str, str]], str], case: str) -> None:
    outcome, message = results[0][case]
    assert outcome == "refused"
    assert MESSAGES.get(case, SECRETS) in message


@pytest.mark.slow
def test_refuses_every_argument_that_breaks_the_configuration(
    results: tuple[dict[str, tuple[str, str]], str],
) -> None:
    found = {provider: results[0][f"every-argument-{provider}"] for provider in PROVIDERS}
    assert {outcome for outcome, _ in found.values()} == {"refused"}
    message = " ".join(text for _, text in found.values())
    assert [name for name in arguments() if f'{name}: " "x " cannot be part of Apache\'s' not in message] == []


@pytest.mark.slow
def test_does_not_show_secrets(results: tuple[dict[str, tuple[str, str]], str]) -> None:
    assert "SECRET" not in results[1]


def names(text: str, followed: set[str] | None = None) -> set[str]:
    """Return the arguments in a text, also in the role's variables that it uses. The providers are not followed."""
    found = set(re.findall(r"\breverse_proxy_\w+", text))
    followed = {"__reverse_proxy_arguments", "__reverse_proxy_providers"} if followed is None else followed
    for name in set(re.findall(r"\b__reverse_proxy_\w+", text)) & set(VARIABLES) - followed:
        followed.add(name)
        found |= names(json.dumps(VARIABLES[name]), followed)
    return found


def test_checks_every_argument_in_the_templates() -> None:
    """Arguments that a template contains as they are, and that are not numbers or booleans, are checked."""
    spec = yaml.safe_load((ROOT / "roles/reverse_proxy/meta/argument_specs.yml").read_text())
    options = spec["argument_specs"]["main"]["options"]
    used = names("".join(path.read_text() for path in (ROOT / "roles/reverse_proxy/templates").glob("*.conf.j2")))
    texts = {name for name in used if options[name]["type"] not in {"int", "bool"}}
    # The specification limits the provider, a separate check hides the secret, the CA file is only a condition, and a
    # filter escapes the groups. The names of SAML's attributes are checked together, as __reverse_proxy_saml_claims.
    # SAML's providers are a setting of the role's program for metadata, which writes them as JSON. A separate check
    # reads the providers of OpenID Connect.
    separate = {
        "reverse_proxy_allowed_groups",
        "reverse_proxy_sso_provider",
        "reverse_proxy_oidc_client_secret",
        "reverse_proxy_oidc_ca_src",
        "reverse_proxy_cas_ca_src",
        "reverse_proxy_ldap_ca_src",
        "reverse_proxy_ldap_bind_password",
        "reverse_proxy_saml_user_attribute",
        "reverse_proxy_saml_groups_attribute",
        "reverse_proxy_saml_providers",
        "reverse_proxy_oidc_providers",
        "reverse_proxy_user_mapping",
    }
    assert texts - separate == set(arguments()) & texts
    # The other arguments are settings of sign_on.lua, or of the program that fetches SAML's metadata.
    settings = [{**provider, "arguments": {}} for provider in PROVIDERS.values()]
    settings.append(VARIABLES["__reverse_proxy_saml_metadata"])
    assert set(arguments()) - texts <= names(json.dumps(settings))
