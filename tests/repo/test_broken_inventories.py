"""Broken copies of the demo inventory: the message names the mistake, and Ansible contacts no host."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import copy
import importlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from repo.sites import SITE

from hpchub.model.problems import SiteError
from hpchub.model.site import Site

if TYPE_CHECKING:
    import subprocess

    from repo.conftest import Ansible

ROOT = Path(__file__).resolve().parents[2]
GONE: Any = object()

SMALL = 'hpc_profiles[0] (key "small"): '
MEDIUM = 'hpc_profiles[1] (key "medium"): '
CLUSTER = 'hpc_clusters[0] (name "demo"): '
QUEUE = 'hpc_clusters[0] (name "demo") queues[0] (name "interactive"): '
IR = 'hpc_kernels[1] (name "ir"): '

# The name of each case, its changes (dotted paths and values), and the beginning of the message.
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("queue-unknown", {"hpc_profiles.0.queue": "interactve"}, SMALL + 'queue "interactve" is not a queue of cluster "demo"; did you mean "interactive"? valid: interactive, batch'),
    ("cluster-unknown", {"hpc_profiles.0.cluster": "mesabi"}, SMALL + 'cluster "mesabi" is not a cluster of hpc_clusters; valid: demo'),
    ("memory-with-a-space", {"hpc_profiles.0.memory": "4 GB"}, SMALL + 'memory "4 GB" is not a size; write a number and M, G or T, as in 4G'),
    ("memory-is-a-number", {"hpc_profiles.0.memory": 4}, SMALL + "memory 4 is a number, not a size; write a number and M, G or T, as in 4G"),
    ("runtime-in-words", {"hpc_profiles.0.runtime": "8h"}, SMALL + 'runtime "8h" is not a time; write hours, minutes and seconds, as in "8:00:00", or days too, as in "2-00:00:00"'),
    ("runtime-without-quotes", {"hpc_profiles.0.runtime": 28800}, SMALL + "runtime 28800 is a number, because YAML reads a time without quotes as seconds; write hours"),
    ("key-twice", {"hpc_profiles.1.key": "small"}, 'hpc_profiles[1] (key "small"): key "small" is already used by entry 0; give each entry a different key'),
    ("key-with-a-capital", {"hpc_profiles.0.key": "Small"}, 'hpc_profiles[0] (key "Small"): key "Small" is not a profile\'s key; write lower-case letters'),
    ("scheduler-unknown", {"hpc_clusters.0.scheduler": "slurmm"}, CLUSTER + 'scheduler "slurmm" is unknown; did you mean "slurm"? available: slurm'),
    ("cores-above-the-queue", {"hpc_profiles.1.cores": 400}, MEDIUM + 'cores 400 is above max_cores 16 of queue "interactive" of cluster "demo"; request at most 16, or raise max_cores of the queue'),
    ("memory-above-the-queue", {"hpc_profiles.1.memory": "1T"}, MEDIUM + 'memory "1T" is above max_memory "64G" of queue "interactive" of cluster "demo"'),
    ("runtime-above-the-queue", {"hpc_profiles.1.runtime": "13:00:00"}, MEDIUM + 'runtime "13:00:00" is above max_runtime "12:00:00" of queue "interactive" of cluster "demo"'),
    ("gpus-above-the-queue", {"hpc_profiles.1.gpus": 1}, MEDIUM + 'gpus 1 is above max_gpus 0 of queue "interactive" of cluster "demo"'),
    ("kernel-kind-unknown", {"hpc_kernels.1.kind": "comand"}, IR + 'kind "comand" is unknown; did you mean "command"? valid: python, r, venv, conda, module, container, command'),
    ("kernel-of-a-profile-unknown", {"hpc_profiles.0.default_kernel": "julia"}, SMALL + 'default_kernel "julia" is not a kernel of cluster "demo"; valid: python3, ir'),
    ("kernel-name-twice", {"hpc_kernels.1.name": "python3"}, 'hpc_kernels[1] (name "python3"): name "python3" is already used by entry 0'),
    ("drain-of-an-unknown-cluster", {"hpc_drains": [{"cluster": "dmo", "from": "2027-01-31 08:00"}]}, 'hpc_drains[0]: cluster "dmo" is not a cluster or a place; did you mean "demo"? valid: demo'),
    ("drain-that-ends-before-it-begins", {"hpc_drains": [{"from": "2027-01-31 08:00", "until": "2027-01-31 07:00"}]}, "hpc_drains[0]: has until 2027-01-31 07:00, which is not after from 2027-01-31 08:00; write a later until"),
    ("variable-misspelt", {"hpc_profile": []}, 'hpc_profile: is not a variable of hpchub; did you mean "hpc_profiles"?'),
    ("variable-prefix-misspelt", {"hcp_clusters": []}, 'hcp_clusters: is not a variable of hpchub; did you mean "hpc_clusters"?'),
    ("key-misspelt", {"hpc_profiles.0.runtme": "8:00:00"}, SMALL + '"runtme" is an unknown key; did you mean "runtime"?'),
    ("key-of-a-queue-misspelt", {"hpc_clusters.0.queues.0.max_core": 4}, QUEUE + '"max_core" is an unknown key; did you mean "max_cores"?'),
    ("cores-in-quotes", {"hpc_profiles.0.cores": "2"}, SMALL + 'cores "2" is text, not a number; write a whole number from 1 to 100000, without quotes'),
    ("profiles-are-a-mapping", {"hpc_profiles": {"small": {}}}, 'hpc_profiles: {"small": {}} is a mapping, not a list; write one "- " per entry'),
    ("profiles-are-empty", {"hpc_profiles": []}, "hpc_profiles: is empty; add at least one entry"),
    ("profiles-are-null", {"hpc_profiles": None}, "hpc_profiles: null is empty, not a list"),
    ("profiles-are-missing", {"hpc_profiles": GONE}, "hpc_profiles: is missing; add it to the inventory's group_vars/all"),
    ("queue-of-a-profile-missing", {"hpc_profiles.0.queue": GONE}, SMALL + "queue is missing; add it"),
    ("account-with-a-directive", {"hpc_profiles.0.account": "x\n#SBATCH --uid=0"}, SMALL + 'account "x\\n#SBATCH --uid=0" contains a line break or another control character'),
    ("option-repeats-runtime", {"hpc_profiles.0.options": ["--time=99:00:00"]}, SMALL + 'options "--time=99:00:00" repeats the field runtime; set runtime of the profile or its queue instead'),
    ("option-reserved", {"hpc_profiles.0.options": ["--export=ALL"]}, SMALL + 'options "--export=ALL" is set by hpchub; leave it out'),
    ("two-options-in-one-item", {"hpc_profiles.0.options": ["--qos=a --exclusive"]}, SMALL + 'options "--qos=a --exclusive" is not a single option; write each option as a separate item'),
    ("network-with-host-bits", {"hpc_clusters.0.networks": ["10.1.2.3/8"]}, CLUSTER + 'networks[0] "10.1.2.3/8" has bits set after its prefix; write 10.0.0.0/8'),
    ("url-without-tls", {"hpc_service.url": "http://hub.localhost:8443"}, 'hpc_service: url "http://hub.localhost:8443" is not a service\'s address; write https'),
    ("url-with-a-path", {"hpc_service.url": "https://hub.localhost/jupyter"}, 'hpc_service: url "https://hub.localhost/jupyter" is not a service\'s address'),
    ("path-not-absolute", {"hpc_clusters.0.software.path": "opt"}, CLUSTER + 'software.path "opt" is not an absolute path; begin with /'),
    ("ssh-without-a-host", {"hpc_clusters.0.submit": {"method": "ssh"}}, CLUSTER + 'submit has the method "ssh" but no host; set host to one of the cluster\'s login nodes'),
    ("ssh-host-unknown", {"hpc_clusters.0.submit.host": "login9"}, CLUSTER + 'submit.host "login9" is not a host of the inventory; valid: login1'),
    ("ssh-host-is-a-compute-node", {"hpc_clusters.0.submit.host": "compute1"}, CLUSTER + 'submit.host "compute1" is not in both cluster_demo and login_nodes; valid: login1'),
    ("cluster-without-a-group", {"hpc_clusters.0.name": "other"}, 'hpc_clusters[0] (name "other"): has no group cluster_other in the inventory'),
    ("queue-name-twice", {"hpc_clusters.0.queues.1.name": "interactive"}, 'hpc_clusters[0] (name "demo") queues[1] (name "interactive"): name "interactive" is already used by entry 0'),
    ("secret-is-a-placeholder", {"hpc_sso.client_secret": "CHANGE ME"}, "hpc_sso: client_secret is still a placeholder; put the real secret into the inventory's vault"),
    ("secret-missing-in-the-vault", {"hpc_sso.client_secret": "{{ vault_nobody }}"}, "hpc_sso: client_secret cannot be evaluated: 'vault_nobody' is undefined; define it in the inventory; a secret belongs in its vault"),
    ("certificate-missing", {"hpc_tls.certificate": "/nowhere/hub.pem"}, 'hpc_tls: certificate "/nowhere/hub.pem" is not a readable file on the controller'),
]  # fmt: skip
NEED_ANSIBLE = {"secret-missing-in-the-vault", "certificate-missing"}


def demo() -> dict[str, Any]:
    """Return the demo's variables, with constant values for the lab's expressions."""
    variables: dict[str, Any] = {}
    for path in sorted((SITE / "group_vars" / "all").glob("*.yml")):
        variables |= yaml.safe_load(path.read_text())
    # Ansible evaluates these expressions. Only paths in the lab and the vault's secrets have any.
    text = json.dumps(variables).replace("{{ lab_dir }}", "/lab")
    found: dict[str, Any] = json.loads(re.sub(r'"\{\{ vault[^"]*"', '"d41d8cd98f00b204"', text))
    return found


GROUPS = {
    "hub": ["hub"],
    "idp": ["idp"],
    "login_nodes": ["login1"],
    "compute_nodes": ["compute1", "compute2"],
    "cluster_demo": ["login1", "compute1", "compute2"],
    "cluster_demo_login": ["login1"],
    "cluster_demo_compute": ["compute1", "compute2"],
}


def change(variables: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(variables)
    for path, value in changes.items():
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        at: Any = changed
        for step in way:
            at = at[step]
        if value is GONE:
            del at[last]
        else:
            at[last] = value
    return changed


def test_cases_are_numerous_and_have_unique_names() -> None:
    assert len(BROKEN) >= 25
    assert len({name for name, _, _ in BROKEN}) == len(BROKEN)


def test_unchanged_demo_is_valid() -> None:
    assert Site.from_vars(demo(), {"groups": GROUPS}).warnings() == []


@pytest.mark.parametrize(
    ("changes", "valid"),
    [({}, True), ({"hpc_profiles.0.memory": "4 GB"}, False), ({"hpc_profiles.0.runtme": "1:00:00"}, False), ({"hpc_kernels.0.kind": "x"}, False)],
)  # fmt: skip
def test_schema_agrees_with_the_model(changes: dict[str, Any], valid: bool) -> None:
    jsonschema = importlib.import_module("jsonschema")  # released without type information
    ours = {name: value for name, value in change(demo(), changes).items() if name.startswith("hpc_")}
    assert jsonschema.Draft202012Validator(Site.json_schema()).is_valid(ours) is valid


MODEL_CASES = [case for case in BROKEN if case[0] not in NEED_ANSIBLE]


@pytest.mark.parametrize(("changes", "message"), [c[1:] for c in MODEL_CASES], ids=[c[0] for c in MODEL_CASES])
def test_message_names_the_mistake(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SiteError) as caught:
        Site.from_vars(change(demo(), changes), {"groups": GROUPS})
    lines = str(caught.value).splitlines()
    assert any(line.startswith(message) for line in lines), lines


# The tests below run Ansible. Its hosts have unreachable addresses.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a copy of the demo's inventory with hosts in an address range for documentation (RFC 5737)."""
    copied = tmp_path / "site"
    shutil.copytree(SITE, copied)
    lab = copied / "group_vars" / "all" / "lab.yml"
    lab.write_text(lab.read_text() + "\nansible_host: 192.0.2.1\nansible_timeout: 2\n")
    return copied


def apply_changes(site: Path, changes: dict[str, Any]) -> None:
    """Write the changed variables to a file that Ansible reads last, and remove them from the other files."""
    names = {path.split(".")[0] for path in changes}
    before: dict[str, Any] = {}
    for path in sorted((site / "group_vars" / "all").glob("*.yml")):
        found = yaml.safe_load(path.read_text())
        before |= found
        kept = {name: value for name, value in found.items() if name not in names}
        if kept != found:
            path.write_text(yaml.safe_dump(kept) if kept else "---\n")
    changed = change(before, changes)
    broken = {name: changed[name] for name in names if name in changed}
    (site / "group_vars" / "all" / "zz.yml").write_text(yaml.safe_dump(broken) if broken else "---\n")


def output_of_stopped_run(done: subprocess.CompletedProcess[str]) -> str:
    """Check that the run failed in its first play, on the controller, and contacted no host. Return its output."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "UNREACHABLE" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert re.findall(r"^TASK \[(.*)\]", done.stdout, re.MULTILINE) == ["Compare the inventory with the model"]
    assert "changed=0    unreachable=0    failed=1" in done.stdout
    return done.stdout


REAL = ["queue-unknown", "memory-with-a-space", "cores-above-the-queue", "variable-misspelt", "cluster-without-a-group", *sorted(NEED_ANSIBLE)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_site_playbook_stops_before_contacting_a_host(ansible: Ansible, site: Path, name: str) -> None:
    changes, message = next((c[1], c[2]) for c in BROKEN if c[0] == name)
    apply_changes(site, changes)
    output = output_of_stopped_run(ansible("ansible-playbook", "-i", site, "playbooks/site.yml"))
    assert message in output
    assert "nothing was changed on any host" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--limit", "compute_nodes"), ("--tags", "spawner_profiles"), ("--check", "--diff"), ("--limit", "idp")],
    ids=" ".join,
)
def test_no_option_skips_the_check(ansible: Ansible, site: Path, options: tuple[str, ...]) -> None:
    apply_changes(site, {"hpc_profiles.0.memory": "4 GB"})
    assert 'memory "4 GB" is not a size' in output_of_stopped_run(
        ansible("ansible-playbook", "-i", site, "playbooks/site.yml", *options)
    )


@pytest.mark.slow
def test_all_problems_are_reported_at_once(ansible: Ansible, site: Path) -> None:
    chosen = [case for case in BROKEN if case[0] in {"memory-is-a-number", "queue-of-a-profile-missing", "scheduler-unknown", "kernel-kind-unknown", "variable-misspelt", "secret-missing-in-the-vault"}]  # fmt: skip
    apply_changes(site, {path: value for _, changes, _ in chosen for path, value in changes.items()})
    with (site / "group_vars" / "all" / "access.yml").open("a") as file:
        file.write("hpc_tls: {}\nhpc_tls: {}\n")
    output = output_of_stopped_run(ansible("ansible-playbook", "-i", site, "playbooks/validate.yml"))
    for _, _, message in chosen:
        assert message in output
    assert re.search(r'access\.yml:\d+:1: "hpc_tls" is a duplicate: line \d+ has the same key', output)
    assert re.search(r"service\.yml:\d+:1: hpc_tls: is also set in .*access\.yml:\d+:1", output)
    assert "has 8 problems" in output


@pytest.mark.slow
def test_command_line_reports_the_same_messages(ansible: Ansible, site: Path) -> None:
    apply_changes(site, {"hpc_profiles.0.memory": "4 GB", "hpc_profiles.1.queue": "nope"})
    done = ansible("python", "-m", "hpchub.cli", "check", site)
    assert done.returncode == 1
    file = f"{site}/group_vars/all/zz.yml"
    lines = [re.sub(rf"^{file}:[0-9]+:[0-9]+: ", "", line) for line in done.stdout.splitlines()]
    assert lines == [
        SMALL + 'memory "4 GB" is not a size; write a number and M, G or T, as in 4G',
        MEDIUM + 'queue "nope" is not a queue of cluster "demo"; valid: interactive, batch',
    ]
    plan = ansible("python", "-m", "hpchub.cli", "plan", site)
    assert plan.returncode == 1
    assert 'memory "4 GB" is not a size' in plan.stderr


@pytest.mark.slow
def test_secrets_never_appear_in_the_output(ansible: Ansible, site: Path) -> None:
    apply_changes(site, {"hpc_sso.client_secret": ["TOPSECRET"], "hpc_profiles.0.memory": "4 GB"})
    done = ansible("ansible-playbook", "-i", site, "playbooks/validate.yml", "-vvv")
    assert "hpc_sso: client_secret is a list, not text" in done.stdout
    assert "TOPSECRET" not in done.stdout + done.stderr


@pytest.mark.slow
def test_vaulted_secret_is_read_with_its_password(ansible: Ansible, site: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open\n")
    vaulted = ansible("ansible-vault", "encrypt_string", "--vault-password-file", tmp_path / "password", "d41d8cd98f00")
    path = site / "group_vars" / "all" / "access.yml"
    secret = vaulted.stdout.replace("\n", "\n    ").rstrip()
    path.write_text(path.read_text().replace('"{{ vault_sso_client_secret }}"', secret))
    command = ["ansible-playbook", "-i", site, "playbooks/validate.yml"]
    done = ansible(*command, "--vault-password-file", tmp_path / "password")
    assert done.returncode == 0, done.stdout + done.stderr
    closed = ansible(*command)
    assert "hpc_sso: client_secret cannot be evaluated" in output_of_stopped_run(closed)
