"""The mutants of backups: what a restore refuses, and what it never writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mutants import HandWritten

if TYPE_CHECKING:
    from collections.abc import Callable

_TESTS = (
    "tests/unit/test_backup.py",
    "tests/unit/test_backup_hostile.py",
    "tests/unit/test_restore_interrupted.py",
    "tests/unit/test_restore_standby.py",
)
_DIRECTORY = "src/hpchub/backup"


def _of(module: str, directory: str = _DIRECTORY) -> Callable[..., HandWritten]:
    def mutant(name: str, old: str, new: str, keyword: str = "") -> HandWritten:
        return HandWritten(name, f"{directory}/{module}.py", old, new, _TESTS, keyword)

    return mutant


_restore, _package, _host = map(_of, ("restore", "package", "host"))
_links = _of("no_links", "src/hpchub")

BACKUP = (
    # The owner of the backup.
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
    _restore("restored-before", 'journal["backup"] == _fingerprint(path) and ', "", "not_repeated"),
    _restore(
        "restored-into-this-database", "return same and host.database.facts().id == database", "return same", "anew"
    ),
    _restore(
        "present-secrets",
        "        if facts.sessions and facts.newest >= _first_authority(host):",
        "        if False:",
        "secrets_with_which_the_hub or sessions_since_the_end",
    ),
    _restore(
        "first-authority",
        "    except (OSError, ValueError):\n        return 0.0",
        "    except (OSError, ValueError):\n        return math.inf",
        "without_a_readable_authority",
    ),
    _restore(
        "undo-with-sessions",
        'lost = not unfinished and not force and host.database.facts().sessions - set(journal["sessions"])',
        "lost = set()",
        "since_the_restore",
    ),
    # Mixed states.
    HandWritten(
        "no-start-with-a-journal",
        "roles/backup/templates/hpchub-restore.conf.j2",
        "AssertPathExists=!",
        "#AssertPathExists=!",
        _TESTS,
        "checks_the_journal",
    ),
    _restore(
        "no-start-after-a-failed-undo",
        "    if not host.journal.exists():\n        units.start",
        "    if True:\n        units.start",
        "cannot_be_put_back",
    ),
    _host(
        "no-backup-of-a-mixed-state", "        if self.journal.exists():\n", "        if False:\n", "cannot_be_put_back"
    ),
    _host("changes-on-the-disk", "dst_dir_fd=directory)\n    sync(directory)", "dst_dir_fd=directory)", "on_the_disk"),
    # Where it writes.
    _links(
        "no-link-in-a-foreign-directory",
        "if owner.st_uid == 0 and not owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH):",
        "if True:",
        "becomes_a_link",
    ),
    _links(
        "no-link-as-a-file",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        "database_that_is_a_link",
    ),
    _links("no-pipe", "if stat.S_ISREG(os.fstat(number).st_mode):", "if True:", "only_regular_files"),
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
