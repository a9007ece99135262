"""The directories of a site in a session: the model, the links below the root, and the real notebook server."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_app import Hub, profile, site, write_profiles
from pydantic import TypeAdapter, ValidationError

from hpchub.model.directories import DIRECTORIES, directories_file
from hpchub.model.entries import Cluster
from hpchub.remote import directory_links as links

if TYPE_CHECKING:
    from notebook_server import Session

SCRATCH = {"title": "Scratch", "path": "/scratch/{user}"}


def cluster(*directories: dict[str, str]) -> Cluster:
    found = site(profile("small")).clusters[0].model_dump()
    return TypeAdapter(Cluster).validate_python({**found, "directories": list(directories)})


@pytest.mark.parametrize(
    ("title", "path"),
    [
        ("Scratch", "/scratch/{user}"),
        ("Großer Speicher <b>", "{home}/my data"),
        ("Project {group}", "/projects/{group}/shared"),
        ("Projects", "~/projects"),
    ],
    ids=["user", "home", "group", "tilde"],
)
def test_valid_directories(title: str, path: str) -> None:
    assert cluster({"title": title, "path": path}).directories[0].path == path


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"title": "a/b", "path": "/x"}, "is not a title"),
        ({"title": ".hidden", "path": "/x"}, "is not a title"),
        ({"title": "{user}", "path": "/x"}, "is not a title"),
        ({"title": "\u202ecratS", "path": "/x"}, "contains"),
        ({"title": "x", "path": "scratch"}, "is not a directory"),
        ({"title": "x", "path": "/scratch/../etc"}, "is not a directory"),
        ({"title": "x", "path": "{home}/.ssh"}, "is not a directory"),
        ({"title": "x", "path": "/scratch/{name}"}, "is not a directory"),
        ({"title": "x", "path": "/a{home}"}, "is not a directory"),
        ({"title": "Project {group}", "path": "/projects"}, "has {group} in its title, but not in its path"),
    ],
    ids=[
        "slash",
        "hidden",
        "placeholder",
        "direction",
        "relative",
        "up",
        "hidden-path",
        "unknown",
        "home-inside",
        "group",
    ],
)
def test_mistakes_are_named(entry: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        cluster(entry)
    assert words in str(error.value)


def test_titles_are_unique() -> None:
    with pytest.raises(ValidationError) as error:
        cluster(SCRATCH, SCRATCH)
    assert "contains the title Scratch twice" in str(error.value)


def test_session_gets_the_directories_of_its_cluster(hub: Hub, tmp_path: Path) -> None:
    assert directories_file("demo", []) == {}
    found = site(profile("small"))
    clusters = [
        {**each.model_dump(mode="json", exclude_defaults=True), "directories": [SCRATCH]} for each in found.clusters
    ]
    write_profiles(tmp_path, profile("small"), hpc_clusters=clusters)
    spawner = hub.user().spawners[""]
    spawner.user_options = {"profile": "small"}
    content = json.loads(spawner.construct_child().session_files[DIRECTORIES])
    assert content == {"place": found.clusters[0].name, "directories": [SCRATCH]}


# -- names


@pytest.mark.parametrize(
    ("entry", "groups", "expected"),
    [
        (SCRATCH, [], {"Scratch": "/scratch/alice"}),
        ({"title": "Data", "path": "{home}/my data"}, [], {"Data": "/home/alice/my data"}),
        ({"title": "Data", "path": "~"}, [], {"Data": "/home/alice"}),
        ({"title": "Data", "path": "/x/~/y"}, [], {"Data": "/x/~/y"}),
        (
            {"title": "Project {group}", "path": "/projects/{group}/{user}"},
            ["bio", "domain users"],
            {"Project bio": "/projects/bio/alice", "Project domain users": "/projects/domain users/alice"},
        ),
        ({"title": "Project", "path": "/p/{group}"}, ["bio"], {"Project bio": "/p/bio"}),
        ({"title": "Project", "path": "/p/{group}"}, ["..", ".", "a/b", ""], {}),
        ({"title": "Project", "path": "/p/{group}"}, ["{user}"], {"Project {user}": "/p/{user}"}),
    ],
    ids=["user", "home", "tilde", "no-home", "groups", "group-follows", "hostile-groups", "group-as-placeholder"],
)
def test_placeholders(entry: dict[str, str], groups: list[str], expected: dict[str, str]) -> None:
    found = links.expand([entry], "alice", "/home/alice", groups)
    assert {title: str(path) for title, path in found.items()} == expected


@pytest.mark.parametrize("user", ["..", ".", "a/b", ""])
def test_hostile_account_gets_no_directory(user: str) -> None:
    assert links.expand([SCRATCH], user, "/home/x", []) == {}


# -- the links


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a session."""
    path = tmp_path / "home"
    path.mkdir()
    return path


def directories(root: Path, *entries: dict[str, str]) -> links.Directories:
    return links.Directories(root, "demo", list(entries), "alice", str(root))


def open_one(root: Path, path: Path, title: str = "Scratch") -> str:
    return asyncio.run(directories(root, {"title": title, "path": str(path)}).open(title))


def test_directory_below_the_root_needs_no_link(root: Path, tmp_path: Path) -> None:
    (root / "a b").mkdir()
    assert open_one(root, root / "a b") == "a b"
    assert open_one(root, root) == ""
    (tmp_path / "alias").symlink_to(root)
    assert open_one(root, tmp_path / "alias" / "a b") == "a b"
    assert not (root / links.LINKS).exists()


@pytest.mark.parametrize("place", [".hidden/x", "../elsewhere/a b"], ids=["hidden", "elsewhere"])
def test_other_directory_gets_a_link(root: Path, place: str) -> None:
    target = Path(os.path.normpath(root / place))
    target.mkdir(parents=True)
    title = "Großer <b>Speicher"
    assert open_one(root, target, title) == f"{links.LINKS}/demo/{title}"
    link = root / links.LINKS / "demo" / title
    assert link.readlink() == target
    assert (root / links.LINKS).stat().st_mode & 0o777 == 0o700
    assert open_one(root, target, title) == f"{links.LINKS}/demo/{title}"


def test_link_follows_the_inventory(root: Path, tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        open_one(root, tmp_path / name)
    assert (root / links.LINKS / "demo" / "Scratch").readlink() == tmp_path / "new"
    (root / links.LINKS / "demo" / "mine").write_text("kept")
    links.remove_old_links(root, "demo", ["Scratch"])
    assert {path.name for path in (root / links.LINKS / "demo").iterdir()} == {"Scratch", "mine"}
    links.remove_old_links(root, "demo", [])
    assert {path.name for path in (root / links.LINKS / "demo").iterdir()} == {"mine"}
    (root / links.LINKS / "demo" / "mine").unlink()
    links.remove_old_links(root, "demo", [])
    assert not (root / links.LINKS).exists()
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("blocked", ["file", "link"])
@pytest.mark.parametrize("where", ["", "demo", "demo/Scratch"], ids=["links", "cluster", "title"])
def test_files_of_the_user_are_kept(root: Path, tmp_path: Path, where: str, blocked: str) -> None:
    """Nor does the session follow a link that leads elsewhere."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "other").mkdir()
    path = root / links.LINKS / where
    path.parent.mkdir(parents=True, exist_ok=True)
    if blocked == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "other")
    if blocked == "link" and where == "demo/Scratch":  # it is ours
        assert open_one(root, tmp_path / "scratch")
        assert path.readlink() == tmp_path / "scratch"
        return
    with pytest.raises(links.Unusable, match="blocked"):
        open_one(root, tmp_path / "scratch")
    assert list((tmp_path / "other").iterdir()) == []
    assert path.is_symlink() or path.read_text() == "mine"


def test_root_of_somebody_else_gets_no_links(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, the working directory is a directory of the course. Its other users would find the links."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(links.Unusable, match="outside"):
        open_one(root, tmp_path / "scratch")
    assert list(root.iterdir()) == []


def test_reasons(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: not str(path).endswith("closed"))
    entries = [{"title": name, "path": f"{tmp_path}/{name}"} for name in ("home", "none", "file", "closed")]
    entries.append({"title": "Project", "path": f"{tmp_path}/{{group}}"})
    monkeypatch.setattr(links, "group_names", lambda: ["none", "home"])
    found = asyncio.run(directories(root, *entries).listing())
    assert {each["title"]: each["reason"] for each in found} == {
        "home": "",
        "none": links.ABSENT,
        "file": links.NO_DIRECTORY,
        "closed": links.FORBIDDEN,
        "Project home": "",  # the group without a directory has no tile
    }


def test_file_server_that_hangs_does_not_block_the_session(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once, and the other directories are offered."""
    end, calls = threading.Event(), []

    def hang(path: Path) -> str:
        if path.name == "silent":
            calls.append(path)
            end.wait()
        return ""

    monkeypatch.setattr(links, "problem", hang)
    monkeypatch.setattr(links, "TIMEOUT", 0.2)

    async def ask() -> list[list[dict[str, str]]]:
        found = directories(root, *({"title": name, "path": f"{tmp_path}/{name}"} for name in ("silent", "home")))
        answers = [await found.listing(), await found.listing()]
        end.set()
        await asyncio.sleep(0.1)
        return [*answers, await found.listing()]

    answers = asyncio.run(ask())
    assert [[each["reason"] for each in answer] for answer in answers] == [["silent", ""], ["silent", ""], ["", ""]]
    assert len(calls) == 2


# -- the notebook server


def test_session_opens_its_directories(session: Session, tmp_path: Path) -> None:
    target = tmp_path / "scratch" / "alice"
    target.mkdir(parents=True)
    (target / "data.csv").write_text("1,2")
    entries = [
        {"title": "Scratch", "path": f"{tmp_path}/scratch/{{user}}"},
        {"title": "None", "path": f"{tmp_path}/none"},
        {"title": "Mine", "path": "{home}/a b"},
    ]
    (session.home / "a b").mkdir()
    session.variables["FILE:directories"] = json.dumps({"place": "demo", "directories": entries})
    session.start().wait_for_report()
    assert session.request("api/hpchub/directories") == (
        200,
        {
            "directories": [
                {"title": "Scratch", "path": str(target), "reason": ""},
                {"title": "None", "path": f"{tmp_path}/none", "reason": "absent"},
                {"title": "Mine", "path": f"{session.home}/a b", "reason": ""},
            ]
        },
    )
    opened = {title: post(session, title) for title in ("Scratch", "None", "Mine", "../..", "")}
    assert opened == {
        "Scratch": {"path": "hpchub-links/demo/Scratch", "reason": ""},
        "None": {"path": "", "reason": "absent"},
        "Mine": {"path": "a b", "reason": ""},
        "../..": {"path": "", "reason": "absent"},
        "": {"path": "", "reason": "absent"},
    }
    status, listing = session.request("api/contents/hpchub-links/demo/Scratch")
    assert (status, [each["name"] for each in listing["content"]]) == (200, ["data.csv"])
    assert session.request("files/hpchub-links/demo/Scratch/data.csv")[1] == "1,2", session.log[-900:]
    (session.home / "own").symlink_to(target)
    assert session.request("files/own/data.csv")[1] == "1,2"
    session.write(".hidden/x", "secret")
    for path in (".hidden/x", "own/../../scratch/alice/data.csv", "..%2fscratch/alice/data.csv"):
        assert session.request(f"files/{path}")[0] >= 400, path
    # Deleting the link in the file browser never deletes what it leads to.
    assert session.request("api/contents/hpchub-links/demo/Scratch", "DELETE")[0] >= 400
    assert (target / "data.csv").read_text() == "1,2"


def post(session: Session, title: str) -> Any:
    status, answer = session.request("api/hpchub/directories", "POST", {"title": title})
    assert status == 200, answer
    return answer


def test_session_without_directories_says_so(session: Session) -> None:
    """Otherwise, JupyterLab shows an error in the browser's console."""
    session.start().wait_for_report()
    assert session.request("api/hpchub/directories") == (200, {"directories": []})
    assert not (session.home / links.LINKS).exists()
