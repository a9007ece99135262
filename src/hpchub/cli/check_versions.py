"""Ask all parts of a deployed hub for their versions, and find those that do not work together."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from hpchub.clusters.gate_client import make_gate
from hpchub.clusters.versions import HUB, Part, ask_gate
from hpchub.hub.versions import ask_proxy, differences, get, own_part
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpchub.clusters.gate_client import Gate
    from hpchub.model.profile_list import ProfileList


async def query_versions(settings: dict[str, Any], site: ProfileList) -> tuple[list[tuple[bool, str]], list[str]]:
    """Ask all parts for their versions at the same time.

    Args:
        settings: The hub's settings.
        site: The profile list. What is wrong with a disabled cluster is only a warning.

    Returns:
        Lines about the parts, each with whether the part works with the hub, and warnings.
    """
    disabled = {cluster.name for cluster in site.clusters if not cluster.enabled}
    questions = [ask_hub(settings["hub_bind_url"]), ask_proxy(settings["proxy_api_url"])]
    clusters = ["", ""]
    for cluster, place, gate in all_gates(settings["gates"]):
        questions.append(ask_gate(gate, place))
        clusters.append(cluster)
    answers, warnings = [], []
    for cluster, found in zip(clusters, await asyncio.gather(*questions, return_exceptions=True), strict=True):
        if isinstance(found, Unanswered):
            warnings.append(f"warning: unknown version: {found}")
            continue
        if isinstance(found, BaseException):
            raise found
        answers += [(True, f"{part.title}: {part.version}") for part in found]
        for skew in differences(found):
            if skew.is_harmful and cluster not in disabled:
                answers.append((False, f"no session can start: {skew}"))
            else:
                warnings.append(f"warning: {skew}")
    return answers, warnings


async def ask_hub(url: str) -> list[Part]:
    """Return the hub's own versions.

    Raises:
        Unanswered: The hub does not answer.
    """
    own = own_part()
    _, text = await asyncio.to_thread(get, url, "/hub/api")
    try:
        running = json.loads(text)["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise Unanswered(f"the hub does not report its version: {error!r}") from None
    if running == own.packages["JupyterHub"]:
        return [own]
    return [Part.read(HUB, "", {"JupyterHub": running, "stale": True}, "JupyterHub")]


def all_gates(settings: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, Gate]]:
    """Yield the gate on each submit host: its cluster, its place in words, and its client."""
    for cluster, gate in settings.items():
        hosts = gate.get("hosts", [])
        if len(hosts) < 2:
            yield cluster, cluster, make_gate(cluster, gate)
        else:
            for host in hosts:
                yield cluster, f"{cluster} on {host}", make_gate(cluster, {**gate, "hosts": [host]})
