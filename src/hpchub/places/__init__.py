"""Places, which run sessions without a batch scheduler. See ``hpchub.places.interface``."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpchub.places.interface import Kind

KINDS = {
    "docker": "hpchub.places.docker",
    "swarm": "hpchub.places.swarm",
    "kubernetes": "hpchub.places.kubernetes",
}
"""The module of each kind of place, with the constant ``KIND``. It needs no packages of the place."""


@functools.cache
def _load(module: str) -> Kind:
    found: Kind = importlib.import_module(module).KIND
    return found


def kind_of(name: str) -> Kind:
    """Return a kind of place.

    Args:
        name: The value of ``kind`` in the inventory.

    Raises:
        ValueError: There is no such kind.
    """
    try:
        return _load(KINDS[name])
    except KeyError:
        raise ValueError(f"there is no kind of place {name!r}; valid: {', '.join(sorted(KINDS))}") from None
