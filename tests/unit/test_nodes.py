"""Profiles with several nodes: the directives of each scheduler, the rules, the choice, the availability, the form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from hpchub.clusters.batch_script import render_batch_script
from hpchub.clusters.limits import LimitsReport, compare
from hpchub.hub.grant import read_grant, write_grant
from hpchub.hub.session_events import facts
from hpchub.model.choice import ChoiceError, choose
from hpchub.model.entries import Cluster, Profile
from hpchub.model.places import PLACE_KINDS
from hpchub.model.profile_list import ProfileList
from hpchub.model.site import Site, SiteError
from hpchub.schedulers import SCHEDULERS, QueueLimits, QueueRules
from hpchub.schedulers.knowledge import Availability, QueueState, WaitingJob
from hpchub.schedulers.offers import MAX_KINDS, Offer, Wanted, alike

if TYPE_CHECKING:
    from hpchub.hub.job_session import JobSession

SESSION = "a" * 16
QUEUE: dict[str, Any] = {"max_cores": 8, "max_memory": "64G", "max_runtime": "8:00:00"}
TAKEN = 1_700_000_000.0


def cluster(scheduler: str, max_nodes: int = 4, **changes: Any) -> Cluster:
    return Cluster.model_validate(
        {
            "name": "demo",
            "scheduler": scheduler,
            "submit": {"method": "local"},
            "networks": ["10.0.0.0/8"],
            "queues": [{**QUEUE, "name": "batch", "max_nodes": max_nodes}, {**QUEUE, "name": "short", "max_nodes": 2}],
            **changes,
        }
    )


def profile(**changes: Any) -> Profile:
    entry = {"key": "mpi", "display_name": "MPI", "cluster": "demo", "queue": "batch"}
    resources = {"nodes": 2, "cores": 4, "memory": "8G", "runtime": "1:00:00"}
    return Profile.model_validate({**entry, **resources, **changes})


# The directives

NODES_ENVIRONMENT: dict[str, Any] = {"grid_engine": {"nodes_environment": "mpi_{cores}"}}


@pytest.mark.parametrize(
    ("scheduler", "settings", "changes", "expected", "replaced"),
    [
        pytest.param(
            "slurm",
            {},
            {"gpus": 1},
            ["--nodes=2", "--ntasks=2", "--cpus-per-task=4", "--mem=8G", "--gres=gpu:1"],
            ["--nodes=1", "--ntasks=1"],
            id="slurm",
        ),
        pytest.param(
            "pbs",
            {},
            {"gpus": 1},
            ["-l select=2:ncpus=4:mem=8gb:mpiprocs=4:ngpus=1", "-l place=scatter"],
            ["-l select=1:ncpus=4:mem=8gb:ngpus=1"],
            id="pbs",
        ),
        pytest.param(
            "pbs",
            {},
            {"options": ["-l place=scatter:excl"]},
            ["-l select=2:ncpus=4:mem=8gb:mpiprocs=4", "-l place=scatter:excl"],
            ["-l select=1:ncpus=4:mem=8gb"],
            id="pbs-with-its-own-placement",
        ),
        pytest.param(
            "torque",
            {},
            {"gpus": 1},
            ["-l nodes=2:ppn=4:gpus=1", "-l mem=16gb", "-W x=NMATCHPOLICY:EXACTNODE"],
            ["-l nodes=1:ppn=4:gpus=1", "-l mem=8gb"],
            id="torque",
        ),
        pytest.param(
            "torque",
            {},
            {"reservation": "course", "memory": "1500M"},
            ["-l nodes=2:ppn=4", "-l mem=3000mb", "-W x=FLAGS:ADVRES:course;NMATCHPOLICY:EXACTNODE"],
            ["-l nodes=1:ppn=4", "-l mem=1500mb", "-W x=FLAGS:ADVRES:course"],
            id="torque-with-a-reservation",
        ),
        pytest.param(
            "moab",
            {},
            {"gpus": 1},
            ["-l nodes=2:ppn=4:gpus=1", "-l mem=16gb", "-W x=NMATCHPOLICY:EXACTNODE"],
            ["-l nodes=1:ppn=4:gpus=1", "-l mem=8gb"],
            id="moab",
        ),
        pytest.param(
            "gridengine",
            NODES_ENVIRONMENT,
            {},
            ["-pe mpi_4 8", "-l h_rt=3600,h_vmem=2048M"],
            ["-pe smp 4"],
            id="gridengine",
        ),
        pytest.param("uge", NODES_ENVIRONMENT, {"cores": 1}, ["-pe mpi_1 2"], [], id="uge-with-one-core-per-node"),
        pytest.param(
            "lsf",
            {},
            {"gpus": 1},
            ["-n 8", '-R "span[ptile=4] rusage[mem=8GB/host]"', "-M 8GB", '-gpu "num=1"'],
            ["-n 4", '-R "span[hosts=1] rusage[mem=8GB/host]"'],
            id="lsf",
        ),
    ],
)
def test_directives_of_two_nodes(
    scheduler: str, settings: Any, changes: Any, expected: list[str], replaced: list[str]
) -> None:
    """The directives of one node are the same as without the field, and two nodes change only what they must."""
    site = cluster(scheduler, **settings)

    def directives(nodes: int) -> list[str]:
        return SCHEDULERS[scheduler].directives(profile(nodes=nodes, **changes), site, session=SESSION, comment="h/b/c")

    one, two = directives(1), directives(2)
    assert [each for each in expected if each not in two] == []
    assert [each for each in replaced if each not in one] == []
    kept = [each for each in one if each in two]
    assert [each for each in one if each not in kept] == replaced
    assert {*two} - {*kept} <= {*expected}
    assert len(two) == len(set(two))


def test_slurm_script_gives_srun_all_cores_of_a_node() -> None:
    one, two = (
        render_batch_script(cluster("slurm"), profile(nodes=nodes), session=SESSION, hub="h", username="alice")
        for nodes in (1, 2)
    )
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in two
    assert "SRUN_CPUS_PER_TASK" not in one


# The rules

VARIABLES: dict[str, Any] = {
    "hpc_service": {"url": "https://hub.example.org"},
    "hpc_sso": {
        "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
        "client_id": "hpchub",
        "client_secret": "a secret that is long enough",
    },
    "hpc_access": {"job_groups": ["hpc"], "allowed_groups": ["hpc"]},
}
ENTRY = 'hpc_profiles[0] (key "mpi"): '


def problems(variables: dict[str, Any]) -> list[str]:
    """Return the problems of the inventory."""
    try:
        Site.from_vars({**VARIABLES, **variables})
    except SiteError as error:
        return [str(problem) for problem in error.problems]
    return []


def entry(**changes: Any) -> dict[str, Any]:
    return profile(**changes).model_dump(mode="json", exclude_defaults=True)


def problems_with(scheduler: str, settings: dict[str, Any], changes: dict[str, Any]) -> list[str]:
    """Return the problems of a profile in a cluster."""
    described = cluster(scheduler, **settings).model_dump(mode="json", exclude_defaults=True)
    return problems({"hpc_clusters": [described], "hpc_profiles": [entry(**changes)]})


CHOOSABLE = {"nodes": 1, "adjustable": {"nodes": {"max": 2}}}


@pytest.mark.parametrize(
    ("scheduler", "settings", "changes", "expected"),
    [
        pytest.param("slurm", {}, {}, "", id="slurm"),
        pytest.param("pbs", {}, {}, "", id="pbs"),
        pytest.param("torque", {}, {}, "", id="torque"),
        pytest.param("moab", {}, {}, "", id="moab"),
        pytest.param("lsf", {}, {}, "", id="lsf"),
        pytest.param("gridengine", NODES_ENVIRONMENT, {}, "", id="gridengine"),
        pytest.param("multislurm", {}, CHOOSABLE, "", id="choosable"),
        pytest.param("slurm", {"max_nodes": 1}, {}, "nodes 2 is above max_nodes 1 of queue", id="queue-permits-one"),
        pytest.param("slurm", {"max_nodes": 3}, {"nodes": 4}, "nodes 4 is above max_nodes 3", id="above-the-queue"),
        pytest.param("slurm", {}, {"queue": "short", "nodes": 3}, "is above max_nodes 2", id="above-another-queue"),
        pytest.param(
            "slurm", {"max_nodes": 1}, CHOOSABLE, "adjustable.nodes.max 2 is above max_nodes 1", id="choice-above-queue"
        ),
        pytest.param(
            "slurm",
            {},
            {"adjustable": {"nodes": {"choices": [1, 4]}}},
            "nodes 2 is outside of adjustable.nodes",
            id="own-value-is-no-choice",
        ),
        pytest.param("htcondor", {}, {}, "nodes 2 is more than one node, but a job of HTCondor's", id="htcondor"),
        pytest.param("htcondor", {}, CHOOSABLE, "nodes.max 2 is more than one node", id="htcondor-choosable"),
        pytest.param("htcondor", {}, {"nodes": 1}, "", id="htcondor-one-node"),
        pytest.param("gridengine", {}, {}, "names no parallel environment for several nodes", id="gridengine-no-name"),
        pytest.param(
            "gridengine",
            {"grid_engine": {"nodes_environment": "mpi", "memory_per": "job"}},
            {},
            "memory_per is job, so only the first node would reserve memory",
            id="gridengine-memory-per-job",
        ),
        pytest.param(
            "gridengine",
            {"grid_engine": {"nodes_environment": "mpi", "memory_per": "job", "memory_resource": ""}},
            {},
            "",
            id="gridengine-no-memory",
        ),
        pytest.param(
            "pbs",
            {},
            {"options": ["-l place=excl"]},
            "which the option '-l place=excl' could place on one host",
            id="pbs-placement-free",
        ),
        pytest.param(
            "pbs", {}, {"options": ["-l place=pack:group=scatter"]}, "could place on one", id="pbs-group-name"
        ),
        pytest.param("pbs", {}, {"options": ["-l place=excl"], "nodes": 1}, "", id="pbs-placement-of-one-node"),
        pytest.param("pbs", {}, {"options": ["-l software=a,place=scatter:excl"]}, "", id="pbs-placement-scatter"),
        pytest.param(
            "torque", {}, {"options": ["-W x=a"]}, "option '-W x=a' replaces the extension", id="torque-extension"
        ),
        pytest.param("moab", {}, {"options": ["-W umask=7,x=a"]}, "replaces the extension", id="moab-extension-second"),
    ],
)
def test_several_nodes_need_a_queue_and_a_scheduler_that_permit_them(
    scheduler: str, settings: Any, changes: Any, expected: str
) -> None:
    found = problems_with(scheduler, settings, changes)
    assert len(found) == bool(expected), found
    assert expected in "".join(found)
    assert all(each.startswith(ENTRY) for each in found)


def test_grid_engine_grants_gpus_on_the_first_node_only() -> None:
    queues = [{**QUEUE, "name": "batch", "max_nodes": 4, "max_gpus": 4}]
    for changes in ({"gpus": 1}, {"adjustable": {"gpus": {"max": 1}}}):
        (found,) = problems_with("gridengine", {**NODES_ENVIRONMENT, "queues": queues}, changes)
        assert "would grant the GPUs on the first node only" in found


@pytest.mark.parametrize("value", ["2", 0, -1, 1001, 1.5, True, [2]], ids=repr)
def test_nodes_are_a_whole_number(value: Any) -> None:
    described = cluster("slurm").model_dump(mode="json", exclude_defaults=True)
    found = problems({"hpc_clusters": [described], "hpc_profiles": [{**entry(), "nodes": value}]})
    assert len(found) == 1
    assert found[0].startswith(f"{ENTRY}nodes ")


@pytest.mark.parametrize("name", ["mpi {cores}", "{cores}", "mpi_{cores}_{cores}", "mpi -l x", "mpi_{nodes}"])
def test_parallel_environment_of_nodes_is_one_name(name: str) -> None:
    with pytest.raises(ValueError, match="parallel environment"):
        cluster("gridengine", grid_engine={"nodes_environment": name})


SIZES = {"networks": ["192.0.2.0/24"], "max_cores": 4, "max_memory": "8G", "max_runtime": "8:00:00"}
IMAGES = [{"name": "jupyter", "image": f"registry.example.org/jupyter@sha256:{'a' * 64}"}]
HOST = {**SIZES, "host": "bigmem1", "cores": 64, "memory": "1T"}
KUBERNETES = {"url": "https://192.0.2.9:6443", "namespace": "hpchub", "storage": "10G"}
FILES = {"ca_file": "/etc/hpchub/kube/ca.pem", "token_file": "/etc/hpchub/kube/token"}
PLACES = {
    "docker": {**SIZES, "url": "https://docker1.example.org:2376", "images": IMAGES},
    "kubernetes": {**SIZES, **KUBERNETES, **FILES, "images": IMAGES},
    "ssh": HOST,
    "local": {**HOST, "enabled": True},
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    ("changes", "field"), [({}, "nodes 2"), (CHOOSABLE, "adjustable.nodes.max")], ids=["nodes", "choosable"]
)
def test_a_session_in_a_place_has_one_node(kind: str, changes: dict[str, Any], field: str) -> None:
    wanted = profile(**changes, cluster="", queue="", place="here").model_dump(mode="json", exclude_defaults=True)
    place = {"name": "here", "kind": kind, **PLACES[kind]}
    found = problems({"hpc_places": [place], "hpc_profiles": [{**wanted, "nodes": changes.get("nodes", 2)}]})
    message = f'{ENTRY}{field} is not possible in the place "here", where a session has one node'
    assert [each for each in found if "node" in each and not each.startswith(message)] == []
    assert len(found) == 1, found


# The choice


def test_user_chooses_the_number_of_nodes() -> None:
    flexible = profile(adjustable={"nodes": {"max": 4, "default": 1}})
    assert choose(flexible, cluster("slurm"), {}).nodes == 1
    assert choose(flexible, cluster("slurm"), {"nodes": "3"}).nodes == 3


@pytest.mark.parametrize("nodes", ["5", 5, "0", "-1", "1001", "x", "1.5", "", "2 ", "2,2", True, None, [2]], ids=repr)
def test_user_gets_no_other_number_of_nodes_than_the_profile_permits(nodes: Any) -> None:
    flexible = profile(nodes=1, adjustable={"nodes": {"choices": [1, 4]}})
    with pytest.raises(ChoiceError) as caught:
        choose(flexible, cluster("slurm"), {"nodes": nodes})
    assert [each.field for each in caught.value.complaints] == ["nodes"]


def test_user_cannot_choose_nodes_if_the_profile_fixes_them() -> None:
    with pytest.raises(ChoiceError, match="does not let you change 'nodes'"):
        choose(profile(), cluster("slurm"), {"nodes": "2"})


@pytest.mark.parametrize(
    ("changes", "fields", "field"),
    [
        pytest.param({"adjustable": {"nodes": {"max": 4}}}, {"nodes": 4}, "nodes", id="nodes"),
        pytest.param(
            {"queue": "batch", "nodes": 4, "adjustable": {"queue": {"choices": ["batch", "short"]}}},
            {"queue": "short"},
            "queue",
            id="queue-that-permits-fewer",
        ),
    ],
)
def test_user_gets_no_more_nodes_than_the_queue_permits(changes: Any, fields: Any, field: str) -> None:
    wanted = profile(**{"queue": "short", **changes})
    with pytest.raises(ChoiceError) as caught:
        choose(wanted, cluster("slurm"), fields)
    (complaint,) = caught.value.complaints
    assert (complaint.field, complaint.message) == (
        field,
        "4 is more than the queue short permits. Choose at most 2.",
    )


def test_place_grants_one_node_whatever_the_inventory_says() -> None:
    place = PLACE_KINDS["docker"].model_validate({"name": "here", "kind": "docker", **PLACES["docker"]})
    wanted = profile(nodes=1, cluster="", queue="", place="here", cores=1, adjustable={"nodes": {"max": 4}})
    with pytest.raises(ChoiceError, match="2 is more than here permits"):
        choose(wanted, place, {"nodes": "2"})


@pytest.mark.parametrize("nodes", [1, 3])
def test_saved_session_keeps_its_nodes(nodes: int) -> None:
    granted = choose(profile(nodes=nodes), cluster("slurm"), {})
    saved = write_grant(granted, cluster("slurm"))
    assert read_grant(saved)[0] == granted
    assert ("nodes" in saved["profile"]) is (nodes > 1), "a hub of an earlier version does not know the field"


def test_record_of_a_session_has_the_cores_and_gpus_of_all_nodes() -> None:
    granted = profile(nodes=3, cores=4, gpus=2)
    context = SimpleNamespace(user="alice", cluster=cluster("slurm"), profile=granted)
    found = facts(cast("JobSession", SimpleNamespace(session=SESSION, context=context)))
    assert (found.cores, found.gpus) == (12, 6)


# What the scheduler reports


@pytest.mark.parametrize(
    ("rules", "nodes", "problem"),
    [
        pytest.param(QueueRules(min_nodes=2), 1, "its jobs need at least 2 nodes", id="too-few"),
        pytest.param(QueueRules(min_nodes=2), 2, "", id="enough"),
        pytest.param(QueueRules(max_nodes=2), 3, "nodes 3 is above the limit of queue", id="too-many"),
        pytest.param(QueueRules(max_nodes=4), 4, "", id="at-the-limit"),
        pytest.param(QueueRules(never="it permits no nodes", max_nodes=0), 1, "it permits no nodes", id="none"),
    ],
)
def test_live_check_compares_nodes(rules: QueueRules, nodes: int, problem: str) -> None:
    site = ProfileList.model_construct(clusters=[cluster("slurm")], profiles=[profile(nodes=nodes)])
    limits = [QueueLimits("batch", rules=rules), QueueLimits("short", rules=rules)]
    found, _ = compare(site, {"demo": LimitsReport(limits)})
    mine = [str(each) for each in found if str(each).startswith("hpc_profiles")]
    assert len(mine) == bool(problem), mine
    assert problem in "".join(mine)


@pytest.mark.parametrize(
    ("limits", "nodes", "problem"),
    [
        pytest.param({"of_job": {"cores": 7}}, 2, "2 nodes with 4 each have together more than a job", id="cores"),
        pytest.param({"of_job": {"cores": 8}}, 2, "", id="cores-at-the-limit"),
        pytest.param({"of_job": {"cores": 7}}, 1, "", id="one-node"),
        pytest.param({"of_job": {"memory": 10240}}, 2, "2 nodes with 8G each have together more than", id="memory"),
        pytest.param({"least": {"cores": 8}}, 2, "", id="least-cores-of-both"),
        pytest.param({"least": {"cores": 9}}, 2, "is below the minimum", id="least-cores"),
        pytest.param({"least": {"runtime": 7200}}, 2, "is below the minimum", id="least-time"),
    ],
)
def test_live_check_compares_what_all_nodes_have(limits: dict[str, Any], nodes: int, problem: str) -> None:
    site = ProfileList.model_construct(clusters=[cluster("slurm")], profiles=[profile(nodes=nodes)])
    found, _ = compare(site, {"demo": LimitsReport([QueueLimits(name, **limits) for name in ("batch", "short")])})
    assert len(found) == bool(problem), found
    assert problem in "".join(map(str, found))


def test_live_check_compares_max_nodes_of_a_queue() -> None:
    site = ProfileList.model_construct(clusters=[cluster("slurm")], profiles=[])
    limits = [QueueLimits("batch", rules=QueueRules(max_nodes=3)), QueueLimits("short", rules=QueueRules(max_nodes=2))]
    (found,) = compare(site, {"demo": LimitsReport(limits)})[0]
    assert "max_nodes 4 is above the scheduler's limit (3)" in str(found)


@pytest.mark.parametrize(("environments", "is_found"), [(("smp", "mpi_4"), False), (("smp", "mpi_8"), True)])
def test_live_check_needs_the_parallel_environment_of_nodes(environments: tuple[str, ...], is_found: bool) -> None:
    site = ProfileList.model_construct(clusters=[cluster("gridengine", **NODES_ENVIRONMENT)], profiles=[profile()])
    limits = [QueueLimits(name, environments=environments) for name in ("batch", "short")]
    found, _ = compare(site, {"demo": LimitsReport(limits)})
    assert bool(found) is is_found
    assert all('several nodes need the parallel environment "mpi_4"' in str(each) for each in found)


# The availability


def wait(nodes: int, *offers: list[Offer], waiting: tuple[WaitingJob, ...] = (), runtime: int = 3600) -> float | None:
    """Return how long a job would wait, for nodes that are each given by their offers."""
    state = QueueState("batch", nodes=alike(offers), waiting=waiting)
    return Availability(TAKEN, {"batch": state}).wait("batch", Wanted(4, 8192, runtime), nodes)


FREE = [Offer(4, 8192)]
SMALL = [Offer(3, 8192)]
NO_MEMORY = [Offer(4, 8191)]


def later(after: float, until: float | None = None) -> Offer:
    return Offer(4, 8192, start=TAKEN + after, until=None if until is None else TAKEN + until)


@pytest.mark.parametrize(
    ("nodes", "offers", "expected"),
    [
        pytest.param(2, [FREE, FREE], 0, id="two-free"),
        pytest.param(3, [FREE, FREE], None, id="too-few"),
        pytest.param(2, [[Offer(64, 131072)]], None, id="one-large-node"),
        pytest.param(2, [FREE, SMALL], None, id="cores-on-each"),
        pytest.param(2, [FREE, NO_MEMORY], None, id="memory-on-each"),
        pytest.param(2, [FREE, [later(600)]], 600, id="one-later"),
        pytest.param(2, [FREE, [later(600)], [later(60)]], 60, id="the-earliest"),
        pytest.param(2, [[Offer(4, 8192, until=TAKEN + 4000), later(600)]], None, id="alternatives-of-one-node"),
        pytest.param(2, [[later(0, 4000)], [later(600)]], None, id="not-at-the-same-time"),
        pytest.param(2, [[later(0, 4200)], [later(600)]], 600, id="just-at-the-same-time"),
        pytest.param(2, [[later(0, 3000), later(900)], FREE], 900, id="too-short-at-first"),
        pytest.param(2, [], None, id="unknown-nodes"),
    ],
)
def test_wait_for_several_nodes(nodes: int, offers: list[list[Offer]], expected: float | None) -> None:
    assert wait(nodes, *offers) == expected


def test_job_that_waits_delays_several_nodes() -> None:
    job = WaitingJob(Wanted(1, 1024), 2, TAKEN + 300)
    assert wait(2, FREE, FREE, waiting=(job,)) == 300


def test_alike_nodes_are_counted_once() -> None:
    found = alike([FREE, FREE, [Offer(0, 1)], [], SMALL])
    assert [(each.number, each.offers[0].cores) for each in found] == [(2, 4), (1, 3)]


def test_many_kinds_of_nodes_are_limited() -> None:
    assert len(alike([Offer(number)] for number in range(1, MAX_KINDS + 100))) == MAX_KINDS
