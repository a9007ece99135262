"""PBS: directives, job ids and the output of its programs.

The output is from OpenPBS 19.0 and 20.0 and from PBS 2022.1, as quoted by OpenPBS's issues 1255 and 2677, buildtest,
psi/j and the tools of it4i, with other names. The messages and exit codes are from openpbs/openpbs, src/cmds/qstat.c,
and from Parsl/parsl, issues 3906 and 4016.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from truncated_output import check_truncated_query

from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered
from hpchub.schedulers.pbs import read_owner

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model.entries import Cluster, Profile

PBS = SCHEDULERS["pbs"]
TAG = f"hpchub/hub.example/alice/{'a' * 16}"
RUNNING = """{
    "timestamp":1664911414,
    "pbs_version":"19.0.0",
    "pbs_server":"pbs",
    "Jobs":{
        "157.pbs":{
            "Job_Name":"hpchub-aaaaaaaaaaaaaaaa",
            "Job_Owner":"alice@login1.example.org",
            "job_state":"R",
            "queue":"workq",
            "server":"pbs",
            "Checkpoint":"u",
            "ctime":"Tue Oct  4 21:23:20 2022",
            "Error_Path":"login1:/home/alice/hpchub.e157",
            "exec_host":"charon24/0*2+charon21/0*2",
            "exec_host2":"charon24.nti.tul.cz:15002/0*2+charon21.nti.tul.cz:15002/0*2",
            "exec_vnode":"(charon24:ncpus=2:mem=4194304kb)+(charon21:ncpus=2:mem=4194304kb)",
            "Hold_Types":"n",
            "Join_Path":"oe",
            "Resource_List":{
                "mem":"4gb",
                "ncpus":2,
                "walltime":"08:00:00"
            },
            "substate":42,
            "Variable_List":{
                "PBS_O_HOME":"/home/alice",
                "PBS_O_LANG":"C.UTF-8",
                "HPCHUB_TAG":"hpchub/hub.example/alice/aaaaaaaaaaaaaaaa"
            },
            "comment":"Job run at Tue Oct 04 at 21:23 on (charon24:ncpus=2:mem=4194304kb)"
        }
    }
}
"""


def answer(**jobs: Any) -> str:
    """Return the output of ``qstat -f -F json`` for jobs that differ from the job in ``RUNNING``."""
    document = json.loads(RUNNING)
    (job,) = document["Jobs"].values()
    document["Jobs"] = {name.replace("_", "."): {**job, **changes} for name, changes in jobs.items()}
    return json.dumps(document)


def test_directives_contain_every_resource(profile: Callable[..., Profile], cluster: Cluster) -> None:
    found = PBS.directives(
        profile(runtime="1-00:30:00", gpus=1, account="phys", node_constraint="ib=True", options=["-l place=excl"]),
        cluster,
        session="a" * 16,
        comment=TAG,
    )
    assert found == [
        "-N hpchub-aaaaaaaaaaaaaaaa",
        f"-v HPCHUB_TAG={TAG}",
        "-q interactive",
        "-l select=1:ncpus=2:mem=4gb:ngpus=1:ib=True",
        "-l walltime=24:30:00",
        "-r n",
        "-j oe",
        "-o /dev/null",
        "-S /bin/bash",
        "-A phys",
        "-l place=excl",
    ]


def test_reservation_is_requested_as_a_queue(profile: Callable[..., Profile], cluster: Cluster) -> None:
    found = PBS.directives(profile(reservation="R123"), cluster, session="a" * 16, comment=TAG)
    assert [line for line in found if line.startswith("-q")] == ["-q R123"]


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("123.pbs\n", "123.pbs"),
        ("qsub: note\n7.head-1.example.org\n", "7.head-1.example.org"),
        ("9", "9"),
        ("12.a\nhello\n", "12.a"),
    ],
)
def test_job_id_is_in_its_own_line(output: str, job: Any) -> None:
    assert PBS.parse_submit(output) == job


@pytest.mark.parametrize(
    "output", ["", "qsub: waiting", "123[].pbs", "123.pbs; id", "$(id)", "123.", "12.a\n13.a", "-1.a"]
)
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        PBS.parse_submit(output)


def test_running_job_has_host_user_and_session() -> None:
    job = PBS.parse_query(RUNNING)["157.pbs"]
    assert (job.state, job.detail, job.host, job.user) == (JobState.RUNNING, "running", "charon24", "alice")
    assert (job.reason, job.start) == ("", "")
    assert job.session("hub.example") == "a" * 16
    assert job.session("other.example") == ""


def test_waiting_job_has_reason_and_start() -> None:
    job = PBS.parse_query(
        answer(
            j7_pbs={
                "job_state": "Q",
                "exec_host": "",
                "comment": "Not Running: Insufficient amount of resource: ncpus (R: 2 A: 0 T: 8)",
                "estimated": {"start_time": "Tue Oct  4 22:00:00 2022", "exec_vnode": "(n1:ncpus=2)"},
            }
        ).replace("j7", "7")
    )["7.pbs"]
    assert (job.state, job.detail, job.host, job.start) == (JobState.PENDING, "queued", "", "2022-10-04T22:00:00")
    assert job.reason == "Insufficient amount of resource: ncpus (R: 2 A: 0 T: 8)"
    assert PBS.explain(job.reason) == "no node has enough free resources for your job at the moment"


@pytest.mark.parametrize(
    ("comment", "explanation"),
    [
        (
            "User has reached server running job limit.",
            "the limit of running jobs is reached, for you, your group or the queue",
        ),
        (
            "Job would conflict with reservation or top job",
            "jobs with a higher priority start first, or your job would not end before a reservation begins",
        ),
        ("Queue not started.", "the queue is closed"),
        ("Job held by alice on Tue Oct 4 2022", "your job is on hold until somebody releases it"),
        (
            "Can Never Run: Insufficient amount of queue resource: ncpus (R: 99 A: 8 T: 8)",
            "your job requests more than the cluster can ever provide",
        ),
        ("Something new", "Something new"),
    ],
)
def test_reasons_are_explained(comment: str, explanation: str) -> None:
    assert PBS.explain(comment) == explanation


@pytest.mark.parametrize(
    ("letter", "state"),
    [
        *((letter, JobState.PENDING) for letter in "QHWT"),
        *((letter, JobState.RUNNING) for letter in "RSUB"),
        *((letter, JobState.ENDED) for letter in "EFX"),
        ("M", JobState.UNKNOWN),
        ("Z", JobState.UNKNOWN),
    ],
)
def test_states_map_to_session_states(letter: str, state: Any) -> None:
    (job,) = PBS.parse_query(answer(x={"job_state": letter})).values()
    assert job.state is state


def test_array_is_parsed_like_other_jobs() -> None:
    text = answer(x={"job_state": "B"}).replace('"x"', '"12[].pbs"')
    assert PBS.parse_query(text)["12[].pbs"].state is JobState.RUNNING


def test_query_without_jobs_is_empty() -> None:
    assert PBS.parse_query('{"timestamp":1750053827,"pbs_version":"22.05.11","pbs_server":"pbs"}\n') == {}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(RUNNING[:-5], id="end-missing"),
        pytest.param(RUNNING[: len(RUNNING) // 2], id="truncated"),
        pytest.param("qstat: cannot connect to server pbs (errno=15010)\n", id="error-message"),
        pytest.param("{}", id="no-server"),
        pytest.param('{"pbs_server":"pbs","Jobs":[]}', id="jobs-are-a-list"),
        pytest.param(RUNNING.replace('"pbs_version"', '"Jobs":{},"pbs_version"'), id="duplicate-key"),
        pytest.param("[" * 100_000, id="deeply-nested"),
    ],
)
def test_invalid_query_raises(text: str) -> None:
    with pytest.raises(Unanswered):
        PBS.parse_query(text)


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(PBS, answer(a_pbs={}, b_pbs={"job_state": "Q", "comment": "Not Running: x"}) + "\n")


@pytest.mark.parametrize(
    "variable",
    [
        '"FOO":005',
        '"FOO":.123',
        '"FOO":-00.1',
        '"FOO":1.',
        '"FOO":inf',
        '"FOO":"it\\\'s"',
        '"FOO":"ab\\,c"',
        '"FOO":"a\nb\tc"',
    ],
)
def test_unusual_variable_of_a_user_does_not_spoil_the_query(variable: Any) -> None:
    text = RUNNING.replace('"PBS_O_LANG":"C.UTF-8"', variable)
    assert PBS.parse_query(text)["157.pbs"].session("hub.example") == "a" * 16


def with_name(name: str) -> str:
    """Return the output with another job of this name, with unescaped quotes as PBS before version 19 prints them."""
    other = '},"8.pbs":{"Job_Name":"NAME","job_state":"R","Job_Owner":"bob@x"}}}'
    return RUNNING.replace("}\n    }\n}", other.replace("NAME", name))


def test_job_with_a_name_that_forges_its_state_has_no_user() -> None:
    jobs = PBS.parse_query(with_name('x","job_state":"F","a":"'))
    assert jobs["157.pbs"].state is JobState.RUNNING
    assert (jobs["8.pbs"].state, jobs["8.pbs"].user) == (JobState.UNKNOWN, "")


def test_name_that_forges_another_job_raises() -> None:
    with pytest.raises(Unanswered):
        PBS.parse_query(with_name('x"},"157.pbs":{"job_state":"F"},"9.pbs":{"a":"'))


def test_tag_is_read_from_a_list_of_variables() -> None:
    (job,) = PBS.parse_query(answer(x={"Variable_List": rf"PBS_O_HOME=/h,A=b\,HPCHUB_TAG=z,HPCHUB_TAG={TAG}"})).values()
    assert job.session("hub.example") == "a" * 16


@pytest.mark.parametrize(
    ("job", "code", "stderr"),
    [("99.pbs", 153, "qstat: Unknown Job Id 99.pbs\n"), ("99.pbs", 153, "qstat: Unknown Job Id 99.pbs.example.org\n")],
)
def test_find_returns_none_for_an_unknown_job(job: Any, code: int, stderr: str) -> None:
    assert PBS.parse_find(job, code, '{"timestamp":1,"pbs_version":"1","pbs_server":"pbs"}', stderr) is None


def state_of(job: Job | None) -> JobState:
    """Return the state of a job that was found."""
    assert job is not None
    return job.state


@pytest.mark.parametrize("name", ["157.pbs", "157.pbs.example.org", "157"])
def test_find_returns_ended_for_a_finished_job(name: str) -> None:
    stdout = '{\n    "timestamp":1752246824,\n    "pbs_version":"2024.1.2",\n    "pbs_server":"pbs.example.org"\n}\n'
    stderr = f"qstat: {name} Job has finished, use -x or -H to obtain historical job information\n"
    assert state_of(PBS.parse_find("157.pbs", 35, stdout, stderr)) is JobState.ENDED


def test_find_returns_the_state_of_a_known_job() -> None:
    assert state_of(PBS.parse_find("157.pbs", 0, RUNNING, "")) is JobState.RUNNING


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (
            255,
            '{"timestamp":1,"pbs_version":"22.05.11","pbs_server":"pbs"}',
            "qstat: cannot connect to server pbs (errno=15010)",
        ),
        (0, '{"timestamp":1,"pbs_version":"22.05.11","pbs_server":"pbs"}', ""),
        (153, "", "qstat: Unknown Job Id 1570.pbs"),
        (153, "", "qstat: Unknown Job Id 157[].pbs"),
        (0, "", "qstat: Unknown Job Id 157.pbs"),
        (159, "", "qstat: Unauthorized Request  157.pbs"),
        (35, "", "qstat: 1157.pbs Job has finished"),
        (35, "", "qstat: 157[].pbs Job has finished"),
        (0, "", "qstat: 157.pbs Job has finished"),
        (0, RUNNING[:-9], ""),
        (1, RUNNING, ""),
    ],
)
def test_inconclusive_find_raises(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        PBS.parse_find("157.pbs", code, stdout, stderr)


# Output of qstat -B -f of PBS 14.1 for an ordinary user, from a course, with a long list that qstat wraps.
SERVER = """\
Server: pbs
    server_state = Active
    server_host = pbs.example.org
    scheduling = True
    total_jobs = 1
    state_count = Transit:0 Queued:0 Held:0 Waiting:0 Running:0 Exiting:0 Begun
\t:0
    default_queue = workq
    managers = root@pbs.example.org,admin@login1.example.org,
\toperator1@login1.example.org
    query_other_jobs = True
    pbs_version = 14.1.2

account = hpchub
"""
HIDING = SERVER.replace("    query_other_jobs = True\n", "")


@pytest.mark.parametrize("scheduler", ["pbs", "torque"])
@pytest.mark.parametrize(
    ("answer", "hides"),
    [
        (SERVER, False),
        (HIDING, True),
        (SERVER.replace("jobs = True", "jobs = False"), True),
        (HIDING.replace("operator1@", "hpchub@"), False),
        (HIDING.replace("pbs_version", "operators = hpchub@*\n    pbs_version"), False),
        (HIDING.replace("operator1@", "nothpchub@"), True),
        ("account = hpchub\n", False),
    ],
    ids=[
        "jobs-are-shown",
        "attribute-not-set",
        "attribute-is-false",
        "account-is-a-manager",
        "account-is-an-operator",
        "similar-account-is-a-manager",
        "no-server-in-the-output",
    ],
)
def test_hidden_jobs_are_recognised(scheduler: Any, answer: Any, hides: Any) -> None:
    found = SCHEDULERS[scheduler].parse_privacy('{"pbs_server":"pbs"}\n' + answer)
    assert (found is not None) is hides
    assert found is None or ("query_other_jobs" in found[0] and "operators += hpchub@" in found[1])
    assert [command[0] for command in SCHEDULERS[scheduler].limits_more[-2:]] == ["qstat", "echo"]


def test_limits_of_queues_are_parsed() -> None:
    queues = PBS.parse_limits(
        """{
    "timestamp":1646895019,
    "pbs_version":"20.0.1",
    "pbs_server":"isrv1.barbora.it4i.cz",
    "Queue":{
        "qexp":{
            "queue_type":"Execution",
            "Priority":150,
            "max_queued":"[o:PBS_ALL=10]",
            "resources_max":{
                "ncpus":144,
                "nodect":4,
                "mem":"64gb",
                "ngpus":0,
                "walltime":"01:00:00"
            },
            "enabled":"True",
            "started":"True"
        },
        "qlong":{
            "queue_type":"Execution",
            "max_queued":"[o:PBS_ALL=10]",
            "max_queued":"[u:PBS_GENERIC=2]",
            "enabled":"True",
            "started":"False"
        }
    }
}
"""
        + SERVER
    )
    assert [(q.name, q.cores, q.memory, q.runtime, q.gpus, q.open) for q in queues] == [
        ("qexp", 144, 65536, 3600, 0, True),
        ("qlong", None, None, None, None, False),
    ]
    with pytest.raises(Unanswered):
        PBS.parse_limits('{"pbs_server":"pbs"}')


@pytest.mark.parametrize("user", ["alice", "first.last", "AB1234", "ann@CL.ORG"])
def test_owner_may_have_a_name_with_a_realm(user: str) -> None:
    assert read_owner(f"{user}@login1.example.org") == user
    assert read_owner("alice") == "alice"
    assert read_owner("") == ""
