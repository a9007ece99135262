"""The steps of a start, the place in the queue, and the expected start, as the page shows them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hub_app import CLUSTER, HUB, SESSION, SITE

from hpchub.hub.job_session import JobSession
from hpchub.hub.progress import Progress, progress_of
from hpchub.hub.session_state import Context, Phase
from hpchub.schedulers import SCHEDULERS, Job, JobState

CONTEXT = Context(HUB, "alice", CLUSTER, SITE.profiles[0], SCHEDULERS["slurm"], 1.0, 60.0)
REQUESTED = JobSession(CONTEXT, session=SESSION, requested=100.0, phase=Phase.SUBMITTING)
QUEUED = dataclasses.replace(REQUESTED, job_id="7", submitted=101.0, phase=Phase.QUEUED)
STARTED = dataclasses.replace(QUEUED, started=160.0, node="n1", phase=Phase.LAUNCHING)
REPORTED = dataclasses.replace(STARTED, port=20001, reported=170.0)
PENDING = Job("7", JobState.PENDING, "PENDING", start="1970-01-01T01:00:00")


def steps(progress: Progress) -> dict[str, tuple[str, float | None]]:
    return {step.name: (step.state, step.begin.at if step.begin else None) for step in progress.steps}


@pytest.mark.parametrize(
    ("session", "now", "begins"),
    [
        (REQUESTED, "submitting", (100.0, None, None, None)),
        (QUEUED, "waiting", (100.0, 101.0, None, None)),
        (STARTED, "starting", (100.0, 101.0, 160.0, None)),
        (REPORTED, "opening", (100.0, 101.0, 160.0, 170.0)),
        (dataclasses.replace(REPORTED, reported=0.0, requested=0.0), "opening", (None, 101.0, 160.0, None)),
    ],
    ids=["requested", "queued", "started", "reported", "times-are-unknown"],
)
def test_steps_have_their_times(session: JobSession, now: str, begins: tuple[float | None, ...]) -> None:
    found = steps(progress_of(session))
    assert tuple(begin for _, begin in found.values()) == begins
    assert [name for name, (state, _) in found.items() if state == "now"] == [now]
    order = list(found)
    for name, (state, _) in found.items():
        if name != now:
            assert state == ("done" if order.index(name) < order.index(now) else "later")


def test_waiting_job_shows_its_place_and_its_expected_start() -> None:
    found = progress_of(dataclasses.replace(QUEUED, job=PENDING, place=3))
    assert (found.place, found.expected and found.expected.at) == (3, 3600.0)
    assert found.expected
    assert found.expected.text == "1970-01-01 01:00 UTC"


@pytest.mark.parametrize(
    "changes",
    [{"silent": True}, {"started": 160.0}, {"job": dataclasses.replace(PENDING, state=JobState.RUNNING)}],
    ids=["silent", "started", "runs"],
)
def test_job_that_does_not_wait_certainly_has_no_expected_start(changes: dict[str, Any]) -> None:
    assert progress_of(dataclasses.replace(QUEUED, **{"job": PENDING, "place": 3, **changes})).expected is None


@pytest.mark.parametrize("start", ["", "N/A", "soon", "1970-13-01T00:00:00"])
def test_unknown_expected_start_is_none(start: str) -> None:
    found = progress_of(dataclasses.replace(QUEUED, job=dataclasses.replace(PENDING, start=start)))
    assert found.expected is None
