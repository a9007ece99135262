"""A stand-in for Globus Auth and Globus Groups, after their public documents. It keeps state and can be made to fail.

It implements what a service that signs users in needs: the page for consent with a choice of the identity, linked
identities, sessions (which identities were used), codes with PKCE, access and refresh tokens for several services,
introspection, userinfo, revocation, the logout page, and the list of a user's groups. It is not Globus: it has no
policies, projects, dependent tokens or transfers.

The file of the state is JSON: see ``Globus``. Requests to ``/lab/…`` with the token of the lab read and change it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import secrets
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import NAMESPACE_URL, uuid5

if TYPE_CHECKING:
    from collections.abc import Callable

AUTH, GROUPS, TRANSFER = "auth.globus.org", "groups.api.globus.org", "transfer.api.globus.org"
SERVICES = {
    "openid": AUTH,
    "profile": AUTH,
    "email": AUTH,
    f"urn:globus:auth:scope:{GROUPS}:view_my_groups_and_memberships": GROUPS,
    f"urn:globus:auth:scope:{TRANSFER}:all": TRANSFER,
}
LIFETIME = 48 * 3600


def identifier(name: str) -> str:
    """Return the id of an identity or a group, which is always the same for a name."""
    return str(uuid5(NAMESPACE_URL, f"https://globus.invalid/{name}"))


class Fault(Exception):
    """A request that is answered with an error, as the documents of Globus say.

    Args:
        status: The HTTP status.
        error: The error code, as in RFC 6749.
    """

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status, self.error = status, error


class Globus:
    """The state of the stand-in.

    Args:
        people: The people: ``{"identities": [NAME, …], "groups": [NAME, …], "active": BOOL}``. The first identity is
            the primary one.
        client: The id and the secret of the only client, and its permitted addresses for redirects.
    """

    def __init__(self, people: list[dict[str, Any]], client: dict[str, Any]) -> None:
        self.people = people
        self.client = client
        self.codes: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.browsers: dict[str, dict[str, float]] = {}
        """The sessions of browsers: the identities that were used, with the times."""
        self.faults: dict[str, Any] = {}
        """``{PATH: STATUS}``: answers with this status, or never for the status 0. ``answers``: replaced answers."""
        self.lifetime = LIFETIME
        self.lock = threading.RLock()

    def person_of(self, identity: str) -> dict[str, Any]:
        """Return the person to whom an identity belongs."""
        return next(each for each in self.people if identity in each["identities"])

    # -- the authorization code grant

    def check_request(self, query: dict[str, str]) -> None:
        """Check a request for authorization.

        Raises:
            Fault: It is not valid.
        """
        if query.get("client_id") != self.client["id"] or query.get("response_type") != "code":
            raise Fault(400, "invalid_request")
        if query.get("redirect_uri") not in self.client["redirects"]:
            raise Fault(400, "redirect_uri mismatch")
        if not set(query.get("scope", "").split()) <= set(SERVICES):
            raise Fault(400, "unknown scope")

    def code(self, browser: str, identity: str, query: dict[str, str]) -> str:
        """Return a code after a user has signed in with an identity and has given consent."""
        self.check_request(query)
        session = self.browsers.setdefault(browser, {})
        session[identity] = time.time()
        code = secrets.token_urlsafe(24)
        self.codes[code] = {
            "identity": identity,
            "session": session,
            "scopes": query["scope"].split(),
            "offline": query.get("access_type") == "offline",
            "redirect": query["redirect_uri"],
            "challenge": query.get("code_challenge", ""),
            "until": time.time() + 600,
        }
        return code

    def exchange(self, form: dict[str, str]) -> dict[str, Any]:
        """Return the tokens for a code."""
        found = self.codes.pop(form.get("code", ""), None)
        if found is None or found["until"] < time.time() or form.get("redirect_uri") != found["redirect"]:
            raise Fault(400, "invalid_grant")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if found["challenge"] != base64.urlsafe_b64encode(digest).decode().rstrip("="):
            raise Fault(400, "invalid_grant")
        return self.issue(found)

    def issue(self, grant: dict[str, Any]) -> dict[str, Any]:
        """Return new tokens: one for each service, the others in ``other_tokens``."""
        by_service: dict[str, list[str]] = {}
        for scope in grant["scopes"]:
            by_service.setdefault(SERVICES[scope], []).append(scope)
        answers = [self.token(service, scopes, grant) for service, scopes in by_service.items()]
        answer = next(each for each in answers if each["resource_server"] == AUTH)
        others = [each for each in answers if each is not answer]
        return answer | {"other_tokens": others, "state": "", "id_token": self.id_token(grant["identity"])}

    def token(self, service: str, scopes: list[str], grant: dict[str, Any]) -> dict[str, Any]:
        """Return the token for one service."""
        common = {"service": service, "scopes": scopes, "identity": grant["identity"], "session": grant["session"]}
        access = secrets.token_urlsafe(48)
        self.tokens[access] = {**common, "kind": "access", "until": time.time() + self.lifetime}
        answer = {
            "access_token": access,
            "expires_in": self.lifetime,
            "resource_server": service,
            "scope": " ".join(scopes),
            "token_type": "Bearer",
        }
        if grant.get("offline"):
            refresh = secrets.token_urlsafe(48)
            self.tokens[refresh] = {**common, "kind": "refresh", "until": time.time() + 180 * 86400}
            answer["refresh_token"] = refresh
        return answer

    def id_token(self, identity: str) -> str:
        """Return an ID token. It is not signed, because the service gets it over TLS and does not check this."""

        def part(value: dict[str, Any]) -> str:
            return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

        claims = {"sub": self.primary(identity), "aud": self.client["id"], "exp": int(time.time()) + 600}
        return f"{part({'alg': 'none'})}.{part(claims)}."

    def primary(self, identity: str) -> str:
        """Return the id of the primary identity of a person."""
        return identifier(self.person_of(identity)["identities"][0])

    def renew(self, form: dict[str, str]) -> dict[str, Any]:
        """Return a new access token for a refresh token. The refresh token stays valid."""
        found = self.live(form.get("refresh_token", ""), "refresh")
        if found is None:
            raise Fault(400, "invalid_grant")
        return self.token(found["service"], found["scopes"], {**found, "offline": False}) | {"other_tokens": []}

    def live(self, token: str, kind: str = "access") -> dict[str, Any] | None:
        """Return what a token stands for, or None if it is not valid."""
        found = self.tokens.get(token)
        if found is None or found["kind"] != kind or found["until"] < time.time():
            return None
        return found if self.person_of(found["identity"]).get("active", True) else None

    # -- what services ask

    def introspect(self, form: dict[str, str]) -> dict[str, Any]:
        """Return the introspection of a token, as in RFC 7662, with Globus' extensions."""
        found = self.live(form.get("token", ""))
        if found is None:
            return {"active": False}
        person = self.person_of(found["identity"])
        answer: dict[str, Any] = {
            "active": True,
            "client_id": self.client["id"],
            "exp": int(found["until"]),
            "scope": " ".join(found["scopes"]),
            "sub": self.primary(found["identity"]),
            "username": person["identities"][0],
            "iss": "https://auth.globus.org",
        }
        include = form.get("include", "").split(",")
        if "identity_set_detail" in include:
            answer["identity_set_detail"] = [self.identity(name) for name in person["identities"]]
        if "session_info" in include:
            used = {
                identifier(name): {
                    "auth_time": int(at),
                    "idp": identifier(name.partition("@")[2]),
                    "acr": None,
                    "amr": None,
                }
                for name, at in found["session"].items()
            }
            answer["session_info"] = {"session_id": identifier(repr(sorted(used))), "authentications": used}
        return answer

    @staticmethod
    def identity(name: str) -> dict[str, Any]:
        """Return an identity as introspection and userinfo show it."""
        domain = name.partition("@")[2]
        return {
            "sub": identifier(name),
            "username": name,
            "email": name,
            "name": name.partition("@")[0].title(),
            "organization": domain,
            "identity_provider": identifier(domain),
            "identity_provider_display_name": domain,
            "status": "used",
        }

    def userinfo(self, token: str) -> dict[str, Any]:
        """Return the claims about the primary identity of a person."""
        found = self.live(token)
        if found is None or found["service"] != AUTH:
            raise Fault(401, "AUTHENTICATION_FAILED")
        person = self.person_of(found["identity"])
        first = self.identity(person["identities"][0])
        return first | {
            "preferred_username": first["username"],
            "identity_set": [self.identity(name) for name in person["identities"]],
        }

    def groups(self, token: str) -> list[dict[str, Any]]:
        """Return the groups of a person."""
        found = self.live(token)
        if found is None or found["service"] != GROUPS:
            raise Fault(401, "AUTHENTICATION_FAILED")
        person = self.person_of(found["identity"])
        return [
            {
                "id": identifier(name),
                "name": name,
                "group_type": "regular",
                "my_memberships": [
                    {"identity_id": self.primary(found["identity"]), "role": "member", "status": status}
                ],
            }
            for name, status in person.get("groups", {}).items()
        ]

    def revoke(self, form: dict[str, str]) -> dict[str, Any]:
        """Revoke a token."""
        return {"active": self.tokens.pop(form.get("token", ""), None) is None}


class Handler(BaseHTTPRequestHandler):
    """The HTTP interface of the stand-in."""

    globus: Globus
    lab_token = ""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name of the base class
        """Write nothing: addresses contain codes."""

    def do_GET(self) -> None:
        """Answer a page or an API."""
        self.answer({})

    def do_POST(self) -> None:
        """Answer a form."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.answer({name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}, body)

    def answer(self, form: dict[str, str], body: str = "") -> None:
        """Find the answer, or the fault that a test has ordered."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        with self.globus.lock:
            fault = self.globus.faults.get(parts.path)
            replaced = self.globus.faults.get("answers", {}).get(parts.path)
        if fault == 0:
            time.sleep(30)
        if fault:
            self.send(fault, {"error": "SERVER_ERROR"})
            return
        try:
            with self.globus.lock:
                self.route(parts.path, query, form, body, replaced)
        except Fault as error:
            self.send(error.status, {"error": error.error, "errors": [{"code": error.error}]})

    def route(self, path: str, query: dict[str, str], form: dict[str, str], body: str, replaced: Any) -> None:
        """Send the answer to a request."""
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        apis: dict[str, Callable[[], Any]] = {
            "/v2/oauth2/token/introspect": lambda: self.as_client(self.globus.introspect, form),
            "/v2/oauth2/token/revoke": lambda: self.as_client(self.globus.revoke, form),
            "/v2/oauth2/token": lambda: self.as_client(self.grant, form),
            "/v2/oauth2/userinfo": lambda: self.globus.userinfo(bearer),
            "/v2/groups/my_groups": lambda: self.globus.groups(bearer),
        }
        if path == "/v2/oauth2/authorize":
            self.authorize(query, form)
        elif path == "/v2/web/logout":
            self.globus.browsers.pop(self.browser(), None)
            self.redirect(query.get("redirect_uri", "/"))
        elif path in apis:
            found = apis[path]()
            self.send(200, found if replaced is None else replaced)
        elif path.startswith("/lab/") and secrets.compare_digest(bearer, self.lab_token or secrets.token_hex()):
            self.send(200, self.change(path.removeprefix("/lab/"), json.loads(body or "null")))
        else:
            raise Fault(404, "NOT_FOUND")

    def as_client(self, work: Any, form: dict[str, str]) -> Any:
        """Do something in the name of the client, which sends its id and secret in a header or in the form."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        given = (form.get("client_id", ""), form.get("client_secret", ""))
        if scheme == "Basic":
            name, _, secret = base64.b64decode(value).decode().partition(":")
            given = (name, secret)
        if given != (self.globus.client["id"], self.globus.client["secret"]):
            raise Fault(401, "invalid_client")
        return work(form)

    def grant(self, form: dict[str, str]) -> dict[str, Any]:
        """Return tokens for a code or a refresh token."""
        kinds = {"authorization_code": self.globus.exchange, "refresh_token": self.globus.renew}
        if form.get("grant_type") not in kinds:
            raise Fault(400, "unsupported_grant_type")
        return kinds[form["grant_type"]](form)

    def change(self, what: str, value: Any) -> Any:
        """Read or change the state, for tests: ``people``, ``faults``, ``lifetime``, ``expire`` or ``revoke``."""
        if what in ("people", "faults", "lifetime") and value is not None:
            setattr(self.globus, what, value)
        if what in ("expire", "revoke"):
            kinds = ("access",) if what == "expire" else ("access", "refresh")
            self.globus.tokens = {key: each for key, each in self.globus.tokens.items() if each["kind"] not in kinds}
        return {"people": self.globus.people, "faults": self.globus.faults, "tokens": len(self.globus.tokens)}

    # -- pages

    def browser(self) -> str:
        """Return the session of the browser."""
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == "lab-globus":
                return value
        return ""

    def authorize(self, query: dict[str, str], form: dict[str, str]) -> None:
        """Show the page with the identities, or redirect the browser after a choice."""
        if not form:
            self.globus.check_request(query)
            self.page(query)
            return
        query = {name: value for name, value in form.items() if name not in ("identity", "answer")}
        self.globus.check_request(query)
        answer = {"state": query.get("state", "")}
        browser = self.browser() or secrets.token_urlsafe(16)
        if form.get("answer") == "deny":
            answer["error"] = "access_denied"
        else:
            answer["code"] = self.globus.code(browser, form["identity"], query)
        self.redirect(f"{query['redirect_uri']}?{urlencode(answer)}", browser)

    def page(self, query: dict[str, str]) -> None:
        """Show the choice of the identity provider and identity, and the consent."""
        required = [each for each in query.get("session_required_single_domain", "").split(",") if each]
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in query.items()
        )
        names = sorted({name for each in self.globus.people for name in each["identities"]})
        choices = "".join(f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in names)
        text = (
            "<!DOCTYPE html><html lang=en><title>Globus (stand-in)</title><h1>Log in to use Jupyter</h1>"
            f"<p>Required: {html.escape(', '.join(required)) or 'any identity'}</p>"
            f'<form method="post" action="/v2/oauth2/authorize">{hidden}'
            f'<label>Identity <select name="identity">{choices}</select></label>'
            '<button name="answer" value="allow">Allow</button> <button name="answer" value="deny">Deny</button></form>'
        )
        self.send(200, text, "text/html; charset=utf-8")

    def redirect(self, url: str, browser: str = "") -> None:
        """Redirect the browser."""
        self.send_response(302)
        self.send_header("Location", url)
        if browser:
            self.send_header("Set-Cookie", f"lab-globus={browser}; Path=/; Secure; HttpOnly; SameSite=Lax")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, status: int, content: Any, kind: str = "application/json") -> None:
        """Send an answer."""
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_server(globus: Globus, port: int, *, host: str = "127.0.0.1", lab_token: str = "") -> ThreadingHTTPServer:
    """Return a server of a stand-in, which does not run yet."""
    handler = type("GlobusHandler", (Handler,), {"globus": globus, "lab_token": lab_token})
    return ThreadingHTTPServer((host, port), handler)


def main() -> None:
    """Run the stand-in with TLS."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", type=Path, help="JSON: people, client, port, certificate, key, lab_token")
    settings = json.loads(parser.parse_args().settings.read_text())
    server = make_server(
        Globus(settings["people"], settings["client"]),
        settings["port"],
        host="",
        lab_token=settings["lab_token"],
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["certificate"], settings["key"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
