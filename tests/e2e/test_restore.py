"""The loss of the hub host: a new host continues the sessions of the old one, and bad backups change nothing."""

from __future__ import annotations

import base64
import os
import time
from typing import TYPE_CHECKING

import pytest

from .backups import fetch_backup, make_backup, public, replace_hub, state
from .lab import HUB_PROGRAM, LabError, eventually
from .site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Visitor

KEY = "/root/hpchub-test.key"


@pytest.fixture
def key_on_hub(lab: Lab, key: Path) -> Iterator[str]:
    """The same key on the hub host, as an administrator could copy it there."""
    write(lab, KEY, key.read_bytes())
    yield KEY
    lab.run("hub", ["rm", "-f", KEY])


def write(lab: Lab, path: str, content: bytes) -> None:
    """Write a small file on the hub host."""
    script = f"import base64, os; os.umask(0o077); open({path!r}, 'wb').write(base64.b64decode({b64(content)!r}))"
    lab.run("hub", ["python3", "-c", script])


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def refusal(lab: Lab, *arguments: str) -> str:
    """Return the message of a restore that is refused."""
    with pytest.raises(LabError) as caught:
        lab.run("hub", [HUB_PROGRAM, "restore", *arguments])
    return str(caught.value)


def test_bad_backups_are_refused_before_anything_changes(lab: Lab, key: Path, key_on_hub: str) -> None:
    """Truncated, encrypted for somebody else, and a hub in use. The hub does not even restart."""
    good = make_backup(lab, public(key))
    other = make_backup(lab, lab.run("hub", ["sh", "-c", "age-keygen | age-keygen -y"]).strip())
    before = state(lab)
    cut = "/root/hpchub-test-cut.tar"
    lab.run("hub", ["sh", "-c", f"head --bytes=20000 {good} > {cut}"])
    try:
        assert "is truncated" in refusal(lab, "--identity", key_on_hub, "--force", cut)
        assert "is encrypted for somebody else" in refusal(lab, "--identity", key_on_hub, "--force", other)
        assert "use --force" in refusal(lab, "--identity", key_on_hub, good)
        assert "Nothing was changed" in lab.run(
            "hub", [HUB_PROGRAM, "restore", "--check", "--force", "--identity", key_on_hub, good]
        )
        assert state(lab) == before
    finally:
        lab.run("hub", ["rm", "-f", cut, good, other])


def test_restore_on_the_same_host_keeps_sessions(lab: Lab, browser_page: Visitor, key: Path, key_on_hub: str) -> None:
    """The open tab goes on, and neither the proxy nor the job notices."""
    browser_page.sign_in("alice")
    notebook = browser_page.start(lab.profiles()[0]["key"]).new_notebook("python3")
    assert notebook.run("kept = 6*7; kept") == "42"
    jobs = lab.jobs("alice")
    backup = make_backup(lab, public(key))
    proxy = lab.run("hub", ["systemctl", "show", "--property", "MainPID", "configurable-http-proxy"])
    lab.run("hub", [HUB_PROGRAM, "restore", "--force", "--identity", key_on_hub, backup])
    lab.run("hub", ["rm", "-f", backup])
    browser_page.wait_for_hub()
    assert notebook.run("kept") == "42"
    assert lab.jobs("alice") == jobs
    assert lab.run("hub", ["systemctl", "show", "--property", "MainPID", "configurable-http-proxy"]) == proxy
    browser_page.page.goto(f"{lab.url}/hub/home")
    assert browser_page.server()["ready"]


@pytest.mark.skipif(not os.environ.get("HPCHUB_REHEARSAL"), reason="bin/test --all destroys the hub host")
def test_new_host_continues_the_sessions_of_a_lost_one(
    lab: Lab, visitor: Callable[[], Visitor], key: Path, tmp_path: Path
) -> None:
    """Destroy the hub host and its volumes. The open tabs go on with their variables after the rebuild.

    The test prints how long the rebuild takes.
    """
    people = {"alice": visitor(), "bob": visitor()}
    notebooks = {}
    for number, (name, person) in enumerate(people.items()):
        person.sign_in(name)
        notebooks[name] = person.start(lab.profiles()[0]["key"]).new_notebook("python3")
        assert notebooks[name].run(f"kept = {number} + 41; kept") == str(number + 41)
    jobs, users = lab.jobs(), lab.hub_users()
    backup, site = fetch_backup(lab, key), Site(lab, tmp_path)

    lost = time.monotonic()
    replace_hub(lab, site)
    site.apply("-e", f"backup={backup}", "-e", f"identity={key}")
    page = visitor().page
    eventually("the service answers", lambda: (page.goto(f"{lab.url}/sso/signed-out") or page).url)
    print(f"from the lost host to served pages: {time.monotonic() - lost:.0f} s")

    for number, name in enumerate(people):
        assert notebooks[name].run("kept") == str(number + 41), name
    print(f"from the lost host to all open tabs: {time.monotonic() - lost:.0f} s")
    assert {job.id for job in lab.jobs()} == {job.id for job in jobs}
    assert lab.hub_users() >= users
    for person in people.values():
        person.page.goto(f"{lab.url}/hub/home")
        assert person.server()["ready"]
