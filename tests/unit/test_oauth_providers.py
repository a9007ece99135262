"""How the answers of each OAuth provider identify a person. The answers follow the providers' documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
import pytest
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from hpchub.hub import oauth_providers
from hpchub.hub.hub_sign_on import NotIdentified, Rejected, Unanswered
from hpchub.hub.oauth_providers import KINDS, all_pages, without_domain
from hpchub.hub.oauth_sign_on import kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = {"access_token": "t", "token_type": "Bearer", "expires_at": 0.0}
GITHUB = {
    "/user/emails": [
        {"email": "b@x.example", "primary": False, "verified": True},
        {"email": "a@x.example", "primary": True, "verified": True},
    ],
    "/user/orgs": [{"login": "uni"}],
    "/user/teams": [{"slug": "hpc", "organization": {"login": "uni"}}],
}
GITLAB_GROUPS = {"/groups": [{"full_path": "uni/hpc"}]}


class Api:
    """The APIs of a provider, with answers by path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def install(self, authenticator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        class Answer:
            def __init__(self, value: Any) -> None:
                self.body = json.dumps(value).encode()
                self.headers: dict[str, str] = {}

        async def get_json(url: str, token: Any, *, parse_json: bool = True) -> Any:
            path = urlsplit(url).path.removeprefix("/api/v4")
            answer = self.answers[path]
            if isinstance(answer, Exception):
                raise answer
            return answer if parse_json else Answer(answer)

        monkeypatch.setattr(authenticator, "get_json", get_json)


def make(kind: str, **traits: Any) -> Any:
    return KINDS[kind](client_id="hpchub", public_url="https://hub.example.org", **traits)


def id_token(**claims: Any) -> str:
    return jwt.encode(claims, "k" * 32)


async def described(authenticator: Any, user_info: dict[str, Any], **token: Any) -> Any:
    return await authenticator.describe(user_info, {**TOKEN, **token}, None, {})


CILOGON = {"https://idp.uni.example": {"user_claim": "eppn", "domain": "uni.example"}}


@pytest.mark.parametrize(
    ("kind", "traits", "api", "user_info", "name", "groups"),
    [
        ("generic", {}, {}, {"sub": "1", "preferred_username": "alice", "groups": ["hpc"]}, "alice", ["hpc"]),
        ("generic", {}, {}, {"sub": "1", "preferred_username": "alice", "groups": "a,b"}, "alice", "a,b"),
        ("github", {}, GITHUB, {"login": "alice", "id": 7}, "alice", ["uni", "uni:hpc"]),
        (
            "gitlab",
            {},
            GITLAB_GROUPS,
            {"username": "alice", "id": 7, "state": "active", "confirmed_at": "2020-01-01", "email": "a@x"},
            "alice",
            ["uni/hpc"],
        ),
        (
            "google",
            {"hosted_domain": ["uni.example"]},
            {},
            {"id": "7", "email": "alice@uni.example", "hd": "uni.example", "verified_email": True},
            "alice",
            ["uni.example"],
        ),
        (
            "google",
            {"hosted_domain": ["uni.example", "hpc.example"]},
            {},
            {"id": "7", "email": "alice@uni.example", "hd": "uni.example", "verified_email": True},
            "alice@uni.example",
            ["uni.example"],
        ),
        (
            "cilogon",
            {"identity_providers": CILOGON},
            {},
            {"sub": "1", "idp": "https://idp.uni.example", "eppn": "alice@UNI.example", "groups": ["hpc"]},
            "alice",
            ["hpc"],
        ),
    ],
)
async def test_person_has_a_name_and_groups(
    *, monkeypatch: pytest.MonkeyPatch, kind: str, traits: Any, api: Any, user_info: Any, name: str, groups: Any
) -> None:
    authenticator = make(kind, **traits)
    Api(api).install(authenticator, monkeypatch)
    person = await described(authenticator, user_info)
    assert (person.name, person.claims["groups"]) == (name, groups)
    assert person.subject.startswith(f"{kind}:")
    assert person.state["token"]["access_token"] == "t"


UNVERIFIED = [{"email": "a@x.example", "primary": True, "verified": False}]
ACTIVE = {"username": "alice", "id": 7, "state": "active", "confirmed_at": "2020-01-01", "email": "a@x"}


@pytest.mark.parametrize(
    ("kind", "traits", "api", "user_info", "text"),
    [
        ("github", {}, {**GITHUB, "/user/emails": UNVERIFIED}, {"login": "alice", "id": 7}, "not verified"),
        ("github", {}, {**GITHUB, "/user/emails": []}, {"login": "alice", "id": 7}, "not verified"),
        ("gitlab", {}, GITLAB_GROUPS, {**ACTIVE, "confirmed_at": None}, "not verified"),
        ("gitlab", {}, GITLAB_GROUPS, {**ACTIVE, "state": "blocked"}, "not active"),
        (
            "google",
            {"hosted_domain": ["uni.example"]},
            {},
            {"email": "alice@uni.example", "hd": "uni.example", "verified_email": False},
            "not verified",
        ),
        (
            "google",
            {"hosted_domain": ["uni.example"]},
            {},
            {"email": "alice@uni.example", "verified_email": True},
            "one of these organisations: uni.example",
        ),
        (
            "google",
            {"hosted_domain": ["uni.example"]},
            {},
            {"email": "alice@evil.example", "hd": "uni.example", "verified_email": True},
            "only names that end in @uni.example",
        ),
        ("google", {"hosted_domain": ["uni.example"]}, {}, {"email": ["a", "b"]}, "several account names"),
        ("cilogon", {"identity_providers": CILOGON}, {}, {"idp": "https://evil.example", "eppn": "a@b"}, "institution"),
        ("cilogon", {"identity_providers": CILOGON}, {}, {"idp": ["https://idp.uni.example"]}, "institution"),
        (
            "cilogon",
            {"identity_providers": CILOGON},
            {},
            {"idp": "https://idp.uni.example", "eppn": "alice@evil.example"},
            "only names that end in @uni.example",
        ),
        (
            "cilogon",
            {"identity_providers": CILOGON},
            {},
            {"idp": "https://idp.uni.example", "eppn": "alice"},
            "only names that end in @uni.example",
        ),
        (
            "generic",
            {"username_claim": "email"},
            {},
            {"sub": "1", "email": "alice@uni.example", "email_verified": "true"},
            "not verified",
        ),
    ],
)
async def test_other_answers_identify_nobody(
    *, monkeypatch: pytest.MonkeyPatch, kind: str, traits: Any, api: Any, user_info: Any, text: str
) -> None:
    authenticator = make(kind, **traits)
    Api(api).install(authenticator, monkeypatch)
    with pytest.raises(NotIdentified) as error:
        await described(authenticator, user_info)
    assert text in error.value.message


@pytest.mark.parametrize(
    ("token", "text"),
    [(id_token(sub="2"), "different people"), ("a.b.c", "not valid"), (id_token(), "different people")],
)
async def test_id_token_is_about_the_same_person(token: str, text: str) -> None:
    claims = {"sub": "1", "preferred_username": "alice"}
    with pytest.raises(NotIdentified, match=text):
        await described(make("generic"), claims, id_token=token)
    assert (await described(make("generic"), claims, id_token=id_token(sub="1"))).name == "alice"


@pytest.mark.parametrize(
    ("claims", "permitted"),
    [
        ({"acr": "mfa"}, True),
        ({"amr": ["pwd", "mfa"]}, True),
        ({"acr": "pwd"}, False),
        ({"amr": "mfa"}, False),
        ({}, False),
    ],
    ids=str,
)
async def test_second_factor_must_be_proved(claims: dict[str, Any], permitted: bool) -> None:
    authenticator = make("generic", second_factors=["mfa"])
    token = id_token(sub="1", **claims)
    user_info = {"sub": "1", "preferred_username": "alice"}
    if permitted:
        assert (await described(authenticator, user_info, id_token=token)).name == "alice"
        return
    with pytest.raises(NotIdentified, match="acr and amr"):
        await described(authenticator, user_info, id_token=token)


async def test_further_attributes_are_kept() -> None:
    person = await described(
        make("generic", attributes=["orcid"]), {"sub": "1", "preferred_username": "a", "orcid": "7"}
    )
    assert person.claims["orcid"] == "7"


@pytest.mark.parametrize("answer", [{"error": "x"}, "text", [1], ["x"], None])
async def test_list_that_is_none_says_nothing(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    authenticator = make("github")
    Api({**GITHUB, "/user/orgs": answer}).install(authenticator, monkeypatch)
    with pytest.raises(Unanswered):
        await described(authenticator, {"login": "alice", "id": 7})


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("globus", {"access_type": "offline", "session_required_single_domain": "uni.example"}),
        ("google", {"hd": "uni.example"}),
        ("cilogon", {"selected_idp": "https://idp.uni.example"}),
        ("generic", {}),
    ],
)
def test_provider_is_asked_for_the_permitted_institution(kind: str, parameters: dict[str, str]) -> None:
    traits: dict[str, Any] = {
        "globus": {"identity_providers": ["uni.example"]},
        "google": {"hosted_domain": ["uni.example"]},
        "cilogon": {"identity_providers": CILOGON},
    }
    assert make(kind, **traits.get(kind, {})).extra_authorize_params == parameters


@pytest.mark.parametrize("kind", KINDS)
def test_pkce_is_on_and_no_rule_of_the_package_admits_anybody(kind: str) -> None:
    authenticator = make(kind)
    assert authenticator.enable_pkce
    assert authenticator.validate_server_cert
    assert authenticator.check_allowed("root", {"name": "root", "groups": [], "admin": True}) is False
    handlers = [path for path, _ in authenticator.get_handlers(None)]
    assert handlers.count("/logout") == handlers.count("/login") == handlers.count("/oauth_callback") == 1


def test_blocked_users_are_found_without_waiting() -> None:
    """Globus' and Google's own methods are coroutines, which are always true."""
    for kind in KINDS:
        authenticator = make(kind, blocked_users={"mallory"})
        assert authenticator.check_blocked_users("mallory") is False
        assert authenticator.refuses("mallory", []) is True


def test_kept_token_has_only_what_is_needed() -> None:
    answer = {"access_token": "a", "token_type": "bearer", "expires_in": "60", "refresh_token": "r", "other": "x"}
    assert kept(answer, 100.0) == {
        "access_token": "a",
        "token_type": "bearer",
        "expires_at": 160.0,
        "refresh_token": "r",
    }
    assert kept({"access_token": "b"}, 100.0, {"refresh_token": "r"})["refresh_token"] == "r"
    assert kept({"access_token": "b", "expires_in": "soon"}, 100.0)["expires_at"] == 0.0


@pytest.mark.parametrize("name", ["alice", "alice@other.example", "uni.example", "@", ""])
def test_name_of_another_domain_is_refused(name: str) -> None:
    with pytest.raises(NotIdentified):
        without_domain(name, "uni.example")


# -- a real server


class Pages(RequestHandler):
    """A list in pages. Each answer names the next page."""

    def get(self, name: str) -> None:
        following = {"1": "/list/2", "2": "", "away": "http://127.0.0.2:1/list/2", "loop": "/list/loop"}[name]
        if following:
            url = following if following.startswith("http") else f"http://{self.request.host}{following}"
            self.set_header("Link", f'<{url}>; rel="next", <x>; rel="last"')
        self.write(json.dumps([{"page": name, "token": self.request.headers["Authorization"]}]))


class Status(RequestHandler):
    """An answer with a status and an error."""

    def get(self, status: str) -> None:
        self.set_status(int(status))
        if status == "302":
            self.set_header("Location", "/list/1")
        self.write(json.dumps({"error": self.get_argument("error", "")}))

    post = get


@pytest.fixture
async def api() -> AsyncIterator[str]:
    listener, port = bind_unused_port()
    server = HTTPServer(Application([(r"/list/(.*)", Pages), (r"/status/(\d+)", Status)]))
    server.add_socket(listener)
    yield f"http://127.0.0.1:{port}"
    server.stop()
    await server.close_all_connections()


async def test_list_is_read_to_its_end(api: str) -> None:
    found = await all_pages(make("github"), f"{api}/list/1", TOKEN)
    assert [each["page"] for each in found] == ["1", "2"]
    assert found[0]["token"] == "Bearer t"


@pytest.mark.parametrize(("name", "text"), [("away", "at another host"), ("loop", "more than 20 pages")])
async def test_token_goes_to_no_other_host_and_a_list_ends(api: str, name: str, text: str) -> None:
    with pytest.raises(Unanswered, match=text):
        await all_pages(make("github"), f"{api}/list/{name}", TOKEN)


@pytest.mark.parametrize(
    ("path", "at_token_url", "kind"),
    [
        ("401", False, Rejected),
        ("403", False, Rejected),
        ("401", True, Unanswered),
        ("400?error=invalid_grant", True, Rejected),
        ("401?error=invalid_client", True, Unanswered),
        ("401?error=invalid_client", False, Unanswered),
        ("302", False, Unanswered),
        ("429", False, Unanswered),
        ("500", False, Unanswered),
        ("404", False, Unanswered),
    ],
)
async def test_only_a_clear_answer_is_a_refusal(api: str, path: str, at_token_url: bool, kind: type[Exception]) -> None:
    url = f"{api}/status/{path}"
    authenticator = make("generic", token_url=url.partition("?")[0] if at_token_url else "https://x.example")
    with pytest.raises(kind):
        await authenticator.httpfetch(url)


async def test_provider_that_is_not_there_says_nothing() -> None:
    with pytest.raises(Unanswered, match=r"127\.0\.0\.1:1"):
        await make("generic").httpfetch("http://127.0.0.1:1/x")


async def test_requests_are_limited_in_time_and_length() -> None:
    authenticator = make("generic", ca_file="/ca.pem")
    request = HTTPRequest("https://x.example", **authenticator.http_request_kwargs)
    assert (request.connect_timeout, request.request_timeout) == (5, 10)
    assert request.ca_certs == "/ca.pem"
    assert request.follow_redirects is False
    assert authenticator.http_client.max_body_size == 512 * 1024


def test_provider_logout_names_this_service() -> None:
    generic = make("generic", logout_address="https://sso.example.org/logout")
    address = generic.provider_logout({"token": {"id_token": "i"}})
    assert address == (
        "https://sso.example.org/logout?id_token_hint=i&client_id=hpchub"
        "&post_logout_redirect_uri=https%3A%2F%2Fhub.example.org%2Fsso%2Fsigned-out"
    )
    assert make("generic").provider_logout({}) == ""
    assert oauth_providers.GitHubSignOn.provider_logout(make("github"), {}) == ""
