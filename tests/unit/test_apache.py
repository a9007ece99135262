"""The filter apache_problems: which values may become part of Apache's configuration."""

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.filter.apache import KINDS, apache_problems

VALID = {
    "word": ["hub.example.org", "hub_1", "https://jupyter.example.org/~hub", "openid", "a@b+c"],
    "origin": ["https://jupyter.example.org", "https://hub.localhost:8443"],
    "url": ["https://sso.example.org/.well-known/openid-configuration", "https://sso:8443/realms/a%20b?x=1&y=2"],
    "path": ["/run/hpchub-proxy/public/proxy.sock"],
    "network": ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "2001:db8::1", "::ffff:192.0.2.7"],
    "group": ["hpc", "HPC users", "cn=hpc/ou=groups", "urn:geant:hpc#1", "groupe-étudiants"],
    "claim": ["sub", "preferred_username", "eduperson-entitlement"],
    "regex": ["", r"^(.*)@example\.org$", "^[a-z]+"],
}
# Each of these adds a directive, reads a variable, or ends the argument that contains it.
BREAKING = {
    "line-break": "\nInclude /tmp/own.conf",
    "trailing-line-break": "\n",
    "quote": '" "x',
    "variable": "${HOME}",
    "expression": "%{ENV:x}",
}
INVALID = [
    ("word", ""),
    ("word", "hub.example.org other.example.org"),
    ("origin", "http://jupyter.example.org"),
    ("origin", "https://jupyter.example.org/hub"),
    ("origin", "https://jupyter.example.org$1"),
    ("url", "http://sso.example.org/metadata"),
    ("path", "proxy.sock"),
    ("path", "/run/proxy.sock|http://192.0.2.7/"),
    ("network", "all"),
    ("network", "cluster.example.org"),
    ("network", "10.0.0.0/8 192.0.2.7"),
    ("group", ""),
    ("group", "hpc,admins"),
    ("group", "hpc;admins"),
    ("group", "DOMAIN\\hpc"),
    ("word", "alice bob"),
    ("claim", "roles:admin"),
    ("claim", "realm_access.roles"),
    ("regex", "^(.*) x"),
    ("regex", "^$|x"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_accepts_valid_values(kind: str) -> None:
    assert apache_problems({kind: {"argument": VALID[kind]}}) == []
    for value in VALID[kind]:
        assert apache_problems({kind: {"argument": value}}) == []


@pytest.mark.parametrize("breaking", BREAKING)
@pytest.mark.parametrize("kind", KINDS)
def test_refuses_value_that_changes_the_configuration(kind: str, breaking: str) -> None:
    value = VALID[kind][-1] + BREAKING[breaking]
    assert len(apache_problems({kind: {"argument": value}})) == 1
    assert len(apache_problems({kind: {"argument": [*VALID[kind], value]}})) == 1


@pytest.mark.parametrize(("kind", "value"), INVALID)
def test_refuses_invalid_value(kind: str, value: str) -> None:
    assert apache_problems({kind: {"argument": value}}) == [
        f'argument: "{value}" cannot be part of Apache\'s configuration; write {KINDS[kind].valid}'
    ]


def test_reports_every_problem_at_once() -> None:
    problems = apache_problems({"word": {"one": ["alice", "a b", "c d"], "two": ["bob"]}, "claim": {"three": "a b"}})
    assert [problem.partition(" cannot be")[0] for problem in problems] == ['one: "a b", "c d"', 'three: "a b"']


def test_refuses_unknown_kind() -> None:
    with pytest.raises(AnsibleFilterError, match='kind "words" is unknown; valid: word, origin, '):
        apache_problems({"words": {}})
