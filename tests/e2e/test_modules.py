"""Modules in JupyterLab's sidebar: a loaded module changes new kernels, and a link cannot run commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .pages import fetch

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

SETTINGS = "/opt/hpchub/notebook/current/etc/jupyter/jupyter_server_config.json"
CODE = "import os; print(os.environ.get('LAB_GEO_DATA'), os.environ.get('LD_LIBRARY_PATH'))"


def test_module_that_is_loaded_in_the_sidebar_changes_new_kernels(browser_page: Visitor, lab: Lab) -> None:
    if not json.loads(lab.run("login1", ["cat", SETTINGS])).get("Hpchub", {}).get("modules"):
        pytest.skip("the cluster of this lab has no modules")
    browser_page.sign_in("alice")
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    assert notebooks.run_cell("python3", CODE) == "None None"

    page = notebooks.page
    page.locator('.jp-SideBar [data-id="module-jupyterlab"]').click()
    page.locator("#modules").fill("lab-geo")
    available = page.locator("#module_avail_list li", has_text="lab-geo/1.0")
    available.hover()
    available.get_by_role("button", name="Load").click()
    loaded = page.locator("#module_loaded_list li", has_text="lab-geo/1.0")
    expect(loaded).to_be_visible()
    assert notebooks.run_cell("python3", CODE) == "/opt/lab/kernels/data /opt/lab/kernels/lib"
    loaded.hover()
    loaded.get_by_role("button", name="Unload").click()
    expect(page.locator("#module_loaded_list li")).to_have_count(0)
    assert notebooks.run_cell("python3", CODE) == "None None"

    # The names in an address never reach a shell.
    answer = fetch(page, "GET", f"{notebooks.base_url}/module/modules/x;touch%20owned")
    assert answer.status == 400
    assert "owned" not in lab.run("login1", ["bash", "-c", "ls ~alice"])
    # The tiles of applications are there too.
    for app in lab.profile_list().get("apps", []):
        page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
        tile = page.locator(f'.jp-LauncherCard[data-category="Applications"]:has-text("{app["display_name"]}"):visible')
        expect(tile).to_have_count(1)
    lab.run("login1", ["bash", "-c", "rm -f ~alice/Untitled*.ipynb"])
    browser_page.stop_server()
