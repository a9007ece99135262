"""Large uploads: a file appears under its name only when it is complete.

JupyterLab and NbClassic upload a large file in parts of 1 MB, one request each. Jupyter's contents manager replaces the
file with the first part, and appends the others. An upload that breaks off thus leaves half a file under the name of a
whole one, and an older version is lost. Here, the parts go to another name, which says what the file is.

The role ``notebook_environment`` installs this file beside the single-user server, which imports it (Python 3.9 and
later).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

SUFFIX = ".incomplete-upload"
"""The end of the name of a file while its upload is not complete."""
LONGEST_NAME = 255  # bytes, on Linux
LAST = -1  # the number of the last part


class WholeUploads:
    """A mixin for Jupyter's asynchronous manager of large files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._received: dict[str, int] = {}  # the number of the last part of each upload

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        """Save a file, or a part of one, and return its model without the content.

        Raises:
            tornado.web.HTTPError: The part does not follow the last one (409), or the file cannot be written.
        """
        from tornado.web import HTTPError  # noqa: PLC0415 not on every host that reads this file

        path, number = path.strip("/"), model.get("chunk")
        file = Path(self._get_os_path(path))  # type: ignore[attr-defined]
        # Through a link, Jupyter writes to a file that may be in another file system.
        if number is None or os.path.islink(file):  # noqa: ASYNC240, PTH114 Jupyter does the same
            return await super().save(model, path)  # type: ignore[misc]
        part_path = part_of(path)
        part = Path(self._get_os_path(part_path))  # type: ignore[attr-defined]
        if number == 1:
            if problem := await asyncio.to_thread(begin, file, part):
                raise HTTPError(403, f"{path} {problem}")
        elif number not in (self._received.get(path, LAST) + 1, LAST) or path not in self._received:
            # The session is another one by now, or another tab uploads a file of this name.
            raise HTTPError(409, f"The upload of {file.name} was interrupted. Upload the file again.")
        try:
            saved = await super().save(model, part_path)  # type: ignore[misc]
        except BaseException:
            self._received.pop(path, None)
            await asyncio.to_thread(part.unlink, missing_ok=True)  # perhaps the disk is full
            raise
        if number != LAST:
            self._received[path] = number
            return saved
        del self._received[path]
        await asyncio.to_thread(put_in_place, part, file)
        return await self.get(path, content=False)  # type: ignore[attr-defined]


def begin(file: Path, part: Path) -> str:
    """Remove the rest of an older upload. Return why the file cannot be replaced, or an empty text."""
    if file.is_dir():
        return "is a directory"
    if file.exists() and not os.access(file, os.W_OK):
        return "is protected"
    part.unlink(missing_ok=True)
    return ""


def part_of(path: str) -> str:
    """Return the path of a file while its upload is not complete."""
    directory, slash, name = path.rpartition("/")
    short = name.encode()[: LONGEST_NAME - len(SUFFIX)].decode(errors="ignore")
    return f"{directory}{slash}{short}{SUFFIX}"


def put_in_place(part: Path, file: Path) -> None:
    """Give a complete file its name. It keeps the permissions of the file that it replaces."""
    if file.exists():
        shutil.copymode(file, part)
    part.replace(file)
