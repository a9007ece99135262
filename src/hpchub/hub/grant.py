"""What a session was granted, in the spawner's saved state: its profile, and its cluster or place. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpchub.model.entries import Cluster, Profile
from hpchub.model.places import PLACE_KINDS, PlaceBase

if TYPE_CHECKING:
    from collections.abc import Mapping


def write_grant(profile: Profile, where: Cluster | PlaceBase) -> dict[str, Any]:
    """Return a grant in its saved form: ``{"profile": …, "cluster": …}``, or with ``place`` in place of ``cluster``."""
    kind = "place" if isinstance(where, PlaceBase) else "cluster"
    return {"profile": profile.model_dump(mode="json"), kind: where.model_dump(mode="json")}


def read_grant(saved: Mapping[str, Any]) -> tuple[Profile, Cluster | PlaceBase]:
    """Return the profile and the cluster or place of a saved grant.

    Raises:
        KeyError, TypeError, ValueError: The grant is not valid.
    """
    profile = Profile.model_validate(saved["profile"])
    if "place" in saved:
        return profile, PLACE_KINDS[saved["place"]["kind"]].model_validate(saved["place"])
    return profile, Cluster.model_validate(saved["cluster"])
