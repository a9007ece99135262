"""The queries of the shipped dashboard and alerts, and what can be wrong with them in a real Prometheus."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable

MONITORING = Path(__file__).resolve().parents[1] / "monitoring"

_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "inf", "nan"}


class Query(NamedTuple):
    """A query of the dashboard.

    Attributes:
        title: The title of its panel.
        expression: The query in PromQL, with Grafana's variables.
        legend: The names of its results, as in ``{{cluster}}``.
    """

    title: str
    expression: str
    legend: str

    def filled(self, interval: str) -> str:
        """Return the query as Grafana sends it for all clusters."""
        return self.expression.replace("$__rate_interval", interval).replace("$cluster", ".*")


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def queries() -> list[Query]:
    """Return the queries of the dashboard, and those that fill its variables."""
    panels = dashboard()["panels"]
    return [
        Query(panel["title"], target["expr"], target["legendFormat"])
        for panel in panels
        for target in panel.get("targets", [])
    ]


def alerts() -> dict[str, str]:
    """Return the expression of each alert."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def metric_names(expression: str) -> set[str]:
    """Return the names of the metrics in an expression."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    return set(re.findall(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\w)(?!\s*\()", text)) - _WORDS


def label_names(expression: str) -> set[str]:
    """Return the labels that an expression selects or groups by."""
    selected = {name for inner in re.findall(r"\{([^}]*)\}", expression) for name in re.findall(r"(\w+)\s*[!=]", inner)}
    grouped = re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression)
    return selected | {name.strip() for inner in grouped for name in inner.split(",")}


def problem(query: Query, known: Iterable[str], results: list[dict[str, Any]]) -> str:
    """Return what is wrong with a query, or an empty text.

    Args:
        query: The query.
        known: The names of all metrics in Prometheus.
        results: The results of the query, as Prometheus' API returns them.
    """
    if unknown := metric_names(query.expression) - set(known):
        return f"there is no metric {', '.join(sorted(unknown))}"
    if not results:
        return "it has no result"
    # Prometheus omits empty labels, such as the cluster of a part on the hub host.
    found = {label for result in results for label in result["metric"]}
    missing = set(re.findall(r"\{\{(\w+)\}\}", query.legend)) - found
    return f"its results have no label {', '.join(sorted(missing))}" if missing else ""
