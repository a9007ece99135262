"""Read and write the files of drains and announcements on the hub host; see ``hpchub.model.notices``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hpchub.model.notices import NoticesError, NoticesFile, parse_notices

INVENTORY = "/etc/hpchub/notices.json"
"""The drains and announcements of the inventory. The role ``spawner_profiles`` writes this file."""
BY_HAND = "/etc/hpchub/notices-by-hand.json"
"""What administrators have set or ended on the hub host. Only the commands of hpchub write this file."""


def load_notices(path: str | Path) -> NoticesFile:
    """Read a file. A file that does not exist contains nothing.

    Raises:
        NoticesError: The file cannot be read, or is not a file of drains and announcements of this version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return NoticesFile()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise NoticesError(f"{path}: {reason}") from None
    return parse_notices(text, str(path))


def save_notices(path: str | Path, content: NoticesFile) -> None:
    """Replace a file, so that readers never see an incomplete one. Everybody may read it.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content.to_json())
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
