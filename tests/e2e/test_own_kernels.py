"""Users' own environments as kernels: registered on a login node, used in a session, and gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab
    from .pages import Visitor

USER = "carol"
# Two virtual environments with the packages of the notebook environment. The second one is removed afterwards.
REGISTER = """\
set -e
for name in geo old; do
    python3 -m venv --without-pip ~/venvs/$name
    cd ~/venvs/$name/lib/python3*/site-packages
    ls -d /opt/hpchub/notebook/current/lib/python3*/site-packages > all.pth
    cd
    hpchub-kernel add ~/venvs/$name --display-name "My $name"
done
rm -r ~/venvs/old
"""


@pytest.fixture
def own_kernels(lab: Lab) -> Iterator[None]:
    """Register two environments, and remove everything afterwards."""
    try:
        lab.run("login1", ["runuser", "--login", USER, "--command", REGISTER])
        yield
    finally:
        lab.run("login1", ["bash", "-c", f"rm -rf ~{USER}/venvs ~{USER}/.local/share/jupyter/kernels"])


@pytest.mark.usefixtures("own_kernels")
def test_own_kernel_computes_and_a_broken_one_shows_its_reason(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in(USER)
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    assert notebooks.run_cell("geo", "import sys; print(6 * 7, sys.prefix)").endswith("/venvs/geo")
    shown = notebooks.kernels()
    assert shown["geo"] == "My geo"
    assert shown["old"].startswith("My old (does not work: ")
    assert "/venvs/old/bin/python does not exist on " in shown["old"]

    # The launcher's tile of the broken kernel leads to the reason, and no kernel starts.
    page = notebooks.page
    page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
    page.locator(f'.jp-LauncherCard[data-category="Notebook"][title="{shown["old"]}"]:visible').click()
    dialog = page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("Error Starting Kernel")
    expect(dialog).to_contain_text("My old does not work: ")
    dialog.get_by_role("button", name="Ok").click()
    checked = lab.run("login1", ["runuser", "--login", USER, "--command", "hpchub-kernel check || echo code $?"])
    assert "works" in checked
    assert checked.splitlines()[-1] == "code 1"
    browser_page.stop_server()
