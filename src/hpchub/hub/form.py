"""The content of the start form: the profiles in their groups, their fields, and when each would start. No I/O."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hpchub.model.adjustable import Amount
from hpchub.model.choice import (
    LONGEST,
    NAMES,
    ChoiceError,
    Complaint,
    Person,
    choose,
    default_value,
    options,
    refusal,
)
from hpchub.schedulers.offers import Wanted
from hpchub.units import format_memory, format_runtime, mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.notices import Offer
    from hpchub.model.profile_list import ProfileList
    from hpchub.schedulers.knowledge import Allocations, Availability

OLD = 600.0
"""How old an answer of the scheduler may be before the form no longer shows that a session starts now, in seconds."""

MOST_WAITS = 10_000
"""How many expected waits are kept. All users share them, because they follow from one answer of the scheduler."""
_WAITS: dict[tuple[str, str, Wanted, int, float], float | None] = {}


@dataclass
class Attempt:
    """What a user sent with the form, so that the form can show it again beside the messages.

    Attributes:
        profile: The key of the profile.
        fields: The values of its fields.
        complaints: What is wrong with them.
        name: The name under which to save the choice.
        name_complaint: What is wrong with the name, or empty.
    """

    profile: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    complaints: tuple[Complaint, ...] = ()
    name: str = ""
    name_complaint: str = ""


ATTEMPT: ContextVar[Attempt | None] = ContextVar("attempt", default=None)
"""The attempt of the request that this task handles."""


def read_fields(formdata: Mapping[str, Sequence[str]], key: str) -> dict[str, str]:
    """Return the values of a profile's fields in a form: ``KEY.NAME``, or ``NAME`` for any profile.

    The form contains the fields of all profiles. Only those of the chosen one count.
    """
    found = {}
    for name in NAMES:
        for each in (f"{key}.{name}", name):
            if each in formdata:
                found[name] = (list(formdata[each]) or [""])[-1]
                break
    return found


def is_field(name: str) -> bool:
    """Return whether a form can have a field with this name, because it belongs to some profile."""
    return name in NAMES or name.rpartition(".")[2] in NAMES


@dataclass(frozen=True)
class Input:
    """A field of the form.

    Attributes:
        name: The field; see ``hpchub.model.choice.NAMES``.
        value: The value that the form shows.
        values: The values to choose from. Empty: the user writes the value.
        valid: What is valid, in words, or empty.
        is_known: Whether the scheduler has confirmed the values. If not, it decides when the session starts.
        complaints: What is wrong with the value.
    """

    name: str
    value: str
    values: tuple[str, ...] = ()
    valid: str = ""
    is_known: bool = True
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """When a session would probably start.

    Attributes:
        seconds: How long it would wait from now on. 0: it would start now.
        at: When it would start, in seconds since 1970.
        seen: When the scheduler answered, in seconds since 1970.
        is_old: Whether the answer is too old to rely on.
    """

    seconds: float
    at: float
    seen: float
    is_old: bool

    @property
    def is_now(self) -> bool:
        """Whether the session would start now."""
        return self.seconds <= 0

    @property
    def minutes(self) -> int:
        """The wait in minutes, rounded up to 5 minutes."""
        return max(5, -(-int(self.seconds) // 300) * 5)

    @property
    def hours(self) -> int:
        """The wait in hours, rounded."""
        return max(1, round(self.seconds / 3600))


@dataclass(frozen=True)
class Smaller:
    """A smaller choice that would start now.

    Attributes:
        profile: Its profile.
        fields: The amounts that are smaller than the chosen ones.
        kept: The other values that the user chose.
    """

    profile: Profile
    fields: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """A profile in the form.

    Attributes:
        offer: What the profile offers now.
        refusal: Why the user may not use it, or empty.
        inputs: Its fields.
        complaints: What is wrong with the choice as a whole.
        start: When it would start, or None if this is unknown.
        smaller: A smaller choice that would start now, or None.
    """

    offer: Offer
    refusal: str = ""
    inputs: tuple[Input, ...] = ()
    complaints: tuple[str, ...] = ()
    start: Start | None = None
    smaller: Smaller | None = None

    @property
    def profile(self) -> Profile:
        """The profile."""
        return self.offer.profile

    @property
    def is_offered(self) -> bool:
        """Whether the user can choose it."""
        return not self.refusal and not self.offer.is_refused


@dataclass(frozen=True)
class Known:
    """What the hub knows of one cluster for one user."""

    allocations: Allocations | None = None
    availability: Availability | None = None


class FormContent:
    """The content of the form for one user.

    Args:
        profiles: The profile list.
        offers: What each profile of the list offers now.
        person: The user.
        known: What the hub knows of a cluster, by name.
        now: The time, in seconds since 1970.
    """

    def __init__(
        self,
        profiles: ProfileList,
        offers: Sequence[Offer],
        person: Person,
        known: Callable[[str], Known],
        now: float,
    ) -> None:
        self._list = profiles
        self._offers = offers
        self._person = person
        self._known = known
        self._now = now

    def cards(self, chosen: str, fields: Mapping[str, str], attempt: Attempt | None = None) -> list[Card]:
        """Return the profiles that the form shows.

        Args:
            chosen: The key of the profile that the values belong to.
            fields: These values. They are shown as they are, with messages if they are not valid.
            attempt: The attempt with the messages to show, or None.
        """
        cards = []
        for each in self._offers:
            profile = each.profile
            complaint = refusal(profile, self._person)
            if complaint and self._list.service.restricted_profiles == "hidden":
                continue
            mine = fields if profile.key == chosen else {}
            complaints = self._complaints(profile, mine)
            if attempt is not None and attempt.profile == profile.key:
                complaints = attempt.complaints
            wrong = {name: tuple(c.message for c in complaints if c.field == name) for name in ("", *NAMES)}
            card = Card(
                each,
                refusal=complaint.message if complaint else "",
                inputs=tuple(self._input(profile, name, mine, wrong[name]) for name in profile.adjustable.names),
                complaints=wrong[""],
                start=None if complaint or each.is_refused else self.start(profile, mine),
            )
            cards.append(card)
        starts = [(card.profile, card.start) for card in cards if card.is_offered]
        return [self._with_smaller(card, fields if card.profile.key == chosen else {}, starts) for card in cards]

    def card(self, key: str, fields: Mapping[str, str]) -> Card | None:
        """Return when a choice would start, as a card without fields, or None if the profile is not offered.

        Args:
            key: The key of the profile.
            fields: The values of its fields.
        """
        cards = [Card(each, "hidden" if refusal(each.profile, self._person) else "") for each in self._offers]
        offered = {card.profile.key: card for card in cards if card.is_offered}
        if key not in offered:
            return None
        card = replace(offered[key], start=self.start(offered[key].profile, fields))
        others = [each.profile for each in offered.values() if each is not offered[key]]
        return self._with_smaller(card, fields, [(each, self.start(each, {})) for each in others])

    def _complaints(self, profile: Profile, fields: Mapping[str, str]) -> tuple[Complaint, ...]:
        """Return what is wrong with values from a link, a saved setting or the last choice."""
        if not fields:
            return ()
        try:
            self._granted(profile, fields)
        except ChoiceError as error:
            return error.complaints
        return ()

    def _granted(self, profile: Profile, fields: Mapping[str, str]) -> Profile:
        known = self._known(profile.where)
        return choose(profile, self._list.where(profile), fields, known.allocations, self._now)

    def _input(self, profile: Profile, name: str, fields: Mapping[str, str], complaints: tuple[str, ...]) -> Input:
        limits = profile.adjustable.get(name)
        value = fields.get(name, default_value(profile, name))[:LONGEST]
        allocations = self._known(profile.where).allocations
        account: str | None = default_value(profile, "account")
        if "account" in profile.adjustable.names:
            account = None  # the user may still change it, so offer what any account permits
        offered = options(profile, name, self._list.where(profile), allocations, now=self._now, account=account)
        values = offered.values
        if values and value not in values and not complaints:
            value = values[0]
        elif values and value not in values:
            values = (value, *values)  # keep what the user wrote beside the message
        return Input(
            name,
            value,
            values=values,
            valid=limits.valid if isinstance(limits, Amount) and not values else "",
            is_known=offered.is_known,
            complaints=complaints,
        )

    # -- when a session would start

    def start(self, profile: Profile, fields: Mapping[str, str]) -> Start | None:
        """Return when a choice would start, or None if this is unknown or the choice is not valid."""
        availability = self._known(profile.where).availability
        if availability is None:
            return None
        granted = profile
        if profile.adjustable.names or fields:
            try:
                granted = self._granted(profile, fields)
            except ChoiceError:
                return None
        wait = self._wait(availability, granted)
        if wait is None:
            return None
        age = max(0.0, self._now - availability.taken)
        left = 0.0 if wait <= 0 else max(60.0, wait - age)
        return Start(left, self._now + left, availability.taken, is_old=age > OLD)

    def _wait(self, availability: Availability, granted: Profile) -> float | None:
        kind = next(iter(granted.gpus.types), "")
        wanted = Wanted(
            cores=granted.cores,
            memory=granted.memory_mib,
            runtime=granted.runtime_seconds,
            gpus=int(granted.gpus),
            gpu_type=kind,
            feature=granted.node_constraint if re.fullmatch(r"[A-Za-z0-9_]+", granted.node_constraint) else "",
        )
        key = (granted.cluster, granted.queue, wanted, granted.nodes, availability.taken)
        if key not in _WAITS:
            if len(_WAITS) >= MOST_WAITS:
                _WAITS.clear()
            _WAITS[key] = availability.wait(granted.queue, wanted, granted.nodes)
        return _WAITS[key]

    def _with_smaller(
        self, card: Card, fields: Mapping[str, str], starts: Sequence[tuple[Profile, Start | None]]
    ) -> Card:
        """Return a card with a smaller choice that starts now, if its own does not.

        Args:
            card: The card.
            fields: The values that the user chose for its profile.
            starts: The profiles that are offered, each with the start of its own values.
        """
        if card.start is None or card.start.is_now:
            return card
        found = self._smaller_fields(card.profile, fields) or self._smaller_profile(card.profile, fields, starts)
        return replace(card, smaller=found)

    def _smaller_fields(self, profile: Profile, chosen: Mapping[str, str]) -> Smaller | None:
        """Return a smaller choice of the same profile: its amounts are halved until it starts now."""
        names = ("nodes", "cores", "memory", "runtime", "gpus")
        amounts = {name: limits for name in names if (limits := _amount(profile, name))}
        numbers = {name: _number(name, chosen.get(name, default_value(profile, name))) for name in amounts}
        kept = {name: value for name, value in chosen.items() if name not in amounts}
        for _ in range(4):
            smaller = {name: _at_most(amounts[name], numbers[name] // 2) for name in numbers}
            if smaller == numbers:
                return None
            numbers = smaller
            fields = {name: _text(name, number) for name, number in numbers.items()}
            start = self.start(profile, {**kept, **fields})
            if start is not None and start.is_now:
                return Smaller(profile, fields, kept)
        return None

    def _smaller_profile(
        self, profile: Profile, fields: Mapping[str, str], starts: Sequence[tuple[Profile, Start | None]]
    ) -> Smaller | None:
        """Return the largest of the profiles that are smaller and start now."""
        large = _size(self._granted(profile, fields) if fields else profile)
        candidates = [
            each
            for each, start in starts
            if start is not None
            and start.is_now
            and _size(each) != large
            and all(one <= other for one, other in zip(_size(each), large, strict=True))
        ]
        return Smaller(max(candidates, key=_size)) if candidates else None


def _amount(profile: Profile, name: str) -> Amount | None:
    limits = profile.adjustable.get(name)
    return limits if isinstance(limits, Amount) else None


def _number(name: str, text: str) -> int:
    return mebibytes(text) if name == "memory" else seconds(text) if name == "runtime" else int(text)


def _text(name: str, number: int) -> str:
    return format_memory(number) if name == "memory" else format_runtime(number) if name == "runtime" else str(number)


def _at_most(limits: Amount, number: int) -> int:
    """Return the largest valid amount up to a number, or the smallest valid one."""
    if limits.choices:
        return max((each for each in limits.numbers if each <= number), default=limits.least)
    steps = max(0, number - limits.least) // limits.stride
    return limits.least + steps * limits.stride


def _size(profile: Profile) -> tuple[int, ...]:
    return int(profile.gpus), profile.cores, profile.memory_mib, profile.nodes


def by_group(cards: Sequence[Card]) -> dict[str, list[Card]]:
    """Return the cards by the heading of their group, in the order in which the headings first appear."""
    found: dict[str, list[Card]] = {}
    for card in cards:
        found.setdefault(card.profile.group, []).append(card)
    return found
