"""The manifest of a bundle: its files with their hashes, and what the bundle was made for. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hpchub.messages import listing, show

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 2
"""The version of the format. Increase it when older versions of hpchub can no longer read new bundles."""
GLIBC = (2, 36)
"""The version of the C library that the wheels need at most. Debian 12 has this version."""
PYTHONS = ("3.11", "3.13")
"""The versions of Python that a bundle is made for by default: those of Debian 12 and 13."""

_FILE = re.compile(r"(?:wheels|npm)/[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}")
_HASH = re.compile(r"[0-9a-f]{64}")


class BundleError(Exception):
    """A bundle cannot be made or used. The message begins with a verb, as in ``is truncated``."""


def digest(text: str) -> str:
    """Return the SHA-256 of a lock file's text. Space at its beginning and end does not matter."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


@dataclass(frozen=True)
class Needs:
    """The software that the roles install.

    Attributes:
        locks: The hash of each lock file, by its path as messages name it.
    """

    locks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Targets:
    """The hosts that a bundle can be installed on.

    Attributes:
        pythons: The versions of Python, as in ``3.13``.
        architectures: The architectures, as in ``x86_64``.
        glibc: The oldest version of the C library, as in ``2.36``.
    """

    pythons: tuple[str, ...] = PYTHONS
    architectures: tuple[str, ...] = ("x86_64",)
    glibc: str = ".".join(map(str, GLIBC))


@dataclass(frozen=True)
class File:
    """A file in a bundle: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle contains.

    Attributes:
        hpchub: The version of hpchub that made the bundle.
        made: The time when the bundle was made, in ISO 8601.
        needs: The software that it contains.
        targets: The hosts that it is for.
        files: The files by their names: ``wheels/NAME`` and ``npm/NAME``.
    """

    hpchub: str
    made: str
    needs: Needs
    targets: Targets
    files: Mapping[str, File]

    def as_text(self) -> str:
        """Return the manifest as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> Manifest:
        """Return the manifest that a text contains.

        Raises:
            BundleError: The text is not a manifest, or a newer version of hpchub wrote it.
        """
        try:
            content = json.loads(text)
            if content["format"] == FORMAT:
                made = cls(
                    hpchub=str(content["hpchub"]),
                    made=str(content["made"]),
                    needs=Needs(dict(content["needs"]["locks"])),
                    targets=Targets(
                        tuple(content["targets"]["pythons"]),
                        tuple(content["targets"]["architectures"]),
                        str(content["targets"]["glibc"]),
                    ),
                    files={name: File(str(one["sha256"]), int(one["size"])) for name, one in content["files"].items()},
                )
                if all(_FILE.fullmatch(name) and _HASH.fullmatch(file.sha256) for name, file in made.files.items()):
                    return made
            other = content["format"] if isinstance(content["format"], int) else FORMAT
        except (ValueError, KeyError, TypeError, AttributeError):
            other = FORMAT
        if other != FORMAT:
            age = "a newer" if other > FORMAT else "an older"
            raise BundleError(f"was made by {age} version of hpchub ({show(content.get('hpchub'), 40)})")
        raise BundleError("was changed: its manifest is not valid")


def missing_software(manifest: Manifest, needs: Needs) -> str:
    """Return what a bundle lacks of the software that the roles install, or an empty text."""
    for path, wanted in needs.locks.items():
        if manifest.needs.locks.get(path) != wanted:
            return f"was made by hpchub {manifest.hpchub} for another version of {path}"
    return ""


def missing_target(targets: Targets, host: Mapping[str, Any]) -> str:
    """Return why a bundle cannot be installed on a host, or an empty text.

    Args:
        targets: The hosts that the bundle is for.
        host: The keys ``interpreter``, ``python``, ``architecture`` and ``glibc`` of the host.
    """
    python, architecture, glibc = (str(host.get(key, "")) for key in ("python", "architecture", "glibc"))
    if python not in targets.pythons:
        made = listing(targets.pythons)
        return f"is for Python {made}, but {host.get('interpreter', 'python3')} is Python {python}"
    if architecture not in targets.architectures:
        return f"is for the architecture {listing(targets.architectures)}, but the host has {architecture}"
    if _version(glibc) < _version(targets.glibc):
        return f"needs glibc {targets.glibc} or later, but the host has {glibc or 'another C library'}"
    return ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text))
