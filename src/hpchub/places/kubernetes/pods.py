"""The pod of a session, in the terms of KubeSpawner. No I/O.

Source: "Pod Security Standards", the section "Restricted"; "Configure a Security Context for a Pod or Container";
"Resource Management for Pods and Containers"; "Configure a Pod to Use a PersistentVolume for Storage"
(kubernetes.io/docs/).
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hpchub.model.places import KubernetesPlace
from hpchub.places.interface import PROGRAM, secret_path
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.entries import Profile
    from hpchub.model.places import PlaceBase

CLAIM = "hpchub-home-{username}"
"""The template of the name of a user's claim. KubeSpawner makes the user's name safe and unique."""


def pod_traits(
    place: KubernetesPlace,
    profile: Profile,
    *,
    job_id: str,
    session: str,
    home: str,
    ids: tuple[int, int, Sequence[int]],
) -> dict[str, Any]:
    """Return the traits of KubeSpawner that describe a session's pod.

    The pod has no token of the cluster, no capability and no way to gain one. The time limit is the cluster's.

    Args:
        place: The place.
        profile: The profile that was granted.
        job_id: The name of the pod and of its Secret.
        session: The session's name.
        home: The home directory in the pod.
        ids: The uid, the gid and the groups of the user.
    """
    image = place.image(profile.image)
    if image is None:
        raise ValueError(f"place {place.name} has no image {profile.image!r}")
    uid, gid, groups = ids
    secrets = str(PurePosixPath(secret_path(session)).parent)
    memory = mebibytes(profile.memory) * 1024**2
    gpus = {place.gpu_resource: str(int(profile.gpus))} if profile.gpus else {}
    limited = {"emptyDir": {"sizeLimit": place.tmp_size}}  # a full disk would end the pods of others too
    volumes: list[dict[str, Any]] = [
        {"name": "session", "secret": {"secretName": job_id, "defaultMode": 0o400}},
        {"name": "tmp", **limited},
    ]
    mounts = [
        {"name": "session", "mountPath": secrets, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 in the pod
        {"name": "home", "mountPath": home},
    ]
    claim = {"persistentVolumeClaim": {"claimName": "{pvc_name}"}} if place.storage else limited
    volumes.append({"name": "home", **claim})
    return {
        "image": image.image,
        "image_pull_policy": place.pull_policy,
        "image_pull_secrets": list(place.pull_secrets),
        "cpu_limit": float(profile.cores),
        "cpu_guarantee": float(profile.cores),
        "mem_limit": memory,
        "mem_guarantee": memory,
        "extra_resource_limits": gpus,
        "extra_resource_guarantees": gpus,
        "uid": uid,
        "gid": gid,
        "fs_gid": gid,
        "supplemental_gids": [each for each in groups if each != gid],
        "privileged": False,
        "allow_privilege_escalation": False,
        "pod_security_context": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "container_security_context": {
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": place.read_only,
        },
        "service_account": None,
        "automount_service_account_token": False,
        "node_selector": {each.label: each.value for each in place.node_selector},
        "tolerations": [each.as_toleration for each in place.tolerations],
        "priority_class_name": place.priority_class,
        "volumes": volumes,
        "volume_mounts": mounts,
        "storage_capacity": f"{mebibytes(place.storage)}Mi" if place.storage else "",
        "storage_class": place.storage_class or None,
        "storage_access_modes": [place.storage_access],
        # KubeSpawner's own command would become the arguments of this one, or of the image's entrypoint.
        "cmd": [],
        "args": [],
        "extra_container_config": {"command": [image.python, "-I", f"{secrets}/{PROGRAM}", session]},
        "extra_pod_config": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": seconds(profile.runtime),
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 10,
        },
    }


def plan(place: PlaceBase, profile: Profile) -> str:
    """Return the traits of KubeSpawner for a profile as JSON. The ids are those of an example.

    Raises:
        ValueError: The place has no such image.
    """
    assert isinstance(place, KubernetesPlace)  # noqa: S101 the kind of the place decides
    home = place.home.replace("{user}", "USER")
    ids = (1000, 1000, [1000])
    traits = pod_traits(place, profile, job_id="hpchub-SESSION", session="SESSION", home=home, ids=ids)
    return json.dumps({"namespace": place.namespace, **traits}, indent=2)
