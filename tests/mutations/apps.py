"""The mutants of applications: what another account of the node reaches, and what an application learns."""

from __future__ import annotations

from .mutants import HandWritten

_APP = "src/hpchub/remote/app.py"
_DESKTOP = "src/hpchub/remote/desktop.py"
_SERVER = "src/hpchub/remote/single_user.py"


def _app(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, _APP, old, new, ("tests/unit/test_app.py",), keyword)


def _desktop(name: str, old: str, new: str, keyword: str, path: str = _DESKTOP) -> HandWritten:
    return HandWritten(name, path, old, new, ("tests/unit/test_desktop.py",), keyword)


def _session(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, path, old, new, ("tests/unit/test_apps.py",), keyword)


APPS = (
    _app("directory-of-all", "directory.mkdir(mode=0o700", "directory.mkdir(mode=0o755", "on_a_unix_socket"),
    _app("socket-of-all", "os.umask(0o177)", "os.umask(0)", "on_a_unix_socket"),
    _app("log-of-all", "os.O_NOFOLLOW, 0o600", "os.O_NOFOLLOW, 0o644", "on_a_unix_socket or log_keeps"),
    _app("log-through-links", "os.O_TRUNC | os.O_NOFOLLOW", "os.O_TRUNC", "log_is_no_link"),
    _app("token-of-the-session", "if name not in SECRET and", "if", "secrets_of_the_session"),
    _app("files-of-the-session", " and not name.startswith(SECRET_PREFIX)", "", "secrets_of_the_session"),
    _app("credentials-of-a-request", "connect(without_credentials(head)", "connect((head)", "without_the_credentials"),
    _app("secrets-in-the-page", 'WITH_SECRET.sub(rb"\\1***", data)', "data", "secrets_in_the_log"),
    _app("markup-in-the-page", "<pre>{html.escape(lines)}</pre>", "<pre>{lines}</pre>", "no_markup"),
    _app("port-of-the-node", 'raise AppError("exposed", address=found[0])', "return", "others_can_reach"),
    _app(
        "network-of-the-node",
        "libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)",
        "libc.unshare(CLONE_NEWUSER)",
        "network_of_its_own",
    ),
    _app("outlives-its-supervisor", "preexec_fn=die_with_parent,\n                **more", "**more", "ends_with_its"),
    _app("orphans", "prctl(PR_SET_CHILD_SUBREAPER, 1", "prctl(PR_SET_CHILD_SUBREAPER, 0", "background_end"),
    _session(
        "app-every-port-of-the-node",
        _SERVER,
        'self.jpserver_extensions["jupyter_server_proxy"] = False',
        "pass",
        "no_port or in_the_settings",
    ),
    _session(
        "app-of-other-groups",
        "src/hpchub/model/apps.py",
        " and (not app.groups or set(app.groups) & set(groups))",
        "",
        "who_sees",
    ),
    _session("app-of-other-clusters", "src/hpchub/model/apps.py", "if app.on(place) and", "if", "who_sees"),
    _desktop("cookie-of-all", "os.O_EXCL, 0o600", "os.O_EXCL, 0o644", "user_alone or cookie_is_new"),
    _desktop("viewers-of-all", '"-rfbunixmode", "0600"', '"-rfbunixmode", "0666"', "user_alone"),
    _desktop("without-cookie", '"-auth", str(cookie), ', "", "demands_the_cookie"),
    _desktop("port-for-programs", '"-nolisten", "tcp"', '"-listen", "tcp"', "demands_the_cookie"),
    _desktop("port-for-viewers", '"-rfbport", "-1"', '"-rfbport", "0"', "demands_the_cookie"),
    _desktop("ports-unchecked", "self._check_ports()", "pass", "explained and port"),
    _desktop("cookie-unchecked", "await self._check_access(display)", "pass", "explained and cookie"),
    _desktop("displays-unchecked", "if not is_safe(DISPLAYS):", "if False:", "another_user_is_refused"),
    _desktop("displays-of-another", "status.st_uid in (0, os.getuid())", "True", "displays_must_be_safe"),
    _desktop(
        "displays-replaceable",
        "(not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX))",
        "True",
        "displays_must_be_safe",
    ),
    _desktop("files-of-the-node", "if name in VIEWER_FILES:", "if name:", "users_language"),
    _desktop("session-of-another-bus", " if name not in FOREIGN", "", "no_secret"),
    _desktop(
        "desktop-of-the-package",
        'self.jpserver_extensions["jupyter_remote_desktop_proxy"] = False',
        "pass",
        "of_its_own",
        _SERVER,
    ),
)
