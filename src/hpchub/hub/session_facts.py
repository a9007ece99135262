"""What the pages and the API show of a session: its job, its times, and the notices that concern it."""

from __future__ import annotations

import time
from typing import Any

from jupyterhub.utils import url_escape_path, url_path_join

from hpchub.hub.outcome import place_name
from hpchub.hub.page_texts import reader
from hpchub.hub.progress import PREPARING, Progress, progress_of
from hpchub.hub.session_spawner import SessionSpawner
from hpchub.hub.support import HelpRequest, help_request
from hpchub.units import seconds


class SessionFacts:
    """A mixin for the spawner, with the facts of its session that others may read."""

    @property
    def notices(self: Any) -> list[dict[str, Any]]:
        """The drains and announcements that the pages show now; see ``Notice.public``."""
        now = time.time()
        return [notice.public(now) for notice in self.runtime.notices_of_starts if notice.is_shown(now)]

    @property
    def session_notices(self: Any) -> list[dict[str, Any]]:
        """Those of the notices that concern the session: the announcements, and the drains of its profile."""
        child, now = self.child_spawner, time.time()
        profile = child.profile if isinstance(child, SessionSpawner) else None
        return [
            notice.public(now)
            for notice in self.runtime.notices_of_starts
            if notice.is_shown(now) and (notice.drain is None or (profile is not None and notice.covers(profile)))
        ]

    @property
    def details_url(self: Any) -> str:
        """The address of the page that explains how the last session ended."""
        return str(
            url_path_join(self.hub.base_url, "spawn-pending", self.user.escaped_name, url_escape_path(self.name))
        )

    @property
    def help_request(self: Any) -> HelpRequest | None:
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
    def start_progress(self: Any) -> Progress:
        """The progress of the start."""
        child = self.child_spawner
        return progress_of(child.driver.state) if isinstance(child, SessionSpawner) else PREPARING

    @property
    def is_serving(self: Any) -> bool:
        """Whether the notebook server is ready, even if a restarted hub has not checked it yet."""
        child = self.child_spawner
        was_ready = isinstance(child, SessionSpawner) and bool(child.driver.state.host)
        return self.ready or (was_ready and self.pending in ("spawn", "check"))

    @property
    def was_opened(self: Any) -> bool:
        """Whether the user could open the notebook server, even if a restarted hub has not checked it yet."""
        child = self.child_spawner
        return isinstance(child, SessionSpawner) and bool(child.driver.state.ready)

    @property
    def ends_at(self: Any) -> float | None:
        """When the session reaches its time limit, in seconds since 1970, or None if this is not known."""
        return self.child_spawner.driver.state.ends_at if isinstance(self.child_spawner, SessionSpawner) else None

    @property
    def job(self: Any) -> dict[str, Any] | None:
        """What the session was granted and where it runs, or None if there is no session.

        Shape: ``{"id", "cluster", "place", "node", "profile", "profile_name", "nodes", "cores", "memory", "gpus",
        "runtime", "idle_limit"}``. Cores, memory and GPUs are those of each node, and ``node`` is the first one. The
        memory is in bytes, times are in seconds. ``place`` is empty in a cluster with a batch
        scheduler, ``idle_limit`` is null without a limit, and the node and the id are empty until they are known.
        """
        if not self.session or not isinstance(self.child_spawner, SessionSpawner):
            return None
        state, profile = self.child_spawner.driver.state, self.child_spawner.profile
        return {
            "id": state.job_id,
            "cluster": self.child_spawner.cluster.name,
            "place": place_name(self.child_spawner.cluster),
            "node": state.node or (state.job.host if state.job else "") or state.host,
            "profile": profile.key,
            "profile_name": profile.display_name,
            "nodes": profile.nodes,
            "cores": profile.cores,
            "memory": profile.memory_mib * 1024 * 1024,
            "gpus": int(profile.gpus),
            "runtime": profile.runtime_seconds,
            "idle_limit": seconds(profile.idle_limit) if profile.idle_limit else None,
        }

    @property
    def times(self: Any) -> dict[str, float | None] | None:
        """When the session was requested, submitted, started and ready, or None if there is no session."""
        if not self.session or not isinstance(self.child_spawner, SessionSpawner):
            return None
        state = self.child_spawner.driver.state
        return {name: getattr(state, name) or None for name in ("requested", "submitted", "started", "ready")}
