"""What Slurm knows for a user's choice. The answers are those of Slurm 24.11 with slurmdbd, as it printed them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from slurm_answers import (
    BUDGETS,
    CONFIG,
    HEADING,
    IDLE,
    NODE,
    NOT_FOR_ROOM,
    PLANNED,
    RESERVATIONS,
    RUNNING,
    TAKEN,
    USERS,
    M,
)

from hpchub.schedulers import SCHEDULERS, Unanswered
from hpchub.schedulers.knowledge import (
    Availability,
    JobLimits,
    JobNumbers,
    Maintenance,
    Person,
    Reservation,
    WaitingJob,
)
from hpchub.schedulers.offers import Offer, Wanted, best_offers

SLURM = SCHEDULERS["slurm"]


def availability(nodes: str, jobs: str) -> Availability:
    return Availability(TAKEN, SLURM.parse_availability({"nodes": nodes, "jobs": HEADING + jobs}, TAKEN))


def wanted(cores: int, hours: float = 1, memory: int = 1024, **more: object) -> Wanted:
    return Wanted(cores, memory, int(hours * 3600), **more)  # type: ignore[arg-type]


def test_idle_node_takes_a_job_at_once() -> None:
    found = availability(IDLE, "")
    assert found.queues["batch"].offers == (Offer(64, 131072, 4, {"a100": 4}, frozenset({"fast", "ib"})),)
    assert found.queues["batch"].features == ("fast", "ib")
    assert found.wait("batch", wanted(64)) == 0
    assert found.wait("long", wanted(1, 99, 131072, gpus=4, gpu_type="a100", feature="ib")) == 0


@pytest.mark.parametrize(
    "too_large",
    [
        wanted(65),
        wanted(1, memory=131073),
        wanted(1, gpus=5),
        wanted(1, gpus=1, gpu_type="h100"),
        wanted(1, feature="slow"),
    ],
    ids=["cores", "memory", "gpus", "gpu-type", "feature"],
)
def test_no_wait_is_known_for_a_job_that_fits_nowhere(too_large: Wanted) -> None:
    assert availability(IDLE, "").wait("batch", too_large) is None


def test_no_wait_is_known_for_an_unknown_queue() -> None:
    assert availability(IDLE, "").wait("gpu", wanted(1)) is None


@pytest.mark.parametrize(
    ("job", "start"),
    [
        pytest.param(wanted(16), TAKEN, id="fits-now"),
        pytest.param(wanted(20), 1795704666, id="after-the-first-job"),
        pytest.param(wanted(60), 1795715439, id="after-all-jobs"),
        pytest.param(wanted(2, gpus=3), 1795715439, id="after-the-job-with-gpus"),
    ],
)
def test_job_starts_when_running_jobs_leave_room(job: Wanted, start: float) -> None:
    assert availability(NODE, RUNNING).wait("batch", job) == start - TAKEN


@pytest.mark.parametrize(
    ("kind", "gpus", "gres", "wait"),
    [
        ("a100", 1, "gres/gpu:a100:1", 0),
        ("a100", 2, "gres/gpu:a100:1", 3600),
        ("a100", 2, "gres:gpu:a100:1", 3600),
        ("v100", 1, "gres/gpu:a100:1", 0),
        ("v100", 2, "gres/gpu:a100:1", None),
        ("a100", 2, "gres/gpu:1", None),
        ("", 3, "gres/gpu:1", 3600),
    ],
)
def test_node_with_two_types_of_gpus_tells_when_those_of_a_type_are_free(
    kind: str, gpus: int, gres: str, wait: int | None
) -> None:
    """If a job has not named the type of its GPUs, it is not known which type becomes free."""
    node = re.sub(r"\bGres=\S+", "Gres=gpu:a100:2,gpu:v100:1", IDLE)
    node = re.sub(r"GresUsed=\S+", "GresUsed=gpu:a100:1(IDX:0),gpu:v100:0(IDX:N/A)", node)
    name = re.search(r"NodeName=(\S+)", IDLE)[1]  # type: ignore[index]
    times = f"1:00:00|{TAKEN:.0f}|{TAKEN + 3600:.0f}"
    job = f"{M}|9|RUNNING|None|batch|1|1|1G|{gres}|{times}|{name}||bob|biology|normal|{M}\n"
    assert availability(node, job).wait("batch", wanted(1, gpus=gpus, gpu_type=kind)) == wait


@pytest.mark.parametrize(
    ("job", "start"),
    [
        pytest.param(wanted(16, 3), TAKEN, id="ends-before-the-planned-job"),
        pytest.param(wanted(16, 8), 1795733460, id="would-delay-the-planned-jobs"),
    ],
)
def test_job_starts_where_it_does_not_delay_the_jobs_that_backfill_has_planned(job: Wanted, start: float) -> None:
    found = availability(NODE, RUNNING + PLANNED + NOT_FOR_ROOM)
    assert found.wait("batch", job) == start - TAKEN


def test_job_starts_after_a_waiting_job_that_needs_no_more() -> None:
    ahead = f"{M}|9|PENDING|Priority|batch|4|1|1G|N/A|0:30:00|1795709999|N/A||node9|bob|biology|normal|{M}\n"
    found = availability(IDLE, ahead)
    assert found.queues["batch"].waiting == (WaitingJob(Wanted(4, 1024, 1800), 1, 1795709999),)
    assert found.wait("batch", wanted(4)) == 1795709999 - TAKEN
    assert found.wait("batch", wanted(3)) == 0
    assert found.wait("long", wanted(4)) == 0


def test_no_wait_is_known_behind_a_waiting_job_without_an_estimate() -> None:
    ahead = f"{M}|9|PENDING|Priority|batch|4|1|1G|N/A|0:30:00|N/A|N/A||(null)|bob|biology|normal|{M}\n"
    assert availability(IDLE, ahead).wait("batch", wanted(4)) is None


def test_jobs_that_do_not_wait_for_room_are_not_ahead() -> None:
    assert availability(IDLE, NOT_FOR_ROOM).wait("batch", wanted(64, 10**6)) == 0


def test_partition_that_is_down_starts_no_job() -> None:
    held = f"{M}|9|PENDING|PartitionDown|batch|4|1|1G|N/A|0:30:00|N/A|N/A||(null)|bob|biology|normal|{M}\n"
    found = availability(IDLE, held)
    assert not found.queues["batch"].open
    assert found.wait("batch", wanted(1)) is None
    assert found.wait("long", wanted(1)) == 0


@pytest.mark.parametrize(
    "state",
    [
        "DOWN",
        "IDLE+DRAIN",
        "MIXED+RESERVED",
        "IDLE+MAINTENANCE",
        "IDLE+NOT_RESPONDING",
        "IDLE+CLOUD+POWERED_DOWN",
        "FUTURE",
    ],
)
def test_node_that_starts_no_jobs_offers_nothing(state: str) -> None:
    found = availability(IDLE.replace("State=IDLE", f"State={state}"), "")
    assert found.wait("batch", wanted(1)) is None


def test_job_on_several_nodes_leaves_room_on_each() -> None:
    job = f"{M}|4|RUNNING|None|batch|96|2|1G|N/A|1:00:00|1795701066|1795704666|node[1-2]|(null)|a|c|normal|{M}\n"
    nodes = NODE + NODE.replace("node1", "node2")
    assert availability(nodes, job).wait("batch", wanted(64)) == 1795704666 - TAKEN


def test_job_that_has_reached_its_time_limit_still_needs_its_room() -> None:
    assert availability(NODE, RUNNING.replace("1795704666", "1795701066")).wait("batch", wanted(20)) == 60


@pytest.mark.parametrize(
    ("nodes", "jobs"),
    [
        ("", HEADING),
        (NODE[:-2], HEADING),
        ("slurm_load_node error: Unable to contact slurm controller\n", HEADING),
        (NODE.replace("AllocMem=69632", "AllocMem=?"), HEADING),
        (NODE.split(" AllocTRES", maxsplit=1)[0] + "\n", HEADING),
        (NODE, ""),
        (NODE, HEADING + RUNNING[:-20]),
        (NODE, HEADING + RUNNING[:-20] + "\n"),
        (NODE, HEADING + RUNNING.replace("|course", "")),
        (NODE, "slurm_load_jobs error: Unable to contact slurm controller\n"),
    ],
)
def test_incomplete_availability_is_no_answer(nodes: str, jobs: str) -> None:
    with pytest.raises(Unanswered):
        SLURM.parse_availability({"nodes": nodes, "jobs": jobs}, TAKEN)


def test_lines_of_a_wrapper_are_ignored() -> None:
    jobs = f"Welcome\n{HEADING}{RUNNING}Bye\n"
    found = SLURM.parse_availability({"nodes": f"Welcome\n{NODE}Bye\n", "jobs": jobs}, TAKEN)
    assert found == SLURM.parse_availability({"nodes": NODE, "jobs": HEADING + RUNNING}, TAKEN)


def test_jobs_of_each_user_are_counted() -> None:
    assert SLURM.count_jobs({"jobs": HEADING + RUNNING + PLANNED + NOT_FOR_ROOM}) == {
        "alice": {("course", "normal"): JobNumbers(1, 2), ("physics", "normal"): JobNumbers(1, 2)},
        "bob": {("biology", "normal"): JobNumbers(0, 3)},
    }


def test_only_the_best_offers_are_kept() -> None:
    small, large, typed = Offer(4, 10), Offer(8, 20), Offer(2, 5, 1, {"a100": 1})
    assert best_offers([small, large, typed, large]) == (large, typed)
    assert best_offers([Offer(n, 1000 - n) for n in range(1, 1000)])[0] == Offer(999, 1)
    assert len(best_offers([Offer(n, 1000 - n) for n in range(1, 1000)])) == 200


# Allocations

POLICIES = {
    "config": SLURM.parse_policy("config", CONFIG),
    "reservations": SLURM.parse_policy("reservations", RESERVATIONS),
    "budgets": SLURM.parse_policy("budgets", BUDGETS),
    "qos": SLURM.parse_policy("qos", "normal||\nshort|2|\nlong||5\n"),
}


def allocations(user: str, text: str = USERS, groups: tuple[str, ...] = (), **policies: object) -> Any:
    rows = SLURM.parse_users("users", text, ["alice", "bob", "carol"])
    return SLURM.allocations(Person(user, frozenset(groups)), {"users": rows[user]}, {**POLICIES, **policies}, TAKEN)


def test_user_has_the_accounts_of_this_cluster() -> None:
    found = allocations("alice")
    assert [account.name for account in found.accounts] == ["course", "physics"]
    course, physics = found.accounts
    assert (course.max_jobs, course.max_submitted, course.unusable) == (1, 2, "used_up")
    assert (physics.qos, physics.default_qos, physics.queues) == (("long", "normal"), "normal", None)
    assert (physics.max_runtime, physics.unusable) == (None, "")
    assert found.default_account == "physics"
    assert found.qos == ("long", "normal", "short")
    assert found.limits_of_qos == {"long": JobLimits(None, 5), "normal": JobLimits(), "short": JobLimits(2)}
    assert allocations("bob").accounts[0].unusable == ""


def test_account_below_a_used_up_account_is_used_up() -> None:
    tree = SLURM.parse_policy("budgets", BUDGETS.replace(" science|||", " science||cpu=209|"))
    assert allocations("bob", budgets=tree).accounts[0].unusable == "used_up"


def test_account_for_some_partitions_names_them() -> None:
    (account,) = allocations("bob", "bob|b|demo|b|long|normal||||\nbob|b|demo|b|gpu|normal||||1:00:00\n").accounts
    assert (account.queues, account.max_runtime) == (("gpu", "long"), None)


def test_account_that_accepts_no_jobs_is_closed() -> None:
    assert allocations("bob", "bob|b|demo|b||normal|||0|\n").accounts[0].unusable == "closed"


def test_user_without_an_association_has_no_account_if_slurm_requires_one() -> None:
    assert allocations("carol").accounts == ()
    for text in (
        CONFIG.replace("associations,limits,qos", "none"),
        CONFIG.replace("= none", "= accounts"),
        CONFIG.replace("= none", "= jobs,users"),
    ):
        found = allocations("carol", config=SLURM.parse_policy("config", text))
        assert (found.accounts, found.qos) == (None, None)


def test_nothing_is_known_before_the_configuration_is_known() -> None:
    assert allocations("alice", config=None) is None


@pytest.mark.parametrize(
    ("users", "groups", "accounts", "is_admitted"),
    [
        ("(null)", "(null)", "(null)", False),
        ("alice,bob", "(null)", "(null)", True),
        ("bob", "(null)", "(null)", False),
        ("-alice", "(null)", "(null)", False),
        ("-bob", "(null)", "(null)", True),
        ("(null)", "hpc", "(null)", True),
        ("(null)", "staff", "(null)", False),
        ("(null)", "(null)", "course", True),
        ("(null)", "(null)", "science", True),
        ("(null)", "(null)", "biology", False),
        ("alice", "(null)", "biology", False),
        ("bob", "(null)", "course", False),
        ("(null)", "(null)", "-physics,-course", False),
        ("(null)", "(null)", "-biology", True),
    ],
)
def test_reservation_is_offered_to_those_who_may_use_it(
    users: str, groups: str, accounts: str, *, is_admitted: bool
) -> None:
    text = RESERVATIONS.splitlines(keepends=True)[0].replace("Users=(null)", f"Users={users}")
    text = text.replace("Groups=(null)", f"Groups={groups}").replace("Accounts=course", f"Accounts={accounts}")
    found = allocations("alice", groups=("hpc",), reservations=SLURM.parse_policy("reservations", text))
    assert found.reservations == ((Reservation("lecture", 1795787419, 1795794619),) if is_admitted else ())


def test_reservation_that_is_over_or_a_maintenance_is_not_offered() -> None:
    old = RESERVATIONS.replace("EndTime=1795794619", "EndTime=1795701499").replace("Users=root", "Users=alice")
    assert allocations("alice", reservations=SLURM.parse_policy("reservations", old)).reservations == ()
    none = SLURM.parse_policy("reservations", "No reservations in the system\n")
    assert allocations("alice", reservations=none).reservations == ()
    assert allocations("alice", reservations=None).reservations is None


def test_maintenance_affects_the_cluster_or_a_partition() -> None:
    assert SLURM.maintenances(POLICIES) == (Maintenance("maint", 1795960219, 1795974619),)
    part = RESERVATIONS.replace("ALL_NODES", "PART_NODES").replace("PartitionName=(null)", "PartitionName=gpu")
    policies = {"reservations": SLURM.parse_policy("reservations", part)}
    assert SLURM.maintenances(policies) == (Maintenance("maint", 1795960219, 1795974619, ("gpu",)),)
    some = RESERVATIONS.replace(",ALL_NODES", "")
    assert SLURM.maintenances({"reservations": SLURM.parse_policy("reservations", some)}) == ()
    assert SLURM.maintenances({}) == ()


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("config", ""),
        ("config", CONFIG[:60]),
        ("reservations", ""),
        ("reservations", RESERVATIONS[:-1]),
        ("reservations", RESERVATIONS[:200] + "\n"),
        ("reservations", RESERVATIONS.replace("1795787419", "2026-11-27T13:50:19")),
        ("budgets", ""),
        ("budgets", BUDGETS[:-1]),
        ("budgets", BUDGETS.replace("root|||", "You are not running a supported priority plugin\nroot|||")),
        ("qos", "normal||\nshort|2"),
        ("qos", "normal|\n"),
    ],
)
def test_incomplete_policy_is_no_answer(topic: str, text: str) -> None:
    with pytest.raises(Unanswered):
        SLURM.parse_policy(topic, text)


@pytest.mark.parametrize(
    "text", [USERS[:-1], USERS[:30] + "\n", "mallory|x|demo|x||normal||||\n", "Problem with query\n"]
)
def test_incomplete_rows_of_users_are_no_answer(text: str) -> None:
    with pytest.raises(Unanswered):
        SLURM.parse_users("users", text, ["alice", "bob"])
