"""The interfaces of a session: JupyterLab, Notebook 7 and NbClassic, in the real notebook server."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from node_program import node
from notebook_server import PREFIX, notebook_environment

from hpchub import lab_extension
from hpchub.lab_extension import container_files
from hpchub.model.adjustable import Adjustable
from hpchub.model.apps import INTERFACES
from hpchub.remote import launcher

if TYPE_CHECKING:
    from notebook_server import Session

SESSION = {"HPCHUB_CORES": "1", "JUPYTERHUB_SERVICE_PREFIX": PREFIX}
PAGES = {"lab": "lab", "notebook": "tree", "nbclassic": "nbclassic/tree"}


@pytest.fixture(scope="module")
def nbclassic() -> None:
    """Skip the test unless the notebook environment contains NbClassic."""
    python = notebook_environment() / "bin" / "python"
    if subprocess.run([python, "-c", "import nbclassic"], check=False, capture_output=True).returncode:
        pytest.skip("the notebook environment has no nbclassic")


def test_every_interface_can_be_chosen_and_has_a_page() -> None:
    assert Adjustable.model_validate({"interface": {}}).interface.choices == list(INTERFACES)  # type: ignore[union-attr]
    assert list(launcher.INTERFACES) == list(INTERFACES)


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "absent"])
def test_session_without_nbclassic_opens_notebook_7(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name) if installed else None)
    env = launcher.server_environment({}, {**SESSION, "HPCHUB_INTERFACE": "nbclassic"}, 23456, [])
    assert env["JUPYTERHUB_DEFAULT_URL"] == ("/nbclassic/tree" if installed else "/tree")


def open_session(session: Session, interface: str) -> Session:
    session.variables["HPCHUB_INTERFACE"] = interface
    session.start().wait_for_report()
    return session


@pytest.mark.usefixtures("nbclassic")
def test_nbclassic_is_the_first_page_and_opens_notebooks(session: Session) -> None:
    open_session(session, "nbclassic")
    assert session.execute("print(6*7)").strip() == "42"
    code = "import os; print(os.environ['JUPYTERHUB_DEFAULT_URL'])"
    assert session.execute(code).strip() == "/nbclassic/tree"
    session.request("api/contents/x.ipynb", "PUT", {"type": "notebook", "format": "json", "content": EMPTY})
    status, page = session.request("nbclassic/notebooks/x.ipynb")
    assert status == 200
    assert 'data-notebook-name="x.ipynb"' in page
    assert all(session.request(path)[0] == 200 for path in PAGES.values())


EMPTY = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


@pytest.mark.usefixtures("nbclassic")
@pytest.mark.parametrize("interface", ["lab", "notebook"])
def test_other_sessions_do_not_load_nbclassic(session: Session, interface: str) -> None:
    """Not even if the user's settings ask for it."""
    wanted = {"jpserver_extensions": {"nbclassic": True}}
    session.write(".jupyter/jupyter_server_config.json", json.dumps({"ServerApp": wanted}))
    session.write(
        ".jupyter/jupyter_notebook_config.json",
        json.dumps({"NotebookApp": {"nbserver_extensions": {"nbclassic": True}}}),
    )
    open_session(session, interface)
    assert session.request(PAGES[interface])[0] == 200
    for path in (
        "nbclassic/tree",
        "nbclassic/notebooks/x.ipynb",
        "nbclassic/edit/x",
        "nbclassic/static/base/js/page.js",
    ):
        assert session.request(path)[0] == 404, path
    assert "nbclassic | extension was successfully loaded" not in session.log


@pytest.mark.usefixtures("nbclassic")
def test_nbclassic_has_the_protections_of_the_server(session: Session) -> None:
    """No page can show it in a frame, and a browser must be signed in."""
    open_session(session, "nbclassic")
    status, headers = head(session, "nbclassic/tree")
    assert status == 200
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    status, headers = head(session, "nbclassic/tree", authorized=False)
    assert status == 302
    assert "/hub/api/oauth2/authorize" in headers["Location"]


def head(session: Session, path: str, *, authorized: bool = True) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of a page."""
    import http.client  # noqa: PLC0415

    connection = http.client.HTTPSConnection(
        "127.0.0.1",
        session.hub.reports[0]["port"],
        context=session._context(),
        timeout=30,
    )
    connection.request("GET", PREFIX + path, headers={"Authorization": "token t0k3n"} if authorized else {})
    with contextlib.closing(connection), connection.getresponse() as answer:
        return answer.status, dict(answer.headers)


@pytest.mark.usefixtures("nbclassic")
def test_nbclassic_loads_the_messages_of_the_session(session: Session) -> None:
    assert session.kernels
    for name, content in container_files("en").items():
        (session.kernels / name).parent.mkdir(parents=True, exist_ok=True)
        (session.kernels / name).write_text(content)
    session.variables["HPCHUB_INTERFACE"] = "nbclassic"
    session.start({"JUPYTER_CONFIG_PATH": str(session.kernels)}).wait_for_report()
    assert session.request("api/config/common")[1]["load_extensions"]["hpchub/main"]
    assert "lab/extensions/@hpchub/lab/classic.js" in session.request("nbextensions/hpchub/main.js")[1]
    scripts = session.request("lab/extensions/@hpchub/lab/classic.js")[1]
    found = re.search(r"'\./(static/[0-9a-f]{16}/classic\.js)'", scripts)
    assert found, scripts
    assert "export async function start" in session.request(f"lab/extensions/@hpchub/lab/{found[1]}")[1]
    assert 'id="jupyterhub-control-panel-link"' in session.request("nbclassic/tree")[1]


PAGE = """
globalThis.window = globalThis;
globalThis.document = {cookie: '', addEventListener() {}};
const {addresses} = await import(%s);
const [base, home] = JSON.parse(await new Response(process.stdin).text());
console.log(JSON.stringify(addresses(base, new URL(home))));
"""


@pytest.mark.parametrize(
    ("base", "home", "user", "name", "prefix"),
    [
        ("/user/alice/", "https://hub.example.org/hub/home", "alice", "", "/hub/"),
        ("/user/a%40b/gpu/", "https://hub.example.org/hub/home", "a@b", "gpu", "/hub/"),
        ("/jupyter/user/alice/", "https://hub.example.org/jupyter/hub/home", "alice", "", "/jupyter/hub/"),
    ],
    ids=["default", "named", "prefix"],
)
def test_addresses_of_the_hub_in_nbclassic(base: str, home: str, user: str, name: str, prefix: str) -> None:
    program = PAGE % json.dumps(
        (Path(lab_extension.__file__).parent / "labextension" / "static" / "classic.js").as_uri()
    )
    assert node(program, [base, home]) == {
        "base": base,
        "hubHost": "https://hub.example.org",
        "hubPrefix": prefix,
        "hubUser": user,
        "hubServerName": name,
    }
