"""What happens to a pod after it was created: a node is chosen, its image is pulled, and it runs until its end.

Source: "Pod Lifecycle", the sections "Pod phase", "Container states", "Pod conditions" and "Termination of Pods";
"Jobs", the section on ``activeDeadlineSeconds``; "Node-pressure Eviction"; "Images", the section "ImagePullBackOff";
"Assigning Pods to Nodes"; "Taints and Tolerations" (kubernetes.io/docs/concepts/). The texts of the events are those of
the kubelet and the scheduler, as the documents quote them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lab_kubernetes.admission import quantity, resources
from lab_kubernetes.runners import Broken
from lab_kubernetes.store import Refused, Selection, now

if TYPE_CHECKING:
    import subprocess

    from lab_kubernetes.runners import Runner
    from lab_kubernetes.store import Object, Store

TICK = 0.05
"""How often a pod is looked at, in seconds."""
DEFAULT_GRACE = 30


@dataclass
class Running:
    """A container that runs.

    Attributes:
        process: Its process.
        started: When it started (monotonic clock).
        killed: What to report if it was killed on purpose: the fields of the pod's status.
        reason: The reason of the container's end, for example ``OOMKilled``, or empty.
    """

    process: subprocess.Popen[bytes]
    started: float
    killed: Object | None = None
    reason: str = ""


class Kubelet:
    """The scheduler and all nodes.

    Args:
        store: The objects.
        runner: Runs the containers.

    Attributes:
        paused: While it is set, nothing happens to pods.
        pull_error: What pulling any image fails with, or empty.
        lost: The nodes that do not answer any more.
    """

    def __init__(self, store: Store, runner: Runner) -> None:
        self.store, self.runner = store, runner
        self.paused = threading.Event()
        self.pull_error = ""
        self.lost: set[str] = set()
        self.closing = threading.Event()
        self._running: dict[str, Running] = {}
        self._numbers = itertools.count(2)
        self._threads: list[threading.Thread] = []

    def accept(self, pod: Object) -> None:
        """Begin to look after a new pod."""
        thread = threading.Thread(target=self._live, args=(pod,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Kill all containers, and wait for their end."""
        self.closing.set()
        for thread in self._threads:
            thread.join(10)

    # -- what a test or the lab can do to a pod

    def _end(self, namespace: str, name: str, status: Object, reason: str = "") -> None:
        pod = self.store.get("pods", namespace, name)
        running = self._running[pod["metadata"]["uid"]]
        running.killed, running.reason = status, reason
        self.runner.kill(pod, running.process, hard=True)

    def evict(self, namespace: str, name: str) -> None:
        """End a pod because its node has too little memory ("Node-pressure Eviction")."""
        message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi."
        self._event(self.store.get("pods", namespace, name), "Evicted", message, "Warning")
        self._end(namespace, name, {"phase": "Failed", "reason": "Evicted", "message": message})

    def run_out_of_memory(self, namespace: str, name: str) -> None:
        """End a container as the kernel does when it uses too much memory."""
        self._end(namespace, name, {"phase": "Failed"}, "OOMKilled")

    def expire(self, namespace: str, name: str) -> None:
        """Let the time of a pod be over ("Jobs", the section on ``activeDeadlineSeconds``)."""
        message = "Pod was active on the node longer than the specified deadline"
        self._end(namespace, name, {"phase": "Failed", "reason": "DeadlineExceeded", "message": message})

    def lose(self, node: str) -> None:
        """Let a node be silent: its pods go on, but nobody knows ("Nodes", the section "Node status")."""
        self.lost.add(node)

        def unknown(content: Object) -> None:
            message = "Kubelet stopped posting node status."
            content["status"]["conditions"] = [
                {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": message}
            ]

        self.store.update("nodes", "", node, unknown)
        for pod in self.store.select(Selection("pods"))[0]:
            if pod["spec"].get("nodeName") == node:
                self._event(pod, "NodeNotReady", "Node is not ready", "Warning")
                self._condition(pod, "Ready", "False", "NodeNotReady", "")

    # -- the life of a pod

    def _live(self, pod: Object) -> None:
        with contextlib.suppress(Refused):  # the pod was removed
            try:
                if self._schedule(pod) and self._prepare(pod):
                    self._run(pod)
                self._wait_for_deletion(pod)
            finally:
                running = self._running.pop(pod["metadata"]["uid"], None)
                if running and running.process.poll() is None:
                    self.runner.kill(pod, running.process, hard=True)
                    running.process.wait()
                self.runner.tidy(pod)

    def _goes_on(self, pod: Object) -> Object | None:
        """Wait for a moment. Return the pod, or None if it is to be deleted.

        Raises:
            Refused: The pod was removed, or the stand-in closes.
        """
        time.sleep(TICK)
        while self.paused.is_set() and not self.closing.is_set():
            time.sleep(TICK)
        if self.closing.is_set():
            raise Refused(503, "ServiceUnavailable", "closing")
        found = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        if found["metadata"]["uid"] != pod["metadata"]["uid"]:
            raise Refused(404, "NotFound", "another pod has its name now")
        return None if "deletionTimestamp" in found["metadata"] else found

    def _schedule(self, pod: Object) -> bool:
        reported = ""
        while found := self._goes_on(pod):
            node, problem = self._choose(found)
            if node:
                self._change(pod, lambda each, node=node: each["spec"].update(nodeName=node))
                self._condition(pod, "PodScheduled", "True", "", "")
                name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                self._event(pod, "Scheduled", f"Successfully assigned {name} to {node}")
                return True
            if problem != reported:
                reported = problem
                self._condition(pod, "PodScheduled", "False", "Unschedulable", problem)
                self._event(pod, "FailedScheduling", problem, "Warning")
        return False

    def _choose(self, pod: Object) -> tuple[str, str]:
        """Return the node for a pod, or why there is none ("Assigning Pods to Nodes")."""
        nodes, _ = self.store.select(Selection("nodes"))
        for volume in pod["spec"].get("volumes") or []:
            if claim := volume.get("persistentVolumeClaim"):
                try:
                    self.store.get("persistentvolumeclaims", pod["metadata"]["namespace"], claim["claimName"])
                except Refused:
                    text = f'persistentvolumeclaim "{claim["claimName"]}" not found'
                    return "", f"0/{len(nodes)} nodes are available: {text}."
        problems: dict[str, int] = {}
        pods, _ = self.store.select(Selection("pods"))
        for node in nodes:
            problem = self._unsuitable(node, pod, pods)
            if not problem:
                return str(node["metadata"]["name"]), ""
            problems[problem] = problems.get(problem, 0) + 1
        text = ", ".join(f"{count} {problem}" for problem, count in sorted(problems.items()))
        return "", f"0/{len(nodes)} nodes are available: {text}."

    def _unsuitable(self, node: Object, pod: Object, pods: list[Object]) -> str:
        name, spec = node["metadata"]["name"], pod["spec"]
        labels = node["metadata"].get("labels") or {}
        if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
            return "node(s) didn't match Pod's node affinity/selector"
        for taint in node["spec"].get("taints") or []:
            if not any(_tolerates(each, taint) for each in spec.get("tolerations") or []):
                return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
        if name in self.lost:
            return "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"
        free = {key: quantity(value) for key, value in node["status"]["allocatable"].items()}
        for other in pods:
            if other["spec"].get("nodeName") == name and other["status"]["phase"] in ("Pending", "Running"):
                for key, value in resources(other, "requests").items():
                    free[key] = free.get(key, Decimal(0)) - value
        asked = resources(pod, "requests")
        return next((f"Insufficient {key}" for key, value in asked.items() if value > free.get(key, 0)), "")

    def _prepare(self, pod: Object) -> bool:
        """Mount the volumes and pull the image. Return whether the container can start."""
        container = pod["spec"]["containers"][0]
        image, policy = container["image"], container.get("imagePullPolicy")
        reported: set[str] = set()
        while found := self._goes_on(pod):
            secret = self._missing_secret(found)
            if secret:
                volume = f'MountVolume.SetUp failed for volume "{secret[0]}" : secret "{secret[1]}" not found'
                self._once(pod, reported, "FailedMount", volume)
                self._waiting(pod, "ContainerCreating", "")
                continue
            if not self.pull_error and image in self.runner.images:
                text = f'Container image "{image}" already present on machine'
                self._event(pod, "Pulled", text)
                return True
            if policy == "Never":
                text = f'Container image "{image}" is not present with pull policy of Never'
                self._once(pod, reported, "ErrImageNeverPull", text)
                self._waiting(pod, "ErrImageNeverPull", text)
                continue
            error = self.pull_error or f"failed to resolve reference {image}: not found"
            self._once(pod, reported, "Failed", f'Failed to pull image "{image}": {error}')
            self._once(pod, reported, "BackOff", f'Back-off pulling image "{image}"')
            self._waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{image}": {error}')
        return False

    def _missing_secret(self, pod: Object) -> tuple[str, str] | None:
        for volume in pod["spec"].get("volumes") or []:
            if name := (volume.get("secret") or {}).get("secretName"):
                try:
                    self.store.get("secrets", pod["metadata"]["namespace"], name)
                except Refused:
                    return volume["name"], name
        return None

    def _run(self, pod: Object) -> None:
        namespace, name = pod["metadata"]["namespace"], pod["spec"]["containers"][0]["name"]
        secrets = {
            volume["secret"]["secretName"]: self.store.get("secrets", namespace, volume["secret"]["secretName"])
            for volume in pod["spec"].get("volumes") or []
            if "secret" in volume
        }
        self.runner.pod_directory(pod).mkdir(parents=True, exist_ok=True)
        try:
            process, address = self.runner.start(pod, self.runner.volumes(pod, secrets), next(self._numbers))
        except Broken as error:
            self._event(pod, "Failed", f"Error: {error}", "Warning")
            self._finish(pod, 128, "StartError", str(error), {"phase": "Failed"})
            return
        running = self._running[pod["metadata"]["uid"]] = Running(process, time.monotonic())
        self._event(pod, "Started", f"Started container {name}")

        def started(each: Object) -> None:
            each["status"].update(phase="Running", podIP=address, podIPs=[{"ip": address}], startTime=now())
            each["status"]["containerStatuses"] = [_container(each, {"running": {"startedAt": now()}}, ready=True)]

        self._change(pod, started)
        self._watch(pod, running)
        if pod["spec"].get("nodeName") in self.lost:  # nobody hears of the end
            return
        code = process.wait()
        code = 128 - code if code < 0 else code
        reason = running.reason or ("Error" if code else "Completed")
        self._finish(pod, code, reason, "", running.killed or {"phase": "Failed" if code else "Succeeded"})

    def _watch(self, pod: Object, running: Running) -> None:
        """Wait until the container ends or the pod is to be deleted. Enforce its deadline."""
        limit = pod["spec"].get("activeDeadlineSeconds")
        while running.process.poll() is None and self._goes_on(pod):
            if limit and time.monotonic() - running.started > limit and running.killed is None:
                message = "Pod was active on the node longer than the specified deadline"
                running.killed = {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}
                self._event(pod, "DeadlineExceeded", message)
                self.runner.kill(pod, running.process, hard=False)
        found = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        grace = found["metadata"].get("deletionGracePeriodSeconds", 0)
        if running.process.poll() is None and pod["spec"].get("nodeName") not in self.lost:
            self.runner.kill(pod, running.process, hard=grace == 0)
            deadline = time.monotonic() + grace
            while running.process.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK)
            if running.process.poll() is None:
                self.runner.kill(pod, running.process, hard=True)

    def _wait_for_deletion(self, pod: Object) -> None:
        while self._goes_on(pod) or pod["spec"].get("nodeName") in self.lost:
            pod = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.store.remove("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    # -- the pod's status and events

    def _change(self, pod: Object, change: Any) -> None:
        self.store.update("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)

    def _condition(self, pod: Object, kind: str, status: str, reason: str, message: str) -> None:
        def change(each: Object) -> None:
            others = [old for old in each["status"].get("conditions", []) if old["type"] != kind]
            each["status"]["conditions"] = [
                *others,
                {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()},
            ]

        self._change(pod, change)

    def _waiting(self, pod: Object, reason: str, message: str) -> None:
        state = {"waiting": {"reason": reason, "message": message}}
        current = self.store.get("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        if [each["state"] for each in current["status"].get("containerStatuses", [])] != [state]:
            self._change(
                pod, lambda each: each["status"].update(containerStatuses=[_container(each, state, ready=False)])
            )

    def _finish(self, pod: Object, code: int, reason: str, message: str, status: Object) -> None:
        state = {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": now()}}

        def change(each: Object) -> None:
            each["status"].update(status)
            each["status"]["containerStatuses"] = [_container(each, state, ready=False)]

        self._change(pod, change)

    def _once(self, pod: Object, reported: set[str], reason: str, message: str) -> None:
        if message not in reported:
            reported.add(message)
            self._event(pod, reason, message, "Warning")

    def _event(self, pod: Object, reason: str, message: str, kind: str = "Normal") -> None:
        """Create an event about a pod ("Event" in the API reference)."""
        metadata = pod["metadata"]
        about = {"kind": "Pod", **{key: metadata[key] for key in ("namespace", "name", "uid")}}
        event = {
            "metadata": {"generateName": f"{metadata['name']}."},
            "involvedObject": about,
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "eventTime": None,
        }
        self.store.create("events", metadata["namespace"], event)


def _tolerates(toleration: Object, taint: Object) -> bool:
    """Return whether a toleration matches a taint ("Taints and Tolerations", the section "Concepts")."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"]) and (toleration.get("value") or "") == taint.get("value", "")


def _container(pod: Object, state: Object, *, ready: bool) -> Object:
    container = pod["spec"]["containers"][0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"],
        "ready": ready,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    }
