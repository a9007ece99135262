"""Mistakes that administrators make in an inventory: each is found, with its file, line and column."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from repo.sites import ROOT, SITE

from hpchub.deploy.hosts_file import expand
from hpchub.deploy.inventory_files import Inventory, read_inventory
from hpchub.deploy.validation import Found, check_inventory
from hpchub.model.problems import Unresolved
from lab.certificates import make_certificates

VALID = {"vault_sso_client_secret": "d41d8cd98f00b204"}
ALL = "group_vars/all/"
Change = Callable[[Path], None]


def groups_of(site: Path) -> dict[str, list[str]]:
    """Return the groups of the inventory's lists of hosts, each with its hosts, as Ansible would."""
    groups: dict[str, list[str]] = {"all": [], "ungrouped": []}

    def read(name: str, group: Any) -> list[str]:
        found = groups.setdefault(name, [])
        if isinstance(group, dict):
            hosts = group.get("hosts") or {}
            for host in [hosts] if isinstance(hosts, str) else hosts:
                found += [each for each in expand(str(host)) if each not in found]
            children = group.get("children") or {}
            for child, inner in children.items() if isinstance(children, dict) else ():
                found += [each for each in read(child, inner) if each not in found]
        return found

    for path in sorted(site.glob("*.yml")):
        try:
            tops = yaml.safe_load(path.read_text()) or {}
        except (yaml.YAMLError, UnicodeError):
            continue
        for _ in range(2):  # a group may be mentioned before its content
            for name, group in tops.items() if isinstance(tops, dict) else ():
                read(name, group)
    return groups


def values_of(inventory: Inventory, lab: Path) -> dict[str, Any]:
    """Return the variables of all hosts. The few expressions of the tests' inventory are evaluated here."""

    def evaluate(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: evaluate(item) for key, item in value.items()}
        if isinstance(value, list):
            return [evaluate(item) for item in value]
        if isinstance(value, str) and (name := re.fullmatch(r"\{\{ (\w+) \}\}", value)):
            return VALID.get(name[1], Unresolved(f"'{name[1]}' is undefined"))
        return value.replace("{{ lab_dir }}", str(lab)) if isinstance(value, str) else value

    return {s.name: evaluate(s.value) for s in inventory.settings if s.scope.everywhere}


def check(site: Path, lab: Path) -> Found:
    values = values_of(read_inventory([site], ["^files$"]), lab)
    return check_inventory(
        [site],
        values.get,
        list(values),
        groups_of(site),
        root=ROOT,
        ignore=["^files$"],
        undecrypted=[],
        read_file=Path.read_bytes,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    copied = tmp_path / "site"
    shutil.copytree(SITE, copied)
    return copied


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lab")
    make_certificates(directory, {"hub": ["hub.localhost", "hub"]})
    return directory


def edit(name: str, old: str, new: str) -> Change:
    """Return a change that replaces text in a file once."""

    def change(site: Path) -> None:
        text = (site / name).read_text()
        assert old in text, (name, old)
        (site / name).write_text(text.replace(old, new, 1))

    return change


def add(name: str, text: str | bytes) -> Change:
    """Return a change that appends text to a file, or creates it."""

    def change(site: Path) -> None:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        with (site / name).open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    return change


def write(name: str, text: str) -> Change:
    def change(site: Path) -> None:
        (site / name).write_text(text)

    return change


def both(*changes: Change) -> Change:
    def change(site: Path) -> None:
        for each in changes:
            each(site)

    return change


def encode(name: str, encoding: str, old: str = "", new: str = "") -> Change:
    def change(site: Path) -> None:
        text = (site / name).read_text()
        (site / name).write_bytes(text.replace(old, new, 1).encode(encoding))

    return change


def move(name: str, to: str) -> Change:
    def change(site: Path) -> None:
        (site / to).parent.mkdir(parents=True, exist_ok=True)
        (site / name).rename(site / to)

    return change


def link(name: str, target: str) -> Change:
    def change(site: Path) -> None:
        (site / name).symlink_to(target)

    return change


CLUSTERS, PROFILES, KERNELS, SERVICE, ACCESS = (
    f"{ALL}{name}.yml" for name in ("clusters", "profiles", "kernels", "service", "access")
)
HOSTS, LAB = "hosts.yml", f"{ALL}lab.yml"

VAULT = "$ANSIBLE_VAULT;1.1;AES256\n" + b"\n".join([b"ab" * 32, b"cd" * 32, b"ef" * 16]).hex() + "\n"

# The name of each case, its change, the place of the problem, and what the message contains.
MISTAKES: list[tuple[str, Change, str, str]] = [
    # Files that are not YAML
    ("tab", edit(PROFILES, "    display_name: \"Small", "\tdisplay_name: \"Small"), f"{PROFILES}:4:1", "is indented with a tab; use spaces"),
    ("tab-in-hosts", edit(HOSTS, "        hub:", "\thub:"), f"{HOSTS}:6:1", "is indented with a tab"),
    ("second-colon", edit(SERVICE, "name: Demo cluster", "name: Demo: cluster"), f"{SERVICE}:4:13", "has a second colon; put text"),
    ("colon-in-description", edit(PROFILES, "description: For a first look, and for", "description: For a first look: for"), f"{PROFILES}:5:34", "has a second colon"),
    ("no-space-after-colon", edit(PROFILES, "cores: 1", "cores:1"), f"{PROFILES}:8:10", "has no space after the colon"),
    ("no-colon", edit(PROFILES, "    cores: 1\n", "    cores 1\n"), f"{PROFILES}:8:5", "has a line without a colon"),
    ("no-colon-last", add(SERVICE, "hpc_tls\n"), f"{SERVICE}:17:1", "has a line without a colon"),
    ("quote-open", edit(PROFILES, 'runtime: "2:00:00"', 'runtime: "2:00:00'), f"{PROFILES}:10:14", "has a quote that is not closed on this line; close the quote"),
    ("quote-open-at-the-end", add(SERVICE, 'hpc_state_stores: "sqlite\n'), f"{SERVICE}:17:19", "has a quote that is never closed"),
    ("apostrophe", edit(PROFILES, "description: For a first look, and for teaching", "description: 'the user's first'"), f"{PROFILES}:5:28", "has text after the end of the value"),
    ("bracket-open", edit(CLUSTERS, "networks: [10.0.0.0/8]", "networks: [10.0.0.0/8"), f"{CLUSTERS}:6:15", "has a [ that is not closed"),
    ("brace-open", edit(CLUSTERS, "{method: ssh, host: login1}", "{method: ssh, host: login1"), f"{CLUSTERS}:5:13", "has a { that is not closed"),
    ("comma-missing", edit(CLUSTERS, "max_cores: 16,", "max_cores: 16"), f"{CLUSTERS}:10:9", "has a { that is not closed, or a comma is missing"),
    ("dash-missing", edit(PROFILES, "  - key: medium", "    key: medium"), f"{PROFILES}:12:5", "is a duplicate"),
    ("dash-missing-less-indent", edit(PROFILES, "  - key: medium", "  key: medium"), f"{PROFILES}:12:3", "does not continue the list above it; begin each item"),
    ("dash-without-space", edit(PROFILES, "  - key: medium", "  -key: medium"), f"{PROFILES}:12:3", "does not continue the list above it"),
    ("indent-one-less", edit(PROFILES, "    cores: 1", "   cores: 1"), f"{PROFILES}:8:4", "does not"),
    ("indent-one-more", edit(PROFILES, "    cores: 1", "     cores: 1"), f"{PROFILES}:8:6", "is indented further than line 7"),
    ("jinja-without-quotes", edit(ACCESS, '"{{ vault_sso_client_secret }}"', "{{ vault_sso_client_secret }}"), f"{ACCESS}:6:18", 'put an expression in quotes, as in "{{ NAME }}"'),
    ("jinja-path-without-quotes", edit(SERVICE, '"{{ lab_dir }}/hub.pem"', "{{ lab_dir }}/hub.pem"), f"{SERVICE}:11:29", "put the whole value in one pair of quotes"),
    ("star", edit(ACCESS, "allowed_groups: [hpc, hpc-admins]", "allowed_groups: *"), f"{ACCESS}:12:19", "has a value that begins with *"),
    ("at-sign", edit(ACCESS, "client_id: hpchub", "client_id: @hpchub"), f"{ACCESS}:5:14", "put text that begins with @ in quotes"),
    ("percent", edit(SERVICE, "name: Demo cluster", "name: %NAME%"), f"{SERVICE}:4:9", "put text that begins with % in quotes"),
    ("backtick", edit(SERVICE, "name: Demo cluster", "name: `hostname`"), f"{SERVICE}:4:9", "put text that begins with ` in quotes"),
    ("exclamation", edit(SERVICE, "name: Demo cluster", "name: !important"), f"{SERVICE}:4:9", "that begins with !"),
    ("backslash", edit(SERVICE, "name: Demo cluster", 'name: "\\Demo"'), f"{SERVICE}:4:10", "has a backslash in double quotes"),
    ("two-documents", add(SERVICE, "---\nhpc_x: 1\n"), f"{SERVICE}:17:1", "begins a second document"),
    ("merge-conflict", edit(PROFILES, "    cores: 1\n", "<<<<<<< HEAD\n    cores: 1\n=======\n    cores: 2\n>>>>>>> main\n"), f"{PROFILES}:8:1", "merge conflict"),
    ("latin-1", encode(SERVICE, "latin-1", "Demo cluster", "Universität"), f"{SERVICE}:4:18", 'contains the byte 0xE4 ("ä" in Latin-1), which is not UTF-8'),
    ("utf-16", encode(SERVICE, "utf-16"), f"{SERVICE}:1:1", "is UTF-16, but must be UTF-8"),
    ("utf-16-without-mark", encode(SERVICE, "utf-16-le"), f"{SERVICE}:1:1", "is UTF-16"),
    ("binary", add(f"{ALL}state.yml", b"\x7fELF\x02\0\0\0"), f"{ALL}state.yml:1:1", "is not text"),
    ("control-character", edit(SERVICE, "Demo cluster", "Demo\x0bcluster"), f"{SERVICE}:4:13", "contains the control character \\u000b"),
    ("curly-quotes", edit(SERVICE, "name: Demo cluster", "name: \u201cDemo cluster\u201d"), f"{SERVICE}:4:9", 'has typographic quotes; use "straight quotes"'),
    ("curly-single-quotes", edit(PROFILES, 'runtime: "2:00:00"', "runtime: \u20182:00:00\u2019"), f"{PROFILES}:10:14", "has typographic quotes"),
    ("en-dash", edit(CLUSTERS, "networks: [10.0.0.0/8]", "networks:\n      \u2013 10.0.0.0/8"), f"{CLUSTERS}:7:7", "has a dash that is not a hyphen"),
    ("non-breaking-space", edit(PROFILES, "    cores: 1\n", "    \u00a0cores: 1\n"), f"{PROFILES}:8:5", "has an invisible character"),
    ("list-at-the-top", add(f"{ALL}more.yml", "- hpc_profiles: []\n"), f"{ALL}more.yml:1:1", "is a list, not a mapping"),
    ("text-at-the-top", add(f"{ALL}more.yml", "hpc_profiles\n"), f"{ALL}more.yml:1:1", "is text, not a mapping"),
    ("dangling-link", link(f"{ALL}site.yml", "/nowhere/site.yml"), f"{ALL}site.yml", 'is a link to "/nowhere/site.yml", which does not exist'),
    ("link-to-itself", link(f"{ALL}site.yml", "site.yml"), f"{ALL}site.yml", "is a link to"),
    # Values that YAML changes
    ("time-without-quotes", edit(PROFILES, 'runtime: "2:00:00"', "runtime: 2:00:00"), f"{PROFILES}:10:14", 'runtime 2:00:00 is a number, because YAML reads a time without quotes as seconds; put it in quotes: "2:00:00"'),
    ("short-time", edit(PROFILES, 'runtime: "2:00:00"', "runtime: 2:00"), f"{PROFILES}:10:14", "runtime 2:00 is a number"),
    ("time-of-a-queue", edit(CLUSTERS, 'max_runtime: "12:00:00"', "max_runtime: 12:00:00"), f"{CLUSTERS}:10:74", "max_runtime 12:00:00 is a number"),
    ("octal-cores", edit(PROFILES, "cores: 1\n", "cores: 010\n"), f"{PROFILES}:8:12", "010 is read by YAML as 8"),
    ("port-with-a-colon", edit(SERVICE, "api_port: 8445", "api_port: 84:45"), f"{SERVICE}:7:13", "84:45 is read by YAML as 5085"),
    ("name-no", edit(CLUSTERS, "name: demo", "name: no"), f"{CLUSTERS}:3:11", 'name no is true or false, not a cluster\'s name; put it in quotes: "no"'),
    ("date-as-account", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    account: 2024-01-31\n"), f"{PROFILES}:9:14", "put it in quotes"),
    ("version-as-module", edit(KERNELS, "  - {name: ir", "  - {name: m, kind: module, modules: [3.11]}\n  - {name: ir"), f"{KERNELS}:4:39", "modules[0] 3.11 is a number, not text"),
    ("impossible-date", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    account: 2024-13-45\n"), f"{PROFILES}:9:14", 'has the value "2024-13-45": month must be in 1..12'),
    ("hexadecimal-memory", edit(PROFILES, "memory: 2G", "memory: 0x10"), f"{PROFILES}:9:13", "memory 0x10 is a number, not a size; write a number and M, G or T"),
    ("exponent-as-cores", edit(PROFILES, "cores: 1\n", "cores: 1.0e+1\n"), f"{PROFILES}:8:12", "cores 1.0e+1 is not a whole number; write a whole number"),
    ("underscore-in-cores", edit(PROFILES, "cores: 1\n", "cores: 1_000\n"), f"{PROFILES}:8:12", "cores 1_000 is above max_cores 16 of queue \"interactive\" of cluster \"demo\"; request at most 16"),
    ("number-as-time", edit(PROFILES, 'runtime: "2:00:00"', "runtime: 120"), f"{PROFILES}:10:14", "runtime 120 is a number, not a time; write hours, minutes and seconds"),
    ("date-as-time", edit(PROFILES, 'runtime: "2:00:00"', "runtime: 2024-01-31"), f"{PROFILES}:10:14", "runtime 2024-01-31 is a date, not a time; write hours, minutes and seconds"),
    ("moment-as-time", edit(PROFILES, 'runtime: "2:00:00"', "runtime: 2024-01-31 02:00:00"), f"{PROFILES}:10:14", "is a date, not a time; write hours"),
    ("zero-width-space-in-a-word", edit(PROFILES, "queue: interactive", "queue: inter\u200bactive"), f"{PROFILES}:7:12", "contains the invisible character U+200B (zero width space); remove it"),
    ("soft-hyphen-in-a-group", edit(ACCESS, "[hpc, hpc-admins]", "[hpc, hpc\u00ad-admins]"), f"{ACCESS}:12:25", "contains the invisible character U+00AD (soft hyphen)"),
    ("alias-undefined", edit(PROFILES, "memory: 2G", "memory: *small"), f"{PROFILES}:9:13", "must be defined above, with &"),
    ("alias-of-itself", edit(PROFILES, "  - key: small", "  - &s\n    options: [*s]\n    key: small"), f"{PROFILES}:3:5", "hpc_profiles contains itself, through the anchor of line 3; remove the alias"),
    ("merge-of-a-number", edit(PROFILES, "    cores: 1\n", "    <<: [1]\n    cores: 1\n"), f"{PROFILES}:8:10", "is merged with <<, but is not a mapping"),
    ("end-of-the-document", edit(PROFILES, "  - key: medium", "...\n  - key: medium"), f"{PROFILES}:13:3", "follows a line with ..., which ends the file; remove"),
    ("colon-first-in-a-list", edit(CLUSTERS, "[10.0.0.0/8]", "[::/0]"), f"{CLUSTERS}:6:16", "put text that begins with : in quotes"),
    # Names
    ("variable-misspelt", edit(PROFILES, "hpc_profiles:", "hpc_profile:"), f"{PROFILES}:2:1", 'is not a variable of hpchub; did you mean "hpc_profiles"?'),
    ("variable-with-a-hyphen", edit(PROFILES, "hpc_profiles:", "hpc-profiles:"), f"{PROFILES}:2:1", 'did you mean "hpc_profiles"?'),
    ("variable-with-a-capital", edit(PROFILES, "hpc_profiles:", "HPC_profiles:"), f"{PROFILES}:2:1", 'did you mean "hpc_profiles"?'),
    ("variable-unlike-any-other", add(f"{ALL}z.yml", "hpc_quota_warning: 90\n"), f"{ALL}z.yml:1:1", "hpc_quota_warning: is not a variable of hpchub; valid: hpc_"),
    ("variable-unlike-any-other-of-a-host", add("host_vars/login1.yml", "hpc_letters: a@cl.org\n"), "host_vars/login1.yml:1:1", "hpc_letters: is not a variable of hpchub; valid: hpc_"),
    ("variable-with-a-capital-unlike-any-other", add(f"{ALL}z.yml", "HPC_quota: 90\n"), f"{ALL}z.yml:1:1", "is not a variable of hpchub"),
    ("variable-without-prefix", edit(KERNELS, "hpc_kernels:", "kernels:"), f"{KERNELS}:2:1", 'kernels: is not a variable of hpchub; did you mean "hpc_kernels"?'),
    ("variable-with-another-prefix", edit(KERNELS, "hpc_kernels:", "hpchub_kernels:"), f"{KERNELS}:2:1", 'hpchub_kernels: is not a variable of hpchub; did you mean "hpc_kernels"?'),
    ("variable-of-the-playbooks", add(f"{ALL}z.yml", "hpchub_model: {}\n"), f"{ALL}z.yml:1:1", "hpchub_model: is not a variable of hpchub"),
    ("key-misspelt", edit(PROFILES, "    runtime:", "    runtme:"), f"{PROFILES}:10:5", '"runtme" is an unknown key; did you mean "runtime"?'),
    ("key-of-slurm", edit(PROFILES, "    queue: interactive", "    partition: interactive"), f"{PROFILES}:7:5", '"partition" is an unknown key; did you mean "queue"?'),
    ("key-of-pbs", edit(PROFILES, "    runtime:", "    walltime:"), f"{PROFILES}:10:5", '"walltime" is an unknown key; did you mean "runtime"?'),
    ("key-of-slurm-for-memory", edit(PROFILES, "    memory:", "    mem:"), f"{PROFILES}:9:5", '"mem" is an unknown key; did you mean "memory"?'),
    ("key-of-a-queue-misspelt", edit(CLUSTERS, "max_cores: 16", "max_core: 16"), f"{CLUSTERS}:10:29", '"max_core" is an unknown key; did you mean "max_cores"?'),
    ("key-nested-too-deep", edit(SERVICE, "hpc_tls:\n", "  hpc_tls:\n"), f"{SERVICE}:10:3", '"hpc_tls" is an unknown key'),
    ("queue-unknown", edit(PROFILES, "queue: interactive", "queue: interactiv"), f"{PROFILES}:7:12", 'did you mean "interactive"?'),
    ("cluster-unknown", edit(PROFILES, "cluster: demo", "cluster: mesabi"), f"{PROFILES}:6:14", "is not a cluster of hpc_clusters"),
    ("scheduler-with-a-capital", edit(CLUSTERS, "scheduler: slurm", "scheduler: SLURM"), f"{CLUSTERS}:4:16", 'did you mean "slurm"?'),
    ("kernel-kind-unknown", edit(KERNELS, "kind: python}", "kind: pyhton}"), f"{KERNELS}:3:51", 'did you mean "python"?'),
    ("default-kernel-unknown", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    default_kernel: julia\n"), f"{PROFILES}:9:21", "is not a kernel of cluster"),
    ("interface-unknown", edit(PROFILES, "interface: notebook", "interface: jupyterlab"), f"{PROFILES}:38:16", "is unknown; valid: lab"),
    ("provider-unknown", edit(ACCESS, "provider: oidc", "provider: odic"), f"{ACCESS}:3:13", 'is unknown; did you mean "oidc"?'),
    ("key-twice", edit(PROFILES, "key: medium", "key: small"), f"{PROFILES}:12:10", "is already used by entry 0"),
    ("yaml-key-twice", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    cores: 2\n"), f"{PROFILES}:9:5", '"cores" is a duplicate: line 8 has the same key'),
    # Values
    ("memory-with-a-space", edit(PROFILES, "memory: 2G", "memory: 2 GB"), f"{PROFILES}:9:13", 'memory "2 GB" is not a size'),
    ("memory-a-number", edit(PROFILES, "memory: 2G", "memory: 2048"), f"{PROFILES}:9:13", "memory 2048 is a number, not a size; write a number and M, G or T"),
    ("memory-lower-case", edit(PROFILES, "memory: 2G", "memory: 2g"), f"{PROFILES}:9:13", 'memory "2g" is not a size'),
    ("cores-in-quotes", edit(PROFILES, "cores: 1\n", 'cores: "1"\n'), f"{PROFILES}:8:12", "is text, not a number"),
    ("cores-zero", edit(PROFILES, "cores: 1\n", "cores: 0\n"), f"{PROFILES}:8:12", "is below 1"),
    ("cores-a-fraction", edit(PROFILES, "cores: 1\n", "cores: 1.5\n"), f"{PROFILES}:8:12", "is not a whole number"),
    ("cores-above-the-queue", edit(PROFILES, "cores: 1\n", "cores: 17\n"), f"{PROFILES}:8:12", 'is above max_cores 16 of queue "interactive"'),
    ("gpus-of-a-queue-without", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    gpus: 1\n"), f"{PROFILES}:9:11", "queue interactive has no GPUs; remove gpus, or set max_gpus of the queue"),
    ("runtime-above-the-queue", edit(PROFILES, 'runtime: "2:00:00"', 'runtime: "1-00:00:00"'), f"{PROFILES}:10:14", 'is above max_runtime "12:00:00"'),
    ("option-reserved", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    options: [--qos=a, --export=ALL]\n"), f"{PROFILES}:9:24", "is set by hpchub; leave it out"),
    ("option-without-hyphens", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    options: [qos=a]\n"), f"{PROFILES}:9:15", "is not an option"),
    ("options-are-text", edit(PROFILES, "    cores: 1\n", "    cores: 1\n    options: --qos=a\n"), f"{PROFILES}:9:14", "is text, not a list"),
    ("profiles-empty", edit(PROFILES, "hpc_profiles:\n", "hpc_profiles:\nother:\n"), f"{PROFILES}:2:1", "is empty, not a list"),
    ("clusters-a-mapping", edit(CLUSTERS, "  - name: demo", "    name: demo"), f"{CLUSTERS}:2:1", "is a mapping, not a list"),
    ("queues-empty", edit(CLUSTERS, "    queues:\n", "    queues: []\nother:\n"), f"{CLUSTERS}:9:5", "is empty; write at least one"),
    ("network-with-host-bits", edit(CLUSTERS, "10.0.0.0/8", "10.0.1.0/8"), f"{CLUSTERS}:6:16", "has bits set after its prefix; write 10.0.0.0/8"),
    ("network-everything", edit(CLUSTERS, "10.0.0.0/8", "0.0.0.0/0"), f"{CLUSTERS}:6:16", "admits every address"),
    ("network-without-prefix", edit(CLUSTERS, "10.0.0.0/8", "10.0.0.0"), f"{CLUSTERS}:6:16", "is not a network"),
    ("network-is-text", edit(CLUSTERS, "[10.0.0.0/8]", "10.0.0.0/8"), f"{CLUSTERS}:6:15", "is text, not a list"),
    ("firewall-yes-in-quotes", edit(CLUSTERS, "firewall: true", 'firewall: "yes"'), f"{CLUSTERS}:8:15", "is neither true nor false"),
    ("url-http", edit(SERVICE, "https://hub.localhost:8443", "http://hub.localhost:8443"), f"{SERVICE}:3:8", "write https://"),
    ("url-with-a-slash", edit(SERVICE, "https://hub.localhost:8443", "https://hub.localhost:8443/"), f"{SERVICE}:3:8", "is not a service's address"),
    ("url-without-scheme", edit(SERVICE, "https://hub.localhost:8443", "hub.localhost"), f"{SERVICE}:3:8", "is not a service's address"),
    ("url-port-too-high", edit(SERVICE, "https://hub.localhost:8443", "https://hub.localhost:84433"), f"{SERVICE}:3:8", "has an invalid port"),
    ("api-host-a-url", edit(SERVICE, "api_host: hub", "api_host: https://hub"), f"{SERVICE}:6:13", "write a host name or an address"),
    ("api-port-taken", edit(SERVICE, "api_port: 8445", "api_port: 8443"), f"{SERVICE}:7:13", "is also the port of the service"),
    ("api-port-of-notebooks", edit(SERVICE, "api_port: 8445", "api_port: 20001"), f"{SERVICE}:7:13", "is one of the notebook_ports"),
    ("ports-reversed", edit(SERVICE, "{first: 20000, last: 29999}", "{first: 29999, last: 20000}"), f"{SERVICE}:8:3", "write the lower port as first"),
    ("metadata-without-https", edit(ACCESS, "https://auth", "auth"), f"{ACCESS}:4:17", "is not an address of provider metadata"),
    ("scopes-without-openid", edit(ACCESS, "[openid, profile, email]", "[profile]"), f"{ACCESS}:7:3", "does not contain openid"),
    ("group-list-as-text", edit(ACCESS, "allowed_groups: [hpc, hpc-admins]", "allowed_groups: hpc"), f"{ACCESS}:12:19", "is text, not a list"),
    ("root-admin", edit(ACCESS, "admin_users: []", "admin_users: [root]"), f"{ACCESS}:15:17", "neither root nor digits only"),
    ("user-allowed-and-blocked", both(edit(ACCESS, "allowed_users: []", "allowed_users: [bob]"), edit(ACCESS, "blocked_users: []", "blocked_users: [bob]")), f"{ACCESS}:14:19", "is also in blocked_users"),
    ("uid-too-low", edit(ACCESS, "minimum_uid: 1000", "minimum_uid: 100"), f"{ACCESS}:18:16", "is below 500"),
    ("path-relative", edit(CLUSTERS, "path: /opt/hpchub", "path: opt/hpchub"), f"{CLUSTERS}:7:22", "is not an absolute path"),
    ("path-with-a-blank", edit(CLUSTERS, "path: /opt/hpchub", "path: /opt/hpc hub"), f"{CLUSTERS}:7:22", "use no spaces"),
    ("command-without-connection-file", edit(KERNELS, "  - {name: ir", "  - {name: oct, kind: command, language: octave, command: [octave_kernel]}\n  - {name: ir"), f"{KERNELS}:4:50", "does not contain {connection_file}"),
    ("connection-file-without-quotes", edit(KERNELS, "  - {name: ir", "  - {name: oct, kind: command, language: octave, command: [octave_kernel, {connection_file}]}\n  - {name: ir"), f"{KERNELS}:4:75", 'is a mapping, not an argument; put it in quotes: "{connection_file}"'),
    ("kernel-name-twice", edit(KERNELS, "name: ir", "name: python3"), f"{KERNELS}:4:12", "is already used by entry 0"),
    ("secret-undefined", edit(ACCESS, "vault_sso_client_secret", "vault_sso_client_secert"), f"{ACCESS}:6:18", "is undefined"),
    ("secret-empty", edit(ACCESS, '"{{ vault_sso_client_secret }}"', '""'), f"{ACCESS}:6:3", "client_secret is empty"),
    ("secret-placeholder", edit(ACCESS, '"{{ vault_sso_client_secret }}"', "CHANGEME"), f"{ACCESS}:6:18", "is still a placeholder"),
    ("secret-with-single-braces", edit(ACCESS, "{{ vault_sso_client_secret }}", "{ vault_sso_client_secret }"), f"{ACCESS}:6:18", 'is an expression with too few braces; write "{{ vault_sso_client_secret }}"'),
    ("metadata-with-a-slash", edit(ACCESS, "openid-configuration", "openid-configuration/"), f"{ACCESS}:4:17", "metadata_url ends with /"),
    ("group-wildcard", edit(ACCESS, "allowed_groups: [hpc, hpc-admins]", 'allowed_groups: ["*"]'), f"{ACCESS}:12:20", "is a wildcard, but hpchub compares whole names"),
    ("group-split-at-commas", edit(ACCESS, "allowed_groups: [hpc, hpc-admins]", "allowed_groups: [CN=HPC,DC=cl]"), f"{ACCESS}:12:27", "is a part of a distinguished name"),
    ("unix-group-negative", edit(ACCESS, "job_groups: [hpc]", "job_groups: [-5]"), f"{ACCESS}:17:16", "job_groups[0] -5 is not a numeric id"),
    ("network-of-half-the-world", edit(CLUSTERS, "[10.0.0.0/8]", "[0.0.0.0/1, 128.0.0.0/1]"), f"{CLUSTERS}:6:16", "is larger than any cluster's network"),
    ("path-of-the-system", edit(CLUSTERS, "path: /opt/hpchub", "path: /usr/local"), f"{CLUSTERS}:7:22", "is a directory of the operating system; name a directory for hpchub alone"),
    ("path-of-temporary-files", edit(CLUSTERS, "path: /opt/hpchub", "path: /tmp/hpchub"), f"{CLUSTERS}:7:22", "is a directory for temporary files; name a directory that lasts"),
    ("api-port-of-ssh", edit(SERVICE, "api_port: 8445", "api_port: 22"), f"{SERVICE}:7:13", "is the port of ssh; choose another port"),
    ("api-host-of-the-node-itself", edit(SERVICE, "api_host: hub", "api_host: localhost"), f"{SERVICE}:6:13", "means the compute node itself"),
    ("pattern-with-nested-repetition", edit(ACCESS, "  minimum_uid: 1000", "  minimum_uid: 1000\n  user_pattern: '([a-z]+)+'"), f"{ACCESS}:19:17", "can read some names in very many ways, and whoever has such a name stops the service; begin each repeated group"),
    ("pattern-with-an-optional-separator", edit(ACCESS, "  minimum_uid: 1000", "  minimum_uid: 1000\n  user_pattern: '[a-z]+([._-]?[a-z0-9]+)*'"), f"{ACCESS}:19:17", "can read some names in very many ways"),
    ("pattern-with-many-optional-parts", edit(ACCESS, "  minimum_uid: 1000", f"  minimum_uid: 1000\n  user_pattern: '{'a?' * 40}b'"), f"{ACCESS}:19:17", "can read some names in very many ways"),
    # Hosts and groups
    ("login-group-misspelt", edit(HOSTS, "    login_nodes:", "    login_node:"), f"{HOSTS}:8:5", 'group login_node: is not a group of hpchub; did you mean "login_nodes"?'),
    ("compute-group-with-a-hyphen", edit(HOSTS, "    compute_nodes:", "    compute-nodes:"), f"{HOSTS}:12:5", 'did you mean "compute_nodes"?'),
    ("hub-misspelt", edit(HOSTS, "    hub:\n", "    hubs:\n"), f"{HOSTS}:4:5", 'group hubs: is not a group of hpchub; did you mean "hub"?'),
    ("group-below-hosts", edit(HOSTS, "    login_nodes:\n      children:", "    login_nodes:\n      hosts:"), f"{HOSTS}:10:9", 'hosts contains "cluster_demo_login", which is a group; write it below children:'),
    ("host-is-a-number", edit(HOSTS, "            compute1:", "            10.1:"), f"{HOSTS}:23:13", 'host 10.1 is not text; put it in quotes: "10.1"'),
    ("host-with-a-user", edit(HOSTS, "            compute1:", "            root@compute1:"), f"{HOSTS}:23:13", "contains a user; write the host alone, and the user as ansible_user"),
    ("become-is-false", edit(HOSTS, "            login1:", "            login1: {ansible_user: ann, ansible_become: false}"), f"{HOSTS}:20:57", "ansible_become: \"false\" prevents that Ansible becomes root, which the roles need; write true, or log in as root"),
    ("become-misspelt", edit(HOSTS, "            login1:", "            login1: {ansible_become: ture}"), f"{HOSTS}:20:38", "is neither true nor false"),
    ("become-another-user", edit(HOSTS, "            login1:", "            login1: {ansible_become_user: admin}"), f"{HOSTS}:20:43", "is not root, but the roles need root"),
    ("become-method-misspelt", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_become_method: sduo"), f"{LAB}:6:24", '"sduo" is not a method to become root; did you mean "sudo"?'),
    ("become-method-of-windows", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_become_method: runas"), f"{LAB}:6:24", "is not a method to become root; did you mean \"run0\"? valid: sudo"),
    ("connection-misspelt", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_connection: shh"), f"{LAB}:6:21", 'is not a kind of connection to a Linux host; did you mean "ssh"?'),
    ("connection-of-windows", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_connection: winrm"), f"{LAB}:6:21", "is not a kind of connection to a Linux host; valid: ssh"),
    ("connection-of-all-is-local", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_connection: local"), f"{LAB}:6:21", "is local for all hosts, so that"),
    ("user-empty", edit(LAB, "ansible_user: root", "ansible_user: ''"), f"{LAB}:5:15", "is not the name of an account; write the account that Ansible logs in with, or remove the line"),
    ("user-missing", edit(LAB, "ansible_user: root", "ansible_user:"), f"{LAB}:5:14", "ansible_user: is not the name of an account"),
    ("user-with-a-host", edit(LAB, "ansible_user: root", "ansible_user: ssh root"), f"{LAB}:5:15", "is not the name of an account"),
    ("port-is-true", edit(HOSTS, "            login1:", "            login1: {ansible_port: yes}"), f"{HOSTS}:20:36", "is not a port"),
    ("port-with-a-zero", edit(HOSTS, "            login1:", "            login1: {ansible_port: 022}"), f"{HOSTS}:20:36", "022 is read by YAML as 18"),
    ("address-with-a-large-number", edit(HOSTS, "            login1:", "            login1: {ansible_host: 10.0.0.256}"), f"{HOSTS}:20:36", "is not a host's name or address"),
    ("address-of-another-host", edit(HOSTS, "            compute1:\n            compute2:", "            compute1: {ansible_host: 10.0.0.1}\n            compute2: {ansible_host: 10.0.0.1}"), f"{HOSTS}:24:38", "is also the address of the host compute1"),
    ("public-key-for-the-connection", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_ssh_private_key_file: ~/.ssh/id_ed25519.pub"), f"{LAB}:6:31", "is not a private key; write its path, which does not end in .pub"),
    ("python-2", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_python_interpreter: /usr/bin/python2.7"), f"{LAB}:6:29", "is not a Python 3"),
    ("ssh-options-are-a-list", edit(LAB, "ansible_ssh_common_args: -F {{ lab_dir }}/ssh_config", "ansible_ssh_common_args: [-F, x]"), f"{LAB}:6:26", "is not text; write all options in one line of text"),
    ("connection-variable-misspelt", edit(HOSTS, "            login1:", "            login1: {ansible_hots: 10.0.0.1}"), f"{HOSTS}:20:22", 'is not a variable of Ansible\'s connections; did you mean "ansible_host"?'),
    ("keyword-as-a-variable", edit(LAB, "ansible_user: root", "ansible_user: root\nbecome: true"), f"{LAB}:6:1", "become: has no effect as a variable, because it is a keyword of Ansible's playbooks; write ansible_become"),
    ("sudo-of-old-versions", edit(LAB, "ansible_user: root", "ansible_user: root\nansible_sudo: true"), f"{LAB}:6:1", "is a variable that Ansible no longer reads; write ansible_become"),
    ("vars-of-a-host-like-a-group", edit(HOSTS, "            login1:\n", "            login1:\n              vars: {ansible_host: 10.0.0.2}\n"), f"{HOSTS}:21:15", 'host "login1" has the key vars, which only groups have; write variables directly below the host'),
    ("yaml-without-a-suffix", both(move(HOSTS, "inventory"), edit("inventory", "compute1:", "compute1")), "inventory:23:13", "has no colon after the name"),
    ("range-without-a-step", edit(HOSTS, "            compute1:", "            compute[1:4:0]:"), f"{HOSTS}:23:13", "has a range with the step 0"),
    ("range-too-large", edit(HOSTS, "            compute1:", "            compute[1:999999]:"), f"{HOSTS}:23:13", "has a range of more than 20000 hosts"),
    ("port-is-a-word", edit(HOSTS, "            login1:", "            login1: {ansible_port: ssh}"), f"{HOSTS}:20:36", 'ansible_port: "ssh" is not a port; write a number from 1 to 65535'),
    ("address-is-a-url", edit(HOSTS, "            login1:", "            login1: {ansible_host: ssh://login1}"), f"{HOSTS}:20:36", "is not a host's name or address"),
    ("many-hosts-in-no-list", both(edit(HOSTS, "    compute_nodes:", "    workers:"), edit(HOSTS, "compute1:", "compute[3:9]:")), f"{HOSTS}:24:13", "but in neither login_nodes nor compute_nodes; the same holds for compute3, compute4, compute5, compute6, compute7 and 2 more"),
    ("variables-beside-hosts", move(PROFILES, "profiles.yml"), "profiles.yml:2:1", "hpc_profiles is a variable, but Ansible reads this file as a list of hosts; move the file to group_vars/all"),
    ("range-with-a-hyphen", edit(HOSTS, "            compute1:", "            compute[1-4]:"), f"{HOSTS}:23:13", "has a range that is not valid; write it as in node[001:128]"),
    ("range-backwards", edit(HOSTS, "            compute1:", "            compute[4:1]:"), f"{HOSTS}:23:13", "has a range from 4 down to 1; write [1:4]"),
    ("range-of-two-lengths", edit(HOSTS, "            compute1:", "            compute[01:128]:"), f"{HOSTS}:23:13", "which have different lengths; write 001"),
    ("range-open", edit(HOSTS, "            compute1:", "            compute[1:4:"), f"{HOSTS}:23:13", "has a range that is not valid"),
    ("hosts-a-list", edit(HOSTS, "            compute1:\n            compute2:\n", "            - compute1\n            - compute2\n"), f"{HOSTS}:23:13", 'hosts is a list; write "NAME:" instead of "- NAME"'),
    ("children-a-list", edit(HOSTS, "        cluster_demo_login:\n", "        - cluster_demo_login\n"), f"{HOSTS}:10:9", "children is a list"),
    ("host-without-a-colon", edit(HOSTS, "            compute1:\n", "            compute1\n"), f"{HOSTS}:23:13", "has no colon after the name"),
    ("hosts-without-colons", edit(HOSTS, "            compute1:\n            compute2:\n", "            compute1\n            compute2\n"), f"{HOSTS}:23:13", 'write one "NAME:" per line, with a colon'),
    ("hosts-on-one-line", edit(HOSTS, "            compute1:\n", "            compute1, compute3:\n"), f"{HOSTS}:23:13", "contains a space, comma or semicolon"),
    ("key-host-instead-of-hosts", edit(HOSTS, "      hosts:\n        hub:", "      host:\n        hub:"), f"{HOSTS}:5:7", 'did you mean "hosts"?'),
    ("group-without-children", edit(HOSTS, "  children:\n    hub:", "    hub:"), f"{HOSTS}:3:5", "is not a key of a group"),
    ("group-contains-itself", edit(HOSTS, "        cluster_demo_login:\n", "        login_nodes:\n"), f"{HOSTS}:10:9", "contains itself"),
    ("hosts-file-a-list", write(HOSTS, "- hub\n"), f"{HOSTS}:1:1", "is a list, not a mapping of groups"),
    ("hub-missing", edit(HOSTS, "    hub:\n      hosts:\n        hub:\n", ""), f"{HOSTS}", "group hub: has 0 hosts"),
    ("two-hubs", edit(HOSTS, "        hub:\n", "        hub:\n        hub2:\n"), f"{HOSTS}:4:5", "group hub: has 2 hosts"),
    ("group-of-the-cluster-misspelt", edit(HOSTS, "    cluster_demo:\n", "    cluster_dmo:\n"), f"{CLUSTERS}:3:5", "has no group cluster_demo in the inventory"),
    ("host-in-no-cluster", edit(HOSTS, "    login_nodes:\n", "    login_nodes:\n      hosts:\n        login9:\n"), f"{HOSTS}:10:9", "host login9: is in login_nodes, but in no cluster"),
    ("submit-host-unknown", edit(CLUSTERS, "host: login1", "host: login2"), f"{CLUSTERS}:5:33", "is not a host of the inventory; valid: login1"),
    ("submit-host-a-compute-node", edit(CLUSTERS, "host: login1", "host: compute1"), f"{CLUSTERS}:5:33", "is not in both cluster_demo and login_nodes"),
    ("submit-without-a-host", edit(CLUSTERS, "{method: ssh, host: login1}", "{method: ssh}"), f"{CLUSTERS}:5:5", 'has the method "ssh" but no host'),
    # Files in the wrong place
    ("host-vars-of-the-site", add("host_vars/login1.yml", "hpc_profiles: []\n"), "host_vars/login1.yml:1:1", "is set for the host login1 only, but it describes the whole site"),
    ("vars-of-another-group", add("group_vars/compute_nodes.yml", "x: 1\nhpc_service: {}\n"), "group_vars/compute_nodes.yml:2:1", "is set for the group compute_nodes only"),
    ("vars-of-a-host-in-hosts", edit(HOSTS, "            login1:\n", "            login1:\n              hpc_tls: {}\n"), f"{HOSTS}:21:15", "is set for the host login1 only"),
    ("vars-of-a-group-in-hosts", edit(HOSTS, "    hub:\n", "    hub:\n      vars:\n        hpc_tls: {}\n"), f"{HOSTS}:6:9", "is set for the group hub only"),
    ("bad-value-in-hosts", both(edit(SERVICE, "hpc_state_store:\n  backend: sqlite\n", ""), edit(HOSTS, "all:\n", "all:\n  vars:\n    hpc_state_store: {backend: mysql}\n")), f"{HOSTS}:4:32", "is unknown; available: sqlite"),
    ("unknown-variable-of-a-host", add("host_vars/login1.yml", "hpc_quues: []\n"), "host_vars/login1.yml:1:1", "is not a variable of hpchub"),
    ("two-files-of-all", add(f"{ALL}z.yml", "hpc_access: {}\n"), f"{ALL}z.yml:1:1", "is also set in"),
    ("hosts-and-group-vars", edit(HOSTS, "all:\n", "all:\n  vars:\n    hpc_tls: {}\n"), f"{SERVICE}:10:1", "is also set in"),
    ("group-misspelt", add("group_vars/comput_nodes.yml", "x: 1\n"), "group_vars/comput_nodes.yml", 'has no group "comput_nodes"; did you mean "compute_nodes"?'),
    ("all-misspelt", move("group_vars/all", "group_vars/al"), "group_vars/al/access.yml", 'has no group "al"; did you mean "all"?'),
    ("host-misspelt", add("host_vars/logn1.yml", "x: 1\n"), "host_vars/logn1.yml", 'did you mean "login1"?'),
    ("all-twice", add("group_vars/all.yml", "x: 1\n"), "group_vars/all.yml", "is not read by Ansible, because"),
    ("suffix-with-capitals", move(PROFILES, f"{ALL}profiles.YML"), f"{ALL}profiles.YML:2:1", "is not read by Ansible, which ignores a file with this name; give it a name that ends in .yml"),
    ("suffix-missing-letter", move(PROFILES, f"{ALL}profiles.ym"), f"{ALL}profiles.ym:2:1", "is not read by Ansible"),
    ("directory-with-a-dot", move(PROFILES, f"{ALL}site.d/profiles.yml"), f"{ALL}site.d/profiles.yml:2:1", "ignores a directory whose name contains a dot"),
    ("group-vars-misspelt", move("group_vars", "groups_vars"), "groups_vars", 'did you mean "group_vars"?'),
    ("nested-below-vars", add(f"{ALL}z.yml", "vars:\n  hpc_install_environment: {}\n"), f"{ALL}z.yml:2:3", "belongs to the top level of the file"),
    ("certificate-beside-hosts", add("hub.pem", "x"), "hub.pem", "is read by Ansible as a list of hosts; move it to the directory files"),
    ("environment-of-a-group", add("group_vars/compute_nodes.yml", "hpc_install_environment: {A B: c}\n"), "group_vars/compute_nodes.yml:1:32", "is not an environment variable's name"),
    ("ini-variable", add("more.ini", "[compute_nodes:vars]\nhpc_profiles=[]\n"), "more.ini:2:1", "is set for the group compute_nodes only"),
    ("nested-deeper", add(f"{ALL}z.yml", "all:\n  vars:\n    hpc_install_environment: {}\n"), f"{ALL}z.yml:3:5", "belongs to the top level of the file"),
    ("variable-without-a-colon", edit(HOSTS, "        hub:\n", "        hub: {ansible_host 10.0.0.1}\n"), f"{HOSTS}:6:15", '"ansible_host 10.0.0.1": is not the name of a variable'),
    ("variables-as-in-ini", edit(HOSTS, "        hub:\n", "        hub: ansible_host=10.0.0.1\n"), f"{HOSTS}:6:14", "has a value that is not a mapping"),
    ("ini-in-a-yaml-file", write(HOSTS, "[hub]\nhub\n[login_nodes]\nlogin1\n"), f"{HOSTS}:2:1", "has a name for YAML, but the INI format"),
    ("text-beside-hosts", add("Makefile", "all:\n\techo\n"), "Makefile:1:1", "is read by Ansible as a list of hosts, but this line is none"),
    ("suffix-of-windows", move(PROFILES, f"{ALL}profiles.yml.txt"), f"{ALL}profiles.yml.txt:2:1", "is not read by Ansible"),
    ("value-missing", edit(PROFILES, "    cores: 1\n", "    cores:\n"), f"{PROFILES}:8:5", "cores is empty; write a whole number"),
    ("certificate-unreadable", edit(SERVICE, '"{{ lab_dir }}/hub.pem"', "/nowhere/hub.pem"), f"{SERVICE}:11:16", "is not a readable file on the controller"),
    ("certificate-and-key-swapped", both(edit(SERVICE, 'hub.pem"', 'hub.tmp"'), edit(SERVICE, 'hub.key"', 'hub.pem"'), edit(SERVICE, 'hub.tmp"', 'hub.key"')), f"{SERVICE}:11:16", "certificate and key are swapped"),
    ("certificate-for-another-host", edit(SERVICE, "api_host: hub", "api_host: other"), f"{SERVICE}:11:16", "is not valid for other; it is valid for hub.localhost, hub"),
    ("key-not-set", edit(SERVICE, '  key: "{{ lab_dir }}/hub.key"\n', ""), f"{SERVICE}:10:1", "set both certificate and key"),
    # A second list of hosts
    ("hosts-in-two-formats", add("hosts.ini", "[hub]\nhub\n"), "hosts.ini:1:1", "is read by Ansible in addition to hosts.yml; keep one of them"),
    ("brace-at-the-end", add("more.json", "{"), "more.json:2:1", "ends before a { or [ is closed"),
    ("hosts-in-yml-and-yaml", add("hosts.yaml", "all:\n"), "hosts.yaml:1:1", "is read by Ansible in addition to hosts.yml"),
    ("hosts-without-a-suffix", add("hosts", "[hub]\nold\n"), "hosts:1:1", "is read by Ansible in addition to hosts.yml"),
    ("hosts-of-last-year", add("hosts.2025.yml", "all:\n"), "hosts.2025.yml:1:1", "is read by Ansible in addition to hosts.yml"),
    ("hosts-saved", add("hosts.yml.save", "all:\n"), "hosts.yml.save", "is read by Ansible as a list of hosts; move it"),
    ("hosts-copied", add("copy of hosts.yml", "all:\n  children:\n    login_nodes:\n      hosts:\n        login1:\n    cluster_demo_login:\n      hosts:\n        login1:\n"), "hosts.yml:20:13", "host login1: is also in the group cluster_demo_login in copy of hosts.yml:8; Ansible reads both files"),
    ("hosts-copied-to-ini", add("old.ini", "[cluster_demo_login]\nlogin1\n"), "old.ini:2:1", "host login1: is also in the group cluster_demo_login in hosts.yml:20"),
    # Vaults
    ("vault-beside-hosts", add("vault.yml", VAULT), "vault.yml:1:1", "is an encrypted file that Ansible reads as a list of hosts, not for variables"),
    ("vault-without-a-block", add(f"{ALL}vault.yml", VAULT[:-33]), f"{ALL}vault.yml:2:1", "is a damaged vault: a part is missing"),
    ("vault-after-a-line", add(f"{ALL}vault.yml", "---\n$ANSIBLE_VAULT;1.1;AES256\n6162\n"), f"{ALL}vault.yml:2:1", "does not begin on the first line"),
    ("vault-cut-off", add(f"{ALL}vault.yml", "$ANSIBLE_VAULT;1.1;AES256\n616\n"), f"{ALL}vault.yml:2:1", "is a damaged vault: the end is missing"),
    ("vault-with-text", add(f"{ALL}vault.yml", "$ANSIBLE_VAULT;1.1;AES256\n6162\nhpc_x: 1\n"), f"{ALL}vault.yml:3:1", "the line is not hexadecimal"),
    # Arguments of roles
    ("argument-misspelt", add(f"{ALL}z.yml", "jupyterhub_log_levle: DEBUG\n"), f"{ALL}z.yml:1:1", 'is not an argument of a role; did you mean "jupyterhub_log_level"?'),
    ("argument-pattern-invalid", add(f"{ALL}z.yml", "reverse_proxy_oidc_user_pattern: '^(.*@'\n"), f"{ALL}z.yml:1:34", "is not a regular expression: missing )"),
    ("argument-pattern-without-a-group", add(f"{ALL}z.yml", "reverse_proxy_oidc_user_pattern: '^.*@'\n"), f"{ALL}z.yml:1:34", "has no group; put the part that is the name in parentheses"),
    ("argument-pattern-takes-too-long", add(f"{ALL}z.yml", "reverse_proxy_oidc_user_pattern: '^((?:[a-z]+)+)@x$'\n"), f"{ALL}z.yml:1:34", "can read some names in very many ways"),
    ("argument-days-zero", add(f"{ALL}z.yml", "jupyterhub_token_days: 0\n"), f"{ALL}z.yml:1:24", "is below 1"),
    ("argument-unlike-any-other", add(f"{ALL}z.yml", "jupyterhub_quota: 10\n"), f"{ALL}z.yml:1:1", "jupyterhub_quota: is not an argument of a role; give a variable of your own a name without jupyterhub_"),
    ("argument-of-a-host-unlike-any-other", add("host_vars/hub.yml", "reverse_proxy_http2: true\n"), "host_vars/hub.yml:1:1", "reverse_proxy_http2: is not an argument of a role"),
    ("argument-with-hyphens", add(f"{ALL}z.yml", "jupyterhub-log-level: DEBUG\n"), f"{ALL}z.yml:1:1", 'did you mean "jupyterhub_log_level"?'),
    ("argument-with-a-misspelt-role", add(f"{ALL}z.yml", "jupiterhub_log_level: DEBUG\n"), f"{ALL}z.yml:1:1", 'did you mean "jupyterhub_log_level"?'),
    ("argument-misspelt-in-a-group", add("group_vars/hub.yml", "jupyterhub_log_levle: DEBUG\n"), "group_vars/hub.yml:1:1", "is not an argument of a role"),
    ("argument-choice", add(f"{ALL}z.yml", "jupyterhub_log_level: TRACE\n"), f"{ALL}z.yml:1:23", "is unknown; valid: "),
    ("argument-number-in-quotes", add(f"{ALL}z.yml", 'reverse_proxy_max_connections: "4096"\n'), f"{ALL}z.yml:1:32", "is text, not a whole number"),
    ("argument-number-too-low", add("group_vars/hub.yml", "reverse_proxy_max_connections: 10\n"), "group_vars/hub.yml:1:32", "is below 256"),
    ("argument-port-too-high", add(f"{ALL}z.yml", "reverse_proxy_redirect_port: 80800\n"), f"{ALL}z.yml:1:30", "is not a port; write a number from 0 to 65535"),
    ("argument-bool-in-quotes", add("host_vars/hub.yml", 'reverse_proxy_maintenance: "no"\n'), "host_vars/hub.yml:1:28", "is text, not true or false"),
    ("argument-list-is-text", add(f"{ALL}z.yml", "reverse_proxy_trusted_proxies: 10.0.0.1\n"), f"{ALL}z.yml:1:32", "is text, not a list"),
    ("argument-item-not-a-network", add(f"{ALL}z.yml", "reverse_proxy_trusted_proxies: [10.0.0.1, lb1]\n"), f"{ALL}z.yml:1:43", "is not an address or a network"),
    ("argument-every-address", add(f"{ALL}z.yml", "reverse_proxy_trusted_proxies: [0.0.0.0/0]\n"), f"{ALL}z.yml:1:33", "contains every address; name the addresses that are meant"),
    ("argument-root-directory", add(f"{ALL}z.yml", "jupyterhub_state_directory: /\n"), f"{ALL}z.yml:1:29", "is the root directory"),
    ("argument-a-fraction", add(f"{ALL}z.yml", "reverse_proxy_max_connections: 4096.5\n"), f"{ALL}z.yml:1:32", "is a number, not a whole number; write a whole number, without quotes"),
    ("argument-path-relative", add(f"{ALL}z.yml", "jupyterhub_state_directory: var/lib\n"), f"{ALL}z.yml:1:29", "is not an absolute path"),
    ("argument-key-too-short", add(f"{ALL}z.yml", "jupyterhub_crypt_key: abc\n"), f"{ALL}z.yml:1:23", "is not a key of the right form; write 64 hexadecimal digits"),
    ("argument-derived", add(f"{ALL}z.yml", "reverse_proxy_port: 443\n"), f"{ALL}z.yml:1:1", "has no effect, because hpchub derives it from its own variables; set hpc_service.bind_port instead"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place", "message"), [case[1:] for case in MISTAKES], ids=[c[0] for c in MISTAKES])
def test_mistake_is_found_with_its_place(site: Path, lab: Path, change: Change, place: str, message: str) -> None:
    change(site)
    found = check(site, lab).problems
    lines = [str(problem).replace(f"{site}/", "") for problem in found]
    assert all(problem.file for problem in found), lines
    if place:
        assert any(line.startswith(f"{place}: ") and message in line for line in lines), lines


WARNINGS: list[tuple[str, Change, str, str]] = [
    ("secret-in-clear-text", edit(ACCESS, '"{{ vault_sso_client_secret }}"', "d41d8cd98f00"), f"{ACCESS}:6:18", "client_secret is a secret in clear text; encrypt it with ansible-vault"),
    ("vault-not-encrypted", add(f"{ALL}vault.yml", "vault_other: abc\n"), f"{ALL}vault.yml:1:14", "vault_other: is a secret in clear text"),
    ("password-of-ansible", add("host_vars/login1.yml", "ansible_become_password: hunter2\n"), "host_vars/login1.yml:1:26", "is a secret in clear text"),
    ("secret-argument", add(f"{ALL}z.yml", f"jupyterhub_crypt_key: {'a' * 64}\n"), f"{ALL}z.yml:1:23", "is a secret in clear text"),
    ("password-in-a-url", edit(f"{ALL}lab.yml", "UV_LINK_MODE: copy", "HTTPS_PROXY: http://u:hunter2@proxy:3128"), f"{ALL}lab.yml:17:16", "contains a password in clear text"),
    ("no-way-to-root", edit(LAB, "ansible_user: root", "ansible_user: admin"), f"{LAB}:5:15", "is not root, and the inventory has no ansible_become; add ansible_become: true"),
    ("placeholder-todo", edit(SERVICE, "name: Demo cluster", "name: TODO"), f"{SERVICE}:4:9", "is still a placeholder"),
    ("placeholder-xxx", edit(ACCESS, "client_id: hpchub", "client_id: xxx"), f"{ACCESS}:5:14", "is still a placeholder"),
    ("placeholder-in-the-vault", add(f"{ALL}vault.yml", "vault_other: changeme\n"), f"{ALL}vault.yml:1:14", "is still a placeholder"),
    ("example", edit(SERVICE, "https://hub.localhost:8443", "https://jupyter.example.org"), f"{SERVICE}:3:8", "still contains a name of the example, example.org (also in line 5)"),
    ("name-twice", edit(PROFILES, '"Medium: 4 cores, 8 GB, 8 hours"', '"Small: 1 core, 2 GB, 2 hours"'), f"{PROFILES}:13:19", "is also the name of another profile"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place", "message"), [case[1:] for case in WARNINGS], ids=[c[0] for c in WARNINGS])
def test_warning_has_its_place_and_shows_no_secret(
    site: Path, lab: Path, change: Change, place: str, message: str
) -> None:
    change(site)
    lines = [str(warning).replace(f"{site}/", "") for warning in check(site, lab).warnings]
    assert any(line.startswith(f"{place}: ") and message in line for line in lines), lines
    assert not any(
        secret in line for line in lines for secret in ("hunter2", "d41d8cd98f00", "aaaa", "abc", "changeme")
    )


@pytest.mark.parametrize("name", ["Demo", "demo-2", "no"])
def test_invalid_name_of_a_cluster_is_one_problem(site: Path, lab: Path, name: str) -> None:
    edit(CLUSTERS, "name: demo", f"name: {name}")(site)
    assert len(found := check(site, lab).problems) == 1, list(map(str, found))


def test_misspelt_group_is_one_problem(site: Path, lab: Path) -> None:
    both(edit(HOSTS, "    compute_nodes:", "    compute-nodes:"), edit(HOSTS, "compute1:", "compute[3:90]:"))(site)
    assert len(found := check(site, lab).problems) == 1, list(map(str, found))


def test_inventory_without_mistakes_has_no_problems(site: Path, lab: Path) -> None:
    found = check(site, lab)
    assert [*map(str, found.problems), *map(str, found.warnings)] == []


def test_there_are_many_cases() -> None:
    assert len(MISTAKES) >= 150
    assert len({name for name, *_ in MISTAKES}) == len(MISTAKES)
