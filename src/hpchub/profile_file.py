"""Read the profile list from its file, which the role ``spawner_profiles`` writes on the hub host and on all nodes."""

from __future__ import annotations

from pathlib import Path

from hpchub.model.profile_list import ProfileList, ProfileListError, parse_profile_list


def load_profile_list(path: str | Path) -> ProfileList:
    """Read a profile list from its file.

    Raises:
        ProfileListError: The file does not exist, cannot be read, or is not a profile list of this version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ProfileListError(f"{path}: {reason}") from None
    return parse_profile_list(text, str(path))
