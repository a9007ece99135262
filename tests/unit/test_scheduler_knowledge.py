"""What the schedulers besides Slurm know for a user's choice, and the rules that hold for all of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.schedulers import SCHEDULERS, Unanswered
from hpchub.schedulers.knowledge import ANY_QUEUE, Allocations, Availability, Person, WaitingJob
from hpchub.schedulers.offers import Offer, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping

TAKEN = 1_800_000_000.0

QSTAT_F = """<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <Queue-List>
      <name>batch@node1</name>
      <qtype>BIP</qtype>
      <slots_used>24</slots_used>
      <slots_resv>0</slots_resv>
      <slots_total>64</slots_total>
      <load_avg>9.78711</load_avg>
      <arch>lx-amd64</arch>
      <resource name="mem_free" type="hl">17.617G</resource>
      <resource name="slots" type="qc">40</resource>
      <resource name="gpu" type="hc">2.000000</resource>
      <resource name="s_vmem" type="qf">infinity</resource>
      <resource name="h_vmem" type="qc">100.000G</resource>
    </Queue-List>
    <Queue-List>
      <name>night@node1</name>
      <qtype>BIP</qtype>
      <slots_used>0</slots_used>
      <slots_resv>0</slots_resv>
      <slots_total>64</slots_total>
      <state>d</state>
      <resource name="h_vmem" type="qc">128.000G</resource>
    </Queue-List>
  </queue_info>
  <job_info>
  </job_info>
</job_info>
"""
QSTAT = """<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
  </queue_info>
  <job_info>{}
  </job_info>
</job_info>
"""
QW = """
    <job_list state="pending">
      <JB_job_number>8</JB_job_number>
      <JB_name>sim</JB_name>
      <JB_owner>bob</JB_owner>
      <state>{}</state>
      <slots>4</slots>
      <requested_pe name="smp">4</requested_pe>
      <hard_request name="h_rt" resource_contribution="0.000000">3600</hard_request>
      <hard_req_queue>{}</hard_req_queue>
    </job_list>"""
SLOTS = [
    {"Name": "slot1@n1", "State": "Unclaimed", "PartitionableSlot": True, "Cpus": 40, "Memory": 9000, "GPUs": 1},
    {"Name": "slot1@n2", "State": "Claimed", "Cpus": 8, "Memory": 9000},
    {"Name": "slot1@n3", "State": "Drained", "PartitionableSlot": True, "Cpus": 64, "Memory": 9000},
    {"Name": "slot1@n4", "State": "Unclaimed", "PartitionableSlot": True, "Cpus": 64, "Memory": 9000, "Start": False},
]
IDLE = [{"ClusterId": 7, "JobStatus": 1, "RequestCpus": 4, "RequestMemory": "ifthenelse(x,1,2)"}]
PBSNODES = {
    "timestamp": 1664911414,
    "pbs_version": "20.0.1",
    "pbs_server": "srv",
    "nodes": {
        "n1": {
            "state": "free",
            "resources_available": {"ncpus": 64, "mem": "67108864kb", "ngpus": 4},
            "resources_assigned": {"ncpus": 24, "mem": "33554432kb", "ngpus": 1},
        },
        "n2": {"state": "down", "resources_available": {"ncpus": 64}, "resources_assigned": {}},
        "n3": {
            "state": "free",
            "resources_available": {"ncpus": 8, "mem": "8gb", "Qlist": "gpu,debug"},
            "resources_assigned": {},
        },
    },
}
PBS_JOBS = {
    "timestamp": 1664911414,
    "pbs_version": "20.0.1",
    "pbs_server": "srv",
    "Jobs": {
        "8.srv": {
            "Job_Name": "sim",
            "Job_Owner": "bob@login1",
            "job_state": "Q",
            "queue": "batch",
            "Resource_List": {"ncpus": 8, "nodect": 2, "mem": "8gb", "walltime": "01:00:00"},
        },
        "9.srv": {"Job_Name": "x", "job_state": "H", "queue": "gpu", "Resource_List": {"ncpus": 1, "nodect": 1}},
    },
}
TORQUE_NODES = (
    "<Data><Node><name>n1</name><state>free</state><np>64</np><properties>ib</properties>"
    "<jobs>0/7.srv,1-3/8.srv, 4/9.srv</jobs><gpus>2</gpus></Node>"
    "<Node><name>n2</name><state>job-exclusive</state><np>8</np></Node>"
    "<Node><name>n3</name><state>down,offline</state><np>99</np></Node></Data>\n"
)
TORQUE_JOBS = (
    "<Data><Job><Job_Id>7.srv</Job_Id><Job_Name>x</Job_Name><Job_Owner>ann@l</Job_Owner><job_state>Q</job_state>"
    "<queue>batch</queue><Resource_List><nodes>1:ppn=4</nodes><walltime>01:00:00</walltime></Resource_List></Job></Data>\n"
)
BHOSTS = """HOST_NAME          STATUS       JL/U    MAX  NJOBS    RUN  SSUSP  USUSP    RSV
n1                 ok              -     64     24     24      0      0      0
n2                 closed_Full     -      8      8      8      0      0      0
n3                 unavail         -     64      0      0      0      0      0
"""
BQUEUES = """QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP  RSV
batch            30  Open:Active       -    -    -    -    24     0    24     0    0
long             20  Open:Active       -    -    -    -    24     7    24     0    0
night            20  Open:Inact        -    -    -    -    24     0    24     0    0
"""

GOOD = {
    "gridengine": {"nodes": QSTAT_F, "jobs": QSTAT.format("")},
    "uge": {"nodes": QSTAT_F, "jobs": QSTAT.format("")},
    "htcondor": {"nodes": json.dumps(SLOTS, indent=1), "jobs": ""},
    "pbs": {"nodes": json.dumps(PBSNODES, indent=4), "jobs": json.dumps({**PBS_JOBS, "Jobs": {}}, indent=4)},
    "torque": {"nodes": TORQUE_NODES, "jobs": ""},
    "lsf": {"nodes": BHOSTS, "jobs": BQUEUES},
}


def availability(name: str, **changes: str) -> Availability:
    return Availability(TAKEN, SCHEDULERS[name].parse_availability({**GOOD[name], **changes}, TAKEN))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_job_that_fits_on_a_free_node_starts_at_once(name: str) -> None:
    found = availability(name)
    assert found.wait("batch", Wanted(40, 1024, 3600)) == 0
    assert found.wait("batch", Wanted(61, 1024, 3600)) is None


@pytest.mark.parametrize("name", ["gridengine", "htcondor", "pbs"])
def test_memory_and_gpus_count(name: str) -> None:
    found = availability(name)
    assert found.wait("batch", Wanted(1, 8000, gpus=1)) == 0
    assert found.wait("batch", Wanted(1, 200_000)) is None
    assert found.wait("batch", Wanted(1, 1, gpus=5)) is None


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("gridengine", QSTAT.format(QW.format("qw", "batch"))),
        ("htcondor", json.dumps(IDLE, indent=1)),
        ("pbs", json.dumps(PBS_JOBS, indent=4)),
        ("torque", TORQUE_JOBS),
        ("lsf", BQUEUES.replace("24     0    24", "24     1    24")),
    ],
)
def test_wait_is_unknown_behind_a_job_without_an_estimate(name: str, jobs: str) -> None:
    found = availability(name, jobs=jobs)
    assert found.wait("batch", Wanted(4, 4096, 3600)) is None
    if name != "lsf":
        assert found.wait("batch", Wanted(3, 1024, 3600)) == 0


def test_grid_engine_shows_which_queues_start_jobs() -> None:
    found = availability("gridengine")
    assert found.queues["batch"].offers == (Offer(40, 102400, 2),)
    assert (found.queues["night"].open, found.wait("night", Wanted(1, 1))) == (False, None)
    held = availability("gridengine", jobs=QSTAT.format(QW.format("hqw", "batch") + QW.format("qw", "night@node1")))
    assert held.queues["batch"].waiting == ()
    assert held.queues["night"].waiting == (WaitingJob(Wanted(4, 0, 3600)),)


def test_grid_engine_limits_the_jobs_of_each_user() -> None:
    scheduler = SCHEDULERS["gridengine"]
    policies = {
        "config": scheduler.parse_policy("config", "#global:\nmax_u_jobs                   5\nmax_jobs   0\n"),
        "scheduler": scheduler.parse_policy("scheduler", "algorithm   default\nmaxujobs                          0\n"),
    }
    assert scheduler.allocations(Person("alice"), {}, policies, TAKEN) == Allocations(TAKEN, max_submitted=5)
    assert scheduler.allocations(Person("alice"), {}, {}, TAKEN) is None
    with pytest.raises(Unanswered):
        scheduler.parse_policy("config", "error: commlib error: got select error\n")


def test_nodes_of_pbs_that_belong_to_queues_serve_only_these() -> None:
    found = availability("pbs")
    assert found.queues["gpu"].offers == (Offer(8, 8192),)
    assert found.queues[ANY_QUEUE].offers == (Offer(40, 32768, 3),)


def test_estimate_of_pbs_is_used() -> None:
    estimate = '"queue": "batch", "estimated": {"start_time": "Fri Jan 15 09:00:00 2027"}'
    jobs = json.dumps(PBS_JOBS, indent=4).replace('"queue": "batch"', estimate)
    assert availability("pbs", jobs=jobs).wait("batch", Wanted(4, 4096, 3600)) == 3600


def test_torque_knows_the_features_but_not_the_memory() -> None:
    (offer,) = availability("torque").queues[ANY_QUEUE].offers
    assert offer == Offer(59, None, 2, None, frozenset({"ib"}))


def test_queue_of_lsf_that_is_inactive_starts_nothing() -> None:
    assert availability("lsf").wait("night", Wanted(1, 1)) is None


FAILURES = [
    *("", "Unable to contact the server\n", "{", "[", "<Data>", "null", "[]", "{}", "7 RUNNING\n", "\x00\n"),
    *("<Data/>", "<job_info/>", "<a><b/></a>", '{"nodes": {}}', '{"nodes": {"n1": 7}}', '{"nodes": [7]}'),
    "connection to 10.0.0.1:8443 failed (errno 111)\n",
]


@pytest.mark.parametrize("text", FAILURES)
@pytest.mark.parametrize("name", [*sorted(GOOD), "slurm"])
def test_answer_without_nodes_is_no_answer(name: str, text: str) -> None:
    jobs = GOOD.get(name, {"jobs": "7d1f0c3a9b5e2468|JOBID\n"})["jobs"]
    with pytest.raises(Unanswered):
        SCHEDULERS[name].parse_availability({"nodes": text, "jobs": jobs}, TAKEN)


@pytest.mark.parametrize("name", ["gridengine", "pbs", "lsf"])
@pytest.mark.parametrize("text", FAILURES)
def test_answer_without_jobs_is_no_answer(name: str, text: str) -> None:
    with pytest.raises(Unanswered):
        availability(name, jobs=text)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_truncated_nodes_are_no_answer_or_fewer_nodes(name: str) -> None:
    whole = GOOD[name]["nodes"]
    most = availability(name).queues.get("batch") or availability(name).queues[ANY_QUEUE]
    for length in range(0, len(whole.rstrip()), 7):
        try:
            found = availability(name, nodes=whole[:length])
        except Unanswered:
            continue
        assert found.queues.get("batch", found.queues.get(ANY_QUEUE)) in (most, None) or name == "lsf"


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_each_scheduler_follows_the_rules(name: str) -> None:
    scheduler = SCHEDULERS[name]
    topics = scheduler.knowledge_commands
    assert set(scheduler.availability_topics) <= set(topics)
    assert not set(scheduler.availability_topics) & set(scheduler.user_topics)
    kinds: list[Mapping[str, Any] | tuple[str, ...]] = [
        scheduler.availability_topics,
        scheduler.user_topics,
        scheduler.policy_topics,
    ]
    assert sorted(topic for kind in kinds for topic in kind) == sorted(topics)
    assert all(command and all(word.isprintable() for word in command) for command in topics.values())
    assert scheduler.maintenances({}) == ()
    assert scheduler.allocations(Person("alice"), {}, {}, TAKEN) is None
