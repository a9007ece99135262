"""The spawner that offers the site's profiles. It checks every choice, wherever the request came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from sqlalchemy.exc import SQLAlchemyError
from wrapspawner import WrapSpawner

from hpchub.clusters.dask_jobs import dask_jobs
from hpchub.hub import outcome as outcomes
from hpchub.hub.cancel import cancel_start
from hpchub.hub.events import ORIGIN, StopRequested
from hpchub.hub.form_spawner import FormSpawner
from hpchub.hub.grant import read_grant, saved_job, write_grant
from hpchub.hub.job_spawner import spawner_class
from hpchub.hub.outcome import TRY_AGAIN, UNEXPECTED
from hpchub.hub.page_texts import reader
from hpchub.hub.ready_mail import ReadyMail
from hpchub.hub.remote_texts import APP
from hpchub.hub.resumption import Resumption
from hpchub.hub.service_stop import stop_session
from hpchub.hub.session_events import facts, restored
from hpchub.hub.session_facts import SessionFacts
from hpchub.hub.session_spawner import SessionSpawner
from hpchub.hub.start_error import StartError
from hpchub.hub.switch import LOST, Key, saved, smaller
from hpchub.messages import Message
from hpchub.messages import restored as restored_text
from hpchub.model.apps import APPS, DaskApp, apps_for
from hpchub.model.choice import permitted
from hpchub.model.directories import directories_file
from hpchub.model.places import PlaceBase
from hpchub.places import kind_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hpchub.hub.job_events import PortReported, ProblemReported
    from hpchub.model.apps import AnyApp
    from hpchub.model.entries import Cluster, Profile


IDLE_TOLERANCE = 5.0
"""How much earlier than its limit a session may report that it is idle, in seconds. Clocks differ."""


class HPCProfilesSpawner(SessionFacts, Resumption, ReadyMail, FormSpawner):
    """A spawner that offers the site's profiles and starts the chosen one as a batch job or in a place.

    A session keeps the profile that it was granted. Later changes of the profile list do not affect it.
    """

    token: str = ""
    """The hash of the server's API token. JupyterHub stores only hashes, so a restarted hub does not have the token."""

    unread: dict[str, Any]
    """The saved state of a session that this version of the hub cannot read, or empty."""

    stopped_by: str = ""
    """Who asked the hub to stop the session: a user, a service, or the hub itself (``drain``, ``idle``). Or empty."""

    stop_reason: str = ""
    """Why the hub itself stops the session, in plain words for the user, or empty."""

    def __init__(self, **kwargs: Any) -> None:
        self._grant: dict[str, Any] = {}
        self.unread = {}
        self._stopped = False
        self.session_files: dict[str, str] = {}
        super().__init__(**kwargs)

    @property
    def smaller_profiles(self) -> list[Profile]:
        """The profiles that the user can start while this start waits, or none if there is a second start already."""
        child = self.child_spawner
        if not isinstance(child, SessionSpawner) or self.runtime.replacements.partner(self.key):
            return []
        usable = permitted(self.profile_list.profiles, self.person)
        return [each for each in smaller(child.profile, usable) if self._permits(each.key)]

    def _permits(self, key: str) -> bool:
        try:
            self.checked({"profile": key})
        except StartError:
            return False
        return True

    def _settle(self) -> None:
        """Cancel the other start of a pair, because this session is ready. A session that was opened before goes on.

        The other server may be ready too. JupyterHub has not shown it to the user yet.
        """
        partner = self.runtime.replacements.partner(self.key)
        other = dict.get(self.user.spawners, partner.server) if partner else None
        if other is None or other.pending not in ("spawn", "check") or other.was_opened:
            self.runtime.replacements.remove(self.key)
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
        where = self.profile_list.where(granted)
        self._take(granted, where)
        self.session_files |= self._apps_file(granted) | directories_file(where.name, where.directories)

    def _take(self, profile: Profile, where: Cluster | PlaceBase) -> None:
        self._grant = write_grant(profile, where)
        self.child_profile = profile.key
        if isinstance(where, PlaceBase):
            self.child_class = kind_of(where.kind).spawner
        else:
            self.child_class = spawner_class(where.scheduler)
        # Each session gets its own copies. wrapspawner would share one dictionary between all users of a profile.
        self.child_config = {
            "settings_file": self.settings_file,
            "profile": profile.model_copy(deep=True),
            "cluster": where.model_copy(deep=True),
        }

    def construct_child(self) -> SessionSpawner:
        """Return the session's job spawner. Create it from the granted profile if necessary."""
        if self.child_spawner is None:
            self.runtime.open_ledger(self.user.db)
            if not self._grant:
                self._grant_choice(self.user_options)
            # ProfilesSpawner.construct_child would select the profile again, from the user options only.
            WrapSpawner.construct_child(self)
        child: SessionSpawner = self.child_spawner
        child.without_settings = bool((self.user_options or {}).get("without_settings"))
        child.session_files = self.session_files
        child.driver.save = self._save
        return child

    def _apps_file(self, profile: Profile) -> dict[str, str]:
        """Return the file with the applications of a new session, or nothing if it has none."""
        groups = [group.name for group in self.user.groups]
        apps = apps_for(self.profile_list.apps, profile.where, groups)
        if profile.place:  # a place has no scheduler
            apps = [app for app in apps if not isinstance(app, DaskApp)]
        if not apps:
            return {}
        translate = self.runtime.languages.in_language(reader().language).texts.gettext
        texts = {name: translate(text) for name, text in APP.items()}
        found = [app.for_session() | self._jobs_of(app, profile) for app in apps]
        return {APPS: json.dumps({"apps": found, "texts": texts})}

    def _jobs_of(self, app: AnyApp, profile: Profile) -> dict[str, Any]:
        """Return what an application needs to submit jobs of its own."""
        where = self.profile_list.where(profile)
        if not isinstance(app, DaskApp) or isinstance(where, PlaceBase):
            return {}
        jobs = dask_jobs(
            app,
            profile,
            where,
            hub=self.runtime.hub_name,
            username=self.user.name,
            template_dir=self.runtime.template_dir(),
        )
        return {"jobs": jobs}

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
        return self.child_spawner.session if isinstance(self.child_spawner, SessionSpawner) else ""

    def report(self, report: PortReported | ProblemReported) -> bool:
        """Accept the job's report if a start is pending; see ``JobDriver.report``."""
        child = self.child_spawner
        if not isinstance(child, SessionSpawner) or self.pending not in ("spawn", "check"):
            return False
        if not child.driver.report(report):
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
            self.admitted, self.session_files = "", {}
        if not self.session and not self._stopped:
            self._announce_refusal(failure)
        await self._start_failed(failure)
        raise failure

    async def _start_failed(self, failure: StartError) -> None:
        await self.memory.start_failed(self.child_spawner, failure)
        if failure.field:
            self.doubt_allocations(self.child_spawner.cluster.name)
        self.runtime.replacements.remove(self.key)

    def stop_requested(self, by: str) -> None:
        """Remember and announce who asked the hub to stop the session."""
        self.stopped_by = by
        if self.session:
            session = facts(self.child_spawner.driver.state)
            self.runtime.events.emit(StopRequested(session=session, origin=ORIGIN.get()))

    async def poll(self) -> int | None:
        """Return the exit code of a session that is over, else None. See ``SessionSpawner.poll``.

        JupyterHub could not save the end of a session while its database is at fault, so it is reported later. If
        the saved state of a session cannot be read, its job may still run.
        """
        if self.runtime.guard.fault or self.unread:
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

    def end_idle(self, idle: float, delete_route: Callable[[Any, str], Awaitable[None]]) -> bool:
        """Stop the session because nobody uses it, and return whether it has an idle limit that it has reached.

        Args:
            idle: For how long nobody has used it, as the session reports, in seconds.
            delete_route: Removes a user's server from the proxy: JupyterHub's ``Proxy.delete_user``.
        """
        limit = (self.job or {}).get("idle_limit")
        if limit is None or idle < limit - IDLE_TOLERANCE or not self.ready or self.pending:
            return False
        reason = outcomes.idle(limit)
        stop = stop_session(self, reason, "idle", delete_route)
        self.runtime.background("Cannot stop an idle session", stop)
        return True

    def run_post_stop_hook(self) -> Any:
        """Remember how the session ended, forget its pair, and delete the server's API token.

        A restarted JupyterHub no longer has the token and cannot delete it.
        """
        self.runtime.replacements.remove(self.key)
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

        Shape: ``{"grant": …, "job": …, "token": HASH, "mail": True, "mail_language": CODE, "outcome": …, "notice":
        TEXT, "notice_message": MESSAGE}``. The keys of the mail exist only if the user has asked for one. For
        ``grant``, see ``hpchub.hub.grant``, for ``job`` ``SessionSpawner.get_state``, and for ``outcome``
        ``hpchub.hub.outcome``. The outcome and the notice also exist without a session. A state that this version
        cannot read stays as it is.
        """
        if self.unread:
            return dict(self.unread)
        state: dict[str, Any] = Spawner.get_state(self)
        if outcome := self.outcome:
            state["outcome"] = outcome.saved
        if self.notice:
            state["notice"] = str(self.notice)
            if isinstance(self.notice, Message):
                state["notice_message"] = self.notice.saved
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

        If the saved state is not valid, perhaps because a later version saved it, the error is logged. The session is
        then unknown: JupyterHub keeps it and its route until somebody stops it. This method does not raise an
        exception, because that would prevent JupyterHub from starting.
        """
        Spawner.load_state(self, state)
        self.notice = restored_text(str(state.get("notice", "")), state.get("notice_message"))
        if "grant" not in state:
            return
        self.token = str(state.get("token", ""))
        try:
            self._take(*read_grant(state["grant"]))
            self.child_state = state["job"]
            child = self.construct_child()
            child.record()
        except SQLAlchemyError:  # the state is readable, and the hub starts again
            raise
        except Exception as error:  # noqa: BLE001 see above
            self.log.error(
                "%s: cannot read the saved state of the session, so its state is unknown until it is stopped: %s",
                self._log_name,
                error,
            )
            self.set_trait("child_spawner", None)
            self._grant, self.unread = {}, dict(state)
            return
        self.wants_mail = state.get("mail") is True
        self.mail_language = str(state.get("mail_language", ""))
        first = state.get("replaces")
        if isinstance(first, str) and not self.runtime.replacements.add(Key(self.user.name, first), self.key):
            self.log.warning("%s: the saved pair with %r is not valid any more", self._log_name, first)
        if child.session:
            self.runtime.events.emit(restored(child.driver.state))

    def clear_state(self) -> None:
        """Forget the session and its grant.

        A session that cannot be read is over from now on. The hub finds its job by the session's name, and cancels it.
        """
        if job := saved_job(self.unread):
            self.runtime.open_ledger(self.user.db)
            self.runtime.ledger.end(job.session, user=self.user.name, cluster=job.where, job_id=job.job_id)
        super().clear_state()
        self._grant, self.unread = {}, {}
        self.token = self.admitted = ""
