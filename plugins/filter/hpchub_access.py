"""Filters for the ways between the hub and its schedulers. All of them take what ``hpchub_site`` returns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
try:
    from hpchub.deploy import role_arguments as access
    from hpchub.model.site import Site, plain
except ImportError as error:
    raise AnsibleFilterError(
        f"the Python of Ansible lacks {error.name}: {sys.executable} -m pip install pydantic"
    ) from error


def hpchub_submit_hosts(model: Mapping[str, Any]) -> list[str]:
    """The hosts that the hub submits to over ssh."""
    return access.submit_hosts(_site(model))


def hpchub_hub_side(model: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The argument ``scheduler_access_clusters`` of the hub, from the facts of each submit host."""
    try:
        return access.hub_side(_site(model), plain(facts))
    except LookupError as error:
        raise AnsibleFilterError(str(error)) from error


def hpchub_submit_side(
    model: Mapping[str, Any], host: str, is_hub: bool, public_keys: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The argument ``scheduler_access_clusters`` of a submit host, from the hub's public keys for each cluster."""
    try:
        return access.submit_side(_site(model), host, is_hub=is_hub, public_keys=plain(public_keys))
    except LookupError as error:
        raise AnsibleFilterError(str(error)) from error


def hpchub_gate_settings(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How the hub reaches each cluster's gate."""
    return access.gate_settings(_site(model))


def _site(model: Mapping[str, Any]) -> Site:
    return Site.model_validate(plain(model))


class FilterModule:
    """Ansible's way to find them."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {
            function.__name__: function
            for function in (hpchub_submit_hosts, hpchub_hub_side, hpchub_submit_side, hpchub_gate_settings)
        }
