"""The software that the playbooks download: the roles' lock files, and those of the site."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.bundle.manifest import Needs, digest
from hpchub.deploy.inventory_files import FILES
from hpchub.deploy.site_locks import find
from hpchub.model.extensions import Extension
from hpchub.model.packages import Wanted, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

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
        further: The packages that the site adds to the notebook environment of each cluster.
        extensions: The extensions of JupyterLab among them, of each cluster.
    """

    locks: Mapping[str, Path]
    further: Mapping[str, tuple[Wanted, ...]] = field(default_factory=dict)
    extensions: Mapping[str, tuple[Extension, ...]] = field(default_factory=dict)

    @property
    def base(self) -> list[Path]:
        """The lock files of the notebook environment, without those of the site."""
        return [self.locks[name] for name in (NOTEBOOK, PACKAGES) if name in self.locks]

    @property
    def python_locks(self) -> list[Path]:
        """The lock files of Python packages. Each is installed as a whole."""
        return [path for name, path in self.locks.items() if name != NPM]

    def needs(self) -> Needs:
        """Return what a bundle must contain.

        Raises:
            OSError: A lock file cannot be read.
        """
        return Needs({name: digest(path.read_text()) for name, path in self.locks.items()})

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON types."""
        return {
            "locks": {name: str(path) for name, path in self.locks.items()},
            "further": {name: [asdict(each) for each in found] for name, found in self.further.items()},
            "extensions": {name: [each.model_dump() for each in found] for name, found in self.extensions.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Software:
        """Return what :meth:`as_dict` has written."""
        locks = {name: Path(path) for name, path in content["locks"].items()}
        further = {name: tuple(Wanted(**each) for each in found) for name, found in content["further"].items()}
        extensions = {
            name: tuple(Extension.model_validate(each) for each in found)
            for name, found in content["extensions"].items()
        }
        return cls(locks, further, extensions)


def software_of(
    site: Site, root: Path, names: Collection[str], value_of: Callable[[str], Any], sources: Sequence[str | Path] = ()
) -> Software:
    """Return the software of a site.

    Args:
        site: The site.
        root: The directory with the roles.
        names: The names of the inventory's variables.
        value_of: Evaluates a variable.
        sources: The inventories, which contain the site's own lock files.
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
    if _ARGUMENTS[PACKAGES] in names and not argument(_ARGUMENTS[PACKAGES]):
        del locks[PACKAGES]  # the site does not want the scientific packages
    clusters = [cluster.name for cluster in site.clusters]
    for name in clusters:
        if path := find(sources, name):
            locks[f"{FILES}/locks/{name}.lock"] = path
    return Software(
        locks,
        {name: tuple(wanted(site, name)) for name in clusters},
        {name: tuple(each for each in site.extensions if each.on(name)) for name in clusters},
    )
