"""The spawner of a session in a pod: KubeSpawner describes the pod and the volume, and hpchub creates them.

The pod comes first, and its Secret second. The pod owns the Secret, so Kubernetes deletes both together, even if the
hub is killed in between. A pod that never gets its Secret never starts; see ``SECRET_DELAY`` in ``terms``.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kubespawner import KubeSpawner
from traitlets import Unicode

from hpchub.hub import job_actions as actions
from hpchub.hub.refusals import ADVICE, refused_value
from hpchub.messages import Message
from hpchub.places.interface import LABEL_SESSION, Refused, labels
from hpchub.places.kubernetes.connection import KubernetesConnection, Refusal
from hpchub.places.kubernetes.pods import CLAIM, pod_traits
from hpchub.places.kubernetes.terms import TELL_SERVICE
from hpchub.places.spawner import PlaceSpawner
from hpchub.schedulers import Unanswered, job_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.model.places import KubernetesPlace


class KubernetesSpawner(PlaceSpawner, KubeSpawner):  # type: ignore[misc]
    """A spawner that runs one session in a pod."""

    cluster: KubernetesPlace
    pvc_name_template = Unicode(CLAIM, help="The name of a user's claim. A change would give users new, empty homes.")

    @property
    def ports(self) -> tuple[int, int]:
        """The port of the server, the first one of the site's range. Each pod has a network of its own."""
        first, _ = super().ports
        return first, first

    def get_env(self) -> dict[str, str]:
        """Return the environment in the description of the pod. It contains no secrets."""
        name = self.user.name
        return {
            "HOME": self.home,
            "USER": name,
            "LOGNAME": name,
            "SHELL": "/bin/bash",
            "JUPYTER_IMAGE_SPEC": self.image,
        }

    @property
    def home(self) -> str:
        """The home directory in the pod."""
        return self.cluster.home.replace("{user}", self.user.name)

    async def create(self, session: str, secrets: Mapping[str, str]) -> None:
        """Create the volume of the user if it does not exist, the pod, and its Secret."""
        connection, job_id = self._kubernetes, job_name(session)
        account = await self.account()
        marks = labels(self.runtime.hub_name, self.user.name, session)
        traits = pod_traits(
            self.cluster,
            self.profile,
            job_id=job_id,
            session=session,
            home=self.home,
            ids=(account.uid, account.gid, account.groups),
        )
        for name, value in traits.items():
            setattr(self, name, value)
        self.extra_labels, self.extra_annotations = {LABEL_SESSION: session}, marks
        self.pod_name, self.namespace, self.port = job_id, self.cluster.namespace, self.ports[0]
        self.api = connection.api
        with self._explained():
            if self.cluster.storage:
                await connection.ensure_claim(self.get_pvc_manifest())
            uid = await connection.create_pod(job_id, await self.get_pod_manifest())
        try:
            await connection.create_secret(job_id, uid, await self.files(session, secrets))
        except Refusal as error:
            # Without its Secret the pod never starts. If this fails too, the orphan collector ends it.
            with contextlib.suppress(Unanswered):
                await connection.remove(job_id, user=self.user.name, session=session)
            raise _refused(Message("the cluster does not accept its secrets"), TELL_SERVICE, str(error)) from None

    @contextlib.contextmanager
    def _explained(self) -> Any:
        """Explain a refusal of the API to the user.

        Raises:
            Refused: The API refused an object.
        """
        try:
            yield
        except Refusal as error:
            text = str(error)
            refusal = refused_value(self.terms, self.profile, text)
            if refusal is not None:
                failure = actions.Fail(refusal.text, reason="refused", advice=ADVICE, field=refusal.field)
                raise Refused(failure, text) from None
            if "quota" in text:
                words = Message("the quota of the namespace is used up, so no further session fits")
                advice = Message("Stop a session that you do not need, choose a smaller profile, or try again later.")
                raise _refused(words, advice, text) from None
            if "violates PodSecurity" in text:
                words = Message("the cluster's rules for the security of pods do not permit it")
                raise _refused(words, TELL_SERVICE, text) from None
            raise _refused(Message("the cluster does not accept it"), TELL_SERVICE, text) from None

    # -- the Secret is deleted as soon as the session has read it

    async def start(self) -> str:
        """Start the session; see ``SessionSpawner.start``."""
        url = await super().start()
        self._discard_secret()
        return str(url)

    async def adopt(self) -> str:
        """Continue a session of an earlier hub process; see ``SessionSpawner.adopt``."""
        url = await super().adopt()
        self._discard_secret()
        return str(url)

    def _discard_secret(self) -> None:
        """Delete the Secret in the background. If this fails, it ends with its pod."""
        delete = self._kubernetes.delete_secret(self.job_id)
        self.runtime.background(f"Cannot delete the Secret of {self.job_id}", delete)

    @property
    def _kubernetes(self) -> KubernetesConnection:
        connection: KubernetesConnection = self.connection  # type: ignore[assignment]
        return connection


def _refused(words: Message, advice: Message, note: str = "") -> Refused:
    text = Message("Your session was not created: {reason}.", reason=words)
    return Refused(actions.Fail(text, reason="refused", status_code=409, advice=advice), note)
