"""The hub's connection to the API of one Kubernetes cluster.

Each place has its own address, authority and token, so the process-wide configuration of the client is not used. The
token is read from its file again for every request, because clusters replace it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from kubernetes_asyncio import client
from kubernetes_asyncio.client import ApiException

from hpchub.places.interface import JOB_ID, LABEL_SESSION, LABEL_USER, Connection
from hpchub.places.kubernetes.reflection import WATCH_SECONDS, Reflection, brief, message_of
from hpchub.places.kubernetes.terms import KubernetesTerms, ending_of, job_of
from hpchub.remote.gate import redact
from hpchub.schedulers import Job, Unanswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence
    from typing import TypeVar

    from hpchub.model.places import KubernetesPlace
    from hpchub.schedulers.endings import Ending

    T = TypeVar("T")

log = logging.getLogger(__name__)

TIMEOUT = 10.0
"""How long a request may take, in seconds."""
LOG_LINES = 50
KEPT = 100
"""The state and the log of so many ended pods are remembered."""
PATIENCE = 10.0
"""How long a query waits for the first answer, in seconds."""
LOOKS, PAUSE = 3, 1.0
"""How often to repeat a request after a lost answer, and the pause before that, in seconds."""
GRACE = 10
"""How long a notebook server has for its end, in seconds."""


class Refusal(Exception):
    """The API refused a request. The message is the API's."""


class Conflict(Refusal):
    """There is an object with this name already."""


class KubernetesConnection(Connection):
    """The pods of the sessions in one namespace. See ``Connection`` for the arguments.

    Attributes:
        watch_seconds: How long one watch lasts, in seconds.
    """

    terms = KubernetesTerms()
    timeout = 2 * (LOOKS + 1) * TIMEOUT  # for a pod and its Secret
    watch_seconds = WATCH_SECONDS
    entry: KubernetesPlace

    def __init__(self, entry: KubernetesPlace, settings: Mapping[str, Any]) -> None:
        super().__init__(entry, settings)
        self.name, self.namespace = entry.name, entry.namespace
        self._token_file = Path(entry.token_file)
        self._refused_token = False
        self._kept: dict[str, tuple[dict[str, Any], list[str]]] = {}
        """The last state and the last lines of the log of each pod that the hub has ended, by its name."""

    @functools.cached_property
    def api(self) -> Any:
        """The client of the core API."""
        configuration = client.Configuration(host=self.entry.url, ssl_ca_cert=self.entry.ca_file)
        configuration.api_key = {"BearerToken": ""}
        configuration.api_key_prefix = {"BearerToken": "Bearer"}
        configuration.refresh_api_key_hook = self._read_token
        return client.CoreV1Api(client.ApiClient(configuration))

    def _read_token(self, configuration: Any) -> None:
        try:
            configuration.api_key["BearerToken"] = self._token_file.read_text().strip()
        except OSError as error:
            raise Unanswered(f"the token of place {self.name} cannot be read: {error}") from None

    @functools.cached_property
    def _pods(self) -> Reflection:
        request = functools.partial(self.api.list_namespaced_pod, self.namespace, label_selector=LABEL_SESSION)
        return Reflection(f"pods of {self.name}", request, watch_seconds=self.watch_seconds)

    @functools.cached_property
    def _events(self) -> Reflection:
        request = functools.partial(
            self.api.list_namespaced_event, self.namespace, field_selector="involvedObject.kind=Pod"
        )
        return Reflection(f"events of {self.name}", request, watch_seconds=self.watch_seconds)

    @property
    def alarm(self) -> str:
        """What an administrator must do, so that the hub can use the cluster again, or empty."""
        if self._refused_token or self._pods.status == 401:
            return (
                f"The API of place {self.name} refuses the hub's token (401), so its sessions are unknown. Put a new"
                f" token into {self._token_file}."
            )
        return ""

    async def close(self) -> None:
        """Close all connections."""
        for reflection in (self._pods, self._events):
            await reflection.close()
        await self.api.api_client.close()

    async def _ask(self, request: Awaitable[T]) -> T:
        """Send a request.

        Raises:
            Refusal: The API refused it, for a reason that does not depend on the moment.
            LookupError: The object does not exist.
            Unanswered: There is no answer, or one without anything about the object.
        """
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await request
        except ApiException as error:
            self._refused_token = error.status == 401
            if error.status == 404 and _is_about_object(error):
                raise LookupError(message_of(error)) from None
            if error.status == 409:
                raise Conflict(message_of(error)) from None
            if error.status in (400, 403, 422):
                raise Refusal(message_of(error)) from None
            raise Unanswered(f"{self.name}: {brief(error)}") from None
        except TimeoutError:
            raise Unanswered(f"{self.name}: no answer within {TIMEOUT:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unanswered(f"{self.name}: {brief(error)}") from None
        self._refused_token = False
        for reflection in (self._pods, self._events):
            if reflection.failures:
                reflection.retry()
        return answer

    # -- what the sessions' jobs are

    async def jobs(self) -> dict[str, Job]:
        """Return all pods of sessions as jobs. The watch keeps them current, whatever their number is."""
        pods = await self._pods.current(PATIENCE)
        events: dict[str, list[dict[str, Any]]] = {}
        with contextlib.suppress(Unanswered):  # they only explain
            for event in (await self._events.current(PATIENCE)).values():
                events.setdefault(str(event["involvedObject"].get("uid")), []).append(event)
        found = {name: job_of(last, deleted=True) for name, (_, last) in self._pods.deleted.items()}
        return found | {name: job_of(pod, events.get(str(pod["metadata"]["uid"]), ())) for name, pod in pods.items()}

    async def find(self, job_id: str) -> Job | None:
        """Ask for one pod. Return None only if the API states that it does not exist."""
        try:
            return job_of(await self._read(job_id))
        except LookupError:
            return None

    async def ending(self, job_id: str) -> Ending:
        """Return how a pod ended, also if it is deleted."""
        known = self._last(job_id)
        ending = ending_of(known) if known else None
        if ending is None:
            with contextlib.suppress(LookupError):
                ending = ending_of(await self._read(job_id))
        if ending is None:
            raise Unanswered(f"{self.name}: it is not known how pod {job_id} ended")
        return ending

    async def log(self, job_id: str, user: str) -> Sequence[str]:
        """Return the last lines of a pod's log, without secrets."""
        if job_id in self._kept:
            return self._kept[job_id][1]
        request = self.api.read_namespaced_pod_log(
            job_id, self.namespace, tail_lines=LOG_LINES, limit_bytes=65536, _preload_content=False
        )
        with contextlib.suppress(LookupError, Refusal):
            response = await self._ask(request)
            if response.status == 200:
                text: bytes = await response.read()
                return redact(text.decode(errors="replace")).splitlines()
        raise Unanswered(f"{self.name}: pod {job_id} has no log")

    def _last(self, job_id: str) -> dict[str, Any] | None:
        """Return the last known state of a pod."""
        for known in (self._pods.objects.get(job_id), self._pods.deleted.get(job_id, (0, None))[1]):
            if known is not None:
                return known
        return self._kept[job_id][0] if job_id in self._kept else None

    async def _read(self, job_id: str) -> dict[str, Any]:
        request = self.api.read_namespaced_pod(job_id, self.namespace)
        try:
            pod: dict[str, Any] = self.api.api_client.sanitize_for_serialization(await self._ask(request))
        except Refusal as error:
            raise Unanswered(f"{self.name}: {error}") from None
        return pod

    # -- what the hub does

    async def ensure_claim(self, claim: Any) -> None:
        """Create a user's claim, unless it exists. The hub never deletes one.

        Raises:
            Refusal, Unanswered: See ``_ask``.
        """
        name = claim.metadata.name
        try:
            await self._ask(self.api.create_namespaced_persistent_volume_claim(self.namespace, claim))
        except Refusal as error:
            # A quota refuses a claim even if it exists already.
            try:
                await self._ask(self.api.read_namespaced_persistent_volume_claim(name, self.namespace))
            except LookupError:
                raise error from None

    async def create_pod(self, job_id: str, pod: Any) -> str:
        """Create a pod, and return its uid. If the answer is lost, look for the pod.

        Args:
            job_id: The name of the pod.
            pod: Its description.

        Raises:
            Refusal, Unanswered: See ``_ask``.
        """
        try:
            return str((await self._ask(self.api.create_namespaced_pod(self.namespace, pod))).metadata.uid)
        except Unanswered as error:
            for _ in range(LOOKS):
                await asyncio.sleep(PAUSE)
                with contextlib.suppress(LookupError, Unanswered):
                    return str((await self._read(job_id))["metadata"]["uid"])
            raise error from None

    async def create_secret(self, job_id: str, uid: str, files: dict[str, str]) -> None:
        """Create the Secret of a pod. Kubernetes deletes it together with the pod, whatever happens to the hub.

        Args:
            job_id: The name of the pod, and of its Secret.
            uid: The uid of the pod.
            files: The content of each file.

        Raises:
            Refusal, Unanswered: See ``_ask``.
        """
        owner = client.V1OwnerReference(api_version="v1", kind="Pod", name=job_id, uid=uid)
        metadata = client.V1ObjectMeta(name=job_id, owner_references=[owner])
        secret = client.V1Secret(metadata=metadata, immutable=True, string_data=files, type="Opaque")
        for attempt in range(1, LOOKS + 1):
            try:
                await self._ask(self.api.create_namespaced_secret(self.namespace, secret))
            except Unanswered:
                if attempt == LOOKS:
                    raise
                await asyncio.sleep(PAUSE)
            except Conflict:
                return  # an earlier attempt succeeded, although its answer was lost
            else:
                return

    async def delete_secret(self, job_id: str) -> None:
        """Delete the Secret of a pod, which has read it. The files in the pod stay until its end.

        Raises:
            Refusal, Unanswered: See ``_ask``.
        """
        with contextlib.suppress(LookupError):
            await self._ask(self.api.delete_namespaced_secret(job_id, self.namespace))

    async def end(self, job_id: str, *, user: str, session: str) -> None:
        """Delete a pod with a grace period. Kubernetes does not keep a stopped pod, so the hub remembers its end."""
        await self._delete(job_id, user=user, session=session)

    async def remove(self, job_id: str, *, user: str, session: str) -> None:
        """Delete a pod, and with it its Secret. The volume of its user stays."""
        await self._delete(job_id, user=user, session=session)
        self._kept.pop(job_id, None)

    async def _delete(self, job_id: str, *, user: str, session: str) -> None:
        """Delete a pod of this session.

        Raises:
            Unanswered: The API did not confirm it, or the pod is not this session's.
        """
        if not re.fullmatch(JOB_ID, job_id):
            raise Unanswered(f"{job_id!r} is not the id of a session's job")
        try:
            pod = await self._read(job_id)
            await self._keep(job_id, pod, user)
            marks = pod["metadata"].get("annotations") or {}
            if (marks.get(LABEL_USER), marks.get(LABEL_SESSION)) != (user, session):
                raise Unanswered(f"{self.name}: pod {job_id} does not belong to session {session} of {user}")
            uid = client.V1Preconditions(uid=pod["metadata"]["uid"])
            options = client.V1DeleteOptions(grace_period_seconds=GRACE, preconditions=uid)
            await self._ask(self.api.delete_namespaced_pod(job_id, self.namespace, body=options))
        except LookupError:
            pass
        except Refusal as error:
            raise Unanswered(f"{self.name}: {error}") from None

    async def _keep(self, job_id: str, pod: dict[str, Any], user: str) -> None:
        """Remember the state and the log of a pod that is about to be deleted."""
        if job_id in self._kept:
            return
        lines: Sequence[str] = ()
        with contextlib.suppress(Unanswered):
            lines = await self.log(job_id, user)
        while len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[job_id] = pod, list(lines)

    # -- whether the place works

    async def obstacles(self) -> Sequence[str]:
        """Return that the API refuses the hub's token. Other failures may be over soon."""
        if self.alarm:
            with contextlib.suppress(Unanswered, LookupError, Refusal):  # perhaps somebody has renewed it
                await self._ask(self.api.list_namespaced_pod(self.namespace, label_selector=LABEL_SESSION, limit=1))
                return []
        return [self.alarm] if self.alarm else []

    async def check(self) -> str:
        """Return the number of pods, and that the hub has the rights which it needs."""
        try:
            pods = await self._ask(
                self.api.list_namespaced_pod(self.namespace, label_selector=LABEL_SESSION, limit=500)
            )
            await self._ask(self.api.list_namespaced_event(self.namespace, limit=1))
        except (LookupError, Refusal) as error:
            raise Unanswered(
                f"{self.name}: {error}. Apply the manifests of docs/how-to/kubernetes.md to the namespace"
                f" {self.namespace}."
            ) from None
        return f"the API answers; namespace {self.namespace} has {len(pods.items)} sessions"


def _is_about_object(error: ApiException) -> bool:
    """Return whether the API itself reports that an object does not exist. A web proxy can answer 404 too."""
    try:
        status = json.loads(error.body or b"")
        about = (status.get("details") or {}).get("name")
        return bool(status["kind"] == "Status" and status["reason"] == "NotFound" and about)
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
