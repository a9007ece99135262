"""Univa Grid Engine, now Altair Grid Engine. Not tested with a real server."""

from __future__ import annotations

from hpchub.schedulers.gridengine import GridEngine


class UGE(GridEngine):
    """Univa Grid Engine, with the commands and formats of Grid Engine."""

    name = "uge"
