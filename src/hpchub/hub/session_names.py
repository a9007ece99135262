"""The names of sessions, which users choose, and the parts of addresses that come from them. No I/O.

A user writes any short text. The address of the session, ``/user/NAME/PART/``, contains a part that is made from it,
and JupyterHub calls this part the name of the server. The session without a name has the address ``/user/NAME/``, so
a part must not be the first part of a path of a notebook server, such as ``lab``.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from jupyterhub.slugs import is_valid_display_name, is_valid_safe_slug, safe_slug

from hpchub.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 60
"""The maximum length of a name, in characters."""
KEPT = 20
"""How many names the hub keeps for each user. It then forgets the one that was not used for the longest time."""
RESERVED = frozenset(
    {
        # the notebook server and JupyterHub's part of it
        *("api", "custom", "edit", "files", "hub", "kernels", "kernelspecs", "login", "logout", "metrics"),
        *("nbconvert", "nbextensions", "notebooks", "services", "static", "terminals", "tree", "user", "view"),
        # the interfaces and their usual extensions
        *("code-server", "codeserver", "config", "consoles", "dask", "desktop", "doc", "git", "gitlab", "lab", "lsp"),
        *("matlab", "mlflow", "nbclassic", "nbdime", "octave", "openrefine", "panel", "proxy", "retro", "rstudio"),
        *("shiny", "streamlit", "tensorboard", "theia", "vnc", "voila", "vscode"),
    }
)
"""The parts that a name must not become: the first parts of the paths of notebook servers."""


class NameProblem(ValueError):
    """A name is not valid. The message is for the user."""


def clean(text: str) -> str:
    """Return a name as pages show it, with single spaces.

    Raises:
        NameProblem: The name is empty, too long, or contains characters that cannot be shown.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name:
        raise NameProblem(Message("Write a name for the session, for example 'Analysis 2'."))
    if len(name) > LONGEST:
        raise NameProblem(
            Message("The name has {name} characters. A name has at most {longest}.", name=len(name), longest=LONGEST)
        )
    if not is_valid_display_name(name):
        raise NameProblem(
            Message("The name contains a character that cannot be shown. Use letters, digits, spaces and punctuation.")
        )
    return name


def server_name(name: str) -> str:
    """Return the part of the address for a name that is clean.

    Names that differ only in case or punctuation have the same part. A name in another script gets a part with a hash.
    """
    key = unicodedata.normalize("NFKC", name).casefold()
    letters = [each for each in key if each.isalnum()]
    plain = bool(letters) and all(each.isascii() for each in letters)
    return str(safe_slug(key, avoid_collisions=not plain))


def check_server_name(part: object) -> str:
    """Return the part of an address if it can be the name of a server.

    Raises:
        NameProblem: It cannot.
    """
    if not isinstance(part, str) or not is_valid_safe_slug(part):
        raise NameProblem(
            Message(
                "{part!r} cannot be a part of a session's address. Use 1 to 30 lower-case letters, "
                "digits and single hyphens. Begin with a letter, and end with a letter or a digit.",
                part=str(part)[:40],
            )
        )
    if part in RESERVED:
        raise NameProblem(
            Message(
                "{part!r} is already a part of the addresses in a session. Choose another name, for "
                "example '{part}-2'.",
                part=part,
            )
        )
    return part


def new_server_name(text: str, taken: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the part of the address and the name for a new session.

    Args:
        text: What the user has written.
        taken: The parts and the names that the user's sessions have.

    Raises:
        NameProblem: The name is not valid, or too similar to another one.
    """
    name = clean(text)
    part = check_server_name(server_name(name))
    other = dict(taken).get(part)
    if other is not None and other != name:
        raise NameProblem(
            Message(
                "You have a session with the similar name '{other}'. Choose a name that differs in "
                "more than case and punctuation.",
                other=other,
            )
        )
    return part, name


def free_server_name(taken: Iterable[str]) -> tuple[str, str]:
    """Return the part of the address and the name of a session that the user has not named.

    Args:
        taken: The parts that are in use. The empty one stands for the session without a name.
    """
    used = set(taken)
    if "" not in used:
        return "", ""
    number = next(number for number in range(2, len(used) + 3) if f"session-{number}" not in used)
    return f"session-{number}", Message("Session {number}", number=number)
