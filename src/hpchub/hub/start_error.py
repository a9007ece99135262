"""The exception for a start that failed or was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyterhub.spawner import SpawnException

from hpchub.hub.outcome import plain

if TYPE_CHECKING:
    from hpchub.hub.job_actions import Fail


class StartError(SpawnException):  # type: ignore[misc]
    """A start that failed or was refused, with an explanation for the user. Pages show only the explanation."""

    @classmethod
    def of(cls, failure: Fail) -> StartError:
        """Return the exception for a failure that the state machine decided."""
        return cls(plain(failure.message), reason=failure.reason, status_code=failure.status_code)

    def __str__(self) -> str:
        return str(self.message)

    @property
    def jupyterhub_message(self) -> str:
        """The message that JupyterHub shows when the user reloads a failed start."""
        return str(self)
