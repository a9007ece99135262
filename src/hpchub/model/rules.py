"""Rules that compare entries, or fields of an entry, with one another. No I/O.

The rules work on drafts. A draft is an entry that may have invalid fields, and the rules use only its valid ones. So a
mistake in one field does not hide a mistake in another field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from hpchub.gpus import gpu_type
from hpchub.messages import did_you_mean, listing, near, show
from hpchub.model import fields as f
from hpchub.model.adjustable import Adjustable
from hpchub.model.entries import (
    Cluster,
    GridEngineSite,
    KernelBase,
    NotebookPorts,
    Queue,
    RKernel,
    StateStore,
    Submit,
)
from hpchub.model.hub_sso import AccountCreation, HubSignOn
from hpchub.model.places import EnginePlace
from hpchub.model.problems import Problem, label
from hpchub.names import is_user_name
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from hpchub.model.entry import Entry
    from hpchub.schedulers import Scheduler


@dataclass(frozen=True)
class Draft:
    """An entry that may have invalid fields.

    Attributes:
        name: The name of the entry in messages.
        raw: The entry as it was written.
        kind: The class of the entry.
        bad: The locations in the entry that have a problem.
        value: The entry, or None if it has a problem.
    """

    name: str
    raw: Any
    kind: type[Entry] | None = None
    bad: frozenset[tuple[int | str, ...]] = frozenset()
    value: Entry | None = None

    def get(self, name: str) -> Any:
        """Return a field's value or default. Return None if it has neither or has a problem."""
        if self.kind is None or not isinstance(self.raw, Mapping) or name not in self.kind.model_fields:
            return None
        if any(location[:1] == (name,) for location in self.bad):
            return None
        if self.value is not None:
            return getattr(self.value, name)
        default = self.kind.model_fields[name].default
        return self.raw.get(name, None if default is PydanticUndefined else default)

    def written(self, name: str) -> Any:
        """Return a field as it was written, valid or not."""
        return self.raw.get(name) if isinstance(self.raw, Mapping) else None

    def items(self, name: str, kind: type[Entry]) -> list[Draft]:
        """Return the entries of a field that is a list."""
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
    """Compare the entries of a site, given by variable."""
    clusters, profiles, kernels = (drafts[name] for name in ("hpc_clusters", "hpc_profiles", "hpc_kernels"))
    for draft in drafts["hpc_service"]:
        yield from _compare_ports(draft)
        yield from _compare_subdomains(draft)
        yield from _compare_api_host(draft, clusters)
    for draft in drafts["hpc_sso"]:
        scopes = draft.get("scopes")
        if scopes is not None and "openid" not in scopes:
            yield Problem(
                draft.name, "does not contain openid, which sign-in requires", field="scopes", valid="add openid"
            )
        yield from _compare_hub_sign_on(draft, drafts)
    for draft in drafts["hpc_access"]:
        yield from _compare_access(draft)
    for draft in drafts["hpc_tls"]:
        yield from _compare_tls(draft)
    for draft in drafts["hpc_state_store"]:
        yield from _compare_state_store(draft)
    yield from _duplicates(clusters, "name")
    for cluster in clusters:
        yield from _duplicates(cluster.items("queues", Queue), "name")
    yield from _duplicates(profiles, "key")
    yield from duplicate_names(kernels)
    for kernel in kernels:
        yield from _compare_kernel(kernel, clusters)
    for profile in profiles:
        yield from _compare_profile(profile, clusters, kernels)
    yield from _compare_canary(drafts)


def _compare_canary(drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare the canary with the profiles, the kernels, and the rules for users."""
    (draft,) = drafts["hpc_canary"] or [Draft("hpc_canary", {})]
    for field, variable, name in (("profiles", "hpc_profiles", "key"), ("kernels", "hpc_kernels", "name")):
        known = [str(entry.get(name)) for entry in drafts[variable]]
        for each in draft.get(field) or []:
            if each not in known:
                valid = did_you_mean(each, known)
                yield Problem(draft.name, f"is not in {variable}", field=field, value=show(each), valid=valid)
    user = draft.get("user")
    for access in drafts["hpc_access"] if user else []:
        pattern, blocked = access.get("user_pattern"), access.get("blocked_users") or []
        if pattern and not is_user_name(user, pattern):
            message = "does not match hpc_access.user_pattern"
            yield Problem(draft.name, message, field="user", value=show(user), valid=f"write a name like {pattern}")
        if user in blocked:
            message = "is in hpc_access.blocked_users"
            yield Problem(draft.name, message, field="user", value=show(user), valid="choose another account")


def _duplicates(drafts: Sequence[Draft], name: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, draft in enumerate(drafts):
        value = draft.written(name)
        if not isinstance(value, str):
            continue
        if value in first:
            yield Problem(
                draft.name,
                f"is already used by entry {first[value]}",
                field=name,
                value=show(value),
                valid=f"give each entry a different {name}",
            )
        first.setdefault(value, i)


_TAKEN_PORTS = {22: "ssh", 80: "HTTP without encryption, which the web server may redirect"}


def _compare_ports(service: Draft) -> Iterator[Problem]:
    bind, api, ports = (service.get(name) for name in ("bind_port", "api_port", "notebook_ports"))
    if bind is None and service.get("url") and service.written("bind_port") is None:
        bind = f.url_port(service.get("url"))
    if bind is not None and bind == api:
        yield Problem(
            service.name,
            "is also the port of the service",
            field="api_port",
            value=show(api),
            valid="choose another port",
        )
    if api in _TAKEN_PORTS:
        message = f"is the port of {_TAKEN_PORTS[api]}"
        yield Problem(service.name, message, field="api_port", value=show(api), valid="choose another port, as in 8445")
    if isinstance(ports, NotebookPorts):
        for name, port in (("bind_port", bind), ("api_port", api)):
            if port is not None and ports.first <= port <= ports.last:
                yield Problem(
                    service.name,
                    f"is one of the notebook_ports, {ports.first} to {ports.last}",
                    field=name,
                    value=show(port),
                    valid="choose a port outside this range, or change notebook_ports",
                )


def _compare_api_host(service: Draft, clusters: Sequence[Draft]) -> Iterator[Problem]:
    """Find the name of a loopback interface, which jobs on other hosts cannot use."""
    host = service.get("api_host") or ""
    methods = [cluster.get("submit") for cluster in clusters]
    if f.is_loopback(host) and any(isinstance(each, Submit) and each.method == "ssh" for each in methods):
        message = "means the compute node itself, where the hub does not run"
        valid = "write the name of the hub host as compute nodes know it"
        yield Problem(service.name, message, field="api_host", value=show(host), valid=valid)


def _compare_subdomains(service: Draft) -> Iterator[Problem]:
    host = f.url_host(service.get("url") or "")
    if service.get("user_subdomains") and f.is_address(host):
        yield Problem(
            service.name,
            f"needs host names below {host}, which is an IP address",
            field="user_subdomains",
            value="true",
            valid="use a host name in url, or remove user_subdomains",
        )


def _compare_hub_sign_on(sso: Draft, drafts: Mapping[str, Sequence[Draft]]) -> Iterator[Problem]:
    """Compare a sign-on in the hub with the other entries."""
    if sso.kind is None or not issubclass(sso.kind, HubSignOn):
        return
    for service in drafts["hpc_service"]:
        if not service.get("user_subdomains"):
            # The web server does not know who sends a request, so it cannot keep users out of the servers of others.
            yield Problem(
                service.name,
                f"must be true for hpc_sso.provider {sso.get('provider')}, because only the hub knows the users then",
                field="user_subdomains",
                valid="set user_subdomains: true, and make a certificate and DNS entries for *.HOST; see"
                " docs/how-to/sign-on-in-the-hub.md",
            )
    creation = sso.get("create_accounts")
    for access in drafts["hpc_access"]:
        if isinstance(creation, AccountCreation) and creation.command and access.get("hub_accounts") is False:
            message = (
                "must be true for hpc_sso.create_accounts, because the hub cannot know who has an account otherwise"
            )
            yield Problem(access.name, message, field="hub_accounts", valid="remove it")


def _compare_access(access: Draft) -> Iterator[Problem]:
    blocked = access.get("blocked_users") or []
    pattern = access.get("user_pattern")
    for name in ("allowed_users", "blocked_users", "admin_users"):
        for user in access.get(name) or []:
            if pattern is not None and not is_user_name(user, pattern):
                yield Problem(
                    access.name,
                    f"does not match user_pattern, {show(pattern)}",
                    field=name,
                    value=show(user),
                    valid="correct the name, or set user_pattern to a pattern that admits the accounts of your site",
                )
    for name in ("allowed_users", "admin_users"):
        for user in access.get(name) or []:
            if user in blocked:
                yield Problem(
                    access.name,
                    "is also in blocked_users",
                    field=name,
                    value=show(user),
                    valid="leave one of them out",
                )


def _compare_tls(tls: Draft) -> Iterator[Problem]:
    certificate, key, ca = (tls.get(name) for name in ("certificate", "key", "ca"))
    if None not in (certificate, key) and bool(certificate) != bool(key):
        missing = "key" if certificate else "certificate"
        yield Problem(
            tls.name, "is empty", field=missing, valid="set both certificate and key, or neither for a self-signed one"
        )
    if ca and certificate == "":
        yield Problem(
            tls.name,
            "is set, but certificate is not",
            field="ca",
            value=show(ca),
            valid="set certificate and key too",
        )


_SERVER_FIELDS: dict[str, tuple[str, ...]] = {
    "hub": ("host", "password", "tls_certificate", "tls_key", "tls_ca"),
    "own_host": (),
    "existing": ("tls_certificate", "tls_key"),
}
"""For each location of a PostgreSQL server, the fields that have no meaning there."""


def _compare_state_store(store: Draft) -> Iterator[Problem]:
    """Compare the fields of the database with its kind and its location."""
    backend, location = store.get("backend"), store.get("location")
    written = [name for name in StateStore.model_fields if store.written(name) not in (None, "")]
    if backend == "sqlite":
        for name in written:
            if name != "backend":
                valid = "remove it, or set backend: postgresql"
                yield Problem(store.name, 'is set, but backend is "sqlite", which is a file', field=name, valid=valid)
        return
    if backend == "postgresql" and location:
        yield from _compare_server(store, location, written)


def _compare_server(store: Draft, location: str, written: Sequence[str]) -> Iterator[Problem]:
    """Compare the fields of a PostgreSQL server with its location."""
    for name in _SERVER_FIELDS[location]:
        if name in written:
            message, valid = f"has no meaning for location {show(location)}", "remove it"
            yield Problem(store.name, message, field=name, valid=valid)
    if location == "hub" and "user" in written and store.get("user") not in (None, "jupyterhub"):
        message = "is not the hub's account, which is the database's user for location \"hub\""
        yield Problem(store.name, message, field="user", valid="remove it")
    for name in ("host", "password"):
        if location == "existing" and name not in written:
            valid = "add the name of the server" if name == "host" else "add it, and keep it in the vault"
            yield Problem(store.name, "is missing", field=name, valid=valid)
    if location == "own_host" and ("tls_certificate" in written) != ("tls_key" in written):
        missing = "tls_key" if "tls_certificate" in written else "tls_certificate"
        valid = "set both tls_certificate and tls_key, or neither"
        yield Problem(store.name, "is empty", field=missing, valid=valid)
    if location == "own_host" and "tls_ca" in written and "tls_certificate" not in written:
        valid = "set tls_certificate and tls_key too, or remove it"
        yield Problem(store.name, "is set, but tls_certificate is not", field="tls_ca", valid=valid)


STATE_STORE_GROUP = "state_store"


def _compare_state_store_group(drafts: Sequence[Draft], groups: Mapping[str, list[str]]) -> Iterator[Problem]:
    """Compare the location of the database with the hosts of its group."""
    hosts = groups.get(STATE_STORE_GROUP, [])
    store = drafts[0].value if drafts else StateStore()
    if not isinstance(store, StateStore):
        return
    own = store.is_postgresql and store.location == "own_host"
    if not own and hosts:
        valid = "set backend: postgresql and location: own_host in hpc_state_store, or remove the group"
        yield Problem(f"group {STATE_STORE_GROUP}", "has a host, but hpc_state_store does not use it", valid=valid)
    elif own and len(hosts) != 1:
        listed = f" ({listing(hosts, 5)})" if hosts else ""
        valid = "put exactly one host into it, on which hpchub installs PostgreSQL"
        yield Problem(f"group {STATE_STORE_GROUP}", f"has {len(hosts)} hosts{listed}", valid=valid)
    elif own and hosts[0] in groups.get("hub", []):
        valid = "set location: hub in hpc_state_store, or name another host"
        yield Problem(f"group {STATE_STORE_GROUP}", f"contains the hub host {hosts[0]}", valid=valid)


def _names(drafts: Sequence[Draft], name: str) -> list[str]:
    return list(dict.fromkeys(value for draft in drafts if isinstance(value := draft.written(name), str)))


def _all_named(clusters: Sequence[Draft]) -> bool:
    """Return whether all clusters have valid names. Otherwise, the others refer to a name that was meant."""
    return bool(clusters) and all(cluster.get("name") for cluster in clusters)


def unknown_reference(draft: Draft, name: str, value: str, what: str, known: Sequence[str]) -> Problem:
    """Return the problem of a field that names something that does not exist."""
    valid = did_you_mean(value, known) if known else "there are none"
    return Problem(draft.name, f"is not {what}", field=name, value=show(value), valid=valid)


def duplicate_names(entries: Sequence[Draft]) -> Iterator[Problem]:
    """Find kernels or applications with the same name on one cluster. Different clusters may use a name differently."""
    for i, entry in enumerate(entries):
        name, clusters = entry.written("name"), entry.get("clusters")
        for j, other in enumerate(entries[:i]):
            other_clusters = other.get("clusters")
            share_no_cluster = clusters and other_clusters and not set(clusters) & set(other_clusters)
            if isinstance(name, str) and other.written("name") == name and not share_no_cluster:
                yield Problem(
                    entry.name,
                    f"is already used by entry {j}",
                    field="name",
                    value=show(name),
                    valid="give each entry a different name, or different clusters",
                )
                break


def _compare_kernel(kernel: Draft, clusters: Sequence[Draft]) -> Iterator[Problem]:
    known = _names(clusters, "name")
    for name in kernel.get("clusters") or []:
        if name not in known and _all_named(clusters):
            yield unknown_reference(kernel, "clusters", name, "a cluster of hpc_clusters", known)
    command = kernel.get("command")
    if isinstance(command, list) and command and not any("{connection_file}" in argument for argument in command):
        yield Problem(
            kernel.name,
            "does not contain {connection_file}, which the kernel needs to find its notebook server",
            field="command",
            value=show(command),
            valid='add it, as in [python, -m, ipykernel_launcher, -f, "{connection_file}"]',
        )
    if kernel.kind is RKernel and isinstance(command, str) and not _is_command(command):
        yield Problem(
            kernel.name,
            "is neither the name of a command nor an absolute path",
            field="command",
            value=show(command),
            valid="write R, or a path such as /opt/R/4.4/bin/R",
        )


def advice_above_limit(field: str, most: object, limit: str, queue: str) -> str:
    """Return what to do about a value above its queue's limit."""
    if field == "gpus" and not most:
        return f"queue {queue} has no GPUs; remove gpus, or set max_gpus of the queue"
    return f"request at most {most}, or raise {limit} of the queue"


def _is_command(command: str) -> bool:
    return command.isprintable() and " " not in command and (command.startswith("/") or "/" not in command)


def _compare_profile(profile: Draft, clusters: Sequence[Draft], kernels: Sequence[Draft]) -> Iterator[Problem]:
    if profile.get("place"):
        return  # see hpchub.model.place_rules
    yield from _compare_where(profile)
    name = profile.get("cluster")
    known = _names(clusters, "name")
    cluster = next((draft for draft in clusters if draft.written("name") == name), None) if name else None
    if name and cluster is None and _all_named(clusters):
        yield unknown_reference(profile, "cluster", name, "a cluster of hpc_clusters", known)
    if cluster is not None:
        yield from _compare_queue(profile, cluster)
        if scheduler := cluster.get("scheduler"):
            yield from _compare_with_scheduler(profile, cluster, SCHEDULERS[scheduler])
    kernel = profile.get("default_kernel")
    if kernel and name:
        names = kernel_names(kernels, name)
        if kernel not in names:
            yield unknown_reference(profile, "default_kernel", kernel, f"a kernel of cluster {show(name)}", names)


def _compare_where(profile: Draft) -> Iterator[Problem]:
    """Find a profile that names neither a place, nor a cluster and its queue."""
    if not isinstance(profile.raw, Mapping) or profile.get("place") is None:
        return
    for field in ("cluster", "queue"):
        if field not in profile.raw:
            valid = "add it" if field == "queue" else "add it, or a place"
            yield Problem(profile.name, "is missing", field=field, valid=valid)
        elif profile.raw[field] == "":
            yield Problem(profile.name, "is empty", field=field, valid=f"name a {field}")


def kernel_names(kernels: Sequence[Draft], cluster: str) -> list[str]:
    """Return the names of a cluster's kernels."""
    offered = [draft for draft in kernels if not (limited_to := draft.get("clusters")) or cluster in limited_to]
    names = [_kernel_name(draft) for draft in offered]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _compare_with_scheduler(profile: Draft, cluster: Draft, scheduler: Scheduler) -> Iterator[Problem]:
    """Check the values that a profile gives in its scheduler's own syntax."""
    for option in profile.get("options") or []:
        if found := scheduler.option_problem(option):
            yield Problem(profile.name, found[0], field="options", value=show(option), valid=found[1])
    # A cluster with a mistake elsewhere is compared as far as possible, with the defaults of its settings.
    settings = cluster.value if isinstance(cluster.value, Cluster) else DEFAULT_SETTINGS
    kind = gpu_type(f.gpus_of(profile.get("gpus")))
    if kind and (found := scheduler.gpu_type_problem(kind, settings)):
        yield Problem(profile.name, found[0], field="gpus", value=show(profile.written("gpus")), valid=found[1])
    constraint = profile.get("node_constraint")
    if constraint and (found := scheduler.constraint_problem(constraint, settings)):
        yield Problem(profile.name, found[0], field="node_constraint", value=show(constraint), valid=found[1])
    reservation = profile.get("reservation")
    if reservation and (found := scheduler.reservation_problem(reservation, settings)):
        yield Problem(profile.name, found[0], field="reservation", value=show(reservation), valid=found[1])
    yield from _compare_nodes(profile, settings, scheduler)


def _compare_nodes(profile: Draft, cluster: Cluster, scheduler: Scheduler) -> Iterator[Problem]:
    """Find several nodes, of the profile or as a choice, that its scheduler cannot give to its job."""
    adjustable = profile.get("adjustable")
    if isinstance(adjustable, Mapping):  # the profile has a mistake elsewhere
        adjustable = Adjustable.model_validate(adjustable)
    chosen = adjustable.nodes if isinstance(adjustable, Adjustable) else None
    gpus = adjustable.gpus if isinstance(adjustable, Adjustable) else None
    field, number = ("nodes", profile.get("nodes") or 1)
    if number == 1 and chosen:
        field, number = (chosen.field_of_most("nodes"), chosen.most)
    if number == 1:
        return
    found = scheduler.nodes_problem(
        cluster,
        gpus=max(int(f.gpus_of(profile.get("gpus"))), gpus.most if gpus else 0),
        options=profile.get("options") or [],
    )
    if found:
        yield Problem(profile.name, found[0], field=field, value=str(number), valid=found[1])


DEFAULT_SETTINGS = Cluster.model_construct(queues=[], grid_engine=GridEngineSite(), gpu_type_resource="")
"""Valid settings, for comparison with those of a cluster that has a mistake."""


def _kernel_name(draft: Draft) -> Any:
    return draft.value.name if isinstance(draft.value, KernelBase) else draft.written("name")


def _compare_queue(profile: Draft, cluster: Draft) -> Iterator[Problem]:
    """Compare a profile with the limits of its queue."""
    name, where = profile.get("queue"), show(cluster.written("name"))
    queues = cluster.items("queues", Queue)
    if not name or not queues:
        return
    queue = next((draft for draft in queues if draft.written("name") == name), None)
    if queue is None:
        yield unknown_reference(profile, "queue", name, f"a queue of cluster {where}", _names(queues, "name"))
        return
    for wanted, limit, size in (
        ("nodes", "max_nodes", int),
        ("cores", "max_cores", int),
        ("memory", "max_memory", mebibytes),
        ("runtime", "max_runtime", seconds),
        ("gpus", "max_gpus", f.gpus_of),
    ):
        asked, most = profile.get(wanted), queue.get(limit)
        if asked is not None and most is not None and size(asked) > size(most):
            yield Problem(
                profile.name,
                f"is above {limit} {show(most)} of queue {show(name)} of cluster {where}",
                field=wanted,
                value=show(asked),
                valid=advice_above_limit(wanted, most, limit, name),
            )
    yield from _compare_gpu_types(profile, queue, f"queue {show(name)} of cluster {where}")


def _compare_gpu_types(profile: Draft, queue: Draft, where: str) -> Iterator[Problem]:
    """Compare the type of a profile's GPUs with the types of its queue, if both name any."""
    asked, most = f.gpus_of(profile.get("gpus")), f.gpus_of(queue.get("max_gpus"))
    kind = gpu_type(asked)
    if not kind or not most.types or asked > most:
        return
    if kind not in most.types:
        message = f"has the type {show(kind)}, but {where} has no such GPUs"
        valid = did_you_mean(kind, list(most.types))
    elif asked > most.types[kind]:
        message = f"is above the {most.types[kind]} GPUs of type {show(kind)} that {where} permits"
        valid = f"request at most {most.types[kind]}, or raise max_gpus of the queue"
    else:
        return
    yield Problem(profile.name, message, field="gpus", value=show(profile.written("gpus")), valid=valid)


_FIXED_GROUPS = ("hub", "login_nodes", "compute_nodes", STATE_STORE_GROUP)


def _misspelt_group(name: str, groups: Mapping[str, list[str]]) -> str | None:
    """Return the group that stands for a group of hpchub that is missing."""
    others = [] if name in groups else [other for other in groups if other not in _FIXED_GROUPS]
    return near(name, [other for other in others if not other.startswith("cluster_")])


def compare_groups(drafts: Mapping[str, Sequence[Draft]], groups: Mapping[str, list[str]]) -> Iterator[Problem]:
    """Compare the entries of a site, given by variable, with the inventory's groups, each given with its hosts."""
    clusters = drafts["hpc_clusters"]
    misspelt = {name: close for name in _FIXED_GROUPS if (close := _misspelt_group(name, groups))}
    for name, close in misspelt.items():
        yield Problem(f"group {close}", "is not a group of hpchub", valid=f'did you mean "{name}"?')
    groups = {**groups, **{name: groups[close] for name, close in misspelt.items()}}
    hosts = {host for members in groups.values() for host in members}
    hub = groups.get("hub", [])
    if len(hub) != 1:
        yield Problem(
            "group hub",
            f"has {len(hub)} hosts" + (f" ({listing(hub, 5)})" if hub else ""),
            valid="put exactly one host into it",
        )
    yield from _compare_state_store_group(drafts["hpc_state_store"], groups)
    uses: dict[str, str] = {}
    for place in drafts["hpc_places"]:
        if place.kind is not None and issubclass(place.kind, EnginePlace):
            yield from _compare_docker_hosts(place, groups, hosts, uses)
    known = _names(clusters, "name")
    for cluster in clusters:
        yield from _compare_cluster_groups(cluster, groups, hosts)
    if known:  # otherwise hpc_clusters has a problem that was already reported
        if _all_named(clusters):
            yield from _stray_groups(groups, known)
        yield from _stray_hosts(clusters, groups, known)


DOCKER_HOSTS = "docker_hosts"


def _compare_docker_hosts(
    place: Draft, groups: Mapping[str, list[str]], hosts: set[str], uses: dict[str, str]
) -> Iterator[Problem]:
    """Find Docker hosts that the inventory or the group for Docker hosts does not contain, or that two places use.

    Args:
        place: The place.
        groups: The hosts of each group.
        hosts: All hosts.
        uses: For each Docker host that was found so far, ``docker`` or the name of the swarm. It is changed.
    """
    workers = place.written("workers") or []
    named = [("host", place.written("host"))]
    named += [(f"workers[{number}]", each) for number, each in enumerate(workers if isinstance(workers, list) else [])]
    use = "docker" if place.written("kind") == "docker" else f"the swarm {place.written('name')}"
    for field, host in named:
        if not isinstance(host, str) or not host:
            continue
        if host not in hosts:
            valid = did_you_mean(host, sorted(hosts))
            yield Problem(place.name, "is not a host of the inventory", field=field, value=show(host), valid=valid)
        elif host not in groups.get(DOCKER_HOSTS, []):
            valid = "add it to this group, so that playbooks/places.yml sets up the host"
            message = f"is not in the group {DOCKER_HOSTS}"
            yield Problem(place.name, message, field=field, value=show(host), valid=valid)
        elif uses.setdefault(host, use) != use:
            valid = "use another host, because a host is either a node of one swarm or a Docker host without a swarm"
            message = f"is already used for {uses[host]}"
            yield Problem(place.name, message, field=field, value=show(host), valid=valid)


def _compare_cluster_groups(cluster: Draft, groups: Mapping[str, list[str]], hosts: set[str]) -> Iterator[Problem]:
    name = cluster.get("name")
    if not name:
        return
    group = f"cluster_{name}"
    nodes = groups.get(group)
    if nodes is None:
        others = [other for other in groups if other.startswith("cluster")]
        valid = f"add this group with the cluster's nodes to the inventory{_perhaps(group, others)}"
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
    """Return the submit hosts of a cluster, each with its field. The entry ``submit`` may be invalid."""
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
    return f'; a group "{close}" exists' if close else ""


def _stray_groups(groups: Mapping[str, list[str]], known: Sequence[str]) -> Iterator[Problem]:
    """Find groups with the name of a cluster that does not exist."""
    own = {f"cluster_{name}{part}" for name in known for part in ("", "_login", "_compute")}
    for group in sorted(groups):
        name = group.removeprefix("cluster_").removesuffix("_login").removesuffix("_compute")
        if group.startswith("cluster_") and group not in own:
            message = f"is named after the cluster {show(name)}, which is not in hpc_clusters"
            yield Problem(f"group {group}", message, valid=did_you_mean(name, known))


def _stray_hosts(drafts: Sequence[Draft], groups: Mapping[str, list[str]], known: Sequence[str]) -> Iterator[Problem]:
    """Find nodes without a cluster or in clusters with different settings, and hosts of clusters that are not nodes."""
    served = {host: kind for kind in ("login_nodes", "compute_nodes") for host in groups.get(kind, [])}
    clusters: dict[str, list[str]] = {}
    for name in known:
        for host in groups.get(f"cluster_{name}", []):
            clusters.setdefault(host, []).append(name)
    # Hosts of a group without a cluster were already reported with the group.
    reported = {host for group, hosts in groups.items() if group.startswith("cluster_") for host in hosts}
    alike: dict[tuple[str, str], list[str]] = {}
    for host in sorted({*served, *clusters}):
        member_of = clusters.get(host, [])
        settings = [
            (draft.get("software"), draft.get("firewall")) for draft in drafts if draft.get("name") in member_of
        ]
        if any(each != settings[0] for each in settings):
            message = (
                f"belongs to the clusters {listing(member_of)}, which have different software or firewall settings"
            )
            valid = "put it in one cluster, or give these clusters the same software and firewall"
        elif member_of and host not in served:
            message = f"is in cluster_{member_of[0]}, but in neither login_nodes nor compute_nodes"
            valid = f"add it to the group cluster_{member_of[0]}_login or cluster_{member_of[0]}_compute"
        elif not member_of and host not in reported:
            message = f"is in {served[host]}, but in no cluster"
            valid = f"add it to one of the groups {listing(f'cluster_{name}' for name in known)}"
        else:
            continue
        alike.setdefault((message, valid), []).append(host)
    for (message, valid), hosts in alike.items():
        many = len(hosts) > 5
        more = f"; the same holds for {listing(hosts[1:], 5)}" if many else ""
        for host in hosts[:1] if many else hosts:
            yield Problem(f"host {host}", message + more, valid=valid)
