"""What a run of a playbook changes, in words: the hosts, the restarts, and what users notice. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpchub.messages import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTICED = {
    "spawner_profiles": "The start form offers the changed profiles at once.",
    "jupyter_kernels": "JupyterLab offers the changed kernels after users reload the page.",
    "notebook_environment": "New sessions use the changed software. Running sessions keep theirs.",
}
"""What users notice when a role changes something, apart from restarts."""
_LISTED = 6


@dataclass
class Changes:
    """The changes of a run.

    Attributes:
        check: Whether the run only predicts them, with ``--check``.
        standby: Whether the run deploys a standby, which serves nobody.
        tasks: The tasks that change something, as (role, task), by host.
        restarts: The hosts of each restart or reload, by the name of its handler.
        effects: What users notice of a restart or reload, by the name of its handler.
        failed: The hosts on which the run failed, or that did not answer.
    """

    check: bool = False
    standby: bool = False
    tasks: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)
    restarts: dict[str, dict[str, None]] = field(default_factory=dict)
    effects: dict[str, str] = field(default_factory=dict)
    failed: dict[str, None] = field(default_factory=dict)

    def add(self, host: str, role: str, task: str) -> None:
        """Record that a task changes a host."""
        self.tasks.setdefault(host, {})[role, task] = None

    def restart(self, host: str, handler: str, effect: str) -> None:
        """Record that a service on a host restarts or reloads."""
        self.restarts.setdefault(handler, {})[host] = None
        self.effects[handler] = effect


def summary(changes: Changes) -> Iterator[str]:
    """Yield the lines of the summary."""
    would = "would change" if changes.check else "changed"
    if changes.failed:
        yield f"The run failed on {listing(changes.failed, _LISTED)}, so this summary may be incomplete."
    if not changes.tasks:
        yield f"No host {would}."
    by_tasks: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for host, tasks in changes.tasks.items():
        by_tasks.setdefault(tuple(tasks), []).append(host)
    for found, hosts in by_tasks.items():
        yield f"{listing(hosts, _LISTED)} {would}:"
        yield from (f"  {role + ': ' if role else ''}{task}" for role, task in found)
    yield from _restarts(changes)
    yield from _noticed(changes)
    if changes.check:
        yield "This was a check. Nothing has been changed."


def _restarts(changes: Changes) -> Iterator[str]:
    if changes.restarts:
        yield "Restarts and reloads:"
        for handler, names in changes.restarts.items():
            yield f"  {handler} on {listing(names, _LISTED)}"
    elif not changes.failed:
        yield "Nothing restarts." if changes.check else "Nothing restarted."


def _noticed(changes: Changes) -> Iterator[str]:
    roles = {role for tasks in changes.tasks.values() for role, _ in tasks}
    noticed = [*filter(None, changes.effects.values()), *(text for role, text in NOTICED.items() if role in roles)]
    if noticed and not changes.standby:
        yield "Users notice:"
        yield from (f"  {text}" for text in dict.fromkeys(noticed))
    elif not changes.failed:
        yield "Users notice nothing."
