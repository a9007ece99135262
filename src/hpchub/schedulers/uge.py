"""Univa Grid Engine, now Altair's: Grid Engine's words. Not seen from a real server."""

from __future__ import annotations

from hpchub.schedulers.gridengine import GridEngine


class UGE(GridEngine):
    """Grid Engine's words."""

    name = "uge"
