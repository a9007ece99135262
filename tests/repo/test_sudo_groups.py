"""The groups in sudo's rule: which names the role accepts, and how the rule quotes them."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import regex_replace

from hpchub.model.entries import Access

ROLE = Path(__file__).resolve().parents[2] / "roles" / "scheduler_access"

QUOTED = {
    "hpc": '"%hpc"',
    "HPC Users": '"%HPC Users"',
    "/staff/it": '"%/staff/it"',
    "grp@REALM": '"%grp@REALM"',
    "CN=HPC Users,OU=Groups,DC=cl,DC=org": '"%CN=HPC Users,OU=Groups,DC=cl,DC=org"',
    r"CL\hpc users": r'"%CL\hpc users"',
    "x,hpc-admins": '"%x,hpc-admins"',
    "5000": "%#5000",
}
"""Groups and their notation. sudo 1.9.13 and 1.9.16 recognise exactly the members of these groups."""
REFUSED = ["root", "0", "00", "#5000", "%hpc", ":hpc", "+hpc", 'a"b', 'hpc", ALL, "', "hpc\\", r"a\x41", "a\nb", ""]


def accepted_by_model(group: str) -> bool:
    try:
        Access(job_groups=[group])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("group", [*QUOTED, *REFUSED])
def test_role_and_model_accept_the_same_groups(group: str) -> None:
    pattern = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__scheduler_access_group"]
    assert accepted_by_model(group) is (group in QUOTED)
    assert bool(re.match(pattern, group)) is (group in QUOTED)


@pytest.mark.parametrize("group", QUOTED)
def test_rule_quotes_the_name_of_a_group(group: str) -> None:
    environment = jinja2.Environment(autoescape=False)
    environment.filters |= {"regex_replace": regex_replace, "comment": str}
    rule = environment.from_string((ROLE / "templates" / "sudoers.j2").read_text()).render(
        ansible_managed="",
        scheduler_access_account="hpchub",
        scheduler_access_permitted_groups=["staff", group],
        __scheduler_access_program_directory="/x",
    )
    assert f'hpchub ALL = ("%staff", {QUOTED[group]}, !root, !\\#0) NOPASSWD: NOSETENV: /x/job ""' in rule
    assert "!case_insensitive_group" in rule
