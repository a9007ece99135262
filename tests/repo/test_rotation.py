"""Which secrets playbooks/rotate_secrets.yml replaces, by the inventory and the request. tests/e2e replaces them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from repo.sites import ROOT, SITE

if TYPE_CHECKING:
    from repo.conftest import Ansible

OWN = {"backend": "postgresql", "location": "own_host"}
EXISTING = {"backend": "postgresql", "location": "existing", "host": "db.example.org"}
PASSWORD = {"password": "d41d8cd98f00b204"}


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["", "saml_key", "saml_key_switch"])
def test_key_of_the_saml_service_is_rotated_only_on_request(ansible: Ansible, request_: str) -> None:
    sso = {"provider": "saml", "metadata_file": "/idp.xml"}
    done = ansible(
        *("ansible", "hub", "--inventory", SITE, "--playbook-dir", ROOT / "playbooks", "--module-name", "debug"),
        *("--args", "msg=({{ hpchub_rotate | to_json }})"),
        *("--extra-vars", json.dumps({"rotate": request_, "hpc_sso": sso})),
    )
    found = re.search(r"\((\[.*\])\)", re.sub(r"\s+", " ", done.stdout))
    assert found, done.stdout + done.stderr
    rotated = json.loads(found[1].replace('\\"', '"'))
    assert ([request_] == rotated) if request_ else not {"saml_key", "saml_key_switch"} & set(rotated)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "rotated", "given", "absent"),
    [
        (OWN, ["database_password"], [], []),
        (OWN | PASSWORD, [], ["hpc_state_store.password"], []),
        (EXISTING | PASSWORD, [], ["hpc_state_store.password"], []),
        ({"backend": "postgresql"}, [], [], ["database_password"]),
        ({"backend": "sqlite"}, [], [], ["database_password"]),
    ],
    ids=["own host", "own host, vault", "existing server", "hub host", "sqlite"],
)
def test_password_of_the_database_is_rotated_only_where_hpchub_has_created_it(
    ansible: Ansible, store: dict[str, Any], rotated: list[str], given: list[str], absent: list[str]
) -> None:
    values = "[hpchub_rotate, hpchub_rotate_given | map('extract', hpchub_secret_names), hpchub_rotate_absent]"
    request = {"rotate": "database_password", "hpc_state_store": store}
    done = ansible(
        *("ansible", "hub", "--inventory", SITE, "--playbook-dir", ROOT / "playbooks", "--module-name", "debug"),
        *("--args", f"msg=({{{{ {values} | to_json }}}})", "--extra-vars", json.dumps(request)),
    )
    found = re.search(r"\((\[.*\])\)", re.sub(r"\s+", " ", done.stdout))
    assert found, done.stdout + done.stderr
    assert json.loads(found[1].replace('\\"', '"')) == [rotated, given, absent]
