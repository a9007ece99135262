"""Each example of a sign-on in the documentation is valid, and each kind of sign-on has an example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpchub.model.hub_sso import KINDS
from hpchub.model.problems import SiteError
from hpchub.model.site import Site
from hpchub.model.sso import PROVIDERS

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "how-to" / "sign-on-examples.yml"
EXAMPLES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())
IN_THE_HUB = {"oauthenticator", "ldapauthenticator"}
SITE = {
    "hpc_clusters": [
        {"name": "c", "scheduler": "slurm", "submit": {"method": "local"}, "networks": ["192.0.2.0/24"],
         "queues": [{"name": "q", "max_cores": 4, "max_memory": "8G", "max_runtime": "4:00:00"}]},
    ],
    "hpc_profiles": [
        {"key": "p", "display_name": "P",
         "cluster": "c", "queue": "q", "cores": 1, "memory": "1G", "runtime": "1:00:00"},
    ],
    "hpc_access": {"allowed_groups": ["hpc"]},
}  # fmt: skip


def evaluated(value: Any) -> Any:
    """Return a value without expressions, as Ansible would."""
    if isinstance(value, dict):
        return {key: evaluated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [evaluated(item) for item in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"\{\{ vault_\w+ \}\}", "a1b2c3d4e5f6a7b8c9d0e1f2", value)
    return text.replace("{{ inventory_dir }}", "/site")


def check(sso: dict[str, Any]) -> Site:
    service = {"url": "https://hub.example.org", "user_subdomains": sso["provider"] in IN_THE_HUB}
    return Site.from_vars({**SITE, "hpc_service": service, "hpc_sso": evaluated(sso)})


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_valid(name: str) -> None:
    assert check(EXAMPLES[name]).sso.provider == EXAMPLES[name]["provider"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_roles_get_the_same_sign_on(name: str) -> None:
    """The filters of the playbooks read the model again, with the values that the site has not set."""
    site = check(EXAMPLES[name])
    assert Site.model_validate(site.as_dict()).sso == site.sso


def test_every_kind_has_an_example() -> None:
    assert {example["provider"] for example in EXAMPLES.values()} == set(PROVIDERS)
    assert {kind for example in EXAMPLES.values() for kind in KINDS if kind in example} == set(KINDS)


def test_wrong_example_would_be_noticed() -> None:
    with pytest.raises(SiteError, match="metadata_ulr"):
        check({**EXAMPLES["oidc_keycloak"], "metadata_ulr": "https://sso.example.org"})


CAMPUS, PARTNER = ({"key": key, "title": key, "issuer": f"https://{key}.example", "client_secret": "a1b2c3d4e5f6"}
                   for key in ("campus", "partner"))  # fmt: skip
MAPPING = [{"strip_realm": ["campus"]}]


@pytest.mark.parametrize(
    ("sso", "problem"),
    [
        ({"providers": [CAMPUS]}, "providers without user_mapping"),
        ({"providers": [CAMPUS, CAMPUS], "user_mapping": MAPPING}, "two providers with the key campus"),
        (
            {"providers": [CAMPUS, PARTNER | {"issuer": CAMPUS["issuer"]}], "user_mapping": MAPPING},
            "two providers with the issuer https://campus.example",
        ),
        ({"providers": [CAMPUS], "user_mapping": MAPPING, "client_secret": "a1b2c3d4"}, "providers and client_secret"),
        (
            {"providers": [CAMPUS | {"issuer": "https://campus.example/.well-known/x"}], "user_mapping": MAPPING},
            "write the issuer of the provider without it",
        ),
        ({"providers": [{**CAMPUS, "client_secret": ""}], "user_mapping": MAPPING}, "client_secret is empty"),
        ({"provider": "shibboleth"}, "has no metadata"),
        (
            {"provider": "shibboleth", "metadata_url": "https://f.example/m"},
            "metadata_url without metadata_certificate",
        ),
    ],
)
def test_mistake_is_explained(sso: dict[str, Any], problem: str) -> None:
    with pytest.raises(SiteError, match=re.escape(problem)):
        check({"provider": "oidc", **sso})
