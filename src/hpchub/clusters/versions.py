"""The versions of the service's parts, and the rule that decides which of them do not work together.

The hub has a number for each part that it talks to, its protocol. A part with another number is incompatible, and so is
a part that reports no number, because it is older than this rule. JupyterHub requires the same major version on both
sides. All other differences are harmless: they only show that a part was not deployed together with the hub. What does
not answer is unknown, and unknown is never a difference.

The numbers are in the programs themselves: ``hpchub.remote.gate``, ``hpchub.remote.launcher`` and ``proxy.mjs``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.remote import (
    app,
    dask_dashboard,
    desktop,
    directory_links,
    gate,
    job_usage,
    kernel_starts,
    lab_modules,
    launcher,
    rstudio,
    session_monitor,
    single_user,
    spark,
    spark_kernel,
    spark_node,
    uploads,
    user_kernels,
)
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hpchub.clusters.gate_client import Gate

HUB, PROXY, GATE, NOTEBOOK = "hub", "proxy", "gate", "notebook environment"
"""The names of the parts."""

PROXY_PROTOCOL = 1
"""The protocol of the proxy's API. ``proxy.mjs`` has the same constant, and explains when to increase it."""

PROTOCOLS = {PROXY: PROXY_PROTOCOL, GATE: gate.PROTOCOL, NOTEBOOK: launcher.PROTOCOL}
"""The protocol of each part that this hub needs."""

DEPLOY = {
    HUB: "playbooks/hub.yml",
    PROXY: "playbooks/hub.yml --tags configurable_http_proxy",
    GATE: "playbooks/clusters.yml --tags scheduler_access",
    NOTEBOOK: "playbooks/clusters.yml --tags notebook_environment",
}
"""The playbook that deploys each part."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]{0,31}")


@dataclass(frozen=True)
class Part:
    """What a part of the service reports about itself.

    Attributes:
        name: Its name: one of the constants above.
        place: Where it is, such as a cluster, or empty for the hub host.
        protocol: The number of its protocol, or 0 if it reports none.
        program: The hash of its program, or empty.
        packages: The versions of its packages.
        is_stale: Whether a newer installation waits for a restart.
    """

    name: str
    place: str = ""
    protocol: int = 0
    program: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    is_stale: bool = False

    @classmethod
    def read(cls, name: str, place: str, report: object, *packages: str) -> Part:
        """Return the part that a report describes. What is missing or not valid counts as not reported.

        Args:
            name: The name of the part.
            place: Where the part is.
            report: An object with the fields ``protocol``, ``program``, ``stale``, and the versions of packages.
            packages: The names of its packages in the report.
        """
        fields: Mapping[str, Any] = report if isinstance(report, dict) else {}
        protocol = fields.get("protocol")
        versions = {package: str(fields.get(package, "")) for package in packages}
        return cls(
            name,
            place,
            protocol if type(protocol) is int else 0,
            str(fields.get("program", "")),
            {package: version for package, version in versions.items() if _VERSION.fullmatch(version)},
            fields.get("stale") is True,
        )

    @property
    def title(self) -> str:
        """The part and its place."""
        return f"{self.name} of {self.place}" if self.place else self.name

    @property
    def version(self) -> str:
        """Its versions in words."""
        found = [f"{name} {version}" for name, version in self.packages.items()]
        if self.name in PROTOCOLS:
            found.append(f"protocol {self.protocol}" if self.protocol else "no protocol, so it is old")
        return ", ".join(found)


@dataclass(frozen=True)
class Skew:
    """A difference between a part and the hub.

    Attributes:
        part: The part.
        problem: What the part has, and what the hub has or needs.
        playbook: The playbook to run, with its options.
        is_harmful: Whether they do not work together. Otherwise the difference is only reported.
    """

    part: Part
    problem: str
    playbook: str
    is_harmful: bool = False

    def __str__(self) -> str:
        return f"the {self.part.title} {self.problem}; run {self.playbook}"


def skews(part: Part, jupyterhub: str) -> list[Skew]:
    """Return the differences between a part and the hub.

    Args:
        part: The part.
        jupyterhub: The hub's version of JupyterHub.
    """
    return [*_skews(part, jupyterhub)]


def _skews(part: Part, jupyterhub: str) -> Iterator[Skew]:
    needed = PROTOCOLS.get(part.name, 0)
    if part.protocol != needed:
        has = f"has protocol {part.protocol}" if part.protocol else "reports no version, so it is old"
        older = HUB if part.protocol > needed else part.name
        yield Skew(part, f"{has}, and the hub needs protocol {needed}", DEPLOY[older], is_harmful=True)
    elif part.program and part.program != own_program(part.name):
        yield Skew(part, "is not from the same version of hpchub as the hub, but works with it", DEPLOY[part.name])
    if part.is_stale:
        runs = " ".join(word for package in part.packages.items() for word in package)
        yield Skew(part, f"still runs {runs}, although another version is installed", DEPLOY[part.name])
    found = part.packages.get("JupyterHub", jupyterhub)
    if part.name == NOTEBOOK and found != jupyterhub:
        is_harmful = _numbers(found)[0] != _numbers(jupyterhub)[0]
        has = f"has JupyterHub {found}, and the hub has JupyterHub {jupyterhub}"
        older = HUB if _numbers(found) > _numbers(jupyterhub) else part.name
        yield Skew(part, has if is_harmful else f"{has}, which works", DEPLOY[older], is_harmful)


def _numbers(version: str) -> list[int]:
    """Return the first three numbers of a version, which begins with a digit."""
    return [int(number) for number in re.findall(r"[0-9]+", version)[:3]]


NOTEBOOK_MODULES = (
    launcher,
    single_user,
    session_monitor,
    job_usage,
    app,
    desktop,
    rstudio,
    spark,
    spark_kernel,
    spark_node,
    dask_dashboard,
    user_kernels,
    kernel_starts,
    lab_modules,
    uploads,
    directory_links,
)
"""The launcher, and the modules that it needs beside it, in the order of ``vars/main.yml`` of the role
``notebook_environment``, which hashes them too."""


@functools.cache
def own_program(name: str) -> str:
    """Return the hash of a part's program in this package, or empty if the package does not contain it."""
    modules = {GATE: (gate,), NOTEBOOK: NOTEBOOK_MODULES}.get(name)
    if not modules:
        return ""
    return hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in modules)).hexdigest()


async def ask_gate(client: Gate, place: str) -> list[Part]:
    """Ask a gate for its version and for that of the notebook environment.

    Returns:
        The gate, and the notebook environment if the submit host can read its version.

    Raises:
        Unanswered: The gate does not answer, so its version is unknown.
    """
    answer = await client.request("versions")
    if not answer.ok and not answer.command and answer.error.startswith("the action is unknown"):
        return [Part(GATE, place)]
    if not answer.ok:
        raise Unanswered(f"the gate of {place} does not report its version: {answer}")
    try:
        report = json.loads(answer.stdout)
        text = report["notebook"]
        environment = None if text is None else json.loads(text).get("versions")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unanswered(f"the gate of {place} reports versions that are not valid: {error!r}") from None
    found = [Part.read(GATE, place, report)]
    return found if text is None else [*found, Part.read(NOTEBOOK, place, environment, "JupyterHub")]
