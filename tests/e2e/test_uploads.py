"""Large files in JupyterLab: users upload and download them, and no program on the way keeps them in its memory."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .lab import Lab
    from .pages import JupyterLab, Visitor

MIB = 1024 * 1024
SIZE = 2048 if os.environ.get("HPCHUB_SLOW") == "1" else 200
"""The size of the file, in MiB."""
GROWTH = 64
"""How much each program may grow, in MiB."""
NAME = "e2e-large.bin"


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[Path]:
    """A large file of the user's own computer."""
    path = tmp_path / NAME
    with path.open("wb") as file:
        for _ in range(SIZE):
            file.write(os.urandom(MIB))
    yield path
    path.unlink()


def memory(lab: Lab, node: str) -> dict[str, float]:
    """Return the private memory of the programs on the way, in MiB."""
    found = {}
    count = """for pid in $(pgrep -f "$0"); do grep RssAnon /proc/$pid/status; done 2>/dev/null |
        awk '{sum += $2} END {print sum + 0}'"""
    parts = (
        ("Apache", "hub", "^/usr/sbin/(apache2|httpd)"),
        ("proxy", "hub", "proxy[.]mjs"),
        ("server", node, "^[^ ]*python[^ ]* .*hpchub-launch [0-9a-f]{16}"),
    )
    for name, host, pattern in parts:
        found[name] = int(lab.run(host, ["sh", "-c", count, pattern]) or 0) / 1024
        assert found[name], f"no process of {name} on {host}"
    return found


def upload(lab: JupyterLab, path: Path) -> None:
    """Choose a file in the file browser, and answer JupyterLab's question about its size."""
    with lab.page.expect_file_chooser() as chooser:
        lab.page.locator('[title^="Upload"]:visible').first.click()
    chooser.value.set_files(str(path))
    accept = lab.page.locator(".jp-Dialog button.jp-mod-accept, .jp-Dialog button.jp-mod-warn").last
    accept.click()


def test_large_file_is_uploaded_and_downloaded_without_growing_memory(
    browser_page: Visitor, lab: Lab, large_file: Path
) -> None:
    """Half an upload has another name."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]
    lab.run(node, ["sh", "-c", f"rm -f /home/alice/{NAME}*"])
    before = memory(lab, node)
    most = dict(before)
    try:
        upload(found, large_file)
        seen: set[str] = set()
        end = time.monotonic() + SIZE
        while f"/home/alice/{NAME}" not in seen:
            assert time.monotonic() < end, "the upload does not end"
            seen |= {*lab.run(node, ["sh", "-c", f"ls /home/alice/{NAME}* 2>/dev/null || true"]).split()}
            most = {name: max(most[name], value) for name, value in memory(lab, node).items()}
        assert f"/home/alice/{NAME}.incomplete-upload" in seen
        expected = large_file.stat().st_size
        assert int(lab.run(node, ["stat", "-c", "%s", f"/home/alice/{NAME}"])) == expected
        with found.page.expect_download(timeout=SIZE * 1000) as download:
            found.page.evaluate(
                "url => Object.assign(document.createElement('a'), {href: url, download: ''}).click()",
                f"{found.base_url}/files/{NAME}?download=1&_xsrf="
                + found.page.evaluate("document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)?.[1] ?? ''"),
            )
        assert download.value.path().stat().st_size == expected
        most = {name: max(most[name], value) for name, value in memory(lab, node).items()}
    finally:
        lab.run(node, ["sh", "-c", f"rm -f /home/alice/{NAME}*"])
    grown = {name: round(most[name] - before[name]) for name in before}
    assert max(grown.values()) <= GROWTH, grown
