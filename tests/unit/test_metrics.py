"""The metrics: who may read them, and what they show about clusters, sessions, the database and the hub host."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from backup_host import make_host
from hub_app import Hub, answer, certificate, job, make_hub, profile, signed_on, write_profiles
from jupyterhub import orm
from prometheus_client.parser import text_string_to_metric_families

from hpchub.canary.status import STATUS as STATUS_OF_CANARY
from hpchub.canary.status import Result, write_status
from hpchub.clusters.poller import Poller
from hpchub.hub.config import METRICS_TOKEN
from hpchub.hub.metric_definitions import ACCOUNT_STATUS, BACKUP_STATUS, SAML_STATUS, STATES
from hpchub.schedulers import SCHEDULERS, JobState, Unanswered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hub_app import Ask

    Scrape = Callable[[], Awaitable[dict[tuple[str, ...], float]]]


PAGES = Path(__file__).parents[2] / "templates" / "pages"
TOKEN = "5" * 64


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A real JupyterHub with the token for the metrics that systemd would pass to it."""
    monkeypatch.setenv(METRICS_TOKEN, TOKEN)
    started = await make_hub(tmp_path, [str(PAGES)])
    assert METRICS_TOKEN not in os.environ, "programs that the hub starts inherit the token"
    yield started
    await started.close()


SCRAPER_HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def scrape(ask: Ask) -> Scrape:
    """Return a function that scrapes the hub. The key of a value is the name of its sample and the values of
    its labels, in the alphabetical order of the labels."""

    async def scraped() -> dict[tuple[str, ...], float]:
        response = await ask("metrics", **SCRAPER_HEADERS)
        assert response.code == 200
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(response.body.decode())
            for sample in family.samples
        }

    return scraped


# Access to the metrics


@pytest.mark.parametrize("path", ["metrics", "api/metrics"])
async def test_only_a_token_with_the_scope_reads_the_metrics(hub: Hub, ask: Ask, path: str) -> None:
    assert (await ask(path)).code == 403
    assert (await ask(path, Authorization="token wrong")).code == 403
    own = hub.user("alice").new_api_token()
    assert (await ask(path, Authorization=f"token {own}")).code == 403
    response = await ask(path, **SCRAPER_HEADERS)
    assert response.code == 200
    assert b"hpchub_healthy 1.0" in response.body
    assert b"jupyterhub_total_users" in response.body
    for other in ("api/users", "api/users/alice", "api/proxy", "api/services", "api/shutdown"):
        assert (await ask(other, **SCRAPER_HEADERS)).code in (403, 404, 405), other


async def test_signed_in_user_reads_no_metrics(ask: Ask) -> None:
    signed_in = await ask("login", **signed_on("alice", "hpc"))
    cookies = "; ".join(line.split(";")[0] for line in signed_in.headers.get_list("Set-Cookie"))
    assert (await ask("home", Cookie=cookies, **signed_on("alice", "hpc"))).code == 200
    assert (await ask("metrics", Cookie=cookies, **signed_on("alice", "hpc"))).code == 403


async def test_metrics_are_served_while_the_database_cannot_be_written(hub: Hub, scrape: Scrape) -> None:
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=1")
    assert (await scrape())["hpchub_healthy",] == 0
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=0")


async def test_former_token_ends_with_the_restart_after_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = f"sqlite:///{tmp_path}/hub.sqlite"
    for token in (TOKEN, "6" * 64, TOKEN):
        monkeypatch.setenv(METRICS_TOKEN, token)
        hub = await make_hub(tmp_path, [str(PAGES)], database)
        valid = [each for each in (TOKEN, "6" * 64) if orm.APIToken.find(hub.app.db, each)]
        await hub.close()
        assert valid == [token]
    hub = await make_hub(tmp_path, [str(PAGES)], database)
    found = orm.APIToken.find(hub.app.db, TOKEN)
    await hub.close()
    assert found is None, "without hpc_monitoring, there is no token"


# Users and sessions


async def test_sign_ins_and_refused_starts_of_the_hub_are_counted(hub: Hub, ask: Ask, scrape: Scrape) -> None:
    before = await scrape()
    await ask("login", **signed_on("alice", "hpc"))
    await ask("login", **signed_on("mallory"))
    headers = {"Authorization": f"token {hub.user('alice').new_api_token()}"}
    await ask("api/users/alice/server", "POST", b'{"profile": "no such"}', **headers)
    expected = {
        ("hpchub_sign_ins_total", "accepted"): 1,
        ("hpchub_sign_ins_total", "not_permitted"): 1,
        ("hpchub_starts_total", "", "refused", "", "bad_choice"): 1,
    }
    async with asyncio.timeout(30):
        while True:
            after = await scrape()
            if {name: after[name] - before[name] for name in expected} == expected:
                break


@pytest.mark.parametrize(
    ("state", "shown", "saved"),
    [
        ("queued", JobState.PENDING, {}),
        ("ready", JobState.RUNNING, {"host": "127.0.0.1", "port": 20000}),
    ],
)
async def test_sessions_are_counted_by_state(
    hub: Hub, scrape: Scrape, state: str, shown: JobState, saved: dict[str, Any]
) -> None:
    hub.show(job(shown))
    hub.restored_spawner(**saved)
    values = await scrape()
    assert {name: value for name, value in values.items() if name[0] == "hpchub_sessions"} == {
        ("hpchub_sessions", "demo", "small", each): float(each == state) for each in STATES
    }


async def test_session_of_a_removed_profile_is_still_counted(hub: Hub, tmp_path: Path, scrape: Scrape) -> None:
    hub.restored_spawner(host="127.0.0.1", port=20000)
    write_profiles(tmp_path, profile("large"))
    values = await scrape()
    assert values["hpchub_sessions", "demo", "small", "ready"] == 1
    assert values["hpchub_sessions", "demo", "large", "ready"] == 0


async def test_no_label_names_a_user_or_a_job(hub: Hub, ask: Ask) -> None:
    hub.show(job(JobState.RUNNING, job_id="4711"))
    hub.restored_spawner(job_id="4711", host="127.0.0.1", port=20000)
    await ask("login", **signed_on("alice", "hpc"))
    text = (await ask("metrics", **SCRAPER_HEADERS)).body.decode()
    labels = re.findall(r"^\w+(\{.*\}) ", text, re.MULTILINE)
    assert labels
    assert not [line for line in labels if "alice" in line or "4711" in line]


# Gates and schedulers


async def test_requests_to_the_gate_are_counted_by_outcome(hub: Hub, scrape: Scrape) -> None:
    before = await scrape()
    replies = {
        "done": answer(),
        "failed": answer(code=1),
        "timed_out": answer(code=124),
        "not_run": answer(code=127),
        "unreachable": OSError("no route"),
        "invalid": Unanswered("not JSON"),
    }
    for reply in replies.values():
        hub.gate.on_cancel = lambda _, reply=reply: (  # type: ignore[misc]
            reply if isinstance(reply, Exception) else type(reply)(**{**vars(reply), "command": ["scancel"]})
        )
        with contextlib.suppress(Unanswered):
            await hub.gate.request("cancel", user="alice", session="", job_id="7")
    after = await scrape()
    for outcome in replies:
        name = ("hpchub_gate_requests_total", "cancel", "demo", outcome)
        assert after[name] - before[name] == 1, outcome
    count = ("hpchub_gate_request_seconds_count", "cancel", "demo")
    assert after[count] - before[count] == len(replies)


async def test_age_of_the_last_answer_grows_while_the_scheduler_is_silent(
    hub: Hub, scrape: Scrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = Poller(SCHEDULERS["slurm"], hub.gate, interval=0.0)
    hub.runtime._pollers["demo"] = poller
    monkeypatch.setattr(hub.gate, "query", lambda: _reply(""))
    await poller.snapshot(0.0)
    assert (await scrape())["hpchub_scheduler_answer_age_seconds", "demo"] < 10

    monkeypatch.setattr(hub.gate, "query", lambda: _reply(Unanswered("down")))
    poller.answered = time.monotonic() - 500
    with pytest.raises(Unanswered):
        await poller.snapshot(0.0)
    values = await scrape()
    assert 500 <= values["hpchub_scheduler_answer_age_seconds", "demo"] < 510
    assert values["hpchub_scheduler_unanswered_queries_total", "demo"] == 1


async def _reply(output: str | Exception) -> str:
    if isinstance(output, Exception):
        raise output
    return output


# The database and the hub host


async def test_writes_to_the_database_are_counted(hub: Hub, scrape: Scrape) -> None:
    before = await scrape()
    hub.user("bob")
    after = await scrape()
    assert after["hpchub_database_writes_total", "done"] > before["hpchub_database_writes_total", "done"]
    assert after["hpchub_database_write_seconds_count",] > before["hpchub_database_write_seconds_count",]
    failed = after["hpchub_database_writes_total", "failed"]
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=1")
    with pytest.raises(Exception, match="readonly"):
        hub.user("carol")
    hub.app.db.rollback()
    hub.app.db.connection().exec_driver_sql("PRAGMA query_only=0")
    assert (await scrape())["hpchub_database_writes_total", "failed"] > failed


async def test_days_left_are_those_of_the_certificate_that_expires_first(
    hub: Hub, scrape: Scrape, tmp_path: Path
) -> None:
    chain = tmp_path / "server.pem"
    chain.write_bytes(certificate(dt.timedelta(days=100)) + certificate(dt.timedelta(days=12)))
    expired = tmp_path / "expired.pem"
    expired.write_bytes(certificate(dt.timedelta(days=-3)))
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    paths = {"web_server": chain, "notebook_hub": expired, "api_authority": tmp_path / "absent", "other": broken}
    hub.runtime.settings["certificates"] = {name: str(path) for name, path in paths.items()}
    values = await scrape()
    found = {name[1]: round(value) for name, value in values.items() if name[0] == "hpchub_certificate_days_left"}
    assert found == {"web_server": 12, "notebook_hub": -3}


@pytest.mark.parametrize(
    ("content", "good", "age"),
    [
        (None, None, None),
        ({"time": -3600, "ok": True, "file": "backup.age"}, 1, 3600),
        ({"time": -3600, "ok": False, "file": ""}, 0, 3600),
        ({"time": None, "ok": False, "file": ""}, 0, None),
        ("{", 0, None),
        ({"ok": True}, 0, None),
        ([], 0, None),
    ],
    ids=["no backup", "good", "failed", "never good", "cut off", "no time", "not an object"],
)
async def test_backup_is_described_by_its_status_file(
    scrape: Scrape, tmp_path: Path, content: object, good: float | None, age: float | None
) -> None:
    if isinstance(content, dict) and "time" in content:
        content = {**content, "time": time.time() + content["time"] if content["time"] else 0}
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / BACKUP_STATUS).write_text(text)
    values = await scrape()
    assert values.get(("hpchub_backup_ok",)) == good
    found = values.get(("hpchub_backup_age_seconds",))
    assert found is age is None or abs(found - age) < 60  # type: ignore[operator]


@pytest.mark.parametrize(
    ("content", "usable", "age"),
    [
        (None, None, None),
        ({"time": -3600, "usable": True}, 1, 3600),
        ({"time": -90000, "usable": False}, 0, 90000),
        ({"time": 0, "usable": False}, 0, None),
        ({}, 0, None),
        ("{", None, None),
        ([], 0, None),
        ("pipe", None, None),
        ("link", None, None),
    ],
    ids=["no SAML", "valid", "expired", "never valid", "empty", "cut off", "not an object", "a pipe", "a link"],
)
async def test_saml_metadata_is_described_by_its_status_file(
    *, hub: Hub, scrape: Scrape, tmp_path: Path, content: object, usable: float | None, age: float | None
) -> None:
    """Another account writes the file, which must neither stop the hub nor let it read something else."""
    path = tmp_path / "saml-status.json"
    hub.runtime.settings["saml_status"] = str(path)
    if isinstance(content, dict) and content.get("time"):
        content = {**content, "time": time.time() + content["time"]}
    if content == "pipe":
        os.mkfifo(path)
    elif content == "link":
        (tmp_path / "other.json").write_text('{"usable": true}')
        path.symlink_to(tmp_path / "other.json")
    elif content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    values = await scrape()
    assert values.get(("hpchub_saml_metadata_usable",)) == usable
    found = values.get(("hpchub_saml_metadata_age_seconds",))
    assert found is age is None or abs(found - age) < 60  # type: ignore[operator]
    assert values["hpchub_healthy",] == 1


@pytest.mark.parametrize(("content", "good"), [(None, None), ('{"ok": true}', 1), ('{"ok": false}', 0), ("{}", 0)])
async def test_command_for_accounts_is_described_by_its_status_file(
    hub: Hub, scrape: Scrape, tmp_path: Path, content: str | None, good: float | None
) -> None:
    path = tmp_path / "account-status.json"
    hub.runtime.settings["account_status"] = str(path)
    if content is not None:
        path.write_text(content)
    assert (await scrape()).get(("hpchub_account_command_ok",)) == good


def test_status_files_are_where_the_role_lets_its_programs_write_them() -> None:
    role = yaml.safe_load((Path(__file__).parents[2] / "roles/reverse_proxy/vars/main.yml").read_text())
    assert f"{role['__reverse_proxy_saml_state']}/status.json" == SAML_STATUS
    assert f"/run/{role['__reverse_proxy_account_unit']}-status/status.json" == ACCOUNT_STATUS


async def test_canary_is_described_by_its_status_file(scrape: Scrape, tmp_path: Path) -> None:
    assert not [name for name in await scrape() if name[0].startswith("hpchub_canary")]
    now = time.time()
    results = {
        "small": Result("demo", "good", time=now, seconds={"queue": 2.5}),
        "big": Result("demo", "failed", "launch", "no answer", time=now),
        "gpu": Result("other", "skipped", reason="drained", time=now),
    }
    write_status(tmp_path, results, results)
    values = await scrape()
    good = {name[1:]: value for name, value in values.items() if name[0] == "hpchub_canary_good"}
    assert good == {("demo", "small", ""): 1, ("demo", "big", "launch"): 0}
    assert values[("hpchub_canary_stage_seconds", "demo", "small", "queue")] == 2.5
    assert 0 <= values[("hpchub_canary_age_seconds",)] < 60
    assert 0 <= values[("hpchub_canary_good_age_seconds", "demo", "small")] < 60
    (tmp_path / STATUS_OF_CANARY).write_text('{"time": 1, "profiles": {"a": []}}')
    values = await scrape()
    assert ("hpchub_healthy",) in values
    assert not [name for name in values if name[0].startswith("hpchub_canary")]


def test_backup_writes_the_status_that_the_metrics_read(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host", [])
    host.write_status(ok=True, file="backup.age", made=time.time())
    assert json.loads((host.state / BACKUP_STATUS).read_text()).keys() == {"time", "ok", "file"}


async def test_invalid_profile_list_leaves_the_other_metrics(hub: Hub, scrape: Scrape, tmp_path: Path) -> None:
    (tmp_path / "profiles.json").write_text("{")
    hub.runtime._profiles._content = None
    values = await scrape()
    assert values["hpchub_healthy",] == 1
