"""The effort that a regular expression can take: the number of ways in which it can read a name. No I/O.

Python, Apache and most other programs try these ways one after the other. With ``([a-z]+)+``, they can read a name of
30 letters in 500 million ways, and whoever has such a name stops the program.
"""

from __future__ import annotations

import string
from collections import Counter
from dataclasses import dataclass, field
from re import _constants, _parser  # type: ignore[attr-defined]  # they have no other name since Python 3.11
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST_STEPS = 100_000
"""The largest number of steps for one name. They take a few milliseconds."""
NAME_LENGTH = 64
"""The largest number of characters in a name; see ``USER_NAME``."""
_MOST_POSITIONS = 1000
_MOST_VECTORS = 24
_ALPHABET = frozenset(string.ascii_letters + string.digits + "_.@-")
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: frozenset(string.digits),
    _constants.CATEGORY_WORD: frozenset(string.ascii_letters + string.digits + "_"),
    _constants.CATEGORY_SPACE: frozenset(),
}


class _TooLarge(Exception):
    """The expression has too many positions, or a construct that this module does not know."""


@dataclass
class _Part:
    """A part of an expression.

    Attributes:
        empty: The number of ways in which the part matches nothing.
        first: The positions that can match the first character, each with the number of ways.
        last: The same for the last character.
    """

    empty: int = 1
    first: Counter[int] = field(default_factory=Counter)
    last: Counter[int] = field(default_factory=Counter)


@dataclass
class _Automaton:
    """Glushkov's automaton of an expression. It counts the ways from one position to the next.

    Attributes:
        characters: The characters that each position matches.
        follow: The positions that can follow each position, with the number of ways.
    """

    characters: list[frozenset[str]] = field(default_factory=list)
    follow: list[Counter[int]] = field(default_factory=list)

    def sequence(self, items: Iterable[tuple[Any, Any]]) -> _Part:
        done = _Part()
        for operator, argument in items:
            done = self._join(done, self._item(operator, argument))
        return done

    def _item(self, operator: Any, argument: Any) -> _Part:
        if operator in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            return self._repeat(*argument)
        if operator is _constants.SUBPATTERN:
            return self.sequence(argument[3])
        if operator is _constants.BRANCH:
            parts = [self.sequence(items) for items in argument[1]]
            firsts = sum((part.first for part in parts), Counter[int]())
            lasts = sum((part.last for part in parts), Counter[int]())
            return _Part(sum(part.empty for part in parts), firsts, lasts)
        if operator is _constants.AT:
            return _Part()
        return self._position(_characters(operator, argument))

    def _position(self, characters: frozenset[str]) -> _Part:
        if len(self.characters) >= _MOST_POSITIONS:
            raise _TooLarge
        self.characters.append(characters)
        self.follow.append(Counter())
        only = Counter([len(self.characters) - 1])
        return _Part(0, only, Counter(only))

    def _connect(self, lasts: Counter[int], firsts: Counter[int]) -> None:
        for last, ways in lasts.items():
            for first, more in firsts.items():
                self.follow[last][first] += ways * more

    def _join(self, left: _Part, right: _Part) -> _Part:
        self._connect(left.last, right.first)
        return _Part(
            left.empty * right.empty,
            left.first + Counter({each: left.empty * ways for each, ways in right.first.items()}),
            right.last + Counter({each: right.empty * ways for each, ways in left.last.items()}),
        )

    def _repeat(self, least: int, most: Any, items: Sequence[tuple[Any, Any]]) -> _Part:
        if most is _constants.MAXREPEAT:
            rest = self.sequence(items)
            self._connect(rest.last, rest.first)
            rest.empty = 1  # a repetition that matches nothing ends the loop
        else:
            rest = _Part()
            for _ in range(min(most, NAME_LENGTH + 1) - min(least, NAME_LENGTH + 1)):
                rest = self._join(self.sequence(items), rest)
                rest.empty += 1
        for _ in range(min(least, NAME_LENGTH + 1)):
            rest = self._join(self.sequence(items), rest)
        return rest


def _characters(operator: Any, argument: Any) -> frozenset[str]:
    """Return the characters of names that a single character of an expression matches."""
    if operator is _constants.LITERAL:
        return frozenset(chr(argument)) & _ALPHABET
    if operator is _constants.ANY:
        return _ALPHABET
    if operator is _constants.NOT_LITERAL:
        return _ALPHABET - {chr(argument)}
    if operator is _constants.RANGE:
        return frozenset(each for each in _ALPHABET if argument[0] <= ord(each) <= argument[1])
    if operator is _constants.CATEGORY and argument in _CATEGORIES:
        return _CATEGORIES[argument]
    if operator is _constants.IN:
        negated = argument[0][0] is _constants.NEGATE
        found = frozenset[str]().union(*(_characters(*each) for each in argument[negated:]))
        return _ALPHABET - found if negated else found
    raise _TooLarge


def takes_too_long(pattern: str) -> bool:
    """Return whether a pattern can need more than ``MOST_STEPS`` steps for a name.

    The steps for a name are the ways in which the pattern can read its beginnings. This function follows the names
    with the most ways, letter by letter. It never underestimates them.

    Args:
        pattern: A valid regular expression. If it contains constructs such as look-ahead, the answer is True.
    """
    automaton = _Automaton()
    try:
        start = automaton.sequence(_parser.parse(pattern))
    except _TooLarge:
        return True
    letters = {frozenset(i for i, known in enumerate(automaton.characters) if each in known) for each in _ALPHABET}
    reached = [(sum(start.first.values()), start.first)]
    for _ in range(NAME_LENGTH):
        found: list[tuple[int, Counter[int]]] = []
        for steps, ways in reached:
            for letter in letters:
                here = Counter({position: count for position, count in ways.items() if position in letter})
                if here:
                    after = _after(automaton, here)
                    _keep(found, (steps + sum(after.values()), after))
        reached = found if len(found) <= _MOST_VECTORS else [_greatest(found)]
        if any(steps > MOST_STEPS for steps, _ in reached):
            return True
    return False


def _after(automaton: _Automaton, ways: Counter[int]) -> Counter[int]:
    """Return the positions that can follow, with the number of ways to them."""
    found: Counter[int] = Counter()
    for position, count in ways.items():
        for following, more in automaton.follow[position].items():
            found[following] += count * more
    return found


def _keep(found: list[tuple[int, Counter[int]]], new: tuple[int, Counter[int]]) -> None:
    """Add a number of steps and ways, unless another name has at least as many everywhere."""
    if not any(steps >= new[0] and ways >= new[1] for steps, ways in found):
        found[:] = [each for each in found if not (new[0] >= each[0] and new[1] >= each[1])]
        found.append(new)


def _greatest(found: Sequence[tuple[int, Counter[int]]]) -> tuple[int, Counter[int]]:
    """Return the largest number of steps and ways of several names."""
    ways: Counter[int] = Counter()
    for _, each in found:
        ways |= each
    return max(steps for steps, _ in found), ways
