"""The documents: generated files are up to date, links work, and no file depends on the machine it was written on."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tests/repo/generate_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tests/repo/generate_docs.py:\n{done.stdout}{done.stderr}"


def committed() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in committed():
        if path.is_symlink():
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield path.relative_to(ROOT), content.decode("utf-8", "replace")


def test_no_file_contains_a_path_of_this_machine() -> None:
    directories = [str(ROOT), str(Path.home() / ".cache")]
    found = [f"{path}: {directory}" for path, text in texts() for directory in directories if directory in text]
    assert found == []


def test_no_file_contains_merge_markers_or_wrong_line_ends() -> None:
    for path, text in texts():
        assert not re.search(r"^(?:<{7}|>{7}) ", text, re.MULTILINE), f"{path}: has a merge conflict marker"
        assert "\r\n" not in text, f"{path}: has Windows line ends"
        assert not text or text.endswith("\n"), f"{path}: the last line has no line break"


def test_links_between_documents_have_a_target() -> None:
    for path, text in texts():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            assert ((ROOT / path).parent / target).exists(), f"{path}: {target}"


def test_every_fault_from_the_field_names_a_test_that_exists() -> None:
    rows = (ROOT / "docs" / "reference" / "field-cases.md").read_text().partition("| --- |")[2].splitlines()[1:]
    assert rows
    for row in rows:
        cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
        assert len(cells) == 5, f"a row has five columns: {row}"
        tests = re.findall(r"`(tests/[^`:]+|molecule/[^`:]+)::(\w+)[^`]*`", cells[-1])
        assert tests, f"the last column names no test: {row}"
        for path, name in tests:
            assert (ROOT / path).is_file(), f"{path} does not exist: {row}"
            assert re.search(rf"def {name}\(", (ROOT / path).read_text()), f"{path} has no test {name}: {row}"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(path: str) -> SimpleNamespace:
    return SimpleNamespace(file=SimpleNamespace(src_uri=path))


@pytest.mark.parametrize(
    ("path", "written", "shown"),
    [
        ("how-to/upgrade.md", "[c](../../CHANGELOG.md)", "[c](../changelog.md)"),
        ("how-to/upgrade.md", "[c](maintenance.md#back-up)", "[c](maintenance.md#back-up)"),
        ("reference/README.md", "[r](../../roles/jupyterhub/README.md)", "[r](../roles/jupyterhub.md)"),
        ("roles/jupyterhub.md", "[d](../../docs/topics/load.md)", "[d](../topics/load.md)"),
        ("contributing.md", "[d](docs/how-to/test.md)", "[d](how-to/test.md)"),
        ("index.md", "[r](../README.md)", "[r](index.md)"),
        ("index.md", "[p](https://example.org/x) [a](#here)", "[p](https://example.org/x) [a](#here)"),
    ],
    ids=["changelog", "same-folder", "role", "from-role", "from-root", "readme-is-home", "other-links-unchanged"],
)
def test_site_links_lead_to_the_pages_of_the_site(hooks: ModuleType, path: str, written: str, shown: str) -> None:
    assert hooks.on_page_markdown(written, page(path)) == shown


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        "<script src=//cdn.example.org/x.js></script>",
        '<link rel="stylesheet" href="https://fonts.example.org/x.css">',
        '<img alt="" src="http://example.org/x.png">',
    ],
    ids=["script", "script-without-scheme", "style-sheet", "picture"],
)
def test_site_rejects_pages_that_load_from_other_hosts(hooks: ModuleType, tag: str) -> None:
    with pytest.raises(PluginError, match=r"index\.md loads .* from another host"):
        hooks.on_post_page(f"<p>a</p>{tag}", page("index.md"))


def test_site_accepts_local_files_and_links_to_other_hosts(hooks: ModuleType) -> None:
    text = '<script src="x.js"></script><a href="https://example.org/">x</a>'
    assert hooks.on_post_page(text, page("index.md")) == text
