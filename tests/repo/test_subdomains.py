"""User subdomains: the files that Ansible writes with the switch on and off, and the certificate's names."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from repo.role_files import site_service, write_role_files
from repo.sites import SITE

from hpchub.deploy.certificates import check
from hpchub.hub.config import host_name
from hpchub.names import dns_label, is_user_name
from lab.certificates import make_certificates

if TYPE_CHECKING:
    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {
    "site.conf": "reverse_proxy/templates/site.conf.j2",
    "unit": "configurable_http_proxy/templates/configurable-http-proxy.service.j2",
}
ROLES = ("reverse_proxy", "configurable_http_proxy", "jupyterhub")


@pytest.fixture(scope="module")
def written(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, dict[str, str]]:
    """Return the files that Ansible writes for the demo, by the switch and then by name."""
    top = tmp_path_factory.mktemp("written")
    return {switch: _write(ansible, top / str(switch), switch) for switch in (False, True)}


def _write(ansible: Ansible, directory: Path, switch: bool) -> dict[str, str]:
    service = site_service()
    if switch:
        service["user_subdomains"] = True
    return write_role_files(
        ansible,
        directory,
        roles=ROLES,
        templates=WRITTEN,
        texts={"hub.json": "{{ __jupyterhub_settings | to_json }}"},
        variables={
            "hpc_service": service,
            "hpc_monitoring": {"metrics_networks": ["192.0.2.7/32"] if switch else []},
        },
    )


def users_host(configuration: str) -> str:
    """Return the virtual host of the users' hosts."""
    (found,) = [host for host in configuration.split("<VirtualHost ") if "ServerAlias" in host]
    return found


def test_one_host_serves_all_users_without_the_switch(written: dict[bool, dict[str, str]]) -> None:
    off = written[False]
    assert "ServerAlias" not in off["site.conf"]
    assert "$1 == %{REMOTE_USER}" in off["site.conf"]
    assert "--host-routing" not in off["unit"]
    assert json.loads(off["hub.json"])["user_subdomains"] is False


def test_switch_reaches_web_server_proxy_and_hub(written: dict[bool, dict[str, str]]) -> None:
    on = written[True]
    assert "ServerAlias *.hub.localhost\n" in on["site.conf"]
    assert "$1 == %{REMOTE_USER}" not in on["site.conf"]
    assert "  --host-routing \\\n" in on["unit"]
    assert json.loads(on["hub.json"])["user_subdomains"] is True


def test_proxy_accepts_the_claims_of_a_user_with_many_groups(written: dict[bool, dict[str, str]]) -> None:
    assert " --max-http-header-size=65536 " in written[False]["unit"]


def test_cookies_do_not_go_along_with_a_token_to_user_hosts(written: dict[bool, dict[str, str]]) -> None:
    host = users_host(written[True]["site.conf"])
    program = "%{HTTP:Authorization} =~ /^(token|bearer) [!-~]{32,}$/i"
    assert f'RequestHeader unset Cookie "expr={program} ||' in host
    # The proxy removes the cookies from a request with the token of a browser, after it has checked the login.
    assert f'RequestHeader unset Authorization "expr=!({program} ||' in host
    assert r'RequestHeader unset Cookie "expr=%{HTTP:Cookie} !~ /(^|;)\s*jupyterhub-session-id=/"' in host


@pytest.mark.parametrize("switch", [False, True])
def test_rules_for_addresses_of_servers_apply_to_named_sessions_too(
    written: dict[bool, dict[str, str]], switch: bool
) -> None:
    """A link of another page must sign nobody out, and a script must get 401 instead of the sign-in page."""
    configuration = written[switch]["site.conf"]
    signs_out = re.findall(r'RewriteCond "%\{REQUEST_URI\}\?%\{QUERY_STRING\}" "(\S+)"\n', configuration)
    scripts = re.findall(r"%\{REQUEST_URI\} =~ m#(\S+)#\">", configuration)
    assert signs_out
    assert scripts
    for prefix in ("/user/alice", "/user/alice/genome"):
        assert all(re.search(each, f"{prefix}/logout?") for each in signs_out)
        assert all(re.search(each, f"{prefix}/api/contents") for each in scripts)
        assert not any(re.search(each, f"{prefix}/lab/tree/logout?") for each in signs_out)


@pytest.mark.parametrize("switch", [False, True])
def test_web_server_completes_cookies_and_drops_them_from_programs(
    written: dict[bool, dict[str, str]], switch: bool
) -> None:
    configuration = written[switch]["site.conf"]
    hosts = 1 + switch
    for condition in ("onsuccess", "always"):
        for flag in ("; Secure", "; SameSite=Lax"):
            found = re.findall(rf'^  Header {condition} edit Set-Cookie ".*" "\$1{flag}"$', configuration, re.MULTILINE)
            assert len(found) == hosts, (condition, flag)
    program = re.escape("%{HTTP:Authorization} =~ /^(token|bearer) [!-~]{32,}$/i ||")
    found = re.findall(rf'^    RequestHeader unset Cookie "expr={program}', configuration, re.MULTILINE)
    assert len(found) == 1


def test_metrics_are_for_administrators_and_for_the_networks_of_the_inventory(
    written: dict[bool, dict[str, str]],
) -> None:
    for switch, files in written.items():
        public, cluster = re.split(r"<VirtualHost \*:8445>", files["site.conf"])
        (section,) = re.findall(
            r'<LocationMatch "\^/hub/\(api/\)\?metrics\(/\|\$\)">(.*?)</LocationMatch>', public, re.DOTALL
        )
        assert ("Require ip 192.0.2.7/32\n        Require expr" in section) == switch
        assert ("Require ip" in section, section.count("Require expr")) == (switch, int(switch))
        assert "Require valid-user" in section
        assert 'RewriteRule "^/hub/api/metrics(/|$)" "-" [R=404,L]' in cluster


@pytest.mark.parametrize("switch", [False, True])
def test_web_server_logs_the_users_whom_it_refuses(written: dict[bool, dict[str, str]], switch: bool) -> None:
    lines = [line for line in written[switch]["site.conf"].splitlines() if "hpchub_refused" in line]
    assert len(lines) == written[switch]["site.conf"].count("<VirtualHost ")
    for line in lines:
        assert "%{REQUEST_STATUS} == 403 && -n %{REMOTE_USER}" in line
        assert "&& !(%{THE_REQUEST} =~ m#/api/authorizations/#i)" in line, "this path may contain a token"


def test_user_hosts_have_no_sign_on(written: dict[bool, dict[str, str]]) -> None:
    host = users_host(written[True]["site.conf"])
    assert "AuthType" not in host
    assert "OIDC" not in host
    assert "X-Hpchub" not in host


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "a",
        "a_b",
        "a-b",
        "a--b",
        "_svc",
        "a-",
        "_",
        "xn--a",
        "a1",
        "users",
        "hub",
        "www",
        "x" * 32,
        "_" * 32,
        "first.last",
        "AB1234",
        "2023abc",
        "ann@CL.ORG",
        "x" * 64,
    ],
)
def test_web_server_accepts_every_host_name_of_an_account(written: dict[bool, dict[str, str]], name: str) -> None:
    (pattern,) = re.findall(r'HTTP_HOST}" "!(\S+)"', users_host(written[True]["site.conf"]))
    host = host_name(name, "hub.localhost", kind="user")
    assert is_user_name(name, "[A-Za-z0-9._@-]+")
    assert re.search(pattern, host)
    assert re.search(pattern, f"{host}:8443")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", host.removesuffix(".hub.localhost"))


def test_no_two_users_have_the_same_host_name() -> None:
    names = ["ab1234", "AB1234", "Ab1234", "first.last", "first-last", "firstlast", "ann@CL.ORG", "ann@cl.org", "ann"]
    names += [dns_label(name) for name in names if dns_label(name) != name]  # an account that is called like a label
    hosts = {host_name(name, "hub.localhost", "user").lower() for name in names}
    assert len(hosts) == len(names)
    assert host_name("alice", "hub.localhost", "user") == "alice.hub.localhost"


@pytest.mark.parametrize(
    "host",
    [
        "hub.localhost",
        "a.b.hub.localhost",
        ".hub.localhost",
        "a.hub.localhost.org",
        "ahub.localhost",
        "a_b.hub.localhost",
    ],
)
def test_web_server_rejects_other_host_names(written: dict[bool, dict[str, str]], host: str) -> None:
    (pattern,) = re.findall(r'HTTP_HOST}" "!(\S+)"', users_host(written[True]["site.conf"]))
    assert not re.search(pattern, host)


def certify(path: Path, *names: str) -> str:
    make_certificates(path.parent, {path.stem: list(names)})
    return str(path)


def problems(certificate: str, *, switch: bool) -> list[str]:
    files = {"certificate": Path(certificate).read_bytes(), "key": Path(certificate).with_suffix(".key").read_bytes()}
    wildcard = "*.hub.example.org" if switch else ""
    return [one.message for one in check(files, [], wildcard=wildcard, now=datetime.now(UTC))]


def test_accepts_a_certificate_for_all_user_hosts(tmp_path: Path) -> None:
    assert problems(certify(tmp_path / "hub.pem", "hub.example.org", "*.Hub.Example.org"), switch=True) == []


@pytest.mark.parametrize(
    "names", [["hub.example.org", "hub"], ["*.example.org"], ["hub.example.org", "a.hub.example.org"]]
)
def test_rejects_a_certificate_without_the_user_hosts(tmp_path: Path, names: list[str]) -> None:
    path = certify(tmp_path / "hub.pem", *names)
    assert problems(path, switch=True) == [
        "is not valid for *.hub.example.org, which user_subdomains of hpc_service requires; it is valid for "
        + ", ".join(names)
    ]
    assert problems(path, switch=False) == []


@pytest.mark.slow
def test_run_stops_before_contacting_a_host(ansible: Ansible, lab: Path, tmp_path: Path) -> None:
    certify(tmp_path / "hub.pem", "hub.localhost", "hub")
    site = tmp_path / "site"
    shutil.copytree(SITE, site)
    service = site / "group_vars" / "all" / "service.yml"
    text = service.read_text().replace("hpc_service:\n", "hpc_service:\n  user_subdomains: true\n")
    service.write_text(text.replace("{{ lab_dir }}", str(tmp_path)))
    done = ansible("ansible-playbook", "-i", site, "playbooks/site.yml")
    assert done.returncode == 2, done.stdout
    assert "is not valid for *.hub.localhost, which user_subdomains of hpc_service requires" in done.stdout
    assert "it is valid for hub.localhost, hub; use a certificate" in done.stdout
    assert "UNREACHABLE" not in done.stdout
