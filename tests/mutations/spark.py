"""The mutants of Apache Spark: the secrets, their files, and the check of the ports."""

from __future__ import annotations

from .mutants import HandWritten

_SPARK = "src/hpchub/remote/spark.py"
_NODE = "src/hpchub/remote/spark_node.py"
_KERNEL = "src/hpchub/remote/spark_kernel.py"


def _spark(name: str, old: str, new: str, keyword: str, path: str = _SPARK) -> HandWritten:
    return HandWritten(f"spark-{name}", path, old, new, ("tests/unit/test_spark.py",), keyword)


SPARK = (
    _spark("order-of-all", "os.O_EXCL, 0o600", "os.O_EXCL, 0o644", "user_alone"),
    _spark("settings-of-all", "os.O_EXCL, 0o600", "os.O_EXCL, 0o644", "user_alone", _NODE),
    _spark("settings-through-links", "path.unlink(missing_ok=True)\n    with", "with", "user_alone", _NODE),
    _spark("endless-token", "int(time.time()) + TOKEN_LIFETIME", "int(time.time()) * 2", "ends_soon"),
    _spark(
        "token-for-another",
        "master.returncode is None and self.page_address in spark_node.listening([master.pid])",
        "True",
        "only_to_the_master",
    ),
    _spark("redirect-to-others", 'path = "/" + target.path', "path = target.path", "redirect_stays"),
    _spark("own-settings", '"spark.authenticate": "true",', "", "do_not_replace"),
    _spark(
        "files-to-all",
        "if is_local(path) and Path(path).parent != directory:",
        "if False:",
        "not_offered",
        _KERNEL,
    ),
    _spark("archives-to-all", "            if is_local(path):\n", "            if False:\n", "not_offered", _KERNEL),
    _spark("modules-to-all", "secrets.token_hex(16)", "source.name", "not_offered", _KERNEL),
    _spark("replaceable-files", "bool(status.st_mode & stat.S_ISVTX))\n", "True)\n", "must_be_safe", _NODE),
    _spark("ports-unchecked", "elif place in listening(running):", "elif False:", "demands_no_secret", _NODE),
    _spark(
        "every-answer-is-a-refusal",
        'return "page" if (await said(target, port, UNSIGNED, len(FORBIDDEN))).startswith(FORBIDDEN) else ""',
        'return "page"',
        "demands_no_secret",
        _NODE,
    ),
    _spark(
        "reserved-settings",
        'complain(f"cannot be set, because {reason}", "remove it")',
        "pass",
        "cannot_change",
        "src/hpchub/model/spark_settings.py",
    ),
)
