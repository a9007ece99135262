"""A Prometheus on the hub host scrapes the deployed hub, and evaluates every query of the dashboard.

The inventory of the demo admits a Prometheus server on the hub host.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_queries import MONITORING, alerts, metric_names, problem, queries

from hpchub.hub.metric_definitions import METRICS
from lab.prometheus import FETCH

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .lab import Lab
    from .pages import Visitor

DIRECTORY = "/run/hpchub-test-prometheus"
UNIT = "hpchub-test-prometheus.service"
LISTEN = "127.0.0.1:9099"
AUDIT = "/var/log/hpchub/audit.jsonl"


class Prometheus:
    """A Prometheus on the hub host of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API, or None if there is none yet."""
        words = [word for name, value in parameters.items() for word in ("--data-urlencode", f"{name}={value}")]
        url = f"http://{LISTEN}/api/v1/{path}"
        answer = self._lab.run("hub", ["curl", "--silent", "--get", *words, url], check=False)
        return json.loads(answer)["data"] if answer else None

    def results(self, expression: str) -> list[dict[str, Any]]:
        """Return the results of a query."""
        return list((self.ask("query", query=expression) or {}).get("result", []))


@pytest.fixture(scope="module")
def prometheus(lab: Lab) -> Iterator[Prometheus]:
    """Run a Prometheus on the hub host. Its package is unpacked, not installed, so that no other service starts."""
    if not lab.run("hub", ["find", "/etc/hpchub/secrets", "-name", "metrics.env"]):
        pytest.skip("the inventory admits no Prometheus server")
    address = urlsplit(lab.url)
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    configuration["global"] = {"evaluation_interval": "1s"}
    job = configuration["scrape_configs"][0]
    job |= {"scrape_interval": "2s", "scrape_timeout": "2s", "tls_config": {"ca_file": "/etc/hpchub/tls/api-ca.pem"}}
    job["static_configs"] = [{"targets": [address.netloc]}]
    files = {
        "prometheus.yml": json.dumps(configuration),
        "alerts.yml": (MONITORING / "alerts.yml").read_text(),
    }
    lab.run("hub", ["mkdir", "--parents", "--mode=0700", DIRECTORY])
    for name, content in files.items():
        lab.run("hub", ["sh", "-c", f"printf %s {shlex.quote(content)} > {DIRECTORY}/{name}"])
    token = f"sed -n 's/^HPCHUB_METRICS_TOKEN=//p' /etc/hpchub/secrets/metrics.env > {DIRECTORY}/hpchub-token"
    fetch = f"cd {DIRECTORY} && apt-get update -q && {shlex.join(FETCH)} && dpkg-deb --extract prometheus_*.deb ."
    lab.run("hub", ["sh", "-ec", f"{token}; {fetch}"], timeout=300)
    # The name of the service leads to this host.
    lab.run("hub", ["sh", "-c", f"echo '127.0.0.1 {address.hostname} # hpchub-test' >> /etc/hosts"])
    options = [f"--config.file={DIRECTORY}/prometheus.yml", f"--storage.tsdb.path={DIRECTORY}/data"]
    program = [f"{DIRECTORY}/usr/bin/prometheus", *options, f"--web.listen-address={LISTEN}"]
    lab.run("hub", ["systemd-run", f"--unit={UNIT}", "--collect", *program])
    running = Prometheus(lab)
    try:
        eventually("a scrape", lambda: running.results("count_over_time(hpchub_healthy[1m]) > 3"), timeout=90)
        yield running
    finally:
        lab.run("hub", ["systemctl", "stop", UNIT], check=False)
        # podman mounts this file, so it cannot be replaced.
        remove = "grep -v hpchub-test /etc/hosts > /tmp/hosts; cat /tmp/hosts > /etc/hosts; rm /tmp/hosts"
        lab.run("hub", ["sh", "-c", f"{remove}; rm -rf {DIRECTORY}"])


def test_every_query_of_the_dashboard_has_a_result(prometheus: Prometheus) -> None:
    known = prometheus.ask("label/__name__/values")
    # The demo has no backup, its canary runs at night, and its users sign in without SAML or a command for accounts.
    parts = ("hpchub_backup_", "hpchub_canary_", "hpchub_saml_", "hpchub_account_")
    rare = {metric.name for metric in METRICS if metric.name.startswith(parts)}
    rare -= set(known)
    wrong = {
        (query.title, query.expression): found
        for query in queries()
        if not metric_names(query.expression) & rare
        and (found := problem(query, known, prometheus.results(query.filled("30s"))))
    }
    assert wrong == {}


def test_rules_are_evaluated_and_the_healthy_hub_raises_no_alert(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]

    assert {rule["name"] for rule in rules()} == set(alerts())
    eventually("an evaluation of each rule", lambda: all(rule["health"] == "ok" for rule in rules()))
    assert prometheus.results('ALERTS{alertname=~"Hub.*|Certificate.*|DatabaseWritesFail|SchedulerSilent"}') == []


def test_session_appears_in_the_metrics_and_in_the_audit_log(
    lab: Lab, prometheus: Prometheus, visitor: Callable[[], Visitor]
) -> None:
    profile = lab.profiles()[0]["key"]
    query = f'sum(hpchub_sessions{{state="ready", profile="{profile}"}})'
    starts = f'sum(hpchub_starts_total{{outcome="ready", profile="{profile}"}})'
    before = float(prometheus.results(starts)[0]["value"][1])
    alice = visitor()
    alice.sign_in("alice")
    alice.start(profile)
    eventually("the session", lambda: float(prometheus.results(query)[0]["value"][1]) >= 1)
    eventually("the start", lambda: float(prometheus.results(starts)[0]["value"][1]) == before + 1)
    lines = [json.loads(line) for line in lab.run("hub", ["tail", "--lines=50", AUDIT]).splitlines()]
    signed_in = [line for line in lines if line["event"] == "signed_in" and line["user"] == "alice"]
    assert signed_in
    assert signed_in[-1]["address"] not in ("", "0.0.0.0", "127.0.0.1")
    requested = [line for line in lines if line["event"] == "start_requested" and line["session"]["user"] == "alice"]
    assert requested[-1]["origin"]["by"] == "alice"


def test_only_the_hub_reads_the_audit_log(lab: Lab) -> None:
    denied = lab.run("hub", ["runuser", "-u", "nobody", "--", "cat", AUDIT], check=False)
    assert denied == ""
    assert lab.run("hub", ["stat", "--format=%U:%a", AUDIT]).strip() == "jupyterhub:600"
