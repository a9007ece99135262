"""The files of the command hpchub-kernel, as the role notebook_environment installs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from notebook_server import notebook_environment
from repo.sites import ROOT

ROLE = ROOT / "roles" / "notebook_environment"
FILES = "(__notebook_environment_own_files | selectattr('dest', 'eq', 'bin/hpchub-kernel') | list)"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the files of the command, and with the packages of a session."""
    path = tmp_path_factory.mktemp("notebook") / "env"
    real = notebook_environment()
    subprocess.run([real / "bin" / "python", "-m", "venv", "--without-pip", path], check=True)
    (packages,) = (real / "lib").glob("python*/site-packages")
    (site,) = (path / "lib").glob("python*/site-packages")
    (site / "all.pth").write_text(f"{packages}\n")
    for file in rendered():
        target = path / file["dest"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file["content"].replace("@ENVIRONMENT@", str(path)))
        target.chmod(int(file["mode"], 8))
    return path


def rendered() -> list[dict[str, Any]]:
    """Return the files as Ansible renders them."""
    message = f"msg={{{{ ({FILES} + __notebook_environment_kernel_command_files) | to_json }}}}"
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "--connection=local", "-i", "localhost,"]
    command += ["--module-name=ansible.builtin.debug", "--args", message, f"--extra-vars=role_path={ROLE}"]
    command += [f"--extra-vars=@{ROLE / part / 'main.yml'}" for part in ("defaults", "vars")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = yaml.safe_load(output.partition(" => ")[2])["msg"]
    files: list[dict[str, Any]] = json.loads(found) if isinstance(found, str) else found
    return files


def test_files_are_those_of_the_repository(environment: Path) -> None:
    for path in (environment / "lib" / "hpchub").rglob("*.py"):
        source = ROOT / "src" / "hpchub" / path.relative_to(environment / "lib" / "hpchub")
        assert path.read_text() == source.read_text()


def test_command_registers_and_starts_a_kernel(environment: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # A foreign PYTHONPATH, as modules set it, must not matter.
        env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
        command = [str(environment / "bin" / "hpchub-kernel"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    (tmp_path / "json.py").write_text("raise SystemExit('reached')")
    done = run("add", str(environment), "--name=own")
    assert done.returncode == 0, done.stderr
    done = run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split()[-1] == "works"
