"""Drains and announcements: their entries, the files that contain them, and what they mean for a start. No I/O.

The hub reads two files. The role ``spawner_profiles`` writes the drains and announcements of the inventory. The
commands ``hpchub drain``, ``undrain`` and ``announce`` write those that an administrator sets by hand, and the keys of
those of the inventory that an administrator has ended. A deployment therefore never changes what was set or ended by
hand.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from hpchub import moments
from hpchub.messages import Message, did_you_mean, marked, sentences, show, type_in_words
from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.model.problems import Problem, locate
from hpchub.units import format_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pydantic.json_schema import JsonSchemaValue

    from hpchub.model.entries import Profile
    from hpchub.schedulers.knowledge import Maintenance


VERSION = 1
"""The version of the format of the files. Readers reject any other version."""
SHORTEST = 600
"""The shortest time of a session before a drain, in seconds. With less time left, the profile is not offered."""
AHEAD = 7 * 24 * 3600
"""How long before its begin the pages show a drain, in seconds."""


# Entries


@dataclass(frozen=True)
class MomentField:
    """A point in time. The value is its canonical form; see ``hpchub.moments``."""

    empty: bool = False

    def _validate(self, value: object) -> str:
        if isinstance(value, datetime):  # YAML reads some notations as a time
            value = value.replace(microsecond=0).isoformat(sep=" ")
        if value == "" and self.empty:
            return ""
        if not isinstance(value, str):
            f.complain(f"is {type_in_words(value)}, not a date and a time", moments.VALID)
        try:
            return moments.canonical(value)
        except moments.MomentError as error:
            f.complain(str(error), error.valid)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^(?:{moments.PATTERN}){'?' if self.empty else ''}$"}


Moment = Annotated[str, MomentField()]
OptionalMoment = Annotated[str, MomentField(empty=True)]
MessageText = Annotated[
    str, f.Text("text of one line", r"\S(?:.{0,998}\S)?", "write one line of at most 1000 characters")
]
OptionalCluster = Annotated[str, f.Text("a cluster's name", r".{1,200}", "name a cluster of hpc_clusters", empty=True)]
OptionalQueue = Annotated[str, f.Text("a queue's name", r".{1,200}", "name a queue of the cluster", empty=True)]
OptionalProfile = Annotated[str, f.Text("a profile's key", r".{1,200}", "name a profile of hpc_profiles", empty=True)]


class Timed(Entry):
    """What drains and announcements have in common."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=True, serialize_by_alias=True)

    def check_period(self, begin: str, until: str) -> None:
        """Reject a period that ends before it begins, and two times if only one has a time zone."""
        if begin and until:
            self.check_zones("from", begin, "until", until)
            if not datetime.fromisoformat(begin) < datetime.fromisoformat(until):
                f.complain(f"has until {_plain(until)}, which is not after from {_plain(begin)}", "write a later until")

    @staticmethod
    def check_zones(name: str, one: str, other_name: str, other: str) -> None:
        """Reject two times that cannot be compared."""
        if moments.has_zone(one) != moments.has_zone(other):
            with_zone, without = (name, other_name) if moments.has_zone(one) else (other_name, name)
            f.complain(f"has a time zone in {with_zone}, but none in {without}", "write the time zone in both")

    @property
    def key(self) -> str:
        """What identifies the entry, as long as its target and its times do not change: 8 hexadecimal digits."""
        named = {name: value for name, value in self.as_dict().items() if name in self.identity}
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def identity(self) -> tuple[str, ...]:
        """The keys of the entry that identify it."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """Return the entry in its JSON form."""
        return self.model_dump(mode="json", by_alias=True)


class Drain(Timed):
    """A time in which no session can start: on a cluster, in a queue, with a profile, or at all."""

    cluster: OptionalCluster = ""
    """The cluster or the place. Without a cluster and a profile, the drain applies to the whole service."""
    queue: OptionalQueue = ""
    """The queue of this cluster. Empty: the whole cluster."""
    profile: OptionalProfile = ""
    """The key of the profile, instead of a cluster."""
    begin: Moment = Field(alias="from")
    """When the drain begins: a date and a time. Without a time zone, it is the local time of the hub host."""
    until: OptionalMoment = ""
    """When the drain ends. Empty: until you remove the entry, or until ``hpchub undrain``."""
    message: f.OptionalLine = ""
    """What users read about it, as one line of plain text."""
    ask: Annotated[bool, Field(strict=True)] = False
    """Whether JupyterLab and the pages ask users to stop their sessions."""
    stop_at: OptionalMoment = ""
    """When the hub stops the sessions that still run. Empty: running sessions go on."""

    @model_validator(mode="after")
    def _check(self) -> Drain:
        if self.queue and not self.cluster:
            f.complain(f"has the queue {show(self.queue)}, but no cluster", "add the cluster of this queue")
        if self.profile and self.cluster:
            f.complain("has a cluster and a profile", "remove one of them; a profile has one cluster")
        self.check_period(self.begin, self.until)
        if self.stop_at:
            self.check_zones("from", self.begin, "stop_at", self.stop_at)
            stop = datetime.fromisoformat(self.stop_at)
            if stop < datetime.fromisoformat(self.begin):
                f.complain(
                    f"has stop_at {_plain(self.stop_at)}, which is before from {_plain(self.begin)}",
                    "write the same time or a later one",
                )
            if self.until and stop >= datetime.fromisoformat(self.until):
                f.complain(
                    f"has stop_at {_plain(self.stop_at)}, which is not before until {_plain(self.until)}",
                    "write an earlier stop_at",
                )
        return self

    @property
    def identity(self) -> tuple[str, ...]:
        """The keys of the entry that identify it."""
        return ("cluster", "queue", "profile", "from", "until")

    @property
    def target(self) -> str:
        """The target, as ``hpchub drain`` names it: ``demo``, ``demo/batch``, ``--profile small`` or ``ALL``."""
        if self.profile:
            return f"--profile {self.profile}"
        return f"{self.cluster}/{self.queue}" if self.queue else self.cluster or "ALL"

    @property
    def title(self) -> str:
        """The target, in plain words."""
        if self.profile:
            return Message("Maintenance of the profile {profile}", profile=self.profile)
        if self.queue:
            text = marked("Maintenance of the queue {queue} of the cluster {cluster}")
            return Message(text, queue=self.queue, cluster=self.cluster)
        if self.cluster:
            return Message("Maintenance of the cluster {cluster}", cluster=self.cluster)
        return Message("Maintenance of the service")

    def covers(self, profile: Profile) -> bool:
        """Return whether the drain applies to sessions of a profile."""
        if self.profile:
            return self.profile == profile.key
        return self.cluster in ("", profile.where) and self.queue in ("", profile.queue)

    def overlaps(self, other: Drain) -> bool:
        """Return whether two drains of the same target overlap, as far as their times can be compared."""
        times = (self.begin, self.until, other.begin, other.until)
        if self.target != other.target or len({moments.has_zone(time) for time in times if time}) > 1:
            return False
        return overlap(_period(self), _period(other))


class Announcement(Timed):
    """A message for all users, without a drain."""

    message: MessageText
    """What users read, as one line of plain text."""
    begin: OptionalMoment = Field(default="", alias="from")
    """When the hub begins to show it: a date and a time. Empty: at once."""
    until: OptionalMoment = ""
    """When the hub stops to show it. Empty: until you remove the entry."""

    @model_validator(mode="after")
    def _check(self) -> Announcement:
        self.check_period(self.begin, self.until)
        return self

    @property
    def identity(self) -> tuple[str, ...]:
        """The keys of the entry that identify it."""
        return ("message", "from", "until")


def _period(entry: Drain | Announcement) -> tuple[float, float]:
    """Return when an entry begins and ends, in seconds since 1970, or infinity."""
    begins = moments.instant(entry.begin) if entry.begin else -math.inf
    return begins, moments.instant(entry.until) if entry.until else math.inf


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether two periods overlap. One without an end ends when a later one begins."""
    (begins, ends), (begins_later, _) = sorted((one, other))
    return begins == begins_later if ends == math.inf else begins_later < ends


def _plain(moment: str) -> str:
    """Return a time in its canonical form as people write it."""
    return datetime.fromisoformat(moment).isoformat(sep=" ", timespec="minutes")


# Rules


def unknown_target(
    cluster: str, queue: str, profile: str, *, queues: Mapping[str, Sequence[str]], profiles: Sequence[str]
) -> Problem | None:
    """Return the problem of a drain of an unknown cluster, queue or profile.

    Args:
        cluster: The cluster of the drain, or empty.
        queue: The queue of the drain, or empty.
        profile: The profile of the drain, or empty.
        queues: The names of the queues of each cluster. A place has none.
        profiles: The keys of the profiles.
    """
    if profile:
        field, value, what, known = "profile", profile, "a profile", profiles
    elif cluster not in ("", *queues):
        field, value, what, known = "cluster", cluster, "a cluster or a place", list(queues)
    else:
        field, value, what, known = "queue", queue, f"a queue of cluster {show(cluster)}", queues.get(cluster, ())
    if value in ("", *known) or (queue and not cluster and not profile):
        return None
    return Problem("", f"is not {what}", field=field, value=show(value), valid=did_you_mean(value, known))


# The files


class NoticesError(ValueError):
    """A file of drains and announcements cannot be used. The message is one line with the reason."""


class NoticesFile(Entry):
    """The content of a file of drains and announcements."""

    version: Literal[1] = 1
    """The version of the format."""
    drains: list[Drain] = Field(default=[])
    """The drains."""
    announcements: list[Announcement] = Field(default=[])
    """The announcements."""
    ended: list[str] = Field(default=[])
    """The keys of the inventory's drains and announcements that an administrator has ended by hand."""

    def to_json(self) -> str:
        """Return the text of the file. Equal content gives the same text, byte for byte."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, indent=4) + "\n"


def notices_file(drains: list[Drain], announcements: list[Announcement]) -> dict[str, Any]:
    """Return the content of the file with the inventory's drains and announcements."""
    return NoticesFile(drains=drains, announcements=announcements).model_dump(mode="json", by_alias=True)


def parse_notices(text: str, name: str) -> NoticesFile:
    """Parse the text of a file of drains and announcements.

    Args:
        text: JSON, as ``NoticesFile.to_json`` writes it.
        name: The name of the file in messages.

    Raises:
        NoticesError: The text is not such a file of this version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoticesError(f"{name}: is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = show(content.get("version")) if isinstance(content, dict) else "none"
        raise NoticesError(f"{name}: has version {found}, but this hpchub reads version {VERSION}")
    try:
        return NoticesFile.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = locate(name, content, first["loc"])
        message = first.get("ctx", {}).get("message") or first["msg"]
        raise NoticesError(str(Problem(at.entry, message, field=at.field))) from None


# The notices in force


@dataclass(frozen=True)
class Notice:
    """A drain or an announcement on the hub host.

    Attributes:
        key: What identifies it.
        title: What it is, in plain words.
        message: The administrator's text, or empty.
        begins: When it begins, in seconds since 1970. An announcement may have begun at any time (minus infinity).
        ends: When it ends, or infinity.
        stops: When the hub stops the sessions that still run, or infinity.
        ask: Whether users are asked to stop their sessions.
        drain: The drain, or None for an announcement.
        by_hand: Whether an administrator has set it by hand.
    """

    key: str
    title: str
    message: str
    begins: float
    ends: float
    stops: float = math.inf
    ask: bool = False
    drain: Drain | None = None
    by_hand: bool = False

    @property
    def sentence(self) -> str:
        """The message with a full stop, because administrators leave it out and other sentences can follow."""
        return f"{self.message}." if self.message[-1:].isalnum() else self.message

    def is_active(self, now: float) -> bool:
        """Return whether it is in force."""
        return self.begins <= now < self.ends

    def is_shown(self, now: float) -> bool:
        """Return whether pages show it: if it is in force, and a drain also some days before."""
        return self.begins - (AHEAD if self.drain else 0) <= now < self.ends

    def covers(self, profile: Profile) -> bool:
        """Return whether it is a drain that applies to sessions of a profile."""
        return self.drain is not None and self.drain.covers(profile)

    def advice(self, now: float) -> str:
        """Return what a drain means for users, in plain words."""
        if self.drain is None:
            return ""
        parts = [Message("New sessions end before it begins.")]
        if self.is_active(now) and self.drain.profile:
            parts = [Message("No session can start with it.")]
        elif self.is_active(now) and self.drain.cluster:
            parts = [Message("No session can start there.")]
        elif self.is_active(now):
            parts = [Message("No session can start.")]
        if self.asks(now):
            parts.append(Message("Please save your work and stop your session."))
        elif self.stops == math.inf:
            parts.append(Message("Running sessions go on."))
        return sentences(*parts)

    def asks(self, now: float) -> bool:
        """Return whether users with a running session are asked to stop it now."""
        return (self.ask or self.stops < math.inf) and self.is_active(now)

    def public(self, now: float) -> dict[str, Any]:
        """Return what users may know. Times are in seconds since 1970, or null."""
        return {
            "key": self.key,
            "kind": "drain" if self.drain else "announcement",
            "title": self.title,
            "message": self.message,
            "advice": self.advice(now),
            "active": self.is_active(now),
            "ask": self.asks(now),
            "from": _known(self.begins),
            "until": _known(self.ends),
            "stop_at": _known(self.stops),
        }


def _known(time: float) -> float | None:
    return time if math.isfinite(time) else None


def combine(inventory: NoticesFile, by_hand: NoticesFile) -> tuple[Notice, ...]:
    """Return the drains and announcements of both files, without those that were ended by hand, in order of time."""
    found = [notice for notice in _notices(inventory) if notice.key not in by_hand.ended]
    found += [replace(notice, by_hand=True) for notice in _notices(by_hand)]
    return tuple(sorted(found, key=lambda notice: (notice.drain is None, notice.begins, notice.key)))


def _notices(file: NoticesFile) -> Iterator[Notice]:
    for drain in file.drains:
        yield Notice(
            drain.key,
            drain.title,
            drain.message,
            *_period(drain),
            stops=moments.instant(drain.stop_at) if drain.stop_at else math.inf,
            ask=drain.ask,
            drain=drain,
        )
    for one in file.announcements:
        yield Notice(one.key, Message("Announcement"), one.message, *_period(one))


def maintenance_notices(cluster: str, maintenances: Iterable[Maintenance]) -> Iterator[Notice]:
    """Yield the maintenances that a cluster's scheduler has planned, as drains, so that no session reaches into one.

    Args:
        cluster: The cluster's name.
        maintenances: The maintenances.
    """
    for each in maintenances:
        begin, until = (_text(each.start), _text(each.end) if each.end is not None else "")
        for queue in ("",) if each.queues is None else each.queues:
            drain = Drain.model_validate({"cluster": cluster, "queue": queue, "from": begin, "until": until})
            yield Notice(
                drain.key, drain.title, "", each.start, math.inf if each.end is None else each.end, drain=drain
            )


def _text(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).replace(microsecond=0).isoformat(sep=" ")


# A start


@dataclass(frozen=True)
class Offer:
    """What a profile offers now.

    Attributes:
        profile: The profile. If a drain will begin, its run time is the time that is left.
        drain: The drain that prevents or shortens sessions, or None.
        has_begun: Whether the drain is in force.
        is_refused: Whether no session can start, because the drain is in force or begins too soon.
    """

    profile: Profile
    drain: Notice | None = None
    has_begun: bool = False
    is_refused: bool = False

    @property
    def refusal(self) -> str:
        """Why no session can start, in plain words, or empty."""
        if self.drain is None or not self.is_refused:
            return ""
        if self.has_begun:
            return in_force(self.drain)
        begins = Message(
            "{drain} begins at {time}, too soon for a session.",
            drain=self.drain.title,
            time=moments.shown(self.drain.begins),
        )
        return sentences(begins, _end(self.drain))


def offer(notices: Sequence[Notice], profile: Profile, now: float) -> Offer:
    """Return what a profile offers.

    Args:
        notices: The drains and announcements.
        profile: The profile.
        now: The time, in seconds since 1970.
    """
    drains = [notice for notice in notices if notice.covers(profile) and now < notice.ends]
    if active := [drain for drain in drains if drain.begins <= now]:
        return Offer(profile, max(active, key=lambda drain: drain.ends), has_begun=True, is_refused=True)
    if not drains:
        return Offer(profile)
    first = min(drains, key=lambda drain: drain.begins)
    left = int(first.begins - now) // 60 * 60
    if left >= profile.runtime_seconds:
        return Offer(profile)
    if left < SHORTEST:
        return Offer(profile, first, is_refused=True)
    return Offer(profile.model_copy(update={"runtime": format_runtime(left)}), first)


def in_force(drain: Notice) -> str:
    """Return in plain words that a drain prevents starts."""
    return sentences(Message("{drain}: no session can start.", drain=drain.title), _end(drain))


def _end(drain: Notice) -> str:
    until = Message("The end is not known yet.")
    if drain.ends < math.inf:
        until = Message("It lasts until {ends}.", ends=moments.shown(drain.ends))
    return sentences(until, drain.sentence)
