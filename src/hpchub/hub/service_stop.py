"""A session that the service itself stops, for a drain or because nobody uses it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


async def stop_session(spawner: Any, reason: str, by: str, delete_route: Callable[[Any, str], Awaitable[None]]) -> None:
    """Stop a session in the same way as when its user stops it. An error is only logged.

    Args:
        spawner: The session's ``HPCProfilesSpawner``. Nothing happens if it is not ready, or if a change is pending.
        reason: Why the service stops the session, in plain words for the user.
        by: The reason in one word, for the records: ``drain`` or ``idle``.
        delete_route: Removes a user's server from the proxy: JupyterHub's ``Proxy.delete_user``.
    """
    if not spawner.ready or spawner.pending:
        return
    spawner.stop_reason, spawner.stopped_by = reason, by
    spawner._stop_pending = True  # noqa: SLF001 JupyterHub's own handler marks the stop in this way
    log.info("%s: the service stops the session (%s)", spawner._log_name, by)  # noqa: SLF001
    try:
        await delete_route(spawner.user, spawner.name)
        await spawner.user.stop(spawner.name)
    except Exception:
        log.exception("%s: the service cannot stop the session now", spawner._log_name)  # noqa: SLF001
    finally:
        spawner._stop_pending = False  # noqa: SLF001
