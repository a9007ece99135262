"""The catalogue of texts is up to date, and each translation is complete and has the values of the English text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_catalogue_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tests/repo/update_catalogue.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tests/repo/update_catalogue.py:\n{done.stdout}{done.stderr}"
