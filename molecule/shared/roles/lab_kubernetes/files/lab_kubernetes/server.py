"""The HTTPS server: it checks who asks, and answers in the format of the API.

Source: "Kubernetes API Concepts", the sections "Standard API terminology", "Single resource API", "Efficient detection
of changes", "Watch bookmarks" and "Resource versions"; the API reference of each resource, the part "Operations".
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from lab_kubernetes.access import ADMINISTRATOR, Access, Action
from lab_kubernetes.admission import check_quota, check_security
from lab_kubernetes.faults import Faults
from lab_kubernetes.kubelet import DEFAULT_GRACE, Kubelet
from lab_kubernetes.policies import check_policies
from lab_kubernetes.store import KINDS, Object, Refused, Selection, Store, now

if TYPE_CHECKING:
    from pathlib import Path

    from lab_kubernetes.faults import Fault
    from lab_kubernetes.runners import Runner

PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/v1)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[a-z]+))?"
)
BOOKMARK_INTERVAL = 5.0
"""How often a watch that allows bookmarks gets one, in seconds."""


class Server(ThreadingHTTPServer):
    """The API server with its cluster.

    Args:
        address: The address and the port.
        runner: Runs the containers.
        context: The TLS context.
        administrator: The token of the administrator, who may also switch faults on.
        namespace: A namespace that enforces the level ``restricted``.

    Attributes:
        requests: All requests, as ``VERB RESOURCE``, in their order.
    """

    daemon_threads = False  # closing waits for all connections
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        runner: Runner,
        *,
        context: ssl.SSLContext,
        administrator: str,
        namespace: str = "jupyter",
    ) -> None:
        super().__init__(address, Handler)
        self.context = context
        self.store = Store()
        self.access = Access(self.store, {administrator: ADMINISTRATOR})
        self.kubelet = Kubelet(self.store, runner)
        self.faults = Faults()
        self.requests: list[str] = []
        self.connections: set[socket.socket] = set()
        labels = {"kubernetes.io/metadata.name": namespace, "pod-security.kubernetes.io/enforce": "restricted"}
        self.store.create("namespaces", "", {"metadata": {"name": namespace, "labels": labels}})

    def add_node(
        self, name: str, *, taints: list[Object] | None = None, labels: Object | None = None, **free: str
    ) -> None:
        """Add a node with its resources, for example ``cpu="4", memory="8Gi", pods="10"``."""
        status = {"allocatable": free, "conditions": [{"type": "Ready", "status": "True"}]}
        node = {"metadata": {"name": name, "labels": labels or {}}, "spec": {"taints": taints or []}, "status": status}
        self.store.create("nodes", "", node)

    def close(self) -> None:
        """Stop, and end all pods."""
        self.faults.clear()
        with self.store.changed:
            self.store.closed = True
            self.store.changed.notify_all()
        self.kubelet.close()
        self.shutdown()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, which waits for the other side
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that break."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the server's TLS context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 600

    def setup(self) -> None:
        """Begin TLS. This runs in the thread of the connection, so that a slow client delays nobody."""
        self.request = self.server.context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        self.server.connections.add(self.request)
        self.request.settimeout(10)
        try:
            self.request.do_handshake()
        except OSError:
            self.finish()
            raise
        super().setup()

    def finish(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            super().finish()
        self.server.connections.discard(self.request)
        self.request.close()

    def log_message(self, *_args: object) -> None:
        """Write no log."""

    def do_GET(self) -> None:
        """Answer get, list, watch and the log of a pod."""
        self._handle({})

    def do_POST(self) -> None:
        """Answer create."""
        self._handle(self._body())

    def do_DELETE(self) -> None:
        """Answer delete."""
        self._handle(self._body())

    def do_PATCH(self) -> None:
        """Refuse it: nothing needs it."""
        self._handle(self._body())

    def do_PUT(self) -> None:
        """Refuse it: nothing needs it."""
        self._handle(self._body())

    def _body(self) -> Object:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = json.loads(text) if text else {}
        return content if isinstance(content, dict) else {}

    def _send(self, code: int, content: Object | str) -> None:
        text = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _handle(self, body: Object) -> None:
        try:
            user = self.server.access.user(self.headers.get("Authorization", ""))
            url = urlsplit(self.path)
            if url.path.startswith("/lab/"):
                if user != ADMINISTRATOR:
                    raise Refused(403, "Forbidden", "only the administrator may do this")
                self._send(200, control(self.server, url.path.removeprefix("/lab/"), body))
                return
            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
            self._answer(user, url.path, query, body)
        except Refused as error:
            self._send(error.code, error.status)
        except (OSError, ValueError):  # the client has gone, or the server closes
            self.close_connection = True

    def _answer(self, user: str, path: str, query: dict[str, str], body: Object) -> None:
        found = PATH.fullmatch(path)
        resource = found["resource"] if found else ""
        if found is None or resource not in KINDS or KINDS[resource][0] != f"{found['group'] or ''}/v1".lstrip("/"):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        is_watch = query.get("watch") in ("true", "True", "1")
        verb = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}.get(self.command, "")
        verb = verb or ("get" if found["name"] else "watch" if is_watch else "list")
        full = resource + (f"/{found['subresource']}" if found["subresource"] else "")
        namespace = found["namespace"] or ""
        self.server.requests.append(f"{verb} {full}")
        self.server.access.check(user, Action(verb, found["group"] or "", full, namespace))
        fault = self.server.faults.take(verb, full)
        if fault and fault.kind == "hang":
            self.server.faults.released.wait(600)
            self.close_connection = True
            return
        if fault and fault.kind == "delay":
            time.sleep(fault.seconds)
        if fault and fault.kind == "error":
            raise Refused(fault.code, "InternalError", "an error on the server has prevented the request")
        if verb == "watch" and fault and fault.kind == "lost":
            self.close_connection = True
            return
        if verb == "watch":
            selection = Selection(resource, namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            self._watch(selection, query, fault)
            return
        if verb == "create":
            check_policies(self.server.store, full, namespace, body, user)
        content = self._act(verb, full, namespace, found["name"] or "", query, body)
        if fault and fault.kind == "lost":
            self.close_connection = True
            return
        self._send(201 if verb == "create" else 200, content)

    def _act(
        self, verb: str, resource: str, namespace: str, name: str, query: dict[str, str], body: Object
    ) -> Object | str:
        store = self.server.store
        match verb, resource:
            case "get", "pods/log":
                pod = store.get("pods", namespace, name)
                try:
                    lines = (
                        self.server.kubelet.runner.log_path(pod).read_text(errors="replace").splitlines(keepends=True)
                    )
                except OSError:
                    raise Refused(400, "BadRequest", f'container in pod "{name}" is waiting to start') from None
                return "".join(lines[-int(query.get("tailLines", len(lines) or 1)) :])
            case "get", _:
                return store.get(resource, namespace, name)
            case "list", _:
                selection = Selection(
                    resource, namespace, query.get("labelSelector", ""), query.get("fieldSelector", "")
                )
                items, version = store.select(selection, cached=query.get("resourceVersion") == "0")
                group, kind = KINDS[resource]
                metadata = {"resourceVersion": str(version)}
                return {"apiVersion": group, "kind": f"{kind}List", "metadata": metadata, "items": items}
            case "create", _:
                return self._create(resource, namespace, body)
            case "delete", "pods":
                return self._delete_pod(namespace, name, query, body)
            case "delete", _:
                return store.remove(resource, namespace, name)
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def _create(self, resource: str, namespace: str, body: Object) -> Object:
        store = self.server.store
        if namespace:
            store.get("namespaces", "", namespace)
        if resource == "pods":
            check_security(store, namespace, body)
            body = {**body, "status": {"phase": "Pending", "conditions": []}}
        check_quota(store, resource, namespace, body)
        if resource == "persistentvolumeclaims":
            body = {**body, "status": {"phase": "Bound"}}
        created = store.create(resource, namespace, body)
        if resource == "pods":
            self.server.kubelet.accept(created)
        return created

    def _delete_pod(self, namespace: str, name: str, query: dict[str, str], body: Object) -> Object:
        """Mark a pod for deletion ("Termination of Pods"). Its node ends it and then removes it."""
        pod = self.server.store.get("pods", namespace, name)
        wanted = (body.get("preconditions") or {}).get("uid")
        if wanted not in (None, pod["metadata"]["uid"]):
            raise Refused(409, "Conflict", f"the UID in the precondition ({wanted}) does not match the pod's")
        given = query.get("gracePeriodSeconds", body.get("gracePeriodSeconds"))
        default = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE)
        grace = default if given is None else int(given)

        def mark(each: Object) -> None:
            each["metadata"].setdefault("deletionTimestamp", now())
            each["metadata"].update(deletionGracePeriodSeconds=grace)

        return self.server.store.update("pods", namespace, name, mark)

    # -- a watch

    def _watch(self, selection: Selection, query: dict[str, str], fault: Fault | None) -> None:
        """Send the changes after a version, one JSON object per line, until the time of the watch is over."""
        version = int(query.get("resourceVersion") or self.server.store.version)
        end = time.monotonic() + float(query.get("timeoutSeconds") or 300)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        group, kind = KINDS[selection.resource]
        try:
            if fault and fault.kind == "gone":
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.server.store.version})")
            if fault and fault.kind == "cut":
                self._chunk('{"type":"ADDED","object":{"metadata"')
                self.close_connection = True
                return
            while (left := end - time.monotonic()) > 0 and not self.server.store.closed:
                changes, version = self.server.store.since(version, selection, min(left, BOOKMARK_INTERVAL))
                for change in changes:
                    self._chunk(json.dumps({"type": change.kind, "object": change.content}) + "\n")
                if not changes and query.get("allowWatchBookmarks") in ("true", "True", "1"):
                    mark = {"apiVersion": group, "kind": kind, "metadata": {"resourceVersion": str(version)}}
                    self._chunk(json.dumps({"type": "BOOKMARK", "object": mark}) + "\n")
        except Refused as error:
            self._chunk(json.dumps({"type": "ERROR", "object": error.status}) + "\n")
        self._chunk("")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def control(server: Server, order: str, body: Object) -> Object:
    """Carry out an order of the lab's administrator, for example ``evict`` with the name of a pod.

    Raises:
        Refused: There is no such order.
    """
    namespace, name = body.get("namespace", "jupyter"), body.get("name", "")
    match order:
        case "faults":
            server.faults.clear()
            for fault in body.get("faults", []):
                server.faults.add(**fault)
        case "evict":
            server.kubelet.evict(namespace, name)
        case "oom":
            server.kubelet.run_out_of_memory(namespace, name)
        case "lose":
            server.kubelet.lose(name)
        case "pull-error":
            server.kubelet.pull_error = body.get("error", "")
        case "compact":
            server.store.compact()
        case "tokens":
            server.access.tokens[body["token"]] = body["user"]
        case "expire":
            with contextlib.suppress(KeyError):
                del server.access.tokens[body["token"]]
        case "used":
            return {user: sorted(map(list, actions)) for user, actions in server.access.used.items()}
        case _:
            raise Refused(404, "NotFound", f"there is no order {order}")
    return {}


def serve(server: Server) -> threading.Thread:
    """Serve requests in the background."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    return thread
