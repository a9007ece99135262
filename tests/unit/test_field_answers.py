"""Answers of schedulers that people reported; see docs/reference/field-cases.md. The names in them are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

CASES = Path(__file__).resolve().parents[1] / "field_cases"
SESSION = "0123456789abcdef"


def jobs_of(scheduler: str, name: str) -> dict[str, Job]:
    """Return the jobs of an answer in a file."""
    return SCHEDULERS[scheduler].parse_query((CASES / name).read_text())


@pytest.mark.parametrize("name", ["F01.json", "F03.json", "F04.json"])
def test_invalid_json_because_of_a_neighbour_shows_both_jobs(name: str) -> None:
    jobs = jobs_of("pbs", name)
    assert {job.id: (job.state, job.user, job.session("h")) for job in jobs.values()} == {
        "7.srv": (JobState.RUNNING, "ann", ""),
        "8.srv": (JobState.RUNNING, "bob", SESSION),
    }


@pytest.mark.parametrize("name", ["F01.json", "F03.json", "F04.json"])
def test_invalid_and_truncated_json_is_no_answer(name: str) -> None:
    text = (CASES / name).read_text().rstrip()
    for length in range(len(text)):
        with pytest.raises(Unanswered):
            SCHEDULERS["pbs"].parse_query(text[:length])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"MODULES":"a"', '"MODULES":"a"b"c"'),
        ('"MODULES":"a"', '"MODULES":"C:\\"'),
        ('"MODULES":"a"', '"MODULES":'),
        ('"Job_Name":"sim"', '"Job_Name":"x","job_state":"F","a":""'),
        ('"Job_Name":"sim"', '"Job_Name":"x"},"8.srv":{"job_state":"F"},"9.srv":{"a":""'),
        ('"Submit_arguments":"-V', '"Submit_arguments":"-N "my job" -V \x01'),
    ],
)
def test_raw_text_of_a_neighbour_is_read_line_by_line(old: str, new: str) -> None:
    text = (CASES / "F01.json").read_text()
    assert old in text
    jobs = SCHEDULERS["pbs"].parse_query(text.replace(old, new))
    assert [(job.id, job.state, job.user) for job in jobs.values()] == [
        ("7.srv", JobState.RUNNING, "ann"),
        ("8.srv", JobState.RUNNING, "bob"),
    ]


def test_damaged_record_is_unknown_and_keeps_the_tag_of_its_session() -> None:
    text = (CASES / "F01.json").read_text().replace('"exec_host":"n2/0",', '"exec_host":"n2/0,')
    jobs = SCHEDULERS["pbs"].parse_query(text)
    assert (jobs["7.srv"].state, jobs["8.srv"].state) == (JobState.RUNNING, JobState.UNKNOWN)
    assert jobs["8.srv"].is_unreadable
    assert jobs["8.srv"].comment == f"hpchub/h/bob/{SESSION}"
    assert not jobs["8.srv"].session("h")


def test_arrays_and_heterogeneous_jobs_of_slurm_are_shown() -> None:
    jobs = jobs_of("slurm", "F10.txt")
    assert list(jobs) == ["123_[1-10%2]", "123_4", "200+0", "67109080"]
    assert jobs["67109080"].session("h") == SESSION


def test_every_state_of_grid_engine_is_known() -> None:
    jobs = jobs_of("gridengine", "F20.xml").values()
    assert {state: [int(job.id) for job in jobs if job.state is state] for state in JobState} == {
        JobState.PENDING: [2, 3, 4, 10, 12],
        JobState.RUNNING: [1, 7, 8, 9, 11],
        JobState.ENDED: [5, 6, 13],
        JobState.UNKNOWN: [],
    }


def test_lost_hosts_of_lsf_are_unknown() -> None:
    jobs = jobs_of("lsf", "F31.json")
    assert {job.id: (job.state, job.host) for job in jobs.values()} == {
        "7": (JobState.RUNNING, "node1"),
        "8[3]": (JobState.RUNNING, "node1"),
        "11": (JobState.UNKNOWN, "node3"),
        "12": (JobState.UNKNOWN, ""),
    }


def test_limits_of_slurm_with_types_of_gpus_are_read() -> None:
    (limits,) = SCHEDULERS["slurm"].parse_limits((CASES / "F13.txt").read_text())
    assert (limits.name, limits.cores, limits.memory, limits.runtime, limits.gpus) == ("q", 128, 515000, None, 4)
    assert (64, 257000, 3) in [node[:3] for node in limits.nodes]
