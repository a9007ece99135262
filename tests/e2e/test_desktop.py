"""A desktop of a session: users see it, use it, and return to it. Nobody else reaches it."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

from .lab import NODES, eventually
from .pages import START
from .test_form import change_list  # noqa: F401 a fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from .lab import Lab
    from .pages import Visitor

PROFILE = "e2e-desktop"
MISSING = "e2e-no-desktop"
PROGRAMS = ("Xvnc", "dbus-run-session", "startxfce4", "xterm", "xclip")

# The size of the picture and the number of its colours. An empty screen has one colour, and its pointer a few.
_PICTURE = """
() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return [0, 0, 0];
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < data.length; i += 4 * 97) colours.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
  return [canvas.width, canvas.height, colours.size];
}
"""

# What another account of the node can do: connect to each socket, and greet each X server without its cookie.
NEIGHBOUR = """
import json, socket, sys
found = []
for path in sys.argv[1:]:
    path = path.replace("@", "\\0")
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    try:
        sock.connect(path)
        sock.sendall(b"l\\0\\x0b\\0" + bytes(8))
        if ".X11-unix" not in path or sock.recv(1) != b"\\0":
            found.append(path)
    except OSError:
        pass
print(json.dumps(found))
"""


@pytest.fixture
def installed(lab: Lab) -> None:
    """Skip the test if the nodes have no desktop."""
    missing = [name for name in PROGRAMS if not lab.run(NODES[0], ["sh", "-c", f"command -v {name}"], check=False)]
    if missing:
        pytest.skip(f"the nodes lack {', '.join(missing)}")


@pytest.fixture
def offer(change_list: Callable[..., None]) -> None:  # noqa: F811 the fixture
    """Offer a desktop, and one whose X server is not installed, and a profile that opens each."""

    def add(content: dict[str, Any]) -> None:
        content["apps"] += [
            {"name": "desktop", "display_name": "Desktop", "kind": "desktop"},
            {"name": "missing", "display_name": "Missing", "kind": "desktop", "server": "/opt/none/Xvnc"},
        ]
        first = content["profiles"][0]
        content["profiles"] += [
            {**first, "key": PROFILE, "display_name": "Desktop", "interface": "desktop"},
            {**first, "key": MISSING, "display_name": "No desktop", "interface": "missing"},
        ]

    change_list(add)


def expect_picture(page: Page, width: int = 0, height: int = 0) -> None:
    """Expect that a page shows a desktop, of this size in pixels."""
    expect(page.locator("#state")).to_have_text("Connected", timeout=START)

    def is_shown() -> bool:
        seen = page.evaluate(_PICTURE)
        return seen[2] > 30 and (not width or seen[:2] == [width, height])

    eventually("the picture of the desktop", is_shown)


def screen(page: Page) -> tuple[int, int]:
    """Return the width and the height of the part of a page that shows the desktop, in pixels."""
    box = page.locator("#screen").bounding_box()
    assert box
    return round(box["width"]), round(box["height"])


@pytest.mark.usefixtures("installed", "offer")
def test_desktop_is_used_and_survives_a_closed_laptop(browser_page: Visitor, lab: Lab) -> None:
    """Alice's window is there when she returns. Bob, on the same node, sees nothing of it."""
    browser_page.sign_in("alice")
    browser_page.choose_profile(PROFILE)
    page = browser_page.page
    page.wait_for_url(re.compile(r"/user/alice/desktop/view/"), timeout=START)
    expect_picture(page)
    (job,) = lab.jobs("alice")
    node = job.node.split(".")[0]
    (cookie,) = lab.run(node, ["find", "/tmp", "/var/tmp", "-path", "*/apps/desktop/cookie"]).split()
    process = lab.run(node, ["pgrep", "-u", "alice", "-o", "xfce4-session"]).strip()
    environment = lab.run(node, ["cat", f"/proc/{process}/environ"]).split("\0")
    display = next(each for each in environment if each.startswith("DISPLAY="))

    def run(command: str) -> str:
        login = ["runuser", "-u", "alice", "--", "env", display, f"XAUTHORITY={cookie}"]
        return lab.run(node, [*login, "sh", "-c", command]).strip()

    # She types in a window.
    run("setsid xterm -geometry 80x24+150+150 >/dev/null 2>&1 </dev/null &")
    eventually("a window", lambda: lab.run(node, ["pgrep", "-u", "alice", "xterm"], check=False))
    page.mouse.move(350, 350)

    def type_in_window(word: str) -> None:
        def typed() -> bool:
            page.mouse.click(350, 350)
            page.keyboard.type(f"echo {word}-$((6*7)) > /tmp/alice-desktop\n")
            return f"{word}-42" in lab.run(node, ["cat", "/tmp/alice-desktop"], check=False)

        eventually(f"{word} is typed", typed)

    type_in_window("first")

    # The desktop follows the size of the window.
    page.set_viewport_size({"width": 900, "height": 640})
    expect_picture(page, *screen(page))

    # The clipboard works in both directions.
    page.locator("#clipboard-button").click()
    page.locator("#clipboard-text").fill("from the browser äöü €")
    page.locator("#clipboard-text").dispatch_event("change")
    eventually("the text on the desktop", lambda: run("xclip -o -selection clipboard") == "from the browser äöü €")
    run(f"printf %s {shlex.quote('from the desktop äöü €')} | xclip -i -selection clipboard >/dev/null 2>&1")
    expect(page.locator("#clipboard-text")).to_have_value("from the desktop äöü €")

    # Nobody else on the node can see it.
    sockets = lab.run(node, ["find", "/tmp", "/var/tmp", "-path", "*/apps/desktop/*", "-type", "s"]).split()
    assert f"{cookie.rpartition('/')[0]}/app" in sockets
    number = display.rpartition(":")[2]
    sockets += [f"/tmp/.X11-unix/X{number}", f"@/tmp/.X11-unix/X{number}"]
    program = ["/usr/bin/python3", "-c", NEIGHBOUR, *sockets]
    assert json.loads(lab.run(node, ["runuser", "-u", "bob", "--", *program])) == []
    # The same program reaches the socket for viewers if alice runs it.
    assert json.loads(lab.run(node, ["runuser", "-u", "alice", "--", *program])) != []
    assert "Xvnc" not in lab.run(node, ["ss", "-ltnp"])

    # She closes her laptop, and returns.
    context = page.context
    address = page.url
    page.goto("about:blank")
    browser_page.page = page = context.new_page()
    page.goto(address)
    expect_picture(page)
    type_in_window("second")

    browser_page.stop_server()
    left = lab.run(node, ["ps", "-u", "alice", "-o", "args="], check=False)
    assert not [line for line in left.splitlines() if re.search("Xvnc|xfce|xfwm|dbus", line)], left


@pytest.mark.usefixtures("offer")
def test_desktop_that_is_not_installed_says_so(browser_page: Visitor) -> None:
    browser_page.sign_in("alice")
    browser_page.choose_profile(MISSING)
    page = browser_page.page
    expect(page.locator("h1")).to_contain_text("Missing is not installed on", timeout=START)
    expect(page.get_by_role("link", name="Start again")).to_be_visible()
