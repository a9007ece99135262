"""The rules that every scheduler must follow. A new entry of the registry is tested here without further work."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from hpchub.clusters.batch_script import render_batch_script
from hpchub.deploy.role_arguments import gate_config
from hpchub.hub.job_spawner import spawner_class
from hpchub.model.entries import Access, Cluster, Profile
from hpchub.schedulers import SCHEDULERS, Job, QueueLimits, Scheduler, Unanswered, job_comment

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION = "0123456789abcdef"
COMMENT = job_comment("hub.example.org", "alice", SESSION)

NOT_AN_ANSWER = [
    pytest.param("Unable to contact the server\n", id="error-message"),
    pytest.param("{", id="truncated-json"),
    pytest.param("<Data><Job>", id="truncated-xml"),
    pytest.param("7|RUNN", id="truncated-table"),
    pytest.param("\x00\x1b[2J\n", id="control-characters"),
    pytest.param("[1, 2", id="truncated-list"),
]
JOB_IDS_THAT_ARE_SHELL_CODE = ["", "$(id)", "1; reboot", "1 2", "`id`", "1\n-x", "--all", "../1", "1'"]


@pytest.fixture(params=SCHEDULERS.values(), ids=list(SCHEDULERS))
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    found = request.param
    assert isinstance(found, Scheduler)
    return found


@pytest.fixture
def site(scheduler: Scheduler) -> Cluster:
    return Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": scheduler.name,
            "submit": {"method": "local"},
            "networks": ["10.0.0.0/8"],
            "queues": [{"name": "batch", "max_cores": 8, "max_memory": "64G", "max_runtime": "1-00:00:00"}],
        }
    )


@pytest.fixture
def make_profile() -> Callable[..., Profile]:
    def make(**changes: object) -> Profile:
        entry = {
            "key": "small",
            "display_name": "Small",
            "cluster": "demo",
            "queue": "batch",
            "cores": 2,
            "memory": "4G",
            "runtime": "8:00:00",
        }
        return Profile.model_validate({**entry, **changes})

    return make


def test_the_registry_key_is_the_name(scheduler: Scheduler) -> None:
    assert SCHEDULERS[scheduler.name] is scheduler
    assert re.fullmatch(r"[a-z][a-z0-9]*", scheduler.name)


@pytest.mark.parametrize("command", ["submit", "cancel", "query", "find", "limits"])
def test_commands_are_argument_vectors(scheduler: Scheduler, command: str) -> None:
    vector = getattr(scheduler, f"{command}_command")
    assert isinstance(vector, tuple)
    assert vector
    assert all(isinstance(word, str) and word.isprintable() and word for word in vector)


def test_the_gate_gets_a_complete_configuration(scheduler: Scheduler, site: Cluster) -> None:
    config = json.loads(json.dumps(gate_config(site, Access())))
    assert config["scheduler"] == scheduler.name
    for name in ("submit", "cancel", "query", "find", "limits"):
        assert config[name] == list(getattr(scheduler, f"{name}_command"))


@pytest.mark.parametrize("job_id", JOB_IDS_THAT_ARE_SHELL_CODE)
def test_the_job_id_pattern_rejects_shell_code(scheduler: Scheduler, job_id: str) -> None:
    assert not re.fullmatch(scheduler.job_id_pattern, job_id)
    with pytest.raises(Unanswered):
        scheduler.parse_submit(f"{job_id}\n")


def test_each_resource_changes_the_directives(
    scheduler: Scheduler, site: Cluster, make_profile: Callable[..., Profile]
) -> None:
    def directives(**changes: object) -> list[str]:
        return scheduler.directives(make_profile(**changes), site, session=SESSION, comment=COMMENT)

    plain = directives()
    assert all(isinstance(line, str) and line.isprintable() for line in plain)
    for changes in (
        {"cores": 3},
        {"memory": "5G"},
        {"runtime": "9:00:00"},
        {"gpus": 1},
        {"account": "physics"},
        {"reservation": "course"},
        {"node_constraint": "ib"},
        {"queue": "long"},
    ):
        assert directives(**changes) != plain, changes


def test_the_batch_script_runs_the_launcher_with_the_session(
    scheduler: Scheduler, site: Cluster, make_profile: Callable[..., Profile]
) -> None:
    profile = make_profile()
    script = render_batch_script(site, profile, session=SESSION, hub="hub.example.org", username="alice")
    assert f"/opt/hpchub/notebook/current/bin/hpchub-launch {SESSION}" in script
    for directive in scheduler.directives(profile, site, session=SESSION, comment=COMMENT):
        assert directive in script


@pytest.mark.parametrize("output", NOT_AN_ANSWER)
def test_output_in_another_format_is_not_an_answer(scheduler: Scheduler, output: str) -> None:
    for parse in (scheduler.parse_query, scheduler.parse_limits, scheduler.parse_submit):
        with pytest.raises(Unanswered):
            parse(output)
    for code in (0, 1, 255):
        with pytest.raises(Unanswered):
            scheduler.parse_find("7", code, output, "")
        with pytest.raises(Unanswered):
            scheduler.parse_find("7", code, "", output)


def test_an_empty_lookup_does_not_end_a_job(scheduler: Scheduler) -> None:
    for code in (0, 1, 126, 127, 255):
        with pytest.raises(Unanswered):
            scheduler.parse_find("7", code, "", "")


def test_empty_limits_are_not_an_answer(scheduler: Scheduler) -> None:
    with pytest.raises(Unanswered):
        scheduler.parse_limits("")


@pytest.mark.parametrize("option", ["", "exclusive", "-", "--a --b", "--a\n--b", "--a=$(id)", '--a="b"', "--a=b;c"])
def test_an_option_is_one_word_without_shell_characters(scheduler: Scheduler, option: str) -> None:
    problem = scheduler.option_problem(option)
    assert problem is not None
    what_is_wrong, what_to_do = problem
    assert what_is_wrong
    assert what_to_do


def test_the_example_of_valid_options_is_valid(scheduler: Scheduler) -> None:
    examples = scheduler.reserved_options.example.strip("[]").split(", ")
    assert len(examples) == 2
    assert [scheduler.option_problem(option) for option in examples] == [None, None]


def test_every_reserved_option_is_rejected(scheduler: Scheduler) -> None:
    reserved = scheduler.reserved_options
    for name in reserved.long:
        assert scheduler.option_problem(f"--{name}=1"), name
    for name in reserved.short:
        assert scheduler.option_problem(f"-{name}"), name
        assert scheduler.option_problem(f"-{name} 1"), name


def test_an_unknown_reason_is_shown_as_it_is(scheduler: Scheduler) -> None:
    assert scheduler.explain("A-new-reason-42") == "A-new-reason-42"


def test_a_session_has_a_spawner_of_batchspawner(scheduler: Scheduler) -> None:
    found = spawner_class(scheduler.name)
    assert scheduler.batchspawner_class in {cls.__name__ for cls in found.__mro__ if "batchspawner" in cls.__module__}


def test_results_have_the_declared_types(scheduler: Scheduler) -> None:
    """An implementation that returns anything else for no jobs would end running sessions."""
    try:
        jobs = scheduler.parse_query("")
    except Unanswered:
        return
    assert jobs == {}
    assert all(isinstance(job, Job) for job in jobs.values())
    assert QueueLimits("batch").open
