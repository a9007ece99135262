"""The profile list: clusters, places and profiles for the start form, the spawner and the job's launcher. No I/O.

:func:`profile_list` creates it from the model. A role writes it as sorted JSON. The hub gets the profiles of all
clusters, and the nodes of a cluster get the profiles of this cluster. Disabled profiles, and those of disabled queues
and clusters, are left out, as if they were removed. The list contains no secret.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError, model_validator

from hpchub.messages import listing, show
from hpchub.model.apps import App
from hpchub.model.entries import Cluster, Profile
from hpchub.model.entry import Entry
from hpchub.model.places import HostPlace, Place
from hpchub.model.problems import Problem, locate
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from hpchub.model.site import Site

VERSION = 1
"""The version of the format. Readers reject any other version."""


class ProfileListError(ValueError):
    """A profile list cannot be used. The message is one line with the reason."""


class UnknownProfileError(LookupError):
    """No profile has this key. The message lists the valid keys."""


class ListedService(Entry):
    """The service, as far as a profile list describes it."""

    name: str
    """The name that pages show."""
    support: str
    """The contact for users."""
    url: str
    """The address that users open."""
    restricted_profiles: Literal["hidden", "shown"] = "hidden"
    """What the form does with a profile that the user may not use."""


class ProfileList(Entry):
    """The profile list of a whole site or of one cluster."""

    version: Literal[1]
    """The version of the format."""
    service: ListedService
    """The service."""
    clusters: list[Cluster]
    """The clusters, in the inventory's order."""
    places: list[Place] = []
    """The places, in the inventory's order. The nodes of a cluster get none."""
    profiles: list[Profile]
    """The profiles, in the inventory's order."""
    apps: list[App] = []
    """The applications of sessions, in the inventory's order. The nodes of a cluster get none."""
    default_profile: str
    """The key of the default profile. Empty if there are no profiles."""

    @model_validator(mode="after")
    def _check_references(self) -> ProfileList:
        keys = [profile.key for profile in self.profiles]
        if len(set(keys)) != len(keys):
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"two profiles have the key {show(repeated)}")
        if self.default_profile not in keys and (keys or self.default_profile):
            raise ValueError(f"default_profile {show(self.default_profile)} is not the key of a profile")
        for profile in self.profiles:
            if bool(profile.cluster) == bool(profile.place):
                raise ValueError(f"profile {profile.key}: it names not exactly one of cluster and place")
            if profile.place:
                if self.place(profile.place) is None:
                    raise ValueError(f"profile {profile.key}: place {show(profile.place)} is not in the list")
                continue
            cluster = self.cluster(profile.cluster)
            if cluster is None or cluster.queue(profile.queue) is None:
                where = f"queue {show(profile.queue)} of cluster {show(profile.cluster)}"
                raise ValueError(f"profile {profile.key}: {where} is not in the list")
            for option in profile.options:
                if problem := SCHEDULERS[cluster.scheduler].option_problem(option):
                    raise ValueError(f"profile {profile.key}: option {show(option)} {problem[0]}")
        return self

    def get(self, key: str) -> Profile | None:
        """Return the profile with a key, or None."""
        return next((profile for profile in self.profiles if profile.key == key), None)

    def require(self, key: object) -> Profile:
        """Return the profile with a key.

        Raises:
            UnknownProfileError: There is no such profile, or the key is not text.
        """
        found = self.get(key) if isinstance(key, str) else None
        if found is None:
            raise UnknownProfileError(f"no profile {show(key)}; valid: {listing(p.key for p in self.profiles)}")
        return found

    def cluster(self, name: str) -> Cluster | None:
        """Return the cluster with a name, or None."""
        return next((cluster for cluster in self.clusters if cluster.name == name), None)

    def place(self, name: str) -> Place | None:
        """Return the place with a name, or None."""
        return next((place for place in self.places if place.name == name), None)

    def where(self, profile: Profile) -> Cluster | Place:
        """Return the cluster or the place of a profile of this list, or of a profile that is granted from it.

        Raises:
            LookupError: The list does not contain it.
        """
        found = self.place(profile.place) if profile.place else self.cluster(profile.cluster)
        if found is None:
            raise LookupError(f"the profile list has no cluster or place {show(profile.where)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the list in its JSON form."""
        return self.model_dump(mode="json")


def profile_list(site: Site, cluster: str | None = None) -> dict[str, Any]:
    """Return the profile list of a site or of one of its clusters.

    Returns:
        ``{"version": 1, "service": {"name", "support", "url"}, "clusters": [CLUSTER, …], "places": [PLACE, …],
        "profiles": [PROFILE, …], "apps": [APP, …], "default_profile": KEY}``. They are in
        the order of the inventory and include all defaults.

    Raises:
        LookupError: There is no such cluster.
    """
    if cluster is not None and site.cluster(cluster) is None:
        raise LookupError(f"no cluster {show(cluster)}; valid: {listing(c.name for c in site.clusters)}")
    # A disabled cluster stays in the list, because the hub still polls and ends the sessions that run there.
    profiles = [profile for profile in site.offered() if cluster in (None, profile.cluster)]
    profiles = [_listed(site, profile, with_users=cluster is None) for profile in profiles]
    return ProfileList(
        version=1,
        service=ListedService(
            name=site.service.name,
            support=site.service.support,
            url=site.service.url,
            restricted_profiles=site.service.restricted_profiles,
        ),
        clusters=[one for one in site.clusters if cluster in (None, one.name)],
        places=[one for one in site.places if not isinstance(one, HostPlace)] if cluster is None else [],
        profiles=profiles,
        apps=site.apps if cluster is None else [],
        default_profile=profiles[0].key if profiles else "",
    ).as_dict()


def _listed(site: Site, profile: Profile, *, with_users: bool) -> Profile:
    """Return a profile as the list contains it.

    Args:
        site: The site.
        profile: The profile.
        with_users: Whether to name its users and groups. All users of a cluster can read the list on its nodes.
    """
    changes: dict[str, Any] = {} if with_users else {"users": [], "groups": [], "unix_groups": []}
    kernel = profile.adjustable.kernel
    if kernel and not kernel.choices:
        names = dict.fromkeys(each.name for each in site.kernels if each.on(profile.cluster))
        kernel = kernel.model_copy(update={"choices": list(names)})
        changes["adjustable"] = profile.adjustable.model_copy(update={"kernel": kernel})
    return profile.model_copy(update=changes)


def to_json(content: dict[str, Any]) -> str:
    """Return the text of a profile list. Equal content gives the same text, byte for byte."""
    return json.dumps(content, sort_keys=True, indent=4, ensure_ascii=False) + "\n"


def parse_profile_list(text: str, name: str = "profile list") -> ProfileList:
    """Parse the text of a profile list.

    Args:
        text: JSON, as :func:`to_json` writes it.
        name: The name of the list in messages.

    Raises:
        ProfileListError: The text is not a profile list of this version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProfileListError(f"{name}: is not JSON: {error}") from None
    if not isinstance(content, dict) or "version" not in content:
        raise ProfileListError(f"{name}: is not a profile list, because it has no version")
    if content["version"] != VERSION:
        raise ProfileListError(
            f"{name}: has version {show(content['version'])}, but this hpchub reads version {VERSION}; deploy the"
            " profiles again with this version of hpchub"
        )
    try:
        return ProfileList.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        first = details[0]
        at = locate(name, content, first["loc"])
        message = first.get("ctx", {}).get("message") or first["msg"].removeprefix("Value error, ")
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        value = show(at.value) if isinstance(at.value, (str, int)) else ""
        raise ProfileListError(f"{Problem(at.entry, message, field=at.field, value=value)}{more}") from None
