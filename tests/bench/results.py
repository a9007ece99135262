"""Files with the results of a bench."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def save(path: Path, result: list[dict[str, Any]] | dict[str, Any]) -> None:
    """Write figures as JSON."""
    path.write_text(json.dumps(result, indent=2) + "\n")
