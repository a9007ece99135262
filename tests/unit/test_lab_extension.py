"""The JupyterLab extension: what a tab decides and shows when a session, the connection or the sign-on ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from node_program import node

EXTENSION = Path(__file__).parents[2] / "src" / "hpchub" / "labextension"
MINUTE = 60_000

# Reads [FUNCTION, [ARGUMENT, …]] from standard input. null stands for a value that is not known.
PROGRAM = """
import * as words from %s;
const [name, given] = JSON.parse(await new Response(process.stdin).text());
const seen = new Set();
const special = {Infinity, "a new set": seen};
const repeatedly = (other, list) => list.map(each => words[other](each, seen)?.title ?? null);
const value = (words[name] ?? repeatedly)(...given.map(each => special[each] ?? each));
console.log(JSON.stringify(value));
"""


def call(name: str, *arguments: Any) -> Any:
    """Call a function of words.js in Node.js and return its result."""
    program = PROGRAM % json.dumps((EXTENSION / "static" / "words.js").as_uri())
    return node(program, [name, arguments])


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "ok"), (401, "sign-on"), (403, "login"), (0, "away"), (404, "away"), (424, "away"), (503, "away")],
)
def test_answer_of_the_server_tells_what_is_lost(status: int, state: str) -> None:
    assert call("meaning", status) == state


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        ("_xsrf=own", "own"),
        ("a=b; _xsrf=own; _xsrf=of-the-session-without-a-name; c=d", "own"),
        ("not_xsrf=x; _xsrf=own", "own"),
        ("", ""),
    ],
)
def test_page_uses_the_token_of_its_own_session(cookies: str, token: str) -> None:
    assert call("xsrfToken", cookies) == token


ENDED = {"state": "ended", "ending": {"cause": "timeout", "text": "Its time limit was reached.", "at": 1_800_000_000}}


@pytest.mark.parametrize(
    ("state", "session", "action", "said"),
    [
        ("away", ENDED, "start", ["session ended on", "Its time limit was reached.", "Continue in a new session"]),
        ("away", {"state": "none", "ending": None}, "start", ["Your session has ended", "Continue in a new session"]),
        ("login", ENDED, "start", ["Its time limit was reached."]),
        ("away", {"state": "starting"}, "progress", ["is starting", "as soon as it runs"]),
        ("away", {"state": "running"}, "home", ["is interrupted", "tries to connect again"]),
        ("login", {"state": "running"}, "sign-in", ["does not accept this tab", "Sign in again"]),
        ("sign-on", None, "sign-in", ["You are signed out", "Sign in again"]),
        ("away", None, "home", ["does not answer", "tries to connect again"]),
        ("login", None, "sign-in", ["does not accept this tab", "Sign in again"]),
        ("away", {"state": "something new"}, "home", ["does not answer"]),
    ],
)
def test_tab_says_what_happened_and_offers_one_step(
    state: str, session: dict[str, Any] | None, action: str, said: list[str]
) -> None:
    """In every case, the tab shows that the changes are kept."""
    message = call("lost", state, session, "en-GB")
    assert message["action"] == action
    text = f"{message['title']}. {message['text']}"
    for words in [*said, "Your unsaved changes are kept in this tab and in this browser"]:
        assert words in text
    assert call("refused", message) == text


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [(1_800_000_000, 1_800_000_000_000), ("2027-01-15T08:00:00Z", 1_800_000_000_000), (None, None), ("soon", None)],
)
def test_times_of_the_hub_are_read(value: object, milliseconds: int | None) -> None:
    assert call("moment", value) == milliseconds


@pytest.mark.parametrize(
    ("left", "warned", "warn", "save"),
    [
        (31 * MINUTE, "Infinity", 0, False),
        (30 * MINUTE, "Infinity", 30 * MINUTE, False),
        (20 * MINUTE, 30 * MINUTE, 0, False),
        (10 * MINUTE, 30 * MINUTE, 10 * MINUTE, False),
        (4 * MINUTE, 10 * MINUTE, 0, False),
        (4 * MINUTE, "Infinity", 10 * MINUTE, False),  # the tab was opened late, or the computer slept
        (2 * MINUTE, 10 * MINUTE, 2 * MINUTE, True),
        (1 * MINUTE, 2 * MINUTE, 0, True),
        (0, 2 * MINUTE, 0, False),
    ],
)
def test_tab_warns_three_times_before_the_end_and_then_saves(left: int, warned: object, warn: int, save: bool) -> None:
    assert call("before", 1_000_000 * MINUTE + left, 1_000_000 * MINUTE, warned) == {"warn": warn, "save": save}


@pytest.mark.parametrize(
    ("limit", "times"),
    [(120, [2, 10, 30]), (60, [2, 10, 30]), (30, [2, 10]), (10, [2]), (2, [1])],
)
def test_idle_session_is_not_warned_about_while_it_is_still_in_use(limit: int, times: list[int]) -> None:
    assert call("idleTimes", limit * MINUTE) == [each * MINUTE for each in times]


def test_nothing_happens_while_the_end_is_not_known() -> None:
    assert call("before", None, 0, "Infinity") == {"warn": 0, "save": False}


def test_warning_says_when_and_in_how_many_minutes() -> None:
    message = call("warning", 4.6 * MINUTE, 0, "limit", "en-GB")
    assert re.fullmatch(r"Your session ends at \d\d:\d\d, in 5 minutes", message["title"])
    assert "time limit" in message["text"]
    message = call("warning", 20_000, 0, "drain", "en-GB")
    assert message["title"].endswith("in 1 minute")
    assert "because of a maintenance" in message["text"]
    message = call("idleWarning", 10 * MINUTE, 0, 60 * MINUTE, "en-GB")
    assert re.fullmatch(r"Nobody uses this session\. It ends at \d\d:\d\d, in 10 minutes", message["title"])
    assert "may be idle for 60 minutes" in message["text"]
    assert message["action"] == "keep"


STATE: dict[str, Any] = {
    "now": 1_000_000,
    "ends_at": 1_003_600,
    "job": {
        "id": "4711",
        "node": "c1.example.org",
        "cluster": "demo",
        "profile": "small",
        "profile_name": "Small",
        "cores": 2,
        "memory": 4 << 30,
    },
    "notices": [],
    "usage": {"memory": 3 << 29, "cores": 0.84, "gpus": []},
    "idle": {"limit": 1800, "ends_at": 1_001_800},
}
HERE = 5_000_000_000
"""The browser's clock when the state arrives. It is not the node's."""


def timed(**changes: Any) -> Any:
    """Return a state with the browser's times."""
    return call("timed", STATE | changes, HERE)


def test_times_of_the_session_are_moved_to_the_clock_of_the_browser() -> None:
    state = timed()
    assert (state["ends"], state["cause"]) == (HERE + 3_600_000, "limit")
    assert (state["idleEnds"], state["idleLimit"]) == (HERE + 1_800_000, 1_800_000)
    nothing = timed(ends_at=None, idle={"limit": None, "ends_at": None})
    assert [nothing[name] for name in ("ends", "idleEnds", "idleLimit")] == [None, None, None]


def test_end_for_a_drain_is_told_from_the_time_limit() -> None:
    assert timed(notices=[DRAIN | {"stop_at": 1_003_590}])["cause"] == "drain"
    assert timed(notices=[DRAIN | {"stop_at": 1_009_000}, DRAIN])["cause"] == "limit"


GPU = {"name": "A100", "load": 35, "memory": 2 << 30, "total": 40 << 30}


@pytest.mark.parametrize(
    ("changes", "after", "text", "urgent"),
    [
        ({}, 60, "59 min left · node c1 · job 4711 · memory 1.5 of 4.0 GB · CPU 0.8 of 2 cores", False),
        ({"ends_at": 1_000_000 + 60 * 3600}, 0, "2 d 12 h left", False),
        ({"ends_at": 1_000_000 + 7500}, 0, "2 h 5 min left", False),
        ({"ends_at": 1_000_300}, 0, "5 min left", True),
        ({"idle": {"limit": 1800, "ends_at": 1_000_300}}, 0, "5 min left", True),
        ({"ends_at": None}, 0, "node c1 · job 4711", False),
        ({"usage": {"memory": None, "cores": None, "gpus": [GPU]}}, 60, "job 4711 · GPU 35 %", False),
        ({"usage": {"memory": 4 << 30, "cores": 2}}, 60, "memory 4.0 of 4.0 GB", True),
        ({"job": None}, 60, "59 min left · memory 1.5 GB · CPU 0.8 cores", False),
    ],
    ids=["usual", "days", "hours", "soon", "idle-soon", "no-end", "gpu", "full", "no-job"],
)
def test_status_shows_the_time_and_what_the_job_uses(
    changes: dict[str, Any], after: int, text: str, urgent: bool
) -> None:
    line = call(
        "statusLine",
        timed(**{"idle": {"limit": None, "ends_at": None}, **changes}),
        HERE + after * 1000,
        False,
        "en-GB",
    )
    assert text in line["text"]
    assert line["urgent"] is urgent


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ("", "59 min left · in cloud · memory 1.5 of 4.0 GB · CPU 0.8 of 2 cores"),
        ("10.0.0.5", "59 min left · in cloud · memory"),
        ("fd00::5", "59 min left · in cloud · memory"),
        ("docker2.example.org", "59 min left · in cloud · node docker2 · memory"),
    ],
    ids=["unknown", "IPv4", "IPv6", "name"],
)
def test_status_in_a_place_names_the_place_and_neither_address_nor_container(node: str, text: str) -> None:
    job = {**STATE["job"], "id": "hpchub-00000000000000aa", "cluster": "cloud", "place": "cloud", "node": node}
    line = call("statusLine", timed(job=job, idle={"limit": None}), HERE + MINUTE, False, "en-GB")
    assert line["text"].startswith(text)
    assert "Profile Small in cloud." in line["title"]


def test_status_is_not_shown_as_current_without_a_connection() -> None:
    assert call("statusLine", timed(), HERE, True)["text"] == "No connection to the session"


@pytest.mark.parametrize(("later", "said"), [(60, "at 08:00"), (24 * 3600, "on 15 Jan 2027, 08:00")])
def test_tab_tells_the_date_of_an_end_that_is_not_today(later: int, said: str) -> None:
    now = 1000 * (ENDED["ending"]["at"] + later)  # type: ignore[index]
    assert call("lost", "away", ENDED, "en-GB", True, now)["title"] == f"Your session ended {said}"


def test_tab_says_the_truth_if_the_browser_cannot_keep_changes() -> None:
    text = call("lost", "away", ENDED, "en-GB", False)["text"]
    assert "in this tab only" in text
    assert "in this browser." not in text


@pytest.mark.parametrize(
    ("error", "known"),
    [
        ("Unexpected error while saving file: a.ipynb [Errno 28] No space left on device: 'a' -> '.~a'", True),
        ("Unexpected error while saving file: a.ipynb [Errno 122] Disk quota exceeded", True),
        ("Unexpected error while saving file: a.ipynb [Errno 13] Permission denied", False),
    ],
)
def test_full_disk_is_explained(error: str, *, known: bool) -> None:
    text = call("full", error, True)
    assert text.startswith("There is no space left for this file") is known
    assert not known or "kept in this tab and in this browser" in text


# Prints the query of the address at which a user continues in a new session.
CONTINUE = """
globalThis.location = new URL('https://hub/user/alice/lab');
globalThis.document = new EventTarget();
globalThis.window = new EventTarget();
globalThis.addEventListener = () => {};
const {Connection} = await import(%s);
const connection = new Connection({}, {base: '/user/alice/', hubPrefix: '/hub/', hubUser: 'alice'}, {});
console.log(JSON.stringify(Object.fromEntries(connection.continueUrl(%s).searchParams)));
"""


@pytest.mark.parametrize(("key", "chosen"), [("small", {"profile": "small", "again": "on"}), ("", {})])
def test_new_session_has_the_values_of_the_last_one(key: str, chosen: dict[str, str]) -> None:
    address = json.dumps((EXTENSION / "static" / "connection.js").as_uri())
    program = CONTINUE % (address, json.dumps(key))
    assert node(program) == chosen | {"next": "/user/alice/lab/extensions/@hpchub/lab/continue.html"}


# Asks the hub about the session from a tab on HOST. Prints how, and what the tab then knows.
ASK = """
globalThis.location = new URL('https://%s/user/alice/lab');
globalThis.document = Object.assign(new EventTarget(), {cookie: '', hidden: false});
globalThis.window = new EventTarget();
globalThis.addEventListener = () => {};
const {Connection} = await import(%s);
let sent;
const send = async (url, {mode, credentials}) => {
  sent = [String(url), mode, credentials];
  return new Response('{"state": "ended"}');
};
const urls = {base: '/user/alice/', hubHost: 'https://hub', hubPrefix: '/hub/', hubUser: 'alice'};
const session = await new Connection({send}, urls, {}).session();
console.log(JSON.stringify([...sent, session]));
"""


@pytest.mark.parametrize(
    ("host", "how"),
    [("hub", ["no-cors", "same-origin"]), ("alice.hub", ["cors", "include"])],
    ids=["one-host", "own-host"],
)
def test_tab_asks_the_hub_about_its_session_from_any_host(host: str, how: list[str]) -> None:
    program = ASK % (host, json.dumps((EXTENSION / "static" / "connection.js").as_uri()))
    assert node(program) == ["https://hub/hub/api/hpchub/sessions/alice", *how, {"state": "ended"}]


# Answers requests of a page: [METHOD, PATH, STATUS, MESSAGE]. The server's state has the same status, unless it follows
# as a fifth value. Prints the statuses and messages that the page receives.
REQUESTS = """
globalThis.location = new URL('https://hub/user/alice/lab');
globalThis.document = Object.assign(new EventTarget(), {cookie: '_xsrf=x', hidden: false, getElementById: () => null});
globalThis.window = new EventTarget();
globalThis.addEventListener = () => {};
globalThis.setTimeout = () => 0;
const {Connection} = await import(%s);
const requests = JSON.parse(await new Response(process.stdin).text());
let request, state;
const send = async input => {
  const isState = new URL(input.url ?? input).pathname === '/user/alice/api/status';
  const body = isState ? {started: 1} : {message: request[3]};
  return new Response(JSON.stringify(body), {status: isState ? state : request[2]});
};
const watch = {send};
new Connection(watch, {base: '/user/alice/', hubPrefix: '/hub/'}, {lost() {}, back() {}});
const seen = [];
for (request of requests) {
  state = request[4] ?? request[2];
  const answer = await watch.fetch('https://hub/user/alice/' + request[1], {method: request[0]});
  const body = await answer.json().catch(() => ({}));
  seen.push([answer.status, body.message ?? '']);
}
console.log(JSON.stringify(seen));
"""


def answers(*requests: tuple[str, str, int, str] | tuple[str, str, int, str, int]) -> Any:
    """Return what a page receives for requests that the server answers as given."""
    return node(REQUESTS % json.dumps((EXTENSION / "static" / "connection.js").as_uri()), requests)


def test_file_that_does_not_fit_is_explained() -> None:
    path, error = "api/contents/a", "[Errno 28] x"
    saved, read = answers(("PUT", path, 500, error, 200), ("GET", path, 500, error, 200))
    assert saved[0] == 507
    assert "no space left" in saved[1]
    assert read == [500, error]


def test_refused_save_is_explained_if_the_hub_does_not_answer() -> None:
    """The server answers every request with 500 as soon as it must ask the hub about the user."""
    path, error = "api/contents/a", "Failed to connect to Hub API at 'http://hub'"
    lost, answered = answers(("PUT", path, 500, error), ("PUT", path, 500, "broken", 200))
    assert lost[0] == 500
    assert "Your session does not answer" in lost[1]
    assert answered == [500, "broken"]


def test_kernel_is_not_dead_while_the_user_is_signed_out() -> None:
    """JupyterLab gives a kernel up if the question for its state is refused."""
    assert answers(("GET", "api/kernels/1", 401, ""), ("GET", "api/kernels/1", 404, "")) == [[503, ""], [503, ""]]
    assert answers(("GET", "api/kernels/1", 404, "gone")) == [[404, "gone"]]


# Loses the connection of a tab with one notebook and its kernel LOST, and gives it a server with the kernels IDS.
# JupyterLab has then forgotten the notebook's kernel (FOUND is null) or has the kernel of that id. Prints what the tab
# does about the kernel.
KERNEL = """
const listeners = {addEventListener() {}};
Object.assign(globalThis, {document: listeners, window: listeners});
globalThis.BroadcastChannel = class {postMessage() {}};
const {Documents} = await import(%s);
const [ids, found, lost] = JSON.parse(await new Response(process.stdin).text());
const done = [];
const reconnect = async () => done.push('reconnect');
const kernel = id => ({id, name: 'python3', connectionStatus: 'connecting', reconnect});
const sessionContext = {
  session: lost ? {kernel: kernel(lost)} : null,
  changeKernel: async ({name}) => done.push(`start ${name}`),
};
const signal = {connect() {}};
const model = {contentChanged: signal};
const [ready, disposed, fileChanged, saveState] = [new Promise(() => {}), signal, signal, signal];
const context = {path: 'a.ipynb', model, sessionContext, save() {}, ready, disposed, fileChanged, saveState};
const manager = {refreshRunning: async () => {}, running: () => ids.map(id => ({id}))};
const services = {kernels: manager, sessions: manager, terminals: manager, kernelspecs: manager};
const registry = {widgetFactories: () => [], changed: signal};
const documents = new Documents(registry, null, services, {owner: 'alice'}, () => false);
documents._follow(context);
documents.rememberKernels();
sessionContext.session = found && {kernel: kernel(found)};
documents.rememberKernels();
await documents.reviveKernels();
await documents.reviveKernels();
console.log(JSON.stringify(done));
"""


@pytest.mark.parametrize(
    ("running", "found", "lost", "done"),
    [
        pytest.param(["1"], "1", "1", ["reconnect"], id="the same server"),
        pytest.param([], "1", "1", ["start python3"], id="a new server"),
        pytest.param([], None, "1", ["start python3"], id="a new server, and JupyterLab has forgotten the kernel"),
        pytest.param([], None, None, [], id="no kernel before"),
    ],
)
def test_notebook_has_a_kernel_again(running: list[str], found: str | None, lost: str | None, done: list[str]) -> None:
    """JupyterLab forgets a kernel that the next session's server does not have, and does not start another one."""
    program = KERNEL % json.dumps((EXTENSION / "static" / "documents.js").as_uri())
    assert node(program, [running, found, lost]) == done


# Runs the warnings before the end with a clock. Reads a list of [SECONDS, STATE or null]: the time, and a new state.
END = """
import {End} from %s;
import {timed} from %s;
const steps = JSON.parse(await new Response(process.stdin).text());
const seen = [];
let now = 0;
Date.now = () => now;
const banner = {show: message => seen.push(message.title.replace(/at .*, /, '')), hide: () => seen.push('hidden')};
const page = {
  banner,
  notices: {show: message => seen.push(message.title)},
  buttons: message => [message.action],
  save: async automatic => seen.push(automatic ? 'saved, which is no use' : 'saved'),
  saveLayout: () => seen.push('layout saved'),
  ask: async () => {},
  isLost: () => false,
};
const end = new End(page);
for (const [seconds, state] of steps) {
  now = seconds * 1000;
  if (state) end.take(timed({notices: [], job: null, ...state}, now));
  await end.tick();
}
console.log(JSON.stringify(seen));
"""


def watch_end(*steps: tuple[float, dict[str, Any] | None]) -> Any:
    """Return what a tab shows and does at some times, in seconds."""
    urls = [json.dumps((EXTENSION / "static" / name).as_uri()) for name in ("end.js", "words.js")]
    return node(END % tuple(urls), steps)


def test_tab_warns_before_the_limit_once_each_time_and_saves_documents_and_layout() -> None:
    state = {"now": 0, "ends_at": 3600, "idle": {"limit": None, "ends_at": None}}
    quiet = (0.0, state)
    assert watch_end(quiet, (1700, None), (1800, None), (1815, None), (3000, None), (3480, None), (3500, None)) == [
        "Your session ends in 30 minutes",
        "Your session ends in 10 minutes",
        "Your session ends in 2 minutes",
        "saved",
        "layout saved",
        "saved",
    ]


def test_idle_tab_warns_and_forgets_it_when_somebody_uses_the_session() -> None:
    def idle(now: float, since: float) -> dict[str, Any]:
        return {"now": now, "ends_at": None, "idle": {"limit": 3600, "ends_at": since + 3600}}

    assert watch_end((0, idle(0, 0)), (1800, idle(1800, 0)), (1815, idle(1815, 0)), (1900, idle(1900, 1890))) == [
        "Nobody uses this session. It ends in 30 minutes",
        "hidden",
    ]
    # Saving before the end of an idle session does not count as use.
    assert watch_end((3500, idle(3500, 0)))[-1] == "saved, which is no use"


def test_the_extension_is_small() -> None:
    assert sum(file.stat().st_size for file in EXTENSION.rglob("*") if file.is_file()) < 300_000


@pytest.mark.parametrize(
    ("renewed", "saved", "failed", "said", "kind"),
    [
        (True, 2, [], "2 documents are saved. Variables of the former session are gone", "new session"),
        (False, 1, [], "1 document is saved.", "connected again"),
        (True, 0, ["a.ipynb"], "Not saved yet: a.ipynb. Your changes are still in this tab.", "new session"),
    ],
)
def test_tab_says_what_it_has_saved(renewed: bool, saved: int, failed: list[str], said: str, kind: str) -> None:
    message = call("connected", renewed, saved, failed)
    assert message["text"].startswith(said)
    assert kind in message["title"]


@pytest.mark.parametrize(
    ("file", "same"),
    [
        ({"hash": "a", "last_modified": "later"}, True),
        ({"hash": "b", "last_modified": "now"}, False),
        ({"hash": None, "last_modified": "now"}, True),
        ({"last_modified": "later"}, False),
        (None, False),
    ],
)
def test_draft_goes_back_only_into_the_file_it_began_with(file: dict[str, Any] | None, same: bool) -> None:
    assert call("unchanged", {"hash": "a", "modified": "now"}, file) is same


@pytest.mark.parametrize(
    ("path", "copy"),
    [
        ("a/b.ipynb", "a/b (unsaved changes of 2027-01-15 08.00.00 UTC).ipynb"),
        ("a.b/c", "a.b/c (unsaved changes of 2027-01-15 08.00.00 UTC)"),
        (".profile", ".profile (unsaved changes of 2027-01-15 08.00.00 UTC)"),
    ],
)
def test_copy_keeps_directory_and_suffix(path: str, copy: str) -> None:
    assert call("copyPath", path, 1_800_000_000_000) == copy


DRAIN = {
    "key": "1",
    "kind": "drain",
    "title": "Maintenance of the cluster demo",
    "message": "<b>New</b> disks.",
    "advice": "No session can start.",
    "active": True,
    "ask": False,
    "from": 1_800_000_000,
    "until": 1_800_003_600,
    "stop_at": None,
}
HELLO = DRAIN | {"key": "2", "kind": "announcement", "title": "Announcement", "message": "Hello.", "advice": ""}


def news(*notices: dict[str, Any]) -> Any:
    """Return what a tab shows that has shown nothing yet."""
    return call("news", list(notices), "a new set", "en-GB")


@pytest.mark.parametrize(
    ("notices", "title", "said", "action"),
    [
        (
            [DRAIN],
            "Maintenance of the cluster demo",
            ["It lasts until 15 Jan 2027", "<b>New</b> disks. No session can"],
            "",
        ),
        (
            [DRAIN | {"active": False}],
            "Maintenance of the cluster demo",
            ["It lasts from 15 Jan 2027", "until 15 Jan 2027"],
            "",
        ),
        ([DRAIN | {"until": None}], "Maintenance of the cluster demo", ["until further notice."], ""),
        ([DRAIN | {"message": "New disks"}], "Maintenance of the cluster demo", [" New disks. No session"], ""),
        ([DRAIN | {"ask": True}], "Maintenance of the cluster demo", ["disks."], "home"),
        (
            [DRAIN | {"stop_at": 1_800_001_800}],
            "Maintenance of",
            ["At 15 Jan 2027", "the service stops sessions that still run."],
            "",
        ),
        ([HELLO], "Announcement", ["Hello."], ""),
        (
            [DRAIN, HELLO],
            "Announcements",
            ["Maintenance of the cluster demo: It lasts until", "Announcement: Hello."],
            "",
        ),
    ],
    ids=["drain", "planned", "without-an-end", "no-full-stop", "ask", "stop", "announcement", "both"],
)
def test_tab_shows_drains_and_announcements(
    notices: list[dict[str, Any]], title: str, said: list[str], action: str
) -> None:
    found = news(*notices)
    assert found["title"].startswith(title)
    assert all(words in found["text"] for words in said)
    assert found["action"] == action


def test_tab_shows_nothing_without_notices() -> None:
    assert news() is None
    assert call("news", None, "a new set") is None


def test_tab_shows_a_notice_again_only_if_it_has_changed() -> None:
    changed = DRAIN | {"ask": True}
    assert call("repeatedly", "news", [[DRAIN], [DRAIN], [changed], [changed, HELLO]]) == [
        "Maintenance of the cluster demo",
        None,
        "Maintenance of the cluster demo",
        "Announcement",
    ]


def notebook(source: object, **metadata: object) -> dict[str, Any]:
    """Return a notebook with one cell."""
    cell = {"id": "x", "cell_type": "code", "source": source, "metadata": {"trusted": True}, "outputs": []}
    return {"cells": [cell], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


@pytest.mark.parametrize(
    ("draft", "content", "same"),
    [
        (notebook("1\n2", language_info={"name": "python"}), notebook(["1\n", "2"]), True),
        (notebook("1\n2"), notebook("1\n3"), False),
        (notebook("1", title="x"), notebook("1"), False),
        ("a\nb", "a\r\nb", True),
        ("a", "b", False),
    ],
)
def test_only_the_users_own_changes_are_worth_a_question(draft: Any, content: Any, same: bool) -> None:
    """JupyterLab writes the kernel's language into each notebook that is opened. Nobody needs this back."""
    is_text = isinstance(draft, str)
    kept = {"format": "text" if is_text else "json", "text": draft if is_text else json.dumps(draft)}
    assert call("sameContent", kept, {"content": content}) is same
    assert call("sameContent", kept, None) is False
    other = {**kept, "text": content if is_text else json.dumps(content)}
    prints = [call("fingerprint", each["format"], each["text"]) for each in (kept, other)]
    assert (prints[0] == prints[1]) is same


def test_the_extension_replaces_the_dialog_that_leads_nowhere() -> None:
    """The role writes a hash into the path of the scripts, and JupyterLab finds the entry point by this path."""
    package = json.loads((EXTENSION / "package.json").read_text())
    assert package["jupyterlab"]["disabledExtensions"] == ["@jupyterlab/hub-extension:connectionlost"]
    assert (EXTENSION / package["jupyterlab"]["_build"]["load"]).is_file()
    entry = (EXTENSION / "static" / "entry.js").read_text()
    assert f"['{package['name']}']" in entry
