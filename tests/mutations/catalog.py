"""The catalog of mutants: the rules, the hand-written mutants, and the explained ones that no test can notice."""

from __future__ import annotations

import re
from dataclasses import replace

from .apps import APPS
from .backup import BACKUP
from .dask import DASK
from .docker import DOCKER, DOCKER_RULES
from .environment import ENVIRONMENT
from .host_units import HOST_UNITS
from .interfaces import INTERFACES
from .kernels import KERNELS
from .mutants import CatalogError, HandWritten, Mutant, Rule, collect
from .rstudio import RSTUDIO
from .saml import SAML
from .sign_on import SIGN_ON
from .spark import SPARK
from .user_kernels import USER_KERNELS
from .vscode import VSCODE

_SHARED = "molecule/shared/tests"
_GATE_TESTS = ("tests/unit/test_gate.py", "tests/unit/test_protections.py")
_LAUNCHER_TESTS = ("tests/unit/test_protections.py", "tests/unit/test_launcher.py")
_AUTHENTICATOR_TESTS = ("tests/unit/test_authenticator.py", "tests/unit/test_protections.py")
_ADOPTION_TESTS = ("tests/unit/test_adoption.py",)
_SESSIONS_TESTS = ("tests/unit/test_named_sessions.py",)
_HANDLER_TESTS = ("tests/unit/test_job_spawner.py",)
_SESSION_TESTS = ("tests/unit/test_job_session.py",)
_CERTIFICATE_TESTS = ("tests/unit/test_certificates.py",)
_CONFIG_TESTS = ("tests/unit/test_protections.py", "tests/unit/test_hub_config.py")
_MOMENT_TESTS = ("tests/unit/test_protections.py",)
_SPAWNER_TESTS = ("tests/unit/test_profiles_spawner.py", "tests/unit/test_job_spawner.py")
_SITE_FILES = ("tests/unit/test_site_files.py",)
_PERMISSION_TESTS = ("tests/repo/test_permissions.py",)

_PROXY = f"{_SHARED}/test_reverse_proxy.py"
_ACCESS = f"{_SHARED}/test_scheduler_access.py"
_HUB = f"{_SHARED}/test_hub.py"
_CHP = f"{_SHARED}/test_configurable_http_proxy.py"
_SANDBOX = f"{_SHARED}/test_sandbox.py"
_MODES = f"{_SHARED}/test_permissions.py"
_HEADERS = f"{_SHARED}/test_header_hygiene.py"
_TLS = f"{_SHARED}/test_tls.py"

GATE = "src/hpchub/remote/gate.py"
LAUNCHER = "src/hpchub/remote/launcher.py"
HANDLERS = "src/hpchub/hub/handlers.py"
ADOPTION = "src/hpchub/hub/adoption.py"
LIMITS = "src/hpchub/hub/session_limits.py"
ACCESS_RULES = "src/hpchub/hub/access_rules.py"
AUTHENTICATOR = "src/hpchub/hub/authenticator.py"
CERTIFICATES = "src/hpchub/hub/certificates.py"
CONFIG = "src/hpchub/hub/config.py"
SPAWNER = "src/hpchub/hub/profiles_spawner.py"
CHOOSING = "src/hpchub/hub/choosing.py"
FORM_SPAWNER = "src/hpchub/hub/form_spawner.py"
JOB_SESSION = "src/hpchub/hub/job_session.py"
SESSION_STATE = "src/hpchub/hub/session_state.py"
PROXY_PROGRAM = "roles/configurable_http_proxy/files/proxy.mjs"
_TEMPLATES = "roles/reverse_proxy/templates"


# Rules


def weaken(mode: str) -> str | None:
    """Return a file mode that lets everybody read what only some may read; None if everybody may read it already.

    Args:
        mode: In octal digits, with or without a leading 0 and a setgid digit.
    """
    owner, group, others = (int(digit) for digit in mode[-3:])
    if others:
        return None
    # A directory must be searchable to be read. A socket must be writable to be opened.
    weak = 5 if owner & 1 else 6 if group == 6 else 4
    return f"{mode[:-3]}{owner}{group}{weak}"


def _weaken(match: re.Match[str]) -> str | None:
    weak = weaken(match["mode"])
    return match[0].replace(match["mode"], weak) if weak else None


def _path_and_mode(text: str, match: re.Match[str]) -> str:
    """Name a mode by the path that it belongs to: the last one before it."""
    paths = re.findall(r"(?:path|dest)'?: *(.+?)(?:, *(?:state|mode)|$)", text[: match.start()], re.MULTILINE)
    return f"{paths[-1] if paths else ''} {match['mode']}"


def _line_of(text: str, match: re.Match[str]) -> str:
    begin = text.rfind("\n", 0, match.start()) + 1
    return text[begin : text.find("\n", match.end())]


def _line(text: str, match: re.Match[str]) -> str:
    return f"{match[0]} {_line_of(text, match)}"


_MODE = r"""mode['"]?: *['"](?P<mode>[0-7]{4})['"]"""
_HARDENING = (
    r"^(?:UMask|RuntimeDirectoryMode|User|Group|NoNewPrivileges|CapabilityBoundingSet|AmbientCapabilities"
    r"|SystemCallArchitectures|SystemCallFilter|LockPersonality|MemoryDenyWriteExecute|KeyringMode|RemoveIPC"
    r"|DevicePolicy|ProcSubset|NoExecPaths|SocketBindDeny|Protect\w+|Private\w+|Restrict\w+)=.*\n"
)

RULES = (
    *DOCKER_RULES,
    # The hub's key on the submit hosts.
    Rule(
        "ssh-key-option",
        ("roles/scheduler_access/templates/authorized_keys.j2",),
        r"\{\{ from \}\}|restrict,",
        (_ACCESS,),
        "key",
        "scheduler_access",
    ),
    Rule(
        "ssh-key-option",
        ("roles/scheduler_access/templates/authorized_keys.j2",),
        r',command="[^"]*"',
        (_ACCESS,),
        "key",
        "scheduler_access",
    ),
    # What the gate's account may do with sudo.
    Rule(
        "sudoers",
        ("roles/scheduler_access/templates/sudoers.j2",),
        r', !root|, !\\#0| NOSETENV:| ""$|\benv_reset, |, !setenv',
        (_ACCESS,),
        "sudo or uid_0 or system_account",
        "scheduler_access",
        name=_line,
    ),
    # Header hygiene of the web server.
    Rule(
        "request-header",
        ("roles/reverse_proxy/templates/*.j2",),
        r"^ *RequestHeader .*\n",
        (_HEADERS, _PROXY),
        "(header or cookie or identity or service or forged or token or origin or sign or permitted) and not websocket",
        "reverse_proxy",
    ),
    Rule(
        "forged-header",
        ("roles/reverse_proxy/templates/server.conf.j2",),
        r"^SetEnvIfNoCase .*\n",
        (_PROXY,),
        "single_sign_on",
        "reverse_proxy",
    ),
    Rule(
        "header-name",
        ("roles/reverse_proxy/vars/main.yml",),
        r"(?<=[\[ ])(?:[A-Z][A-Za-z]*(?:-[A-Za-z]+)+|[A-Z][A-Za-z]{2,})(?:,|(?=\]))",
        (_HEADERS,),
        "client_header",
        "reverse_proxy",
        replace=lambda match: None if _line_of(match.string, match).startswith("#") else "",
    ),
    Rule(
        "response-header",
        ("roles/reverse_proxy/templates/*.j2",),
        r"^ *Header (?!always set Retry-After).*\n",
        (_HEADERS, _PROXY),
        "careful or frame or cookie or headers or secure or cached",
        "reverse_proxy",
    ),
    # Permissions of files and directories with secrets or sockets.
    Rule(
        "mode",
        (
            "roles/reverse_proxy/tasks/sso_oidc.yml",
            "roles/reverse_proxy/tasks/tls.yml",
            "roles/reverse_proxy/tasks/tls_given.yml",
        ),
        _MODE,
        (_MODES,),
        "hub_host",
        "reverse_proxy",
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        ("roles/jupyterhub/tasks/[!r]*.yml", "roles/jupyterhub/vars/main.yml"),
        _MODE,
        (_MODES,),
        "hub_host or boot",
        "jupyterhub",
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        ("roles/state_store/tasks/main.yml",),
        _MODE,
        (_MODES,),
        "hub_host",
        "state_store",
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        ("roles/configurable_http_proxy/tasks/[!r]*.yml", "roles/configurable_http_proxy/vars/main.yml"),
        _MODE,
        (_MODES,),
        "hub_host or boot",
        "configurable_http_proxy",
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        ("roles/scheduler_access/tasks/*.yml", "roles/scheduler_access/vars/main.yml"),
        _MODE,
        (_MODES,),
        "",
        "scheduler_access",
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        (
            "roles/*/tasks/rotate.yml",
            "roles/reverse_proxy/tasks/tls_own.yml",
            "roles/state_store/tasks/client.yml",
            "roles/state_store/tasks/server.yml",
            "roles/state_store/tasks/tls_*.yml",
        ),
        _MODE,
        _PERMISSION_TESTS,
        replace=_weaken,
        name=_path_and_mode,
    ),
    Rule(
        "mode",
        ("roles/jupyterhub/templates/tmpfiles.conf.j2",),
        r"^d \{\{[^}]*\}\} (?P<mode>\d{4})",
        (_MODES,),
        "boot",
        "jupyterhub",
        replace=_weaken,
    ),
    Rule(
        "mode",
        ("roles/scheduler_access/templates/gate.socket.j2",),
        r"^SocketMode=(?P<mode>\d{4})",
        _PERMISSION_TESTS,
        replace=_weaken,
    ),
    Rule(
        "mode",
        ("plugins/modules/notebook_certificates.py",),
        r'"mode": "(?P<mode>0[0-7]{3})"',
        _CERTIFICATE_TESTS,
        replace=_weaken,
        name=_line,
    ),
    Rule(
        "mode",
        ("plugins/modules/notebook_certificates.py",),
        r"\b0o(?P<mode>[0-7]{3})\b",
        _MOMENT_TESTS,
        replace=_weaken,
        name=_line,
    ),
    Rule(
        "mode",
        ("plugins/modules/write_files.py",),
        r"\b0o(?P<mode>[0-7]{3})\b",
        _MOMENT_TESTS,
        replace=_weaken,
        name=_line,
    ),
    Rule(
        "mode",
        (GATE,),
        r"(?<!umask\()0o(?P<mode>[0-7]{3})\b",
        (*_MOMENT_TESTS, *_GATE_TESTS),
        replace=_weaken,
        name=_line,
    ),
    Rule("mode", (LAUNCHER,), r"(?<!& )0o(?P<mode>[0-7]{3})\b", _LAUNCHER_TESTS, replace=_weaken, name=_line),
    Rule("umask", (GATE,), r"^ *os\.umask\(.*\n", _MOMENT_TESTS),
    Rule("umask", (CONFIG,), r"^ *os\.umask\(.*\n", _MOMENT_TESTS),
    # The sandboxes of the services.
    Rule(
        "sandbox",
        ("roles/jupyterhub/templates/jupyterhub.service.j2",),
        _HARDENING,
        (_SANDBOX,),
        "",
        "jupyterhub",
    ),
    Rule(
        "sandbox",
        ("roles/configurable_http_proxy/templates/configurable-http-proxy.service.j2",),
        _HARDENING,
        (_SANDBOX,),
        "",
        "configurable_http_proxy",
    ),
    Rule(
        "sandbox",
        ("roles/reverse_proxy/templates/unit.conf.j2",),
        _HARDENING,
        (_SANDBOX,),
        "",
        "reverse_proxy",
    ),
    Rule("sandbox", ("roles/scheduler_access/templates/gate@.service.j2",), _HARDENING, _PERMISSION_TESTS),
    # Settings of JupyterHub that protect identities and sessions.
    Rule(
        "hub-setting",
        (CONFIG,),
        r"^ *c\.(?:Authenticator|AccessRules|SSOAuthenticator)\.(?!enable_auth_state|sso_logout_url)\w+ = .*\n"
        r"|^ *c\.JupyterHub\.(?:hub_socket_mode|cookie_\w+|oauth_token_expires_in|named_server_limit_per_user"
        r"|implicit_spawn_seconds|authenticator_class|hub_bind_url|cleanup_\w+) = .*\n"
        r"|^ *c\.Spawner\.env_keep = .*\n",
        _CONFIG_TESTS,
    ),
    Rule(
        "cookie-option",
        (CONFIG,),
        r'"secure": True,|"samesite": "Lax",| "httponly": True',
        _CONFIG_TESTS,
    ),
)


# Hand-written mutants


def _gate(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, GATE, old, new, _GATE_TESTS)


def _launcher(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, LAUNCHER, old, new, _LAUNCHER_TESTS)


def _handler(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, HANDLERS, old, new, _HANDLER_TESTS, "report")


def _idle(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, SPAWNER, old, new, ("tests/unit/test_idle.py",))


def _adoption(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(
        name, ADOPTION, old, new, _ADOPTION_TESTS, "not_adopted or adopts_nothing or no_session or not_replaced"
    )


def _session(name: str, old: str, new: str, path: str = SESSION_STATE) -> HandWritten:
    return HandWritten(name, path, old, new, _SESSION_TESTS)


def _authenticator(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, AUTHENTICATOR, old, new, _AUTHENTICATOR_TESTS)


def _access(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, ACCESS_RULES, old, new, _AUTHENTICATOR_TESTS)


def _sign_on(name: str, old: str, new: str, keyword: str, module: str = "hub_sign_on") -> HandWritten:
    tests = {"password_sign_on": "test_password_sign_on", "oauth_providers": "test_oauth_providers"}
    test = f"tests/unit/{tests.get(module, 'test_hub_sign_on')}.py"
    return HandWritten(name, f"src/hpchub/hub/{module}.py", old, new, (test,), keyword)


def _certificate(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, CERTIFICATES, old, new, _CERTIFICATE_TESTS)


def _spawner(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, SPAWNER, old, new, _SPAWNER_TESTS)


def _nodes(name: str, module: str, old: str, new: str) -> HandWritten:
    return HandWritten(f"choice/nodes-{name}", f"src/hpchub/model/{module}", old, new, ("tests/unit/test_nodes.py",))


def _choice(name: str, old: str, new: str, keyword: str, path: str = CHOOSING) -> HandWritten:
    tests = ("tests/unit/test_profiles_spawner.py", "tests/unit/test_form.py")
    return HandWritten(name, path, old, new, tests, keyword)


def _web(name: str, path: str, old: str, new: str, keyword: str, *, tests: str = _PROXY) -> HandWritten:
    return HandWritten(name, f"roles/reverse_proxy/templates/{path}", old, new, (tests,), keyword, "reverse_proxy")


def _proxy(name: str, old: str, new: str) -> HandWritten:
    return HandWritten(name, PROXY_PROGRAM, old, new, ("tests/unit/test_proxy.py",))


_MACROS, _SITE, _SERVER, _OIDC = "macros.conf.j2", "site.conf.j2", "server.conf.j2", "sso_oidc.conf.j2"

_METRICS_TESTS = ("tests/unit/test_metrics.py",)
_METRICS = (
    HandWritten(
        "scope", CONFIG, '"scopes": ["read:metrics"]', '"scopes": ["read:metrics", "list:users"]', _METRICS_TESTS
    ),
    HandWritten(
        "token-is-not-inherited", CONFIG, "os.environ.pop(METRICS_TOKEN", "os.environ.get(METRICS_TOKEN", _METRICS_TESTS
    ),
    HandWritten("former-token", "src/hpchub/hub/tokens.py", "if token not in kept:", "if False:", _METRICS_TESTS),
    HandWritten("mode-of-the-file", "src/hpchub/hub/audit.py", "0o600", "0o644", ("tests/unit/test_audit.py",)),
    HandWritten(
        "metrics-networks",
        "roles/reverse_proxy/templates/site.conf.j2",
        "        Require ip {{ reverse_proxy_metrics_networks | join(' ') }}\n",
        "",
        ("tests/repo/test_subdomains.py",),
        "metrics",
    ),
    HandWritten(
        "metrics-stay-on-the-public-side",
        "roles/reverse_proxy/templates/site.conf.j2",
        '  RewriteRule "^/hub/api/metrics(/|$)" "-" [R=404,L]\n',
        "",
        ("tests/repo/test_subdomains.py",),
        "metrics",
    ),
)


def _own_host(name: str, path: str, old: str, new: str) -> HandWritten:
    tests = ("tests/unit/test_outcome.py",) if path.endswith(".py") else ("tests/unit/test_own_hosts.py",)
    return HandWritten(f"own-host/{name}", path, old, new, tests, "own_host" if path.endswith(".py") else "")


_SESSION_HANDLERS = "src/hpchub/hub/session_handlers.py"
_REMOTE_TEXTS, _REMOTE_TESTS = "src/hpchub/hub/remote_texts.py", ("tests/unit/test_remote_texts.py",)
_OWN_HOSTS = (
    _own_host("of-the-user", _SESSION_HANDLERS, "user is None or origin != user.host:", "user is None:"),
    _own_host("cache", _SESSION_HANDLERS, 'self.set_header("Vary", "Origin")', "pass"),
    _own_host("reading", f"{_TEMPLATES}/macros.conf.j2", "!^GET /hub/api/hpchub/", "!^[A-Z]+ /hub/api/hpchub/"),
    _own_host("path", f"{_TEMPLATES}/macros.conf.j2", "sessions/[^/]+(/[^/]+)? https", "sessions.* https"),
    _own_host(
        "origin", f"{_TEMPLATES}/macros.conf.j2", r" https://[a-z0-9-]+\.{{ domain | regex_escape }}(:[0-9]+)?$", " .*$"
    ),
    _own_host("end-of-the-origin", f"{_TEMPLATES}/macros.conf.j2", "regex_escape }}(:[0-9]+)?$", "regex_escape }}"),
    _own_host(
        "switch-of-the-web-server", f"{_TEMPLATES}/site.conf.j2", " if reverse_proxy_user_subdomains else ''", ""
    ),
)
_REMOTE_MUTANTS = (
    HandWritten("known-values", _REMOTE_TEXTS, "set(values) == needed and ", "", _REMOTE_TESTS),
    HandWritten("texts-only", _REMOTE_TEXTS, " and None not in values.values()", "", _REMOTE_TESTS),
    HandWritten("depth", _REMOTE_TEXTS, " in TEXTS and depth:", " in TEXTS:", _REMOTE_TESTS),
    HandWritten("length", _REMOTE_TEXTS, "value[:LONGEST]", "value", _REMOTE_TESTS),
    HandWritten("printable", _REMOTE_TEXTS, "each if each.isprintable() else ", "each if each else ", _REMOTE_TESTS),
)

_AUDIT = "src/hpchub/hub/audit.py"
_AUDIT_TESTS = ("tests/unit/test_audit.py",)
_AUDIT_MUTANTS = (
    HandWritten("refused-sign-ins", _AUDIT, "    events.SignInRefused,\n", "", _AUDIT_TESTS),
    HandWritten("refused-starts", _AUDIT, "    events.StartRefused,\n", "", _AUDIT_TESTS),
    HandWritten("stops", _AUDIT, "    events.StopRequested,\n", "", _AUDIT_TESTS),
    HandWritten("one-line", _AUDIT, "json.dumps({", "str({", _AUDIT_TESTS),
)

_CHOICE_MUTANTS = (
    HandWritten(
        "choice/digits-are-a-group-id",
        "src/hpchub/hub/unix_groups.py",
        "if not name.isdigit():",
        "if name:",
        ("tests/unit/test_unix_groups.py",),
    ),
    HandWritten(
        "choice/reservation-is-no-queue",
        "src/hpchub/schedulers/pbs.py",
        "if re.fullmatch(RESERVATION_ID, reservation) and not names & set(cluster.queue_names):",
        "if True:",
        ("tests/unit/test_choice.py",),
    ),
    _nodes("of-the-profile", "choice.py", "if not limits.accepts(number):", "if False:"),
    _nodes("of-the-queue", "choice.py", '        ("nodes", granted.nodes, queue.max_nodes, str),\n', ""),
    _nodes("of-a-profile-in-its-queue", "rules.py", '        ("nodes", "max_nodes", int),\n', ""),
    _nodes("of-a-choice-in-its-queue", "choice_rules.py", '        ("nodes", "max_nodes", int),\n', ""),
    _nodes("of-a-place", "place_rules.py", "if nodes > 1:", "if False:"),
    _nodes("one-by-default", "entries.py", "max_nodes: f.Nodes = 1", "max_nodes: f.Nodes = 1000"),
    HandWritten(
        "choice/length-of-a-request",
        HANDLERS,
        "if len(self.request.body) > self.max_body:",
        "if False:",
        ("tests/unit/test_server_requests.py",),
    ),
    HandWritten(
        "choice/pair-counts-once",
        CHOOSING,
        "if each.key != partner or not each.pending or each.is_serving]",
        "if each.key != partner]",
        ("tests/unit/test_switch.py",),
    ),
    HandWritten(
        "choice/opened-session-goes-on",
        SPAWNER,
        'other.pending not in ("spawn", "check") or other.was_opened:',
        'other.pending not in ("spawn", "check"):',
        ("tests/unit/test_switch.py",),
    ),
    HandWritten(
        "choice/ready-server-is-not-opened",
        "src/hpchub/hub/session_facts.py",
        "bool(child.driver.state.ready)",
        "bool(child.driver.state.host)",
        ("tests/unit/test_switch.py",),
    ),
    HandWritten(
        "choice/reading-forgets-no-name",
        "src/hpchub/hub/named_sessions.py",
        'check_limit = check_limit and self.request.method not in ("GET", "HEAD")',
        "pass",
        ("tests/unit/test_server_requests.py", "tests/unit/test_named_sessions.py"),
    ),
    HandWritten(
        "knowledge/refused-start-is-not-new",
        "src/hpchub/clusters/knowledge.py",
        "return topic not in self.asked",
        "return topic not in self.asked or topic in self.doubted",
        ("tests/unit/test_knowledge.py",),
    ),
    HandWritten(
        "session/one-reader-or-writer",
        "src/hpchub/remote/single_user.py",
        "        async with lock:\n            self._owners",
        "        if lock:\n            self._owners",
        ("tests/unit/test_single_user.py",),
    ),
)

HAND_WRITTEN = (
    *_CHOICE_MUTANTS,
    *_METRICS,
    *_AUDIT_MUTANTS,
    *_OWN_HOSTS,
    *_REMOTE_MUTANTS,
    *BACKUP,
    *APPS,
    *ENVIRONMENT,
    *RSTUDIO,
    *SPARK,
    *DASK,
    *INTERFACES,
    *DOCKER,
    *HOST_UNITS,
    *SAML,
    *SIGN_ON,
    *USER_KERNELS,
    *KERNELS,
    *VSCODE,
    HandWritten("site-files-add", CONFIG, "if gone := entries - _entries(c, name):", "if gone := set():", _SITE_FILES),
    _gate("request-length", "if len(text) > REQUEST_LIMIT:", "if False:"),
    _gate("exact-fields", 'if set(request) - {"cluster"} != fields:', "if False:"),
    _gate("null-bytes", ' or "\\0" in request[field]', ""),
    _gate("session-check", 'if "session" in fields and not SESSION.fullmatch(request["session"]):', "if False:"),
    _gate("session-pattern", 'SESSION = re.compile(r"[0-9a-f]{16}")', 'SESSION = re.compile(r".*")'),
    _gate("cluster-name", " or not CLUSTER_NAME.fullmatch(cluster)", ""),
    _gate("user-name-check", "not USER_NAME.fullmatch(name) or ", ""),
    _gate("user-pattern", ' or not re.fullmatch(config["user_pattern"], name)', ""),
    _gate("alias", "if account.pw_name != name:", "if False:"),
    _gate("digits-are-ids", "if not name.isdigit():", "if True:"),
    _gate("minimum-uid", 'account.pw_uid < max(1, int(config["minimum_uid"])) or ', ""),
    _gate("never-root", 'max(1, int(config["minimum_uid"]))', 'int(config["minimum_uid"])'),
    _gate("never-nobody", " or account.pw_uid == NOBODY", ""),
    _gate("permitted-groups", 'if not group_names(account) & set(config["permitted_groups"]):', "if False:"),
    _gate("job-id-check", 'if not re.fullmatch(config["job_id_pattern"], request["job_id"]):', "if False:"),
    _gate("owner-check", 'if request.get("user") != account.pw_name:', "if False:"),
    _gate("user-check-in-gate", 'permitted_user(request["user"], config)', 'pwd.getpwnam(request["user"])'),
    _gate(
        "user-check-in-job",
        "permitted_user(pwd.getpwuid(os.getuid()).pw_name, config)",
        "pwd.getpwuid(os.getuid())",
    ),
    _gate("knowledge-user-check", "permitted_user(name, config)))", "pwd.getpwnam(name)))"),
    _gate("knowledge-number-of-users", "if len(names) > KNOWLEDGE_USERS:", "if False:"),
    _gate("knowledge-without-users", "if names and not users:", "if False:"),
    _gate("doctor-time-limit", "DOCTOR_TIMEOUT + 1 if is_doctor else ", ""),
    _gate("empty-environment", "            env=environment,\n", "            env={**os.environ, **environment},\n"),
    _gate("exclusive-creation", "os.O_EXCL | ", ""),
    _gate("no-follow", " | os.O_NOFOLLOW", ""),
    _gate("directory-of-somebody-else", "    directory.chmod(0o700)\n", ""),
    _launcher("no-follow", "os.O_RDONLY | os.O_NOFOLLOW", "os.O_RDONLY"),
    _launcher("regular-file", "not stat.S_ISREG(status.st_mode) or ", ""),
    _launcher("owner-check", " or status.st_uid not in (os.getuid(), owner)", ""),
    _launcher(
        "file-is-removed",
        "            path.unlink()\n        except OSError",
        "            pass\n        except OSError",
    ),
    _launcher("file-mode-check", "if status.st_mode & (0o037 if status.st_uid == owner else 0o077):", "if False:"),
    _launcher(
        "foreign-variables",
        "for name in session if not name.startswith(OURS) and not FILE.fullmatch(name))",
        "for name in session if False)",
    ),
    _launcher("variables-of-the-job", "in job.items() if not name.startswith(OURS) and ", "in job.items() if "),
    _launcher("harmful-variables", " and not is_foreign(name)", ""),
    _launcher("secrets-not-for-kernels", "    for name in NOT_FOR_KERNELS:\n", "    for name in ():\n"),
    _launcher("kernel-name", "if not KERNEL.fullmatch(kernel):", "if False:"),
    _launcher("session-name", "if not SESSION.fullmatch(name):", "if False:"),
    _launcher("client-authority", ', "client_ca": clients', ""),
    _launcher("private-parent", " and not status.st_mode & stat.S_ISVTX", " and False"),
    _launcher(
        "tls-verification",
        "context = ssl.create_default_context()",
        "context = ssl._create_unverified_context()",
    ),
    _launcher("no-web-proxy", "urllib.request.ProxyHandler({}), ", ""),
    _handler("known-fields", ' or not {"port"} <= set(body) <= {"port", "addresses", "notice", "message"}', ""),
    _handler("known-fields-of-a-problem", ' <= set(body) <= {"problem", "message"}', " <= set(body)"),
    _handler("length-of-texts", " or len(value) > MAX_TEXT", ""),
    _handler("number-of-addresses", " or len(value) > MAX_ADDRESSES", ""),
    _handler("integer-port", "type(port) is int and ", ""),
    _handler("port-range", ' and ports["first"] <= port <= ports["last"]', ""),
    _handler(
        "own-token",
        "hmac.compare_digest(spawner.token, token.hashed)",
        "True",
    ),
    _handler("token-is-known", "spawner.token and ", ""),
    _handler("authentication", "    @web.authenticated\n", ""),
    _idle("idle-limit-of-the-profile", "limit is None or ", ""),
    _idle("idle-limit-is-reached", " or idle < limit - IDLE_TOLERANCE", ""),
    _adoption("token-of-the-session", "hmac.compare_digest(statement.token, digest(token))", "True"),
    _adoption("own-database", " and statement.hub == runtime.hub_name", ""),
    _adoption("age-of-the-certificate", "dt.timedelta(seconds=KEEP)", "dt.timedelta.max"),
    _adoption("no-record-of-the-session", "ledger.knows(statement.session) or ", ""),
    _adoption("listed-for-this-database", "job.database != ledger.database or ", ""),
    _adoption("listed-for-this-user", "(each.session, each.user) == wanted", "each.session == statement.session"),
    _adoption("not-to-be-ended", " or job.end:", ":"),
    _adoption("permitted-user", ' or not authenticator.check_allowed(name, {"groups": groups})', ""),
    _adoption("blocked-user", "not authenticator.check_blocked_users(name) or ", ""),
    _adoption("user-without-a-session", "in_use(user, statement.server)", "False"),
    _adoption("listed-job", "job.id == unknown.job_id and ", ""),
    _adoption("owner-of-the-job", " and job.user == unknown.user]", "]"),
    _adoption("job-runs", "job.state is JobState.RUNNING and ", ""),
    _adoption("tag-of-the-job", "job.tag == tag and ", ""),
    _adoption("one-job", "if len(marked) > 1:", "if len(marked) > 9:"),
    _adoption("key-of-the-server", "== certificate.content", "is not None"),
    HandWritten("sessions-of-a-user", LIMITS, "if len(held) >= limit:", "if False:", _SESSIONS_TESTS),
    HandWritten(
        "sessions-of-a-profile",
        LIMITS,
        "if profile.max_sessions and same >= profile.max_sessions:",
        "if False:",
        _SESSIONS_TESTS,
        "own_limit",
    ),
    _session("saved-session-pattern", "re.fullmatch(SESSION, session)", "True"),
    _session("saved-job-id-pattern", "re.fullmatch(context.scheduler.job_id_pattern, job_id)", "True"),
    _session("one-report", "if not self.session or self.port or self.problem:", "if not self.session:", JOB_SESSION),
    _session("saved-port", "port if type(port) is int else 0", "port"),
    HandWritten(
        "logout-closes-websockets",
        "src/hpchub/hub/sign_in.py",
        "        await self.proxy.end_login(name, self.get_session_cookie())\n",
        "        pass\n",
        ("tests/unit/test_sign_in.py",),
    ),
    HandWritten(
        "only-the-login-page-signs-in",
        AUTHENTICATOR,
        "identity = await self._found_identity(handler) if isinstance(handler, SSOLoginHandler) else None",
        "identity = await self._found_identity(handler)",
        ("tests/unit/test_sign_in.py",),
    ),
    _authenticator("one-identity", "len(names) != 1 or ", "not names or "),
    _authenticator("account-name", " or not self.validate_username(names[0])", ""),
    _access("alias", "if account.name != username:", "if False:"),
    _authenticator("one-header-with-claims", "    if len(values) != 1:\n        return {}\n", ""),
    _access("ordinary-account", "if not self._ordinary_account(username):", "if False:"),
    _access("permitted", "return username in self.allowed_users | self.admin_users or bool(", "return bool(True or "),
    _access("existing-account", "if not self.check_accounts:", "if True:"),
    _access("minimum-uid", "account.uid < max(1, self.minimum_uid) or ", ""),
    _access("never-root", "max(1, self.minimum_uid)", "self.minimum_uid"),
    _access("never-nobody", " or account.uid == NOBODY", ""),
    _access("administrators", "self.admin_groups & set(groups)", "set(groups)"),
    _authenticator("sign-on-has-ended", "if identity is None or ", "if identity is not None and "),
    _authenticator("sign-on-of-another", ' or identity["name"] != user.name', ""),
    _authenticator("blocked-since", "not self.check_blocked_users(user.name, identity) or ", ""),
    _authenticator("not-permitted-since", " or not self.check_allowed(user.name, identity)", ""),
    _access("port-report-handler", '            (r"/api/batchspawner", PortReportHandler),\n', ""),
    HandWritten(
        "account-of-another-name",
        AUTHENTICATOR,
        "return identity if identity and not self.belongs_to_another(handler, identity) else None",
        "return identity",
        ("tests/unit/test_sign_in.py",),
    ),
    HandWritten(
        "account-of-another-name-on-each-request",
        AUTHENTICATOR,
        "if self.belongs_to_another(handler, identity):",
        "if False:",
        ("tests/unit/test_sign_in.py",),
    ),
    _authenticator("login-handler", '(r"/login", SSOLoginHandler), ', ""),
    _sign_on("only-our-pages-sign-in", "if not isinstance(handler, HubSignIn):", "if False:", "only_the_callback"),
    _sign_on("cookies-end", "    user.orm_user.cookie_id = new_token()\n", "", "from_before_the_end"),
    _sign_on("tokens-end", "        revoke_tokens(user, why)\n", "", "ends_all_access"),
    _sign_on("websockets-end", "        await handler.proxy.end_login(user.name, None)\n", "", "ends_all_access"),
    _sign_on("outage-limit", "if unconfirmed < self.outage_limit else None", "if True else None", "limited_time"),
    _sign_on("programs-too", "auth_refresh_strict = True", "auth_refresh_strict = False", "notebook_and_program"),
    _sign_on(
        "state-of-the-browser",
        "            self.check_state()\n",
        "            pass\n",
        "another_browser",
        "oauth_sign_on",
    ),
    _sign_on("state-cookie", '"__Host-hpchub-sign-on"', '"hpchub-sign-on"', "set_by_a_page_of_a_user", "oauth_sign_on"),
    HandWritten(
        "used-identity",
        "src/hpchub/hub/oauth_providers.py",
        'and each.get("sub") in used]',
        "]",
        ("tests/unit/test_hub_sign_on.py",),
        "plain_words",
    ),
    _sign_on("other-host", "or not following[1].startswith(host[0])", "", "no_other_host", "oauth_providers"),
    _sign_on(
        "verified-mail",
        'if user_info.get("verified_email") is not True:',
        "if False:",
        "identify_nobody",
        "oauth_providers",
    ),
    _sign_on(
        "second-factor",
        "if self.second_factors and not any(",
        "if False and not any(",
        "second_factor",
        "oauth_providers",
    ),
    _sign_on(
        "tls",
        "        if self.tls_strategy != TlsStrategy.on_connect and not connection.start_tls():",
        "        if False:",
        "without_tls",
        "password_sign_on",
    ),
    _sign_on(
        "directory-certificate",
        "ssl.CERT_REQUIRED",
        "ssl.CERT_NONE",
        "certificate_of_the_directory",
        "password_sign_on",
    ),
    _sign_on(
        "guesses",
        "            if len(times) >= most:\n                return False\n",
        "",
        "guesses_are",
        "password_sign_on",
    ),
    HandWritten(
        "file-mode",
        LAUNCHER,
        'os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8")',
        'os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8")',
        ("tests/unit/test_launcher.py",),
        "file_of_the_session",
    ),
    HandWritten(
        "account-name",
        "src/hpchub/cli/create_accounts.py",
        "    if not is_user_name(name, pattern):",
        "    if False:",
        ("tests/unit/test_accounts.py",),
    ),
    HandWritten(
        "account-limits",
        "src/hpchub/cli/create_accounts.py",
        "        if len(done) >= self._total or recent >= self._per_hour:",
        "        if False:",
        ("tests/unit/test_accounts.py",),
    ),
    HandWritten(
        "account-links",
        "src/hpchub/cli/create_accounts.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        ("tests/unit/test_accounts.py",),
    ),
    HandWritten(
        "separate-hosts",
        "src/hpchub/model/rules.py",
        'if not service.get("user_subdomains"):',
        "if False:",
        ("tests/unit/test_hub_sso.py",),
    ),
    HandWritten(
        "token-of-a-page",
        "roles/reverse_proxy/templates/access_hub.conf.j2",
        '    RequestHeader unset Authorization "expr=!({{ program() }})',
        '    RequestHeader unset X-Nothing "expr=!({{ program() }})',
        ("tests/repo/test_hub_sign_on_role.py",),
    ),
    _certificate("signature-of-the-authority", "if not any(_is_issuer(", "if not any(True or _is_issuer("),
    _certificate(
        "time-of-the-certificate",
        "<= dt.datetime.now(dt.UTC) <= found.not_valid_after_utc",
        "< dt.datetime.now(dt.UTC)",
    ),
    _certificate("server-certificates-only", "ExtendedKeyUsageOID.SERVER_AUTH", "ExtendedKeyUsageOID.CLIENT_AUTH"),
    _certificate(
        "no-authority", "BasicConstraints(ca=False, path_length=None)", "BasicConstraints(ca=True, path_length=0)"
    ),
    _certificate("name-of-the-user", 'f"{dns_label(user)}.{DOMAIN}"', 'f"anybody.{DOMAIN}"'),
    _certificate(
        "trusted-servers",
        "ssl.PROTOCOL_TLS_CLIENT)\n",
        "ssl.PROTOCOL_TLS_CLIENT)\n"
        "        context.check_hostname = False\n"
        "        context.verify_mode = ssl.CERT_NONE\n",
    ),
    _choice("form-fields", "        if unknown:\n", "        if False:\n", "unknown_form_field", FORM_SPAWNER),
    _choice(
        "link",
        'raise StartError(\n            Message("A link',
        'return {"profile": (query_data.get("profile") or [""])[0]}\n'
        '        raise StartError(\n            Message("A link',
        "link_starts_no_session",
        FORM_SPAWNER,
    ),
    _choice(
        "one-option",
        'or set(options) - {"without_settings", "fields"} != {"profile"}',
        'or "profile" not in options',
        "options_that_the_form_does_not_offer",
    ),
    _choice(
        "restricted-profile",
        "for profile in permitted(profiles, person)}",
        "for profile in profiles}",
        "member_of_an_sso_group",
    ),
    _choice(
        "check-at-every-start",
        "                spawner.granted(options)\n",
        "                pass\n",
        "limits_hold_however",
    ),
    _choice(
        "limits-of-fields",
        "return choose(profile, where, fields, self.known(profile.where).allocations, time.time())",
        "return profile",
        "limits_hold_however",
    ),
    _spawner("report-while-pending", ' or self.pending not in ("spawn", "check")', ""),
    HandWritten(
        "saved-profile-through-the-model",
        "src/hpchub/hub/grant.py",
        'Profile.model_validate(saved["profile"], extra="ignore")',
        'Profile.model_construct(**saved["profile"])',
        _SPAWNER_TESTS,
    ),
    HandWritten(
        "token-required",
        PROXY_PROGRAM,
        "if (!process.env.CONFIGPROXY_AUTH_TOKEN) {",
        "if (false) {",
        (_CHP,),
        "without_a_token",
        "proxy_program",
    ),
    HandWritten(
        "certificate-of-the-user",
        PROXY_PROGRAM,
        "servername: `${user}.${DOMAIN}` }",
        "checkServerIdentity: () => undefined }",
        ("tests/security/test_reading.py",),
        "dead_session",
        "proxy_program",
    ),
    HandWritten(
        "tls-verification",
        PROXY_PROGRAM,
        "keepAlive: true, ...this.tls,",
        "keepAlive: true, ...this.tls, rejectUnauthorized: false,",
        ("tests/security/test_reading.py",),
        "dead_session",
        "proxy_program",
    ),
    _proxy("refused-upgrade", 'answer.headers.connection = "close";', 'answer.headers.connection = "keep-alive";'),
    _proxy("upgrade-with-a-body", 'req.method !== "GET" || body || ', ""),
    _proxy("answer-of-the-proxy", ', "Connection: close"];', "];"),
    _proxy("idle-connections", "    keepAliveTimeout: 60_000,\n", ""),
    _proxy("token-leaves-the-address", '  parameters.delete("token");\n', ""),
    _proxy("one-token-in-the-address", "tokens.length === 1 && ", ""),
    _proxy("token-in-a-path", '.replace(/(\\/authorizations\\/).*/, "$1[secret]")', ""),
    _proxy("websocket-claim", 'delete req.headers["sec-fetch-mode"];', "{}"),
    _proxy("cookies-with-a-token", "if (req.headers.authorization) delete req.headers.cookie;", ""),
    _proxy("login-has-ended", "if (this.ended.has(req.login)) ", "if (false) "),
    _proxy("websockets-of-the-login", "owner.login === login : owner.user === user", "false : false"),
    _proxy("only-this-login", "login && owner.login ? owner.login === login : owner.user === user", "true"),
    _proxy("programs-go-on", "if (PROGRAM.test(request.headers.authorization)) return;", ""),
    _proxy("token-of-the-api", "if (request.headers.authorization !== `token ${this.authToken}`)", "if (false)"),
    # The web server: who may pass, and which addresses.
    _web(
        "forged-header-refused",
        _MACROS,
        '"%{ENV:hpchub_forged}" "=1"\n',
        '"%{ENV:hpchub_forged}" "=0"\n',
        "single_sign_on",
    ),
    _web(
        "whole-addresses",
        _MACROS,
        '"!^[A-Z]+ /[^#\\s]* HTTP/1\\.[01]$"\n',
        '"^$"\n',
        "ambiguous",
    ),
    _web("double-slash", _MACROS, '[^?]*//"', '[^?]*///"', "ambiguous"),
    _web("backslash", _MACROS, "(\\\\|%5c)", "(%5c)", "ambiguous"),
    _web("encoded-backslash", _MACROS, "(\\\\|%5c)", "(\\\\)", "ambiguous"),
    _web("encoded-dot", _MACROS, "(%2e|(/|%2f)(", "((/|%2f)(", "ambiguous"),
    _web("dot-segments", _MACROS, "(%2e|(/|%2f)(\\.\\.|\\.(/|%2f|[?;\\s])))", "(%2e)", "ambiguous"),
    _web(
        "account-name", _MACROS, "%{REMOTE_USER} !~ m#^{{ __reverse_proxy_name }}$#", "false", "permission or provider"
    ),
    _web(
        "permitted-groups",
        _OIDC,
        '          Require claim "{{ reverse_proxy_oidc_groups_claim }}~{{ group | hpchub.hpchub.apache_group('
        'reverse_proxy_oidc_groups_separator) }}"\n',
        "          Require all granted\n",
        "permission",
    ),
    _web(
        "identity-needs-a-sign-on",
        _MACROS,
        'X-Hpchub-User "expr=%{REMOTE_USER}" "expr=-n %{REMOTE_USER}"',
        'X-Hpchub-User "expr=%{REMOTE_USER}"',
        "token_has_no_identity",
        tests=_HEADERS,
    ),
    _web(
        "other-host-names",
        _SITE,
        '  RewriteCond "%{HTTP_HOST}" "!^{{ reverse_proxy_server_name | regex_escape }}(:[0-9]+)?$" [NC]\n',
        '  RewriteCond "%{HTTP_HOST}" "^$"\n',
        "other_host_names",
    ),
    _web("user-isolation", _SITE, "{% if reverse_proxy_user_isolation %}", "{% if false %}", "servers_of_others"),
    _web("user-isolation-by-owner", _SITE, '        Require expr "{{ owner }}"\n', "", "servers_of_others"),
    _web(
        "nodes-reach-the-api-only",
        _SITE,
        '  RewriteCond "%{REQUEST_URI}" "!^/hub/api(/|$)" [OR]\n',
        "",
        "only_begins",
        tests=_HEADERS,
    ),
    _web(
        "nodes-cannot-authorize",
        _SITE,
        '  RewriteCond "%{REQUEST_URI}" "!^/hub/api(/|$)" [OR]\n'
        '  RewriteCond "%{REQUEST_URI}" "^/hub/api/oauth2/authorize"\n',
        '  RewriteCond "%{REQUEST_URI}" "!^/hub/api(/|$)"\n',
        "nodes_reach_only",
    ),
    _web(
        "cluster-networks",
        _SITE,
        "    Require ip {{ reverse_proxy_api_allowed_networks | join(' ') }}\n",
        "    Require all granted\n",
        "clusters_networks",
    ),
    _web("old-tls", _SERVER, "SSLProtocol -all +TLSv1.2 +TLSv1.3", "SSLProtocol all", "old_tls", tests=_TLS),
    _web("weak-ciphers", _SERVER, "SSLCipherSuite ", "SSLCipherSuite ALL:", "weak_cipher", tests=_TLS),
    _web("trace", _SERVER, "TraceEnable Off\n", "TraceEnable On\n", "trace", tests=_HEADERS),
    _web("pkce", _OIDC, "  OIDCPKCEMethod S256\n", "", "identity_provider"),
    _web(
        "redirect-targets",
        _OIDC,
        '  OIDCRedirectURLsAllowed "^{{ reverse_proxy_public_url | regex_escape }}/"\n',
        '  OIDCRedirectURLsAllowed ".*"\n',
        "other_sites",
    ),
    _web("sso-cookie-http-only", _OIDC, "  OIDCCookieHTTPOnly On\n", "  OIDCCookieHTTPOnly Off\n", "identity_provider"),
    _web("sso-cookie-same-site", _OIDC, "  OIDCCookieSameSite On\n", "  OIDCCookieSameSite Off\n", "identity_provider"),
    _web(
        "provider-certificate",
        _OIDC,
        "  OIDCSSLValidateServer On\n",
        "  OIDCSSLValidateServer Off\n",
        "untrusted",
        tests=_TLS,
    ),
    _web(
        "claims-not-in-headers",
        _OIDC,
        "  OIDCPassClaimsAs environment base64url\n",
        "  OIDCPassClaimsAs both\n",
        "claims",
        tests=_HEADERS,
    ),
)

EXPLAINED: dict[str, str] = {
    "gate/no-follow": "`O_CREAT` with `O_EXCL` never follows a link. The flag documents the intent.",
    "hub-setting/config.py/c-jupyterhub-implicit-spawn-seconds-0": "JupyterHub's default is the same.",
    "hub-setting/config.py/c-jupyterhub-oauth-token-expires-in-24-3600": (
        "By default, tokens are valid for as long as cookies, and `cookie_max_age_days` is 1."
    ),
    "header-name/main.yml/x-forwarded-port": "`RequestHeader set X-Forwarded-Port` replaces what a client sends.",
    "header-name/main.yml/x-forwarded-proto": "`RequestHeader set X-Forwarded-Proto` replaces what a client sends.",
    "handlers/authentication": "Without a user there is no spawner that waits for a report, so the answer is 403 too.",
    "handlers/token-is-known": "An empty text never equals the hash of a token.",
    "site/nodes-reach-the-api-only": (
        "`ProxyPass` passes on whole path segments only, so that other paths get Apache's own 404."
    ),
    "macros/whole-addresses": "The rule about `//` refuses whole addresses too, and Apache itself refuses `#`.",
    "site/user-isolation-by-owner": "The line before it refuses everybody else; this line admits the owner only.",
    "sso_oidc/pkce": "It is the default of mod_auth_openidc in Debian 13; the version in Debian 12 needs the line.",
    "server/old-tls": "The cipher suites of the next line exist only in TLS 1.2 and later.",
    **{
        f"sandbox/{unit}/{line}": reason
        for unit in ("unit.conf.j2", "jupyterhub.service.j2", "configurable-http-proxy.service.j2")
        for line, reason in {
            "devicepolicy-closed": "`PrivateDevices` implies it.",
            "keyringmode-private": "It is systemd's default for services.",
        }.items()
    },
    "sandbox/configurable-http-proxy.service.j2/ambientcapabilities": "It is systemd's default.",
    "sandbox/jupyterhub.service.j2/ambientcapabilities": "It is systemd's default.",
    "sandbox/unit.conf.j2/privatetmp-true": "Debian's own unit of Apache sets it too.",
    "sudoers/sudoers.j2/nosetenv-scheduler-access-account-all-scheduler-access-permi": (
        "`!setenv` forbids the same. Each of the two works if the other is overridden by a site's own rule."
    ),
    "sudoers/sudoers.j2/root-scheduler-access-account-all-scheduler-access-permitted": (
        "`!\\#0` forbids root under every name."
    ),
    "sudoers/sudoers.j2/setenv-defaults-scheduler-access-account-env-reset-requirett": (
        "`NOSETENV` forbids the same. Each of the two works if the other is overridden by a site's own rule."
    ),
    "mode/gate.py/0o700-directory-mkdir-mode-0o700-exist-ok-true": "`chmod` in the next line sets the mode again.",
    **{
        f"request-header/sso_oidc.conf.j2/requestheader-set-x-hpchub-{line}": (
            "This line protects nothing. Without it, the hub does not learn the groups and admits fewer users."
        )
        for line in (
            "userinfo-expr-reqenv-oidc-userinf",
            "id-token-expr-reqenv-oidc-id-toke",
        )
    },
    **{
        f"response-header/{line}": (
            "The program that signs users in sets the same header, and so does the directory of the pages."
        )
        for line in (
            "form.conf.j2/header-always-set-cache-control-no-store",
            "sso_kerberos.conf.j2/header-always-set-cache-control-no-store",
        )
    },
    **{
        f"response-header/sso_saml.conf.j2/{line}": (
            "mod_auth_mellon 0.18.1 refuses these addresses itself. The line is for versions that do not."
        )
        for line in (
            "header-always-edit-location-https-2-reverse-proxy-public-url",
            "header-onsuccess-edit-location-https-2-reverse-proxy-public",
        )
    },
}
"""Mutants that change nothing, by id, and why."""


ELSEWHERE: dict[str, tuple[str, ...]] = {
    "header-name/main.yml/x-hpchub-sign-on": ("tests/unit/test_doors.py",),
    "request-header/macros.conf.j2/requestheader-set-x-hpchub-sign-on-expr-reqenv-hpchub-sign-o": (
        "tests/unit/test_doors.py",
    ),
    **{
        f"response-header/sso_oidc.conf.j2/header-always-{line}": ("tests/unit/test_door_oidc.py",)
        for line in (
            "add-set-cookie-reverse-proxy-choice-cookie-hpc",
            "edit-set-cookie-x-csrf-reverse-proxy-start-coo",
        )
    },
    "request-header/server.conf.j2/requestheader-unset-x-forwarded-for": ("tests/repo/test_trusted_proxies.py",),
    # JupyterHub does not start with a cookie secret that others can read, so the role fails.
    "mode/configure.yml/jupyterhub-cookie-secret-file-0600": ("tests/repo/test_permissions.py",),
    "mode/configure.yml/jupyterhub-canary-token-file-0600": ("tests/repo/test_permissions.py",),
    "mode/configure.yml/jupyterhub-metrics-token-file-0600": ("tests/repo/test_permissions.py",),
    **{
        f"mode/configure.yml/jupyterhub-{name}": _PERMISSION_TESTS
        for name in (
            "sign-on-file-0600",
            "accounts-directory-0700",
            "config-directory-accounts-json-0600",
            "accounts-record-dirname-0700",
        )
    },
    # The file is written once, so that only a new host would show its mode.
    "mode/sso_oidc.yml/reverse-proxy-sso-key-file-0600": ("tests/repo/test_permissions.py",),
    "request-header/site.conf.j2/requestheader-unset-cookie-expr-program": ("tests/repo/test_subdomains.py",),
    "response-header/macros.conf.j2/header-condition-edit-set-cookie-i-s-secure-s-1-secure": (
        "tests/repo/test_subdomains.py",
    ),
    "response-header/macros.conf.j2/header-condition-edit-set-cookie-i-s-samesite-s-1-samesite-l": (
        "tests/repo/test_subdomains.py",
    ),
    "request-header/site.conf.j2/requestheader-unset-cookie-expr-program-2": ("tests/repo/test_subdomains.py",),
    "request-header/site.conf.j2/requestheader-unset-authorization-expr-program-http-cookie-s": (
        "tests/repo/test_subdomains.py",
    ),
    "request-header/site.conf.j2/requestheader-unset-cookie-expr-http-cookie-s-jupyterhub-ses": (
        "tests/repo/test_subdomains.py",
    ),
}
"""Mutants by id that tests without a host catch, mostly of settings that the demo does not use."""

DOORS: dict[str, tuple[str, str]] = {
    f"{_TEMPLATES}/access_hub.conf.j2": ("tests/repo/test_hub_sign_on_role.py", "token_of_a_page"),
    f"{_TEMPLATES}/form.conf.j2": (
        "tests/unit/test_doors.py",
        "ldap and (attributes or same_answer or not_cached)",
    ),
    f"{_TEMPLATES}/sso_cas.conf.j2": ("tests/unit/test_door_cas.py", "attributes_go_to_the_hub"),
    f"{_TEMPLATES}/sso_kerberos.conf.j2": ("tests/unit/test_doors.py", "kerberos and not_cached"),
    f"{_TEMPLATES}/saml.conf.j2": (
        "tests/unit/test_door_saml.py",
        "attributes_go_to_the_hub or without_a_signature or has_expired",
    ),
    f"{_TEMPLATES}/sso_shibboleth.conf.j2": (
        "tests/unit/test_door_saml.py",
        "shibboleth and (oid or cookie or that_asked or has_expired or of_the_module or semicolon or second_factor)",
    ),
    f"{_TEMPLATES}/sso_saml.conf.j2": (
        "tests/unit/test_door_saml.py",
        "oid or attributes or cookie or browser_that_asked or nowhere_else",
    ),
}
"""Templates of providers that the demo does not use. These tests run a real Apache with them on this machine."""


def mutants() -> list[Mutant]:
    """Return all mutants of the catalog.

    Raises:
        CatalogError: See mutants.collect; or an id of ELSEWHERE or EXPLAINED does not exist.
    """
    found = {mutant.id: mutant for mutant in collect(RULES, HAND_WRITTEN)}
    if unknown := (ELSEWHERE.keys() | EXPLAINED.keys()) - found.keys():
        raise CatalogError(f"there is no mutant {min(unknown)}; correct ELSEWHERE or EXPLAINED in catalog.py")
    for mutant in list(found.values()):
        if mutant.path in DOORS:
            test, keyword = DOORS[mutant.path]
            found[mutant.id] = replace(mutant, tests=(test,), keyword=keyword, place="fast")
    for name, tests in ELSEWHERE.items():
        found[name] = replace(found[name], tests=tests, keyword="", place="fast")
    return list(found.values())
