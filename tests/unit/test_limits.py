"""Limits of queues: Slurm's output, the comparison with the inventory, and drafts of inventory entries."""

# ruff: noqa: E501  (Slurm's output)

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.hpchub.hpchub.plugins.modules import query_scheduler

from hpchub.cli import check_clusters
from hpchub.clusters.drafts import draft, to_yaml
from hpchub.clusters.limits import LimitsReport, compare, parse_report
from hpchub.deploy.role_arguments import gate_config
from hpchub.model.profile_list import ProfileList, profile_list
from hpchub.model.site import Site
from hpchub.schedulers import ANY_QUEUE, SCHEDULERS, QueueLimits, Unanswered
from hpchub.units import format_runtime

SLURM = SCHEDULERS["slurm"]

# Output of Slurm 22.05.8 for an account without special rights. Unused lines were removed and GPUs were added.
SLURM_22 = """\
ClusterName             = try
DefMemPerNode           = UNLIMITED
JobCredentialPrivateKey = (null)
MaxMemPerNode           = 400000
PrivateData             = jobs,usage
SelectType              = select/cons_tres
SLURM_VERSION           = 22.05.8
PartitionName=normal Hidden=NO MaxTime=2-00:00:00 MaxCPUsPerNode=UNLIMITED Nodes=fat1,thin[1-3] RootOnly=NO State=UP TotalCPUs=160 TotalNodes=4 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=160,mem=1415000M,node=4,billing=160
PartitionName=gpu Hidden=NO MaxTime=UNLIMITED MaxCPUsPerNode=40 Nodes=gpu[1-3] RootOnly=NO State=UP TotalCPUs=144 TotalNodes=3 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=144,mem=1545000M,node=3,billing=144
PartitionName=big Hidden=NO MaxTime=12:00:00 MaxCPUsPerNode=UNLIMITED Nodes=fat1 RootOnly=NO State=UP TotalCPUs=64 TotalNodes=1 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=800000 TRES=cpu=64,mem=1031000M,node=1,billing=64
PartitionName=each Hidden=YES MaxTime=01:00:00 MaxCPUsPerNode=UNLIMITED Nodes=thin[1-3] RootOnly=NO State=UP TotalCPUs=96 TotalNodes=3 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerCPU=2000 TRES=cpu=96,mem=375G,node=3,billing=96
PartitionName=closed Hidden=NO MaxTime=01:00:00 MaxCPUsPerNode=UNLIMITED Nodes=thin[1-3] RootOnly=NO State=DRAIN TotalCPUs=96 TotalNodes=3 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=96,mem=375G,node=3,billing=96
PartitionName=empty Hidden=NO MaxTime=01:00:00 MaxCPUsPerNode=UNLIMITED Nodes=(null) RootOnly=NO State=UP TotalCPUs=0 TotalNodes=0 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=(null)
PartitionName=staff Hidden=NO MaxTime=00:30:00 MaxCPUsPerNode=UNLIMITED Nodes=thin1 RootOnly=NO State=UP TotalCPUs=32 TotalNodes=1 JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=32,mem=125G,node=1,billing=32
node|normal|64|1031000|(null)
node|normal|32|128000|(null)
node|gpu|48|515000|gpu:a100:4(S:0-1)
node|gpu|48|257000|gpu:a100:1,gpu:v100:2(S:0,1),nic:2
node|big|64|1031000|(null)
node|each|32|128000|(null)
node|closed|32|128000|(null)
node|empty|0|0|(null)
node|staff|32|128000|(null)
"""
# The same output of Slurm 24.11.5.
SLURM_24 = """\
MaxMemPerNode           = UNLIMITED
PrivateData             = none
PartitionName=interactive AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO ExclusiveTopo=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED MaxTime=12:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED MaxCPUsPerSocket=UNLIMITED NodeSets=ALL Nodes=compute[1-2] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode=OFF State=UP TotalCPUs=128 TotalNodes=2 SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED TRES=cpu=128,mem=256G,node=2,billing=128
node|interactive|64|131072|(null)
"""


# Slurm's output


def test_slurm_limits_are_the_lowest_of_queue_cluster_and_nodes() -> None:
    """A queue has its own limits, the cluster's limits (the memory of "normal") and the sizes of its nodes."""
    assert SLURM.parse_limits(SLURM_22) == [
        QueueLimits("normal", 64, 400000, 172800, 0, True, ((64, 400000, 0), (32, 128000, 0))),
        QueueLimits("gpu", 40, 400000, None, 4, True, ((40, 400000, 4), (40, 257000, 3))),
        QueueLimits("big", 64, 800000, 43200, 0, True, ((64, 800000, 0),)),
        QueueLimits("each", 32, 64000, 3600, 0, True, ((32, 64000, 0),)),
        QueueLimits("closed", 32, 128000, 3600, 0, False, ((32, 128000, 0),)),
        QueueLimits("empty", None, None, 3600, None, False),
        QueueLimits("staff", 32, 128000, 1800, 0, True, ((32, 128000, 0),)),
    ]
    assert SLURM.parse_limits(SLURM_24) == [QueueLimits("interactive", 64, 131072, 43200, 0, True, ((64, 131072, 0),))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no partitions"),
        ("No partitions in the system\n", "no partitions"),
        (SLURM_24[: SLURM_24.index("MaxTime")], "no partitions, or not all"),
        (SLURM_24[:-10], "sinfo printed an incomplete line"),
        (SLURM_24.replace("|64|", "|64+|"), "sinfo printed an incomplete line"),
        (SLURM_24[: SLURM_24.index("node|")], "no nodes"),
        (SLURM_24.replace("MaxTime=12:00:00", "MaxTime=soon"), "invalid MaxTime: 'soon'"),
        (SLURM_24.replace("MaxTime=12:00:00", f"MaxTime={'9' * 5000}:00:00"), "invalid MaxTime"),
        (SLURM_24.replace("|131072|", f"|{'9' * 5000}|"), "sinfo printed an incomplete line"),
    ],
    ids=["nothing", "no partition", "cut off", "half a line", "mixed", "no nodes", "time", "long time", "long number"],
)
def test_invalid_slurm_limits_raise(text: str, words: str) -> None:
    with pytest.raises(Unanswered, match=words):
        SLURM.parse_limits(text)


def test_truncated_slurm_limits_never_hide_a_partition() -> None:
    """Truncate the output of each command at each position. Either both partitions are read, or the answer is refused."""
    config, line, node = SLURM_24.replace("PartitionName", "\0PartitionName").replace("node|", "\0node|").split("\0")
    outputs = [config, line + line.replace("interactive", "batch"), node + node.replace("interactive", "batch")]
    for which, output in enumerate(outputs):
        for length in range(len(output)):
            found = parse_report("slurm", "".join(output[:length] if each is output else each for each in outputs))
            shown = [limits.name for limits in found.queues]
            assert found.unanswered or shown == ["interactive", "batch"], (which, output[:length])


def test_slurm_numbers_with_too_many_digits_are_ignored() -> None:
    huge = "9" * 5000
    text = SLURM_24.replace("MaxMemPerNode=UNLIMITED", f"MaxMemPerNode={huge}").replace("(null)\n", f"gpu:{huge}\n")
    assert SLURM.parse_limits(text)[0].nodes == ((64, 131072, 1),)


@pytest.mark.parametrize(
    ("private", "more", "hidden"),
    [
        ("none", "", ""),
        ("accounts,usage", "", ""),
        ("jobs,usage", "", "hides the jobs of other users from"),
        ("jobs,usage", "hpchub|None\n", "hides the jobs of other users from"),
        ("jobs,usage", "hpchub|Operator\n", ""),
        ("jobs,usage", "hpchub|Administrator\n", ""),
        ("jobs,nodes,partitions", "", "hides the jobs of other users and the nodes and the partitions from"),
    ],
)
def test_slurm_privacy_settings_are_recognised(private: str, more: str, hidden: str) -> None:
    found = SLURM.parse_privacy(SLURM_24.replace("= none", f"= {private}") + more)
    if not hidden:
        assert found is None
    else:
        assert found is not None
        assert hidden in found[0]
        assert "adminlevel=Operator" in found[1]


def test_privacy_problem_is_reported_with_missing_partitions() -> None:
    found = parse_report("slurm", "PrivateData             = jobs,partitions\n")
    assert "no partitions" in found.unanswered
    problems, _ = compare(site(), {"demo": found})
    assert [str(problem) for problem in problems] == [
        (
            'hpc_clusters[0] (name "demo"): hides the jobs of other users and the partitions from the hub\'s account '
            "(PrivateData=jobs,partitions); make the account an operator (sacctmgr modify user where name=hpchub set "
            "adminlevel=Operator), or remove jobs and partitions from PrivateData in slurm.conf"
        )
    ]


def test_gate_runs_every_command_for_limits() -> None:
    described = Site.from_vars(DESCRIBED)
    config = gate_config(described.clusters[0], described.access)
    assert config["limits"] == ["scontrol", "show", "config"]
    assert [command[0] for command in config["limits_more"]] == ["scontrol", "sinfo", "sacctmgr", "sacctmgr"]


# Comparison with the inventory

DESCRIBED: dict[str, Any] = {
    "hpc_service": {"url": "https://hub.example.org"},
    "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "TOPSECRET"},
    "hpc_clusters": [
        {
            "name": "demo",
            "scheduler": "slurm",
            "submit": {"method": "ssh", "host": "login1"},
            "networks": ["10.0.0.0/8"],
            "queues": [
                {"name": "short", "max_cores": 4, "max_memory": "8G", "max_runtime": "1:00:00"},
                {"name": "batch", "max_cores": 64, "max_memory": "1T", "max_runtime": "48:00:00", "max_gpus": 4},
            ],
        }
    ],
    "hpc_profiles": [
        {"key": "small", "display_name": "S", "cluster": "demo", "queue": "short", "cores": 1, "memory": "4G", "runtime": "0:30:00"},
        {"key": "large", "display_name": "L", "cluster": "demo", "queue": "batch", "cores": 32, "memory": "256G", "runtime": "30:00:00", "gpus": 1},
    ],
}  # fmt: skip
SHORT = QueueLimits("short", 64, 131072, 43200, 0)
BATCH = QueueLimits("batch", 64, 1048576, None, 4)
ENTRY = 'hpc_clusters[0] (name "demo") queues[1] (name "batch")'
LARGE = 'hpc_profiles[1] (key "large")'
LOWER = "lower it, or raise the scheduler's limit"


def site() -> ProfileList:
    return ProfileList.model_validate(profile_list(Site.from_vars(DESCRIBED)))


def changed(**values: Any) -> QueueLimits:
    limits: dict[str, Any] = {"name": "batch", "cores": 64, "memory": 1048576, "runtime": None, "gpus": 4}
    return QueueLimits(**(limits | values))


def test_matching_limits_have_no_problems() -> None:
    assert compare(site(), {"demo": LimitsReport([SHORT, BATCH])}) == ([], [])
    # A limit that the scheduler does not report cannot differ.
    assert compare(site(), {"demo": LimitsReport([QueueLimits("short"), QueueLimits("batch")])}) == ([], [])


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (changed(runtime=172799), [f'{ENTRY}: max_runtime "48:00:00" is above the scheduler\'s limit ("1-23:59:59"); {LOWER}']),
        (changed(cores=32), [f"{ENTRY}: max_cores 64 is above the scheduler\'s limit (32); {LOWER}"]),
        (changed(memory=524288), [f'{ENTRY}: max_memory "1T" is above the scheduler\'s limit ("512G"); {LOWER}']),
        (changed(gpus=3), [f"{ENTRY}: max_gpus 4 is above the scheduler\'s limit (3); {LOWER}"]),
        (
            changed(cores=16),
            [
                f"{ENTRY}: max_cores 64 is above the scheduler\'s limit (16); {LOWER}",
                f'{LARGE}: cores 32 is more than any node of queue "batch" has (16), so the profile could never start; request at most 16',
            ],
        ),
        (
            changed(runtime=86400),
            [
                f'{ENTRY}: max_runtime "48:00:00" is above the scheduler\'s limit ("1-00:00:00"); {LOWER}',
                f'{LARGE}: runtime "30:00:00" is above the limit of queue "batch" ("1-00:00:00"), so the profile could never start; request at most 1-00:00:00',
            ],
        ),
        (
            changed(nodes=((64, 131072, 0), (16, 1048576, 4))),
            [f'{LARGE}: could never start: no node of queue "batch" has 32 cores and 256G and 1 GPU; its nodes have 64 cores and 128G, 16 cores and 1T and 4 GPUs'],
        ),
        (changed(nodes=((64, 131072, 0), (32, 262144, 1))), []),
    ],
    ids=["runtime", "cores", "memory", "gpus", "profile's cores", "profile's runtime", "no node is large enough", "one node is large enough"],
)  # fmt: skip
def test_lower_limit_of_the_scheduler_is_reported(limits: QueueLimits, expected: list[str]) -> None:
    problems, warnings = compare(site(), {"demo": LimitsReport([SHORT, limits])})
    assert [str(problem) for problem in problems] == expected
    assert warnings == []


def test_missing_queue_is_reported_with_a_suggestion() -> None:
    problems, _ = compare(site(), {"demo": LimitsReport([SHORT, QueueLimits("batch2")])})
    assert [str(problem) for problem in problems] == [
        f'{ENTRY}: name "batch" is not a queue of the cluster\'s scheduler, slurm; did you mean "batch2"? valid: short, batch2',
        (
            f'{LARGE}: queue "batch" is not a queue of the cluster\'s scheduler, so the profile could never start; '
            'did you mean "batch2"? valid: short, batch2'
        ),
    ]


def test_scheduler_without_queues_accepts_any_queue_name() -> None:
    """The limits of its machines apply to each queue of the inventory."""
    found = {"demo": LimitsReport([QueueLimits(ANY_QUEUE, 64, 1048576, None, 4)])}
    assert compare(site(), found) == ([], [])
    found = {"demo": LimitsReport([QueueLimits(ANY_QUEUE, 1, 1048576, None, 4)])}
    assert "is above the scheduler's limit (1)" in str(compare(site(), found)[0][0])


def test_closed_queue_is_a_problem() -> None:
    problems, warnings = compare(site(), {"demo": LimitsReport([SHORT, changed(open=False)])})
    (problem,) = problems
    assert str(problem) == (
        f"{ENTRY}: does not accept or start jobs at present; open the queue, or set enabled: false for it until it is"
        " open again"
    )
    assert warnings == []


def test_scheduler_without_an_answer_is_not_compared() -> None:
    assert compare(site(), {"demo": LimitsReport(unanswered="away")}) == ([], [])
    assert compare(site(), {}) == ([], [])


class Gate:
    """A fake gate that answers each request."""

    cluster = "demo"

    async def query(self) -> str:
        mark = "0123456789abcdef"
        return "".join(f"{mark}|{number}|RUNNING|None|n1|N/A|alice|x|c\n" for number in (1, 2))

    async def limits(self) -> str:
        return SLURM_24


def test_deployment_check_counts_jobs_and_prints_warnings() -> None:
    answers, warnings = asyncio.run(check_clusters.query_all([Gate()], site()))  # type: ignore[list-item]
    assert answers == [(True, "demo: the scheduler answers and lists 2 jobs")]
    assert [warning.split(":")[0] for warning in warnings] == ["warning"] * 4
    assert "short" in warnings[0]


# Drafts


def test_draft_is_a_valid_inventory() -> None:
    queues = SLURM.parse_limits(SLURM_22)
    cluster = {name: value for name, value in DESCRIBED["hpc_clusters"][0].items() if name != "queues"}
    entries, remarks = draft(cluster, queues)
    again = yaml.safe_load(to_yaml(entries))
    assert again == entries
    found = Site.from_vars(DESCRIBED | again)
    assert [queue.name for queue in found.clusters[0].queues] == ["normal", "gpu", "big", "each", "staff"]
    assert [profile.key for profile in found.profiles][:4] == [
        "demo-normal-small",
        "demo-normal-large",
        "demo-gpu-small",
        "demo-gpu-gpu",
    ]
    assert compare(ProfileList.model_validate(profile_list(found)), {"demo": LimitsReport(queues)}) == ([], [])
    assert remarks == [
        'queue "gpu": the scheduler has no limit for runtime; the values here are guesses',
        'queue "closed" is omitted, because it does not accept or start jobs at present',
        'queue "empty" is omitted, because it does not accept or start jobs at present',
    ]


@pytest.mark.parametrize(
    "limits",
    [
        QueueLimits("a"),
        QueueLimits("a", 1, 100, 60, 0),
        QueueLimits("a", 10**9, 10**12, 10**12, 10**9),
        QueueLimits("a", 64, 515000, 10**6, 8, nodes=((64, 515000, 0), (32, 128000, 8))),
    ],
    ids=["no limits", "tiny", "huge", "mixed"],
)
def test_draft_of_any_queue_is_valid(limits: QueueLimits) -> None:
    queues = [limits, QueueLimits("A", 2, 2048, 60), QueueLimits("odd name", 2, 2048, 60)]
    entries, remarks = draft(DESCRIBED["hpc_clusters"][0], queues)
    found = Site.from_vars(DESCRIBED | entries)
    assert [queue.name for queue in found.clusters[0].queues] == ["a", "A"]
    assert compare(ProfileList.model_validate(profile_list(found)), {"demo": LimitsReport(queues)}) == ([], [])
    assert 'queue "odd name" is omitted, because the inventory does not support its name' in remarks


def test_draft_of_a_queue_without_the_parallel_environment_has_one_core() -> None:
    queues = [QueueLimits("a", 64, 131072, 86400, environments=("mpi",)), QueueLimits("b", 64, environments=("smp",))]
    entries, remarks = draft({**DESCRIBED["hpc_clusters"][0], "scheduler": "gridengine"}, queues)
    found = Site.from_vars(DESCRIBED | entries)
    assert compare(ProfileList.model_validate(profile_list(found)), {"demo": LimitsReport(queues)}) == ([], [])
    assert [queue.max_cores for queue in found.clusters[0].queues] == [1, 64]
    assert remarks[0] == 'queue "a" has no parallel environment "smp", so its jobs get one core; it has mpi'


def test_draft_of_queues_with_long_names_has_unique_keys() -> None:
    """The names of many queues differ only behind the part that fits into a key."""
    queues = [QueueLimits("q" * 58 + f"{number:03}", 64, 131072, 86400) for number in range(200)]
    entries, _ = draft(DESCRIBED["hpc_clusters"][0], queues)
    found = Site.from_vars(DESCRIBED | entries)
    assert len({profile.key for profile in found.profiles}) == 400


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "0:00:59"), (43200, "12:00:00"), (86400, "1-00:00:00"), (90061, "1-01:01:01")]
)
def test_times_have_the_format_of_the_inventory(seconds: int, text: str) -> None:
    assert format_runtime(seconds) == text


# The module for submit hosts without a gate


def asked(capsys: pytest.CaptureFixture[str], tmp_path: Any, commands: list[list[str]], **environment: str) -> Any:
    arguments = {"commands": commands, "environment": environment, "_ansible_remote_tmp": str(tmp_path)}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        query_scheduler.main()
    return json.loads(capsys.readouterr().out)


def test_module_joins_the_output_of_successful_commands(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    found = asked(capsys, tmp_path, [["env"], ["sh", "-c", "echo half; exit 1"], ["nowhere"], ["echo", "last"]], A="1")
    assert found["error"] == ""
    assert "A=1\n" in found["stdout"]
    assert "SECRET" not in found["stdout"]
    assert "half" not in found["stdout"]
    assert found["stdout"].endswith("last\n")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["sh", "-c", "echo no right >&2; exit 3"], "sh failed with exit code 3: 'no right'"),
        (["nowhere"], "nowhere is not installed on "),
        (["/etc"], "/etc cannot be run on "),
    ],
)
def test_module_reports_a_failure_of_the_first_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, command: list[str], words: str
) -> None:
    found = asked(capsys, tmp_path, [command, ["echo", "more"]])
    assert words in found["error"]
    assert found["stdout"] == ""


def test_draft_for_a_scheduler_without_queues_has_one_default_queue() -> None:
    queues = [QueueLimits(ANY_QUEUE, 64, 131072, None, 0)]
    entries, remarks = draft(DESCRIBED["hpc_clusters"][0], queues)
    found = Site.from_vars(DESCRIBED | entries)
    assert [queue.name for queue in found.clusters[0].queues] == ["default"]
    assert compare(ProfileList.model_validate(profile_list(found)), {"demo": LimitsReport(queues)}) == ([], [])
    assert "has no queues" in remarks[0]
