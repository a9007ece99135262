"""Login and compute nodes: the notebook environment runs there, its launcher is careful, and kernels compute."""

import json
import re
import secrets
from pathlib import Path

import pytest

from hpchub.model.kernels import kernel_files

ROLES = Path(__file__).parents[3] / "roles"
LOCK = (ROLES / "notebook_environment" / "files" / "requirements.lock").read_text()
SOFTWARE = "/opt/hpchub"
CURRENT = f"{SOFTWARE}/notebook/current"

# Starts a kernel as a notebook server does, runs one cell, and prints what it shows.
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


def as_alice(host, command, *arguments):
    return host.run("runuser --login alice --command %s", host.backend.quote(command, *arguments))


def calculate(host, kernel, code="6*7"):
    return as_alice(
        host,
        f"JUPYTER_PATH={SOFTWARE}/jupyter {CURRENT}/bin/python -I -c %s %s %s",
        CALCULATE,
        kernel,
        code,
    )


def locked(name):
    return re.search(rf"^{name}==(\S+)", LOCK, flags=re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("jupyterhub-singleuser", "jupyterhub"),
        ("jupyter-lab", "jupyterlab"),
        ("jupyter-notebook", "notebook"),
    ],
)
def test_what_is_locked_runs_for_users(compute, command, name):
    done = as_alice(compute, f"{CURRENT}/bin/{command} --version")
    assert done.stdout.split()[-1:] == [locked(name)], done.stderr


def test_hub_and_nodes_have_the_same_jupyterhub(hub, compute):
    version = "-I -c 'import jupyterhub; print(jupyterhub.__version__)'"
    on_hub = hub.check_output(f"/opt/hpchub/hub/current/bin/python {version}")
    assert compute.check_output(f"{CURRENT}/bin/python {version}") == on_hub


def test_nodes_have_the_same_environment(login, compute):
    link = login.check_output(f"readlink --canonicalize {CURRENT}")
    assert re.fullmatch(rf"{SOFTWARE}/notebook/envs/[0-9a-f]{{16}}", link)
    assert compute.check_output(f"readlink --canonicalize {CURRENT}") == link


def test_users_cannot_change_what_others_run(compute):
    assert compute.check_output(f"find {CURRENT}/ {SOFTWARE}/jupyter -perm /022 -not -type l") == ""
    assert compute.check_output(f"find {CURRENT}/ {SOFTWARE}/jupyter -not -user root") == ""
    assert as_alice(compute, f"touch {CURRENT}/bin/x").rc != 0


def test_everything_is_compiled(compute):
    # At a hundred users' starts a second adds up, and users cannot leave the result in a tree that is not theirs.
    packages = compute.check_output(f"echo {CURRENT}/lib/python3.*/site-packages")
    for package in ("jupyterlab", "jupyter_server", "tornado"):
        assert compute.check_output(f"ls {packages}/{package}/__pycache__"), package


# -- kernels


@pytest.mark.parametrize(("kernel", "shown"), [("python3", "42"), ("ir", "[1] 42")])
def test_kernel_computes(compute, kernel, shown):
    done = calculate(compute, kernel)
    assert shown in done.stdout.splitlines(), done.stderr


def test_kernels_are_the_sites(compute):
    listed = json.loads(
        as_alice(compute, f"JUPYTER_PATH={SOFTWARE}/jupyter {CURRENT}/bin/jupyter kernelspec list --json").stdout
    )["kernelspecs"]
    for name in ("python3", "ir"):
        assert listed[name]["resource_dir"] == f"{SOFTWARE}/jupyter/kernels/{name}"


@pytest.mark.parametrize(
    "kernel",
    [
        # The notebook environment is a virtual environment with ipykernel, and shaped as a conda prefix is.
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
def test_other_kinds_and_users_own_kernels_compute(compute, kernel):
    """Each in the user's own home, where it is found beside the site's."""
    name = f"test-{secrets.token_hex(4)}"
    directory = f".local/share/jupyter/kernels/{name}"
    try:
        for path, (content, mode) in kernel_files({"name": name, **kernel}).items():
            write = "mkdir --parents %s && printf %%s %s > %s/%s && chmod %s %s/%s"
            done = as_alice(compute, write, directory, content, directory, path, mode, directory, path)
            assert done.rc == 0, done.stderr
        done = calculate(compute, name)
        assert "42" in done.stdout.splitlines(), done.stderr
    finally:
        as_alice(compute, "rm --recursive --force %s", directory)


def test_kernel_of_the_environment_survives_another_pythons_variables(compute):
    done = as_alice(
        compute,
        f"export PYTHONPATH=/nonexistent JUPYTER_PATH={SOFTWARE}/jupyter; {CURRENT}/bin/python -I -c %s python3 '6*7'",
        CALCULATE,
    )
    assert "42" in done.stdout.splitlines(), done.stderr


# -- the launcher


@pytest.fixture
def session(compute):
    """The name of a session that alice has no file for yet."""
    name = secrets.token_hex(8)
    yield name
    as_alice(compute, "rm --force .hpchub/%s.json", name)


def write_session(host, name, content, mode):
    done = as_alice(
        host,
        "mkdir --parents --mode=700 .hpchub && printf %%s %s > .hpchub/%s.json && chmod %s .hpchub/%s.json",
        content,
        name,
        mode,
        name,
    )
    assert done.rc == 0, done.stderr


def launch(host, name):
    return as_alice(host, f"{CURRENT}/bin/hpchub-launch %s", name)


def test_launcher_refuses_a_file_that_others_could_read_and_removes_it(compute, session):
    write_session(compute, session, "{}", "0644")
    done = launch(compute, session)
    assert done.rc == 1
    assert "could be read by others" in done.stderr
    assert as_alice(compute, "test -e .hpchub/%s.json", session).rc == 1


def test_launcher_takes_only_its_own_variables(compute, session):
    write_session(compute, session, '{"LD_PRELOAD": "/tmp/x.so"}', "0600")
    done = launch(compute, session)
    assert done.rc == 1
    assert "LD_PRELOAD" in done.stderr


def test_launcher_says_why_a_session_cannot_start_twice(compute, session):
    done = launch(compute, session)
    assert done.rc == 1
    assert "start a new session" in done.stderr


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", ""], ids=repr)
def test_launcher_takes_a_sessions_name(compute, name):
    done = launch(compute, name)
    assert done.rc == 1
    assert "usage: hpchub-launch SESSION" in done.stderr


def test_launcher_is_out_of_reach_of_the_users_python_variables(compute):
    """A module's PYTHONPATH, or a startup file in the home, must not break the server."""
    done = as_alice(
        compute,
        "d=$(mktemp -d) && echo 'raise SystemExit(\"reached\")' > $d/json.py &&"
        f" PYTHONPATH=$d PYTHONSTARTUP=$d/json.py {CURRENT}/bin/hpchub-launch; rm -r $d",
    )
    assert "usage: hpchub-launch SESSION" in done.stderr
