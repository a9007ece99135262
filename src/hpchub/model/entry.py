"""The base class of the entries of an inventory. No I/O."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Entry(BaseModel):
    """The base class of all entries. Entries reject unknown keys and are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    hidden: ClassVar[bool] = False
    """Whether messages must not show the entry's values, because a secret may be in the wrong field."""
