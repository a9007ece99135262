"""``hpchub check``: report the problems of an inventory, and with ``--live`` its differences from the schedulers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpchub.cli import inventory
from hpchub.cli.failure import UNUSABLE, VALID, WRONG, Failure
from hpchub.cli.output import count, print_json
from hpchub.clusters.limits import LimitsReport, compare

if TYPE_CHECKING:
    import argparse

    from hpchub.model.problems import Problem


def check(options: argparse.Namespace) -> int:
    """Run ``hpchub check``."""
    if options.live:
        return _check_live(options)
    path = options.path or inventory.default_path()
    return _report(str(path), inventory.read(path, options.vault), options)


def _report(path: str, checked: inventory.Checked, options: argparse.Namespace) -> int:
    problems, warnings = checked.problems, checked.warnings
    if options.strict:
        problems, warnings = [*problems, *warnings], []
    if options.json:
        print_json({"valid": not problems, "problems": problems, "warnings": warnings})
        return WRONG if problems else VALID
    for problem in problems:
        print(problem["text"])
    for warning in warnings:
        print(f"warning: {warning['text']}")
    found = checked.profiles
    if problems or found is None:
        print(f"hpchub: {path}: {count(len(problems), 'problem')}", file=sys.stderr)
        return WRONG
    print(f"{path}: valid, {count(len(found.clusters), 'cluster')}, {count(len(found.profiles), 'profile')}")
    return VALID


def _check_live(options: argparse.Namespace) -> int:
    """Compare an inventory with the schedulers. An invalid inventory is only reported."""
    from hpchub.cli.check_clusters import query_database  # noqa: PLC0415  (slow to load, and only needed here)

    database_answers = True
    if options.path is None:
        found, all_reports = inventory.query_gates()
        database_answers, line = query_database(inventory.hub_settings()["db_url"])
        print(line if database_answers else f"hpchub: {line}", file=sys.stderr)
        unreachable = []  # the hub does not know the names of all nodes
        reports = {c.name: all_reports[c.name] for c in found.clusters if c.enabled and c.name in all_reports}
    else:
        checked = inventory.read(options.path, options.vault)
        if checked.profiles is None:
            return _report(str(options.path), checked, options)
        if options.path.suffix == ".json" and options.path.is_file():
            raise Failure(
                f"{options.path}: a profile list does not describe how to reach a scheduler; write the path of an"
                " inventory instead"
            )
        found = checked.profiles
        reports = {
            cluster.name: inventory.query_submit_host(options.path, cluster.scheduler, cluster.submit, options.vault)
            for cluster in found.clusters
            if cluster.enabled
        }
        unreachable = inventory.unreachable_nodes(options.path, checked.nodes, options.vault)
    problems, warnings = compare(found, reports)
    _print_live(problems, warnings, reports, unreachable, as_json=options.json)
    if not database_answers or any(report.unanswered for report in reports.values()):
        return UNUSABLE
    return WRONG if problems else VALID


def _print_live(
    problems: list[Problem],
    warnings: list[Problem],
    reports: dict[str, LimitsReport],
    unreachable: list[str],
    *,
    as_json: bool,
) -> None:
    unanswered = {name: report.unanswered for name, report in reports.items() if report.unanswered}
    if as_json:
        print_json(
            {
                "valid": not problems,
                "problems": [problem.as_dict() for problem in problems],
                "warnings": [warning.as_dict() for warning in warnings],
                "unanswered": unanswered,
                "unreachable_nodes": unreachable,
                "queues": {name: [asdict(queue) for queue in report.queues] for name, report in reports.items()},
            }
        )
        return
    for problem in problems:
        print(problem)
    for warning in warnings:
        print(f"warning: {warning}")
    for line in unreachable:
        print(line)
    for name, report in reports.items():
        if not report.unanswered:
            print(f"{name}: the scheduler answers and has {count(len(report.queues), 'queue')}")
    for name, reason in unanswered.items():
        print(f"hpchub: {name}: {reason}", file=sys.stderr)
    if problems:
        print(f"hpchub: {count(len(problems), 'problem')}", file=sys.stderr)
