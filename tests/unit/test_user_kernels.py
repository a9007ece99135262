"""The kernels of users in the real single-user server: those that cannot start are shown with the reason."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from hpchub.remote import user_kernels
from hpchub.remote.user_kernels import BrokenKernel, Reasons

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from notebook_server import Session

KERNELS = ".local/share/jupyter/kernels"
GONE = {"argv": ["/gone/bin/python", "-m", "ipykernel_launcher"], "display_name": "Geo", "language": "python"}


def start(session: Session, kernel: str) -> tuple[int, Any]:
    """Ask the server to start a kernel, as JupyterLab does for a notebook."""
    body = {"path": f"{kernel}.ipynb", "name": "", "type": "notebook", "kernel": {"name": kernel}}
    return session.request("api/sessions", "POST", body)


def test_session_shows_broken_kernels_with_the_reason_and_does_not_start_them(session: Session) -> None:
    session.write(f"{KERNELS}/geo/kernel.json", json.dumps(GONE))
    session.write(f"{KERNELS}/geo/logo-64x64.png", "")
    session.write(f"{KERNELS}/half/kernel.json", "{")
    # The site's kernel of this name is used, so this one does not matter.
    session.write(f"{KERNELS}/python3/kernel.json", "{")
    session.start()
    session.wait_for_report()
    status, answer = session.request("api/kernelspecs")
    assert status == 200, session.log
    node = os.uname().nodename
    names = {name: each["spec"]["display_name"] for name, each in answer["kernelspecs"].items()}
    assert names["geo"] == f"Geo (does not work: /gone/bin/python does not exist on {node})"
    assert names["half"] == "half (does not work: kernel.json is not JSON)"
    assert "does not work" not in names["python3"]
    assert len(names) == 3

    status, answer = start(session, "geo")
    assert status == 500
    reason = f"/gone/bin/python does not exist on {node}"
    assert answer["message"] == f"Geo does not work: {reason}. More: hpchub-kernel check geo"
    # A notebook that changes its kernel gets the reason too, and keeps its old kernel.
    status, answer = start(session, "python3")
    assert status == 201, session.log
    status, changed = session.request(f"api/sessions/{answer['id']}", "PATCH", {"kernel": {"name": "half"}})
    assert status == 501
    assert "does not work: kernel.json is not JSON" in changed["message"]
    assert [each["kernel"]["name"] for each in session.request("api/sessions")[1]] == ["python3"]
    assert [each["name"] for each in session.request("api/kernels")[1]] == ["python3"]
    assert session.request("kernelspecs/geo/logo-64x64.png")[0] == 404

    # The kernel works again as soon as its interpreter is there.
    site = session.kernels
    assert site is not None
    spec = json.loads((site / "kernels" / "python3" / "kernel.json").read_text())
    session.write(f"{KERNELS}/geo/kernel.json", json.dumps({**spec, "display_name": "Geo"}))
    assert session.request("api/kernelspecs")[1]["kernelspecs"]["geo"]["spec"]["display_name"] == "Geo"
    assert start(session, "geo")[0] == 201, session.log


class Stock:
    """A stand-in for Jupyter's manager."""

    log: Any = None

    def __init__(self, found: dict[str, str], read: Callable[[str], Any]) -> None:
        self.found = found
        self.read = read

    def find_kernel_specs(self) -> dict[str, str]:
        return self.found

    def get_kernel_spec(self, kernel_name: str) -> Any:
        return self.read(kernel_name)


class Manager(Reasons, Stock):
    """The manager under test."""


class Spec:
    """A kernel's spec."""

    def to_dict(self) -> dict[str, Any]:
        return {"display_name": "fine"}


def write(directory: Path, content: dict[str, Any]) -> str:
    directory.mkdir()
    (directory / "kernel.json").write_text(json.dumps(content))
    return str(directory)


def test_kernels_of_others_are_left_to_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Manager({"geo": write(tmp_path / "geo", GONE)}, lambda _name: Spec())
    with pytest.raises(BrokenKernel, match="does not work"):
        manager.get_kernel_spec("geo")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert isinstance(manager.get_kernel_spec("geo"), Spec)
    assert asyncio.run(manager.get_all_specs())["geo"]["spec"] == {"display_name": "fine"}


def test_slow_files_neither_block_the_server_nor_break_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager({"geo": write(tmp_path / "geo", GONE)}, lambda _name: Spec())
    monkeypatch.setattr(user_kernels, "LIST_TIMEOUT", 0.2)
    monkeypatch.setattr(user_kernels, "START_TIMEOUT", 0.2)
    known = asyncio.run(manager.get_all_specs())
    state = user_kernels.state
    calls = []

    def slow(*arguments: Any) -> Any:
        calls.append(arguments)
        time.sleep(1)
        return state(*arguments)

    monkeypatch.setattr(user_kernels, "state", slow)

    async def scenario() -> None:
        ticks = 0
        for _ in range(2):
            request = asyncio.create_task(manager.get_all_specs())
            while not request.done():
                await asyncio.sleep(0.02)
                ticks += 1
            assert request.result() == known
        assert ticks > 5
        assert len(calls) == 1  # requests that wait for the same files do not add up

    asyncio.run(scenario())
    began = time.monotonic()
    assert isinstance(manager.get_kernel_spec("geo"), Spec)  # the start shows what happens
    assert time.monotonic() - began < 0.9

    async def first() -> None:
        with pytest.raises(TimeoutError, match="do not answer"):
            await Manager({"geo": str(tmp_path / "geo")}, lambda _name: Spec()).get_all_specs()

    asyncio.run(first())


def test_file_that_is_no_file_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "geo").mkdir()
    os.mkfifo(tmp_path / "geo" / "kernel.json")
    assert user_kernels.state("geo", tmp_path / "geo")[1] == "kernel.json is not a file"
