"""What is generated is current, and nothing in the repository knows the machine that it was written on."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_generated_is_current():
    done = subprocess.run(
        [sys.executable, "tests/repo/generate_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run tests/repo/generate_docs.py:\n{done.stdout}{done.stderr}"


def committed():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts():
    for path in committed():
        if path.is_symlink():
            continue
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            yield path.relative_to(ROOT), content.decode("utf-8", "replace")


def test_no_file_names_a_place_of_this_machine():
    places = [str(ROOT), str(Path.home() / ".cache")]
    found = [f"{path}: {place}" for path, text in texts() for place in places if place in text]
    assert found == []


def test_no_file_has_what_a_merge_or_an_editor_left():
    for path, text in texts():
        assert not re.search(r"^(?:<{7}|>{7}) ", text, re.MULTILINE), path
        assert "\r\n" not in text, path
        assert not text or text.endswith("\n"), f"{path}: no line break at its end"


def test_links_between_documents_lead_somewhere():
    for path, text in texts():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            assert ((ROOT / path).parent / target).exists(), f"{path}: {target}"
