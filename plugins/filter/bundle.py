"""Filters that read bundles on the controller. The command ``hpchub bundle`` makes bundles."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hpchub.hpchub.plugins.plugin_utils.package import hpchub_package

with hpchub_package():
    from hpchub.bundle import archive, npm
    from hpchub.bundle.manifest import BundleError, Manifest, missing_target
    from hpchub.model.site import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _manifest(path: str) -> Manifest:
    try:
        return archive.read_manifest(Path(path))
    except BundleError as error:
        raise AnsibleFilterError(f"the bundle {path} {error}; make it again with: hpchub bundle INVENTORY") from error


def bundle_fault(path: str) -> str:
    """Return why a bundle is truncated or changed, or an empty text.

    Args:
        path: The path of the bundle on the controller.
    """
    try:
        archive.verify(Path(path))
    except BundleError as error:
        return str(error)
    return ""


def bundle_id(path: str) -> str:
    """Return a text that is different for each bundle.

    Args:
        path: The path of the bundle on the controller.

    Raises:
        AnsibleFilterError: The file is not a bundle.
    """
    return hashlib.sha256(_manifest(path).as_text().encode()).hexdigest()[:16]


def bundle_target_fault(path: str, host: Mapping[str, Any]) -> str:
    """Return why a bundle cannot be used on a host, or an empty text.

    Args:
        path: The path of the bundle on the controller.
        host: What ``roles/bundle/files/host.py`` prints on the host.

    Raises:
        AnsibleFilterError: The file is not a bundle.
    """
    return missing_target(_manifest(path).targets, plain(host))


def npm_lock(lock: str, directory: str) -> str:
    """Return a lock file of npm whose packages come from a directory on the host.

    Args:
        lock: The text of ``package-lock.json``.
        directory: The directory. If empty, the lock file is returned unchanged.
    """
    return npm.local_lock(lock, directory) if directory else f"{lock}\n"


class FilterModule:
    """The filters of this file, in the form that Ansible expects."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {function.__name__: function for function in (bundle_fault, bundle_id, bundle_target_fault, npm_lock)}
