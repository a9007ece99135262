"""The monitor of a session: what counts as use, when an idle session ends, and what tabs receive."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.remote import session_monitor
from hpchub.remote.session_monitor import Idleness, Monitor, is_activity

if TYPE_CHECKING:
    from notebook_server import Session

JOB = {"idle_limit": 1800, "gpus": 0, "id": "7"}


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def move(self, seconds: float) -> None:
        """Let some seconds pass."""
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class FakeHub:
    """A hub that answers in turn, and remembers what it was asked."""

    def __init__(self, *answers: bool | OSError) -> None:
        self.answers = list(answers)
        self.reports: list[float] = []
        self.asked = 0
        self.state: dict[str, Any] = {"job": JOB, "ends_at": 5.0, "notices": []}

    def ask(self) -> dict[str, Any]:
        self.asked += 1
        return self.state

    def report(self, seconds: float) -> bool:
        self.reports.append(seconds)
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def monitor(self) -> Monitor:
        """Return the monitor of a session that has just started."""
        monitor = Monitor(self.ask, self.report, lambda: {"memory": 1, "cores": 0.5}, lambda: [{"name": "A100"}])
        monitor.told(self.state)
        return monitor


@pytest.mark.parametrize(
    ("method", "path", "present", "active"),
    [
        ("GET", "/api/kernels", False, False),
        ("GET", "/api/contents/x.ipynb", False, False),
        ("GET", "/api/status", True, True),
        ("PUT", "/api/contents/x.ipynb", False, True),
        ("POST", "/api/sessions", False, True),
        ("PUT", "/lab/api/workspaces/default", False, False),
        ("GET", "/lab/tree/x.ipynb", False, True),
        ("GET", "/files/x.bin", False, True),
        ("GET", "/proxy/8787/", False, True),
        ("GET", "/static/x.js", False, False),
        ("HEAD", "/lab/api/settings", False, False),
    ],
)
def test_requests_that_tabs_send_by_themselves_are_no_activity(
    method: str, path: str, present: bool, active: bool
) -> None:
    assert is_activity(method, path, present=present) is active


def request(path: str, status: int = 200, headers: dict[str, str] | None = None) -> Any:
    """Return the handler of a request, or of a websocket that is open."""
    asked = SimpleNamespace(method="GET", path=path, headers=headers or {})
    handler = Handler()
    handler.request, handler.status = asked, status
    return handler


class Handler:
    """A handler of Tornado, as far as the monitor uses it."""

    request: Any
    status: int
    ws_connection: object = True

    def get_status(self) -> int:
        return self.status


def test_use_of_a_tab_ends_the_idle_time(clock: Clock) -> None:
    monitor = FakeHub().monitor()
    clock.move(1000)
    monitor.seen(request("/api/kernels"), "/api/kernels")
    monitor.seen(request("/lab", status=302), "/lab")
    monitor.seen(request("/lab", status=403), "/lab")
    assert monitor.idleness([], busy=False).since == clock.now - 1000
    monitor.seen(request("/api/kernels", headers={"X-Session-Present": "1"}), "/api/kernels")
    assert monitor.idleness([], busy=False).since == clock.now


def test_busy_kernels_and_foreign_connections_are_not_idle(clock: Clock) -> None:
    monitor = FakeHub().monitor()
    kernel, foreign = request("/api/kernels/1/channels", 101), request("/proxy/8787/ws", 101)
    monitor.seen(kernel, "/api/kernels/1/channels")
    clock.move(100)
    assert monitor.idleness([], busy=False).ends_at == clock.now + 1700
    assert monitor.idleness([], busy=True).ends_at is None
    clock.move(100)
    assert monitor.idleness([], busy=False).since == clock.now - 100  # the kernel was busy until then
    monitor.seen(foreign, "/proxy/8787/ws")
    clock.move(5000)
    assert monitor.idleness([], busy=False).ends_at is None
    foreign.ws_connection = None
    clock.move(10)
    assert monitor.idleness([], busy=False).since == clock.now - 10


def test_times_of_kernels_and_terminals_count_but_not_those_in_the_future(clock: Clock) -> None:
    monitor = FakeHub().monitor()
    clock.move(100)
    assert monitor.idleness([clock.now - 40, clock.now + 900], busy=False).since == clock.now - 40


async def test_session_without_a_limit_never_ends(clock: Clock) -> None:
    hub = FakeHub()
    hub.state = {"job": JOB | {"idle_limit": None}}
    monitor = hub.monitor()
    for _ in range(100):
        clock.move(50)
        await monitor.end_if_idle(monitor.idleness([], busy=False), pytest.fail)
    assert hub.reports == []


async def until_idle(monitor: Monitor, clock: Clock, seconds: float, stop: Any = pytest.fail) -> None:
    """Let time pass, as if nobody used the session."""
    for _ in range(int(seconds / session_monitor.TICK)):
        clock.move(session_monitor.TICK)
        await monitor.end_if_idle(monitor.idleness([], busy=False), stop)


async def test_idle_session_asks_the_hub_once_to_end_it(clock: Clock) -> None:
    hub = FakeHub(True)
    monitor = hub.monitor()
    await until_idle(monitor, clock, 1795)
    assert hub.reports == []
    await until_idle(monitor, clock, 30)
    assert hub.reports == [1800.0]


async def test_refused_report_lets_the_monitor_ask_for_the_limit(clock: Clock) -> None:
    hub = FakeHub(False)
    monitor = hub.monitor()
    hub.state = {"job": JOB | {"idle_limit": None}}
    await until_idle(monitor, clock, 3600)
    assert (len(hub.reports), hub.asked) == (1, 1)


async def test_session_ends_itself_if_the_hub_does_not_answer(clock: Clock) -> None:
    hub = FakeHub(*[OSError("away")] * 10)
    stopped: list[float] = []
    await until_idle(hub.monitor(), clock, 1800 + 570, lambda: stopped.append(clock.now))
    assert len(hub.reports) == 10
    assert len(stopped) == 1


async def test_suspended_job_is_not_idle(clock: Clock) -> None:
    hub = FakeHub()
    monitor = hub.monitor()
    clock.move(10_000)
    await monitor.end_if_idle(monitor.idleness([], busy=False), pytest.fail)
    await until_idle(monitor, clock, 1700)
    assert hub.reports == []


async def test_tabs_receive_the_state_and_share_one_question_to_the_hub(clock: Clock) -> None:
    hub = FakeHub()
    monitor = hub.monitor()
    clock.move(60)
    idle = monitor.idleness([], busy=False)
    await asyncio.gather(monitor.refresh(), monitor.refresh())
    await monitor.refresh()
    state = await monitor.state(idle)
    assert hub.asked == 1
    assert state == {
        "now": clock.now,
        "known": True,
        "ends_at": 5.0,
        "job": JOB,
        "notices": [],
        "usage": {"memory": 1, "cores": 0.5, "gpus": []},
        "idle": {"limit": 1800.0, "ends_at": clock.now + 1740},
    }


async def test_gpus_are_read_only_if_the_job_has_some(clock: Clock) -> None:
    hub = FakeHub()
    hub.state = {"job": JOB | {"gpus": 1}}
    state = await hub.monitor().state(Idleness(None, None))
    assert state["usage"]["gpus"] == [{"name": "A100"}]


async def test_last_answer_stays_valid_while_the_hub_is_away(clock: Clock) -> None:
    hub = FakeHub()
    monitor = hub.monitor()
    clock.move(60)
    hub.state = {}
    await monitor.refresh()
    assert hub.asked == 1
    assert (await monitor.state(Idleness(None, None)))["ends_at"] == 5.0


def test_only_open_tabs_are_watched(clock: Clock) -> None:
    monitor = FakeHub().monitor()
    tab = request("/api/events/subscribe", 101)

    def watched() -> bool:
        return monitor.is_watched

    assert not watched()
    monitor.seen(tab, "/api/events/subscribe")
    assert watched()
    tab.ws_connection = None
    assert not watched()


def test_kernels_and_terminals_say_whether_they_are_busy() -> None:
    kernels = {"1": SimpleNamespace(execution_state="idle"), "2": SimpleNamespace()}
    manager = SimpleNamespace(list_kernel_ids=lambda: list(kernels), get_kernel=kernels.get)
    assert not session_monitor.kernels_are_busy(manager)
    kernels["2"].execution_state = "busy"
    assert session_monitor.kernels_are_busy(manager)
    terminals = SimpleNamespace(terminals={"1": SimpleNamespace(ptyproc=SimpleNamespace(pid=5))})
    assert session_monitor.terminals_are_busy(terminals, lambda pid: [pid + 1])
    assert not session_monitor.terminals_are_busy(terminals, lambda _pid: [])
    assert not session_monitor.terminals_are_busy(None, lambda pid: [pid])


async def test_error_is_logged_once_and_ends_nothing() -> None:
    lines: list[str] = []

    async def look() -> None:
        raise ValueError("x")

    guarded = session_monitor.guarded(look, lines.append)
    await guarded()
    await guarded()
    assert lines == ["the state of the session cannot be read: ValueError: x"]


# -- in a real notebook server


def test_tab_receives_the_state_over_the_websocket_that_is_open_anyway(session: Session) -> None:
    session.hub.session["job"] = JOB | {"cores": 2, "idle_limit": 3600}
    session.hub.session["ends_at"] = time.time() + 5000
    session.start().wait_for_report()
    status, asked = session.request("api/hpchub/session")
    assert status == 200, session.log
    assert asked["ends_at"] == session.hub.session["ends_at"]
    assert asked["usage"]["memory"] > 1_000_000
    (event,) = session.events(1)
    assert event["schema_id"] == session_monitor.SCHEMA["$id"]
    assert event["session"]["job"]["id"] == "7"
    assert event["session"]["usage"]["cores"] is not None
    assert 3500 < event["session"]["idle"]["ends_at"] - time.time() <= 3600
    assert "no monitor" not in session.log
    assert "cannot be read" not in session.log


def test_idle_session_reports_itself_but_not_while_a_kernel_is_busy(session: Session) -> None:
    session.hub.session["job"] = JOB | {"idle_limit": 8}
    session.start().wait_for_report()
    assert session.request("api/hpchub/session")[1]["idle"]["limit"] == 8
    assert session.execute("import time; time.sleep(14); print(1)") == "1\n"
    assert not session.hub.idle.is_set(), session.log
    assert session.hub.idle.wait(30), session.log
