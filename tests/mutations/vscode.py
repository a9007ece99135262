"""The mutants of VS Code: what another account of the node reaches, and the pages of its ports."""

from __future__ import annotations

from .mutants import HandWritten

_MODEL = "src/hpchub/model/apps.py"
_APP = "src/hpchub/remote/app.py"


def _vscode(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"vscode-{name}", path, old, new, ("tests/unit/test_vscode.py",), keyword)


VSCODE = (
    _vscode("users-configuration", _MODEL, '"--config=/dev/null", ', "", "keeps_others_out"),
    _vscode("own-password", _MODEL, '"--auth=none", ', "", "keeps_others_out"),
    _vscode("port-for-browsers", _MODEL, '"--socket={socket}", ', "", "keeps_others_out"),
    _vscode("socket-in-the-home", _MODEL, '"--session-socket={socket}2",', "", "keeps_others_out"),
    _vscode("every-port-of-the-node", _MODEL, '"--disable-proxy",', "", "keeps_others_out"),
    _vscode("ports-of-the-server", _APP, "                found.add(process)\n", "", "users_affair"),
    _vscode("ports-above-the-server", _APP, "process = status_of(process)[1]", "break", "starts_the_server"),
    _vscode("server-not-found", _APP, "sorted(found) or started", "sorted(found)", "leaves_nobody"),
    _vscode("ready-too-early", _APP, 'HEALTHY = b"HTTP/1.1 200"', 'HEALTHY = b"HTTP/1.1 "', "healthy"),
    _vscode("sockets-in-tmp", _APP, '"XDG_RUNTIME_DIR": str(runtime)}', "}", "for_the_user_alone"),
    _vscode("runtime-of-all", _APP, "runtime.mkdir(mode=0o700", "runtime.mkdir(mode=0o755", "for_the_user_alone"),
)
