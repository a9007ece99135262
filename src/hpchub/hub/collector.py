"""The metrics that describe the hub and its host at the time of a scrape."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector as BaseCollector

from hpchub.canary.status import GOOD, SKIPPED, read_status
from hpchub.hub import metric_definitions as defined
from hpchub.hub.session_state import Phase
from hpchub.hub.versions import differences
from hpchub.no_links import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hpchub.hub.metric_definitions import Metric
    from hpchub.hub.runtime import Runtime
    from hpchub.hub.session_metrics import SessionMetrics

log = logging.getLogger(__name__)

STATUS_SIZE = 4096
"""How much of the status of another account is read, in bytes."""


class Collector(BaseCollector):
    """The metrics that describe the hub at the time of a scrape.

    Args:
        runtime: The hub's runtime.
        spawners: A function that returns the spawners of all users.
        events: The subscriber that counts the events of sessions.
    """

    def __init__(self, runtime: Runtime, spawners: Callable[[], Iterable[Any]], events: SessionMetrics) -> None:
        self._runtime = runtime
        self._spawners = spawners
        self._events = events

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
        parts = (self._sessions, self._schedulers, self._health, self._certificates, self._backup, self._canary)
        for part in (*parts, self._versions, self._sign_on):
            try:
                yield from part()
            except Exception:
                log.exception("Cannot collect the metrics of %s", part.__name__.strip("_"))

    def _sessions(self) -> Iterator[Any]:
        self._events.give_up()
        self._events.prepare(self._runtime.profiles.profiles)
        count: dict[tuple[str, ...], float] = {
            (profile.where, profile.key, state): 0
            for profile in self._runtime.profiles.profiles
            for state in defined.STATES
        }
        for spawner in self._spawners():
            if (state := state_of(spawner)) and (child := spawner.child_spawner):
                key = (child.cluster.name, child.profile.key, state)
                count[key] = count.get(key, 0) + 1
        yield _gauge(defined.SESSIONS, count)

    def _schedulers(self) -> Iterator[Any]:
        runtime, now = self._runtime, time.monotonic()
        clusters = {cluster.name: cluster.scheduler for cluster in runtime.profiles.clusters}
        pollers = {name: runtime.poller(name, clusters[name]) for name in clusters if name in runtime.gates}
        pollers |= {place.name: runtime.poller(place.name) for place in runtime.profiles.places}
        yield _gauge(defined.ANSWER_AGE, {(name,): now - poller.answered for name, poller in pollers.items()})
        failures = CounterMetricFamily(
            defined.UNANSWERED.name, defined.UNANSWERED.about, labels=list(defined.UNANSWERED.labels)
        )
        for name, poller in pollers.items():
            failures.add_metric([name], poller.total_failures)
        yield failures

    def _health(self) -> Iterator[Any]:
        yield _gauge(defined.HEALTHY, {(): float(self._runtime.health.is_good)})

    def _certificates(self) -> Iterator[Any]:
        left: dict[tuple[str, ...], float] = {}
        for name, path in self._runtime.settings.get("certificates", {}).items():
            try:
                left[(name,)] = days_left(Path(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                log.error("Cannot read the certificate %s: %s", path, error)
        yield _gauge(defined.CERTIFICATE_DAYS, left)

    def _backup(self) -> Iterator[Any]:
        path = Path(self._runtime.settings["state_dir"]) / defined.BACKUP_STATUS
        try:
            status = json.loads(path.read_text())
            at, good = float(status["time"]), status["ok"] is True
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("Cannot read the status of the last backup in %s: %r", path, error)
            yield _gauge(defined.BACKUP_OK, {(): 0})
            return
        if at:  # 0 means that no backup has succeeded
            yield _gauge(defined.BACKUP_AGE, {(): time.time() - at})
        yield _gauge(defined.BACKUP_OK, {(): float(good)})

    def _canary(self) -> Iterator[Any]:
        status = read_status(Path(self._runtime.settings["state_dir"]))
        good: dict[tuple[str, ...], float] = {}
        ages: dict[tuple[str, ...], float] = {}
        seconds: dict[tuple[str, ...], float] = {}
        now = time.time()
        for key, result in status["profiles"].items():
            profile = (str(result["cluster"]), str(key))
            if result["outcome"] != SKIPPED:
                good[(*profile, str(result["stage"]))] = float(result["outcome"] == GOOD)
            if result["good_at"]:
                ages[profile] = now - result["good_at"]
            seconds |= {(*profile, str(stage)): float(value) for stage, value in result["seconds"].items()}
        if status["time"]:
            yield _gauge(defined.CANARY_AGE, {(): now - status["time"]})
        yield _gauge(defined.CANARY_GOOD, good)
        yield _gauge(defined.CANARY_GOOD_AGE, ages)
        yield _gauge(defined.CANARY_SECONDS, seconds)

    def _versions(self) -> Iterator[Any]:
        versions: dict[tuple[str, ...], float] = {}
        incompatible: dict[tuple[str, ...], float] = {}
        for cluster, parts in self._runtime.versions.parts.items():
            for part in parts:
                versions[(cluster, part.name, part.version)] = 1
                incompatible[(cluster, part.name)] = any(skew.is_harmful for skew in differences([part]))
        yield _gauge(defined.VERSION, versions)
        yield _gauge(defined.INCOMPATIBLE, incompatible)

    def _sign_on(self) -> Iterator[Any]:
        saml = read_foreign(Path(self._runtime.settings.get("saml_status", defined.SAML_STATUS)))
        if saml is not None:
            if at := float(saml.get("time") or 0):
                yield _gauge(defined.SAML_AGE, {(): time.time() - at})
            yield _gauge(defined.SAML_USABLE, {(): float(saml.get("usable") is True)})
        command = read_foreign(Path(self._runtime.settings.get("account_status", defined.ACCOUNT_STATUS)))
        if command is not None:
            yield _gauge(defined.ACCOUNT_COMMAND_OK, {(): float(command.get("ok") is True)})


_registered: Collector | None = None


def read_foreign(path: Path) -> dict[str, Any] | None:
    """Return the object in a file of another account, which may have put anything there. None if there is no file.

    Raises:
        OSError, ValueError: It is no small regular file with JSON.
    """
    try:
        with open_regular(path) as file:
            found = json.loads(file.read(STATUS_SIZE))
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else {}


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
