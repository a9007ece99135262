"""HTCondor: the submit description, job ids and the output of version 23.9's programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from truncated_output import check_truncated_query

from hpchub.clusters.batch_script import render_batch_script
from hpchub.schedulers import ANY_QUEUE, SCHEDULERS, JobState, QueueLimits, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model.entries import Cluster, Profile

CONDOR = SCHEDULERS["htcondor"]

# condor_q -allusers -json -attributes …
ANSWER = r"""[
{
  "ClusterId": 1,
  "HpchubTag": "hpchub/hub.localhost/alice/aaaaaaaaaaaaaaaa",
  "JobStatus": 2,
  "Owner": "alice",
  "ProcId": 0,
  "RemoteHost": "slot1_1@login1"
}
,
{
  "ClusterId": 2,
  "HpchubTag": "a\\nb/hpchub/{ç\"",
  "JobStatus": 2,
  "Owner": "bob",
  "ProcId": 0,
  "RemoteHost": "slot1_2@login1"
}
,
{
  "ClusterId": 2,
  "HpchubTag": "a\\nb/hpchub/{ç\"",
  "JobStatus": 2,
  "Owner": "bob",
  "ProcId": 1,
  "RemoteHost": "slot1_3@login1"
}
,
{
  "ClusterId": 3,
  "HoldReason": "submitted on hold at user's request",
  "JobStatus": 5,
  "Owner": "bob",
  "ProcId": 0
}
,
{
  "ClusterId": 5,
  "JobStatus": 1,
  "Owner": "bob",
  "ProcId": 0
}
]
"""

# condor_q -allusers -totals 9999
NONE = """

-- Schedd: login1 : <10.88.0.17:26803?... @ 11/23/26 12:26:53
Total for query: 0 jobs; 0 completed, 0 removed, 0 idle, 0 running, 0 held, 0 suspended 
Total for all users: 5 jobs; 0 completed, 0 removed, 1 idle, 3 running, 1 held, 0 suspended

"""  # noqa: W291 as condor_q prints it
ONE = NONE.replace("query: 0 jobs; 0 completed, 0 removed, 0 idle, 0 running", "query: 1 jobs; 0 completed, 1 idle")
DOWN = "\n-- Failed to fetch ads from: <10.88.0.17:26803?alias=login1> : login1\nSECMAN:2007:Read failure\n"


@pytest.mark.parametrize("cluster", ["htcondor"], indirect=True)
def test_submit_description_contains_every_resource(profile: Callable[..., Profile], cluster: Cluster) -> None:
    asked = profile(
        gpus=1, account="physics.alice", reservation="r", node_constraint="HasIB&&!Old", options=["--rank=Memory"]
    )
    lines = render_batch_script(cluster, asked, session="a" * 16, hub="hub.example", username="alice").splitlines()
    assert lines[lines.index(f"batch_name = hpchub-{'a' * 16}") :] == [
        f"batch_name = hpchub-{'a' * 16}",
        f'+HpchubTag = "hpchub/hub.example/alice/{"a" * 16}"',
        '+HpchubQueue = "interactive"',
        "request_cpus = 2",
        "request_memory = 4096",
        "request_gpus = 1",
        (
            "periodic_remove = (JobStatus == 2 && time() - JobCurrentStartDate > 28800)"
            " || ((JobStatus == 1 || JobStatus == 5) && JobCurrentStartExecutingDate =!= undefined)"
        ),
        "accounting_group = physics.alice",
        '+HpchubReservation = "r"',
        "requirements = !(JobCurrentStartExecutingDate =!= undefined) && (HasIB&&!Old)",
        "rank = Memory",
        "queue",
    ]
    (launch,) = (line for line in lines if line.startswith("arguments"))
    assert f"exec /opt/hpchub/notebook/current/bin/hpchub-launch {'a' * 16};" in launch
    assert "; trap launch EXIT; " in launch
    assert launch.endswith("; . /etc/profile </dev/null; launch'\"")
    assert "getenv = false" in lines


@pytest.mark.parametrize(("output", "job"), [("7.0 - 7.0\n", "7"), ("WARNING: x\n12.0 - 12.0\n", "12")])
def test_job_id_is_in_its_own_line(output: str, job: str) -> None:
    assert CONDOR.parse_submit(output) == job


@pytest.mark.parametrize(
    "output", ["", "7.0 - 7.1\n", "7.0 - 8.0", "1 job(s) submitted to cluster 7.\n", "-1.0 - -1.0"]
)
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        CONDOR.parse_submit(output)


def test_query_is_parsed() -> None:
    jobs = CONDOR.parse_query(ANSWER)
    assert {job.id: (job.detail, job.state, job.host) for job in jobs.values()} == {
        "1": ("RUNNING", JobState.RUNNING, "login1"),
        "2": ("RUNNING", JobState.RUNNING, "login1"),
        "2.1": ("RUNNING", JobState.RUNNING, "login1"),
        "3": ("HELD", JobState.PENDING, ""),
        "5": ("IDLE", JobState.PENDING, ""),
    }
    assert jobs["1"].session("hub.localhost") == "a" * 16
    assert not jobs["1"].session("hub.example")
    assert jobs["3"].reason == "submitted on hold at user's request"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (1, JobState.PENDING),
        (2, JobState.RUNNING),
        (3, JobState.ENDED),
        (4, JobState.ENDED),
        (5, JobState.PENDING),
        (6, JobState.ENDED),
        (7, JobState.RUNNING),
        (8, JobState.UNKNOWN),
    ],
)
def test_states_map_to_session_states(status: int, state: JobState) -> None:
    answer = json.dumps([{"ClusterId": 7, "ProcId": 0, "JobStatus": status, "Owner": "alice"}])
    assert CONDOR.parse_query(answer)["7"].state is state


def test_forged_tag_has_no_session() -> None:
    """The job of Bob has the tag of Alice's session."""
    forged = ANSWER.replace(r"a\\nb/hpchub/{ç\"", f"hpchub/hub.localhost/alice/{'a' * 16}")
    assert not CONDOR.parse_query(forged)["2"].session("hub.localhost")


def test_empty_query_means_no_jobs() -> None:
    assert CONDOR.parse_query("") == {}


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(ANSWER[:300], id="truncated"),
        pytest.param(ANSWER.rstrip("]\n"), id="last-bracket-missing"),
        pytest.param(DOWN, id="error-message"),
        pytest.param("{}", id="object-instead-of-list"),
        pytest.param("[1]", id="number-instead-of-job"),
    ],
)
def test_invalid_query_raises(output: str) -> None:
    with pytest.raises(Unanswered):
        CONDOR.parse_query(output)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('"JobStatus": 1,\n  "Owner": "bob"', '"JobStatus": 1,\n  "Owner": 7', id="owner-is-a-number"),
        pytest.param('"JobStatus": 1', '"JobStatus": "1"', id="state-is-a-text"),
        pytest.param('"JobStatus": 1', '"JobStatus": ', id="no-state"),
        pytest.param('"JobStatus": 1', '"HoldReason": "a"b", "JobStatus": 1', id="raw-quote"),
    ],
)
def test_damaged_record_affects_only_its_job(old: str, new: str) -> None:
    assert old in ANSWER
    whole, jobs = CONDOR.parse_query(ANSWER), CONDOR.parse_query(ANSWER.replace(old, new))
    assert (jobs.pop("5").state, whole.pop("5").state) == (JobState.UNKNOWN, JobState.PENDING)
    assert jobs == whole


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(CONDOR, ANSWER)


def test_find_returns_none_for_an_unknown_job_and_unknown_state_for_a_known_one() -> None:
    assert CONDOR.parse_find("9999", 0, NONE, "") is None
    found = CONDOR.parse_find("1", 0, ONE, "")
    assert found is not None
    assert found.state is JobState.UNKNOWN


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [(0, "", ""), (1, "", DOWN), (1, NONE, ""), (0, NONE, "WARNING"), (0, NONE[:60], "")],
)
def test_inconclusive_find_raises(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        CONDOR.parse_find("9999", code, stdout, stderr)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--rank=Memory", None),
        ("--concurrency_limits=matlab:2", None),
        ("--request_cpus=99", "repeats the field cores"),
        ("--requirements=true", "repeats the field node_constraint"),
        ("--accounting_group=x", "is set by hpchub"),
        ("--executable=/bin/sh", "is set by hpchub"),
        ("--queue=9", "is set by hpchub"),
        ("--Executable=/bin/sh", "is not a single option"),
        ("--rank=$(X)", "is not a single option"),
        ("--rank=a b", "is not a single option"),
        ("--rank=a\nqueue", "is not a single option"),
        ("-q x", "is not a single option"),
    ],
)
def test_reserved_commands_are_rejected(option: str, complaint: str | None) -> None:
    found = SCHEDULERS["htcondor"].option_problem(option)
    assert (found[0] if found else None) == complaint


@pytest.mark.parametrize(
    ("constraint", "valid"),
    [
        ("HasIB", True),
        ("HasIB&&(Model==7||!Old)", True),
        ("!(a&&b)||c=?=true", True),
        ("a,b", False),
        ("a&&", False),
        ("a)||(true", False),
        ("()", False),
        ("((a)", False),
    ],
)
def test_constraints_must_be_expressions(cluster: Cluster, constraint: str, valid: bool) -> None:
    assert (SCHEDULERS["htcondor"].constraint_problem(constraint, cluster) is None) is valid


def test_limits_are_the_sizes_of_the_machines() -> None:
    """The format is from condor_status 23.9. A machine without GPUs may lack the attribute for GPUs."""
    slots: list[dict[str, Any]] = [
        {"TotalSlotCpus": 64, "TotalSlotGPUs": 0, "TotalSlotMemory": 131072},
        {"TotalSlotCpus": 64, "TotalSlotMemory": 131072},
        {"TotalSlotCpus": 32, "TotalSlotGPUs": 4, "TotalSlotMemory": 257000},
    ]
    nodes = ((32, 257000, 4), (64, 131072, 0))
    assert CONDOR.parse_limits(json.dumps(slots)) == [
        QueueLimits(ANY_QUEUE, cores=64, memory=257000, gpus=4, nodes=nodes)
    ]


@pytest.mark.parametrize(
    "stdout",
    [
        *("", "[]", "{}", "7", "[7]", '[{"TotalSlotCpus": "many"}]', "Error: no collector"),
        '[{"TotalSlotCpus": 64, "TotalSlotMemory": Infinity}]',
        f'[{{"TotalSlotCpus": {"9" * 5000}}}]',
    ],
)
def test_limits_without_machines_raise(stdout: str) -> None:
    with pytest.raises(Unanswered, match="printed no machines"):
        CONDOR.parse_limits(stdout)
