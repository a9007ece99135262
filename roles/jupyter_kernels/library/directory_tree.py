#!/usr/bin/python
"""An Ansible module that makes a directory hold exactly the files that it is given."""

from __future__ import annotations

import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: directory_tree
short_description: Make a directory hold exactly these files
description:
  - Writes each file whose content or mode differs, and removes everything else below the directory.
  - One call in place of one for each file, and one more for each that is to go.
options:
  path:
    description: The directory, made where it does not exist. It belongs to the caller wholly.
    type: path
    required: true
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path inside the directory.
        type: str
        required: true
      content:
        description: The text.
        type: str
        required: true
      mode:
        description: Mode in octal digits.
        type: str
        default: "0644"
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Write the kernels
  directory_tree:
    path: /opt/hpchub/jupyter/kernels
    files:
      - {path: python3/kernel.json, content: "{}\n"}
"""

RETURN = r"""
written:
  description: Paths inside the directory that were written, or would be.
  type: list
  elements: str
  returned: always
removed:
  description: Paths inside the directory that were removed, or would be.
  type: list
  elements: str
  returned: always
"""

DIRECTORY_MODE = 0o755


def present(root):
    """Return what is below ``root``: files by relative path with text (or None) and mode, and the directories with modes.

    Anything that is not a plain file, a symbolic link for one, counts as a file without text.
    """
    files, directories = {}, {}
    if not os.path.isdir(root):
        return files, directories
    directories[""] = os.stat(root).st_mode & 0o7777
    for base, below, names in os.walk(root):
        for name in below + names:
            path = os.path.join(base, name)
            relative = os.path.relpath(path, root)
            mode = os.lstat(path).st_mode
            if os.path.isdir(path) and not os.path.islink(path):
                directories[relative] = mode & 0o7777
            elif os.path.islink(path) or not os.path.isfile(path):
                files[relative] = (None, 0)
            else:
                with open(path, "rb") as stream:
                    files[relative] = (stream.read(), mode & 0o7777)
    return files, directories


def parents(relative):
    """Yield the directories that a relative path is in, the root of all as the empty text."""
    while relative:
        relative = os.path.dirname(relative)
        yield relative


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                },
            },
        },
        supports_check_mode=True,
    )
    root = module.params["path"]
    wanted = {}
    for file in module.params["files"]:
        relative = os.path.normpath(file["path"])
        if os.path.isabs(relative) or relative.split(os.sep)[0] in ("..", "."):
            module.fail_json(msg=f"{file['path']} is not a path inside the directory")
        wanted[relative] = (file["content"].encode(), int(file["mode"], 8))
    directories = {""}.union(*(parents(relative) for relative in wanted))

    files, found = present(root)
    written = sorted(relative for relative, file in wanted.items() if files.get(relative) != file)
    strange = (set(files) - set(wanted)) | (set(found) - directories)
    # What is below a directory that goes, goes with it.
    removed = sorted(relative for relative in strange if not strange.intersection(filter(None, parents(relative))))
    remade = sorted(relative for relative in directories if found.get(relative) != DIRECTORY_MODE)

    result = {"changed": bool(written or removed or remade), "written": written, "removed": removed}
    if module._diff:
        result["diff"] = [
            {
                "before_header": os.path.join(root, relative),
                "after_header": os.path.join(root, relative),
                "before": (files.get(relative, (b"", 0))[0] or b"").decode(errors="replace"),
                "after": wanted.get(relative, (b"", 0))[0].decode(errors="replace"),
            }
            for relative in written + removed
        ]
    if module.check_mode:
        module.exit_json(**result)

    for relative in removed:
        path = os.path.join(root, relative)
        if relative in found:
            shutil.rmtree(path)
        else:
            os.unlink(path)
    for relative in remade:
        path = os.path.join(root, relative)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, DIRECTORY_MODE)
    for relative in written:
        content, mode = wanted[relative]
        descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
        with open(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, mode)
        module.atomic_move(temporary, os.path.join(root, relative), keep_dest_attrs=False)
        os.chmod(os.path.join(root, relative), mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
