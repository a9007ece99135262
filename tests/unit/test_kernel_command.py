"""The command hpchub-kernel, with real virtual environments. ipykernel is a stand-in that a kernel can import."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpchub.kernel_scripts import FOREIGN
from hpchub.remote import kernel_environments, kernel_store, user_kernels
from hpchub.remote.kernel_command import main
from hpchub.remote.kernel_environments import locate
from hpchub.remote.kernel_store import Failure, kernels_directory

IPYKERNEL = {
    "ipykernel/__init__.py": "__version__ = '7.4.0'\n",
    "ipykernel/kernelapp.py": "",
    "ipykernel/kernelspec.py": "def get_kernel_dict():\n    return {'metadata': {'debugger': True}}\n",
    "ipykernel_launcher.py": "import os, sys\n"
    "print(sys.prefix, sys.argv[1:], sys.flags.no_user_site, dict(os.environ))\n",
}
MODULES = 'module() { case "$1 $2" in "load gone"*) return 1;; "load"*) export LOADED="$LOADED $2";; esac; }\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, whose login shells have the command ``module``."""
    for name in list(os.environ):
        if name.startswith(("JUPYTER", "XDG_", "CONDA", "MAMBA", "PYTHON")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bash_profile").write_text(MODULES)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MODULESHOME", "/modules")
    monkeypatch.setattr(kernel_environments, "LOCAL", ())
    return home


@pytest.fixture
def kernels(home: Path) -> Path:
    return home / ".local" / "share" / "jupyter" / "kernels"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment. Its copies work too, as the interpreter finds pyvenv.cfg beside itself."""
    path = tmp_path_factory.mktemp("template") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    return path


@pytest.fixture
def venv(tmp_path: Path, template: Path) -> Path:
    path = tmp_path / "envs" / "Geo Data"
    copy(template, path)
    install(path)
    return path


def copy(template: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", template, path], check=True)


def install(path: Path, files: dict[str, str] = IPYKERNEL) -> None:
    """Install the stand-in for ipykernel."""
    (site,) = (path / "lib").glob("python*/site-packages")
    for name, text in files.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)


@pytest.fixture
def conda(home: Path, template: Path) -> Path:
    """An environment in the shape of conda's. Its interpreter needs pyvenv.cfg to find its packages."""
    path = home / "micromamba" / "envs" / "torch"
    copy(template, path)
    install(path)
    (path / "conda-meta").mkdir()
    (path / "etc" / "conda" / "activate.d").mkdir(parents=True)
    (path / "etc" / "conda" / "activate.d" / "proj.sh").write_text('export PROJ_LIB="$CONDA_PREFIX/proj"\n')
    return path


def spec_of(path: Path) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((path / "kernel.json").read_text())
    return spec


def start(directory: Path, home: Path) -> str:
    """Start a kernel as Jupyter does, in an environment with variables of other software. Return what it prints."""
    spec = spec_of(directory)
    argv = [
        word.replace("{resource_dir}", str(directory)).replace("{connection_file}", "c.json") for word in spec["argv"]
    ]
    foreign = dict.fromkeys(FOREIGN, "/foreign")
    del foreign["LD_PRELOAD"], foreign["LD_AUDIT"]  # the programs of the test would complain
    base = {"PATH": os.environ["PATH"], "HOME": str(home), **foreign}
    own = {name: value.replace("${PATH}", base["PATH"]) for name, value in spec["env"].items()}
    done = subprocess.run(argv, env=base | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/foreign" not in done.stdout
    return done.stdout


def failure(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run the command, which fails, and return its message."""
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hpchub-kernel: ")
    return captured.err


# -- add


@pytest.mark.parametrize("below", ["", "bin/python", "bin/activate"], ids=["directory", "interpreter", "activate"])
def test_venv_becomes_a_kernel(
    venv: Path, kernels: Path, home: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    assert main(["add", str(venv / below)]) == 0
    path = kernels / "geo-data"
    assert f"Added the kernel geo-data: Python 3.{sys.version_info[1]} (geo-data), in {path}" in capsys.readouterr().out
    assert [file.name for file in path.iterdir()] == ["kernel.json"]
    spec = spec_of(path)
    assert spec["metadata"] == {
        "debugger": True,
        "hpchub": {"kind": "venv", "environment": str(venv), "modules": []},
    }
    printed = start(path, home)
    assert printed.startswith(f"{venv} ['-f', 'c.json'] 1 ")
    assert f"'PATH': '{venv}/bin:" in printed


@pytest.mark.parametrize("how", ["name", "path"])
def test_conda_environment_becomes_a_kernel_that_is_activated(conda: Path, kernels: Path, home: Path, how: str) -> None:
    assert main(["add", "torch" if how == "name" else str(conda)]) == 0
    assert spec_of(kernels / "torch")["metadata"]["hpchub"]["kind"] == "conda"
    printed = start(kernels / "torch", home)
    assert f"'CONDA_PREFIX': '{conda}'" in printed
    assert f"'PROJ_LIB': '{conda}/proj'" in printed
    assert "'PYTHONNOUSERSITE': '1'" in printed


def test_modules_become_a_kernel(venv: Path, kernels: Path, home: Path) -> None:
    plain = venv.rename(venv.with_name("plain"))
    python = str(plain / "bin" / "python")
    assert main(["add", "--module", "python/3.11", "--module", "hdf5", "--python", python]) == 0
    path = kernels / "python-3.11-hdf5"
    assert sorted(file.name for file in path.iterdir()) == ["kernel.json", "launch"]
    assert "'LOADED': ' python/3.11 hdf5'" in start(path, home)


def test_venv_with_modules_has_its_programs_first_on_the_path(venv: Path, kernels: Path, home: Path) -> None:
    assert main(["add", str(venv), "--module", "python/3.11", "--name", "mixed"]) == 0
    printed = start(kernels / "mixed", home)
    assert f"'PATH': '{venv}/bin:" in printed
    assert "'LOADED': ' python/3.11'" in printed
    assert spec_of(kernels / "mixed")["metadata"]["hpchub"]["modules"] == ["python/3.11"]


def test_dry_run_prints_the_files_and_writes_nothing(
    conda: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", "torch", "--dry-run", "--display-name", "My torch"]) == 0
    printed = capsys.readouterr().out
    assert '"display_name": "My torch"' in printed
    assert f"export CONDA_PREFIX={conda}" in printed
    assert not (home / ".local").exists()


@pytest.mark.parametrize("mask", [0, 0o777], ids=oct)
def test_files_belong_to_the_user_alone(venv: Path, kernels: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert main(["add", str(venv)]) == 0
    finally:
        os.umask(before)
    for path, mode in ((kernels, 0o700), (kernels / "geo-data", 0o700), (kernels / "geo-data/kernel.json", 0o600)):
        assert path.stat().st_mode & 0o777 == mode


def test_written_file_is_for_the_user_alone_from_its_creation(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kernel_store.write(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_existing_kernel_is_kept_without_force(venv: Path, kernels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = kernels / "GEO-data"  # Jupyter ignores case
    old.mkdir(parents=True)
    (old / "kernel.json").write_text("{}")
    (old / "logo-svg.svg").write_text("")
    assert f"{old} exists; choose another name with --name" in failure(capsys, 2, "add", str(venv))
    assert (old / "kernel.json").read_text() == "{}"
    assert main(["add", str(venv), "--force"]) == 0
    assert "Replaced the kernel geo-data" in capsys.readouterr().out
    assert [path.name for path in kernels.iterdir()] == ["geo-data"]
    assert [path.name for path in (kernels / "geo-data").iterdir()] == ["kernel.json"]


def test_replaced_kernel_comes_back_if_the_new_one_cannot_be_written(
    venv: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = kernels / "geo-data"
    old.mkdir(parents=True)
    (old / "kernel.json").write_text("{}")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if target == old and self.name == "geo-data":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert "cannot be written: Input/output error" in failure(capsys, 2, "add", str(venv), "--force")
    assert (old / "kernel.json").read_text() == "{}"
    assert [path.name for path in kernels.iterdir()] == ["geo-data"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["full", "quota"])
def test_full_home_leaves_no_half_kernel(
    venv: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr(os, "fsync", fail)
    assert "your home directory is full; delete files" in failure(capsys, 2, "add", str(venv))
    assert list(kernels.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("../up", "is not valid as the name of a kernel; write lower-case letters", id="parent"),
        pytest.param("/etc/x", "is not valid", id="absolute"),
        pytest.param("a\nb", "is not valid", id="newline"),
        pytest.param("..", "is not valid", id="dots"),
        pytest.param("", "is not valid", id="empty"),
        pytest.param("Geo", "is not valid", id="capital"),
        pytest.param("-x", "is not valid", id="option"),
        pytest.param("x" * 65, "is not valid", id="long"),
        pytest.param("python3", "your centre has a kernel python3, in ", id="centre"),
    ],
)
def test_name_is_refused(
    venv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    name: str,
    said: str,
) -> None:
    site = tmp_path / "site" / "kernels" / "python3"
    site.mkdir(parents=True)
    (site / "kernel.json").write_text("{}")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "site"))
    message = failure(capsys, 2, "add", str(venv), f"--name={name}", "--force")
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "home" / ".local").exists()


@pytest.mark.parametrize(
    "text", ["two\nlines", "", "bell\a", "x" * 81, "\x1b[31mred"], ids=["lines", "empty", "bell", "long", "escape"]
)
def test_display_name_is_refused(venv: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert "write one line of 1 to 80 characters" in failure(capsys, 2, "add", str(venv), "--display-name", text)


NO_ENVIRONMENT: list[Any] = [
    pytest.param(["/gone"], 2, "/gone does not exist on ", id="gone"),
    pytest.param(["."], 1, "is not an environment: it has no bin/python", id="no-environment"),
    pytest.param(["nothing"], 2, "there is no conda environment 'nothing'", id="unknown-name"),
    pytest.param([], 2, "no environment; write the directory of a venv", id="nothing"),
    pytest.param(["/" + "x" * 5000], 2, "cannot be used", id="long"),
    pytest.param(["~nobody-here/x"], 2, "cannot be used", id="unknown-home"),
    pytest.param(["/etc/passwd"], 1, "/etc/passwd is not executable", id="no-program"),
    pytest.param(["--module", "$(touch x)"], 2, "is not valid as a module; write", id="module-with-a-command"),
    pytest.param(["--module", "-x"], 2, "is not valid as a module", id="module-with-an-option"),
    pytest.param(["--module", "a", "--python", "x;y"], 2, "--python 'x;y' is not valid", id="python-with-a-command"),
    pytest.param(
        ["/usr", "--python", "python3"], 2, "--python belongs to --module alone", id="python-of-an-environment"
    ),
]


@pytest.mark.parametrize(("arguments", "code", "said"), NO_ENVIRONMENT)
def test_environment_is_refused(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(home)
    words = [f"--module={arguments[1]}", *arguments[2:]] if arguments[:1] == ["--module"] else arguments
    assert said in failure(capsys, code, "add", *words)
    assert not (home / ".local").exists()


@pytest.mark.parametrize("letter", [":", "{", "$", "\n", "\x1b"], ids=repr)
def test_path_that_a_kernel_cannot_have_is_refused(
    template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], letter: str
) -> None:
    copy(template, tmp_path / f"a{letter}b")
    message = failure(capsys, 2, "add", str(tmp_path / f"a{letter}b"))
    assert f"contains {letter!r}" in message
    assert message.count("\n") == 1


def test_directory_that_contains_the_environment_is_named(template: Path, tmp_path: Path) -> None:
    copy(template, tmp_path / "project" / ".venv")
    with pytest.raises(Failure, match=r"did you mean .*/project/\.venv\?"):
        locate(str(tmp_path / "project"))
    assert locate(str(tmp_path / "project" / ".venv")).default_name == "project"


def test_several_conda_environments_of_one_name_are_listed(conda: Path, home: Path) -> None:
    other = home / ".conda" / "envs" / "torch"
    copy(conda, other)
    with pytest.raises(Failure, match="there are several conda environments torch; write one of: ") as caught:
        locate("torch")
    assert str(conda) in str(caught.value)
    assert str(other) in str(caught.value)


def test_interpreter_that_was_removed_is_explained(venv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/gone/python3.9")
    message = failure(capsys, 1, "add", str(venv))
    assert f"{python} links to /gone/python3.9, which does not exist" in message
    assert "create the environment again" in message


BROKEN: list[Any] = [
    pytest.param({}, "has no ipykernel (", id="missing"),
    pytest.param(
        {**IPYKERNEL, "ipykernel/kernelapp.py": "import gone_zmq"}, "ipykernel 7.4.0 does not work", id="broken"
    ),
]


@pytest.mark.parametrize(("files", "said"), BROKEN)
@pytest.mark.parametrize(
    ("has_pip", "command"),
    [(True, "bin/python' -m pip install ipykernel"), (False, " ipykernel")],
    ids=["pip", "no-pip"],
)
def test_command_that_installs_ipykernel_is_printed(
    template: Path,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    files: dict[str, str],
    said: str,
    has_pip: bool,
    command: str,
) -> None:
    path = tmp_path / "my env"
    copy(template, path)
    install(path, {**files, **({"pip.py": ""} if has_pip else {})})
    message = failure(capsys, 1, "add", str(path))
    assert said in message
    assert f"'{path}/bin/python'" in message
    assert command in message
    assert not (home / ".local").exists()


def test_conda_install_is_printed_for_a_conda_environment(conda: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site,) = (conda / "lib").glob("python*/site-packages")
    (site / "ipykernel" / "__init__.py").write_text("raise ImportError('no')")
    message = failure(capsys, 1, "add", "torch")
    assert f" install --prefix {conda} --channel conda-forge ipykernel\n" in message


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        pytest.param(MODULES, "hpchub-kernel: module load gone/1 failed on ", id="module-does-not-exist"),
        pytest.param("unset -f module\n", "have no command 'module'", id="no-module-system"),
    ],
)
def test_module_that_cannot_be_loaded_is_explained(
    home: Path, capsys: pytest.CaptureFixture[str], profile: str, said: str
) -> None:
    (home / ".bash_profile").write_text(profile)
    assert said in failure(capsys, 1, "add", "--module", "gone/1")


def test_other_name_of_python_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    message = failure(capsys, 1, "add", "--module", "a", "--python", "python-of-nobody")
    assert "add for example: --python python3" in message


def test_environment_that_hangs_is_given_up(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(venv, {"ipykernel/__init__.py": "import time\ntime.sleep(60)"})
    monkeypatch.setattr(kernel_environments, "PROBE_TIMEOUT", 1.0)
    assert "does not import ipykernel within 1 s" in failure(capsys, 1, "add", str(venv))


def test_noise_of_an_environment_does_not_matter(venv: Path) -> None:
    install(venv, {"sitecustomize.py": "print('welcome ' * 50_000)"})
    assert main(["add", str(venv)]) == 0


# -- the user's directory


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        pytest.param({}, "{home}/.local/share/jupyter/kernels", id="default"),
        pytest.param({"XDG_DATA_HOME": "/x"}, "/x/jupyter/kernels", id="xdg"),
        pytest.param({"XDG_DATA_HOME": "/x", "JUPYTER_DATA_DIR": "/j"}, "/j/kernels", id="jupyter"),
        pytest.param({"JUPYTER_DATA_DIR": ""}, "{home}/.local/share/jupyter/kernels", id="empty"),
    ],
)
def test_kernels_are_where_jupyter_looks_for_them(home: Path, variables: dict[str, str], path: str) -> None:
    assert kernels_directory(variables) == Path(path.format(home=home))


def test_directory_that_is_deleted_with_the_session_is_refused(tmp_path: Path) -> None:
    private = tmp_path / "hpchub-abc"
    variables = {"JUPYTER_DATA_DIR": str(private / "data"), "JUPYTER_RUNTIME_DIR": str(private / "runtime")}
    with pytest.raises(Failure, match="which is deleted at its end"):
        kernels_directory(variables)
    (private / "data").mkdir(parents=True)
    (private / "data" / "kernels").symlink_to(tmp_path)  # the launcher's link to the user's own kernels
    assert kernels_directory(variables) == private / "data" / "kernels"


def test_link_to_another_directory_of_the_user_is_used(venv: Path, kernels: Path, tmp_path: Path) -> None:
    kernels.parent.parent.mkdir(parents=True)
    (tmp_path / "scratch").mkdir()
    kernels.parent.symlink_to(tmp_path / "scratch")
    assert main(["add", str(venv)]) == 0
    assert (tmp_path / "scratch" / "kernels" / "geo-data" / "kernel.json").is_file()


def test_directory_of_somebody_else_is_refused(
    venv: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels.mkdir(parents=True)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert f"{kernels} belongs to uid " in failure(capsys, 2, "add", str(venv))
    assert list(kernels.iterdir()) == []


def test_directory_that_everybody_can_write_is_refused(
    venv: Path, kernels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels.mkdir(parents=True)
    kernels.chmod(0o777)
    assert f"run: chmod o-w {kernels}" in failure(capsys, 2, "add", str(venv))


@pytest.mark.parametrize("is_gone", [False, True], ids=["link", "dangling-link"])
def test_link_in_place_of_a_kernel_is_never_followed(venv: Path, kernels: Path, tmp_path: Path, is_gone: bool) -> None:
    target = tmp_path / "shared"
    if not is_gone:
        target.mkdir()
        (target / "kernel.json").write_text("{}")
    kernels.mkdir(parents=True)
    (kernels / "geo-data").symlink_to(target)
    assert main(["add", str(venv)]) == 2
    assert main(["add", str(venv), "--force"]) == 0
    assert not (kernels / "geo-data").is_symlink()
    assert target.exists() != is_gone
    if not is_gone:
        assert [path.name for path in target.iterdir()] == ["kernel.json"]


# -- list


def write_kernel(kernels: Path, name: str, content: str | bytes | dict[str, Any]) -> Path:
    directory = kernels / name
    directory.mkdir(parents=True)
    text = json.dumps(content) if isinstance(content, dict) else content
    (directory / "kernel.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return directory


SPECS: list[Any] = [
    pytest.param("{", "kernel.json is not JSON", id="no-json"),
    pytest.param(b"\xff\xfe", "kernel.json is not JSON", id="no-text"),
    pytest.param("[" * 100_000, "kernel.json is not JSON", id="deep"),
    pytest.param("[1]", "kernel.json is not an object", id="list"),
    pytest.param("{}" + " " * user_kernels.LIMIT, "kernel.json is larger than 1000000 bytes", id="huge"),
    pytest.param({}, "argv in kernel.json is not a list of texts", id="no-argv"),
    pytest.param({"argv": "python"}, "argv in kernel.json is not a list of texts", id="argv-text"),
    pytest.param({"argv": [1]}, "argv in kernel.json is not a list of texts", id="argv-number"),
    pytest.param({"argv": ["a\0b"]}, "argv in kernel.json is not a list of texts", id="argv-nul"),
    pytest.param({"argv": ["/bin/sh"], "display_name": {}}, "display_name in kernel.json is not a text", id="name"),
    pytest.param({"argv": ["/bin/sh"], "env": {"A": 1}}, "env in kernel.json contains", id="env-number"),
    pytest.param({"argv": ["/bin/sh"], "metadata": []}, "metadata in kernel.json is not an object", id="metadata"),
    pytest.param({"argv": ["/gone/python", "-m"]}, "/gone/python does not exist on ", id="interpreter-gone"),
    pytest.param({"argv": ["/usr/bin/env", "-u", "A", "/gone/python"]}, "/gone/python does not exist", id="after-env"),
    pytest.param(
        {"argv": ["/usr/bin/env", "A=1", "gone-python"]}, "the program gone-python is not in the PATH", id="path"
    ),
    pytest.param({"argv": ["/etc/passwd"]}, "/etc/passwd is not executable", id="not-executable"),
    pytest.param({"argv": ["/etc"]}, "/etc is not a file", id="directory"),
    pytest.param(
        {"argv": ["/bin/bash", "-l", "{resource_dir}/launch", "python"]}, "/launch does not exist", id="script"
    ),
    pytest.param({"argv": ["/bin/sh"]}, "", id="fine"),
    pytest.param({"argv": ["python", "-m", "x"]}, "", id="python-of-the-server"),
    pytest.param({"argv": ["/bin/bash", "-c", "/gone/x; python"]}, "", id="shell-command"),
    pytest.param({"argv": ["/usr/bin/env", "-S", "gone"]}, "", id="unknown-option-of-env"),
    pytest.param({"argv": ["/gone"], "metadata": {"kernel_provisioner": {}}}, "", id="provisioner"),
    pytest.param({"argv": ["/bin/bash", "/etc/passwd", "/gone"]}, "", id="foreign-script"),
]


@pytest.mark.parametrize(("content", "problem"), SPECS)
def test_problem_of_a_kernel_is_shown(
    kernels: Path, capsys: pytest.CaptureFixture[str], content: Any, problem: str
) -> None:
    write_kernel(kernels, "mine", content)
    assert main(["list", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (problem in shown["problem"]) if problem else (shown["problem"] == "")


def test_interpreter_after_the_kernels_own_scripts_is_checked(
    venv: Path, kernels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["add", str(venv), "--module", "m", "--name", "mixed"]) == 0
    (venv / "bin" / "python").unlink()
    capsys.readouterr()
    assert main(["list"]) == 0
    assert f"does not work: {venv}/bin/python does not exist on " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "is_broken"),
    [
        pytest.param("", "", True, id="missing"),
        pytest.param("{site}/distutils-precedence.pth", "import os\n", True, id="harmless-link"),
        pytest.param("{site}/more.pth", "/somewhere\n", False, id="link-to-other-packages"),
        pytest.param("{root}/pyvenv.cfg", "include-system-site-packages = true\n", False, id="packages-of-the-system"),
    ],
)
@pytest.mark.parametrize("kind", ["venv", "conda"])
def test_environment_that_lost_ipykernel_is_named(
    venv: Path, kernels: Path, capsys: pytest.CaptureFixture[str], *, file: str, text: str, is_broken: bool, kind: str
) -> None:
    if kind == "conda":
        (venv / "conda-meta").mkdir()
    assert main(["add", str(venv), "--name=geo"]) == 0
    (site,) = (venv / "lib").glob("python*/site-packages")
    (site / "ipykernel_launcher.py").unlink()
    if file:
        Path(file.format(site=site, root=venv)).write_text(text)
    capsys.readouterr()
    assert main(["list"]) == 0
    assert (f"does not work: ipykernel is not installed in {venv}" in capsys.readouterr().out) == is_broken


def test_node_without_modules_is_named(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kernel(kernels, "m", {"argv": ["/bin/sh"], "metadata": {"hpchub": {"kind": "module", "modules": ["a/1"]}}})
    for name in user_kernels.MODULE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(user_kernels, "ROOT", tmp_path)
    main(["list"])
    assert "has no environment modules" in capsys.readouterr().out
    (tmp_path / "etc" / "profile.d").mkdir(parents=True)
    (tmp_path / "etc" / "profile.d" / "lmod.sh").touch()
    main(["list"])
    assert "can start" in capsys.readouterr().out


def test_list_shows_kernels_of_other_programs_without_control_characters(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kernel(kernels, "Mine", {"argv": ["/bin/sh"], "display_name": "red \x1b[31m\nnext"})
    write_kernel(kernels, "bad\nname", {"argv": ["/bin/sh"]})
    (kernels / "away").symlink_to("/gone/kernel")
    (kernels / "no-kernel").mkdir()
    site = write_kernel(tmp_path / "site" / "kernels", "ir", {})
    write_kernel(kernels, "ir", {"argv": ["/bin/sh"]})
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "site"))
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert lines[1].split() == ["mine", "red", "[31m", "next", "other", "/bin/sh", "can", "start"]
    assert lines[2].startswith("away")
    assert "links to /gone/kernel, which does not exist" in lines[2]
    assert "rename the directory" in lines[3]
    assert lines[4].endswith("not used: your centre has a kernel of this name")
    assert len(lines) == 5
    assert main(["list", "--json"]) == 0
    shown = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert shown["ir"]["hidden_by"] == str(site)


def test_list_without_kernels_says_how_to_add_one(kernels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out == f"You have no kernels in {kernels}. To add one: hpchub-kernel add ENV\n"


def test_files_that_do_not_answer_are_no_problem(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kernel(kernels, "mine", {"argv": ["/net/python"]})
    stat = Path.stat

    def stale(self: Path, **options: Any) -> os.stat_result:
        if str(self).startswith("/net"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", stale)
    assert user_kernels.problem_of_file("/net/python") == ""


# -- remove


def test_remove_deletes_the_kernel_and_keeps_its_environment(
    venv: Path, kernels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["add", str(venv)])
    assert main(["remove", "geo-data", "--dry-run"]) == 0
    assert (kernels / "geo-data").exists()
    assert main(["remove", "GEO-data", "--yes"]) == 0
    assert f"Removed {kernels / 'geo-data'}." in capsys.readouterr().out
    assert list(kernels.iterdir()) == []
    assert (venv / "bin" / "python").exists()


@pytest.mark.parametrize(
    ("answer", "is_removed"), [("y\n", True), ("yes\n", True), ("\n", False), ("no\n", False)], ids=repr
)
def test_remove_asks(kernels: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_removed: bool) -> None:
    write_kernel(kernels, "mine", {"argv": ["/bin/sh"]})
    monkeypatch.setattr("builtins.input", lambda _question: answer.strip())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["remove", "mine"]) == 0
    assert (kernels / "mine").exists() != is_removed


def test_remove_without_a_terminal_needs_yes(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_kernel(kernels, "mine", {"argv": ["/bin/sh"]})
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert "add --yes" in failure(capsys, 2, "remove", "mine")
    assert (kernels / "mine").exists()


@pytest.mark.parametrize("name", ["../../x", "..", ".", "", "/etc", "no-kernel", "python3"], ids=repr)
def test_remove_refuses_what_is_no_kernel_of_the_user(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    site = write_kernel(tmp_path / "site" / "kernels", "python3", {})
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "site"))
    write_kernel(kernels, "mine", {"argv": ["/bin/sh"]})
    (kernels / "no-kernel").mkdir()
    message = failure(capsys, 2, "remove", name, "--yes")
    assert ("is a kernel of your centre" if name == "python3" else "you have mine") in message
    assert (site / "kernel.json").exists()
    assert (kernels / "no-kernel").exists()


def test_remove_of_a_link_keeps_its_target(kernels: Path, tmp_path: Path) -> None:
    target = write_kernel(tmp_path, "shared", {"argv": ["/bin/sh"]})
    kernels.mkdir(parents=True)
    (kernels / "theirs").symlink_to(target)
    assert main(["remove", "theirs", "--yes"]) == 0
    assert not os.path.lexists(kernels / "theirs")
    assert (target / "kernel.json").exists()


def test_remove_never_follows_links_inside_a_kernel(kernels: Path, tmp_path: Path) -> None:
    kernel = write_kernel(kernels, "mine", {"argv": ["/bin/sh"]})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").touch()
    (kernel / "data").symlink_to(tmp_path / "data")
    assert main(["remove", "mine", "--yes"]) == 0
    assert (tmp_path / "data" / "precious").exists()


# -- the command line


@pytest.mark.parametrize(
    "arguments", [["--help"], ["add", "--help"], ["check", "--help"], ["remove", "--help"]], ids=str
)
def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed
    assert "exit codes:" in printed


@pytest.mark.parametrize(
    "arguments", [[], ["ad"], ["remove"], ["check", "--timeout", "0"], ["check", "--timeout", "x"]], ids=str
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "interrupted; nothing was changed"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device; free space"),
    ],
    ids=["interrupt", "full"],
)
def test_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, said: str
) -> None:
    def fail(_self: kernel_store.Store) -> None:
        raise error

    monkeypatch.setattr(kernel_store.Store, "kernels", fail)
    assert said in failure(capsys, 2, "list")
