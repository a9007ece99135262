"""Run mutants: apply each to a copy of the repository, and see whether a test fails."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from lab.host import CACHE

from .lab import DEPLOYED, stage
from .mutants import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .lab import Lab
    from .mutants import Mutant

RESULTS = Path(__file__).with_name("results.json")
FAST_LIMIT, LAB_LIMIT = 300, 900  # seconds for the tests of one mutant


class Result(TypedDict):
    """The result of a mutant.

    Attributes:
        state: ``caught``, ``survived``, or ``broken`` where the mutant could not be tried.
        test: The first test that failed, or why the mutant could not be tried.
    """

    state: str
    test: str


class Results:
    """The results file. It is written after each mutant, so that a run can be interrupted and continued.

    Two runs may write it at once: one of the fast mutants, and one in the lab.
    """

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path

    @property
    def found(self) -> dict[str, Result]:
        """The results by the ids of the mutants."""
        found: dict[str, Result] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return found

    def put(self, mutant: Mutant, result: Result) -> None:
        """Keep a result."""
        with self._locked():
            self._save({**self.found, mutant.id: result})

    def forget_all_but(self, ids: Iterable[str]) -> None:
        """Remove the results of mutants that no longer exist."""
        known = set(ids)
        with self._locked():
            self._save({name: result for name, result in self.found.items() if name in known})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (CACHE / "mutations.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, found: dict[str, Result]) -> None:
        self.path.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")


def copy_repository(target: Path) -> None:
    """Copy the files that git knows, and new ones that it does not ignore, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(target, ignore_errors=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, target / name
        if os.path.lexists(source):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


class Runner:
    """Runs mutants in a copy of the repository.

    Args:
        tree: The copy.
        results: Where the results go.
        lab: The lab, for mutants that need it.
    """

    def __init__(self, tree: Path, results: Results, lab: Lab | None = None) -> None:
        self.tree, self.results, self.lab = tree, results, lab
        self._passes: dict[tuple[tuple[str, ...], str, str], str] = {}
        self._deployed: set[str] = set()  # the places in the lab that had their role as it should be in this run
        self._dirty: tuple[str, str] | None = None  # the place and stage that are deployed with a mutant

    def run(self, mutant: Mutant) -> Result:
        """Try one mutant and keep the result."""
        begin = time.monotonic()
        try:
            problem = self._baseline(mutant)
            result = Result(state="broken", test=problem) if problem else self._try(mutant)
        except Exception as error:  # noqa: BLE001 one mutant that cannot be tried must not end the run
            result = Result(state="broken", test=f"{type(error).__name__}: {error}"[:2000])
        self.results.put(mutant, result)
        print(
            f"{result['state']:8} {time.monotonic() - begin:4.0f} s  {mutant.id}  {result['test'][-300:]}", flush=True
        )
        return result

    def finish(self) -> None:
        """Deploy the last mutated role as it should be."""
        if self.lab and self._dirty:
            self.lab.deploy(*self._dirty)
            self._dirty = None

    def _baseline(self, mutant: Mutant) -> str:
        """Return why the tests of a mutant prove nothing, or an empty text: they must pass without it."""
        key = (mutant.tests, mutant.keyword, mutant.place)
        if key not in self._passes:
            if self.lab and mutant.place not in {"fast", *self._deployed}:
                self.finish()
                self.lab.deploy(mutant.place)
                self._deployed.add(mutant.place)
            self.finish()
            code, test, output = self._pytest(mutant)
            self._passes[key] = "" if code == 0 else f"fails without a mutant: {test or output[-1500:]}"
        return self._passes[key]

    def _try(self, mutant: Mutant) -> Result:
        if mutant.place == "fast":
            mutant.apply(self.tree)
            try:
                return self._verdict(mutant)
            finally:
                mutant.undo(self.tree)
        assert self.lab
        where = (mutant.place, stage(mutant))
        if self._dirty != where:
            self.finish()
        try:
            if self.lab.edit(mutant):
                return self._verdict(mutant)
            mutant.apply(self.tree)
            self._dirty = where
            self.lab.deploy(*where)
            return self._verdict(mutant)
        finally:
            mutant.undo(self.tree)
            if mutant.path in DEPLOYED:
                self.lab.undo_edit(mutant)

    def _verdict(self, mutant: Mutant) -> Result:
        code, test, output = self._pytest(mutant)
        if code == 0:
            return Result(state="survived", test="")
        if code == 1 and test:
            return Result(state="caught", test=test)
        return Result(state="broken", test=output[-1500:])

    def _pytest(self, mutant: Mutant) -> tuple[int, str, str]:
        """Run a mutant's tests until one fails; return pytest's exit code, the failed test and the output."""
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-rfE",
            "--tb=line",
            *mutant.tests,
        ]
        words += ["-k", mutant.keyword] if mutant.keyword else []
        if mutant.place == "fast":
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            environment["PYTHONPYCACHEPREFIX"] = ""
        else:
            assert self.lab
            environment = self.lab.environment
        try:
            done = subprocess.run(
                words,
                cwd=self.tree,
                env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=FAST_LIMIT if mutant.place == "fast" else LAB_LIMIT,
            )
        except subprocess.TimeoutExpired:
            return 1, "the tests do not end", ""
        output = done.stdout + done.stderr
        failed = re.search(r"^(?:FAILED|ERROR) (\S+?::.*?)(?: - .*)?$", output, re.MULTILINE)
        return done.returncode, failed[1] if failed else "", output
