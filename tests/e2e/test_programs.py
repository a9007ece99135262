"""Programs and editors as clients: they use a session with a token, and no log contains the token."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-from-programs.md"
PACKAGES = ["jupyter_kernel_client==1.0.2", "jhub-client==0.1.7", "nbclient==0.11.0"]

# The lab's names have no DNS entry.
RESOLVE = """
import json, os, socket
hosts, original = json.loads(os.environ["LAB_HOSTS"]), socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **options: original(hosts.get(host, host), *rest, **options)
"""

# The requests of the Jupyter extension of Visual Studio Code, from the choice of a server to the first cell. The
# extension JupyterHub sends the requests to /hub/api. Both add the token to the address of a websocket.
EDITOR = """
import json, os, uuid
import requests, websocket
hub, token = os.environ["HUB"], os.environ["JUPYTERHUB_API_TOKEN"]
server = hub + "/user/alice"
client = requests.Session()
client.headers.update({"Authorization": "token " + token, "Content-Type": "application/json"})
assert requests.get(hub + "/hub/api/").json()["version"]
assert client.get(hub + "/hub/api/user").json()["name"] == "alice"
assert client.get(hub + "/hub/api/users/alice").json()["servers"][""]["ready"]
for path in ("/api", "/api/status", "/api/kernelspecs", "/api/kernels", "/api/sessions", "/api/contents?content=0"):
    answer = client.get(server + path)
    assert answer.status_code == 200, (path, answer.status_code, answer.text)
kernel = client.get(server + "/api/kernelspecs").json()["default"]
name = f"editor-jvsc-{uuid.uuid4()}.ipynb"
body = {"path": name, "type": "notebook", "name": name, "kernel": {"name": kernel}}
session = client.post(server + "/api/sessions", json=body)
assert session.status_code == 201, session.text
session = session.json()
address = server.replace("https", "wss") + "/api/kernels/" + session["kernel"]["id"] + "/channels"
connection = websocket.create_connection(
    f"{address}?session_id={uuid.uuid4()}&token={token}", timeout=60, sslopt={"ca_certs": os.environ["SSL_CERT_FILE"]}
)
header = {"msg_id": "1", "username": "a", "session": "s", "msg_type": "execute_request", "version": "5.3"}
content = {"code": "print(6 * 7)", "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell", "buffers": []}
connection.send(json.dumps(message))
while (received := json.loads(connection.recv()))["msg_type"] != "stream":
    pass
print(received["content"]["text"], end="")
connection.close()
assert client.delete(server + "/api/sessions/" + session["id"]).status_code == 204
assert client.get(server + "/api/kernels").status_code == 200
"""


@pytest.fixture(scope="session")
def python() -> Path:
    """Return a Python with the clients from PyPI. They are installed once."""
    digest = hashlib.sha256(json.dumps(PACKAGES).encode()).hexdigest()[:12]
    made = Path.home() / ".cache" / "hpchub" / f"clients-{digest}"
    made.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{made}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / ".complete").exists():
            subprocess.run(["uv", "venv", "--clear", "--quiet", str(made)], check=True)
            subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(made), *PACKAGES], check=True)
            (made / ".complete").touch()
    return made / "bin" / "python"


@pytest.fixture
def run(python: Path, lab: Lab, tmp_path: Path) -> Callable[[str, str], str]:
    """Return a function that runs a program with a token and returns its output."""
    (tmp_path / "sitecustomize.py").write_text(RESOLVE)
    authority = str(lab.directory / "ca.pem")
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "WEBSOCKET_CLIENT_CA_BUNDLE")
    environment = os.environ | dict.fromkeys(names, authority)
    environment |= {"HUB": lab.url, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    environment["LAB_HOSTS"] = json.dumps({"hub.localhost": lab.addresses[lab.host("hub")]})

    def call(program: str, token: str) -> str:
        done = subprocess.run(
            [python, "-c", program],
            env=environment | {"JUPYTERHUB_API_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    return call


def example(title: str, lab: Lab) -> str:
    """Return a program of the how-to page, for alice in the lab."""
    (found,) = re.findall(rf'```python title="{title}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    small = lab.profiles()[0]["key"]
    return (
        str(found)
        .replace("https://jupyter.example.org", lab.url)
        .replace("/user/ann", "/user/alice")
        .replace('"profile": "small"', f'"profile": "{small}"')
    )


def test_programs_and_editors_use_a_session_with_a_token(
    browser_page: Visitor, lab: Lab, run: Callable[[str, str], str]
) -> None:
    """jhub-client starts the session, and the other clients use it. No log contains the token afterwards."""
    browser_page.sign_in("alice")
    token = browser_page.new_token()
    assert run(example("jhub-client", lab), token) == "42\n"
    for title in ("jupyter_kernel_client", "nbclient"):
        assert run(example(title, lab), token) == "42\n", title
    assert run(EDITOR, token) == "42\n"

    (job,) = lab.jobs("alice")
    found = lab.run("hub", ["grep", "-rlF", token, "/var/log"], check=False)
    found += lab.run("hub", ["sh", "-c", f"journalctl --no-pager --since=-10min | grep -F {token}"], check=False)
    found += lab.run(job.node, ["grep", "-rlF", token, "/home/alice/.hpchub"], check=False)
    assert found == ""
    assert lab.run(job.node, ["sh", "-c", "cat /home/alice/.hpchub/logs/*"])


def test_programs_continue_after_their_user_has_signed_off(
    browser_page: Visitor, lab: Lab, run: Callable[[str, str], str]
) -> None:
    """The token of the page ends at once, and the kernel's websocket closes within seconds."""
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    page = browser_page.page
    token = browser_page.new_token()
    page.goto(f"{lab.url}/user/alice/lab")
    config = json.loads(page.locator("#jupyter-config-data").text_content() or "{}")
    page_token = config["token"]
    kernel = page.evaluate(_KERNEL)
    tab = page.context.new_page()
    tab.goto(f"{lab.url}/hub/logout")
    tab.wait_for_url("**/sso/signed-out")
    closed = page.evaluate("() => window.e2eClosed")
    assert closed, f"the websocket of the kernel {kernel} is still open"
    for path in ("/user/alice/api/contents", "/user/alice/api/kernels", "/user/alice/api/kernels/x/channels"):
        for sent in {page_token, "p" * 30, ""}:
            answer = page.evaluate(_ASK, [path, sent])
            assert answer == 401, (path, bool(sent), answer)
    assert run(example("jupyter_kernel_client", lab), token) == "42\n"


def test_jupyterlab_desktop_connects_after_the_sign_on(browser_page: Visitor, lab: Lab) -> None:
    """The application opens the address in a window of its own, and reads the configuration of the page."""
    browser_page.sign_in("alice")
    browser_page.start(lab.profiles()[0]["key"])
    page = browser_page.page
    answer = page.goto(f"{lab.url}/user/alice/lab?token=")
    assert answer is not None
    assert answer.status == 200
    assert page.url.startswith(f"{lab.url}/user/alice/lab")
    assert json.loads(page.locator("#jupyter-config-data").text_content() or "{}")["appVersion"]


# Starts a kernel as JupyterLab does, opens its websocket, and notices when it closes.
_KERNEL = """
async () => {
  const config = JSON.parse(document.getElementById("jupyter-config-data").textContent);
  const xsrf = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)?.[1] ?? "";
  const answer = await fetch(`${config.baseUrl}api/kernels`, {
    method: "POST", body: "{}", headers: {"Content-Type": "application/json", "X-XSRFToken": xsrf},
  });
  const kernel = (await answer.json()).id;
  const address = `${location.origin.replace("http", "ws")}${config.baseUrl}api/kernels/${kernel}/channels`;
  const socket = new WebSocket(address);
  await new Promise((opened, failed) => { socket.onopen = opened; socket.onerror = failed; });
  window.e2eClosed = new Promise(done => {
    socket.onclose = () => done(true);
    setTimeout(() => done(false), 60000);
  });
  return kernel;
}
"""

# Sends a request as JupyterLab does, and returns the status.
_ASK = """
async ([path, token]) => {
  const headers = token ? {Authorization: `token ${token}`} : {};
  return (await fetch(path, {headers, cache: "no-store"})).status;
}
"""
