"""Directories outside the home that a session offers: the entries, and what a session gets of them. No I/O."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import model_validator

from hpchub.model import fields as f
from hpchub.model.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

DIRECTORIES = "directories"
"""The name of the file with a session's directories, among the files of its secrets."""
GROUP = "{group}"


class Directory(Entry):
    """A directory of the nodes that JupyterLab's launcher offers, such as the scratch directory of the user."""

    title: f.DirectoryTitle
    """The text of the tile. It is also the name of the link in the file browser."""
    path: f.DirectoryPath
    """The directory. ``{user}`` stands for the account's name, ``{home}`` for its home, and ``{group}`` for each of its
    Unix groups on the node, which then gets a tile if its directory exists. ``{group}`` in the title is replaced too;
    without it, the name of the group follows the title."""

    @model_validator(mode="after")
    def _check_group(self) -> Directory:
        if GROUP in self.title and GROUP not in self.path:
            f.complain(f"has {GROUP} in its title, but not in its path", f"remove {GROUP} from the title")
        return self


def unique_titles(directories: list[Directory]) -> list[Directory]:
    """Reject a title that occurs twice, because the links of a session have the titles as names."""
    titles = [each.title for each in directories]
    if twice := [title for title in titles if titles.count(title) > 1]:
        f.complain(f"contains the title {twice[0]} twice", "give each directory a title of its own")
    return directories


def directories_file(place: str, directories: Iterable[Directory]) -> dict[str, str]:
    """Return the file with the directories of a new session, or nothing if there are none.

    Args:
        place: The cluster or place of the session. Homes may be shared between several of them.
        directories: Its directories.
    """
    found = [each.model_dump() for each in directories]
    return {DIRECTORIES: json.dumps({"place": place, "directories": found})} if found else {}
