"""Kernel specs, and their launchers run by a real bash."""

# ruff: noqa: E501  (one case a line)

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from hpchub.model.kernels import cluster_kernels, cluster_packages, kernel_files, kernel_spec
from hpchub.model.site import Site

IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
FOREIGN = {"PYTHONPATH": "/foreign", "PYTHONHOME": "/foreign", "VIRTUAL_ENV": "/foreign", "PYTHONSTARTUP": "/foreign"}


def tail(spec):
    """The argument vector without the words that clean the environment."""
    argv = spec["argv"]
    if argv[0] != "/usr/bin/env":
        return argv
    argv = argv[1:]
    while argv[0] == "-u":
        argv = argv[2:]
    return argv


CASES = [
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
def test_each_kind(entry, argv, beside):
    kernel = {"name": "k", "display_name": "A kernel"} | entry
    spec = kernel_spec(kernel)
    assert tail(spec) == argv
    assert spec["display_name"] == "A kernel"
    assert spec["language"]
    files = kernel_files(kernel)
    assert sorted(files) == sorted(["kernel.json", *beside])
    assert json.loads(files["kernel.json"][0]) == spec
    assert all(mode == ("0755" if name == "launch" else "0644") for name, (_, mode) in files.items())


def test_jupyter_takes_no_command_for_its_own_python():
    """jupyter_client puts sys.executable in place of a first word "python"."""
    kernel = {"name": "k", "kind": "command", "command": ["python", "{connection_file}"], "language": "python"}
    assert kernel_spec(kernel)["argv"][0] == "/usr/bin/env"


def test_the_environment_is_the_kernel_s_own():
    kernel = {"name": "k", "kind": "venv", "path": "/v", "environment": {"OMP_NUM_THREADS": "4"}}
    assert kernel_spec(kernel)["env"] == {"PATH": "/v/bin:${PATH}", "OMP_NUM_THREADS": "4"}


def test_not_a_kernel():
    with pytest.raises(ValidationError):
        kernel_spec({"name": "k", "kind": "fortran"})


def run(kernel, tmp_path, env=None, connection="/run/c.json"):
    """Start a kernel as Jupyter does, and return what its last process saw."""
    directory = tmp_path / "kernels" / kernel["name"]
    directory.mkdir(parents=True, exist_ok=True)
    for name, (content, mode) in kernel_files(kernel).items():
        (directory / name).write_text(content)
        (directory / name).chmod(int(mode, 8))
    spec = kernel_spec(kernel)
    argv = [
        word.replace("{resource_dir}", str(directory)).replace("{connection_file}", connection) for word in spec["argv"]
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **(env or {})}
    own = {name: value.replace("${PATH}", environment["PATH"]) for name, value in spec["env"].items()}
    return subprocess.run(argv, env=environment | own, capture_output=True, text=True, check=False, cwd=tmp_path)


def program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


SHOW = '#!/bin/sh\necho "args: $*"; env\n'


def test_a_venv_sees_nothing_of_the_notebook_environment(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    (site,) = (tmp_path / "v" / "lib").glob("python*/site-packages")
    (site / "ipykernel_launcher.py").write_text("import sys, os\nprint(sys.prefix, sys.path, dict(os.environ))\n")
    done = run({"name": "v", "kind": "venv", "path": str(tmp_path / "v")}, tmp_path, env=FOREIGN)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "v") in done.stdout
    assert "foreign" not in done.stdout


def test_what_the_site_sets_for_a_kernel_stays(tmp_path):
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


def test_conda_activation_scripts_run(tmp_path):
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


def test_a_conda_prefix_that_is_gone(tmp_path):
    done = run({"name": "c", "kind": "conda", "prefix": "/nowhere"}, tmp_path)
    assert done.returncode == 1
    assert "kernel c: there is no conda prefix /nowhere on " in done.stderr


# Login shells read this in the home; a site's are in /etc/profile.d.
MODULES = """\
module() {
    [ "$1" = load ] || return 2
    [ "$2" = broken ] && return 1
    export LOADED="$LOADED $2" PYTHONPATH=/from/$2
}
"""


def test_modules_are_loaded_in_a_login_shell(tmp_path):
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
    [(MODULES, ["broken"], "module load broken failed"), ("unset -f module\n", ["a"], "there is no command module in a login shell")],
)  # fmt: skip
def test_modules_that_do_not_load(tmp_path, profile, modules, expected):
    (tmp_path / ".bash_profile").write_text(profile)
    done = run({"name": "m", "kind": "module", "modules": modules}, tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr


@pytest.mark.parametrize(("runtime", "name"), [("apptainer", "apptainer"), ("charliecloud", "ch-run")])
def test_a_container_gets_the_home_and_the_connection_file(tmp_path, runtime, name):
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
    assert f"--bind={tmp_path}/run dir" not in arguments  # it is in the home
    assert "foreign" not in done.stdout


def test_a_connection_file_outside_the_home(tmp_path):
    program(tmp_path / "bin" / "apptainer", SHOW)
    kernel = {"name": "c", "kind": "container", "image": str(tmp_path)}
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = run(kernel, tmp_path, env={"PATH": path}, connection="/run/user/2001/c.json")
    assert "--bind=/run/user/2001 " in done.stdout


def test_a_container_image_that_is_gone(tmp_path):
    done = run({"name": "c", "kind": "container", "image": "/nowhere.sif"}, tmp_path)
    assert done.returncode == 1
    assert "kernel c: there is no image /nowhere.sif on " in done.stderr


def test_the_kernels_and_packages_of_a_cluster():
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
