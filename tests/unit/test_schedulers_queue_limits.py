"""Answers on queues that are cut off, wherever: what is left of one must not pass for a whole one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.clusters.limits import parse_report
from hpchub.schedulers import SCHEDULERS, QueueLimits, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable

TORQUE = """\
Queue: {0}
    queue_type = Execution
    total_jobs = 0
    resources_max.mem = 8192mb
    resources_max.ncpus = 16
    resources_max.walltime = 12:00:00
    mtime = Thu Jun  2 20:44:43 2016
    enabled = True
    started = {1}

"""
TORQUE_TABLE = """\
Queue              Max    Tot   Ena   Str   Que   Run   Hld   Wat   Trn   Ext T   Cpt
----------------   ---   ----    --    --   ---   ---   ---   ---   ---   --- -   ---
interactive          0      0   yes   yes     0     0     0     0     0     0 E     0
batch                0      0   yes    no     0     0     0     0     0     0 E     0
"""
TORQUE_SERVER = """\
Server: server.example.org
    server_state = Active
    scheduling = True
    managers = root@server.example.org,hpchub@login1.example.org
    pbs_version = 6.1.1

"""
# A queue of another kind is no class of Moab's.
MOAB_TABLE = TORQUE_TABLE + "route                0      0   yes   yes     0     0     0     0     0     0 R     0\n"
MOAB = """\
Class/Queue Status

ClassID        Priority Flags        QDef              QOSList* PartitionList        Target Limits

DEFAULT               0 ---          ---                   ---  ---                   0.00  ---
interactive           1 ---          ---                   ---  [A][B]               70.00  MAXJOB=33:200,250
  MAX.WCLIMIT=12:00:00  MAX.PROC=16  MAX.MEM=8192
batch                 1 ---          ---                   ---  [A][B]               70.00  MAXJOB=33:200,250
  MAX.WCLIMIT=12:00:00  MAX.PROC=16  MAX.MEM=8192
"""
LSF = """
QUEUE: {0}
  -- For normal low priority jobs.

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  {1}     -    -    -    -     0     0     0     0     0    0
Interval for a host to accept two jobs is 0 seconds

MAXIMUM LIMITS:
 RUNLIMIT
 720.0 min

 TASKLIMIT
 1 1 16

 MEMLIMIT
     8 G

SCHEDULING PARAMETERS
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      -
 loadStop    -     -     -     -       -     -    -     -     -      -      -

USERS: all
HOSTS:  all
"""
LSF_TABLE = """\
QUEUE_NAME      PRIO STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN  SUSP
interactive      30  Open:Active       -    -    -    -     0     0     0     0
batch            30  Open:Inact        -    -    -    -     0     0     0     0
"""
# qconf -sq '*' and qstat -g c -xml; not all of their lines.
GRID_ENGINE = """\
qname                 {0}
hostlist              @lab
pe_list               make smp
slots                 16
complex_values        h_vmem=128G, \\
                      gpu=2
s_rt                  INFINITY
h_rt                  12:00:00
h_vmem                INFINITY
"""
GRID_ENGINE_XML = """\
<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <cluster_queue_summary>
    <name>batch</name>
    <load>0.01</load>
    <used>0</used>
    <resv>0</resv>
    <available>0</available>
    <total>32</total>
    <temp_disabled>0</temp_disabled>
    <manual_intervention>32</manual_intervention>
  </cluster_queue_summary>
  <cluster_queue_summary>
    <name>interactive</name>
    <load>0.01</load>
    <used>0</used>
    <resv>0</resv>
    <available>16</available>
    <total>32</total>
    <temp_disabled>0</temp_disabled>
    <manual_intervention>16</manual_intervention>
  </cluster_queue_summary>
</job_info>
"""

ANSWERS = {
    "torque": (
        TORQUE.format("interactive", "True") + TORQUE.format("batch", "False"),
        TORQUE_TABLE,
        TORQUE_SERVER,
        "account = hpchub\n",
    ),
    "moab": (MOAB, MOAB_TABLE),
    "lsf": (
        LSF.format("interactive", "Open:Active") + LSF.format("batch", "Open:Inact "),
        LSF_TABLE,
        "    MBD_SLEEP_TIME = 20\n    SECURE_JOB_INFO_LEVEL = 0\n",
    ),
    "gridengine": (GRID_ENGINE.format("interactive") + "\n" + GRID_ENGINE.format("batch"), GRID_ENGINE_XML),
}


# Moab marks neither the end of its classes nor the end of its table, so nobody can notice a cut at these positions:
# behind the first line of the last class, and between the lines of the table. All other cuts are noticed.
UNNOTICED = {
    ("moab", 0): {MOAB.rindex("  MAX.WCLIMIT")},
    ("moab", 1): {MOAB_TABLE.index("----"), MOAB_TABLE.index("interactive"), MOAB_TABLE.index("batch")},
}
# What such a cut loses of a queue: the limits of the last class; that a queue is closed.
UNNOTICED_LOSS: dict[int, Callable[[str], dict[str, Any]]] = {
    0: lambda name: dict.fromkeys(("cores", "memory", "runtime")) if name == "batch" else {},
    1: lambda name: {"open": True},
}


@pytest.mark.parametrize("scheduler", ANSWERS)
def test_a_whole_answer(scheduler: str) -> None:
    told = parse_report(scheduler, "".join(ANSWERS[scheduler]))
    memory, environments = (None, ("make", "smp")) if scheduler == "gridengine" else (8192, None)
    assert told.queues == [
        QueueLimits("interactive", 16, memory, 43200, None, True, environments=environments),
        QueueLimits("batch", 16, memory, 43200, None, False, environments=environments),
    ]
    assert told.hidden is None


@pytest.mark.parametrize("scheduler", ANSWERS)
def test_the_queues_without_what_follows(scheduler: str) -> None:
    """Of a command that fails there is no answer, and nothing to compare with."""
    assert [limits.name for limits in SCHEDULERS[scheduler].parse_limits(ANSWERS[scheduler][0])] == [
        "interactive",
        "batch",
    ]


@pytest.mark.parametrize("scheduler", ANSWERS)
@pytest.mark.parametrize("which", [0, 1])
def test_an_answer_that_is_cut_off_anywhere(scheduler: str, which: int) -> None:
    """One of the answers, with whole ones before and behind it: nothing is told, or all of it."""
    answers = ANSWERS[scheduler]
    whole = parse_report(scheduler, "".join(answers)).queues
    for length in range(len(answers[which])):
        cut = [answer[:length] if i == which else answer for i, answer in enumerate(answers)]
        told = parse_report(scheduler, "".join(cut))
        if which and not length:
            continue  # as if it had failed
        assert told.unanswered or [limits.name for limits in told.queues] == ["interactive", "batch"]
        if length in UNNOTICED.get((scheduler, which), ()):
            assert told.queues == [replace(queue, **UNNOTICED_LOSS[which](queue.name)) for queue in whole]
        else:
            assert told.unanswered or told.queues == whole, answers[which][:length]
        assert told.hidden is None


@pytest.mark.parametrize("scheduler", ANSWERS)
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_all_answers_cut_off(scheduler: str, parts: int) -> None:
    """As by one limit of a wrapper's for all of them."""
    told = parse_report(scheduler, "".join(answer[: len(answer) // parts] for answer in ANSWERS[scheduler]))
    assert told.unanswered
    assert told.hidden is None


def test_a_server_that_is_cut_off_hides_nothing() -> None:
    for length in range(TORQUE_SERVER.index("Active"), len(TORQUE_SERVER) - 2):
        if TORQUE_SERVER[length - 1] != "\n":
            with pytest.raises(Unanswered, match="cut off"):
                SCHEDULERS["torque"].parse_privacy(TORQUE_SERVER[:length] + "account = hpchub\n")
    with pytest.raises(Unanswered, match="cut off"):
        SCHEDULERS["lsf"].parse_privacy("    SECURE_JOB_INFO_LEVEL = 3\n    ENABLE_JOB_INFO_BY_AD")


@pytest.mark.parametrize(
    ("scheduler", "old", "new", "field", "value"),
    [
        ("lsf", "     8 G", "   4.5 G", "memory", 4608),
        ("lsf", "     8 G", "   1.5 T", "memory", 1572864),
        ("lsf", "     8 G", "64 G", "memory", 65536),
        ("lsf", "     8 G", f"{'9' * 5000} G", "memory", None),
        ("lsf", " 1 1 16", " 1 1 ²", "cores", None),
        ("lsf", " 1 1 16", f" 1 1 {'9' * 5000}", "cores", None),
        ("lsf", " 720.0 min", " 0.5 min", "runtime", 30),
        ("lsf", " 720.0 min", " 1.2.3 min", "runtime", None),
        ("lsf", " 720.0 min", f" {'9' * 5000} min", "runtime", None),
        ("moab", "MAX.PROC=16 ", "MAX.PROC=16,32 ", "cores", 32),
        ("moab", "MAX.PROC=16 ", "MAXPROCPERJOB=16,32 ", "cores", 32),
        ("moab", "MAX.MEM=8192", "MAX.MEM=1024,2048", "memory", 2048),
        ("moab", "MAX.WCLIMIT=12:00:00", "MAX.WCLIMIT=1:00:00,2:00:00", "runtime", 7200),
        ("moab", "MAX.PROC=16 ", f"MAX.PROC={'9' * 5000} ", "cores", None),
        ("torque", "mem = 8192mb", "mem = 512mw", "memory", 4096),
        ("torque", "mem = 8192mb", "mem = 1024kw", "memory", 8),
        ("torque", "mem = 8192mb", "mem = 1048576", "memory", 1),
        ("torque", "mem = 8192mb", f"mem = {'9' * 5000}mb", "memory", None),
    ],
)
def test_a_limit(scheduler: str, old: str, new: str, field: str, value: int | None) -> None:
    first, *more = ANSWERS[scheduler]
    assert old in first
    told = SCHEDULERS[scheduler].parse_limits("".join([first.replace(old, new), *more]))
    assert [getattr(limits, field) for limits in told] == [value, value]
