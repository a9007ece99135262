"""An Ansible module that makes a directory hold exactly the files that it is given."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

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
ROOT = PurePosixPath()

Files = dict[PurePosixPath, tuple[bytes, int]]


def present(root: Path) -> tuple[Files, dict[PurePosixPath, int]]:
    """What is below ``root``: the plain files with content and mode, and everything else with its mode.

    The mode of what is neither a plain file nor a directory, a symbolic link for one, is -1.
    """
    files: Files = {}
    others: dict[PurePosixPath, int] = {}
    if not root.is_dir():
        return files, others
    for path in [root, *root.rglob("*")]:
        relative = PurePosixPath(path.relative_to(root))
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            others[relative] = -1
        elif path.is_file():
            files[relative] = (path.read_bytes(), mode)
        else:
            others[relative] = mode if path.is_dir() else -1
    return files, others


def main() -> None:
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
    root = Path(module.params["path"])
    wanted: Files = {}
    for file in module.params["files"]:
        relative = PurePosixPath(file["path"])
        if relative.is_absolute() or ".." in relative.parts or relative == ROOT:
            module.fail_json(msg=f"{file['path']!r} is not a path inside the directory")
        wanted[relative] = (file["content"].encode(), int(file["mode"], 8))
    directories = {ROOT}.union(*(path.parents for path in wanted))

    files, others = present(root)
    written = sorted(path for path, file in wanted.items() if files.get(path) != file)
    strange = (set(files) - set(wanted)) | {path for path in others if path not in directories or others[path] < 0}
    # What is below a directory that goes, goes with it.
    removed = sorted(path for path in strange if not strange.intersection(path.parents))
    remade = sorted(path for path in directories if others.get(path) != DIRECTORY_MODE)

    result = {
        "changed": bool(written or removed or remade),
        "written": [str(path) for path in written],
        "removed": [str(path) for path in removed],
        "diff": [
            {
                "before_header": str(root / path),
                "after_header": str(root / path),
                "before": files.get(path, (b"", 0))[0].decode(errors="replace"),
                "after": wanted.get(path, (b"", 0))[0].decode(errors="replace"),
            }
            for path in written + removed
        ],
    }
    if module.check_mode:
        module.exit_json(**result)

    os.umask(0o022)  # for the parents of the directory; root's own is 077 on many hardened systems
    for path in removed:
        if others.get(path, -1) >= 0:
            shutil.rmtree(root / path)
        else:
            (root / path).unlink()
    for path in remade:
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path).chmod(DIRECTORY_MODE)
    for path in written:
        content, mode = wanted[path]
        # Beside its place, so that the last step is a rename: a kernel.json is never half there.
        descriptor, temporary = tempfile.mkstemp(dir=(root / path).parent, prefix=".")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(mode)
        Path(temporary).replace(root / path)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
