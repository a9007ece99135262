"""The rules that every scheduler must follow.

The tests run for each entry of the registry, so a new scheduler is tested without further work. They need no output of
the scheduler's programs. The formats of a scheduler are tested in its own file, ``test_schedulers_NAME.py``.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import math
import pkgutil
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from scheduler_answers import HUB, SAMPLES, SESSION, Sample

import hpchub.schedulers
from hpchub.clusters.batch_script import render_batch_script
from hpchub.deploy.role_arguments import gate_config
from hpchub.hub.job_spawner import spawner_class
from hpchub.model.entries import Access, Cluster, Profile
from hpchub.schedulers import SCHEDULERS, Job, JobState, Outlook, QueueLimits, Scheduler, Unanswered, job_comment
from hpchub.schedulers.options import ReservedOptions

MakeProfile: TypeAlias = Callable[..., Profile]
Directives: TypeAlias = Callable[..., list[str]]

COMMENT = job_comment(HUB, "alice", SESSION)

EVERY_RESOURCE: dict[str, Any] = {
    "cores": 3,
    "memory": "5G",
    "runtime": "9:00:00",
    "gpus": 1,
    "account": "physics",
    "qos": "urgent",
    "reservation": "course",
    "node_constraint": "ib",
    "queue": "long",
}
"""A profile's fields with other values than those of ``make_profile``."""

FAILURES = [
    pytest.param("Unable to contact the server\n", id="error-message"),
    pytest.param("connection to 10.0.0.1:8443 failed (errno 111)\n", id="error-message-with-numbers"),
    pytest.param("flux: ERROR: No such file or directory\n", id="error-message-no-such-file"),
    pytest.param("qstat: command not found\n", id="error-message-command-not-found"),
    pytest.param("sudo: job not found, permission denied\n", id="error-message-of-another-program"),
    pytest.param("Permission denied (publickey).\n", id="error-message-of-ssh"),
    pytest.param("<html><body>502 Bad Gateway</body></html>\n", id="web-page"),
    pytest.param('{"error": "Unable to contact the server"}\n', id="error-as-json"),
    pytest.param('{"errors": [{"error": "Unable to contact the server", "error_number": 7}]}\n', id="errors-as-json"),
    pytest.param('<?xml version="1.0"?>\n<error code="7">Unable to contact the server</error>\n', id="error-as-xml"),
    pytest.param("{", id="truncated-json"),
    pytest.param('{"jobs": [{"id": 7, "state"', id="truncated-json-record"),
    pytest.param("<Data><Job>", id="truncated-xml"),
    pytest.param("7|RUNN", id="truncated-table"),
    pytest.param("7 RUNNING alice\n", id="other-table"),
    pytest.param("\x00\x1b[2J\n", id="control-characters"),
    pytest.param("[1, 2", id="truncated-list"),
    pytest.param("[" * 100_000, id="deeply-nested-json"),
    pytest.param('{"a":' * 100_000, id="deeply-nested-json-objects"),
]
"""Output that no scheduler's programs print on success."""

OTHER_SHAPES = [
    *("null", "7", '"x"', "[]", "[7]", "[null]", "[{}]", "{}", "[[]]", "NaN", "1e999", "9" * 5000, '["\\ud800"]'),
    *(json.dumps({key: value}) for key in ("jobs", "Jobs", "RECORDS") for value in (None, 7, [], [7], {}, {"7": None})),
    *("<jobs/>", "<Data/>", "<Data><Job/></Data>", "<job_info><job_info/></job_info>", "<a>" * 1000 + "</a>" * 1000),
]
"""Valid JSON and XML with another content than a scheduler's programs print."""

JOB_IDS_THAT_ARE_SHELL_CODE = [
    *("", "$(id)", "1; reboot", "1 2", "`id`", "1\n-x", "--all", "-1", "../1", "1'", '1"', "1|2", "1&", "1>f", "1<f"),
    *(
        "*",
        "1*",
        "?",
        "~",
        "{1,2}",
        "1\\",
        "1\t2",
        "1\r",
        "1\n",
        "\n1",
        "1\x00",
        "#1",
        "!1",
        "ALL x",
        "\u0661",
        "1\u00b2",
    ),
]


@pytest.fixture(params=SCHEDULERS.values(), ids=list(SCHEDULERS))
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    """Return each scheduler of the registry in turn."""
    found = request.param
    assert isinstance(found, Scheduler)
    return found


@pytest.fixture
def site(scheduler: Scheduler) -> Cluster:
    """Return a cluster with the scheduler, and with default settings."""
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
def make_profile() -> MakeProfile:
    """Return a function that creates a profile, with changes."""

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


@pytest.fixture
def directives(scheduler: Scheduler, site: Cluster, make_profile: MakeProfile) -> Directives:
    """Return a function that returns the directives of a profile, with changes."""

    def make(**changes: object) -> list[str]:
        return scheduler.directives(make_profile(**changes), site, session=SESSION, comment=COMMENT)

    return make


def with_gpu_resource(site: Cluster) -> Cluster:
    """Return a cluster that names the resource with the type of a node's GPUs."""
    return site.model_copy(update={"gpu_type_resource": "gpu_model"})


def is_unanswered(parse: Callable[..., object], *arguments: object) -> bool:
    """Return whether a parser raises ``Unanswered``."""
    try:
        parse(*arguments)
    except Unanswered:
        return True
    return False


def examples(scheduler: Scheduler) -> list[str]:
    """Return the two valid options that the scheduler's error messages show."""
    return scheduler.reserved_options.example.strip("[]").split(", ")


# The registry and the attributes


def test_every_scheduler_class_is_registered_with_its_own_name() -> None:
    """Without an own name, a subclass would replace its base class in the registry."""
    package = hpchub.schedulers
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    classes = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Scheduler) and not inspect.isabstract(value)
    }
    assert classes == {type(scheduler) for scheduler in SCHEDULERS.values()}
    assert [cls.__name__ for cls in classes if "name" not in vars(cls)] == []


def test_the_registry_key_is_the_name(scheduler: Scheduler) -> None:
    assert SCHEDULERS[scheduler.name] is scheduler
    assert re.fullmatch(r"[a-z][a-z0-9]*", scheduler.name)


def test_the_instance_has_no_state(scheduler: Scheduler) -> None:
    assert vars(scheduler) == {}


def test_the_class_has_a_description(scheduler: Scheduler) -> None:
    assert type(scheduler).__doc__


@pytest.mark.parametrize("command", ["submit", "cancel", "query", "find", "limits"])
def test_commands_are_argument_vectors(scheduler: Scheduler, command: str) -> None:
    assert_is_argument_vector(getattr(scheduler, f"{command}_command"))


def test_further_commands_are_argument_vectors(scheduler: Scheduler) -> None:
    for commands in (scheduler.limits_more, scheduler.history_commands):
        assert isinstance(commands, tuple)
        for command in commands:
            assert_is_argument_vector(command)


def assert_is_argument_vector(command: object) -> None:
    assert isinstance(command, tuple)
    assert command
    assert all(isinstance(word, str) and word.isprintable() and word for word in command)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", command[0]), "a program in PATH, not a path or a shell command"
    assert command[0] not in {"sh", "bash", "dash", "env", "sudo", "ssh"}


def test_the_gate_replaces_each_placeholder(scheduler: Scheduler) -> None:
    """The gate replaces ``{mark}`` in questions about jobs and ``{account}`` in the further commands for limits."""
    for command in (scheduler.submit_command, scheduler.cancel_command, *scheduler.limits_more):
        assert "{mark}" not in " ".join(command)
    for name in ("submit", "cancel", "query", "find", "limits"):
        assert "{account}" not in " ".join(getattr(scheduler, f"{name}_command"))


def test_the_gate_gets_a_complete_configuration(scheduler: Scheduler, site: Cluster) -> None:
    config = json.loads(json.dumps(gate_config(site, Access())))
    assert config["scheduler"] == scheduler.name
    for name in ("submit", "cancel", "query", "find", "limits"):
        assert config[name] == list(getattr(scheduler, f"{name}_command"))
    assert config["limits_more"] == [list(command) for command in scheduler.limits_more]
    assert config["history"] == [list(command) for command in scheduler.history_commands]
    assert (config["no_jobs"], config["job_id_pattern"]) == (scheduler.no_jobs, scheduler.job_id_pattern)


@pytest.mark.parametrize("message", FAILURES)
def test_a_failure_does_not_mean_that_there_are_no_jobs(scheduler: Scheduler, message: str) -> None:
    assert not scheduler.no_jobs or not re.search(scheduler.no_jobs, message, re.MULTILINE)


def test_the_message_for_no_jobs_leads_to_an_empty_answer(scheduler: Scheduler) -> None:
    if scheduler.no_jobs:
        assert not re.search(scheduler.no_jobs, "\n", re.MULTILINE)
        assert scheduler.parse_query("") == {}


def test_the_propagation_is_a_short_time(scheduler: Scheduler) -> None:
    assert math.isfinite(scheduler.propagation)
    assert 0 < scheduler.propagation <= 600


def test_settings_are_a_field_of_the_cluster(scheduler: Scheduler) -> None:
    assert not scheduler.settings_field or scheduler.settings_field in Cluster.model_fields


def test_a_session_has_a_spawner_of_batchspawner(scheduler: Scheduler) -> None:
    found = spawner_class(scheduler.name)
    assert scheduler.batchspawner_class in {cls.__name__ for cls in found.__mro__ if "batchspawner" in cls.__module__}


# Job ids


def test_the_job_id_pattern_rejects_shell_code(scheduler: Scheduler) -> None:
    found = [job_id for job_id in JOB_IDS_THAT_ARE_SHELL_CODE if re.fullmatch(scheduler.job_id_pattern, job_id)]
    assert found == []


def test_a_submit_output_with_shell_code_raises(scheduler: Scheduler) -> None:
    for output in JOB_IDS_THAT_ARE_SHELL_CODE:
        if output.strip() != "1":  # white space around a job id is harmless
            assert is_unanswered(scheduler.parse_submit, f"{output}\n"), output


def test_a_submit_output_returns_a_valid_job_id_or_raises(scheduler: Scheduler) -> None:
    for output in (*JOB_IDS_THAT_ARE_SHELL_CODE, "7", "7.0", "7[1]", "7 8", "Your job 7", "x7", "7.", "\u01927A"):
        for text in (f"{output}\n", f"welcome\n{output}\n", f"{output}\nbye\n"):
            try:
                job_id = scheduler.parse_submit(text)
            except Unanswered:
                continue
            assert re.fullmatch(scheduler.job_id_pattern, job_id), text


# Directives


def test_directives_are_single_lines(directives: Directives) -> None:
    for lines in (directives(), directives(**EVERY_RESOURCE)):
        assert lines
        assert all(isinstance(line, str) and line.isprintable() and line == line.strip() != "" for line in lines)


def test_directives_are_the_same_for_the_same_profile(directives: Directives) -> None:
    assert directives(**EVERY_RESOURCE) == directives(**EVERY_RESOURCE)


@pytest.mark.parametrize("field", EVERY_RESOURCE)
def test_each_resource_changes_the_directives(directives: Directives, field: str) -> None:
    assert directives(**{field: EVERY_RESOURCE[field]}) != directives()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("cores", (1, 2, 64)),
        ("memory", ("4M", "4G", "4T", "5G")),
        ("runtime", ("0:30:00", "2:00:00", "1-02:00:00", "26:30:00")),
        ("gpus", (0, 1, 4)),
    ],
)
def test_different_amounts_have_different_directives(
    directives: Directives, field: str, values: tuple[object, ...]
) -> None:
    """For example, the directives must not ignore a unit or the days of a run time."""
    for one, other in itertools.combinations(values, 2):
        assert directives(**{field: one}) != directives(**{field: other}), (one, other)


def test_a_type_of_gpu_is_requested_or_rejected(scheduler: Scheduler, site: Cluster, make_profile: MakeProfile) -> None:
    """A scheduler that needs a name of the site for it rejects the type on a cluster without this name."""
    found = [scheduler.gpu_type_problem("a100", each) for each in (site, with_gpu_resource(site))]
    for problem in found:
        if problem is not None:
            assert_is_problem(problem, "a100")
    if found[1] is None:
        typed, other, plain = (
            "\n".join(
                scheduler.directives(make_profile(gpus=gpus), with_gpu_resource(site), session=SESSION, comment=COMMENT)
            )
            for gpus in ({"type": "a100", "count": 2}, {"type": "v100", "count": 2}, 2)
        )
        assert "a100" in typed
        assert typed.replace("a100", "v100") == other
        assert "100" not in plain


def test_several_nodes_are_requested_or_rejected(
    scheduler: Scheduler, site: Cluster, make_profile: MakeProfile
) -> None:
    """A scheduler that needs a name of the site for them rejects them on a cluster without this name."""
    names = site.grid_engine.model_copy(update={"nodes_environment": "mpi_{cores}"})
    sites = (site, site.model_copy(update={"grid_engine": names}))
    found = [scheduler.nodes_problem(each, gpus=0, options=[]) for each in sites]
    for problem in found:
        if problem is not None:
            assert_is_problem(problem, "more than one node")
    if found[1] is None:
        texts = [
            scheduler.directives(make_profile(nodes=nodes), sites[1], session=SESSION, comment=COMMENT)
            for nodes in (1, 2, 3)
        ]
        assert texts[0] != texts[1] != texts[2]


def test_directives_contain_the_session_and_the_hub(directives: Directives) -> None:
    """``parse_query`` must be able to assign the job to its session."""
    text = "\n".join(directives())
    assert SESSION in text
    assert HUB in text


def test_options_of_the_profile_follow_all_directives(scheduler: Scheduler, directives: Directives) -> None:
    plain, options = directives(), examples(scheduler)
    found = directives(options=options)
    assert found[: len(plain)] == plain
    assert len(found) == len(plain) + len(options)
    assert len(set(found)) == len(found)


def test_the_batch_script_runs_the_launcher_with_the_session(
    scheduler: Scheduler, site: Cluster, make_profile: MakeProfile
) -> None:
    profile = make_profile(**EVERY_RESOURCE, options=examples(scheduler))
    script = render_batch_script(site, profile, session=SESSION, hub=HUB, username="alice")
    launcher = script.index(f"/opt/hpchub/notebook/current/bin/hpchub-launch {SESSION}")
    lines = script.splitlines()
    for directive in scheduler.directives(profile, site, session=SESSION, comment=COMMENT):
        (line,) = (line for line in lines if line.endswith(directive))
        prefix = line.removesuffix(directive)
        assert prefix == "" or (prefix.startswith("#") and prefix.endswith(" "))
        assert not prefix or script.index(line) < launcher, "a scheduler ignores directives after the first command"


def test_the_batch_script_is_valid_for_bash(scheduler: Scheduler, site: Cluster, make_profile: MakeProfile) -> None:
    script = render_batch_script(site, make_profile(**EVERY_RESOURCE), session=SESSION, hub=HUB, username="alice")
    if script.startswith("#!/bin/bash\n"):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


# Options and constraints


@pytest.mark.parametrize("option", ["", "exclusive", "-", "--a --b", "--a\n--b", "--a=$(id)", '--a="b"', "--a=b;c"])
def test_an_option_is_one_word_without_shell_characters(scheduler: Scheduler, option: str) -> None:
    assert_is_problem(scheduler.option_problem(option), option)


def test_the_example_of_valid_options_is_valid(scheduler: Scheduler) -> None:
    assert len(examples(scheduler)) == 2
    assert [scheduler.option_problem(option) for option in examples(scheduler)] == [None, None]


def test_every_reserved_option_is_rejected(scheduler: Scheduler) -> None:
    reserved = scheduler.reserved_options
    assert isinstance(reserved, ReservedOptions)
    assert reserved.long or reserved.short
    for name in reserved.long:
        assert_is_problem(scheduler.option_problem(f"--{name}=1"), name)
    for name in reserved.short:
        assert_is_problem(scheduler.option_problem(f"-{name}"), name)
        assert_is_problem(scheduler.option_problem(f"-{name} 1"), name)


def test_reserved_options_name_fields_of_the_profile(scheduler: Scheduler) -> None:
    reserved = scheduler.reserved_options
    fields = {*reserved.long.values(), *reserved.short.values(), *(field for _, field in reserved.values.values())}
    fields.update(*(words.values() for words in reserved.words.values()))
    assert fields - {""} <= Profile.model_fields.keys()


def test_a_profile_cannot_add_an_option_that_hpchub_sets(scheduler: Scheduler, directives: Directives) -> None:
    # The options may request a quality of service, unless the field does; see hpchub.model.rules.
    for directive in directives(**(EVERY_RESOURCE | {"qos": ""})):
        name, _, value = directive.replace('"', "").partition(" ")
        option = f"--{name}=1" if value.startswith("= ") else f"{name} {value.split(' ')[0]}".strip()
        assert_is_problem(scheduler.option_problem(option), option)


def test_a_simple_word_is_a_valid_constraint(scheduler: Scheduler, site: Cluster) -> None:
    assert scheduler.constraint_problem("ib", site) is None


def assert_is_problem(problem: tuple[str, str] | None, option: str) -> None:
    """Check that an option is rejected, and that the message states what is wrong and what to do."""
    assert problem is not None, f"{option} is permitted; add it to reserved_options"
    what_is_wrong, what_to_do = problem
    assert what_is_wrong
    assert what_to_do


# Parsers


@pytest.mark.parametrize("output", FAILURES)
def test_the_output_of_a_failure_is_not_an_answer(scheduler: Scheduler, output: str) -> None:
    assert is_unanswered(scheduler.parse_query, output)
    assert is_unanswered(scheduler.parse_limits, output)
    assert is_unanswered(scheduler.parse_submit, output)


@pytest.mark.parametrize("output", FAILURES)
def test_a_failed_lookup_does_not_end_a_job(scheduler: Scheduler, output: str) -> None:
    for code in (0, 1, 2, 124, 255):
        assert is_unanswered(scheduler.parse_find, "7", code, output, ""), f"exit code {code}, standard output"
        assert is_unanswered(scheduler.parse_find, "7", code, "", output), f"exit code {code}, standard error"
        assert is_unanswered(scheduler.parse_find, "7", code, output, output), f"exit code {code}, both"


def test_an_empty_lookup_does_not_end_a_job(scheduler: Scheduler) -> None:
    for code in (0, 1, 124, 126, 127, 255):
        assert is_unanswered(scheduler.parse_find, "7", code, "", ""), code
        assert is_unanswered(scheduler.parse_find, "7", code, "\n", "\n"), code


def test_a_lookup_with_an_unexpected_shape_does_not_end_a_job(scheduler: Scheduler) -> None:
    for output in OTHER_SHAPES:
        assert is_unanswered(scheduler.parse_find, "7", 1, output, ""), output[:80]
        if not output.endswith(("[]", "[]}")):  # a scheduler may print an empty list to state that there is no such job
            assert is_unanswered(scheduler.parse_find, "7", 0, output, ""), output[:80]


def test_empty_limits_are_not_an_answer(scheduler: Scheduler) -> None:
    assert is_unanswered(scheduler.parse_limits, "")
    assert is_unanswered(scheduler.parse_limits, "\n")


def test_a_query_with_an_unexpected_shape_never_ends_a_job(scheduler: Scheduler) -> None:
    """The parser returns no jobs, jobs with an unknown state, or raises ``Unanswered``, but no other exception."""
    for output in ("", "\n", *OTHER_SHAPES):
        try:
            jobs = scheduler.parse_query(output)
        except Unanswered:
            continue
        assert isinstance(jobs, dict), output[:80]
        for job_id, job in jobs.items():
            assert isinstance(job, Job), output[:80]
            assert job.id == job_id != "", output[:80]
            assert job.state is JobState.UNKNOWN, output[:80]


def test_limits_with_an_unexpected_shape_are_queues_or_raise(scheduler: Scheduler) -> None:
    for output in OTHER_SHAPES:
        try:
            limits = scheduler.parse_limits(output)
        except Unanswered:
            continue
        assert isinstance(limits, list), output[:80]
        assert all(isinstance(queue, QueueLimits) and queue.name for queue in limits), output[:80]


@pytest.mark.parametrize("output", ["", "\n", *FAILURES])
def test_a_history_without_the_job_is_not_an_answer(scheduler: Scheduler, output: str) -> None:
    assert is_unanswered(scheduler.parse_history, "7", output)


def test_a_history_with_an_unexpected_shape_is_not_an_answer(scheduler: Scheduler) -> None:
    for output in OTHER_SHAPES:
        assert is_unanswered(scheduler.parse_history, "7", output), output[:80]


def test_privacy_is_two_parts_of_a_sentence_or_raises(scheduler: Scheduler) -> None:
    for output in ("", "\n", "\x00\n", "Unable to contact the server\n", *OTHER_SHAPES):
        try:
            hidden = scheduler.parse_privacy(output)
        except Unanswered:
            continue
        assert hidden is None or (len(hidden) == 2 and all(hidden)), output[:80]


def test_errors_of_the_parsers_show_the_output_briefly(scheduler: Scheduler) -> None:
    output = "unable to contact the server " * 1000
    for parse in (scheduler.parse_query, scheduler.parse_submit):
        with pytest.raises(Unanswered, match=r"unable to contact the server") as caught:
            parse(output)
        assert len(str(caught.value)) < 500
    with pytest.raises(Unanswered, match=r"unable to contact the server") as caught:
        scheduler.parse_find("7", 255, "", output)
    assert len(str(caught.value)) < 500


def test_an_unknown_reason_is_shown_as_it_is(scheduler: Scheduler) -> None:
    assert scheduler.explain("A-new-reason-42") == "A-new-reason-42"
    assert scheduler.explain("") == ""


def test_an_unknown_reason_does_not_end_the_wait(scheduler: Scheduler) -> None:
    for text in ("A-new-reason-42", ""):
        reason = scheduler.understand(text)
        assert reason.outlook is Outlook.WAITS
        assert reason.words == scheduler.explain(text)


def test_each_reason_is_a_clause_and_one_that_waits_for_a_person_has_advice(scheduler: Scheduler) -> None:
    for pattern, reason in scheduler.reasons:
        assert re.compile(pattern)
        assert re.fullmatch(r"[a-z].*[^.!?]", reason.words), reason.words
        if reason.outlook is not Outlook.WAITS:
            assert re.fullmatch(r"[A-Z].*\.", reason.advice), reason.words


# Answers of the scheduler's programs

BANNERS = [
    pytest.param("Welcome to the cluster\n", id="message"),
    pytest.param("Maintenance on 2026-01-02 [see https://example.org/?a=b&c=d] {soon}\n\n", id="brackets"),
    pytest.param("*** \"Read\" <the> rules; it's 5 o'clock ***\n", id="quotes"),
    pytest.param('{"level": "info", "msg": "connected"}\n', id="message-as-json"),
]
DAMAGE = (
    *('"', "\\", '\\"', "\\u", "\\@", "&", "<", ">", "<b>", "</b>", "<!--", "-->", "<!-- x -->", "]]>", "<![CDATA["),
    *("<!DOCTYPE x>", "{", "}", "[", "]", ",", ":", '":"', '","', '"},"', '"}}}', "\x01", "\x1b", "\x7f", "\ufffd"),
    *(
        "\ud800",
        "|",
        "'",
        "005",
        "0x1f",
        "1e999",
        " ",
        "=",
        "/>",
        "<Job>",
        "</Job>",
        "</job_list>",
        "</job_info>",
        "\t",
    ),
    *('"8.srv":{', '"JOBID":"8"', '{"', "&#0;", "&#x1;", "&bogus;", '","job_state":"F","a":"'),
)


@pytest.fixture
def sample(scheduler: Scheduler) -> Sample:
    """Return answers of the scheduler's programs."""
    if scheduler.name not in SAMPLES:
        pytest.skip(f"tests/unit/scheduler_answers.py has no answers of {scheduler.name}")
    return SAMPLES[scheduler.name]


def test_the_sample_contains_a_session(scheduler: Scheduler, sample: Sample) -> None:
    jobs = scheduler.parse_query(sample.query.replace("{text}", "x"))
    assert list(jobs) == [sample.other, sample.ours]
    assert jobs[sample.ours].session(HUB) == SESSION
    assert jobs[sample.other].session(HUB) == ""
    assert not any(job.is_unreadable for job in jobs.values())


@pytest.mark.parametrize("banner", BANNERS)
def test_lines_before_and_after_an_answer_change_nothing(scheduler: Scheduler, sample: Sample, banner: str) -> None:
    plain = sample.query.replace("{text}", "x")
    jobs = scheduler.parse_query(plain)
    assert scheduler.parse_query(banner + plain) == jobs
    assert scheduler.parse_query(plain + banner) == jobs
    assert scheduler.parse_query(banner * 2 + plain + banner) == jobs


def test_line_breaks_of_a_terminal_and_a_byte_order_mark_change_nothing(scheduler: Scheduler, sample: Sample) -> None:
    plain = sample.query.replace("{text}", "x")
    jobs = scheduler.parse_query(plain)
    assert scheduler.parse_query(plain.replace("\n", "\r\n")) == jobs
    assert scheduler.parse_query("\ufeff" + plain) == jobs


@pytest.mark.parametrize("banner", BANNERS)
def test_lines_without_an_answer_are_no_answer(scheduler: Scheduler, banner: str) -> None:
    assert is_unanswered(scheduler.parse_query, banner)


def test_damage_affects_only_the_job_that_contains_it(scheduler: Scheduler, sample: Sample) -> None:
    ours = scheduler.parse_query(sample.query.replace("{text}", "x"))[sample.ours]
    chance = random.Random(1)
    for _ in range(600):
        text = "".join(chance.choices(DAMAGE, k=chance.randint(1, 5)))
        jobs = scheduler.parse_query(sample.query.replace("{text}", text))
        assert jobs.get(sample.ours) == ours, text
        other = jobs.get(sample.other) or next((job for job in jobs.values() if job.is_unreadable), None)
        assert other is not None, f"{text!r}: the job vanishes"
        assert other.state in (JobState.RUNNING, JobState.UNKNOWN), text


def test_a_truncated_answer_is_no_answer_although_a_job_is_damaged(scheduler: Scheduler, sample: Sample) -> None:
    """Lines without a common end, such as a table, may lack the last jobs. The hub looks them up."""
    chance = random.Random(2)
    whole = scheduler.parse_query(sample.query.replace("{text}", "x"))
    for _ in range(20):
        text = "".join(chance.choices(DAMAGE[:12], k=chance.randint(0, 3)))
        query = sample.query.replace("{text}", text).rstrip()
        for length in range(sample.query.index("{text}"), len(query)):
            try:
                jobs = scheduler.parse_query(query[:length])
            except Unanswered:
                continue
            assert sample.ours not in jobs or jobs[sample.ours] == whole[sample.ours], query[:length]
            assert query[:length].endswith("\n"), f"the answer that ends with {query[:length][-60:]!r} is incomplete"


@pytest.mark.parametrize("banner", BANNERS)
def test_lines_before_and_after_a_job_id_change_nothing(scheduler: Scheduler, sample: Sample, banner: str) -> None:
    assert scheduler.parse_submit(sample.submit) == sample.ours
    assert scheduler.parse_submit(banner + sample.submit) == sample.ours
    assert scheduler.parse_submit(sample.submit + banner) == sample.ours


def test_two_different_job_ids_are_in_doubt(scheduler: Scheduler, sample: Sample) -> None:
    other = sample.submit.replace("8", "9")
    assert is_unanswered(scheduler.parse_submit, sample.submit + other)
    assert is_unanswered(scheduler.parse_submit, other + "Welcome\n" + sample.submit)
    assert scheduler.parse_submit(sample.submit * 2) == sample.ours


# The documentation


def test_the_example_in_the_documentation_follows_the_rules(make_profile: MakeProfile) -> None:
    """Run those tests of this module that need only a scheduler, and no entry of the registry."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-scheduler.md").read_text()
    found = re.search(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(found[1], namespace)
    example = namespace["Acme"]()
    checks = [value for name, value in globals().items() if name.startswith("test_") and callable(value)]
    checks = [check for check in checks if list(inspect.signature(check).parameters) == ["scheduler"]]
    for check in checks:
        if check not in {test_the_registry_key_is_the_name, test_a_session_has_a_spawner_of_batchspawner}:
            check(example)
    cluster: Any = None
    plain = example.directives(make_profile(), cluster, session=SESSION, comment=COMMENT)
    for field, value in EVERY_RESOURCE.items():
        profile = make_profile(**{field: value})
        assert example.directives(profile, cluster, session=SESSION, comment=COMMENT) != plain, field
