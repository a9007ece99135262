"""What a session was granted, in the spawner's saved state: its profile, and its cluster or place. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hpchub.model.entries import Cluster, Profile
from hpchub.model.places import PLACE_KINDS, PlaceBase

if TYPE_CHECKING:
    from collections.abc import Mapping


def write_grant(profile: Profile, where: Cluster | PlaceBase) -> dict[str, Any]:
    """Return a grant in its saved form: ``{"profile": …, "cluster": …}``, or with ``place`` in place of ``cluster``.

    A hub of an earlier version, to which a rollback returns, refuses fields that it does not know. So the form contains
    only fields that differ from their defaults, and not what the user could have chosen.
    """
    kind = "place" if isinstance(where, PlaceBase) else "cluster"
    return {
        "profile": profile.model_dump(mode="json", exclude_defaults=True, exclude={"adjustable"}),
        kind: where.model_dump(mode="json", exclude_defaults=True),
    }


def read_grant(saved: Mapping[str, Any]) -> tuple[Profile, Cluster | PlaceBase]:
    """Return the profile and the cluster or place of a saved grant.

    Fields that this version does not know are ignored: the hub of a later version may have saved them before a
    rollback.

    Raises:
        KeyError, TypeError, ValueError: The grant is not valid.
    """
    profile = Profile.model_validate(saved["profile"], extra="ignore")
    if "place" in saved:
        return profile, PLACE_KINDS[saved["place"]["kind"]].model_validate(saved["place"], extra="ignore")
    return profile, Cluster.model_validate(saved["cluster"], extra="ignore")


class SavedJob(NamedTuple):
    """The job of a session, as a saved state names it: its session, its cluster or place, and its id there."""

    session: str
    where: str
    job_id: str


def saved_job(state: Mapping[str, Any]) -> SavedJob | None:
    """Return the job that a spawner's saved state names, or None. The grant need not be valid."""
    match state:
        case {
            "grant": {"cluster": {"name": str(where)}} | {"place": {"name": str(where)}},
            "job": {"session": str(session), "job_id": str(job_id)},
        }:
            return SavedJob(session, where, job_id)
    return None
