"""The packages of the default kernel, interactive figures, the panel for Git, and an extension of the site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .pages import CELL

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import JupyterLab, Visitor

KERNEL = "python3"
IMPORTS = """\
import bokeh, dask, dask_jobqueue, distributed, ipympl, ipywidgets, matplotlib, numpy, pandas, scipy
print("sum", dask.delayed(numpy.sum)(numpy.arange(4)).compute())"""
FIGURE = """\
%matplotlib widget
import matplotlib.pyplot as plt
figure, axes = plt.subplots()
axes.plot([1, 2, 4])
plt.show()"""
SLIDER = """\
import ipywidgets
slider, label = ipywidgets.IntSlider(value=3), ipywidgets.Label()
slider.observe(lambda change: setattr(label, "value", f"now {change.new}"), "value")
display(slider, label)"""
EXTENSION = "jupyterlab-execute-time"  # hpc_extensions of inventories/workbench
LIBRARY = "tabulate"  # hpc_notebook_packages of inventories/workbench


def extensions(lab: JupyterLab) -> list[str]:
    """Return the names of the prebuilt extensions that JupyterLab has loaded."""
    data = "JSON.parse(document.getElementById('jupyter-config-data').textContent)"
    names: list[str] = lab.page.evaluate(f"{data}.federated_extensions.map(each => each.name)")
    return names


def test_default_kernel_has_the_scientific_packages_and_interactive_figures(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    notebook = found.new_notebook(KERNEL)
    assert notebook.run(IMPORTS) == "sum 6"
    notebook.run(FIGURE)
    expect(found.page.locator(".jupyter-matplotlib-canvas-container canvas").first).to_be_visible(timeout=CELL)
    notebook.run(SLIDER)
    handle = found.page.locator(".noUi-handle").last
    handle.focus()
    handle.press("ArrowRight")
    expect(found.page.get_by_text("now 4", exact=True)).to_be_visible(timeout=CELL)
    notebook.save()
    browser_page.stop_server()


def test_extension_and_package_of_the_site_are_there(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    if EXTENSION not in extensions(found):
        pytest.skip(f"the site has no extension {EXTENSION}")
    notebook = found.new_notebook(KERNEL)
    assert notebook.run(f"import {LIBRARY}; print({LIBRARY}.tabulate([[6, 7]]))").split()[1:3] == ["6", "7"]
    expect(found.page.locator(".execute-time").first).to_contain_text("Last executed at")
    notebook.save()
    browser_page.stop_server()


def test_user_commits_a_file_with_the_panel_for_git(browser_page: Visitor, lab: Lab) -> None:
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]

    def as_alice(script: str) -> str:
        return lab.run(node, ["runuser", "-u", "alice", "--", "sh", "-c", f"cd && {script}"])

    as_alice(
        "rm -rf e2e-git && git init -q e2e-git && cd e2e-git && git config user.name Alice"
        " && git config user.email alice@example.org && echo one > result.txt"
    )
    try:
        found.page.goto(f"{found.base_url}/lab/tree/e2e-git/result.txt?reset")
        found.page.locator('.lm-TabBar-tab[data-id="jp-git-sessions"]').click()
        panel = found.page.locator("#jp-git-sessions")
        track = found.page.get_by_title("Track this file")
        row = panel.locator("div", has=found.page.get_by_text("result.txt", exact=True)).filter(has=track).last
        row.hover()
        row.locator(track).click()
        panel.get_by_placeholder("Commit message").fill("the first result")
        panel.get_by_role("button", name="Commit", exact=True).click()
        committed = "git -C e2e-git log --format='%an: %s' 2>/dev/null || true"
        eventually("the commit is there", lambda: as_alice(committed).strip() == "Alice: the first result")
    finally:
        as_alice("rm -rf e2e-git")
    browser_page.stop_server()
