"""The mutants of notebook environments: what is installed, and which extensions of the server are on."""

from __future__ import annotations

from .mutants import HandWritten

_LOCKS = "src/hpchub/deploy/site_locks.py"
_RULES = "src/hpchub/model/packages.py"
_BUILD = "roles/python_environment/files/build.py"
_VARIABLES = "roles/notebook_environment/vars/main.yml"
_FILES = ("tests/repo/test_environment_files.py",)


def _lock(name: str, path: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"environment/{name}", path, old, new, ("tests/unit/test_site_locks.py",), keyword)


ENVIRONMENT = (
    _lock("hashes", _BUILD, '"--require-hashes", *want["index"], *locks', '*want["index"], *locks', "edited"),
    _lock("sources", _LOCKS, '["--only-binary", ":all:", "--output-file"', '["--output-file"', "without_a_solution"),
    _lock("own-versions", _LOCKS, 'for word in ("--constraint", str(path))]', "for word in ()]", "without_a_solution"),
    _lock("missing", _LOCKS, "if needed and path is None and not bad:", "if False:", "are_problems"),
    _lock("library", _LOCKS, 'if not [*found.glob("*/package.json")', 'if [*found.glob("*/none")', "prebuilt"),
    _lock("other-packages", _RULES, "if locked != list(requirements):", "if False:", "stale"),
    _lock("other-base", _RULES, 'if facts.get("base") != base:', "if False:", "stale"),
    _lock("removed-package", _RULES, "if missing := sorted(names", "if missing := sorted(set() and names", "stale"),
    HandWritten(
        "environment/extensions-of-packages",
        _VARIABLES,
        "  - etc/jupyter/jupyter_server_config.d\n",
        "",
        _FILES,
        "lists_of_the_packages",
    ),
    HandWritten(
        "environment/settings-of-users",
        _VARIABLES,
        '  lockedExtensions: "{{ __notebook_environment_disabled_extensions }}"\n',
        "",
        _FILES,
        "does_not_answer",
    ),
)
