"""The results of the canary: their shape, and the file that contains them.

The file ``canary-status.json`` in the hub's state directory has this shape::

    {"time": SECONDS, "profiles": {KEY: RESULT, …}}
    RESULT: {"cluster": NAME, "outcome": OUTCOME, "stage": STAGE, "reason": TEXT, "time": SECONDS, "good_at": SECONDS,
             "seconds": {STAGE: SECONDS, …}, "kernels": {NAME: TEST, …}, "apps": {NAME: TEST, …}}
    TEST: {"ok": BOOL, "seconds": SECONDS, "reason": TEXT, "version": TEXT}

``OUTCOME`` is one of ``OUTCOMES``, and ``STAGE`` one of ``STAGES``. All times are in seconds since 1970. ``good_at`` is
0 until the profile has worked once. The stage and the reason of a good result are empty.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STATUS = "canary-status.json"
"""The name of the file in the hub's state directory."""
STAGES = ("submission", "queue", "launch", "kernel")
"""The stages in their order: until the job has an id, until it runs, until its notebook is ready, and its kernels."""
GOOD, FAILED, SKIPPED = OUTCOMES = ("good", "failed", "skipped")
"""The outcomes. A profile is skipped while it is drained, or if its job waited in the queue for too long."""


class CanaryError(Exception):
    """A part of a test has failed. The message is one line.

    Attributes:
        unanswered: Whether there was no answer, so that asking again may help.
    """

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered


def one_line(text: object) -> str:
    """Return a text from elsewhere as one short line of printable characters."""
    printable = "".join(each if each.isprintable() else " " for each in str(text or ""))
    return " ".join(printable.split())[:300]


@dataclass
class KernelResult:
    """The result of one kernel or application."""

    ok: bool
    seconds: float
    reason: str = ""
    version: str = ""
    """The version of the kernel's language, as the kernel reports it. Empty: unknown."""


@dataclass
class Result:
    """The result of one profile; see the module's docstring."""

    cluster: str
    outcome: str
    stage: str = ""
    reason: str = ""
    time: float = 0.0
    good_at: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, KernelResult] = field(default_factory=dict)
    apps: dict[str, KernelResult] = field(default_factory=dict)


def read_status(directory: Path) -> dict[str, Any]:
    """Return the content of the file, or a status without results if there is none or it is not valid."""
    try:
        content = json.loads((directory / STATUS).read_text(encoding="utf-8"))
        if isinstance(content["profiles"], dict) and isinstance(content["time"], (int, float)):
            return dict(content)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return {"time": 0.0, "profiles": {}}


def write_status(directory: Path, results: Mapping[str, Result], offered: Iterable[str]) -> None:
    """Add results to the file.

    Args:
        directory: The hub's state directory.
        results: The new results, by the key of the profile.
        offered: The keys of all profiles that the canary tests. Results of other profiles are removed.

    Raises:
        OSError: The file cannot be written.
    """
    known = read_status(directory)["profiles"]
    for key, result in results.items():
        former = known.get(key)
        good_at = result.time if result.outcome == GOOD else (former or {}).get("good_at", 0.0)
        known[key] = {**asdict(result), "good_at": good_at}
    kept = {*offered, *results}
    profiles = {key: value for key, value in known.items() if key in kept}
    content = {"time": max((result.time for result in results.values()), default=0.0), "profiles": profiles}
    # A reader never sees half a file.
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=f".{STATUS}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=2)
        Path(name).chmod(0o640)
        Path(name).replace(directory / STATUS)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
