"""Rules of queues: which profiles can never start, for each scheduler. Types of GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from hpchub.clusters.drafts import draft
from hpchub.clusters.limits import LimitsReport, compare
from hpchub.model.entries import Cluster, Profile
from hpchub.model.problems import SiteError
from hpchub.model.profile_list import ProfileList
from hpchub.model.site import Site
from hpchub.schedulers import SCHEDULERS, QueueLimits

PARTITION = (
    "MaxMemPerNode           = UNLIMITED\n"
    "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A Hidden=NO"
    " MaxNodes=UNLIMITED MaxTime=12:00:00 MinNodes=0 MaxCPUsPerNode=UNLIMITED Nodes=n[1-2] RootOnly=NO ReqResv=NO"
    " State=UP TotalCPUs=128 TotalNodes=2 MaxMemPerNode=UNLIMITED TRES=cpu=128,mem=256G,node=2,billing=128\n"
    "node|batch|64|131072|gpu:a100:4(S:0-1)\n"
    "node|batch|64|131072|gpu:v100:2\n"
)
# sacctmgr show qos: Name|MaxTRES|MaxTRESPerNode|MaxWall|MinTRES|GrpTRES|MaxTRESPU|Flags
QOS = """\
short|||01:00:00||||
tiny|cpu=2,mem=2G||||||
large||||cpu=32|||
nogpu|gres/gpu=0||||||
high|||||||
half|mem=1.50G||||||
zero|cpu=0||||||
shared|||||cpu=2||
gpus||||gres/gpu:a100=1|||
course|||||||DenyOnLimit,RequiresReservation
over|cpu=8||||||OverPartQOS
"""


def cluster(scheduler: str = "slurm", **changes: Any) -> Cluster:
    queue = {"name": "batch", "max_cores": 2, "max_memory": "1G", "max_runtime": "0:10:00"}
    return Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": scheduler,
            "submit": {"method": "local"},
            "networks": ["10.0.0.0/8"],
            "queues": [queue | changes],
        }
    )


def profile(**changes: Any) -> Profile:
    return Profile.model_validate(
        {
            "key": "small",
            "display_name": "Small",
            "cluster": "demo",
            "queue": "batch",
            "cores": 4,
            "memory": "8G",
            "runtime": "8:00:00",
            **changes,
        }
    )


def site_of(scheduler: str, **changes: Any) -> ProfileList:
    """Return an inventory with one queue and one profile, with changes."""
    return ProfileList.model_construct(clusters=[cluster(scheduler)], profiles=[profile(**changes)])


def check(limits: list[QueueLimits], scheduler: str = "slurm", **changes: Any) -> tuple[list[str], list[str]]:
    """Return the problems of a profile, with changes, and the warnings."""
    problems, warnings = compare(site_of(scheduler, **changes), {"demo": LimitsReport(limits)})
    return [str(each) for each in problems if "hpc_profiles" in str(each)], [str(each) for each in warnings]


@pytest.mark.parametrize(
    ("old", "new", "changes", "problem"),
    [
        ("AllowAccounts=ALL", "AllowAccounts=physics,math", {"account": "bio"}, "may not use queue"),
        ("AllowAccounts=ALL", "AllowAccounts=physics,math", {"account": "math"}, ""),
        ("AllowAccounts=ALL", "DenyAccounts=bio", {"account": "bio"}, "may not use queue"),
        ("AllowQos=ALL", "AllowQos=high", {"options": ["--qos=low"]}, "may not use queue"),
        ("AllowQos=ALL", "AllowQos=high", {"options": ["--qos=high"]}, ""),
        ("ReqResv=NO", "ReqResv=YES", {}, "needs a reservation"),
        ("ReqResv=NO", "ReqResv=YES", {"reservation": "course"}, ""),
        ("MaxNodes=UNLIMITED", "MaxNodes=0", {}, "it permits no nodes (MaxNodes=0)"),
        ("MinNodes=0", "MinNodes=2", {}, "its jobs need at least 2 nodes"),
        ("RootOnly=NO", "RootOnly=YES", {}, "only root may use it (RootOnly)"),
        ("TotalNodes=2", "TotalNodes=0", {}, "it has no nodes"),
        ("QoS=N/A", "QoS=short", {}, 'runtime "8:00:00" is above the limit'),
        ("QoS=N/A", "QoS=tiny", {"memory": "1G"}, "cores 4 is more than any node"),
        ("QoS=N/A", "QoS=tiny", {"cores": 2, "memory": "1G"}, ""),
        ("QoS=N/A", "QoS=large", {}, "cores 4 is below the minimum"),
        ("", "", {"gpus": {"type": "a100", "count": 4}}, ""),
        ("", "", {"gpus": {"type": "v100", "count": 3}}, 'no node of queue "batch" has 3 GPUs of type "v100"'),
        ("", "", {"gpus": {"type": "h100", "count": 1}}, "its nodes have at most 4 of type a100, 2 of type v100"),
        ("QoS=N/A", "QoS=nogpu", {"gpus": {"type": "a100", "count": 1}}, "is more than any node"),
        ("QoS=N/A", "QoS=half", {}, "more than any node of queue"),
        ("QoS=N/A", "QoS=zero", {}, "more than any node of queue"),
        ("QoS=N/A", "QoS=shared", {}, "cores 4 is more than any node"),
        ("QoS=N/A", "QoS=gpus", {}, "gpus 0 is below the minimum"),
        ("QoS=N/A", "QoS=course", {}, ""),
        ("AllowQos=ALL", "DenyQos=low,tiny", {"options": ["--qos=tiny"], "cores": 1, "memory": "1G"}, "may not use"),
        ("AllowQos=ALL", "DenyQos=low,tiny", {"options": ["--qos=high"]}, ""),
        ("", "", {"options": ["--qos=short"]}, 'runtime "8:00:00" is above the limit'),
        ("", "", {"options": ["-q tiny"], "memory": "1G"}, "cores 4 is more than any node"),
        ("", "", {"options": ["--qos=course"]}, "needs a reservation"),
        ("", "", {"options": ["--qos=course"], "reservation": "intro"}, ""),
        ("", "", {"options": ["--qos=hgih"]}, '"--qos=hgih" is not a quality of service of the cluster'),
        ("QoS=N/A", "QoS=tiny", {"options": ["--qos=over"], "memory": "1G"}, ""),
        ("QoS=N/A", "QoS=tiny", {"options": ["--qos=high"], "memory": "1G"}, "cores 4 is more than any node"),
    ],
)
def test_slurm_profile_that_can_never_start_is_reported(old: str, new: str, changes: Any, problem: str) -> None:
    assert old in PARTITION
    problems, _ = check(SCHEDULERS["slurm"].parse_limits(PARTITION.replace(old, new) + QOS), **changes)
    assert len(problems) == bool(problem), problems
    assert problem in "".join(problems)


@pytest.mark.parametrize(
    ("old", "new", "warning"),
    [
        ("AllocNodes=ALL", "AllocNodes=login1,login2", "accepts jobs only from the hosts login1, login2"),
        ("AllowGroups=ALL", "AllowGroups=staff,root", "permits only the groups staff, root"),
        ("AllowAccounts=ALL", "AllowAccounts=physics", "permits only the accounts physics"),
        ("AllowAccounts=ALL", "DenyAccounts=bio", "does not permit the accounts bio"),
        ("AllowQos=ALL", "AllowQos=high", "permits only the qualities of service high"),
        ("AllowQos=ALL", "DenyQos=low", "does not permit the qualities of service low"),
    ],
)
def test_slurm_rules_that_depend_on_the_user_are_warnings(old: str, new: str, warning: str) -> None:
    problems, warnings = check(SCHEDULERS["slurm"].parse_limits(PARTITION.replace(old, new)))
    assert problems == []
    assert len(warnings) == 1
    assert warning in warnings[0]


def pbs(more: str = "", enabled: str = "True") -> str:
    queue = f'"queue_type":"Execution","enabled":"{enabled}","started":"True"{more}'
    return f'{{"timestamp":1,"pbs_server":"srv","Queue":{{"batch":{{{queue}}}}}}}\n'


def torque(more: str = "", enabled: str = "True") -> str:
    return f"Queue: batch\n    queue_type = Execution\n{more}    enabled = {enabled}\n    started = True\n\n"


def moab(more: str = "") -> str:
    heading = "ClassID        Priority Flags        QDef              QOSList* PartitionList        Target Limits"
    return f"{heading}\n\nbatch                 1 ---          ---                   ---  [A][B]    70.00  {more}\n"


SERVER = "Server: srv\n    server_state = Active\n    resources_max.walltime = 04:00:00\naccount = hpchub\n"


def machine(start: str) -> str:
    return f'[{{"TotalSlotCpus": 8, "TotalSlotMemory": 16384, "Start": "\\/Expr({start})\\/"}}]'


def lsf(status: str = "Open:Active", slots: str = "-    -    -    -", users: str = "all", hosts: str = "all") -> str:
    return f"""
QUEUE: batch

PARAMETERS/STATISTICS
PRIO NICE STATUS          MAX JL/U JL/P JL/H NJOBS  PEND   RUN SSUSP USUSP  RSV
 30   20  {status}       {slots}     0     0     0     0     0    0

USERS: {users}
HOSTS:  {hosts}
"""


def grid_engine(**changes: str) -> str:
    fields = {
        "qname": "batch",
        "qtype": "BATCH INTERACTIVE",
        "pe_list": "make smp",
        "slots": "64",
        "complex_values": "NONE",
        "user_lists": "NONE",
        "h_rt": "INFINITY",
        "h_vmem": "INFINITY",
    }
    return "".join(f"{name:<22}{value}\n" for name, value in (fields | changes).items())


@pytest.mark.parametrize(
    ("scheduler", "text", "problem"),
    [
        ("pbs", pbs(), ""),
        ("pbs", pbs(',"from_route_only":"True"'), "it accepts jobs from other queues only"),
        ("pbs", pbs(',"max_run":"[u:PBS_GENERIC=0]"'), "max_run is 0"),
        ("pbs", pbs(',"resources_min":{"ncpus":8}'), "cores 4 is below the minimum"),
        ("pbs", pbs(',"resources_max":{"ncpus":2}'), "cores 4 is more than any node"),
        ("pbs", pbs(',"max_run":"[u:PBS_GENERIC=0],[u:ann=5]"'), ""),
        ("pbs", pbs(',"max_run":"[u:PBS_GENERIC=9],[o:PBS_ALL=0]"'), "max_run is 0"),
        ("pbs", pbs(',"max_group_run":0'), "max_group_run is 0"),
        ("pbs", pbs(',"max_run_res":{"ncpus":"[u:PBS_GENERIC=2],[u:ann=3]"}'), "cores 4 is more than any node"),
        ("pbs", pbs(',"max_run_res":{"ncpus":"[u:ann=2]","mem":"[o:PBS_ALL=64gb]"}'), ""),
        ("pbs", pbs(',"max_queued_res":{"mem":"[g:PBS_GENERIC=4gb]"}'), "memory"),
        ("pbs", pbs(',"resources_available":{"ncpus":2}'), "cores 4 is more than any node"),
        ("pbs", pbs(',"resources_max":{"nodect":0}'), "it permits no nodes"),
        ("pbs", pbs(',"resources_min":{"nodect":2}'), "its jobs need at least 2 nodes"),
        ("pbs", pbs() + SERVER, "runtime"),
        ("pbs", pbs(',"resources_max":{"walltime":"24:00:00"}') + SERVER, ""),
        ("torque", torque(), ""),
        ("torque", torque() + SERVER, "runtime"),
        ("torque", torque("    resources_max.procct = 2\n"), "cores 4 is more than any node"),
        ("torque", torque("    resources_min.procct = 16\n"), "cores 4 is below the minimum"),
        ("torque", torque("    resources_min.nodect = 2\n"), "its jobs need at least 2 nodes"),
        ("torque", torque("    max_running = 0\n"), "max_running is 0"),
        ("torque", torque("    disallowed_types = batch\n"), "it accepts no batch jobs"),
        ("torque", torque("    resources_min.walltime = 24:00:00\n"), "below the minimum"),
        ("moab", moab("MAX.WCLIMIT=12:00:00"), ""),
        ("moab", moab("MIN.PROC=16"), "cores 4 is below the minimum"),
        ("moab", moab("MIN.NODE=2"), "its jobs need at least 2 nodes"),
        ("moab", moab("MAX.NODE=0"), "it permits no jobs (MAX.NODE=0)"),
        ("moab", moab("MAXJOB[USER]=4,0"), "it permits no jobs"),
        ("moab", moab("MAXPROC=2"), "cores 4 is more than any node"),
        ("lsf", lsf(), ""),
        ("lsf", lsf(slots="-    2    -    -"), "cores 4 is more than any node"),
        ("lsf", lsf(slots="-    -    2    -"), ""),
        ("lsf", lsf(hosts="none"), "it has no hosts"),
        ("lsf", lsf() + "SCHEDULING POLICIES:  FAIRSHARE ONLY_INTERACTIVE\n", "it accepts no batch jobs"),
        ("lsf", lsf() + "SCHEDULING POLICIES:  NO_INTERACTIVE\n", ""),
        ("gridengine", grid_engine(hostlist="NONE"), "it has no hosts"),
        ("htcondor", machine(r"x && HpchubQueue =!= \"batch\""), "no machine starts its jobs"),
        ("htcondor", machine(r"x && HpchubQueue =!= \"gpu\""), ""),
        ("htcondor", machine('TARGET.HpchubQueue =?= \\"batch\\"'), ""),
        ("htcondor", machine('(HpchubQueue == \\"a\\" || HpchubQueue == \\"b\\") && x'), 'queue "batch" is not'),
        ("htcondor", machine('HpchubQueue =?= \\"a\\" || Owner == \\"ann\\"'), ""),
        ("gridengine", grid_engine(), ""),
        ("gridengine", grid_engine(qtype="INTERACTIVE", pe_list="NONE"), "it accepts no batch jobs (qtype)"),
        ("gridengine", grid_engine(h_vmem="1G"), 'above the limit of queue "batch" (1G per core)'),
        ("gridengine", grid_engine(complex_values="h_vmem=4G,[n1=h_vmem=6G]"), 'any node of queue "batch" has (6G)'),
        ("gridengine", grid_engine(complex_values="gpu=1"), 'gpus 2 is more than any node of queue "batch" has (1)'),
    ],
)
def test_profile_that_can_never_start_is_reported(scheduler: str, text: str, problem: str) -> None:
    changes = {"gpus": 2} if "gpus" in problem else {}
    problems, _ = check(SCHEDULERS[scheduler].parse_limits(text), scheduler, **changes)
    assert problem in "".join(problems)
    assert bool(problems) is bool(problem), problems


@pytest.mark.parametrize(
    ("scheduler", "text", "warning"),
    [
        ("pbs", pbs(',"acl_user_enable":"True","acl_users":"ann@*,bob@x"'), "only the users ann@*, bob@x"),
        ("pbs", pbs(',"acl_group_enable":"True","acl_groups":"staff"'), "only the groups staff"),
        ("pbs", pbs(',"acl_host_enable":"True","acl_hosts":"login1"'), "only from the hosts login1"),
        ("torque", torque("    acl_user_enable = True\n    acl_users = ann\n"), "only the users ann"),
        ("moab", moab("REQUIREDUSERLIST=ann,bob"), "only the users ann, bob"),
        ("moab", moab("REQUIREDACCOUNTLIST=physics"), "only the accounts physics"),
        ("lsf", lsf(users="ann staff/"), "only the users ann, staff/"),
        ("lsf", lsf(status="Open:Inact_Win") + "RUN_WINDOW:  20:00-8:00\n", "only at certain times (20:00-8:00)"),
        ("lsf", lsf() + "DISPATCH_WINDOW:  20:00-8:00\n", "only at certain times (20:00-8:00)"),
        ("gridengine", grid_engine(calendar="office"), "only at certain times (calendar office)"),
        ("gridengine", grid_engine(projects="a b"), "only the projects a, b"),
        ("gridengine", grid_engine(xprojects="c"), "no jobs of the projects c"),
        ("moab", moab("EXCLUDEUSERLIST=ann"), "permits no jobs of ann"),
        ("moab", moab("REQUIREDQOSLIST=high"), "only the qualities of service high"),
        ("pbs", pbs(',"acl_user_enable":"True","acl_users":"+ann,-bob"'), "only the users ann,"),
        ("gridengine", grid_engine(user_lists="staff"), "only the groups staff"),
    ],
)
def test_rules_that_depend_on_the_user_are_warnings(scheduler: str, text: str, warning: str) -> None:
    problems, warnings = check(SCHEDULERS[scheduler].parse_limits(text), scheduler)
    assert problems == []
    assert warning in "".join(warnings)


def test_project_that_may_not_use_the_queue_is_reported() -> None:
    for changes, options, problem in (
        ({"projects": "a b"}, ["-P c"], 'options "-P c" may not use queue "batch"'),
        ({"projects": "a b"}, ["-P a"], ""),
        ({"xprojects": "c"}, ["-P c"], 'options "-P c" may not use queue "batch"'),
    ):
        limits = SCHEDULERS["gridengine"].parse_limits(grid_engine(**changes))
        problems, _ = check(limits, "gridengine", options=options)
        assert problem in "".join(problems)
        assert bool(problems) is bool(problem)


@pytest.mark.parametrize(
    ("scheduler", "text", "state"),
    [
        ("slurm", PARTITION.replace("State=UP", "State=DOWN"), "its state is DOWN"),
        ("slurm", PARTITION.replace("State=UP", "State=DRAIN"), "its state is DRAIN"),
        ("slurm", PARTITION.replace("State=UP", "State=INACTIVE"), "its state is INACTIVE"),
        ("pbs", pbs(enabled="False"), "enabled is False"),
        ("torque", torque(enabled="False"), "enabled is False"),
        ("lsf", lsf(status="Closed:Inact_Adm"), "its status is Closed:Inact_Adm"),
    ],
)
def test_closed_queue_is_a_problem(scheduler: str, text: str, state: str) -> None:
    problems, _ = compare(site_of(scheduler), {"demo": LimitsReport(SCHEDULERS[scheduler].parse_limits(text))})
    assert f"does not accept or start jobs at present ({state})" in str(problems[0])


def test_condor_machines_that_start_nothing_do_not_count() -> None:
    sizes = '"TotalSlotCpus": {}, "TotalSlotMemory": 1024, "Start": {}'
    slots = "[{{{}}}, {{{}}}]".format(sizes.format(64, "false"), sizes.format(8, "true"))
    (limits,) = SCHEDULERS["htcondor"].parse_limits(slots)
    assert (limits.cores, limits.open) == (8, True)
    (limits,) = SCHEDULERS["htcondor"].parse_limits(slots.replace("true", "false"))
    assert (limits.open, limits.rules.closed) == (False, "START is false on every machine")


def test_draft_names_the_types_of_gpus_and_the_rules_of_queues() -> None:
    described = {"name": "demo", "scheduler": "slurm", "submit": {"method": "local"}, "networks": ["10.0.0.0/8"]}
    text = PARTITION.replace("AllowGroups=ALL", "AllowGroups=staff")
    entries, remarks = draft(described, SCHEDULERS["slurm"].parse_limits(text))
    (queue,) = entries["hpc_clusters"][0]["queues"]
    assert queue["max_gpus"] == [{"type": "a100", "count": 4}, {"type": "v100", "count": 2}]
    assert remarks == ['queue "batch" permits only the groups staff']
    for old, new in (("ReqResv=NO", "ReqResv=YES"), ("MaxNodes=UNLIMITED", "MaxNodes=0")):
        entries, _ = draft(described, SCHEDULERS["slurm"].parse_limits(PARTITION.replace(old, new)))
        assert entries["hpc_clusters"][0]["queues"] == []


# Types of GPUs in an inventory


def problems_of(gpus: object, max_gpus: object, scheduler: str = "slurm", **settings: Any) -> list[str]:
    """Return the problems of an inventory with a profile and a queue."""
    queue = {"name": "batch", "max_cores": 16, "max_memory": "64G", "max_runtime": "12:00:00", "max_gpus": max_gpus}
    described = {
        "hpc_service": {"url": "https://jupyter.example.org"},
        "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "s3cr3t-of-the-client"},
        "hpc_access": {"allowed_groups": ["hpc"], "job_groups": ["hpc"]},
        "hpc_clusters": [
            {
                "name": "demo",
                "scheduler": scheduler,
                "submit": {"method": "local"},
                "networks": ["10.0.0.0/8"],
                "queues": [queue],
                **settings,
            }
        ],
        "hpc_profiles": [profile().model_dump(mode="json") | {"gpus": gpus}],
    }
    try:
        site = Site.from_vars(described)
    except SiteError as error:
        return [str(problem) for problem in error.problems]
    assert Site.from_vars(described).profiles[0].gpus == site.profiles[0].gpus
    return []


@pytest.mark.parametrize(
    ("gpus", "max_gpus", "problem"),
    [
        ({"type": "a100", "count": 2}, 2, ""),
        ({"type": "a100"}, 1, ""),
        ({"type": "a100", "count": 2}, {"type": "a100", "count": 4}, ""),
        ({"type": "a100", "count": 2}, [{"type": "a100", "count": 2}, {"type": "v100", "count": 8}], ""),
        (2, {"type": "a100", "count": 4}, ""),
        ({"type": "a100", "count": 3}, 2, "is above max_gpus 2"),
        (
            {"type": "a100", "count": 3},
            [{"type": "a100", "count": 2}, {"type": "v100", "count": 8}],
            "is above the 2 GPUs",
        ),
        ({"type": "a10", "count": 1}, {"type": "a100", "count": 4}, 'has the type "a10", but queue'),
        ({"type": "a100", "count": 1}, 0, "has no GPUs"),
        ({"type": "a100", "count": 0}, 1, "is below 1"),
        ({"type": "a 100"}, 1, "has no valid type of GPU"),
        ({"count": 1}, 1, "has no valid type of GPU"),
        ({"type": "a100", "number": 1}, 1, "has the unknown key number"),
        ([{"type": "a100"}], 1, "is a list, not a number of GPUs"),
        ("two", 2, "is text, not a number of GPUs"),
        ("2", 2, "is text, not a number"),
        (2, [], "is a list, not a number of GPUs"),
        (2, [{"type": "a100"}, {"type": "a100"}], "names a type twice"),
    ],
)
def test_types_of_gpus_are_checked(gpus: object, max_gpus: object, problem: str) -> None:
    found = problems_of(gpus, max_gpus)
    assert problem in "".join(found)
    assert len(found) == bool(problem), found


@pytest.mark.parametrize("scheduler", ["pbs", "gridengine", "uge"])
def test_scheduler_that_needs_a_resource_for_the_type_rejects_it_without(scheduler: str) -> None:
    (found,) = problems_of({"type": "a100"}, 1, scheduler)
    assert "set gpu_type_resource of the cluster, or write only the number of GPUs" in found
    assert problems_of({"type": "a100"}, 1, scheduler, gpu_type_resource="gpu_model") == []


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [
        ("slurm", "--gres=gpu:a100:2"),
        ("pbs", "-l select=1:ncpus=4:mem=8gb:ngpus=2:gpu_model=a100"),
        ("torque", "-l nodes=1:ppn=4:gpus=2:a100"),
        ("moab", "-l feature=a100:ib"),
        ("gridengine", "-l h_rt=28800,h_vmem=2048M,gpu=2,gpu_model=a100"),
        ("htcondor", 'require_gpus = regexp("a100", DeviceName, "i")'),
        ("lsf", '-gpu "num=2:gmodel=a100"'),
    ],
)
def test_type_of_gpu_in_the_terms_of_each_scheduler(scheduler: str, line: str) -> None:
    constraint = "ib" if scheduler == "moab" else ""
    site = cluster(scheduler).model_copy(update={"gpu_type_resource": "gpu_model"})
    asked = profile(gpus={"type": "a100", "count": 2}, node_constraint=constraint)
    assert line in SCHEDULERS[scheduler].directives(asked, site, session="a" * 16, comment=f"hpchub/h/u/{'a' * 16}")


@pytest.mark.parametrize(
    ("scheduler", "text", "limits", "of_job"),
    [
        ("slurm", PARTITION.replace("MaxNodes=UNLIMITED", "MaxNodes=3"), (1, 3), {}),
        ("slurm", PARTITION.replace("MinNodes=0", "MinNodes=2"), (2, None), {}),
        ("slurm", PARTITION.replace("QoS=N/A", "QoS=half") + QOS, (1, None), {"memory": 1536}),
        ("pbs", pbs(',"resources_max":{"nodect":4,"ncpus":8,"mem":"4gb"}'), (1, 4), {"cores": 8, "memory": 4096}),
        ("pbs", pbs(',"resources_min":{"nodect":2}'), (2, None), {}),
        ("torque", torque("    resources_max.nodect = 4\n    resources_max.procct = 16\n"), (1, 4), {"cores": 16}),
        ("moab", moab("MIN.NODE=2 MAX.NODE=8 MAX.PROC=32"), (2, 8), {"cores": 32}),
        ("lsf", lsf(slots="20    16    -    4"), (1, None), {"cores": 16}),
    ],
    ids=["slurm-most", "slurm-least", "slurm-qos", "pbs-most", "pbs-least", "torque", "moab", "lsf"],
)
def test_limits_of_jobs_with_several_nodes_are_read(
    scheduler: str, text: str, limits: tuple[int, int | None], of_job: dict[str, int]
) -> None:
    (found,) = SCHEDULERS[scheduler].parse_limits(text)
    assert (found.rules.min_nodes, found.rules.max_nodes) == limits
    assert found.of_job == of_job
