"""The administrator rotates the service's secrets while somebody works."""

import json
import re

import pytest

from .lab import LabError, eventually
from .site import Site

SECRETS = "/etc/hpchub/secrets"
FILES = (f"{SECRETS}/proxy.env", f"{SECRETS}/hub.env", f"{SECRETS}/sso-sessions.conf", "/var/lib/hpchub/cookie_secret")
OLD_KEY = "/root/e2e-old-key"
ROLES = "scheduler_access,configurable_http_proxy,jupyterhub,reverse_proxy"


def values(lab):
    """The secrets of now, by file, the newest first."""
    return {file: re.findall(r"[0-9a-f]{64}", lab.run("hub", ["cat", file])) for file in FILES}


def authority(lab, which="current"):
    """The fingerprint of an authority of notebook servers."""
    path = f"/etc/hpchub/notebook-tls/{which}.pem"
    return lab.run("hub", ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", path])


def ask_proxy(lab, token):
    """The status of a request to the proxy's API."""
    request = ["--unix-socket", "/run/hpchub-proxy/api/api.sock", "--header", f"Authorization: token {token}"]
    show = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return lab.run("hub", ["curl", *show, *request, "http://localhost/api/routes"])


def ask_gate(lab, gate, key):
    """What a gate answers to an empty request; nothing, where it does not know the key."""
    known = f"-oGlobalKnownHostsFile=none -oUserKnownHostsFile={gate['known_hosts']}"
    ssh = f"ssh -Fnone -T -oBatchMode=yes -oIdentitiesOnly=yes -i {key} {known} -l {gate['user']} -- {gate['hosts'][0]}"
    return lab.run("hub", ["sh", "-c", f"echo '{{}}' | {ssh}"], check=False)


@pytest.fixture
def gate(lab):
    """The hub's way to a submit host over ssh, and a copy of its key; None where the hub submits itself."""
    gates = json.loads(lab.run("hub", ["cat", "/etc/hpchub/hub.json"]))["gates"].values()
    gate = next((gate for gate in gates if gate["method"] == "ssh"), None)
    if gate:
        lab.run("hub", ["install", "--mode=0600", gate["key"], OLD_KEY])
    yield gate
    lab.run("hub", ["rm", "--force", OLD_KEY])


def test_rotation(lab, visitor, gate, tmp_path):
    """The kernel keeps its variables, its owner comes back to it, and what was valid before is no longer."""
    alice = visitor()
    alice.sign_in("alice")
    alice.start(lab.profiles()[0]["key"]).new_notebook("python3").run("kept = 6*7")
    jobs, before, authorities = lab.jobs("alice"), values(lab), authority(lab)
    (session,) = json.loads(alice.fetch("GET", "/user/alice/api/sessions").text)

    site = Site(lab, tmp_path)
    said = site.apply("--diff", playbook="rotate_secrets.yml")
    after = values(lab)
    for file in FILES:
        assert after[file][0] not in before[file], f"{file} is as it was"
        assert not [1 for value in before[file] + after[file] if value in said], f"{file} was shown"
    # Data that were encrypted before are still read.
    assert after[f"{SECRETS}/hub.env"][1:] == before[f"{SECRETS}/hub.env"][:1]

    assert ask_proxy(lab, before[f"{SECRETS}/proxy.env"][0]) == "403"
    assert ask_proxy(lab, after[f"{SECRETS}/proxy.env"][0]) == "200"
    if gate:
        assert "the action is none of" in ask_gate(lab, gate, gate["key"])
        assert not ask_gate(lab, gate, OLD_KEY)

    # The authority of notebook servers has moved on, and alice's server is still hers.
    assert authority(lab) != authorities
    assert authority(lab, "previous") == authorities

    assert lab.jobs("alice") == jobs
    again = visitor()
    again.sign_in("alice")
    again.page.goto(f"{lab.url}/user/alice/lab")
    assert again.wait_for_lab().open_notebook(session["path"]).run("kept") == "42"
    # Who was signed in to the single sign-on still is: the hub's new cookie comes without a question.
    eventually("the hub knows alice again", lambda: alice.page.goto(f"{lab.url}/hub/home").url.endswith("/hub/home"))

    changed = re.findall(r"changed=(\d+)", site.apply("--tags", ROLES))
    assert set(changed) == {"0"}, changed


def test_an_unknown_secret(lab, tmp_path):
    """It is named, with those that there are, and nothing has happened."""
    before = values(lab)
    site = Site(lab, tmp_path)
    with pytest.raises(LabError, match=r"no secret .nonesuch.;\s+valid:\s+proxy_token,"):
        site.apply("--extra-vars", "rotate=proxy_token,nonesuch", playbook="rotate_secrets.yml")
    assert values(lab) == before
