"""The exit codes of the command, and the error that ends it."""

from __future__ import annotations

VALID, WRONG, UNUSABLE = 0, 1, 2


class Failure(Exception):
    """An error that ends the command. The message may have several lines."""

    def __init__(self, message: str, code: int = UNUSABLE) -> None:
        super().__init__(message)
        self.code = code
