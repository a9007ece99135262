"""The rules of ``hpc_apps``: the names, the commands, and what the entries refer to. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpchub.messages import did_you_mean, show
from hpchub.model.apps import INTERFACES, SERVER_PATHS
from hpchub.model.dask_rules import compare_dask
from hpchub.model.problems import Problem
from hpchub.model.rules import duplicate_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpchub.model.rules import Draft


def compare_apps(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare the applications with one another, with the clusters and places, and with the profiles' interfaces."""
    apps = drafts["hpc_apps"]
    places = [*drafts["hpc_clusters"], *drafts["hpc_places"]]
    known = [str(each.get("name")) for each in places]
    yield from duplicate_names(apps)
    for app in apps:
        yield from _compare_name(app)
        if app.get("kind") == "web":
            yield from _compare_command(app)
        if app.get("kind") == "spark":
            yield from _compare_kernel(app, drafts["hpc_kernels"])
        if app.get("kind") == "dask":
            yield from compare_dask(app, drafts)
        for name in app.get("clusters") or []:
            if name not in known:
                yield _unknown(app, "clusters", name, known)
    for profile in drafts["hpc_profiles"]:
        where, name = profile.get("cluster") or profile.get("place"), profile.get("interface")
        offered = [app for app in apps if not (only := app.get("clusters")) or where in only]
        valid = [*INTERFACES, *(str(app.get("name")) for app in offered)]
        if name and name not in valid:
            yield _unknown(profile, "interface", name, valid)


def _unknown(draft: Draft, field: str, name: str, valid: Sequence[str]) -> Problem:
    return Problem(draft.name, "is unknown", field=field, value=show(name), valid=did_you_mean(name, valid))


def _compare_name(app: Draft) -> Iterator[Problem]:
    name = app.get("name")
    if name in SERVER_PATHS:
        yield Problem(
            app.name,
            "is a path of the notebook server",
            field="name",
            value=show(name),
            valid=f"choose another one, such as my-{name}",
        )


def _compare_command(app: Draft) -> Iterator[Problem]:
    command = app.get("command")
    words = [*(command or []), *(app.get("arguments") or [])]
    given = [name for name in ("{socket}", "{port}") if any(name in word for word in words)]
    if command and len(given) != 1:
        yield Problem(
            app.name,
            "contains both {socket} and {port}" if given else "contains neither {socket} nor {port}",
            field="command",
            value=show(command),
            valid="write one of them where the program expects the address to listen on; {socket} is safer and faster",
        )


def _compare_kernel(app: Draft, kernels: Sequence[Draft]) -> Iterator[Problem]:
    own = f"py{app.get('name')}"
    if own in [kernel.get("name") for kernel in kernels]:
        yield Problem(
            app.name,
            f"has the kernel {own}, which is also in hpc_kernels",
            field="name",
            value=show(app.get("name")),
            valid="remove that kernel, or choose another name for the application",
        )
