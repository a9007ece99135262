"""Environment modules in JupyterLab: the sidebar of the package jupyterlmod, with checked requests.

jupyterlmod passes names to a shell, also those in the path of a GET request, which a link on any page can contain. So
its own server extension is off, and these handlers accept only names without special characters. A module changes the
environment of the server, and so that of kernels that start later.

The role ``notebook_environment`` installs this file beside ``user_kernels.py``. It uses the standard library only until
the server starts (Python 3.9 and later).
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/@:=-]{0,199}")
"""The names of modules and collections."""


def wrong_name(values: Any) -> str:
    """Return the first text in a request that is not a name, or empty."""
    return next((text for text in texts(values) if not NAME.fullmatch(text)), "")


def texts(values: Any) -> Iterator[str]:
    """Yield the texts in a list, in the values of an object, or in parts of them."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from texts(value)
    elif isinstance(values, dict):
        for value in values.values():
            yield from texts(value)
    elif values is not None:
        yield str(values)


def add_modules(server: Any, applications: Path) -> None:
    """Offer the sidebar's requests.

    Args:
        server: Jupyter's ``ServerApp``, before it listens.
        applications: The file with the session's applications. It need not exist.

    Raises:
        ImportError: The environment has no jupyterlmod.
    """
    from jupyterlmod import handler  # noqa: PLC0415
    from tornado.web import HTTPError  # noqa: PLC0415

    def checked(base: Any) -> Any:
        class Checked(base):  # type: ignore[misc]
            """A handler of jupyterlmod that accepts only names."""

            async def prepare(self, *arguments: Any, **options: Any) -> None:
                await super().prepare(*arguments, **options)
                if self._finished:  # the request is not authenticated
                    return
                try:
                    body = json.loads(self.request.body or b"null")
                except ValueError:
                    raise HTTPError(400, "the request is not JSON") from None
                wrong = wrong_name([self.path_args, body])
                if wrong:
                    raise HTTPError(400, f"{wrong[:40]!r} is not the name of a module or collection")

        return Checked

    # jupyterlmod would take the words of the header for names of modules.
    os.environ.setdefault("MODULES_LIST_TERSE_OUTPUT", "")
    # The extension shows the tiles of the session's applications itself; see setup_proxy_commands in its index.ts.
    pins = {"launcher_pins": names(applications)}
    base = server.web_app.settings["base_url"].rstrip("/")
    server.web_app.add_handlers(
        ".*",
        [
            (f"{base}/module/system", checked(handler.ModuleSystem)),
            (f"{base}/module", checked(handler.Module)),
            (f"{base}/module/modules", checked(handler.AvailModules)),
            (f"{base}/module/modules/(.+)", checked(handler.ShowModule)),
            (f"{base}/module/collections", checked(handler.ModuleCollections)),
            (f"{base}/module/launcher-pins", checked(handler.PinsHandler), pins),
            (f"{base}/module/launcher-module-map", checked(handler.ModuleMapHandler), {"launcher_module_map": {}}),
        ],
    )


def names(applications: Path) -> list[str]:
    """Return the names of the session's applications."""
    try:
        return [app["name"] for app in json.loads(applications.read_text(encoding="utf-8"))["apps"]]
    except FileNotFoundError:
        return []


def has_module_system() -> bool:
    """Return whether jupyterlmod finds a module system in the environment of this process."""
    return any(os.environ.get(name) for name in ("LMOD_CMD", "MODULES_CMD"))
