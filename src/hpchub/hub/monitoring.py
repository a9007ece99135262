"""Begin to watch a hub: its metrics and its audit log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.hub import metrics
from hpchub.hub.audit import DEFAULT_DAYS, DEFAULT_FILE, AuditLog
from hpchub.hub.collector import Collector
from hpchub.hub.session_metrics import SessionMetrics
from hpchub.hub.tokens import revoke_former_service_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jupyterhub.app import JupyterHub

    from hpchub.hub.runtime import Runtime


def start(runtime: Runtime, app: JupyterHub, spawners: Callable[[], Iterable[Any]]) -> AuditLog:
    """Begin to watch a hub.

    Args:
        runtime: The hub's runtime.
        app: JupyterHub's application.
        spawners: A function that returns the spawners of all users.

    Returns:
        The audit log, which is open until the process ends.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    revoke_former_service_tokens(app.db, app.service_tokens)
    for cluster, gate in runtime.gates.items():
        gate.observer = metrics.observe_gate(cluster)
        metrics.unknown_jobs.labels(cluster)
    metrics.observe_database(app.db.get_bind())
    counted = SessionMetrics()
    runtime.events.subscribe(counted.receive)
    Collector(runtime, spawners, counted).register()
    settings = runtime.settings
    audit = AuditLog(Path(settings.get("audit_file", DEFAULT_FILE)), settings.get("audit_days", DEFAULT_DAYS))
    runtime.events.subscribe(audit.receive)
    return audit
