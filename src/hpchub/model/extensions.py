"""The extensions of JupyterLab that a site adds: the entries of ``hpc_extensions``, and their rules. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hpchub.messages import did_you_mean, show
from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.rules import Draft


class Extension(Entry):
    """A prebuilt extension of JupyterLab, from a Python package."""

    package: f.PythonPackage
    """The Python package, for example jupyterlab-execute-time or jupyterlab-execute-time==3.2.0."""
    clusters: list[f.ClusterReference] = []
    """The clusters that have this extension. Empty: all clusters."""
    server_extensions: list[f.PythonModule] = []
    """The modules of the package that the notebook server loads. An extension without a part in the server has none."""

    def on(self, cluster: str) -> bool:
        """Return whether a cluster has this extension."""
        return not self.clusters or cluster in self.clusters


def compare_extensions(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare the extensions with one another and with the clusters."""
    known = [str(each.get("name")) for each in drafts["hpc_clusters"]]
    seen: dict[str, str] = {}
    for draft in drafts["hpc_extensions"]:
        for name in draft.get("clusters") or []:
            if name not in known:
                valid = did_you_mean(name, known)
                yield Problem(draft.name, "is unknown", field="clusters", value=show(name), valid=valid)
        text = draft.get("package")
        name = canonicalize_name(Requirement(text).name) if text else ""
        if name in seen:
            message, valid = f"is already the package of {seen[name]}", "list each package once, with all its clusters"
            yield Problem(draft.name, message, field="package", value=show(text), valid=valid)
        elif name:
            seen[name] = draft.name
