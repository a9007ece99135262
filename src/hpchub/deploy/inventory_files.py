"""The files of an inventory, as Ansible reads them: which files, for which groups and hosts, and what they set.

Ansible stops at the first file that it cannot read, and often names neither file nor line. It ignores other mistakes,
such as a duplicate key. So hpchub reads the files itself too.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.deploy import hosts_file
from hpchub.deploy.yaml_text import (
    Document,
    Fault,
    child,
    cycle,
    decode,
    duplicates,
    find,
    is_plain,
    pairs,
    position,
    read,
    strange_text,
)
from hpchub.messages import near, show
from hpchub.model.problems import Problem, way

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

IGNORED_SUFFIXES = (".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry")
"""The ends of the names that Ansible ignores in the directory of an inventory: its default ``ignore_extensions``."""
FILES = "files"
"""The directory of an inventory for other files. The checkout's ansible.cfg excludes it from the inventory."""
_VARIABLE_SUFFIXES = ("", ".yml", ".yaml", ".json")
_LEFTOVER = re.compile(
    r"(?i)(?:^readme.*|\.(?:md|txt|rst|bak|orig|old|save|sav|dist|sample|rpmnew|rpmsave|swp|retry))$"
)
_YAML_SUFFIXES = (".yml", ".yaml", ".json")


@dataclass(frozen=True)
class Scope:
    """The hosts that a setting applies to.

    Attributes:
        kind: ``group`` or ``host``.
        name: The name of the group or host.
    """

    kind: str
    name: str

    @property
    def everywhere(self) -> bool:
        """Whether the setting applies to all hosts."""
        return self == ALL

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}"


ALL = Scope("group", "all")


@dataclass(frozen=True)
class InventoryFile:
    """A file of an inventory.

    Attributes:
        path: The path.
        root: The directory of the inventory.
        scope: The group or host that the variables belong to. None for a list of hosts.
        document: The content. None if it cannot be read.
    """

    path: Path
    root: Path
    scope: Scope | None
    document: Document | None = None


@dataclass(frozen=True)
class Setting:
    """A variable that a file sets.

    Attributes:
        name: The name.
        scope: The hosts that it applies to.
        file: The file.
        line: The line of the name.
        column: The column of the name.
        node: The value with its position. None in a file that is not YAML.
        value: The value as Python reads it. Text that is encrypted or an expression stays as it is.
    """

    name: str
    scope: Scope
    file: InventoryFile
    line: int
    column: int
    node: yaml.Node | None = None
    value: Any = None

    @property
    def place(self) -> str:
        """The place, as ``FILE:LINE:COLUMN``."""
        return f"{shown(self.file.path)}:{self.line}:{self.column}"

    def problem(self, message: str, valid: str = "", at: yaml.Node | None = None, **more: Any) -> Problem:
        """Return a problem of this setting, at its name or at a node of its value."""
        line, column = position(at) if at is not None else (self.line, self.column)
        return Problem(self.name, message, valid=valid, file=shown(self.file.path), line=line, column=column, **more)


@dataclass
class Inventory:
    """What the files of one or more inventories contain.

    Attributes:
        files: The files.
        unreadable: The files that cannot be read, and directories.
        problems: What is wrong with the files, apart from the values of variables.
        settings: All variables that the files set, in the order in which Ansible reads them.
        names: The places of groups and hosts, as file, line and column.
        members: The places where files list a host in a group, for each group and host.
        hosts_known: Whether all lists of hosts can be read.
        guessed: The names of variables that unreadable files seem to set.
    """

    files: list[InventoryFile] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    names: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    members: dict[tuple[str, str], list[tuple[InventoryFile, int, int]]] = field(default_factory=dict)
    hosts_known: bool = True
    guessed: set[str] = field(default_factory=set)

    @property
    def encrypted(self) -> list[Path]:
        """The files that are encrypted as a whole."""
        return [file.path for file in self.files if file.document is not None and file.document.encrypted]

    def of_site(self, name: str) -> Setting | None:
        """Return the setting of a variable for all hosts that counts, or None."""
        found = [setting for setting in self.settings if setting.name == name and setting.scope.everywhere]
        return found[-1] if found else None

    def located(self, problem: Problem) -> Problem:
        """Add the place of the problem's value, or else of its entry, its variable or its directory."""
        if problem.file:
            return problem
        if found := re.match(r"(?:group|host) ([^ :]+)", problem.entry):
            file, line, column = self.names.get(found[1], (self._sources(), 0, 0))
            return replace(problem, file=file, line=line, column=column)
        steps = way(problem)
        name = str(steps[0]) if steps else ""
        setting = self.of_site(name) or next((one for one in self.settings if one.name == name), None)
        if setting is None:
            return replace(problem, file=self._directory())
        return _at_value(problem, setting, steps[1:])

    def _sources(self) -> str:
        return shown(next((file.path for file in self.files if file.scope is None), Path(self._directory())))

    def _directory(self) -> str:
        root = next((file.root for file in self.files), None)
        return shown(root / "group_vars" / "all") if root else ""


def shown(path: Path) -> str:
    """Return a path for a message: relative to the working directory if the file is below it."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _at_value(problem: Problem, setting: Setting, steps: Sequence[int | str]) -> Problem:
    """Add the place of a value in a setting, and replace the value by what was written."""
    key: yaml.Node | None = None
    node = setting.node
    for step in steps:
        found = child(node, step)
        if found is None:
            break
        key, node = found
    else:
        key, node = _named_in_value(problem, node) or (key, node)
        problem = _as_written(problem, node)
    at = node if isinstance(node, yaml.ScalarNode) and node.value and (steps or problem.value) else key
    if isinstance(node, yaml.MappingNode) and isinstance(key, yaml.MappingNode):
        at = node  # an entry of a list
    line, column = position(at) if at is not None else (setting.line, setting.column)
    return replace(problem, file=shown(setting.file.path), line=line, column=column)


def _named_in_value(problem: Problem, node: yaml.Node | None) -> tuple[yaml.Node, None] | tuple[None, yaml.Node] | None:
    """Return the unknown key of a mapping, or the wrong item of a list, if that is what a problem's value names."""
    try:
        value = json.loads(problem.value) if problem.value else None
    except ValueError:
        return None
    if isinstance(node, yaml.MappingNode) and isinstance(value, str) and (found := child(node, value)):
        return found[0], None
    if isinstance(node, yaml.SequenceNode):
        items = [item for item in node.value if isinstance(item, yaml.ScalarNode) and item.value == value]
        return (None, items[0]) if items else None
    return None


_CONVERTED = {f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "timestamp")}


def _as_written(problem: Problem, node: yaml.Node | None) -> Problem:
    """Replace a value that YAML has converted, such as the time 2:00:00 or the word no, by what was written."""
    if isinstance(node, yaml.ScalarNode) and problem.value == "null" and not node.value:
        return replace(problem, value="")  # nothing was written
    if not isinstance(node, yaml.ScalarNode) or not is_plain(node) or node.tag not in _CONVERTED or not problem.value:
        return problem
    if problem.value == node.value:
        return replace(
            problem, message=re.sub("is a number, because YAML .*", "is a number, not a time", problem.message)
        )
    message = problem.message.removesuffix("; put it in quotes")
    quotes = message != problem.message or problem.valid == "put it in quotes"
    if quotes or re.search("without quotes as|^is true or false, not (?!a list|a mapping)", message):
        return replace(problem, message=message, value=node.value, valid=f'put it in quotes: "{node.value}"')
    return replace(problem, value=node.value)


# Reading


def read_inventory(sources: Iterable[str | Path], ignore: Sequence[str] = ()) -> Inventory:
    """Read the files of inventories.

    Args:
        sources: Inventories, as in ``ansible_inventory_sources``: directories or files.
        ignore: Regular expressions of the names that Ansible ignores: ``ignore_patterns`` of its configuration.
    """
    inventory = Inventory()
    for source in map(Path, sources):
        if "," in str(source) or not os.path.lexists(source):  # a list of hosts on the command line
            continue
        root = source if source.is_dir() else source.parent
        for kind in ("group", "host"):
            _read_variables(inventory, root, kind)
        for path in _sources(inventory, source, [re.compile(pattern) for pattern in ignore]):
            _read_source(inventory, path, root)
    # Ansible reads the lists of hosts first, and lets the variables of group_vars override theirs.
    inventory.settings.sort(key=lambda setting: setting.file.scope is not None)
    return inventory


def _unreadable(inventory: Inventory, path: Path, fault: Fault) -> None:
    inventory.unreadable.append(path)
    inventory.problems.append(
        Problem("", fault.message, valid=fault.valid, file=shown(path), line=fault.line, column=fault.column)
    )


def _entries(inventory: Inventory, directory: Path) -> list[Path]:
    """Return the files and directories in a directory, in Ansible's order."""
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        valid = "give your account permission to read it"
        _unreadable(inventory, directory, Fault(0, 0, f"cannot be read: {error.strerror}", valid))
        return []


def _content(inventory: Inventory, path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        if path.is_symlink() and not path.exists():
            target = show(str(path.readlink()))
            _unreadable(
                inventory,
                path,
                Fault(0, 0, f"is a link to {target}, which does not exist", "correct or remove the link"),
            )
        else:
            valid = "give your account permission to read it"
            _unreadable(inventory, path, Fault(0, 0, f"cannot be read: {error.strerror}", valid))
        return None


def _document(inventory: Inventory, path: Path) -> Document | None:
    """Read a YAML file, and report what makes it unreadable or what YAML silently accepts."""
    data = _content(inventory, path)
    if data is None:
        return None
    found = read(data)
    if isinstance(found, Fault):
        _unreadable(inventory, path, found)
        inventory.guessed |= {name.decode() for name in re.findall(rb"(?m)^([A-Za-z_]\w*)[ \t]*:", data)}
        return None
    for problem in (*duplicates(found.node), *strange_text(found.node)):
        inventory.problems.append(replace(problem, file=shown(path)))
    return found


# Variables


def _read_variables(inventory: Inventory, root: Path, kind: str) -> None:
    """Read ``group_vars`` or ``host_vars``."""
    directory = root / f"{kind}_vars"
    if not os.path.lexists(directory):
        return
    taken: dict[str, Path] = {}
    entries = _entries(inventory, directory)
    for path in sorted(entries, key=lambda path: (_suffix_rank(path), path.name)):
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        name = path.stem if path.suffix in _YAML_SUFFIXES and not path.is_dir() else path.name
        if name in taken:
            message = f"is not read by Ansible, because {shown(taken[name])} exists"
            valid = f"move its content to {shown(taken[name])}"
            inventory.problems.append(Problem("", message, valid=valid, file=shown(path)))
            continue
        if _LEFTOVER.search(path.name):
            continue
        taken[name] = path
        scope = Scope(kind, name)
        for each in _below(inventory, path) if path.is_dir() else [path]:
            _read_variable_file(inventory, each, root, scope)


def _suffix_rank(path: Path) -> int:
    """Return Ansible's order of preference: no suffix first. Ansible reads only the first that exists."""
    return _YAML_SUFFIXES.index(path.suffix) + 1 if path.suffix in _YAML_SUFFIXES else 0


def _below(inventory: Inventory, directory: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files in a directory of variables that Ansible reads. Report those that it seems to miss."""
    for path in _entries(inventory, directory):
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.is_dir():
            if not path.suffix and depth < 20:  # links can form a cycle
                yield from _below(inventory, path, depth + 1)
            elif path.suffix:
                _report_unread(inventory, path, "a directory whose name contains a dot")
        elif path.suffix in _VARIABLE_SUFFIXES:
            yield path
        elif path.suffix == ".txt" or not _LEFTOVER.search(path.name):  # Windows adds .txt to a name
            _report_unread(inventory, path, "a file with this name")


def _report_unread(inventory: Inventory, path: Path, what: str) -> None:
    """Report a file or directory that Ansible does not read, if it sets variables of hpchub."""
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            text = each.read_text(encoding="utf-8", errors="replace") if each.is_file() else ""
        except OSError:
            continue
        if at := find(text, r"^(?:hpc|vault)_\w+\s*:"):
            valid = "give it a name that ends in .yml" if path.is_file() else "give it a name without a dot"
            message = f"is not read by Ansible, which ignores {what}"
            inventory.problems.append(Problem("", message, valid=valid, file=shown(each), line=at[0], column=at[1]))
            return


def _read_variable_file(inventory: Inventory, path: Path, root: Path, scope: Scope) -> None:
    document = _document(inventory, path)
    file = InventoryFile(path, root, scope, document)
    inventory.files.append(file)
    if document is None or document.node is None:
        return
    if not isinstance(document.node, yaml.MappingNode):
        if isinstance(document.node, yaml.ScalarNode) and not document.node.value:
            return
        line, column = position(document.node)
        kind = "a list" if isinstance(document.node, yaml.SequenceNode) else "text"
        fault = Fault(line, column, f"is {kind}, not a mapping", 'write "NAME: value" lines')
        _unreadable(inventory, path, fault)
        return
    for key, value in pairs(document.node):
        if hosts_file.is_variable(key.value) and (found := cycle(value)):
            message = f"{key.value} contains itself, through the anchor of line {position(found)[0]}"
            _unreadable(
                inventory, path, Fault(*position(found), message, "remove the alias, a word that begins with *")
            )
            inventory.guessed |= {name.value for name, _ in pairs(document.node)}
            return
    inventory.settings += _settings(file, scope, document.node, document.value)


def _settings(file: InventoryFile, scope: Scope, node: yaml.Node, values: Any) -> Iterator[Setting]:
    for key, value in pairs(node):
        line, column = position(key)
        found = values.get(key.value) if isinstance(values, dict) else None
        yield Setting(key.value, scope, file, line, column, value, found)


# Lists of hosts


def _sources(inventory: Inventory, source: Path, ignore: Sequence[re.Pattern[str]], depth: int = 0) -> Iterator[Path]:
    """Yield the files that Ansible reads as lists of hosts."""
    if not source.is_dir():
        yield source
        return
    for path in _entries(inventory, source):
        name = path.name
        if name.startswith(".") or name in ("group_vars", "host_vars", "vars_plugins") or depth > 20:
            continue
        if name.endswith(IGNORED_SUFFIXES) or any(pattern.search(name) for pattern in ignore):
            continue
        if path.is_dir() and (meant := near(name, ("group_vars", "host_vars"))):
            _unreadable(inventory, path, Fault(0, 0, "is not read for variables", f'did you mean "{meant}"?'))
        elif path.is_dir() and name == FILES:
            valid = (
                "add ignore_patterns = ^files$ to the section [inventory] of your ansible.cfg, or move the directory"
            )
            _unreadable(inventory, path, Fault(0, 0, "is read by Ansible as a list of hosts", valid))
        elif path.is_dir():
            yield from _sources(inventory, path, ignore, depth + 1)
        elif path.suffix not in (*_VARIABLE_SUFFIXES, ".ini", ".toml") and not os.access(path, os.X_OK):
            valid = f"move it to the directory {FILES}, which hpchub's ansible.cfg excludes, or out of the inventory"
            _unreadable(inventory, path, Fault(0, 0, "is read by Ansible as a list of hosts", valid))
        else:
            yield path


def _read_source(inventory: Inventory, path: Path, root: Path) -> None:
    """Read a list of hosts."""
    if path.suffix == ".toml" or (path.is_file() and os.access(path, os.X_OK)):  # a program that prints an inventory
        inventory.files.append(InventoryFile(path, root, None))
        return
    if path.suffix not in _YAML_SUFFIXES and not (path.suffix == "" and _seems_to_be_yaml(path)):
        _read_ini(inventory, path, root)
        return
    before = len(inventory.unreadable)
    document = _document(inventory, path)
    if document is None and re.search(rb"(?m)^\[[\w:.-]+\]\s*$", _content(Inventory(), path) or b""):
        valid = "write it in YAML, or remove the end of its name"
        inventory.problems[-1] = replace(
            inventory.problems[-1], message="has a name for YAML, but the INI format", valid=valid
        )
    file = InventoryFile(path, root, None, document)
    inventory.files.append(file)
    if document is None:
        inventory.hosts_known = False
        return
    if document.encrypted:
        if re.search(r"(?i)vault|secret", path.name):
            message = "is an encrypted file that Ansible reads as a list of hosts, not for variables"
            _unreadable(inventory, path, Fault(1, 1, message, "move the file to group_vars/all"))
    elif not child(document.node, "plugin"):
        _read_hosts(inventory, file, document, before)


def _seems_to_be_yaml(path: Path) -> bool:
    """Return whether a file without a suffix begins like a list of hosts in YAML, which Ansible tries first."""
    data = _content(Inventory(), path) or b""
    lines = [] if b"\n\t" in data else data.splitlines()
    begin = next((line for line in lines if line.strip() and not line.startswith((b"#", b"---"))), b"")
    return bool(re.fullmatch(rb"[\w.-]+:\s*(?:#.*)?", begin))


def _read_hosts(inventory: Inventory, file: InventoryFile, document: Document, before: int) -> None:
    """Read a list of hosts in YAML."""
    path = file.path
    inventory.guessed |= {key.value for key, _ in pairs(document.node) if hosts_file.is_variable(key.value)}
    found = hosts_file.read_hosts(document.node, document.value)
    for problem in found.problems:
        if problem in found.fatal:
            text = str(replace(problem, valid=""))
            _unreadable(inventory, path, Fault(problem.line, problem.column, text, problem.valid))
        else:
            inventory.problems.append(replace(problem, file=shown(path)))
    inventory.hosts_known &= len(inventory.unreadable) == before
    for name, (line, column) in found.names.items():
        inventory.names.setdefault(name, (shown(path), line, column))
    for member, (line, column) in found.members.items():
        inventory.members.setdefault(member, []).append((file, line, column))
    for kind, name, node, values in found.variables:
        inventory.settings += _settings(file, Scope(kind, name), node, values)


def _add_host(inventory: Inventory, name: str, group: str, place: tuple[InventoryFile, int, int]) -> None:
    file, line, column = place
    inventory.names.setdefault(name, (shown(file.path), line, column))
    for host in hosts_file.expand(name):
        inventory.members.setdefault((group, host), []).append(place)


_INI_HOST = re.compile(
    r"\s*[^\s=:,;\[\]]*(?:\[[^\]\s]*\][^\s=:,;\[\]]*)*(?::[0-9]+)?"
    r"(?:\s+[A-Za-z_]\w*\s*=\s*(?:\"[^\"]*\"|'[^']*'|\S*))*\s*(?:[#;].*)?"
)


def _read_ini(inventory: Inventory, path: Path, root: Path) -> None:
    """Read a list of hosts in the INI format, as far as places need it."""
    data = _content(inventory, path)
    text = decode(data) if data is not None else None
    if isinstance(text, Fault):
        _unreadable(inventory, path, text)
    file = InventoryFile(path, root, None)
    inventory.files.append(file)
    if not isinstance(text, str):
        inventory.hosts_known = False
        return
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\]]+)\]", line):
            section = header[1]
            inventory.names.setdefault(section.split(":")[0], (shown(path), number, 1))
            continue
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        host = line.split()[0]
        group_variables = section.endswith(":vars")
        if not group_variables and not _INI_HOST.fullmatch(line):
            message = "is read by Ansible as a list of hosts, but this line is none"
            valid = f"correct the line, or move the file to the directory {FILES}"
            _unreadable(inventory, path, Fault(number, 1, message, valid))
            inventory.hosts_known = False
            return
        if not group_variables:
            _add_host(inventory, host, section, (file, number, 1))
        scope = Scope("group", section.removesuffix(":vars")) if group_variables else Scope("host", host)
        for found in re.finditer(r"(?:^|\s)([A-Za-z_]\w*)\s*=\s*(\"[^\"]*\"|'[^']*'|\S*)", line):
            value = found[2].strip("\"'")
            inventory.settings.append(Setting(found[1], scope, file, number, found.start(1) + 1, None, value))
            if group_variables:
                break
