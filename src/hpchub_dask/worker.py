"""The worker of a Dask cluster. It has no web pages, because other accounts of the node could open them."""

from __future__ import annotations

from typing import Any

import distributed


class Worker(distributed.Worker):  # type: ignore[misc]
    """Dask's worker, without a web server."""

    def start_http_server(self, *_arguments: Any, **_options: Any) -> None:
        """Start no server. Dask's own would listen on a port."""
