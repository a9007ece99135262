"""The units of the sign-on: systemd reads them as they are meant, and their programs have few rights."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from apache_server import REQUIRED
from repo.sites import ROOT
from web_site import render, template

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
COMMANDS = [
    pytest.param(line, id=f"{path.parent.parent.name}/{path.name}/{line.partition('=')[0]}")
    for path in sorted(ROOT.glob("roles/*/templates/**/*.j2"))
    for line in path.read_text().splitlines()
    if line.startswith("Exec")
]
UNITS = {
    "hpchub-account.service": "account.service.j2",
    "hpchub-account.socket": "account.socket.j2",
    "hpchub-saml-metadata.service": "saml-metadata.service.j2",
    "hpchub-saml-metadata.timer": "saml-metadata.timer.j2",
}
SHIBD = Path("/usr/lib/systemd/system/shibd.service")
WITH_SHIBD = pytest.param(
    "shibd.service", marks=pytest.mark.skipif(not SHIBD.exists() and not REQUIRED, reason="shibd is not installed")
)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_of_a_unit_does_not_end_at_a_semicolon(line: str) -> None:
    """For systemd, a word that is only a semicolon begins another command. The program would not get it."""
    assert ";" not in line.split()


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units of the role ``reverse_proxy``, with a program that exists."""
    directory = tmp_path_factory.mktemp("units")
    given = {"reverse_proxy_public_url": "https://hub.example.org", "reverse_proxy_sso_provider": "saml"}
    for name, text in render(given, {name: template(path) for name, path in UNITS.items()}).items():
        (directory / name).write_text(text)
    if SHIBD.exists():
        (directory / "shibd.service.d").mkdir()
        drop_in = render(given | {"reverse_proxy_sso_provider": "shibboleth"}, {"text": template("shibd.conf.j2")})
        (directory / "shibd.service.d" / "hpchub.conf").write_text(drop_in["text"])
        shutil.copy(SHIBD, directory)
    return directory


def test_web_server_reads_new_metadata(units: Path) -> None:
    text = (units / "hpchub-saml-metadata.service").read_text()
    found = re.search(r"^ExecStopPost=\+-(.*)$", text, re.MULTILINE)
    assert found is not None
    words = found[1].split()
    assert words[:2] == ["/usr/bin/find", "/var/lib/hpchub-saml/idp-metadata.xml"]
    # The directory belongs to the account of the program, and this command runs as root.
    assert words[2:4] == ["-maxdepth", "0"]
    assert words[-5:] == ["-exec", "systemctl", "reload", "apache2.service", r"\;"]


@needs_systemd
@pytest.mark.parametrize("name", [*UNITS, WITH_SHIBD])
def test_systemd_has_nothing_to_complain_about(units: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units / name], capture_output=True, text=True, check=False
    )
    assert [line for line in (done.stdout + done.stderr).splitlines() if "hpchub" in line] == []


@needs_systemd
@pytest.mark.parametrize("name", ["hpchub-account.service", "hpchub-saml-metadata.service", WITH_SHIBD])
def test_programs_have_few_rights(units: Path, name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units / name],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+ ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 1.7
