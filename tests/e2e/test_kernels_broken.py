"""Kernels of the site that cannot start: JupyterLab names the reason, and the session lives on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab
    from .pages import JupyterLab, Visitor

IMAGE = "/home/lab/python2"
MODULE = "/opt/lab/kernels/modulefiles/lab-geo/1.0"


@contextmanager
def away(lab: Lab, path: str, hosts: list[str]) -> Iterator[None]:
    """Move a file or directory away on some hosts. In the end, it is back."""
    moved = []
    try:
        for host in hosts:
            lab.run(host, ["mv", path, f"{path}.away"])
            moved.append(host)
        yield
    finally:
        for host in moved:
            lab.run(host, ["mv", f"{path}.away", path])


def start_and_read(notebooks: JupyterLab, title: str) -> str:
    """Click on the tile of a kernel. Return the text of the dialog that explains why it does not start."""
    page = notebooks.page
    page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
    page.locator(f'.jp-LauncherCard[data-category="Notebook"][title="{title}"]:visible').click()
    dialog = page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("Error Starting Kernel", timeout=30_000)
    text = dialog.inner_text()
    dialog.get_by_role("button", name="Ok").click()
    return text


def test_gone_image_and_gone_module_are_named_and_the_session_lives_on(browser_page: Visitor, lab: Lab) -> None:
    offered = lab.run("login1", ["ls", "/opt/hpchub/jupyter/kernels"]).split()
    if not {"python2", "lab-geo"} <= set(offered):
        pytest.skip("this lab has no kernels of containers and modules")
    browser_page.sign_in("alice")
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    assert notebooks.run_cell("lab-geo", "import os; print(os.environ['LAB_GEO_DATA'])") == "/opt/lab/kernels/data"

    with away(lab, MODULE, [*NODES]):
        assert "Python of a module does not work: module load lab-geo/1.0 failed on" in start_and_read(
            notebooks, "Python of a module"
        )
    with away(lab, IMAGE, ["login1"]):
        notebooks.page.reload()
        notebooks = browser_page.wait_for_lab()
        shown = notebooks.kernels()["python2"]
        assert shown.startswith(f"Python 2.7 (does not work: {IMAGE} does not exist on ")
        assert f"Python 2.7 does not work: {IMAGE} does not exist on" in start_and_read(notebooks, shown)

    # The session lives on, and the kernels work again as soon as their files are back.
    assert notebooks.run_cell("python3", "print(6 * 7)") == "42"
    notebooks.page.reload()
    assert browser_page.wait_for_lab().kernels()["python2"] == "Python 2.7"
    lab.run("login1", ["bash", "-c", "rm -f ~alice/Untitled*.ipynb"])
    browser_page.stop_server()
