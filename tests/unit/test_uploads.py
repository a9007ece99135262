"""Large uploads and downloads: in the notebook server, and through Apache and the proxy without growing memory."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from apache_server import needs_apache
from chain import Chain, Sampler, answer_of
from notebook_server import PREFIX

from hpchub.remote.uploads import LAST, SUFFIX, part_of

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_server import Session

MIB = 1024 * 1024
SLOW = os.environ.get("HPCHUB_SLOW") == "1"
SIZE = int(os.environ.get("HPCHUB_UPLOAD_MIB") or (2048 if SLOW else 48))
"""The size of the large file, in MiB."""
GROWTH = 64
"""How much the memory of each part may grow, in MiB."""


def chunk(number: int, content: bytes) -> dict[str, Any]:
    """Return a part of an upload, as JupyterLab sends it."""
    text = base64.b64encode(content).decode()
    return {"type": "file", "format": "base64", "chunk": number, "name": "data.bin", "content": text}


def put(session: Session, number: int, content: bytes, path: str = "data.bin") -> int:
    return session.request(f"api/contents/{path}", "PUT", chunk(number, content))[0]


@pytest.fixture
def running(session: Session) -> Session:
    """A session that runs."""
    session.start().wait_for_report()
    return session


def test_file_appears_when_its_upload_is_complete(running: Session) -> None:
    file, part = running.home / "data.bin", running.home / f"data.bin{SUFFIX}"
    assert put(running, 1, b"one ") == 201
    assert put(running, 2, b"two ") == 201
    assert (file.exists(), part.read_bytes()) == (False, b"one two ")
    assert put(running, LAST, b"three") == 201
    assert (file.read_bytes(), part.exists()) == (b"one two three", False)
    assert running.request("api/contents/data.bin?content=0")[1]["size"] == 13


def test_interrupted_upload_keeps_the_old_file_and_can_be_repeated(running: Session) -> None:
    file, part = running.home / "data.bin", running.home / f"data.bin{SUFFIX}"
    file.write_bytes(b"old")
    file.chmod(0o640)
    assert put(running, 1, b"half a ") == 200
    assert (file.read_bytes(), part.read_bytes()) == (b"old", b"half a ")
    # The tab was closed. Its user uploads the file again.
    assert put(running, 1, b"whole ") == 200
    assert put(running, LAST, b"file") == 200
    assert (file.read_bytes(), part.exists()) == (b"whole file", False)
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [2, LAST], ids=["middle", "end"])
def test_part_without_a_beginning_is_refused(running: Session, number: int) -> None:
    """For example, the session has ended, and a new one runs."""
    (running.home / "data.bin").write_bytes(b"old")
    status, answer = running.request("api/contents/data.bin", "PUT", chunk(number, b"rest"))
    assert status == 409
    assert "Upload the file again" in answer["message"]
    assert (running.home / "data.bin").read_bytes() == b"old"


def test_two_tabs_with_the_same_file_do_not_mix_it(running: Session) -> None:
    """The tab that began later wins."""
    assert [put(running, number, b"a") for number in (1, 2, 3)] == [201] * 3
    assert put(running, 1, b"b") == 201
    assert put(running, 4, b"a") == 409
    assert put(running, LAST, b"b") == 201
    assert (running.home / "data.bin").read_bytes() == b"bb"


def test_directory_and_protected_file_are_refused_at_once(running: Session) -> None:
    (running.home / "data.bin").mkdir()
    assert put(running, 1, b"a") == 403
    (running.home / "safe.bin").write_bytes(b"old")
    (running.home / "safe.bin").chmod(0o400)
    assert put(running, 1, b"a", "safe.bin") == 403
    assert (running.home / "safe.bin").read_bytes() == b"old"


def test_link_stays_a_link(running: Session, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    (running.home / "data.bin").symlink_to(target)
    assert [put(running, number, b"ab") for number in (1, 2, LAST)] == [200] * 3
    assert (running.home / "data.bin").is_symlink()
    assert target.read_bytes() == b"ababab"


def test_full_disk_is_freed(session: Session, tmp_path: Path) -> None:
    """The user gets the space of the part back."""
    full = session.home / "full"
    full.mkdir()
    session.start(before=f"mount -t tmpfs -o size=3m tmpfs {full}").wait_for_report()
    statuses = [put(session, number, os.urandom(MIB), "full/data.bin") for number in range(1, 6)]
    assert statuses[:2] == [201, 201]
    assert 500 in statuses
    left = session.execute("import os; print(sum(e.stat().st_size for e in os.scandir('full')))")
    assert int(left) == 0


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("a", f"a{SUFFIX}"),
        ("x/y z.csv", f"x/y z.csv{SUFFIX}"),
        ("ü" * 127, "ü" * 118 + SUFFIX),
    ],
    ids=["short", "directory", "long"],
)
def test_name_of_a_part(path: str, part: str) -> None:
    assert part_of(path) == part
    assert len(part_of(path).encode()) <= 255


# -- the whole chain


@needs_apache("proxy", "proxy_http")
def test_memory_does_not_grow_with_a_file(session: Session) -> None:
    """Upload a file as JupyterLab does, download it, and download it with a client that stops reading.

    With ``HPCHUB_SLOW=1``, the file has 2 GiB. The test prints the table of docs/topics/load.md.
    """
    session.start().wait_for_report()
    with Chain(session) as chain:
        connection = chain.connect()
        send(chain, connection, "warm.bin", 16)
        rows = [measure(chain, "upload", lambda: send(chain, connection, "big.bin", SIZE))]
        assert (session.home / "big.bin").stat().st_size == SIZE * MIB
        rows.append(measure(chain, "download", lambda: receive(chain, connection, SIZE * MIB)))
        stalled = chain.connect()
        rows.append(measure(chain, "stalled download", lambda: receive(chain, stalled, MIB, wait=3)))
        stalled.close()
        connection.close()
    for name, seconds, before, growth in rows:
        print(f"| {name} | {SIZE / seconds:.0f} MB/s | " + " | ".join(f"{before[p]} + {growth[p]}" for p in before))
        assert max(growth.values()) <= GROWTH, (name, before, growth)


def measure(chain: Chain, name: str, work: Any) -> tuple[str, float, dict[str, int], dict[str, int]]:
    """Return the name, the time, the memory of each part before, and its growth."""
    begin = time.monotonic()
    with Sampler(chain) as sampler:
        work()
    return name, time.monotonic() - begin, sampler.before, sampler.growth


def send(chain: Chain, connection: Any, name: str, size: int) -> None:
    """Upload a file in parts of 1 MiB."""
    content = os.urandom(MIB)
    bodies = {number: json.dumps(chunk(number, content)) for number in (1, 2, LAST)}
    headers = {**chain.headers, "Content-Type": "application/json"}
    for number in range(1, size + 1):
        body = bodies[1 if number == 1 else LAST if number == size else 2]
        body = body if number in (1, 2, size) else body.replace('"chunk": 2', f'"chunk": {number}', 1)
        connection.request("PUT", f"{PREFIX}api/contents/{name}", body, headers)
        status, answer = answer_of(connection)
        assert status in (200, 201), answer


def receive(chain: Chain, connection: Any, size: int, wait: float = 0) -> None:
    """Download a part of the file."""
    connection.request("GET", f"{PREFIX}files/big.bin", headers=chain.headers)
    answer = connection.getresponse()
    assert answer.status == 200
    left = size
    while left > 0 and (read := answer.read(min(MIB, left))):
        left -= len(read)
    assert left == 0
    time.sleep(wait)
    answer.close()
