"""Each scheduler's words: directives, job ids, bulk answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hpchub.clusters.batch_script import render_batch_script
from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

SLURM = SCHEDULERS["slurm"]
MARK = "7d1f0c3a9b5e2468"


def answer(*records: str) -> str:
    """What squeue prints, with the mark that the gate has made up."""
    return "".join(f"{MARK}|{record}\n" for record in records)


def profile(**changes: Any) -> Any:
    return SimpleNamespace(
        **{
            "key": "small",
            "queue": "interactive",
            "cores": 2,
            "memory": "4G",
            "runtime": "8:00:00",
            "gpus": 0,
            "account": "",
            "reservation": "",
            "node_constraint": "",
            "options": [],
            **changes,
        }
    )


CLUSTER: Any = SimpleNamespace(name="demo", scheduler="slurm", software=SimpleNamespace(path="/opt/hpchub"))


def test_slurm_directives() -> None:
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


def test_the_script_holds_the_directives_and_the_launcher() -> None:
    script = render_batch_script(CLUSTER, profile(), session="a" * 16, hub="h", username="alice")
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == f"#SBATCH --job-name=hpchub-{'a' * 16}"
    assert lines[2] == f"#SBATCH --comment=hpchub/h/alice/{'a' * 16}"
    assert lines[-1] == f"exec /opt/hpchub/notebook/current/bin/hpchub-launch {'a' * 16}"


def test_a_directive_of_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="not one line"):
        render_batch_script(CLUSTER, profile(account="a\n#SBATCH --uid=0"), session="a", hub="h", username="u")


@pytest.mark.parametrize(("output", "job"), [("209\n", "209"), ("209;demo\n", "209"), ("noise\n209\n", "209")])
def test_slurm_job_id(output: str, job: str) -> None:
    assert SLURM.parse_submit(output) == job


@pytest.mark.parametrize("output", ["", "Submitted batch job", "209 ; rm -rf /", "$(id)", "12\nwelcome"])
def test_slurm_job_id_that_is_none(output: str) -> None:
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
def test_slurm_states(word: str, state: JobState) -> None:
    job = SLURM.parse_query(answer(f"7|{word}|None|n/a|N/A|alice|hpchub-x|(null)"))["7"]
    assert (job.state, job.host, job.reason, job.start) == (state, "", "", "")


@pytest.mark.parametrize("revoked_first", [True, False])
def test_slurm_job_of_a_federation_is_the_copy_that_runs(*, revoked_first: bool) -> None:
    """The cluster that it came from keeps a trace of it, under the same id."""
    trace, job = "67108871|REVOKED|None|n/a|N/A|alice|x|c", "67108871|RUNNING|None|n1|N/A|alice|x|c"
    found = SLURM.parse_query(answer(*((trace, job) if revoked_first else (job, trace))))
    assert [(each.id, each.state, each.host) for each in found.values()] == [("67108871", JobState.RUNNING, "n1")]


def test_slurm_answer() -> None:
    jobs = SLURM.parse_query(
        answer("7|PENDING|Priority|n/a|2026-01-02T03:04:05|alice|hpchub-x|c", "8|RUNNING|None|compute1|N/A|bob|a|b|c")
    )
    assert jobs["7"].start == "2026-01-02T03:04:05"
    assert (jobs["7"].user, jobs["7"].name, jobs["7"].comment) == ("alice", "hpchub-x", "c")
    assert jobs["8"].host == "compute1"
    assert SLURM.explain(jobs["7"].reason) == "other jobs come first"


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
    ids=["ours", "of-another", "other-hub", "they-differ", "in-the-name", "no-comment", "no-name", "empty"],
)
def test_whose_session_a_job_is(line: str, session: str) -> None:
    assert SLURM.parse_query(answer(line))["7"].session("hub.example") == session


def test_the_script_names_the_session() -> None:
    script = render_batch_script(CLUSTER, profile(), session="a" * 16, hub="hub.example", username="alice")
    options = dict(line.split(" --", 1)[1].split("=", 1) for line in script.splitlines() if "=hpchub" in line)
    job = Job("7", JobState.PENDING, name=options["job-name"], user="alice", comment=options["comment"])
    assert job.session("hub.example") == "a" * 16


def test_slurm_with_no_jobs_is_an_answer() -> None:
    assert SLURM.parse_query("") == {}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x\n7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="another-end"),
        pytest.param("x\n{mark}|7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="the-placeholder"),
        pytest.param("x\n0123456789abcdef|7|COMPLETED|None|n1|N/A|alice|hpchub-x", id="a-guess"),
        pytest.param("x\x0b7|COMPLETED|None|n1|N/A|alice|y\u20287|COMPLETED", id="other-line-breaks"),
        pytest.param("x\n\n\n", id="nothing"),
    ],
)
def test_nobodys_job_name_says_anything_of_anothers_job(name: str) -> None:
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
        pytest.param("7|RUNN", id="cut-off"),
        pytest.param(f"{MARK}|7|RUNN\n", id="record-cut-off"),
        pytest.param(f"{MARK}|7|RUNNING|None|n1|N/A|alice|hpchub", id="name-cut-off"),
        pytest.param("{mark}|7|RUNNING|None|n1|N/A|alice|hpchub-x\n", id="not-marked"),
        pytest.param("slurm_load_jobs error: Unable to contact slurm controller\n", id="error"),
    ],
)
def test_slurm_answer_that_is_none(output: str) -> None:
    with pytest.raises(Unanswered, match=r"not complete|something else"):
        SLURM.parse_query(output)
