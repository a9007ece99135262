"""The part of the spawner that checks every choice of a profile, wherever the request came from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from traitlets import Unicode, default
from wrapspawner import ProfilesSpawner

from hpchub.hub import DEFAULT_SETTINGS
from hpchub.hub.events import ORIGIN, StartRefused
from hpchub.hub.form import ATTEMPT, Known
from hpchub.hub.memory import Memory
from hpchub.hub.runtime import Runtime, runtime
from hpchub.hub.session_limits import refusal
from hpchub.hub.start_error import StartError
from hpchub.hub.switch import Key
from hpchub.messages import Message, sentences
from hpchub.model.choice import ChoiceError, Person, choose, normal_fields, permitted
from hpchub.model.notices import offer

if TYPE_CHECKING:
    from hpchub.hub.outcome import Outcome
    from hpchub.model.entries import Profile
    from hpchub.model.profile_list import ProfileList


class ChoosingSpawner(ProfilesSpawner):  # type: ignore[misc]
    """A spawner that checks which profile a user may start now.

    The user options of a start are ``{"profile": KEY, "fields": {NAME: VALUE}, "without_settings": True}``, whether
    they come from the form, the REST API, a saved setting or an earlier start. Only ``profile`` is required.
    """

    settings_file = Unicode(
        DEFAULT_SETTINGS, config=True, help="The settings file, which the Ansible role jupyterhub writes."
    )

    @property
    def runtime(self) -> Runtime:
        """The objects that all spawners of this hub share."""
        return runtime(self.settings_file)

    @property
    def profile_list(self) -> ProfileList:
        """The current profile list. wrapspawner's trait ``profiles`` is a fixed list and is not used.

        Raises:
            StartError: There is no valid list (503).
        """
        try:
            return self.runtime.profiles
        except (OSError, ValueError) as error:
            self.log.error("Cannot read the profile list: %s", error)
            raise StartError(
                Message("The list of job profiles cannot be read at the moment. Please try again in a few minutes."),
                reason="no_profiles",
                status_code=503,
            ) from None

    # -- who chooses

    @property
    def person(self) -> Person:
        """The user, with the groups that are known."""
        unix_groups = self.runtime.unix_groups.known(self.user.name)
        is_unknown = self.runtime.settings["host_groups"] and unix_groups is None
        groups = frozenset() if is_unknown else frozenset(group.name for group in self.user.groups)
        return Person(self.user.name, groups, unix_groups, is_unknown)

    async def find_groups(self) -> None:
        """Find out the user's Unix groups, if a profile needs them."""
        of_host = self.runtime.settings["host_groups"]
        if any(profile.unix_groups or (of_host and profile.groups) for profile in self.profile_list.profiles):
            await self.runtime.unix_groups.refresh(self.user.name)

    def known(self, cluster: str) -> Known:
        """Return what the hub knows of a cluster for this user. It never waits for the scheduler.

        Nothing is known of a place, because it has no queue.
        """
        if self.runtime.is_place(cluster):
            return Known()
        try:
            knowledge = self.runtime.knowledge(cluster)
        except (OSError, ValueError) as error:
            self.log.error("Nothing is known of the cluster %s: %s", cluster, error)
            return Known()
        return Known(knowledge.allocations(self.user.name), knowledge.availability())

    def doubt_allocations(self, cluster: str) -> None:
        """Ask the scheduler soon what the user may request, because it has refused what was known."""
        if self.runtime.is_place(cluster):
            return
        try:
            self.runtime.knowledge(cluster).doubt(self.user.name)
        except (OSError, ValueError) as error:
            self.log.error("Nothing is known of the cluster %s: %s", cluster, error)

    @property
    def key(self) -> Key:
        """The user and the server, which identify the session among those of all users."""
        return Key(self.user.name, self.name)

    admitted: str = ""
    """The key of the profile of a start that the limits permit, and that has no session yet. Otherwise empty."""

    notice: str = ""
    """The message of the last session's launcher to the user, such as the setting that stops the notebook server."""

    @property
    def memory(self) -> Memory:
        """The memory of the user's last session."""
        return Memory(self.orm_spawner, self.user.db, self.runtime, self.log)

    @property
    def outcome(self) -> Outcome | None:
        """How the last session ended, or why it did not start. None during a session."""
        return self.memory.outcome

    # -- the check

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        """Return the check that JupyterHub applies to the user options at every start."""

        async def check(spawner: ChoosingSpawner, options: dict[str, Any]) -> None:
            try:
                await spawner.find_groups()
                spawner.granted(options)
                spawner._admit(options)
            except StartError as error:
                spawner._announce_refusal(error)
                raise

        return check

    def checked(self, options: Any) -> dict[str, Any]:
        """Return the user options in their canonical form, as JupyterHub saves them.

        While the user's Unix groups are not known, a profile for such groups is not refused here. ``granted`` refuses
        it.

        Raises:
            StartError: The options are not valid (400). The message lists what is valid.
        """
        profile = self._profile_of(options, may_be_unknown=True)
        granted = self._choose(profile, options)
        self._offer(granted)
        fields = normal_fields(profile, options.get("fields") or {})
        return (
            {"profile": profile.key}
            | ({"fields": fields} if fields else {})
            | ({"without_settings": True} if options.get("without_settings") else {})
        )

    def granted(self, options: Any) -> Profile:
        """Return the profile that a choice grants now. Before a drain, its run time is the time that is left.

        Raises:
            StartError: The options are not valid (400), or a drain prevents the start (503).
        """
        return self._offer(self._choose(self._profile_of(options), options))

    def accepts(self, options: Any) -> bool:
        """Return whether a start with these options would be accepted now."""
        try:
            self.granted(options)
            self._check_limits(options["profile"])
        except StartError:
            return False
        return True

    @property
    def startable(self) -> list[Profile]:
        """The profiles that permit the user one more session now, as far as their own values permit it.

        Raises:
            StartError: There is no valid list of profiles (503).
        """
        held, most = self._held_by_others(), self.runtime.settings["max_sessions"]
        notices, now = self.runtime.notices_of_starts, time.time()
        return [
            each
            for each in permitted(self.profile_list.profiles, self.person)
            if not offer(notices, each, now).is_refused and not refusal(held, each, most)
        ]

    def _profile_of(self, options: Any, *, may_be_unknown: bool = False) -> Profile:
        """Return the chosen profile, if this user may use it.

        Raises:
            StartError: The options have another form, or the profile is not offered to the user (400).
        """
        person, profiles = self.person, self.profile_list.profiles
        usable = {profile.key: profile for profile in permitted(profiles, person)}
        listed, example = ", ".join(usable), next(iter(usable), "small")
        if may_be_unknown:
            usable = {each.key: each for each in profiles if person.may_use(each) is not False}
        valid = (
            Message("The profiles are: {usable}.", usable=listed)
            if listed
            else Message("There is no profile that you may use.")
        )
        if (
            not isinstance(options, dict)
            or set(options) - {"without_settings", "fields"} != {"profile"}
            or type(options.get("without_settings", False)) is not bool
            or not isinstance(options.get("fields", {}), dict)
        ):
            raise StartError(
                f"Choose one profile, for example {{'profile': {example!r}}}. The other options are"
                f" 'fields': {{NAME: VALUE}} and 'without_settings': true. {valid}",
                reason="bad_choice",
            )
        key = options["profile"]
        if not isinstance(key, str) or key not in usable:
            raise StartError(
                sentences(Message("There is no profile {key!r}.", key=str(key)[:80]), valid), reason="bad_choice"
            )
        return usable[key]

    def _granted_for(self, profile: Profile, fields: dict[str, Any]) -> Profile:
        """Return the profile with the values of the user.

        Raises:
            ChoiceError: A value is not valid.
        """
        where = self.profile_list.where(profile)
        return choose(profile, where, fields, self.known(profile.where).allocations, time.time())

    def _choose(self, profile: Profile, options: dict[str, Any]) -> Profile:
        """Return the profile with the values of the user.

        Raises:
            StartError: A value is not valid (400).
        """
        try:
            return self._granted_for(profile, options.get("fields") or {})
        except ChoiceError as error:
            if attempt := ATTEMPT.get():
                attempt.complaints = error.complaints
            raise StartError(
                sentences(Message("No session was started."), error.message), reason="bad_choice"
            ) from None

    def _check_limits(self, key: str) -> None:
        """Check that the user may have one more session.

        Raises:
            StartError: The user, or the profile, has reached the limit (409).
        """
        held, most = self._held_by_others(), self.runtime.settings["max_sessions"]
        if why := refusal(held, self.profile_list.require(key), most):
            raise StartError(why, reason="too_many", status_code=409)

    def _held_by_others(self) -> list[str]:
        """Return the keys of the profiles of the user's other sessions, except the other start of this one's pair."""
        partner = self.runtime.replacements.partner(self.key)
        others = [each for each in list(self.user.spawners.values()) if each is not self]
        counted = [each for each in others if each.key != partner or not each.pending or each.is_serving]
        return [each.held_profile for each in counted if each.held_profile]

    def _admit(self, options: dict[str, Any]) -> None:
        """Check the limits, and count this start from now on. JupyterHub may prepare several starts at the same time.

        Raises:
            StartError: The user, or the profile, has reached the limit (409).
        """
        self._check_limits(options["profile"])
        self.admitted = options["profile"]

    def _offer(self, profile: Profile) -> Profile:
        """Return a profile as it is offered now. Before a drain, its run time is the time that is left.

        Raises:
            StartError: No session can start with this profile, because of a drain (503).
        """
        offered = offer(self.runtime.notices_of_starts, profile, time.time())
        if offered.is_refused:
            raise StartError(offered.refusal, reason="drained", status_code=503)
        return offered.profile

    def _announce_refusal(self, refusal: StartError) -> None:
        """Announce that a start was refused before there was a session."""
        refused = StartRefused(user=self.user.name, reason=str(refusal.reason), origin=ORIGIN.get())
        self.runtime.events.emit(refused)


def again(options: dict[str, Any] | None, *, without: bool) -> dict[str, Any]:
    """Return the user options of the last start, to start the same session again.

    Args:
        options: The user options of the last start, or None.
        without: Whether the session starts without the user's own settings of Jupyter and IPython.
    """
    last = {name: value for name, value in (options or {}).items() if name != "without_settings"}
    return last | ({"without_settings": True} if without else {})
