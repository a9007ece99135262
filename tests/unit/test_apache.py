"""The filters for Apache's configuration: which values may become part of it, and how groups are escaped."""

import re

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.filter.apache import KINDS, apache_group, apache_problems

VALID = {
    "word": ["hub.example.org", "hub_1", "https://jupyter.example.org/~hub", "openid", "a@b+c"],
    "origin": ["https://jupyter.example.org", "https://hub.localhost:8443"],
    "url": ["https://sso.example.org/.well-known/openid-configuration", "https://sso:8443/realms/a%20b?x=1&y=2"],
    "ldap_url": ["ldaps://ldap.example.org", "ldap://10.0.0.1:1389"],
    "ldap_text": ["", "ou=people,dc=example,dc=org", "(&(objectClass=person)(!(uid=x*)))"],
    "path": ["/run/hpchub-proxy/public/proxy.sock"],
    "network": ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "2001:db8::1", "::ffff:192.0.2.7"],
    "separator": ["", ",", "; "],
    "pattern": ["[a-z_][a-z0-9_-]{0,31}", r"^[^@]+(?:\.[a-z]+|-)*@CL\.ORG$", "[A-Za-z0-9._@-]+"],
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
    ("ldap_url", "https://ldap.example.org"),
    ("ldap_url", "ldaps://ldap.example.org/dc=org?uid"),
    ("ldap_text", "ou=people?uid"),
    ("ldap_text", "a/b"),
    ("path", "proxy.sock"),
    ("path", "/run/proxy.sock|http://192.0.2.7/"),
    ("network", "all"),
    ("network", "cluster.example.org"),
    ("network", "10.0.0.0/8 192.0.2.7"),
    ("separator", "x"),
    ("pattern", ""),
    ("pattern", "a b"),
    ("pattern", "a#b"),
    ("pattern", "a$|b"),
    ("pattern", "[a-z]/"),
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


GROUPS = [
    "hpc",
    "HPC Users",
    "/staff/it",
    "grp@REALM",
    "CN=HPC Users,OU=Groups,DC=cl,DC=org",
    "x,hpc-admins",
    "x;hpc-admins",
    r"DOMAIN\hpc",
    "a.c",
    "(a)",
    "[a]",
    "a|b",
    "a*",
    "^a$",
    'a" b',
    "${HOME}",
    "%{REMOTE_USER}",
    "groupe-étudiants",
    "a\nb",
]


def matches(expression: str, claim: str) -> bool:
    """Match a claim as mod_auth_openidc does. Apache removes one of two backslashes, and PCRE's \\z is Python's \\Z."""
    pattern = expression.replace("\\\\", "\\").replace(r"\z", r"\Z")
    return re.search(pattern.encode(), claim.encode()) is not None


@pytest.mark.parametrize("group", GROUPS)
def test_group_is_matched_exactly(group: str) -> None:
    expression = apache_group(group)
    assert matches(expression, group)
    others = [f"{group}x", f"x{group}", f"{group}\n", f" {group}", f"{group},x", f"x; {group}", group.swapcase() + "x"]
    assert [other for other in others if matches(expression, other)] == []


@pytest.mark.parametrize("separator", ["; ", "|"])
@pytest.mark.parametrize("group", GROUPS[:5])
def test_group_is_found_in_joined_text(group: str, separator: str) -> None:
    expression = apache_group(group, separator)
    for claim in ([group], [group, "x"], ["x", group], ["x", group, "y"]):
        assert matches(expression, separator.join(claim))
    for claim in (["x" + group], [group + "x"], ["x", group + "x"], ["x" + group, "y"]):
        assert not matches(expression, separator.join(claim))


@pytest.mark.parametrize("separator", ["", "; ", "|"])
@pytest.mark.parametrize("group", GROUPS)
def test_group_cannot_change_the_configuration(group: str, separator: str) -> None:
    """Neither Apache's parser nor its expressions give these characters a meaning inside double quotes."""
    assert re.fullmatch(r"(?:[A-Za-z0-9_/=:,@ ^()?|-]|\\\\(?:x[0-9a-f]{2}|z))+", apache_group(group, separator))
