"""A number of GPUs, perhaps of certain types. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


class Gpus(int):
    """A number of GPUs. It can name types of GPUs, each with its number; the number itself is then the highest of them.

    Attributes:
        types: The number of GPUs of each type. Empty if any type will do.
    """

    types: Mapping[str, int]

    def __new__(cls, number: int = 0, types: Mapping[str, int] | None = None) -> Self:
        """Create a number of GPUs.

        Args:
            number: The number of GPUs of any type. It is ignored if there are types.
            types: The number of GPUs of each type.
        """
        made = super().__new__(cls, max(types.values()) if types else number)
        made.types = dict(types or {})
        return made


def gpu_type(gpus: int) -> str:
    """Return the type that a job requests, or an empty text if any type will do."""
    return next(iter(getattr(gpus, "types", {})), "")
