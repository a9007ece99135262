"""Bundles: archives with the software that the playbooks otherwise download."""

from __future__ import annotations

# ruff: noqa: E501  (one case per line)
import hashlib
import http.server
import io
import json
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit.test_cli import SITE

from hpchub.bundle import archive, create, npm, wheels
from hpchub.bundle.downloads import Download, fetch, fetch_all, hash_of_integrity
from hpchub.bundle.manifest import BundleError, File, Manifest, Needs, Targets, digest, missing_software, missing_target
from hpchub.cli import bundle as command
from hpchub.cli import inventory
from hpchub.cli import main as cli
from hpchub.deploy import validation
from hpchub.deploy.software import HUB, Software, software_of
from hpchub.model.problems import Problem
from hpchub.model.site import variable_problems

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
NEEDS = Needs({HUB: digest("lock"), "npm": digest("npm")})
CONTENTS = {"npm/a-1.tgz": b"a" * 700, "wheels/b-1-py3-none-any.whl": b"b" * 5000, "wheels/c-1-py3-none-any.whl": b""}
NPM_LOCK = (ROOT / "roles/configurable_http_proxy/files/package-lock.json").read_text()


def manifest(contents: dict[str, bytes] = CONTENTS, **changes: Any) -> Manifest:
    files = {name: File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()}
    made = Manifest("1.0", "2026-11-26T10:00:00+00:00", NEEDS, Targets(), files)
    return replace(made, **changes)


def make(path: Path, contents: dict[str, bytes] = CONTENTS, **changes: Any) -> Path:
    """Write a bundle with these contents."""
    sources = {}
    for name, data in contents.items():
        sources[name] = path.with_name(f"source-{name.replace('/', '-')}")
        sources[name].write_bytes(data)
    archive.write(path, manifest(contents, **changes), sources)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make(tmp_path / "bundle.tar")


# The archive


def test_complete_bundle_is_accepted(bundle: Path) -> None:
    assert archive.verify(bundle) == manifest() == archive.read_manifest(bundle)


def test_equal_contents_give_equal_bundles(tmp_path: Path) -> None:
    assert make(tmp_path / "a.tar").read_bytes() == make(tmp_path / "b.tar").read_bytes()


def test_bundle_is_refused_wherever_it_is_truncated(bundle: Path) -> None:
    whole = bundle.read_bytes()
    for length in [*range(0, len(whole), 512), *range(1, len(whole), 1499), len(whole) - 1]:
        bundle.write_bytes(whole[:length])
        with pytest.raises(BundleError, match=r"^(is truncated|is not a bundle of hpchub)"):
            archive.verify(bundle)


def test_bundle_is_refused_wherever_a_file_is_changed(bundle: Path) -> None:
    whole = bundle.read_bytes()
    with tarfile.open(bundle) as opened:
        entries = [entry for entry in opened if entry.size and entry.name != archive.MANIFEST]
    for entry in entries:
        for position in (entry.offset_data, entry.offset_data + entry.size - 1):
            changed = bytearray(whole)
            changed[position] ^= 1
            bundle.write_bytes(changed)
            with pytest.raises(BundleError, match=rf"^was changed: {entry.name} differs from its hash"):
                archive.verify(bundle)


def _repack(bundle: Path, change: Any) -> None:
    """Write the members of a bundle again after a change of their list."""
    with tarfile.open(bundle) as opened:
        members = [(entry, opened.extractfile(entry).read() if entry.isreg() else b"") for entry in opened]  # type: ignore[union-attr]
    with tarfile.open(bundle, "w") as opened:
        for entry, data in change(members):
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))


def _more(name: str, **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(entry, key, value)
    return entry, b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members[:-1], "is truncated: wheels/c-1-py3-none-any.whl is missing"),
        (lambda members: [members[0], *members[2:]], "was changed: it contains"),
        (lambda members: [*members, _more("wheels/z.whl")], "was changed: something follows after its last file"),
        (lambda members: [members[0], _more("../etc/passwd"), *members[1:]], "was changed: it contains"),
        (lambda members: [members[0], _more("npm/a-1.tgz", type=tarfile.SYMTYPE, linkname="/etc/passwd"), *members[2:]], "was changed: it contains"),
        (lambda members: members[1:], "is not a bundle of hpchub"),
        (lambda members: [], "is not a bundle of hpchub"),
    ],
    ids=["last-file-missing", "file-missing", "file-added", "path-outside", "link", "manifest-missing", "empty"],
)  # fmt: skip
def test_bundle_with_other_members_is_refused(bundle: Path, change: Any, message: str) -> None:
    _repack(bundle, change)
    with pytest.raises(BundleError, match=message):
        archive.verify(bundle)


@pytest.mark.parametrize("content", [b"", b"text\n" * 4000, b"\x1f\x8b" + b"\0" * 2000], ids=["empty", "text", "gzip"])
def test_other_file_is_not_a_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bundle.tar"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is not a bundle of hpchub"):
        archive.verify(path)


def test_missing_bundle_and_directory_are_reported(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.tar", tmp_path):
        with pytest.raises(BundleError, match=r"cannot be read: (No such file|Is a directory)"):
            archive.verify(path)


def test_interrupted_run_leaves_the_former_bundle(bundle: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    with pytest.raises(KeyError):
        archive.write(bundle, manifest(), {})
    assert bundle.read_bytes() == before
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*.partial"))


# The manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3, "hpchub": "9.0"}, r'was made by a newer version of hpchub \("9.0"\)'),
        ({"format": 1}, r'was made by an older version of hpchub \("1.0"\)'),
        ({"format": "1"}, "its manifest is not valid"),
        ({"files": {"../x": {"sha256": "0" * 64, "size": 1}}}, "its manifest is not valid"),
        ({"files": {"wheels/../x": {"sha256": "0" * 64, "size": 1}}}, "its manifest is not valid"),
        ({"files": {"wheels/x": {"sha256": "0", "size": 1}}}, "its manifest is not valid"),
        ({"files": []}, "its manifest is not valid"),
        ({"needs": None}, "its manifest is not valid"),
        ({"targets": {}}, "its manifest is not valid"),
    ],
    ids=["newer", "older", "no-number", "way-up", "way-up-inside", "hash", "files", "needs", "targets"],
)
def test_manifest_that_is_not_valid_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Manifest.from_text(json.dumps({**json.loads(manifest().as_text()), **change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '"x"'])
def test_text_that_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="its manifest is not valid"):
        Manifest.from_text(text)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (NEEDS, ""),
        (replace(NEEDS, locks={HUB: NEEDS.locks[HUB]}), ""),
        (replace(NEEDS, locks={**NEEDS.locks, HUB: digest("other")}), f"was made by hpchub 1.0 for another version of {HUB}"),
        (replace(NEEDS, locks={**NEEDS.locks, "new": digest("x")}), "was made by hpchub 1.0 for another version of new"),
    ],
    ids=["equal", "fewer-locks", "changed-lock", "new-lock"],
)  # fmt: skip
def test_software_that_a_bundle_lacks_is_named(needs: Needs, expected: str) -> None:
    assert missing_software(manifest(), needs) == expected


TRIXIE = {"interpreter": "/usr/bin/python3", "python": "3.13", "architecture": "x86_64", "glibc": "2.41"}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({}, ""),
        ({"python": "3.11", "glibc": "2.36"}, ""),
        ({"python": "3.12"}, "is for Python 3.11, 3.13, but /usr/bin/python3 is Python 3.12"),
        ({"architecture": "aarch64"}, "is for the architecture x86_64, but the host has aarch64"),
        ({"glibc": "2.31"}, "needs glibc 2.36 or later, but the host has 2.31"),
        ({"glibc": "2.4"}, "needs glibc 2.36 or later, but the host has 2.4"),
        ({"glibc": ""}, "needs glibc 2.36 or later, but the host has another C library"),
    ],
)
def test_host_that_a_bundle_is_not_for_is_refused(host: dict[str, str], expected: str) -> None:
    assert missing_target(Targets(), TRIXIE | host) == expected


def test_lock_file_has_the_same_hash_after_a_lookup() -> None:
    """Ansible's lookup of a file removes the newline at the end."""
    assert digest("a==1\n") == digest("a==1")


# Downloads


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {"/a": b"content", "/short": b"cont"}
        if self.path not in answers:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answers["/a"])))
        self.end_headers()
        self.wfile.write(answers[self.path])

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


SHA256 = hashlib.sha256(b"content").hexdigest()


def test_download_is_compared_with_its_hash(server: str, tmp_path: Path) -> None:
    sha512 = hashlib.sha512(b"content").hexdigest()
    assert fetch(Download("npm/a", f"{server}/a", "sha512", sha512), tmp_path / "a") == File(SHA256, 7)
    with pytest.raises(BundleError, match=r"/a does not have the expected hash"):
        fetch(Download("npm/a", f"{server}/a", "sha256", "0" * 64), tmp_path / "a")


@pytest.mark.parametrize("path", ["missing", "short"])
def test_failed_download_names_the_address(server: str, tmp_path: Path, path: str) -> None:
    with pytest.raises(BundleError, match=rf"/{path} (cannot be downloaded|does not have the expected hash)"):
        fetch_all([Download("npm/a", f"{server}/{path}", "sha256", SHA256)], tmp_path, lambda *_: None)


def test_download_from_a_local_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not an address of the web"):
        fetch(Download("npm/a", "file:///etc/passwd", "sha256", SHA256), tmp_path / "a")


# npm


def test_every_npm_package_of_the_proxy_is_downloaded_with_its_hash() -> None:
    packages = {path: entry for path, entry in json.loads(NPM_LOCK)["packages"].items() if path}
    found = npm.downloads(NPM_LOCK, "https://registry.example.org/")
    assert len({one.name for one in found}) == len(packages) > 30
    assert {one.hash for one in found} == {hash_of_integrity(entry["integrity"])[1] for entry in packages.values()}
    scoped = next(one for one in found if "@colors/colors" in one.url)
    version = packages["node_modules/@colors/colors"]["version"]
    assert scoped.url == f"https://registry.example.org/@colors/colors/-/colors-{version}.tgz"
    assert scoped.name == f"npm/colors-colors-{version}.tgz"


def test_local_lock_file_names_the_downloaded_files() -> None:
    entries = [entry for path, entry in json.loads(npm.local_lock(NPM_LOCK, "/srv/npm"))["packages"].items() if path]
    assert {entry["resolved"] for entry in entries} == {f"file:/srv/{one.name}" for one in npm.downloads(NPM_LOCK)}
    assert all(entry["integrity"] for entry in entries)


@pytest.mark.parametrize("integrity", ["", "sha1-AAAA", "sha512-", "sha512-!", "x"])
def test_npm_package_without_a_strong_hash_is_refused(integrity: str) -> None:
    with pytest.raises(BundleError, match="has the hash"):
        hash_of_integrity(integrity)


def test_npm_lock_file_of_another_version_is_refused() -> None:
    with pytest.raises(BundleError, match="does not have lockfileVersion 3"):
        npm.downloads('{"lockfileVersion": 1, "packages": {}}')


# Wheels


def package(*files: str) -> dict[str, Any]:
    entries = [
        {"url": f"https://files.example.org/{file}", "hashes": {"sha256": hashlib.sha256(file.encode()).hexdigest()}}
        for file in files
    ]
    return {"name": "x", "version": "1", "wheels": entries}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["x-1-py3-none-any.whl", "x-1-cp313-cp313-manylinux_2_17_x86_64.whl"], 1),
        (["x-1-cp313-cp313-manylinux_2_28_x86_64.whl", "x-1-cp313-cp313-manylinux_2_17_x86_64.whl"], 0),
        (["x-1-cp311-abi3-manylinux1_x86_64.manylinux_2_5_x86_64.whl"], 0),
        (["x-1-cp313-cp313t-manylinux_2_17_x86_64.whl"], None),
        (["x-1-cp314-cp314-manylinux_2_17_x86_64.whl"], None),
        (["x-1-cp313-cp313-manylinux_2_39_x86_64.whl"], None),
        (["x-1-cp313-cp313-musllinux_1_2_x86_64.whl"], None),
        (["x-1-cp313-cp313-manylinux_2_17_aarch64.whl"], None),
        (["x-1-cp313-cp313-win_amd64.whl", "x-1.tar.gz"], None),
        ([], None),
    ],
    ids=["compiled", "newer", "abi3", "free-threaded", "python", "glibc", "musl", "architecture", "windows", "none"],
)  # fmt: skip
def test_best_wheel_for_the_target_is_chosen(files: list[str], expected: int | None) -> None:
    order = {tag: rank for rank, tag in enumerate(wheels.tags("3.13", "x86_64"))}
    found = wheels.choose(package(*files), order, None)
    assert (found and found.name) == (None if expected is None else f"wheels/{files[expected]}")


def test_wheel_that_the_lock_file_does_not_name_is_refused() -> None:
    order = {tag: rank for rank, tag in enumerate(wheels.tags("3.13", "x86_64"))}
    one = package("x-1-py3-none-any.whl")
    assert wheels.choose(one, order, {one["wheels"][0]["hashes"]["sha256"]})
    assert wheels.choose(one, order, {"0" * 64}) is None


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file. What it contains is the output of a program in the place of uv."""
    output = tmp_path / "pylock.toml"
    program = tmp_path / "uv"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncat {output} || exit 2\n')
    program.chmod(0o755)
    monkeypatch.setattr(wheels, "uv_program", lambda: str(program))
    return output


PYLOCK = """lock-version = "1.0"
[[packages]]
name = "x"
version = "1"
wheels = [{{ url = "https://files.example.org/x-1-py3-none-any.whl", size = 9, hashes = {{ sha256 = "{hash}" }} }}]
"""


def test_wheels_of_a_lock_file_must_have_its_hashes(uv: Path, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"x==1 \\\n    --hash=sha256:{'1' * 64}\n")
    uv.write_text(PYLOCK.format(hash="1" * 64))
    assert [one.name for one in wheels.locked(lock, "3.11", "aarch64")] == ["wheels/x-1-py3-none-any.whl"]
    assert "--python-version 3.11 --python-platform aarch64-manylinux_2_36" in (tmp_path / "calls").read_text()
    uv.write_text(PYLOCK.format(hash="2" * 64))
    with pytest.raises(BundleError, match=r"x 1 has no wheel for Python 3.11 on aarch64 that the lock file permits"):
        wheels.locked(lock, "3.11", "aarch64")


def test_reason_of_uv_is_reported(uv: Path, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("x==1\n")
    with pytest.raises(BundleError, match=r"cannot be made for Python 3.13 on x86_64: cat: .*No such file"):
        wheels.locked(lock, "3.13", "x86_64")


# Making a bundle


def test_bundle_is_made_once(server: str, tmp_path: Path) -> None:
    files = {"wheels/a": Download("wheels/a", f"{server}/a", "sha256", SHA256, 7)}
    path = tmp_path / "bundle.tar"
    assert not create.is_current(path, NEEDS, Targets())
    steps: list[tuple[int, int]] = []
    made, found = create.make(path, NEEDS, Targets(), files, lambda number, total, _: steps.append((number, total)))
    assert steps == [(1, 1)]
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()
    assert archive.verify(path) == made
    assert create.is_current(path, NEEDS, Targets())
    assert not create.is_current(path, Needs({HUB: digest("other")}), Targets())
    assert not create.is_current(path, NEEDS, Targets(pythons=("3.12",)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle.tar"]


def test_failed_download_leaves_nothing(server: str, tmp_path: Path) -> None:
    files = {"wheels/a": Download("wheels/a", f"{server}/missing", "sha256", SHA256)}
    with pytest.raises(BundleError):
        create.make(tmp_path / "bundle.tar", NEEDS, Targets(), files, lambda *_: None)
    assert list(tmp_path.iterdir()) == []


# The software of a site


def test_bundle_covers_every_lock_file_of_the_roles() -> None:
    """A role with a new lock file would otherwise need a network."""
    locks = {*(ROOT / "roles").glob("*/files/*.lock"), *(ROOT / "roles").glob("*/files/package-lock.json")}
    assert set(software_of(SITE, ROOT, [], str).locks.values()) == locks


def test_lock_files_of_the_inventory_take_precedence() -> None:
    values = {"jupyterhub_lock_src": "/srv/hub.lock", "configurable_http_proxy_package_src": "/srv/proxy"}
    found = software_of(SITE, ROOT, list(values), values.__getitem__)
    assert found.locks[HUB] == Path("/srv/hub.lock")
    assert {str(path) for path in found.locks.values() if path.parts[1] == "srv"} == {
        "/srv/hub.lock", "/srv/proxy/node.lock", "/srv/proxy/package-lock.json",
    }  # fmt: skip
    assert Software.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_inventory_with_a_bad_path_is_reported() -> None:
    assert str(variable_problems("hpc_bundle", "bundle.tar")[0]).startswith(
        'hpc_bundle: "bundle.tar" is not an absolute path; write the full path of a file on the machine that runs Ansible'
    )
    assert "hpc_bundle: " in str(variable_problems("hpc_bundle", ["/x"])[0])
    assert not variable_problems("hpc_bundle", "")


@pytest.fixture
def software(tmp_path: Path) -> Software:
    path = tmp_path / "requirements.lock"
    path.write_text("lock\n")
    npm_path = tmp_path / "package-lock.json"
    npm_path.write_text("npm")
    return Software({HUB: path, "npm": npm_path})


def test_check_of_the_inventory_finds_a_bad_bundle(bundle: Path, software: Software, tmp_path: Path) -> None:
    def problems(path: Path, wanted: Software = software) -> list[Problem]:
        return list(validation.bundle_problems(str(path), wanted))

    assert problems(bundle) == []
    assert "No such file" in str(problems(tmp_path / "none.tar"))
    more = replace(software, locks={**software.locks, "files/locks/demo.lock": software.locks[HUB]})
    assert str(replace(problems(bundle, more)[0], value="PATH")) == (
        "hpc_bundle: PATH was made by hpchub 1.0 for another version of files/locks/demo.lock; "
        "make it again with: hpchub bundle INVENTORY"
    )
    bundle.write_bytes(bundle.read_bytes()[:8000])
    assert "is truncated" in problems(bundle)[0].message
    missing = replace(software, locks={HUB: tmp_path / "missing.lock"})
    assert "missing.lock" in str(problems(make(bundle), missing)[0])


# The command


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, software: Software) -> dict[str, Any]:
    """Return the attributes of the inventory that the command reads. The command chooses no files."""
    attributes: dict[str, Any] = {"software": software.as_dict(), "bundle": "", "problems": []}
    monkeypatch.setattr(inventory, "read", lambda *_: inventory.Checked(**attributes))
    monkeypatch.setattr(command, "_sources", lambda _: None)
    monkeypatch.setattr(command, "choose_files", lambda *_: {})
    return attributes


def test_command_makes_a_bundle_and_says_what_to_set(
    checked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.tar"
    arguments = ["bundle", "site", str(path), "--architecture", "x86_64"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert hashlib.sha256(path.read_bytes()).hexdigest() in out
    assert f'Set hpc_bundle: "{path}" in the inventory' in out
    assert archive.verify(path).targets == Targets()
    assert cli.main(arguments) == 0
    assert "Nothing was downloaded" in capsys.readouterr().out


def test_command_uses_the_path_of_the_inventory(checked: dict[str, Any], tmp_path: Path) -> None:
    checked["bundle"] = str(tmp_path / "new.tar")
    # The bundle does not exist yet, which is a problem of the inventory.
    checked["problems"] = [Problem("hpc_bundle", "cannot be read").as_dict()]
    assert cli.main(["bundle", "site", "--python", "3.12", "--architecture", "aarch64"]) == 0
    assert archive.verify(tmp_path / "new.tar").targets == Targets(("3.12",), ("aarch64",))


def test_command_only_lists_the_files(
    checked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"wheels/a": Download("wheels/a", "https://x", "sha256", SHA256, 2_500_000)}
    monkeypatch.setattr(command, "choose_files", lambda *_: files)
    assert cli.main(["bundle", "site", str(tmp_path / "new.tar"), "--list", "--architecture", "x86_64"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "wheels/a  2.5 MB", "1 file, 2.5 MB without npm packages. Nothing was downloaded.",
    ]  # fmt: skip
    assert not (tmp_path / "new.tar").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the inventory does not set hpc_bundle; add FILE"),
        (["/nonexistent/new.tar"], "/nonexistent/new.tar cannot be written"),
        (["/"], "/ cannot be written"),
        (["--python", "3.9"], "--python 3.9 is not a version of Python; valid: 3.11 or later"),
        (["--python", "3.13.1"], "--python 3.13.1 is not a version of Python"),
    ],
    ids=["no-file", "no-directory", "directory", "old-python", "patch-version"],
)
def test_wrong_usage_of_the_command(
    checked: dict[str, Any], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bundle", "site", *arguments, "--architecture", "x86_64"]) == 2
    assert capsys.readouterr().err.startswith(f"hpchub: {message}")


def test_command_reports_an_invalid_inventory(checked: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    checked |= {"software": None, "problems": [Problem("hpc_sso", "is missing").as_dict()]}
    assert cli.main(["bundle", "site", "/tmp/x.tar", "--architecture", "x86_64"]) == 1
    assert capsys.readouterr().out == "hpc_sso: is missing\n"
