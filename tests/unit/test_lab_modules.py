"""Modules in JupyterLab, with the real jupyterlmod in the real single-user server and a stand-in for Lmod's program.

The stand-in keeps the names of loaded modules in LOADEDMODULES, as Lmod does, and prints Python code.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from notebook_server import notebook_environment

from hpchub.remote import kernel_starts, lab_modules

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_server import Session

LMOD = """\
#!/bin/bash
# lmod python --terse COMMAND NAME…
shift 2
command=$1; shift
case $command in
avail) printf 'geo/1\\nbroken/1\\n' >&2 ;;
list) echo "${LOADEDMODULES:-No modules loaded}" >&2 ;;
show) echo "shown: $*" >&2 ;;
load)
    if [ "$1" = broken/1 ]; then echo "Lmod has detected an error: broken" >&2; exit 1; fi
    echo "import os"
    echo "os.environ['LOADEDMODULES'] = '$1'"
    echo "os.environ['GEO_DATA'] = '/data'"
    echo "os.environ['LD_LIBRARY_PATH'] = '/geo/lib'" ;;
unload) echo "import os; del os.environ['LOADEDMODULES'], os.environ['GEO_DATA'], os.environ['LD_LIBRARY_PATH']" ;;
esac
"""
CODE = "import os; print(os.environ.get('GEO_DATA'), os.environ.get('LD_LIBRARY_PATH'))"


@pytest.fixture
def with_modules(session: Session, tmp_path: Path) -> Session:
    """A session on a cluster with modules. It sees other settings of the site than those in the environment."""
    environment = notebook_environment()
    if not [*environment.glob("lib/python*/site-packages/jupyterlmod")]:
        pytest.skip("the notebook environment has no jupyterlmod")
    session.write("lmod", LMOD).chmod(0o755)
    settings = tmp_path / "settings"
    shutil.copytree(environment / "etc" / "jupyter", settings)
    file = settings / "jupyter_server_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "Hpchub": {"modules": True}}))
    job = {"LMOD_CMD": str(session.home / "lmod"), "MODULEPATH": "/modules"}
    session.start(job, before=f"mount --bind {settings} {environment}/etc/jupyter")
    session.wait_for_report()
    return session


def run(session: Session, code: str) -> str:
    """Run code in a new kernel. Return what it prints."""
    body = {"path": "n.ipynb", "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    status, answer = session.request("api/sessions", "POST", body)
    assert status == 201, session.log
    try:
        return asyncio.run(session._execute(answer["kernel"]["id"], code))
    finally:
        session.request(f"api/sessions/{answer['id']}", "DELETE")


def test_module_that_is_loaded_in_lab_changes_new_kernels(with_modules: Session) -> None:
    session = with_modules
    assert session.request("module/system") == (200, "lmod")
    assert session.request("module/modules")[1] == ["broken/1", "geo/1"]
    assert session.request("module")[1] == []
    assert run(session, CODE) == "None None\n"
    assert session.request("module", "POST", {"modules": ["geo/1"]}) == (200, None)
    assert session.request("module")[1] == ["geo/1"]
    assert run(session, CODE) == "/data /geo/lib\n"
    assert "Lmod has detected" in session.request("module", "POST", {"modules": ["broken/1"]})[1]
    assert session.request("module", "DELETE", {"modules": ["geo/1"]})[0] == 200
    assert run(session, CODE) == "None None\n"


def test_request_for_modules_runs_no_command_of_its_sender(with_modules: Session) -> None:
    """Another page can contain a link to such an address, and the browser sends the cookies of the session with it."""
    session = with_modules
    attack = f"x;touch${{IFS}}{session.home}${{IFS}}{session.home}/owned"
    status, answer = session.request(f"module/modules/{quote(attack, safe='')}")
    assert status == 400
    assert "is not the name of a module" in str(answer)
    for method in ("POST", "DELETE"):
        assert session.request("module", method, {"modules": ["geo/1", attack]})[0] == 400
    for method in ("POST", "PATCH"):
        assert session.request("module/collections", method, {"name": attack})[0] == 400
    assert session.request("module/modules/geo%2F1") == (200, "shown: geo/1\n")
    assert not (session.home / "owned").exists()
    # The handlers of the package that check nothing do not exist.
    for path in ("module/paths", "module/folders/tmp"):
        assert session.request(path)[0] == 404, path


def test_session_without_modules_has_none_of_the_requests(session: Session) -> None:
    session.start()
    session.wait_for_report()
    for path in ("module", "module/system", "module/modules/x", "module/paths"):
        assert session.request(path)[0] == 404, path


def test_names_without_special_characters_are_accepted() -> None:
    good = [
        "gcc/12.3.0",
        "GCCcore/12",
        "python/3.11-anaconda",
        "openmpi/4.1.5+cuda",
        "a_b",
        "R",
        "x@1",
        "hdf5/1.14:mpi",
    ]
    assert lab_modules.wrong_name({"modules": good}) == ""


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a;b",
            "a b",
            "$(id)",
            "`id`",
            "a|b",
            "a&b",
            "a>b",
            "-x",
            "--force",
            "~",
            "../x",
            "",
            "a\nb",
            "a'",
            'a"',
            "a*",
            "é",
        )
    ],
)
def test_name_that_a_shell_would_interpret_is_refused(name: str) -> None:
    for values in (
        [name],
        ("gcc", name),
        {"modules": ["gcc", name]},
        {"name": name},
        {"modules": [["gcc"], {"x": name}]},
    ):
        if name:
            assert lab_modules.wrong_name(values) == name
    assert not lab_modules.NAME.fullmatch(name)


def test_kernel_keeps_the_variables_of_loaded_modules_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in kernel_starts.OF_MODULES:
        monkeypatch.delenv(name, raising=False)
    command = [
        "/usr/bin/env",
        "-u",
        "PYTHONPATH",
        "-u",
        "LD_LIBRARY_PATH",
        "-u",
        "PYTHONHOME",
        "python",
        "-u",
        "-m",
        "k",
    ]
    assert kernel_starts.with_modules(["python", "-u", "LD_LIBRARY_PATH"]) == ["python", "-u", "LD_LIBRARY_PATH"]
    assert kernel_starts.with_modules(command) == command
    monkeypatch.setenv("LD_LIBRARY_PATH", "/geo/lib")
    monkeypatch.setenv("PYTHONHOME", "/geo")  # no kernel of another Python would start with it
    kept = ["/usr/bin/env", "-u", "PYTHONPATH", "-u", "PYTHONHOME", "python", "-u", "-m", "k"]
    assert kernel_starts.with_modules(command) == kept
