"""The part of the spawner that offers the site's profiles and checks every choice, wherever the request came from."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from jupyterhub.utils import url_path_join
from sqlalchemy.exc import SQLAlchemyError
from traitlets import Unicode, default
from wrapspawner import ProfilesSpawner

from hpchub import moments
from hpchub.hub.events import ORIGIN, StartRefused
from hpchub.hub.form import ATTEMPT, Attempt, FormContent, Known, by_group, is_field, read_fields
from hpchub.hub.memory import Memory
from hpchub.hub.page_texts import PageTexts
from hpchub.hub.runtime import DEFAULT_SETTINGS, Runtime, runtime
from hpchub.hub.saved_settings import LONGEST_NAME, SavedSettings, Setting
from hpchub.hub.session_limits import refusal
from hpchub.hub.start_error import StartError
from hpchub.hub.switch import Key
from hpchub.messages import Message, sentences
from hpchub.model.choice import NAMES, ChoiceError, Complaint, Person, choose, normal_fields, permitted
from hpchub.model.notices import offer

if TYPE_CHECKING:
    from hpchub.hub.outcome import Outcome
    from hpchub.model.entries import Profile
    from hpchub.model.profile_list import ProfileList

OWN_FIELDS = frozenset({"profile", "without_settings", "again", "settings_name", "save_settings", "_xsrf"})
"""The fields of the form besides those of the profiles."""


@functools.cache
def _environment(paths: tuple[str, ...]) -> Environment:
    loader = FileSystemLoader(list(paths))
    return Environment(loader=loader, autoescape=select_autoescape(), extensions=[PageTexts])


class ChoosingSpawner(ProfilesSpawner):  # type: ignore[misc]
    """A spawner that offers profiles.

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
        groups = frozenset(group.name for group in self.user.groups)
        return Person(self.user.name, groups, self.runtime.unix_groups.known(self.user.name))

    async def find_groups(self) -> None:
        """Find out the user's Unix groups, if a profile needs them."""
        if any(profile.unix_groups for profile in self.profile_list.profiles):
            await self.runtime.unix_groups.refresh(self.user.name)

    def known(self, cluster: str) -> Known:
        """Return what the hub knows of a cluster for this user. It never waits for the scheduler."""
        try:
            knowledge = self.runtime.knowledge(cluster)
        except (OSError, ValueError) as error:
            self.log.error("Nothing is known of the cluster %s: %s", cluster, error)
            return Known()
        return Known(knowledge.allocations(self.user.name), knowledge.availability())

    def doubt_allocations(self, cluster: str) -> None:
        """Ask the scheduler soon what the user may request, because it has refused what was known."""
        try:
            self.runtime.knowledge(cluster).doubt(self.user.name)
        except (OSError, ValueError) as error:
            self.log.error("Nothing is known of the cluster %s: %s", cluster, error)

    @property
    def saved_settings(self) -> SavedSettings:
        """The user's saved settings."""
        self.runtime.open_ledger(self.user.db)
        return SavedSettings(self.user.db, self.user.name)

    # -- the form

    async def get_options_form(self) -> str:
        """Render the form from the current profile list.

        A link can fill in the form: ``/hub/spawn?profile=KEY&cores=4``, or ``/hub/spawn?settings=NAME``.
        """
        profiles = self.profile_list
        if not profiles.profiles:
            raise StartError(
                Message("No job profile is available at the moment. Running notebooks go on. Please try again later."),
                reason="no_profiles",
                status_code=503,
            )
        await self.find_groups()
        content, now = self._content()
        attempt = self._attempt()
        saved = self._all_settings()
        wanted, fields, unknown = self._wanted(attempt, saved)
        cards = content.cards(wanted, fields, attempt)
        offered = [card.profile.key for card in cards if card.is_offered]
        last, _ = self._last_start()
        is_gone = bool(wanted) and wanted not in [card.profile.key for card in cards]
        return (
            _environment(tuple(self.runtime.settings["template_paths"]))
            .get_template("profiles_form.html")
            .render(
                groups=by_group(cards),
                cards=cards,
                chosen=next((key for key in (wanted, last, *offered) if key in offered), ""),
                unknown=unknown if is_gone or unknown.get("kind") == "no_settings" else {},
                attempt=attempt or Attempt(),
                saved=saved,
                longest_name=LONGEST_NAME,
                time_text=moments.shown,
                now=now,
                notice=self.notice,
                availability_url=url_path_join(self.hub.base_url, "availability", self.user.escaped_name),
            )
        )

    async def availability(self, key: str, fields: dict[str, str]) -> str:
        """Render when a choice would start, for the form. Empty if this is unknown or the choice is not valid.

        Args:
            key: The key of the profile.
            fields: The values of its fields.
        """
        await self.find_groups()
        content, now = self._content()
        template = _environment(tuple(self.runtime.settings["template_paths"])).get_template("availability.html")
        return template.render(each=content.card(key, fields), time_text=moments.shown, now=now)

    def _content(self) -> tuple[FormContent, float]:
        """Return the content of the form, and the time for which it is valid."""
        now, profiles, notices = time.time(), self.profile_list, self.runtime.notices_of_starts
        offers = [offer(notices, profile, now) for profile in profiles.profiles]
        return FormContent(profiles, offers, self.person, functools.cache(self.known), now), now

    @property
    def key(self) -> Key:
        """The user and the server, which identify the session among those of all users."""
        return Key(self.user.name, self.name)

    admitted: str = ""
    """The key of the profile of a start that the limits permit, and that has no session yet. Otherwise empty."""

    @property
    def attempt(self) -> Attempt:
        """What the user has just sent with the form, or an empty attempt."""
        return ATTEMPT.get() or Attempt()

    notice: str = ""
    """What the last session's launcher told the user, such as the setting that stops the notebook server."""

    @property
    def memory(self) -> Memory:
        """The memory of the user's last session."""
        return Memory(self.orm_spawner, self.user.db, self.runtime, self.log)

    @property
    def outcome(self) -> Outcome | None:
        """How the last session ended, or why it did not start. None during a session."""
        return self.memory.outcome

    def _attempt(self) -> Attempt | None:
        """Return what the user has just sent, or the last choice if the scheduler has refused one of its values."""
        attempt, outcome = ATTEMPT.get(), self.outcome
        if outcome is None or not outcome.field:
            return attempt
        key, fields = self._last_start()
        if attempt is None:
            if self._argument("settings") or self._argument("profile"):
                return None
            attempt = Attempt(key, fields)
        name = outcome.field
        is_same = (attempt.profile, attempt.fields.get(name)) == (outcome.profile, fields.get(name))
        if is_same and not attempt.complaints:
            profile = self.profile_list.get(outcome.profile)
            place = name if profile and name in profile.adjustable.names else ""
            attempt.complaints = (Complaint(place, "{text}", {"text": outcome.text}),)
        return attempt

    def _last_start(self) -> tuple[str, dict[str, str]]:
        """Return the profile and the values of the last start, or empty ones if there was none."""
        last = self.orm_spawner.user_options or {}
        found = last.get("fields")
        values = found if isinstance(found, dict) else {}
        return str(last.get("profile") or ""), {str(each): str(value) for each, value in values.items()}

    def _all_settings(self) -> list[Setting]:
        """Return the saved settings. The form also works while the database does not."""
        try:
            return self.saved_settings.all()
        except SQLAlchemyError as error:
            self.user.db.rollback()
            self.log.error("Cannot read the saved settings of %s: %s", self.user.name, error)
            return []

    def _wanted(self, attempt: Attempt | None, saved: list[Setting]) -> tuple[str, dict[str, str], dict[str, str]]:
        """Return the profile and the values that the form shows first, and where they come from if they are gone."""
        if attempt is not None:
            return attempt.profile, attempt.fields, {"kind": "attempt", "profile": attempt.profile[:80]}
        if name := self._argument("settings"):
            setting = next((each for each in saved if each.name == name), None)
            if setting is None:
                return "", {}, {"kind": "no_settings", "name": name[:LONGEST_NAME]}
            texts = {str(key): str(value) for key, value in setting.fields.items()}
            return setting.profile, texts, {"kind": "settings", "name": name, "profile": setting.profile[:80]}
        if key := self._argument("profile"):
            fields = {each: value for each in NAMES if (value := self._argument(each))}
            return key, fields, {"kind": "link", "profile": key[:80]}
        return *self._last_choice(), {}

    def _last_choice(self) -> tuple[str, dict[str, str]]:
        """Return the profile and the valid values of the last start. JupyterHub also remembers a refused one."""
        key, values = self._last_start()
        profile = self.profile_list.get(key)
        if profile is None:
            return "", {}
        values = {name: value for name, value in values.items() if name in profile.adjustable.names}
        try:
            self._granted_for(profile, values)
        except ChoiceError as error:
            wrong = {each.field for each in error.complaints}
            values = {name: value for name, value in values.items() if name not in wrong and "" not in wrong}
        return key, values

    def _argument(self, name: str) -> str:
        return str(self.handler.get_query_argument(name, "")) if self.handler else ""

    def options_from_form(self, formdata: dict[str, list[str]]) -> dict[str, Any]:
        """Return the user options from the form, or announce that the start is refused.

        Args:
            formdata: The values of each field.

        Raises:
            StartError: The form has other fields, or the choice is not offered (400).
        """
        try:
            if "again" in formdata:
                options = self.checked(again(self.orm_spawner.user_options, without="without_settings" in formdata))
            else:
                options = self.read_form(formdata)
            self._check_limits(options["profile"])
            return options
        except StartError as error:
            self._announce_refusal(error)
            raise

    def read_form(self, formdata: dict[str, list[str]]) -> dict[str, Any]:
        """Return the user options from the form.

        Raises:
            StartError: The form has other fields, or the choice is not offered (400).
        """
        key = (formdata.get("profile") or [""])[0]
        fields = read_fields(formdata, key)
        ATTEMPT.set(Attempt(key, fields, name=(formdata.get("settings_name") or [""])[0][:LONGEST_NAME]))
        unknown = sorted(each for each in set(formdata) - OWN_FIELDS if not is_field(each))
        if unknown:
            raise StartError(
                Message(
                    "The form has no field {unknown!r}. Its fields are 'profile' and 'without_settings', "
                    "and those that the profile lets you change.",
                    unknown=unknown[0][:80],
                ),
                reason="bad_choice",
            )
        without = {"without_settings": True} if "without_settings" in formdata else {}
        return self.checked({"profile": key, **({"fields": fields} if fields else {}), **without})

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        """Refuse options from a link: only the form, which carries an XSRF token, may start a session."""
        raise StartError(
            Message("A link cannot start a session. Choose a profile below and press Start."), reason="bad_choice"
        )

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
        """The profiles with which the user can start one more session now, as far as their own values permit it.

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
        if may_be_unknown and person.unix_groups is None:
            usable = {each.key: each for each in profiles if each.key in usable or each.unix_groups}
        valid = (
            Message("The profiles are: {usable}.", usable=", ".join(usable))
            if usable
            else Message("There is no profile that you may use.")
        )
        if (
            not isinstance(options, dict)
            or set(options) - {"without_settings", "fields"} != {"profile"}
            or type(options.get("without_settings", False)) is not bool
            or not isinstance(options.get("fields", {}), dict)
        ):
            raise StartError(
                f"Choose one profile, for example {{'profile': {next(iter(usable), 'small')!r}}}. The other options are"
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
        cluster = self.profile_list.cluster(profile.cluster)
        assert cluster is not None  # noqa: S101 a valid list contains the cluster
        return choose(profile, cluster, fields, self.known(profile.cluster).allocations, time.time())

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
        """Return the keys of the profiles of the user's other sessions, except the one that this start replaces."""
        partner = self.runtime.replacements.partner(self.key)
        others = [each for each in list(self.user.spawners.values()) if each is not self and each.key != partner]
        return [each.held_profile for each in others if each.held_profile]

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
