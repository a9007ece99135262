"""Moab: directives, job ids, answers.

The answers are shaped as those of ``mdiag``, ``checkjob`` and ``mjobctl`` in the administrator's guides of Moab 7.2 and
9.1, and as the tests of vsc-jobs and of MatterMiners/tardis (tests/adapters_t/sites_t/test_moab.py) quote real ones,
with other names in them; ``MAX.MEM`` of a class is not in the guides' list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

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


def test_directives(profile: Callable[..., Profile], cluster: Cluster) -> None:
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
def test_job_id(output: str, job_id: str) -> None:
    assert MOAB.parse_submit(output) == job_id


@pytest.mark.parametrize("output", ["", "\nERROR:    invalid account\n", "Moab.7; id", "-c", "ALL", "Moab.7\nbye"])
def test_job_id_that_is_none(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        MOAB.parse_submit(output)


def test_a_running_job() -> None:
    (found,) = MOAB.parse_query(answer(job())).values()
    assert (found.id, found.state, found.detail) == ("2513269", JobState.RUNNING, "Running")
    assert (found.host, found.user, found.reason) == ("node832.golett.gent.vsc", "alice", "")
    assert found.session("hub.example") == "a" * 16


def test_the_first_of_several_nodes() -> None:
    (found,) = MOAB.parse_query(answer(job(node="node2535.golett.gent.vsc:24,node2536.golett.gent.vsc:24"))).values()
    assert found.host == "node2535.golett.gent.vsc"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"name": f"hpchub-{'a' * 16}"}, id="no-hub"),
        pytest.param({"name": f"hpchub-{'a' * 16}.other.example"}, id="another-hub"),
        pytest.param({"name": f"hpchub-{'a' * 15}.hub.example"}, id="no-session"),
        pytest.param({"name": f"hpchub-{'a' * 16}.x/bob/hub.example"}, id="odd-hub"),
    ],
)
def test_a_job_that_is_not_the_sessions(other: Any) -> None:
    (found,) = MOAB.parse_query(answer(job(**other))).values()
    assert found.session("hub.example") == ""


def test_a_waiting_job() -> None:
    reason = "IdlePolicy:job 1109247 violates idle HARD MAXIPROC limit of 3528 for user alice  partition ALL"
    (found,) = MOAB.parse_query(
        answer(job(state="Idle", node="", more=f'BlockReason="{reason}" EstRsvStartTime="1510331373"'))
    ).values()
    assert (found.state, found.host, found.reason) == (JobState.PENDING, "", reason)
    assert found.start.startswith("2017-11-1")
    assert MOAB.explain(found.reason) == "you or your group have as many jobs in the queue as may be considered"


def test_a_held_job() -> None:
    (found,) = MOAB.parse_query(answer(job(state="Idle", more='Hold="Batch"'))).values()
    assert found.reason == "BatchHold"
    assert MOAB.explain(found.reason) == "the scheduler holds it: it could not be started"


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
def test_states(word: str, state: Any) -> None:
    (found,) = MOAB.parse_query(answer(job(state=word))).values()
    assert found.state is state


def test_a_job_keeps_the_id_that_moab_gave_it() -> None:
    text = answer(job("Moab.7").replace('JobID="Moab.7"', 'JobID="2513269"'))
    assert list(MOAB.parse_query(text)) == ["Moab.7"]


def test_an_array() -> None:
    assert list(MOAB.parse_query(answer(job("7[1]"), job("7[2]")))) == ["7[1]", "7[2]"]


def test_no_jobs() -> None:
    assert MOAB.parse_query("<Data></Data>\n") == {} == MOAB.parse_query("\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(answer(job())[:-20], id="cut-off"),
        pytest.param(answer(job(), job()), id="one-twice"),
        pytest.param(answer(job("")), id="no-id"),
        pytest.param("ERROR:  client timed out after 30 seconds (hostname:port=mg1.nemo.privat:42559)\n", id="timeout"),
        pytest.param("ERROR:    user 'hpchub' is not authorized to run command 'mdiag'\n", id="not-permitted"),
        pytest.param("<html/>", id="something-else"),
    ],
)
def test_an_answer_that_is_none(text: str) -> None:
    with pytest.raises(Unanswered):
        MOAB.parse_query(text)


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


# What checkjob printed at the University of Michigan, of a job that came from qsub.
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


def test_finding_a_job() -> None:
    found = MOAB.parse_find("Moab.7", 0, CHECKJOB, "")
    assert found is not None
    assert (found.state, found.host) == (JobState.RUNNING, "node1")
    cached = CACHED + CHECKJOB.replace("job Moab.7", "job 15913928 (RM job '15913928.nyx.engin.umich.edu')")
    assert state_of(MOAB.parse_find("15913928", 0, cached, "")) is JobState.RUNNING
    assert MOAB.propagation > 30  # seconds for which such an answer may be too old
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
def test_a_job_that_is_not_known(stdout: str, stderr: str) -> None:
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
def test_finding_says_nothing(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        MOAB.parse_find("Moab.7", code, stdout, stderr)


def test_limits() -> None:
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
