"""Kernel specs, and their launch scripts run by bash."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from hpchub import kernel_scripts
from hpchub.model.entries import AnyKernel, Kernel
from hpchub.model.kernels import cluster_kernels, cluster_packages, kernel_spec, role_argument
from hpchub.model.site import Site
from hpchub.remote import launcher

if TYPE_CHECKING:
    from pathlib import Path

IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
FOREIGN = dict.fromkeys((*kernel_scripts.FOREIGN,), "/foreign") | {"LD_LIBRARY_PATH": "/foreign/lib"}
del FOREIGN["LD_PRELOAD"], FOREIGN["LD_AUDIT"]  # the programs of the tests would complain


def parsed(entry: dict[str, Any]) -> AnyKernel:
    """Return an entry of ``hpc_kernels`` as the model reads it."""
    kernel: AnyKernel = TypeAdapter(Kernel).validate_python(entry)
    return kernel


def tail(spec: dict[str, Any]) -> list[str]:
    """Return a spec's arguments without the prefix that cleans the environment."""
    argv: list[str] = spec["argv"]
    if argv[0] != "/usr/bin/env":
        return argv
    argv = argv[1:]
    while argv[0] == "-u":
        argv = argv[2:]
    return argv


CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"kind": "python"}, ["{prefix}/bin/python", *IPYKERNEL], []),
    ({"kind": "r", "command": "R"}, ["R", "--no-echo", "-e", "IRkernel::main()", "--args", "{connection_file}"], []),
    ({"kind": "venv", "path": "/v"}, ["/v/bin/python", *IPYKERNEL], []),
    ({"kind": "conda", "prefix": "/c"}, ["{resource_dir}/launch", "/c/bin/python", *IPYKERNEL], ["launch"]),
    ({"kind": "module", "modules": ["a/1"]}, ["{resource_dir}/launch", "python", *IPYKERNEL], ["launch"]),
    ({"kind": "container", "image": "/i.sif"}, ["{resource_dir}/launch", "{connection_file}", "python", *IPYKERNEL], ["launch"]),
    ({"kind": "container", "image": "/i", "runtime": "charliecloud", "command": ["k", "{connection_file}"]}, ["{resource_dir}/launch", "{connection_file}", "k", "{connection_file}"], ["launch"]),
    ({"kind": "command", "command": ["python", "-m", "bash_kernel", "-f", "{connection_file}"], "language": "bash"}, ["python", "-m", "bash_kernel", "-f", "{connection_file}"], []),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "argv", "beside"), CASES, ids=[c[0]["kind"] for c in CASES])
def test_each_kernel_kind_has_the_expected_spec_and_files(
    entry: dict[str, Any], argv: list[str], beside: list[str]
) -> None:
    kernel = {"name": "k", "display_name": "A kernel"} | entry
    argument = role_argument(parsed(kernel))
    spec = argument["spec"]
    assert tail(spec) == argv
    assert spec["display_name"] == "A kernel"
    assert spec["language"]
    assert json.loads(json.dumps(spec)) == spec
    assert [(file["path"], file["mode"]) for file in argument["files"]] == [(name, "0755") for name in beside]


def test_python_command_is_not_replaced_by_jupyter() -> None:
    """jupyter_client replaces a first word "python" by ``sys.executable``, so the command starts with env."""
    kernel = {"name": "k", "kind": "command", "command": ["python", "{connection_file}"], "language": "python"}
    assert kernel_spec(parsed(kernel))["argv"][0] == "/usr/bin/env"


def test_spec_contains_the_environment_of_its_kernel() -> None:
    kernel = {"name": "k", "kind": "venv", "path": "/v", "environment": {"OMP_NUM_THREADS": "4"}}
    assert kernel_spec(parsed(kernel))["env"] == {"PATH": "/v/bin:${PATH}", "OMP_NUM_THREADS": "4"}


def run(
    kernel: dict[str, Any], tmp_path: Path, env: dict[str, str] | None = None, connection: str = "/run/c.json"
) -> subprocess.CompletedProcess[str]:
    """Start a kernel as Jupyter does, and return the completed process."""
    directory = tmp_path / "kernels" / kernel["name"]
    directory.mkdir(parents=True, exist_ok=True)
    argument = role_argument(parsed(kernel))
    for file in argument["files"]:
        (directory / file["path"]).write_text(file["content"])
        (directory / file["path"]).chmod(int(file["mode"], 8))
    spec = argument["spec"]
    argv = [
        word.replace("{resource_dir}", str(directory)).replace("{connection_file}", connection) for word in spec["argv"]
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **(env or {})}
    own = {name: value.replace("${PATH}", environment["PATH"]) for name, value in spec["env"].items()}
    return subprocess.run(argv, env=environment | own, capture_output=True, text=True, check=False, cwd=tmp_path)


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


SHOW = '#!/bin/sh\necho "args: $*"; env\n'


def test_venv_kernel_ignores_the_notebook_environment(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    (site,) = (tmp_path / "v" / "lib").glob("python*/site-packages")
    (site / "ipykernel_launcher.py").write_text("import sys, os\nprint(sys.prefix, sys.path, dict(os.environ))\n")
    done = run({"name": "v", "kind": "venv", "path": str(tmp_path / "v")}, tmp_path, env=FOREIGN)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "v") in done.stdout
    assert "foreign" not in done.stdout


def test_environment_of_the_kernel_entry_is_kept(tmp_path: Path) -> None:
    kernel = {
        "name": "k",
        "kind": "command",
        "command": ["env", "{connection_file}=1"],
        "language": "x",
        "environment": {"PYTHONPATH": "/ours"},
    }
    done = run(kernel, tmp_path, env=FOREIGN)
    assert "PYTHONPATH=/ours" in done.stdout
    assert "foreign" not in done.stdout


def test_conda_activation_scripts_run(tmp_path: Path) -> None:
    prefix = tmp_path / "conda"
    program(prefix / "bin" / "python", SHOW)
    program(
        prefix / "etc/conda/activate.d/proj.sh", 'export PROJ_LIB="$CONDA_PREFIX/share/proj" UNSET="$NOBODY_SET_THIS"\n'
    )
    done = run({"name": "c", "kind": "conda", "prefix": str(prefix)}, tmp_path, env=FOREIGN)
    assert done.returncode == 0, done.stderr
    assert "args: -m ipykernel_launcher -f /run/c.json" in done.stdout
    assert f"PROJ_LIB={prefix}/share/proj" in done.stdout
    assert f"CONDA_PREFIX={prefix}\n" in done.stdout
    assert f"PATH={prefix}/bin:" in done.stdout
    assert "foreign" not in done.stdout


def test_missing_conda_prefix_is_reported(tmp_path: Path) -> None:
    done = run({"name": "c", "kind": "conda", "prefix": "/nowhere"}, tmp_path)
    assert done.returncode == 1
    assert "kernel c: the conda prefix /nowhere does not exist on " in done.stderr


# Login shells read this file in the home directory. Real sites define module in /etc/profile.d.
MODULES = """\
module() {
    [ "$1" = load ] || return 2
    [ "$2" = broken ] && return 1
    export LOADED="$LOADED $2" PYTHONPATH=/from/$2
}
"""


def test_launcher_drops_the_same_variables_and_sets_the_same_threads() -> None:
    assert all(launcher.is_foreign(name) for name in kernel_scripts.FOREIGN)
    assert kernel_scripts.THREADS == launcher.THREADS


@pytest.mark.parametrize("entry", [case[0] for case in CASES], ids=[case[0]["kind"] for case in CASES])
def test_kernel_of_each_kind_starts_without_variables_of_other_software(entry: dict[str, Any]) -> None:
    argv = kernel_spec(parsed({"name": "k"} | entry))["argv"]
    removed = {argv[i + 1] for i, word in enumerate(argv) if word == "-u"}
    assert {"PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "R_HOME"} <= removed


def test_module_kernel_ignores_login_files_except_for_its_modules(tmp_path: Path) -> None:
    login_file = "export PYTHONPATH=/foreign LD_LIBRARY_PATH=/foreign OMP_NUM_THREADS=64 DEFAULT=gcc\n"
    purge = 'purge() { unset DEFAULT; }\nmodule() { [ "$1" = purge ] && purge || export LOADED="$LOADED $2"; }\n'
    (tmp_path / ".bash_profile").write_text(login_file + purge)
    shown = program(tmp_path / "show", SHOW)
    kernel = {"name": "m", "kind": "module", "modules": ["r/4"], "command": [str(shown), "{connection_file}"]}
    done = run(kernel, tmp_path, env={"HPCHUB_CORES": "3"})
    assert done.returncode == 0, done.stderr
    assert "LOADED= r/4\n" in done.stdout
    assert "DEFAULT=" not in done.stdout
    assert "foreign" not in done.stdout
    assert "OMP_NUM_THREADS=3\n" in done.stdout
    assert "MC_CORES=3\n" in done.stdout


def test_modules_are_loaded_in_a_login_shell(tmp_path: Path) -> None:
    (tmp_path / ".bash_profile").write_text(MODULES)
    shown = program(tmp_path / "show", SHOW)
    kernel = {
        "name": "m",
        "kind": "module",
        "modules": ["gcc/13", "python/3.11"],
        "command": [str(shown), "{connection_file}"],
    }
    done = run(kernel, tmp_path, env=FOREIGN)
    assert done.returncode == 0, done.stderr
    assert "LOADED= gcc/13 python/3.11\n" in done.stdout
    assert "PYTHONPATH=/from/python/3.11\n" in done.stdout
    assert "foreign" not in done.stdout


@pytest.mark.parametrize(
    ("profile", "modules", "expected"),
    [(MODULES, ["broken"], "module load broken failed"), ("unset -f module\n", ["a"], "have no command 'module'")],
)  # fmt: skip
def test_modules_that_fail_to_load_are_reported(
    tmp_path: Path, profile: str, modules: list[str], expected: str
) -> None:
    (tmp_path / ".bash_profile").write_text(profile)
    done = run({"name": "m", "kind": "module", "modules": modules}, tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr


@pytest.mark.parametrize(("runtime", "name"), [("apptainer", "apptainer"), ("charliecloud", "ch-run")])
def test_container_binds_the_home_and_the_connection_file(tmp_path: Path, runtime: str, name: str) -> None:
    program(tmp_path / "bin" / name, SHOW)
    (tmp_path / "image").mkdir()
    kernel = {
        "name": "c",
        "kind": "container",
        "runtime": runtime,
        "image": str(tmp_path / "image"),
        "binds": ["/scratch", "/a:/b:ro"],
    }
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = run(kernel, tmp_path, env=FOREIGN | {"PATH": path}, connection=f"{tmp_path}/run dir/c.json")
    assert done.returncode == 0, done.stderr
    arguments = done.stdout.splitlines()[0]
    assert str(tmp_path / "image") in arguments
    assert arguments.endswith(f"python -m ipykernel_launcher -f {tmp_path}/run dir/c.json")
    for bound in (str(tmp_path), "/scratch", "/a:/b"):
        assert f"--bind={bound}" in arguments
    assert f"--bind={tmp_path}/run dir" not in arguments  # the home directory already contains it
    assert "foreign" not in done.stdout


def test_container_binds_a_connection_file_outside_the_home(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "apptainer", SHOW)
    kernel = {"name": "c", "kind": "container", "image": str(tmp_path)}
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = run(kernel, tmp_path, env={"PATH": path}, connection="/run/user/2001/c.json")
    assert "--bind=/run/user/2001 " in done.stdout


def test_missing_container_image_is_reported(tmp_path: Path) -> None:
    done = run({"name": "c", "kind": "container", "image": "/nowhere.sif"}, tmp_path)
    assert done.returncode == 1
    assert "kernel c: the image /nowhere.sif does not exist on " in done.stderr


def test_cluster_gets_only_its_own_kernels_and_packages() -> None:
    cluster = {
        "scheduler": "slurm",
        "submit": {"method": "local"},
        "networks": ["10.0.0.0/8"],
        "queues": [{"name": "q", "max_cores": 1, "max_memory": "1G", "max_runtime": "1:00:00"}],
    }
    site = Site.from_vars(
        {
            "hpc_service": {"url": "https://hub.example.org"},
            "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "s3cr3t"},
            "hpc_clusters": [cluster | {"name": "one"}, cluster | {"name": "two"}],
            "hpc_profiles": [
                {"key": "p", "display_name": "P", "cluster": "one", "queue": "q", "cores": 1, "memory": "1G", "runtime": "0:10:00"}
            ],
            "hpc_kernels": [
                {"name": "python3", "kind": "python"},
                {"name": "ir", "kind": "r", "packages": ["r-cran-irkernel", "r-base"], "clusters": ["two"]},
                {"name": "m", "kind": "module", "modules": ["a"], "clusters": ["two"]},
            ],
        }
    )  # fmt: skip
    assert [kernel["name"] for kernel in cluster_kernels(site, "one")] == ["python3"]
    assert cluster_packages(site, "one") == []
    assert cluster_packages(site, "two") == ["r-base", "r-cran-irkernel"]
    two = {kernel["name"]: kernel for kernel in cluster_kernels(site, "two")}
    assert two["ir"]["files"] == []
    assert [file["path"] for file in two["m"]["files"]] == ["launch"]
    assert two["m"]["files"][0]["mode"] == "0755"
