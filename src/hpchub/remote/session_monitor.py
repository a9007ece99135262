"""The monitor of a session, a part of its notebook server: what the tabs show, and whether the session is idle.

It sends no request of its own, except once to end an idle session. The launcher asks the hub every few minutes anyway,
and passes the answer on. Open tabs receive the figures over the websocket for events that JupyterLab opens anyway.
Whether somebody uses the tabs comes with the requests that they send anyway.

The role ``notebook_environment`` installs this file beside the single-user server, which imports it. Only ``install``
needs the packages of the environment; the rest uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import asyncio
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

SCHEMA = {
    "$id": "https://schema.hpchub/session/v1",
    "version": "1",
    "title": "The state of a session",
    "description": "The end of the session, its job, and what the job uses. Only the tabs of the session receive it.",
    "personal-data": False,
    "type": "object",
    "properties": {"session": {"type": "object"}},
    "required": ["session"],
}
"""The description of the event that tabs receive, as Jupyter demands it."""

PATH = "api/hpchub/session"
"""The path of the state below the server's address. A tab asks once when it opens and when its user comes back."""

PRESENT = "X-Session-Present"
"""The header with which a tab says that its user has used the mouse or the keyboard since its last request."""

AUTOMATIC = "X-Session-Automatic"
"""The header of a request with which a tab saves documents because the session ends soon."""

TICK = 5.0  # seconds between two looks; a tab receives the figures as often
FRESH = 5.0  # seconds for which an answer of the hub is used again if a tab asks
GPU_INTERVAL = 15.0  # seconds; the program needs some core time
RETRY = 60.0  # seconds between two attempts to report that the session is idle
GIVE_UP = 10  # attempts, after which the session ends itself
SLEPT = 60.0  # seconds between two looks after which the node must have been suspended

READ_BY_TABS = ("/api/", "/lab/api/", "/lab/extensions/", "/lsp/", "/static/", "/terminals/")
"""Paths that JupyterLab reads by itself, also periodically. Reading them does not show that anybody is there."""
WRITTEN_BY_TABS = ("/lab/api/",)
"""Paths to which JupyterLab writes by itself: it saves its layout every ten seconds."""
OWN_SOCKETS = ("/api/", "/lsp/", "/terminals/websocket/")
"""Websockets of JupyterLab itself, which stay open in a tab that nobody uses."""
NOT_FROM_USERS = "api_last_activity"
"""Jupyter's time of the last request. JupyterLab's periodic requests count there."""


@dataclass(frozen=True)
class Idleness:
    """Whether a session is idle.

    Attributes:
        limit: How long it may be idle, in seconds, or None.
        since: The last activity, in seconds since 1970, or None while something runs.
    """

    limit: float | None
    since: float | None

    @property
    def ends_at(self) -> float | None:
        """When the session ends unless somebody uses it, in seconds since 1970, or None."""
        return None if self.limit is None or self.since is None else self.since + self.limit

    def is_over(self, now: float) -> bool:
        """Return whether the session has been idle for too long."""
        return self.ends_at is not None and now >= self.ends_at


def is_activity(method: str, path: str, *, present: bool) -> bool:
    """Return whether a request shows that somebody, or a program of the user, uses the session.

    Args:
        method: The method of the request.
        path: Its path below the server's address, with a slash at its beginning.
        present: Whether the tab says that its user is there.
    """
    if present:
        return True
    if method in ("GET", "HEAD", "OPTIONS"):
        return not path.startswith(READ_BY_TABS)
    return not path.startswith(WRITTEN_BY_TABS)


def state(answer: dict[str, Any], usage: dict[str, Any], idle: Idleness, now: float) -> dict[str, Any]:
    """Return what tabs receive.

    Args:
        answer: The last answer of the hub, with its times moved to this node's clock, or an empty dictionary.
        usage: What the job uses: memory, cores and gpus.
        idle: Whether the session is idle.
        now: The time, in seconds since 1970.

    Returns:
        ``{"now": TIME, "ends_at": TIME, "job": JOB, "notices": […], "usage": USAGE, "idle": {"limit": SECONDS,
        "ends_at": TIME}}``. Everything that is not known is null. For ``JOB``, see the hub's ``SessionHandler``.
    """
    return {
        "now": now,
        "known": bool(answer),
        "ends_at": answer.get("ends_at"),
        "job": answer.get("job"),
        "notices": answer.get("notices") or [],
        "usage": usage,
        "idle": {"limit": idle.limit, "ends_at": idle.ends_at},
    }


def moved(answer: dict[str, Any], offset: float) -> dict[str, Any]:
    """Return an answer of the hub with the end of the session on this node's clock.

    Args:
        answer: The answer.
        offset: What to add to a time of the hub, in seconds.
    """
    ends = answer.get("ends_at")
    return {**answer, "ends_at": ends + offset} if isinstance(ends, (int, float)) else answer


class Monitor:
    """The monitor of one session.

    Args:
        ask_hub: Asks the hub about the session, and returns its answer or an empty dictionary. It may block.
        report_idle: Asks the hub to end the session, which was idle for so many seconds. It may block. It raises
            OSError if the hub does not answer, and returns whether the hub ends the session.
        usage: Returns the memory and the cores that the job uses. It may block for a moment.
        gpus: Returns the job's GPUs. It may block for seconds.
    """

    def __init__(
        self,
        ask_hub: Callable[[], dict[str, Any]],
        report_idle: Callable[[float], bool],
        usage: Callable[[], dict[str, Any]],
        gpus: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._ask_hub, self._report_idle, self._usage, self._gpus = ask_hub, report_idle, usage, gpus
        self.answer: dict[str, Any] = {}
        self._answered = -FRESH
        self._asking: asyncio.Future[dict[str, Any]] | None = None
        self.active = time.time()
        self._gpu_figures: list[dict[str, Any]] = []
        self._gpus_read = -GPU_INTERVAL
        self._looked = time.monotonic()
        self._reported = -RETRY
        self._attempts = 0
        self._others: weakref.WeakSet[Any] = weakref.WeakSet()
        self._tabs: weakref.WeakSet[Any] = weakref.WeakSet()

    # -- what others tell the monitor

    def told(self, answer: dict[str, Any]) -> None:
        """Take an answer of the hub. An empty one means that the hub did not answer, so the last one stays valid."""
        if answer:
            self.answer = answer
            self._answered = time.monotonic()

    def touch(self) -> None:
        """Remember that somebody uses the session now."""
        self.active = time.time()

    def seen(self, handler: Any, path: str) -> None:
        """Take a request that the server has answered, or a websocket that it has opened.

        Args:
            handler: Tornado's handler.
            path: The path below the server's address.
        """
        if handler.get_status() == 101:
            if path == "/api/events/subscribe":
                self._tabs.add(handler)
            elif not path.startswith(OWN_SOCKETS):
                self._others.add(handler)
        headers = handler.request.headers
        present = PRESENT in headers
        # A request that was refused or sent to the login may come from anybody.
        if handler.get_status() >= 300 or (AUTOMATIC in headers and not present):
            return
        if is_activity(handler.request.method, path, present=present):
            self.touch()

    @property
    def is_watched(self) -> bool:
        """Whether a tab is open."""
        return _any_open(self._tabs)

    # -- the state

    @property
    def limit(self) -> float | None:
        """How long the session may be idle, in seconds, or None."""
        limit = (self.answer.get("job") or {}).get("idle_limit")
        return float(limit) if isinstance(limit, (int, float)) and limit > 0 else None

    def idleness(self, times: Iterable[float], *, busy: bool) -> Idleness:
        """Return whether the session is idle.

        Args:
            times: When kernels, terminals and extensions were active for the last time, in seconds since 1970.
            busy: Whether a kernel or a program in a terminal runs.
        """
        if busy or _any_open(self._others):
            self.touch()
            return Idleness(self.limit, None)
        self.active = max([self.active, *(each for each in times if each <= time.time())])
        return Idleness(self.limit, self.active)

    async def state(self, idle: Idleness) -> dict[str, Any]:
        """Return the state for the tabs; see ``state``.

        Args:
            idle: Whether the session is idle.
        """
        run = asyncio.get_running_loop().run_in_executor
        usage = await run(None, self._usage)
        if time.monotonic() - self._gpus_read >= GPU_INTERVAL and (self.answer.get("job") or {}).get("gpus", 0):
            self._gpus_read = time.monotonic()
            self._gpu_figures = await run(None, self._gpus)
        return state(self.answer, {**usage, "gpus": self._gpu_figures}, idle, time.time())

    async def refresh(self) -> None:
        """Ask the hub, unless it has answered just now. Several calls at the same time share one question."""
        if time.monotonic() - self._answered < FRESH:
            return
        if self._asking is None:
            self._asking = asyncio.get_running_loop().run_in_executor(None, self._ask_hub)
        asking = self._asking
        try:
            self.told(await asyncio.shield(asking))
        finally:
            if self._asking is asking and asking.done():
                self._asking = None

    # -- the end of an idle session

    async def end_if_idle(self, idle: Idleness, stop: Callable[[], None]) -> None:
        """Ask the hub to end the session if it was idle for too long. The hub remembers why, and cancels the job.

        Args:
            idle: Whether the session is idle.
            stop: Ends the session from within, for a hub that does not answer.
        """
        now, last = time.monotonic(), self._looked
        self._looked = now
        if now - last > SLEPT:
            self.touch()  # the scheduler had suspended the job, so nobody could use it
        elif idle.is_over(time.time()) and now - self._reported >= RETRY:
            self._reported = now
            await self._ask_for_end(idle, stop)

    async def _ask_for_end(self, idle: Idleness, stop: Callable[[], None]) -> None:
        assert idle.since is not None  # noqa: S101 an idle session has a last activity
        try:
            ended = await asyncio.get_running_loop().run_in_executor(None, self._report_idle, time.time() - idle.since)
        except OSError:
            self._attempts += 1
            if self._attempts >= GIVE_UP:
                stop()
            return
        self._attempts = 0
        if not ended:
            # The hub knows another limit, or the session is ending already.
            await self.refresh()


def _any_open(sockets: Iterable[Any]) -> bool:
    """Return whether one of Tornado's websocket handlers is still connected."""
    return any(getattr(each, "ws_connection", None) is not None for each in list(sockets))


# -- the connection to the notebook server


def kernels_are_busy(kernels: Any) -> bool:
    """Return whether a kernel of Jupyter's kernel manager runs something."""
    return any(getattr(kernels.get_kernel(each), "execution_state", "") == "busy" for each in kernels.list_kernel_ids())


def terminals_are_busy(terminals: Any, children: Callable[[int], list[int]]) -> bool:
    """Return whether a program runs in a terminal, beside its shell.

    Args:
        terminals: Jupyter's terminal manager, or None.
        children: Returns the child processes of a process.
    """
    open_terminals = getattr(terminals, "terminals", None) or {}
    return any(children(each.ptyproc.pid) for each in list(open_terminals.values()))


def install(server: Any, monitor: Monitor, children: Callable[[int], list[int]], log: Callable[[str], None]) -> None:
    """Connect the monitor to a notebook server that does not listen yet.

    Args:
        server: Jupyter's ``ServerApp``.
        monitor: The monitor.
        children: Returns the child processes of a process.
        log: Writes a line to the session's log.
    """
    from jupyter_server.base.handlers import APIHandler  # noqa: PLC0415
    from jupyter_server.utils import url_path_join  # noqa: PLC0415
    from tornado import web  # noqa: PLC0415
    from tornado.ioloop import PeriodicCallback  # noqa: PLC0415

    settings = server.web_app.settings
    base = settings["base_url"].rstrip("/")
    write_to_log = settings["log_function"]

    def log_function(handler: Any) -> None:
        monitor.seen(handler, handler.request.path.removeprefix(base))
        write_to_log(handler)

    def idleness() -> Idleness:
        times = [
            server.kernel_manager.last_kernel_activity,
            *(value for name, value in settings.items() if name.endswith("_last_activity") and name != NOT_FROM_USERS),
            *settings.get("last_activity_times", {}).values(),
        ]
        busy = kernels_are_busy(server.kernel_manager) or terminals_are_busy(settings.get("terminal_manager"), children)
        return monitor.idleness([each.timestamp() for each in times if each is not None], busy=busy)

    class SessionHandler(APIHandler):  # type: ignore[misc]
        """The state of the session for its tabs: ``GET api/hpchub/session``. See ``Monitor.state``."""

        auth_resource = "events"
        _track_activity = False

        @web.authenticated
        async def get(self) -> None:
            """Answer with the state, as the hub knows it now."""
            self.set_header("Cache-Control", "no-store")
            await monitor.refresh()
            self.finish(await monitor.state(idleness()))

    async def look() -> None:
        idle = idleness()
        if monitor.is_watched:
            session = await monitor.state(idle)
            server.event_logger.emit(schema_id=SCHEMA["$id"], data={"session": session})
        await monitor.end_if_idle(idle, stop)

    def stop() -> None:
        log("the session ends, because nobody uses it and the hub does not answer")
        server.stop()

    settings["log_function"] = log_function
    server.event_logger.register_event_schema(SCHEMA)
    server.web_app.add_handlers(".*$", [(url_path_join(settings["base_url"], PATH), SessionHandler)])
    PeriodicCallback(guarded(look, log), TICK * 1000).start()


def guarded(look: Callable[[], Awaitable[None]], log: Callable[[str], None]) -> Callable[[], Awaitable[None]]:
    """Return the same function, without exceptions and without a second call before the first one has ended.

    Args:
        look: The function.
        log: Writes a line to the session's log.
    """
    running = False
    logged = ""

    async def look_once() -> None:
        nonlocal running, logged
        if running:
            return
        running = True
        try:
            await look()
        except Exception as error:  # noqa: BLE001 the session is worth more than its figures
            text = f"the state of the session cannot be read: {type(error).__name__}: {error}"
            if text != logged:
                log(text)
            logged = text
        finally:
            running = False

    return look_once
