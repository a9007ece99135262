"""The version gate: which versions work together, what an old or silent part means, and what it does to a start."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jupyterhub
import pytest
import yaml
from hub_app import VARIABLES, FakeGate, Hub, answer, job, profile, site
from prometheus_client import REGISTRY

from hpchub import __version__
from hpchub.cli import check_versions
from hpchub.clusters import versions
from hpchub.clusters.gate_client import Answer, SSHGate
from hpchub.clusters.versions import GATE, HUB, NOTEBOOK, PROXY, Part, ask_gate, own_program, skews
from hpchub.hub import versions as of_hub
from hpchub.hub.start_error import StartError
from hpchub.hub.versions import VersionGate
from hpchub.model.profile_list import ProfileList, profile_list
from hpchub.remote import gate, launcher
from hpchub.schedulers import Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hub_app import Ask

ROLES = Path(__file__).parents[2] / "roles"
OURS = "6.1.1"
OLD_GATE = Answer(
    ok=False, exit=1, stdout="", stderr="", command=[], error="the action is unknown; valid: cancel, query, submit"
)


def part(name: str = GATE, **changes: Any) -> Part:
    """Return a part of a cluster that fits the hub, with changes."""
    fields: dict[str, Any] = {"protocol": versions.PROTOCOLS.get(name, 0), "program": own_program(name)}
    fields["packages"] = {"JupyterHub": OURS} if name == NOTEBOOK else {}
    return Part(name, "demo", **fields | changes)


def report(environment: object = None, **changes: Any) -> Answer:
    """Return a gate's answer to the question for its versions."""
    text = None if environment is None else json.dumps(environment)
    content = {"protocol": gate.PROTOCOL, "program": own_program(GATE), "notebook": text}
    return answer(json.dumps(content | changes))


def environment(**changes: Any) -> dict[str, Any]:
    """Return the file with the version of a notebook environment that fits the hub."""
    fitting = {
        "protocol": launcher.PROTOCOL,
        "program": own_program(NOTEBOOK),
        "JupyterHub": jupyterhub.__version__,
    }
    return {"jupyter_path": [], "versions": fitting | changes}


# -- the rule


@pytest.mark.parametrize("name", [HUB, PROXY, GATE, NOTEBOOK])
def test_parts_that_were_deployed_together_do_not_differ(name: str) -> None:
    assert skews(part(name), OURS) == []


@pytest.mark.parametrize(
    ("different", "words", "playbook"),
    [
        (
            part(protocol=0),
            "gate of demo reports no version, so it is old, and the hub needs protocol 1",
            "scheduler_access",
        ),
        (part(protocol=2), "gate of demo has protocol 2, and the hub needs protocol 1", "playbooks/hub.yml"),
        (part(PROXY, protocol=0), "reports no version, so it is old", "configurable_http_proxy"),
        (part(NOTEBOOK, protocol=0), "notebook environment of demo reports no version", "notebook_environment"),
        (
            part(NOTEBOOK, packages={"JupyterHub": "5.4.0"}),
            "has JupyterHub 5.4.0, and the hub has JupyterHub 6.1.1",
            "notebook_environment",
        ),
        (part(NOTEBOOK, packages={"JupyterHub": "10.0.0"}), "has JupyterHub 10.0.0", "playbooks/hub.yml"),
    ],
)
def test_harmful_difference_names_both_versions_and_the_playbook_of_the_older_part(
    different: Part, words: str, playbook: str
) -> None:
    (skew,) = skews(different, OURS)
    assert skew.is_harmful
    assert words in str(skew)
    assert skew.playbook.endswith(playbook)
    assert f"run {skew.playbook}" in str(skew)


@pytest.mark.parametrize(
    ("different", "words"),
    [
        (part(program="0" * 64), "not from the same version of hpchub"),
        (part(NOTEBOOK, program="0" * 64), "not from the same version of hpchub"),
        (part(NOTEBOOK, packages={"JupyterHub": "6.0.3"}), "has JupyterHub 6.0.3"),
        (
            part(PROXY, is_stale=True, packages={"configurable-http-proxy": "5.2.0"}),
            "still runs configurable-http-proxy 5.2.0",
        ),
    ],
)
def test_harmless_difference_is_only_reported(different: Part, words: str) -> None:
    (skew,) = skews(different, OURS)
    assert not skew.is_harmful
    assert words in str(skew)


def test_version_that_is_not_reported_is_no_difference() -> None:
    assert skews(part(NOTEBOOK, packages={}, program=""), OURS) == []


@pytest.mark.parametrize("protocol", ["1", True, None, [1], 1.0])
def test_protocol_that_is_no_number_counts_as_not_reported(protocol: object) -> None:
    assert Part.read(GATE, "demo", {"protocol": protocol}).protocol == 0


@pytest.mark.parametrize("version", ["", "new\nline", "x" * 99, {"a": 1}, None])
def test_version_that_is_not_valid_counts_as_not_reported(version: object) -> None:
    assert Part.read(NOTEBOOK, "demo", {"JupyterHub": version}, "JupyterHub").packages == {}


def test_proxy_has_the_same_protocol_as_this_package() -> None:
    program = (ROLES / "configurable_http_proxy/files/proxy.mjs").read_text()
    assert f"\nconst PROTOCOL = {versions.PROXY_PROTOCOL};\n" in program


def test_role_writes_the_version_of_the_environment_that_it_installs() -> None:
    role, name = ROLES / "notebook_environment", "__notebook_environment_launcher_settings"
    command = [
        str(Path(sys.executable).with_name("ansible")),
        "localhost",
        "--connection=local",
        "--inventory=localhost,",
    ]
    command += ["--module-name=ansible.builtin.debug", f"--args=var={name}", f"--extra-vars=role_path={role}"]
    command += [f"--extra-vars=@{role / part / 'main.yml'}" for part in ("defaults", "vars")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = yaml.safe_load(output.partition(" => ")[2])[name]
    found = Part.read(NOTEBOOK, "demo", settings["versions"], "JupyterHub")
    assert (found.protocol, found.program) == (launcher.PROTOCOL, own_program(NOTEBOOK))
    for lock in (role, ROLES / "jupyterhub"):
        assert f"\njupyterhub=={found.packages['JupyterHub']} " in (lock / "files/requirements.lock").read_text()


# -- the gate's answer


async def asked(given: Answer | Exception) -> list[Part]:
    client = FakeGate([])
    client.versions = given
    return await ask_gate(client, "demo")


async def test_gate_reports_itself_and_the_notebook_environment() -> None:
    found = await asked(report(environment()))
    assert [each.title for each in found] == ["gate of demo", "notebook environment of demo"]
    assert [skew for each in found for skew in skews(each, jupyterhub.__version__)] == []


async def test_gate_of_an_older_version_is_recognised_as_old() -> None:
    assert await asked(OLD_GATE) == [Part(GATE, "demo", protocol=0)]


async def test_environment_of_an_older_version_is_recognised_as_old() -> None:
    _, found = await asked(report({"jupyter_path": [], "check_interval": 300}))
    assert found == Part(NOTEBOOK, "demo", protocol=0)


async def test_environment_that_the_submit_host_cannot_read_is_unknown() -> None:
    assert [each.name for each in await asked(report(None))] == [GATE]


@pytest.mark.parametrize(
    "given",
    [
        Unanswered("no route"),
        answer(code=1),
        answer("{"),
        answer("[]"),
        answer("{}"),
        report(notebook="{"),
        report(notebook="[]"),
        report(notebook=1),
        Answer(ok=False, exit=1, stdout="", stderr="", command=[], error="this host is not a submit host"),
    ],
)
async def test_answer_that_is_not_valid_means_unknown(given: Answer | Exception) -> None:
    with pytest.raises(Unanswered):
        await asked(given)


# -- what the hub does with it


async def reason(hub: Hub) -> str:
    """Start a session that the scheduler would refuse. Return the reason of the failure."""
    hub.gate.on_submit = lambda session: answer(code=1)
    with pytest.raises(StartError) as error:
        await hub.new_spawner().start()
    return str(error.value.reason)


INCOMPATIBLE = [
    (OLD_GATE, "the gate of demo reports no version, so it is old, and the hub needs protocol 1", "scheduler_access"),
    (report(protocol=2), "the gate of demo has protocol 2, and the hub needs protocol 1", "hub.yml"),
    (report({"jupyter_path": []}), "the notebook environment of demo reports no version", "notebook_environment"),
    (report(environment(JupyterHub="5.9.9")), "has JupyterHub 5.9.9, and the hub has", "notebook_environment"),
]


@pytest.mark.parametrize(("given", "words", "playbook"), INCOMPATIBLE)
async def test_start_with_an_incompatible_part_is_refused_before_submission(
    hub: Hub, caplog: pytest.LogCaptureFixture, given: Answer, words: str, playbook: str
) -> None:
    hub.gate.versions = given
    spawner = hub.new_spawner()
    with pytest.raises(StartError) as error:
        await spawner.start()
    assert (error.value.reason, error.value.status_code) == ("incompatible", 503)
    assert "versions that do not work together. Please tell the administrators" in str(error.value)
    assert hub.gate.submissions == []
    assert spawner.session == ""
    (line,) = [record.getMessage() for record in caplog.records if words in record.getMessage()]
    assert re.search(rf"run playbooks/.*{playbook}$", line)
    assert "playbook" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        report(environment()),
        report(None),
        report(environment(JupyterHub="6.0.0"), program="0" * 64),
        Unanswered("no route"),
        answer(code=1),
        answer("nonsense"),
        ValueError("a mistake of ours"),
    ],
    ids=["equal", "environment unknown", "harmless", "silent", "failed", "invalid", "unexpected"],
)
async def test_start_goes_on_if_the_versions_fit_or_are_unknown(hub: Hub, given: Answer | Exception) -> None:
    hub.gate.versions = given
    assert await reason(hub) == "refused"
    assert len(hub.gate.submissions) == 1


async def test_gate_that_becomes_silent_is_no_longer_incompatible(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_hub, "MAX_AGE", -1.0)
    hub.gate.versions = OLD_GATE
    assert await reason(hub) == "incompatible"
    hub.gate.versions = Unanswered("no route")
    assert await reason(hub) == "refused"


async def test_start_does_not_wait_long_for_a_gate_that_hangs(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_hub, "PATIENCE", 0.05)
    hub.runtime.versions = VersionGate({"demo": HangingGate([])}, "http+unix://%2Fnowhere")
    await asyncio.wait_for(hub.runtime.versions.obstacles("demo"), 2)
    assert hub.runtime.versions.parts["demo"] == []


class HangingGate(FakeGate):
    """A gate that never answers."""

    async def _exchange(self, request: bytes) -> Answer:
        await asyncio.sleep(60)
        raise AssertionError


async def test_many_starts_ask_the_gate_once(hub: Hub) -> None:
    await asyncio.gather(*(hub.runtime.versions.obstacles("demo") for _ in range(50)))
    for _ in range(50):
        await hub.runtime.versions.obstacles("demo")
    assert hub.gate.questions == 1


async def test_another_login_node_is_asked_for_its_own_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fitting(api_url: str) -> list[Part]:
        return [part(PROXY)]

    monkeypatch.setattr(of_hub, "ask_proxy", fitting)
    client = SSHGate("demo", hosts=["a", "b"], user="u", key="k", known_hosts="h", control_dir="d")
    asked = []

    async def exchange(host: str, request: bytes) -> bytes:
        asked.append(host)
        return json.dumps(vars(report() if host == "a" else OLD_GATE)).encode()

    client._run_ssh = exchange  # type: ignore[method-assign]
    found = VersionGate({"demo": client}, "http+unix://%2Fnowhere")
    assert await found.obstacles("demo") == []
    client._demote("a", "a test")
    assert [skew.part for skew in await found.obstacles("demo")] == [Part(GATE, "demo")]
    assert asked == ["a", "b"]


async def test_session_that_has_started_does_not_depend_on_the_versions(hub: Hub) -> None:
    hub.gate.versions = OLD_GATE
    hub.show(job())
    spawner = hub.restored_spawner("https://127.0.0.1:20000", host="127.0.0.1", port=20000)
    assert await spawner.poll() is None
    assert hub.gate.questions == 0
    assert hub.gate.cancelled == []


# -- the proxy, the metrics and the command


class Answers(socketserver.StreamRequestHandler):
    """A program on a Unix socket with one answer to every request."""

    reply = b""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(self.reply)


def http(text: object, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{json.dumps(text)}".encode()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str, bytes], str]]:
    """Return a function that serves one answer on a new socket, and returns the address."""
    servers = []

    def start(name: str, reply: bytes) -> str:
        path = str(tmp_path / name)
        server = socketserver.ThreadingUnixStreamServer(path, type("Handler", (Answers,), {"reply": reply}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http+unix://{quote(path, safe='')}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_proxy_reports_its_version(serve: Callable[[str, bytes], str]) -> None:
    url = serve("a", http({"protocol": versions.PROXY_PROTOCOL, "configurable-http-proxy": "5.3.0", "stale": False}))
    (found,) = await of_hub.ask_proxy(url)
    assert found.version == f"configurable-http-proxy 5.3.0, protocol {versions.PROXY_PROTOCOL}"
    assert of_hub.differences([found]) == []


async def test_proxy_of_an_older_version_is_recognised_as_old(serve: Callable[[str, bytes], str]) -> None:
    (found,) = await of_hub.ask_proxy(serve("a", http({}, "404 Not Found")))
    (skew,) = of_hub.differences([found])
    assert str(skew) == (
        "the proxy reports no version, so it is old, and the hub needs protocol 1; run playbooks/hub.yml --tags"
        " configurable_http_proxy"
    )


@pytest.mark.parametrize("reply", [b"", b"nonsense", http({}, "500 Oops"), b"HTTP/1.1 200 OK\r\n\r\n{"])
async def test_proxy_with_an_answer_that_is_not_valid_is_unknown(
    serve: Callable[[str, bytes], str], reply: bytes
) -> None:
    with pytest.raises(Unanswered):
        await of_hub.ask_proxy(serve("a", reply))


async def test_start_with_an_incompatible_proxy_is_refused(hub: Hub, serve: Callable[[str, bytes], str]) -> None:
    serve("proxy-api.sock", http({}, "404 Not Found"))
    assert await reason(hub) == "incompatible"
    assert hub.gate.submissions == []


async def test_metrics_show_the_versions_that_are_known(hub: Hub) -> None:
    def shown() -> dict[tuple[str, ...], float]:
        return {
            (sample.name.removeprefix("hpchub_version_"), sample.labels["cluster"], sample.labels["part"]): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
            if sample.name.startswith("hpchub_version_")
        }

    unknown = {("info", "", HUB): 1, ("incompatible", "", HUB): 0}
    assert shown() == unknown
    hub.gate.versions = report({"jupyter_path": []})
    await hub.runtime.versions.obstacles("demo")
    assert shown() == unknown | {
        ("info", "demo", GATE): 1,
        ("incompatible", "demo", GATE): 0,
        ("info", "demo", NOTEBOOK): 1,
        ("incompatible", "demo", NOTEBOOK): 1,
    }


async def test_hub_asks_all_parts_regularly(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_hub, "INTERVAL", 0.01)
    clusters: Iterator[list[str] | OSError] = iter([["demo"], OSError("no list"), ["demo", "unknown"]])

    def enabled() -> list[str]:
        found = next(clusters)
        if isinstance(found, OSError):
            raise found
        return found

    watch = asyncio.ensure_future(hub.runtime.versions.watch(enabled))
    with pytest.raises(RuntimeError):  # the list of clusters ends
        await asyncio.wait_for(watch, 5)
    assert hub.gate.questions == 2


def lines(answers: list[tuple[bool, str]]) -> dict[str, bool]:
    return {line: ok for ok, line in answers}


async def query(
    serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch, given: Answer | Exception, **changes: Any
) -> tuple[dict[str, bool], list[str]]:
    """Run the query of ``hpchub versions`` with a gate that gives this answer."""
    client = FakeGate([])
    client.versions = given
    monkeypatch.setattr(check_versions, "make_gate", lambda cluster, settings: client)
    settings = {
        "hub_bind_url": serve("hub", http({"version": jupyterhub.__version__})),
        "proxy_api_url": serve("proxy", http({"protocol": 1, "configurable-http-proxy": "5.3.0", "stale": False})),
        "gates": {"demo": {"method": "local", "socket": ""}},
        **changes,
    }
    answers, warnings = await check_versions.query_versions(
        settings, ProfileList.model_validate(profile_list(site(profile("small"))))
    )
    return lines(answers), warnings


async def test_hub_answers_the_question_of_the_command(ask: Ask) -> None:
    answered = await ask("api")
    assert answered.code == 200
    assert json.loads(answered.body)["version"] == jupyterhub.__version__


async def test_hub_remembers_what_it_runs_when_another_version_is_installed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0.0")
    monkeypatch.setattr(gate, "__file__", __file__)
    hub.gate.versions = report(environment())
    assert await hub.runtime.versions.obstacles("demo") == []
    assert of_hub.differences(hub.runtime.versions.parts["demo"]) == []


async def test_command_shows_all_versions(serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert await query(serve, monkeypatch, report(environment())) == (
        {
            f"hub: hpchub {__version__}, JupyterHub {jupyterhub.__version__}": True,
            "proxy: configurable-http-proxy 5.3.0, protocol 1": True,
            "gate of demo: protocol 1": True,
            f"notebook environment of demo: JupyterHub {jupyterhub.__version__}, protocol 1": True,
        },
        [],
    )


@pytest.mark.parametrize(("given", "words", "playbook"), INCOMPATIBLE)
async def test_command_finds_each_incompatible_part(
    serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch, given: Answer, words: str, playbook: str
) -> None:
    answers, warnings = await query(serve, monkeypatch, given)
    (line,) = [line for line, ok in answers.items() if not ok]
    assert line.startswith("no session can start: the ")
    assert words in line
    assert line.endswith(playbook)
    assert warnings == []


async def test_command_only_warns_of_unknown_versions(
    serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, warnings = await query(serve, monkeypatch, Unanswered("no route"))
    assert list(answers.values()) == [True, True]
    assert warnings == ["warning: unknown version: no route"]


async def test_command_only_warns_of_harmless_differences(
    serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, warnings = await query(
        serve,
        monkeypatch,
        report(program="0" * 64),
        hub_bind_url=serve("older hub", http({"version": "6.0.0"})),
        proxy_api_url=serve("older proxy", http({"protocol": 1, "configurable-http-proxy": "5.2.0", "stale": True})),
    )
    assert all(answers.values())
    assert [line.partition("; run ")[0] for line in warnings] == [
        "warning: the hub still runs JupyterHub 6.0.0, although another version is installed",
        "warning: the proxy still runs configurable-http-proxy 5.2.0, although another version is installed",
        "warning: the gate of demo is not from the same version of hpchub as the hub, but works with it",
    ]


async def test_disabled_cluster_is_only_a_warning(
    serve: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIABLES["hpc_clusters"][0], "enabled", False)
    answers, warnings = await query(serve, monkeypatch, OLD_GATE)
    assert all(answers.values())
    assert [words for words in warnings if "reports no version" in words]


async def test_command_asks_every_login_node() -> None:
    settings: dict[str, dict[str, Any]] = {
        "a": {"method": "local", "socket": "s"},
        "b": {"method": "ssh", "hosts": ["n1", "n2"], "user": "u", "key": "k", "known_hosts": "h", "control_dir": "d"},
    }
    found = [(cluster, place, gate.host) for cluster, place, gate in check_versions.all_gates(settings)]
    assert found == [("a", "a", ""), ("b", "b on n1", "n1"), ("b", "b on n2", "n2")]
