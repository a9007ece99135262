"""The program behind bin/test: it runs the checks, the tests, and the Molecule scenarios, in stages."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab import changes
from lab.console import LabError
from lab.host import CACHE, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DESCRIPTION = """\
Run the tests of this repository.

Without options, bin/test runs every stage that is not marked with --all below. The stages lint, unit and repo run as an
ordinary user and install nothing but a Python environment in ~/.cache/hpchub. The other stages deploy the service on
containers. They need root, and bin/test uses sudo for them.

stages:
"""
_EPILOG = """\
examples:
  bin/test --only lint,unit,repo      the checks that need no root
  bin/test --only lint:mypy           one step of a stage
  bin/test --changed                  what the current branch changes, compared with origin/main or main
  bin/test --changed v1.0 --list      only show what --changed would run, and why
  bin/test --coverage                 unit and repo, with a report of the branch coverage
  bin/test --only default --keep      keep the hosts of the scenario afterwards
  bin/test --only default:verify      run one step again on the hosts that --keep has left
"""

# With --all there is time for a longer outage of the scheduler (in seconds), for more restarts of the hub, for the loss
# of the hub host, and for deployments that break off.
_LONG = {
    "HPCHUB_OUTAGE": "300",
    "HPCHUB_KILLS": "20",
    "HPCHUB_REHEARSAL": "1",
    "HPCHUB_BROKEN_OFF": "1",
    "HPCHUB_CHAOS": "1",
    "HPCHUB_SLOW": "1",
}
_CPUS = os.cpu_count() or 1
_COVERAGE = CACHE / "coverage" / "data"

Judge = Callable[[str], str | None]


@dataclass(frozen=True)
class Step:
    """One command of a stage.

    Attributes:
        name: The name in the summary and on the command line (`--only STAGE:STEP`).
        command: The argument vector. The working directory is the repository.
        environment: Variables that are added to the environment.
        judge: Finds a fault in the output of a command that exits with 0. It returns a message or None.
        needed: Whether the stage skips its remaining steps when this step fails.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    judge: Judge | None = None
    needed: bool = False


@dataclass(frozen=True)
class Stage:
    """A group of steps that can run alone.

    Attributes:
        name: The name in the summary and on the command line (`--only STAGE`).
        about: One line for `bin/test --help`.
        steps: The steps, in the order in which they run.
        cleanup: Steps that run at the end, whether the others pass or fail.
        extra: Whether the stage runs only with `--all`, or when `--only` or `--changed` selects it.
        lab: Whether the stage needs the lab, and with it root and Debian packages.
        parallel: Whether the steps are independent and run at the same time.
    """

    name: str
    about: str
    steps: list[Step]
    cleanup: list[Step] = field(default_factory=list)
    extra: bool = False
    lab: bool = False
    parallel: bool = False


@dataclass(frozen=True)
class Result:
    """The verdict (PASS, FAIL or SKIP) and the duration of one step, and the lines that name what failed in it."""

    stage: str
    step: str
    verdict: str
    seconds: float
    failures: tuple[str, ...] = ()


def no_change(output: str) -> str | None:
    """Return the hosts that ansible-playbook changes, or None if it changes no host.

    Args:
        output: The output of ansible-playbook, with or without check mode.
    """
    changed = re.findall(r"^\S+ +: ok=\d+ +changed=[1-9]\d*.*$", output, re.MULTILINE)
    return "this run changes hosts that have just converged:\n" + "\n".join(changed) if changed else None


def failures(output: str) -> tuple[str, ...]:
    """Return the lines of pytest and Ansible that name what failed, each once and not longer than 300 characters."""
    lines = re.findall(r"^(?:(?:FAILED|ERROR) tests/|fatal: \[|ERROR! ).*$", output, re.MULTILINE)
    return tuple(dict.fromkeys(line[:300] for line in lines))


# The stages


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _pytest(name: str, *arguments: str, environment: dict[str, str] | None = None) -> Step:
    # The checkout may be read-only, so pytest keeps its cache elsewhere. The slowest tests appear at the end.
    options = ["-o", f"cache_dir={CACHE / 'pytest'}", "--durations=15", "--durations-min=2"]
    return Step(name, _python("pytest", *options, *arguments), environment or {})


def _parallel_pytest(path: str, workers: int, distribution: str) -> Step:
    return _pytest("pytest", "--numprocesses", str(workers), "--dist", distribution, path)


_SERVER_TESTS = tuple(
    f"tests/unit/test_{name}.py"
    for name in (
        *("apache", "door_cas", "door_oidc", "door_saml", "doors", "password_sign_on", "sign_on", "user_mapping"),
        *("backup", "backup_hostile", "backup_postgresql", "restore_interrupted", "restore_standby", "upgrade"),
        *("desktop", "rstudio"),
    )
)
_SERVERS = {"HPCHUB_SERVERS": "required"}
_POSTGRESQL = {"HPCHUB_POSTGRESQL": "required"}
_DATABASE_TESTS = tuple(f"tests/unit/test_{name}.py" for name in ("database", "database_faults", "migration"))


_WORKBENCH = ("apps", "canary", "interfaces", "kernels_broken", "links", "own_kernels", "uploads")
"""Further tests of the scenario workbench, which others also run."""


def _session_tests(scenario: str, *more: str) -> Step:
    """Return the browser tests that every scheduler must pass, and further ones."""
    names = ("session", "change", "limits", "class", *more)
    return _pytest("e2e", *(f"tests/e2e/test_{name}.py" for name in names), environment=_lab(scenario))


def _lab(scenario: str) -> dict[str, str]:
    return {"HPCHUB_LAB_DIR": str(CACHE / "lab" / scenario)}


def _lab_host(action: str, *names: str) -> Step:
    """Return a step that creates or destroys an instance of the lab without Molecule."""
    return Step(action, _python("lab", action, *names), needed=True)


def _molecule(action: str, scenario: str, *, needed: bool = False, judge: Judge | None = None) -> Step:
    # Each action is a command of its own, so that the summary shows its duration and verdict.
    command = ["molecule", action, "--no-command-borders", "--scenario-name", scenario]
    return Step(action, command, judge=judge, needed=needed)


def _scenario(name: str, about: str, *more: Step, extra: bool = False) -> Stage:
    return Stage(
        name,
        about,
        [
            # Remove the hosts of an earlier run, because the test starts with new hosts.
            _molecule("destroy", name, needed=True),
            _molecule("converge", name, needed=True),
            _molecule("idempotence", name),
            _molecule("check", name, judge=no_change),
            _molecule("verify", name),
            *more,
        ],
        cleanup=[_molecule("destroy", name)],
        extra=extra,
        lab=True,
    )


DOORS = ("saml", "shibboleth", "cas", "ldap", "local", "kerberos", "oidc")
"""The sign-ons at the web server, each with a file in molecule/shared/sign_on."""
VARIANTS = {"oidc_choice": "provider_choice", "generic": "hub_sign_on", "ldapauthenticator": "hub_sign_on"}
"""Further files there, with their tests: a choice of providers, and sign-ons in the hub."""


def _doors() -> Stage:
    """Return the stage that switches one lab to each sign-on in turn. The second run of each switch changes nothing."""
    tests = {
        **dict.fromkeys(DOORS, ("doors", "bad_providers")),
        **{name: (test,) for name, test in VARIANTS.items()},
    }
    steps = [_molecule("destroy", "sign_on", needed=True), _molecule("create", "sign_on", needed=True)]
    for name, names in tests.items():
        playbook = ["-e", f"@molecule/shared/sign_on/{name}.yml", "molecule/shared/sign_on.yml"]
        command = ["ansible-playbook", "-i", "inventories/sign_on", *playbook]
        environment = {**_lab("sign_on"), **({"HPCHUB_DOOR": name} if name in DOORS else {})}
        steps += [
            Step(name, command, environment),
            Step(f"{name}-again", command, environment, judge=no_change),
            _pytest(f"{name}-e2e", *(f"tests/e2e/test_{each}.py" for each in names), environment=environment),
        ]
    about = f"each sign-on in turn, with browser tests: {', '.join(tests)}"
    return Stage("sign_on", about, steps, cleanup=[_molecule("destroy", "sign_on")], extra=True, lab=True)


INVENTORIES = (
    *(
        "demo",
        "emulated",
        "example_slurm",
        "gridengine",
        "htcondor",
        "multi_cluster",
        "offline",
        "postgresql",
        "science_portal",
        "sign_on",
        "single_node",
        "workbench",
    ),
)
"""The inventories of the repository. The checkout of a site also contains its own."""


def site_inventories() -> list[str]:
    """Return the paths of the inventories that a site keeps in its checkout. They follow the rules of the site."""
    found = sorted(path.name for path in (REPOSITORY / "inventories").iterdir())
    return [f"inventories/{name}" for name in found if name not in INVENTORIES]


def all_stages() -> list[Stage]:
    """Return every stage, in the order in which they run."""
    of_site = site_inventories()
    excluded = [option for path in of_site for option in ("--exclude", path)]
    skipped = [f"--skip={','.join(f'./{path}' for path in of_site)}"] if of_site else []
    return [
        Stage(
            "lint",
            "ruff, mypy, codespell, yamllint, ansible-lint, and the build of the documentation",
            [
                # The slowest steps start first. The fast ones run beside them.
                Step("ansible-lint", _python("ansiblelint", "--offline", "--strict", *excluded)),
                Step("mkdocs", _python("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(CACHE / "site"))),
                Step("mypy", _python("mypy", "--cache-dir", str(CACHE / "mypy"))),
                Step("yamllint", _python("yamllint", "--strict", ".")),
                Step("codespell", _python("codespell_lib", *skipped)),
                Step("ruff", _python("ruff", "check", "--cache-dir", str(CACHE / "ruff"), ".")),
                Step("ruff-format", _python("ruff", "format", "--check", "--cache-dir", str(CACHE / "ruff"), ".")),
            ],
            parallel=True,
        ),
        # Most unit tests wait for programs that they start, so more workers than processors finish earlier.
        Stage(
            "unit",
            "unit tests of the package and the lab",
            [_parallel_pytest("tests/unit", workers=2 * _CPUS, distribution="worksteal")],
        ),
        # The tests of a file share expensive fixtures, such as the results of a run of Ansible.
        Stage(
            "repo",
            "tests of roles, inventories, templates and documents",
            [_parallel_pytest("tests/repo", workers=max(2, _CPUS), distribution="loadfile")],
        ),
        Stage(
            "monitoring",
            "the alert rules, the dashboard and the metrics of a hub with a real Prometheus",
            [_pytest("pytest", "tests/monitoring")],
            lab=True,
        ),
        _scenario(
            "default",
            "Molecule with the demo's hosts, then browser tests and attacks on the deployed service",
            _pytest("e2e", "tests/e2e", environment=_lab("default")),
            _pytest("security", "tests/security", environment=_lab("default")),
        ),
        _scenario(
            "single_node",
            "Molecule with everything on one host, then tests of each sign-on and of backups with real servers",
            # These tests are skipped on a machine without the servers or age. Here, bin/test has installed them.
            # `without_repetition` removes this step if the stage `unit` runs too.
            _pytest("unit", *_SERVER_TESTS, environment=_SERVERS),
        ),
        Stage(
            "collection",
            "roles of the installed collection, alone on a host",
            [
                _lab_host("destroy", "collection"),
                _lab_host("create", "collection"),
                _pytest("pytest", "tests/collection", environment=_lab("collection")),
            ],
            cleanup=[_lab_host("destroy", "collection")],
            extra=True,
            lab=True,
        ),
        _scenario(
            "slurm_debian12",
            "Molecule on Debian 12 with its older Slurm, Apache module and Python, then browser tests",
            _session_tests("slurm_debian12", "adoption"),
            extra=True,
        ),
        _scenario(
            "emulated",
            "Molecule with emulated PBS, Torque, Moab and LSF, then browser tests with each of them",
            _session_tests("emulated", "emulated"),
            extra=True,
        ),
        _scenario(
            "multi_cluster",
            "Molecule with a Slurm and a Grid Engine cluster behind one hub, then browser tests on both",
            _session_tests("multi_cluster", "clusters"),
            extra=True,
        ),
        _scenario(
            "gridengine",
            "Molecule with Grid Engine instead of Slurm, then browser tests",
            _session_tests("gridengine", "form", "gpus", "home", "waiting", "working"),
            extra=True,
        ),
        _scenario(
            "htcondor",
            "Molecule with HTCondor instead of Slurm, then browser tests",
            _session_tests("htcondor"),
            extra=True,
        ),
        _scenario(
            "postgresql",
            "Molecule with PostgreSQL on a host of its own, then tests of its faults and moves, and of a standby",
            # These tests are skipped on a machine without PostgreSQL. Here, bin/test has installed it.
            _pytest("unit", *_DATABASE_TESTS, environment=_POSTGRESQL),
            # The last test destroys the hub host.
            _session_tests("postgresql", "restart", "database", "rotation", "migration", "takeover"),
            extra=True,
        ),
        _scenario(
            "science_portal",
            "Molecule with a sign-on in the hub, and sessions in Slurm, Docker, Kubernetes (a stand-in) and on a host",
            _pytest(
                "e2e",
                *(f"tests/e2e/test_{name}.py" for name in ("places", "hub_sign_on")),
                environment=_lab("science_portal"),
            ),
            extra=True,
        ),
        _scenario(
            "workbench",
            "Molecule with every kind of application and kernel on the nodes, then browser tests with each of them",
            _pytest(
                "e2e",
                *(f"tests/e2e/test_{name}.py" for name in (*changes.WORKBENCH, *_WORKBENCH)),
                environment=_lab("workbench"),
            ),
            extra=True,
        ),
        _doors(),
        Stage(
            "upgrade",
            "the upgrade of the demo's topology from the previous release, with a running session, and the rollback",
            [
                _lab_host("destroy", "upgrade", "demo"),
                _lab_host("create", "upgrade", "demo"),
                _pytest(
                    "e2e", "tests/e2e/test_previous_release.py", environment={**_lab("upgrade"), "HPCHUB_UPGRADE": "1"}
                ),
            ],
            cleanup=[_lab_host("destroy", "upgrade", "demo")],
            extra=True,
            lab=True,
        ),
        _scenario(
            "offline",
            "Molecule with hosts that reach only each other and a mirror of Debian, then browser tests",
            _session_tests("offline"),
            extra=True,
        ),
    ]


# What to run


@dataclass(frozen=True)
class Selection:
    """The stages to run.

    Attributes:
        stages: The stages, in the order in which they run.
        reasons: For `--changed`: the changed files that require each stage. Otherwise None.
        base: For `--changed`: the base of the comparison.
        files: For `--changed`: the number of changed files.
    """

    stages: list[Stage]
    reasons: dict[str, list[str]] | None = None
    base: str = ""
    files: int = 0


class OnlyError(Exception):
    """A value of `--only` that names no stage or step. The message lists the valid names."""


def choose(stages: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    """Return the stages and steps that `--only` names.

    Args:
        stages: Every stage.
        only: Names, each `STAGE` or `STAGE:STEP`. A value may hold several names, separated by commas.

    Raises:
        OnlyError: There is no stage or step with one of these names.
    """
    known = {stage.name: stage for stage in stages}
    wanted: dict[str, set[str] | None] = {}
    for name in (part.strip() for value in only for part in value.split(",")):
        stage_name, separator, step_name = name.partition(":")
        if stage_name not in known:
            raise OnlyError(f"unknown stage {stage_name!r}; the stages are {', '.join(known)}")
        steps = [step.name for step in known[stage_name].steps]
        if separator and step_name not in steps:
            raise OnlyError(f"stage {stage_name} has no step {step_name!r}; its steps are {', '.join(steps)}")
        if not separator:
            wanted[stage_name] = None
        elif (chosen := wanted.setdefault(stage_name, set())) is not None:
            chosen.add(step_name)
    found = []
    for stage in stages:
        if stage.name in wanted:
            part = wanted[stage.name]
            # Single steps run on hosts that exist already, and leave them as they are.
            found.append(
                stage
                if part is None
                else replace(stage, steps=[step for step in stage.steps if step.name in part], cleanup=[])
            )
    return found


def with_coverage(stage: Stage) -> Stage:
    """Return a stage with pytest steps that record the executed branches. A stage of the lab is returned unchanged."""
    if stage.lab:
        return stage
    steps = [
        replace(
            step,
            command=[*step.command, "--cov", "--cov-append", "--cov-report="],
            environment={**step.environment, "COVERAGE_FILE": str(_COVERAGE)},
        )
        if step.name == "pytest"
        else step
        for step in stage.steps
    ]
    return replace(stage, steps=steps)


def _coverage_report() -> Stage:
    command = _python("coverage", "report")
    return Stage(
        "coverage", "branch coverage", [Step("report", command, environment={"COVERAGE_FILE": str(_COVERAGE)})]
    )


def without_repetition(stages: Sequence[Stage]) -> list[Stage]:
    """Return stages that run the tests of real servers once.

    If a stage needs the lab, bin/test has installed the servers before the first stage. So the stage `unit` runs their
    tests, and the step `unit` of a scenario would only repeat them.
    """
    unit = next((stage for stage in stages if stage.name == "unit"), None)
    if unit is None or not any(stage.lab for stage in stages):
        return list(stages)
    required = [replace(step, environment={**step.environment, **_SERVERS, **_POSTGRESQL}) for step in unit.steps]
    found = []
    for stage in stages:
        steps = required if stage is unit else [step for step in stage.steps if step.name != "unit"]
        # Somebody may also have asked for this step alone.
        found.append(replace(stage, steps=steps or stage.steps))
    return found


def select(options: argparse.Namespace, stages: Sequence[Stage]) -> Selection:
    """Return what the command line asks for.

    Raises:
        OnlyError: `--only` names an unknown stage or step.
        LabError: `--changed` cannot compare with its base.
    """
    only = options.only or (["unit,repo"] if options.coverage else [])
    chosen = choose(stages, only) if only else list(stages)
    selection = Selection([stage for stage in chosen if only or options.all or not stage.extra])
    if options.changed is not None:
        base = options.changed or changes.default_base()
        files = changes.changed_files(base)
        reasons = changes.reasons(files, [stage.name for stage in stages])
        selection = Selection([stage for stage in chosen if stage.name in reasons], reasons, base, len(files))
    selection = replace(selection, stages=without_repetition(selection.stages))
    if options.coverage:
        selection = replace(selection, stages=[*map(with_coverage, selection.stages), _coverage_report()])
    return selection


def listing(selection: Selection) -> str:
    """Return the text of `bin/test --list`."""
    lines = []
    if selection.reasons is not None:
        files = "1 file differs" if selection.files == 1 else f"{selection.files} files differ"
        lines.append(f"{files} from {selection.base}")
    for stage in selection.stages:
        lines.append(f"{stage.name}: {', '.join(step.name for step in stage.steps)}")
        if selection.reasons and (because := selection.reasons.get(stage.name)):
            more = f" and {len(because) - 3} more" if len(because) > 3 else ""
            lines.append(f"  because of {', '.join(because[:3])}{more}")
    if not selection.stages:
        lines.append("there is nothing to test")
    return "\n".join(lines)


# Running


class _Runner:
    """Runs stages and collects the results."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run_stage(self, stage: Stage, *, keep: bool, prefix: str = "") -> None:
        """Run the steps of a stage, and then its cleanup unless ``keep`` is true.

        Args:
            stage: The stage.
            keep: Whether to skip the cleanup.
            prefix: The start of each line of output.
        """
        try:
            if stage.parallel:
                self._run_parallel(stage)
            else:
                self._run_in_order(stage, prefix)
        finally:
            if not keep:
                for step in stage.cleanup:
                    self._run(stage, step, prefix)

    def run_together(self, stages: Sequence[Stage], *, keep: bool, jobs: int) -> None:
        """Run several stages at the same time, each with its own hosts. Each line of output begins with a stage's name.

        If the run is interrupted, the running steps end, the other steps do not start, and every cleanup runs.
        """
        with ThreadPoolExecutor(max_workers=jobs) as executor:
            futures = [executor.submit(self.run_stage, stage, keep=keep, prefix=f"[{stage.name}] ") for stage in stages]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self.stop()
                executor.shutdown(cancel_futures=True)
                raise

    def stop(self) -> None:
        """Terminate the commands that are still running, and start no further steps."""
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.terminate()

    def _run_in_order(self, stage: Stage, prefix: str) -> None:
        skip = False
        for step in stage.steps:
            if skip or self._stopping:
                self.results.append(Result(stage.name, step.name, "SKIP", 0))
            else:
                print(f"\n{prefix}=== {stage.name}: {step.name} ===", flush=True)
                skip = self._run(stage, step, prefix)[0] == "FAIL" and step.needed

    def _run_parallel(self, stage: Stage) -> None:
        with ThreadPoolExecutor(max_workers=max(2, _CPUS)) as executor:
            steps = {executor.submit(self._run, stage, step, None): step for step in stage.steps}
            try:
                for future in as_completed(steps):
                    verdict, output = future.result()
                    print(f"\n=== {stage.name}: {steps[future].name}: {verdict} ===\n{output}", end="", flush=True)
            except BaseException:
                self.stop()
                executor.shutdown(cancel_futures=True)
                raise

    def _run(self, stage: Stage, step: Step, prefix: str | None) -> tuple[str, str]:
        """Run a step. Return its verdict and its output.

        Args:
            stage: The step's stage.
            step: The step.
            prefix: The start of each line of output, or None to print nothing.
        """
        begin = time.monotonic()
        # If the run is interrupted here, the summary counts the step as failed.
        verdict, output = "FAIL", ""
        try:
            verdict, output = self._execute(step, prefix)
        finally:
            named = failures(output) if verdict == "FAIL" else ()
            self.results.append(Result(stage.name, step.name, verdict, time.monotonic() - begin, named))
        return verdict, output

    def _execute(self, step: Step, prefix: str | None) -> tuple[str, str]:
        lines: list[str] = []

        def add(line: str) -> None:
            lines.append(line)
            if prefix is not None:
                print(f"{prefix}{line}", end="", flush=True)

        add(f"$ {shlex.join(step.command)}\n")
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
            with self._lock:
                self._processes.add(process)
            try:
                assert process.stdout  # noqa: S101 - stdout is a pipe
                for line in process.stdout:
                    add(line)
            except KeyboardInterrupt:
                process.terminate()
                raise
            finally:
                with self._lock:
                    self._processes.discard(process)
        fault = step.judge("".join(lines)) if step.judge and process.returncode == 0 else None
        if fault:
            add(f"{step.name}: {fault}\n")
        return "FAIL" if fault or process.returncode != 0 else "PASS", "".join(lines)


def rerun_commands(results: Sequence[Result], stages: Sequence[Stage]) -> list[str]:
    """Return the commands that run each failed stage again alone.

    If the steps of a stage are independent, the command runs only the failed steps.
    """
    independent = {stage.name for stage in stages if stage.parallel}
    commands = []
    for name in dict.fromkeys(result.stage for result in results if result.verdict == "FAIL"):
        failed = [result.step for result in results if result.stage == name and result.verdict == "FAIL"]
        words = [f"{name}:{step}" for step in failed] if name in independent else [name]
        commands.append(f"bin/test --only {','.join(words)}")
    return commands


def _summary(results: list[Result], stages: Sequence[Stage]) -> int:
    print("\n=== summary ===")
    for result in results:
        print(f"{result.verdict}  {result.seconds:6.0f} s  {result.stage}: {result.step}")
        for line in result.failures:
            print(f"                  {line}")
    count = {verdict: sum(result.verdict == verdict for result in results) for verdict in ("PASS", "FAIL", "SKIP")}
    skipped = f", {count['SKIP']} skipped" if count["SKIP"] else ""
    print(f"{count['PASS']} passed, {count['FAIL']} failed{skipped}", flush=True)
    if commands := rerun_commands(results, stages):
        print("To run what failed again alone:")
        for command in commands:
            print(f"  {command}", flush=True)
    return 0 if results and not count["FAIL"] and not count["SKIP"] else 1


@contextmanager
def _lab_lock() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "test.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(
                "bin/test: another bin/test is using the lab on this machine. To fix this, wait until it has finished"
            )
        yield


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


# The command line


def parser(stages: Sequence[Stage]) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    width = max(len(stage.name) for stage in stages) + 2
    table = "".join(f"  {s.name:<{width}}{s.about}{' (--all)' if s.extra else ''}\n" for s in stages)
    made = argparse.ArgumentParser(
        prog="bin/test",
        description=_DESCRIPTION + table,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--only",
        metavar="STAGE[:STEP],...",
        action="append",
        help="run only these stages, or only these steps of them; may be repeated",
    )
    made.add_argument(
        "--changed",
        metavar="BASE",
        nargs="?",
        const="",
        help="run the stages that cover the files that differ from BASE, including files that are not committed; "
        "BASE is a branch, tag or commit (default: origin/main, or main). With --only, run only those of them",
    )
    made.add_argument("--all", action="store_true", help="run every stage, with its long tests")
    made.add_argument("--coverage", action="store_true", help="report the branch coverage of the stages unit and repo")
    made.add_argument("--list", action="store_true", help="print the selected stages and their steps, and run nothing")
    made.add_argument("--keep", action="store_true", help="keep the hosts of the scenarios, to examine them")
    made.add_argument(
        "--jobs",
        metavar="NUMBER",
        type=int,
        default=1,
        help="run this many scenarios at the same time (default: 1); each needs about 2 processors and 4 GB of memory",
    )
    # For the shell script, which must know whether it needs root: print "lab", "plain" or "nothing".
    made.add_argument("--needs", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Run what the command line asks for.

    Returns:
        The exit code: 0 if everything passed, 1 if something failed, 2 for a wrong command line, 130 if interrupted.
    """
    stages = all_stages()
    arguments = parser(stages)
    options = arguments.parse_args()
    try:
        selection = select(options, stages)
    except OnlyError as error:
        arguments.error(f"argument --only: {error}")
    except LabError as error:
        arguments.exit(2, f"bin/test: {error}\n")
    needs_lab = any(stage.lab for stage in selection.stages)
    if options.needs:
        print("lab" if needs_lab else "plain" if selection.stages else "nothing")
        return 0
    if options.list or options.changed is not None:
        print(listing(selection), flush=True)
    if options.list or not selection.stages:
        return 0

    _prepare_process(long=options.all)
    if options.coverage:
        _COVERAGE.parent.mkdir(parents=True, exist_ok=True)
        _COVERAGE.unlink(missing_ok=True)
    with _lab_lock() if needs_lab else nullcontext():
        return _run(selection.stages, stages, keep=options.keep, jobs=options.jobs)


def _prepare_process(*, long: bool) -> None:
    # The run also cleans up when its terminal or its session ends.
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP, and that stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    if long:
        os.environ.update(_LONG)
    # Escape sequences would disturb the judges and the readers of a log.
    os.environ["NO_COLOR"] = "1"
    # The steps must find the programs of this Python environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def _run(selected: Sequence[Stage], stages: Sequence[Stage], *, keep: bool, jobs: int) -> int:
    runner = _Runner()
    scenarios = [stage for stage in selected if stage.lab]
    together = scenarios if jobs > 1 and len(scenarios) > 1 else []
    try:
        for stage in selected:
            if stage not in together:
                runner.run_stage(stage, keep=keep)
        if together:
            runner.run_together(together, keep=keep, jobs=jobs)
    except KeyboardInterrupt:
        print("\nbin/test: interrupted", file=sys.stderr)
        _summary(runner.results, stages)
        return 130
    return _summary(runner.results, stages)


if __name__ == "__main__":
    sys.exit(main())
