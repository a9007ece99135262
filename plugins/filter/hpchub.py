"""Filters that turn the site's description into the roles' arguments. All of them take what ``hpchub_site`` returns."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
try:
    from hpchub.messages import listing, show
    from hpchub.model import kernels
    from hpchub.model import profile_list as profiles
    from hpchub.model.problems import SiteError
    from hpchub.model.site import Site, plain
except ImportError as error:
    raise AnsibleFilterError(
        f"the Python of Ansible lacks {error.name}: {sys.executable} -m pip install pydantic"
    ) from None


@functools.lru_cache(maxsize=4)
def _described(text: str) -> Site:
    return Site.from_vars(json.loads(text))


@functools.lru_cache(maxsize=4)
def _read(text: str) -> Site:
    return Site.model_validate(json.loads(text))


def _site(model: Mapping[str, Any]) -> Site:
    return _read(json.dumps(plain(model)))


def _cluster(site: Site, name: str) -> Any:
    found = site.cluster(name)
    if found is None:
        raise AnsibleFilterError(f"no cluster {show(name)}; valid: {listing(c.name for c in site.clusters)}")
    return found


def hpchub_site(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The site with all its defaults: keys ``service sso access tls state_store clusters profiles kernels …``."""
    try:
        return _described(json.dumps(plain(variables), default=str)).as_dict()
    except SiteError as error:
        raise AnsibleFilterError(f"the site's description is wrong:\n{error}") from error


def hpchub_profile_list(model: Mapping[str, Any], cluster: str | None = None) -> dict[str, Any]:
    """The profile list of the site, or of one cluster."""
    site = _site(model)
    if cluster is not None:
        _cluster(site, cluster)
    return profiles.profile_list(site, cluster)


def hpchub_kernels(model: Mapping[str, Any], cluster: str) -> list[dict[str, Any]]:
    """The kernels of a cluster: ``[{"name", "spec", "files"}]``."""
    site = _site(model)
    return kernels.cluster_kernels(site, _cluster(site, cluster).name)


def hpchub_kernel_packages(model: Mapping[str, Any], cluster: str) -> list[str]:
    """The packages of the operating system that a cluster's kernels need."""
    site = _site(model)
    return kernels.cluster_packages(site, _cluster(site, cluster).name)


def hpchub_cluster(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One cluster of the site, by name."""
    found: dict[str, Any] = _cluster(_site(model), name).model_dump(mode="json")
    return found


def hpchub_clusters_of(model: Mapping[str, Any], group_names: Sequence[str]) -> list[str]:
    """The names of the clusters that a host with these groups is a node of."""
    return [cluster.name for cluster in _site(model).clusters if f"cluster_{cluster.name}" in group_names]


class FilterModule:
    """Ansible's way to find them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {
            function.__name__: function
            for function in (
                hpchub_site,
                hpchub_profile_list,
                hpchub_kernels,
                hpchub_kernel_packages,
                hpchub_cluster,
                hpchub_clusters_of,
            )
        }
