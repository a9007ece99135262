"""VS Code of a session: users edit files and run commands in it, and return to it. Nobody else reaches it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

from .lab import eventually
from .pages import PAGE, START
from .test_apps import open_tile
from .test_web_apps import expect_no_neighbour, offered

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

FILE = "e2e-vscode.py"
RESULT = "e2e-vscode.txt"


def open_terminal(page: Page) -> None:
    """Open a terminal, and trust the folder if VS Code asks."""
    page.keyboard.press("Control+Backquote")
    trust = page.get_by_text("Trust Folder & Continue")
    terminal = page.locator(".xterm-helper-textarea")
    eventually("a terminal", lambda: trust.is_visible() or terminal.count() > 0)
    if trust.is_visible():
        trust.click()
    expect(terminal.first).to_be_attached(timeout=PAGE)


def test_vscode_is_used_and_survives_a_closed_laptop(browser_page: Visitor, lab: Lab) -> None:
    """Alice's terminal is there when she returns. Bob, on the same node, reaches nothing of it."""
    title = offered(lab, "vscode")
    browser_page.sign_in("alice")
    found = browser_page.start(lab.profiles()[0]["key"])
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]
    home = lab.run(node, ["sh", "-c", "echo ~alice"]).strip()
    lab.run(node, ["runuser", "-u", "alice", "--", "sh", "-c", f"echo 'print(1)' > {home}/{FILE}"])
    # An address or a password of an earlier code-server must not matter.
    config = f"{home}/.config/code-server"
    lines = "bind-addr: 0.0.0.0:8080\\nauth: password\\npassword: hunter2\\n"
    command = f"mkdir -p {config} && printf '{lines}' > {config}/config.yaml"
    lab.run(node, ["runuser", "-u", "alice", "--", "sh", "-c", command])

    page = open_tile(found, title)
    expect(page.locator(".monaco-workbench")).to_be_visible(timeout=START)

    # She edits a file and saves it.
    page.get_by_role("treeitem", name=FILE).dblclick(timeout=PAGE)
    expect(page.locator(".view-lines", has_text="print")).to_be_visible(timeout=PAGE)
    page.keyboard.press("Control+End")
    page.keyboard.type("print(6*7)")
    page.keyboard.press("Control+s")
    eventually("the file", lambda: "print(6*7)" in lab.run(node, ["cat", f"{home}/{FILE}"]))

    # She runs a command in the terminal.
    def run(command: str) -> str:
        lab.run(node, ["rm", "-f", f"{home}/{RESULT}"])

        def result() -> str:
            page.locator(".xterm-helper-textarea").first.focus()
            page.keyboard.type(f"{{ {command}; }} > {RESULT}.new; mv {RESULT}.new {RESULT}\n")
            page.wait_for_timeout(1000)
            return lab.run(node, ["cat", f"{home}/{RESULT}"], check=False)

        return eventually(command, result).strip()

    open_terminal(page)
    assert run(f"python3 {FILE}; hostname") == f"1\n42\n{node}"
    variables = run("env")
    assert "JUPYTERHUB_USER=alice" in variables
    assert not re.search("^(JUPYTERHUB_API_TOKEN|JPY_API_TOKEN|HPCHUB_FILE_)", variables, re.MULTILINE)
    shell = run("echo $$")

    # She starts a program that listens, as debuggers do. VS Code goes on, and does not show its pages.
    run("python3 -m http.server --bind 127.0.0.1 18099 >/dev/null 2>&1 & echo started")
    page.wait_for_timeout(16_000)  # the supervisor searches for ports every 15 seconds
    address = page.url.partition("?")[0]
    assert page.request.get(f"{address}proxy/18099/").status == 403
    expect_no_neighbour(lab, "vscode", "code-server", "folder=")

    # She closes her laptop, and returns.
    context = page.context
    page.close()
    page = context.new_page()
    page.goto(address)
    expect(page.locator(".monaco-workbench")).to_be_visible(timeout=START)
    expect(page.locator(".xterm-helper-textarea").first).to_be_attached(timeout=PAGE)
    assert run("echo $$") == shell
    page.close()

    browser_page.stop_server()
    left = lab.run(node, ["ps", "-u", "alice", "-o", "args="], check=False)
    assert not [line for line in left.splitlines() if re.search("code-server|http.server", line)], left
