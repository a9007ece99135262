"""The gate of a Docker host: it passes on the few requests of the hub that are needed for sessions, and nothing else.

Whoever reaches the API of Docker Engine is root on the host. The hub therefore never reaches it. This program listens
on a Unix socket, or on a port with TLS that demands a certificate of the hub. It knows the hub's containers by their
names and labels, and creates only containers that the policy permits: an image of the list, the home of the user with
the container's uid, the limits, and no privilege.

The role ``docker_place`` installs this file and its policy. It uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import socket
import socketserver
import ssl
import stat
import sys
import urllib.parse
from pathlib import Path
from typing import Any

SESSION = "[0-9a-f]{16}"
NAME = f"hpchub-{SESSION}"
SECRETS = "/run/hpchub"
LABELS = ("hpchub.hub", "hpchub.runtime", "hpchub.session", "hpchub.user")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
ENVIRONMENT = ("HOME", "LOGNAME", "SHELL", "USER")
BODY_LIMIT = 4 * 1024 * 1024  # bytes
ANSWER_LIMIT = 64 * 1024 * 1024  # bytes
TIMEOUT = 60.0  # seconds
KILL_AFTER = "30"

# The keys of a container and of its host that may have a value. Every other key must be absent or empty.
KEYS = {"AttachStderr", "AttachStdout", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "HostConfig", "Image"}
KEYS |= {"Labels", "StopSignal", "User", "Volumes", "WorkingDir"}
HOST_KEYS = {"CapDrop", "CpuPeriod", "CpuQuota", "DeviceRequests", "GroupAdd", "Init", "IpcMode", "LogConfig", "Memory"}
HOST_KEYS |= {"MemorySwap", "Mounts", "NetworkMode", "PidsLimit", "PortBindings", "ReadonlyRootfs", "SecurityOpt"}
HOST_KEYS |= {"Tmpfs"}


class Refused(Exception):
    """The policy does not permit a request. The message names what is wrong."""


def load(path: Path) -> dict[str, Any]:
    """Return the policy.

    Shape: ``{"images": [{"image", "python"}], "network", "home", "mounts": [{"source", "target", "read_only"}],
    "max_cores", "max_memory" (bytes), "max_runtime" (seconds), "max_gpus", "pids", "read_only", "published_at",
    "ports": [FIRST, LAST], "minimum_uid", "engine": PATH, "listen": {"socket": PATH} or {"address", "port",
    "certificate", "key", "authority"}}``.
    """
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def require(condition: object, problem: str) -> None:
    """Refuse the request unless a condition is true."""
    if not condition:
        raise Refused(problem)


def match(pattern: str, text: str, problem: str) -> re.Match[str]:
    """Return the match of a whole text, or refuse the request."""
    found = re.fullmatch(pattern, text)
    if found is None:
        raise Refused(problem)
    return found


def check_container(name: str, body: Any, policy: dict[str, Any]) -> None:
    """Check the description of a container.

    Raises:
        Refused: The policy does not permit it.
    """
    require(isinstance(body, dict) and isinstance(body.get("HostConfig"), dict), "the description is not an object")
    host = body["HostConfig"]
    for content, known in ((body, KEYS), (host, HOST_KEYS)):
        extra = sorted(key for key, value in content.items() if value and key not in known)
        require(not extra, f"{', '.join(extra)[:200]} is not permitted")
    labels = body.get("Labels") or {}
    require(sorted(labels) == sorted(LABELS), "the labels are not those of a session")
    user, session = str(labels["hpchub.user"]), str(labels["hpchub.session"])
    require(USER.fullmatch(user) and name == f"hpchub-{session}" and re.fullmatch(NAME, name), "the name is not valid")
    uid = check_user(body, host, policy)
    check_program(body, session, policy)
    check_environment(body, user, policy)
    check_limits(host, policy)
    check_mounts(body, host, user, uid, policy)
    check_network(host, policy)
    check_privileges(host, policy)


def check_user(body: dict[str, Any], host: dict[str, Any], policy: dict[str, Any]) -> int:
    """Check the uid and the groups, and return the uid."""
    uid = int(match(r"([1-9][0-9]{0,9}):[1-9][0-9]{0,9}", str(body.get("User")), "the user is not a uid and a gid")[1])
    require(uid >= policy["minimum_uid"], f"uid {uid} is below {policy['minimum_uid']}")
    groups = host.get("GroupAdd") or []
    require(all(re.fullmatch(r"[1-9][0-9]{0,9}", str(group)) for group in groups), "a group is not a gid, or is root's")
    return uid


def check_program(body: dict[str, Any], session: str, policy: dict[str, Any]) -> None:
    """Check the image and its program, and the time limit."""
    images = {each["image"]: each["python"] for each in policy["images"]}
    image = body.get("Image")
    require(image in images, "the image is not in the list")
    limit = str((body.get("Labels") or {}).get("hpchub.runtime"))
    wanted = ["timeout", "-s", "TERM", "-k", KILL_AFTER, limit, images[image], "-I"]
    wanted += [f"{SECRETS}/{session}/hpchub-launch", session]
    require(body.get("Entrypoint") == wanted, "the program is not hpchub-launch")
    require(
        re.fullmatch(r"[0-9]{1,9}", limit) and 0 < int(limit) <= policy["max_runtime"], "the time limit is too long"
    )
    require((body.get("Healthcheck") or {"Test": ["NONE"]}).get("Test") == ["NONE"], "there is a health check")


def check_environment(body: dict[str, Any], user: str, policy: dict[str, Any]) -> None:
    """Check that the environment contains nothing but the user's name and home."""
    home = policy["home"].replace("{user}", user)
    for entry in body.get("Env") or []:
        key, _, value = str(entry).partition("=")
        require(key in ENVIRONMENT, f"the variable {key[:60]} is not permitted")
        require(key != "HOME" or value == home, "HOME is not the user's home")


def check_limits(host: dict[str, Any], policy: dict[str, Any]) -> None:
    """Check memory, cores, processes, GPUs, and the size of the output."""
    memory, pids = number(host, "Memory"), number(host, "PidsLimit")
    require(0 < memory <= policy["max_memory"], "the memory is not limited enough")
    require(host.get("MemorySwap") == memory, "the swap space is not limited")
    period, quota = number(host, "CpuPeriod"), number(host, "CpuQuota")
    require(period > 0 and quota > 0, "the cores are not limited")
    require(quota <= period * policy["max_cores"], "there are too many cores")
    require(0 < pids <= policy["pids"], "the processes are not limited enough")
    gpus = sum(int(each.get("Count") or 0) for each in host.get("DeviceRequests") or [])
    require(0 <= gpus <= policy["max_gpus"], "there are too many GPUs")
    for each in host.get("DeviceRequests") or []:
        require(each.get("Count", 0) > 0 and each.get("Capabilities") == [["gpu"]], "a device is not a GPU")
        require(not any(each.get(key) for key in ("DeviceIDs", "Driver", "Options")), "a device is not permitted")
    log = host.get("LogConfig") or {}
    require(log.get("Type") == "json-file" and (log.get("Config") or {}).get("max-size"), "the output is not limited")


def number(host: dict[str, Any], key: str) -> int:
    """Return a limit. Without one, it is 0."""
    value = host.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def check_mounts(body: dict[str, Any], host: dict[str, Any], user: str, uid: int, policy: dict[str, Any]) -> None:
    """Check the mounts: the user's own home, the site's directories, and the volume for the secrets."""
    require(list(body.get("Volumes") or {}) == [SECRETS], "the volumes are not those of a session")
    require(set(host.get("Tmpfs") or {}) <= {"/tmp"}, "a tmpfs is not permitted")  # noqa: S108 the container's own
    permitted = {(policy["home"], policy["home"]): False}
    permitted.update({(each["source"], each["target"]): each["read_only"] for each in policy["mounts"]})
    known = {tuple(path.replace("{user}", user) for path in key): only for key, only in permitted.items()}
    for mount in host.get("Mounts") or []:
        require(set(mount) <= {"Type", "Source", "Target", "ReadOnly"}, "a mount has an option")
        key = (mount.get("Source"), mount.get("Target"))
        require(mount.get("Type") == "bind" and key in known, f"the mount of {str(key[0])[:200]} is not permitted")
        require(mount.get("ReadOnly") or not known[key], f"the mount of {key[0]} is read-only")
    home = policy["home"].replace("{user}", user)
    try:
        status = Path(home).stat()
    except FileNotFoundError:
        return  # the engine says so
    except OSError as error:
        raise Refused(f"the home {home} cannot be examined: {error.strerror}") from None
    require(stat.S_ISDIR(status.st_mode) and status.st_uid == uid, f"the home {home} does not belong to uid {uid}")
    require(str(Path(home).resolve()) == home, f"the home {home} is, or is below, a symbolic link")


def check_network(host: dict[str, Any], policy: dict[str, Any]) -> None:
    """Check the network and the ports that the host publishes."""
    require(host.get("NetworkMode") == policy["network"], "the network is not that of sessions")
    first, last = policy["ports"]
    for port, bindings in (host.get("PortBindings") or {}).items():
        number = str(port).partition("/tcp")[0]
        require(re.fullmatch(r"[0-9]{1,5}", number) and first <= int(number) <= last, "a port is not permitted")
        require(policy["published_at"], "this host publishes no ports")
        wanted = [{"HostIp": policy["published_at"], "HostPort": number}]
        require(bindings == wanted, "a port is published elsewhere")


def check_privileges(host: dict[str, Any], policy: dict[str, Any]) -> None:
    """Check that there is no privilege."""
    require(host.get("CapDrop") == ["ALL"], "not all capabilities are dropped")
    require(host.get("SecurityOpt") == ["no-new-privileges:true"], "new privileges are not prevented")
    require(host.get("IpcMode") == "private", "the IPC namespace is shared")
    require(host.get("ReadonlyRootfs") is True or not policy["read_only"], "the image can be written")


# -- requests


def rewrite(method: str, target: str, body: bytes, policy: dict[str, Any]) -> str:
    """Return the target of a request as the engine gets it.

    Raises:
        Refused: The policy does not permit the request.
    """
    url = urllib.parse.urlsplit(target)
    found = match(r"(/v[0-9]\.[0-9]{1,3})?(/[A-Za-z0-9_./:@%-]*)", url.path, "the path is not valid")
    version, path = found[1] or "", found[2]
    query = urllib.parse.parse_qs(url.query)
    images = [each["image"] for each in policy["images"]]
    if method in ("GET", "HEAD") and path in ("/_ping", "/version"):
        return version + path
    if method == "GET" and path == f"/networks/{policy['network']}":
        return version + path
    if method == "GET" and path.startswith("/images/") and path.endswith("/json"):
        require(urllib.parse.unquote(path[8:-5]) in images, "the image is not in the list")
        return version + path
    if method == "GET" and path == "/containers/json":
        return f"{version}{path}?all=1&filters=" + urllib.parse.quote(json.dumps({"label": ["hpchub.hub"]}))
    if method == "POST" and path == "/containers/create":
        name = (query.get("name") or [""])[0]
        try:
            content = json.loads(body)
        except ValueError:
            raise Refused("the description is not JSON") from None
        check_container(name, content, policy)
        return f"{version}{path}?name={name}"
    return version + container_request(method, path, query)


def container_request(method: str, path: str, query: dict[str, list[str]]) -> str:
    """Return the target of a request for one container.

    Raises:
        Refused: The policy does not permit the request.
    """
    found = match(rf"/containers/{NAME}(/[a-z]+)?", path, "the request is not permitted")
    seconds = match("[0-9]{1,2}", (query.get("t") or ["10"])[0], "t is not valid")[0]
    tail = match("[0-9]{1,3}", (query.get("tail") or ["40"])[0], "tail is not valid")[0]
    targets = {
        ("GET", "/json"): "",
        ("GET", "/logs"): f"?stdout=1&stderr=1&tail={tail}",
        ("PUT", "/archive"): f"?path={SECRETS}",
        ("POST", "/start"): "",
        ("POST", "/stop"): f"?t={seconds}",
        ("DELETE", None): "?v=1&force=1",
    }
    key = (method, found[1])
    require(key in targets, "the request is not permitted")
    if key == ("PUT", "/archive"):
        require(query.get("path") == [SECRETS], "the path in the container is not permitted")
    return path + targets[key]


class EngineConnection(http.client.HTTPConnection):
    """A connection to the engine's Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of the hub."""

    policy: dict[str, Any]
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def setup(self) -> None:
        """Finish the TLS handshake in this thread, so that a slow client delays nobody else."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(TIMEOUT)
            self.request.do_handshake()
        super().setup()

    def serve(self) -> None:
        """Answer one request."""
        try:
            body = self.read_body()
            target = rewrite(self.command, self.path, body, self.policy)
            status, kind, content = self.ask(target, body)
        except Refused as error:
            self.log_message("refused: %s %s: %s", self.command, self.path[:200], error)
            status, kind, content = 403, "application/json", message(f"hpchub refuses: {error}")
            self.close_connection = True  # the body may not be read, and is no further request
        except (OSError, http.client.HTTPException) as error:
            self.log_message("the engine does not answer: %s", error)
            status, kind, content = 502, "application/json", message(f"the engine does not answer: {error}")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def read_body(self) -> bytes:
        """Return the body of the request."""
        require("Transfer-Encoding" not in self.headers, "the length of the body is unknown")
        length = self.headers.get("Content-Length") or "0"
        require(re.fullmatch(r"[0-9]{1,8}", length) and int(length) <= BODY_LIMIT, "the body is too long")
        return self.rfile.read(int(length))

    def ask(self, target: str, body: bytes) -> tuple[int, str, bytes]:
        """Return the engine's answer: its status, the type of its content, and the content."""
        connection = EngineConnection(self.policy["engine"])
        try:
            headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            connection.request(self.command, target, body or None, headers)
            answer = connection.getresponse()
            content = answer.read(ANSWER_LIMIT + 1)
            require(len(content) <= ANSWER_LIMIT, "the answer of the engine is too long")
            return answer.status, answer.headers.get("Content-Type") or "application/json", content
        finally:
            connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 the names that http.server calls

    def address_string(self) -> str:
        """Return the address of the client for the log. A Unix socket has none."""
        return str(self.client_address[0]) if self.client_address else "hub"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log no request that is permitted."""


def message(text: str) -> bytes:
    """Return an error as the engine writes it."""
    return json.dumps({"message": text}).encode()


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


class UnixServer(Server):
    """The server on a Unix socket, which systemd has opened or this program opens."""

    address_family = socket.AF_UNIX


def serve(policy: dict[str, Any]) -> socketserver.BaseServer:
    """Return the server of a policy."""
    handler = type("PolicyHandler", (Handler,), {"policy": policy})
    listen = policy["listen"]
    if "socket" in listen:
        path = Path(listen["socket"])
        path.unlink(missing_ok=True)
        mask = os.umask(0o117)
        try:
            return UnixServer(str(path), handler)  # type: ignore[arg-type]
        finally:
            os.umask(mask)
    server = Server((listen["address"], listen["port"]), handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=listen["authority"])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(listen["certificate"], listen["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def main() -> int:
    """Run the gate."""
    if len(sys.argv) != 2:
        print("usage: hpchub-docker-gate POLICY", file=sys.stderr)
        return 2
    serve(load(Path(sys.argv[1]))).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
