"""Vaults without a password, unreadable files and forced colours, as Ansible itself meets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from repo.sites import ROOT, SITE

if TYPE_CHECKING:
    from pathlib import Path

    from repo.conftest import Ansible

SECRET = "vault_sso_client_secret: d41d8cd98f00b204\n"
ADVICE = "give its password with --ask-vault-pass or --vault-password-file FILE, or set ANSIBLE_VAULT_PASSWORD_FILE"


@pytest.fixture
def site(ansible: Ansible, tmp_path: Path) -> Path:
    """Return an inventory with an encrypted vault. The file ``password`` beside it contains the password."""
    copied: Path = shutil.copytree(SITE, tmp_path / "site")
    lab = copied / "group_vars" / "all" / "lab.yml"
    lab.write_text("\n".join(line for line in lab.read_text().splitlines() if "vault_sso" not in line) + "\n")
    (tmp_path / "password").write_text("open\n")
    (tmp_path / "wrong").write_text("closed\n")
    vault = copied / "group_vars" / "all" / "vault.yml"
    vault.write_text(SECRET)
    done = ansible("ansible-vault", "encrypt", "--vault-password-file", tmp_path / "password", vault)
    assert done.returncode == 0, done.stderr
    return copied


def problems(ansible: Ansible, site: Path, *options: object) -> list[str]:
    done = ansible("python", "-m", "hpchub.cli", "check", "--json", *options, site)
    found: list[dict[str, Any]] = json.loads(done.stdout)["problems"]
    assert done.returncode == (1 if found else 0), done.stderr
    return [problem["text"].removeprefix(f"{site}/") for problem in found]


@pytest.mark.slow
def test_password_of_the_vault(ansible: Ansible, site: Path) -> None:
    profiles = site / "group_vars" / "all" / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("cores: 1\n", "cores: 100\n", 1))
    other = 'group_vars/all/profiles.yml:8:12: hpc_profiles[0] (key "small"): cores 100 is above max_cores 16'
    for options, message in (
        ((), f"group_vars/all/vault.yml:1:1: is encrypted, and no vault password was given; {ADVICE}"),
        (
            ("--vault-password-file", site.parent / "wrong"),
            f"group_vars/all/vault.yml:1:1: cannot be decrypted: the vault password is wrong; {ADVICE}",
        ),
    ):
        found = problems(ansible, site, *options)
        assert found[0] == message
        assert len(found) == 2
        assert found[1].startswith(other)
    (found_with_password,) = problems(ansible, site, "--vault-password-file", site.parent / "password")
    assert found_with_password.startswith(other)


@pytest.mark.slow
def test_secret_that_is_encrypted_alone(ansible: Ansible, site: Path) -> None:
    (site / "group_vars" / "all" / "vault.yml").unlink()
    options = ("--vault-password-file", site.parent / "password")
    vaulted = ansible("ansible-vault", "encrypt_string", *options, "d41d8cd98f00")
    path = site / "group_vars" / "all" / "access.yml"
    secret = vaulted.stdout.replace("\n", "\n    ").rstrip()
    path.write_text(path.read_text().replace('"{{ vault_sso_client_secret }}"', secret))
    assert problems(ansible, site, *options) == []
    (without,) = problems(ansible, site)
    assert without.startswith("group_vars/all/access.yml:6:18: hpc_sso: client_secret cannot be evaluated: it is enc")
    assert without.endswith(ADVICE)
    (wrong,) = problems(ansible, site, "--vault-password-file", site.parent / "wrong")
    assert "the vault's password is wrong" in wrong


@pytest.mark.slow
def test_unreadable_files_do_not_hide_other_problems(ansible: Ansible, site: Path) -> None:
    options = ("--vault-password-file", site.parent / "password")
    everywhere = site / "group_vars" / "all"
    (everywhere / "kernels.yml").write_text("hpc_kernels:\n\t- {name: python3, kind: python}\n")
    (everywhere / "link.yml").symlink_to("/nowhere")
    (site / "hosts.yml").write_text((site / "hosts.yml").read_text().replace("compute1:", "compute[1-4]:"))
    profiles = everywhere / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("cores: 1\n", "cores: 100\n", 1))
    found = problems(ansible, site, *options)
    assert [line.split(": ")[0] for line in found] == [
        "group_vars/all/kernels.yml:2:1",
        "group_vars/all/link.yml",
        "hosts.yml:23:13",
        "group_vars/all/profiles.yml:8:12",
    ]


@pytest.mark.slow
def test_misspelt_variable_in_an_expression(ansible: Ansible, site: Path) -> None:
    path = site / "group_vars" / "all" / "access.yml"
    path.write_text(path.read_text().replace("vault_sso_client_secret", "vault_sso_client_secert"))
    (found,) = problems(ansible, site, "--vault-password-file", site.parent / "password")
    assert found == (
        "group_vars/all/access.yml:6:18: hpc_sso: client_secret cannot be evaluated: 'vault_sso_client_secert' is "
        'undefined; did you mean "vault_sso_client_secret"?'
    )


@pytest.mark.slow
def test_settings_of_ci_change_nothing(lab: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        **dict.fromkeys(("ANSIBLE_FORCE_COLOR", "ANSIBLE_DEBUG", "FORCE_COLOR", "PY_COLORS", "CI"), "1"),
        "ANSIBLE_VERBOSITY": "3",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "HPCHUB_LAB_DIR": str(lab),
        "ANSIBLE_LOG_PATH": str(tmp_path / "log"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    command = [sys.executable, "-m", "hpchub.cli", "check", str(SITE)]
    # The working directory has no ansible.cfg.
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{SITE}: valid, 1 cluster, 4 profiles\n"), done.stderr
