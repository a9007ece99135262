"""Homes as people leave them: the launcher and the real single-user server in real home directories."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from notebook_server import Session


SERVER = ".jupyter/jupyter_server_config"
MISSING = "/scratch/gone/ann"

# Each home contains several files, because a start takes seconds.
TAKEOVERS: dict[str, dict[str, str]] = {
    "old-settings": {
        f"{SERVER}.py": "c.NotebookApp.ip = '*'\nc.NotebookApp.port = 9999\nc.NotebookApp.base_url = '/mine/'\n"
        "c.NotebookApp.open_browser = True\nc.NotebookApp.token = 'mine'\nc.NotebookApp.password = 'sha1:x'\n",
        f"{SERVER}.json": '{"NotebookApp": {"certfile": "/x/mycert.pem", "keyfile": "/x/my.key"}}',
        ".jupyter/jupyter_notebook_config.py": "c.NotebookApp.ip = '10.0.0.1'\nc.NotebookApp.certfile = '/x'\n"
        f"c.NotebookApp.notebook_dir = {MISSING!r}\n",
        ".jupyter/jupyter_config.json": '{"ServerApp": {"sock": "/tmp/mine", "port": 9999}}',
        ".jupyter/jupyter_lab_config.py": "c.LabApp.port = 9999\nc.ServerApp.base_url = '/mine/'\n"
        "c.LabApp.dev_mode = True\nc.LabApp.app_url = '/mine'\nc.LabApp.static_dir = '/gone'\n",
    },
    "server-settings": {
        f"{SERVER}.py": "c.ServerApp.ip = '10.0.0.1'\nc.ServerApp.port = 9999\nc.ServerApp.port_retries = 5\n"
        "c.ServerApp.certfile = ''\nc.ServerApp.client_ca = ''\nc.ServerApp.sock = '/tmp/mine'\n"
        "c.ServerApp.base_url = '/mine/'\nc.ServerApp.tornado_settings = {'base_url': '/mine/'}\n"
        "c.ServerApp.ssl_options = {'cert_reqs': 0}\nc.ServerApp.allow_origin = '*'\n"
        "c.ServerApp.allow_unauthenticated_access = True\nc.ServerApp.disable_check_xsrf = True\n"
        "c.JupyterApp.generate_config = True\nc.Application.show_config = True\n"
        f"c.ServerApp.root_dir = {MISSING!r}\nc.FileContentsManager.root_dir = {MISSING!r}\n"
        f"c.ServerApp.preferred_dir = {MISSING!r}\nc.NotebookApp.notebook_dir = {MISSING!r}\n",
        f"{SERVER}.json": '{"ServerApp": {"jpserver_extensions": {"gone_extension": true}}}',
        f"{SERVER}.d/mine.json": '{"ServerApp": {"port": 9999, "jpserver_extensions": {"jupyterhub": false,'
        ' "jupyterlab": false, "notebook": false}}}',
    },
    "identity-and-kernels": {
        f"{SERVER}.py": "c.ServerApp.token = 'mine'\nc.IdentityProvider.token = 'mine'\n"
        "c.PasswordIdentityProvider.hashed_password='x'\n"
        "c.ServerApp.identity_provider_class = 'jupyter_server.auth.PasswordIdentityProvider'\n"
        "c.ServerApp.login_handler_class = 'jupyter_server.auth.login.LegacyLoginHandler'\n"
        "c.HubOAuth.api_token = 'mine'\nc.HubAuth.api_url = 'http://127.0.0.1:9/hub/api'\n"
        "c.JupyterHubSingleUser.hub_activity_url = 'http://127.0.0.1:9'\n"
        "c.KernelSpecManager.allowed_kernelspecs = {'mine'}\nc.KernelSpecManager.whitelist = {'mine'}\n"
        "c.ServerApp.kernel_spec_manager_class = 'nb_conda_kernels.CondaKernelSpecManager'\n"
        "c.MultiKernelManager.default_kernel_name = 'mine'\n"
        "c.KernelProvisionerFactory.default_provisioner_name = 'gone'\nc.GatewayClient.url = 'http://127.0.0.1:9'\n",
    },
    "unreadable-files": {
        f"{SERVER}.py": "import gone_module\nc.ServerApp.port = 9999\n",
        f"{SERVER}.json": "{",
        ".jupyter/jupyter_config.py": "c.ServerApp.port =\n",
    },
}
VARIABLES = {
    "JUPYTER_PORT": "9999",
    "JUPYTER_TOKEN": "mine",
    "JUPYTER_GATEWAY_URL": "http://127.0.0.1:9",
    "JUPYTER_NO_CONFIG": "1",
    "JUPYTER_RUNTIME_DIR": "/gone",
    "JUPYTERLAB_DIR": "/gone",
    "JUPYTERHUB_SINGLEUSER_APP": "notebook",
    "_PYTHON_SYSCONFIGDATA_NAME": "gone",
    "HOME": "",
}


def check(session: Session) -> None:
    """Check that the server listens and works as the service expects."""
    report = session.wait_for_report()
    assert 20000 <= report["port"] <= 29999
    status, answer = session.request("api/kernelspecs")
    assert status == 200, session.log
    assert set(answer["kernelspecs"]) == {"python3"}
    assert answer["default"] == "python3"
    assert session.request("lab")[0] == 200
    assert session.request("tree")[0] == 200
    status, answer = session.request("api/contents/found.txt?content=0")
    assert status == 200, (answer, session.log)


@pytest.mark.parametrize("files", TAKEOVERS.values(), ids=TAKEOVERS)
def test_settings_in_the_home_do_not_take_over_the_server(session: Session, files: dict[str, str]) -> None:
    session.write("found.txt", "")
    for name, text in files.items():
        session.write(name, text)
    session.start(VARIABLES)
    check(session)
    assert "notice" not in session.hub.reports[0], session.log


STOPPERS = {
    "contents-manager": (f"{SERVER}.py", "\nc.ServerApp.contents_manager_class = 'gone.Manager'\n", 2, "gone"),
    "exit": (f"{SERVER}.py", "import sys\n\nsys.exit(3)\n", 3, ""),
    "unknown-old-setting": (".jupyter/jupyter_notebook_config.py", "\n\nc.NotebookApp.ipp = '*'\n", 3, "ipp"),
    "type": (f"{SERVER}.json", '{"ContentsManager":\n {"root_dir": 5,\n "untitled_notebook": 5}}', 3, ""),
    "shape": (f"{SERVER}.d/mine.json", '["ServerApp"]', 1, "object"),
}


@pytest.mark.parametrize(("name", "text", "line", "word"), STOPPERS.values(), ids=STOPPERS)
def test_server_starts_without_settings_that_stop_it(
    session: Session, name: str, text: str, line: int, word: str
) -> None:
    session.write("found.txt", "")
    file = session.write(name, text)
    session.start()
    check(session)
    notice = session.hub.reports[0]["notice"]
    assert f"{file}, line {line}: " in notice
    assert word in notice
    assert session.hub.reports[0]["addresses"]


# -- kernels


THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "OMP_THREAD_LIMIT", "TF_NUM_INTRAOP_THREADS")
SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.path]))"
HARMFUL = {
    "PYTHONPATH": "/foreign",
    "PYTHONHOME": "/foreign",
    "LD_LIBRARY_PATH": "/foreign",
    "OPENSSL_CONF": "/foreign",
    "R_HOME": "/foreign",
    "CONDA_PREFIX": "/foreign",
    "LOADEDMODULES": "foreign",
    "PIP_TARGET": "/foreign",
    "PIP_USER": "1",
}


def kernel_environment(session: Session) -> dict[str, str]:
    """Return the environment of the default kernel."""
    environment, path = json.loads(session.execute(SHOW))
    assert "foreign" not in " ".join(path)
    return dict(environment)


def test_variables_of_modules_reach_no_kernel(session: Session, tmp_path: Path) -> None:
    (tmp_path / "pp" / "traitlets").mkdir(parents=True)
    (tmp_path / "pp" / "traitlets" / "__init__.py").write_text("raise ImportError('of another Python')\n")
    session.start(
        HARMFUL | {"PYTHONPATH": str(tmp_path / "pp"), "OMP_NUM_THREADS": "64", "KEPT": "1"}
    ).wait_for_report()
    found = kernel_environment(session)
    assert not set(HARMFUL) & set(found)
    assert found["KEPT"] == "1"
    assert {found[name] for name in THREADS} == {"3"}
    assert found["JUPYTER_RUNTIME_DIR"].startswith(f"{tmp_path}/hpchub-")


# -- homes that cannot be written


def test_home_with_directories_of_somebody_else_starts_a_session(session: Session) -> None:
    for name in (".local/share/jupyter/runtime", ".jupyter", ".ipython"):
        (session.home / name).mkdir(parents=True)
    session.write(".jupyter/jupyter_server_config.py", "c.ContentsManager.allow_hidden = True\n")
    session.write(".hidden", "")
    session.write(".ipython/profile_default/startup/10-mine.py", "import os\nos.environ['STARTED'] = '1'\n")
    closed = [".local/share/jupyter", ".local/share", ".local", ".jupyter", ".ipython"]
    for name in closed:
        (session.home / name).chmod(0o555)
    try:
        session.start({"XDG_RUNTIME_DIR": "/run/user/4711"}).wait_for_report()
        found = kernel_environment(session)
    finally:
        for name in closed:
            (session.home / name).chmod(0o755)
    assert found["STARTED"] == "1"
    assert "XDG_RUNTIME_DIR" not in found
    lines = "\n".join(session.lines())
    for name in (".local/share/jupyter", ".jupyter", ".ipython"):
        assert f"{session.home}/{name} cannot be written (Permission denied)" in lines
    # The user's settings are still read.
    assert session.request("api/contents/.hidden")[0] == 200


@pytest.mark.parametrize("kind", ["dead-link", "file"])
def test_home_with_something_else_in_place_of_directories_starts_a_session(session: Session, kind: str) -> None:
    for name in (".local", ".jupyter", ".ipython", ".cache", ".config"):
        if kind == "file":
            session.write(name, "")
        else:
            (session.home / name).symlink_to(session.home / "gone" / name)
    session.start().wait_for_report()
    assert session.execute("print(6 * 7)") == "42\n"


def small_home(session: Session, options: str, fill: str) -> str:
    """Return shell commands that replace the home by a small file system with the same files, and fill it."""
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    if subprocess.run(["unshare", *root, "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not permit mount namespaces")
    home, copy = shlex.quote(str(session.home)), shlex.quote(f"{session.home}.copy")
    replace = f"cp -a {home} {copy}\nmount -t tmpfs -o mode=700,{options} none {home}\ncp -a {copy}/. {home}\n"
    return f"{replace}cd {home}\n{fill}"


def test_home_without_free_blocks_is_explained_in_time(session: Session) -> None:
    began = time.monotonic()
    session.start(before=small_home(session, "size=256k", "dd if=/dev/zero of=fill bs=4k 2>/dev/null || true"))
    assert session.process is not None
    assert session.process.wait(60) == 1
    assert time.monotonic() - began < 10 + 20  # the machine may be busy
    (report,) = session.hub.reports
    assert report["problem"].startswith(f"your home directory is full, so {session.home}/.hpchub cannot be written.")
    assert session.log == f"hpchub-launch: {report['problem']}\n"


def test_home_without_free_files_starts_a_session(session: Session) -> None:
    fill = "i=0; while touch f$i 2>/dev/null; do i=$((i + 1)); done"
    session.start(before=small_home(session, "nr_inodes=40", fill)).wait_for_report()
    assert session.execute("print(6 * 7)") == "42\n"


def test_start_without_own_settings_uses_none_of_them(session: Session) -> None:
    session.variables["HPCHUB_WITHOUT_SETTINGS"] = "1"
    session.write(f"{SERVER}.py", "raise SystemExit(3)\n")
    session.write(".ipython/profile_default/startup/10-exit.py", "import os\nos._exit(3)\n")
    kernel = session.write(".local/share/jupyter/kernels/mine/kernel.json", '{"argv": ["x"], "display_name": "Mine"}')
    session.start().wait_for_report()
    assert "notice" not in session.hub.reports[0]
    assert session.execute("print(6 * 7)") == "42\n"
    assert set(session.request("api/kernelspecs")[1]["kernelspecs"]) == {"python3", kernel.parent.name}
