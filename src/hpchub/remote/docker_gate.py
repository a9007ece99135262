"""The gate of a Docker host: it passes on the few requests of the hub that are needed for sessions, and nothing else.

Whoever reaches the API of Docker Engine is root on the host. The hub therefore never reaches it. This program listens
on a Unix socket, or on a port with TLS that demands a certificate of the hub. It knows the hub's containers by their
names and labels, and creates only containers that the policy permits: an image of the list, the home of the user with
the container's uid, the limits, and no privilege. On the manager of a swarm, it creates services of one such container.

The role ``docker_place`` installs this file and its policy. It uses the standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import http.client
import http.server
import ipaddress
import json
import os
import re
import socket
import socketserver
import ssl
import stat
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSION = "[0-9a-f]{16}"
NAME = f"hpchub-{SESSION}"
SECRETS = "/run/hpchub"
LABELS = ("hpchub.hub", "hpchub.runtime", "hpchub.session", "hpchub.user")
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
ENVIRONMENT = ("HOME", "LOGNAME", "SHELL", "USER")
BODY_LIMIT = 4 * 1024 * 1024  # bytes
ANSWER_LIMIT = 64 * 1024 * 1024  # bytes
TIMEOUT = 60.0  # seconds
HANDSHAKE_TIMEOUT = 10.0  # seconds
KILL_AFTER = "30"  # seconds from the time limit of a session to the end of its programs
OVERDUE = 120.0  # seconds after its time limit for which a session may go on
WATCH_INTERVAL = 30.0  # seconds
GRACE = 5  # seconds that the programs of a service have to end
USERS_GROUP = 100  # the group "users" of Linux. All groups below the first uid of users otherwise belong to the system.
API = r"/v1\.(?:4[1-9]|[5-9][0-9])"  # older versions have requests with other meanings

# The program of a container. It gets the files of its session from standard input, which Docker neither shows nor
# stores, or in a swarm from a secret: their size, and an object with the content of each file. They are in memory,
# never on a disk of the host.
RECEIVE = """\
import json, os, runpy, signal, sys
secret = "/run/secrets/hpchub-" + sys.argv[1]
source = open(secret, "rb") if os.path.exists(secret) else sys.stdin.buffer
signal.alarm(60)
size = int(source.readline(10) or 0)
text = source.read(size)
signal.alarm(0)
if not 0 < size == len(text):
    sys.exit("hpchub-launch: the hub did not send the files of this session; start a new session")
os.dup2(os.open(os.devnull, os.O_RDWR), 0)
mask = os.umask(0o077)
directory = "/run/hpchub/" + sys.argv[1]
os.mkdir(directory)
for name, content in json.loads(text).items():
    with open(directory + "/" + name, "w") as file:
        file.write(content)
os.umask(mask)
sys.argv[0] = directory + "/hpchub-launch"
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# The keys of a container and of its host that may have a value. Every other key must be absent or empty.
KEYS = {"AttachStderr", "AttachStdin", "AttachStdout", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "HostConfig"}
KEYS |= {"Image", "Labels", "OpenStdin", "StdinOnce", "StopSignal", "User", "WorkingDir"}
HOST_KEYS = {"CapDrop", "CpuPeriod", "CpuQuota", "DeviceRequests", "GroupAdd", "Init", "IpcMode", "LogConfig", "Memory"}
HOST_KEYS |= {"MemorySwap", "Mounts", "NetworkMode", "PidsLimit", "PortBindings", "ReadonlyRootfs", "SecurityOpt"}
HOST_KEYS |= {"Tmpfs"}
OF_SESSIONS = urllib.parse.quote(json.dumps({"label": ["hpchub.hub"]}))  # a filter
OF_GPUS = "hpchub.gpus"  # the label with the numbers of the GPUs of a session
GPUS = Path("/proc/driver/nvidia/gpus")  # a directory for each GPU
GPU_LOCK = "/run/hpchub-docker/gpus.lock"
LOG = {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "1"}}


def command(runtime: int, python: str, session: str) -> list[str]:
    """Return the program of a session's container. ``timeout`` ends it after so many seconds."""
    return ["timeout", "-s", "TERM", "-k", KILL_AFTER, str(runtime), python, "-I", "-c", RECEIVE, session]


def tmpfs(uid: int, gid: int) -> dict[str, str]:
    """Return the file systems in memory of a session's container. They count as its memory."""
    own = f"rw,nosuid,nodev,noexec,mode=0700,size=4m,uid={uid},gid={gid}"
    return {"/tmp": "rw,nosuid,nodev,mode=1777,size=1g", SECRETS: own}  # noqa: S108 the container's own


class Refused(Exception):
    """The policy does not permit a request. The message names what is wrong."""


def load(path: Path) -> dict[str, Any]:
    """Return the policy.

    Shape: ``{"images": [{"image", "python"}], "network", "home", "mounts": [{"source", "target", "read_only"}],
    "max_cores", "max_memory" (bytes), "max_runtime" (seconds), "max_gpus", "pids", "read_only", "published_at",
    "ports": [FIRST, LAST], "minimum_uid", "swarm": {"constraints": [TEXT], "limit_cores": BOOL} or null,
    "engine": PATH, "listen": {"socket": PATH} or {"address", "port",
    "certificate", "key", "authority", "clients": [NETWORK]}}``. No clients: all addresses can connect.
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


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, without keys that differ in case only.

    The engine ignores the case of keys and merges repeated objects. It would see values that this program does not.
    """
    require(len({key.casefold() for key, _ in pairs}) == len(pairs), "a key is repeated")
    return dict(pairs)


def read_container(name: str, body: bytes, policy: dict[str, Any]) -> bytes:
    """Check the description of a container, and return it with the keys that were checked.

    Raises:
        Refused: The policy does not permit it.
    """
    content = read_object(body)
    try:
        check_container(name, content, policy)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Refused("the description has a value of another type") from None
    found = {key: value for key, value in content.items() if key in KEYS}
    found["HostConfig"] = {key: value for key, value in content["HostConfig"].items() if key in HOST_KEYS}
    return json.dumps(found).encode()


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
    uid, gid = check_user(body, host, policy)
    check_program(body, session, policy)
    check_environment(body, user, policy)
    check_limits(host, policy)
    check_mounts(host, user, uid, policy)
    require(host.get("Tmpfs") == tmpfs(uid, gid), "a tmpfs is not permitted")
    check_network(host, policy)
    check_privileges(host, policy)


def check_user(body: dict[str, Any], host: dict[str, Any], policy: dict[str, Any]) -> tuple[int, int]:
    """Check the uid and the groups, and return the uid and the gid.

    With a group of the system, such as ``disk`` or ``docker``, a session could leave a program in its home that runs
    with this group when somebody starts it on the host.
    """
    least, number = policy["minimum_uid"], "[1-9][0-9]{0,9}"
    found = match(f"({number}):({number})", str(body.get("User")), "the user is not a uid and a gid")
    groups = [found[2], *(host.get("GroupAdd") or [])]
    require(all(re.fullmatch(number, str(group)) for group in groups), "a group is not a gid, or is root's")
    require(int(found[1]) >= least, f"uid {found[1]} is below {least}")
    system = [group for group in groups if int(group) < least and int(group) != USERS_GROUP]
    require(not system, f"group {', '.join(map(str, system))} belongs to the system")
    return int(found[1]), int(found[2])


def check_program(body: dict[str, Any], session: str, policy: dict[str, Any]) -> None:
    """Check the image and its program, and the time limit."""
    images = {each["image"]: each["python"] for each in policy["images"]}
    image = body.get("Image")
    require(image in images, "the image is not in the list")
    limit = int(match("[1-9][0-9]{0,8}", str(body["Labels"]["hpchub.runtime"]), "the time limit is not a number")[0])
    require(limit <= policy["max_runtime"], "the time limit is too long")
    require(body.get("Entrypoint") == command(limit, images[image], session), "the program is not hpchub-launch")
    require(body.get("OpenStdin") is True and body.get("StdinOnce") is True, "the session cannot get its files")
    require(body.get("WorkingDir") == "/", "the working directory is not /")
    require(body.get("StopSignal") == "SIGTERM", "the signal to stop is not SIGTERM")
    check = {key: value for key, value in (body.get("Healthcheck") or {}).items() if value}
    require(check == {"Test": ["NONE"]}, "there is a health check")


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
        known = {"Capabilities", "Count", "DeviceIDs", "Driver", "Options"}
        require(set(each) <= known, "a device has another option")
        require(each.get("Count", 0) > 0 and each.get("Capabilities") == [["gpu"]], "a device is not a GPU")
        require(not any(each.get(key) for key in ("DeviceIDs", "Driver", "Options")), "a device is not permitted")
    require(host.get("LogConfig") == LOG, "the output is not limited")


def number(host: dict[str, Any], key: str) -> int:
    """Return a limit. Without one, it is 0."""
    value = host.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def check_mounts(host: dict[str, Any], user: str, uid: int, policy: dict[str, Any]) -> None:
    """Check the mounts: the user's own home, and the site's directories."""
    permitted = {(policy["home"], policy["home"]): False}
    permitted.update({(each["source"], each["target"]): each["read_only"] for each in policy["mounts"]})
    known = {tuple(path.replace("{user}", user) for path in key): (key[0], only) for key, only in permitted.items()}
    for mount in host.get("Mounts") or []:
        require(set(mount) <= {"Type", "Source", "Target", "ReadOnly"}, "a mount has an option")
        key = (mount.get("Source"), mount.get("Target"))
        require(mount.get("Type") == "bind" and key in known, f"the mount of {str(key[0])[:200]} is not permitted")
        template, read_only = known[key]
        require(mount.get("ReadOnly") or not read_only, f"the mount of {key[0]} is read-only")
        if "{user}" in template:
            check_directory(str(key[0]), uid)
    check_directory(policy["home"].replace("{user}", user), uid)


def check_directory(path: str, uid: int) -> None:
    """Check that a directory belongs to a user, and that nobody but root can put a link in its place.

    The engine follows links when the container starts, which is later.
    """
    try:
        found = [(str(each), os.lstat(each)) for each in (Path(path), *Path(path).parents)]
    except FileNotFoundError:
        raise Refused(f"bind source path does not exist: {path}") from None
    except OSError as error:
        raise Refused(f"{path} cannot be examined: {error.strerror}") from None
    require(all(stat.S_ISDIR(status.st_mode) for _, status in found), f"{path} is, or is below, a symbolic link")
    require(found[0][1].st_uid == uid, f"{path} does not belong to uid {uid}")
    trusted = (0, os.geteuid())
    for (_, child), (name, status) in zip(found, found[1:]):  # noqa: B905, RUF007 Python 3.9
        shared = status.st_mode & 0o022 and not (status.st_mode & stat.S_ISVTX and child.st_uid in trusted)
        require(status.st_uid in trusted and not shared, f"others than root can change {name}, so {path} is not safe")


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


# -- what the engine must be asked before a session is created


def check_image(image: str, policy: dict[str, Any]) -> None:
    """Check that an image declares no volumes. Docker creates them on the disk of the host, without a limit.

    Raises:
        Refused: It does, or the manager of a swarm does not have the image.
        OSError, http.client.HTTPException: The engine does not answer.
    """
    target = f"/images/{urllib.parse.quote(image, safe='')}/json"
    settings = json.loads(request(policy["engine"], "GET", target)).get("Config")
    if settings is None and policy.get("swarm"):
        raise Refused(f"no such image on the manager: {image}")
    volumes = ", ".join(sorted((settings or {}).get("Volumes") or {}))
    require(not volumes, f"the image declares the volumes {volumes[:200]}, which have no limit")


def assign_gpus(body: bytes, engine: str) -> bytes:
    """Return the description of a container with GPUs that no other session has. Docker would choose the first ones.

    The caller holds the lock for GPUs until the container exists.

    Raises:
        Refused: Other sessions have the GPUs.
        OSError, http.client.HTTPException: The engine does not answer.
    """
    content = json.loads(body)
    wanted = sum(each["Count"] for each in content["HostConfig"]["DeviceRequests"])
    states = ["created", "restarting", "running", "paused"]
    filters = urllib.parse.quote(json.dumps({"label": [OF_GPUS], "status": states}))
    others = json.loads(request(engine, "GET", f"/containers/json?all=1&filters={filters}"))
    used = {number for each in others for number in str(each["Labels"][OF_GPUS]).split(",")}
    number = len(list(GPUS.iterdir())) if GPUS.is_dir() else 0
    free = [str(each) for each in range(number) if str(each) not in used]
    require(len(free) >= wanted, "all GPUs are in use")
    content["HostConfig"]["DeviceRequests"] = [{"Capabilities": [["gpu"]], "DeviceIDs": free[:wanted]}]
    content["Labels"][OF_GPUS] = ",".join(free[:wanted])
    return json.dumps(content).encode()


@contextlib.contextmanager
def gpus_locked(policy: dict[str, Any]) -> Iterator[None]:
    """Lock the GPUs of the host against the other threads and the gates of other places."""
    with Path(policy.get("gpu_lock") or GPU_LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- services of a swarm


def service(  # one argument for each value that differs between sessions or places
    labels: dict[str, str],
    *,
    image: str,
    program: list[str],
    user: str,
    groups: list[str],
    environment: list[str],
    mounts: list[dict[str, Any]],
    memory: int,
    nano_cpus: int,
    pids: int,
    read_only: bool,
    port: int,
    secret: str,
    network: str,
    swarm: dict[str, Any],
) -> dict[str, Any]:
    """Return the description of a session's service. It starts one container, and never a second one.

    Args:
        labels: The labels of the session.
        image: The image.
        program: The program; see ``command``.
        user: The uid and the gid.
        groups: The other groups.
        environment: The environment, without secrets.
        mounts: The directories of the node in the container.
        memory: The memory, in bytes.
        nano_cpus: The cores, in billionths.
        pids: The maximum number of processes.
        read_only: Whether the files of the image are read-only.
        port: The port of the notebook server, which the node publishes.
        secret: The id of the secret with the session's files.
        network: The network.
        swarm: See ``load``.
    """
    name = f"hpchub-{labels['hpchub.session']}"
    uid, _, gid = user.partition(":")
    limits = {"MemoryBytes": memory, "Pids": pids, **({"NanoCPUs": nano_cpus} if swarm["limit_cores"] else {})}
    memories = ((tmp, 1 << 30) if tmp != SECRETS else (tmp, 4 << 20) for tmp in tmpfs(0, 0))
    return {
        "Name": name,
        "Labels": labels,
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {
            "Mode": "vip",
            # The port of the node itself. A port of the whole swarm would be reachable through every node.
            "Ports": [{"Protocol": "tcp", "TargetPort": port, "PublishedPort": port, "PublishMode": "host"}],
        },
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Command": program,
                "Labels": labels,
                "User": user,
                "Groups": groups,
                "Env": environment,
                "Dir": "/",
                "Init": True,
                "ReadOnly": read_only,
                "StopSignal": "SIGTERM",
                "StopGracePeriod": GRACE * 10**9,
                "Healthcheck": {"Test": ["NONE"]},
                "CapabilityDrop": ["ALL"],
                "Privileges": {"NoNewPrivileges": True},
                "Secrets": [
                    {
                        "SecretID": secret,
                        "SecretName": name,
                        "File": {"Name": name, "UID": uid, "GID": gid, "Mode": 0o400},
                    }
                ],
                "Mounts": [
                    *mounts,
                    *(
                        {"Type": "tmpfs", "Target": path, "TmpfsOptions": {"SizeBytes": size, "Mode": 0o1777}}
                        for path, size in memories
                    ),
                ],
            },
            "Resources": {"Limits": limits, "Reservations": {"MemoryBytes": memory, "NanoCPUs": nano_cpus}},
            "RestartPolicy": {"Condition": "none"},
            "Placement": {"Constraints": swarm["constraints"]},
            "Networks": [{"Target": network}],
            "LogDriver": {"Name": LOG["Type"], "Options": LOG["Config"]},
        },
    }


def read_service(body: bytes, policy: dict[str, Any]) -> bytes:
    """Check the values in the description of a service, and return a description that this program makes from them.

    Raises:
        Refused: The policy does not permit it.
    """
    content = read_object(body)
    try:
        task = content["TaskTemplate"]
        spec, resources = task["ContainerSpec"], task["Resources"]
        labels, user = dict(content["Labels"]), str(spec["User"])
        (port,) = content["EndpointSpec"]["Ports"]
        binds = [each for each in spec["Mounts"] if each["Type"] != "tmpfs"]
        values = {
            "image": spec["Image"],
            "program": spec["Command"],
            "user": user,
            "groups": list(spec.get("Groups") or []),
            "environment": list(spec.get("Env") or []),
            "mounts": [{name: each.get(name) for name in ("Type", "Source", "Target", "ReadOnly")} for each in binds],
            "memory": resources["Limits"]["MemoryBytes"],
            "nano_cpus": resources["Reservations"]["NanoCPUs"],
            "pids": resources["Limits"]["Pids"],
            "read_only": spec.get("ReadOnly") is True,
            "port": port["TargetPort"],
            "secret": str(spec["Secrets"][0]["SecretID"]),
        }
        check_container(str(content["Name"]), as_container(labels, values, policy), policy)
        match("[a-z0-9]{1,64}", values["secret"], "the secret is not an id")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise Refused("the description has a value of another type") from None
    found = service(labels, **values, network=policy["network"], swarm=policy["swarm"])
    return json.dumps(found).encode()


def as_container(labels: dict[str, Any], values: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    """Return the container of a service, for the checks that containers and services have in common.

    What ``service`` adds to every service in the same way is here as it must be.
    """
    uid, gid = str(values["user"]).split(":")
    port = str(values["port"])
    host = {
        "GroupAdd": values["groups"],
        "Mounts": values["mounts"],
        "Memory": values["memory"],
        "MemorySwap": values["memory"],
        "CpuPeriod": 10**9,
        "CpuQuota": values["nano_cpus"],
        "PidsLimit": values["pids"],
        "ReadonlyRootfs": values["read_only"],
        "PortBindings": {f"{port}/tcp": [{"HostIp": policy["published_at"], "HostPort": port}]},
        "NetworkMode": policy["network"],
        "Tmpfs": tmpfs(int(uid), int(gid)),
        "LogConfig": LOG,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "IpcMode": "private",
    }
    return {
        "Image": values["image"],
        "Entrypoint": values["program"],
        "User": values["user"],
        "Env": values["environment"],
        "Labels": labels,
        "OpenStdin": True,
        "StdinOnce": True,
        "WorkingDir": "/",
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def read_secret(body: bytes) -> bytes:
    """Check the secret of a session, and return it without anything else.

    Raises:
        Refused: It is not the secret of a session.
    """
    content = read_object(body)
    name, labels, data = str(content.get("Name")), content.get("Labels") or {}, content.get("Data")
    require(sorted(labels) == sorted(LABELS), "the labels are not those of a session")
    require(name == f"hpchub-{labels['hpchub.session']}" and re.fullmatch(NAME, name), "the name is not valid")
    require(isinstance(data, str), "the secret is not text")
    return json.dumps({"Name": name, "Labels": labels, "Data": data}).encode()


def read_object(body: bytes) -> dict[str, Any]:
    """Return an object of JSON.

    Raises:
        Refused: It is not one.
    """
    try:
        content = json.loads(body, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise Refused("the description is not JSON") from None
    require(isinstance(content, dict), "the description is not an object")
    found: dict[str, Any] = content
    return found


def swarm_request(method: str, path: str, query: dict[str, list[str]], body: bytes, policy: dict[str, Any]) -> Any:
    """Return the target and the body of a request to the manager of a swarm.

    Raises:
        Refused: The policy does not permit the request.
    """
    if method == "POST" and path == "/services/create":
        return path, read_service(body, policy)
    if method == "POST" and path == "/secrets/create":
        return path, read_secret(body)
    require(not body, "this request has no body")
    if method == "GET" and path in ("/secrets", "/services", "/tasks"):
        return f"{path}?filters={OF_SESSIONS}", b""
    if method == "GET" and path in ("/nodes", f"/networks/{policy['network']}-nodes"):
        return path, b""
    found = match(rf"/(services|secrets)/{NAME}(/logs)?", path, "the request is not permitted")
    tail = match("[0-9]{1,3}", (query.get("tail") or ["40"])[0], "tail is not valid")[0]
    targets = {
        ("GET", "services", None): "",
        ("GET", "services", "/logs"): f"?stdout=1&stderr=1&tail={tail}",
        ("DELETE", "services", None): "",
        ("DELETE", "secrets", None): "",
    }
    key = (method, found[1], found[2])
    require(key in targets, "the request is not permitted")
    return path + targets[key], b""


# -- requests


def rewrite(  # noqa: PLR0911 one return for each request
    method: str, target: str, body: bytes, policy: dict[str, Any]
) -> tuple[str, bytes]:
    """Return the target and the body of a request as the engine gets it.

    Raises:
        Refused: The policy does not permit the request.
    """
    url = urllib.parse.urlsplit(target)
    problem = "the path is not valid, or the version of the API is below 1.41"
    found = match(rf"({API})?(/(?!v[0-9])[A-Za-z0-9_./:@%-]*)", url.path, problem)
    version, path = found[1] or "", found[2]
    query = urllib.parse.parse_qs(url.query)
    common = path in ("/_ping", "/version", f"/networks/{policy['network']}") or path.startswith("/images/")
    if policy.get("swarm") and not common:
        target, content = swarm_request(method, path, query, body, policy)
        return version + target, content
    if method == "POST" and path == "/containers/create":
        name = (query.get("name") or [""])[0]
        return f"{version}{path}?name={name}", read_container(name, body, policy)
    require(not body, "this request has no body")
    images = [each["image"] for each in policy["images"]]
    if method in ("GET", "HEAD") and path in ("/_ping", "/version"):
        return version + path, b""
    if method == "GET" and path == f"/networks/{policy['network']}":
        return version + path, b""
    if method == "GET" and path.startswith("/images/") and path.endswith("/json"):
        require(urllib.parse.unquote(path[8:-5]) in images, "the image is not in the list")
        return version + path, b""
    if method == "GET" and path == "/containers/json":
        return f"{version}{path}?all=1&filters={OF_SESSIONS}", b""
    return version + container_request(method, path, query), b""


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
        ("POST", "/attach"): "?stdin=1&stream=1",
        ("POST", "/start"): "",
        ("POST", "/stop"): f"?t={seconds}",
        ("DELETE", None): "?v=1&force=1",
    }
    key = (method, found[1])
    require(key in targets, "the request is not permitted")
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
            self.request.settimeout(HANDSHAKE_TIMEOUT)
            self.request.do_handshake()
        super().setup()

    def serve(self) -> None:
        """Answer one request."""
        try:
            target, body = rewrite(self.command, self.path, self.read_body(), self.policy)
            status, kind, content = self.create(target, body) if body else self.ask(target, body)
        except Refused as error:
            self.log_message("refused: %s %s: %s", self.command, self.path[:200], error)
            status, kind, content = 403, "application/json", message(f"hpchub refuses: {error}")
            self.close_connection = True  # the body may not be read, and is no further request
        except (OSError, http.client.HTTPException) as error:
            self.log_message("the engine does not answer: %s", error)
            status, kind, content = 502, "application/json", message(f"the engine does not answer: {error}")
        if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            return  # ``ask`` has answered
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def create(self, target: str, body: bytes) -> tuple[int, str, bytes]:
        """Create a container, a service or a secret, and return the engine's answer."""
        content = json.loads(body)
        image = content.get("Image") or content.get("TaskTemplate", {}).get("ContainerSpec", {}).get("Image")
        if image:
            check_image(image, self.policy)
        if not content.get("HostConfig", {}).get("DeviceRequests"):
            return self.ask(target, body)
        with gpus_locked(self.policy):
            return self.ask(target, assign_gpus(body, self.policy["engine"]))

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
            headers = {"Content-Type": "application/json"}
            if "/attach?" in target:
                headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
            connection.request(self.command, target, body or None, headers)
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                self.pass_on(connection.sock)
                return answer.status, "", b""
            content = answer.read(ANSWER_LIMIT + 1)
            require(len(content) <= ANSWER_LIMIT, "the answer of the engine is too long")
            return answer.status, answer.headers.get("Content-Type") or "application/json", content
        finally:
            connection.close()

    def pass_on(self, engine: socket.socket) -> None:
        """Pass on what the client sends to the standard input of a container, and nothing in the other direction."""
        self.close_connection = True
        self.send_response(http.HTTPStatus.SWITCHING_PROTOCOLS)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "tcp")
        self.end_headers()
        sent = 0
        with contextlib.suppress(OSError):  # both sides notice the end
            while (chunk := self.rfile.read1(65536)) and sent <= BODY_LIMIT:
                engine.sendall(chunk)
                sent += len(chunk)

    do_GET = do_HEAD = do_POST = do_DELETE = serve  # noqa: N815 the names that http.server calls

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
    clients: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a client may connect. Others cannot occupy threads."""
        return not self.clients or any(ipaddress.ip_address(client_address[0]) in each for each in self.clients)


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
    server.clients = tuple(ipaddress.ip_network(each, strict=False) for each in listen.get("clients", ()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=listen["authority"])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(listen["certificate"], listen["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def end_overdue(engine: str) -> None:
    """End the sessions that go on after their time limit.

    ``timeout`` ends them first, but it runs with the uid of the user, who can stop it.
    """
    wanted = urllib.parse.quote(json.dumps({"label": ["hpchub.runtime"], "status": ["running", "paused"]}))
    for each in json.loads(request(engine, "GET", f"/containers/json?filters={wanted}")):
        name, runtime = str(each["Names"][0]).lstrip("/"), str(each["Labels"]["hpchub.runtime"])
        if not re.fullmatch(NAME, name) or not re.fullmatch("[0-9]{1,9}", runtime):
            continue
        if time.time() - each["Created"] > int(runtime) + OVERDUE:
            print(f"{name} goes on after its time limit; stopping it", file=sys.stderr)
            request(engine, "POST", f"/containers/{name}/stop?t=10")


def end_overdue_services(engine: str) -> None:
    """Remove the services that go on after their time limit."""
    services = json.loads(request(engine, "GET", f"/services?filters={OF_SESSIONS}"))
    tasks = json.loads(request(engine, "GET", f"/tasks?filters={OF_SESSIONS}"))
    names = {each["ID"]: str(each["Spec"]["Name"]) for each in services}
    for task in tasks:
        name, state = names.get(task["ServiceID"], ""), task["Status"]
        runtime = str(task["Spec"]["ContainerSpec"]["Labels"].get("hpchub.runtime"))
        if state["State"] != "running" or not re.fullmatch(NAME, name) or not re.fullmatch("[0-9]{1,9}", runtime):
            continue
        if time.time() - moment(state["Timestamp"]) > int(runtime) + OVERDUE:
            print(f"{name} goes on after its time limit; removing it", file=sys.stderr)
            request(engine, "DELETE", f"/services/{name}")


def moment(text: str) -> int:
    """Return a time of the engine in seconds since 1970."""
    return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))


def request(engine: str, method: str, target: str) -> bytes:
    """Return the engine's answer to a request of the gate itself.

    Raises:
        OSError, http.client.HTTPException: There is no answer.
    """
    connection = EngineConnection(engine)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        content = answer.read(ANSWER_LIMIT)
    finally:
        connection.close()
    if answer.status not in (200, 204, 304, 404):
        raise OSError(f"{method} {target[:80]}: {answer.status} {content[:200]!r}")
    return content


def watch(engine: str, end: Callable[[str], None]) -> None:
    """End overdue sessions from time to time."""
    while True:
        time.sleep(WATCH_INTERVAL)
        try:
            end(engine)
        except Exception as error:  # noqa: BLE001 the next attempt may succeed
            print(f"it is unknown which sessions are overdue: {error!r}", file=sys.stderr)


def main() -> int:
    """Run the gate."""
    if len(sys.argv) != 2:
        print("usage: hpchub-docker-gate POLICY", file=sys.stderr)
        return 2
    policy = load(Path(sys.argv[1]))
    end = end_overdue_services if policy.get("swarm") else end_overdue
    threading.Thread(target=watch, args=(policy["engine"], end), daemon=True).start()
    serve(policy).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
