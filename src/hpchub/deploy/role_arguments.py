"""Arguments of the roles that configure gates, derived from the model: commands, ssh keys, sockets, paths. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from hpchub.clusters.batch_script import version_file
from hpchub.model.host_places import host_settings
from hpchub.model.hub_sso import AccountCreation
from hpchub.model.places import EnginePlace, HostPlace, SwarmPlace
from hpchub.model.sso import LdapauthenticatorSso, OauthenticatorSso
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.model.entries import Access, Cluster, StateStore
    from hpchub.model.site import Site

ACCOUNT = "hpchub"
KEY_DIRECTORY = "/etc/hpchub/ssh"
SOCKET_DIRECTORY = "/run/hpchub"
CONTROL_DIRECTORY = "/run/jupyterhub"
SQLITE_FILE = "/var/lib/hpchub/jupyterhub.sqlite"
DATABASE_SOCKETS = "/var/run/postgresql"
PGPASS_FILE = "/var/lib/hpchub/pgpass"
DATABASE_CA_FILE = "/etc/hpchub/database-ca.pem"
HOST_KEYS = ("ed25519", "ecdsa", "rsa")


def submit_hosts(site: Site) -> list[str]:
    """Return the inventory's hosts that the hub submits to over ssh, in the order of the clusters."""
    return list(dict.fromkeys(host for cluster in site.clusters for host in cluster.submit.hosts))


def hub_side(site: Site, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the hub's side: ``[{"name", "method", "hosts": [{"name", "keys": ["TYPE BASE64", …]}]}]``.

    Args:
        site: The model.
        facts: Ansible's facts of each submit host, including its ssh host keys.

    Raises:
        LookupError: The host keys of a submit host are unknown.
    """
    clusters = []
    for cluster in site.clusters:
        hosts = [{"name": host, "keys": host_keys(facts.get(host, {}))} for host in cluster.submit.hosts]
        for host in hosts:
            if not host["keys"]:
                raise LookupError(
                    f"the ssh host keys of {host['name']}, a submit host of {cluster.name}, are unknown;"
                    " gather facts on this host"
                )
        clusters.append({"name": cluster.name, "method": cluster.submit.method, "hosts": hosts})
    return clusters


def host_keys(facts: Mapping[str, Any]) -> list[str]:
    """Return a host's public ssh keys as ``TYPE BASE64``, from Ansible's facts."""
    names = [f"ssh_host_key_{kind}_public" for kind in HOST_KEYS]
    return [f"{facts[f'{name}_keytype']} {facts[name]}" for name in names if name in facts]


def submit_side(
    site: Site, host: str, *, is_hub: bool, public_keys: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the clusters that a host submits for: ``[{"name", "method", "public_keys", "gate"}]``.

    Args:
        site: The model.
        host: The host's name in the inventory.
        is_hub: Whether this is the hub host, which submits for clusters with the method ``local``.
        public_keys: The hub's public keys for each cluster with the method ``ssh``: one, or two during a rotation.

    Raises:
        LookupError: The hub has no key for a cluster yet.
    """
    clusters = []
    for cluster in site.clusters:
        ssh = cluster.submit.method == "ssh"
        if not (host in cluster.submit.hosts if ssh else is_hub):
            continue
        if ssh and not public_keys.get(cluster.name):
            raise LookupError(
                f"the hub has no ssh key for cluster {cluster.name} yet; run the playbook for the hub too"
            )
        clusters.append(
            {
                "name": cluster.name,
                "method": cluster.submit.method,
                "public_keys": list(public_keys[cluster.name]) if ssh else [],
                "gate": gate_config(cluster, site.access),
            }
        )
    return clusters


def host_units(site: Site, host: str) -> dict[str, Any]:
    """Return the settings of a host that runs sessions without a scheduler, or an empty dict for another host."""
    places = [place for place in site.places if isinstance(place, HostPlace) and place.host == host]
    return host_settings(places[0], site.access, ACCOUNT) if places else {}


def gate_settings(site: Site) -> dict[str, dict[str, Any]]:
    """Return how the hub reaches each cluster's gate, as ``hpchub.clusters.gate_client.make_gate`` takes it."""
    gates: dict[str, dict[str, Any]] = {}
    for cluster in site.clusters:
        if cluster.submit.method == "local":
            gates[cluster.name] = {"method": "local", "socket": f"{SOCKET_DIRECTORY}/gate-{cluster.name}.sock"}
        else:
            gates[cluster.name] = {
                "method": "ssh",
                "hosts": cluster.submit.hosts,
                "user": ACCOUNT,
                "key": f"{KEY_DIRECTORY}/{cluster.name}",
                "known_hosts": f"{KEY_DIRECTORY}/known_hosts",
                "control_dir": CONTROL_DIRECTORY,
            }
    return gates


def gate_config(cluster: Cluster, access: Access) -> dict[str, Any]:
    """Return what the gate on a submit host may do for a cluster.

    Returns:
        The content of ``/etc/hpchub/gate.d/CLUSTER.json``: the argument vectors ``submit``, ``cancel``, ``query``,
        ``find``, ``limits``, ``usage``, ``quota`` and ``notebook_version``, lists of vectors ``limits_more`` and
        ``history``, the vectors of ``knowledge`` by topic, the query's message for an empty queue, the patterns of job
        ids and of users' names, the Unix groups of permitted users, and their lowest uid.
    """
    scheduler = SCHEDULERS[cluster.scheduler]
    return {
        "scheduler": scheduler.name,
        "submit": list(scheduler.submit_command),
        "cancel": list(scheduler.cancel_command),
        "query": list(scheduler.query_command),
        "no_jobs": scheduler.no_jobs,
        "find": list(scheduler.find_command),
        "limits": list(scheduler.limits_command),
        "limits_more": [list(command) for command in scheduler.limits_more],
        "history": [list(command) for command in scheduler.history_commands],
        "usage": list(scheduler.usage_command),
        "knowledge": {topic: list(command) for topic, command in scheduler.knowledge_commands.items()},
        "quota": list(cluster.quota_command),
        "notebook_version": ["cat", version_file(cluster)],
        "job_id_pattern": scheduler.job_id_pattern,
        "user_pattern": access.user_pattern,
        "permitted_groups": list(access.job_groups),
        "minimum_uid": access.minimum_uid,
        "environment": dict(cluster.submit.environment),
        "timeout": 60,
    }


def docker_gates(site: Site, host: str) -> list[dict[str, Any]]:
    """Return the gates of a Docker host: ``[{"name", "network", "is_local", "port", "policy"}]``.

    Args:
        site: The model.
        host: The name of the host in the inventory.
    """
    return [_docker_gate(site, each) for each in site.places if isinstance(each, EnginePlace) and each.host == host]


def docker_swarm(site: Site, host: str) -> dict[str, Any]:
    """Return the swarm that a Docker host belongs to, or an empty dictionary.

    Returns:
        ``{"place", "network", "manager": HOST, "workers": [HOST, …], "is_manager", "images": [IMAGE, …]}``.

    Args:
        site: The model.
        host: The name of the host in the inventory.
    """
    for place in site.places:
        if isinstance(place, SwarmPlace) and host in (place.host, *place.workers):
            return {
                "place": place.name,
                "network": place.network,
                "manager": place.host,
                "workers": list(place.workers),
                "is_manager": host == place.host,
                "images": [each.image for each in place.images],
            }
    return {}


def _docker_gate(site: Site, place: EnginePlace) -> dict[str, Any]:
    ports = site.service.notebook_ports
    policy = {
        "images": [{"image": each.image, "python": each.python} for each in place.images],
        "network": place.network,
        "home": place.home,
        "mounts": [each.model_dump(mode="json") for each in place.mounts],
        "max_cores": place.max_cores,
        "max_memory": mebibytes(place.max_memory) * 1024 * 1024,
        "max_runtime": seconds(place.max_runtime),
        "max_gpus": int(place.max_gpus),
        "pids": place.pids,
        "read_only": place.read_only,
        "published_at": place.published_at,
        "ports": [ports.first, ports.last],
        "minimum_uid": site.access.minimum_uid,
        "swarm": None,
    }
    if isinstance(place, SwarmPlace):
        policy["swarm"] = {"constraints": place.constraints, "limit_cores": place.limit_cores}
    return {
        "name": place.name,
        "network": place.network,
        "is_local": place.is_local,
        "socket": urlsplit(place.url).path if place.is_local else "",
        "host": urlsplit(place.url).hostname or "",
        "port": urlsplit(place.url).port or 2376,
        "policy": policy,
    }


def database_host(store: StateStore, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the name under which the hub reaches its PostgreSQL server, or an empty text if it is on the hub host.

    Args:
        store: The database of the site.
        groups: The hosts of each group of the inventory.
    """
    if not store.is_postgresql or store.location == "hub":
        return ""
    return store.host or next(iter(groups.get("state_store", [])), "")


def database_url(store: StateStore, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the URL of the hub's database, in the format of SQLAlchemy. It contains no password.

    The hub proves its identity to a server on its host by its account, and to another server by the password in a file.
    The server proves its identity by its certificate.

    Args:
        store: The database of the site.
        groups: The hosts of each group of the inventory.
    """
    if not store.is_postgresql:
        return f"sqlite:///{SQLITE_FILE}"
    options: dict[str, Any] = {"application_name": "hpchub", "connect_timeout": 5}
    if store.location == "hub":
        address = ""
        options |= {"host": DATABASE_SOCKETS, "port": store.port}
    else:
        address = f"{database_host(store, groups)}:{store.port}"
        options |= {
            "sslmode": "verify-full",
            "sslrootcert": DATABASE_CA_FILE,
            "passfile": PGPASS_FILE,
            # The hub notices within seconds that the network or the server is dead.
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "target_session_attrs": "read-write",
        }
    if store.location == "own_host":
        options["channel_binding"] = "require"  # only SCRAM has it
    return f"postgresql+psycopg://{store.user}@{address}/{store.database}?{urlencode(options)}"


def node_hosts(site: Site, groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the compute nodes of the inventory, and how the hub reaches them.

    A rule by pattern or interface needs the addresses that a job reports, so its clusters are left out.

    Args:
        site: The site.
        groups: The hosts of each group of the inventory.

    Returns:
        ``[{"cluster": NAME, "node": NAME, "host": NAME OR ADDRESS, "port": N}, …]``.
    """
    port = site.service.notebook_ports.first
    return [
        {"cluster": cluster.name, "node": node, "host": cluster.host_of(node), "port": port}
        for cluster in site.clusters
        if cluster.enabled and not (cluster.node_address.pattern or cluster.node_address.interface)
        for node in groups.get(f"cluster_{cluster.name}", [])
        if node in groups.get("compute_nodes", [])
    ]


def hub_sign_on(site: Site) -> dict[str, Any]:
    """Return the arguments of the role ``jupyterhub`` for a sign-on in the hub.

    Returns:
        ``{"settings": {…}, "secret": TEXT, "ca": PATH, "accounts": {…}}``. The settings are empty if the web
        server signs users in. They contain no secret.
    """
    sso = site.sso
    if not isinstance(sso, (OauthenticatorSso, LdapauthenticatorSso)):
        return {"settings": {}, "secret": "", "ca": "", "accounts": AccountCreation().model_dump(mode="json")}
    secret = sso.client_secret if isinstance(sso, OauthenticatorSso) else sso.bind_password
    common = {"claims", "user_mapping", "attributes", "require_second_factor"}
    return {
        "settings": sso.hub_settings() | sso.model_dump(mode="json", include=common),
        "secret": secret.get_secret_value(),
        "ca": sso.ca_bundle,
        "accounts": sso.create_accounts.model_dump(mode="json"),
    }
