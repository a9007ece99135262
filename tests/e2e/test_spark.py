"""Apache Spark of a session: notebooks count with all nodes of the job, and nobody else reaches it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from .lab import NODES, eventually
from .pages import START
from .test_apps import open_tile

if TYPE_CHECKING:
    from .lab import Lab
    from .pages import Visitor

COUNT = """
text = "to be or not to be"
pairs = sc.parallelize(text.split(), 16).map(lambda word: (word, 1)).reduceByKey(lambda a, b: a + b)
print(sorted(pairs.collect()))
"""
HOSTS = """
import socket, time
def host(_):
    time.sleep(0.2)
    return socket.gethostname().split(".")[0]
print(*sorted(set(sc.parallelize(range(64), 64).map(host).collect())))
"""
OFFER = """
from pathlib import Path
_ = Path("e2e_module.py").write_text("answer = 42")
Path("e2e_file.txt").write_text("PRIVATE")
sc.addPyFile("e2e_module.py")
print(sc.parallelize([1]).map(lambda _: __import__("e2e_module").answer).collect())
try:
    sc.addFile("e2e_file.txt")
except PermissionError as error:
    print(error)
"""

# What another account of a node can do: speak to each port in each of Spark's ways, and read files and processes.
NEIGHBOUR = """
import glob, json, os, socket, struct, sys
PAGES = ("/", "/json/", "/environment/", "/metrics/json/", "/api/v1/applications", "/static/webui.js")
FILES = (b"/files/e2e_module.py", b"/files/e2e_file.txt", b"/files/e2e_module.zip")
REFUSALS = (b"HTTP/1.1 403 ", b"HTTP/1.1 400 ", b"Unknown challenge message", b"Authentication error")
found = []

def framed(content):
    return struct.pack(">q", len(content) + 8) + content

requests = [f"GET {page} HTTP/1.0\\r\\n\\r\\n".encode() for page in PAGES]
requests += [b"POST /app/kill/ HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n", b"c\\nt\\ngetProperties\\ne\\n"]
requests += [framed(struct.pack(">bqi", 3, 1, 1) + b"x")]
files = [framed(struct.pack(">bi", 6, len(name)) + name) for name in FILES]
for place in sys.argv[1:]:
    address, _, port = place.rpartition(":")
    for request in requests + files:
        sock = socket.socket()
        sock.settimeout(5 if request in requests[:7] else 1)
        try:
            sock.connect((address, int(port)))
            sock.sendall(request)
            answer = sock.recv(65536)
        except OSError:
            answer = b""
        sock.close()
        told = b"answer" in answer or b"PRIVATE" in answer
        if told or (request in requests and answer and not any(each in answer for each in REFUSALS)):
            found.append([place, repr(request[:40]), repr(answer[:80])])
for path in glob.glob("/tmp/hpchub-spark-*"):
    try:
        found.append([path, os.listdir(path)])
    except OSError:
        pass
for process in glob.glob("/proc/[0-9]*"):
    try:
        if b"spark" in open(f"{process}/cmdline", "rb").read():
            open(f"{process}/environ", "rb").read()
            found.append([process])
    except OSError:
        pass
print(json.dumps(found))
"""


@pytest.fixture
def spark(lab: Lab) -> dict[str, Any]:
    """Return the lab's application of the kind ``spark``."""
    for each in lab.profile_list()["apps"]:
        if each["kind"] == "spark":
            return dict(each)
    pytest.skip("the lab offers no Spark")


@pytest.fixture
def wide(lab: Lab, spark: dict[str, Any]) -> dict[str, Any]:
    """Return a profile with two nodes, on a cluster that offers Spark."""
    for each in lab.profiles():
        if each["nodes"] == 2 and (not spark["clusters"] or each["cluster"] in spark["clusters"]):
            return each
    pytest.skip("no profile has two nodes")


def java_places(lab: Lab, node: str) -> list[str]:
    """Return the addresses on which Java listens on a node."""
    lines = [line.split() for line in lab.run(node, ["ss", "-Hltnp"]).splitlines() if '"java"' in line]
    return [re.sub(r"[][]|::ffff:", "", words[3]).replace("*:", "127.0.0.1:") for words in lines]


def test_spark_counts_words_over_two_nodes(
    browser_page: Visitor, lab: Lab, spark: dict[str, Any], wide: dict[str, Any]
) -> None:
    browser_page.sign_in("alice")
    notebooks = browser_page.start(wide["key"])
    notebook = notebooks.new_notebook(f"py{spark['name']}")
    assert notebook.run(COUNT).splitlines()[-1] == "[('be', 2), ('not', 1), ('or', 1), ('to', 2)]"
    assert notebook.run(HOSTS).splitlines()[-1] == " ".join(NODES)
    shown = notebook.run(OFFER)
    assert "[42]" in shown
    assert "stays on this node" in shown

    # Spark's own pages: the master, and the notebook's application.
    notebooks.page.locator("#jp-main-dock-panel .lm-TabBar-addButton").first.click()
    page = open_tile(notebooks, spark["display_name"])
    expect(page.get_by_text(re.compile(r"Workers:\s*2 Alive"))).to_be_visible(timeout=START)
    expect(page.get_by_text(re.compile(rf"Cores in use:\s*{2 * wide['cores']} Total"))).to_be_visible()
    page.locator("#content, body").get_by_role("link", name="pyspark-shell").first.click()
    expect(page.get_by_text("Completed Jobs").first).to_be_visible(timeout=START)
    assert re.search(rf"/user/alice/{spark['name']}/proxy/app-\d+-\d+/jobs/", page.url), page.url

    # Nobody else on the nodes reaches any of it.
    for node in NODES:
        places = java_places(lab, node)
        assert len(places) >= 3, f"{node} has a worker and an executor"
        program = ["/usr/bin/python3", "-c", NEIGHBOUR, *places]
        assert json.loads(lab.run(node, ["runuser", "-u", "bob", "--", *program], timeout=300)) == []
        # The same program reads the secrets if alice runs it.
        own = json.loads(lab.run(node, ["runuser", "-u", "alice", "--", *program], timeout=300))
        assert any("/tmp/hpchub-spark-" in str(each) for each in own)
        lines = lab.run(node, ["ps", "-u", "alice", "-ww", "-o", "args="])
        settings = lab.run(node, ["sh", "-c", "cat /tmp/hpchub-spark-*/conf/spark-defaults.conf"])
        for name in ("spark.authenticate.secret ", "secretKey "):
            secret = settings.partition(name)[2].split()[0]
            assert len(secret) >= 43
            assert secret not in lines
    browser_page.page.bring_to_front()

    browser_page.stop_server()
    directories = ["find", "/tmp", "-maxdepth", "1", "-name", "hpchub-spark-*", "-user", "alice"]

    def left() -> list[str]:
        commands = (["pgrep", "-u", "alice", "java"], directories)
        return [found for node in NODES for each in commands if (found := lab.run(node, each, check=False).strip())]

    eventually("nothing of Spark is left", lambda: not left())
    assert not lab.run(NODES[0], ["sh", "-c", "ls ~alice/.hpchub/spark-*"], check=False)
