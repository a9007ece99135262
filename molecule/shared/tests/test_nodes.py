"""Login and compute nodes: the notebook environment, its kernels and the launcher."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from hpchub.model.entries import Kernel
from hpchub.model.kernels import role_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testinfra.backend.base import CommandResult
    from testinfra.host import Host

ROLES = Path(__file__).parents[3] / "roles"
LOCK = (ROLES / "notebook_environment" / "files" / "requirements.lock").read_text()
SOFTWARE = "/opt/hpchub"
CURRENT = f"{SOFTWARE}/notebook/current"

# Starts a kernel like a notebook server does, runs one cell and prints its output.
CALCULATE = """
import sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name=sys.argv[1], startup_timeout=60)
try:
    def show(message):
        content = message["content"]
        if message["msg_type"] in ("execute_result", "display_data"):
            print(content["data"]["text/plain"])
        elif message["msg_type"] in ("stream", "error"):
            print(content)

    client.execute_interactive(sys.argv[2], timeout=60, output_hook=show)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def as_alice(host: Host, command: str, *arguments: str) -> CommandResult:
    """Run a command as the user alice."""
    return host.run("runuser --login alice --command %s", host.backend.quote(command, *arguments))


def calculate(host: Host, kernel: str, code: str = "6*7") -> CommandResult:
    """Run a cell with a kernel as the user alice."""
    return as_alice(
        host,
        f"JUPYTER_PATH={SOFTWARE}/jupyter {CURRENT}/bin/python -I -c %s %s %s",
        CALCULATE,
        kernel,
        code,
    )


def locked(name: str) -> str:
    """Return the version of a package in the lock file of the notebook environment."""
    found = re.search(rf"^{name}==(\S+)", LOCK, flags=re.MULTILINE)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("jupyterhub-singleuser", "jupyterhub"),
        ("jupyter-lab", "jupyterlab"),
        ("jupyter-notebook", "notebook"),
    ],
)
def test_users_run_the_locked_version(compute: Host, command: str, name: str) -> None:
    done = as_alice(compute, f"{CURRENT}/bin/{command} --version")
    assert done.stdout.split()[-1:] == [locked(name)], done.stderr


def test_hub_and_nodes_have_the_same_jupyterhub(hub: Host, compute: Host) -> None:
    version = "-I -c 'import jupyterhub; print(jupyterhub.__version__)'"
    on_hub = hub.check_output(f"/opt/hpchub/hub/current/bin/python {version}")
    assert compute.check_output(f"{CURRENT}/bin/python {version}") == on_hub


def test_nodes_have_the_same_environment(login: Host, compute: Host) -> None:
    link = login.check_output(f"readlink --canonicalize {CURRENT}")
    assert re.fullmatch(rf"{SOFTWARE}/notebook/envs/[0-9a-f]{{16}}", link)
    assert compute.check_output(f"readlink --canonicalize {CURRENT}") == link


def test_users_cannot_change_the_environment(compute: Host) -> None:
    assert compute.check_output(f"find {CURRENT}/ {SOFTWARE}/jupyter -perm /022 -not -type l") == ""
    assert compute.check_output(f"find {CURRENT}/ {SOFTWARE}/jupyter -not -user root") == ""
    assert re.search("Permission denied|Read-only file system", as_alice(compute, f"touch {CURRENT}/bin/x").stderr)


def test_python_modules_are_compiled(compute: Host) -> None:
    """Users cannot write to the environment, so every start would compile the modules again."""
    packages = compute.check_output(f"echo {CURRENT}/lib/python3.*/site-packages")
    for package in ("jupyterlab", "jupyter_server", "tornado"):
        assert compute.check_output(f"ls {packages}/{package}/__pycache__"), package


# -- kernels


@pytest.mark.parametrize(("kernel", "shown"), [("python3", "42"), ("ir", "[1] 42")])
def test_kernel_runs_a_cell(compute: Host, kernel: str, shown: str) -> None:
    done = calculate(compute, kernel)
    assert shown in done.stdout.splitlines(), done.stderr


def test_kernels_come_from_the_sites_directory(compute: Host) -> None:
    listed = json.loads(
        as_alice(compute, f"JUPYTER_PATH={SOFTWARE}/jupyter {CURRENT}/bin/jupyter kernelspec list --json").stdout
    )["kernelspecs"]
    for name in ("python3", "ir"):
        assert listed[name]["resource_dir"] == f"{SOFTWARE}/jupyter/kernels/{name}"


@pytest.mark.parametrize(
    "kernel",
    [
        # The notebook environment is a virtual environment with ipykernel. It has the same layout as a conda prefix.
        pytest.param({"kind": "venv", "path": CURRENT}, id="venv"),
        pytest.param({"kind": "conda", "prefix": CURRENT}, id="conda"),
        pytest.param(
            {
                "kind": "command",
                "language": "python",
                "command": [f"{CURRENT}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            },
            id="command",
        ),
    ],
)
def test_kernel_of_each_kind_in_the_users_home_runs_a_cell(compute: Host, kernel: dict[str, Any]) -> None:
    """Users can install their own kernels in addition to those of the site."""
    name = f"test-{secrets.token_hex(4)}"
    directory = f".local/share/jupyter/kernels/{name}"
    try:
        argument = role_argument(TypeAdapter(Kernel).validate_python({"name": name, **kernel}))
        spec = {"path": "kernel.json", "content": json.dumps(argument["spec"]), "mode": "0644"}
        for file in (spec, *argument["files"]):
            path, mode = file["path"], file["mode"]
            write = "mkdir --parents %s && printf %%s %s > %s/%s && chmod %s %s/%s"
            done = as_alice(compute, write, directory, file["content"], directory, path, mode, directory, path)
            assert done.rc == 0, done.stderr
        done = calculate(compute, name)
        assert "42" in done.stdout.splitlines(), done.stderr
    finally:
        as_alice(compute, "rm --recursive --force %s", directory)


def test_kernel_ignores_a_foreign_pythonpath(compute: Host) -> None:
    done = as_alice(
        compute,
        f"export PYTHONPATH=/nonexistent JUPYTER_PATH={SOFTWARE}/jupyter; {CURRENT}/bin/python -I -c %s python3 '6*7'",
        CALCULATE,
    )
    assert "42" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("node", ["login", "compute"])
def test_user_registers_checks_and_removes_an_environment(node: str, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue(node)
    name = f"test-{secrets.token_hex(4)}"
    # The notebook environment is a virtual environment with ipykernel.
    done = as_alice(host, "hpchub-kernel add %s --name %s", CURRENT, name)
    assert done.rc == 0, done.stderr
    try:
        listed = as_alice(host, "hpchub-kernel list --json")
        assert {each["name"]: each["problem"] for each in json.loads(listed.stdout)}[name] == "", listed.stderr
        done = as_alice(host, "hpchub-kernel check %s", name)
        assert done.rc == 0, done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("works")
    finally:
        done = as_alice(host, "hpchub-kernel remove %s --yes", name)
    assert done.rc == 0, done.stderr


def test_user_cannot_remove_a_kernel_of_the_site(login: Host) -> None:
    done = as_alice(login, "hpchub-kernel remove python3 --yes")
    assert done.rc == 2
    assert f"a kernel of your centre, in {SOFTWARE}/jupyter/kernels/python3" in done.stderr


# -- the launcher


@pytest.fixture
def session(compute: Host) -> Iterator[str]:
    """Return the name of a new session, and remove its file from alice's home directory afterwards."""
    name = secrets.token_hex(8)
    yield name
    as_alice(compute, "rm --force .hpchub/%s.json", name)


def write_session(host: Host, name: str, content: str, mode: str) -> None:
    """Write a session file in alice's home directory."""
    done = as_alice(
        host,
        "mkdir --parents --mode=700 .hpchub && printf %%s %s > .hpchub/%s.json && chmod %s .hpchub/%s.json",
        content,
        name,
        mode,
        name,
    )
    assert done.rc == 0, done.stderr


def launch(host: Host, name: str) -> CommandResult:
    """Run the launcher for a session as the user alice."""
    return as_alice(host, f"{CURRENT}/bin/hpchub-launch %s", name)


def test_launcher_refuses_and_removes_a_file_that_others_can_read(compute: Host, session: str) -> None:
    write_session(compute, session, "{}", "0644")
    done = launch(compute, session)
    assert done.rc == 1
    assert "other users could read it" in done.stderr
    assert as_alice(compute, "test -e .hpchub/%s.json", session).rc == 1


def test_launcher_refuses_unknown_variables(compute: Host, session: str) -> None:
    write_session(compute, session, '{"LD_PRELOAD": "/tmp/x.so"}', "0600")
    done = launch(compute, session)
    assert done.rc == 1
    assert "LD_PRELOAD" in done.stderr


def test_launcher_explains_that_a_session_starts_only_once(compute: Host, session: str) -> None:
    done = launch(compute, session)
    assert done.rc == 1
    assert "start a new session" in done.stderr


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", ""], ids=repr)
def test_launcher_refuses_invalid_session_names(compute: Host, name: str) -> None:
    done = launch(compute, name)
    assert done.rc == 1
    assert "usage: hpchub-launch SESSION" in done.stderr


def test_launcher_ignores_the_users_python_variables(compute: Host) -> None:
    """A PYTHONPATH from an environment module, or a startup file in the home directory, must not break the server."""
    done = as_alice(
        compute,
        "d=$(mktemp -d) && echo 'raise SystemExit(\"reached\")' > $d/json.py &&"
        f" PYTHONPATH=$d PYTHONSTARTUP=$d/json.py {CURRENT}/bin/hpchub-launch; rm -r $d",
    )
    assert "usage: hpchub-launch SESSION" in done.stderr
