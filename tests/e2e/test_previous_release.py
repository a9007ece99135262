"""The upgrade from the previous release to this checkout, and the way back. A session survives both.

The file ``previous_release`` names the commit of that release. The test deploys it on hosts that have nothing yet.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import LabError
from .site import REPOSITORY, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

RECORD = Path(__file__).with_name("previous_release")
CURRENT = "/opt/hpchub/{}/current"
pytestmark = pytest.mark.skipif(not os.environ.get("HPCHUB_UPGRADE"), reason="bin/test --only upgrade runs this test")


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the previous release."""
    commit = RECORD.read_text().strip()
    archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(
            f"git cannot read the previous release, which is the commit {commit} ({RECORD.relative_to(REPOSITORY)}):"
            f" {archive.stderr.decode().strip()}; get the whole history with git fetch --unshallow"
        )
    directory = tmp_path_factory.mktemp("previous")
    subprocess.run(["tar", "-x", "-C", directory], input=archive.stdout, check=True)
    return directory


def play(lab: Lab, directory: Path, playbook: str) -> None:
    """Run a playbook of a checkout with the checkout's own inventory of the demo.

    Raises:
        LabError: The playbook failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
    program = str(Path(sys.executable).parent / "ansible-playbook")
    done = subprocess.run(
        [program, "-i", "inventories/demo", playbook],
        cwd=directory,
        env={**environment, "HPCHUB_LAB_DIR": str(lab.directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{playbook} in {directory} exited with code {done.returncode}\n{done.stdout}\n{done.stderr}")


def environments(lab: Lab) -> list[str]:
    """Return the environments of the hub and of the notebooks."""
    return [
        lab.run(host, ["readlink", CURRENT.format(name)]).strip()
        for host, name in (("hub", "hub"), ("login1", "notebook"))
    ]


@contextmanager
def timed(what: str, capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Print how long something takes."""
    begin = time.monotonic()
    yield
    with capsys.disabled():
        print(f"\n{what}: {time.monotonic() - begin:.0f} s")


def test_session_survives_the_upgrade_from_the_previous_release_and_the_rollback(
    previous: Path, lab: Lab, visitor: Callable[[], Visitor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After each of the two, the open tab goes on, the hub knows the session, and others can start sessions."""
    play(lab, REPOSITORY, "molecule/shared/prepare.yml")
    with timed("deployment of the previous release", capsys):
        play(lab, previous, "playbooks/site.yml")
    alice = visitor()
    alice.sign_in("alice")
    notebook = alice.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert notebook.run("kept = 6*7; kept") == "42"
    before, jobs = environments(lab), lab.jobs("alice")

    def check() -> None:
        alice.wait_for_hub()
        assert notebook.run("kept") == "42"
        assert lab.jobs("alice") == jobs
        home = alice.page.context.new_page()
        home.goto(f"{lab.url}/hub/home")
        expect(home.locator("#stop")).to_be_visible()
        home.close()
        bob = visitor()
        bob.sign_in("bob")
        assert bob.start(lab.profiles()[0]["key"]).run_cell("python3", "6*7") == "42"
        bob.stop_server()

    # The upgrade keeps the database where it is. playbooks/migrate_state_store.yml can move it afterwards.
    kept = "postgresql" if lab.hub_settings()["db_url"].startswith("postgresql") else "sqlite"
    site, store = Site(lab, tmp_path), ["-e", json.dumps({"hpc_state_store": {"backend": kept}})]
    with timed("upgrade from the previous release", capsys):
        site.apply(*store)
    after = environments(lab)
    assert not set(before) & set(after)
    check()
    with timed("rollback to the previous release", capsys):
        site.apply(*store, playbook="rollback.yml")
    assert environments(lab) == before
    check()
    with timed("second upgrade", capsys):
        site.apply(*store)
    assert environments(lab) == after
    check()
