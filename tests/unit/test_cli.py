"""The command line: exit codes, output and the calls of Ansible."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import argparse
import functools
import importlib
import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hpchub.cli import inventory
from hpchub.cli import main as cli
from hpchub.model.profile_list import profile_list, to_json
from hpchub.model.site import Site

if TYPE_CHECKING:
    from pathlib import Path

SITE = Site.from_vars(
    {
        "hpc_service": {"url": "https://hub.example.org"},
        "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "TOPSECRET"},
        "hpc_clusters": [
            {
                "name": "demo",
                "scheduler": "slurm",
                "submit": {"method": "local"},
                "networks": ["10.0.0.0/8"],
                "queues": [{"name": "short", "max_cores": 4, "max_memory": "8G", "max_runtime": "1:00:00"}],
            }
        ],
        "hpc_profiles": [
            {
                "key": key,
                "display_name": key.title(),
                "cluster": "demo",
                "queue": "short",
                "cores": cores,
                "memory": "4G",
                "runtime": "0:30:00",
            }
            for key, cores in (("small", 1), ("large", 4))
        ],
    }
)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.json"
    path.write_text(to_json(profile_list(SITE)), encoding="utf-8")
    return path


def test_check_accepts_a_valid_profile_list(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(profiles)]) == 0
    assert capsys.readouterr().out == f"{profiles}: valid, 1 cluster, 2 profiles\n"


def test_check_reports_an_invalid_profile_list(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles.write_text(profiles.read_text().replace('"4G"', '"4 GB"'))
    assert cli.main(["check", str(profiles)]) == 1
    assert 'profiles[0] (key "small"): memory "4 GB" is not a size' in capsys.readouterr().out


def test_check_prints_json(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--json", str(profiles)]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": [], "warnings": []}
    profiles.write_text("{")
    assert cli.main(["check", "--json", str(profiles)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["valid"] is False
    assert "is not JSON" in found["problems"][0]["text"]


def test_plan_prints_each_batch_script(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(profiles)]) == 0
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if line.startswith("## ")] == [
        "## profile small, cluster demo, queue short",
        "## profile large, cluster demo, queue short",
    ]
    assert "#SBATCH --cpus-per-task=4" in printed.out
    assert "SESSION and USER are placeholders" in printed.err


def test_plan_prints_only_the_named_profiles(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(profiles), "large", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    assert (plan["key"], plan["cluster"], plan["queue"]) == ("large", "demo", "short")
    assert plan["script"].startswith("#!/bin/bash")


def test_plan_refuses_an_unknown_profile(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(profiles), "huge"]) == 2
    assert 'no profile "huge"; valid: small, large' in capsys.readouterr().err


def test_plan_uses_the_templates_of_the_site(
    profiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slurm.sh.j2").write_text("{{ profile.key }} on {{ cluster.name }}\n")
    assert cli.main(["plan", str(profiles), "small", "--templates", str(tmp_path)]) == 0
    assert "small on demo" in capsys.readouterr().out
    assert cli.main(["plan", str(profiles), "--templates", str(tmp_path / "none")]) == 2
    assert "no batch script template for slurm: none of slurm.sh.j2, default.sh.j2 exists in" in capsys.readouterr().err


def test_list_of_the_node_is_the_default(
    profiles: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "NODE_PROFILES", profiles)
    assert cli.main(["check"]) == 0
    assert cli.main(["plan", "small"]) == 0
    assert capsys.readouterr().out.count("## profile") == 1
    monkeypatch.setattr(inventory, "NODE_PROFILES", profiles.with_name("none.json"))
    assert cli.main(["check"]) == 2
    assert (
        "none.json, does not exist on this host; add the path of an inventory or of a profile list"
        in capsys.readouterr().err
    )


def test_check_refuses_a_missing_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "hpchub: /nowhere: no such file or directory; write the path of an inventory or of a profile list\n"
    )


def test_check_explains_a_path_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "exists", refuse)
    assert cli.main(["check", "/closed/site"]) == 2
    assert "/closed/site: Permission denied; give your account permission" in capsys.readouterr().err


def test_schema_prints_the_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == Site.json_schema()


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["check", "--help"])
    assert done.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["chek"], ["check", "--jsn"]])
def test_wrong_usage_exits_with_2(words: Any) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert done.value.code == 2


# Ansible reads inventories. These functions replace it; tests/repo runs the real one.


def ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    path = tmp_path / "bin" / "ansible"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path.with_name("python3")))
    inventory = tmp_path / "site"
    inventory.mkdir(exist_ok=True)
    return str(inventory)


def answer(**report: Any) -> str:
    return "cat <<'END'\nhub | SUCCESS => " + json.dumps({"changed": False, **report}) + "\nEND"


def test_check_and_plan_report_problems_of_an_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"entry": "hpc_sso", "field": "x", "value": "", "message": "m", "valid": "v", "text": "hpc_sso: x m; v"}
    text = answer(problems=[problem], warned=[], profile_list={})
    assert cli.main(["check", ansible(tmp_path, monkeypatch, text)]) == 1
    printed = capsys.readouterr()
    assert printed.out == "hpc_sso: x m; v\n"
    assert "1 problem" in printed.err
    assert cli.main(["plan", ansible(tmp_path, monkeypatch, text)]) == 1
    assert capsys.readouterr().err == f"hpchub: {tmp_path}/site: the inventory has 1 problem\nhpc_sso: x m; v\n"


def test_check_prints_warnings_of_a_valid_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = [{"entry": "hpc_access", "text": "hpc_access: permits nobody"}]
    text = answer(problems=[], warned=warned, profile_list=profile_list(SITE))
    site = ansible(tmp_path, monkeypatch, text)
    assert cli.main(["check", site]) == 0
    assert capsys.readouterr().out == (f"warning: hpc_access: permits nobody\n{site}: valid, 1 cluster, 2 profiles\n")


def test_vault_password_file_is_passed_to_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    text = f'echo "$@" > {tmp_path}/asked\n' + answer(problems=[], warned=[], profile_list=profile_list(SITE))
    assert cli.main(["check", ansible(tmp_path, monkeypatch, text), "--vault-password-file", "pw"]) == 0
    asked = (tmp_path / "asked").read_text()
    assert "--vault-password-file=pw" in asked
    assert "--module-name=hpchub.hpchub.validate_site" in asked


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("echo '[WARNING]: No hosts matched, nothing to do' >&2", "site: has no hosts; add at least the hub"),
        ("echo '[ERROR]: plugin failed' >&2; exit 4", "site: Ansible cannot read this inventory: plugin failed"),
        ("echo '[ERROR]: no' >&2; echo 'Origin: /a/b.yml:3:7' >&2; exit 4", "/a/b.yml:3:7: Ansible cannot read"),
        ('echo \'hub | FAILED! => {"msg": "no"}\'; exit 2', 'hub | FAILED! => {"msg": "no"}'),
        ("echo 'hub | SUCCESS => {'", "Ansible cannot read this inventory"),
    ],
)
def test_check_reports_an_inventory_that_ansible_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    site = ansible(tmp_path, monkeypatch, text)
    assert cli.main(["check", site]) == 1
    assert expected in capsys.readouterr().out
    assert cli.main(["check", "--json", site]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert expected in problem["text"]


def test_check_names_the_file_that_is_not_valid_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = ansible(tmp_path, monkeypatch, "echo '[ERROR]: YAML parsing failed' >&2; exit 4")
    (tmp_path / "site" / "group_vars").mkdir()
    (tmp_path / "site" / "group_vars" / "all.yml").write_text("a: 1\nb: [1\nc: 2\n")
    assert cli.main(["check", site]) == 1
    assert f"{site}/group_vars/all.yml:2:4: has a [ that is not closed" in capsys.readouterr().out


def test_ansible_reads_a_copy_without_the_unreadable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"entry": "hpc_sso", "text": "hpc_sso: x"}
    script = f'echo "$1" >> {tmp_path}/asked; ls "${{1#*=}}/group_vars" >> {tmp_path}/asked\n'
    site = ansible(tmp_path, monkeypatch, script + answer(problems=[problem], warned=[], profile_list={}))
    (tmp_path / "site" / "group_vars").mkdir()
    (tmp_path / "site" / "group_vars" / "all.yml").write_text("a: [")
    (tmp_path / "site" / "group_vars" / "hub.yml").write_text("a: 1")
    assert cli.main(["check", site]) == 1
    assert capsys.readouterr().out == "hpc_sso: x\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] != f"--inventory={site}"
    assert asked[1:] == ["hub.yml"]


def test_strict_makes_warnings_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warned = [{"entry": "hpc_access", "text": "hpc_access: permits nobody"}]
    text = answer(problems=[], warned=warned, profile_list=profile_list(SITE))
    site = ansible(tmp_path, monkeypatch, text)
    assert cli.main(["check", "--strict", site]) == 1
    assert capsys.readouterr().out == "hpc_access: permits nobody\n"
    assert cli.main(["check", "--strict", "--json", site]) == 1
    assert json.loads(capsys.readouterr().out) == {"valid": False, "problems": warned, "warnings": []}


@pytest.mark.parametrize(
    "name",
    ["ANSIBLE_FORCE_COLOR", "ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_VERBOSITY", "ANSIBLE_DEBUG", "ANSIBLE_STRATEGY",
     "ANSIBLE_CALLBACKS_ENABLED", "ANSIBLE_DISPLAY_ARGS_TO_STDOUT", "ANSIBLE_ASK_VAULT_PASS", "FORCE_COLOR"],
)  # fmt: skip
def test_settings_of_the_output_do_not_reach_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "unwanted")
    monkeypatch.setenv("ANSIBLE_REMOTE_USER", "wanted")
    site = ansible(tmp_path, monkeypatch, f"env > {tmp_path}/env\n" + answer(problems=[], warned=[]))
    cli.main(["check", site])
    environment = (tmp_path / "env").read_text()
    assert "unwanted" not in environment
    assert "ANSIBLE_REMOTE_USER=wanted" in environment


def test_password_of_the_vault_is_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def answer_prompt(prompt: str) -> str:
        asked.append(prompt)
        return "open sesame"

    monkeypatch.setattr("getpass.getpass", answer_prompt)
    script = f'for word in "$@"; do case $word in --vault*) cat "${{word#*=}}" > {tmp_path}/read;; esac; done\n'
    site = ansible(tmp_path, monkeypatch, script + answer(problems=[], warned=[], profile_list=profile_list(SITE)))
    assert cli.main(["check", "--ask-vault-pass", site]) == 0
    assert asked == ["Vault password: "]
    assert (tmp_path / "read").read_text() == "open sesame\n"


def test_check_reports_a_missing_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "echo \"[ERROR]: Cannot resolve 'hpchub.hpchub.validate_site' to an action or module.\" >&2; exit 2"
    assert cli.main(["check", ansible(tmp_path, monkeypatch, text)]) == 2
    assert "does not find the collection hpchub.hpchub" in capsys.readouterr().err


def test_check_reports_a_missing_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    (tmp_path / "site").mkdir()
    assert cli.main(["check", str(tmp_path / "site")]) == 2
    assert "reading an inventory requires Ansible, which is not installed" in capsys.readouterr().err


# Checks with --live. These functions replace Ansible's answers and a gate. Slurm's output is in test_limits.py.

LIMITS = """\
PrivateData             = none
PartitionName=short MaxTime=00:20:00 RootOnly=NO State=UP TotalNodes=2 MaxMemPerNode=UNLIMITED
node|short|4|8192|(null)
"""
CLUSTERS = SITE.model_dump(mode="json")["clusters"]


def live_ansible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, limits: str, **report: Any) -> str:
    """Return an inventory for a fake Ansible that answers with the limits, or else with the report."""
    report = {"problems": [], "warned": [], "profile_list": profile_list(SITE), "clusters": CLUSTERS, **report}
    (tmp_path / "limits").write_text(limits)
    asked = f'echo "$@" >> {tmp_path}/asked; case "$*" in *query_scheduler*) cat {tmp_path}/limits; exit;;'
    asked += f" *reach_nodes*) cat {tmp_path}/nodes; exit;; esac\n"
    return ansible(tmp_path, monkeypatch, asked + answer(**report))


def limits_answer(stdout: str, error: str = "") -> str:
    return "hub | SUCCESS => " + json.dumps({"stdout": stdout, "error": error})


def test_check_live_accepts_matching_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = live_ansible(tmp_path, monkeypatch, limits=limits_answer(LIMITS.replace("00:20:00", "2-00:00:00")))
    assert cli.main(["check", "--live", site]) == 0
    assert capsys.readouterr().out == "demo: the scheduler answers and has 1 queue\n"
    assert "hub[0]" in (tmp_path / "asked").read_text()  # the hub submits jobs itself


@pytest.mark.parametrize(
    ("reached", "line"),
    [
        ({"silent": [{"text": "warning: cluster demo, node n1: no"}]}, "warning: cluster demo, node n1: no"),
        ({"msg": "no route"}, "warning: the connections from the hub to the nodes were not tried: no route"),
    ],
)
def test_check_live_tries_the_connection_from_the_hub_to_the_nodes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reached: dict[str, Any],
    line: str,
) -> None:
    node = {"cluster": "demo", "node": "n1", "host": "n1", "port": 20000}
    limits = limits_answer(LIMITS.replace("00:20:00", "2-00:00:00"))
    site = live_ansible(tmp_path, monkeypatch, limits=limits, nodes=[node])
    (tmp_path / "nodes").write_text("hub | SUCCESS => " + json.dumps(reached))
    assert cli.main(["check", "--live", site]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert json.dumps(node) in (tmp_path / "asked").read_text()


def test_check_live_reports_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = live_ansible(tmp_path, monkeypatch, limits=limits_answer(LIMITS))
    assert cli.main(["check", "--live", site]) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[:2] == [
        'hpc_clusters[0] (name "demo") queues[0] (name "short"): max_runtime "1:00:00" is above the scheduler\'s limit ("0:20:00"); lower it, or raise the scheduler\'s limit',
        'hpc_profiles[0] (key "small"): runtime "0:30:00" is above the limit of queue "short" ("0:20:00"), so the profile could never start; request at most 0:20:00',
    ]
    assert "3 problems" in printed.err
    assert cli.main(["check", "--live", "--json", site]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], len(found["problems"]), found["unanswered"]) == (False, 3, {})
    assert found["queues"]["demo"][0]["runtime"] == 1200


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (limits_answer("", "scontrol is not installed on login1"), "scontrol is not installed on login1"),
        ('hub | UNREACHABLE! => {"msg": "Connection refused"}', "Ansible could not query hub[0]: Connection refused"),
        ("", "Ansible could not query hub[0]: no output"),
        (limits_answer("PrivateData = none\n"), "scontrol printed no partitions"),
    ],
)
def test_check_live_reports_a_missing_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, words: Any
) -> None:
    site = live_ansible(tmp_path, monkeypatch, limits=text)
    assert cli.main(["check", "--live", site]) == 2
    assert f"hpchub: demo: {words}" in capsys.readouterr().err
    assert cli.main(["discover", "demo", site]) == 2
    assert words in capsys.readouterr().err


def test_check_live_of_an_invalid_inventory_queries_no_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"entry": "hpc_sso", "field": "x", "value": "", "message": "m", "valid": "v", "text": "hpc_sso: x m; v"}
    site = live_ansible(tmp_path, monkeypatch, limits="", problems=[problem], profile_list={})
    assert cli.main(["check", "--live", site]) == 1
    assert capsys.readouterr().out == "hpc_sso: x m; v\n"
    assert "query_scheduler" not in (tmp_path / "asked").read_text()


def test_check_live_refuses_a_profile_list(profiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--live", str(profiles)]) == 2
    assert "how to reach a scheduler; write the path of an inventory instead" in capsys.readouterr().err


def test_check_live_on_the_hub_host_uses_its_gates(
    tmp_path: Path, profiles: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gate:
        cluster = "demo"

        async def limits(self) -> str:
            return LIMITS

    hub = tmp_path / "hub.json"
    monkeypatch.setattr(inventory, "HUB_SETTINGS", hub)
    assert cli.main(["check", "--live"]) == 2
    assert f"this is not the hub host, because {hub} does not exist; add the path of an" in capsys.readouterr().err
    settings = {"gates": {"demo": {}}, "profiles_file": str(profiles), "state_dir": str(tmp_path)}
    hub.write_text(json.dumps({**settings, "db_url": "postgresql+psycopg://hub@127.0.0.1:1/hub"}))
    monkeypatch.setattr(os, "geteuid", lambda: 990)
    monkeypatch.setattr(inventory, "make_gate", lambda name, settings: Gate())
    assert cli.main(["check", "--live"]) == 2
    assert "hpchub: database hub on 127.0.0.1:1: nothing listens there; start the server" in capsys.readouterr().err
    hub.write_text(json.dumps({**settings, "db_url": f"sqlite:///{tmp_path}/hub.sqlite"}))
    assert cli.main(["check", "--live"]) == 1
    shown = capsys.readouterr()
    assert "max_runtime" in shown.out
    assert f"database {tmp_path}/hub.sqlite: SQLite 3" in shown.err
    assert cli.main(["discover", "demo"]) == 0
    assert "max_runtime: '0:20:00'" in capsys.readouterr().out


def test_discover_needs_only_scheduler_and_submit_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = [{"name": "demo", "scheduler": "slurm", "submit": {"method": "ssh", "host": "login1"}}]
    problem = {"entry": "hpc_clusters[0]", "field": "queues", "value": "", "message": "m", "valid": "v", "text": "t"}
    site = live_ansible(
        tmp_path, monkeypatch, limits=limits_answer(LIMITS), clusters=written, problems=[problem], profile_list={}
    )
    assert cli.main(["discover", "demo", site]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["hpc_clusters"] == [
        {**written[0], "queues": [{"name": "short", "max_cores": 4, "max_memory": "8G", "max_runtime": "0:20:00"}]}
    ]
    assert found["hpc_profiles"][0]["queue"] == "short"
    assert cli.main(["discover", "demo", site, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hpc_profiles"] == found["hpc_profiles"]


@pytest.mark.parametrize(
    ("clusters", "words"),
    [
        (None, "add an entry with its name, scheduler and submit first"),
        ([{"name": "dmeo"}], 'has no cluster "demo"; did you mean "dmeo"?'),
        ([{"name": "demo", "scheduler": "slrum"}], 'scheduler "slrum" is unknown; did you mean "slurm"?'),
        ([{"name": "demo", "scheduler": "slurm", "submit": {"method": "ssh"}}], "is not valid; write {method: ssh"),
    ],
)
def test_discover_reports_missing_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clusters: Any, words: Any
) -> None:
    site = live_ansible(tmp_path, monkeypatch, limits="", clusters=clusters)
    assert cli.main(["discover", "demo", site]) == 2
    assert words in capsys.readouterr().err


def test_command_that_is_loaded_later_exists() -> None:
    (commands,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    later = {name: each.get_default("run") for name, each in commands.choices.items()}
    found = {name: run.args for name, run in later.items() if isinstance(run, functools.partial)}
    assert {"check", "plan", "drain", "why"} <= set(found)
    for module, function in found.values():
        assert callable(getattr(importlib.import_module(f"hpchub.cli.{module}"), function))


def test_shell_completes_commands_and_options(tmp_path: Path) -> None:
    def complete(line: str) -> list[str]:
        output = tmp_path / "completions"
        output.write_text("")
        environment = {
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(output),
            "_ARGCOMPLETE_IFS": " ",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        subprocess.run([sys.executable, "-m", "hpchub.cli"], env=environment, check=False, capture_output=True)
        return [word.strip() for word in output.read_text().split()]

    assert complete("hpchub che") == ["check"]
    assert "--strict" in complete("hpchub check --")
