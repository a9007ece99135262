"""The administrator rotates the service's secrets while a user works."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from .lab import LabError, eventually
from .site import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import Visitor

SECRETS = "/etc/hpchub/secrets"
FILES = (f"{SECRETS}/proxy.env", f"{SECRETS}/hub.env", f"{SECRETS}/sso-sessions.conf", "/var/lib/hpchub/cookie_secret")
PASSWORD = "/var/lib/hpchub/pgpass"
"""The file of the database's password, if the database is on a host of its own."""
OLD_KEY = "/root/e2e-old-key"
ROLES = "scheduler_access,configurable_http_proxy,jupyterhub,reverse_proxy"


def values(lab: Lab) -> dict[str, list[str]]:
    """Return the current secrets of each file, the newest first."""
    files = [*FILES, *lab.run("hub", ["find", PASSWORD], check=False).split()]
    found = {file: re.findall(r"[0-9a-f]{64}", lab.run("hub", ["cat", file])) for file in files}
    assert all(found.values()), f"these files have no secret: {[file for file in FILES if not found[file]]}"
    return found


def authority(lab: Lab, which: str = "current") -> str:
    """Return the fingerprint of a certificate authority for notebook servers."""
    path = f"/etc/hpchub/notebook-tls/{which}.pem"
    return lab.run("hub", ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", path])


def proxy_status(lab: Lab, token: str) -> str:
    """Send a request to the proxy's API with this token and return the status code."""
    request = ["--unix-socket", "/run/hpchub-proxy/api/api.sock", "--header", f"Authorization: token {token}"]
    show = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return lab.run("hub", ["curl", *show, *request, "http://localhost/api/routes"])


def gate_answer(lab: Lab, gate: dict[str, Any], key: str) -> str:
    """Send an empty request to a gate. Return its answer, which is empty if the gate does not accept the key."""
    known = f"-oGlobalKnownHostsFile=none -oUserKnownHostsFile={gate['known_hosts']}"
    ssh = f"ssh -Fnone -T -oBatchMode=yes -oIdentitiesOnly=yes -i {key} {known} -l {gate['user']} -- {gate['hosts'][0]}"
    return lab.run("hub", ["sh", "-c", f"echo '{{}}' | {ssh}"], check=False)


@pytest.fixture
def gate(lab: Lab) -> Iterator[dict[str, Any] | None]:
    """Return an ssh gate of the hub and keep a copy of its key. Return None if the hub submits jobs itself."""
    gates = lab.hub_settings()["gates"].values()
    gate: dict[str, Any] | None = next((gate for gate in gates if gate["method"] == "ssh"), None)
    if gate:
        lab.run("hub", ["install", "--mode=0600", gate["key"], OLD_KEY])
    yield gate
    lab.run("hub", ["rm", "--force", OLD_KEY])


@pytest.mark.slow
def test_rotation_replaces_every_secret_and_keeps_sessions(
    lab: Lab, visitor: Callable[[], Visitor], gate: dict[str, Any] | None, tmp_path: Path
) -> None:
    """The kernel keeps its variables and its owner can return to it. The old secrets are no longer valid."""
    alice = visitor()
    alice.sign_in("alice")
    alice.start(lab.profiles()[0]["key"]).new_notebook("python3").run("kept = 6*7")
    jobs, before, authorities = lab.jobs("alice"), values(lab), authority(lab)
    (session,) = json.loads(alice.fetch("GET", "/user/alice/api/sessions").text)
    if gate:
        assert "the action is unknown" in gate_answer(lab, gate, OLD_KEY)

    site = Site(lab, tmp_path)
    output = site.apply("--diff", playbook="rotate_secrets.yml")
    assert re.search(r"changed=[1-9]", output), output
    after = values(lab)
    for file in before:
        assert after[file][0] not in before[file], f"{file} has not changed"
        assert not [1 for value in before[file] + after[file] if value in output], (
            f"the output shows a secret of {file}"
        )
    # The old encryption key is kept, so that the hub can still read older data.
    assert after[f"{SECRETS}/hub.env"][1:] == before[f"{SECRETS}/hub.env"][:1]

    assert proxy_status(lab, before[f"{SECRETS}/proxy.env"][0]) == "403"
    assert proxy_status(lab, after[f"{SECRETS}/proxy.env"][0]) == "200"
    if gate:
        assert "the action is unknown" in gate_answer(lab, gate, gate["key"])
        assert not gate_answer(lab, gate, OLD_KEY)

    # Notebook servers have a new certificate authority, and alice's server still works with the previous one.
    assert authority(lab) != authorities
    assert authority(lab, "previous") == authorities

    assert lab.jobs("alice") == jobs
    again = visitor()
    again.sign_in("alice")
    again.page.goto(f"{lab.url}/user/alice/lab")
    assert again.wait_for_lab().open_notebook(session["path"]).run("kept") == "42"
    # Single sign-on sessions survive, so alice gets a new hub cookie without entering her password.

    def alice_is_signed_in() -> bool:
        answer = alice.page.goto(f"{lab.url}/hub/home")
        assert answer is not None
        return answer.url.endswith("/hub/home")

    eventually("alice is signed in to the hub again", alice_is_signed_in)

    changed = re.findall(r"changed=(\d+)", site.apply("--tags", ROLES))
    assert set(changed) == {"0"}, changed


def test_unknown_secret_is_refused_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    """The error names the unknown secret and the valid ones, and no secret changes."""
    before = values(lab)
    site = Site(lab, tmp_path)
    # Ansible may wrap its output at any space, and may escape the quotes.
    message = r'rotate: \\?"nonesuch\\?" is not a secret that this playbook can rotate; valid: proxy_token,'
    with pytest.raises(LabError, match=message.replace(" ", r"\s+")):
        site.apply("--extra-vars", "rotate=proxy_token,nonesuch", playbook="rotate_secrets.yml")
    assert values(lab) == before
