"""An Ansible module that puts many files, directories and links in their places in one call."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: hpchub_files
short_description: Put many files, directories and links in their places
description:
  - What M(ansible.builtin.file) and M(ansible.builtin.copy) do for one path, for all paths of a role at once. A call of
    a module costs a host a third of a second, whatever it does; a role's files would cost it twenty of them.
  - Files are replaced in one step. Nothing is changed that is as it should be.
options:
  files:
    description: What is to be there, in this order; a directory before what is in it.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      state:
        description:
          - V(kept) changes nothing and protects the path from O(prune).
        type: str
        choices: [file, directory, link, absent, kept]
        default: file
      content:
        description: A file's text.
        type: str
      force:
        description: Whether a file that is there gets this content; V(false) writes it only where there is none.
        type: bool
        default: true
      target:
        description: What a link points to.
        type: str
      owner:
        description: The owner.
        type: str
        default: root
      group:
        description: The group.
        type: str
        default: root
      mode:
        description: Mode in octal digits; by default 0644 for files, 0755 for directories.
        type: str
      validate:
        description:
          - A command that must accept a file before it is put in its place; C(%s) is its path.
          - In check mode a command that is not there yet is not asked.
        type: str
  prune:
    description:
      - Shell patterns of names in a directory, as in C(/etc/x/*.json). What matches and is not in O(files) is removed.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  hpchub_files:
    files:
      - {path: /etc/hpchub/gate.d, state: directory}
      - {path: /etc/hpchub/gate.d/demo.json, content: "{}\n"}
    prune: [/etc/hpchub/gate.d/*.json]
"""

RETURN = r"""
changed_paths:
  description: Paths that were made or changed, or would be.
  type: list
  elements: str
  returned: always
removed:
  description: Paths that were removed, or would be.
  type: list
  elements: str
  returned: always
"""

MODES = {"file": "0644", "directory": "0755"}

Entry = dict[str, Any]
"""One of ``files``, with the module's defaults."""


class Files:
    """Puts them there, and remembers what was changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.diff: list[dict[str, str]] = []

    def put(self, entry: Entry) -> None:
        """Make one path what it is to be."""
        state, path = entry["state"], Path(entry["path"])
        if state == "kept":
            return
        if state == "absent":
            self.remove(path)
            return
        changed = {"file": self.file, "directory": self.directory, "link": self.link}[state](path, entry)
        if state != "link":
            attributes = {**entry, "mode": entry["mode"] or MODES[state]}
            arguments = self.module.load_file_common_arguments(attributes, path=str(path))
            changed = self.module.set_fs_attributes_if_different(arguments, changed)
        if changed:
            self.changed.append(str(path))

    def remove(self, path: Path) -> None:
        """Remove a path with all that is below it."""
        if not os.path.lexists(path):
            return
        self.removed.append(str(path))
        self.note(path, before="present\n", after="")
        if self.module.check_mode:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def directory(self, path: Path, _: Entry) -> bool:
        """Make a directory; returns whether there was none."""
        if path.is_dir():
            return False
        if os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there and is not a directory")
        self.note(path, before="", after="directory\n")
        if not self.module.check_mode:
            path.mkdir(mode=0o700)
        return True

    def link(self, path: Path, entry: Entry) -> bool:
        """Make a symbolic link; returns whether it was another."""
        before = str(path.readlink()) if path.is_symlink() else None
        if before == entry["target"]:
            return False
        if before is None and path.exists():
            self.module.fail_json(msg=f"{path} is there and is not a link")
        self.note(path, before=f"{before or ''}\n", after=f"{entry['target']}\n")
        if not self.module.check_mode:
            fresh = path.with_name(f"{path.name}.{os.getpid()}")
            fresh.symlink_to(entry["target"])
            fresh.rename(path)
        return True

    def file(self, path: Path, entry: Entry) -> bool:
        """Write a file; returns whether its content was another."""
        content, before = entry["content"].encode(), None
        if os.path.lexists(path):
            if not stat.S_ISREG(path.lstat().st_mode):
                self.module.fail_json(msg=f"{path} is there and is not a file")
            before = path.read_bytes()
        if before == content or (before is not None and not entry["force"]):
            return False
        if not path.parent.is_dir() and not self.module.check_mode:
            self.module.fail_json(msg=f"{path.parent}, where {path.name} is to be, is not there")
        descriptor, name = tempfile.mkstemp(dir=self.module.tmpdir)  # 0600
        os.close(descriptor)
        fresh = Path(name)
        fresh.write_bytes(content)
        if entry["validate"]:
            self.validate(path, entry["validate"].replace("%s", name))
        self.note(path, before=(before or b"").decode(errors="replace"), after=entry["content"])
        if self.module.check_mode:
            fresh.unlink()
        else:
            self.module.atomic_move(name, str(path))
        return True

    def validate(self, path: Path, command: str) -> None:
        """Ask a file's parser."""
        if self.module.check_mode and self.module.get_bin_path(shlex.split(command)[0]) is None:
            return  # what brings it has only been predicted
        code, output, error = self.module.run_command(command)
        if code:
            self.module.fail_json(msg=f"{path} was not written: {command} says: {error or output}", rc=code)

    def prune(self, pattern: str, wanted: set[str]) -> None:
        """Remove what matches in one directory and is not wanted."""
        directory, name = os.path.split(pattern)
        for path in sorted(Path(directory).glob(name)):
            if str(path) not in wanted:
                self.remove(path)

    def note(self, path: Path, *, before: str, after: str) -> None:
        """Remember a difference for --diff."""
        header = str(path)
        self.diff.append({"before_header": header, "after_header": header, "before": before, "after": after})


def main() -> None:
    """Entry point."""
    entry: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "state": {"default": "file", "choices": ["file", "directory", "link", "absent", "kept"]},
        "content": {},
        "force": {"type": "bool", "default": True},
        "target": {},
        "owner": {"default": "root"},
        "group": {"default": "root"},
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
        },
        supports_check_mode=True,
        no_log=True,  # else the host's log would hold the files' contents
    )
    files = Files(module)
    try:
        for item in module.params["files"]:
            files.put(item)
        wanted = {item["path"] for item in module.params["files"]}
        for pattern in module.params["prune"]:
            files.prune(pattern, wanted)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(
        changed=bool(files.changed or files.removed),
        changed_paths=files.changed,
        removed=files.removed,
        diff=files.diff,
    )


if __name__ == "__main__":
    main()
