"""The terms in which a scheduler or a place speaks of jobs: ids, reasons, refusals. No I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hpchub.messages import Message
from hpchub.schedulers.reasons import Reason, find_reason, letters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class Terms:
    """What a session must know about the program that runs its job, whether it is a batch scheduler or a place."""

    name: str
    """Its name in messages and in the log: lower-case letters and digits."""
    job_id_pattern: str
    """A regular expression that matches a whole job id of a session, and no text with another meaning to a command.

    The gate checks each job id with it. For example, an id must not start with a dash.
    """
    reasons: tuple[tuple[str, Reason], ...] = ()
    """The reasons why jobs wait: regular expressions for parts of ``Job.reason``, the most specific ones first."""
    refusals: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """The scheduler's messages about a refused value of a job, when it is submitted or while it waits.

    Each entry has a regular expression for a part of the message, and the fields of a choice that it can concern, the
    most likely one first; see ``hpchub.model.choice.NAMES``. An empty field at the end: if the job requests none of the
    others, the message concerns something else.
    """
    propagation = 30.0
    """How long the output of ``query_command`` may lack a job that exists, in seconds.

    Right after the submission, or while a job changes its state, a scheduler may not list it.
    """

    def places(self, jobs: Mapping[str, Any]) -> dict[str, int]:
        """Return the place of each pending job in its line, by the job's id. By default, none is known."""
        return {}

    def explain(self, reason: str) -> str:
        """Return why a job waits, in plain words for the user.

        Args:
            reason: The reason in the scheduler's terms; see ``Job.reason``.

        Returns:
            A clause without a full stop, for example ``jobs with a higher priority start first``. The page shows it
            after a colon. If the reason is unknown, the reason itself.
        """
        return self.understand(reason).words

    def describe(self, reason: str) -> str:
        """Return why a job waits, in plain words and in the scheduler's terms.

        Args:
            reason: The reason in the scheduler's terms; see ``Job.reason``.

        Returns:
            A clause without a full stop, for example ``jobs with a higher priority start first (Priority)``. If the
            words are the scheduler's terms, they occur only once.
        """
        words = self.explain(reason)
        if letters(words) == letters(reason):
            return words.rstrip(". ")
        return Message("{words} ({reason})", words=words, reason=reason)

    def understand(self, reason: str) -> Reason:
        """Return why a job waits, how the wait can end, and what the user can do.

        If the outlook is ``Outlook.NEVER`` in several observations, the hub ends the start.

        Args:
            reason: The reason in the scheduler's terms; see ``Job.reason``.
        """
        return find_reason(reason, self.reasons)

    def refusal(self, message: str) -> tuple[str, tuple[str, ...]] | None:
        """Return the scheduler's words about a refused value of a job, and the fields that they can concern.

        Args:
            message: The error output of ``submit_command``, or ``Job.reason``.

        Returns:
            The words and the fields, the most likely one first, or None if the message does not name a field.
        """
        for pattern, fields in self.refusals:
            if found := re.search(pattern, message, re.IGNORECASE):
                return found[0].strip(), fields
        return None
