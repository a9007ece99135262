"""The way of a session: from the service's URL to a computed cell on a compute node, and out again."""

import json
import re
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .lab import eventually

# As the contents API takes it: version 4, one empty cell, for the Python kernel.
NEW_NOTEBOOK = {
    "type": "notebook",
    "format": "json",
    "content": {
        "cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "execution_count": None}],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    },
}

# What prints the name of the host that a kernel runs on.
HOSTNAME = {
    "python3": "import socket; print(socket.gethostname())",
    "ir": 'cat(Sys.info()[["nodename"]])',
}


def test_from_sign_in_to_sign_out(browser_page, lab):
    """Sign in, choose, wait, compute in Python and R on a compute node, stop, sign out."""
    profile = lab.profiles()[0]
    browser_page.sign_in("alice")
    notebooks = browser_page.start(profile["key"])

    (job,) = lab.jobs("alice")
    assert (job.state, job.partition) == ("RUNNING", profile["queue"])
    progress = " ".join(browser_page.progress)
    assert f"job {job.id}" in progress, "the progress page does not name the job"
    assert profile["queue"] in progress or job.node in progress, "nor where it waits or runs"

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


def test_every_profile_is_offered(browser_page, lab):
    """The form offers what the list on the hub host has, by the names that the site gave."""
    browser_page.sign_in("bob")
    offered = browser_page.offered_profiles()
    assert list(offered) == [profile["key"] for profile in lab.profiles()]
    for profile in lab.profiles():
        assert profile["display_name"] in offered[profile["key"]]


def test_the_classic_interface(browser_page, lab):
    """A profile may open the classic notebook in place of JupyterLab; JupyterLab is there too."""
    key = next((profile["key"] for profile in lab.profiles() if profile["interface"] == "notebook"), None)
    if not key:
        pytest.skip("the inventory has no profile with the classic interface")
    browser_page.sign_in("bob")
    browser_page.choose_profile(key)
    browser_page.wait_for_classic()
    assert "/user/bob/tree" in browser_page.page.url
    browser_page.page.goto(f"{lab.url}/user/bob/lab")
    browser_page.wait_for_lab()


def test_second_factor(browser_page):
    """Carol's sign-in asks for a one-time password as well, and she is an administrator."""
    browser_page.sign_in("carol")
    browser_page.page.goto(f"{browser_page.lab.url}/hub/admin")
    expect(browser_page.page.locator("#admin-react-hook, [data-testid=user-table], table").first).to_be_visible()


def test_the_session_outlives_a_restart_of_the_hub(browser_page, lab):
    """The kernel keeps its variables and its page goes on working; the hub knows the session again."""
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python3")
    notebook.run("kept = 6*7")
    before = lab.jobs("alice")

    lab.run("hub", ["systemctl", "restart", "jupyterhub"])
    assert notebook.run("kept") == "42"
    eventually("the hub answers", lambda: browser_page.fetch("GET", "/hub/api/").status == 200)
    assert notebook.run("kept + 1") == "43"

    browser_page.page.goto(f"{lab.url}/hub/home")
    expect(browser_page.page.locator("#stop")).to_be_visible()
    assert lab.jobs("alice") == before
    browser_page.page.goto(f"{lab.url}/user/alice/lab")
    browser_page.wait_for_lab()


def test_notebooks_with_difficult_names(browser_page, lab):
    """They open, run and are saved under their own names, in a directory with a difficult name too."""
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

        # The same file, asked for as one path segment with an encoded slash.
        found = browser_page.fetch("GET", f"{contents}/{quote(path, safe='')}?content=0")
        assert found.status == 200, found
        assert json.loads(found.text)["path"] == path
