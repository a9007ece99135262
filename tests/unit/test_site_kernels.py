"""The site's kernels in the real single-user server: those that cannot start explain it, and the session lives on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from notebook_server import notebook_environment
from pydantic import TypeAdapter

from hpchub.model.entries import Kernel
from hpchub.model.kernels import role_argument
from hpchub.remote import kernel_starts, user_kernels
from hpchub.remote.user_kernels import problem, state

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_server import Session

NODE = os.uname().nodename
MODULE = """\
module() {
    case "$1 $2" in
    "load good") export SHOWN=loaded PATH="$HOME/bin:$PATH" ;;
    "load gone") echo "Lmod has detected an error" >&2; return 1 ;;
    "load slow") sleep 2 ;;
    "load dead") exit 7 ;;
    esac
}
"""


def write(kernels: Path, entry: dict[str, Any]) -> Path:
    """Write a kernel as the role does. Return its directory."""
    argument = role_argument(TypeAdapter(Kernel).validate_python(entry))
    directory = kernels / "kernels" / str(argument["name"])
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(json.dumps(argument["spec"]))
    for file in argument["files"]:
        (directory / file["path"]).write_text(file["content"])
        (directory / file["path"]).chmod(int(file["mode"], 8))
    return directory


def start(session: Session, kernel: str) -> tuple[int, Any]:
    """Ask the server to start a kernel, as JupyterLab does for a notebook."""
    body = {"path": f"{kernel}.ipynb", "name": "", "type": "notebook", "kernel": {"name": kernel}}
    return session.request("api/sessions", "POST", body)


def test_broken_kernels_of_the_site_are_explained_and_the_session_lives_on(session: Session) -> None:
    site = session.kernels
    assert site is not None
    python = notebook_environment() / "bin" / "python"
    session.write("bin/module-python", f'#!/bin/sh\nexec {python} "$@"\n').chmod(0o755)
    session.write(".bash_profile", MODULE)
    command = ["module-python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write(site, {"name": "image", "kind": "container", "image": "/gone.sif", "runtime": "charliecloud"})
    write(site, {"name": "geo", "display_name": "Geo", "kind": "venv", "path": "/gone"})
    write(site, {"name": "absent", "display_name": "Absent", "kind": "module", "modules": ["good", "gone"]})
    write(site, {"name": "empty", "kind": "module", "modules": ["good"], "command": ["no-such-program", "-f"]})
    write(site, {"name": "false", "kind": "module", "modules": ["good"], "command": ["false", "-f"]})
    write(site, {"name": "dead", "kind": "module", "modules": ["dead"], "command": ["false", "-f"]})
    write(site, {"name": "works", "kind": "module", "modules": ["slow", "good"], "command": command})
    session.start({"MODULEPATH": "/modules"})
    session.wait_for_report()
    status, answer = session.request("api/kernelspecs")
    assert status == 200, session.log
    names = {name: each["spec"]["display_name"] for name, each in answer["kernelspecs"].items()}
    assert names["image"].startswith("image (does not work: ")  # this machine may have ch-run
    assert names["geo"] == f"Geo (does not work: /gone/bin/python does not exist on {NODE})"
    assert names["absent"] == "Absent"  # only its start can tell
    messages = {
        "geo": f"Geo does not work: /gone/bin/python does not exist on {NODE}. Please tell your support",
        "absent": f"Absent does not work: module load gone failed on {NODE}",
        "empty": f"empty does not work: the program no-such-program does not exist on {NODE}",
        "false": "false does not work: it ended at once with code 1; the log of the session contains its output",
        "dead": "dead does not work: it ended at once with code 7; the log of the session contains its output",
    }
    for name, message in messages.items():
        assert start(session, name)[1].get("message") == message, session.log
    assert "Lmod has detected an error" in session.log
    assert session.request("api/kernels")[1] == []  # no kernel is started again and again
    # The session lives on.
    status, answer = start(session, "works")
    assert status == 201, f"{answer}\n{session.log}"
    code = "import os; print(os.environ['SHOWN'], os.environ.get('HPCHUB_LAUNCH'))"
    assert asyncio.run(session._execute(answer["kernel"]["id"], code)) == "loaded None\n"
    # A module that vanishes later does not bring the kernel back as a dead one.
    session.write(".bash_profile", MODULE.replace('"load good")', '"load good") return 1 ;;\n    x)'))
    status, answer = session.request(f"api/kernels/{answer['kernel']['id']}/restart", "POST", {})
    assert status == 500
    assert f"module load good failed on {NODE}" in session.log
    assert session.request("api/status")[0] == 200


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"kind": "container", "image": "{}/image", "runtime": "apptainer"}, ""),
        ({"kind": "container", "image": "{}", "runtime": "apptainer"}, ""),  # Charliecloud's images are directories
        (
            {"kind": "container", "image": "{}/gone.sif", "runtime": "apptainer"},
            f"{{}}/gone.sif does not exist on {NODE}",
        ),
        (
            {"kind": "container", "image": "{}", "runtime": "charliecloud"},
            "the program ch-run is not in the PATH of this session",
        ),
        ({"kind": "conda", "prefix": "{}/gone"}, f"{{}}/gone/bin does not exist on {NODE}"),
        ({"kind": "python"}, ""),
        (
            {"kind": "command", "command": ["octave_kernel"], "language": "octave"},
            "the program octave_kernel is not in the PATH of this session",
        ),
        ({"kind": "module", "modules": ["a"]}, f"{NODE} has no environment modules"),
    ],
    ids=["image", "image-directory", "image-gone", "runtime-gone", "prefix-gone", "python", "command", "modules"],
)
def test_session_finds_what_a_kernel_of_the_inventory_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], reason: str
) -> None:
    (tmp_path / "image").touch()
    (tmp_path / "apptainer").write_text("#!/bin/sh\n")
    (tmp_path / "apptainer").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(user_kernels, "ROOT", tmp_path)
    for name in user_kernels.MODULE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in entry.items()}
    directory = write(tmp_path, {"name": "k", **given})
    spec = json.loads((directory / "kernel.json").read_text())
    assert problem(directory, spec) == reason.format(tmp_path)
    # The directory belongs to root, and the session to a user.
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert state("k", directory)[1] == reason.format(tmp_path)


@pytest.mark.parametrize("needs", [None, "x", [None], [["program"]], [["file", "x"]], [["program", [1]]], [[1, [2]]]])
def test_needs_of_another_form_break_nothing(tmp_path: Path, needs: Any) -> None:
    spec = {"argv": ["/bin/true"], "metadata": {"hpchub": {"needs": needs}}}
    assert problem(tmp_path, spec) == ""


def test_file_server_that_does_not_answer_breaks_no_kernel_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(tmp_path, {"name": "k", "kind": "venv", "path": "/gone"})
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    def slow(*_arguments: Any) -> str:
        time.sleep(1)
        return "gone"

    monkeypatch.setattr(user_kernels, "problem", slow)
    assert state("k", directory, 0.1)[1] == ""


def test_launch_script_of_an_older_version_is_not_waited_for(tmp_path: Path) -> None:
    script = tmp_path / "launch"
    script.write_text('#!/bin/bash\nexec "$@"\n')
    assert not kernel_starts.knows_pipe([str(script), "python"], str(tmp_path))
    assert not kernel_starts.knows_pipe(["/usr/bin/env", "python"], str(tmp_path))
    script.write_text(f'#!/bin/bash\n# {kernel_starts.VARIABLE}\nexec "$@"\n')
    assert kernel_starts.knows_pipe(["/usr/bin/env", str(script), "python"], str(tmp_path))


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"", ""),
        (b"kernel k: no\n", "kernel k: no"),
        (b"half", "half"),
        (b"a\x1b[1mb\n", "a [1mb"),
        (b"x" * 5000, 1000),
    ],
    ids=["closed", "line", "half", "control", "long"],
)
def test_reason_is_one_line(written: bytes, reason: str | int) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, written)
    os.close(theirs)
    found = kernel_starts.read_reason(ours, 5)
    os.close(ours)
    assert (len(found) if isinstance(reason, int) else found) == reason


def test_launch_script_that_takes_long_is_no_failure() -> None:
    ours, theirs = os.pipe()
    began = time.monotonic()
    assert asyncio.run(asyncio.to_thread(kernel_starts.read_reason, ours, 0.1)) == ""
    assert time.monotonic() - began < 2
    os.close(ours)
    os.close(theirs)
