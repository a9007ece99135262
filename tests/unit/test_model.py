"""The model reads a valid inventory, and reports each mistake in one line with entry, field, value and remedy."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import copy
import json
import re
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hpchub.messages import show
from hpchub.model.problems import Problem, SiteError, Unresolved
from hpchub.model.site import VARIABLES, Site, plain
from hpchub.model.sso import PROVIDERS, Sso
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Iterator

GONE: Any = object()

GOOD: dict[str, Any] = {
    "hpc_service": {
        "url": "https://hub.example.org:8443",
        "name": "Hub",
        "support": "help@example.org",
        "api_host": "hub",
    },
    "hpc_sso": {
        "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
        "client_secret": "W9x-real-secret",
    },
    "hpc_access": {"allowed_groups": ["hpc"], "admin_groups": ["admins"], "job_groups": ["hpc"]},
    "hpc_clusters": [
        {
            "name": "demo",
            "scheduler": "slurm",
            "submit": {"method": "ssh", "host": "login1"},
            "networks": ["10.0.0.0/8"],
            "software": {"path": "/opt/hpchub", "shared": True},
            "queues": [
                {"name": "interactive", "max_cores": 16, "max_memory": "64G", "max_runtime": "12:00:00"},
                {"name": "gpu", "max_cores": 8, "max_memory": "32G", "max_runtime": "1-00:00:00", "max_gpus": 2},
            ],
        }
    ],
    "hpc_profiles": [
        {
            "key": "small",
            "display_name": "Small",
            "cluster": "demo",
            "queue": "interactive",
            "cores": 2,
            "memory": "4G",
            "runtime": "8:00:00",
        },
        {
            "key": "gpu",
            "display_name": "GPU",
            "cluster": "demo",
            "queue": "gpu",
            "cores": 4,
            "memory": "16G",
            "runtime": "1-00:00:00",
            "gpus": 1,
            "options": ["--exclusive"],
        },
    ],
    "hpc_kernels": [
        {"name": "python3", "display_name": "Python 3", "kind": "python"},
        {"name": "ir", "display_name": "R", "kind": "r", "packages": ["r-cran-irkernel"]},
    ],
}


def app(name: str, **more: Any) -> dict[str, Any]:
    """Return an entry of hpc_apps."""
    return {"name": name, "kind": "web", "command": ["tensorboard", "{port}"], **more}


GROUPS = {
    "all": ["hub", "login1", "compute1"],
    "hub": ["hub"],
    "login_nodes": ["login1"],
    "compute_nodes": ["compute1"],
    "cluster_demo": ["login1", "compute1"],
    "cluster_demo_login": ["login1"],
    "cluster_demo_compute": ["compute1"],
}

CLUSTER, SMALL, GPU = 'hpc_clusters[0] (name "demo")', 'hpc_profiles[0] (key "small")', 'hpc_profiles[1] (key "gpu")'
QUEUE = f'{CLUSTER} queues[0] (name "interactive")'


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the valid site with one change. ``path`` is dotted; numbers are list positions and ``+`` appends."""
    site = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    at: Any = site
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    if last == "+":
        at.append(value)
    elif value is GONE:
        del at[int(last) if last.isdigit() else last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return site


def complaint(scheduler: str, option: str) -> tuple[str, str]:
    """Return what is wrong with an option, and what is valid. Fail if the option is valid."""
    found = SCHEDULERS[scheduler].option_problem(option)
    assert found is not None
    return found


def problems(variables: dict[str, Any], groups: Any = None) -> list[str]:
    with pytest.raises(SiteError) as caught:
        Site.from_vars(variables, None if groups is None else {"groups": groups})
    return [str(problem) for problem in caught.value.problems]


# Each case has one change, and the beginning of the message that it must cause.
WRONG: list[tuple[str, Any, str]] = [
    # references and values
    ("hpc_profiles.0.queue", "interactve", f'{SMALL}: queue "interactve" is not a queue of cluster "demo"; did you mean "interactive"? valid: interactive, gpu'),
    ("hpc_profiles.0.cluster", "dmo", f'{SMALL}: cluster "dmo" is not a cluster of hpc_clusters; did you mean "demo"? valid: demo'),
    ("hpc_profiles.0.memory", "4 GB", f'{SMALL}: memory "4 GB" is not a size; write a number and M, G or T, as in 4G'),
    ("hpc_profiles.0.runtime", "8h", f'{SMALL}: runtime "8h" is not a time; write hours, minutes and seconds, as in "8:00:00"'),
    ("hpc_profiles.1.key", "small", 'hpc_profiles[1] (key "small"): key "small" is already used by entry 0'),
    ("hpc_clusters.0.scheduler", "slrum", f'{CLUSTER}: scheduler "slrum" is unknown; did you mean "slurm"? available: slurm'),
    ("hpc_profiles.0.cores", 17, f'{SMALL}: cores 17 is above max_cores 16 of queue "interactive" of cluster "demo"; request at most 16'),
    ("hpc_profiles.0.memory", "1T", f'{SMALL}: memory "1T" is above max_memory "64G" of queue "interactive"'),
    ("hpc_profiles.0.runtime", "1-00:00:00", f'{SMALL}: runtime "1-00:00:00" is above max_runtime "12:00:00" of queue'),
    ("hpc_profiles.0.gpus", 1, f'{SMALL}: gpus 1 is above max_gpus 0 of queue "interactive"'),
    ("hpc_kernels.0.kind", "pyton", 'hpc_kernels[0] (name "python3"): kind "pyton" is unknown; did you mean "python"? valid: python, r, venv, conda, module, container, command'),
    ("hpc_profile", [], 'hpc_profile: is not a variable of hpchub; did you mean "hpc_profiles"?'),
    ("hcp_profiles", [], 'hcp_profiles: is not a variable of hpchub; did you mean "hpc_profiles"?'),
    ("hpc_colour", "red", "hpc_colour: is not a variable of hpchub; valid: hpc_service, hpc_sso"),
    # shapes
    ("hpc_profiles", {}, "hpc_profiles: {} is a mapping, not a list"),
    ("hpc_profiles", None, "hpc_profiles: null is empty, not a list"),
    ("hpc_profiles", [], "hpc_profiles: is empty; add at least one entry"),
    ("hpc_profiles", GONE, "hpc_profiles: is missing; add it to the inventory's group_vars/all"),
    ("hpc_clusters", GONE, "hpc_clusters: is missing"),
    ("hpc_service", GONE, "hpc_service: is missing"),
    ("hpc_service", "https://x", "hpc_service: is text, not a mapping"),
    ("hpc_profiles.0", "small", "hpc_profiles[0]: is text, not a mapping; write key: value lines"),
    ("hpc_profiles.0", None, "hpc_profiles[0]: is empty, not a mapping"),
    ("hpc_profiles.0.cores", "2", f'{SMALL}: cores "2" is text, not a number; write a whole number from 1 to 100000, without quotes'),
    ("hpc_profiles.0.cores", True, f"{SMALL}: cores true is not a whole number"),
    ("hpc_profiles.0.cores", 2.5, f"{SMALL}: cores 2.5 is not a whole number"),
    ("hpc_profiles.0.cores", None, f"{SMALL}: cores null is empty; write a whole number"),
    ("hpc_profiles.0.cores", 0, f"{SMALL}: cores 0 is below 1"),
    ("hpc_profiles.0.cores", GONE, f"{SMALL}: cores is missing; add it"),
    ("hpc_profiles.0.memory", 4096, f"{SMALL}: memory 4096 is a number, not a size; write a number and M"),
    ("hpc_profiles.0.memory", "0G", f'{SMALL}: memory "0G" is zero'),
    ("hpc_profiles.0.runtime", 28800, f"{SMALL}: runtime 28800 is a number, because YAML reads a time without quotes as seconds"),
    ("hpc_profiles.0.runtime", "0:00:00", f'{SMALL}: runtime "0:00:00" is zero'),
    ("hpc_profiles.0.runtime", "1:75:00", f'{SMALL}: runtime "1:75:00" has more than 59 minutes'),
    ("hpc_profiles.0.runtime", "1-25:00:00", f'{SMALL}: runtime "1-25:00:00" has more than 59 minutes or seconds, or days and more'),
    ("hpc_profiles.0.display_name", ["Small"], f'{SMALL}: display_name ["Small"] is a list, not text of one line'),
    ("hpc_profiles.0.display_name", "Small\nBig", f'{SMALL}: display_name "Small\\nBig" contains a line break'),
    ("hpc_profiles.0.memmory", "4G", f'{SMALL}: "memmory" is an unknown key; did you mean "memory"?'),
    ("hpc_profiles.0.zzz", "4G", f'{SMALL}: "zzz" is an unknown key; valid keys: key, display_name,'),
    ("hpc_profiles.0.interface", "labb", f'{SMALL}: interface "labb" is unknown; did you mean "lab"? valid: lab, notebook'),
    ("hpc_profiles.0.key", "Small One", 'hpc_profiles[0] (key "Small One"): key "Small One" is not a profile\'s key'),
    ("hpc_profiles.0.default_kernel", "pyhton3", f'{SMALL}: default_kernel "pyhton3" is not a kernel of cluster "demo"; did you mean "python3"? valid: python3, ir'),
    # values that are written into batch scripts
    ("hpc_profiles.0.account", "a\n#SBATCH --uid=0", f'{SMALL}: account "a\\n#SBATCH --uid=0" contains a line break'),
    ("hpc_profiles.0.account", 'a"b', f'{SMALL}: account "a\\"b" is not an account'),
    ("hpc_profiles.0.account", "a b", f'{SMALL}: account "a b" is not an account'),
    ("hpc_profiles.0.account", 4041, f"{SMALL}: account 4041 is a number, not text; put it in quotes"),
    ("hpc_profiles.0.reservation", "r;reboot", f'{SMALL}: reservation "r;reboot" is not a reservation'),
    ("hpc_profiles.0.node_constraint", "a$(b)", f'{SMALL}: node_constraint "a$(b)" is not a constraint'),
    ("hpc_profiles.0.options", "--exclusive", f'{SMALL}: options "--exclusive" is text, not a list'),
    ("hpc_profiles.0.options", ["exclusive"], f'{SMALL}: options[0] "exclusive" is not an option'),
    ("hpc_profiles.0.options", ["--time=1"], f'{SMALL}: options "--time=1" repeats the field runtime'),
    ("hpc_profiles.0.options", ["--wrap=id"], f'{SMALL}: options "--wrap=id" is set by hpchub; leave it out'),
    ("hpc_profiles.0.options", ["--a\n#SBATCH --uid=0"], f'{SMALL}: options[0] "--a\\n#SBATCH --uid=0" contains a line break'),
    ("hpc_clusters.0.queues.0.name", "a b", f'{CLUSTER} queues[0] (name "a b"): name "a b" is not a queue\'s name'),
    # clusters
    ("hpc_clusters.0.name", "Demo-1", 'hpc_clusters[0] (name "Demo-1"): name "Demo-1" is not a cluster\'s name'),
    ("hpc_clusters.0.name", "demo_login", 'hpc_clusters[0] (name "demo_login"): name "demo_login" ends like the name of the inventory group of a cluster\'s nodes; choose a name that does not end in _login or _compute'),
    ("hpc_clusters.0.submit", {"method": "ssh"}, f'{CLUSTER}: submit has the method "ssh" but no host'),
    ("hpc_clusters.0.submit", {"method": "local", "host": "x"}, f'{CLUSTER}: submit has the method "local" but also a host'),
    ("hpc_clusters.0.submit.method", "telnet", f'{CLUSTER}: submit.method "telnet" is unknown; valid: ssh or local'),
    ("hpc_clusters.0.networks", ["10.0.0.1/8"], f'{CLUSTER}: networks[0] "10.0.0.1/8" has bits set after its prefix; write 10.0.0.0/8'),
    ("hpc_clusters.0.networks", ["10.0.0.0"], f'{CLUSTER}: networks[0] "10.0.0.0" is not a network'),
    ("hpc_clusters.0.networks", ["0.0.0.0/0"], f'{CLUSTER}: networks[0] "0.0.0.0/0" admits every address'),
    ("hpc_clusters.0.networks", ["10.0.0.0/33"], f'{CLUSTER}: networks[0] "10.0.0.0/33" is not a network'),
    ("hpc_clusters.0.networks", [], f"{CLUSTER}: networks is empty; write at least one"),
    ("hpc_clusters.0.software.path", "opt/hpchub", f'{CLUSTER}: software.path "opt/hpchub" is not an absolute path'),
    ("hpc_clusters.0.software.path", "/opt/../etc", f'{CLUSTER}: software.path "/opt/../etc" contains ..'),
    ("hpc_clusters.0.software.shared", "yes", f'{CLUSTER}: software.shared "yes" is neither true nor false'),
    ("hpc_clusters.0.queues.1.name", "interactive", f'{CLUSTER} queues[1] (name "interactive"): name "interactive" is already used by entry 0'),
    ("hpc_clusters.0.queues.0.max_memory", "64 GB", f'{QUEUE}: max_memory "64 GB" is not a size'),
    ("hpc_clusters.0.queues.0.max_cors", 3, f'{QUEUE}: "max_cors" is an unknown key; did you mean "max_cores"?'),
    ("hpc_clusters.0.queues.0.max_runtime", 43200, f"{QUEUE}: max_runtime 43200 is a number, because YAML reads a time"),
    ("hpc_clusters.0.queues.0.max_cores", GONE, f"{QUEUE}: max_cores is missing"),
    ("hpc_clusters.+", GOOD["hpc_clusters"][0], 'hpc_clusters[1] (name "demo"): name "demo" is already used by entry 0'),
    # service
    ("hpc_service.url", "http://hub.example.org", 'hpc_service: url "http://hub.example.org" is not a service\'s address; write https'),
    ("hpc_service.url", "https://hub.example.org/jupyter", "hpc_service: url"),
    ("hpc_service.url", "https://hub.example.org/", "hpc_service: url"),
    ("hpc_service.url", "https://me:pw@hub.example.org", "hpc_service: url"),
    ("hpc_service.url", "https://hub.example.org:99999", 'hpc_service: url "https://hub.example.org:99999" has an invalid port'),
    ("hpc_service", {"url": "https://192.0.2.1", "user_subdomains": True}, "hpc_service: user_subdomains true needs host names below 192.0.2.1, which is an IP address; use a host name in url"),
    ("hpc_service.user_subdomains", "yes", 'hpc_service: user_subdomains "yes" is neither true nor false; write true or false, without quotes'),
    ("hpc_service.api_port", 8443, "hpc_service: api_port 8443 is also the port of the service"),
    ("hpc_service.api_port", 20001, "hpc_service: api_port 20001 is one of the notebook_ports, 20000 to 29999"),
    ("hpc_service.notebook_ports", {"first": 30000, "last": 20000}, "hpc_service: notebook_ports has first 30000 above last 20000"),
    ("hpc_service.notebook_ports", {"first": 80, "last": 20000}, "hpc_service: notebook_ports.first 80 is below 1024"),
    ("hpc_service.notebook_ports", {"frist": 2000}, 'hpc_service: notebook_ports "frist" is an unknown key; did you mean "first"?'),
    # identity
    ("hpc_sso.provider", "oicd", 'hpc_sso: provider is unknown; did you mean "oidc"? available: oidc'),
    ("hpc_sso.provider", None, "hpc_sso: provider is empty, not text; available: oidc"),
    ("hpc_sso.client_scret", "x", 'hpc_sso: "client_scret" is an unknown key; did you mean "client_secret"?'),
    ("hpc_sso.metadata_url", "http://sso.example.org/x", "hpc_sso: metadata_url is not an address"),
    ("hpc_sso.client_secret", "CHANGE ME", "hpc_sso: client_secret is still a placeholder; put the real secret into the inventory's vault"),
    ("hpc_sso.client_secret", "", "hpc_sso: client_secret is empty"),
    ("hpc_sso.client_secret", 12345678, "hpc_sso: client_secret is a number, not text"),
    ("hpc_sso.client_secret", "exec:/bin/sh", "hpc_sso: client_secret contains one of"),
    ("hpc_sso.client_secret", GONE, "hpc_sso: client_secret is missing"),
    ("hpc_sso.scopes", ["profile"], "hpc_sso: scopes does not contain openid"),
    ("hpc_sso.claims", {"user": "a b"}, "hpc_sso: claims.user is not a claim's name"),
    ("hpc_sso.ca_bundle", "ca.pem", "hpc_sso: ca_bundle is not an absolute path"),
    ("hpc_access.allowed_groups", "hpc", 'hpc_access: allowed_groups "hpc" is text, not a list'),
    ("hpc_access.allowed_groups", ["hpc "], 'hpc_access: allowed_groups[0] "hpc " begins or ends with a blank'),
    ("hpc_access.allowed_groups", ["a\nb"], 'hpc_access: allowed_groups[0] "a\\nb" contains a line break'),
    ("hpc_access.admin_groups", ["x" * 256], "hpc_access: admin_groups[0] "),
    ("hpc_access.admin_users", ["root"], 'hpc_access: admin_users[0] "root" is not a user\'s name'),
    ("hpc_access.admin_users", ["Root@CL.ORG"], 'hpc_access: admin_users[0] "Root@CL.ORG" is not a user\'s name'),
    ("hpc_access.admin_users", ["1000"], 'hpc_access: admin_users[0] "1000" is not a user\'s name'),
    ("hpc_access.allowed_users", ["a b"], 'hpc_access: allowed_users[0] "a b" is not a user\'s name'),
    ("hpc_access.allowed_users", ["-x"], 'hpc_access: allowed_users[0] "-x" is not a user\'s name'),
    ("hpc_access.allowed_users", [".."], 'hpc_access: allowed_users[0] ".." is not a user\'s name'),
    ("hpc_access.allowed_users", ["Alice"], 'hpc_access: allowed_users "Alice" does not match user_pattern, "[a-z_][a-z0-9_-]{0,31}"; correct the name'),
    ("hpc_access.blocked_users", ["AB1234"], 'hpc_access: blocked_users "AB1234" does not match user_pattern'),
    ("hpc_access.job_groups", ["root"], 'hpc_access: job_groups[0] "root" is root\'s group'),
    ("hpc_access.job_groups", [0], "hpc_access: job_groups[0] 0 is not a numeric id"),
    ("hpc_access.job_groups", ["0"], 'hpc_access: job_groups[0] "0" is root\'s group or not a numeric id'),
    ("hpc_access.job_groups", ["%hpc"], 'hpc_access: job_groups[0] "%hpc" begins with # : % or +'),
    ("hpc_access.job_groups", ['a"b'], 'hpc_access: job_groups[0] "a\\"b" begins with # : % or +, contains "'),
    ("hpc_access.user_pattern", "[a-z", 'hpc_access: user_pattern "[a-z" contains "["; use literal characters'),
    ("hpc_access.user_pattern", "(a", 'hpc_access: user_pattern "(a" is not a regular expression: '),
    ("hpc_access.user_pattern", ".*", 'hpc_access: user_pattern ".*" admits "a/b", which can never be a user\'s name'),
    ("hpc_access.user_pattern", "[^@]+", 'hpc_access: user_pattern "[^@]+" admits "a/b"'),
    ("hpc_access.user_pattern", "[a-z]*", 'hpc_access: user_pattern "[a-z]*" admits ""'),
    ("hpc_access.user_pattern", "[a-z/]+", 'hpc_access: user_pattern "[a-z/]+" contains '),
    ("hpc_access.user_pattern", "(?i)[a-z]+", 'hpc_access: user_pattern "(?i)[a-z]+" uses a construct that not all components'),
    ("hpc_access.user_pattern", "a++", 'hpc_access: user_pattern "a++" uses a construct'),
    ("hpc_access.user_pattern", "a$|b", 'hpc_access: user_pattern "a$|b" contains "$"'),
    ("hpc_access.user_pattern", 'a" x', "hpc_access: user_pattern "),
    ("hpc_access.user_pattern", "[a-z]%{REMOTE_USER}", "hpc_access: user_pattern "),
    ("hpc_access.user_pattern", "", 'hpc_access: user_pattern "" is empty'),
    ("hpc_access.user_pattern", "a" * 201, "hpc_access: user_pattern "),
    ("hpc_sso.claims", {"groups_separator": "and"}, "hpc_sso: claims.groups_separator is not a separator"),
    ("hpc_access.minimum_uid", 0, "hpc_access: minimum_uid 0 is below 500"),
    ("hpc_tls", {"certificate": "hub.pem", "key": "/k"}, 'hpc_tls: certificate "hub.pem" is not an absolute path'),
    ("hpc_tls", {"certificate": "/hub.pem"}, "hpc_tls: key is empty; set both certificate and key, or neither"),
    ("hpc_tls", {"ca": "/ca.pem"}, 'hpc_tls: ca "/ca.pem" is set, but certificate is not'),
    ("hpc_state_store", {"backend": "mysql"}, "hpc_state_store: backend is unknown; available: sqlite, postgresql"),
    ("hpc_state_store", {"backend": "postgres"}, 'hpc_state_store: backend is unknown; did you mean "postgresql"?'),
    ("hpc_state_store", {"host": "db1"}, 'hpc_state_store: host is set, but backend is "sqlite", which is a file; remove it, or set backend: postgresql'),
    ("hpc_state_store", {"backend": "postgresql", "location": "remote"}, "hpc_state_store: location is unknown; available: hub, own_host, existing"),
    ("hpc_state_store", {"backend": "postgresql", "host": "db1"}, 'hpc_state_store: host has no meaning for location "hub"; remove it'),
    ("hpc_state_store", {"backend": "postgresql", "password": "x7"}, 'hpc_state_store: password has no meaning for location "hub"; remove it'),
    ("hpc_state_store", {"backend": "postgresql", "user": "hub"}, "hpc_state_store: user is not the hub's account"),
    ("hpc_state_store", {"backend": "postgresql", "location": "existing", "password": "x7"}, "hpc_state_store: host is missing; add the name of the server"),
    ("hpc_state_store", {"backend": "postgresql", "location": "existing", "host": "db1"}, "hpc_state_store: password is missing; add it, and keep it in the vault"),
    ("hpc_state_store", {"backend": "postgresql", "location": "existing", "host": "db1", "password": "changeme"}, "hpc_state_store: password is still a placeholder"),
    ("hpc_state_store", {"backend": "postgresql", "location": "existing", "host": "db1", "password": 7}, "hpc_state_store: password is a number, not text"),
    ("hpc_state_store", {"backend": "postgresql", "location": "existing", "host": "postgresql://u:hunter2@db1", "password": "x7"}, "hpc_state_store: host is not a host's name; write a host name"),
    ("hpc_state_store", {"backend": "postgresql", "location": "own_host", "tls_key": "/k"}, "hpc_state_store: tls_certificate is empty; set both"),
    ("hpc_state_store", {"backend": "postgresql", "location": "own_host", "tls_ca": "/ca"}, "hpc_state_store: tls_ca is set, but tls_certificate is not"),
    ("hpc_state_store", {"backend": "postgresql", "location": "own_host", "database": "Hub"}, "hpc_state_store: database is not a name in PostgreSQL"),
    ("hpc_state_store", {"backend": "postgresql", "location": "own_host", "port": 0}, "hpc_state_store: port is below 1"),
    ("hpc_backup", {"recipients": ["AGE-SECRET-KEY-1QQQQ"]}, "hpc_backup: recipients[0] is a private key"),
    ("hpc_backup", {"recipients": ["age1short"]}, "hpc_backup: recipients[0] is not a public key"),
    ("hpc_backup", {"keep": 0}, "hpc_backup: keep is below 1"),
    ("hpc_events", {"keep_days": -1}, "hpc_events: keep_days -1 is below 0"),
    ("hpc_events", {"keep_days": "forever"}, 'hpc_events: keep_days "forever"'),
    ("hpc_events", {"pseudonyms": "often"}, 'hpc_events: pseudonyms "often" is neither'),
    ("hpc_events", {"keep": 30}, 'hpc_events: "keep" is an unknown key'),
    ("hpc_backup", {"directory": "/var/lib"}, "hpc_backup: directory is a directory of the operating system"),
    ("hpc_backup", {"copy_command": ["/usr/bin/rsync"]}, "hpc_backup: has a copy_command that does not name the backup"),
    ("hpc_backup", {"copy_command": ["rsync", "{file}"]}, "hpc_backup: has a copy_command without the full path"),
    ("hpc_monitoring", {"metrics": True}, 'hpc_monitoring: "metrics" is an unknown key; valid keys: metrics_networks, json_logs, audit_days'),
    ("hpc_monitoring", {"metrics_networks": ["0.0.0.0/0"]}, 'hpc_monitoring: metrics_networks[0] "0.0.0.0/0" admits every address; name the addresses of the Prometheus servers, as in 10.20.0.7/32'),
    ("hpc_monitoring", {"metrics_networks": ["10.0.0.0/6"]}, 'hpc_monitoring: metrics_networks[0] "10.0.0.0/6" has bits set'),
    ("hpc_monitoring", {"metrics_networks": ["128.0.0.0/1"]}, 'hpc_monitoring: metrics_networks[0] "128.0.0.0/1" is larger than any cluster\'s network; name the addresses'),
    ("hpc_monitoring", {"metrics_networks": ["prometheus.example.org"]}, 'hpc_monitoring: metrics_networks[0] "prometheus.example.org" is not a network; write an address'),
    ("hpc_monitoring", {"json_logs": "yes"}, 'hpc_monitoring: json_logs "yes" is neither true nor false'),
    ("hpc_monitoring", {"audit_days": 0}, "hpc_monitoring: audit_days 0 is below 1; write a whole number from 1 to 3650"),
    ("hpc_canary", {"enabled": True}, "hpc_canary: is enabled without a user; set user to an account that may run jobs"),
    ("hpc_canary", {"enabled": "yes", "user": "probe"}, 'hpc_canary: enabled "yes" is neither true nor false'),
    ("hpc_canary", {"user": "root"}, 'hpc_canary: user "root" is not a user\'s name'),
    ("hpc_canary", {"user": "Probe!"}, 'hpc_canary: user "Probe!" is not a user\'s name'),
    ("hpc_canary", {"profiles": ["smal"]}, 'hpc_canary: profiles "smal" is not in hpc_profiles'),
    ("hpc_canary", {"kernels": ["pyhton3"]}, 'hpc_canary: kernels "pyhton3" is not in hpc_kernels; did you mean "python3"?'),
    ("hpc_canary", {"minutes": 0}, "hpc_canary: minutes 0 is below 1; write a whole number from 1 to 1440"),
    ("hpc_canary", {"schedule": "$(x)"}, 'hpc_canary: schedule "$(x)" is not a time of systemd'),
    ("hpc_canary", {"connect_to": "https://x"}, 'hpc_canary: connect_to "https://x" is not a host\'s name; write a host name or an address'),
    # kernels
    ("hpc_kernels.0.kind", GONE, 'hpc_kernels[0] (name "python3"): kind is missing; valid: python, r'),
    ("hpc_kernels.0.kind", ["python"], 'hpc_kernels[0] (name "python3"): kind ["python"] is unknown'),
    ("hpc_kernels.1.name", "python3", 'hpc_kernels[1] (name "python3"): name "python3" is already used by entry 0'),
    ("hpc_kernels.1.clusters", ["dmo"], 'hpc_kernels[1] (name "ir"): clusters "dmo" is not a cluster of hpc_clusters; did you mean "demo"?'),
    ("hpc_kernels.1.command", "bin/R", 'hpc_kernels[1] (name "ir"): command "bin/R" is neither the name of a command nor an absolute path'),
    ("hpc_kernels.+", {"name": "v", "kind": "venv", "path": "venv"}, 'hpc_kernels[2] (name "v"): path "venv" is not an absolute path'),
    ("hpc_kernels.+", {"name": "v", "kind": "venv"}, 'hpc_kernels[2] (name "v"): path is missing'),
    ("hpc_kernels.+", {"name": "m", "kind": "module", "modules": ["a; b"]}, 'hpc_kernels[2] (name "m"): modules[0] "a; b" is not a module\'s name'),
    ("hpc_kernels.+", {"name": "c", "kind": "command", "command": ["x"], "language": "x"}, 'hpc_kernels[2] (name "c"): command ["x"] does not contain {connection_file}'),
    ("hpc_kernels.+", {"name": "c", "kind": "container", "image": "docker://x"}, 'hpc_kernels[2] (name "c"): image "docker://x" is not an absolute path'),
    ("hpc_kernels.+", {"name": "c", "kind": "python", "environment": {"A": 4}}, 'hpc_kernels[2] (name "c"): environment.A is a number, not text'),
    ("hpc_kernels.+", {"name": "c", "kind": "python", "environment": {"A B": "4"}}, 'hpc_kernels[2] (name "c"): environment."A B" is not an environment variable\'s name'),
    ("hpc_install_environment", {"A": 4}, "hpc_install_environment: A is a number, not text"),
    ("hpc_install_environment", ["A=4"], "hpc_install_environment: is a list, not a mapping"),
    # applications
    ("hpc_apps", [{"name": "tb", "kind": "wep"}], 'hpc_apps[0] (name "tb"): kind "wep" is unknown; valid: dask, desktop, rstudio, spark, vscode, web'),
    ("hpc_apps", [app("TB")], 'hpc_apps[0] (name "TB"): name "TB" is not an application\'s name; write a small letter'),
    ("hpc_apps", [app("../x")], 'hpc_apps[0] (name "../x"): name "../x" is not an application\'s name'),
    ("hpc_apps", [app("lab")], 'hpc_apps[0] (name "lab"): name "lab" is a path of the notebook server; choose another one, such as my-lab'),
    ("hpc_apps", [app("proxy")], 'hpc_apps[0] (name "proxy"): name "proxy" is a path of the notebook server'),
    ("hpc_apps", [app("tb"), app("tb")], 'hpc_apps[1] (name "tb"): name "tb" is already used by entry 0'),
    ("hpc_apps", [app("tb", command=["tb"])], 'hpc_apps[0] (name "tb"): command ["tb"] contains neither {socket} nor {port}; write one of them'),
    ("hpc_apps", [app("tb", command=["{port}", "{socket}"])], 'hpc_apps[0] (name "tb"): command ["{port}", "{socket}"] contains both {socket} and {port}'),
    ("hpc_apps", [app("tb", command=[])], 'hpc_apps[0] (name "tb"): command is empty'),
    ("hpc_apps", [app("tb", clusters=["dmo"])], 'hpc_apps[0] (name "tb"): clusters "dmo" is unknown; did you mean "demo"?'),
    ("hpc_apps", [app("tb", open="window")], 'hpc_apps[0] (name "tb"): open "window" is unknown; valid: lab or tab'),
    ("hpc_apps", [app("tb", start_limit=0)], 'hpc_apps[0] (name "tb"): start_limit 0 is below 1'),
    ("hpc_apps", [app("tb", icon="tb.svg")], 'hpc_apps[0] (name "tb"): icon "tb.svg" is not an absolute path'),
    ("hpc_apps", [{"name": "vnc", "kind": "desktop", "geometry": "800"}], 'hpc_apps[0] (name "vnc"): geometry "800" is not a size; write the width and the height in pixels, as in 1280x800'),
    ("hpc_apps", [{"name": "vnc", "kind": "desktop", "session": []}], 'hpc_apps[0] (name "vnc"): session is empty'),
    ("hpc_apps", [{"name": "r", "kind": "rstudio", "r": "R"}], 'hpc_apps[0] (name "r"): r "R" is not an absolute path'),
    ("hpc_apps", [{"name": "r", "kind": "rstudio", "command": ["rserver"]}], 'hpc_apps[0] (name "r"): "command" is an unknown key'),
    ("hpc_apps", [{"name": "code", "kind": "vscode", "extensions_directory": "ext"}], 'hpc_apps[0] (name "code"): extensions_directory "ext" is not an absolute path'),
    ("hpc_apps", [{"name": "code", "kind": "vscode", "command": ["code-server"]}], 'hpc_apps[0] (name "code"): "command" is an unknown key'),
    ("hpc_apps", [app("tb", geometry="800x600")], 'hpc_apps[0] (name "tb"): "geometry" is an unknown key'),
    ("hpc_apps", [app("tb", modules=["a; b"])], 'hpc_apps[0] (name "tb"): modules[0] "a; b" is not a module\'s name'),
    # values that Ansible could not evaluate
    ("hpc_sso.client_secret", Unresolved("'vault_x' is undefined"), "hpc_sso: client_secret cannot be evaluated: 'vault_x' is undefined; define it in the inventory"),
    ("hpc_profiles", Unresolved("'x' is undefined"), "hpc_profiles: cannot be evaluated: 'x' is undefined"),
    ("hpc_kernels.0.kind", Unresolved("'x' is undefined"), 'hpc_kernels[0] (name "python3"): kind cannot be evaluated'),
    ("hpc_profiles.0.cluster", Unresolved("'x' is undefined"), f"{SMALL}: cluster cannot be evaluated"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "expected"), WRONG, ids=[f"{w[0]}={show(w[1] if w[1] is not GONE else '(gone)', 30)}" for w in WRONG])  # fmt: skip
def test_one_mistake_is_reported_in_one_line(path: str, value: Any, expected: str) -> None:
    found = problems(changed(path, value))
    matching = [line for line in found if line.startswith(expected)]
    assert matching, found
    others = [line for line in found if line not in matching]
    # Other entries may refer to a wrong name. One mistake must not cause any other message.
    assert all("is not a" in line for line in others), others
    assert all("\n" not in line for line in found)


def wrong_groups() -> list[tuple[str, dict[str, list[str]], str]]:

    def without(group: str) -> dict[str, list[str]]:
        return {name: hosts for name, hosts in GROUPS.items() if name != group}

    return [
        ("no-hub", GROUPS | {"hub": []}, "group hub: has 0 hosts; put exactly one host into it"),
        ("two-hubs", GROUPS | {"hub": ["hub", "login1"]}, "group hub: has 2 hosts (hub, login1)"),
        ("no-group", without("cluster_demo"), f"{CLUSTER}: has no group cluster_demo in the inventory"),
        ("no-compute", GROUPS | {"compute_nodes": []}, f"{CLUSTER}: has no compute node: no host is in both"),
        ("stray", GROUPS | {"cluster_demi": ["x"]}, 'group cluster_demi: is named after the cluster "demi", which is not in hpc_clusters; did you mean "demo"?'),
        ("stray-login", GROUPS | {"cluster_demi_login": ["x"]}, 'group cluster_demi_login: is named after the cluster "demi", which is not in hpc_clusters; did you mean "demo"?'),
        ("no-host", GROUPS | {"cluster_demo": ["compute1"], "login_nodes": [], "all": [], "cluster_demo_login": []}, f'{CLUSTER}: submit.host "login1" is not a host of the inventory'),
        ("not-login", GROUPS | {"login_nodes": []}, f'{CLUSTER}: submit.host "login1" is not in both cluster_demo and login_nodes'),
        ("no-node", GROUPS | {"cluster_demo": ["login1", "compute1", "disk"]}, "host disk: is in cluster_demo, but in neither login_nodes nor compute_nodes; add it to the group cluster_demo_login or cluster_demo_compute"),
        ("host-without-cluster", GROUPS | {"compute_nodes": ["compute1", "hub"]}, "host hub: is in compute_nodes, but in no cluster"),
    ]  # fmt: skip


@pytest.mark.parametrize(("groups", "expected"), [c[1:] for c in wrong_groups()], ids=[c[0] for c in wrong_groups()])
def test_inventory_groups_must_match_the_clusters(groups: Any, expected: str) -> None:
    found = problems(GOOD, groups)
    # A host that was removed from a group has an additional message.
    matching = [line for line in found if line.startswith(expected)]
    assert matching, found
    assert matching == [line for line in found if not line.startswith("host ") or expected.startswith("host ")]


@pytest.mark.parametrize("software", ["/opt/hpchub", "/opt/other"])
def test_clusters_may_share_a_node_only_with_the_same_software(software: str) -> None:
    (first,) = GOOD["hpc_clusters"]
    second = first | {"name": "second", "software": {"path": software}}
    first = first | {"software": {"path": "/opt/hpchub"}}
    groups = GROUPS | {"cluster_second": ["login1", "compute1"]}
    if software == "/opt/hpchub":
        assert Site.from_vars(GOOD | {"hpc_clusters": [first, second]}, {"groups": groups}).cluster("second")
    else:
        found = problems(GOOD | {"hpc_clusters": [first, second]}, groups)
        assert any(
            "host login1: belongs to the clusters demo, second, which have different software or firewall settings; put it in one cluster"
            in one
            for one in found
        )


def test_valid_site_is_read() -> None:
    site = Site.from_vars(GOOD | {"ansible_user": "root", "http_proxy": "x"}, {"groups": GROUPS})
    assert site.service.bind_port == 8443
    assert site.service.notebook_ports.first == 20000
    assert site.sso.claims.user == "preferred_username"
    profile, cluster = site.profile("gpu"), site.cluster("demo")
    assert profile is not None
    assert (profile.memory_mib, profile.runtime_seconds) == (16384, 86400)
    assert cluster is not None
    queue = cluster.queue("gpu")
    assert queue is not None
    assert queue.max_gpus == 2
    assert site.cluster("nope") is None
    assert site.warnings() == []


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("[a-z]+[.][a-z]+", "first.last"),
        (r"^[a-z]+\.[a-z]+$", "first.last"),
        ("[0-9]{4}[a-z]{3}", "2023abc"),
        ("(?:[A-Z]{2}|x)[0-9]+", "AB1234"),
        (r"[a-z]+(?:\.[a-z]+)*@CL\.ORG", "ann@CL.ORG"),
        ("[A-Za-z0-9._@-]+", "Ann-Lee@cl.org"),
        (r"\w[\w.-]*", "a.b"),
        ("[^@]{1,8}x?", None),
    ],
)
def test_site_chooses_the_names_of_its_users(pattern: str, name: str | None) -> None:
    variables = GOOD | {"hpc_access": {"user_pattern": pattern, "allowed_users": [name], "job_groups": ["hpc"]}}
    if name is None:
        assert problems(variables)
    else:
        assert Site.from_vars(variables).access.allowed_users == [name]


@pytest.mark.parametrize(
    "group",
    [
        "HPC Users",
        "/hpc",
        "/staff/it",
        "grp@REALM",
        "CN=HPC Users,OU=Groups,DC=cl,DC=org",
        r"CL\hpc users",
        "a;b",
        "Überflieger",
        "5000",
        5000,
    ],
)
def test_groups_are_written_as_the_site_calls_them(group: str | int) -> None:
    access = {"allowed_groups": [str(group)], "admin_groups": [str(group)], "job_groups": [group]}
    site = Site.from_vars(GOOD | {"hpc_access": access})
    assert (site.access.allowed_groups, site.access.job_groups) == ([str(group)], [str(group)])


def test_missing_variables_have_defaults() -> None:
    site = Site.from_vars({name: value for name, value in GOOD.items() if name not in ("hpc_kernels", "hpc_access")})
    assert [kernel.name for kernel in site.kernels] == ["python3"]
    assert site.access.allowed_groups == []
    assert "permits nobody to sign in" in str(site.warnings()[0])
    url = Site.from_vars(changed("hpc_service", {"url": "https://jupyter.example.org"})).service
    assert (url.bind_port, url.api_host) == (443, "jupyter.example.org")


def test_dictionary_contains_the_whole_site() -> None:
    site = Site.from_vars(GOOD)
    data = site.as_dict()
    assert data["sso"]["client_secret"] == "W9x-real-secret"
    assert json.loads(json.dumps(data)) == data
    assert Site.model_validate(data) == site


@pytest.mark.parametrize(
    ("store", "hosts", "problem"),
    [
        ({}, [], ""),
        ({"backend": "postgresql"}, [], ""),
        ({"backend": "postgresql", "location": "own_host"}, ["db1"], ""),
        ({"backend": "postgresql", "location": "existing", "host": "db1", "password": "x7"}, [], ""),
        ({"backend": "postgresql", "location": "own_host"}, [], "group state_store: has 0 hosts; put exactly one"),
        ({"backend": "postgresql", "location": "own_host"}, ["a", "b"], "group state_store: has 2 hosts (a, b); put"),
        ({"backend": "postgresql", "location": "own_host"}, ["hub"], "group state_store: contains the hub host hub"),
        ({"backend": "postgresql"}, ["db1"], "group state_store: has a host, but hpc_state_store does not use it"),
        ({}, ["db1"], "group state_store: has a host, but hpc_state_store does not use it"),
    ],
)
def test_group_of_the_database_fits_its_location(store: dict[str, Any], hosts: list[str], problem: str) -> None:
    variables = GOOD | {"hpc_state_store": store}
    groups = {**GROUPS, "state_store": hosts}
    if problem:
        (found,) = problems(variables, groups)
        assert found.startswith(problem)
    else:
        Site.from_vars(variables, {"groups": groups})


def test_password_of_the_database_is_in_no_text() -> None:
    store = {"backend": "postgresql", "location": "existing", "host": "db1", "password": "W9x-real"}
    site = Site.from_vars(GOOD | {"hpc_state_store": store})
    assert "W9x-real" not in repr(site)
    assert site.as_dict()["state_store"]["password"] == "W9x-real"


def test_all_problems_are_reported_at_once() -> None:
    site = changed("hpc_profiles.0.memory", "4 GB")
    site["hpc_profiles"][0] |= {"runtime": "8h", "queue": "nope", "default_kernel": "nope"}
    site["hpc_clusters"][0]["scheduler"] = "slrum"
    site["hpc_clusters"][0]["queues"][1]["max_runtime"] = "x"
    site["hpc_profiles"][1]["cores"] = 9
    site["hpc_tsl"] = {}
    found = problems(site)
    assert len(found) == 8
    assert sum("hpc_profiles[0]" in line for line in found) == 4


def test_mistake_in_one_field_does_not_hide_limits_of_other_fields() -> None:
    site = changed("hpc_profiles.0.memory", "4 GB")
    site["hpc_profiles"][0]["cores"] = 99
    assert [line for line in problems(site) if "cores 99 is above max_cores 16" in line]


@pytest.mark.parametrize("where", ["client_secret", "client_secert", "provider", "scopes", "ca_bundle", "metadata_url"])
def test_secret_never_appears_in_a_message(where: str) -> None:
    secret = "TOPSECRET" * 20 + '"'
    for value in (secret, [secret], {"a": secret}):
        site = changed(f"hpc_sso.{where}", value)
        assert "TOPSECRET" not in "\n".join(problems(site))
    assert "TOPSECRET" not in "\n".join(problems(changed("hpc_sso", secret)))
    assert "TOPSECRET" not in "\n".join(problems(changed("hpc_install_environment", {"HTTPS_PROXY": ["TOPSECRET"]})))
    assert "W9x" not in repr(Site.from_vars(GOOD))


JUNK = [
    None, True, 0, -1, 3.5, "", " ", "x" * 10_000, "ü\u202e", "\ud800", [], [[]], [None], {}, {"": ""}, {1: 2},
    {None: None}, object(), b"bytes", {"name": {}}, [{"key": []}], "{{ x }}", float("nan"), 10**40, Unresolved("why"),
]  # fmt: skip


# The model refuses every value of JUNK at every path of the valid site, except these values, which are valid there.
NOT_JUNK: dict[str, list[Any]] = {
    "hpc_service.name": ["{{ x }}"],
    "hpc_service.support": ["", "{{ x }}"],
    "hpc_sso.client_secret": ["{{ x }}"],
    "hpc_access": [{}],
    "hpc_access.allowed_groups": [[]],
    "hpc_access.admin_groups": [[]],
    "hpc_access.job_groups": [[]],
    "hpc_clusters.0.software": [{}],
    "hpc_clusters.0.software.shared": [True],
    "hpc_profiles.0.display_name": ["{{ x }}"],
    "hpc_profiles.1.display_name": ["{{ x }}"],
    "hpc_profiles.1.gpus": [0],
    "hpc_profiles.1.options": [[]],
    "hpc_kernels": [[]],
    "hpc_kernels.0.display_name": ["{{ x }}"],
    "hpc_kernels.1.display_name": ["{{ x }}"],
    "hpc_kernels.1.packages": [[]],
}
# Values that are valid at a path but contradict another part of the valid site, which the message then names.
NOT_HERE = {("hpc_clusters.0.queues.1.max_gpus", "0"): "hpc_profiles.1.gpus"}


def paths(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of a value and of every value below it, as tuples of keys and positions."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from paths(item, (*path, str(i)))


PATHS = [".".join(path) for path in paths(GOOD) if path]


def names_path(problem: Problem, path: str) -> re.Match[str] | None:
    """Return whether a problem names the keys and positions of a path, in their order: `a[0]: b` for `a.0.b`."""
    steps = (rf"\[{step}\]" if step.isdigit() else rf"\b{step}\b" for step in path.split("."))
    return re.match(".*?".join(steps), f"{problem.entry}: {problem.field} {problem.message}")


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: show(repr(junk), 20))
def test_refuses_junk_at_every_path_and_names_the_path(junk: Any) -> None:
    for path in PATHS:
        if any(type(junk) is type(valid) and junk == valid for valid in NOT_JUNK.get(path, [])):
            assert Site.from_vars(changed(path, junk), {"groups": GROUPS}), path
            continue
        try:
            Site.from_vars(changed(path, junk), {"groups": GROUPS})
        except SiteError as error:
            found = error.problems
        else:
            pytest.fail(f"{path} accepts {junk!r}")
        wanted = NOT_HERE.get((path, repr(junk)), path)
        assert any(names_path(problem, wanted) for problem in found), (path, found)
        for problem in found:
            assert "\n" not in str(problem)
            assert len(problem.value) <= 80
            assert problem.message


def test_exceptions_for_valid_values_refer_to_known_paths_and_junk() -> None:
    assert NOT_JUNK.keys() | {path for path, _ in NOT_HERE} <= set(PATHS)
    for valid in NOT_JUNK.values():
        assert all(any(type(each) is type(junk) and each == junk for junk in JUNK) for each in valid)


def test_recursive_list_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert problems(changed("hpc_profiles", circle))


def test_plain_replaces_subclasses_of_builtin_types() -> None:
    class Tagged(str):
        __slots__ = ()

    found = plain({Tagged("a"): [Tagged("b"), (Tagged("c"),)]})
    assert found == {"a": ["b", ["c"]]}
    assert {type(key) for key in found} | {type(found["a"][0])} == {str}


def test_kernels_may_share_a_name_on_different_clusters() -> None:
    site = copy.deepcopy(GOOD)
    site["hpc_clusters"].append(copy.deepcopy(site["hpc_clusters"][0]) | {"name": "other"})
    site["hpc_kernels"][0]["clusters"] = ["demo"]
    site["hpc_kernels"].append(site["hpc_kernels"][0] | {"clusters": ["other"]})
    assert Site.from_vars(site)
    site["hpc_profiles"][0]["default_kernel"] = "python3"
    site["hpc_kernels"][0]["clusters"] = ["other"]
    site["hpc_kernels"].pop()
    assert "is not a kernel of cluster" in problems(site)[0]


RESERVED_OPTIONS = [
    "--partition=x", "--part=x", "-p x", "-px", "--time=1", "--tim=1", "-t1", "--mem=1", "--mem-per-cpu=1",
    "--cpus-per-task=4", "-c4", "-n 4", "--ntasks=3", "-N2", "--output=x", "-ox", "-e x", "--error=x", "--export=ALL",
    "--expor=ALL", "--export-file=/x", "--chdir=/", "-D /", "--job-name=x", "-J x", "--uid=0", "--uid=root", "--gid=0",
    "--wrap=id", "--array=1-10", "-a 1", "--get-user-env", "--requeue", "--parsable", "--wait", "-W", "--gres=gpu:8",
    "--gres=scratch:1,gpu:8", "--gre=gpu", "--gres=gres/gpu:1", "--gpus=8", "-G8", "--account=x", "--reservation=x", "-C x", "--clusters=x",
    "--comment=x", "--e", "--no-r", "-H", "--hold", "--test-only", "--version", "--input=/etc/passwd",
]  # fmt: skip
PERMITTED_OPTIONS = [
    "--exclusive", "--exclusive=user", "--qos=debug", "-q debug", "--gres=scratch:10", "--licenses=matlab:1", "--mail-type=END",
    "--hint=nomultithread", "--nice", "--signal=B:USR1@60", "--mem-bind=local", "--exclude=node[1-3]", "-x node1", "-s",
]  # fmt: skip


@pytest.mark.parametrize("option", RESERVED_OPTIONS)
def test_reserved_options_are_refused(option: str) -> None:
    assert SCHEDULERS["slurm"].option_problem(option)


@pytest.mark.parametrize("option", PERMITTED_OPTIONS)
def test_other_options_are_permitted(option: str) -> None:
    assert SCHEDULERS["slurm"].option_problem(option) is None


@pytest.mark.parametrize("option", ["", "x", "-", "--", "--a b", "-q debug -t 1", "-q -t", "--x='y'", "--x=$y", "--x=`y`", "--x=#y", "--x=\\y", "-q  x", "--X=1"])  # fmt: skip
def test_malformed_options_are_refused(option: str) -> None:
    assert complaint("slurm", option)[0] == "is not a single option"


QSUB_RESERVED = [
    "-N x", "-A x", "-q x", "-o /x", "-e /x", "-j n", "-k oe", "-S /bin/sh", "-v A=b", "-V", "-I", "-h", "-z", "-r y",
 "-u root", "-a 1200", "-X", "-J 1-3", "-l walltime=1:00:00", "-l mem=1gb", "-l nodes=2", "-l NCPUS=8",
    "-l qos=x,mem=1gb", "-l host=n1:ncpus=2", "-W block=true", "-W x=FLAGS:ADVRES:r", "-W stagein=a@b:c", "-l pmem=1gb",
]  # fmt: skip
# Options of Moab, which may run on top of Torque.
REQUEUE_OPTIONS = ["-l resfailpolicy=requeue", "-l JobFlags=RESTARTABLE", "-W x=FLAGS:RESTARTABLE"]
RESERVED_BY = {
    "pbs": [*QSUB_RESERVED, "-l select=2", "-l ngpus=8", "-l min_walltime=1"],
    "torque": [*QSUB_RESERVED, "-t 1-3", "-l gpus=8", "-P root", "-d /", "-D /", "-x", "-L tasks=2", "-l prologue=/x", *REQUEUE_OPTIONS],
    "moab": [*QSUB_RESERVED, *REQUEUE_OPTIONS, "-t 1-3", "-E", "-l advres=r", "-l feature=ib", "-l trig=x", "-l wclimit=1", "-l TTC=4"],
    "lsf": [
        "-J x", "-Jd x", "-q x", "-n 4", "-W 10", "-M 1GB", "-P x", "-U r", "-gpu num=8", "-o x", "-oo x", "-e x", "-eo x",
        "-env all", "-I", "-Is", "-K", "-H", "-r", "-rn", "-cwd /", "-L /bin/sh", "-R rusage[mem=4GB]", "-R span[ptile=1]",
        "-R select[ib]", "-R rusage[lic=1:ngpus_physical=2]", "-i /etc/passwd", "-qnormal", "-n4", "-pack x", "-E /bin/x", "-Zs",
    ],
}  # fmt: skip
PERMITTED_BY = {
    "pbs": ["-l place=excl", "-l software=matlab", "-W group_list=phys", "-P physics", "-m n", "-M a@example.org", "-p 5"],
    "torque": ["-l qos=high", "-l naccesspolicy=singlejob", "-W group_list=phys", "-m abe", "-p 10", "-n"],
    "moab": ["-l qos=high", "-l partition=a", "-l naccesspolicy=singlejob", "-m n"],
    "lsf": ["-x", "-app jupyter", "-sla gold", "-G physics", "-g /jupyter", "-R same[model]", "-R rusage[lic=1]", "-m n1", "-sp 10"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("scheduler", "option"), [(s, option) for s, options in RESERVED_BY.items() for option in options]
)
def test_reserved_options_of_other_schedulers_are_refused(scheduler: str, option: str) -> None:
    assert SCHEDULERS[scheduler].option_problem(option)


@pytest.mark.parametrize(
    ("scheduler", "option"), [(s, option) for s, options in PERMITTED_BY.items() for option in options]
)
def test_other_options_of_other_schedulers_are_permitted(scheduler: str, option: str) -> None:
    assert SCHEDULERS[scheduler].option_problem(option) is None


@pytest.mark.parametrize("scheduler", PERMITTED_BY)
@pytest.mark.parametrize("option", ["", "x", "-", "--", "--x=y", "-m n -V", "-m -V", "-m 'n'", '-m "n"', "-m $n", "-m `n`", "-m n#PBS", "-m n\\", "-m  n", "-m n;id", "-m n\n#PBS -V"])  # fmt: skip
def test_malformed_options_of_other_schedulers_are_refused(scheduler: str, option: str) -> None:
    assert complaint(scheduler, option)[0] == "is not a single option"


@pytest.mark.parametrize(("scheduler", "options"), PERMITTED_BY.items())
def test_site_with_another_scheduler_accepts_its_options(scheduler: str, options: list[str]) -> None:
    site = changed("hpc_clusters.0.scheduler", scheduler)
    assert problems(site)[0].endswith(f"as in {SCHEDULERS[scheduler].reserved_options.example}")
    for profile in site["hpc_profiles"]:
        profile["options"] = options
    assert Site.from_vars(site)


def test_option_complaints_name_the_alternative() -> None:
    assert SCHEDULERS["pbs"].option_problem("-l walltime=9:00:00") == (
        "repeats the field runtime",
        "set runtime of the profile or its queue instead",
    )
    assert complaint("lsf", "-W 9:00")[0] == "repeats the field runtime"
    assert complaint("torque", "-mn")[1] == "write each option as a separate item, as in [-l qos=high, -m n]"
    assert complaint("lsf", "-foo")[0] == "is not an option that hpchub knows"


def test_schema_describes_every_variable() -> None:
    schema = Site.json_schema()
    assert set(schema["properties"]) == set(VARIABLES)
    assert schema["additionalProperties"] is False
    kinds = schema["properties"]["hpc_kernels"]["items"]["discriminator"]["mapping"]
    assert set(kinds) == {"python", "r", "venv", "conda", "module", "container", "command"}
    for name, definition in schema["$defs"].items():
        assert definition.get("description"), name
        for key, field in definition["properties"].items():
            assert field.get("description"), (name, key)
    secret, _ = schema["$defs"]["OidcSso"]["properties"]["client_secret"]["anyOf"]
    assert (secret["format"], secret["writeOnly"]) == ("password", True)
    for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', json.dumps(schema)):
        re.compile(json.loads(f'"{pattern}"'))


def test_key_of_another_provider_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class TokenSso(Sso):
        """A provider with a key of its own."""

        provider: Literal["token"]
        """The protocol."""
        token_file: str
        """A key that only this provider has."""

    monkeypatch.setitem(PROVIDERS, "token", TokenSso)
    (found,) = problems(changed("hpc_sso.token_file", "/etc/token"))
    assert found == "hpc_sso: token_file belongs to provider token; remove it, or set provider: token"


LDAP = {"provider": "ldap", "url": "ldaps://ldap.example.org", "base": "ou=people,dc=example,dc=org"}
KERBEROS = {"provider": "kerberos", "realms": ["EXAMPLE.ORG"], "keytab": "/site/http.keytab"}
FORMS: list[tuple[dict[str, Any], str]] = [
    (LDAP, ""),
    (KERBEROS, ""),
    ({"provider": "local"}, ""),
    (LDAP | {"url": "ldap://ldap.example.org", "start_tls": True}, ""),
    (LDAP | {"bind_dn": "cn=hub,dc=example,dc=org", "bind_password": 'p" w\\x'}, ""),
    (LDAP | {"url": "ldap://ldap.example.org"}, "hpc_sso: would send passwords without TLS; use ldaps:// in url"),
    (LDAP | {"start_tls": True}, "hpc_sso: has start_tls and an address with ldaps://"),
    (LDAP | {"url": "https://ldap.example.org"}, "hpc_sso: url is not an address of a directory; write ldaps://HOST"),
    (LDAP | {"filter": '(uid=*)" x'}, "hpc_sso: filter is not a text for a directory"),
    (LDAP | {"bind_dn": "cn=hub"}, "hpc_sso: has only one of bind_dn and bind_password"),
    (LDAP | {"bind_dn": "cn=hub", "bind_password": "exec:/bin/x"}, "hpc_sso: has a bind_password that begins with exec:"),
    (LDAP | {"require_second_factor": ["mfa"]}, "hpc_sso: has require_second_factor, but this provider reports none"),
    (LDAP | {"realms": ["X"]}, "hpc_sso: realms belongs to provider kerberos; remove it, or set provider: kerberos"),
    (KERBEROS | {"realms": []}, "hpc_sso: realms is empty"),
    ({"provider": "kerberos", "keytab": "/x"}, "hpc_sso: realms is missing"),
    (KERBEROS | {"keytab": ""}, "hpc_sso: has no keytab; set keytab to the full path"),
    (KERBEROS | {"user_mapping": [{"fold_case": "lower"}, {"claim": "x"}]}, "hpc_sso: user_mapping has a claim after"),
    ({"provider": "local", "pam_service": "../x"}, "hpc_sso: pam_service is not the name of a PAM service"),
]  # fmt: skip


@pytest.mark.parametrize(("sso", "message"), FORMS, ids=lambda value: str(value)[-60:])
def test_keys_of_each_provider_are_checked(sso: dict[str, Any], message: str) -> None:
    if not message:
        assert Site.from_vars(changed("hpc_sso", sso)).sso.provider == sso["provider"]
        return
    assert [line[: len(message)] for line in problems(changed("hpc_sso", sso))] == [message]
