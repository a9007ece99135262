"""The mutants of backups: what a restore refuses, and what it never writes."""

from __future__ import annotations

from .mutants import HandWritten

_TESTS = ("tests/unit/test_backup.py", "tests/unit/test_backup_hostile.py")
_DIRECTORY = "src/hpchub/backup"


def _restore(name: str, old: str, new: str, keyword: str = "") -> HandWritten:
    return HandWritten(name, f"{_DIRECTORY}/restore.py", old, new, _TESTS, keyword)


def _package(name: str, old: str, new: str, keyword: str = "") -> HandWritten:
    return HandWritten(name, f"{_DIRECTORY}/package.py", old, new, _TESTS, keyword)


def _host(name: str, old: str, new: str, keyword: str = "") -> HandWritten:
    return HandWritten(name, f"{_DIRECTORY}/host.py", old, new, _TESTS, keyword)


BACKUP = (
    # Whose backup it is.
    _restore("another-site", "if manifest.hub != host.name:", "if False:", "other_facts"),
    _restore(
        "another-database",
        "if another and not facts.new and not options.other_database:",
        "if False:",
        "other_facts or lost_one_is_replaced",
    ),
    _package("for-somebody-else", "if _NOBODY in reason:", "if False:", "somebody_else"),
    # Whether this version can read it.
    _restore("newer-version", "if package.newer(manifest.hpchub):", "if False:", "other_facts"),
    _restore("newer-schema", "if manifest.schema not in known_revisions():", "if False:", "other_facts"),
    _package("newer-format", "if version > FORMAT:", "if False:", "other_facts"),
    # Whether it is whole.
    _package(
        "truncated",
        "if size < whole or (source is None and (not size or size % tarfile.RECORDSIZE)):",
        "if False:",
        "truncated",
    ),
    _package("damaged-member", "if manifest.members.get(name) != found.get(name)", "if False", "other_facts"),
    _package("changed-header", "if manifest.header() != header.header():", "if False:", "disagrees"),
    _package("strange-header", "_WORD.fullmatch(word)", "True", "another_kind"),
    _restore("damaged-database", "if damage := damage_of(source):", "if damage := False:", "database_that_is_damaged"),
    _restore(
        "another-dump",
        "if (found.id, found.schema) != (manifest.database, manifest.schema):",
        "if False:",
        "other_facts or database_that_is_damaged",
    ),
    # Whether the hub is in use.
    _restore("live-hub", "    if running:\n", "    if False:\n", "without_sessions"),
    _restore("open-sessions", "    if facts.sessions:\n", "    if False:\n", "hub_in_use"),
    # Where it writes.
    _package("files-only", " if entry.isreg() and not entry.issparse() else None", "", "must_be_files"),
    _package("no-sparse-files", " and not entry.issparse()", "", "sparse"),
    _host("only-files-of-the-hub", "return inside and ", "return ", "never_written"),
    _host("no-way-up", '".." not in path.parts and ', "", "never_written"),
    _host("no-links", "each.is_symlink() or ", "", "link"),
    _host("no-directories", "(each.is_file() if each == path else each.is_dir())", "True", "replaces_a_directory"),
    _restore("links-again", "        _check_targets(host, changed)", "        pass", "before_the_hub_stops"),
    _host("modes", "os.fchmod(file.fileno(), mode & 0o777)", "os.fchmod(file.fileno(), 0o644)", "new_host_gets"),
)
"""The mutants of backups."""
