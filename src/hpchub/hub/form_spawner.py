"""The part of the spawner that renders the start form and reads it."""

from __future__ import annotations

import functools
import time
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from jupyterhub.utils import url_path_join
from sqlalchemy.exc import SQLAlchemyError

from hpchub import moments
from hpchub.hub.choosing import ChoosingSpawner, again
from hpchub.hub.form import ATTEMPT, Attempt, FormContent, by_group, is_field, read_fields
from hpchub.hub.page_texts import PageTexts
from hpchub.hub.saved_settings import LONGEST_NAME, SavedSettings, Setting
from hpchub.hub.start_error import StartError
from hpchub.messages import Message
from hpchub.model.choice import LONGEST, NAMES, ChoiceError, Complaint
from hpchub.model.notices import offer

OWN_FIELDS = frozenset({"profile", "without_settings", "again", "settings_name", "save_settings", "_xsrf"})
"""The fields of the form besides those of the profiles."""


@functools.cache
def _environment(paths: tuple[str, ...]) -> Environment:
    loader = FileSystemLoader(list(paths))
    return Environment(loader=loader, autoescape=select_autoescape(), extensions=[PageTexts])


class FormSpawner(ChoosingSpawner):
    """A spawner with a form, which offers the site's profiles."""

    @property
    def saved_settings(self) -> SavedSettings:
        """The user's saved settings."""
        self.runtime.open_ledger(self.user.db)
        return SavedSettings(self.user.db, self.user.name)

    async def get_options_form(self) -> str:
        """Render the form from the current profile list.

        A link can fill in the form: ``/hub/spawn?profile=KEY&cores=4``, or ``/hub/spawn?settings=NAME``. With
        ``/hub/spawn?profile=KEY&again=on``, it has the values of the last start if this was its profile.
        """
        profiles = self.profile_list
        if not profiles.profiles:
            raise StartError(
                Message("No job profile is available at the moment. Running notebooks go on. Please try again later."),
                reason="no_profiles",
                status_code=503,
            )
        await self.find_groups()
        content = self._content()
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
                chosen=next((key for key in (wanted, last, *offered) if key in offered), ""),
                unknown=unknown if is_gone or unknown.get("kind") == "no_settings" else {},
                saved=saved,
                time_text=moments.shown,
                target=self._argument("next"),
                notice=self.notice,
                availability_url=url_path_join(self.hub.base_url, "availability", self.user.escaped_name),
            )
        )

    async def availability(self, key: str, fields: dict[str, str], target: str = "") -> str:
        """Render when a choice would start, for the form. Empty if this is unknown or the choice is not valid.

        Args:
            key: The key of the profile.
            fields: The values of its fields.
            target: The page that opens after the start, or empty. The links in the answer keep it.
        """
        await self.find_groups()
        content = self._content()
        template = _environment(tuple(self.runtime.settings["template_paths"])).get_template("availability.html")
        return template.render(each=content.card(key, fields), time_text=moments.shown, target=target)

    def _content(self) -> FormContent:
        """Return the content of the form."""
        now, profiles, notices = time.time(), self.profile_list, self.runtime.notices_of_starts
        offers = [offer(notices, profile, now) for profile in profiles.profiles]
        return FormContent(profiles, offers, self.person, functools.cache(self.known), now)

    @property
    def attempt(self) -> Attempt:
        """What the user has just sent with the form, or an empty attempt."""
        return ATTEMPT.get() or Attempt()

    def _attempt(self) -> Attempt | None:
        """Return what the user has just sent, or the last choice if the scheduler has refused one of its values."""
        attempt, outcome = ATTEMPT.get(), self.outcome
        if outcome is None or not outcome.field:
            return attempt
        key, fields = self._last_start()
        if attempt is None:
            if self._argument("settings") or (self._argument("profile") and not self._is_again):
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
        """Return the profile and the values of the last start, or empty ones if there was none.

        JupyterHub also remembers a choice that was refused, whatever it contained.
        """
        last = self.orm_spawner.user_options or {}
        found = last.get("fields")
        values = found if isinstance(found, dict) else {}
        fields = {name: str(values[name])[:LONGEST] for name in NAMES if name in values}
        return str(last.get("profile") or "")[:LONGEST], fields

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
            fields = self._last_choice()[1] if self._is_again else self._fields_of_link
            return key, fields, {"kind": "link", "profile": key[:80]}
        return *self._last_choice(), {}

    @property
    def _fields_of_link(self) -> dict[str, str]:
        return {each: value for each in NAMES if (value := self._argument(each))}

    @property
    def _is_again(self) -> bool:
        """Whether a link, such as *Start again*, is about the last start: it has its profile and no fields."""
        is_last = self._argument("profile") == self._last_start()[0]
        return is_last and bool(self._argument("again")) and not self._fields_of_link

    def _last_choice(self) -> tuple[str, dict[str, str]]:
        """Return the profile and the valid values of the last start."""
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
