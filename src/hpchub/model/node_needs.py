"""What kernels and applications need on the nodes: programs, files, directories and modules. No I/O.

The role ``jupyter_kernels`` checks it on the nodes. The file ``kernel.json`` also contains what its kernel needs, so
that a session can name what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpchub.model.entries import (
    AnyKernel,
    CommandKernel,
    CondaKernel,
    ContainerKernel,
    ModuleKernel,
    RKernel,
    VenvKernel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpchub.model.apps import AnyApp
    from hpchub.model.site import Site

RUNTIMES = {"apptainer": "apptainer", "charliecloud": "ch-run"}
"""The program that runs containers, by the runtime."""


def cluster_needs(site: Site, cluster: str) -> list[dict[str, Any]]:
    """Return what the kernels and applications of a cluster need on its nodes.

    Returns:
        ``[{"entry", "field", "kind", "value"}, …]``: the entry as in ``kernel geo``, the field that names the need, the
        kind (``program``, ``file``, ``directory`` or ``modules``), and a list with the path or name, or the modules.
    """
    return [
        {"entry": entry, "field": f"{field} of {name} in {variable}", "kind": kind, "value": value}
        for entry, name, variable, needs in (
            *((f"kernel {k.name}", k.name, "hpc_kernels", kernel_needs(k)) for k in site.kernels if k.on(cluster)),
            *((f"application {a.name}", a.name, "hpc_apps", app_needs(a)) for a in site.apps if a.on(cluster)),
        )
        for field, kind, value in needs
    ]


def kernel_needs(kernel: AnyKernel) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a kernel needs, each as the field of its entry, the kind and the value."""
    match kernel:
        case RKernel() if "{" not in kernel.command:
            yield "command", "program", [kernel.command]
        case VenvKernel():
            yield "path", "program", [f"{kernel.path}/bin/python"]
        case CondaKernel():
            yield "prefix", "directory", [f"{kernel.prefix}/bin"]
            if not kernel.command:
                yield "prefix", "program", [f"{kernel.prefix}/bin/python"]
            yield from _absolute("command", kernel.command)
        case ModuleKernel():
            yield "modules", "modules", [*kernel.modules]
            yield from _absolute("command", kernel.command)
        case ContainerKernel():
            yield "runtime", "program", [RUNTIMES[kernel.runtime]]
            yield "image", "file", [kernel.image]
            for bind in kernel.binds:
                yield "binds", "file", [bind.partition(":")[0]]
        case CommandKernel() if "{" not in kernel.command[0]:
            yield "command", "program", [kernel.command[0]]


def app_needs(app: AnyApp) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what an application needs, as :func:`kernel_needs` does. A name of a program may be that of a module."""
    if app.modules:
        yield "modules", "modules", [*app.modules]
    if app.icon:
        yield "icon", "file", [app.icon]
    yield from _absolute("session" if hasattr(app, "session") else "command", app.program())
    yield from _absolute("server", [getattr(app, "server", "")])


def _absolute(field: str, command: list[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the program of a command, if it is an absolute path without placeholders."""
    if command and command[0].startswith("/") and "{" not in command[0]:
        yield field, "program", [command[0]]
