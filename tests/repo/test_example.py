"""Each comment of the example inventory leads to a valid inventory."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml
from repo.sites import ROOT

from lab.certificates import make_certificates

if TYPE_CHECKING:
    from pathlib import Path

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
ADVICE = (
    ("clusters.yml", "shared: true", "shared: false"),
    ("clusters.yml", "firewall: false", "firewall: true"),
    ("clusters.yml", "max_gpus: 4}", "max_gpus: 4, enabled: false}"),
    ("kernels.yml", "path: /soft/venvs/geo}", "path: /soft/venvs/geo, clusters: [mesabi], environment: {NAME: value}}"),
    ("kernels.yml", "runtime: apptainer", "runtime: charliecloud"),
)
LOCAL = (("clusters.yml", "{method: ssh, host: login1.mesabi.example.org}", "{method: local}"),)


@pytest.fixture(scope="module")
def prepared(ansible: Ansible, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the example with the files that its comments mention: a vault and certificates."""
    site = tmp_path_factory.mktemp("example") / "site"
    shutil.copytree(EXAMPLE, site)
    (site / "files").mkdir()
    make_certificates(site / "files", {HOST: [HOST, f"*.{HOST}"]})
    (site / "files" / "ca.pem").rename(site / "files" / "our-authority.pem")
    vault = site / "group_vars" / "all" / "vault.yml"
    vault.write_text("vault_sso_client_secret: d41d8cd98f00b204\n")
    (site.parent / "password").write_text("open\n")
    options = ("--vault-password-file", site.parent / "password")
    encrypted = ansible("ansible-vault", "encrypt", *options, vault, site / "files" / f"{HOST}.key")
    assert encrypted.returncode == 0, encrypted.stderr
    return site


@pytest.fixture
def site(prepared: Path, tmp_path: Path) -> Path:
    shutil.copy(prepared.parent / "password", tmp_path)
    copied: Path = shutil.copytree(prepared, tmp_path / "site")
    return copied


def check(ansible: Ansible, site: Path, *options: object) -> list[str]:
    command = ("python", "-m", "hpchub.cli", "check", "--json", "--vault-password-file", site.parent / "password")
    done = ansible(*command, *options, site)
    return [problem["text"] for problem in json.loads(done.stdout)["problems"]]


def test_example_has_commented_settings() -> None:
    text = "".join((EXAMPLE / name).read_text() for name in FILES)
    names = {"user_subdomains", "hpc_tls", "hpc_install_environment", "enabled"}
    assert {name for name in names if re.search(rf"^ *# {name}:", text, re.MULTILINE)} == names
    assert len(COMMENTED) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "begin", "end"), COMMENTED, ids=[f"{name}:{line + 1}" for name, line, _ in COMMENTED])
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
@pytest.mark.parametrize("advice", [ADVICE, LOCAL], ids=["settings", "local"])
def test_advice_in_sentences_is_valid(ansible: Ansible, site: Path, advice: tuple[tuple[str, str, str], ...]) -> None:
    for name, old, new in advice:
        path = site / "group_vars" / "all" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
    assert check(ansible, site) == []


@pytest.mark.slow
def test_strict_check_reports_what_the_example_leaves_to_the_site(ansible: Ansible, site: Path) -> None:
    problems = check(ansible, site, "--strict")
    assert problems
    assert all("example.org" in problem for problem in problems)
