"""The user's own Python environments: where they are, whether they can run a kernel, and the files of that kernel.

This file uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.kernel_scripts import IPYKERNEL, clean_command, conda_script, module_script
from hpchub.remote.kernel_store import BROKEN, Failure, write
from hpchub.remote.user_kernels import printable, problem_of_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/@:-]{0,127}")
PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
PROBE_TIMEOUT = 120.0
"""How long an environment may take to import ipykernel, in seconds. The first time on a network file system is slow."""
OUTPUT_LIMIT = 64_000
"""How much of a program's output is read, in bytes from its end."""
MARK = "hpchub-kernel-probe:"
# For Python 2.7 and later.
PROBE = f"""
import json, sys
found = {{"version": "%d.%d.%d" % tuple(sys.version_info[:3])}}
try:
    import ipykernel
    found["ipykernel"] = str(ipykernel.__version__)
    from ipykernel import kernelapp
    from ipykernel.kernelspec import get_kernel_dict
    found["metadata"] = get_kernel_dict().get("metadata")
except Exception as error:
    found["problem"] = "%s: %s" % (type(error).__name__, error)
try:
    import pip
    found["pip"] = True
except Exception:
    found["pip"] = False
print("\\n{MARK}" + json.dumps(found))
"""
LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108 named in a warning
UNNAMED = {"venv", ".venv", "env", ".env", "virtualenv", "conda", "micromamba", ".conda"}


@dataclass(frozen=True)
class Environment:
    """An environment that can become a kernel.

    Attributes:
        kind: ``venv``, ``conda``, ``python`` (any other Python), or ``module`` (only modules).
        path: The directory of the environment, or the interpreter of the kind ``python``. Empty for ``module``.
        interpreter: The path of the interpreter, or its name after the modules are loaded.
        modules: The modules to load first.
    """

    kind: str
    path: str
    interpreter: str
    modules: tuple[str, ...] = ()

    @property
    def default_name(self) -> str:
        """A name for the kernel, which may be empty."""
        if not self.path:
            text = "-".join(self.modules)
        else:
            path = Path(self.path)
            text = path.parent.name if path.name in UNNAMED else path.name
        return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64].rstrip("-._")

    @property
    def command(self) -> list[str]:
        """The words of the kernel's command up to the interpreter."""
        command = clean_command()
        if self.modules:
            command += ["/bin/bash", "-l", "{resource_dir}/launch"]
        if self._activation("x"):
            command += ["/bin/bash", "{resource_dir}/activate"]
        return [*command, self.interpreter]

    @property
    def variables(self) -> dict[str, str]:
        """The variables of ``kernel.json``."""
        # With modules alone, packages in the home are the only ones that a user can add.
        variables = {"PYTHONNOUSERSITE": "1"} if self.kind in ("venv", "conda") else {}
        if self.kind == "venv" and not self.modules:
            variables["PATH"] = f"{self.path}/bin:${{PATH}}"
        return variables

    def scripts(self, name: str) -> dict[str, str]:
        """Return the texts of the kernel's scripts, by file name.

        Args:
            name: The name of the kernel.
        """
        scripts = {"launch": module_script(f"kernel {name}", self.modules)} if self.modules else {}
        if self._activation(name):
            scripts["activate"] = self._activation(name)
        return scripts

    def _activation(self, name: str) -> str:
        if self.kind == "conda":
            return conda_script(name, self.path)
        if self.kind == "venv" and self.modules:  # the login shell has replaced the PATH
            return f'#!/bin/bash\nexport PATH={shlex.quote(self.path)}/bin:"$PATH"\nexec "$@"\n'
        return ""

    def spec(self, display_name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content of ``kernel.json``.

        Args:
            display_name: The name that JupyterLab shows.
            facts: What the environment reports; see ``probe``.
        """
        own = {"kind": self.kind, "environment": self.path, "modules": list(self.modules)}
        metadata = facts.get("metadata")
        return {
            "argv": [*self.command, *IPYKERNEL],
            "display_name": display_name,
            "language": "python",
            "env": self.variables,
            "metadata": {**(metadata if isinstance(metadata, dict) else {}), "hpchub": own},
        }

    def installation(self, *, pip: bool) -> str:
        """Return the command that installs ipykernel.

        Args:
            pip: Whether the environment has pip.
        """
        load = f"module load {shlex.join(self.modules)} && " if self.modules else ""
        python = shlex.quote(self.interpreter)
        if self.kind == "conda":
            program = next((name for name in ("conda", "mamba", "micromamba") if shutil.which(name)), "conda")
            return f"{load}{program} install --prefix {shlex.quote(self.path)} --channel conda-forge ipykernel"
        if pip:
            user = "" if self.kind == "venv" else "--user "
            return f"{load}{python} -m pip install {user}ipykernel"
        if shutil.which("uv"):
            return f"{load}uv pip install --python {python} ipykernel"
        return f"{load}{python} -m ensurepip && {python} -m pip install ipykernel"


# -- finding an environment


def locate(text: str, modules: Sequence[str] = (), python: str = "") -> Environment:
    """Return the environment that a user names.

    Args:
        text: A directory, an interpreter, or the name of a conda environment. Empty: the modules are the environment.
        modules: The modules to load first.
        python: The interpreter, if the modules are the environment.

    Raises:
        Failure: There is no such environment.
    """
    for module in modules:
        if not MODULE.fullmatch(module):
            raise Failure(
                f"{printable(module)!r} is not valid as a module; write NAME or NAME/VERSION, as in python/3.11"
            )
    if not text:
        if not modules:
            raise Failure(
                "no environment; write the directory of a venv or a conda environment, its interpreter, the name of a"
                " conda environment, or --module NAME. Examples: hpchub-kernel add --help"
            )
        return Environment("module", "", _module_python(python), tuple(modules))
    if python:
        raise Failure(f"--python belongs to --module alone; write its interpreter in place of {printable(text)}")
    found = _from_path(text) if _is_path(text) else _from_name(text)
    wrong = next((letter for letter in found.interpreter if letter in ":{}$" or not letter.isprintable()), "")
    if wrong:
        raise Failure(
            f"the path {printable(found.path)!r} contains {wrong!r}, which a kernel cannot have in its path; create the"
            " environment in a path without : { } $ and control characters"
        )
    return Environment(found.kind, found.path, found.interpreter, tuple(modules))


def _module_python(python: str) -> str:
    name = python or "python"
    if PROGRAM.fullmatch(name) or (name.startswith("/") and name.isprintable() and not set(name) & set(":{}$")):
        return name
    raise Failure(f"--python {printable(name)!r} is not valid; write a name, as in python3, or an absolute path")


def _is_path(text: str) -> bool:
    return "/" in text or text.startswith((".", "~")) or _is_environment(Path(text))


def _is_environment(path: Path) -> bool:
    return any((path / name).exists() for name in ("pyvenv.cfg", "conda-meta", "bin/python", "bin/python3"))


def _from_path(text: str) -> Environment:
    advice = "write the directory of an environment, or its interpreter"
    try:
        path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 the links of a venv must stay
        is_directory = path.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "this is not a path"
        raise Failure(f"{printable(text)} cannot be used on {os.uname().nodename}: {reason}; {advice}") from None
    if not os.path.lexists(path):
        raise Failure(f"{printable(path)} does not exist on {os.uname().nodename}; {advice}")
    if not is_directory:
        return _from_file(path)
    kind = "conda" if (path / "conda-meta").is_dir() else "venv" if (path / "pyvenv.cfg").is_file() else "python"
    names = [path / "bin" / name for name in ("python", "python3")]
    interpreter = next((name for name in names if os.path.lexists(name)), None)
    if interpreter is None:
        raise Failure(_without_python(path), BROKEN)
    _check_program(interpreter)
    return Environment(kind, str(interpreter if kind == "python" else path), str(interpreter))


def _from_file(path: Path) -> Environment:
    root = path.parent.parent
    if path.name == "activate" and _is_environment(root):
        return _from_path(str(root))
    _check_program(path)
    for kind, name in (("conda", "conda-meta"), ("venv", "pyvenv.cfg")):
        if path.parent.name == "bin" and (root / name).exists():
            return Environment(kind, str(root), str(path))
    return Environment("python", str(path), str(path))


def _without_python(path: Path) -> str:
    below = next((name for name in sorted(UNNAMED) if _is_environment(path / name)), "")
    if below:
        return f"{path} has no Python in bin/; did you mean {path / below}?"
    if (path / "conda-meta").is_dir():
        r = " If it has R, start R in it and run IRkernel::installspec()." if (path / "bin" / "R").exists() else ""
        return f"the conda environment {path} has no Python; this command adds Python environments only.{r}"
    return f"{path} is not an environment: it has no bin/python; write the directory that contains bin/python"


def _check_program(path: Path) -> None:
    reason = problem_of_program(str(path), "")
    if reason:
        raise Failure(
            f"{reason}. If a Python was upgraded or removed, create the environment again. If it is on a directory that"
            " only other hosts have, run this command there.",
            BROKEN,
        )


def conda_environments() -> list[Path]:
    """Return the directories of the conda environments that conda lists, or that are in the usual places."""
    home = Path("~").expanduser()
    variables = ("CONDA_ENVS_PATH", "CONDA_ENVS_DIRS")
    places = [Path(each) for name in variables for each in os.environ.get(name, "").split(os.pathsep) if each]
    roots = [Path(os.environ[name]) for name in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT") if os.environ.get(name)]
    roots += [Path(os.environ["CONDA_EXE"]).parent.parent] if os.environ.get("CONDA_EXE") else []
    roots += [home / name for name in ("micromamba", "miniforge3", "mambaforge", "miniconda3", "anaconda3")]
    roots += [home / ".conda", home / ".local" / "share" / "mamba"]
    places += [root / "envs" for root in roots]
    found = [Path(os.environ["CONDA_PREFIX"])] if os.environ.get("CONDA_PREFIX") else []
    with contextlib.suppress(OSError, ValueError):
        text = (home / ".conda" / "environments.txt").read_text(encoding="utf-8")[:OUTPUT_LIMIT]
        found += [Path(line) for line in text.splitlines() if line.startswith("/")]
    for place in places:
        with contextlib.suppress(OSError):
            found += sorted(place.iterdir())
    return [path for path in dict.fromkeys(found) if (path / "conda-meta").is_dir()]


def _from_name(text: str) -> Environment:
    environments = conda_environments()
    found = [path for path in environments if path.name == text]
    if len({path.resolve() for path in found}) == 1:
        return _from_path(str(found[0]))
    if found:
        raise Failure(f"there are several conda environments {text}; write one of: {', '.join(map(str, found))}")
    names = ", ".join(sorted({printable(path.name, 40) for path in environments})) or "none"
    raise Failure(
        f"there is no conda environment {printable(text)!r}, and no directory of this name that contains bin/python."
        f" Conda environments found: {names}. For another one, write its path."
    )


# -- asking an environment


def probe(environment: Environment, name: str) -> dict[str, Any]:
    """Let an environment import ipykernel as the kernel would, and return what it reports.

    Args:
        environment: The environment.
        name: The name of the kernel.

    Returns:
        ``{"version": VERSION, "ipykernel": VERSION, "metadata": {…}, "pip": BOOL}``.

    Raises:
        Failure: The environment does not work, or has no ipykernel.
    """
    with tempfile.TemporaryDirectory(prefix="hpchub-kernel-") as directory:
        for file, text in environment.scripts(name).items():
            write(Path(directory, file), text)
        argv = [word.replace("{resource_dir}", directory) for word in environment.command]
        env = {key: string.Template(value).safe_substitute(os.environ) for key, value in environment.variables.items()}
        code, output = run_limited([*argv, "-c", PROBE], {**os.environ, **env}, PROBE_TIMEOUT)
    place = environment.path or " ".join(environment.modules)
    if code is None:
        raise Failure(f"{place} does not import ipykernel within {PROBE_TIMEOUT:g} s; try again later", BROKEN)
    found = [line[len(MARK) :] for line in output.splitlines() if line.startswith(MARK)]
    try:
        facts = dict(json.loads(found[-1]))
    except (IndexError, ValueError, TypeError):
        raise Failure(_failed(environment, name, code, output), BROKEN) from None
    if facts.get("problem"):
        install = environment.installation(pip=bool(facts.get("pip")))
        reason = printable(facts["problem"])
        what = f"ipykernel {printable(facts['ipykernel'])} does not work" if facts.get("ipykernel") else "no ipykernel"
        raise Failure(f"{place} has {what} ({reason}). To install it, run:\n  {install}\nand try again.", BROKEN)
    return facts


def own_words(name: str, output: str) -> str:
    """Return the reason that the launch script of a kernel has printed, or empty."""
    own = [line for line in output.splitlines() if line.startswith(f"kernel {name}: ")]
    return printable(own[-1].partition(": ")[2]) if own else ""


def _failed(environment: Environment, name: str, code: int, output: str) -> str:
    shown, reason = last_lines(output), own_words(name, output)
    advice = ""
    if environment.modules and re.search(r"the program \S+ does not exist|No such file", output):
        advice = "\nIf the modules have Python under another name, add for example: --python python3"
    reason = reason or f"{environment.interpreter} does not work (exit code {code})"
    return f"{reason}:\n{shown or '  it printed nothing'}{advice}"


def last_lines(output: str, count: int = 5) -> str:
    """Return the last lines of a program's output, indented, without control characters."""
    lines = [printable(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line)) for line in output.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-count:])


def run_limited(argv: Sequence[str], env: Mapping[str, str], seconds: float) -> tuple[int | None, str]:
    """Run a program in the root directory. Return its exit code, or None if it takes too long, and its last output."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", start_new_session=True
        )
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_LIMIT))
        return code, output.read().decode(errors="replace")
