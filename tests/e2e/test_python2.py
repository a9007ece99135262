"""Python 2.7 in a container, for notebooks that nobody has converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

CODE = "import sys, os; print 7/2, sys.version_info[:2], type(u'x').__name__, os.path.expanduser('~')"


def test_python_2_computes_as_python_2(browser_page: Visitor, lab: Lab) -> None:
    if "python2" not in lab.run("login1", ["ls", "/opt/hpchub/jupyter/kernels"]).split():
        pytest.skip("this lab has no kernel of Python 2.7")
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python2")
    assert notebook.run(CODE) == "3 (2, 7) unicode /home/alice"
    notebook.save()
    assert '"name": "python2"' in lab.run("login1", ["bash", "-c", "cat ~alice/Untitled*.ipynb"])
    lab.run("login1", ["bash", "-c", "rm -f ~alice/Untitled*.ipynb"])
    browser_page.stop_server()
