"""A package index on this machine, with tiny wheels that tests make."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import threading
import zipfile
from collections import defaultdict
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class WheelIndex:
    """Serves a directory as a package index (PEP 503). Use it as a context manager.

    Attributes:
        url: The address of the index.
        files: The directory with the files.
    """

    def __init__(self, directory: Path) -> None:
        self.files = directory / "files"
        self.files.mkdir(parents=True)
        self._root = directory
        self._names: dict[str, list[Path]] = defaultdict(list)
        handler = functools.partial(_Handler, directory=str(directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, version: str, needs: Sequence[str] = (), data: Mapping[str, str] | None = None) -> str:
        """Add a wheel with a module of the package's name. Return its SHA-256.

        Args:
            name: The package's name.
            version: The version.
            needs: The requirements.
            data: Further files with their contents, by their paths in an environment.
        """
        module = name.replace("-", "_")
        about = f"{module}-{version}"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
        metadata += [f"Requires-Dist: {each}\n" for each in needs]
        content = {
            f"{module}/__init__.py": f"__version__ = {version!r}\n",
            **{f"{about}.data/data/{path}": text for path, text in (data or {}).items()},
            f"{about}.dist-info/METADATA": "".join(metadata),
            f"{about}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = [f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in content.items()]
        content[f"{about}.dist-info/RECORD"] = "".join([*record, f"{about}.dist-info/RECORD,,\n"])
        return self._publish(name, f"{about}-py3-none-any.whl", content)

    def add_source(self, name: str, version: str) -> None:
        """Add a source distribution. It cannot be built."""
        self._publish(name, f"{name}-{version}.zip", {f"{name}-{version}/PKG-INFO": f"Name: {name}\n"})

    def _publish(self, name: str, file: str, content: Mapping[str, str]) -> str:
        path = self.files / file
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in content.items():
                archive.writestr(zipfile.ZipInfo(member), text)
        self._names[name].append(path)
        page = self._root / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        links = [
            f'<a href="/files/{each.name}#sha256={_hexdigest(each)}">{each.name}</a>' for each in self._names[name]
        ]
        page.write_text("<!DOCTYPE html>" + "".join(links))
        return _hexdigest(path)


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def _hexdigest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
