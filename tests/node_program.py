"""Run a program of JavaScript in Node.js, as the tests of JupyterLab's extension do."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from bench.load.shared import proxy


def node(program: str, given: object = None) -> Any:
    """Run a program with JSON as its input, and return the JSON value that it prints."""
    done = subprocess.run(
        [proxy() / "bin" / "node", "--input-type=module", "-e", program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
