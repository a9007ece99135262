"""The hub's metrics that are counted and measured when something happens.

They are in the registry of prometheus_client that JupyterHub uses for its own metrics.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import event

from hpchub.clusters import gate_client
from hpchub.hub import metric_definitions as defined

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from hpchub.hub.metric_definitions import Metric


def counter(metric: Metric) -> Counter:
    """Register a counter."""
    return Counter(metric.name, metric.about, list(metric.labels))


def histogram(metric: Metric) -> Histogram:
    """Register a histogram."""
    return Histogram(metric.name, metric.about, list(metric.labels), buckets=metric.buckets)


gate_requests = counter(defined.GATE_REQUESTS)
gate_seconds = histogram(defined.GATE_SECONDS)
database_writes = counter(defined.DATABASE_WRITES)
database_seconds = histogram(defined.DATABASE_SECONDS)
proxy_routes = Gauge(defined.PROXY_ROUTES.name, defined.PROXY_ROUTES.about)
audit_failures = counter(defined.AUDIT_FAILURES)
unknown_jobs = Gauge(defined.UNKNOWN_JOBS.name, defined.UNKNOWN_JOBS.about, list(defined.UNKNOWN_JOBS.labels))


def observe_gate(cluster: str) -> Callable[[str, str, float], None]:
    """Return the observer of a cluster's gate, which counts and times its requests."""
    for action in defined.ACTIONS:
        gate_seconds.labels(cluster, action)
        for outcome in gate_client.OUTCOMES:
            gate_requests.labels(cluster, action, outcome)

    def observe(action: str, outcome: str, seconds: float) -> None:
        gate_requests.labels(cluster, action, outcome).inc()
        gate_seconds.labels(cluster, action).observe(seconds)

    return observe


def observe_database(engine: Engine) -> None:
    """Count and time the statements that write to the hub's database."""
    for outcome in ("done", "failed"):
        database_writes.labels(outcome)

    @event.listens_for(engine, "before_cursor_execute", named=True)
    def before(conn: Any, **_: Any) -> None:
        conn.info["hpchub_began"] = time.perf_counter()

    @event.listens_for(engine, "after_cursor_execute", named=True)
    def after(conn: Any, statement: str, **_: Any) -> None:
        if _writes(statement):
            database_writes.labels("done").inc()
            database_seconds.observe(time.perf_counter() - conn.info["hpchub_began"])

    @event.listens_for(engine, "handle_error")
    def failed(context: Any) -> None:
        if _writes(context.statement or ""):
            database_writes.labels("failed").inc()


def _writes(statement: str) -> bool:
    return statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")
