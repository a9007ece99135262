"""The profiles spawner: what a user may choose, checked whatever way the choice came in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, select_autoescape
from jupyterhub import orm
from jupyterhub.spawner import Spawner
from traitlets import TraitError, Unicode, default
from wrapspawner import ProfilesSpawner, WrapSpawner

from hpchub.hub.job_spawner import SPAWNERS, JobSpawner, StartError
from hpchub.hub.runtime import DEFAULT_SETTINGS, Runtime, runtime
from hpchub.model.entries import Cluster, Profile

if TYPE_CHECKING:
    from hpchub.model.profile_list import ProfileList


RETRY = 10.0
"""Seconds after which a session is taken up again when that failed for a reason that is nobody's end."""


class HPCProfilesSpawner(ProfilesSpawner):  # type: ignore[misc]
    """Offers the site's profiles and starts the one that was chosen as a batch job.

    A choice is ``{"profile": KEY}`` and nothing else, whether it comes from the form, the REST API, or an earlier
    start. What a session was granted stays with it: a profile that is changed or removed touches no running session.
    """

    settings_file = Unicode(DEFAULT_SETTINGS, config=True, help="The settings file that the role jupyterhub writes.")

    token: str = ""
    """The hash of the session's own token, as the hub's database has it; a restart loses the token itself."""

    _spawn_future: asyncio.Future[None] | None = None

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
        """Write the session down: a restart of the hub goes on from here."""
        if self.api_token and not self.token:
            self.token = orm.APIToken.find(self.db, self.api_token).hashed
        self.orm_spawner.state = self.get_state()
        self.db.commit()

    @property
    def session(self) -> str:
        """The name of the session of now, whatever it waits for, or empty."""
        return self.child_spawner.session if isinstance(self.child_spawner, JobSpawner) else ""

    def report(self, port: int) -> bool:
        """Take the job's report of its port, while a start waits for it; see JobSpawner.report."""
        child = self.child_spawner
        return isinstance(child, JobSpawner) and self.pending in ("spawn", "check") and child.report(port)

    # -- after a restart of the hub

    async def get_url(self) -> str:
        """Where the session's server is: JupyterHub asks when it has restarted and the session is not over.

        JupyterHub would cancel a job whose server it does not reach within a time. So this returns when the server is
        there or the session is over, however long either takes; for that long JupyterHub keeps the session as one that
        is being checked. It is made a pending start, too: its page shows progress, and its user can stop it.
        """
        known: str = self.server.url
        reached: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._spawn_pending = True
        self._spawn_future = asyncio.ensure_future(self._resume(reached))
        self._spawn_future.add_done_callback(self._resumed)
        url = urlsplit(await reached)
        if not url.netloc:
            # JupyterHub has no word for "it is over" here, but ends what does not answer. Nothing does, there.
            self.http_timeout = 0
            self.server.connect_url = "http://127.0.0.1:1"
            return known
        self.http_timeout = 3600  # it has just answered
        self.server.proto, self.server.ip, self.server.port = url.scheme, url.hostname, url.port
        self._save()
        return str(self.server.url)

    async def _resume(self, reached: asyncio.Future[str]) -> None:
        """The pending start that pages see; sets the URL, or nothing when the session is over."""
        starting = not self.child_spawner.notebook_host
        try:
            url = await self._adopt()
        except asyncio.CancelledError:
            if reached.cancelled():  # the hub ends, not the session
                raise
            self.child_spawner.abandon()
            url = ""
        except StartError as error:
            self.log.error("%s: %s", self._log_name, error)
            reached.set_result("")
            raise
        reached.set_result(url)
        if not starting:
            # Ready when JupyterHub's check is, which then compares the proxy's routes, and not again for a minute.
            return
        while self._check_pending:  # noqa: ASYNC110 JupyterHub's own flag
            await asyncio.sleep(0.05)
        if self.server is not None:
            await self.user.settings["proxy"].add_user(self.user, self.name)

    async def _adopt(self) -> str:
        while True:
            try:
                return str(await self.child_spawner.adopt())
            except StartError:
                raise
            except Exception:
                self.log.exception("%s: trying again to take up session %s", self._log_name, self.session)
                await asyncio.sleep(RETRY)

    def _resumed(self, task: asyncio.Future[None]) -> None:
        # As JupyterHub does at the end of a start: the exception stays, for the pages.
        self._spawn_pending = False
        if task.cancelled() or task.exception() is None:
            self._spawn_future = None

    def run_post_stop_hook(self) -> Any:
        """Remove the session's token; JupyterHub does it itself, unless it was restarted and has forgotten it."""
        if self.token:
            self.db.query(orm.APIToken).filter_by(hashed=self.token).delete()
        return super().run_post_stop_hook()

    # -- what survives a restart of the hub: the grant and the job, never spawner configuration

    def get_state(self) -> dict[str, Any]:
        """Shape: ``{"grant": {"profile": …, "cluster": …}, "job": …, "token": HASH}``, or empty; see JobSpawner."""
        state: dict[str, Any] = Spawner.get_state(self)
        if self.child_spawner is not None and self._grant:
            job = self.child_spawner.get_state()
            if job:
                state.update(grant=self._grant, job=job, token=self.token)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a session up again, through the model: what is not well formed there is not taken, and the log says so.

        Never raises: JupyterHub would not start at all for the sake of one session.
        """
        Spawner.load_state(self, state)
        if "grant" not in state:
            return
        try:
            self._take(
                Profile.model_validate(state["grant"]["profile"]),
                Cluster.model_validate(state["grant"]["cluster"]),
            )
            self.child_state = state["job"]
            self.construct_child()
        except (KeyError, TypeError, ValueError, TraitError) as error:
            self.log.error("%s: the saved session is not one: %s", self._log_name, error)
            self.clear_state()
            return
        self.token = str(state.get("token", ""))

    def clear_state(self) -> None:
        """Forget the session and what it was granted."""
        super().clear_state()
        self._grant = {}
        self.token = ""
