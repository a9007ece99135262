"""The hub's metrics, beside JupyterHub's own ones in the registry of prometheus_client.

The values of a metric come from an event, an observer, or from ``Collector``, which looks at the hub at each scrape.
All labels have a bounded set of values: clusters and profiles of the inventory, and words of this package. No label is
the name of a user or a job.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as BaseCollector
from sqlalchemy import event

from hpchub.clusters import gate_client
from hpchub.hub.job_session import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy import Engine

    from hpchub.hub.runtime import Runtime

log = logging.getLogger(__name__)

BACKUP_STATUS = "backup-status.json"
"""The file in the hub's state directory that each backup writes: ``{"time": SECONDS, "ok": BOOL, "file": NAME}``."""

ACTIONS = ("submit", "query", "find", "cancel", "history", "limits", "log")
"""The requests that a gate accepts."""

STATES = ("submitting", "queued", "launching", "ready", "stopping")
"""The states of a session in ``hpchub_sessions``."""

_SHORT = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90)
_WAIT = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400)
_LAUNCH = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 360)
_WRITE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metric(NamedTuple):
    """The definition of a metric. The reference in the documentation is generated from these definitions.

    Attributes:
        name: The name. A counter is scraped with ``_total`` after it.
        kind: ``counter``, ``gauge`` or ``histogram``.
        about: What it measures.
        labels: Its labels, each with its values in words.
        buckets: The upper bounds of a histogram.
    """

    name: str
    kind: str
    about: str
    labels: dict[str, str] = {}  # noqa: RUF012 never changed
    buckets: tuple[float, ...] = ()


_CLUSTER = {"cluster": "a cluster of the inventory"}
_PROFILE = {**_CLUSTER, "profile": "the key of a profile"}
_GATE = {**_CLUSTER, "action": ", ".join(ACTIONS)}

SESSIONS = Metric("hpchub_sessions", "gauge", "Sessions now", {**_PROFILE, "state": ", ".join(STATES)})
GATE_REQUESTS = Metric(
    "hpchub_gate_requests",
    "counter",
    "Requests to the gates of the clusters, which run the scheduler's commands",
    {**_GATE, "outcome": ", ".join(gate_client.OUTCOMES)},
)
GATE_SECONDS = Metric(
    "hpchub_gate_request_seconds", "histogram", "The time of a request to a gate, in seconds", _GATE, _SHORT
)
ANSWER_AGE = Metric(
    "hpchub_scheduler_answer_age_seconds",
    "gauge",
    "The age of the scheduler's last answer to the query for all jobs, in seconds. Before the first answer, the time"
    " since the hub started",
    _CLUSTER,
)
UNANSWERED = Metric(
    "hpchub_scheduler_unanswered_queries",
    "counter",
    "Queries for all jobs that the scheduler did not answer, or whose answer cannot be parsed",
    _CLUSTER,
)
UNKNOWN_JOBS = Metric(
    "hpchub_unknown_jobs",
    "gauge",
    "Live jobs that carry the hub's name although its database does not know them; see `hpchub orphans`",
    _CLUSTER,
)
PROXY_ROUTES = Metric("hpchub_proxy_routes", "gauge", "Routes of the proxy when the hub last asked for them")
DATABASE_WRITES = Metric(
    "hpchub_database_writes", "counter", "Statements that wrote to the hub's database", {"outcome": "done, failed"}
)
DATABASE_SECONDS = Metric(
    "hpchub_database_write_seconds",
    "histogram",
    "The time of a statement that wrote to the hub's database, in seconds",
    {},
    _WRITE,
)
HEALTHY = Metric("hpchub_healthy", "gauge", "1 if the hub's health check has found no problem, else 0")
CERTIFICATE_DAYS = Metric(
    "hpchub_certificate_days_left",
    "gauge",
    "The days until a certificate on the hub host expires. If it has expired, the number is negative",
    {"certificate": "web_server, api_authority, notebook_authority, notebook_hub"},
)
BACKUP_AGE = Metric("hpchub_backup_age_seconds", "gauge", "The age of the newest backup, in seconds")
BACKUP_OK = Metric("hpchub_backup_ok", "gauge", "1 if the last backup succeeded, else 0")

METRICS = (
    SESSIONS,
    GATE_REQUESTS,
    GATE_SECONDS,
    ANSWER_AGE,
    UNANSWERED,
    UNKNOWN_JOBS,
    PROXY_ROUTES,
    DATABASE_WRITES,
    DATABASE_SECONDS,
    HEALTHY,
    CERTIFICATE_DAYS,
    BACKUP_AGE,
    BACKUP_OK,
)
"""All metrics of this package."""


def _counter(metric: Metric) -> Counter:
    return Counter(metric.name, metric.about, list(metric.labels))


def _histogram(metric: Metric) -> Histogram:
    return Histogram(metric.name, metric.about, list(metric.labels), buckets=metric.buckets)


gate_requests = _counter(GATE_REQUESTS)
gate_seconds = _histogram(GATE_SECONDS)
database_writes = _counter(DATABASE_WRITES)
database_seconds = _histogram(DATABASE_SECONDS)
proxy_routes = Gauge(PROXY_ROUTES.name, PROXY_ROUTES.about)
unknown_jobs = Gauge(UNKNOWN_JOBS.name, UNKNOWN_JOBS.about, list(UNKNOWN_JOBS.labels))


def start(runtime: Runtime, engine: Engine, spawners: Callable[[], Iterable[Any]]) -> None:
    """Begin to measure a hub.

    Args:
        runtime: The hub's runtime.
        engine: The engine of the hub's database.
        spawners: A function that returns the spawners of all users.
    """
    for cluster, gate in runtime.gates.items():
        gate.observer = observe_gate(cluster)
        unknown_jobs.labels(cluster)
    observe_database(engine)
    Collector(runtime, spawners).register()


def observe_gate(cluster: str) -> Callable[[str, str, float], None]:
    """Return the observer of a cluster's gate, which counts and times its requests."""
    for action in ACTIONS:
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


class Collector(BaseCollector):
    """The metrics that describe the hub at the time of a scrape.

    Args:
        runtime: The hub's runtime.
        spawners: A function that returns the spawners of all users.
    """

    def __init__(self, runtime: Runtime, spawners: Callable[[], Iterable[Any]]) -> None:
        self._runtime = runtime
        self._spawners = spawners

    def register(self) -> None:
        """Register the collector, in the place of an earlier hub's in this process."""
        global _registered  # noqa: PLW0603 the registry is global too
        if _registered is not None:
            REGISTRY.unregister(_registered)
        REGISTRY.register(self)
        _registered = self

    def describe(self) -> list[Any]:
        """Return nothing, so that registering the collector does not collect."""
        return []

    def collect(self) -> Iterator[Any]:
        """Return the metrics. A part that fails is logged and left out."""
        for part in (self._sessions, self._schedulers, self._health, self._certificates, self._backup):
            try:
                yield from part()
            except Exception:
                log.exception("Cannot collect the metrics of %s", part.__name__.strip("_"))

    def _sessions(self) -> Iterator[Any]:
        count: dict[tuple[str, ...], float] = {
            (profile.cluster, profile.key, state): 0 for profile in self._runtime.profiles.profiles for state in STATES
        }
        for spawner in self._spawners():
            if (state := state_of(spawner)) and (child := spawner.child_spawner):
                key = (child.cluster.name, child.profile.key, state)
                count[key] = count.get(key, 0) + 1
        yield _gauge(SESSIONS, count)

    def _schedulers(self) -> Iterator[Any]:
        runtime, now = self._runtime, time.monotonic()
        clusters = {cluster.name: cluster.scheduler for cluster in runtime.profiles.clusters}
        pollers = {name: runtime.poller(name, clusters[name]) for name in clusters if name in runtime.gates}
        yield _gauge(ANSWER_AGE, {(name,): now - poller.answered for name, poller in pollers.items()})
        failures = CounterMetricFamily(UNANSWERED.name, UNANSWERED.about, labels=list(UNANSWERED.labels))
        for name, poller in pollers.items():
            failures.add_metric([name], poller.total_failures)
        yield failures

    def _health(self) -> Iterator[Any]:
        yield _gauge(HEALTHY, {(): float(self._runtime.health.is_good)})

    def _certificates(self) -> Iterator[Any]:
        left: dict[tuple[str, ...], float] = {}
        for name, path in self._runtime.settings.get("certificates", {}).items():
            try:
                left[(name,)] = days_left(Path(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                log.error("Cannot read the certificate %s: %s", path, error)
        yield _gauge(CERTIFICATE_DAYS, left)

    def _backup(self) -> Iterator[Any]:
        path = Path(self._runtime.settings["state_dir"]) / BACKUP_STATUS
        try:
            status = json.loads(path.read_text())
            at, good = float(status["time"]), status["ok"] is True
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("Cannot read the status of the last backup in %s: %r", path, error)
            yield _gauge(BACKUP_OK, {(): 0})
            return
        yield _gauge(BACKUP_AGE, {(): time.time() - at})
        yield _gauge(BACKUP_OK, {(): float(good)})


_registered: Collector | None = None


def _gauge(metric: Metric, values: dict[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(metric.name, metric.about, labels=list(metric.labels))
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family


def state_of(spawner: Any) -> str:
    """Return the state of a spawner's session, one of ``STATES``, or empty if there is no session."""
    if not spawner.session:
        return ""
    job = spawner.child_spawner.driver.state
    if spawner.pending == "stop":
        return "stopping"
    if job.host:
        return "ready"
    if job.phase in (Phase.LAUNCHING, Phase.CONNECTING):
        return "launching"
    return "queued" if job.job_id else "submitting"


def days_left(path: Path) -> float:
    """Return the days until the first certificate in a file expires.

    Raises:
        OSError, ValueError: The file cannot be read, or contains no certificate.
    """
    certificates = x509.load_pem_x509_certificates(path.read_bytes())
    return (min(each.not_valid_after_utc.timestamp() for each in certificates) - time.time()) / 86400
