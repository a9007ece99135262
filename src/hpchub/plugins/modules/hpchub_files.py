"""An Ansible module that puts many files, directories and links in their places in one call."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tempfile

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
        description: A command that must accept a file before it is put in its place; C(%s) is its path.
        type: str
  prune:
    description: Shell patterns of paths. What matches and is not among O(files) is removed.
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

MODES = {"file": "0644", "directory": "0755", "link": None}


class Files:
    """Does it, and remembers what was changed."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.changed: list[str] = []
        self.removed: list[str] = []
        self.diff: list[dict[str, str]] = []

    def put(self, entry: dict) -> None:
        """Make one path what it is to be."""
        state, path = entry["state"], entry["path"]
        if state == "kept":
            return
        if state == "absent":
            self.remove(path)
            return
        changed: bool = getattr(self, state)(entry)
        if state != "link":
            attributes = {**entry, "mode": entry["mode"] or MODES[state]}
            arguments = self.module.load_file_common_arguments(attributes, path=path)
            changed = self.module.set_fs_attributes_if_different(arguments, changed)
        if changed:
            self.changed.append(path)

    def remove(self, path: str) -> None:
        """Remove a path with all that is below it."""
        if not os.path.lexists(path):
            return
        self.removed.append(path)
        self.note(path, before="present\n", after="")
        if self.module.check_mode:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def directory(self, entry: dict) -> bool:
        """Make a directory; returns whether there was none."""
        path = entry["path"]
        if os.path.isdir(path):
            return False
        if os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there and is not a directory")
        self.note(path, before="", after="directory\n")
        if not self.module.check_mode:
            os.mkdir(path, 0o700)
        return True

    def link(self, entry: dict) -> bool:
        """Make a symbolic link; returns whether it was another."""
        path, target = entry["path"], entry["target"]
        before = os.readlink(path) if os.path.islink(path) else None
        if before == target:
            return False
        if before is None and os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there and is not a link")
        self.note(path, before=f"{before or ''}\n", after=f"{target}\n")
        if not self.module.check_mode:
            fresh = f"{path}.{os.getpid()}"
            os.symlink(target, fresh)
            os.rename(fresh, path)
        return True

    def file(self, entry: dict) -> bool:
        """Write a file; returns whether its content was another."""
        path, content = entry["path"], (entry["content"] or "").encode()
        before = None
        if os.path.lexists(path):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                self.module.fail_json(msg=f"{path} is there and is not a file")
            with open(path, "rb") as stream:
                before = stream.read()
        if before == content or (before is not None and not entry["force"]):
            return False
        descriptor, fresh = tempfile.mkstemp(dir=self.module.tmpdir)  # 0600
        with open(descriptor, "wb") as stream:
            stream.write(content)
        if entry["validate"]:
            self.validate(entry, fresh)
        self.note(path, before=(before or b"").decode(errors="replace"), after=content.decode())
        if self.module.check_mode:
            os.unlink(fresh)
        else:
            self.module.atomic_move(fresh, path)
        return True

    def validate(self, entry: dict, fresh: str) -> None:
        """Ask a file's parser."""
        command = entry["validate"].replace("%s", fresh)
        code, output, error = self.module.run_command(command)
        if code:
            self.module.fail_json(msg=f"{entry['path']} was not written: {command} says: {error or output}", rc=code)

    def prune(self, patterns: list[str], wanted: set[str]) -> None:
        """Remove what matches and is not wanted."""
        for pattern in patterns:
            for path in sorted(glob.glob(pattern)):
                if path not in wanted:
                    self.remove(path)

    def note(self, path: str, *, before: str, after: str) -> None:
        """Remember a difference for --diff."""
        self.diff.append({"before_header": path, "after_header": path, "before": before, "after": after})


def main() -> None:
    """Entry point."""
    entry = {
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
        files.prune(module.params["prune"], {item["path"] for item in module.params["files"]})
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
