"""The entries of an inventory about the operation of the service: how it is watched. No I/O."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpchub.model import fields as f
from hpchub.model.entries import Entry


class Monitoring(Entry):
    """How the service is watched: its metrics and its logs."""

    metrics_networks: list[f.ScraperNetwork] = Field(default=[])
    """The addresses of the Prometheus servers, which may read the metrics with the token. Empty: nobody may read them,
    and there is no token."""
    json_logs: bool = False
    """Whether the hub writes its log as JSON, one object per line."""
    audit_days: Annotated[int, f.Whole(1, 3650)] = 180
    """How long the audit log is kept, in days."""
