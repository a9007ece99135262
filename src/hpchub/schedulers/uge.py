"""Univa, now Altair, Grid Engine: Grid Engine's words, and its own for memory. Source: its manual of 8.6, qsub(1)."""

from __future__ import annotations

from hpchub.schedulers.gridengine import GridEngine


class UGE(GridEngine):
    """Grid Engine's words."""

    name = "uge"
    memory_resource = "m_mem_free"
