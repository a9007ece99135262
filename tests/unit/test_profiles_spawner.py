"""What may be chosen, what a session keeps, and what is never an end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batchspawner import JobStatus
from traitlets.config import Config

from hpchub.clusters.poller import Snapshot
from hpchub.hub.job_spawner import SlurmJobSpawner, StartError
from hpchub.hub.profiles_spawner import HPCProfilesSpawner
from hpchub.hub.runtime import runtime
from hpchub.model.profile_list import profile_list
from hpchub.model.site import Site
from hpchub.schedulers import Job, JobState, Unanswered

VARIABLES: dict[str, Any] = {
    "hpc_service": {"url": "https://hub.example.org"},
    "hpc_sso": {
        "metadata_url": "https://sso.example.org/.well-known/openid-configuration",
        "client_secret": "a1b2c3d4e5f6a7b8c9d0e1f2a3b4c5d6",
    },
    "hpc_access": {"allowed_groups": ["hpc"], "job_groups": ["hpc"]},
    "hpc_clusters": [
        {
            "name": "demo",
            "scheduler": "slurm",
            "submit": {"method": "local"},
            "networks": ["192.0.2.0/24"],
            "queues": [{"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "12:00:00"}],
        }
    ],
}


def profile(key: str, **changes: Any) -> dict[str, Any]:
    return {
        "key": key,
        "display_name": key,
        "cluster": "demo",
        "queue": "q",
        "cores": 1,
        "memory": "1G",
        "runtime": "1:00:00",
        **changes,
    }


def write_profiles(directory: Path, *profiles: dict[str, Any]) -> None:
    site = Site.from_vars({**VARIABLES, "hpc_profiles": list(profiles)})
    (directory / "profiles.json").write_text(json.dumps(profile_list(site)))


@pytest.fixture
def settings(tmp_path: Path) -> str:
    write_profiles(tmp_path, profile("small"), profile("big", cores=4))
    path = tmp_path / "hub.json"
    path.write_text(
        json.dumps(
            {
                "public_url": "https://hub.example.org",
                "gates": {"demo": {"method": "local", "socket": str(tmp_path / "gate.sock")}},
                "profiles_file": str(tmp_path / "profiles.json"),
                "template_paths": [str(Path(__file__).parents[2] / "templates" / "pages")],
                "notebook_ports": {"first": 20000, "last": 29999},
                "notebook_tls_directory": str(tmp_path / "tls"),
            }
        )
    )
    runtime.cache_clear()
    return str(path)


@pytest.fixture
def spawner(settings: str) -> Any:
    return make(settings)


def make(settings: str) -> Any:
    return HPCProfilesSpawner(
        config=Config(),
        settings_file=settings,
        user=SimpleNamespace(name="alice", url="/user/alice/"),
        orm_spawner=SimpleNamespace(name="", server=None, user_options={}, state=None),
    )


@pytest.mark.parametrize(
    "options",
    [
        None,
        {},
        [],
        "small",
        {"profile": "none"},
        {"profile": ""},
        {"profile": None},
        {"profile": ["small"]},
        {"profile": {"key": "small"}},
        {"profile": "small\n"},
        {"profile": "x" * 10_000},
        {"profile": "small", "options": ["--uid=0"]},
        {"profile": "small", "req_partition": "other"},
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_choice_that_the_form_does_not_offer_is_refused(spawner: Any, options: Any) -> None:
    with pytest.raises(StartError, match="The profiles are: small, big") as caught:
        await spawner._run_apply_user_options(options)
    assert caught.value.status_code == 400
    assert caught.value.jupyterhub_message == str(caught.value)
    assert len(str(caught.value)) < 300


async def test_a_choice_that_the_form_offers(spawner: Any) -> None:
    await spawner._run_apply_user_options({"profile": "big"})
    assert spawner.options_from_form({"profile": ["big"], "_xsrf": ["x"]}) == {"profile": "big"}


def test_the_form_takes_no_other_field(spawner: Any) -> None:
    with pytest.raises(StartError, match="no field 'options'"):
        spawner.options_from_form({"profile": ["small"], "options": ["--uid=0"]})


def test_a_link_starts_nothing(spawner: Any) -> None:
    with pytest.raises(StartError, match="press Start"):
        spawner.options_from_query({"profile": ["small"]})


async def test_the_form_shows_a_profile_that_was_added_since(spawner: Any, tmp_path: Path) -> None:
    assert 'value="new"' not in await spawner.get_options_form()
    write_profiles(tmp_path, profile("small"), profile("new", display_name="<b>New</b>"))
    form = await spawner.get_options_form()
    assert 'value="new"' in form
    assert "&lt;b&gt;New" in form


async def test_a_broken_profile_list_changes_nothing(spawner: Any, tmp_path: Path) -> None:
    await spawner.get_options_form()
    (tmp_path / "profiles.json").write_text('{"version": 1, "profil')
    assert 'value="small"' in await spawner.get_options_form()


def test_two_users_share_no_state(settings: str) -> None:
    one, two = make(settings), make(settings)
    for each in (one, two):
        each.user_options = {"profile": "small"}
        each.construct_child()
    one.child_config["profile"]["queue"] = "changed"
    one.child_spawner.profile["queue"] = "changed"
    assert two.child_spawner.profile["queue"] == "q"
    assert one.profile_list.get("small").queue == "q"


def test_a_session_keeps_what_it_was_granted(settings: str, tmp_path: Path) -> None:
    spawner = make(settings)
    spawner.user_options = {"profile": "small"}
    spawner.construct_child()
    spawner.child_spawner.job_id, spawner.child_spawner.session = "7", "0" * 16
    state = json.loads(json.dumps(spawner.get_state()))
    assert set(state) == {"grant", "job", "token"}
    write_profiles(tmp_path, profile("other"))

    restored = make(settings)
    restored.load_state(state)
    assert isinstance(restored.child_spawner, SlurmJobSpawner)
    assert restored.child_spawner.profile["cores"] == 1
    assert restored.child_spawner.job_id == "7"


def test_saved_state_configures_nothing(settings: str) -> None:
    spawner = make(settings)
    spawner.user_options = {"profile": "small"}
    spawner.construct_child()
    spawner.child_spawner.job_id, spawner.child_spawner.session = "7", "0" * 16
    state = spawner.get_state()
    state["child_conf"] = {"cmd": ["/bin/evil"], "batch_submit_cmd": "evil"}
    restored = make(settings)
    restored.load_state(state)
    assert "evil" not in str(restored.child_config)
    assert restored.child_spawner.cmd == make(settings).cmd


def test_a_saved_grant_goes_through_the_model(settings: str) -> None:
    job = {"session": "0" * 16, "job_id": "7", "host": "", "port": 0}
    state = {"grant": {"profile": profile("x", cores="evil"), "cluster": VARIABLES["hpc_clusters"][0]}, "job": job}
    restored = make(settings)
    restored.load_state(state)  # and does not raise, or the hub would not start
    assert restored.child_spawner is None
    assert restored.get_state() == {}


class Poller:
    """Answers as it is told to."""

    def __init__(self, answer: Snapshot | Exception, found: Job | Exception | None = None) -> None:
        self.answer = answer
        self.found = found

    async def snapshot(self, max_age: float) -> Snapshot:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def find(self, job_id: str, snapshot: Snapshot) -> Job | None:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    ("answer", "seen", "found", "status"),
    [
        (Unanswered("down"), 0.0, None, JobStatus.UNKNOWN),
        (Snapshot(1000.0, {"7": Job("7", JobState.RUNNING, host="n1")}), 0.0, None, JobStatus.RUNNING),
        (Snapshot(1000.0, {"7": Job("7", JobState.UNKNOWN, "NEW")}), 0.0, None, JobStatus.UNKNOWN),
        (Snapshot(1000.0, {"7": Job("7", JobState.ENDED, "TIMEOUT")}), 0.0, None, JobStatus.NOTFOUND),
        (Snapshot(1000.0), 990.0, None, JobStatus.UNKNOWN),
        (Snapshot(1000.0), 900.0, None, JobStatus.NOTFOUND),
        (Snapshot(1000.0), 900.0, Unanswered("down"), JobStatus.UNKNOWN),
        (Snapshot(1000.0), 900.0, Job("7", JobState.RUNNING, host="n1"), JobStatus.RUNNING),
        (Snapshot(1000.0), 900.0, Job("7", JobState.ENDED), JobStatus.NOTFOUND),
    ],
    ids=[
        "no-answer",
        "running",
        "new-word",
        "ended",
        "missing-briefly",
        "missing-for-long",
        "missing-and-no-word",
        "missing-and-there",
        "missing-and-ended",
    ],
)
async def test_what_is_an_end(settings: str, answer: Any, seen: float, found: Any, status: JobStatus) -> None:
    spawner = make(settings)
    spawner.user_options = {"profile": "small"}
    child = spawner.construct_child()
    child.session, child.job_id, child._seen, child._patience = "0" * 16, "7", seen, 30.0
    child.runtime._pollers["demo"] = Poller(answer, found)
    assert await child.query_job_status() == status
    poll = await child.poll()
    assert (poll is None) == (status != JobStatus.NOTFOUND)
