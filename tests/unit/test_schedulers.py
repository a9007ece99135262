"""Slurm: directives, job ids and query output. Functions that several schedulers share."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest
from truncated_output import check_truncated_query

from hpchub.clusters.batch_script import render_batch_script
from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered
from hpchub.schedulers.parsing import parse_time

SLURM = SCHEDULERS["slurm"]
MARK = "7d1f0c3a9b5e2468"


def answer(*records: str) -> str:
    """Return squeue's output for the records, with the random mark of the gate."""
    return "".join(f"{MARK}|{record}\n" for record in records)


def profile(**changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "key": "small",
            "queue": "interactive",
            "nodes": 1,
            "cores": 2,
            "memory": "4G",
            "runtime": "8:00:00",
            "gpus": 0,
            "account": "",
            "qos": "",
            "reservation": "",
            "node_constraint": "",
            "options": [],
            **changes,
        }
    )


CLUSTER: Any = SimpleNamespace(name="demo", scheduler="slurm", software=SimpleNamespace(path="/opt/hpchub"))


def test_slurm_directives_contain_every_resource() -> None:
    found = SLURM.directives(
        profile(gpus=1, account="a", reservation="r", node_constraint="c", options=["--exclusive"]),
        CLUSTER,
        session="0" * 16,
        comment="x",
    )
    assert found[2:] == [
        "--partition=interactive",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=4G",
        "--time=8:00:00",
        "--no-requeue",
        "--export=NIL",
        "--output=.hpchub/logs/%j.log",
        "--gres=gpu:1",
        "--account=a",
        "--reservation=r",
        "--constraint=c",
        "--exclusive",
    ]


def test_slurm_script_contains_directives_and_launcher() -> None:
    script = render_batch_script(CLUSTER, profile(), session="a" * 16, hub="h", username="alice")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == f"#SBATCH --job-name=hpchub-{'a' * 16}"
    assert lines[2] == f"#SBATCH --comment=hpchub/h/alice/{'a' * 16}"
    assert f"    exec /opt/hpchub/notebook/current/bin/hpchub-launch {'a' * 16}" in lines
    assert lines[-1] == "launch"


def test_directive_with_a_line_break_is_rejected() -> None:
    with pytest.raises(ValueError, match="not one line"):
        render_batch_script(CLUSTER, profile(account="a\n#SBATCH --uid=0"), session="a", hub="h", username="u")


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("209\n", "209"),
        ("209;demo\n", "209"),
        ("noise\n209\n", "209"),
        ("12\nwelcome", "12"),
        ("---\n 9 \n9\n", "9"),
        ("Submitted batch job 209\n", "209"),
        ("note\nSubmitted batch job 209 on cluster demo\n", "209"),
    ],
)
def test_slurm_job_id_is_in_its_own_line(output: str, job: str) -> None:
    assert SLURM.parse_submit(output) == job


@pytest.mark.parametrize("output", ["", "Submitted batch job", "209 ; rm -rf /", "$(id)", "12\n13", "12\n-x"])
def test_slurm_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        SLURM.parse_submit(output)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", JobState.PENDING),
        ("CONFIGURING", JobState.PENDING),
        ("REQUEUED", JobState.PENDING),
        ("EXPEDITING", JobState.PENDING),
        ("RUNNING", JobState.RUNNING),
        ("SUSPENDED", JobState.RUNNING),
        ("COMPLETING", JobState.ENDED),
        ("TIMEOUT", JobState.ENDED),
        ("NODE_FAIL", JobState.ENDED),
        ("REVOKED", JobState.UNKNOWN),
        ("A_NEW_WORD", JobState.UNKNOWN),
    ],
)
def test_slurm_states_map_to_session_states(word: str, state: JobState) -> None:
    job = SLURM.parse_query(answer(f"7|{word}|None|n/a|N/A|alice|hpchub-x|(null)"))["7"]
    assert (job.state, job.host, job.reason, job.start) == (state, "", "", "")


@pytest.mark.parametrize("revoked_first", [True, False])
def test_running_copy_of_a_federated_slurm_job_wins(*, revoked_first: bool) -> None:
    """The cluster where a job was submitted keeps a revoked copy of it, with the same id."""
    trace, job = "67108871|REVOKED|None|n/a|N/A|alice|x|c", "67108871|RUNNING|None|n1|N/A|alice|x|c"
    found = SLURM.parse_query(answer(*((trace, job) if revoked_first else (job, trace))))
    assert [(each.id, each.state, each.host) for each in found.values()] == [("67108871", JobState.RUNNING, "n1")]


def test_slurm_query_is_parsed() -> None:
    jobs = SLURM.parse_query(
        answer("7|PENDING|Priority|n/a|2026-01-02T03:04:05|alice|hpchub-x|c", "8|RUNNING|None|compute1|N/A|bob|a|b|c")
    )
    assert jobs["7"].start == "2026-01-02T03:04:05"
    assert (jobs["7"].user, jobs["7"].name, jobs["7"].comment) == ("alice", "hpchub-x", "c")
    assert jobs["8"].host == "compute1"
    assert SLURM.explain(jobs["7"].reason) == "jobs with a higher priority start first"


@pytest.mark.parametrize(
    ("tag", "session"),
    [
        ("hub.example~0a1b2c3d", "a" * 16),
        ("hub.example", "a" * 16),
        ("hub.example~ffffffff", ""),
        ("hub.example~", ""),
        ("hub.example~0a1b2c3d~0a1b2c3d", ""),
        ("hub.example~0A1B2C3D", ""),
        ("other.example~0a1b2c3d", ""),
    ],
)
def test_tag_names_the_database_of_the_hub(tag: str, session: str) -> None:
    """A tag without a database is of an older version, and may be of this hub."""
    job = Job("7", JobState.RUNNING, name=f"hpchub-{'a' * 16}", user="alice", comment=f"hpchub/{tag}/alice/{'a' * 16}")
    assert job.session("hub.example~0a1b2c3d") == session


ALICES = "7|RUNNING|None|n1|N/A|alice|"


@pytest.mark.parametrize(
    ("line", "session"),
    [
        (ALICES + f"hpchub-{'a' * 16}|hpchub/hub.example/alice/{'a' * 16}", "a" * 16),
        (ALICES + f"hpchub-{'a' * 16}|hpchub/hub.example/bob/{'a' * 16}", ""),
        (ALICES + f"hpchub-{'a' * 16}|hpchub/other.example/alice/{'a' * 16}", ""),
        (ALICES + f"hpchub-{'a' * 16}|hpchub/hub.example/alice/{'b' * 16}", ""),
        (ALICES + f"hpchub-{'a' * 16}|hpchub/hub.example/alice/{'a' * 16}|(null)", ""),
        (ALICES + f"hpchub-{'a' * 16}|(null)", ""),
        (ALICES + f"mine|hpchub/hub.example/alice/{'a' * 16}", ""),
        (ALICES + "hpchub-|hpchub/hub.example/alice/", ""),
    ],
    ids=[
        "session-of-this-hub",
        "comment-names-another-user",
        "comment-names-another-hub",
        "comment-names-another-session",
        "further-text-after-the-comment",
        "no-comment",
        "no-session-in-the-name",
        "empty-session",
    ],
)
def test_session_requires_matching_name_comment_hub_and_owner(line: str, session: str) -> None:
    assert SLURM.parse_query(answer(line))["7"].session("hub.example") == session


def test_job_of_a_rendered_script_belongs_to_its_session() -> None:
    script = render_batch_script(CLUSTER, profile(), session="a" * 16, hub="hub.example", username="alice")
    options = dict(line.split(" --", 1)[1].split("=", 1) for line in script.splitlines() if "=hpchub" in line)
    job = Job("7", JobState.PENDING, name=options["job-name"], user="alice", comment=options["comment"])
    assert job.session("hub.example") == "a" * 16


def test_empty_slurm_query_means_no_jobs() -> None:
    assert SLURM.parse_query("") == {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x\n7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="forged-record-without-mark"),
        pytest.param("x\n{mark}|7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="forged-record-with-placeholder"),
        pytest.param(
            "x\n0123456789abcdef|7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="forged-record-with-guessed-mark"
        ),
        pytest.param("x\x0b7|COMPLETED|None|n1|N/A|alice|y\u20287|COMPLETED", id="unusual-line-breaks"),
        pytest.param("x\n\n\n", id="empty-lines"),
    ],
)
def test_job_name_cannot_forge_another_slurm_job(name: str) -> None:
    jobs = SLURM.parse_query(
        answer(
            "7|RUNNING|None|n1|N/A|alice|hpchub-x|c",
            f"8|RUNNING|None|n1|N/A|bob|{name}|{name}",
            "9|PENDING|None|||carol|z|",
        )
    )
    assert [(job.id, job.state) for job in jobs.values()] == [
        ("7", JobState.RUNNING),
        ("8", JobState.RUNNING),
        ("9", JobState.PENDING),
    ]


@pytest.mark.parametrize(
    "output",
    [
        pytest.param("7|RUNN", id="first-record-without-mark"),
        pytest.param(f"{MARK}|7|RUNN\n", id="truncated-record"),
        pytest.param(f"{MARK}|7|RUNNING|None|n1|N/A|alice|hpchub", id="truncated-name"),
        pytest.param("{mark}|7|RUNNING|None|n1|N/A|alice|hpchub-x\n", id="placeholder-instead-of-mark"),
        pytest.param("slurm_load_jobs error: Unable to contact slurm controller\n", id="error-message"),
    ],
)
def test_invalid_slurm_query_raises(output: str) -> None:
    with pytest.raises(Unanswered, match=r"squeue printed (output in an unexpected format|an incomplete record)"):
        SLURM.parse_query(output)


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(
        SLURM,
        answer(
            "7|PENDING|Priority|n/a|2026-01-02T03:04:05|alice|hpchub-x|c",
            "8|RUNNING|None|compute1|N/A|bob|a|b|c",
            "9|RUNNING|None|compute12|N/A|carol|z|(null)",
        ),
    )


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        pytest.param("Tue Oct  4 21:23:20 2022", "2026-05-01", "2022-10-04T21:23:20", id="weekday-and-year"),
        pytest.param("Oct 4 21:23 2022", "2026-05-01", "2022-10-04T21:23:00", id="year-without-seconds"),
        pytest.param("Oct  4 21:23:20", "2026-05-01", "2026-10-04T21:23:20", id="later-this-year"),
        pytest.param("Apr  4 21:23", "2026-05-01", "2026-04-04T21:23:00", id="less-than-30-days-ago"),
        pytest.param("Jan  4 21:23", "2026-05-01", "2027-01-04T21:23:00", id="months-ago-means-next-year"),
        pytest.param("Jan  1 00:10", "2026-12-31", "2027-01-01T00:10:00", id="tomorrow-is-next-year"),
        pytest.param("Feb 29 12:00", "2027-12-01", "2028-02-29T12:00:00", id="leap-day-of-next-year"),
        pytest.param("Feb 29 12:00", "2026-01-01", "", id="no-leap-day-this-year-or-next"),
        pytest.param("-", "2026-05-01", "", id="dash"),
        pytest.param("", "2026-05-01", "", id="empty"),
        pytest.param("soon", "2026-05-01", "", id="word"),
    ],
)
def test_printed_times_become_iso_8601(text: str, now: str, expected: str) -> None:
    assert parse_time(text, now=lambda: dt.datetime.fromisoformat(now)) == expected


def test_seconds_since_1970_become_local_time() -> None:
    assert dt.datetime.fromisoformat(parse_time("1510331373")).replace(tzinfo=dt.UTC).timestamp() == 1510331373
