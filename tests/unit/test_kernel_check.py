"""hpchub-kernel check, in the real notebook environment: it starts real and broken kernels, and tells what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from notebook_server import notebook_environment

SOURCE = Path(__file__).resolve().parents[2] / "src"
PROGRAM = (
    "import sys; sys.path.append(sys.argv.pop(1)); from hpchub.remote import kernel_command as k; sys.exit(k.main())"
)
MODULES = 'module() { case "$1 $2" in "load gone"*) echo "Lmod: gone is unknown" >&2; return 1;; esac; }\n'
# A kernel that answers every request, and computes wrongly.
WRONG = """\
from ipykernel.kernelbase import Kernel
from ipykernel.kernelapp import IPKernelApp

class Wrong(Kernel):
    implementation, implementation_version, banner = "wrong", "1", ""
    language_info = {"name": "wrong", "mimetype": "text/plain", "file_extension": ".txt"}

    async def do_execute(self, code, silent, *args, **kwargs):
        self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": "the answer is 41"})
        return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}

IPKernelApp.launch_instance(kernel_class=Wrong)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of the notebook environment, which has ipykernel."""
    return notebook_environment() / "bin" / "python"


class Home:
    """A home directory with kernels.

    Args:
        path: The directory.
        python: The interpreter that runs the command.
    """

    def __init__(self, path: Path, python: Path) -> None:
        self.path = path
        self.python = python
        self.kernels = path / ".local" / "share" / "jupyter" / "kernels"
        self.kernels.mkdir(parents=True)
        (path / ".bash_profile").write_text(MODULES)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(self.path), "PATH": os.environ["PATH"], "PYTHONPATH": "/foreign", "MODULESHOME": "/modules"}
        command: list[str | Path] = [self.python, "-I", "-c", PROGRAM, SOURCE, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def write(self, name: str, argv: list[str], **fields: Any) -> None:
        (self.kernels / name).mkdir()
        spec = {"argv": argv, "display_name": name, "language": "python", **fields}
        (self.kernels / name / "kernel.json").write_text(json.dumps(spec))

    def check(self, name: str, timeout: int = 30) -> dict[str, Any]:
        done = self.run("check", name, "--json", f"--timeout={timeout}")
        (result,) = json.loads(done.stdout)
        assert done.returncode == (0 if result["works"] else 1), done.stderr
        return dict(result)


@pytest.fixture
def home(tmp_path: Path, python: Path) -> Home:
    path = tmp_path / "home"
    path.mkdir()
    return Home(path, python)


def make_venv(path: Path, python: Path) -> Path:
    """Create a virtual environment with the packages of the notebook environment."""
    subprocess.run([python, "-m", "venv", "--without-pip", path], check=True)
    (packages,) = (notebook_environment() / "lib").glob("python*/site-packages")
    (site,) = (path / "lib").glob("python*/site-packages")
    (site / "all.pth").write_text(f"{packages}\n")
    return path


def test_venv_is_registered_and_computes(home: Home, tmp_path: Path, python: Path) -> None:
    venv = make_venv(tmp_path / "geo", python)
    added = home.run("add", str(venv))
    assert added.returncode == 0, added.stderr
    modules = home.run("add", str(venv), "--module", "a/1", "--name", "mixed")
    assert modules.returncode == 0, modules.stderr
    done = home.run("check")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "SECONDS", "VERSION", "RESULT"]
    assert [line[0] for line in lines[1:]] == ["geo", "mixed"]
    for line in lines[1:]:
        assert 0 < float(line[1]) < 30
        assert line[2].startswith("3.")
        assert line[3:] == ["works"]

    # ipykernel is gone later. The files alone show this only if no other directory is added to the packages.
    (link,) = (venv / "lib").glob("python*/site-packages/all.pth")
    link.with_name("pip").mkdir()
    expected = f"ipykernel is not installed in {venv}; run: {venv}/bin/python -m pip install ipykernel"
    link.write_text(str(home.path))
    done = home.run("check", "geo")
    assert done.returncode == 1
    assert expected in done.stdout
    assert "No module named ipykernel_launcher" in done.stdout
    link.unlink()
    assert home.check("geo") == {
        "name": "geo",
        "works": False,
        "seconds": 0.0,
        "version": "",
        "reason": expected,
        "output": "",
    }
    # and the interpreter too
    (venv / "bin" / "python").unlink()
    assert f"{venv}/bin/python does not exist on " in home.check("geo")["reason"]


def test_module_that_does_not_exist_is_named(home: Home, python: Path) -> None:
    home.write("m", ["/bin/bash", "-l", "{resource_dir}/launch", str(python)])
    from hpchub.kernel_scripts import module_script  # noqa: PLC0415

    (home.kernels / "m" / "launch").write_text(module_script("kernel m", ["gone/1"]))
    result = home.check("m")
    assert result["reason"].startswith("module load gone/1 failed on ")
    assert "Lmod: gone is unknown" in result["output"]


def test_kernel_that_exits_at_once_shows_its_last_lines(home: Home) -> None:
    home.write("m", ["/bin/sh", "-c", 'for i in 1 2 3 4 5 6 7; do echo "line \033[31m$i"; done; exit 3'])
    result = home.check("m")
    assert result["reason"] == "it exits at once"
    assert result["output"] == "\n".join(f"  line {number}" for number in range(3, 8))
    assert result["seconds"] < 25


def test_kernel_that_does_not_answer_is_given_up(home: Home) -> None:
    home.write("m", ["/bin/sh", "-c", f"echo $$ > {home.path}/pid; sleep 1000"])
    result = home.check("m", timeout=2)
    assert result["reason"] == "it does not answer within 2 s"
    assert not Path("/proc", (home.path / "pid").read_text().strip()).exists()


def test_kernel_with_a_wrong_result_does_not_work(home: Home, python: Path) -> None:
    program = home.path / "wrong.py"
    program.write_text(WRONG)
    home.write("m", [str(python), str(program), "-f", "{connection_file}"])
    assert home.check("m")["reason"] == "6*7 gives 'the answer is 41' instead of 42"


def test_kernel_that_raises_does_not_work(home: Home, python: Path) -> None:
    home.write("m", [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="bash")
    assert home.check("m")["reason"] == "6*7 raises SyntaxError"


def test_unknown_kernel_is_no_result(home: Home) -> None:
    done = home.run("check", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "you have no kernel 'nothing'" in done.stderr


def test_command_outside_of_the_notebook_environment_names_the_right_one(home: Home, tmp_path: Path) -> None:
    subprocess.run([home.python, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    home.python = tmp_path / "empty" / "bin" / "python"
    home.write("m", ["/bin/sh"])
    done = home.run("check")
    assert done.returncode == 2
    assert "needs jupyter_client; run the command of the notebook environment" in done.stderr
