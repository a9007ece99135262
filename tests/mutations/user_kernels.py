"""The mutants of users' own kernels: what hpchub-kernel never touches, and what the notebook server never does."""

from __future__ import annotations

from .mutants import HandWritten

_REMOTE = "src/hpchub/remote"
_TESTS = ("tests/unit/test_kernel_command.py",)
_SERVER_TESTS = ("tests/unit/test_user_kernels.py",)


def _store(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"user-kernels/{name}", f"{_REMOTE}/kernel_store.py", old, new, _TESTS, keyword)


def _environment(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"user-kernels/{name}", f"{_REMOTE}/kernel_environments.py", old, new, _TESTS, keyword)


def _server(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(f"user-kernels/{name}", f"{_REMOTE}/user_kernels.py", old, new, _SERVER_TESTS, keyword)


USER_KERNELS = (
    _store("name", "if not NAME.fullmatch(name):", "if not NAME.match(name):", "name_is_refused"),
    _store("centre", "        if name in self.centre:\n", "        if False:\n", "name_is_refused"),
    _store("owner", "if status.st_uid != os.getuid():", "if False:", "somebody_else"),
    _store("writable", "if status.st_mode & 0o002:", "if False:", "everybody"),
    _store("file-mode", "os.O_EXCL, 0o600)", "os.O_EXCL, 0o644)", "user_alone_from"),
    _store("force", "                    if not force:\n", "                    if False:\n", "without_force"),
    _store("put-back", '(staging / "replaced").rename(old)', "pass", "comes_back"),
    _store("find", "if kernel.name == name.lower():", "if kernel.name >= name.lower():", "no_kernel_of_the_user"),
    HandWritten(
        "user-kernels/umask",
        f"{_REMOTE}/kernel_command.py",
        "    os.umask(0o077)\n",
        "",
        _TESTS,
        "user_alone",
    ),
    _environment("module", "if not MODULE.fullmatch(module):", "if False:", "environment_is_refused"),
    _environment("python", "if PROGRAM.fullmatch(name) or", "if PROGRAM.match(name) or", "environment_is_refused"),
    _environment("path", 'letter in ":{}$" or not letter.isprintable()', "False", "kernel_cannot_have"),
    _environment("quote", "shlex.quote(self.path)}/bin", "self.path}/bin", "first_on_the_path"),
    _environment("clean", "command = clean_command()", 'command = ["/usr/bin/env"]', "becomes_a_kernel"),
    _environment("user-site", '{"PYTHONNOUSERSITE": "1"}', "{}", "becomes_a_kernel"),
    _server("others", "if directory.stat().st_uid != os.getuid():", "if False:", "others"),
    _server("pipe", "if not stat.S_ISREG(os.fstat(descriptor).st_mode):", "if False:", "no_file"),
    _server("start", "if found and found[1]:", "if False:", "others"),
    _server("slow", "    thread.join(seconds)\n", "    thread.join()\n", "slow"),
)
