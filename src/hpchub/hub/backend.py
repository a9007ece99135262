"""How the driver of a session reaches what runs its job: the gate and the poller of a cluster, or a place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from hpchub.clusters.batch_script import render_batch_script
from hpchub.hub import job_events as events
from hpchub.model.entries import Cluster
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hpchub.clusters.poller import BulkPoller
    from hpchub.hub.runtime import Runtime
    from hpchub.hub.session_state import Context, SessionState


class Backend(ABC):
    """What runs a session's job.

    Args:
        context: The facts that do not change during the session.
        runtime: The objects that all spawners of the hub share.
    """

    def __init__(self, context: Context, runtime: Runtime) -> None:
        self.context = context
        self.runtime = runtime

    @property
    @abstractmethod
    def poller(self) -> BulkPoller:
        """The poller, which all sessions share.

        Raises:
            ValueError: The hub's settings do not contain the cluster.
        """

    @property
    @abstractmethod
    def timeout(self) -> float:
        """How long a submission may take that an earlier hub process began, in seconds.

        Raises:
            ValueError: The hub's settings do not contain the cluster.
        """

    @abstractmethod
    async def submit(self, state: SessionState, environment: Callable[[], Mapping[str, str]]) -> events.Event:
        """Submit the session's job, and return what happened.

        Args:
            state: The session. It has been saved already.
            environment: Returns the environment of the notebook server. It contains secrets.
        """

    async def cancel(self, *, session: str, job_id: str) -> None:
        """Ask once to cancel a job.

        Raises:
            Unanswered: The cancellation was not confirmed.
            ValueError: The hub's settings do not contain the cluster.
        """
        name = self.context.cluster.name
        await self.runtime.cancel(name, user=self.context.user, session=session, job_id=job_id)


class ClusterBackend(Backend):
    """A cluster with a batch scheduler."""

    @property
    def poller(self) -> BulkPoller:
        """See ``Backend``."""
        assert isinstance(self.context.cluster, Cluster)  # noqa: S101 the spawner chooses the class
        return self.runtime.poller(self.context.cluster.name, self.context.cluster.scheduler)

    @property
    def timeout(self) -> float:
        """See ``Backend``."""
        return self.runtime.gate(self.context.cluster.name).timeout

    async def submit(self, state: SessionState, environment: Callable[[], Mapping[str, str]]) -> events.Event:
        """Submit the batch script. The gate stores the environment in a file that only the user can read."""
        context, session = self.context, state.session
        assert isinstance(context.cluster, Cluster)  # noqa: S101 the spawner chooses the class
        script = render_batch_script(
            context.cluster,
            context.profile,
            session=session,
            hub=context.hub,
            username=context.user,
            template_dir=self.runtime.template_dir(),
        )
        try:
            answer = await self.runtime.gate(context.cluster.name).request(
                "submit", user=context.user, session=session, script=script, secrets=environment()
            )
        except Unanswered as error:
            return events.SubmissionUnanswered(str(error))
        return events.SubmissionAnswered(answer)
