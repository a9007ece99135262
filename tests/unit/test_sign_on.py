"""What Apache does after each sign-on: the account's name, the groups and the second factor, in a real Apache."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import select
import shutil
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apache_server import Answer, Apache, needs_apache
from user_mapping_cases import CASES, COMMAND_ANSWERS

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = Path(__file__).resolve().parents[2] / "roles" / "reverse_proxy" / "files"
MODULES = ["mpm_event", "authn_core", "authz_core", "authz_user", "auth_basic", "authn_anon", "alias", "env", "headers",
           "lua", "setenvif", "unixd"]  # fmt: skip
pytestmark = needs_apache("lua", "authn_anon")

SETTINGS: dict[str, Any] = {
    "provider": "oidc", "claims_json": ["TEST_CLAIMS"], "claims_variables": {}, "user_claim": "sub", "source": "sub",
    "groups_claim": "groups", "groups_separator": "", "groups": ["hpc"], "users": ["dave"], "second_factors": [],
    "steps": [],
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "remote-user": {"user_claim": ""},
    "factor": {"second_factors": ["mfa", "https://refeds.org/profile/mfa"]},
    "separator": {"groups_separator": "; "},
    "variables": {"claims_json": [], "claims_variables": {"sub": "TEST_SUB", "groups": "TEST_GROUPS"}},
}
HUB = "https://hub.example.org"
VARIANTS["one-issuer"] = {"own": {"callback": "/one-issuer/callback"}}
VARIANTS["choice"] = {
    "own": {"callback": "/choice/callback", "issuers": {"https://campus": "campus"}, "url": HUB, "choice": f"{HUB}/c"}
}
VARIANTS |= {f"case-{case.name}": {"steps": case.steps} for case in CASES}

LOCATION = """
<Location "/{name}">
  AuthType Basic
  AuthName test
  AuthBasicProvider anon
  Anonymous *
  Anonymous_MustGiveEmail Off
  Anonymous_NoUserID On
  Require valid-user
  LuaHookAuthChecker {directory}/sign_on.lua sign_on early
</Location>
"""
COMMON = """
Listen 127.0.0.1:{port}
LuaScope thread
AllowEncodedSlashes On
SetEnvIf X-Claims "(.+)" TEST_CLAIMS=$1
SetEnvIf X-Sub "(.+)" TEST_SUB=$1
SetEnvIf X-Groups "(.+)" TEST_GROUPS=$1
Header always set X-Account "expr=%{{REMOTE_USER}}"
Header always set X-Sign-On "expr=%{{reqenv:HPCHUB_SIGN_ON}}"
Header always set X-Claims "expr=%{{reqenv:HPCHUB_CLAIMS}}"
Header always set X-Permitted "expr=%{{reqenv:HPCHUB_PERMITTED}}"
Header always set X-Refused "expr=%{{reqenv:HPCHUB_REFUSED}}"
Header always set X-Received "expr=%{{base64:%{{reqenv:HPCHUB_RECEIVED}}}}"
Alias "/" "{directory}/files/"
"""


def load_accounts() -> Any:
    """Return the module of the program that runs the site's command."""
    spec = importlib.util.spec_from_file_location("account_of", FILES / "account_of.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A command that knows the names of the table. It fails for every other name."""
    path = tmp_path_factory.mktemp("command") / "map-user"
    answers = json.dumps(COMMAND_ANSWERS)
    path.write_text(f"#!/usr/bin/python3\nimport json\nprint(json.loads({answers!r})[input()])\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(scope="module")
def apache(command: Path) -> Iterator[Apache]:
    """Apache with one location for each variant of the settings."""
    module = load_accounts()
    with Apache() as server, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(server.directory / "socket"))
        listener.listen()
        accounts = module.Accounts({"command": [str(command)], "timeout": 5, "remember": 60})

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                module.serve(connection, accounts)

        threading.Thread(target=listen, daemon=True).start()
        text = COMMON.format(port=server.port, directory=server.directory)
        for name, change in {"plain": {}, **VARIANTS}.items():
            directory = server.directory / "sign-on" / name
            directory.mkdir(parents=True)
            shutil.copy(FILES / "sign_on.lua", directory)
            settings = SETTINGS | change | {"command_socket": str(server.directory / "socket")}
            (directory / "settings.json").write_text(json.dumps(settings))
            text += LOCATION.format(name=name, directory=directory)
        server.start(MODULES, text)
        yield server


def encoded(claims: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def ask(apache: Apache, variant: str, claims: object, *, user: str = "somebody", path: str = "") -> Answer:
    basic = base64.b64encode(f"{user}:x".encode()).decode()
    return apache.ask(f"/{variant}{path}", {"Authorization": f"Basic {basic}", "X-Claims": encoded(claims)})


def outcome(answer: Answer) -> str:
    if refused := answer.headers["X-Refused"]:
        assert answer.status == (503 if refused == "unknown" else 403), answer
        return f"[{refused}]"
    assert answer.status == 404, (answer.status, answer.text)  # the request is permitted, and there is no file
    return answer.headers["X-Account"].encode("latin-1").decode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_web_server_maps_names_like_the_model(apache: Apache, case: Any) -> None:
    names = [name for name in case.expected if name]  # without a name, there is no claim
    found = {name: outcome(ask(apache, f"case-{case.name}", {"sub": name})) for name in names}
    assert found == {name: case.expected[name] for name in names}


@pytest.mark.parametrize("value", [None, "", 7, ["anna"], {"anna": 1}, True])
def test_claim_that_is_not_a_name_is_refused(apache: Apache, value: object) -> None:
    assert outcome(ask(apache, "plain", {"sub": value})) == "[attribute]"
    assert outcome(ask(apache, "plain", {})) == "[attribute]"
    assert outcome(ask(apache, "plain", [value])) == "[attribute]"


def test_name_of_the_sign_on_is_used_without_a_claim(apache: Apache) -> None:
    assert outcome(ask(apache, "remote-user", {"sub": "eve"}, user="anna")) == "anna"


GROUPS: list[tuple[str, object, bool]] = [
    ("plain", ["hpc"], True), ("plain", "hpc", True), ("plain", ["x", "hpc"], True), ("plain", ["x,hpc"], False),
    ("plain", "x; hpc", False), ("plain", ["HPC"], False), ("plain", ["hpc "], False), ("plain", None, False),
    ("plain", {"hpc": "hpc"}, False), ("plain", [["hpc"]], False), ("separator", "x; hpc", True),
    ("separator", "x; hpcx", False), ("separator", ["x; hpc"], False), ("separator", "x;hpc", False),
    ("plain", 7, False), ("plain", [True, 1.5], False),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "groups", "permitted"), GROUPS, ids=repr)
def test_group_permits_only_if_the_whole_name_is_the_same(
    apache: Apache, variant: str, groups: object, permitted: bool
) -> None:
    answer = ask(apache, variant, {"sub": "anna", "groups": groups})
    assert (answer.headers["X-Permitted"] == "yes") == permitted
    assert ask(apache, variant, {"sub": "dave", "groups": groups}).headers["X-Permitted"] == "yes"


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({}, False),
        ({"acr": "pwd"}, False),
        ({"acr": "mfa"}, True),
        ({"amr": ["pwd", "mfa"]}, True),
        ({"amr": "mfa"}, True),
        ({"acr": "https://refeds.org/profile/mfa"}, True),
        ({"amr": ["mfa pwd"]}, False),
        ({"mfa": True}, False),
    ],
    ids=repr,
)
def test_second_factor_is_required(apache: Apache, claims: dict[str, object], accepted: bool) -> None:
    answer = ask(apache, "factor", {"sub": "anna", "groups": ["hpc"]} | claims)
    assert outcome(answer) == ("anna" if accepted else "[second_factor]")
    assert (answer.headers["X-Permitted"] == "yes") == accepted


def test_hub_learns_the_received_name_and_the_second_factor(apache: Apache) -> None:
    answer = ask(apache, "case-realm", {"sub": "anna@example.org", "acr": "mfa", "amr": ["otp"]})
    told = answer.headers["X-Sign-On"]
    assert json.loads(base64.urlsafe_b64decode(told)) == {
        "provider": "oidc", "claim": "sub", "received": "anna@example.org", "second_factor": ["mfa", "otp"],
    }  # fmt: skip


@pytest.mark.parametrize(("variant", "received"), [("lower", "anna@example.org"), ("realm", "Anna@example.org")])
def test_hub_knows_a_person_by_one_spelling_if_the_mapping_ignores_case(
    apache: Apache, variant: str, received: str
) -> None:
    told = ask(apache, f"case-{variant}", {"sub": "Anna@example.org"}).headers["X-Sign-On"]
    assert json.loads(base64.urlsafe_b64decode(told))["received"] == received


@pytest.mark.parametrize("name", [b"anna\xff", b"\xc3", b"ann\xe9", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_name_that_is_no_text_is_refused(apache: Apache, name: bytes) -> None:
    """The hub could not read it, and so not know whether the account belongs to this person."""
    basic = base64.b64encode(name + b":x").decode()
    assert outcome(apache.ask("/remote-user", {"Authorization": f"Basic {basic}"})) == "[characters]"


def test_variables_become_claims(apache: Apache) -> None:
    basic = base64.b64encode(b"x:x").decode()
    headers = {"Authorization": f"Basic {basic}", "X-Sub": "anna", "X-Groups": "hpc"}
    answer = apache.ask("/variables", headers)
    assert (outcome(answer), answer.headers["X-Permitted"]) == ("anna", "yes")
    assert json.loads(base64.urlsafe_b64decode(answer.headers["X-Claims"])) == {"sub": "anna", "groups": "hpc"}


def test_refused_name_is_kept_for_the_page_in_a_short_and_printable_form(apache: Apache) -> None:
    answer = ask(apache, "case-realm", {"sub": "ä" * 100 + "\n<script>"})
    shown = base64.b64decode(answer.headers["X-Received"]).decode()
    assert shown == "ä" * 30 + "..."
    answer = ask(apache, "case-realm", {"sub": "a\nb"})
    assert base64.b64decode(answer.headers["X-Received"]).decode() == "a?b"
    assert "Sign-in refused" in apache.log()


def test_refused_name_can_sign_out() -> None:
    text = (FILES / "sign_on.lua").read_text()
    assert 'r.headers_out["Location"] = "/sso/end"' in text


@pytest.mark.parametrize(("answer", "good"), [("echo alice", True), ("true", True), ("false", False)])
def test_status_of_the_command_is_for_everybody_and_contains_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, good: bool
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    accounts = load_accounts().Accounts({"command": ["/bin/sh", "-c", answer], "timeout": 5, "remember": 60})
    accounts.answer("anna")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert json.loads((tmp_path / "status.json").read_text()) == {"ok": good}
    assert (tmp_path / "status.json").stat().st_mode & 0o777 == 0o644


def test_command_that_cannot_report_its_status_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "none"))
    accounts = load_accounts().Accounts({"command": ["/bin/echo", "alice"], "timeout": 5, "remember": 60})
    assert accounts.answer("anna") == "account alice"
    assert "Cannot write the status" in capsys.readouterr().err


def test_processes_of_a_command_that_takes_too_long_end(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; wait"
    accounts = load_accounts().Accounts({"command": ["/bin/sh", "-c", script], "timeout": 1, "remember": 60})
    assert accounts.answer("anna") == "failed"
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(int(pid.read_text()))
        assert select.select([process], [], [], 10)[0]
        os.close(process)


def test_user_whom_the_module_does_not_know_chooses_a_provider(apache: Apache) -> None:
    """mod_auth_openidc 2.4.17 leaves the name empty, and ``Require valid-user`` admits such a user."""
    answer = ask(apache, "choice", {"sub": "dave", "iss": "https://campus"}, user="", path="/x/../y?a=1&b=%26")
    assert answer.status == 302
    assert answer.headers["Location"] == (
        "https://hub.example.org/c?target_link_uri=https%3A%2F%2Fhub.example.org%2Fchoice%2Fx%2F..%2Fy%3Fa%3D1%26b%3D%2526"
    )
    assert answer.headers["X-Permitted"] == ""


@pytest.mark.parametrize(
    ("variant", "path", "status"),
    [("one-issuer", "", 403), ("one-issuer", "/callback", 404), ("choice", "/callback", 404)],
)
def test_user_whom_the_module_does_not_know_reaches_its_own_address_only(
    apache: Apache, variant: str, path: str, status: int
) -> None:
    answer = ask(apache, variant, {"sub": "dave"}, user="", path=path)
    assert answer.status == status
    assert answer.headers["X-Permitted"] == ""
