"""The audit log: who signed in, started and stopped sessions, and was refused, and from where.

Each line is a JSON object with the time, the name and the fields of an event; see ``hpchub.hub.events``. Events contain
no secrets. Only the hub's account and root can read or write the file: its directory has the mode 0700. A file of its
own is safer than the system's journal, to which every user can write under any name.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict
from logging.handlers import TimedRotatingFileHandler
from typing import TYPE_CHECKING, Any

from hpchub.hub import events, metrics
from hpchub.hub.json_log import timestamp

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT_FILE = "/var/log/hpchub/audit.jsonl"
"""The file if the settings name none: those of an older version, during an upgrade."""
DEFAULT_DAYS = 180
"""How many days the file is kept by default."""

LOGGED = (
    events.SignedIn,
    events.SignInRefused,
    events.SignedOut,
    events.AccessEnded,
    events.StartRefused,
    events.StartRequested,
    events.StartFailed,
    events.StopRequested,
    events.SessionEnded,
    events.EndExplained,
)
"""The events in the audit log. The others are about how the cluster runs a session, not about what somebody did."""


class AuditLog(TimedRotatingFileHandler):
    """A subscriber that appends events to a file. At midnight (UTC), it begins a new file and deletes old ones.

    Args:
        path: The file.
        days: How many old files to keep.
    """

    def __init__(self, path: Path, days: int) -> None:
        super().__init__(path, when="midnight", backupCount=days, utc=True, delay=True, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        return os.fdopen(os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a")

    def receive(self, event: events.Event) -> None:
        """Append an event, if it is one of ``LOGGED``. If this fails, count and log the failure."""
        if isinstance(event, LOGGED):
            self.handle(logging.LogRecord("audit", logging.INFO, "", 0, line_of(event), None, None))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the name of the base class
        """Count and log that a line was not written."""
        metrics.audit_failures.inc()
        log.error(
            "Cannot write to the audit log %s, so this line is only here: %s",
            *(self.baseFilename, record.getMessage()),
            exc_info=True,  # noqa: LOG014 the logging module calls this method in an exception handler
        )


def line_of(event: events.Event) -> str:
    """Return an event as one line of JSON."""
    fields: dict[str, Any] = asdict(event)
    at = timestamp(fields.pop("at"))
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    return json.dumps({"time": at, "event": name, **fields})
