"""The Ansible module ``write_files``: write many files, directories and links in one call."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCUMENTATION = r"""
module: write_files
short_description: Write many files, directories and links in one call
version_added: 1.0.0
author: The hpchub contributors
description:
  - Writes all files of a role in one call, where M(ansible.builtin.file) and M(ansible.builtin.copy) need one call per
    path. A call takes about a third of a second, so one call for twenty files is much faster than twenty calls.
  - Writes only what differs, and replaces each file atomically. A reader sees the old file or the new one, and the
    new file has its owner and mode from the start.
  - Can also remove what is not listed. O(prune) removes files by name. O(directory) makes a directory hold exactly
    the listed files.
options:
  files:
    description: The files, in the order in which to write them. List a directory before its content.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: The path. It is absolute, or relative to O(directory) if you set that.
        type: str
        required: true
      state:
        description:
          - What the path becomes.
          - V(absent) removes the path, and a directory with everything in it.
          - V(kept) changes nothing, and protects the path from O(prune) and O(directory).
        type: str
        choices: [file, directory, link, absent, kept]
        default: file
      content:
        description: The text of a file. Required if O(files[].state=file).
        type: str
      force:
        description: Whether to replace the content of an existing file. V(false) only writes a file that is missing.
        type: bool
        default: true
      target:
        description: The target of a symbolic link. Required if O(files[].state=link).
        type: str
      owner:
        description: The owner. The default is V(root); with O(directory), the module does not change the owner.
        type: str
      group:
        description: The group. The default is V(root); with O(directory), the module does not change the group.
        type: str
      mode:
        description: The mode in octal digits. The default is V(0644) for a file and V(0755) for a directory.
        type: str
      validate:
        description:
          - A command that checks a new file before it replaces the old one. C(%s) stands for the path of the new file.
          - Check mode skips the command if it is not installed yet.
        type: str
  prune:
    description:
      - Shell patterns, for example C(/etc/x/*.json). The last part of the path may contain wildcards.
      - The module removes every path that matches a pattern and is not in O(files).
    type: list
    elements: str
    default: []
  directory:
    description:
      - A directory that must contain exactly O(files). The module creates the directory and its subdirectories with
        mode V(0755), and removes everything else below it.
      - A path that has the wrong type, for example a link where a file belongs, is replaced.
    type: path
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration, and remove the files of former clusters
  hpchub.hpchub.write_files:
    files:
      - {path: /etc/hpchub/gate.d, state: directory}
      - {path: /etc/hpchub/gate.d/demo.json, content: "{}\n"}
    prune: [/etc/hpchub/gate.d/*.json]

- name: Write the Jupyter kernels, and remove all others
  hpchub.hpchub.write_files:
    directory: /opt/hpchub/jupyter/kernels
    files:
      - {path: python3/kernel.json, content: "{}\n"}
"""

RETURN = r"""
changed_paths:
  description:
    - The paths that were created or changed. In check mode, the paths that would be.
    - With O(directory), these paths are relative to it, also in the other results.
  type: list
  elements: str
  returned: always
written:
  description: The files among RV(changed_paths), without directories and links.
  type: list
  elements: str
  returned: always
removed:
  description: The paths that were removed. In check mode, the paths that would be.
  type: list
  elements: str
  returned: always
"""

MODES = {"file": "0644", "directory": "0755"}
INSIDE = PurePosixPath()
"""The directory itself, as a path relative to it."""

Entry = dict[str, Any]
"""One entry of ``files``, with the defaults of the argument specification."""


class Files:
    """Writes and removes files, and records the changes.

    Args:
        module: The running module.
        directory: The directory that paths are relative to, or None for absolute paths.
    """

    def __init__(self, module: AnsibleModule, directory: Path | None) -> None:
        self.module = module
        self.root = directory
        self.changed: list[str] = []
        self.written: list[str] = []
        self.removed: list[str] = []
        self.diff: list[dict[str, str]] = []

    def name(self, path: Path) -> str:
        """Return the path as the caller names it."""
        return str(path.relative_to(self.root)) if self.root else str(path)

    def put(self, entry: Entry) -> None:
        """Create or change one path."""
        state, path = entry["state"], Path(entry["path"])
        if state == "kept":
            return
        if state == "absent":
            self.remove(path)
            return
        if {"file": self.file, "directory": self.directory, "link": self.link}[state](path, entry):
            self.changed.append(self.name(path))
            if state == "file":
                self.written.append(self.name(path))

    def set_attributes(self, path: Path, entry: Entry, *, changed: bool = False) -> bool:
        """Set the owner, group and mode of a path. Return True if they were different, or if ``changed`` is true."""
        attributes = {**entry, "mode": entry["mode"] or MODES[entry["state"]]}
        arguments = self.module.load_file_common_arguments(attributes, path=entry["path"])
        return bool(self.module.set_fs_attributes_if_different({**arguments, "path": str(path)}, changed))

    def remove(self, path: Path) -> None:
        """Remove a path, and a directory with everything in it."""
        if not os.path.lexists(path):
            return
        self.removed.append(self.name(path))
        self.note(path, before="present\n", after="")
        if self.module.check_mode:
            return
        if kind(path) == "directory":
            shutil.rmtree(path)
        else:
            path.unlink()

    def directory(self, path: Path, entry: Entry) -> bool:
        """Create a directory; return whether it or its attributes changed."""
        created = not path.is_dir()
        if created:
            self.fail_if_present(path, "a directory")
            self.note(path, before="", after="directory\n")
            if not self.module.check_mode:
                path.mkdir(mode=0o700, parents=path == self.root)
        return self.set_attributes(path, entry, changed=created)

    def link(self, path: Path, entry: Entry) -> bool:
        """Create a symbolic link; return whether its target changed."""
        before = str(path.readlink()) if path.is_symlink() else None
        if before == entry["target"]:
            return False
        if before is None:
            self.fail_if_present(path, "a symbolic link")
        self.note(path, before=f"{before or ''}\n", after=f"{entry['target']}\n")
        if not self.module.check_mode:
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.symlink_to(entry["target"])
            fresh.replace(path)
        return True

    def file(self, path: Path, entry: Entry) -> bool:
        """Write a file; return whether its content or attributes changed."""
        content, before = entry["content"].encode(), None
        if kind(path) == "file":
            before = path.read_bytes()
        else:
            self.fail_if_present(path, "a regular file")
        if before == content or (before is not None and not entry["force"]):
            return self.set_attributes(path, entry)
        if not path.parent.is_dir() and not self.module.check_mode:
            self.module.fail_json(
                msg=f"cannot write {path}: {path.parent} is not a directory; list the directory before the file"
            )
        # In check mode, the directory of the file may not exist yet.
        with temporary_file(self.module.tmpdir if self.module.check_mode else path.parent, content) as fresh:
            if entry["validate"]:
                self.validate(path, entry["validate"].replace("%s", shlex.quote(str(fresh))))
            self.note(path, before=(before or b"").decode(errors="replace"), after=entry["content"])
            if not self.module.check_mode:
                # The attributes come first, so that nobody can read a secret between the two steps.
                self.set_attributes(fresh, entry)
                fresh.replace(path)
        return True

    def validate(self, path: Path, command: str) -> None:
        """Run the command that checks a file; fail if it reports an error."""
        if self.module.check_mode and self.module.get_bin_path(shlex.split(command)[0]) is None:
            return  # An earlier task would have installed it.
        code, output, error = self.module.run_command(command)
        if code:
            self.module.fail_json(msg=f"{path} was not written: {command} reported: {error or output}", rc=code)

    def prune(self, pattern: str, wanted: set[str]) -> None:
        """Remove the paths in one directory that match the pattern and are not wanted."""
        directory, name = os.path.split(pattern)
        for path in sorted(Path(directory).glob(name)):
            if str(path) not in wanted:
                self.remove(path)

    def clear(self, root: Path, expected: dict[PurePosixPath, str]) -> None:
        """Remove everything below ``root`` that is unexpected or has the wrong type.

        Args:
            root: The directory.
            expected: The type of each expected path, relative to ``root``. A path of the type ``kept`` may have any.
        """
        if root.is_symlink():
            self.remove(root)
        unexpected = {
            path
            for path in map(PurePosixPath, contents(root))
            if path not in expected or expected[path] not in {kind(root / path), "kept"}
        }
        for path in sorted(unexpected):
            # A directory is removed with everything in it.
            if not unexpected.intersection(path.parents):
                self.remove(root / path)

    def fail_if_present(self, path: Path, wanted: str) -> None:
        """Fail if the path exists and has another type. With ``directory``, :meth:`clear` has already removed it."""
        if os.path.lexists(path) and not (self.root and path != self.root):
            self.module.fail_json(msg=f"{path} exists and is not {wanted}; remove it, then run this again")

    def note(self, path: Path, *, before: str, after: str) -> None:
        """Record a difference for ``--diff``."""
        header = str(path)
        self.diff.append({"before_header": header, "after_header": header, "before": before, "after": after})


def kind(path: Path) -> str | None:
    """Return the type of a path in the terms of the option ``state``, or None for any other type."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else None


def contents(root: Path) -> list[Path]:
    """Return every path below a directory, relative to it; symbolic links are not followed."""
    return [path.relative_to(root) for path in root.rglob("*")] if kind(root) == "directory" else []


@contextlib.contextmanager
def temporary_file(directory: str | Path, content: bytes) -> Iterator[Path]:
    """Write a temporary file that only its owner can read, and remove it unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def tree(module: AnsibleModule, entries: Iterable[Entry], root: Path) -> list[Entry]:
    """Return the entries of a directory with absolute paths, and with their parent directories before them."""
    by_path: dict[PurePosixPath, Entry] = {}
    for entry in entries:
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts or path == INSIDE:
            module.fail_json(
                msg=f"files: {entry['path']!r} is not a path inside {root}; with directory, use relative paths"
            )
        if entry["state"] != "absent":  # An absent path is removed like any other that is not listed.
            by_path[path] = entry
    directory = {"state": "directory", "owner": None, "group": None, "mode": None}
    for parent in {parent for path in by_path for parent in path.parents} | {INSIDE}:
        if by_path.setdefault(parent, directory)["state"] != "directory":
            module.fail_json(msg=f"files: {str(parent)!r} has files in it; its state must be directory")
    return [{**entry, "path": str(root / path)} for path, entry in sorted(by_path.items(), key=lambda item: item[0])]


def main() -> None:
    """Run the module."""
    entry: dict[str, Any] = {
        "path": {"type": "str", "required": True},
        "state": {"default": "file", "choices": ["file", "directory", "link", "absent", "kept"]},
        "content": {},
        "force": {"type": "bool", "default": True},
        "target": {},
        "owner": {},
        "group": {},
        "mode": {},
        "validate": {},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": entry,
                "required_if": [("state", "file", ["content"]), ("state", "link", ["target"])],
            },
            "prune": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "path"},
        },
        supports_check_mode=True,
        no_log=True,  # Otherwise the content of secret files appears in the system log of the host.
    )
    entries: list[Entry] = module.params["files"]
    root = Path(module.params["directory"]) if module.params["directory"] else None
    files = Files(module, root)
    try:
        if root:
            # The parents of the directory get the mode 0755, even if the umask of root is 077.
            os.umask(0o022)
            entries = tree(module, entries, root)
            files.clear(root, {PurePosixPath(e["path"]).relative_to(root): e["state"] for e in entries})
        else:
            entries = [absolute(module, each) for each in entries]
        for each in entries:
            files.put(each)
        wanted = {each["path"] for each in entries}
        for pattern in module.params["prune"]:
            files.prune(pattern, wanted)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(
        changed=bool(files.changed or files.removed),
        changed_paths=files.changed,
        written=files.written,
        removed=files.removed,
        diff=files.diff,
    )


def absolute(module: AnsibleModule, entry: Entry) -> Entry:
    """Return an entry with ``~`` and variables in its path expanded, and with the default owner and group."""
    path = os.path.expanduser(os.path.expandvars(entry["path"]))  # noqa: PTH111
    if not os.path.isabs(path):  # noqa: PTH117
        module.fail_json(msg=f"files: {entry['path']!r} is not an absolute path; without directory, use absolute paths")
    return {**entry, "path": path, "owner": entry["owner"] or "root", "group": entry["group"] or "root"}


if __name__ == "__main__":
    main()
