"""The supervisor of a desktop of a session. It runs an X server without a screen, and the browser shows its picture.

jupyter-server-proxy runs this program at the first request for a desktop::

    python -I desktop.py DEFINITIONS NAME

It starts TigerVNC's X server and a desktop session on it. It also serves the page with noVNC, the viewer of the package
jupyter-remote-desktop-proxy. The browser's websocket goes to the X server's socket for viewers; see ``single_user.py``.
The desktop runs on while no browser is connected.

No other account on the node can reach the desktop: the socket for viewers is in a directory that only the user can
enter. The X server listens on no port. It demands a cookie on its other sockets, which are in /tmp/.X11-unix.

The rest is the same as for other applications; see ``app.py``. The role ``notebook_environment`` installs this file
beside it. It uses the standard library only.
"""

from __future__ import annotations

import asyncio
import html
import importlib.util
import os
import secrets
import stat
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING or __package__:
    from hpchub.remote import app
else:  # a program, beside app.py
    sys.path.insert(0, str(Path(__file__).parent))
    app = importlib.import_module("app")

VIEWER = "jupyter_remote_desktop_proxy"  # the package with the viewer
VIEWER_FILES = {"viewer.js": "text/javascript", "index.css": "text/css"}
DISPLAYS = Path("/tmp/.X11-unix")  # noqa: S108 the X protocol fixes it
SETTLE = 1.0  # seconds that a session must have lived until the desktop is shown
WILDCARD = 0xFFFF  # Xauth's FamilyWild: the cookie is for every display
COOKIE_NAME = b"MIT-MAGIC-COOKIE-1"
WITHOUT_COOKIE = struct.pack("<BxHHHHxx", ord("l"), 11, 0, 0, 0)  # the first message of an X client
GREETING = b"RFB "  # the first bytes that a viewer receives
ACCEPTED = b"\x01"  # the first byte of the X server's answer
# A message bus for the session alone. It hides the exit code of a missing program, so a shell starts the program.
BUS = ("dbus-run-session", "--", "/bin/sh", "-c", 'exec "$@"', "sh")
FOREIGN = ("DBUS_SESSION_BUS_ADDRESS", "SESSION_MANAGER", "WAYLAND_DISPLAY", "XDG_SESSION_ID", "XDG_VTNR")
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
    " connect-src 'self'; frame-ancestors 'self'"
)

SCRIPT = """\
"use strict";
(() => {
  // The viewer reports its state only here, and in English.
  const status = document.getElementById("status");
  const state = document.getElementById("state");
  let isLost = false;
  let seen = Date.now();

  async function comeBack() {
    try {
      const answer = await fetch("./", {cache: "no-store", redirect: "manual"});
      // The page shows the desktop, or the reason why it has ended, or the sign-in. A proxy's error does not count.
      if (answer.status < 500 || answer.headers.has("X-Hpchub-App")) {
        location.reload();
        return;
      }
    } catch {
      // The network is still away.
    }
    setTimeout(comeBack, 2000);
  }

  new MutationObserver(() => {
    if (status.textContent === "Connected" && !isLost) {
      state.textContent = state.dataset.connected;
    } else if (!isLost) {
      isLost = true;
      state.textContent = state.dataset.lost;
      setTimeout(comeBack, 1000);
    }
  }).observe(status, {childList: true});

  // A computer that has slept does not always notice that its connections are gone.
  setInterval(() => {
    if (Date.now() - seen > 90000) {
      location.reload();
    }
    seen = Date.now();
  }, 5000);
})();
"""
"""What the page does beside the viewer. Its header is ``app.MARK``."""

PAGE = """\
<!doctype html>
<html>
<head>
<meta charset="utf-8">
<title>{name}</title>
<link rel="stylesheet" href="index.css">
<style>#menu li{{padding:8px}} #menu a{{padding:8px}} #clipboard-text{{min-width:min(500px,90vw)}}</style>
</head>
<body>
<div id="top-bar"><ul id="menu">
<li><span id="state" role="status" data-connected="{connected}" data-lost="{lost}">{connecting}</span>
<span id="status" hidden></span></li>
<li><a id="clipboard-button" href="#" role="button">{clipboard}</a></li>
</ul></div>
<div id="screen"></div>
<div id="clipboard-container" class="clipboard-container hidden">
<div class="arrow"></div>
<div id="clipboard-content"><label for="clipboard-text">{clipboard_help}</label>
<textarea id="clipboard-text" rows="5"></textarea></div>
</div>
<script src="desktop.js"></script>
<script src="viewer.js"></script>
</body>
</html>
"""
"""The page with the viewer, which expects the ids of the elements and a websocket at ``../desktop-websockify/``."""


class Desktop(app.Application):
    """One desktop. For its definition, see ``hpchub.model.apps.DesktopApp.for_session``.

    Args:
        definition: The application's definition.
        directory: The directory with its sockets, its cookie and its log. Only the user can enter it.
        texts: The texts of the pages.
        environment: The environment of the session.
    """

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        super().__init__(definition, directory, texts, environment)
        self.server: asyncio.subprocess.Process | None = None
        self.viewer = Path()
        self._deadline = 0.0

    # -- its life

    async def _run(self) -> asyncio.subprocess.Process:
        self.viewer = find_viewer()
        self._deadline = time.monotonic() + self.limit
        cookie = self.directory / "cookie"
        write_cookie(cookie)
        values = self._placeholders()
        environment = {name: app.fill(value, values) for name, value in self.environment.items() if name not in FOREIGN}
        display = await self._start_server(cookie, environment)
        if not is_safe(DISPLAYS):
            raise app.AppError("unsafe", path=DISPLAYS)
        await self._check_access(display)
        environment |= {
            "DISPLAY": f":{display}",
            "XAUTHORITY": str(cookie),
            "ICEAUTHORITY": str(self.directory / "ice"),  # not in the home, where sessions on other nodes lock it
            "XDG_SESSION_TYPE": "x11",
        }
        command = [app.fill(word, values) for word in self.definition["command"]]
        words = [*self.definition["shell"], *BUS, *command]
        return await self._execute(words, BUS[0], env=environment, cwd=self._home())

    async def _start_server(self, cookie: Path, environment: dict[str, str]) -> int:
        """Start the X server, and return the number of its display."""
        server, geometry = self.definition["server"], self.definition["geometry"]
        source, sink = os.pipe()
        async with app.open_pipe(source) as reader:
            command = [
                *(*self.definition["shell"], server, "-displayfd", str(sink), "-desktop", self.name),
                *("-auth", str(cookie), "-nolisten", "tcp"),
                *("-rfbport", "-1", "-rfbunixpath", str(self.socket), "-rfbunixmode", "0600", "-SecurityTypes", "None"),
                *("-geometry", geometry, "-depth", "24", "-AcceptSetDesktopSize=1", "-AlwaysShared=1"),
                *("-noreset", "-s", "0", "-Log", "*:stderr:10"),
            ]
            try:
                self.server = await self._execute(command, server, env=environment, cwd=self._home(), pass_fds=(sink,))
            finally:
                os.close(sink)
            try:
                line = await asyncio.wait_for(reader.readline(), self._deadline - time.monotonic())
            except TimeoutError:
                raise self._silence() from None
        if not line.strip().isdigit():
            raise self._ending(await self.server.wait(), server)
        return int(line)

    def _home(self) -> str | None:
        home = self.environment.get("HOME", "")
        return home if app.is_directory(home) else None

    async def _check_access(self, display: int) -> None:
        """Check that the X server demands the cookie.

        Raises:
            AppError: It admits everybody.
        """
        for path in (str(DISPLAYS / f"X{display}"), f"\0{DISPLAYS}/X{display}"):
            if await app.answers(path, WITHOUT_COOKIE, ACCEPTED):
                raise app.AppError("exposed", address=f"DISPLAY=:{display}")

    async def _wait_until_ready(self) -> None:
        settled = time.monotonic() + SETTLE
        while time.monotonic() < self._deadline:
            for process, program in ((self.server, self.definition["server"]), (self.process, self._program())):
                if process and process.returncode is not None:
                    raise self._ending(process.returncode, program)
            if time.monotonic() >= settled and await app.answers(self.socket, b"", GREETING):
                self._check_ports()
                return
            await asyncio.sleep(app.HEALTH_INTERVAL)
        raise self._silence()

    async def _watch(self) -> None:
        assert self.server  # noqa: S101 the caller has started both
        assert self.process  # noqa: S101
        ends = [asyncio.ensure_future(each.wait()) for each in (self.process, self.server)]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ends:
                each.cancel()
        code = done.pop().result()
        raise app.AppError("ended_badly", code=code) if code else app.AppError("ended")

    def _listeners(self) -> list[int]:
        """Return the X server. What users start on their desktop is their own affair, as in a terminal."""
        return [self.server.pid] if self.server else []

    def _silence(self) -> app.AppError:
        return app.AppError("silent", seconds=f"{self.limit:g}")

    # -- the page

    async def _answer(self, head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = head.split(b" ", 2)
        path = urlsplit(words[1]).path.decode(errors="replace") if len(words) > 2 else ""
        writer.write(self.content(path))
        await writer.drain()

    def content(self, path: str) -> bytes:
        """Return the HTTP answer for a path below the address of the desktop.

        Raises:
            OSError: A file of the viewer cannot be read.
        """
        if path == "/":  # the viewer's websocket is beside the directory of its page
            return app.with_head("302 Found", b"", more="Location: view/\r\n")
        directory, _, name = path.rpartition("/")
        if directory == "/view":
            if not name:
                page = PAGE.format(**{each: self._text(each) for each in SHOWN}, name=html.escape(self.name))
                return app.with_head("200 OK", page.encode(), policy=PAGE_POLICY)
            if name == "desktop.js":
                return app.with_head("200 OK", SCRIPT.encode(), "text/javascript")
            if name in VIEWER_FILES:
                return app.with_head("200 OK", (self.viewer / name).read_bytes(), VIEWER_FILES[name])
        return app.with_head("404 Not Found", b"")


SHOWN = ("connected", "connecting", "lost", "clipboard", "clipboard_help")
"""The texts of the page with the viewer."""


def find_viewer() -> Path:
    """Return the directory with the files of the viewer. The package itself is not imported.

    Raises:
        AppError: This environment has no viewer.
    """
    found = importlib.util.find_spec(VIEWER)
    for place in (found and found.submodule_search_locations) or []:
        directory = Path(place, "static", "dist")
        if all((directory / name).is_file() for name in VIEWER_FILES):
            return directory
    raise app.AppError("not_installed", program=VIEWER.replace("_", "-"))


def write_cookie(path: Path) -> None:
    """Write a new cookie, which the X server and its clients share, in the format of Xauth.

    An X server admits every user of the node if its file contains no cookie.
    """
    cookie = secrets.token_bytes(16)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(struct.pack(">HHH", WILDCARD, 0, 0))
        for part in (COOKIE_NAME, cookie):
            file.write(struct.pack(">H", len(part)) + part)


def is_safe(directory: Path) -> bool:
    """Return whether nobody else can replace the sockets in a directory. Programs send them the cookie.

    Args:
        directory: The directory. If it is missing, there are no sockets to replace.
    """
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return True
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.getuid())
    return is_own and (not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))


if __name__ == "__main__":
    sys.exit(app.main(Desktop))
