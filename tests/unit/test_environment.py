"""The extensions that the real notebook server loads, and the repositories of the panel for Git."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from notebook_server import Session

LOADED = re.compile(r"(\w+) \| extension was successfully loaded")


def test_server_loads_only_the_extensions_of_the_list(session: Session) -> None:
    """The packages of the environment bring more. Each of them would be on by itself."""
    session.start().wait_for_report()
    assert sorted({*LOADED.findall(session.log)} - {"jupyterhub"}) == [
        "jupyter_lsp",
        "jupyter_server_terminals",
        "jupyterlab",
        "jupyterlab_git",
        "notebook",
        "notebook_shim",
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_git_shows_the_changes_of_a_repository(session: Session) -> None:
    work = session.home / "work"
    work.mkdir()
    subprocess.run(["git", "init", "--quiet", work], check=True)
    (work / "new.txt").write_text("x")
    session.start().wait_for_report()
    status, answer = session.request("git/work/status", "POST", {})
    assert status == 200, answer
    assert [(file["to"], file["x"], file["y"]) for file in answer["files"]] == [("new.txt", "?", "?")]
