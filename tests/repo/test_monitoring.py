"""The shipped alerts and dashboard name metrics and labels that exist, and the documentation explains every alert."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jupyterhub import metrics as of_jupyterhub
from prometheus_client import Counter, Gauge, Histogram
from prometheus_queries import MONITORING, alerts, dashboard, label_names, metric_names, queries

from hpchub.hub.metric_definitions import METRICS

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SAMPLES = {metric.name + suffix: set(metric.labels) for metric in METRICS for suffix in SUFFIXES[metric.kind]}
for found in vars(of_jupyterhub).values():
    if isinstance(found, (Counter, Gauge, Histogram)):
        kind = type(found).__name__.lower()
        SAMPLES |= {found._name + suffix: set(found._labelnames) for suffix in SUFFIXES[kind]}
SAMPLES["up"] = {"job", "instance"}
EXPRESSIONS = {**{query.title: query.expression for query in queries()}, **alerts()}


@pytest.mark.parametrize("title", EXPRESSIONS)
def test_query_names_metrics_and_labels_that_exist(title: str) -> None:
    expression = EXPRESSIONS[title]
    names = metric_names(expression)
    assert names
    assert names <= set(SAMPLES)
    assert label_names(expression) <= {"le"}.union(*(SAMPLES[name] for name in names))


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set().union(*(metric_names(query.expression) for query in queries()))
    missing = [
        metric.name for metric in METRICS if not shown & {metric.name + suffix for suffix in SUFFIXES[metric.kind]}
    ]
    assert missing == []


def test_every_query_uses_the_chosen_cluster() -> None:
    ignoring = [
        query.title
        for query in queries()
        if any("cluster" in SAMPLES[name] for name in metric_names(query.expression))
        and "$cluster" not in query.expression
    ]
    assert ignoring == ["Routes of the proxy, and sessions that are ready"]


def test_panels_have_different_numbers_and_titles() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)


def test_every_alert_has_a_case_in_which_it_fires_and_the_healthy_hub_raises_none() -> None:
    healthy, *cases = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    assert healthy["promql_expr_test"] == [{"expr": "ALERTS", "eval_time": "1h", "exp_samples": []}]
    series = " ".join(each["series"] for each in healthy["input_series"])
    assert {name for expression in alerts().values() for name in metric_names(expression)} <= metric_names(series)
    fired = [
        re.findall(r'alertname="(\w+)"', check["expr"])[0]
        for case in cases
        for check in case["promql_expr_test"]
        if check["exp_samples"]
    ]
    assert set(fired) == set(alerts())


@pytest.mark.parametrize("alert", alerts())
def test_documentation_says_what_to_do(alert: str) -> None:
    page = (ROOT / "docs" / "how-to" / "monitor.md").read_text()
    assert f"| `{alert}` |" in page
