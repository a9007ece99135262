"""What a session gets of the applications: the model, the hub, and the real notebook server with its proxy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import app_server
import pytest
from hub_app import Hub, profile, site, write_profiles
from notebook_server import notebook_environment

from hpchub.model.apps import APP_KINDS, APPS, WebApp, apps_for
from hpchub.model.profile_list import parse_profile_list, profile_list, to_json

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_server import Session


SERVER = [sys.executable, app_server.__file__, "{socket}"]


def app(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "web", "command": ["tensorboard", "{port}"], **more}


def made(name: str = "tb", **more: Any) -> WebApp:
    return WebApp.model_validate(app(name, **more))


@pytest.mark.parametrize(
    ("limits", "place", "groups", "offered"),
    [
        ({}, "demo", [], True),
        ({"clusters": ["demo"]}, "demo", [], True),
        ({"clusters": ["other"]}, "demo", [], False),
        ({"groups": ["bio"]}, "demo", ["hpc", "bio"], True),
        ({"groups": ["bio"]}, "demo", ["hpc"], False),
        ({"groups": ["bio"]}, "demo", [], False),
    ],
    ids=["everywhere", "this-cluster", "another-cluster", "member", "no-member", "no-groups"],
)
def test_who_sees_an_application_and_where(
    limits: dict[str, Any], place: str, groups: list[str], offered: bool
) -> None:
    assert bool(apps_for([made(**limits)], place, groups)) == offered


def argument_vector(app: WebApp) -> list[str]:
    """Return the argument vector that the supervisor runs."""
    found = app.for_session()
    return [*found["shell"], *found["command"]]


def test_command_with_modules_runs_in_a_login_shell(tmp_path: Path) -> None:
    found = made(command=["echo", "{port}"], arguments=["a b"], modules=["none/1"])
    command = argument_vector(found)
    assert command[:3] == ["/bin/bash", "-l", "-c"]
    assert command[4:] == ["tb", "echo", "{port}", "a b"]
    script = 'module() { echo module "$@"; }\n' + command[3]
    done = subprocess.run([*command[:3], script, *command[4:]], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["module load none/1", "{port} a b"]


def test_module_that_does_not_exist_is_named() -> None:
    command = argument_vector(made(command=["echo", "{port}"], modules=["none/1"]))
    script = "module() { [ $1 != load ]; }\n" + command[3]
    done = subprocess.run([*command[:3], script, *command[4:]], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "application tb: module load none/1 failed on" in done.stderr


def test_profile_list_of_the_hub_has_the_applications_and_that_of_the_nodes_has_none() -> None:
    found = site(profile("small"), hpc_apps=[app("tb", groups=["bio"])])
    listed = parse_profile_list(to_json(profile_list(found)))
    assert listed.apps == found.apps
    assert profile_list(found, "demo")["apps"] == []


def test_session_gets_its_applications_as_a_file(hub: Hub, tmp_path: Path) -> None:
    write_profiles(tmp_path, profile("small"), hpc_apps=[app("tb"), app("bio", groups=["b"])])
    spawner = hub.user().spawners[""]
    spawner.user_options = {"profile": "small"}
    child = spawner.construct_child()
    assert [each["name"] for each in json.loads(child.session_files[APPS])["apps"]] == ["tb"]


def offer(session: Session, *apps: dict[str, Any]) -> None:
    content = {"apps": [APP_KINDS[each["kind"]].model_validate(each).for_session() for each in apps]}
    session.variables["FILE:apps"] = json.dumps(content)


def get(session: Session, path: str) -> tuple[int, Any]:
    """Return the first answer that is not the page about the start."""
    end = time.monotonic() + 30
    while (answer := session.request(path))[0] == 503:
        assert time.monotonic() < end
        time.sleep(0.1)
    return answer


def test_server_offers_applications_and_no_port(session: Session) -> None:
    offer(
        session,
        app("web", display_name="Web", command=SERVER, path="a/b"),
        app("whole", command=SERVER, keeps_prefix=True, open="lab"),
    )
    session.start().wait_for_report()
    assert get(session, "web/x?y=z") == (200, "/x?y=z")
    assert get(session, "whole/x") == (200, "/user/alice/whole/x")
    shown = session.request("server-proxy/servers-info")[1]["server_processes"]
    tiles = {each["name"]: (each["launcher_entry"]["title"], each["launcher_entry"]["path_info"]) for each in shown}
    assert tiles == {"web": ("Web", "web/a/b"), "whole": ("whole", "whole/")}
    assert {each["name"]: each["new_browser_tab"] for each in shown} == {"web": True, "whole": False}
    port = session.hub.reports[0]["port"]
    for path in (f"proxy/{port}/x", f"proxy/absolute/{port}/x", f"proxy/localhost:{port}/x", "proxy/localhost:22/x"):
        assert session.request(path)[0] == 404, path


def test_user_cannot_open_ports_in_the_settings(session: Session) -> None:
    session.write(
        ".jupyter/jupyter_server_config.json",
        json.dumps({"ServerApp": {"jpserver_extensions": {"jupyter_server_proxy": True}}}),
    )
    offer(session, app("web", command=SERVER))
    session.start().wait_for_report()
    assert session.request(f"proxy/{session.hub.reports[0]['port']}/x")[0] == 404


def test_session_without_applications_has_no_proxy(session: Session) -> None:
    session.start().wait_for_report()
    # Without an answer, every page would show an error in the browser's console.
    assert session.request("server-proxy/servers-info") == (200, {"server_processes": []})
    assert session.request("server-proxy/icon/web")[0] == 404
    assert session.request("proxy/22/x")[0] == 404


@pytest.mark.parametrize(("interface", "path"), [("lab", "/lab"), ("notebook", "/tree"), ("web", "/web/")])
def test_interface_is_the_first_page(session: Session, interface: str, path: str) -> None:
    offer(session, app("web", command=SERVER))
    session.variables["HPCHUB_INTERFACE"] = interface
    session.start().wait_for_report()
    code = "import os; print(os.environ['JUPYTERHUB_DEFAULT_URL'])"
    assert session.execute(code).strip() == path


def test_environment_of_the_notebooks_has_the_proxy() -> None:
    python = notebook_environment() / "bin" / "python"
    program = "import jupyter_server_proxy as found; print(found.__version__)"
    assert subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.startswith("4.")
