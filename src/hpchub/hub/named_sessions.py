"""The rules for JupyterHub's named servers, which are a user's sessions. All requests that create one follow them."""

from __future__ import annotations

from typing import Any

from hpchub.hub.session_names import KEPT, NameProblem, check_server_name, clean
from hpchub.hub.user_error import UserError


class NamedSessions:
    """A mixin for handlers that create, start or rename servers."""

    async def _check_named_server_request(
        self: Any, user: Any, server_name: str, display_name: Any, check_limit: bool = True
    ) -> None:
        """Check the names of a server, with messages for users, and forget an old name if there are too many.

        A request that only reads forgets nothing, because a page of another site can send it.

        Raises:
            web.HTTPError: A name is not valid (400), or all names that the hub keeps are in use (400).
        """
        check_limit = check_limit and self.request.method not in ("GET", "HEAD")
        if server_name not in user.orm_spawners:
            try:
                check_server_name(server_name)
            except NameProblem as error:
                raise UserError(400, error.args[0]) from None
            if check_limit:
                forget_oldest_names(user)
        try:
            clean(display_name if isinstance(display_name, str) and display_name else server_name)
        except NameProblem as error:
            raise UserError(400, error.args[0]) from None
        await super()._check_named_server_request(user, server_name, display_name, check_limit)  # type: ignore[misc]


def forget_oldest_names(user: Any, keep: int = KEPT - 1) -> None:
    """Forget the names that were not used for the longest time, except those of sessions, so that few are left.

    Args:
        user: JupyterHub's user.
        keep: How many names to keep.
    """
    rows = [row for row in user.orm_spawners.values() if row.name]
    idle = [row for row in rows if not in_use(user, row.name)]
    idle.sort(key=lambda row: (row.last_activity is not None, row.last_activity))
    forgotten = idle[: max(0, len(rows) - keep)]
    for row in forgotten:
        user.spawners.pop(row.name, None)
        user.db.delete(row)
    if forgotten:
        user.db.commit()


def forget_if_too_many(user: Any, server_name: str) -> None:
    """Forget a name that a form has just created, if there are too many names and it has no session.

    Args:
        user: JupyterHub's user.
        server_name: The name of the server.
    """
    row = user.orm_spawners.get(server_name)
    names = [name for name in user.orm_spawners if name]
    if row is None or len(names) <= KEPT or in_use(user, server_name):
        return
    user.spawners.pop(server_name, None)
    user.db.delete(row)
    user.db.commit()


def in_use(user: Any, server_name: str) -> bool:
    """Return whether a server has a session, or is about to start, stop or be renamed."""
    spawner = dict.get(user.spawners, server_name)  # reading the item would create a spawner
    row = user.orm_spawners.get(server_name)
    if row is not None and row.server_id is not None:
        return True
    return spawner is not None and bool(spawner.active or spawner.held_profile)
