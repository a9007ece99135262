"""The spawner that offers the site's profiles. It checks every choice, wherever the request came from."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from sqlalchemy.exc import SQLAlchemyError
from traitlets import TraitError
from wrapspawner import WrapSpawner

from hpchub.hub import outcome as outcomes
from hpchub.hub.cancel import cancel_start
from hpchub.hub.choosing import ChoosingSpawner
from hpchub.hub.events import ORIGIN, StopRequested
from hpchub.hub.job_spawner import JobSpawner, spawner_class
from hpchub.hub.outcome import TRY_AGAIN, UNEXPECTED
from hpchub.hub.page_texts import reader
from hpchub.hub.progress import PREPARING, Progress, progress_of
from hpchub.hub.ready_mail import ReadyMail
from hpchub.hub.service_stop import stop_session
from hpchub.hub.session_events import facts, restored
from hpchub.hub.start_error import StartError
from hpchub.hub.support import HelpRequest, help_request
from hpchub.hub.switch import LOST, Key, saved, smaller
from hpchub.model.entries import Cluster, Profile
from hpchub.units import format_runtime, seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hpchub.hub.job_events import PortReported, ProblemReported


IDLE_TOLERANCE = 5.0
"""How much earlier than its limit a session may report that it is idle, in seconds. Clocks differ."""
RETRY = 10.0
"""The wait between two attempts to restore a session after an unexpected error, in seconds."""


class HPCProfilesSpawner(ReadyMail, ChoosingSpawner):
    """A spawner that offers the site's profiles and starts the chosen one as a batch job.

    A session keeps the profile that it was granted. Later changes of the profile list do not affect it.
    """

    token: str = ""
    """The hash of the server's API token. JupyterHub stores only hashes, so a restarted hub does not have the token."""

    stopped_by: str = ""
    """Who asked the hub to stop the session: a user, a service, or the hub itself (``drain``, ``idle``). Or empty."""

    stop_reason: str = ""
    """Why the hub itself stops the session, in plain words for the user, or empty."""

    _spawn_future: asyncio.Future[None] | None = None

    def __init__(self, **kwargs: Any) -> None:
        self._grant: dict[str, Any] = {}
        self._stopped = False
        super().__init__(**kwargs)

    @property
    def notices(self) -> list[dict[str, Any]]:
        """The drains and announcements that the pages show now; see ``Notice.public``."""
        now = time.time()
        return [notice.public(now) for notice in self.runtime.notices_of_starts if notice.is_shown(now)]

    @property
    def session_notices(self) -> list[dict[str, Any]]:
        """Those of the notices that concern the session: the announcements, and the drains of its profile."""
        child, now = self.child_spawner, time.time()
        profile = child.profile if isinstance(child, JobSpawner) else None
        return [
            notice.public(now)
            for notice in self.runtime.notices_of_starts
            if notice.is_shown(now) and (notice.drain is None or (profile is not None and notice.covers(profile)))
        ]

    @property
    def smaller_profiles(self) -> list[Profile]:
        """The profiles that the user can start while this start waits, or none if there is a second start already."""
        child = self.child_spawner
        if not isinstance(child, JobSpawner) or self.runtime.replacements.partner(self.key):
            return []
        return [each for each in smaller(child.profile, self.profile_list.profiles) if self._permits(each.key)]

    def _permits(self, key: str) -> bool:
        try:
            self.checked({"profile": key})
        except StartError:
            return False
        return True

    def _settle(self) -> None:
        """Cancel the other start of a pair, because this session is ready."""
        partner = self.runtime.replacements.partner(self.key)
        other = dict.get(self.user.spawners, partner.server) if partner else None
        if other is None or other.pending not in ("spawn", "check"):
            return
        other.stop_reason = LOST
        self.log.info("%s: cancelling the other start of its user, %s", self._log_name, other._log_name)  # noqa: SLF001
        self.runtime.background("Cannot cancel the other start of a user", cancel_start(self.user, other))

    @property
    def held_profile(self) -> str:
        """The key of the profile of the current session or of the start that is being prepared, or empty."""
        return str(self.child_spawner.profile.key) if self.session else self.admitted

    # -- from the choice to the session's own spawner

    def select_profile(self, profile: str) -> None:
        """Grant a profile with the defaults of its fields to the session.

        This overrides wrapspawner's hook, which silently keeps the previous class if the key is unknown.

        Raises:
            StartError: The profile is not offered (400).
        """
        self._grant_choice({"profile": profile})

    def _grant_choice(self, options: Any) -> None:
        granted = self.granted(options)
        cluster = self.profile_list.cluster(granted.cluster)
        assert cluster is not None  # noqa: S101 a valid list contains the cluster
        self._take(granted, cluster)

    def _take(self, profile: Profile, cluster: Cluster) -> None:
        self._grant = {"profile": profile.model_dump(mode="json"), "cluster": cluster.model_dump(mode="json")}
        self.child_profile = profile.key
        self.child_class = spawner_class(cluster.scheduler)
        # Each session gets its own copies. wrapspawner would share one dictionary between all users of a profile.
        self.child_config = {
            "settings_file": self.settings_file,
            "profile": profile.model_copy(deep=True),
            "cluster": cluster.model_copy(deep=True),
        }

    def construct_child(self) -> JobSpawner:
        """Return the session's job spawner. Create it from the granted profile if necessary."""
        if self.child_spawner is None:
            self.runtime.open_ledger(self.user.db)
            if not self._grant:
                self._grant_choice(self.user_options)
            # ProfilesSpawner.construct_child would select the profile again, from the user options only.
            WrapSpawner.construct_child(self)
        child: JobSpawner = self.child_spawner
        child.without_settings = bool((self.user_options or {}).get("without_settings"))
        child.driver.save = self._save
        return child

    def _save(self) -> None:
        """Save the session in the database, so that a restarted hub can continue it."""
        if self.api_token and not self.token:
            self.token = orm.APIToken.find(self.user.db, self.api_token).hashed
        self.orm_spawner.state = self.get_state()
        try:
            self.child_spawner.record()
            self.user.db.commit()
        except SQLAlchemyError:
            self.user.db.rollback()
            raise

    @property
    def session(self) -> str:
        """The name of the current session in any state, or empty."""
        return self.child_spawner.session if isinstance(self.child_spawner, JobSpawner) else ""

    def report(self, report: PortReported | ProblemReported) -> bool:
        """Accept the job's report if a start is pending; see ``JobDriver.report``."""
        child = self.child_spawner
        if not (isinstance(child, JobSpawner) and self.pending in ("spawn", "check") and child.driver.report(report)):
            return False
        self.notice = getattr(report, "notice", "")
        if self.notice:
            self._save()
        return True

    # -- the start and the end

    async def start(self) -> str:
        """Start the session. If the start fails, remember why.

        Raises:
            StartError: The start has failed. Pages show only this exception's message, never one of Python's.
        """
        self._stopped, self.stopped_by, self.stop_reason, self.wants_mail = False, "", "", False
        self.memory.forget()
        try:
            url = str(await super().start())
            # JupyterHub would cancel the job if it could not save the server's address.
            await self.runtime.guard.hold()
            return url
        except StartError as error:
            failure = error
        except Exception:
            self.log.exception("%s: unexpected error during the start", self._log_name)
            failure = StartError(UNEXPECTED, reason="unexpected", status_code=500)
            failure.advice = TRY_AGAIN
        finally:
            self.admitted = ""
        if not self.session and not self._stopped:
            self._announce_refusal(failure)
        await self._start_failed(failure)
        raise failure

    async def _start_failed(self, failure: StartError) -> None:
        await self.memory.start_failed(self.child_spawner, failure)
        if failure.field:
            self.doubt_allocations(self.child_spawner.cluster.name)

    def stop_requested(self, by: str) -> None:
        """Remember and announce who asked the hub to stop the session."""
        self.stopped_by = by
        if self.session:
            session = facts(self.child_spawner.driver.state)
            self.runtime.events.emit(StopRequested(session=session, origin=ORIGIN.get()))

    async def poll(self) -> int | None:
        """Return the exit code of a session that is over, else None. See ``JobSpawner.poll``.

        JupyterHub could not save the end of a session while its database is at fault, so it is reported later.
        """
        if self.runtime.guard.fault:
            return None
        status: int | None = await super().poll()
        return status

    async def stop(self, now: bool = False) -> None:
        """Stop the session. JupyterHub calls this method only if the session has not ended by itself.

        It also calls it if it cannot save a start. The job then goes on, and the restarted hub continues the start.
        """
        await self.runtime.guard.hold()
        self._stopped = True
        await super().stop(now)

    def add_poll_callback(self, callback: Any, *args: Any, **kwargs: Any) -> None:
        """Add a callback for the end of the session. JupyterHub calls this method when the server is ready."""
        super().add_poll_callback(callback, *args, **kwargs)
        if self.session:
            self.child_spawner.driver.opened()
            self.send_ready_mail()
            self._settle()

    @property
    def help_request(self) -> HelpRequest | None:
        """The request for help after the last session, with the report, or None without an outcome."""
        if (known := self.outcome) is None:
            return None
        settings = self.runtime.settings
        return help_request(
            known,
            service=settings["service_name"],
            user=self.user.name,
            support=settings["support"],
            form=settings["support_form"],
            translate=reader().texts.gettext,
        )

    @property
    def start_progress(self) -> Progress:
        """The progress of the start."""
        child = self.child_spawner
        return progress_of(child.driver.state) if isinstance(child, JobSpawner) else PREPARING

    @property
    def is_serving(self) -> bool:
        """Whether the notebook server is ready, even if a restarted hub has not checked it yet."""
        child = self.child_spawner
        was_ready = isinstance(child, JobSpawner) and bool(child.driver.state.host)
        return self.ready or (was_ready and self.pending in ("spawn", "check"))

    @property
    def ends_at(self) -> float | None:
        """When the session reaches its time limit, in seconds since 1970, or None if this is not known."""
        return self.child_spawner.driver.state.ends_at if isinstance(self.child_spawner, JobSpawner) else None

    @property
    def job(self) -> dict[str, Any] | None:
        """What the session was granted and where it runs, or None if there is no session.

        Shape: ``{"id", "cluster", "node", "profile", "profile_name", "cores", "memory", "gpus", "runtime",
        "idle_limit"}``. The memory is in bytes, times are in seconds. ``idle_limit`` is null without a limit, and the
        node and the id are empty until they are known.
        """
        if not self.session or not isinstance(self.child_spawner, JobSpawner):
            return None
        state, profile = self.child_spawner.driver.state, self.child_spawner.profile
        return {
            "id": state.job_id,
            "cluster": self.child_spawner.cluster.name,
            "node": state.node or (state.job.host if state.job else "") or state.host,
            "profile": profile.key,
            "profile_name": profile.display_name,
            "cores": profile.cores,
            "memory": profile.memory_mib * 1024 * 1024,
            "gpus": int(profile.gpus),
            "runtime": profile.runtime_seconds,
            "idle_limit": seconds(profile.idle_limit) if profile.idle_limit else None,
        }

    def end_idle(self, idle: float, delete_route: Callable[[Any, str], Awaitable[None]]) -> bool:
        """Stop the session because nobody uses it, and return whether it has an idle limit that it has reached.

        Args:
            idle: For how long nobody has used it, as the session reports, in seconds.
            delete_route: Removes a user's server from the proxy: JupyterHub's ``Proxy.delete_user``.
        """
        limit = (self.job or {}).get("idle_limit")
        if limit is None or idle < limit - IDLE_TOLERANCE or not self.ready or self.pending:
            return False
        reason = outcomes.idle(format_runtime(limit))
        stop = stop_session(self, reason, "idle", delete_route)
        self.runtime.background("Cannot stop an idle session", stop)
        return True

    @property
    def times(self) -> dict[str, float | None] | None:
        """When the session was requested, submitted, started and ready, or None if there is no session."""
        if not self.session or not isinstance(self.child_spawner, JobSpawner):
            return None
        state = self.child_spawner.driver.state
        return {name: getattr(state, name) or None for name in ("requested", "submitted", "started", "ready")}

    # -- after a restart of the hub

    async def get_url(self) -> str:
        """Wait until the restored session's server can be reached or the session has ended. Return the server's URL.

        A restarted JupyterHub calls this method for each session that has not ended. Afterwards, it cancels a job if
        the server does not answer within a time limit. This method therefore waits as long as necessary. Meanwhile,
        JupyterHub keeps the session in the state "check". The method also marks the session as a pending start, so that
        its page shows the progress and its user can stop it.
        """
        known: str = self.server.url
        reached: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._spawn_pending = True
        self._spawn_future = asyncio.ensure_future(self._resume(reached))
        self._spawn_future.add_done_callback(self._resumed)
        url = urlsplit(await reached)
        if not url.netloc:
            # This method cannot report that the session has ended. JupyterHub ends a session if its server does not
            # answer, so return an address that never answers.
            self.http_timeout = 0
            self.server.connect_url = "http://127.0.0.1:1"
            return known
        self.http_timeout = 3600  # generous, because the server has just answered
        self.server.proto, self.server.ip, self.server.port = url.scheme, url.hostname, url.port
        self._save()
        return str(self.server.url)

    async def _resume(self, reached: asyncio.Future[str]) -> None:
        """Run the pending start of a restored session.

        Args:
            reached: Receives the server's URL, or an empty string if the session has ended.
        """
        starting = not self.child_spawner.driver.state.host
        try:
            url = await self._adopt()
        except asyncio.CancelledError:
            if reached.cancelled():  # the hub stops, the session does not
                raise
            self.memory.stopped(self.child_spawner, self.stopped_by, starting=starting)
            self.child_spawner.abandon()
            url = ""
        except StartError as error:
            self.log.error("%s: %s", self._log_name, error)
            if starting:
                await self._start_failed(error)
            else:
                self.memory.ended(self.child_spawner)
            reached.set_result("")
            raise
        reached.set_result(url)
        if not starting:
            # JupyterHub compares the proxy's routes after its check, and then not again for a minute. The session must
            # be ready by then, so do not delay it here.
            return
        while self._check_pending:  # noqa: ASYNC110 JupyterHub only offers a flag
            await asyncio.sleep(0.05)
        if self.server is not None:
            await self.user.settings["proxy"].add_user(self.user, self.name)

    async def _adopt(self) -> str:
        """Restore the session. Retry after unexpected errors, because they do not mean that the job has ended."""
        while True:
            try:
                return str(await self.child_spawner.adopt())
            except StartError:
                raise
            except Exception:
                self.log.exception("%s: cannot restore session %s; trying again", self._log_name, self.session)
                await asyncio.sleep(RETRY)

    def _resumed(self, task: asyncio.Future[None]) -> None:
        # JupyterHub does the same at the end of a start. Its pages show the exception of a failed start.
        self._spawn_pending = False
        if task.cancelled() or task.exception() is None:
            self._spawn_future = None

    def run_post_stop_hook(self) -> Any:
        """Remember how the session ended, and delete the server's API token.

        A restarted JupyterHub no longer has the token and cannot delete it.
        """
        if self.session and not self.memory.knows(self.child_spawner):
            self._record_end()
        if self.token:
            self.user.db.query(orm.APIToken).filter_by(hashed=self.token).delete()
        return super().run_post_stop_hook()

    def _record_end(self) -> None:
        start = self._spawn_future
        starting = not self.child_spawner.driver.state.host
        if start is not None and not start.done():
            # The session's own part of the start was successful. Then JupyterHub tried to reach the server.
            self.memory.unreachable(self.child_spawner)
        elif self._stopped or (starting and self.stopped_by):
            self.memory.stopped(self.child_spawner, self.stopped_by, starting=starting, reason=self.stop_reason)
        else:
            self.memory.ended(self.child_spawner)

    # -- state that survives a restart of the hub: the grant and the job, but no spawner configuration

    def get_state(self) -> dict[str, Any]:
        """Return the state to save.

        Shape: ``{"grant": {"profile": …, "cluster": …}, "job": …, "token": HASH, "mail": True, "mail_language": CODE,
        "outcome": …, "notice": TEXT}``. The keys of the mail exist only if the user has asked for one. For ``job``, see
        ``JobSpawner.get_state``. For ``outcome``, see ``hpchub.hub.outcome``. It and the notice also exist without a
        session.
        """
        state: dict[str, Any] = Spawner.get_state(self)
        if outcome := self.outcome:
            state["outcome"] = outcome.saved
        if self.notice:
            state["notice"] = self.notice
        if self.child_spawner is not None and self._grant:
            job = self.child_spawner.get_state()
            if job:
                state.update(grant=self._grant, job=job, token=self.token)
                if self.wants_mail:
                    state.update(mail=True, mail_language=self.mail_language)
                state.update(saved(self.runtime.replacements, self.key))
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a session. The model validates the saved grant.

        If the saved state is not valid, the error is logged and there is no session. This method does not raise an
        exception, because that would prevent JupyterHub from starting.
        """
        Spawner.load_state(self, state)
        self.notice = str(state.get("notice", ""))
        if "grant" not in state:
            return
        try:
            self._take(
                Profile.model_validate(state["grant"]["profile"]),
                Cluster.model_validate(state["grant"]["cluster"]),
            )
            self.child_state = state["job"]
            child = self.construct_child()
            child.record()
        except (KeyError, TypeError, ValueError, TraitError) as error:
            self.log.error("%s: cannot restore the session, its saved state is not valid: %s", self._log_name, error)
            self.clear_state()
            return
        self.token = str(state.get("token", ""))
        self.wants_mail = state.get("mail") is True
        self.mail_language = str(state.get("mail_language", ""))
        if isinstance(first := state.get("replaces"), str):
            self.runtime.replacements.add(Key(self.user.name, first), self.key)
        if child.session:
            self.runtime.events.emit(restored(child.driver.state))

    def clear_state(self) -> None:
        """Forget the session and its grant."""
        if self.session:
            self.runtime.replacements.remove(self.key)
        super().clear_state()
        self._grant = {}
        self.token = self.admitted = ""
