"""The hub's log as JSON: one object per line, which programs can read."""

from __future__ import annotations

import datetime as dt
import json
import logging


class JsonFormatter(logging.Formatter):
    """A formatter that writes a record as ``{"time", "level", "logger", "message", "exception"}``.

    A line break in a message is escaped, so nobody can forge a line. The exception is missing if there is none.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        entry = {
            "time": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def timestamp(seconds: float) -> str:
    """Return a time as text, as in ``2026-11-26T08:30:00.000+00:00``.

    Args:
        seconds: The seconds since 1970.
    """
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="milliseconds")


LOGGING = {
    "formatters": {"console": {"class": f"{__name__}.{JsonFormatter.__name__}"}},
    # JupyterHub's handler would otherwise get only its own messages, and Python would print the others as plain text.
    "loggers": {"": {"level": "INFO", "handlers": ["console"]}},
}
"""The value of JupyterHub's option ``logging_config`` for a log in JSON. It is merged with JupyterHub's own value."""
