"""The hub's log as JSON: each line is one object, from whichever library it comes."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import logging
from jupyterhub.app import JupyterHub
from traitlets.config import Config
from hpchub.hub.json_log import LOGGING

c = Config()
c.JupyterHub.logging_config = LOGGING
app = JupyterHub(config=c)
app.init_logging()
app.log.info("two\\nlines and a %s", "value")
for name in ("hpchub.hub.proxy", "tornado.access", "sqlalchemy.engine", "asyncio"):
    logging.getLogger(name).warning("from %s", name)
try:
    1 / 0
except ZeroDivisionError:
    app.log.exception("bad")
"""


def test_every_line_is_an_object() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in found] == [
        "two\nlines and a value",
        *(f"from {name}" for name in ("hpchub.hub.proxy", "tornado.access", "sqlalchemy.engine", "asyncio")),
        "bad",
    ]
    assert [line["level"] for line in found] == ["INFO", *["WARNING"] * 4, "ERROR"]
    assert all(set(line) == {"time", "level", "logger", "message"} for line in found[:-1])
    assert "ZeroDivisionError" in found[-1]["exception"]
