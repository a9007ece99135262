"""The mutants of the site's kernels: what the deployment finds missing, and what requests for modules never do."""

from __future__ import annotations

from .mutants import HandWritten

_REMOTE = "src/hpchub/remote"
_NEEDS = "plugins/modules/check_needs.py"
_NEEDS_TESTS = ("tests/unit/test_node_needs.py",)
_MODULES_TESTS = ("tests/unit/test_lab_modules.py",)


def _modules(name: str, old: str, new: str, keyword: str, path: str = f"{_REMOTE}/lab_modules.py") -> HandWritten:
    return HandWritten(f"kernels/{name}", path, old, new, _MODULES_TESTS, keyword)


KERNELS = (
    _modules("module-names", "not NAME.fullmatch(text)", "not NAME.match(text)", "shell_would_interpret"),
    _modules("module-options", 'r"[A-Za-z0-9_][A-Za-z', 'r"[A-Za-z0-9_-][A-Za-z', "shell_would_interpret"),
    _modules("module-requests", "                if wrong:\n", "                if False:\n", "runs_no_command"),
    _modules("module-path", "[self.path_args, body]", "[body]", "runs_no_command"),
    _modules("module-body", "[self.path_args, body]", "[self.path_args]", "runs_no_command"),
    _modules(
        "own-extension-of-jupyterlmod",
        'self.jpserver_extensions["jupyterlmod"] = False',
        'self.jpserver_extensions["jupyterlmod"] = True',
        "without_modules",
        f"{_REMOTE}/single_user.py",
    ),
    _modules(
        "foreign-python",
        '(name := next(words, "")) not in OF_MODULES or name not in os.environ',
        '(name := next(words, "")) not in os.environ',
        "loaded_modules_only",
        f"{_REMOTE}/kernel_starts.py",
    ),
    HandWritten(
        "kernels/missing",
        _NEEDS,
        'if missing and arguments["required"]:',
        "if False:",
        _NEEDS_TESTS,
        "missing_are_found",
    ),
    HandWritten("kernels/unknown", _NEEDS, "if error.errno not in GONE:", "if False:", _NEEDS_TESTS, "may_not_read"),
)
