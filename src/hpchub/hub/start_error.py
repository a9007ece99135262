"""The exception for a start that failed or was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyterhub.spawner import SpawnException

from hpchub.hub.outcome import plain
from hpchub.messages import sentences

if TYPE_CHECKING:
    from hpchub.hub.job_actions import Fail


class StartError(SpawnException):  # type: ignore[misc]
    """A start that failed or was refused, with an explanation for the user. Pages show only the explanation.

    Attributes:
        advice: What the user can do, or empty.
        field: The field of the form with the value that the scheduler refused, or empty.
    """

    advice = ""
    field = ""

    @classmethod
    def of(cls, failure: Fail) -> StartError:
        """Return the exception for a failure that the state machine decided."""
        error = cls(plain(failure.message), reason=failure.reason, status_code=failure.status_code)
        error.advice, error.field = failure.advice, failure.field
        return error

    def __str__(self) -> str:
        return sentences(self.message, self.advice)

    @property
    def jupyterhub_message(self) -> str:
        """The message that JupyterHub shows when the user reloads a failed start."""
        return sentences(self.message, self.advice)
