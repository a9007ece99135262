"""What settings in a home may change, and the place of a setting that stops the server. No server runs here."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from traitlets import TraitError
from traitlets.config import Config

from hpchub.remote import launcher, single_user

if TYPE_CHECKING:
    from pathlib import Path


def test_locked_settings_have_the_values_of_the_site() -> None:
    site = Config(
        {"ServerApp": {"allow_origin": "https://site.example"}, "KernelSpecManager": {"ensure_native": False}}
    )
    config = Config(
        {
            "ServerApp": {"allow_origin": "*", "port": 1, "root_dir": "/gone", "max_body_size": 5},
            "LabApp": {"ip": "*", "collaborative": True},
            "KernelSpecManager": {"ensure_native": True, "allowed_kernelspecs": ["mine"]},
            "AsyncKernelManager": {"transport": "ipc", "shutdown_wait_time": 5.0},
        }
    )
    changed = single_user.restrict(config, site)
    assert config == {
        "ServerApp": {"allow_origin": "https://site.example", "max_body_size": 5},
        "LabApp": {"collaborative": True},
        "KernelSpecManager": {"ensure_native": False},
        "AsyncKernelManager": {"shutdown_wait_time": 5.0},
    }
    assert changed["ServerApp.root_dir"] == "/gone is not a directory"
    assert changed["LabApp.ip"] == "the service decides it"


class InPlace:
    """A contents manager that writes in place and takes its time, as Jupyter's does on a slow file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _get_os_path(self, path: str) -> str:
        return str(self.root / path.strip("/"))

    async def get(self, path: str, content: bool = True) -> str:
        return (self.root / path.strip("/")).read_text() if content else ""

    async def save(self, model: dict[str, str], path: str = "") -> str:
        file = self.root / path.strip("/")
        for part in ("", model["content"][:1], model["content"]):
            file.write_text(part)
            await asyncio.sleep(0.02)
        return await self.get(path, content=False)


class Contents(single_user.OneAtATime, InPlace):
    """The manager under test."""

    hook = False

    async def save(self, model: dict[str, str], path: str = "") -> str:
        async with self._turn(path):
            if self.hook:
                await self.get(path)
            return str(await super().save(model, path))


def test_file_is_not_read_while_it_is_written(tmp_path: Path) -> None:
    async def scenario() -> tuple[set[str], str]:
        contents = Contents(tmp_path)
        await contents.save({"content": "old"}, "a.ipynb")
        save = asyncio.create_task(contents.save({"content": "new"}, "/a.ipynb"))
        seen = set()
        while not save.done():
            await asyncio.sleep(0)
            seen.add(await contents.get("a.ipynb"))
        return seen, await contents.get("a.ipynb")

    seen, last = asyncio.run(scenario())
    assert seen <= {"old", "new"}
    assert last == "new"


def test_hook_of_a_save_may_read_the_file(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    asyncio.run(contents.save({"content": "old"}, "a.ipynb"))
    contents.hook = True
    asyncio.run(asyncio.wait_for(contents.save({"content": "new"}, "a.ipynb"), timeout=5))
    assert not contents._owners
    assert not contents._locks


def test_file_that_another_session_writes_is_read_afterwards(tmp_path: Path) -> None:
    file, copy_of_file = tmp_path / "a.ipynb", tmp_path / ".~a.ipynb"

    async def write() -> None:
        await asyncio.sleep(0.3)
        file.write_text("new")
        copy_of_file.unlink()

    async def scenario() -> str:
        writer = asyncio.create_task(write())
        answer: str = await Contents(tmp_path).get("a.ipynb")
        await writer
        return answer

    file.write_text("")
    copy_of_file.write_text("old")
    assert asyncio.run(scenario()) == "new"


def test_copy_that_a_crash_has_left_behind_delays_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.ipynb").write_text("half")
    (tmp_path / ".~a.ipynb").write_text("old")
    os.utime(tmp_path / "a.ipynb", (0, 0))
    before = time.monotonic()
    assert asyncio.run(Contents(tmp_path).get("a.ipynb")) == "half"
    assert time.monotonic() - before < 1


def test_settings_of_the_site_are_no_change() -> None:
    site = Config({"ServerApp": {"allow_origin": "https://site.example"}})
    assert single_user.restrict(Config(site), site) == {}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param("ServerApp.port", 3, id="section"),
        pytest.param("ServerApp.ip", 4, id="section-that-jupyter-moves"),
        pytest.param("Session.keyfile", 5, id="other-class"),
        pytest.param("ServerApp.keyfile", None, id="same-name-in-another-class"),
        pytest.param("keyfile", 5, id="name-only"),
        pytest.param("ServerApp.base_url", None, id="comment"),
    ],
)
def test_setting_is_found_with_its_line(tmp_path: Path, name: str, line: int | None) -> None:
    file = tmp_path / "jupyter_server_config.py"
    file.write_text("# c.ServerApp.base_url = 1\n\nc.ServerApp.port = 1\nc.NotebookApp.ip = 1\nc.Session.keyfile = 1\n")
    expected = f"{file}, line {line}" if line else ""
    assert single_user.find_setting([tmp_path / "gone.py", file], name) == expected


def test_setting_in_json_is_found_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "jupyter_server_config.json"
    file.write_text('{"ServerApp": {\n  "port": 1}}')
    assert single_user.find_setting([file], "ServerApp.port") == f"{file}, line 2"


def test_value_in_a_message_leads_to_its_line(tmp_path: Path) -> None:
    file = tmp_path / "jupyter_server_config.py"
    file.write_text("\nx = '/gone/dir'\n")
    error = TraitError("No such directory: '/gone/dir'")
    assert single_user.explain(error, [file])[0] == f"{file}, line 2: TraitError: No such directory: '/gone/dir'"


def test_exit_code_shows_the_error_that_led_to_it(tmp_path: Path) -> None:
    exit_error = SystemExit(1)
    exit_error.__context__ = ValueError("bad\n  value")
    assert single_user.explain(exit_error, []) == ("ValueError: bad value", "", {})
    assert single_user.explain(None, []) == ("the notebook server has ended", "ended", {})


def test_code_in_settings_that_does_not_end_is_found_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jupyter_server_config.py"
    file.write_text("\nstarted.set()\nended.wait()\n")
    started, ended = threading.Event(), threading.Event()
    code = compile(file.read_text(), str(file), "exec")
    thread = threading.Thread(target=exec, args=(code, {"started": started, "ended": ended}))
    thread.start()
    started.wait(5)
    reasons: list[launcher.LaunchError] = []
    secrets = {"JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api"}
    launch = launcher.Launch("0" * 16, secrets)
    launch.files = [file]
    monkeypatch.setattr(launch, "_give_up", reasons.append)
    monkeypatch.setattr(threading, "main_thread", lambda: thread)
    launch._check_stuck(launcher.STUCK - 1, single_user)
    assert reasons == []
    launch._check_stuck(launcher.STUCK + 1, single_user)
    ended.set()
    thread.join()
    assert list(map(str, reasons)) == [f"{file}, line 3: this code does not come to an end"]
    assert reasons[0].message == {"id": "endless", "values": {"place": f"{file}, line 3"}}
