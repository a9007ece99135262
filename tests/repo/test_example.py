"""Whoever follows a comment of the example inventory gets a valid inventory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from repo.sites import ROOT

from lab.certificates import make_certificates

if TYPE_CHECKING:
    from repo.conftest import Ansible

EXAMPLE = ROOT / "inventories" / "example_slurm"
FILES = sorted(str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*.yml"))
HOST = "jupyter.example.org"
_SETTING = re.compile(r"( *)# [A-Za-z_]\w*:(?: |$)")


def settings(text: str) -> list[tuple[int, int]]:
    """Return the settings that a file contains as comments, as the numbers of the first line and after the last one."""
    lines = text.splitlines()
    found = []
    number = 0
    while number < len(lines):
        end = number + 1
        if begin := _SETTING.match(lines[number]):
            while end < len(lines) and lines[end].startswith(f"{begin[1]}#   "):
                end += 1
            block = "\n".join(line.removeprefix(f"{begin[1]}# ") for line in lines[number:end])
            if isinstance(yaml.safe_load(block), dict):
                found.append((number, end))
        number = end
    return found


def uncommented(text: str, begin: int, end: int) -> str:
    lines = text.splitlines()
    lines[begin:end] = [re.sub(r"^( *)# ", r"\1", line) for line in lines[begin:end]]
    return "\n".join(lines) + "\n"


COMMENTED = [(name, *place) for name in FILES for place in settings((EXAMPLE / name).read_text())]
# Advice in sentences: the file, the text, and what the sentence says to write instead.
ADVICE = [
    ("group_vars/all/clusters.yml", "{method: ssh, host: login1.mesabi.example.org}", "{method: local}"),
    ("group_vars/all/clusters.yml", "shared: true", "shared: false"),
    ("group_vars/all/clusters.yml", "firewall: false", "firewall: true"),
    ("group_vars/all/kernels.yml", "kind: python}", "kind: python, clusters: [mesabi]}"),
    ("group_vars/all/kernels.yml", "kind: python}", "kind: python, environment: {NAME: value}}"),
    ("group_vars/all/kernels.yml", "runtime: apptainer", "runtime: charliecloud"),
    ("group_vars/all/clusters.yml", "max_gpus: 4}", "max_gpus: 4, enabled: false}"),
]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a copy of the example with the files that its comments mention."""
    copied = tmp_path / "site"
    shutil.copytree(EXAMPLE, copied)
    (copied / "files").mkdir()
    make_certificates(copied / "files", {HOST: [HOST, f"*.{HOST}"]})
    (copied / "files" / "ca.pem").rename(copied / "files" / "our-authority.pem")
    return copied


def check(ansible: Ansible, site: Path, *options: object) -> list[str]:
    """Return the problems of a site. Its vault is encrypted, as the example advises."""
    vault, password = site / "group_vars" / "all" / "vault.yml", site.parent / "password"
    vault.write_text("vault_sso_client_secret: d41d8cd98f00b204\n")
    password.write_text("open\n")
    encrypted = ansible("ansible-vault", "encrypt", "--vault-password-file", password, vault)
    assert encrypted.returncode == 0, encrypted.stderr
    key = site / "files" / f"{HOST}.key"
    encrypted = ansible("ansible-vault", "encrypt", "--vault-password-file", password, key)
    assert encrypted.returncode == 0, encrypted.stderr
    command = ("python", "-m", "hpchub.cli", "check", "--json", "--vault-password-file", password)
    done = ansible(*command, *options, site)
    return [problem["text"] for problem in json.loads(done.stdout)["problems"]]


def test_example_has_commented_settings() -> None:
    text = "".join((EXAMPLE / name).read_text() for name in FILES)
    names = {"user_subdomains", "hpc_tls", "hpc_install_environment", "enabled"}
    assert {name for name in names if re.search(rf"^ *# {name}:", text, re.MULTILINE)} == names
    assert len(COMMENTED) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "begin", "end"), COMMENTED, ids=[f"{name}:{begin + 1}" for name, begin, _ in COMMENTED]
)
def test_commented_setting_is_valid(ansible: Ansible, site: Path, name: str, begin: int, end: int) -> None:
    path = site / name
    path.write_text(uncommented(path.read_text(), begin, end))
    assert check(ansible, site) == []


@pytest.mark.slow
def test_all_commented_settings_together_are_valid(ansible: Ansible, site: Path) -> None:
    for name in FILES:
        for begin, end in reversed(settings((EXAMPLE / name).read_text())):
            (site / name).write_text(uncommented((site / name).read_text(), begin, end))
    assert check(ansible, site) == []


@pytest.mark.slow
def test_advice_in_sentences_is_valid(ansible: Ansible, site: Path) -> None:
    for name, old, new in ADVICE:
        path = site / name
        text = path.read_text()
        assert old in text, old
        path.write_text(text.replace(old, new, 1))
        assert check(ansible, site) == [], new
        path.write_text(text)


@pytest.mark.slow
def test_strict_check_reports_what_the_example_leaves_to_the_site(ansible: Ansible, site: Path) -> None:
    problems = check(ansible, site, "--strict")
    assert problems
    assert all("example.org" in problem for problem in problems)
