"""Files that somebody has damaged or made to cause harm are refused as backups, in one line, and nothing changes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from backup_host import FakeUnits, make_database, make_host, needs_age, state_of

from hpchub.backup.create import create
from hpchub.backup.database import HubDatabase
from hpchub.backup.files import put_back, save_database, write_member
from hpchub.backup.host import read_member
from hpchub.backup.package import BackupError, Member
from hpchub.backup.restore import Options, restore
from hpchub.no_links import Obstacle, open_regular

if TYPE_CHECKING:
    from hpchub.backup.host import Host

pytestmark = needs_age

Entry = tuple[str, bytes] | tarfile.TarInfo
KINDS = {
    "link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "directory": tarfile.DIRTYPE,
}


def refused(host: Host, path: Path, key: Path) -> str:
    """Return why a backup is refused, after a check that nothing has changed."""
    before, units = state_of(host.work.parent), FakeUnits({"hub"})
    with pytest.raises(BackupError) as caught:
        restore(host, units, path, key, Options(force=True))
    assert (state_of(host.work.parent), units.calls) == (before, [])
    assert not list(host.work.glob("scratch-*"))
    message = str(caught.value)
    assert message.isprintable()
    return message.replace(str(path), "FILE")


def archive(*entries: Entry) -> bytes:
    """Return a tar archive."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as made:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                made.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size, info.mode, info.uname, info.gname = len(entry[1]), 0o600, "root", "root"
            made.addfile(info, io.BytesIO(entry[1]))
    return target.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.uname, info.gname = kind, target, "root", "root"
    return info


class Forgery:
    """The parts of a real backup. Tests make others from them."""

    def __init__(self, host: Host, key: Path) -> None:
        self.host = host
        self.good = create(host)
        with tarfile.open(self.good) as outer:
            self.header, self.content = (_read(outer, name) for name in ("header.json", "content.tar.age"))
        plain = subprocess.run(["age", "-d", "-i", key], input=self.content, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(plain)) as inner:
            self.entries = [(each.name, _read(inner, each.name)) for each in inner.getmembers()]
        self.manifest: dict[str, Any] = json.loads(self.entries.pop(0)[1])

    def outer(self, *entries: Entry) -> Path:
        """Write a backup with these entries of the outer archive."""
        path = self.good.with_name("forged.tar")
        path.write_bytes(archive(*entries))
        return path

    def inner(self, *more: Entry, entries: list[Entry] | None = None) -> Path:
        """Write a backup with more entries in its content, all of them with the right SHA-256."""
        found: list[Entry] = [*(self.entries if entries is None else entries), *more]
        digests = {
            each.name if isinstance(each, tarfile.TarInfo) else each[0]: hashlib.sha256(
                b"" if isinstance(each, tarfile.TarInfo) else each[1]
            ).hexdigest()
            for each in found
        }
        manifest = json.dumps({**self.manifest, "members": digests}).encode()
        age = ["age", "-r", self.host.recipients[0]]
        plain = archive(("manifest.json", manifest), *found)
        content = subprocess.run(age, input=plain, capture_output=True, check=True).stdout
        return self.outer(("header.json", self.header), ("content.tar.age", content))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


@pytest.fixture
def forgery(host: Host, key: Path) -> Forgery:
    return Forgery(host, key)


# The file


def test_backup_that_is_cut_anywhere_is_truncated(host: Host, key: Path, forgery: Forgery, tmp_path: Path) -> None:
    content, cut = forgery.good.read_bytes(), tmp_path / "cut"
    chance = random.Random(1)
    for size in [*range(0, 3000, 256), *(chance.randrange(len(content)) for _ in range(20)), len(content) - 1]:
        cut.write_bytes(content[:size])
        assert refused(host, cut, key).startswith(f"FILE is truncated: it has {size} "), size


def test_flipped_bit_is_no_truncation(host: Host, key: Path, forgery: Forgery, tmp_path: Path) -> None:
    content, flipped = forgery.good.read_bytes(), tmp_path / "flipped"
    places = [
        *range(12, 150, 9),
        content.index(b"content.tar.age"),
        content.index(b"age-encryption"),
        len(content) // 2,
    ]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        flipped.write_bytes(changed)
        assert refused(host, flipped, key).startswith("FILE is damaged: "), place


def test_something_else_than_a_file_is_refused(host: Host, key: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(host, tmp_path / "pipe", key).startswith("FILE is not a file;")
    assert refused(host, tmp_path, key).startswith("FILE is not a file;")
    assert refused(host, tmp_path / "missing", key) == "FILE cannot be read: No such file or directory"


# The header


@pytest.mark.parametrize("target", ["/etc/passwd", "header.json", "content.tar.age"])
@pytest.mark.parametrize("kind", KINDS)
def test_header_and_content_must_be_files(host: Host, key: Path, forgery: Forgery, kind: str, target: str) -> None:
    content, header = ("content.tar.age", forgery.content), ("header.json", forgery.header)
    for entries in (
        (special("header.json", KINDS[kind], target), content),
        (header, special("content.tar.age", KINDS[kind], target)),
    ):
        assert refused(host, forgery.outer(*entries), key).startswith("FILE is damaged: it is no archive with header")


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"format": "1"}', b'{"format": 1}', b" " * 2_000_000],
    ids=["empty", "null", "list", "half", "binary", "deep", "text as format", "nothing else", "large"],
)
def test_header_that_cannot_be_read_is_named(host: Host, key: Path, forgery: Forgery, text: bytes) -> None:
    path = forgery.outer(("header.json", text), ("content.tar.age", forgery.content))
    assert refused(host, path, key).startswith("FILE is damaged: ")


@pytest.mark.parametrize("name", ["hub", "database", "backend", "schema", "time", "hpchub", "format"])
@pytest.mark.parametrize("value", [None, [], {}, True, 1.5, "", "x" * 1000, "a\nb\x1b[31m", 10**30, -1], ids=str)
def test_header_with_a_value_of_another_kind_is_refused(
    host: Host, key: Path, forgery: Forgery, name: str, value: object
) -> None:
    header = {**json.loads(forgery.header), name: value}
    path = forgery.outer(("header.json", json.dumps(header).encode()), ("content.tar.age", forgery.content))
    message = refused(host, path, key)
    newer, changed = "FILE is of a newer version: its format is 1000", "FILE was changed: its header does not agree"
    assert message.startswith(("FILE is damaged: ", newer, changed))


# The content


@pytest.mark.parametrize("target", ["/etc/passwd", "manifest.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_content_with_something_else_than_files_is_refused(
    host: Host, key: Path, forgery: Forgery, kind: str, target: str
) -> None:
    name = f"files{host.work.parent}/etc/secrets/evil"
    assert refused(host, forgery.inner(special(name, KINDS[kind], target)), key).startswith("FILE is damaged: its cont")


@pytest.mark.parametrize("name", ["../outside", "outside", "files", "other/outside", "a\nb", "x" * 1000])
def test_member_with_an_unknown_name_is_refused(host: Host, key: Path, forgery: Forgery, name: str) -> None:
    assert refused(host, forgery.inner((name, b"evil")), key).startswith("FILE is damaged: it has an unknown member")


@pytest.mark.parametrize("way", ["state/../../outside", "etc/secrets/../../../outside", "../outside", "etc/outside"])
def test_member_outside_of_the_hub_is_never_written(
    host: Host, key: Path, forgery: Forgery, tmp_path: Path, way: str
) -> None:
    before = state_of(host.work.parent)
    restore(host, FakeUnits(), forgery.inner((f"files{host.work.parent}/{way}", b"evil")), key, Options(force=True))
    after = state_of(host.work.parent)
    assert {name: after[name] for name in before if name != "state/jupyterhub.sqlite"} == {
        name: before[name] for name in before if name != "state/jupyterhub.sqlite"
    }
    assert after.keys() == before.keys()
    assert not list(tmp_path.glob("**/outside"))


def test_link_that_the_hub_has_made_is_not_followed(host: Host, key: Path, forgery: Forgery, tmp_path: Path) -> None:
    """The account of the hub owns its state directory, and root restores into it."""
    (tmp_path / "system").mkdir()
    (host.state / "more").symlink_to(tmp_path / "system")
    path = forgery.inner((f"files{host.state}/more/passwd", b"evil"))
    assert f"{host.state}/more is a link or of another kind on this host" in refused(host, path, key)
    assert not list((tmp_path / "system").iterdir())


def test_link_that_appears_before_the_hub_stops_is_not_followed(
    host: Host, key: Path, forgery: Forgery, tmp_path: Path
) -> None:
    (tmp_path / "system").mkdir()

    class Racing(FakeUnits):
        def stop(self, unit: str) -> None:
            (host.state / "more").symlink_to(tmp_path / "system")
            super().stop(unit)

    units = Racing({"hub"})
    with pytest.raises(BackupError, match="more is a link or of another kind on this host"):
        restore(host, units, forgery.inner((f"files{host.state}/more/passwd", b"evil")), key, Options(force=True))
    assert units.calls == ["stop hub", "start hub"]
    assert not list((tmp_path / "system").iterdir())


def test_sparse_file_cannot_fill_the_disk(host: Host, key: Path, forgery: Forgery) -> None:
    sparse = tarfile.TarInfo(f"files{host.state}/large")
    sparse.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**20), "GNU.sparse.name": sparse.name}
    assert refused(host, forgery.inner(sparse), key).startswith("FILE is damaged: its content is not a backup")


@pytest.mark.parametrize("name", ["etc/secrets", "state", "etc/secrets/proxy.env/file"])
def test_member_that_replaces_a_directory_or_needs_one_is_refused(
    host: Host, key: Path, forgery: Forgery, name: str
) -> None:
    path = forgery.inner((f"files{host.work.parent}/{name}", b"evil"))
    assert "is a link or of another kind on this host; move it away first" in refused(host, path, key)


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "page"])
def test_database_that_is_damaged_is_refused(host: Host, key: Path, forgery: Forgery, damage: str) -> None:
    name, content = forgery.entries[0]
    page = int.from_bytes(content[16:18])
    changed = {
        "empty": b"",
        "noise": random.Random(1).randbytes(9999),
        "cut": content[:5000],
        "page": content[: 2 * page] + random.Random(1).randbytes(page) + content[3 * page :],
    }[damage]
    path = forgery.inner(entries=[(name, changed), *forgery.entries[1:]])
    assert refused(host, path, key).startswith("FILE is damaged: its database ")


# What other accounts do on the host


def give_away(path: Path) -> None:
    """Let a directory belong to another account than root, as the hub's state does."""
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)


def test_directory_that_becomes_a_link_is_not_followed(host: Host, tmp_path: Path) -> None:
    outside = tmp_path / "system"
    outside.mkdir()
    (outside / "passwd").write_text("system")
    give_away(host.state)
    (host.state / "more").symlink_to(outside)
    target = host.state / "more/passwd"
    assert read_member(target) is None
    with pytest.raises(Obstacle, match="more is a link or of another kind"):
        write_member(target, Member(str(target), b"evil", 0o600, "root", "root"))
    for saved in ("", "saved"):
        (tmp_path / "saved").write_text("evil")
        entry = {"path": str(target), "saved": saved, "mode": 0o600, "owner": "root", "group": "root"}
        with pytest.raises(Obstacle, match="more is a link or of another kind"):
            put_back(tmp_path, [entry])
    assert (outside / "passwd").read_text() == "system"


def test_only_regular_files_are_read(host: Host) -> None:
    os.mkfifo(host.state / "pipe")
    (host.state / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(Obstacle, match=f"{name} is a link or of another kind on this host"):
            open_regular(host.state / name)
        assert read_member(host.state / name) is None
    assert not [member.name for member in host.members() if member.name.endswith("pipe")]


def test_sign_on_sessions_are_restored_without_directories(host: Host) -> None:
    assert host.permits(host.sign_on_sessions / "mod-auth-openidc-1")
    assert not host.permits(host.sign_on_sessions / "deep" / "file")


@pytest.mark.parametrize("kind", ["pipe", "link", "deep", "text as time"])
def test_status_that_the_hub_has_replaced_does_not_stop_a_backup(host: Host, tmp_path: Path, kind: str) -> None:
    path = host.state / "backup-status.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "missing")
    else:
        path.write_text("[" * 4000 if kind == "deep" else '{"time": "x", "file": "y"}')
    create(host)
    assert json.loads(path.read_text())["ok"] is True


def test_database_that_is_a_link_is_not_copied(host: Host, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:secret")
    host.database.path.unlink()
    host.database.path.symlink_to(tmp_path / "shadow")
    (tmp_path / "saved").mkdir()
    with pytest.raises(Obstacle, match="is a link or of another kind on this host"):
        save_database(host, tmp_path / "saved")
    assert not list((tmp_path / "saved").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another account")
def test_database_is_read_with_the_account_of_the_hub() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        made = make_host(root, [])
        make_database(made)
        for path in (made.state, made.database.path):
            give_away(path)
        made.database.dump(root / "copy")
        assert HubDatabase(f"sqlite:///{root / 'copy'}").facts() == made.database.facts()
        os.chown(made.database.path, 0, 0)
        made.database.path.chmod(0o600)
        with pytest.raises(BackupError, match="cannot be copied"):
            made.database.dump(root / "other")
