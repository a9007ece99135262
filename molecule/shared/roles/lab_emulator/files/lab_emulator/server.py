"""The server. It owns all jobs, decides where they run and checks the permissions of users.

Clients connect to a unix socket, and the kernel reports their user id (SO_PEERCRED). Agents connect over TCP and
authenticate with the lab's key file. Every half second, an agent reports the state of its jobs and receives orders.
So no job is lost when the server or an agent restarts.

The states of a job are Q (queued), H (held), R (running), S (suspended), E (ending after a signal) and F (finished).
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import secrets
import socket
import socketserver
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lab_emulator.common import Job, name_of, read_config, receive, send, signature, write

ALIVE = ("Q", "H", "R", "S", "E")
PLACED = ("R", "S", "E")
SILENCE = 30  # seconds without a report after which an agent counts as down
DEFAULT_RUNTIME = 3600  # assumed run time of a job without a limit, in seconds, for estimated start times


class Server:
    """The state of all flavours and the operations that change it.

    ``handle`` and ``report`` acquire ``lock``. The callers of all other methods must hold it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Load the state that an earlier server saved."""
        self.config = config
        self.lock = threading.RLock()
        self.path = Path(config["state"], "state.json")
        self.state: dict[str, Any] = {"next": {}, "jobs": [], "faults": {}, "hidden": [], "closed": [], "more": {}}
        with contextlib.suppress(FileNotFoundError):
            self.state |= json.loads(self.path.read_text())
        self.seen: dict[str, float] = {}
        self.saved = json.dumps(self.state)

    # -- requests of clients

    def handle(self, request: dict[str, Any], uid: int) -> Any:
        """Answer one request of the user with that uid. An error is returned as ``{"error": WORD, …}``."""
        with self.lock:
            operation = getattr(self, f"do_{request.get('op')}", None)
            if operation is None:
                return {"error": "request"}
            answer = operation(request, uid)
            self.schedule()
            self.save()
            return answer

    def administers(self, uid: int) -> bool:
        """Return whether the user is an administrator of all flavours."""
        return uid == 0 or (bool(self.config.get("unprivileged")) and uid == os.getuid())

    def queues(self, flavour: str) -> list[dict[str, Any]]:
        """Return the queues of a flavour. A queue that was added later has the limits of the first queue."""
        first, *others = self.config["flavours"][flavour]["queues"]
        return [first, *others, *({**first, "name": name} for name in self.state["more"].get(flavour, []))]

    def do_status(self, request: dict[str, Any], uid: int) -> dict[str, Any]:
        """Return the jobs of a flavour that the user may see, its queues and the nodes."""
        flavour = request["flavour"]
        hidden = flavour in self.state["hidden"] and not self.administers(uid)
        return {
            "now": time.time(),
            "user": pwd.getpwuid(uid).pw_name,
            "jobs": [
                {key: value for key, value in job.items() if key not in ("script", "environment")}
                for job in self.state["jobs"]
                if job["flavour"] == flavour and (not hidden or job["uid"] == uid)
            ],
            "queues": [
                {**queue, "open": f"{flavour}/{queue['name']}" not in self.state["closed"]}
                for queue in self.queues(flavour)
            ],
            "nodes": {
                name: {**node, "up": self.is_up(name), "used": self.used(name)}
                for name, node in self.config["nodes"].items()
            },
            "fault": self.state["faults"].get(flavour, {}),
        }

    def do_submit(self, request: dict[str, Any], uid: int) -> dict[str, Any]:
        """Accept a job, or refuse it because of its user, its queue or the limits of the queue."""
        flavour, asked = request["flavour"], request["job"]
        account = pwd.getpwuid(uid)
        if uid == 0 and not self.config.get("unprivileged"):
            return {"error": "user"}
        queues = self.queues(flavour)
        queue = next((queue for queue in queues if queue["name"] == (asked["queue"] or queues[0]["name"])), None)
        if queue is None:
            return {"error": "queue", "queue": asked["queue"]}
        if f"{flavour}/{queue['name']}" in self.state["closed"]:
            return {"error": "closed", "queue": queue["name"]}
        if asked["runtime"] is None:
            asked["runtime"] = queue.get("default_runtime", queue["max_runtime"])
        totals = {**asked, "cores": asked["cores"] * asked["nodes"]}
        for resource in ("cores", "memory", "runtime", "gpus"):
            most = queue.get(f"max_{resource}")
            if most is not None and totals[resource] > most:
                return {
                    "error": "limit", "resource": resource, "queue": queue["name"], "asked": totals[resource],
                    "most": most,
                }  # fmt: skip
        number = self.state["next"].get(flavour, self.config["flavours"][flavour].get("first_id", 1))
        self.state["next"][flavour] = number + 1
        now = time.time()
        for index in asked.pop("indices") or [None]:
            job: Job = {
                **asked, "flavour": flavour, "number": number,
                "server": self.config["flavours"][flavour].get("server", flavour), "index": index,
                "queue": queue["name"],
                "user": account.pw_name, "uid": uid, "gid": account.pw_gid, "home": account.pw_dir,
                "shell": asked["shell"] or account.pw_shell or "/bin/sh", "group": _group(account.pw_gid),
                "host": socket.gethostname(), "state": "H" if asked["hold"] else "Q", "created": now, "changed": now,
                "started": None, "ended": None, "exit": None, "hosts": [], "runs": 0, "reported": False,
                "session_id": None, "killed": "", "kill_at": None, "reason": "", "estimate": None, "requeue": False,
                "deleted_by": "", "release": False,
            }  # fmt: skip
            self.state["jobs"].append(job)
        return {"number": number, "queue": queue["name"], "default": not asked["queue"]}

    def chosen(self, request: dict[str, Any]) -> list[Job]:
        """Return the jobs with the number in a request, limited to one job of an array if it has an index."""
        return [
            job
            for job in self.state["jobs"]
            if job["flavour"] == request["flavour"]
            and job["number"] == request["number"]
            and request.get("index") in (None, job["index"])
        ]

    def do_act(self, request: dict[str, Any], uid: int) -> dict[str, Any]:
        """Delete, hold, release, suspend, resume or requeue a job. Return ``{"ok": true}`` or an error."""
        jobs = self.chosen(request)
        if not jobs:
            return {"error": "unknown"}
        what = request["what"]
        if uid != jobs[0]["uid"] and not self.administers(uid):
            return {"error": "denied"}
        if what in ("suspend", "resume", "requeue") and request["flavour"] != "lsf" and not self.administers(uid):
            return {"error": "denied"}
        alive = [job for job in jobs if job["state"] in ALIVE]
        if not alive:
            return {"error": "finished"}
        done = [self.act(job, what, pwd.getpwuid(uid).pw_name) for job in alive]
        return {"ok": True} if any(done) else {"error": "state", "state": alive[0]["state"]}

    def act(self, job: Job, what: str, who: str) -> bool:
        """Carry out an action on one job. Return False if the job's state does not allow it."""
        state = job["state"]
        if what == "delete":
            job.update(deleted_by=who, requeue=False)
            if state in ("Q", "H"):
                self.finish(job, 271, "deleted")
            elif state != "E":
                self.kill(job, "deleted")
            elif job["killed"] == "requeued":
                job["killed"] = "deleted"
        elif what == "hold" and state == "Q":
            self.change(job, "H")
            job["hold"] = "u"
        elif what == "release" and state == "H":
            self.change(job, "Q")
            job["hold"] = ""
        elif what == "suspend" and state == "R":
            self.change(job, "S")
        elif what == "resume" and state == "S":
            self.change(job, "R")
        elif what == "requeue" and state in PLACED:
            job["requeue"] = True
            self.kill(job, "requeued")
        else:
            return False
        return True

    def do_admin(self, request: dict[str, Any], uid: int) -> dict[str, Any]:
        """Change the settings of a flavour: its fault, its queues, and whether users see the jobs of others."""
        if not self.administers(uid):
            return {"error": "denied"}
        flavour = request["flavour"]
        if "fault" in request:
            self.state["faults"][flavour] = request["fault"]
        if "hide" in request:
            self.state["hidden"] = sorted({*self.state["hidden"], flavour} - ({flavour} - {request["hide"] * flavour}))
        for name, is_open in request.get("queues", {}).items():
            self.state["closed"] = sorted(
                {*self.state["closed"], f"{flavour}/{name}"} - ({f"{flavour}/{name}"} if is_open else set())
            )
        for name, is_there in request.get("more_queues", {}).items():
            others = [each for each in self.state["more"].get(flavour, []) if each != name]
            self.state["more"][flavour] = [*others, *([name] if is_there else [])]
        return {"ok": True}

    # -- state changes of a job

    def change(self, job: Job, state: str) -> None:
        """Set the state of a job."""
        job["state"] = state
        job["changed"] = time.time()

    def kill(self, job: Job, why: str) -> None:
        """Make the agent end a job: with SIGTERM first, and with SIGKILL after the grace period."""
        job["killed"] = why
        job["kill_at"] = time.time()
        self.change(job, "E")

    def finish(self, job: Job, code: int, why: str = "") -> None:
        """Mark a job as finished, or put it back into its queue if a requeue was requested."""
        job["killed"] = why or job["killed"]
        if job["requeue"]:
            job.update(requeue=False, killed="", kill_at=None, hosts=[], reported=False, started=None, session_id=None)
            self.change(job, "Q")
            return
        job["exit"] = code
        job["ended"] = time.time()
        self.change(job, "F")

    # -- scheduling

    def is_up(self, node: str) -> bool:
        """Return whether the agent of a node has reported recently."""
        return time.time() - self.seen.get(node, 0) < SILENCE

    def used(self, node: str) -> dict[str, int]:
        """Return the resources that the jobs of all flavours use on a node."""
        jobs = [job for job in self.state["jobs"] if job["state"] in PLACED and node in job["hosts"]]
        return {what: sum(job[what] * job["hosts"].count(node) for job in jobs) for what in ("cores", "memory", "gpus")}

    def lacking(self, job: Job, node: str, used: dict[str, int]) -> str:
        """Return the first requirement of a job that a node does not meet, or an empty string if it meets all."""
        has = self.config["nodes"][node]
        if job["wanted_hosts"] and node not in job["wanted_hosts"]:
            return "host"
        if not set(job["features"]) <= {*has.get("features", []), node}:
            return "feature"
        return next((what for what in ("cores", "memory", "gpus") if used[what] + job[what] > has.get(what, 0)), "")

    def schedule(self) -> None:
        """Place queued jobs in the order of their submission, end those over their time limit, and forget old ones."""
        now = time.time()
        for job in self.state["jobs"]:
            if job["state"] in PLACED and job["started"] and job["runtime"] and job["state"] != "E":
                if now - job["started"] > job["runtime"]:
                    self.kill(job, "runtime")
            elif job["state"] == "Q":
                self.place(job)
        keep = now - float(self.config["history"])
        self.state["jobs"] = [job for job in self.state["jobs"] if job["state"] != "F" or job["ended"] > keep]

    def place(self, job: Job) -> None:
        """Assign nodes to a queued job, or set the reason and the estimated end of its wait."""
        up = [node for node in self.config["nodes"] if self.is_up(node)]
        if f"{job['flavour']}/{job['queue']}" in self.state["closed"]:
            job["reason"] = "closed"
            return
        lacks = {node: self.lacking(job, node, self.used(node)) for node in up}
        free = [node for node, lack in lacks.items() if not lack]
        if len(free) >= job["nodes"]:
            job.update(hosts=free[: job["nodes"]], reason="", estimate=None, runs=job["runs"] + 1, reported=False)
            job["started"] = time.time()
            self.change(job, "R")
            return
        nothing = {"cores": 0, "memory": 0, "gpus": 0}
        able = [node for node in self.config["nodes"] if not self.lacking(job, node, nothing)]
        if len(able) < job["nodes"]:
            job["reason"] = "never"
            return
        job["reason"] = next((lack for lack in lacks.values() if lack in nothing), "nodes")
        ends = sorted(
            (other["started"] or time.time()) + (other["runtime"] or DEFAULT_RUNTIME)
            for other in self.state["jobs"]
            if other["state"] in PLACED and set(other["hosts"]) & set(able)
        )
        job["estimate"] = ends[0] if ends else None

    # -- reports of agents

    def report(self, node: str, jobs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Process an agent's report on its jobs and return orders for the agent.

        Returns:
            ``{"start": [JOB], "signal": {NAME: [SIGNAL, NOTE]}, "forget": [NAME]}``. Each NAME identifies one run of a
            job.
        """
        with self.lock:
            self.seen[node] = time.time()
            orders: dict[str, Any] = {"start": [], "signal": {}, "forget": []}
            mine = {
                f"{name_of(job)}-{job['runs']}": job
                for job in self.state["jobs"]
                if job["state"] in PLACED and job["hosts"][:1] == [node]
            }
            orders["forget"] = [name for name, found in jobs.items() if name not in mine and "exit" in found]
            orders["signal"] = {n: ["KILL", ""] for n, found in jobs.items() if n not in mine and "exit" not in found}
            for name, job in mine.items():
                found = jobs.get(name)
                if found is None:
                    if job["reported"]:
                        self.finish(job, 265, "lost")  # the node lost its spool directory while the job ran
                    elif job["state"] == "E":
                        self.finish(job, 271)
                    else:
                        orders["start"].append(job)
                    continue
                job["reported"] = True
                job["session_id"] = found.get("session_id")
                if "exit" in found:
                    self.finish(job, found["exit"])
                    orders["forget"].append(name)
                elif order := self.order(job, stopped=bool(found.get("stopped"))):
                    orders["signal"][name] = order
            self.schedule()
            self.save()
            return orders

    def order(self, job: Job, *, stopped: bool) -> list[str]:
        """Return the signal to send to a running job now, with a note for its user, or an empty list."""
        if job["state"] == "E":
            late = time.time() - job["kill_at"] > float(self.config["grace"])
            passed = int(time.time() - job["started"])
            note = f"walltime {passed} exceeded limit {job['runtime']}" if job["killed"] == "runtime" else ""
            return ["KILL" if late else "TERM", note]
        if (job["state"] == "S") != stopped:
            return ["CONT" if stopped else "STOP", ""]
        return []

    def save(self) -> None:
        """Write the state to its file if it has changed."""
        text = json.dumps(self.state)
        if text != self.saved:
            write(self.path, text)
            self.saved = text


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def serve() -> None:
    """Run the server forever."""
    config = read_config()
    Path(config["state"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    server = Server(config)

    class ClientHandler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            credentials = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            uid = struct.unpack("3i", credentials)[1]
            with contextlib.suppress(OSError):
                send(self.request, server.handle(receive(self.request), uid))

    class AgentHandler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(10)
            with contextlib.suppress(OSError):
                nonce = secrets.token_hex(16)
                send(self.request, nonce)
                signed = receive(self.request)
                if not secrets.compare_digest(signature(config, nonce, signed["body"]), signed["signature"]):
                    print("rejected an agent: its report is not signed with the lab's key", file=sys.stderr)
                    return
                report = json.loads(signed["body"])
                body = json.dumps(server.report(report["node"], report["jobs"]))
                send(self.request, {"body": body, "signature": signature(config, nonce, body)})

    class Clients(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        request_queue_size = 64

    class Agents(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 64

    path = Path(config["socket"])
    path.unlink(missing_ok=True)
    with Clients(str(path), ClientHandler) as clients, Agents(("", config["port"]), AgentHandler) as agents:
        path.chmod(0o666)  # every user may connect, because the kernel reports the user id
        threading.Thread(target=agents.serve_forever, daemon=True).start()
        threading.Thread(target=clients.serve_forever, daemon=True).start()
        while True:
            time.sleep(1)
            with server.lock:
                server.schedule()
                server.save()
