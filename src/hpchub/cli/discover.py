"""``hpchub discover``: draft the queues and profiles of a cluster from its scheduler's limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hpchub.cli import inventory
from hpchub.cli.failure import VALID, Failure
from hpchub.cli.output import print_json
from hpchub.clusters.drafts import draft, to_yaml
from hpchub.clusters.limits import LimitsReport
from hpchub.messages import did_you_mean, show
from hpchub.model.entries import Submit
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def discover(options: argparse.Namespace) -> int:
    """Run ``hpchub discover``."""
    if options.path is None:
        found, reports = inventory.query_gates()
        clusters = [cluster.model_dump(mode="json", exclude_unset=True) for cluster in found.clusters]
        entry = _entry(options.cluster, clusters, inventory.HUB_SETTINGS)
        report = reports.get(options.cluster, LimitsReport(unanswered="the hub has no gate to this cluster"))
    else:
        checked = inventory.read(options.path, options.vault)
        entry = _entry(options.cluster, checked.clusters, options.path)
        report = inventory.query_submit_host(
            options.path, *_scheduler_and_submit(options.cluster, entry), options.vault
        )
    if report.unanswered:
        raise Failure(f"{options.cluster}: {report.unanswered}")
    entries, remarks = draft(entry, report.queues)
    if report.hidden:
        remarks.append("; ".join(report.hidden))
    if options.json:
        print_json({**entries, "remarks": remarks})
        return VALID
    for remark in remarks:
        print(f"# {remark}")
    print(to_yaml(entries), end="")
    return VALID


def _scheduler_and_submit(name: str, entry: dict[str, Any]) -> tuple[str, Submit]:
    """Return the two fields of a cluster's entry that a query needs. The other fields may be invalid."""
    scheduler = entry.get("scheduler")
    if not isinstance(scheduler, str) or scheduler not in SCHEDULERS:
        valid = did_you_mean(scheduler, list(SCHEDULERS))
        raise Failure(f"cluster {name}: scheduler {show(scheduler)} is unknown; {valid}")
    try:
        return scheduler, Submit.model_validate(entry.get("submit"))
    except ValidationError:
        raise Failure(
            f"cluster {name}: submit {show(entry.get('submit'))} is not valid;"
            " write {method: ssh, host: HOST} or {method: local}"
        ) from None


def _entry(name: str, clusters: Any, path: Path) -> dict[str, Any]:
    """Return the entry of a cluster, valid or not."""
    entries = [entry for entry in clusters if isinstance(entry, dict)] if isinstance(clusters, list) else []
    for entry in entries:
        if entry.get("name") == name:
            return entry
    names = [str(entry["name"]) for entry in entries if "name" in entry]
    valid = did_you_mean(name, names) if names else "add an entry with its name, scheduler and submit first"
    raise Failure(
        f"{path}: hpc_clusters has no cluster {show(name)}; {valid}. A place of hpc_places has no scheduler that could"
        " be asked for its limits"
    )
