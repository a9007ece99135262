"""Limits of queues from truncated output: the remainder must not pass for a complete answer."""

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
# A queue of another type is not a class of Moab.
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
# Output of qconf -sq '*' and of qstat -g c -xml, without some lines.
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

OUTPUTS = {
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


# Moab marks neither the end of its classes nor the end of its table. Therefore truncation is not noticeable after the
# first line of the last class, and between the lines of the table. It is noticed at all other positions.
UNNOTICED = {
    ("moab", 0): {MOAB.rindex("  MAX.WCLIMIT")},
    ("moab", 1): {MOAB_TABLE.index("----"), MOAB_TABLE.index("interactive"), MOAB_TABLE.index("batch")},
}
# The lost information: the limits of the last class, or that a queue is closed.
UNNOTICED_LOSS: dict[int, Callable[[str], dict[str, Any]]] = {
    0: lambda name: dict.fromkeys(("cores", "memory", "runtime")) if name == "batch" else {},
    1: lambda name: {"open": True},
}


@pytest.mark.parametrize("scheduler", OUTPUTS)
def test_complete_output_is_parsed(scheduler: str) -> None:
    report = parse_report(scheduler, "".join(OUTPUTS[scheduler]))
    memory, environments = (None, ("make", "smp")) if scheduler == "gridengine" else (8192, None)
    assert report.queues == [
        QueueLimits("interactive", 16, memory, 43200, None, True, environments=environments),
        QueueLimits("batch", 16, memory, 43200, None, False, environments=environments),
    ]
    assert report.hidden is None


@pytest.mark.parametrize("scheduler", OUTPUTS)
def test_lines_of_a_wrapper_before_each_output_change_nothing(scheduler: str) -> None:
    whole = parse_report(scheduler, "".join(OUTPUTS[scheduler]))
    wrapped = "".join(f"Welcome to the cluster. See https://example.org\n{output}" for output in OUTPUTS[scheduler])
    assert parse_report(scheduler, wrapped) == whole


@pytest.mark.parametrize("scheduler", OUTPUTS)
def test_output_of_the_first_command_alone_is_parsed(scheduler: str) -> None:
    """The output of a command that fails is omitted, so there is nothing to compare the queues with."""
    assert [limits.name for limits in SCHEDULERS[scheduler].parse_limits(OUTPUTS[scheduler][0])] == [
        "interactive",
        "batch",
    ]


@pytest.mark.parametrize("scheduler", OUTPUTS)
@pytest.mark.parametrize("which", [0, 1])
def test_truncated_output_of_one_command_is_noticed(scheduler: str, which: int) -> None:
    """Truncate the output of one command at each position. Either all queues are read, or the answer is rejected."""
    answers = OUTPUTS[scheduler]
    whole = parse_report(scheduler, "".join(answers)).queues
    for length in range(len(answers[which])):
        cut = [answer[:length] if i == which else answer for i, answer in enumerate(answers)]
        report = parse_report(scheduler, "".join(cut))
        if which and not length:
            continue  # the gate omits the output of a command that fails
        assert report.unanswered or [limits.name for limits in report.queues] == ["interactive", "batch"]
        if length in UNNOTICED.get((scheduler, which), ()):
            assert report.queues == [replace(queue, **UNNOTICED_LOSS[which](queue.name)) for queue in whole]
        else:
            assert report.unanswered or report.queues == whole, answers[which][:length]
        assert report.hidden is None


@pytest.mark.parametrize("scheduler", OUTPUTS)
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_truncated_output_of_every_command_is_noticed(scheduler: str, parts: int) -> None:
    """A wrapper may limit the output of every command."""
    report = parse_report(scheduler, "".join(answer[: len(answer) // parts] for answer in OUTPUTS[scheduler]))
    assert report.unanswered
    assert report.hidden is None


def test_truncated_output_does_not_decide_about_hidden_jobs() -> None:
    for length in range(TORQUE_SERVER.index("Active"), len(TORQUE_SERVER) - 2):
        if TORQUE_SERVER[length - 1] != "\n":
            with pytest.raises(Unanswered, match="printed incomplete output"):
                SCHEDULERS["torque"].parse_privacy(TORQUE_SERVER[:length] + "account = hpchub\n")
    with pytest.raises(Unanswered, match="printed incomplete output"):
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
def test_notations_of_limits_are_parsed(scheduler: str, old: str, new: str, field: str, value: int | None) -> None:
    first, *more = OUTPUTS[scheduler]
    assert old in first
    report = SCHEDULERS[scheduler].parse_limits("".join([first.replace(old, new), *more]))
    assert [getattr(limits, field) for limits in report] == [value, value]
