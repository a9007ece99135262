"""What kernels and applications need on the nodes, and the Ansible module that finds what is missing."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import check_needs
from pydantic import TypeAdapter

from hpchub.model.apps import App
from hpchub.model.entries import Kernel
from hpchub.model.node_needs import app_needs, cluster_needs, kernel_needs
from hpchub.model.site import Site

if TYPE_CHECKING:
    from pathlib import Path

KERNEL_CASES: list[tuple[dict[str, Any], list[tuple[str, str, list[str]]]]] = [
    ({"kind": "python", "packages": ["numpy"]}, []),
    ({"kind": "r"}, [("command", "program", ["R"])]),
    ({"kind": "venv", "path": "/v"}, [("path", "program", ["/v/bin/python"])]),
    (
        {"kind": "conda", "prefix": "/c"},
        [("prefix", "directory", ["/c/bin"]), ("prefix", "program", ["/c/bin/python"])],
    ),
    ({"kind": "conda", "prefix": "/c", "command": ["julia", "-"]}, [("prefix", "directory", ["/c/bin"])]),
    (
        {"kind": "module", "modules": ["a/1", "b"], "command": ["/opt/k", "-f"]},
        [("modules", "modules", ["a/1", "b"]), ("command", "program", ["/opt/k"])],
    ),
    ({"kind": "module", "modules": ["a"]}, [("modules", "modules", ["a"])]),
    (
        {"kind": "container", "image": "/i.sif", "binds": ["/data:/mnt:ro"]},
        [("runtime", "program", ["apptainer"]), ("image", "file", ["/i.sif"]), ("binds", "file", ["/data"])],
    ),
    (
        {"kind": "container", "image": "/i", "runtime": "charliecloud"},
        [("runtime", "program", ["ch-run"]), ("image", "file", ["/i"])],
    ),
    ({"kind": "command", "command": ["octave_kernel"], "language": "x"}, [("command", "program", ["octave_kernel"])]),
    ({"kind": "command", "command": ["{prefix}/bin/python", "-m", "k"], "language": "x"}, []),
]


@pytest.mark.parametrize(("entry", "needs"), KERNEL_CASES, ids=[str(c[0]) for c in KERNEL_CASES])
def test_needs_of_each_kind_of_kernel(entry: dict[str, Any], needs: list[tuple[str, str, list[str]]]) -> None:
    assert [*kernel_needs(TypeAdapter(Kernel).validate_python({"name": "k"} | entry))] == needs


@pytest.mark.parametrize(
    ("entry", "needs"),
    [
        pytest.param({"kind": "web", "command": ["tensorboard", "{socket}"]}, [], id="name-on-the-path"),
        pytest.param({"kind": "web", "command": ["{environment}/bin/x", "{socket}"]}, [], id="notebook-environment"),
        pytest.param(
            {"kind": "web", "command": ["/a/atlas", "{socket}"], "modules": ["atlas/2"], "icon": "/a/i.svg"},
            [
                ("modules", "modules", ["atlas/2"]),
                ("icon", "file", ["/a/i.svg"]),
                ("command", "program", ["/a/atlas"]),
            ],
            id="everything",
        ),
        pytest.param({"kind": "desktop"}, [], id="desktop"),
        pytest.param(
            {"kind": "desktop", "server": "/vnc/Xvnc", "session": ["/usr/bin/mate-session"]},
            [("session", "program", ["/usr/bin/mate-session"]), ("server", "program", ["/vnc/Xvnc"])],
            id="desktop-with-paths",
        ),
    ],
)
def test_needs_of_applications_are_absolute_paths(entry: dict[str, Any], needs: list[tuple[str, str, Any]]) -> None:
    assert [*app_needs(TypeAdapter(App).validate_python({"name": "atlas"} | entry))] == needs


def test_needs_of_a_cluster_name_the_place_in_the_inventory() -> None:
    kernels = [
        {"name": "geo", "kind": "venv", "path": "/v"},
        {"name": "far", "kind": "venv", "path": "/far", "clusters": ["other"]},
    ]
    app = {"name": "atlas", "kind": "web", "command": ["/a/atlas", "{socket}"]}
    site = Site.model_construct(
        kernels=[TypeAdapter(Kernel).validate_python(kernel) for kernel in kernels],
        apps=[TypeAdapter(App).validate_python(each) for each in (app, app | {"name": "far", "clusters": ["other"]})],
    )
    assert cluster_needs(site, "demo") == [
        {"entry": "kernel geo", "field": "path of geo in hpc_kernels", "kind": "program", "value": ["/v/bin/python"]},
        {
            "entry": "application atlas",
            "field": "command of atlas in hpc_apps",
            "kind": "program",
            "value": ["/a/atlas"],
        },
    ]


def need(kind: str, *value: str) -> dict[str, Any]:
    return {"entry": "kernel geo", "field": "path of geo in hpc_kernels", "kind": kind, "value": [*value]}


def run(capsys: pytest.CaptureFixture[str], *needs: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """Run the module, and return its result."""
    warned: list[str] = []
    with (
        patch_module_args({"needs": [*needs], "host": "node1", **arguments}),
        # If another test has loaded Ansible's own programs, a warning goes to their display.
        mock.patch("ansible.module_utils.basic.AnsibleModule.warn", lambda _, text: warned.append(text)),
        pytest.raises(SystemExit),
    ):
        check_needs.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {**result, "warnings": warned}


def files(directory: Path) -> None:
    (directory / "program").write_text("#!/bin/sh\n")
    (directory / "program").chmod(0o755)
    (directory / "text").touch(0o644)
    (directory / "link").symlink_to(directory / "gone")
    (directory / "loop").symlink_to(directory / "loop")


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("program", "program", ""),
        ("program", "gone", "gone does not exist"),
        ("program", "text/program", "text/program does not exist"),
        ("program", "text", "text is not an executable file"),
        ("program", "", "is not an executable file"),
        ("program", "link", "link links to {}/gone, which does not exist"),
        ("program", "loop", "loop links to itself"),
        ("file", "text", ""),
        ("file", "", ""),
        ("file", "gone.sif", "gone.sif does not exist"),
        ("directory", "", ""),
        ("directory", "text", "text is not a directory"),
    ],
)
def test_paths_that_are_missing_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str, reason: str
) -> None:
    files(tmp_path)
    result = run(capsys, need(kind, f"{tmp_path}/{name}"))
    assert result.get("failed", False) == bool(reason)
    assert len(result["missing"]) == bool(reason)
    if reason:
        assert result["msg"] == result["missing"][0]
        assert f"{reason.format(tmp_path)} on node1; " in result["msg"]
        assert result["msg"].startswith(f"kernel geo: {tmp_path}/")
        assert result["msg"].endswith(", or change path of geo in hpc_kernels")


def test_message_says_what_is_missing_where_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, need("program", "/gone/bin/python"))["msg"] == (
        "kernel geo: /gone/bin/python does not exist on node1; install it on every node of the cluster, or change path"
        " of geo in hpc_kernels"
    )


def test_everything_that_is_missing_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = need("file", f"{tmp_path}/one")
    result = run(capsys, one, need("program", "/bin/sh"), need("file", f"{tmp_path}/two"), one)
    assert [text.split()[2] for text in result["missing"]] == [f"{tmp_path}/one", f"{tmp_path}/two"]


def test_login_node_gets_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, need("file", f"{tmp_path}/one"), required=False)
    assert not result.get("failed", False)
    assert len(result["missing"]) == 1
    assert result["missing"][0] in str(result["warnings"])


def test_file_that_root_may_not_read_is_not_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = os.stat

    def denied(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path) == "/soft/x":  # root on a network file system
            raise PermissionError(13, "Permission denied")
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", denied)
    result = run(capsys, need("file", "/soft/x"))
    assert not result.get("failed", False)
    assert result["unknown"] == ["kernel geo: on node1, /soft/x cannot be checked: Permission denied"]
    assert result["unknown"][0] in str(result["warnings"])


def test_file_server_that_does_not_answer_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = os.stat

    def slow(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path) == "/soft/x":
            time.sleep(2)
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", slow)
    result = run(capsys, need("file", "/soft/x"), need("file", f"{tmp_path}/gone"), timeout=0.5)
    assert result["unknown"] == ["kernel geo: on node1, /soft/x does not answer within 0.5 s"]
    assert len(result["missing"]) == 1  # the others are still found


def test_name_is_searched_in_the_path_of_login_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")  # Ansible's own PATH does not matter
    result = run(capsys, need("program", "sh"), need("program", "program"))
    assert [text.partition(" on node1")[0] for text in result["missing"]] == [
        "kernel geo: the program program is not in the PATH of login shells"
    ]


@pytest.fixture
def login_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the login files of all accounts."""
    for directory in (tmp_path, *tmp_path.parents[:3]):
        if directory.stat().st_uid == os.getuid() and str(directory) not in ("/", "/tmp"):
            directory.chmod(0o755)
    monkeypatch.setitem(check_needs.ENVIRONMENT, "HOME", str(tmp_path))
    return tmp_path


MODULE = """\
module() {
    case $1 in
    purge) loaded= ;;
    load)
        case "$2 $loaded" in
        "gcc/12 "*) loaded=gcc ;;
        "mpi/4 gcc") loaded=mpi ;;
        *) echo "Lmod has detected an error: $2 is unknown" >&2; return 1 ;;
        esac ;;
    esac
}
"""


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        pytest.param(["gcc/12", "mpi/4"], "", id="in-order"),
        pytest.param(
            ["mpi/4"], "module load mpi/4 fails (Lmod has detected an error: mpi/4 is unknown)", id="hierarchy"
        ),
        pytest.param(
            ["gcc/12", "gone"], "module load gone fails (Lmod has detected an error: gone is unknown)", id="gone"
        ),
    ],
)
def test_modules_are_loaded_in_a_login_shell(
    login_files: Path, capsys: pytest.CaptureFixture[str], modules: list[str], reason: str
) -> None:
    (login_files / ".profile").write_text(MODULE)
    result = run(capsys, need("modules", *modules))
    assert [text.partition(" on node1")[0] for text in result["missing"]] == [f"kernel geo: {reason}"] * bool(reason)


def test_host_without_modules_and_login_shell_that_ends_are_told_apart(
    login_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (login_files / ".profile").write_text("unset -f module\n")
    assert "login shells have no command 'module' on node1" in run(capsys, need("modules", "a"))["msg"]
    (login_files / ".profile").write_text("exit 9\n")
    result = run(capsys, need("modules", "a"), need("program", "sh"))
    assert not result["missing"]
    assert all("a login shell ends with code 9" in text for text in result["unknown"])
    assert len(result["unknown"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can use other accounts")
@pytest.mark.parametrize("denied", ["0", "65534"])
def test_modules_that_one_account_can_load_are_not_missing(
    login_files: Path, capsys: pytest.CaptureFixture[str], denied: str
) -> None:
    """Many sites set up modules for users only. Some modules are only for certain groups."""
    (login_files / ".profile").write_text(f'unset -f module\n[ "$(id -u)" = {denied} ] || module() {{ :; }}\n')
    assert run(capsys, need("modules", "a"))["missing"] == []
