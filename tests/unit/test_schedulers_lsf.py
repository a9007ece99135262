"""LSF: directives, job ids and the output of its programs.

The output is from LSF 10.1, as quoted by balsam, buildtest, eilslabs/Roddy (LSFJobManagerSpec.groovy) and IBM's command
reference (``bqueues -l``), with other names. The forms of ``EXEC_HOST`` are from OSC/ood_core,
spec/job/adapters/lsf/helper_spec.rb.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from truncated_output import check_truncated_query

from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model.entries import Cluster, Profile

LSF = SCHEDULERS["lsf"]
TAG = f"hpchub/hub.example/alice/{'a' * 16}"
RECORD = {
    "JOBID": "806290",
    "JOBINDEX": "0",
    "STAT": "RUN",
    "USER": "alice",
    "EXEC_HOST": "2*tbi-cn019",
    "ESTIMATED_START_TIME": "",
    "JOB_NAME": f"hpchub-{'a' * 16}",
    "JOB_DESCRIPTION": TAG,
    "PEND_REASON": "",
}


def answer(*changes: Any) -> str:
    records = [{**RECORD, **change} for change in changes]
    return json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}, indent=2) + "\n"


def one(**changes: Any) -> Job:
    (job,) = LSF.parse_query(answer(changes)).values()
    return job


def test_directives_contain_every_resource(profile: Callable[..., Profile], cluster: Cluster) -> None:
    found = LSF.directives(
        profile(
            runtime="1:00:01", gpus=1, account="phys", reservation="user1", node_constraint="ib&&big", options=["-x"]
        ),
        cluster,
        session="a" * 16,
        comment=TAG,
    )
    assert found == [
        "-J hpchub-aaaaaaaaaaaaaaaa",
        f'-Jd "{TAG}"',
        "-q interactive",
        "-n 2",
        '-R "select[ib&&big] span[hosts=1] rusage[mem=4GB/host]"',
        "-M 4GB",
        "-W 1:01",
        "-rn",
        '-env "none"',
        "-o .hpchub/logs/%J.log",
        '-gpu "num=1"',
        "-P phys",
        "-U user1",
        "-x",
    ]


@pytest.mark.parametrize(
    "output",
    [
        "Job <806290> is submitted to queue <normal>.\n",
        "Job <806290> is submitted to default queue <normal>.\n",
        "Cannot connect to LSF. Please wait ...\nJob <806290> is submitted to queue <normal>.\n",
        "Job <806290> is submitted to queue <normal>.\nbye\n",
    ],
)
def test_job_id_is_in_its_own_line(output: str) -> None:
    assert LSF.parse_submit(output) == "806290"


@pytest.mark.parametrize(
    "output",
    [
        "",
        "806290",
        "Request aborted by esub. Job not submitted.",
        "Job <8> is submitted to queue <a>.\nJob <9> is submitted to queue <a>.",
        "Job <$(id)> is submitted to queue <a>.",
    ],
)
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        LSF.parse_submit(output)


@pytest.mark.parametrize(
    ("exec_host", "host"),
    [
        ("tbi-cn019:tbi-cn019", "tbi-cn019"),
        ("4*node-1.example.org:2*node2", "node-1.example.org"),
        ("16*compute033:16*compute024", "compute033"),
        ("compute01:4*compute02:2*compute01", "compute01"),
        ("node1@cluster2", "node1"),
        ("2*lost_and_found", ""),
        ("-", ""),
        ("", ""),
    ],
)
def test_running_job_has_host_and_session(exec_host: str, host: str) -> None:
    job = one(EXEC_HOST=exec_host)
    assert (job.id, job.state, job.detail, job.host) == ("806290", JobState.RUNNING, "RUN", host)
    assert job.session("hub.example") == "a" * 16


@pytest.mark.parametrize(
    "other",
    [{"USER": "bob"}, {"JOB_NAME": "mine"}, {"JOB_DESCRIPTION": ""}, {"JOB_DESCRIPTION": f"{TAG}\n{TAG}"}],
    ids=["another-owner", "another-name", "no-description", "description-with-two-lines"],
)
def test_forged_or_foreign_job_has_no_session(other: Any) -> None:
    assert one(**other).session("hub.example") == ""


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((word, JobState.PENDING) for word in ("PEND", "PSUSP", "WAIT", "PROV")),
        *((word, JobState.RUNNING) for word in ("RUN", "USUSP", "SSUSP")),
        *((word, JobState.ENDED) for word in ("DONE", "EXIT")),
        *((word, JobState.UNKNOWN) for word in ("UNKWN", "ZOMBI", "NEWWORD")),
    ],
)
def test_states_map_to_session_states(word: str, state: Any) -> None:
    assert one(STAT=word).state is state


@pytest.mark.parametrize(
    ("reason", "explanation"),
    [
        ("New job is waiting for scheduling;", "the scheduler has not considered your job yet"),
        (
            "User has reached the per-user job slot limit of the queue;",
            "the limit of cores is reached, for you, your group or the queue",
        ),
        (
            "Job's requirements for resource reservation (mem) not satisfied;",
            "no node has enough free resources for your job at the moment",
        ),
        ("Job was suspended by LSF admin or root while pending;", "your job is on hold until somebody releases it"),
        ("Something new", "Something new"),
    ],
)
def test_reason_of_a_waiting_job_is_explained(reason: str, explanation: str) -> None:
    job = one(STAT="PEND", PEND_REASON=reason, EXEC_HOST="")
    assert job.reason == reason.rstrip(";")
    assert LSF.explain(job.reason) == explanation


def test_estimated_start_gets_a_year() -> None:
    soon = dt.datetime.now().replace(second=0, microsecond=0) + dt.timedelta(days=2)  # noqa: DTZ005 as LSF prints it
    text = soon.strftime("%b %e %H:%M")
    assert one(STAT="PEND", ESTIMATED_START_TIME=f"{text} E").start == soon.isoformat()
    assert one(STAT="PEND", ESTIMATED_START_TIME="-").start == ""


def test_arrays_and_unusual_names_are_parsed() -> None:
    jobs = LSF.parse_query(answer({"JOBINDEX": "1"}, {"JOBINDEX": "2"}, {"JOBID": "7", "JOB_NAME": '"},{"\n\u2028'}))
    assert list(jobs) == ["806290[1]", "806290[2]", "7"]


def test_messages_before_the_json_are_ignored() -> None:
    assert LSF.parse_query("Cannot connect to LSF. Please wait ...\n" * 2 + answer({}))["806290"]


def test_query_without_jobs_is_recognised() -> None:
    none = '{\n  "COMMAND":"bjobs",\n  "JOBS":0,\n  "RECORDS":[\n  ]\n}\n'
    assert LSF.parse_query(none) == {} == LSF.parse_query("")
    for message in ("No job found\n", "No unfinished job found\n", none):
        assert re.search(LSF.no_jobs, message, re.MULTILINE)
    assert not re.search(LSF.no_jobs, answer({"JOB_NAME": "No job found\nNo job found"}), re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("No job found\n", id="text"),
        pytest.param(answer({})[:-9], id="truncated"),
        pytest.param(answer({}).replace('"JOBS": 1', '"JOBS": 2'), id="fewer-records-than-announced"),
        pytest.param(answer({}, {}), id="job-twice"),
        pytest.param(answer({"JOBID": ""}), id="no-id"),
        pytest.param('{"COMMAND":"bjobs","JOBS":1,"RECORDS":[7]}', id="number-instead-of-record"),
        pytest.param("LSF is down. Please wait ...\n", id="server-is-down"),
    ],
)
def test_invalid_query_raises(text: str) -> None:
    with pytest.raises(Unanswered):
        LSF.parse_query(text)


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(LSF, answer({}, {"JOBID": "7", "STAT": "PEND"}))


def test_record_with_a_duplicate_key_has_no_user() -> None:
    job = LSF.parse_query(answer({}).replace('"USER": "alice"', '"USER": "alice", "USER": "bob"'))["806290"]
    assert (job.state, job.user) == (JobState.UNKNOWN, "")


NOT_FOUND = '{"COMMAND":"bjobs","JOBS":1,"RECORDS":[{"JOBID":"806290","ERROR":"Job <806290> is not found"}]}'


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (255, "", "Job <806290> is not found\n"),
        (255, "Job <806290> is not found\n", ""),
        (0, "", "Job <806290> is not found\n"),
        (0, NOT_FOUND, ""),
    ],
)
def test_find_returns_none_for_an_unknown_job(code: int, stdout: str, stderr: str) -> None:
    assert LSF.parse_find("806290", code, stdout, stderr) is None


def state_of(job: Job | None) -> JobState:
    """Return the state of a job that was found."""
    assert job is not None
    return job.state


def test_find_returns_the_state_of_a_known_job() -> None:
    assert state_of(LSF.parse_find("806290", 0, answer({"STAT": "EXIT"}), "")) is JobState.ENDED


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (0, "", ""),
        (255, "", "Job <8062901> is not found"),
        (255, "", "LSF is down. Please wait ..."),
        (0, answer({"JOB_NAME": "Job <806290> is not found"})[:-9], ""),
        (0, answer({"JOBID": "7"}), ""),
        (1, answer({}), ""),
        (0, NOT_FOUND.replace('{"JOBID":"806290"', '{"JOBID":"7"'), ""),
    ],
)
def test_inconclusive_find_raises(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        LSF.parse_find("806290", code, stdout, stderr)


def test_commands_show_the_hosts_of_a_condensed_group() -> None:
    assert "-X" in LSF.query_command
    assert "-X" in LSF.find_command


# bparams -a, in the format that jokergoo/bsub and others parse. IBM's command reference lists these parameters.
PARAMETERS = """
    MBD_SLEEP_TIME = 20
    JOB_SPOOL_DIR = /spool/%U
"""


@pytest.mark.parametrize(
    ("more", "hides"),
    [
        ("", False),
        ("    SECURE_JOB_INFO_LEVEL = 0\n", False),
        ("    SECURE_JOB_INFO_LEVEL = 1\n", False),
        ("    SECURE_JOB_INFO_LEVEL = 4\n", True),
        ("    SECURE_JOB_INFO_LEVEL = 2\n    ENABLE_JOB_INFO_BY_ADMIN_ROLE = queue\n", True),
        ("    SECURE_JOB_INFO_LEVEL = 2\n    ENABLE_JOB_INFO_BY_ADMIN_ROLE = usergroup cluster\n", False),
    ],
)
def test_hidden_jobs_are_recognised(more: str, hides: Any) -> None:
    found = LSF.parse_privacy(f"QUEUE: normal\n{PARAMETERS}{more}")
    assert (found is not None) is hides
    assert found is None or "SECURE_JOB_INFO_LEVEL=" in found[0]


def test_limits_of_queues_are_parsed() -> None:
    queues = LSF.parse_limits(
        """
QUEUE: normal
  -- For normal low priority jobs.  This is the default queue.

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  Open:Active       -    -    -    -     0     0     0     0     0    0
Interval for a host to accept two jobs is 0 seconds

DEFAULT LIMITS:
 RUNLIMIT
 60.0 min

MAXIMUM LIMITS:
 RUNLIMIT
 120.0 min of hostA

 TASKLIMIT
 1 4 8
 FILELIMIT DATALIMIT STACKLIMIT CORELIMIT   MEMLIMIT  SWAPLIMIT PROCESSLIMIT THREADLIMIT
  20000 K   20000 K    2048 K     20000 K      64 G        1 G        16          32

SCHEDULING PARAMETERS
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      -

USERS:  all users
HOSTS:  all hosts used by the LSF system
--------------------------------------------------------------------------------

QUEUE: night
PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  Closed:Inact_Win  -    -    -    -     0     0     0     0     0    0
USERS:  all
HOSTS:  all
"""
        + PARAMETERS
    )
    assert [(q.name, q.cores, q.memory, q.runtime, q.open) for q in queues] == [
        ("normal", 8, 65536, 7200, True),
        ("night", None, None, None, False),
    ]
    with pytest.raises(Unanswered):
        LSF.parse_limits("LSF is down")
