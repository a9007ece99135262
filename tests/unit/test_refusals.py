"""Which value of a job a scheduler refused, according to its message, and what the user reads."""

from __future__ import annotations

import pytest
from hub_app import profile, site

from hpchub.hub.refusals import TEXTS, refused_value
from hpchub.model.choice import NAMES
from hpchub.schedulers import SCHEDULERS

SET = {"account": "a", "qos": "q1", "reservation": "r", "node_constraint": "ib"}
SBATCH = "sbatch: error: Batch job submission failed: "
NOT_AVAILABLE = "Requested node configuration is not available"


def refused(scheduler: str, message: str, **changes: object) -> tuple[str, str] | None:
    """Return the field that a scheduler refused, and the words of the scheduler."""
    granted = site(profile("small", **changes)).profiles[0]
    found = refused_value(SCHEDULERS[scheduler], granted, message)
    if found is None:
        return None
    assert found.text.startswith("The cluster demo ")
    return found.field, found.text.rpartition(" (")[2].removesuffix(").")


@pytest.mark.parametrize(
    ("scheduler", "message", "field"),
    [
        ("slurm", f"{SBATCH}Invalid qos specification", "qos"),
        ("slurm", f"{SBATCH}Invalid account or account/partition combination specified", "account"),
        ("slurm", f"{SBATCH}Requested reservation is invalid", "reservation"),
        ("slurm", f"{SBATCH}Requested reservation not usable now", "reservation"),
        ("slurm", f"{SBATCH}Access denied to requested reservation", "reservation"),
        (
            "slurm",
            "sbatch: error: invalid partition specified: x\n" + SBATCH + "Invalid partition name specified",
            "queue",
        ),
        ("slurm", f"{SBATCH}User's group not permitted to use this partition", "queue"),
        ("slurm", f"{SBATCH}Required partition not available (inactive or drain)", "queue"),
        ("slurm", f"{SBATCH}Invalid feature specification", "node_constraint"),
        ("slurm", f"{SBATCH}Requested time limit is invalid (missing or exceeds some limit)", "runtime"),
        ("slurm", f"{SBATCH}Memory required by task is not available", "memory"),
        ("slurm", f"{SBATCH}Node count specification invalid", "nodes"),
        ("slurm", "Job's account not permitted to use this partition (q allows b not a)", "account"),
        ("slurm", "QOSNotAllowed", "qos"),
        ("slurm", "InvalidAccount", "account"),
        ("multislurm", f"{SBATCH}Invalid qos specification", "qos"),
        (
            "gridengine",
            'Unable to run job: Job was rejected because job requests unknown queue "x".\nExiting.',
            "queue",
        ),
        ("gridengine", "Unable to run job: the advance reservation id 7 is invalid.\nExiting.", "reservation"),
        ("uge", 'Unable to run job: Job was rejected because job requests unknown queue "x".\nExiting.', "queue"),
        ("pbs", "qsub: Unknown Reservation Id", "reservation"),
        ("pbs", "qsub: Unknown queue", "reservation"),
        ("torque", "qsub: submit error (Unknown queue MSG=cannot locate queue)", "queue"),
        ("torque", "qsub: submit error (Invalid Account)", "account"),
        ("lsf", "x: No such queue. Job not submitted.", "queue"),
        ("lsf", "User cannot use the queue. Job not submitted.", "queue"),
    ],
)
def test_message_of_the_scheduler_names_the_field(scheduler: str, message: str, field: str) -> None:
    found = refused(scheduler, message, **SET)
    assert found is not None
    assert found[0] == field
    assert found[1].strip(")") in message


def test_queue_is_refused_if_the_job_has_no_reservation() -> None:
    assert refused("pbs", "qsub: Unknown queue") == ("queue", "Unknown queue")


def test_type_of_gpus_is_refused_if_the_job_requests_one() -> None:
    messages = [f"{SBATCH}Invalid generic resource (gres) specification", f"{SBATCH}{NOT_AVAILABLE}"]
    queue = {"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "12:00:00", "max_gpus": 2}
    cluster = {"name": "demo", "scheduler": "slurm", "submit": {"method": "local"}, "networks": ["192.0.2.0/24"]}
    for gpus, fields in ((1, ["gpus", ""]), ({"type": "a100", "count": 1}, ["gpu_type", "gpu_type"])):
        entry = profile("small", gpus=gpus)
        granted = site(entry, hpc_clusters=[{**cluster, "queues": [queue]}]).profiles[0]
        found = [refused_value(SCHEDULERS["slurm"], granted, message) for message in messages]
        assert [each.field if each else "" for each in found] == fields


def test_default_account_is_named_in_words() -> None:
    granted = site(profile("small")).profiles[0]
    found = refused_value(
        SCHEDULERS["slurm"], granted, f"{SBATCH}Invalid account or account/partition combination specified"
    )
    assert found is not None
    assert "your default account" in found.text


@pytest.mark.parametrize(
    "message",
    ["", f"{SBATCH}Unable to contact slurm controller", f"{SBATCH}Job violates accounting/QOS policy", "Priority"],
)
def test_other_messages_name_no_field(message: str) -> None:
    for name in SCHEDULERS:
        assert refused(name, message) is None


def test_each_field_that_a_scheduler_can_refuse_has_a_sentence() -> None:
    refusable = {
        name for scheduler in SCHEDULERS.values() for _, fields in scheduler.refusals for name in fields if name
    }
    assert refusable <= TEXTS.keys() <= set(NAMES)
