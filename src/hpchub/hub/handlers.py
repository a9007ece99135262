"""The hub's own request handlers: the health check, the endpoint for a job's port report, and throttled starts."""

from __future__ import annotations

import hmac
import logging
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from jupyterhub.apihandlers import APIHandler
from jupyterhub.apihandlers.users import SelfAPIHandler, UserServerAPIHandler, UserTokenListAPIHandler
from jupyterhub.handlers.metrics import MetricsHandler
from jupyterhub.handlers.pages import HealthCheckHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.utils import metrics_authentication
from sqlalchemy.exc import SQLAlchemyError
from tornado import web

from hpchub.hub.adoption import Claim, Refused, adopt
from hpchub.hub.events import ORIGIN, UNKNOWN, Origin
from hpchub.hub.job_events import PortReported, ProblemReported
from hpchub.hub.named_sessions import NamedSessions
from hpchub.hub.remote_texts import message_of
from hpchub.hub.runtime import runtime
from hpchub.hub.user_error import UserError
from hpchub.messages import Message, marked

if TYPE_CHECKING:
    from hpchub.hub.events import UserEvent

log = logging.getLogger(__name__)

DEFAULT_TOKEN_DAYS = 30
"""The default lifetime of a token, in days. A site can choose a shorter one for all tokens."""
MAX_TEXT = 1000
"""The maximum length of a text that a job reports, in characters."""
MAX_CLAIM = 32 * 1024
"""The maximum length of a request for adoption, in bytes."""
MAX_BODY = 256 * 1024
"""The maximum length of a form's content or of a job's report, in bytes."""
MAX_CHOICE = 16 * 1024
"""The maximum length of a request to the REST endpoint of a server, in bytes. JupyterHub saves a part of it."""
MAX_ADDRESSES = 32
"""The maximum number of addresses that a job reports."""
AT_FAULT = Message(
    "The service has a problem with its database at the moment, so no session can start or stop. Notebooks that are"
    " running go on. Please try again in a few minutes."
)


def announce(handler: Any, kind: type[UserEvent], **fields: Any) -> None:
    """Announce what a request did, with the address that sent it. An error must not affect the request."""
    try:
        shared = runtime(handler.settings["hpchub_settings_file"])
        shared.events.emit(kind(**fields, address=str(handler.request.remote_ip or "")))
    except Exception:
        log.exception("Cannot announce the event %s", kind.__name__)


class Throttled:
    """A mixin for handlers with POST requests that need much of the hub's time and save their decisions.

    It notes who sent a request.
    """

    max_body = MAX_BODY

    async def prepare(self: Any) -> None:
        """Wait for a turn if this is a POST request, then continue as JupyterHub does.

        Raises:
            web.HTTPError: The body is too long (413), or the database cannot be written (503).
        """
        shared = runtime(self.settings["hpchub_settings_file"])
        if self.request.method == "POST":
            await shared.throttle.wait_for_turn()
        await super().prepare()  # type: ignore[misc]
        ORIGIN.set(_origin(self))
        if len(self.request.body) > self.max_body:
            text = marked("The request contains {length} bytes. At most {most} bytes are possible.")
            raise UserError(413, Message(text, length=len(self.request.body), most=self.max_body))
        if shared.guard.fault and self.request.method in ("POST", "DELETE"):
            raise UserError(503, AT_FAULT)


class StartAPIHandler(Throttled, NamedSessions, UserServerAPIHandler):  # type: ignore[misc]
    """JupyterHub's REST endpoint that creates, changes, starts and stops a server, throttled.

    A request that only saves user options saves the canonical form of a valid choice.
    """

    max_body = MAX_CHOICE

    @needs_scope("start:servers")  # type: ignore[untyped-decorator]
    async def put(self, user_name: str, server_name: str = "") -> None:
        """Create a server without a start."""
        await self._find_groups(user_name)
        await super().put(user_name, server_name)

    @needs_scope("start:servers")  # type: ignore[untyped-decorator]
    async def patch(self, user_name: str, server_name: str = "") -> None:
        """Change the name of a server or its next choice."""
        await self._find_groups(user_name)
        await super().patch(user_name, server_name)

    async def _find_groups(self, user_name: str) -> None:
        if user := self.find_user(user_name):
            await user.spawner.find_groups()

    def get_json_body(self) -> dict[str, Any] | None:
        """Return the body of the request.

        Raises:
            web.HTTPError: It is not valid (400).
        """
        body: dict[str, Any] | None = super().get_json_body()
        if body is not None and not isinstance(body, dict):
            raise web.HTTPError(400, "The request's body is not valid; send a JSON object.")
        if body and self.request.method == "PATCH":
            names = ("name", "display_name")
            if not set(body) <= {*names, "user_options"} or not all(
                isinstance(body.get(name), str | None) for name in names
            ):
                raise web.HTTPError(
                    400, "The request's body is not valid; send name and display_name (texts), and user_options."
                )
            if "user_options" in body:
                body["user_options"] = self._checked(body["user_options"])
        return body

    def get_server_json_body(self) -> dict[str, Any]:
        """Return the body of a request that creates or starts a server. A start checks the user options later.

        Raises:
            web.HTTPError: It is not valid (400).
        """
        body: dict[str, Any] = super().get_server_json_body()
        if body["user_options"] and self.request.method == "PUT":
            body["user_options"] = self._checked(body["user_options"])
        return body

    def _checked(self, options: Any) -> Any:
        return self.find_user(self.path_args[0]).spawner.checked(options)

    @needs_scope("delete:servers")  # type: ignore[untyped-decorator]
    async def delete(self, user_name: str, server_name: str = "") -> None:
        """Stop a server, and remember who asked for it."""
        user = self.find_user(user_name)
        if user is not None and server_name in user.spawners:
            user.spawners[server_name].stop_requested(self.current_user.name)
        await super().delete(user_name, server_name)


class TokensAPIHandler(UserTokenListAPIHandler):  # type: ignore[misc]
    """JupyterHub's REST endpoint that creates tokens: ``POST /hub/api/users/NAME/tokens``. Every token has an end."""

    def get_json_body(self) -> Any:
        """Return the body of the request, with a lifetime if it names none.

        Raises:
            web.HTTPError: The lifetime is longer than the site permits (400).
        """
        body = super().get_json_body()
        if body is not None and not isinstance(body, dict):
            return body
        body = dict(body or {})
        longest: int = self.settings["token_expires_in_max_seconds"]
        lifetime = body.get("expires_in")
        if lifetime is None:
            body["expires_in"] = min(longest, DEFAULT_TOKEN_DAYS * 24 * 3600)
        elif isinstance(lifetime, int) and lifetime > longest:
            text = marked(
                "A token of this service lasts at most {days} days; send an expires_in of at most {seconds} seconds."
            )
            raise UserError(400, Message(text, days=longest // 86400, seconds=longest))
        return body


class AnswersWithoutWriting:
    """A mixin for handlers that also answer while the database cannot be written.

    JupyterHub records the use of a token first, and otherwise answers 403 if this fails.
    """

    def get_current_user_token(self: Any) -> Any:
        """Return the owner of the token."""
        try:
            return super().get_current_user_token()  # type: ignore[misc]
        except SQLAlchemyError:
            self.db.rollback()
            self._record_activity = lambda *_: False
            return super().get_current_user_token()  # type: ignore[misc]


class TokenOwnerHandler(AnswersWithoutWriting, SelfAPIHandler):  # type: ignore[misc]
    """JupyterHub's REST endpoint ``GET /hub/api/user``, which also answers while the database cannot be written.

    Notebook servers ask it who their visitor is, every five minutes. Otherwise, a full disk would shut all users out of
    their running sessions.
    """


class FreshMetricsHandler(AnswersWithoutWriting, MetricsHandler):  # type: ignore[misc]
    """The metrics of JupyterHub and of this package: ``GET /hub/metrics``, with the scope ``read:metrics``.

    Each request checks the hub's health first, so that the metrics of the database are never old.
    """

    @metrics_authentication  # type: ignore[untyped-decorator]
    async def get(self) -> None:
        """Answer with the metrics in the format of Prometheus."""
        await runtime(self.settings["hpchub_settings_file"]).health.problems(self.db.get_bind())
        await super().get()


class HealthHandler(HealthCheckHandler):  # type: ignore[misc]
    """The health check: ``GET /hub/health``. It needs no sign-in.

    It answers 200 if the hub can write to its database and has no alarm. Otherwise it answers 503 with the problems,
    one on each line.
    """

    async def get(self) -> None:
        """Answer 200 or 503."""
        problems = await runtime(self.settings["hpchub_settings_file"]).health.problems(self.db.get_bind())
        if problems:
            self.set_status(503)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write("\n".join(problems) + "\n")

    head = get


def session_of(handler: Any) -> Any:
    """Return the spawner of the server that sent a request with its own token.

    Raises:
        web.HTTPError: The token is not the token of a server (403).
    """
    token = handler.get_token()
    for spawner in getattr(handler.current_user, "spawners", {}).values():
        if token is not None and spawner.token and hmac.compare_digest(spawner.token, token.hashed):
            return spawner
    raise web.HTTPError(403, "This token does not belong to a session.")


class PortReportHandler(Throttled, APIHandler):  # type: ignore[misc]
    """The endpoint to which a job reports its port or a problem: ``POST /hub/api/batchspawner``.

    The body is ``{"port": N, "addresses": [{"interface": NAME, "address": ADDRESS}, …], "notice": TEXT, "message":
    MESSAGE}``, where only the port is required, or ``{"problem": TEXT, "message": MESSAGE}``. The message is the text
    in a form that can be translated; see ``hpchub.hub.remote_texts``.

    The request carries the server's own token. This handler replaces batchspawner's handler of the same path, which
    lets the job set any attribute of the spawner. It accepts only one report with these fields, and a port in the
    configured range, while the start of this server is pending. It does not matter whether this process or an earlier
    one began the start. The cluster's networks limit the addresses that the hub uses.
    """

    @web.authenticated
    def post(self) -> None:
        """Accept the report and answer 201, or answer 4xx and change nothing."""
        report = self._report()
        if not session_of(self).report(report):
            raise web.HTTPError(409, "This session is not waiting for a port.")
        self.set_status(201)
        self.finish({"message": "taken"})

    def _report(self) -> PortReported | ProblemReported:
        """Return the report in the request's body.

        Raises:
            web.HTTPError: The body is not valid (400).
        """
        body: Any = self.get_json_body()
        ports = self.settings["hpchub_notebook_ports"]
        valid = f'send {{"port": N}}, where N is an integer from {ports["first"]} to {ports["last"]}'
        if isinstance(body, dict) and {"problem"} <= set(body) <= {"problem", "message"}:
            return ProblemReported(message_of(_text(body["problem"]), body.get("message")))
        if not isinstance(body, dict) or not {"port"} <= set(body) <= {"port", "addresses", "notice", "message"}:
            raise web.HTTPError(400, f"The request's body is not valid; {valid}.")
        port = body["port"]
        if not _is_notebook_port(port, ports):
            raise web.HTTPError(400, f"The port is not valid; {valid}.")
        notice = message_of(_text(body["notice"]), body.get("message")) if "notice" in body else ""
        return PortReported(port, _addresses(body.get("addresses", [])), notice)


def _is_notebook_port(port: Any, ports: dict[str, int]) -> bool:
    """Return whether a job may report this port. ``True`` is an ``int`` for Python, but not a port."""
    return type(port) is int and ports["first"] <= port <= ports["last"]


class AdoptionHandler(APIHandler):  # type: ignore[misc]
    """The endpoint at which a notebook server asks to be adopted: ``POST /hub/api/hpchub/adoption``.

    The body is ``{"certificate": PEM, "port": N, "addresses": […]}``, as in a port report. The request carries the
    server's own token, which the hub does not know after the restore of a backup. See ``hpchub.hub.adoption``.
    """

    async def post(self) -> None:
        """Adopt the session and answer 201, or answer 4xx and change nothing."""
        token = self.get_auth_token() or ""
        if self.current_user is not None:
            raise web.HTTPError(409, "The hub knows this session, or the request is not from a session.")
        try:
            await adopt(self, runtime(self.settings["hpchub_settings_file"]), token, self._claim())
        except Refused as error:
            self.log.warning("A session is not adopted: %s", error)
            raise web.HTTPError(error.status, error.public) from None
        self.set_status(201)
        self.finish({"message": "adopted"})

    def _claim(self) -> Claim:
        """Return the content of the request's body.

        Raises:
            web.HTTPError: The body is not valid (400).
        """
        body: Any = self.get_json_body() if len(self.request.body) <= MAX_CLAIM else None
        ports = self.settings["hpchub_notebook_ports"]
        match body:
            case {"certificate": str(certificate), "port": port, "addresses": addresses, **others} if (
                not others and _is_notebook_port(port, ports)
            ):
                return Claim(certificate, port, _addresses(addresses))
        raise web.HTTPError(400, "The request's body is not valid; send certificate, port and addresses.")


def _text(value: Any) -> str:
    """Return a text of a job as one line.

    Raises:
        web.HTTPError: The value is not text, or too long (400).
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise web.HTTPError(400, f"The text is not valid; send a string of at most {MAX_TEXT} characters.")
    return " ".join("".join(each if each.isprintable() else " " for each in value).split())


def _addresses(value: Any) -> tuple[tuple[str, str], ...]:
    """Return the addresses that a job reports.

    Raises:
        web.HTTPError: The value is not a list of addresses (400).
    """
    valid = f'send at most {MAX_ADDRESSES} of {{"interface": NAME, "address": ADDRESS}}'
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise web.HTTPError(400, f"The addresses are not valid; {valid}.")
    try:
        return tuple((_text(each["interface"])[:64], _address(each["address"])) for each in value)
    except (KeyError, TypeError, ValueError):
        raise web.HTTPError(400, f"The addresses are not valid; {valid}.") from None


def _address(value: Any) -> str:
    """Return an IP address in its canonical form.

    Raises:
        TypeError, ValueError: The value is not text with an address, or the address is valid on one link only.
    """
    if not isinstance(value, str) or "%" in value:
        raise TypeError
    return str(ip_address(value))


def _origin(handler: Any) -> Origin:
    """Return the origin of a handler's request. After an error, it is unknown, so that the request goes on."""
    try:
        request = handler.request
        name = str(getattr(handler.current_user, "name", ""))
        return Origin(name, str(request.remote_ip or ""), time.time() - request.request_time())
    except Exception:
        log.exception("Cannot find out who sent a request")
        return UNKNOWN
