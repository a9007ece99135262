"""The mutants of RStudio Server: who can reach it, and what R learns of the session."""

from __future__ import annotations

from .mutants import HandWritten

_RSTUDIO = "src/hpchub/remote/rstudio.py"


def _rstudio(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, _RSTUDIO, old, new, ("tests/unit/test_rstudio.py",), keyword)


RSTUDIO = (
    _rstudio("rstudio-files-of-all", "mode: int = 0o600", "mode: int = 0o644", "new_for_each_start"),
    _rstudio("rstudio-through-links", "    path.unlink(missing_ok=True)\n    with", "    with", "no_links"),
    _rstudio(
        "rstudio-key-of-the-site", '("secure-cookie-key", "session-rpc-key")', '("secure-cookie-key",)', "not_its_keys"
    ),
    _rstudio("rstudio-same-key", "secrets.token_hex(32)", '"0" * 64', "new_for_each_start"),
    _rstudio("rstudio-terminal-port", "**PREFERENCES}", "}", "not_its_keys"),
    _rstudio("rstudio-exposed-data", 'str(self.state / "data"),', '"/tmp/rstudio-server",', "only_the_user_can_enter"),
    _rstudio("rstudio-key-of-the-home", 'environment["RSTUDIO_CONFIG_DIR"] =', "_ =", "only_the_user_can_enter"),
    _rstudio("rstudio-old-version", " and name not in HARMLESS]", " and False]", "depend_on_the_version"),
    _rstudio("rstudio-ports-of-the-node", 'if self.definition["local_ports"]', "if True", "on_request_only"),
    _rstudio("rstudio-forwarded", " if not line.lower().startswith(FORWARDED)", "", "rserver_learns"),
    _rstudio("rstudio-scheme", 'scheme if scheme == b"https" else b"http"', "scheme", "rserver_learns"),
    _rstudio(
        "rstudio-ports-unchecked",
        "return [self.process.pid] if self.process else []",
        "return []",
        "explained and port",
    ),
    _rstudio(
        "rstudio-environment-of-all",
        "umask 077",
        "umask 0",
        "only_the_user_can_enter",
    ),
    _rstudio("rstudio-leftovers", "shutil.rmtree(self.state, ignore_errors=True)", "pass", "replaced_and_removed"),
)
