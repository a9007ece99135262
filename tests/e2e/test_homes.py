"""A session in a home, and on nodes, as people leave them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from .lab import LOGIN_FILE, NODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab
    from .pages import Visitor

USER = "carol"
# A module of the site's default modules, and a login file that fails.
PROFILE = (
    "export PYTHONPATH=/tmp/pp LD_LIBRARY_PATH=/tmp/pp OMP_NUM_THREADS=64\nset -e\necho the login file has run\nfalse\n"
)
SETTINGS = """\
c.NotebookApp.ip = '*'
c.NotebookApp.port = 9999
c.NotebookApp.base_url = '/mine/'
c.ServerApp.root_dir = '/scratch/gone'
c.KernelSpecManager.allowed_kernelspecs = {'mine'}
"""
BARE_NOTEBOOK = {
    "cells": [
        {"cell_type": "code", "id": "a", "source": "", "metadata": {}, "outputs": [], "execution_count": None},
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 5,
}
PREPARE = f"""\
mkdir -p ~{USER}/.jupyter ~{USER}/.local/share/jupyter/runtime
printf %s "$1" > ~{USER}/.jupyter/jupyter_server_config.py
printf %s "$2" > ~{USER}/bare.ipynb
chown -R {USER}: ~{USER}/.jupyter ~{USER}/bare.ipynb
chown -R root: ~{USER}/.local
chmod -R go-w ~{USER}/.local
"""
BREAK = f"""\
mkdir -p /tmp/pp/traitlets
echo "raise ImportError('of another Python')" > /tmp/pp/traitlets/__init__.py
printf %s "$1" > {LOGIN_FILE}
"""


@pytest.fixture
def neglected(lab: Lab) -> Iterator[None]:
    """Put settings that break other services into a home and on the nodes, and remove them afterwards."""
    try:
        lab.run("login1", ["bash", "-ec", PREPARE, "bash", SETTINGS, json.dumps(BARE_NOTEBOOK)])
        for node in NODES:
            lab.run(node, ["bash", "-ec", BREAK, "bash", PROFILE])
        yield
    finally:
        lab.run("login1", ["bash", "-c", f"rm -rf ~{USER}/.jupyter ~{USER}/.local ~{USER}/bare.ipynb"])
        for node in NODES:
            lab.run(node, ["rm", "-rf", LOGIN_FILE, "/tmp/pp"])


@pytest.mark.usefixtures("neglected")
def test_session_starts_in_a_neglected_home_and_runs_a_notebook_that_names_no_kernel(
    browser_page: Visitor, lab: Lab
) -> None:
    profile = lab.profiles()[0]
    browser_page.sign_in(USER)
    notebooks = browser_page.start(profile["key"])
    notebook = notebooks.open_notebook("bare.ipynb")
    assert notebook.run("import numpy, scipy, pandas, matplotlib; print(14 * numpy.arange(3).sum())").endswith("42")
    code = "import os; print(os.environ.get('PYTHONPATH'), os.environ.get('OMP_NUM_THREADS'))"
    assert notebook.run(code).endswith(f"None {profile['cores']}")
    browser_page.stop_server()
