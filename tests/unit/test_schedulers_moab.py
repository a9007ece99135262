"""Moab: directives, job ids and the output of its programs.

The output follows the administrator's guides of Moab 7.2 and 9.1, and the output of real servers that the tests of
vsc-jobs and MatterMiners/tardis (tests/adapters_t/sites_t/test_moab.py) quote, with other names. The guides do not list
``MAX.MEM`` of a class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from truncated_output import check_truncated_query

from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model.entries import Cluster, Profile

MOAB = SCHEDULERS["moab"]
NAME = f"hpchub-{'a' * 16}.hub.example"


def job(
    number: str = "2513269",
    state: Any = "Running",
    *,
    name: str = NAME,
    user: str = "alice",
    node: str = "node832.golett.gent.vsc:2",
    more: str = "",
) -> str:
    return (
        f'<job Account="gvo00002" Class="short" DRMJID="2513269.master19.golett.gent.vsc" EEDuration="4150" '
        f'EState="{state}" Flags="RESTARTABLE,FSVIOLATION" GJID="{number}" Group="users" IWD="/home/alice" '
        f'JobID="{number}" JobName="{name}" QueueStatus="active" RM="golett" ReqAWDuration="259200" '
        f'SRMJID="2513269.master19.golett.gent.vsc" StartTime="1510331373" State="{state}" '
        f'SubmissionTime="1510331318" SuspendDuration="0" User="{user}" {more}>'
        f'<req AllocNodeList="{node}" AllocPartition="golett" NCReqMin="1" ReqNodeMem="&gt;=0" TCReqMin="1"/>'
        f"<tx/></job>"
    )


def answer(*jobs: Any) -> str:
    return f"<Data>{''.join(jobs)}</Data>\n"


def test_directives_contain_every_resource(profile: Callable[..., Profile], cluster: Cluster) -> None:
    found = MOAB.directives(
        profile(gpus=1, account="phys", reservation="school.1", node_constraint="ib|opa", options=["-l qos=high"]),
        cluster,
        session="a" * 16,
        comment=f"hpchub/hub.example/alice/{'a' * 16}",
    )
    assert found == [
        f"-N {NAME}",
        "-q interactive",
        "-l nodes=1:ppn=2:gpus=1",
        "-l mem=4gb",
        "-l walltime=8:00:00",
        "-r n",
        "-j oe",
        "-o /dev/null",
        "-S /bin/bash",
        "-E",
        "-A phys",
        "-l advres=school.1",
        "-l feature=ib|opa",
        "-l qos=high",
    ]


@pytest.mark.parametrize(("output", "job_id"), [("\n4761849\n", "4761849"), ("\n\nMoab.7\n", "Moab.7")])
def test_job_id_is_in_its_own_line(output: str, job_id: str) -> None:
    assert MOAB.parse_submit(output) == job_id


@pytest.mark.parametrize("output", ["", "\nERROR:    invalid account\n", "Moab.7; id", "-c", "ALL", "Moab.7\nMoab.8"])
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        MOAB.parse_submit(output)


def test_running_job_has_host_user_and_session() -> None:
    (found,) = MOAB.parse_query(answer(job())).values()
    assert (found.id, found.state, found.detail) == ("2513269", JobState.RUNNING, "Running")
    assert (found.host, found.user, found.reason) == ("node832.golett.gent.vsc", "alice", "")
    assert found.session("hub.example") == "a" * 16


def test_host_is_the_first_of_several_nodes() -> None:
    (found,) = MOAB.parse_query(answer(job(node="node2535.golett.gent.vsc:24,node2536.golett.gent.vsc:24"))).values()
    assert found.host == "node2535.golett.gent.vsc"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"name": f"hpchub-{'a' * 16}"}, id="name-without-hub"),
        pytest.param({"name": f"hpchub-{'a' * 16}.other.example"}, id="another-hub"),
        pytest.param({"name": f"hpchub-{'a' * 15}.hub.example"}, id="invalid-session"),
        pytest.param({"name": f"hpchub-{'a' * 16}.x/bob/hub.example"}, id="slash-in-the-hub"),
    ],
)
def test_job_with_another_name_has_no_session(other: Any) -> None:
    (found,) = MOAB.parse_query(answer(job(**other))).values()
    assert found.session("hub.example") == ""


def test_reason_of_a_waiting_job_is_explained() -> None:
    reason = "IdlePolicy:job 1109247 violates idle HARD MAXIPROC limit of 3528 for user alice  partition ALL"
    (found,) = MOAB.parse_query(
        answer(job(state="Idle", node="", more=f'BlockReason="{reason}" EstRsvStartTime="1510331373"'))
    ).values()
    assert (found.state, found.host, found.reason) == (JobState.PENDING, "", reason)
    assert found.start.startswith("2017-11-1")
    assert (
        MOAB.explain(found.reason) == "you or your group already have as many waiting jobs as the scheduler considers"
    )


def test_reason_of_a_held_job_is_explained() -> None:
    (found,) = MOAB.parse_query(answer(job(state="Idle", more='Hold="Batch"'))).values()
    assert found.reason == "BatchHold"
    assert MOAB.explain(found.reason) == "the scheduler has put your job on hold, because it could not be started"


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("Idle", JobState.PENDING),
        ("Deferred", JobState.PENDING),
        ("UserHold", JobState.PENDING),
        ("Starting", JobState.PENDING),
        ("Suspended", JobState.RUNNING),
        ("Canceling", JobState.ENDED),
        ("Completed", JobState.ENDED),
        ("Vacated", JobState.ENDED),
        ("Unknown", JobState.UNKNOWN),
        ("", JobState.UNKNOWN),
    ],
)
def test_states_map_to_session_states(word: str, state: Any) -> None:
    (found,) = MOAB.parse_query(answer(job(state=word))).values()
    assert found.state is state


def test_job_keeps_its_id_in_moab() -> None:
    text = answer(job("Moab.7").replace('JobID="Moab.7"', 'JobID="2513269"'))
    assert list(MOAB.parse_query(text)) == ["Moab.7"]


def test_members_of_an_array_are_separate_jobs() -> None:
    assert list(MOAB.parse_query(answer(job("7[1]"), job("7[2]")))) == ["7[1]", "7[2]"]


def test_empty_query_means_no_jobs() -> None:
    assert MOAB.parse_query("<Data></Data>\n") == {} == MOAB.parse_query("\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(answer(job())[:-20], id="truncated"),
        pytest.param(answer(job(), job()), id="job-twice"),
        pytest.param(answer(job("")), id="no-id"),
        pytest.param("ERROR:  client timed out after 30 seconds (hostname:port=mg1.nemo.privat:42559)\n", id="timeout"),
        pytest.param("ERROR:    user 'hpchub' is not authorized to run command 'mdiag'\n", id="not-permitted"),
        pytest.param("<html/>", id="other-root-element"),
    ],
)
def test_invalid_query_raises(text: str) -> None:
    with pytest.raises(Unanswered):
        MOAB.parse_query(text)


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(MOAB, answer(job("7"), job("8", "Idle")))


CHECKJOB = """
job Moab.7

AName: hpchub
State: Running
Creds:  user:alice  group:users  account:phys  class:short
WallTime:   00:01:40 of 08:00:00
SubmitTime: Mon Oct  8 17:59:50
  (Time Queued  Total: 00:00:01  Eligible: 00:00:01)

StartTime: Mon Oct  8 17:59:51
Total Requested Tasks: 2

Req[0]  TaskCount: 2  Partition: torque

Allocated Nodes:
[node1:2]


"""


# Output of checkjob at the University of Michigan for a job that was submitted with qsub.
CACHED = """
--------------------------------------------------------------------
NOTE: The following information has been cached by the remote server
      and may be slightly out of date.
--------------------------------------------------------------------

"""


def state_of(job: Job | None) -> JobState:
    """Return the state of a job that was found."""
    assert job is not None
    return job.state


def test_find_returns_the_state_of_a_known_job() -> None:
    found = MOAB.parse_find("Moab.7", 0, CHECKJOB, "")
    assert found is not None
    assert (found.state, found.host) == (JobState.RUNNING, "node1")
    cached = CACHED + CHECKJOB.replace("job Moab.7", "job 15913928 (RM job '15913928.nyx.engin.umich.edu')")
    assert state_of(MOAB.parse_find("15913928", 0, cached, "")) is JobState.RUNNING
    assert MOAB.propagation > 30  # seconds until Moab refreshes its cache
    assert state_of(MOAB.parse_find("Moab.7", 0, CHECKJOB.replace("Running", "Completed"), "")) is JobState.ENDED


@pytest.mark.parametrize(
    ("stdout", "stderr"),
    [
        ("", "ERROR:  invalid job specified (Moab.7)\n\n"),
        ("\nERROR:  invalid job specified: Moab.7\n", ""),
        ("", "ERROR:    invalid job specified\n"),
        (CACHED, "ERROR:  invalid job specified: Moab.7\n"),
    ],
)
def test_find_returns_none_for_an_unknown_job(stdout: str, stderr: str) -> None:
    assert MOAB.parse_find("Moab.7", 1, stdout, stderr) is None


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (0, "", ""),
        (1, "", "ERROR:  invalid job specified (Moab.77)\n"),
        (1, "", "ERROR:    user 'hpchub' is not authorized to run command 'checkjob'\n"),
        (1, CHECKJOB, ""),
        (0, CHECKJOB.replace("Moab.7", "Moab.8"), ""),
        (0, CHECKJOB[:30], ""),
        (0, "job Moab.7\n\nAName: ERROR:  invalid job specified (Moab.7)\n", ""),
    ],
)
def test_inconclusive_find_raises(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        MOAB.parse_find("Moab.7", code, stdout, stderr)


def test_limits_of_classes_are_parsed() -> None:
    queues = MOAB.parse_limits(
        """Class/Queue Status

ClassID        Priority Flags        QDef              QOSList* PartitionList        Target Limits

DEFAULT               0 ---          ---                   ---  ---                   0.00  ---
batch                 1 ---          ---                   ---  [A][B]               70.00  MAXJOB=33:200,250
  MAX.WCLIMIT=10:00:00  MAXPROCPERJOB=128
long                  1 ---          low                   low  [A]                  10.00  MAXJOB=3:100,200
  MAX.WCLIMIT=1:00:00:00  MAXPROCPERJOB=128
bigmem                1 ---          low,high              low  ---                  10.00  MAXPROC=8
  MAX.PROC=64  MAXPROCPERNODE=16  MAX.MEM=65536
free                  1 ---          ---                   ---  ---                   0.00  ---
"""
    )
    assert [(q.name, q.cores, q.memory, q.runtime) for q in queues] == [
        ("batch", 128, None, 36000),
        ("long", 128, None, 86400),
        ("bigmem", 16, 65536, None),
        ("free", None, None, None),
    ]
    with pytest.raises(Unanswered):
        MOAB.parse_limits("ERROR: not authorized")
