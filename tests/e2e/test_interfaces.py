"""JupyterLab, Notebook 7 and NbClassic: users choose one in the form, and compute a cell in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from .pages import CELL, NEW_NOTEBOOK, START
from .test_form import change_list  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

NAME = "e2e-interface.ipynb"


@pytest.fixture
def offer(change_list: Callable[..., None]) -> None:  # noqa: F811 the fixture
    """Offer a profile for each interface."""

    def add(content: dict[str, Any]) -> None:
        first = content["profiles"][0]
        content["profiles"] += [
            {**first, "key": f"e2e-{name}", "display_name": name, "interface": name}
            for name in ("lab", "notebook", "nbclassic")
        ]

    change_list(add)


def make_notebook(visitor: Visitor) -> None:
    """Create an empty notebook."""
    made = visitor.fetch("PUT", f"/user/alice/api/contents/{NAME}", body=NEW_NOTEBOOK)
    assert made.status in {200, 201}, made


def has_nbclassic(visitor: Visitor) -> bool:
    """Return whether the session has the pages of NbClassic."""
    return visitor.fetch("GET", "/user/alice/nbclassic/tree").status == 200


def errors(visitor: Visitor) -> list[str]:
    """Return what the pages of the session asked for and did not get."""
    return [line for line in visitor.log if re.search(r" 404 GET .*/user/alice/(?!files/)", line)]


def base(page: Page) -> str:
    """Return the address of the user's server."""
    return page.url.partition("/user/")[0] + "/user/alice"


@pytest.mark.usefixtures("offer")
def test_cell_in_jupyterlab(browser_page: Visitor) -> None:
    """JupyterLab asks for nothing that the session does not have, and the session does not load NbClassic."""
    browser_page.sign_in("alice")
    assert browser_page.start("e2e-lab").run_cell("python3", "6*7") == "42"
    assert "servers-info" not in "".join(errors(browser_page))
    assert not has_nbclassic(browser_page)


@pytest.mark.usefixtures("offer")
def test_cell_in_notebook_7(browser_page: Visitor) -> None:
    """It shows the state of the session, as JupyterLab does."""
    browser_page.sign_in("alice")
    browser_page.choose_profile("e2e-notebook")
    browser_page.wait_for_classic()
    page = browser_page.page
    assert not has_nbclassic(browser_page)
    make_notebook(browser_page)
    page.goto(f"{base(page)}/notebooks/{NAME}")
    cell = page.locator(".jp-CodeCell").first
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_visible(timeout=CELL)
    cell.locator(".cm-content").fill("6*7")
    cell.locator(".cm-content").press("Shift+Enter")
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("42", timeout=CELL)
    expect(page.locator("#hpchub-status")).to_be_visible(timeout=CELL)


@pytest.mark.usefixtures("offer")
def test_cell_in_nbclassic(browser_page: Visitor, lab: Lab) -> None:
    """It shows the state of the session too. The user's changes are saved."""
    browser_page.sign_in("alice")
    browser_page.choose_profile("e2e-nbclassic")
    page = browser_page.page
    page.wait_for_url(re.compile(r"/user/alice/nbclassic/tree"), timeout=START)
    expect(page.locator("#notebook_list")).to_be_visible(timeout=START)
    expect(page.locator("#hpchub-status")).to_be_visible(timeout=CELL)
    make_notebook(browser_page)
    page.goto(f"{base(page)}/nbclassic/notebooks/{NAME}")
    expect(page.locator("#kernel_indicator_icon.kernel_idle_icon")).to_be_visible(timeout=CELL)
    page.locator(".CodeMirror").first.click()
    page.keyboard.type("6*7")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".output_result").first).to_have_text("42", timeout=CELL)
    expect(page.locator("#hpchub-status")).to_be_visible(timeout=CELL)
    page.keyboard.press("Control+s")
    expect(page.locator(".autosave_status")).not_to_contain_text("unsaved", timeout=CELL)
    assert '"6*7"' in lab.run("login1", ["cat", f"/home/alice/{NAME}"])
    page.goto(f"{base(page)}/lab")
    browser_page.wait_for_lab()
