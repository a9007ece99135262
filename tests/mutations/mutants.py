"""Mutants: one security-relevant line each, removed or weakened, and the tests that must fail for it.

Most mutants come from a :class:`Rule`: a regular expression that finds the lines of one kind. A new line of this kind
becomes a new mutant without further work. The others are :class:`HandWritten`: a piece of code and its replacement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]


class CatalogError(Exception):
    """The catalog does not fit the code. The message explains what to change."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        id: A stable name: the kind, the file and the code that is changed.
        kind: The rule's name, or the kind of a hand-written mutant.
        path: The file, relative to the repository.
        text: The whole file before the change.
        start: The position of the changed code in the file.
        old: The code before the change.
        new: The code after the change.
        tests: What pytest runs for this mutant: paths and ``path::name``, relative to the repository.
        keyword: Pytest's ``-k`` expression, or empty.
        place: Where the mutant runs: ``fast`` on this machine, or the name of a place in the lab (see ``lab.py``).
    """

    id: str
    kind: str
    path: str
    text: str
    start: int
    old: str
    new: str
    tests: tuple[str, ...]
    keyword: str = ""
    place: str = "fast"

    def apply(self, root: Path) -> None:
        """Write the mutated file into a copy of the repository."""
        (root / self.path).write_text(self.text[: self.start] + self.new + self.text[self.start + len(self.old) :])

    def undo(self, root: Path) -> None:
        """Write the file as it was into a copy of the repository."""
        (root / self.path).write_text(self.text)

    @property
    def change(self) -> str:
        """The change as one line of text."""
        old, new = " ".join(self.old.split()), " ".join(self.new.split())
        return f"{old} → {new}" if new else old


@dataclass(frozen=True)
class Rule:
    """Finds mutants in files.

    Attributes:
        kind: The kind of the mutants.
        files: Glob patterns, relative to the repository.
        pattern: Finds the code to change; matched with ``re.MULTILINE``.
        tests, keyword, place: See :class:`Mutant`.
        replace: Returns the new code for a match, or None where the match is not security-relevant. By default the
            match is removed.
        name: Returns what names a match in the mutant's id, from the file's text and the match.
    """

    kind: str
    files: tuple[str, ...]
    pattern: str
    tests: tuple[str, ...]
    keyword: str = ""
    place: str = "fast"
    replace: Callable[[re.Match[str]], str | None] = lambda _: ""
    name: Callable[[str, re.Match[str]], str] = lambda text, match: match[0]

    def find(self) -> Iterator[Mutant]:
        """Yield a mutant for each match.

        Raises:
            CatalogError: A glob pattern finds no file, or the rule finds nothing at all.
        """
        found = 0
        for files in self.files:
            paths = sorted(ROOT.glob(files))
            if not paths:
                raise CatalogError(f"rule {self.kind}: no file matches {files}; correct the pattern in catalog.py")
            for path in paths:
                text = path.read_text()
                for match in re.finditer(self.pattern, text, re.MULTILINE):
                    new = self.replace(match)
                    if new is None or new == match[0]:
                        continue
                    found += 1
                    relative = str(path.relative_to(ROOT))
                    mutant_id = f"{self.kind}/{path.name}/{_slug(self.name(text, match))}"
                    yield Mutant(
                        mutant_id,
                        self.kind,
                        relative,
                        text,
                        match.start(),
                        match[0],
                        new,
                        self.tests,
                        self.keyword,
                        self.place,
                    )
        if not found:
            raise CatalogError(f"rule {self.kind}: finds nothing in {', '.join(self.files)}; correct it in catalog.py")


@dataclass(frozen=True)
class HandWritten:
    """A mutant that no rule can find.

    Attributes:
        name: What the change removes, in a few words with dashes.
        path: The file, relative to the repository.
        old: Code that occurs in the file exactly once. Never a comment or a message: those change.
        new: The code in its place.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    keyword: str = ""
    place: str = "fast"

    def mutant(self) -> Mutant:
        """Return the mutant.

        Raises:
            CatalogError: The old code is not in the file exactly once.
        """
        text = (ROOT / self.path).read_text()
        count = text.count(self.old)
        if count != 1:
            raise CatalogError(
                f"{self.name}: {self.path} has the code {self.old!r} {count} times, not once; correct it in catalog.py"
            )
        kind = Path(self.path).stem.split(".")[0]
        return Mutant(
            f"{kind}/{self.name}",
            kind,
            self.path,
            text,
            text.index(self.old),
            self.old,
            self.new,
            self.tests,
            self.keyword,
            self.place,
        )


def collect(rules: tuple[Rule, ...], hand_written: tuple[HandWritten, ...]) -> list[Mutant]:
    """Return all mutants, each with an id of its own.

    Raises:
        CatalogError: See Rule.find and HandWritten.mutant; or two hand-written mutants have one name.
    """
    found: dict[str, Mutant] = {}
    for rule in rules:
        for mutant in rule.find():
            number, mutant_id = 1, mutant.id
            while mutant_id in found:
                number += 1
                mutant_id = f"{mutant.id}-{number}"
            found[mutant_id] = Mutant(**{**mutant.__dict__, "id": mutant_id})
    for entry in hand_written:
        mutant = entry.mutant()
        if mutant.id in found:
            raise CatalogError(f"there are two mutants {mutant.id}; give one of them another name in catalog.py")
        found[mutant.id] = mutant
    return list(found.values())


def _slug(text: str) -> str:
    """Return letters, digits and dashes, at most 60 of them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")
