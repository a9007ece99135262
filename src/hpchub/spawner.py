"""The profiles spawner: what a user may choose, checked whatever way the choice came in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from jupyterhub.spawner import Spawner
from traitlets import Unicode, default
from wrapspawner import ProfilesSpawner, WrapSpawner

from hpchub.batch import SPAWNERS, JobSpawner, StartError
from hpchub.model import Cluster, Profile
from hpchub.runtime import DEFAULT_SETTINGS, Runtime, runtime

if TYPE_CHECKING:
    from hpchub.profiles import ProfileList


class HPCProfilesSpawner(ProfilesSpawner):  # type: ignore[misc]
    """Offers the site's profiles and starts the one that was chosen as a batch job.

    A choice is ``{"profile": KEY}`` and nothing else, whether it comes from the form, the REST API, or an earlier
    start. What a session was granted stays with it: a profile that is changed or removed touches no running session.
    """

    settings_file = Unicode(DEFAULT_SETTINGS, config=True, help="The settings file that the role jupyterhub writes.")

    def __init__(self, **kwargs: Any) -> None:
        self._grant: dict[str, Any] = {}
        super().__init__(**kwargs)

    @property
    def runtime(self) -> Runtime:
        """What this hub's spawners share."""
        return runtime(self.settings_file)

    @property
    def profile_list(self) -> ProfileList:
        """The profiles of now; ``profiles``, wrapspawner's trait, is a fixed list and is not used.

        Raises:
            StartError: 503, there is no valid list.
        """
        try:
            return self.runtime.profiles
        except (OSError, ValueError) as error:
            self.log.error("There is no valid profile list: %s", error)
            raise StartError(
                "The list of job profiles cannot be read at the moment. Please try again in a few minutes.",
                reason="no_profiles",
                status_code=503,
            ) from None

    # -- the choice

    async def get_options_form(self) -> str:
        """The form, made anew each time: a profile that was added since is there."""
        environment = Environment(
            loader=FileSystemLoader(self.runtime.settings["template_paths"]), autoescape=select_autoescape()
        )
        profiles = self.profile_list
        chosen = str((self.orm_spawner.user_options or {}).get("profile"))
        if profiles.get(chosen) is None:
            chosen = profiles.profiles[0].key
        return environment.get_template("profiles_form.html").render(profiles=profiles.profiles, chosen=chosen)

    def options_from_form(self, formdata: dict[str, list[str]]) -> dict[str, Any]:
        """The choice that the form sent.

        Args:
            formdata: field name to list of values.

        Raises:
            StartError: 400 unless there is exactly one field ``profile`` with one value.
        """
        unknown = sorted(set(formdata) - {"profile", "_xsrf"})
        if unknown:
            raise StartError(
                f"The form has no field {unknown[0][:80]!r}; its one field is 'profile'.", reason="bad_choice"
            )
        return self._checked({"profile": (formdata.get("profile") or [""])[0]})

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        """A link starts nothing: a start needs the form."""
        raise StartError("A link cannot start a session. Choose a profile below and press Start.", reason="bad_choice")

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Any:
        """JupyterHub calls this at every start, whatever way the options came."""

        def check(spawner: HPCProfilesSpawner, options: dict[str, Any]) -> None:
            spawner._checked(options)

        return check

    def _checked(self, options: Any) -> dict[str, Any]:
        """The options, if they are a choice that the form offers.

        Raises:
            StartError: 400, with the valid keys.
        """
        keys = [profile.key for profile in self.profile_list.profiles]
        valid = f"The profiles are: {', '.join(keys)}."
        if not isinstance(options, dict) or set(options) != {"profile"}:
            raise StartError(
                f"Choose a profile, and nothing else, as in {{'profile': {keys[0]!r}}}. {valid}", reason="bad_choice"
            )
        key = options["profile"]
        if not isinstance(key, str) or key not in keys:
            raise StartError(f"There is no profile {str(key)[:80]!r}. {valid}", reason="bad_choice")
        return {"profile": key}

    # -- from the choice to the session's own spawner

    def select_profile(self, profile: str) -> None:
        """Grant a profile: wrapspawner's hook, which there keeps the last class for an unknown key.

        Raises:
            StartError: 400, the profile is not offered.
        """
        self._checked({"profile": profile})
        profiles = self.profile_list
        granted = profiles.require(profile)
        cluster = profiles.cluster(granted.cluster)
        assert cluster is not None  # noqa: S101 a list without it is not valid
        self._take(granted, cluster)

    def _take(self, profile: Profile, cluster: Cluster) -> None:
        self._grant = {"profile": profile.model_dump(mode="json"), "cluster": cluster.model_dump(mode="json")}
        self.child_profile = profile.key
        self.child_class = SPAWNERS[cluster.scheduler]
        # A new dictionary for each session: wrapspawner's own way shares one between all users of a profile.
        self.child_config = {"settings_file": self.settings_file, **self._grant}

    def construct_child(self) -> JobSpawner:
        """The session's own spawner, of the profile that was granted."""
        if self.child_spawner is None:
            if not self._grant:
                self.select_profile(self.user_options.get("profile", ""))
            # wrapspawner's second class would select again, by the options alone.
            WrapSpawner.construct_child(self)
        child: JobSpawner = self.child_spawner
        child.save = self._save
        return child

    def _save(self) -> None:
        """Write the session down between submission and start, so that a restart of the hub finds the job."""
        self.orm_spawner.state = self.get_state()
        self.db.commit()

    def report(self, port: int) -> bool:
        """Pass on the job's report of its port; see JobSpawner.report."""
        return isinstance(self.child_spawner, JobSpawner) and self.child_spawner.report(port)

    # -- what survives a restart of the hub: the grant and the job, never spawner configuration

    def get_state(self) -> dict[str, Any]:
        """Shape: ``{"grant": {"profile": …, "cluster": …}, "job": {"job_id": …, "session": …}}``, or empty."""
        state: dict[str, Any] = Spawner.get_state(self)
        if self.child_spawner is not None and self._grant:
            job = self.child_spawner.get_state()
            if job:
                state.update(grant=self._grant, job=job)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a session up again, through the model: what is not well formed there is not taken.

        Raises:
            ValueError: the saved grant is not one.
        """
        Spawner.load_state(self, state)
        if "grant" not in state:
            return
        self._take(
            Profile.model_validate(state["grant"]["profile"]),
            Cluster.model_validate(state["grant"]["cluster"]),
        )
        self.child_state = state["job"]
        self.construct_child()

    def clear_state(self) -> None:
        """Forget the session and what it was granted."""
        super().clear_state()
        self._grant = {}
