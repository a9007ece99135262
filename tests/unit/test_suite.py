"""bin/test: the stages that it selects for changed files, how it runs their steps, and its report of failures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from lab import changes, suite
from lab.console import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
STAGES = suite.all_stages()
NAMES = [stage.name for stage in STAGES]
WITHOUT_LAB = {"lint", "unit", "repo"}


def selected(*words: str) -> suite.Selection:
    return suite.select(suite.parser(STAGES).parse_args(words), STAGES)


def names(stages: Iterable[suite.Stage]) -> list[str]:
    return [stage.name for stage in stages]


# Which stages cover a file


def test_rules_name_existing_stages_only() -> None:
    assert {stage for _, stages in changes.RULES for stage in stages} <= set(NAMES)


def test_scenarios_are_the_stages_that_need_the_lab() -> None:
    assert {*changes.SCENARIOS, "collection", "monitoring", "upgrade"} == {stage.name for stage in STAGES if stage.lab}


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("README.md", {"lint", "repo"}),
        ("roles/jupyterhub/README.md", {"lint", "repo"}),
        ("docs/topics/architecture.md", {"lint", "repo"}),
        (".yamllint", {"lint"}),
        ("tests/unit/test_model.py", {"lint", "unit"}),
        ("tests/e2e/test_session.py", {"lint", "default"}),
        ("tests/security/test_loss.py", {"lint", "repo", "default"}),
        ("src/hpchub/model/site.py", {"lint", "unit", "repo", "default", "single_node"}),
        ("src/hpchub/hub/metrics.py", {"lint", "unit", "repo", "monitoring", "default", "single_node"}),
        ("monitoring/alerts.yml", {"lint", "repo", "monitoring"}),
        ("src/hpchub/remote/gate.py", {"lint", "unit", "repo", "default", "single_node"}),
        ("src/hpchub/schedulers/htcondor.py", {"lint", "unit", "repo", "htcondor"}),
        ("src/hpchub/schedulers/lsf.py", {"lint", "unit", "repo", "emulated"}),
        ("src/hpchub/schedulers/base.py", set(NAMES) - {"collection", "monitoring", "upgrade"}),
        ("src/hpchub/schedulers/a_new_one.py", set(NAMES) - {"collection", "monitoring", "upgrade"}),
        ("templates/batch/gridengine.sh.j2", {"lint", "unit", "repo", "gridengine", "multi_cluster"}),
        ("plugins/modules/write_files.py", {"lint", "unit", "repo", "default", "single_node", "collection"}),
        (
            "roles/reverse_proxy/templates/site.conf.j2",
            {"lint", "unit", "repo", "default", "single_node", "collection", "sign_on"},
        ),
        ("roles/reverse_proxy/README.md", {"lint", "repo", "collection"}),
        ("tests/e2e/previous_release", {"upgrade"}),
        ("playbooks/takeover.yml", {"lint", "repo", "postgresql"}),
        ("playbooks/rollback.yml", {"lint", "repo", "default", "upgrade"}),
        ("roles/state_store/tasks/main.yml", {"lint", "unit", "repo", "default", "single_node", "postgresql"}),
        ("roles/bundle/tasks/main.yml", {"lint", "unit", "repo", "default", "single_node", "offline"}),
        ("src/hpchub/model/sso.py", {"lint", "unit", "repo", "default", "single_node", "sign_on"}),
        ("molecule/shared/sign_on/saml.yml", {"lint", "sign_on"}),
        ("tests/e2e/test_doors.py", {"lint", "sign_on"}),
        ("inventories/example_slurm/hosts.yml", {"lint", "repo"}),
        ("inventories/single_node/hosts.yml", {"lint", "repo", "single_node"}),
        ("molecule/emulated/tests/test_emulated.py", {"lint", "emulated"}),
        ("molecule/shared/roles/lab_htcondor/tasks/main.yml", {"lint", "htcondor"}),
        ("molecule/shared/create.yml", {"lint", *changes.SCENARIOS}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_changed_file_selects_the_stages_that_cover_it(path: str, stages: set[str]) -> None:
    assert set(changes.reasons([path], NAMES)) == stages


@pytest.mark.parametrize("path", ["requirements-dev.lock", "pyproject.toml", "ansible.cfg", "a/new/directory/file"])
def test_file_without_a_rule_selects_every_stage(path: str) -> None:
    assert changes.stages_for(path) is None
    assert list(changes.reasons([path, "README.md"], NAMES)) == NAMES


@pytest.mark.parametrize(
    "scenario",
    sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml") if not path.parent.is_symlink()),
)
def test_scenario_directory_selects_its_scenario(scenario: str) -> None:
    assert list(changes.reasons([f"molecule/{scenario}/molecule.yml"], NAMES)) == ["lint", scenario]


# Which files a branch changes


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a git repository with one commit on `main` and a branch `work` with another."""
    monkeypatch.setattr(changes, "REPOSITORY", tmp_path)
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "edited").write_text("1")
    (tmp_path / "renamed").write_text("a text that git recognises")
    commit(tmp_path)
    git(tmp_path, "checkout", "--quiet", "-b", "work")
    return tmp_path


def git(repository: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=test")


def test_committed_staged_edited_and_new_files_count_as_changed(repository: Path) -> None:
    (repository / "committed").write_text("")
    commit(repository)
    (repository / "staged").write_text("")
    git(repository, "add", "staged")
    (repository / "edited").write_text("2")
    (repository / "new, with ä").write_text("")
    (repository / "ignored").write_text("")
    assert changes.changed_files("main") == ["committed", "edited", "new, with ä", "staged"]


def test_renamed_file_counts_under_both_names(repository: Path) -> None:
    git(repository, "mv", "renamed", "moved")
    assert changes.changed_files("main") == ["moved", "renamed"]


def test_commits_of_the_base_do_not_count_as_changed(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    (repository / "theirs").write_text("")
    commit(repository)
    git(repository, "checkout", "--quiet", "work")
    assert changes.changed_files("main") == []


def test_default_base_is_origin_main_if_it_exists(repository: Path) -> None:
    assert changes.default_base() == "main"
    git(repository, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert changes.default_base() == "origin/main"


def test_error_without_a_default_base_asks_for_one(repository: Path) -> None:
    git(repository, "branch", "--quiet", "--delete", "main")
    with pytest.raises(LabError, match=r"no branch origin/main or main .* bin/test --changed BASE"):
        changes.default_base()


def test_error_names_an_unknown_base(repository: Path) -> None:
    with pytest.raises(LabError, match=r"no merge base of 'v9' and HEAD .*name an existing branch, tag or commit"):
        changes.changed_files("v9")


# What the command line selects


def test_default_run_leaves_out_the_extra_scenarios() -> None:
    assert names(selected().stages) == ["lint", "unit", "repo", "monitoring", "default", "single_node"]
    assert names(selected("--all").stages) == NAMES


@pytest.mark.parametrize(
    "words",
    [
        ("--only", "repo,lint,unit"),
        ("--only", "unit", "--only", "repo", "--only", "lint"),
        ("--only", "unit, repo,lint"),
    ],
    ids=" ".join,
)
def test_only_takes_several_stages_in_any_form(words: tuple[str, ...]) -> None:
    stages = selected(*words).stages
    assert names(stages) == ["lint", "unit", "repo"]
    assert not any(stage.lab for stage in stages)


def test_only_takes_single_steps() -> None:
    (stage,) = selected("--only", "lint:mypy,lint:ruff").stages
    assert {step.name for step in stage.steps} == {"mypy", "ruff"}


def test_single_step_of_a_scenario_keeps_the_hosts() -> None:
    (stage,) = selected("--only", "default:verify").stages
    assert [step.name for step in stage.steps] == ["verify"]
    assert stage.cleanup == []


def test_whole_stage_wins_over_one_of_its_steps() -> None:
    (stage,) = selected("--only", "lint,lint:mypy").stages
    assert len(stage.steps) > 1


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("units", "unknown stage 'units'; the stages are lint, unit, "),
        ("lint:pylint", "stage lint has no step 'pylint'; its steps are ansible-lint, "),
        ("lint,,unit", "unknown stage ''"),
    ],
)
def test_error_lists_the_valid_names(only: str, message: str) -> None:
    with pytest.raises(suite.OnlyError) as caught:
        selected("--only", only)
    assert str(caught.value).startswith(message)


def test_changed_selects_what_covers_the_changed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "changed_files", lambda base: {"v1": ["src/hpchub/schedulers/pbs.py"]}[base])
    assert names(selected("--changed", "v1").stages) == ["lint", "unit", "repo", "emulated"]
    assert names(selected("--changed", "v1", "--only", "lint,unit,default").stages) == ["lint", "unit"]


def test_listing_gives_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        changes, "changed_files", lambda _: ["tests/unit/a", "tests/unit/b", "tests/unit/c", ".yamllint"]
    )
    assert suite.listing(selected("--changed", "v1", "--only", "unit,lint:ruff")).splitlines() == [
        "4 files differ from v1",
        "lint: ruff",
        "  because of tests/unit/a, tests/unit/b, tests/unit/c and 1 more",
        "unit: pytest",
        "  because of tests/unit/a, tests/unit/b, tests/unit/c",
    ]


def test_listing_of_no_change_names_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "changed_files", lambda _: [])
    assert suite.listing(selected("--changed", "v1")).splitlines() == [
        "0 files differ from v1",
        "there is nothing to test",
    ]


@pytest.mark.parametrize(
    ("words", "required", "repeated"),
    [
        ([], True, []),
        (["--all"], True, []),
        (["--only", "unit,single_node"], True, []),
        (["--only", "lint,unit,repo"], False, []),
        (["--only", "single_node"], False, ["single_node"]),
        (["--only", "unit,single_node:unit"], True, ["single_node"]),
    ],
    ids=lambda value: " ".join(value) or "default" if isinstance(value, list) else "",
)
def test_tests_of_servers_run_once_and_never_skip_in_the_lab(
    words: list[str], required: bool, repeated: list[str]
) -> None:
    stages = {stage.name: stage for stage in selected(*words).stages}
    variables = [step.environment for stage in stages.values() if stage.name == "unit" for step in stage.steps]
    wanted = {"HPCHUB_SERVERS": "required", "HPCHUB_POSTGRESQL": "required"} if required else {}
    assert all(each == wanted for each in variables)
    assert [name for name, stage in stages.items() if "unit" in [step.name for step in stage.steps]] == repeated


def test_coverage_runs_unit_and_repo_and_then_the_report() -> None:
    stages = selected("--coverage").stages
    assert names(stages) == ["unit", "repo", "coverage"]
    assert all("--cov-append" in stage.steps[0].command for stage in stages[:2])


# Stages that need root


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_only_scenarios_need_the_lab(stage: suite.Stage) -> None:
    assert stage.lab is (stage.name not in WITHOUT_LAB)


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--only", "lint,unit,repo"], "plain"),
        (["--only", "unit", "--only", "lint:mypy"], "plain"),
        (["--coverage"], "plain"),
        (["--only", "unit,single_node"], "lab"),
        ([], "lab"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_script_asks_for_root_only_for_the_lab(words: list[str], needs: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "molecule" / "shared")}
    command = [sys.executable, "-m", "lab.suite", "--needs", *words]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == f"{needs}\n"


# Running


def step(name: str, program: str, **more: bool) -> suite.Step:
    return suite.Step(name, [sys.executable, "-c", program], **more)  # type: ignore[arg-type]


PASS = "print('fine')"
FAIL = "import sys; print('broken'); sys.exit(3)"


def run(*stages: suite.Stage) -> list[tuple[str, str]]:
    runner = suite._Runner()
    for stage in stages:
        runner.run_stage(stage, keep=False)
    return [(result.step, result.verdict) for result in runner.results]


def test_steps_after_a_needed_one_that_fails_are_skipped_and_the_cleanup_runs() -> None:
    stage = suite.Stage(
        "s", "", [step("a", PASS), step("b", FAIL, needed=True), step("c", PASS)], cleanup=[step("d", PASS)]
    )
    assert run(stage) == [("a", "PASS"), ("b", "FAIL"), ("c", "SKIP"), ("d", "PASS")]


def test_steps_after_another_one_that_fails_run() -> None:
    assert run(suite.Stage("s", "", [step("a", FAIL), step("b", PASS)])) == [("a", "FAIL"), ("b", "PASS")]


def test_parallel_steps_all_run_and_show_their_output(capsys: pytest.CaptureFixture[str]) -> None:
    stage = suite.Stage("s", "", [step("a", FAIL), step("b", PASS), step("c", PASS)], parallel=True)
    assert sorted(run(stage)) == [("a", "FAIL"), ("b", "PASS"), ("c", "PASS")]
    output = capsys.readouterr().out
    assert "=== s: a: FAIL ===" in output
    assert output.count("\nbroken\n") == 1
    assert output.count("\nfine\n") == 2


def test_stages_that_run_together_do_so_and_mark_their_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wait = "import pathlib, sys, time\nme, other = map(pathlib.Path, sys.argv[1:])\nme.touch()\n"
    wait += "while not other.exists(): time.sleep(0.01)\nprint('both run')"
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    stages = [
        suite.Stage(
            name,
            "",
            [suite.Step("meet", [sys.executable, "-c", wait, *order])],
            cleanup=[step("clean", PASS)],
            lab=True,
        )
        for name, order in (("first", paths), ("second", paths[::-1]))
    ]
    assert suite._run(stages, STAGES, keep=False, jobs=2) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("first", "second"):
        assert f"[{name}] both run" in lines
        assert f"[{name}] fine" in lines


def test_stages_run_one_after_another_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    stages = [suite.Stage(name, "", [step(name, f"print('{name}')")], lab=True) for name in "abc"]
    assert suite._run(stages, STAGES, keep=False, jobs=1) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line in {"a", "b", "c"}] == ["a", "b", "c"]


def test_interrupted_run_ends_its_steps_and_cleans_up(tmp_path: Path) -> None:
    program = f"""
import sys
from lab import suite
python = sys.executable
def stage(name):
    wait = "import time; print('waiting', flush=True); time.sleep(60)"
    clean = f"open({str(tmp_path)!r} + '/{{name}}', 'w')"
    return suite.Stage(
        name, "", [suite.Step("wait", [python, "-c", wait]), suite.Step("next", [python, "-c", wait])],
        cleanup=[suite.Step("clean", [python, "-c", clean])], lab=True,
    )
suite._prepare_process(long=False)
sys.exit(suite._run([stage("a"), stage("b")], [], keep=False, jobs=int(sys.argv[1])))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "molecule" / "shared")}
    for jobs, cleaned in ((1, {"a"}), (2, {"a", "b"})):
        command = [sys.executable, "-c", program, str(jobs)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            waiting = 0
            while waiting < jobs:
                waiting += "waiting\n" in process.stdout.readline().split("] ")
            process.terminate()
            output = process.stdout.read()
        assert process.returncode == 130
        assert {path.name for path in tmp_path.iterdir()} == cleaned
        assert "a: next" not in output.replace("SKIP       0 s  a: next", "")


def test_judge_can_fail_a_command_that_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    judged = suite.Step("check", [sys.executable, "-c", PASS], judge=lambda output: f"{output.split()[-1]}!")
    assert run(suite.Stage("s", "", [judged])) == [("check", "FAIL")]
    assert "check: fine!" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "fails"),
    [
        ("hub : ok=3    changed=0    unreachable=0    failed=0\n", False),
        ("hub                        : ok=3    changed=12   unreachable=0    failed=0\n", True),
        ("TASK [Print changed=3]\n", False),
    ],
    ids=["no change", "changes", "the word in a task name"],
)
def test_check_mode_run_that_would_change_something_fails(output: str, fails: bool) -> None:
    assert bool(suite.no_change(output)) is fails


def test_failures_come_with_the_command_that_runs_them_again() -> None:
    results = [
        suite.Result("lint", "mypy", "FAIL", 1),
        suite.Result("lint", "ruff", "PASS", 1),
        suite.Result("lint", "mkdocs", "FAIL", 1),
        suite.Result("unit", "pytest", "PASS", 1),
        suite.Result("repo", "pytest", "FAIL", 1),
        suite.Result("default", "converge", "FAIL", 1),
        suite.Result("default", "verify", "SKIP", 0),
    ]
    assert suite.rerun_commands(results, STAGES) == [
        "bin/test --only lint:mypy,lint:mkdocs",
        "bin/test --only repo",
        "bin/test --only default",
    ]


def test_summary_names_the_tests_and_tasks_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    named = [
        "FAILED tests/a.py::test_b[c d] - assert 1 == 2",
        "ERROR tests/a.py",
        'fatal: [hub]: FAILED! => {"msg": "no"}',
    ]
    printed = "\n".join(["fine", "FAILED - RETRYING: [hub]: Wait", *named, named[0], "FAILED tests/" + "x" * 500])
    stage = suite.Stage(
        "s", "", [step("a", f"print({printed!r}); raise SystemExit(1)"), step("b", f"print({printed!r})")]
    )
    assert suite._run([stage], STAGES, keep=False, jobs=1) == 1
    summary = [line.strip() for line in capsys.readouterr().out.partition("=== summary ===")[2].splitlines()]
    long = ("FAILED tests/" + "x" * 500)[:300]
    assert summary[2:-4] == [*named, long]
    assert (summary[1][-4:], summary[-4][-4:]) == ("s: a", "s: b")


# Other callers of the same checks


def test_pre_commit_hooks_are_the_steps_of_lint() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    (lint,) = suite.choose(STAGES, ["lint"])
    expected = {f"bin/test --only lint:{step.name}" for step in lint.steps}
    assert {hook["entry"] for hook in repository["hooks"]} == expected
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_lint_leaves_the_inventories_of_a_site_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*suite.INVENTORIES, "mysite", "example2"):
        (tmp_path / "inventories" / name).mkdir(parents=True)
    monkeypatch.setattr(suite, "REPOSITORY", tmp_path)
    steps = {step.name: step.command for stage in suite.all_stages() if stage.name == "lint" for step in stage.steps}
    assert steps["ansible-lint"][-4:] == ["--exclude", "inventories/example2", "--exclude", "inventories/mysite"]
    assert steps["codespell"][-1] == "--skip=./inventories/example2,./inventories/mysite"
