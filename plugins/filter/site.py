"""Filters that turn the inventory's variables into the arguments of the roles.

Each filter takes what the filter ``site`` returns, except for ``site`` itself.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import hpchub_package

with hpchub_package():
    from hpchub.deploy import role_arguments
    from hpchub.messages import listing, show
    from hpchub.model import kernels as site_kernels
    from hpchub.model import node_needs as site_needs
    from hpchub.model import notices as site_notices
    from hpchub.model import profile_list as site_profiles
    from hpchub.model.problems import SiteError
    from hpchub.model.site import Site, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpchub.model.entries import Cluster


@functools.lru_cache(maxsize=4)
def _site_from_variables(text: str) -> Site:
    return Site.from_vars(json.loads(text))


@functools.lru_cache(maxsize=4)
def _site_from_model(text: str) -> Site:
    return Site.model_validate(json.loads(text))


def _site(model: Mapping[str, Any]) -> Site:
    return _site_from_model(json.dumps(plain(model)))


def _cluster(site: Site, name: str) -> Cluster:
    found = site.cluster(name)
    if found is None:
        raise AnsibleFilterError(
            f"hpc_clusters has no cluster {show(name)}; valid: {listing(c.name for c in site.clusters)}"
        )
    return found


def site(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a site, with all defaults.

    Args:
        variables: The inventory's variables that begin with ``hpc_``.

    Returns:
        The keys ``service``, ``sso``, ``access``, ``tls``, ``state_store``, ``clusters``, ``profiles``, ``kernels``
        and so on.

    Raises:
        AnsibleFilterError: The variables are invalid. The message lists every problem.
    """
    try:
        return _site_from_variables(json.dumps(plain(variables), default=str)).as_dict()
    except SiteError as error:
        raise AnsibleFilterError(f"The inventory is invalid:\n{error}") from error


def hub_sign_on(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the role ``jupyterhub`` for a sign-on in the hub: settings, secret, ca and accounts."""
    return role_arguments.hub_sign_on(_site(model))


def cluster(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return one cluster of the site."""
    return _cluster(_site(model), name).model_dump(mode="json")


def clusters_of(model: Mapping[str, Any], group_names: Sequence[str]) -> list[str]:
    """Return the names of the clusters that a host belongs to.

    Args:
        model: The model of the site.
        group_names: The inventory groups of the host.
    """
    return [cluster.name for cluster in _site(model).clusters if f"cluster_{cluster.name}" in group_names]


def profile_list(model: Mapping[str, Any], cluster: str | None = None) -> dict[str, Any]:
    """Return the profile list of the site, or only the profiles of one cluster."""
    site = _site(model)
    if cluster is not None:
        _cluster(site, cluster)
    return site_profiles.profile_list(site, cluster)


def notices(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drains and announcements of the site."""
    site = _site(model)
    return site_notices.notices_file(site.drains, site.announcements)


def kernels(model: Mapping[str, Any], cluster: str) -> list[dict[str, Any]]:
    """Return the Jupyter kernels of a cluster, each with the keys ``name``, ``spec`` and ``files``."""
    site = _site(model)
    return site_kernels.cluster_kernels(site, _cluster(site, cluster).name)


def kernel_packages(model: Mapping[str, Any], cluster: str) -> list[str]:
    """Return the operating system packages that the kernels of a cluster need."""
    site = _site(model)
    return site_kernels.cluster_packages(site, _cluster(site, cluster).name)


def python_packages(model: Mapping[str, Any], cluster: str) -> list[str]:
    """Return the Python packages that the kernels of a cluster's notebook environment need."""
    site = _site(model)
    return site_kernels.cluster_python_packages(site, _cluster(site, cluster).name)


def node_needs(model: Mapping[str, Any], cluster: str) -> list[dict[str, Any]]:
    """Return what the kernels and applications of a cluster need on its nodes, for the module ``check_needs``."""
    site = _site(model)
    return site_needs.cluster_needs(site, _cluster(site, cluster).name)


def submit_hosts(model: Mapping[str, Any]) -> list[str]:
    """Return the hosts that the hub reaches over ssh to submit jobs."""
    return role_arguments.submit_hosts(_site(model))


def hub_side(model: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the argument ``scheduler_access_clusters`` for the hub.

    Args:
        model: The model of the site.
        facts: The facts of each submit host, by the host's name.

    Raises:
        AnsibleFilterError: The facts of a submit host are missing.
    """
    try:
        return role_arguments.hub_side(_site(model), plain(facts))
    except LookupError as error:
        raise AnsibleFilterError(str(error)) from error


def submit_side(
    model: Mapping[str, Any], host: str, is_hub: bool, public_keys: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the argument ``scheduler_access_clusters`` for a submit host.

    Args:
        model: The model of the site.
        host: The submit host, by its name in the inventory.
        is_hub: Whether this host also runs the hub.
        public_keys: The public keys of the hub, by the cluster's name.

    Raises:
        AnsibleFilterError: The keys of a cluster are missing.
    """
    try:
        return role_arguments.submit_side(_site(model), host, is_hub=is_hub, public_keys=plain(public_keys))
    except LookupError as error:
        raise AnsibleFilterError(str(error)) from error


def host_units(model: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return the argument ``scheduler_access_host``: empty unless the host runs sessions without a scheduler."""
    return role_arguments.host_units(_site(model), host)


def node_hosts(model: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the compute nodes of the inventory, and how the hub reaches them."""
    return role_arguments.node_hosts(_site(model), plain(groups))


def gate_settings(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how the hub reaches the gate of each cluster, by the cluster's name."""
    return role_arguments.gate_settings(_site(model))


def docker_gates(model: Mapping[str, Any], host: str) -> list[dict[str, Any]]:
    """Return the gates of a Docker host: ``[{"name", "network", "is_local", "socket", "host", "port", "policy"}]``."""
    return role_arguments.docker_gates(_site(model), host)


def docker_swarm(model: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return the swarm that a Docker host belongs to; see ``hpchub.deploy.role_arguments``. Empty if there is none."""
    return role_arguments.docker_swarm(_site(model), host)


def database_host(model: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """Return the name of the host of the PostgreSQL server, or an empty text if it is the hub host.

    Args:
        model: The model of the site.
        groups: The hosts of each group of the inventory.
    """
    return role_arguments.database_host(_site(model).state_store, plain(groups))


def database_url(model: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """Return the URL of the hub's database. It contains no password.

    Args:
        model: The model of the site.
        groups: The hosts of each group of the inventory.
    """
    return role_arguments.database_url(_site(model).state_store, plain(groups))


class FilterModule:
    """The filters of this file, in the form that Ansible expects."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            function.__name__: function
            for function in (
                site,
                cluster,
                clusters_of,
                profile_list,
                notices,
                kernels,
                kernel_packages,
                python_packages,
                node_needs,
                submit_hosts,
                hub_side,
                submit_side,
                host_units,
                node_hosts,
                gate_settings,
                hub_sign_on,
                docker_gates,
                docker_swarm,
                database_host,
                database_url,
            )
        }
