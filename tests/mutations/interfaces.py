"""The mutants of interfaces, large uploads and directories: what is loaded and overwritten, and where links lead."""

from __future__ import annotations

from .mutants import HandWritten

_SERVER = "src/hpchub/remote/single_user.py"
_LINKS = "src/hpchub/remote/directory_links.py"
_UPLOADS = "src/hpchub/remote/uploads.py"


def _links(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, _LINKS, old, new, ("tests/unit/test_directory_links.py",), keyword)


def _upload(name: str, old: str, new: str, keyword: str) -> HandWritten:
    return HandWritten(name, _UPLOADS, old, new, ("tests/unit/test_uploads.py",), keyword)


INTERFACES = (
    HandWritten(
        "nbclassic-in-every-session",
        _SERVER,
        'os.environ.get("HPCHUB_INTERFACE") == "nbclassic"',
        "True",
        ("tests/unit/test_interfaces.py",),
        "do_not_load",
    ),
    _links("links-hostile-group", "if NAME.fullmatch(group)]", "]", "placeholders"),
    _links("links-hostile-account", 'NAME.fullmatch(user) or "{user}" not in each["path"]', "True", "hostile_account"),
    _links("links-of-another-owner", "and status.st_uid == os.getuid()", "", "somebody_else"),
    _links("links-through-a-link", "status = path.lstat()", "status = path.stat()", "files_of_the_user"),
    _links("links-for-all", "shelf.mkdir(mode=0o700)", "shelf.mkdir(mode=0o755)", "gets_a_link"),
    _links("links-remove-files", "if each.is_symlink() and each.name", "if each.name", "follows_the_inventory"),
    _links("links-hidden-downloads", "if not self.contents_manager.allow_hidden and", "if False and", "session_opens"),
    _upload("upload-of-a-former-session", " or path not in self._received:", ":", "without_a_beginning"),
    _upload(
        "upload-mixed",
        "number not in (self._received.get(path, LAST) + 1, LAST) or path",
        "path",
        "two_tabs",
    ),
    _upload("upload-into-the-old-file", "part_path = part_of(path)", "part_path = path", "keeps_the_old_file"),
    _upload("upload-over-a-protected-file", "not os.access(file, os.W_OK)", "False", "protected_file"),
    _upload("upload-through-a-link", " or os.path.islink(file)", "", "stays_a_link"),
    _upload("upload-permissions", "shutil.copymode(file, part)", "pass", "keeps_the_old_file"),
)
"""Each one must make a test fail."""
