"""The output of playbooks: as usual, with a summary in words at the end. With ``--check``, only changes are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import hpchub_package

with hpchub_package():
    from hpchub.deploy.change_summary import Changes, summary

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats
    from ansible.playbook.handler import Handler
    from ansible.playbook.play import Play

DOCUMENTATION = r"""
name: summary
type: stdout
author: The hpchub contributors
version_added: 1.0.0
short_description: Ansible's usual output, with a summary in words at the end
description:
  - The summary lists which hosts changed in what, which services restarted, and what users notice of it.
  - With C(--check), the output shows only the tasks that would change a host. C(-v) shows all tasks.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""


class CallbackModule(Default):  # type: ignore[misc]
    """Ansible's default output, with a summary."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "hpchub.hpchub.summary"

    def __init__(self) -> None:
        super().__init__()
        self._changes = Changes(check=bool(context.CLIARGS.get("check")))
        self._messages: list[str] = []

    @property
    def _quiet(self) -> bool:
        return self._changes.check and self._display.verbosity == 0

    def set_options(self, *arguments: Any, **options: Any) -> None:
        """Hide tasks that change nothing from quiet output."""
        super().set_options(*arguments, **options)
        if self._quiet:
            for name in ("display_ok_hosts", "display_skipped_hosts"):
                self.set_option(name, False)

    def v2_playbook_on_play_start(self, play: Play) -> None:
        """Show the play in output that is not quiet, and record whether it deploys a standby."""
        self._changes.standby |= bool(play.get_vars().get("hpchub_standby"))
        if self._quiet:
            self._play = play
        else:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Show an included file in output that is not quiet."""
        if not self._quiet:
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a change."""
        task = result.task
        if result.result.get("changed", False):
            role, _, name = task.get_name().rpartition(" : ")  # Ansible puts the role before the name of the task
            self._changes.add(result.host.get_name(), role.split(".")[-1], name)
        elif self._quiet and task.action in ("debug", "ansible.builtin.debug"):
            found = result.result.get("msg", "")
            self._messages += found if isinstance(found, list) else [str(found)]
        if not (self._quiet and not result.result.get("changed", False)):
            super().v2_runner_on_ok(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a failure."""
        if not ignore_errors:
            self._changes.failed[result.host.get_name()] = None
        super().v2_runner_on_failed(result, ignore_errors=ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record a host that does not answer."""
        self._changes.failed[result.host.get_name()] = None
        super().v2_runner_on_unreachable(result)

    def v2_playbook_on_notify(self, handler: Handler, host: Any) -> None:
        """Record a restart."""
        effect = next((str(text) for name, text in handler.vars.items() if name.endswith("_effect")), "")
        self._changes.restart(host.get_name(), handler.name, effect)
        super().v2_playbook_on_notify(handler, host)

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Show the summary after the usual recapitulation."""
        super().v2_playbook_on_stats(stats)
        for message in self._messages:
            self._display.display(message)
        self._display.banner("SUMMARY")
        for line in summary(self._changes):
            self._display.display(line, color=constants.COLOR_CHANGED if line.endswith(":") else None)
