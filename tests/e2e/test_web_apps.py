"""Web programs of users in a session: each computes something, and no other account of the node reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from .pages import PAGE, START
from .test_apps import NEIGHBOUR, open_tile

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

PROGRAMS = {"shiny": "uvicorn", "streamlit": "streamlit_app", "marimo": "marimo"}
"""The applications, and a word in the command of each."""


def offered(lab: Lab, name: str) -> str:
    """Return the title of an application, or skip the test if the lab has none with this name."""
    titles = {each["name"]: each["display_name"] for each in lab.profile_list()["apps"]}
    if name not in titles:
        pytest.skip(f"the lab has no application {name}")
    return str(titles[name])


def expect_no_neighbour(lab: Lab, name: str, program: str, words: str) -> None:
    """Expect that bob, who is signed in on alice's node, reaches none of her sockets, ports and processes.

    Args:
        lab: The lab.
        name: The name of the application.
        program: A word in the commands of its processes.
        words: Words in the answer of its server.
    """
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]
    listed = lab.run(node, ["find", "/tmp", "/var/tmp", "-path", f"*/apps/{name}/*", "-type", "s"]).split()
    assert len(listed) >= 2, listed  # the supervisor's and the application's
    script = NEIGHBOUR.replace("TensorBoard", words).replace("tensorboard", program)
    command = ["/usr/bin/python3", "-c", script, "alice", *listed]
    assert lab.run(node, ["runuser", "-u", "bob", "--", *command], timeout=300).strip() == "[]"
    # The same program finds the sockets if alice runs it.
    assert listed[0] in lab.run(node, ["runuser", "-u", "alice", "--", *command], timeout=300)


@pytest.mark.parametrize("name", PROGRAMS)
def test_web_program_computes_and_no_neighbour_reaches_it(browser_page: Visitor, lab: Lab, name: str) -> None:
    title = offered(lab, name)
    browser_page.sign_in("alice")
    page = open_tile(browser_page.start(lab.profiles()[0]["key"]), title)
    number = page.get_by_role("spinbutton").or_(page.get_by_role("textbox")).first
    number.fill("6", timeout=START)
    number.press("Tab")
    page.get_by_role("button", name="Compute").click()
    expect(page.get_by_text("6 * 7 = 42")).to_be_visible(timeout=PAGE)
    expect_no_neighbour(lab, name, PROGRAMS[name], name)
