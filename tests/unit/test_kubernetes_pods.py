"""The description of a session's pod, and the manifests that a site applies. The stand-in's admission checks them."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes_server import IMAGE, NAMESPACE
from lab_kubernetes.admission import violations
from lab_kubernetes.main import apply
from lab_kubernetes.network import rules
from lab_kubernetes.policies import check_policies
from lab_kubernetes.store import Refused, Store

from hpchub.lab_extension import container_files
from hpchub.model.entries import Profile
from hpchub.model.places import KubernetesPlace
from hpchub.places.kubernetes import manifests
from hpchub.places.kubernetes.admission import Permitted, policies
from hpchub.places.kubernetes.pods import plan, pod_traits
from hpchub.places.spawner import files_of

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION = "1" * 16
NAME = f"hpchub-{SESSION}"
ROOT = Path(__file__).resolve().parents[2]


def place(**changes: Any) -> KubernetesPlace:
    fields = {
        "name": "kube",
        "kind": "kubernetes",
        "networks": ["192.0.2.0/24"],
        "max_cores": 4,
        "max_memory": "8G",
        "max_runtime": "8:00:00",
        "max_gpus": 2,
        "images": [{"name": "jupyter", "image": IMAGE}],
        "url": "https://192.0.2.9:6443",
        "namespace": NAMESPACE,
        "ca_file": "/etc/hpchub/kube/ca.pem",
        "token_file": "/etc/hpchub/kube/token",
        "storage": "10G",
    }
    return KubernetesPlace.model_validate({**fields, **changes})


def profile(**changes: Any) -> Profile:
    fields = {
        "key": "small",
        "display_name": "Small",
        "place": "kube",
        "cores": 2,
        "memory": "4G",
        "runtime": "1:00:00",
    }
    return Profile.model_validate({**fields, **changes})


def manifest(where: KubernetesPlace, chosen: Profile, user: str = "alice") -> dict[str, Any]:
    """Return the pod that KubeSpawner makes, as the API receives it."""

    from kubespawner import KubeSpawner  # noqa: PLC0415 after hpchub has prepared its configuration

    async def make() -> dict[str, Any]:
        spawner = KubeSpawner(_mock=True)
        spawner.user.name = user
        home = where.home.replace("{user}", user)
        traits = pod_traits(where, chosen, job_id=NAME, session=SESSION, home=home, ids=(1000, 2000, [2000, 3000]))
        for name, value in traits.items():
            setattr(spawner, name, value)
        spawner.pvc_name = "hpchub-home-alice"
        spawner.get_env = lambda: {"HOME": home}
        pod = await spawner.get_pod_manifest()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.wait({task})
        found: dict[str, Any] = spawner.api.api_client.sanitize_for_serialization(pod)
        return found

    return asyncio.run(make())


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    return manifest(place(), profile())


def test_the_pod_satisfies_the_restricted_profile(pod: dict[str, Any]) -> None:
    assert violations(pod["spec"]) == []


def test_the_pod_runs_as_its_user_without_a_token_of_the_cluster(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert spec["enableServiceLinks"] is False
    security = spec["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (1000, 2000, 2000)
    assert security["supplementalGroups"] == [3000]


def test_the_time_limit_is_the_clusters(pod: dict[str, Any]) -> None:
    assert pod["spec"]["activeDeadlineSeconds"] == 3600
    assert pod["spec"]["restartPolicy"] == "Never"


def test_resources_are_requested_and_limited(pod: dict[str, Any]) -> None:
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"] == {"cpu": 2.0, "memory": 4 * 1024**3}


def test_gpus_are_limited() -> None:
    spec = manifest(place(), profile(gpus=2))["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"


def test_the_secret_is_a_file_that_only_the_user_reads(pod: dict[str, Any]) -> None:
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "session")
    assert volume["secret"] == {"secretName": NAME, "defaultMode": 0o400}
    mount = next(each for each in pod["spec"]["containers"][0]["volumeMounts"] if each["name"] == "session")
    assert (mount["mountPath"], mount["readOnly"]) == (f"/run/hpchub/{SESSION}", True)


def test_the_environment_contains_no_secret(pod: dict[str, Any]) -> None:
    assert {each["name"] for each in pod["spec"]["containers"][0]["env"]} == {"HOME"}


def test_the_home_is_the_users_volume(pod: dict[str, Any]) -> None:
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "home")
    assert volume["persistentVolumeClaim"] == {"claimName": "hpchub-home-alice"}


def test_without_storage_the_home_is_temporary() -> None:
    spec = manifest(place(storage=""), profile())["spec"]
    assert next(each for each in spec["volumes"] if each["name"] == "home")["emptyDir"] == {"sizeLimit": "1Gi"}


def test_the_image_is_the_pinned_one(pod: dict[str, Any]) -> None:
    assert pod["spec"]["containers"][0]["image"] == IMAGE
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_the_pod_ignores_the_entrypoint_of_the_image(pod: dict[str, Any]) -> None:
    container = pod["spec"]["containers"][0]
    assert container["command"] == ["python3", "-I", f"/run/hpchub/{SESSION}/hpchub-launch", SESSION]
    assert "args" not in container


def test_nodes_are_selected() -> None:
    spec = manifest(
        place(
            node_selector=[{"label": "example.org/pool", "value": "jupyter"}],
            tolerations=[{"key": "dedicated", "value": "jupyter", "effect": "NoSchedule"}, {"key": "gpu"}],
            priority_class="interactive",
        ),
        profile(),
    )["spec"]
    assert spec["nodeSelector"] == {"example.org/pool": "jupyter"}
    assert spec["tolerations"] == [
        {"effect": "NoSchedule", "key": "dedicated", "operator": "Equal", "value": "jupyter"},
        {"key": "gpu", "operator": "Exists"},
    ]
    assert spec["priorityClassName"] == "interactive"


def test_an_unknown_image_is_refused() -> None:
    with pytest.raises(ValueError, match="has no image 'other'"):
        pod_traits(place(), profile(image="other"), job_id=NAME, session=SESSION, home="/h", ids=(1, 1, []))


def test_the_programs_fit_into_a_secret() -> None:
    files = files_of(SESSION, {}, json.dumps(container_files("de")))
    assert sum(map(len, files.values())) < 500_000  # a Secret has at most 1 MiB


def test_the_plan_is_json() -> None:
    assert json.loads(plan(place(), profile()))["image"] == IMAGE


# -- the manifests

OBJECTS = manifests.manifests(NAMESPACE, hub="192.0.2.1/32", hub_port=8445)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [each for each in OBJECTS if each["kind"] == kind]


def test_the_documented_manifests_are_those_of_the_code() -> None:
    shown = (ROOT / "docs/how-to/kubernetes.yml").read_text()
    assert manifests.text_of(OBJECTS) in shown


def test_the_role_cannot_read_secrets_or_delete_volumes() -> None:
    verbs = {each["resources"][0]: each["verbs"] for each in of_kind("Role")[0]["rules"]}
    assert set(verbs["secrets"]) == {"create", "delete"}
    assert set(verbs["persistentvolumeclaims"]) == {"create", "get"}
    assert not any("*" in each for rule in of_kind("Role")[0]["rules"] for each in (*rule["verbs"], *rule["resources"]))
    assert not of_kind("ClusterRole")


def test_the_namespace_enforces_the_restricted_profile() -> None:
    assert of_kind("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_a_policy_that_admits_everybody_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="admits every address"):
        manifests.manifests(NAMESPACE, hub=network, hub_port=8445)
    with pytest.raises(ValueError, match="admits every address"):
        manifests.manifests(NAMESPACE, hub="192.0.2.1/32", hub_port=8445, proxy=network)


POLICIES = of_kind("NetworkPolicy")
SESSIONS = [
    {
        "metadata": {"name": f"hpchub-{n * 16}", "labels": {"hpchub.session": n * 16}},
        "status": {"podIP": f"10.244.{n}.2"},
    }
    for n in "12"
]
TRAFFIC = {
    "the hub reaches the server": ("192.0.2.1", "10.244.1.2", 20000, True),
    "the hub reaches nothing else": ("192.0.2.1", "10.244.1.2", 22, False),
    "another host": ("192.0.2.7", "10.244.1.2", 20000, False),
    "another session": ("10.244.2.2", "10.244.1.2", 20000, False),
    "the session reaches the hub's API": ("10.244.1.2", "192.0.2.1", 8445, True),
    "the session does not reach ssh on the hub": ("10.244.1.2", "192.0.2.1", 22, False),
    "the session does not reach the cluster's API": ("10.244.1.2", "192.0.2.9", 6443, False),
    "the session does not reach the internet": ("10.244.1.2", "198.51.100.1", 443, False),
    "the session does not reach the cloud's metadata": ("10.244.1.2", "169.254.169.254", 80, False),
}


@pytest.mark.parametrize(("source", "target", "port", "allowed"), TRAFFIC.values(), ids=TRAFFIC)
def test_traffic(source: str, target: str, port: int, allowed: bool) -> None:
    assert rules(POLICIES, SESSIONS).permits(source, target, port) is allowed


def test_a_new_namespace_without_our_label_reaches_nothing() -> None:
    other = {"metadata": {"name": "x", "labels": {}}, "status": {"podIP": "10.244.9.2"}}
    found = rules(POLICIES, [*SESSIONS, other])
    assert not found.permits("10.244.9.2", "192.0.2.1", 8445)
    assert not found.permits("192.0.2.1", "10.244.9.2", 20000)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        manifests.main(arguments)
        return capsys.readouterr().out

    return run


# -- the rules of the cluster for what the hub creates

OF_HUB = f"system:serviceaccount:{NAMESPACE}:hpchub"
PERMITTED = Permitted(
    images=(IMAGE,), priority_classes=("low",), node_selector={"jupyter": "yes"}, tolerations=("gpu",)
)


def denied(content: dict[str, Any], permitted: Permitted, resource: str = "pods", user: str = OF_HUB) -> str:
    """Return why the stand-in denies an object that a user creates, or an empty text."""
    store = Store()
    apply(store, policies(NAMESPACE, "hpchub", permitted))
    try:
        check_policies(store, resource, NAMESPACE, content, user)
    except Refused as error:
        return str(error)
    return ""


def of_session(where: KubernetesPlace, chosen: Profile) -> dict[str, Any]:
    """Return a pod as hpchub sends it: KubeSpawner's, with the label of its session."""
    found = copy.deepcopy(manifest(where, chosen))
    found["metadata"]["labels"]["hpchub.session"] = SESSION
    found["metadata"]["name"] = NAME
    return found


@pytest.fixture(scope="module")
def sent() -> dict[str, Any]:
    selector = [{"label": "jupyter", "value": "yes"}]
    where = place(node_selector=selector, tolerations=[{"key": "gpu"}], priority_class="low")
    return of_session(where, profile())


def test_the_pods_of_the_hub_are_permitted(sent: dict[str, Any]) -> None:
    assert denied(sent, PERMITTED) == ""
    assert denied(of_session(place(), profile()), Permitted()) == ""
    assert denied(of_session(place(storage=""), profile(gpus=1)), Permitted(images=(IMAGE, "other"))) == ""


def in_spec(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"].update(changes)


def in_container(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["containers"][0].update(changes)


def add_volume(**volume: Any) -> Callable[[dict[str, Any]], None]:
    return lambda pod: pod["spec"]["volumes"].append({"name": "x", **volume})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(in_spec(nodeName="control-plane"), "the hub chooses no node", id="node"),
        pytest.param(in_spec(affinity={}), "the hub chooses no node", id="affinity"),
        pytest.param(in_spec(nodeSelector={"jupyter": "yes", "kubernetes.io/hostname": "x"}), "selector", id="host"),
        pytest.param(lambda pod: pod["spec"].pop("nodeSelector"), "selector", id="no selector"),
        pytest.param(in_spec(tolerations=[{"operator": "Exists"}]), "a taint that is not", id="all taints"),
        pytest.param(in_spec(tolerations=[{"key": "node-role.kubernetes.io/control-plane"}]), "taint", id="taint"),
        pytest.param(in_spec(priorityClassName="system-node-critical"), "priority class", id="priority"),
        pytest.param(in_spec(serviceAccountName="hpchub"), "its account is not permitted", id="account of the hub"),
        pytest.param(in_spec(automountServiceAccountToken=True), "asks for a token", id="token"),
        pytest.param(lambda pod: pod["spec"].pop("automountServiceAccountToken"), "asks for a token", id="default"),
        pytest.param(in_container(image="alpine:latest"), "its image is not in the list", id="image"),
        pytest.param(in_container(image=f"x@sha256:{'0' * 64}"), "its image is not in the list", id="other digest"),
        pytest.param(in_spec(initContainers=[{"name": "x"}]), "more than one container", id="first container"),
        pytest.param(
            lambda pod: pod["spec"]["containers"].append(pod["spec"]["containers"][0]),
            "more than one container",
            id="second container",
        ),
        pytest.param(add_volume(secret={"secretName": "other"}), "a volume is not", id="secret of another"),
        pytest.param(add_volume(persistentVolumeClaim={"claimName": "database"}), "a volume is not", id="claim"),
        pytest.param(add_volume(hostPath={"path": "/"}), "a volume is not", id="files of the node"),
        pytest.param(add_volume(projected={"sources": []}), "a volume is not", id="projected token"),
        pytest.param(lambda pod: pod["spec"]["securityContext"].update(runAsUser=999), "uid belongs", id="uid"),
        pytest.param(lambda pod: pod["spec"].pop("activeDeadlineSeconds"), "no time limit", id="time limit"),
        pytest.param(lambda pod: pod["metadata"]["labels"].pop("hpchub.session"), "not a session's", id="label"),
    ],
)
def test_a_hub_that_was_broken_into_cannot_create_other_pods(
    sent: dict[str, Any], change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    changed = copy.deepcopy(sent)
    change(changed)
    assert problem in denied(changed, PERMITTED)
    assert denied(changed, PERMITTED, user="somebody-else") == ""


def test_without_a_list_every_image_has_a_digest() -> None:
    found = of_session(place(), profile())
    found["spec"]["containers"][0]["image"] = "alpine:latest"
    assert "its image is not in the list" in denied(found, Permitted())


@pytest.mark.parametrize(
    ("resource", "content", "problem"),
    [
        ("secrets", {"metadata": {"name": NAME}}, ""),
        ("secrets", {"metadata": {"name": NAME}, "type": "Opaque"}, ""),
        ("secrets", {"metadata": {"name": NAME}, "type": "kubernetes.io/service-account-token"}, "no tokens"),
        ("secrets", {"metadata": {"name": "other"}}, "the name is not that of a session"),
        ("persistentvolumeclaims", {"metadata": {"name": "hpchub-home-alice"}}, ""),
        ("persistentvolumeclaims", {"metadata": {"name": "database"}}, "the name is not that of a user's claim"),
    ],
)
def test_a_hub_that_was_broken_into_cannot_create_other_secrets_and_claims(
    resource: str, content: dict[str, Any], problem: str
) -> None:
    found = denied(content, Permitted(), resource)
    assert (problem in found) if problem else found == ""


def test_the_command_passes_on_what_the_site_permits(printed: Callable[..., str]) -> None:
    given = ["--image", IMAGE, "--priority-class", "low", "--node-selector", "jupyter=yes", "--toleration", "gpu"]
    found = list(yaml.safe_load_all(printed(NAMESPACE, "--hub", "192.0.2.1/32", *given)))
    assert found == manifests.manifests(NAMESPACE, hub="192.0.2.1/32", hub_port=8445, permitted=PERMITTED)


def test_the_command_prints_the_manifests(printed: Callable[..., str]) -> None:
    assert list(yaml.safe_load_all(printed(NAMESPACE, "--hub", "192.0.2.1/32"))) == OBJECTS


def test_the_command_explains_a_bad_network(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        manifests.main([NAMESPACE, "--hub", "0.0.0.0/0"])
    assert "name the hub's address" in capsys.readouterr().err
