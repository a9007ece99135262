"""Batch scripts that bash runs as a scheduler would: the launcher's arguments and environment, and the log file."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from hpchub.clusters.batch_script import render_batch_script
from hpchub.hub.job_spawner import spawner_class
from hpchub.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpchub.model.entries import Cluster, Profile

SESSION = "a" * 16
PREFIX = {"torque": "#PBS ", "moab": "#MSUB ", "pbs": "#PBS ", "lsf": "#BSUB "}
JOB = {
    "torque": ("7.server", {"PBS_JOBID": "7.server"}),
    "moab": ("Moab.7", {"PBS_JOBID": "9.server", "MOAB_JOBID": "Moab.7"}),
    "pbs": ("7.server", {"PBS_JOBID": "7.server"}),
    "lsf": ("7", {"LSB_JOBID": "7"}),
}


def test_each_scheduler_has_a_spawner() -> None:
    for name, scheduler in SCHEDULERS.items():
        assert scheduler.name == name
        assert spawner_class(name).__mro__[3].__module__.startswith("batchspawner")


@pytest.mark.parametrize("cluster", PREFIX, indirect=True)
def test_script_starts_with_directives_and_ends_with_the_launcher(
    cluster: Cluster, profile: Callable[..., Profile]
) -> None:
    made = profile(gpus=1, account="phys", reservation="R1", node_constraint="ib")
    lines = render_batch_script(cluster, made, session=SESSION, hub="hub.example", username="alice").splitlines()
    directives = SCHEDULERS[cluster.scheduler].directives(
        made, cluster, session=SESSION, comment=f"hpchub/hub.example/alice/{SESSION}"
    )
    assert lines[0] == "#!/bin/bash"
    assert lines[1 : len(directives) + 1] == [PREFIX[cluster.scheduler] + line for line in directives]
    assert lines[len(directives) + 1] == ""
    assert f"    exec /opt/hpchub/notebook/current/bin/hpchub-launch {SESSION}" in lines
    assert lines[-1] == "launch"


@pytest.mark.parametrize("cluster", PREFIX, indirect=True)
def test_job_keeps_only_variables_of_its_scheduler(
    cluster: Cluster, profile: Callable[..., Profile], tmp_path: Path
) -> None:
    launcher = tmp_path / "launch"
    launcher.write_text("#!/bin/sh\necho session $1\nenv\n")
    launcher.chmod(0o755)
    (tmp_path / ".hpchub" / "logs").mkdir(parents=True)
    script = render_batch_script(cluster, profile(), session=SESSION, hub="h", username="alice")
    job_id, given = JOB[cluster.scheduler]
    environment = given | {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "1",
        "LD_PRELOAD": "",
        "MY_TOKEN": "secret",
        "PYTHONPATH": "/mine",
        "HPCHUB_TAG": "x",
        "BASH_FUNC_id%%": "() { echo nobody; }",
    }
    done = subprocess.run(
        ["bash"],
        input=script.replace("/opt/hpchub/notebook/current/bin/hpchub-launch", str(launcher)),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    log = (tmp_path / ".hpchub" / "logs" / f"{job_id}.log").read_text()
    first, *lines = log.splitlines()
    assert first == f"session {SESSION}"
    found = dict(line.partition("=")[::2] for line in lines)
    assert found.items() >= (given | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "1"}).items()
    assert not {"MY_TOKEN", "PYTHONPATH", "HPCHUB_TAG", "LD_PRELOAD"} & set(found)
    assert found["USER"] == found["LOGNAME"] != "nobody"
    assert found["HOME"] != str(tmp_path)


LOGIN_FILES = {
    "fails-with-errexit": "set -e\nfalse\n",
    "fails-with-nounset": "set -u\necho $NOBODY_SET_THIS\n",
    "exits": "exit 3\n",
    "reads-the-script": "cat >/dev/null\n",
    "exits-with-its-own-trap": "trap 'echo bye' EXIT\nexit 0\n",
    "starts-another-shell": "exec sh\n",
    "starts-tmux": "exec nosuchtmux\n",
    "subshells-exit": "(exit 3)\nx=$(echo 1; exit 3)\nexport OF_MODULE=$(exec echo $x)\n",
    "redirects": "exec 3>/dev/null\n",
    "fails": "nosuchcommand\n",
    "syntax-error": "if true; do\n",
    "works": "",
}


@pytest.mark.parametrize("login_file", LOGIN_FILES.values(), ids=LOGIN_FILES)
@pytest.mark.parametrize("cluster", SCHEDULERS, indirect=True)
def test_login_file_neither_ends_the_job_nor_breaks_the_launcher(
    cluster: Cluster, profile: Callable[..., Profile], tmp_path: Path, login_file: str
) -> None:
    launcher = tmp_path / "launch"
    launcher.write_text("#!/bin/sh\necho session $1\nenv\n")
    launcher.chmod(0o755)
    logs = tmp_path / ".hpchub" / "logs"
    logs.mkdir(parents=True)
    profile_file = tmp_path / "profile"
    profile_file.write_text(
        f"echo first line\nexport LD_LIBRARY_PATH=/foreign OPENSSL_CONF=/foreign OF_MODULE=1\n{login_file}"
    )
    script = render_batch_script(cluster, profile(), session=SESSION, hub="h", username="alice")
    for old, new in (
        ("/opt/hpchub/notebook/current/bin/hpchub-launch", str(launcher)),
        ("/etc/profile", str(profile_file)),
    ):
        script = script.replace(old, new)
    job_id, given = JOB.get(cluster.scheduler, ("7", {}))
    command = ["bash"]
    if cluster.scheduler == "htcondor":
        (arguments,) = [line for line in script.splitlines() if line.startswith("arguments = ")]
        command, script = ["bash", *shlex.split(arguments.removeprefix('arguments = "').removesuffix('"'))], ""
    environment = given | {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, input=script, env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    log = logs / f"{job_id}.log"
    output = log.read_text() if log.exists() else done.stdout
    assert done.returncode == 0, done.stderr
    assert output.startswith("first line\n")
    assert output.count(f"session {SESSION}\n") == 1
    assert "OF_MODULE=1\n" in output
    assert "foreign" not in output
