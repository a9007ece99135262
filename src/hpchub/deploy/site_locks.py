"""The lock files of a site: where they are, whether they fit the inventory, and how uv makes them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hpchub.bundle.wheels import uv_program
from hpchub.deploy.inventory_files import FILES, shown
from hpchub.messages import listing, show
from hpchub.model.packages import Wanted, conflicts, pins, stale, to_lock
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.extensions import Extension

COMMAND = "hpchub lock INVENTORY"
LEFT_OUT = ("rfc3987-syntax",)
"""What requirements.lock leaves out on purpose. Its import takes longer than the rest of the server's start."""
_OLDEST_PYTHON = "3.11"
_REASON_LIMIT = 500  # characters of uv's explanation
_BLOCK = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)[^\n]*\n(?:[ \t][^\n]*\n)*", re.MULTILINE)


class LockError(Exception):
    """A lock file cannot be made. The message says why."""


def directory(source: str | Path) -> Path:
    """Return the directory of an inventory for its lock files."""
    path = Path(source)
    return (path if path.is_dir() else path.parent) / FILES / "locks"


def find(sources: Sequence[str | Path], cluster: str) -> Path | None:
    """Return the lock file of a cluster in one of the inventories, or None."""
    paths = [directory(source) / f"{cluster}.lock" for source in sources if "," not in str(source)]
    return next((path for path in paths if path.is_file()), None)


def base_digest(base: Sequence[Path]) -> str:
    """Return the digest of hpchub's own lock files.

    Raises:
        OSError: A lock file cannot be read.
    """
    texts = [path.read_text().strip() for path in base]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def problems(
    locks: Sequence[Path], further: Mapping[str, Sequence[Wanted]], sources: Sequence[str | Path]
) -> Iterator[Problem]:
    """Find the lock files that are missing, do not fit the inventory, or are left over.

    Args:
        locks: hpchub's own lock files.
        further: What the site adds to the notebook environment of each cluster.
        sources: The inventories.
    """
    try:
        base = pins(path.read_text() for path in locks)
        digest = base_digest(locks)
    except OSError as error:
        yield Problem("", f"a lock file cannot be read: {error}", valid="correct the path of the lock file")
        return
    for cluster, wanted in further.items():
        bad = list(conflicts(wanted, base))
        yield from bad
        needed = to_lock(wanted, base)
        path = find(sources, cluster)
        where = next((wish for wish in wanted if wish.text in needed), Wanted("", "hpc_clusters"))
        valid = f"run: {COMMAND}"
        if needed and path is None and not bad:
            yield Problem(
                where.entry,
                f"is not locked: {FILES}/locks/{cluster}.lock is missing in the inventory",
                field=where.field,
                value=show(where.text),
                valid=valid,
            )
        elif path is not None and not needed:
            yield Problem(
                "", f"no package of cluster {cluster} needs it", valid=f"remove it, or {valid}", file=shown(path)
            )
        elif path is not None and not bad and (fault := stale(path.read_text(), needed, digest)):
            yield Problem("", fault, valid=valid, file=shown(path))


# Making them


def resolve(requirements: Sequence[str], base: Sequence[Path], former: str = "") -> str:
    """Return the pinned packages for some requirements, with their hashes, apart from those in hpchub's own lock files.

    Args:
        requirements: The requirements.
        base: hpchub's own lock files. Their versions never change.
        former: The former lock file. Its versions stay if they still fit.

    Raises:
        LockError: There are no versions that fit together.
    """
    done = _compile(requirements, base, former)
    if done.returncode:
        raise LockError(_explain(requirements, base, done.stderr))
    known = {(name, line) for path in base for name, line in _lines(path.read_text())}
    whole = {name for name, line in known if ";" not in line}
    blocks = [(canonicalize_name(block["name"]), block[0]) for block in _BLOCK.finditer(done.stdout)]
    # A package that hpchub's locks contain for some versions of Python only is needed here for the other versions.
    return "".join(text for name, text in blocks if name not in whole and (name, _first_line(text)) not in known)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for block in _BLOCK.finditer(text):
        yield canonicalize_name(block["name"]), _first_line(block[0])


def _first_line(block: str) -> str:
    return block.partition("\n")[0].rstrip("\\ ")


def _compile(requirements: Sequence[str], base: Sequence[Path], former: str = "") -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="hpchub-") as name:
        wanted, output, overrides = Path(name, "site.in"), Path(name, "site.lock"), Path(name, "overrides")
        wanted.write_text("".join(f"{each}\n" for each in requirements))
        asked = {canonicalize_name(Requirement(each).name) for each in requirements}
        overrides.write_text("".join(f"{each} ; python_version < '3'\n" for each in LEFT_OUT if each not in asked))
        output.write_text(former)
        options = [
            "--universal",
            "--generate-hashes",
            "--no-annotate",
            "--no-header",
            "--python-version",
            _OLDEST_PYTHON,
        ]
        # Building a source distribution would run its code here, and on the hosts as root.
        options += ["--only-binary", ":all:", "--output-file", str(output)]
        options += [word for path in base for word in ("--constraint", str(path))]
        options += ["--override", str(overrides)]
        done = _uv("pip", "compile", "--quiet", *options, str(wanted))
        done.stdout = output.read_text()
        return done


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "UV_NO_PROGRESS": "true", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1"}
    command = [uv_program(), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _explain(requirements: Sequence[str], base: Sequence[Path], stderr: str) -> str:
    """Return why uv found no versions, and which requirement is the reason."""
    if "No solution found" not in stderr:
        return f"uv failed: {_reason(stderr)}"
    for each in requirements:
        alone = _compile([each], base)
        if not alone.returncode:
            continue
        free = _compile([each], [])
        if free.returncode:
            return f"{show(each)} cannot be installed: {_reason(free.stderr)}; correct its name or version"
        locked = pins(path.read_text() for path in base)
        words = set(re.findall(r"[a-z0-9][a-z0-9._-]*", alone.stderr.lower()))
        own = [f"{name} {listing(map(str, sorted(locked[name])))}" for name in sorted(words & {*locked})]
        name = canonicalize_name(Requirement(each).name)
        others = [text for text in own if text.partition(" ")[0] != name]
        return (
            f"{show(each)} conflicts with what the notebook environment has ({listing(others or own)}): "
            f"{_reason(alone.stderr)}; choose another version, or a kernel of the kind venv"
        )
    return f"{listing(map(show, requirements))} do not fit together: {_reason(stderr)}"


def _reason(stderr: str) -> str:
    """Return uv's explanation on one line."""
    text = re.sub(r"[^\x00-\x7f]", " ", stderr)  # the lines of its tree
    text = re.sub(r"error:\s*No solution found when resolving dependencies[^:\n]*:?|\b(?:error|cause):", " ", text)
    text = " ".join(re.split(r"\n\s*hint:", text)[0].split())
    return text[:_REASON_LIMIT].rstrip(".")


def check_extension(extension: Extension, locks: Sequence[str]) -> list[str]:
    """Check that a locked package is a prebuilt extension of JupyterLab.

    Args:
        extension: The extension.
        locks: The texts of lock files, one of which contains it.

    Returns:
        The extensions of the notebook server that it brings and that the inventory does not turn on.

    Raises:
        LockError: It is no such extension, or lacks a server extension that the inventory names.
    """
    name = canonicalize_name(Requirement(extension.package).name)
    blocks = [block[0] for text in locks for block in _BLOCK.finditer(text) if canonicalize_name(block["name"]) == name]
    with tempfile.TemporaryDirectory(prefix="hpchub-") as target:
        pinned = Path(target, "one.lock")
        pinned.write_text("".join(blocks))
        options = ["--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", target]
        done = _uv("pip", "install", *options, "--requirement", str(pinned))
        if done.returncode:
            raise LockError(f"{show(extension.package)} cannot be installed: {_reason(done.stderr)}")
        found = Path(target, "share", "jupyter", "labextensions")
        if not [*found.glob("*/package.json"), *found.glob("@*/*/package.json")]:
            raise LockError(
                f"{show(extension.package)} is no prebuilt extension of JupyterLab, because it installs nothing in "
                "share/jupyter/labextensions; if it is a library, move it to hpc_notebook_packages"
            )
        offered = _server_extensions(Path(target))
        modules = [each for each in extension.server_extensions if not _module(Path(target), each)]
    if modules:
        valid = f"valid: {listing(offered)}" if offered else "remove server_extensions"
        raise LockError(f"{show(extension.package)} has no module {listing(modules)} for the server; {valid}")
    return [each for each in offered if each not in extension.server_extensions]


def _module(target: Path, name: str) -> bool:
    path = target.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _server_extensions(target: Path) -> list[str]:
    """Return the server extensions that an installed package turns on by itself."""
    found: set[str] = set()
    for file in (target / "etc" / "jupyter" / "jupyter_server_config.d").glob("*.json"):
        try:
            found |= {*json.loads(file.read_text())["ServerApp"]["jpserver_extensions"]}
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(found)
