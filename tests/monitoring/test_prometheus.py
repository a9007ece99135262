"""A real Prometheus: it checks and tests the alerts, scrapes a hub, and evaluates every query of the dashboard."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml
from hub_app import Hub, certificate, make_hub
from prometheus_queries import MONITORING, Query, alerts, metric_names, problem, queries
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from hpchub.canary.status import Result, write_status
from hpchub.hub.config import METRICS_TOKEN
from hpchub.hub.metric_definitions import BACKUP_STATUS
from lab.prometheus import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGES = Path(__file__).parents[2] / "templates" / "pages"
TOKEN = "5" * 64


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The files


def test_rules_are_valid() -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in promtool("check", "rules", "alerts.yml")


def test_rules_pass_their_unit_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_example_configuration_is_valid(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "alerts.yml"):
        (tmp_path / name).write_text((MONITORING / name).read_text())
    (tmp_path / "hpchub-token").write_text(TOKEN)
    assert "SUCCESS" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


# A hub and a Prometheus


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        self._client = AsyncHTTPClient(force_instance=True)

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API."""
        response = await self._client.fetch(f"{self._url}{path}?{urlencode(parameters)}")
        return json.loads(response.body)["data"]

    async def results(self, expression: str) -> list[dict[str, Any]]:
        """Return the results of a query."""
        found: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return found

    async def until(self, expression: str) -> None:
        """Wait until a query has a result."""
        async with asyncio.timeout(60):
            while True:
                try:
                    if await self.results(expression):
                        return
                except OSError:
                    pass  # it is starting
                await asyncio.sleep(0.2)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setenv(METRICS_TOKEN, TOKEN)
    started = await make_hub(tmp_path, [str(PAGES)])
    (tmp_path / "server.pem").write_bytes(certificate(dt.timedelta(days=90)))
    started.runtime.settings["certificates"] = {"web_server": str(tmp_path / "server.pem")}
    (tmp_path / BACKUP_STATUS).write_text(json.dumps({"time": time.time(), "ok": True, "file": "backup.age"}))
    for name, content in (("saml", {"time": time.time(), "usable": True}), ("account", {"ok": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        started.runtime.settings[f"{name}_status"] = str(tmp_path / f"{name}.json")
    write_status(tmp_path, {"small": Result("demo", "good", time=time.time(), seconds={"queue": 1.5})}, ["small"])
    await started.runtime.versions.obstacles("demo")  # asks the gate for its versions
    yield started
    await started.close()


@asynccontextmanager
async def scraping(hub: Hub, directory: Path, token: str = TOKEN) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes the hub, with the shipped alerts."""
    listener, port = bind_unused_port()
    server = HTTPServer(hub.app.tornado_application)
    server.add_socket(listener)
    free, own_port = bind_unused_port()
    free.close()
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (directory / "hpchub-token").write_text(token)
    (directory / "alerts.yml").write_text((MONITORING / "alerts.yml").read_text())
    configuration["global"] = {"evaluation_interval": "1s"}
    job = configuration["scrape_configs"][0]
    job |= {"scheme": "http", "scrape_interval": "500ms", "scrape_timeout": "400ms"}
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{own_port}",
            stderr=log,
        )
    prometheus = Prometheus(own_port)
    try:
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        await process.wait()
        server.stop()
        await server.close_all_connections()


async def test_every_query_of_the_dashboard_has_a_result(hub: Hub, tmp_path: Path) -> None:
    async with scraping(hub, tmp_path) as prometheus:
        await prometheus.until("count_over_time(hpchub_healthy[1m]) > 4")
        known = await prometheus.ask("label/__name__/values")
        wrong = {}
        for query in queries():
            if found := problem(query, known, await prometheus.results(query.filled("10s"))):
                wrong[query.title, query.expression] = found
        assert wrong == {}
        assert {name for expression in alerts().values() for name in metric_names(expression)} <= set(known)


async def test_query_that_names_no_metric_of_the_hub_is_wrong(hub: Hub, tmp_path: Path) -> None:
    async with scraping(hub, tmp_path) as prometheus:
        await prometheus.until("count_over_time(hpchub_healthy[1m]) > 4")
        known = await prometheus.ask("label/__name__/values")
        for expression, legend, expected in (
            ("sum(hpchub_sesions)", "", "there is no metric hpchub_sesions"),
            ("sum(hpchub_sesions) or vector(0)", "", "there is no metric hpchub_sesions"),
            ("rate(hpchub_starts[1m])", "", "there is no metric hpchub_starts"),
            ('hpchub_sessions{state="runing"}', "", "it has no result"),
            ("sum by (clster) (hpchub_sessions)", "{{clster}}", "its results have no label clster"),
        ):
            query = Query("wrong", expression, legend)
            assert problem(query, known, await prometheus.results(expression)) == expected


async def test_alerts_fire_in_a_real_prometheus(hub: Hub, tmp_path: Path) -> None:
    async with scraping(hub, tmp_path) as prometheus:
        await prometheus.until("count_over_time(hpchub_healthy[1m]) > 2")
        assert await prometheus.results("ALERTS") == []
        (tmp_path / "server.pem").write_bytes(certificate(dt.timedelta(days=-1)))
        (tmp_path / BACKUP_STATUS).write_text(json.dumps({"time": time.time(), "ok": False, "file": ""}))
        hub.runtime.health.alarms["demo"] = "Something is wrong."
        firing = {"CertificateExpires", "CertificateExpiresSoon", "BackupFailed"}
        for name in firing:
            await prometheus.until(f'ALERTS{{alertname="{name}", alertstate="firing"}}')
        await prometheus.until('ALERTS{alertname="HubUnhealthy", alertstate="pending"}')
        found = {alert["labels"]["alertname"]: alert for alert in (await prometheus.ask("alerts"))["alerts"]}
        assert set(found) == firing | {"HubUnhealthy"}
        assert (
            found["CertificateExpiresSoon"]["annotations"]["summary"] == "The certificate web_server expires in -1 days"
        )
        groups = (await prometheus.ask("rules"))["groups"]
        assert [rule for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []


async def test_wrong_token_reads_nothing(hub: Hub, tmp_path: Path) -> None:
    async with scraping(hub, tmp_path, token="6" * 64) as prometheus:
        await prometheus.until('up{job="hpchub"} == 0')
        assert await prometheus.results("hpchub_healthy") == []
