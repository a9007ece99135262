"""The places of jobs in their queues, from the answer to the query for all jobs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hpchub.schedulers import SCHEDULERS, Job, JobState

SLURM = SCHEDULERS["slurm"]


def waiting(job_id: str, priority: float | None, **changes: Any) -> Job:
    job = Job(job_id, JobState.PENDING, "PENDING", reason="Priority", queue="q", priority=priority)
    return dataclasses.replace(job, **changes)


def places(*jobs: Job, scheduler: str = "slurm") -> dict[str, int]:
    return SCHEDULERS[scheduler].places({job.id: job for job in jobs})


def test_job_with_the_highest_priority_is_first_and_earlier_jobs_precede_later_ones() -> None:
    found = places(waiting("9", 5), waiting("8", 50), waiting("10", 5), waiting("7", 5))
    assert found == {"8": 1, "7": 2, "9": 3, "10": 4}


def test_each_queue_has_its_own_line() -> None:
    assert places(waiting("1", 9), waiting("2", 5, queue="other"), waiting("3", 1)) == {"1": 1, "2": 1, "3": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {"state": JobState.RUNNING},
        {"state": JobState.ENDED},
        {"state": JobState.UNKNOWN},
        {"priority": None},
        {"reason": "JobHeldUser"},
        {"reason": "JobHeldAdmin"},
        {"reason": "InvalidAccount"},
        {"reason": "Dependency"},
        {"reason": "BeginTime"},
    ],
    ids=str,
)
def test_job_that_does_not_stand_in_line_has_no_place_and_delays_nobody(changes: dict[str, Any]) -> None:
    first = dataclasses.replace(waiting("1", 99), **changes)
    assert places(first, waiting("2", 5)) == {"2": 1}


def test_job_with_an_unknown_reason_stands_in_line() -> None:
    assert places(waiting("1", 9, reason="SomethingNew"), waiting("2", 5, reason="")) == {"1": 1, "2": 2}


def squeue(*fields: str) -> str:
    mark = "0123456789abcdef"
    return "".join(
        f"{mark}|{line}|{mark}\n" for line in ("JOBID|STATE|REASON|EXEC_HOST|START_TIME|USER|NAME|COMMENT", *fields)
    )


def test_slurm_reports_the_partition_and_the_priority() -> None:
    jobs = SLURM.parse_query(
        squeue(
            "7|PENDING|Priority|n/a|2026-01-02T03:04:05;interactive;4294901757|alice|hpchub-x|c",
            "8|PENDING|Resources|n/a|N/A;interactive;4294901758|bob|x|c",
        )
    )
    assert (jobs["7"].start, jobs["7"].queue, jobs["7"].priority) == ("2026-01-02T03:04:05", "interactive", 4294901757)
    assert jobs["7"].expected == 1767323045
    assert jobs["8"].expected is None
    assert SLURM.places(jobs) == {"8": 1, "7": 2}


def test_answer_of_an_older_gate_has_no_places() -> None:
    jobs = SLURM.parse_query(squeue("7|PENDING|Priority|n/a|2026-01-02T03:04:05|alice|hpchub-x|c"))
    assert jobs["7"].start == "2026-01-02T03:04:05"
    assert SLURM.places(jobs) == {}


def test_slurm_query_asks_for_what_the_parser_reads() -> None:
    assert "|%S;%P;%Q|" in " ".join(SLURM.query_command)


def qstat(*jobs: tuple[str, str, str]) -> str:
    rows = "".join(
        f"<job_list><JB_job_number>{number}</JB_job_number><JAT_prio>{priority}</JAT_prio><JB_name>x</JB_name>"
        f"<JB_owner>ann</JB_owner><state>{state}</state><slots>1</slots></job_list>"
        for number, priority, state in jobs
    )
    return f"<?xml version='1.0'?><job_info><queue_info></queue_info><job_info>{rows}</job_info></job_info>"


def test_grid_engine_has_one_line_in_the_order_of_the_priorities() -> None:
    scheduler = SCHEDULERS["gridengine"]
    answer = qstat(
        ("1", "0.5", "r"), ("2", "0.25", "qw"), ("3", "0.75", "qw"), ("4", "0.9", "hqw"), ("5", "0.9", "Eqw")
    )
    assert scheduler.places(scheduler.parse_query(answer)) == {"3": 1, "2": 2}


def test_moab_reports_the_class_and_the_priority() -> None:
    scheduler = SCHEDULERS["moab"]
    rows = "".join(
        f'<job JobID="{number}" Class="{name}" StartPriority="{priority}" State="{state}" User="ann" JobName="x"/>'
        for number, name, priority, state in [
            ("1", "a", "10", "Idle"),
            ("2", "a", "20", "Idle"),
            ("3", "b", "-5", "Idle"),
            ("4", "a", "99", "Running"),
        ]
    )
    assert scheduler.places(scheduler.parse_query(f"<Data>{rows}</Data>")) == {"2": 1, "1": 2, "3": 1}


@pytest.mark.parametrize("scheduler", ["pbs", "torque", "lsf", "htcondor"])
def test_place_is_unknown_where_the_answer_does_not_show_the_order(scheduler: str) -> None:
    assert places(waiting("1", None), waiting("2", None), scheduler=scheduler) == {}
