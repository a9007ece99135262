"""The tiles of the launcher that open the site's directories: scratch, projects, and one that does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator, expect

from .lab import NODES
from .pages import PAGE
from .test_form import change_list  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import JupyterLab, Visitor

TOP = "/var/tmp/e2e-links"
ENTRIES = [
    {"title": "E2E scratch", "path": f"{TOP}/scratch of/{{user}}"},
    {"title": "E2E {group}", "path": f"{TOP}/projects/{{group}}"},
    {"title": "E2E <i>none", "path": f"{TOP}/none/{{user}}"},
]


@pytest.fixture
def offer(lab: Lab, change_list: Callable[..., None]) -> Iterator[None]:  # noqa: F811 the fixture
    """Create the directories of alice and bob on the nodes, and offer them."""
    program = f"""
        mkdir -p '{TOP}/scratch of' {TOP}/projects/none-of-alice
        for user in alice bob; do
          install -d -m 700 -o $user '{TOP}/scratch of/'$user
          install -m 600 -o $user /dev/null '{TOP}/scratch of/'$user/file-of-$user.txt
        done
        install -d -m 700 -o alice {TOP}/projects/"$(id -gn alice)"
    """
    for node in NODES:
        lab.run(node, ["sh", "-ec", program])

    def add(content: dict[str, Any]) -> None:
        for each in content["clusters"]:
            each["directories"] = ENTRIES

    change_list(add)
    yield
    for node in NODES:
        lab.run(node, ["rm", "-rf", TOP])
    lab.run(NODES[0], ["rm", "-rf", "/home/alice/hpchub-links"])


def tile(lab: JupyterLab, title: str) -> Locator:
    """Return a tile of the launcher."""
    return lab.page.locator('.jp-LauncherCard[data-category="Directories"]:visible', has_text=title)


def listed(lab: JupyterLab, name: str) -> Locator:
    """Return an entry of the file browser."""
    return lab.page.locator(".jp-DirListing-item", has_text=name)


@pytest.mark.usefixtures("offer")
def test_launcher_opens_the_directories_of_the_user(browser_page: Visitor, lab: Lab) -> None:
    """Alice opens hers, computes with a file in it, and downloads the file. The tiles show nothing of bob."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    group = lab.run(NODES[0], ["id", "-gn", "alice"]).strip()
    expect(tile(found, "E2E scratch")).to_be_visible(timeout=PAGE)
    expect(found.page.locator('.jp-LauncherCard[data-category="Directories"]:visible', has_text="E2E")).to_have_count(3)
    tile(found, "E2E scratch").click()
    expect(listed(found, "file-of-alice.txt")).to_be_visible(timeout=PAGE)
    expect(listed(found, "file-of-bob.txt")).to_have_count(0)
    (job,) = lab.jobs("alice")
    cluster = next(each["name"] for each in lab.profile_list()["clusters"])
    link = f"/home/alice/hpchub-links/{cluster}/E2E scratch"
    assert lab.run(job.node.split(".")[0], ["readlink", link]).strip() == f"{TOP}/scratch of/alice"

    # The directory that does not exist. Its title is text, not markup.
    tile(found, "E2E <i>none").click()
    banner = found.page.locator(".hpchub-banner")
    expect(banner).to_contain_text("E2E <i>none cannot be opened")
    expect(banner).to_contain_text(f"{TOP}/none/alice does not exist on this node.")
    banner.get_by_role("button", name="Close").click()

    tile(found, f"E2E {group}").click()
    expect(found.page.locator(".jp-DirListing-item")).to_have_count(0, timeout=PAGE)
    tile(found, "E2E scratch").click()
    expect(listed(found, "file-of-alice.txt")).to_be_visible(timeout=PAGE)
    # A new notebook is in the directory that the file browser shows, and its kernel too.
    assert "file-of-alice.txt" in found.run_cell("python3", "import os; print(os.listdir())")
    # The kernel is alice's. Bob's directory stays closed, whatever leads there.
    answer = browser_page.fetch("POST", "/user/alice/api/hpchub/directories", body={"title": "../bob"})
    assert '"absent"' in answer.text
