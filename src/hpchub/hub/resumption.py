"""The continuation of a session after a restart of the hub."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from hpchub.hub.start_error import StartError

RETRY = 10.0
"""The wait between two attempts to restore a session after an unexpected error, in seconds."""

UNREAD_WAIT = 365 * 24 * 3600
"""How long JupyterHub waits for a session with an unreadable saved state, in seconds."""


class Resumption:
    """A mixin for the spawner, which continues a session that an earlier hub process began."""

    _spawn_future: asyncio.Future[None] | None = None

    async def get_url(self: Any) -> str:
        """Wait until the restored session's server can be reached or the session has ended. Return the server's URL.

        A restarted JupyterHub calls this method for each session that has not ended. Afterwards, it cancels a job if
        the server does not answer within a time limit. This method therefore waits as long as necessary. Meanwhile,
        JupyterHub keeps the session in the state "check". The method also marks the session as a pending start, so that
        its page shows the progress and its user can stop it.
        """
        known: str = self.server.url
        if self.unread:
            self.http_timeout = UNREAD_WAIT
            return known
        reached: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._spawn_pending = True
        self._spawn_future = asyncio.ensure_future(self._resume(reached))
        self._spawn_future.add_done_callback(self._resumed)
        url = urlsplit(await reached)
        if not url.netloc:
            # This method cannot report that the session has ended. JupyterHub ends a session if its server does not
            # answer, so return an address that never answers.
            self.http_timeout = 0
            self.server.connect_url = "http://127.0.0.1:1"
            return known
        self.http_timeout = 3600  # generous, because the server has just answered
        self.server.proto, self.server.ip, self.server.port = url.scheme, url.hostname, url.port
        self._save()
        return str(self.server.url)

    async def _resume(self: Any, reached: asyncio.Future[str]) -> None:
        """Run the pending start of a restored session.

        Args:
            reached: Receives the server's URL, or an empty string if the session has ended.
        """
        starting = not self.child_spawner.driver.state.host
        try:
            url = await self._adopt()
        except asyncio.CancelledError:
            if reached.cancelled():  # the hub stops, the session does not
                raise
            self.memory.stopped(self.child_spawner, self.stopped_by, starting=starting)
            self.child_spawner.abandon()
            url = ""
        except StartError as error:
            self.log.error("%s: %s", self._log_name, error)
            if starting:
                await self._start_failed(error)
            else:
                self.memory.ended(self.child_spawner)
            reached.set_result("")
            raise
        reached.set_result(url)
        if not starting:
            # JupyterHub compares the proxy's routes after its check, and then not again for a minute. The session must
            # be ready by then, so do not delay it here.
            return
        while self._check_pending:  # noqa: ASYNC110 JupyterHub only offers a flag
            await asyncio.sleep(0.05)
        if self.server is not None:
            await self.user.settings["proxy"].add_user(self.user, self.name)

    async def _adopt(self: Any) -> str:
        """Restore the session. Retry after unexpected errors, because they do not mean that the job has ended."""
        while True:
            try:
                return str(await self.child_spawner.adopt())
            except StartError:
                raise
            except Exception:
                self.log.exception("%s: cannot restore session %s; trying again", self._log_name, self.session)
                await asyncio.sleep(RETRY)

    def _resumed(self: Any, task: asyncio.Future[None]) -> None:
        # JupyterHub does the same at the end of a start. Its pages show the exception of a failed start.
        self._spawn_pending = False
        if task.cancelled() or task.exception() is None:
            self._spawn_future = None
