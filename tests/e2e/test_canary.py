"""The canary of the demo: the deployed unit starts real sessions through the web server, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from .lab import eventually

if TYPE_CHECKING:
    from .lab import Lab

USER = "canary"
STATUS = "/var/lib/hpchub/canary-status.json"
COMMAND = "/opt/hpchub/hub/current/bin/hpchub"
SHOW = ["systemctl", "show", "--value", "--property=ActiveState", "hpchub-canary.service"]


def results(lab: Lab) -> dict[str, Any]:
    """Return the results of the last runs by the keys of the profiles."""
    found: dict[str, Any] = json.loads(lab.run("hub", ["cat", STATUS]))["profiles"]
    return found


@pytest.fixture
def profile(lab: Lab) -> str:
    """The key of the first profile."""
    return str(lab.profiles()[0]["key"])


def test_timer_is_active_and_its_token_is_private(lab: Lab) -> None:
    assert lab.run("hub", ["systemctl", "is-active", "hpchub-canary.timer"]).strip() == "active"
    found = lab.run("hub", ["stat", "--format=%U:%G %a", "/etc/hpchub/secrets/canary.env"])
    assert found.strip() == "root:root 600"


def test_canary_tests_a_profile_by_hand_and_leaves_nothing_behind(lab: Lab, profile: str) -> None:
    output = lab.run("hub", [COMMAND, "canary", "--profile", profile], timeout=600)
    assert "6*7 is 42" in output
    result = results(lab)[profile]
    assert result["outcome"] == "good", result
    assert result["kernels"]
    assert all(kernel["ok"] for kernel in result["kernels"].values())
    assert set(result["seconds"]) == {"submission", "queue", "launch", "kernel"}
    eventually("the job of the canary ends", lambda: not lab.jobs(USER))
    token = lab.run("hub", ["cat", "/etc/hpchub/secrets/canary.env"]).strip().partition("=")[2]
    assert token
    assert token not in output
    assert lab.run("hub", ["grep", "-rlF", token, "/var/log", STATUS], check=False) == ""


@pytest.mark.slow
def test_all_kernels_and_applications_work(lab: Lab) -> None:
    """The table has all of them, with the times and the versions."""
    output = lab.run("hub", [COMMAND, "canary", "--kernels"], check=False, timeout=900)
    heading, *rows = (re.split(r"\s{2,}", line) for line in output.splitlines() if re.search(r"\S\s{2,}\S", line))
    found = [dict(zip(heading, row, strict=True)) for row in rows]
    assert {row["RESULT"] for row in found} == {"6*7 is 42", "it answers"}, output
    assert all(float(row["SECONDS"]) < 60 for row in found)
    kernels = {row["NAME"]: row for row in found if row["KIND"] == "kernel"}
    assert all(re.match(r"\d+\.", row["VERSION"]) for row in kernels.values()), output
    offered = lab.profile_list()
    assert {app["name"] for app in offered["apps"]} == {r["NAME"] for r in found if r["KIND"] == "application"}
    assert {"python3", "ir"} <= set(kernels)
    eventually("the job of the canary ends", lambda: not lab.jobs(USER))


def test_unit_stops_its_session_when_it_is_stopped(lab: Lab) -> None:
    lab.run("hub", ["systemctl", "start", "--no-block", "hpchub-canary.service"])
    try:
        eventually("the canary's job is submitted", lambda: lab.jobs(USER), timeout=120)
        busy = lab.run("hub", ["sh", "-c", f"{COMMAND} canary 2>&1; true"])
        assert "another canary is running" in busy
    finally:
        lab.run("hub", ["systemctl", "stop", "hpchub-canary.service"], timeout=400)
    assert lab.run("hub", SHOW).strip() in ("inactive", "failed")
    lab.run("hub", ["systemctl", "reset-failed", "hpchub-canary.service"], check=False)
    eventually("the job of the canary ends", lambda: not lab.jobs(USER))


def test_drained_profile_is_skipped(lab: Lab, profile: str) -> None:
    cluster = lab.profiles()[0]["cluster"]
    lab.run("hub", [COMMAND, "drain", cluster, "--message", "a test of the canary"])
    try:
        output = lab.run("hub", [COMMAND, "canary", "--profile", profile])
        assert f"{profile}: skipped" in output
        assert not lab.jobs(USER)
    finally:
        lab.run("hub", [COMMAND, "undrain", cluster], check=False)
    assert results(lab)[profile]["outcome"] == "skipped"
