"""The dashboards of the Dask clusters of a session, as an application.

jupyter-server-proxy runs this program at the first request for an application of the kind ``dask``::

    python -I dask_dashboard.py DEFINITIONS NAME

It starts nothing. ``hpchub_dask.Cluster`` in a notebook serves the pages of its cluster on a unix socket in the
directory of the application, which only the user can enter. The name of the socket is the first part of the path. This
program passes requests on to it. Without a path, it shows the only cluster, or a list of them.

The rest is the same as for other applications; see ``app.py``. The role ``notebook_environment`` installs this file
beside it. It uses the standard library only.
"""

from __future__ import annotations

import asyncio
import html
import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING or __package__:
    from hpchub.remote import app
else:  # a program, beside app.py
    sys.path.insert(0, str(Path(__file__).parent))
    app = importlib.import_module("app")

CLUSTER = re.compile(r"[0-9a-f]{6}")
REFRESH = 3  # seconds until a page without a cluster looks again
EXAMPLE = "from hpchub_dask import Cluster\n\ncluster = Cluster()\ncluster.scale(jobs=2)\nclient = cluster.get_client()"


class Dashboard(app.Application):
    """The dashboards of one application. For its definition, see ``hpchub.model.apps.DaskApp.for_session``.

    Args:
        definition: The application's definition.
        directory: The directory with the sockets. Only the user can enter it.
        texts: The texts of the pages.
        environment: The environment of the session.
    """

    def __init__(
        self, definition: dict[str, Any], directory: Path, texts: dict[str, str], environment: dict[str, str]
    ) -> None:
        super().__init__(definition, directory, texts, environment)
        self.base = self._placeholders()["base_url"]
        self.is_ready = True

    def _is_wanted(self, head: bytes) -> bool:
        return False

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = head.split(b" ", 2)
        path = urlsplit(words[1]).path.decode(errors="replace") if len(words) > 2 else ""
        name = path.removeprefix(self.base).partition("/")[0]
        if CLUSTER.fullmatch(name):
            try:
                inner = await asyncio.open_unix_connection(str(self.directory / name))
            except OSError:
                writer.write(
                    self._page("cluster_ended", f'<p><a href="{html.escape(self.base)}">{html.escape(self.name)}</a>')
                )
            else:
                await app.connect(app.without_credentials(head), reader, writer, *inner)
        else:
            writer.write(self._overview(await self._clusters()))
        await writer.drain()

    async def _clusters(self) -> list[str]:
        """Return the clusters that accept connections, the newest first."""
        found = []
        for path in self.directory.iterdir():
            if CLUSTER.fullmatch(path.name):
                try:
                    _, writer = await asyncio.open_unix_connection(str(path))
                    writer.close()
                    found.append((path.stat().st_mtime, path.name))
                except OSError:  # its kernel was killed
                    continue
        return [name for _, name in sorted(found, reverse=True)]

    def _overview(self, clusters: list[str]) -> bytes:
        if not clusters:
            body = f"<p>{self._text('start_cluster')}</p><pre>{html.escape(EXAMPLE)}</pre>"
            return self._page("no_cluster", body, refresh=REFRESH)
        links = [f"{self.base}{name}/status" for name in clusters]
        if len(links) == 1:
            return app.with_head("302 Found", b"", more=f"Location: {links[0]}\r\n")
        items = "".join(f'<li><a href="{html.escape(link)}">{html.escape(link)}</a></li>' for link in links)
        return self._page("clusters", f"<ul>{items}</ul>")

    def _page(self, title: str, body: str, refresh: int = 0) -> bytes:
        return app.answer("200 OK", self.name, f"<h1>{self._text(title)}</h1>{body}", refresh=refresh)


if __name__ == "__main__":
    sys.exit(app.main(Dashboard))
