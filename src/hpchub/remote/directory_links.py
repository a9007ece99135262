"""The directories that a session offers beside the home: JupyterLab's launcher asks for them, and opens them.

The file browser shows only what is below the root of the session, which is usually the home. A directory elsewhere gets
a symbolic link there when its user opens it: ``hpchub-links/CLUSTER/TITLE``. A link grants nothing: the session runs as
its user, and the node checks the permissions.

The role ``notebook_environment`` installs this file beside the single-user server, which imports it. Only ``install``
needs the packages of the environment; the rest uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import re
import secrets
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATH = "api/hpchub/directories"
"""The path of the directories below the server's address. ``GET`` lists them, and ``POST`` opens one."""
LINKS = "hpchub-links"
"""The directory of the links, below the root of the session. Every symbolic link in it is ours."""
TIMEOUT = 3.0  # seconds; a file server may not answer
MOST_GROUPS = 50
NAME = re.compile(r"(?!\.)[^/\0]{1,255}")
# Why a directory cannot be opened. The browser has the words.
ABSENT, FORBIDDEN, SILENT, NO_DIRECTORY, OUTSIDE, BLOCKED = (
    "absent",
    "forbidden",
    "silent",
    "file",
    "outside",
    "blocked",
)


class Unusable(Exception):
    """A directory cannot be opened. The text is one of the reasons above."""


def expand(directories: Iterable[dict[str, str]], user: str, home: str, groups: Iterable[str]) -> dict[str, Path]:
    """Return the paths of the directories by their titles. A name that could lead elsewhere is left out.

    Args:
        directories: The entries of the inventory, ``{"title", "path"}``.
        user: The account's name.
        home: Its home.
        groups: Its Unix groups.
    """
    found: dict[str, Path] = {}
    safe = [group for group in groups if NAME.fullmatch(group)][:MOST_GROUPS]
    for each in directories:
        for group in safe if "{group}" in each["path"] else [""]:
            values = {"user": user, "group": group}
            title = fill(each["title"], values)
            if group and "{group}" not in each["title"]:
                title += f" {group}"
            path = Path(fill(re.sub(r"^(~|\{home\})(?=/|$)", lambda _: home, each["path"]), values))
            usable = NAME.fullmatch(user) or "{user}" not in each["path"]
            if usable and path.is_absolute() and ".." not in path.parts and NAME.fullmatch(title):
                found.setdefault(title, path)
    return found


def fill(text: str, values: dict[str, str]) -> str:
    """Replace the placeholders of a text, in one pass: a name that looks like a placeholder stays a name."""
    return re.sub(r"\{(user|group)\}", lambda found: values[found[1]], text)


def problem(path: Path) -> str:
    """Return why the user cannot open a directory, or an empty text. It may wait for a file server."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return NO_DIRECTORY
    except PermissionError:
        return FORBIDDEN
    except (OSError, ValueError):
        return ABSENT
    return "" if os.access(path, os.R_OK | os.X_OK) else FORBIDDEN


def below(path: Path, root: Path) -> str | None:
    """Return the path of a directory below the root, or None if the file browser cannot show it there.

    The file browser shows nothing whose name begins with a dot.
    """
    for found, top in ((path, root), (Path(os.path.realpath(path)), Path(os.path.realpath(root)))):
        if top in (found, *found.parents):
            parts = found.relative_to(top).parts
            if not any(part.startswith(".") for part in parts):
                return "/".join(parts)
    return None


def own_directory(path: Path) -> bool:
    """Return whether a path is a directory of this account, and no link."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def link(title: str, path: Path, root: Path, place: str) -> str:
    """Create the link to a directory, and return its path below the root.

    Raises:
        Unusable: The root belongs to somebody else, whose links would be in the same place, or the user's own file has
            the name of the link.
    """
    try:
        if not own_directory(root):
            raise Unusable(OUTSIDE)
        shelf = root
        for name in (LINKS, place):
            shelf /= name
            with contextlib.suppress(FileExistsError):
                shelf.mkdir(mode=0o700)
            if not own_directory(shelf):
                raise Unusable(BLOCKED)
        made = shelf / title
        if made.is_symlink():
            if os.readlink(made) != str(path):  # noqa: PTH115 Python 3.9
                new = shelf / f".{secrets.token_hex(8)}"
                new.symlink_to(path)
                new.replace(made)
        else:
            made.symlink_to(path)
    except FileExistsError:
        raise Unusable(BLOCKED) from None
    except OSError:
        raise Unusable(OUTSIDE) from None
    return f"{LINKS}/{place}/{title}"


def reach(title: str, path: Path, root: Path, place: str) -> str:
    """Return the path of a directory below the root. Create a link if it needs one.

    Raises:
        Unusable: No link is possible.
    """
    found = below(path, root)
    return link(title, path, root, place) if found is None else found


def remove_old_links(root: Path, place: str, titles: Iterable[str]) -> None:
    """Remove the links that the inventory no longer contains, and the directories that are then empty.

    Args:
        root: The root of the session.
        place: The cluster or place of the session.
        titles: The titles that remain.
    """
    shelf = root / LINKS / place
    with contextlib.suppress(OSError):
        if own_directory(shelf.parent) and own_directory(shelf):
            for each in shelf.iterdir():
                if each.is_symlink() and each.name not in titles:
                    each.unlink()
            shelf.rmdir()
            shelf.parent.rmdir()


def in_thread(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Return the result of a function that may hang. The end of the process does not wait for its thread."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            finish, value = result.set_result, function()
        except Exception as error:  # noqa: BLE001 the caller gets it
            finish, value = result.set_exception, error
        with contextlib.suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(finish, value)

    threading.Thread(target=run, daemon=True).start()
    return result


class Directories:
    """The directories of one session.

    Args:
        root: The root of the session.
        place: The cluster or place.
        entries: The entries of the inventory, ``[{"title", "path"}]``.
        user: The account's name.
        home: Its home.
    """

    def __init__(self, root: Path, place: str, entries: list[dict[str, str]], user: str, home: str) -> None:
        self.root, self.place = root, place
        self._entries, self._user, self._home = entries, user, home
        self._asked: dict[str, asyncio.Future[Any]] = {}

    def expanded(self, groups: Iterable[str]) -> dict[str, Path]:
        """Return the paths by their titles."""
        return expand(self._entries, self._user, self._home, groups)

    async def paths(self) -> dict[str, Path]:
        """Return the paths by their titles. Without the user's groups, those of groups are left out."""
        wanted = any("{group}" in each["path"] for each in self._entries)
        return self.expanded(await self._once("groups", group_names, []) if wanted else [])

    async def listing(self) -> list[dict[str, str]]:
        """Return the tiles: ``[{"title", "path", "reason"}]``. A group's directory has none if it cannot be opened."""
        paths = await self.paths()
        tiles = await asyncio.gather(*(self._tile(title, path) for title, path in paths.items()))
        always = self.expanded([])
        return [tile for tile in tiles if tile["title"] in always or not tile["reason"]]

    async def _tile(self, title: str, path: Path) -> dict[str, str]:
        return {"title": title, "path": str(path), "reason": await self._problem(path)}

    async def open(self, title: str) -> str:
        """Return the path of a directory below the root, for the file browser.

        Raises:
            Unusable: It cannot be opened.
        """
        path = (await self.paths()).get(title)
        if path is None:
            raise Unusable(ABSENT)
        if reason := await self._problem(path):
            raise Unusable(reason)
        found = await self._once(f"open {title}", lambda: reach(title, path, self.root, self.place), None)
        if found is None:
            raise Unusable(SILENT)
        return str(found)

    async def _problem(self, path: Path) -> str:
        return str(await self._once(str(path), lambda: problem(path), SILENT))

    async def _once(self, key: str, function: Callable[[], Any], late: Any) -> Any:
        """Return the result of a function that may hang, or ``late``. A function that hangs is not called again."""
        if key not in self._asked:
            self._asked[key] = in_thread(function)
            self._asked[key].add_done_callback(lambda _: self._asked.pop(key))
        done, _ = await asyncio.wait({self._asked[key]}, timeout=TIMEOUT)
        return next(iter(done)).result() if done else late


def group_names() -> list[str]:
    """Return the Unix groups of this process. It may wait for a directory of accounts."""
    found = set()
    for number in {os.getgid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            found.add(grp.getgrgid(number).gr_name)
    return sorted(found)


def files_handler() -> type:
    """Return the handler of downloads, which follows the links of a home as the file browser does.

    Links often lead to other file systems, such as ``~/scratch``. Tornado 6.5.9 and later refuse such files. Jupyter
    compares the path that a link leads to with the root, and fails.
    """
    from jupyter_core.paths import is_hidden  # noqa: PLC0415
    from jupyter_server.base.handlers import AuthenticatedFileHandler  # noqa: PLC0415
    from tornado import web  # noqa: PLC0415

    class FilesHandler(AuthenticatedFileHandler):  # type: ignore[misc]
        """Files for downloads and for the pages of notebooks."""

        allowed_symlink_directory = "/"

        def initialize(self, path: str, default_filename: str | None = None) -> None:
            """Take the root of the session."""
            self.root, self.default_filename = path, default_filename

        def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
            """Refuse hidden files, by the path of the request."""
            found: str | None = web.StaticFileHandler.validate_absolute_path(self, root, absolute_path)
            if not self.contents_manager.allow_hidden and is_hidden(absolute_path, os.path.abspath(root)):  # noqa: PTH100
                raise web.HTTPError(404)
            return found

    return FilesHandler


def install(server: Any, definitions: Path) -> None:
    """Connect the directories to a notebook server that does not listen yet.

    Args:
        server: Jupyter's ``ServerApp``.
        definitions: The file with the directories; see ``hpchub.model.directories``. It need not exist.
    """
    from jupyter_server.base.handlers import APIHandler  # noqa: PLC0415
    from jupyter_server.utils import url_path_join  # noqa: PLC0415
    from tornado import web  # noqa: PLC0415

    content: dict[str, Any] = {"place": "", "directories": []}
    with contextlib.suppress(FileNotFoundError):
        content = json.loads(definitions.read_text(encoding="utf-8"))
    root = Path(getattr(server.contents_manager, "root_dir", "") or server.root_dir)
    user, home = os.environ["JUPYTERHUB_USER"], os.environ.get("HOME", "/")
    directories = Directories(root, content["place"], content["directories"], user, home)

    class DirectoriesHandler(APIHandler):  # type: ignore[misc]
        """The session's directories for JupyterLab's launcher."""

        auth_resource = "contents"
        _track_activity = False

        @web.authenticated
        async def get(self) -> None:
            """Answer with the tiles."""
            self.set_header("Cache-Control", "no-store")
            self.finish({"directories": await directories.listing()})

        @web.authenticated
        async def post(self) -> None:
            """Answer with the path of a directory for the file browser, or with the reason why it has none."""
            title = (self.get_json_body() or {}).get("title")
            try:
                self.finish({"path": await directories.open(str(title)), "reason": ""})
            except Unusable as error:
                self.finish({"path": "", "reason": str(error)})

    def tidy() -> None:
        remove_old_links(root, content["place"], directories.expanded(group_names()))

    server.web_app.add_handlers(".*$", [(url_path_join(server.web_app.settings["base_url"], PATH), DirectoriesHandler)])
    if content["place"]:
        threading.Thread(target=tidy, daemon=True).start()
