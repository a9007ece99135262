"""Applications of a session: users open them in their browser, and no other account of the node reaches them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from .pages import START
from .test_form import change_list  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import JupyterLab, Visitor

SILENT = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(99)"
EXPOSED = (
    "import http.server as h, socket, socketserver, sys, threading;"
    "held = socket.create_server(('0.0.0.0', 0));"
    "socketserver.UnixStreamServer(sys.argv[1], type('H', (h.SimpleHTTPRequestHandler,),"
    " {'address_string': lambda self: ''})).serve_forever()"
)
BAD = {
    "missing": (["/opt/none/program", "{socket}"], "missing is not installed on"),
    "exits": (["/bin/sh", "-c", "echo token=s3cret; exit 4", "{socket}"], "exits has stopped with exit code 4 before"),
    "silent": (["/usr/bin/python3", "-c", SILENT, "{socket}"], "silent did not answer within 5 seconds"),
    "exposed": (
        ["/usr/bin/python3", "-c", EXPOSED, "{socket}"],
        "exposed was stopped, because it listened on 0.0.0.0:",
    ),
}
"""Applications that do not work: the command, and what the page says."""
DIRECT = "e2e-tensorboard"

# What another account of the node can do: connect to every socket, scan every port, and read the processes.
NEIGHBOUR = """
import glob, os, socket, sys
user = sys.argv[1]
found = []
for path in sys.argv[2:]:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
        found.append(path)
    except OSError:
        pass
for port in range(1, 65536):
    sock = socket.socket()
    sock.settimeout(0.2)
    if sock.connect_ex(("127.0.0.1", port)) == 0:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        try:
            if b"TensorBoard" in sock.recv(65536):
                found.append(f"port {port}")
        except OSError:
            pass
    sock.close()
for process in glob.glob("/proc/[0-9]*"):
    for name in ("environ", "fd", "ns/net", "root", "cwd"):
        try:
            owner = os.stat(process).st_uid
            if owner == os.getuid() or b"tensorboard" not in open(f"{process}/cmdline", "rb").read():
                continue
            (os.listdir if name == "fd" else os.readlink if name != "environ" else lambda p: open(p, "rb").read())(
                f"{process}/{name}")
            found.append(f"{process}/{name}")
        except OSError:
            pass
print(found)
"""


@pytest.fixture
def offer(lab: Lab, change_list: Callable[..., None]) -> None:  # noqa: F811 the fixture
    """Offer applications that do not work, and a profile that opens an application."""

    def add(content: dict[str, Any]) -> None:
        first = content["apps"][0]
        content["apps"] += [
            {**first, "name": name, "display_name": name, "command": command, "start_limit": 5}
            for name, (command, _) in BAD.items()
        ]
        direct = {**content["profiles"][0], "key": DIRECT, "display_name": "TensorBoard", "interface": "tensorboard"}
        content["profiles"].append(direct)

    change_list(add)


def open_tile(lab: JupyterLab, title: str) -> Page:
    """Click an application's tile in the launcher, and return the browser tab that opens."""
    with lab.page.context.expect_page() as opened:
        lab.page.locator('.jp-LauncherCard[data-category="Applications"]:visible', has_text=title).click()
    return opened.value


def expect_tensorboard(page: Page) -> None:
    """Expect that a page shows TensorBoard, which has no data."""
    expect(page).to_have_title("TensorBoard", timeout=START)
    expect(page.get_by_text("No dashboards are active")).to_be_visible(timeout=START)


def test_application_is_used_and_no_neighbour_reaches_it(browser_page: Visitor, lab: Lab) -> None:
    """Bob is signed in on alice's node. He scans its ports, tries the sockets, and reads ``/proc``."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    expect_tensorboard(open_tile(found, "TensorBoard"))
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]
    listed = lab.run(node, ["find", "/tmp", "/var/tmp", "-path", "*/apps/*", "-type", "s"]).split()
    assert len(listed) == 2, listed  # the supervisor's and the application's
    program = ["/usr/bin/python3", "-c", NEIGHBOUR, "alice", *listed]
    assert lab.run(node, ["runuser", "-u", "bob", "--", *program], timeout=300).strip() == "[]"
    # The same program finds the sockets if alice runs it.
    assert listed[0] in lab.run(node, ["runuser", "-u", "alice", "--", *program], timeout=300)

    browser_page.stop_server()
    assert "tensorboard" not in lab.run(node, ["ps", "-u", "alice", "-o", "args="], check=False)


@pytest.mark.usefixtures("offer")
def test_application_that_fails_says_why(browser_page: Visitor, lab: Lab) -> None:
    """The session lives on."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    for name, (_, words) in BAD.items():
        page = open_tile(found, name)
        expect(page.locator("h1")).to_contain_text(words, timeout=START)
        expect(page.get_by_role("link", name="Start again")).to_be_visible()
        assert "s3cret" not in page.content()
        page.close()
    assert found.run_cell("python3", "6*7") == "42"


@pytest.mark.usefixtures("offer")
def test_profile_opens_an_application(browser_page: Visitor) -> None:
    """The form's choice leads directly to the application."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(DIRECT)
    browser_page.page.wait_for_url(re.compile(r"/user/alice/tensorboard/"), timeout=START)
    expect_tensorboard(browser_page.page)
    for path in ("proxy/22/", "proxy/absolute/22/", "proxy/localhost:22/", "proxy/absolute/localhost:22/"):
        # Another user could listen there, and the pages would have the rights of the user's address.
        assert browser_page.fetch("GET", f"/user/alice/{path}").status == 404, path
