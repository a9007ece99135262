"""The software that the playbooks download: the roles' lock files, and the packages that an inventory adds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.bundle.manifest import Needs, digest
from hpchub.model.kernels import cluster_python_packages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from hpchub.model.site import Site

UV, NODE, NPM = (
    "python_environment/uv.lock",
    "configurable_http_proxy/node.lock",
    "configurable_http_proxy/package-lock.json",
)
HUB, NOTEBOOK = "jupyterhub/requirements.lock", "notebook_environment/requirements.lock"
PACKAGES = "notebook_environment/packages.lock"
_ARGUMENTS = {
    HUB: "jupyterhub_lock_src",
    NOTEBOOK: "notebook_environment_lock_src",
    PACKAGES: "notebook_environment_packages_lock_src",
}
_PROXY_FILES = "configurable_http_proxy_package_src"


@dataclass(frozen=True)
class Software:
    """The software of a site.

    Attributes:
        locks: The path of each lock file, by its name in messages.
        packages: The further Python packages of each cluster's notebook environment. Clusters without any are left out.
    """

    locks: Mapping[str, Path]
    packages: tuple[tuple[str, ...], ...] = ()

    def needs(self) -> Needs:
        """Return what a bundle must contain.

        Raises:
            OSError: A lock file cannot be read.
        """
        return Needs({name: digest(path.read_text()) for name, path in self.locks.items()}, self.packages)

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON types."""
        return {"locks": {name: str(path) for name, path in self.locks.items()}, "packages": self.packages}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Software:
        """Return what :meth:`as_dict` has written."""
        locks = {name: Path(path) for name, path in content["locks"].items()}
        return cls(locks, tuple(tuple(names) for names in content["packages"]))


def software_of(site: Site, root: Path, names: Collection[str], value_of: Callable[[str], Any]) -> Software:
    """Return the software of a site.

    Args:
        site: The site.
        root: The directory with the roles.
        names: The names of the inventory's variables.
        value_of: Evaluates a variable.
    """

    def argument(name: str) -> str:
        value = value_of(name) if name in names else ""
        return value if isinstance(value, str) else ""

    locks = {}
    proxy = argument(_PROXY_FILES)
    for name in (UV, NODE, NPM, HUB, NOTEBOOK, PACKAGES):
        role, _, file = name.partition("/")
        own = argument(_ARGUMENTS.get(name, "")) or (f"{proxy}/{file}" if proxy and name in (NODE, NPM) else "")
        locks[name] = Path(own) if own else root / "roles" / role / "files" / file
    packages = {tuple(cluster_python_packages(site, cluster.name)) for cluster in site.clusters}
    return Software(locks, tuple(sorted(found for found in packages if found)))
