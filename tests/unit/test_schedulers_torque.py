"""Torque: directives, job ids and the output of its programs.

The output follows the administrator's guide of Torque 6.1 and adaptivecomputing/torque, src/cmds/qstat.c. The names of
NUMA nodes have not been checked with a real server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from truncated_output import check_truncated_query

from hpchub.schedulers import SCHEDULERS, Job, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpchub.model.entries import Cluster, Profile

TORQUE = SCHEDULERS["torque"]
TAG = f"hpchub/hub.example/alice/{'a' * 16}"


def job(
    number: str = "7",
    state: Any = "R",
    *,
    name: str = "hpchub-aaaaaaaa",
    owner: str = "alice@login1.example.org",
    tag: str = TAG,
    more: str = "",
) -> str:
    variables = f"PBS_O_QUEUE=batch,PBS_O_HOME=/home/alice,PBS_O_PATH=/usr/bin:/bin,HPCHUB_TAG={tag},PBS_O_HOST=login1"
    return (
        f"<Job><Job_Id>{number}.server.example.org</Job_Id><Job_Name>{name}</Job_Name><Job_Owner>{owner}</Job_Owner>"
        f"<job_state>{state}</job_state><queue>batch</queue><server>server</server><Checkpoint>u</Checkpoint>"
        f"<Resource_List><mem>4gb</mem><nodes>1:ppn=2</nodes><walltime>08:00:00</walltime></Resource_List>"
        f"<Variable_List>{variables}</Variable_List>{more}</Job>"
    )


def answer(*jobs: Any) -> str:
    return f"<Data>{''.join(jobs)}</Data>\n"


def test_directives_contain_every_resource(profile: Callable[..., Profile], cluster: Cluster) -> None:
    found = TORQUE.directives(
        profile(gpus=1, account="phys", reservation="school.1", node_constraint="ib", options=["-m n"]),
        cluster,
        session="a" * 16,
        comment=TAG,
    )
    assert found == [
        "-N hpchub-aaaaaaaa",
        f"-v HPCHUB_TAG={TAG}",
        "-q interactive",
        "-l nodes=1:ppn=2:gpus=1:ib",
        "-l mem=4gb",
        "-l walltime=8:00:00",
        "-r n",
        "-j oe",
        "-o /dev/null",
        "-S /bin/bash",
        "-A phys",
        "-W x=FLAGS:ADVRES:school.1",
        "-m n",
    ]
    assert len(found[0]) == len("-N ") + 15


@pytest.mark.parametrize(("output", "job_id"), [("7.server.example.org\n", "7.server.example.org"), ("7\n", "7")])
def test_job_id_is_in_its_own_line(output: str, job_id: str) -> None:
    assert TORQUE.parse_submit(output) == job_id


@pytest.mark.parametrize("output", ["", "qsub: submit error (Unknown queue MSG=cannot locate queue)", "7[].server"])
def test_submit_output_without_job_id_raises(output: str) -> None:
    with pytest.raises(Unanswered, match="no job id"):
        TORQUE.parse_submit(output)


@pytest.mark.parametrize(
    ("exec_host", "host"),
    [
        ("node1/0+node1/1", "node1"),
        ("node1/0-3", "node1"),
        ("n-2.example.org/0,2-3+n3/0", "n-2.example.org"),
        ("numa1-0/0+numa1-0/1+numa1-1/0", "numa1-0"),
        ("", ""),
    ],
)
def test_running_job_has_host_user_and_session(exec_host: str, host: str) -> None:
    (found,) = TORQUE.parse_query(answer(job(more=f"<exec_host>{exec_host}</exec_host>"))).values()
    assert (found.id, found.state, found.host) == ("7.server.example.org", JobState.RUNNING, host)
    assert (found.user, found.session("hub.example")) == ("alice", "a" * 16)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"owner": "bob@x"}, id="another-owner"),
        pytest.param({"name": "mine"}, id="another-name"),
        pytest.param({"name": "hpchub-bbbbbbbb"}, id="another-session"),
        pytest.param({"tag": TAG.replace("hub.", "other.")}, id="another-hub"),
        pytest.param({"tag": f"{TAG},HPCHUB_TAG={TAG}"}, id="tag-twice"),
        pytest.param({"tag": "", "more": f"<Variable_List>HPCHUB_TAG={TAG}</Variable_List>"}, id="two-variable-lists"),
        pytest.param({"tag": f"x\\,HPCHUB_TAG={TAG}"}, id="tag-within-a-value"),
    ],
)
def test_forged_or_foreign_job_has_no_session(other: Any) -> None:
    (found,) = TORQUE.parse_query(answer(job(**other))).values()
    assert found.session("hub.example") == ""


@pytest.mark.parametrize(
    ("letter", "state"),
    [
        *((letter, JobState.PENDING) for letter in "QHWT"),
        *((letter, JobState.RUNNING) for letter in "RS"),
        *((letter, JobState.ENDED) for letter in "EC"),
        ("Z", JobState.UNKNOWN),
    ],
)
def test_states_map_to_session_states(letter: str, state: Any) -> None:
    (found,) = TORQUE.parse_query(answer(job(state=letter))).values()
    assert found.state is state


def test_reason_of_a_waiting_job_is_explained() -> None:
    comment = "<comment>Not Running: Not enough of the right type of nodes available</comment>"
    (found,) = TORQUE.parse_query(answer(job(state="Q", more=comment))).values()
    assert found.reason == "Not enough of the right type of nodes available"
    assert TORQUE.explain(found.reason) == "no node has enough free resources for your job at the moment"


def test_arrays_and_unusual_names_are_parsed() -> None:
    jobs = TORQUE.parse_query(answer(job("8[1]"), job("9", name="a &lt;b&gt; \x01 \u2028"), job("7")))
    assert [found.partition(".")[0] for found in jobs] == ["8[1]", "9", "7"]


def test_empty_query_means_no_jobs() -> None:
    assert TORQUE.parse_query("") == {} == TORQUE.parse_query('<?xml version="1.0"?>\n<Data></Data>\n')


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(answer(job())[:-9], id="truncated"),
        pytest.param(answer(job(), job()), id="job-twice"),
        pytest.param(answer(job(name="</Job_Name></Job><Job>")), id="markup-in-a-name"),
        pytest.param(answer("<Job></Job>"), id="no-id"),
        pytest.param("<Jobs/>", id="other-root-element"),
        pytest.param("<!DOCTYPE x [<!ENTITY a 'a'>]><Data/>", id="entity-declaration"),
        pytest.param("qstat: cannot connect to server server (errno=111) Connection refused", id="error-message"),
    ],
)
def test_invalid_query_raises(text: str) -> None:
    with pytest.raises(Unanswered):
        TORQUE.parse_query(text)


def test_truncated_query_contains_no_incomplete_job() -> None:
    check_truncated_query(TORQUE, answer(job("7"), job("8", "Q", more="<comment>Not Running: x</comment>")))


def state_of(job: Job | None) -> JobState:
    """Return the state of a job that was found."""
    assert job is not None
    return job.state


def test_find_returns_none_for_an_unknown_job_and_the_state_of_a_known_one() -> None:
    known = "7.server.example.org"
    assert TORQUE.parse_find(known, 153, "", f"qstat: Unknown Job Id Error {known}\n") is None
    assert TORQUE.parse_find(known, 153, "", f"qstat: Unknown Job Id {known}\n") is None  # before 4.0
    assert state_of(TORQUE.parse_find(known, 0, answer(job(state="C")), "")) is JobState.ENDED


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        (153, "", "qstat: Unknown Job Id Error 77.server.example.org"),
        (0, "", ""),
        (159, "", "qstat: Unauthorized Request  7.server.example.org"),
        (111, "", "qstat: cannot connect to server server (errno=111) Connection refused"),
        (0, answer(job("8")), ""),
        (0, answer(job())[:-9], ""),
    ],
)
def test_inconclusive_find_raises(code: int, stdout: str, stderr: str) -> None:
    with pytest.raises(Unanswered):
        TORQUE.parse_find("7.server.example.org", code, stdout, stderr)


def test_limits_of_queues_are_parsed() -> None:
    queues = TORQUE.parse_limits(
        """Queue: batch
    queue_type = Execution
    total_jobs = 0
    state_count = Transit:0 Queued:0 Held:0 Waiting:0 Running:0 Exiting:0
    resources_max.mem = 64gb
    resources_max.nodes = 1:ppn=16
    resources_max.walltime = 24:00:00
    resources_default.walltime = 01:00:00
    mtime = Thu Jun  2 20:44:43 2016
    enabled = True
    started = True

Queue: closed
    queue_type = Execution
    resources_max.ncpus = 4
    enabled = False
    started = True

Server: server.example.org
    server_state = Active
    resources_max.ncpus = 99

account = hpchub
"""
    )
    assert [(q.name, q.cores, q.memory, q.runtime, q.open) for q in queues] == [
        ("batch", 16, 65536, 86400, True),
        ("closed", 4, None, None, False),
    ]
    with pytest.raises(Unanswered):
        TORQUE.parse_limits("qstat: cannot connect")


@pytest.mark.parametrize("user", ["alice", "first.last", "AB1234", "ann@CL.ORG"])
def test_owner_may_have_a_name_with_a_realm(user: str) -> None:
    tag = TAG.replace("alice", user)
    found = TORQUE.parse_query(answer(job(owner=f"{user}@login1.example.org", tag=tag)))
    (shown,) = found.values()
    assert (shown.user, shown.session("hub.example")) == (user, "a" * 16)
