"""What the launcher of a job tells the user, as a message that pages can translate. No I/O.

The launcher runs on the nodes and has no catalogue of texts, so that it sends English text.
"""

from __future__ import annotations

from hpchub.messages import Message, marked

WITHOUT_SETTINGS = marked(
    "Your session runs without your own settings, because one of them stops the notebook server: {problem}"
)
"""The only notice of the launcher; see ``hpchub.remote.launcher``."""


def notice_of(text: str) -> str:
    """Return a notice of the launcher as a message if it is a known one, or else the text as it is."""
    beginning = WITHOUT_SETTINGS.removesuffix("{problem}")
    if text.startswith(beginning):
        return Message(WITHOUT_SETTINGS, problem=text.removeprefix(beginning))
    return text
