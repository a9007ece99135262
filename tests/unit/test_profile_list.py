"""The profile list can be written and read back, and invalid files are refused."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import json
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.deploy.role_arguments import gate_settings
from hpchub.model.profile_list import (
    ProfileListError,
    UnknownProfileError,
    parse_profile_list,
    profile_list,
    to_json,
)
from hpchub.model.site import Site
from hpchub.profile_file import load_profile_list

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUEUES = [{"name": "short", "max_cores": 4, "max_memory": "8G", "max_runtime": "1:00:00"}]
SITE = Site.from_vars(
    {
        "hpc_service": {"url": "https://hub.example.org", "support": "help@example.org"},
        "hpc_sso": {"metadata_url": "https://sso.example.org/x", "client_secret": "TOPSECRET"},
        "hpc_clusters": [
            {
                "name": name,
                "scheduler": "slurm",
                "submit": {"method": "ssh", "host": f"login.{name}"},
                "networks": ["10.0.0.0/8"],
                "queues": QUEUES,
            }
            for name in ("one", "two", "idle")
        ],
        "hpc_profiles": [
            {
                "key": key,
                "display_name": f"Größe {key}",
                "cluster": cluster,
                "queue": "short",
                "cores": 2,
                "memory": "4G",
                "runtime": "0:30:00",
            }
            for key, cluster in (("zulu", "two"), ("alpha", "one"), ("mike", "two"))
        ],
    }
)


def test_list_keeps_the_inventory_order() -> None:
    content = profile_list(SITE)
    assert list(content) == ["version", "service", "clusters", "places", "profiles", "apps", "default_profile"]
    assert [profile["key"] for profile in content["profiles"]] == ["zulu", "alpha", "mike"]
    assert [cluster["name"] for cluster in content["clusters"]] == ["one", "two", "idle"]
    assert content["default_profile"] == "zulu"
    assert content["profiles"][0]["account"] == ""


@pytest.mark.parametrize(("cluster", "keys", "default"), [("one", ["alpha"], "alpha"), ("two", ["zulu", "mike"], "zulu"), ("idle", [], "")])  # fmt: skip
def test_slice_contains_only_its_cluster(cluster: str, keys: list[str], default: str) -> None:
    content = profile_list(SITE, cluster)
    assert [profile["key"] for profile in content["profiles"]] == keys
    assert [one["name"] for one in content["clusters"]] == [cluster]
    assert content["places"] == []
    assert content["default_profile"] == default
    assert parse_profile_list(to_json(content)).as_dict() == content


DISABLED: list[tuple[str, dict[str, Any], list[str], str]] = [
    ("profile", {"profiles": {"alpha": {"enabled": False}}}, ["zulu", "mike"], "zulu"),
    ("queue", {"queue": {"one": {"enabled": False}}}, ["zulu", "mike"], "zulu"),
    ("cluster", {"clusters": {"two": {"enabled": False}}}, ["alpha"], "alpha"),
    ("all-clusters", {"clusters": {"one": {"enabled": False}, "two": {"enabled": False}}}, [], ""),
]


@pytest.mark.parametrize(("changes", "keys", "default"), [case[1:] for case in DISABLED], ids=[c[0] for c in DISABLED])
def test_disabled_entry_hides_profiles_and_keeps_every_cluster(
    changes: dict[str, Any], keys: list[str], default: str
) -> None:
    """The hub needs a disabled cluster to poll and to end the sessions that still run there."""
    site = site_with(**changes)
    content = profile_list(site)
    assert [profile["key"] for profile in content["profiles"]] == keys
    assert content["default_profile"] == default
    assert [cluster["name"] for cluster in content["clusters"]] == ["one", "two", "idle"]
    assert list(gate_settings(site)) == ["one", "two", "idle"]
    assert parse_profile_list(to_json(content)).default_profile == default
    offers_nothing = [str(warning) for warning in site.warnings() if "offers nothing" in str(warning)]
    assert bool(offers_nothing) is (not keys)


def site_with(
    profiles: dict[str, Any] | None = None, queue: dict[str, Any] | None = None, clusters: dict[str, Any] | None = None
) -> Site:
    """Return the site with more fields in the named profiles, in the only queue of clusters, and in clusters."""
    data = SITE.model_dump(mode="json") | {"sso": SITE.sso}
    for entry in data["profiles"]:
        entry.update((profiles or {}).get(entry["key"], {}))
    for entry in data["clusters"]:
        entry.update((clusters or {}).get(entry["name"], {}))
        entry["queues"][0].update((queue or {}).get(entry["name"], {}))
    return Site.model_validate(data)


def test_slice_of_an_unknown_cluster_is_refused() -> None:
    with pytest.raises(LookupError, match='no cluster "three"; valid: one, two, idle'):
        profile_list(SITE, "three")


def test_json_is_stable_and_contains_no_secret() -> None:
    text = to_json(profile_list(SITE))
    assert "TOPSECRET" not in text
    assert "Größe" in text
    assert text == to_json(json.loads(text))
    assert text.index('"clusters"') < text.index('"default_profile"') < text.index('"profiles"')


def test_list_is_read_back_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(to_json(profile_list(SITE)), encoding="utf-8")
    found = load_profile_list(path)
    assert found.profiles == SITE.profiles
    assert found.get("mike") == SITE.profile("mike")
    assert found.get("nope") is None
    assert found.cluster("two") == SITE.cluster("two")
    assert found.cluster("nope") is None
    assert found.require("alpha").cluster == "one"


@pytest.mark.parametrize("key", ["nope", "", None, ["zulu"], {"a": 1}, "x" * 10_000])
def test_unknown_key_error_lists_the_valid_keys(key: Any) -> None:
    with pytest.raises(UnknownProfileError, match=r"^no profile .{1,80}; valid: zulu, alpha, mike$"):
        parse_profile_list(to_json(profile_list(SITE))).require(key)


def modified(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(to_json(profile_list(SITE)))
    change(content)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f: is not JSON"),
        ("{", "f: is not JSON"),
        ("[" * 100_000, "f: is not JSON"),
        ("[]", "f: is not a profile list, because it has no version"),
        ("{}", "f: is not a profile list, because it has no version"),
        (modified(lambda c: c.update(version=2)), "f: has version 2, but this hpchub reads version 1; deploy the profiles again with this version of hpchub"),
        (modified(lambda c: c.update(version="1")), 'f: has version "1"'),
        (modified(lambda c: c.update(extra=1)), "f: extra 1 extra inputs are not permitted"),
        (modified(lambda c: c["profiles"][0].update(account="a\n#SBATCH --uid=0")), 'f profiles[0] (key "zulu"): account "a\\n#SBATCH --uid=0" contains a line break'),
        (modified(lambda c: c["profiles"][0].update(queue="long")), 'f: profile zulu: queue "long" of cluster "two" is not in the list'),
        (modified(lambda c: c["profiles"][0].update(options=["--uid=0"])), 'f: profile zulu: option "--uid=0" is set by hpchub'),
        (modified(lambda c: c["profiles"][0].update(key="mike")), 'f: two profiles have the key "mike"'),
        (modified(lambda c: c.update(default_profile="nope")), 'f: default_profile "nope" is not the key of a profile'),
        (modified(lambda c: c["clusters"].clear()), "f: profile zulu: queue"),
        (modified(lambda c: c.pop("profiles")), "f: profiles field required"),
    ],
)  # fmt: skip
def test_invalid_profile_list_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ProfileListError) as caught:
        parse_profile_list(text, "f")
    assert str(caught.value).lower().startswith(expected.lower())
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProfileListError, match=r"nope\.json: No such file or directory"):
        load_profile_list(tmp_path / "nope.json")
    with pytest.raises(ProfileListError, match="Is a directory"):
        load_profile_list(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xff\xfe{")
    with pytest.raises(ProfileListError, match="is not UTF-8"):
        load_profile_list(tmp_path / "latin")


def test_reads_a_thousand_profiles() -> None:
    content = profile_list(SITE)
    content["profiles"] = [content["profiles"][0] | {"key": f"p{i}"} for i in range(1000)]
    content["default_profile"] = "p0"
    profiles = parse_profile_list(to_json(content))
    assert [profile.key for profile in profiles.profiles] == [f"p{i}" for i in range(1000)]
    assert profiles.require("p999").key == "p999"
