"""The tests, in stages: what needs nothing first, then whole services on instances of the lab of their own."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab.host import CACHE, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

_DESCRIPTION = """\
bin/test: all tests of the repository.

stages:
"""

# How long an outage of the scheduler lasts and how often the hub is killed, when there is time.
_LONG = {"HPCHUB_OUTAGE": "300", "HPCHUB_KILLS": "20"}

Judge = Callable[[str], str | None]


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: Shown in the summary.
        command: Argument vector, run in the repository.
        environment: Added to this process's.
        judge: Finds fault with the output of a command that succeeded.
        needed: Whether the steps after it in the same stage make no sense without it.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    judge: Judge | None = None
    needed: bool = False


@dataclass(frozen=True)
class Stage:
    """Steps that belong together, and what to do when they are over however they ended.

    Attributes:
        extra: Whether it runs with ``--all`` only, or when it is named.
    """

    name: str
    about: str
    steps: list[Step]
    cleanup: list[Step] = field(default_factory=list)
    extra: bool = False


def no_change(output: str) -> str | None:
    """Return what a run of ansible-playbook in check mode would have changed, or None."""
    changed = re.findall(r"^\S+ +: ok=\d+ +changed=[1-9]\d*.*$", output, re.MULTILINE)
    return "would change a host that has just converged:\n" + "\n".join(changed) if changed else None


def _pytest(name: str, *paths: str, environment: dict[str, str] | None = None) -> Step:
    return Step(name, [sys.executable, "-m", "pytest", *paths], environment or {})


def _sessions(scenario: str, *more: str) -> Step:
    """What has to be so with every scheduler: a session's whole way, a new queue, limits, an outage, a dying hub."""
    names = ("session", "change", "limits", "class", *more)
    return _pytest("e2e", *(f"tests/e2e/test_{name}.py" for name in names), environment=_lab(scenario))


def _molecule(action: str, scenario: str, *, needed: bool = False, judge: Judge | None = None) -> Step:
    # One command for each action, so that each has its time and verdict.
    command = ["molecule", action, "--no-command-borders", "--scenario-name", scenario]
    return Step(action, command, judge=judge, needed=needed)


def _scenario(name: str, about: str, *more: Step, extra: bool = False) -> Stage:
    return Stage(
        name,
        about,
        [
            # What an earlier run left behind is not what is to be tested.
            _molecule("destroy", name, needed=True),
            _molecule("converge", name, needed=True),
            _molecule("idempotence", name),
            _molecule("check", name, judge=no_change),
            _molecule("verify", name),
            *more,
        ],
        cleanup=[_molecule("destroy", name)],
        extra=extra,
    )


def _lab_host(action: str, name: str) -> Step:
    """Return a step that creates or destroys an instance of the lab without Molecule."""
    return Step(action, _python("lab", action, name), needed=True)


def _lab(scenario: str) -> dict[str, str]:
    return {"HPCHUB_LAB_DIR": str(CACHE / "lab" / scenario)}


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _stages() -> list[Stage]:
    return [
        Stage(
            "lint",
            "ruff, mypy, yamllint, ansible-lint, mkdocs",
            [
                Step("ruff", _python("ruff", "check", ".")),
                Step("ruff format", _python("ruff", "format", "--check", ".")),
                Step("mypy", _python("mypy")),
                Step("yamllint", _python("yamllint", "--strict", ".")),
                Step("ansible-lint", _python("ansiblelint", "--offline", "--strict")),
                # The cache receives the site, because the checkout may be read-only.
                Step("mkdocs", _python("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(CACHE / "site"))),
            ],
        ),
        Stage("unit", "the package", [_pytest("pytest", "tests/unit")]),
        Stage("repo", "specs, inventories, templates, documents", [_pytest("pytest", "tests/repo")]),
        _scenario(
            "default",
            "Molecule on the demo's topology, then a browser and hostile insiders on the service that it has deployed",
            _pytest("e2e", "tests/e2e", environment=_lab("default")),
            _pytest("security", "tests/security", environment=_lab("default")),
        ),
        _scenario("single_node", "Molecule with everything on one host"),
        Stage(
            "collection",
            "roles of the installed collection, alone on a host",
            [
                _lab_host("destroy", "collection"),
                _lab_host("create", "collection"),
                _pytest("pytest", "tests/collection", environment=_lab("collection")),
            ],
            cleanup=[_lab_host("destroy", "collection")],
        ),
        _scenario(
            "slurm_debian12",
            "the same on Debian 12, with its older Slurm, Apache module and Python",
            _sessions("slurm_debian12"),
            extra=True,
        ),
        _scenario(
            "emulated",
            "Molecule on PBS, Torque, Moab and LSF, which are emulated, then a browser's sessions by each",
            _sessions("emulated", "emulated"),
            extra=True,
        ),
        _scenario(
            "multi_cluster",
            "Molecule with Slurm and Grid Engine behind one hub, and a browser's sessions on both",
            _sessions("multi_cluster", "clusters"),
            extra=True,
        ),
        *(
            _scenario(
                name,
                f"Molecule with {what} in place of Slurm, and sessions in a browser",
                _sessions(name),
                extra=True,
            )
            for name, what in (("gridengine", "Grid Engine"), ("htcondor", "HTCondor"))
        ),
    ]


@dataclass(frozen=True)
class Result:
    """How a step ended."""

    stage: str
    step: str
    verdict: str
    seconds: float


def _run_step(step: Step) -> str:
    """Run a step, showing its output; return PASS or FAIL."""
    print(f"$ {shlex.join(step.command)}", flush=True)
    output = []
    with subprocess.Popen(
        step.command,
        cwd=REPOSITORY,
        env={**os.environ, **step.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout  # noqa: S101 - a pipe was asked for
        for line in process.stdout:
            print(line, end="", flush=True)
            output.append(line)
    fault = step.judge("".join(output)) if step.judge and process.returncode == 0 else None
    if fault:
        print(f"{step.name}: {fault}", flush=True)
    return "FAIL" if fault or process.returncode != 0 else "PASS"


def _run_stage(stage: Stage, results: list[Result], *, keep: bool) -> None:
    def run(step: Step) -> str:
        print(f"\n=== {stage.name}: {step.name} ===", flush=True)
        begin = time.monotonic()
        # Should the run be interrupted here, the summary says where.
        verdict = "FAIL"
        try:
            verdict = _run_step(step)
        finally:
            results.append(Result(stage.name, step.name, verdict, time.monotonic() - begin))
        return verdict

    try:
        missing = False
        for step in stage.steps:
            if missing:
                results.append(Result(stage.name, step.name, "SKIP", 0))
            elif run(step) == "FAIL" and step.needed:
                missing = True
    finally:
        if not keep:
            for step in stage.cleanup:
                run(step)


def _summary(results: list[Result]) -> int:
    print("\n=== summary ===")
    for result in results:
        print(f"{result.verdict}  {result.seconds:6.0f} s  {result.stage}: {result.step}")
    count = {verdict: sum(result.verdict == verdict for result in results) for verdict in ("PASS", "FAIL", "SKIP")}
    skipped = f", {count['SKIP']} skipped" if count["SKIP"] else ""
    print(f"{count['PASS']} passed, {count['FAIL']} failed{skipped}", flush=True)
    return 0 if results and not count["FAIL"] and not count["SKIP"] else 1


@contextmanager
def _alone() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "test.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("bin/test: another bin/test is at work on this machine; mend: wait until it has finished")
        yield


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run the stages asked for; return the exit code."""
    stages = _stages()
    width = max(len(stage.name) for stage in stages) + 2
    listing = "".join(f"  {s.name:<{width}}{s.about}{' (--all)' if s.extra else ''}\n" for s in stages)
    parser = argparse.ArgumentParser(
        prog="bin/test",
        description=_DESCRIPTION + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [stage.name for stage in stages]
    parser.add_argument("--all", action="store_true", help="every stage, and the long tests in them")
    parser.add_argument("--only", metavar="STAGE", action="append", choices=names, help="this stage; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the stages and their steps, and stop")
    parser.add_argument("--keep", action="store_true", help="leave the instances of the lab running for a closer look")
    options = parser.parse_args()
    chosen = [s for s in stages if (s.name in options.only if options.only else options.all or not s.extra)]
    if options.list:
        print("\n".join(f"{stage.name}: {', '.join(step.name for step in stage.steps)}" for stage in stages))
        return 0

    # The end of a session must not leave containers behind either.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What nohup has switched off stays off.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if options.all:
        os.environ.update(_LONG)
    # What judges an output, and who reads it in a log, wants words only.
    os.environ["NO_COLOR"] = "1"
    # Steps find the programs of this Python environment, whoever started it.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    results: list[Result] = []
    with _alone():
        try:
            for stage in chosen:
                _run_stage(stage, results, keep=options.keep)
        except KeyboardInterrupt:
            print("\nbin/test: interrupted", file=sys.stderr)
            _summary(results)
            return 130
    return _summary(results)


if __name__ == "__main__":
    sys.exit(main())
