"""The metrics of events: each event is counted once, under labels from a bounded set."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from hpchub.hub import events, session_metrics
from hpchub.hub.metric_definitions import CAUSES, METRICS, REASONS
from hpchub.hub.session_metrics import SessionMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

HUB = Path(session_metrics.__file__).parent
SESSION = events.Session(
    name="a" * 16, user="alice", cluster="demo", queue="q", profile="small", cores=1, gpus=0, runtime=3600
)
WHERE = {"cluster": "demo", "profile": "small"}
NOWHERE = {"cluster": "", "profile": ""}


def value(name: str, labels: dict[str, str]) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def counted() -> Callable[..., float]:
    """Return a function that returns by how much some events raise a sample."""

    def count(name: str, labels: dict[str, str], *happened: events.Event) -> float:
        subscriber = SessionMetrics()
        before = value(name, labels)
        for event in happened:
            subscriber.receive(event)
        return value(name, labels) - before

    return count


@pytest.mark.parametrize(
    ("event", "result"),
    [
        (events.SignedIn(user="alice", address="192.0.2.1"), "accepted"),
        (events.SignInRefused(user="mallory", address="192.0.2.1", reason="not_permitted"), "not_permitted"),
        (events.SignInRefused(user="", address="192.0.2.1", reason="no_identity"), "no_identity"),
        (events.SignInRefused(user="", address="192.0.2.1", reason="something new"), "other"),
    ],
)
def test_sign_ins_are_counted_by_result(counted: Callable[..., float], event: events.Event, result: str) -> None:
    assert counted("hpchub_sign_ins_total", {"result": result}, event) == 1


@pytest.mark.parametrize(
    ("event", "labels"),
    [
        (
            events.SessionReady(session=SESSION, job_id="7", launched=8.0, waited=20.0),
            {**WHERE, "outcome": "ready", "reason": ""},
        ),
        (events.StartFailed(session=SESSION, reason="waited"), {**WHERE, "outcome": "failed", "reason": "waited"}),
        (events.StartFailed(session=SESSION, reason="new"), {**WHERE, "outcome": "failed", "reason": "other"}),
        (
            events.SessionEnded(session=SESSION, cause="stopped", by="alice", was_ready=False),
            {**WHERE, "outcome": "stopped", "reason": ""},
        ),
        (
            events.StartRefused(user="alice", reason="bad_choice"),
            {**NOWHERE, "outcome": "refused", "reason": "bad_choice"},
        ),
    ],
)
def test_starts_are_counted_by_outcome_and_reason(
    counted: Callable[..., float], event: events.Event, labels: dict[str, str]
) -> None:
    assert counted("hpchub_starts_total", labels, event) == 1


@pytest.mark.parametrize(
    ("name", "event", "seconds"),
    [
        ("hpchub_submission_seconds", events.JobSubmitted(session=SESSION, job_id="7", waited=0.7), 0.7),
        ("hpchub_queue_wait_seconds", events.JobStarted(session=SESSION, job_id="7", node="n1", waited=40.0), 40.0),
        ("hpchub_launch_seconds", events.SessionReady(session=SESSION, job_id="7", launched=8.0, waited=50.0), 8.0),
        ("hpchub_start_seconds", events.SessionReady(session=SESSION, job_id="7", launched=8.0, waited=50.0), 50.0),
    ],
)
def test_stages_are_measured(counted: Callable[..., float], name: str, event: events.Event, seconds: float) -> None:
    assert counted(f"{name}_sum", WHERE, event) == pytest.approx(seconds)
    assert counted(f"{name}_count", WHERE, event) == 1


def test_unknown_times_are_not_measured(counted: Callable[..., float]) -> None:
    event = events.SessionReady(session=SESSION, job_id="7", launched=None, waited=None)
    assert counted("hpchub_launch_seconds_count", WHERE, event) == 0


def test_end_is_counted_with_its_explanation(counted: Callable[..., float]) -> None:
    ended = events.SessionEnded(session=SESSION, cause="unknown")
    unclear = events.EndExplained(session=SESSION, cause="unknown")
    explained = events.EndExplained(session=SESSION, cause="time_limit")
    labels = {**WHERE, "cause": "time_limit"}
    assert counted("hpchub_session_ends_total", labels, ended) == 0
    assert counted("hpchub_session_ends_total", labels, ended, unclear, explained, explained) == 1
    stopped = events.SessionEnded(session=SESSION, cause="stopped", by="alice")
    assert counted("hpchub_session_ends_total", {**WHERE, "cause": "stopped"}, stopped, explained) == 1


def test_end_without_an_explanation_is_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {**WHERE, "cause": "unknown"}
    before = value("hpchub_session_ends_total", labels)
    subscriber = SessionMetrics()
    subscriber.receive(events.SessionEnded(session=SESSION, cause="unknown"))
    subscriber.give_up()
    assert value("hpchub_session_ends_total", labels) == before
    monkeypatch.setattr(session_metrics, "PATIENCE", 0.0)
    subscriber.give_up()
    subscriber.give_up()
    assert value("hpchub_session_ends_total", labels) == before + 1


def test_every_reason_of_the_package_is_known() -> None:
    """A reason that is not in the list would be counted as "other"."""
    found = set()
    for path in HUB.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                for keyword in node.keywords:
                    if keyword.arg == "reason" and name in ("Fail", "StartError", "StartFailed", "StartRefused"):
                        found |= {keyword.value.value} if isinstance(keyword.value, ast.Constant) else set()
    assert {"refused", "bad_choice", "no_report"} <= found
    assert found <= set(REASONS)
    assert len(set(REASONS)) == len(REASONS)
    assert len(set(CAUSES)) == len(CAUSES)


def test_metrics_have_different_names_and_a_meaning() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.about[0].isupper() or metric.about[0].isdigit(), metric
        assert not metric.about.endswith("."), metric
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric
