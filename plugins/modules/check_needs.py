"""The Ansible module ``check_needs``: find what kernels and applications need and a host does not have."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: check_needs
short_description: Find what kernels and applications need and a host does not have
version_added: 1.0.0
author: The hpchub contributors
description:
  - Checks programs, files, directories and environment modules. It searches names of programs in the PATH of a login
    shell, and loads modules in a login shell. It uses the account nobody, and then root, because login files may set up
    modules for one of them only.
  - The module fails if one is missing. It only warns about what it cannot check, for example because root may not read
    a network file system, or a file server does not answer.
options:
  needs:
    description: What is needed.
    type: list
    elements: dict
    required: true
    suboptions:
      entry:
        description: What needs it, for messages, as in C(kernel geo).
        type: str
        required: true
      field:
        description: The place in the inventory that names it, for messages.
        type: str
        required: true
      kind:
        description: What it is.
        type: str
        required: true
        choices: [program, file, directory, modules]
      value:
        description: The path or the name, or the modules in the order in which they are loaded.
        type: list
        elements: str
        required: true
  host:
    description: The name of the host, for messages.
    type: str
    required: true
  required:
    description: Whether to fail if something is missing. Otherwise, the module warns.
    type: bool
    default: true
  timeout:
    description: How long all checks together may take, in seconds.
    type: float
    default: 60.0
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Check what the kernels need
  hpchub.hpchub.check_needs:
    host: "{{ inventory_hostname }}"
    needs:
      - {entry: kernel geo, field: path of geo in hpc_kernels, kind: program, value: [/soft/geo/bin/python]}
"""

RETURN = r"""
missing:
  description: A message for each thing that is missing.
  returned: always
  type: list
  elements: str
unknown:
  description: A message for each thing that cannot be checked.
  returned: always
  type: list
  elements: str
"""

GONE = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "links to itself",
}
"""The errors that mean that a file is missing. All others may have another reason, such as a file server."""
NOBODY = 65534
"""The account and the group of nobody."""
ENVIRONMENT = {
    "HOME": "/",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
LOAD = """
type module >/dev/null 2>&1 || exit 3
module purge >/dev/null 2>&1
for name; do
    module load "$name" || { echo "hpchub: $name"; exit 4; }
done
"""


class Unknown(Exception):
    """A need cannot be checked. The text is the reason."""


def login_shell(script: str, arguments: list[str], account: int, seconds: float) -> tuple[int, str]:
    """Run a script in a login shell of an account. Return its exit code and its output.

    Raises:
        Unknown: It takes too long, or there is no bash.
    """
    command = ["/bin/bash", "-l", "-c", script, "bash", *arguments]
    other: dict[str, Any] = {"user": account, "group": account, "extra_groups": []} if account != os.geteuid() else {}
    try:
        done = subprocess.run(
            command,
            env=ENVIRONMENT,
            cwd="/",
            **other,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(0.1, seconds),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unknown("a login shell takes too long") from None
    except OSError as error:
        raise Unknown(f"no login shell starts: {error}") from None
    return done.returncode, done.stdout.decode(errors="replace")


def reason_of_path(kind: str, path: str) -> str:
    """Return why a program, file or directory cannot be used, or empty.

    Raises:
        Unknown: It may be usable.
    """
    file = Path(path)
    try:
        mode = file.stat().st_mode
    except OSError as error:
        if error.errno not in GONE:
            raise Unknown(f"{path} cannot be checked: {error.strerror}") from None
        if error.errno == errno.ENOENT and file.is_symlink():
            return f"{path} links to {os.path.realpath(path)}, which does not exist"
        return f"{path} {GONE[error.errno]}"
    if kind == "directory":
        return "" if stat.S_ISDIR(mode) else f"{path} is not a directory"
    if kind == "program":
        return "" if stat.S_ISREG(mode) and os.access(path, os.X_OK) else f"{path} is not an executable file"
    return ""


def reason(kind: str, value: list[str], seconds: float) -> str:
    """Return what is missing, or empty.

    Args:
        kind: The kind of need.
        value: The path or name, or the modules.
        seconds: How long a login shell may take.

    Raises:
        Unknown: The need cannot be checked.
    """
    if kind != "modules" and "/" in value[0]:
        return reason_of_path(kind, value[0])
    look = reason_of_modules if kind == "modules" else reason_of_name
    # A site may deny modules to root, or have modules that nobody may not load.
    accounts = (NOBODY, 0) if os.geteuid() == 0 else (os.geteuid(),)
    found = ""
    for account in accounts:
        found = look(value, account, seconds)
        if not found:
            break
    return found


def reason_of_modules(modules: list[str], account: int, seconds: float) -> str:
    """Return why an account cannot load modules, or empty."""
    code, output = login_shell(LOAD, modules, account, seconds)
    if code == 3:
        return "login shells have no command 'module'"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if code == 4 and lines and lines[-1].startswith("hpchub: "):
        said = f" ({' '.join(lines[:-1])[:200]})" if lines[:-1] else ""
        return f"module load {lines[-1].removeprefix('hpchub: ')} fails{said}"
    if code:
        raise Unknown(f"the modules {' '.join(modules)} cannot be checked: a login shell ends with code {code}")
    return ""


def reason_of_name(names: list[str], account: int, seconds: float) -> str:
    """Return why an account does not find a program by its name, or empty."""
    (name,) = names
    code, output = login_shell('printf "\\n%s" "$PATH"', [], account, seconds)
    if code:
        raise Unknown(f"the program {name} cannot be searched: a login shell ends with code {code}")
    found = shutil.which(name, path=output.splitlines()[-1])
    return "" if found else f"the program {name} is not in the PATH of login shells"


def check(needs: list[dict[str, Any]], host: str, timeout: float) -> tuple[list[str], list[str]]:
    """Return a message for each thing that is missing, and for each thing that cannot be checked."""
    end = time.monotonic() + timeout
    outcomes: dict[int, tuple[str, bool]] = {}

    def run(position: int, need: dict[str, Any]) -> None:
        try:
            outcomes[position] = (reason(need["kind"], need["value"], end - time.monotonic()), True)
        except Unknown as error:
            outcomes[position] = (str(error), False)

    # A file server that does not answer blocks its thread only.
    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(needs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    missing, unknown = [], []
    for position, need in enumerate(needs):
        late = f"{' '.join(need['value'])} does not answer within {timeout:g} s"
        text, certain = outcomes.get(position, (late, False))
        if text and certain:
            missing.append(f"{need['entry']}: {text} on {host}; {ADVICE[need['kind']]}, or change {need['field']}")
        elif text:
            unknown.append(f"{need['entry']}: on {host}, {text}")
    return list(dict.fromkeys(missing)), list(dict.fromkeys(unknown))


ADVICE = {
    "program": "install it on every node of the cluster",
    "file": "copy it to every node of the cluster, or mount its directory there",
    "directory": "create it on every node of the cluster, or mount it there",
    "modules": "install the modules on every node of the cluster",
}


def main() -> None:
    """Run the module."""
    need: dict[str, Any] = {
        "entry": {"type": "str", "required": True},
        "field": {"type": "str", "required": True},
        "kind": {"type": "str", "required": True, "choices": ["program", "file", "directory", "modules"]},
        "value": {"type": "list", "elements": "str", "required": True},
    }
    module = AnsibleModule(
        {
            "needs": {"type": "list", "elements": "dict", "required": True, "options": need},
            "host": {"type": "str", "required": True},
            "required": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 60.0},
        },
        supports_check_mode=True,
    )
    arguments: dict[str, Any] = module.params
    missing, unknown = check(arguments["needs"], arguments["host"], arguments["timeout"])
    for text in unknown:
        module.warn(text)
    if missing and arguments["required"]:
        module.fail_json(msg="\n".join(missing), missing=missing, unknown=unknown)
    for text in missing:
        module.warn(text)
    module.exit_json(changed=False, missing=missing, unknown=unknown)


if __name__ == "__main__":
    main()
