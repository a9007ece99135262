"""A session from sign-in to sign-out, with computed cells on a compute node."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .lab import eventually
from .pages import NEW_NOTEBOOK

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

QUICK = 2.0
"""How long a start may take without a text about its job on the progress page, in seconds."""
# Code that prints the name of the kernel's host, by kernel.
HOSTNAME = {
    "python3": "import socket; print(socket.gethostname())",
    "ir": 'cat(Sys.info()[["nodename"]])',
}


def test_whole_session_from_sign_in_to_sign_out(browser_page: Visitor, lab: Lab) -> None:
    """Sign in, choose a profile, wait, compute in Python and R on a compute node, stop and sign out."""
    profile = lab.profiles()[0]
    browser_page.sign_in("alice")
    notebooks = browser_page.start(profile["key"])

    (job,) = lab.jobs("alice")
    assert (job.state, job.partition) == ("RUNNING", profile["queue"])
    progress = " ".join(browser_page.progress)
    times = json.loads(browser_page.fetch("GET", "/hub/api/hpchub/sessions/alice").text)["times"]
    # A faster start is over before the browser has loaded the page. See also test_waiting.py.
    if times["ready"] - times["submitted"] > QUICK:
        assert f"job {job.id}" in progress, "the progress page does not name the job"
        assert profile["queue"] in progress or job.node in progress, (
            "the progress page names neither the queue nor the node"
        )

    for kernel in ("python3", "ir"):
        notebook = notebooks.new_notebook(kernel)
        assert re.search(r"\b42$", notebook.run("6*7")), kernel
        assert notebook.run(HOSTNAME[kernel]) == job.node, kernel

    browser_page.stop_server()
    eventually("the job is gone", lambda: not lab.jobs("alice"))

    browser_page.sign_out()
    for path in ("", "/hub/home", "/user/alice/lab"):
        browser_page.page.goto(f"{lab.url}{path}")
        expect(browser_page.password_field).to_be_visible()


def test_form_offers_every_profile_by_its_display_name(browser_page: Visitor, lab: Lab) -> None:
    """The form offers the profiles of the hub host's list, in their order."""
    browser_page.sign_in("bob")
    offered = browser_page.offered_profiles()
    assert list(offered) == [profile["key"] for profile in lab.profiles()]
    for profile in lab.profiles():
        assert profile["display_name"] in offered[profile["key"]]


def test_classic_interface_opens_instead_of_jupyterlab(browser_page: Visitor, lab: Lab) -> None:
    """A profile may open the classic notebook interface. JupyterLab stays available."""
    key = next((profile["key"] for profile in lab.profiles() if profile["interface"] == "notebook"), None)
    if not key:
        pytest.skip("the inventory has no profile with the classic interface")
    browser_page.sign_in("bob")
    browser_page.choose_profile(key)
    browser_page.wait_for_classic()
    assert "/user/bob/tree" in browser_page.page.url
    browser_page.page.goto(f"{lab.url}/user/bob/lab")
    browser_page.wait_for_lab()


def test_second_factor_signs_an_administrator_in(browser_page: Visitor) -> None:
    """Carol signs in with a one-time password and can open the admin page."""
    browser_page.sign_in("carol")
    browser_page.page.goto(f"{browser_page.lab.url}/hub/admin")
    expect(browser_page.page.locator("#admin-react-hook, [data-testid=user-table], table").first).to_be_visible()


def test_session_survives_a_hub_restart(browser_page: Visitor, lab: Lab) -> None:
    """The kernel keeps its variables, the open page keeps working and the hub restores the session."""
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python3")
    notebook.run("kept = 6*7")
    before = lab.jobs("alice")

    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    assert notebook.run("kept") == "42"
    browser_page.wait_for_hub()
    assert notebook.run("kept + 1") == "43"

    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator("#stop")).to_be_visible()
    assert lab.jobs("alice") == before
    browser_page.page.goto(f"{lab.url}/user/alice/lab")
    browser_page.wait_for_lab()


def test_notebooks_with_special_characters_open_run_and_save(browser_page: Visitor, lab: Lab) -> None:
    """Notebooks with special characters in their names, and in their directory's name, keep those names."""
    browser_page.sign_in("alice")
    notebooks = browser_page.start(lab.profiles()[0]["key"])
    contents = "/user/alice/api/contents"
    directory = "e2e 100%"
    made = browser_page.fetch("PUT", f"{contents}/{quote(directory)}", body={"type": "directory"})
    assert made.status in {200, 201}, made
    for name in ("100% done.ipynb", "50%2F50.ipynb", "ü ?#&+.ipynb"):
        path = f"{directory}/{name}"
        made = browser_page.fetch("PUT", f"{contents}/{quote(path)}", body=NEW_NOTEBOOK)
        assert made.status in {200, 201}, made

        notebook = notebooks.open_notebook(path)
        assert notebook.run("6*7") == "42"
        notebook.save()
        saved = json.loads(lab.run("login1", ["cat", f"/home/alice/{path}"]))
        assert saved["cells"][0]["source"] == ["6*7"]

        # Request the same file as one path segment with an encoded slash.
        found = browser_page.fetch("GET", f"{contents}/{quote(path, safe='')}?content=0")
        assert found.status == 200, found
        assert json.loads(found.text)["path"] == path
