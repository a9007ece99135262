"""RStudio Server in a session: users compute in R, return to their workspace, and nobody else reaches it.

The program on the nodes is a stand-in with a page of its own, because RStudio's binary is not available in the lab. R
is real. See ``molecule/workbench/files/rserver``.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from .lab import eventually
from .pages import START
from .test_apps import open_tile
from .test_form import change_list  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"server": "/opt/none/rserver"}, "missing is not installed on"),
    "old": (
        {"environment": {"STANDIN_WITHOUT": "www-socket"}},
        "because its version lacks --www-socket. It needs version 2024.12 or later",
    ),
    "exits": ({"environment": {"STANDIN_FAILS": "secret"}}, "exits has stopped with exit code 1 before"),
    "exposed": ({"environment": {"STANDIN_FAILS": "tcp"}}, "exposed was stopped, because it listened on 0.0.0.0:"),
    "silent": (
        {"environment": {"STANDIN_FAILS": "silent"}, "start_limit": 5},
        "silent did not answer within 5 seconds",
    ),
    "nomodule": ({"modules": ["lab-none/1"]}, "nomodule has stopped with exit code 1 before"),
}
"""RStudio in ways that do not work: what differs in the entry, and what the page says."""

# What another account of the node can do: use each socket, read each file and /proc, and read the answers of all ports.
NEIGHBOUR = """
import glob, json, os, socket, sys
found = []
for path in json.loads(sys.argv[1]):
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
        found.append(path)
    except OSError:
        pass
    try:
        os.listdir(path) if os.path.isdir(path) else open(path, "rb").close()
        found.append(path)
    except OSError:
        pass
for port in range(1, 65536):
    sock = socket.socket()
    sock.settimeout(0.2)
    if sock.connect_ex(("127.0.0.1", port)) == 0:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        try:
            if b"auth-sign-in" in sock.recv(65536):
                found.append(f"port {port}")
        except OSError:
            pass
    sock.close()
for process in sys.argv[2:]:
    for name in ("environ", "fd", "root", "cwd"):
        try:
            path = f"/proc/{process}/{name}"
            (os.listdir if name == "fd" else os.readlink if name != "environ" else lambda p: open(p, "rb").read())(path)
            found.append(path)
        except OSError:
            pass
print(json.dumps(found))
"""


@pytest.fixture
def entry(lab: Lab) -> dict[str, Any]:
    """The lab's entry for RStudio."""
    found = next((each for each in lab.profile_list()["apps"] if each["kind"] == "rstudio"), None)
    if found is None:
        pytest.skip("this lab does not offer RStudio")
    return dict(found)


@pytest.fixture
def offer(entry: dict[str, Any], change_list: Callable[..., None]) -> None:  # noqa: F811 the fixture
    """Offer RStudio in ways that do not work."""

    def add(content: dict[str, Any]) -> None:
        content["apps"] += [
            {**entry, "name": name, "display_name": name, "modules": [], **more} for name, (more, _) in BAD.items()
        ]

    change_list(add)


def run(page: Page, code: str, shown: str) -> None:
    """Type R code in the console, and expect what it prints."""
    page.get_by_label("R code").fill(code)
    page.get_by_label("R code").press("Enter")
    expect(page.locator("#console")).to_contain_text(f"> {code}\n{shown}", timeout=START)


def expect_console(page: Page) -> None:
    """Expect RStudio's page at its own address."""
    expect(page.get_by_role("heading", name="Console")).to_be_visible(timeout=START)
    assert re.search(r"/user/alice/[a-z0-9-]+/$", page.url), page.url


def test_user_computes_in_r_and_no_neighbour_reaches_it(browser_page: Visitor, lab: Lab, entry: dict[str, Any]) -> None:
    """Bob is signed in on alice's node. He tries the sockets and ports, and reads files and ``/proc``."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    page = open_tile(found, entry["display_name"])
    expect_console(page)
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]

    # She computes, and her files and her modules are there.
    run(page, "x <- sum(1:100); x", "[1] 5050")
    run(page, 'write.csv(data.frame(a = 1), "from-rstudio.csv"); "saved"', '[1] "saved"')
    expect(page.locator("#files")).to_contain_text("from-rstudio.csv")
    run(page, "Sys.info()[['nodename']]", f'[1] "{node}')
    if "lab-r/1.0" in entry["modules"]:
        run(page, "Sys.getenv('LAB_R_MODULE')", '[1] "loaded"')
        run(page, ".libPaths()[1]", '[1] "/opt/lab/rstudio/library"')
    secret = "any(c('JUPYTERHUB_API_TOKEN', 'JPY_API_TOKEN') %in% names(Sys.getenv()))"
    run(page, secret, "[1] FALSE")

    # A reload keeps the workspace.
    page.reload()
    expect(page.locator("#console")).to_contain_text("[1] 5050", timeout=START)
    run(page, "x + 1", "[1] 5051")

    # Nobody else on the node reaches anything.
    private = lab.run(node, ["find", "/tmp", "/var/tmp", "-path", f"*/apps/{entry['name']}/*"]).split()
    # If the path of that directory is too long for sockets, RStudio's own files are in one in /tmp.
    private += lab.run(node, ["sh", "-c", "find /tmp/hpchub-* -user alice 2>/dev/null || true"]).split()
    assert {path.rpartition("/")[2] for path in private} >= {
        "app",
        "socket",
        "alice-d",
        "session-rpc-key",
        "environment",
    }
    processes = [lab.run(node, ["pgrep", "-u", "alice", "-x", name]).strip() for name in ("rserver", "rsession", "R")]
    program = ["/usr/bin/python3", "-c", NEIGHBOUR, json.dumps(private), *processes]
    assert json.loads(lab.run(node, ["runuser", "-u", "bob", "--", *program], timeout=300)) == []
    # The same program reaches the sockets and files if alice runs it.
    assert len(json.loads(lab.run(node, ["runuser", "-u", "alice", "--", *program], timeout=300))) > len(private) / 2
    assert not re.search(r'"(rserver|rsession|R)"', lab.run(node, ["ss", "-ltnp"]))

    run(page, 'unlink("from-rstudio.csv"); "removed"', '[1] "removed"')
    browser_page.stop_server()

    def is_over() -> bool:
        left = lab.run(node, ["ps", "-u", "alice", "-o", "args="], check=False)
        return not re.search("rserver|rsession|/R ", left)

    eventually("the end of RStudio", is_over)


@pytest.mark.usefixtures("offer")
def test_rstudio_that_fails_says_why(browser_page: Visitor, lab: Lab) -> None:
    """The session lives on."""
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    for name, (_, words) in BAD.items():
        page = open_tile(found, name)
        expect(page.locator("h1")).to_contain_text(words, timeout=START)
        assert "s3cret" not in page.content()
        page.close()
    assert found.run_cell("python3", "6*7") == "42"
