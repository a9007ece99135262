"""``hpchub drain``, ``undrain`` and ``announce``: drains and announcements, which the hub applies at once."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from hpchub import moments
from hpchub.cli import inventory
from hpchub.cli.database import hub_database
from hpchub.cli.failure import VALID, Failure
from hpchub.cli.output import count, print_json
from hpchub.messages import listing, show
from hpchub.model.entries import Profile
from hpchub.model.notices import (
    Announcement,
    Drain,
    Notice,
    NoticesError,
    NoticesFile,
    combine,
    overlap,
    unknown_target,
)
from hpchub.model.profile_list import ProfileListError
from hpchub.model.site import variable_problems
from hpchub.notices_file import BY_HAND, INVENTORY, load_notices, save_notices
from hpchub.profile_file import load_profile_list

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from sqlalchemy import Engine

ALL = "ALL"
"""The target of a drain of the whole service."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""
PAUSE = 5.0
"""The time between two counts of the sessions, in seconds."""
SIGN_OF_LIFE = 60.0
"""How often the command prints a line while it waits and the number of sessions does not change, in seconds."""
SHORT_NOTICE = 360.0
"""The notice that every session gets of its end, in seconds: the longest time between two questions to the hub, and
some time to answer. See ``CHECK_INTERVAL`` of ``hpchub.remote.launcher``."""

_RELATIVE = re.compile(r"\+([0-9]{1,5})([mhd])")
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_STATES = text("SELECT users.name, spawners.state FROM spawners JOIN users ON spawners.user_id = users.id")
"""JupyterHub's tables."""


@dataclass
class Store:
    """The two files of drains and announcements on the hub host.

    Attributes:
        settings: The hub's settings.
        path: The file that the commands write.
        inventory: The content of the inventory's file.
        by_hand: The content of the file that the commands write.
    """

    settings: dict[str, Any]
    path: Path
    inventory: NoticesFile
    by_hand: NoticesFile

    @property
    def notices(self) -> tuple[Notice, ...]:
        """All drains and announcements that have not ended."""
        now = time.time()
        return tuple(notice for notice in combine(self.inventory, self.by_hand) if notice.ends > now)

    def save(self, **changes: Any) -> None:
        """Change what is set by hand, without what has ended.

        Raises:
            Failure: The file cannot be written.
        """
        content = self.by_hand.model_copy(update=changes)
        current = {notice.key for notice in combine(NoticesFile(), content) if notice.ends > time.time()}
        content = content.model_copy(
            update={
                "drains": [each for each in content.drains if each.key in current],
                "announcements": [each for each in content.announcements if each.key in current],
            }
        )
        try:
            save_notices(self.path, content)
        except PermissionError:
            raise Failure(f"{self.path} cannot be written with your account; run this command as root") from None
        except OSError as error:
            raise Failure(f"{self.path} cannot be written: {error.strerror}") from None
        self.by_hand = content


def _read(settings: dict[str, Any]) -> Store:
    path = Path(settings.get("notices_by_hand_file", BY_HAND))
    try:
        return Store(settings, path, load_notices(settings.get("notices_file", INVENTORY)), load_notices(path))
    except NoticesError as error:
        raise Failure(str(error)) from None


@contextmanager
def _locked() -> Iterator[Store]:
    """Read the files, and let no other command change them meanwhile."""
    settings = inventory.read_hub_settings()
    directory = os.open(Path(settings.get("notices_by_hand_file", BY_HAND)).parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield _read(settings)
    finally:
        os.close(directory)


# hpchub drain


def drain(options: argparse.Namespace) -> int:
    """Run ``hpchub drain``."""
    given = {
        name: value
        for name, value in (
            ("from", options.begin),
            ("until", options.until),
            ("message", options.message),
            ("ask", options.ask or None),
            ("stop_at", options.stop_at),
        )
        # An empty text is a mistake, such as an empty variable of a script. The checks below refuse it.
        if value is not None
    }
    if not given and options.target is None and options.profile is None:
        if options.wait:
            raise Failure(f"--wait needs a drain to wait for; name what is drained, or {ALL} for the whole service")
        return _list(options)
    with _locked() as store:
        drains = [each for each in store.notices if each.drain is not None]
        known = next((each for each in drains if each.key == options.target), None)
        if known is None:
            target = _target(options, store)
            known = next((each for each in drains if _is_active(each) and _targets(each, target)), None)
        elif given:
            raise Failure(f"{known.key} is the key of a drain that exists; to change it, name its target and times")
        notice, changed = (known, False) if known and not given else _set(store, target, given, known)
    if options.json:
        print_json({"changed": changed, **_row(notice)})
    else:
        print(f"{'Set' if changed else 'Not changed'}: {_line(notice)}")
    if notice.stops - time.time() < SHORT_NOTICE:
        print(
            "Note: open sessions ask the hub for news every 5 minutes, so some users see no warning before their"
            " session is stopped. Everybody sees one if stop_at is at least 6 minutes ahead.",
            file=sys.stderr,
        )
    return _wait(store.settings, notice) if options.wait else VALID


def _target(options: argparse.Namespace, store: Store) -> dict[str, str]:
    """Return the target of a drain as an inventory contains it.

    Raises:
        Failure: There is no such cluster, queue or profile.
    """
    if options.profile is not None and options.target is not None:
        raise Failure("the command names a profile and a cluster; remove one of them; a profile has one cluster")
    cluster, slash, queue = ("" if options.target in (None, ALL) else options.target).partition("/")
    if options.profile == "":
        raise Failure('--profile "" is not a profile; write the key of a profile')
    if options.target not in (None, ALL) and (not cluster or (slash and not queue)):
        missing = "queue" if cluster else "cluster"
        raise Failure(
            f"{show(options.target)} names no {missing}; write CLUSTER or CLUSTER/QUEUE, or {ALL} for the whole service"
        )
    target = {"cluster": cluster, "queue": queue, "profile": options.profile or ""}
    try:
        profiles = load_profile_list(store.settings["profiles_file"])
    except ProfileListError as error:
        raise Failure(str(error)) from None
    queues = {each.name: [queue.name for queue in each.queues] for each in profiles.clusters}
    queues |= {each.name: [] for each in profiles.places}
    found = unknown_target(**target, queues=queues, profiles=[each.key for each in profiles.profiles])
    if found is not None:
        raise Failure(str(found))
    return target


def _set(store: Store, target: dict[str, str], given: dict[str, Any], known: Notice | None) -> tuple[Notice, bool]:
    """Set a drain, and return whether anything has changed.

    A drain with the same target and times as one that was set by hand replaces it.
    """
    now = time.time()
    raw: dict[str, Any] = target | given
    for name in ("from", "until", "stop_at"):
        if name in given:
            raw[name] = _moment(given[name], f"--{name.replace('_', '-')}", now)
    if "from" not in given:
        # A repeated command without a begin must change nothing.
        same = (
            known is not None
            and known.by_hand
            and known.drain is not None
            and known.drain.until == raw.get("until", "")
        )
        raw["from"] = known.drain.begin if same and known and known.drain else _iso(now)
    entry = Drain.model_validate(raw) if not (problems := variable_problems("hpc_drains", [raw])) else None
    if entry is None:
        raise Failure(str(replace(problems[0], entry="drain")))
    (notice,) = combine(NoticesFile(), NoticesFile(drains=[entry]))
    if notice.ends <= time.time():
        raise Failure(f"drain: until {moments.shown(notice.ends)} is in the past; write a later time")
    for other in store.notices:
        is_same = other.by_hand and other.key == notice.key
        if (
            not is_same
            and _targets(other, target)
            and overlap((notice.begins, notice.ends), (other.begins, other.ends))
        ):
            raise Failure(
                f"drain: overlaps the drain {other.key} ({_line(other)}); choose other times, or end that one first:"
                f" hpchub undrain {other.key}"
            )
    if entry in store.by_hand.drains:
        return notice, False
    store.save(drains=[each for each in store.by_hand.drains if each.key != entry.key] + [entry])
    return notice, True


def _moment(written: str, option: str, now: float) -> str:
    """Return a time of the command line, with its offset.

    Raises:
        Failure: The text is not a time.
    """
    if written == "now":
        return _iso(now)
    if relative := _RELATIVE.fullmatch(written):
        return _iso(now + int(relative[1]) * _UNITS[relative[2]])
    try:
        return moments.local(written)
    except moments.MomentError as error:
        more = ", or a time from now, as in +2h, +30m or +1d" if error.valid == moments.VALID else ""
        raise Failure(f"{option} {show(written)} {error}; {error.valid}{more}") from None


def _iso(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")


def _targets(notice: Notice, target: dict[str, str]) -> bool:
    """Return whether a notice drains exactly this target."""
    return notice.drain is not None and all(getattr(notice.drain, name) == value for name, value in target.items())


def _is_active(notice: Notice) -> bool:
    return notice.is_active(time.time())


# hpchub undrain, hpchub announce


def undrain(options: argparse.Namespace) -> int:
    """Run ``hpchub undrain``."""
    if options.target is None and options.profile is None:
        raise Failure(f"the command names no drain; name what is drained, {ALL}, or a key that hpchub drain shows")
    with _locked() as store:
        drains = [notice for notice in store.notices if notice.drain is not None]
        found = [each for each in drains if each.key == options.target]
        if not found:
            target = _target(options, store)
            same = [each for each in drains if _targets(each, target)]
            found = [each for each in same if _is_active(each)] or same
        if len(found) > 1:
            valid = listing(f"{each.key} ({moments.shown(each.begins)})" for each in found)
            raise Failure(f"{len(found)} drains have this target; name one by its key: {valid}")
        if not found:
            raise Failure(f"there is no such drain; valid: {listing(each.key for each in drains) or 'there are none'}")
        _end(store, found[0])
    print(f"Ended: {_line(found[0])}")
    return VALID


def announce(options: argparse.Namespace) -> int:
    """Run ``hpchub announce``."""
    if options.end is not None:
        with _locked() as store:
            found = [each for each in store.notices if each.drain is None]
            ending = next((each for each in found if each.key == options.end), None)
            if ending is None:
                valid = listing(each.key for each in found) or "there are none"
                raise Failure(f"there is no announcement {show(options.end)}; valid: {valid}")
            _end(store, ending)
        print(f"Ended: {_line(ending)}")
        return VALID
    if options.message is None:
        return _list(options)
    with _locked() as store:
        raw = {"message": options.message}
        for name, value in (("from", options.begin), ("until", options.until)):
            if value is not None:
                raw[name] = _moment(value, f"--{name}", time.time())
        if problems := variable_problems("hpc_announcements", [raw]):
            raise Failure(str(replace(problems[0], entry="announcement")))
        entry = Announcement.model_validate(raw)
        (notice,) = combine(NoticesFile(), NoticesFile(announcements=[entry]))
        if notice.ends <= time.time():
            raise Failure(f"announcement: until {moments.shown(notice.ends)} is in the past; write a later time")
        changed = entry not in store.by_hand.announcements
        if changed:
            store.save(announcements=[*store.by_hand.announcements, entry])
    print(f"{'Set' if changed else 'Not changed'}: {_line(notice)}")
    return VALID


def _end(store: Store, notice: Notice) -> None:
    """End a drain or an announcement. One of the inventory stays ended after the next deployment."""
    if notice.by_hand:
        store.save(
            drains=[each for each in store.by_hand.drains if each.key != notice.key],
            announcements=[each for each in store.by_hand.announcements if each.key != notice.key],
        )
    else:
        store.save(ended=[*store.by_hand.ended, notice.key])


# The list


def _list(options: argparse.Namespace) -> int:
    store = _read(inventory.read_hub_settings())
    notices = store.notices
    if options.json:
        print_json([_row(notice) for notice in notices])
        return VALID
    for notice in notices:
        print(_line(notice))
    ended = {each.key for each in combine(store.inventory, NoticesFile()) if each.ends > time.time()}
    ended &= set(store.by_hand.ended)
    if ended:
        print(f"Ended by hand, although the inventory contains them: {listing(sorted(ended))}")
    if not notices:
        print("There are no drains and no announcements.")
    return VALID


def _line(notice: Notice) -> str:
    """Return a notice as one line."""
    parts = [notice.key, notice.drain.target if notice.drain else "announcement"]
    if notice.begins > time.time():
        parts.append(f"from {moments.shown(notice.begins)}")
    parts.append(f"until {moments.shown(notice.ends)}" if notice.ends < float("inf") else "until it is ended")
    if notice.stops < float("inf"):
        parts.append(f"sessions are stopped at {moments.shown(notice.stops)}")
    elif notice.ask:
        parts.append("users are asked to stop their sessions")
    parts.append("set by hand" if notice.by_hand else "from the inventory")
    return ", ".join(parts) + (f": {notice.message}" if notice.message else "")


def _row(notice: Notice) -> dict[str, Any]:
    """Return a notice as JSON."""
    target = notice.drain.target if notice.drain else ""
    return {**notice.public(time.time()), "target": target, "by_hand": notice.by_hand}


# The wait for the end of sessions


def _wait(settings: dict[str, Any], notice: Notice) -> int:
    """Wait until no session of a drain is left."""
    inventory.become_hub(settings)
    try:
        with hub_database(settings["db_url"]) as engine:
            _count_down(engine, settings, notice)
    except KeyboardInterrupt:
        print(f"\nInterrupted. The drain stays in force. To end it: hpchub undrain {notice.key}")
        return INTERRUPTED
    return VALID


def _count_down(engine: Engine, settings: dict[str, Any], notice: Notice) -> None:
    """Print how many sessions of a drain are left, until there are none."""
    printed, last = 0.0, -1
    while True:
        with engine.connect() as db:
            left = _sessions(db.execute(_STATES).all(), notice)
        now = time.time()
        if not left and now >= notice.begins:
            print(f"{moments.shown(now)}: no session is left.", flush=True)
            return
        if len(left) != last or now - printed >= SIGN_OF_LIFE:
            users = f" ({listing(sorted(set(left)), 5)})" if left else ""
            begins = f"; the drain begins at {moments.shown(notice.begins)}" if now < notice.begins else ""
            print(f"{moments.shown(now)}: {count(len(left), 'session')} left{users}{begins}", flush=True)
            printed, last = now, len(left)
        if now >= notice.ends or notice.key not in {each.key for each in _read(settings).notices}:
            raise Failure(f"the drain has ended, but not all sessions: {count(len(left), 'session')} left")
        time.sleep(PAUSE)


def _sessions(rows: Any, notice: Notice) -> list[str]:
    """Return the users of the sessions, and of the starts, that a drain covers."""
    found = []
    for user, state in rows:
        match json.loads(state or "{}"):
            case {"grant": {"profile": dict(profile)}, "job": dict()}:
                if notice.covers(Profile.model_validate(profile)):
                    found.append(user)
    return found
