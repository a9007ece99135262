"""What several entries together can be wrong about. No I/O.

Everything here works on drafts: entries as far as they could be read, so that a mistake in one field hides no mistake
in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from hpchub.messages import did_you_mean, listing, near, show
from hpchub.model import fields as f
from hpchub.model.entries import Cluster, Entry, GridEngineSite, KernelBase, NotebookPorts, Queue, RKernel, Submit
from hpchub.model.problems import Problem, label
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from hpchub.schedulers import Scheduler


@dataclass(frozen=True)
class Draft:
    """An entry as far as it could be read.

    Attributes:
        name: what messages call it.
        raw: what was written.
        kind: what it was read as.
        bad: the locations in it that have a problem.
        value: the entry, or None where it has a problem.
    """

    name: str
    raw: Any
    kind: type[Entry] | None = None
    bad: frozenset[tuple[int | str, ...]] = frozenset()
    value: Entry | None = None

    def get(self, name: str) -> Any:
        """A field's value or default; None where there is none or it has a problem."""
        if self.kind is None or not isinstance(self.raw, Mapping) or name not in self.kind.model_fields:
            return None
        if any(location[:1] == (name,) for location in self.bad):
            return None
        if self.value is not None:
            return getattr(self.value, name)
        default = self.kind.model_fields[name].default
        return self.raw.get(name, None if default is PydanticUndefined else default)

    def written(self, name: str) -> Any:
        """A field as it was written, right or wrong."""
        return self.raw.get(name) if isinstance(self.raw, Mapping) else None

    def items(self, name: str, kind: type[Entry]) -> list[Draft]:
        """The entries of a field that is a list."""
        raw = self.written(name)
        if not isinstance(raw, list):
            return []
        value = getattr(self.value, name) if self.value is not None else [None] * len(raw)
        return [
            Draft(
                name=f"{self.name} {name}[{i}]{label(item)}",
                raw=item,
                kind=kind,
                bad=frozenset(location[2:] for location in self.bad if location[:2] == (name, i)),
                value=value[i],
            )
            for i, item in enumerate(raw)
        ]


def compare(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """What the entries of a site, by variable, are wrong about together."""
    clusters, profiles, kernels = (drafts[name] for name in ("hpc_clusters", "hpc_profiles", "hpc_kernels"))
    for draft in drafts["hpc_service"]:
        yield from _compare_ports(draft)
        yield from _compare_subdomains(draft)
    for draft in drafts["hpc_sso"]:
        scopes = draft.get("scopes")
        if scopes is not None and "openid" not in scopes:
            yield Problem(
                draft.name, "has no openid, without which there is no sign-in", field="scopes", valid="add openid"
            )
    for draft in drafts["hpc_access"]:
        yield from _compare_access(draft)
    for draft in drafts["hpc_tls"]:
        yield from _compare_tls(draft)
    yield from _duplicates(clusters, "name")
    for cluster in clusters:
        yield from _duplicates(cluster.items("queues", Queue), "name")
    yield from _duplicates(profiles, "key")
    yield from _duplicate_kernels(kernels)
    for kernel in kernels:
        yield from _compare_kernel(kernel, clusters)
    for profile in profiles:
        yield from _compare_profile(profile, clusters, kernels)


def _duplicates(drafts: Sequence[Draft], name: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, draft in enumerate(drafts):
        value = draft.written(name)
        if not isinstance(value, str):
            continue
        if value in first:
            yield Problem(
                draft.name,
                f"is taken already by entry {first[value]}",
                field=name,
                value=show(value),
                valid=f"give each its own {name}",
            )
        first.setdefault(value, i)


def _compare_ports(service: Draft) -> Iterator[Problem]:
    bind, api, ports = (service.get(name) for name in ("bind_port", "api_port", "notebook_ports"))
    if bind is None and service.get("url") and service.written("bind_port") is None:
        bind = f.url_port(service.get("url"))
    if bind is not None and bind == api:
        yield Problem(
            service.name,
            "is the port of the service itself",
            field="api_port",
            value=show(api),
            valid="choose another port",
        )
    if isinstance(ports, NotebookPorts):
        for name, port in (("bind_port", bind), ("api_port", api)):
            if port is not None and ports.first <= port <= ports.last:
                yield Problem(
                    service.name,
                    f"lies among the notebook_ports, {ports.first} to {ports.last}",
                    field=name,
                    value=show(port),
                    valid="choose a port outside, or other notebook_ports",
                )


def _compare_subdomains(service: Draft) -> Iterator[Problem]:
    host = f.url_host(service.get("url") or "")
    if service.get("user_subdomains") and f.is_address(host):
        yield Problem(
            service.name,
            f"wants names below {host}, which is an address and no name",
            field="user_subdomains",
            value="true",
            valid="write a host name in url, or leave user_subdomains out",
        )


def _compare_access(access: Draft) -> Iterator[Problem]:
    blocked = access.get("blocked_users") or []
    for name in ("allowed_users", "admin_users"):
        for user in access.get(name) or []:
            if user in blocked:
                yield Problem(
                    access.name,
                    "is in blocked_users as well",
                    field=name,
                    value=show(user),
                    valid="leave one of them out",
                )


def _compare_tls(tls: Draft) -> Iterator[Problem]:
    certificate, key, ca = (tls.get(name) for name in ("certificate", "key", "ca"))
    if None not in (certificate, key) and bool(certificate) != bool(key):
        missing = "key" if certificate else "certificate"
        yield Problem(
            tls.name, "is empty", field=missing, valid="give certificate and key, or neither for a self-signed one"
        )
    if ca and certificate == "":
        yield Problem(
            tls.name,
            "is given without a certificate that it signed",
            field="ca",
            value=show(ca),
            valid="give certificate and key too",
        )


def _names(drafts: Sequence[Draft], name: str) -> list[str]:
    return list(dict.fromkeys(value for draft in drafts if isinstance(value := draft.written(name), str)))


def _unknown(draft: Draft, name: str, value: str, what: str, known: Sequence[str]) -> Problem:
    valid = did_you_mean(value, known) if known else "there is none"
    return Problem(draft.name, f"is not {what}", field=name, value=show(value), valid=valid)


def _duplicate_kernels(kernels: Sequence[Draft]) -> Iterator[Problem]:
    """Two clusters may each have their own kernel of one name; one cluster may not have two."""
    for i, kernel in enumerate(kernels):
        name, mine = kernel.written("name"), kernel.get("clusters")
        for j, other in enumerate(kernels[:i]):
            theirs = other.get("clusters")
            apart = mine and theirs and not set(mine) & set(theirs)
            if isinstance(name, str) and other.written("name") == name and not apart:
                yield Problem(
                    kernel.name,
                    f"is taken already by entry {j}",
                    field="name",
                    value=show(name),
                    valid="give each its own name, or clusters that differ",
                )
                break


def _compare_kernel(kernel: Draft, clusters: Sequence[Draft]) -> Iterator[Problem]:
    known = _names(clusters, "name")
    for name in kernel.get("clusters") or []:
        if clusters and name not in known:
            yield _unknown(kernel, "clusters", name, "a cluster of hpc_clusters", known)
    command = kernel.get("command")
    if isinstance(command, list) and command and not any("{connection_file}" in argument for argument in command):
        yield Problem(
            kernel.name,
            "has no {connection_file}, with which the kernel finds its notebook server",
            field="command",
            value=show(command),
            valid='add it, as in [python, -m, ipykernel_launcher, -f, "{connection_file}"]',
        )
    if kernel.kind is RKernel and isinstance(command, str) and not _is_command(command):
        yield Problem(
            kernel.name,
            "is neither a command's name nor an absolute path",
            field="command",
            value=show(command),
            valid="write R, or as in /opt/R/4.4/bin/R",
        )


def _is_command(command: str) -> bool:
    return command.isprintable() and " " not in command and (command.startswith("/") or "/" not in command)


def _compare_profile(profile: Draft, clusters: Sequence[Draft], kernels: Sequence[Draft]) -> Iterator[Problem]:
    name = profile.get("cluster")
    known = _names(clusters, "name")
    cluster = next((draft for draft in clusters if draft.written("name") == name), None) if name else None
    if name and clusters and cluster is None:
        yield _unknown(profile, "cluster", name, "a cluster of hpc_clusters", known)
    if cluster is not None:
        yield from _compare_queue(profile, cluster)
        if scheduler := cluster.get("scheduler"):
            yield from _compare_with_scheduler(profile, cluster, SCHEDULERS[scheduler])
    kernel = profile.get("default_kernel")
    if kernel and isinstance(name, str):
        there = [draft for draft in kernels if not (only := draft.get("clusters")) or name in only]
        names = list(dict.fromkeys(n for draft in there if isinstance(n := _kernel_name(draft), str)))
        if kernel not in names:
            yield _unknown(profile, "default_kernel", kernel, f"a kernel of cluster {show(name)}", names)


def _compare_with_scheduler(profile: Draft, cluster: Draft, scheduler: Scheduler) -> Iterator[Problem]:
    """Check the values that a profile gives in its scheduler's own syntax."""
    for option in profile.get("options") or []:
        if found := scheduler.option_problem(option):
            yield Problem(profile.name, found[0], field="options", value=show(option), valid=found[1])
    # A cluster with a mistake elsewhere is compared as far as possible, with the defaults of its settings.
    settings = cluster.value if isinstance(cluster.value, Cluster) else _DEFAULT_SETTINGS
    constraint = profile.get("node_constraint")
    if constraint and (found := scheduler.constraint_problem(constraint, settings)):
        yield Problem(profile.name, found[0], field="node_constraint", value=show(constraint), valid=found[1])


_DEFAULT_SETTINGS = Cluster.model_construct(grid_engine=GridEngineSite())


def _kernel_name(draft: Draft) -> Any:
    return draft.value.name if isinstance(draft.value, KernelBase) else draft.written("name")


def _compare_queue(profile: Draft, cluster: Draft) -> Iterator[Problem]:
    """A profile against its queue's limits."""
    name, where = profile.get("queue"), show(cluster.written("name"))
    queues = cluster.items("queues", Queue)
    if not name or not queues:
        return
    queue = next((draft for draft in queues if draft.written("name") == name), None)
    if queue is None:
        yield _unknown(profile, "queue", name, f"a queue of cluster {where}", _names(queues, "name"))
        return
    for wanted, limit, size in (
        ("cores", "max_cores", int),
        ("memory", "max_memory", mebibytes),
        ("runtime", "max_runtime", seconds),
        ("gpus", "max_gpus", int),
    ):
        asked, most = profile.get(wanted), queue.get(limit)
        if asked is not None and most is not None and size(asked) > size(most):
            yield Problem(
                profile.name,
                f"is above {limit} {show(most)} of queue {show(name)} of cluster {where}",
                field=wanted,
                value=show(asked),
                valid=f"ask for at most {most}, or raise {limit} of the queue",
            )


def compare_groups(clusters: Sequence[Draft], groups: Mapping[str, list[str]]) -> Iterator[Problem]:
    """What the clusters and the inventory's groups, each with its hosts, are wrong about together."""
    hosts = {host for members in groups.values() for host in members}
    hub = groups.get("hub", [])
    if len(hub) != 1:
        yield Problem(
            "group hub",
            f"has {len(hub)} hosts" + (f" ({listing(hub, 5)})" if hub else ""),
            valid="put exactly one host into it",
        )
    known = _names(clusters, "name")
    for cluster in clusters:
        yield from _compare_cluster_groups(cluster, groups, hosts)
    if known:  # else hpc_clusters itself is the problem
        yield from _stray_groups(groups, known)
        yield from _stray_hosts(clusters, groups, known)


def _compare_cluster_groups(cluster: Draft, groups: Mapping[str, list[str]], hosts: set[str]) -> Iterator[Problem]:
    name = cluster.get("name")
    if not name:
        return
    group = f"cluster_{name}"
    nodes = groups.get(group)
    if nodes is None:
        others = [other for other in groups if other.startswith("cluster")]
        valid = f"declare it in the inventory with the cluster's nodes{_perhaps(group, others)}"
        yield Problem(cluster.name, f"has no group {group} in the inventory", valid=valid)
        nodes = []
    elif not set(nodes) & set(groups.get("compute_nodes", [])):
        yield Problem(
            cluster.name,
            f"has no compute node: no host is in both {group} and compute_nodes",
            valid="add its compute nodes",
        )
    login = sorted(set(nodes) & set(groups.get("login_nodes", [])))
    for field, host in _submit_hosts(cluster.get("submit")):
        if host not in hosts:
            valid = f"valid: {listing(login)}" if login else did_you_mean(host, sorted(hosts))
            yield Problem(cluster.name, "is not a host of the inventory", field=field, value=show(host), valid=valid)
        elif groups.get(group) is not None and host not in login:
            yield Problem(
                cluster.name,
                f"is not in both {group} and login_nodes",
                field=field,
                value=show(host),
                valid=f"valid: {listing(login)}" if login else "add it to both groups",
            )


def _submit_hosts(submit: object) -> Iterator[tuple[str, str]]:
    """The hosts of a cluster's submit, read or as it was written, with the fields that name them."""
    if isinstance(submit, Submit):
        submit = submit.model_dump()
    if not isinstance(submit, Mapping):
        return
    if isinstance(submit.get("host"), str) and submit["host"]:
        yield "submit.host", submit["host"]
    others = submit.get("other_hosts")
    for i, host in enumerate(others if isinstance(others, list) else []):
        if isinstance(host, str):
            yield f"submit.other_hosts[{i}]", host


def _perhaps(name: str, known: Sequence[str]) -> str:
    close = near(name, known)
    return f'; there is a group "{close}"' if close else ""


def _stray_groups(groups: Mapping[str, list[str]], known: Sequence[str]) -> Iterator[Problem]:
    """Groups that are named as a cluster's and belong to none."""
    own = {f"cluster_{name}{part}" for name in known for part in ("", "_login", "_compute")}
    for group in sorted(groups):
        name = group.removeprefix("cluster_")
        if group.startswith("cluster_") and group not in own:
            message = f"names a cluster {show(name)} that hpc_clusters lacks"
            yield Problem(f"group {group}", message, valid=did_you_mean(name, known))


def _stray_hosts(drafts: Sequence[Draft], groups: Mapping[str, list[str]], known: Sequence[str]) -> Iterator[Problem]:
    """Nodes without a cluster or with several that are unlike, and hosts of a cluster that are no nodes."""
    served = {host: kind for kind in ("login_nodes", "compute_nodes") for host in groups.get(kind, [])}
    clusters: dict[str, list[str]] = {}
    for name in known:
        for host in groups.get(f"cluster_{name}", []):
            clusters.setdefault(host, []).append(name)
    # Those of a group for which there is no cluster have been told with the group.
    told = {host for group, hosts in groups.items() if group.startswith("cluster_") for host in hosts}
    for host in sorted({*served, *clusters}):
        of = clusters.get(host, [])
        setups = [(draft.get("software"), draft.get("firewall")) for draft in drafts if draft.get("name") in of]
        if any(setup != setups[0] for setup in setups):
            message = f"belongs to the clusters {listing(of)}"
            valid = "a node belongs to one cluster, or to several with the same software and firewall"
        elif of and host not in served:
            message = f"is in cluster_{of[0]} and in neither login_nodes nor compute_nodes"
            valid = f"add it to one of them, by cluster_{of[0]}_login or cluster_{of[0]}_compute"
        elif not of and host not in told:
            message = f"is in {served[host]} and in no cluster"
            valid = f"add it to one of {listing(f'cluster_{name}' for name in known)}"
        else:
            continue
        yield Problem(f"host {host}", message, valid=valid)
