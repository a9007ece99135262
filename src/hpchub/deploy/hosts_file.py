"""A list of hosts in YAML: its groups, hosts and variables, and the mistakes that Ansible explains badly. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.deploy.yaml_text import pairs, position
from hpchub.messages import near, show
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEYS = ("hosts", "children", "vars")
_MOST = 20_000
_RANGE = re.compile(r"\[([0-9]+|[a-z]|[A-Z]):([0-9]+|[a-z]|[A-Z])(?::([0-9]+))?\]")


@dataclass
class Hosts:
    """The content of a list of hosts.

    Attributes:
        problems: What is wrong.
        fatal: The problems that make the list unreadable for Ansible.
        names: The places of groups and hosts, as line and column.
        members: The places where a host is in a group, for each group and host.
        variables: The variables of groups and hosts: kind, name, node and value.
        children: The groups in each group.
    """

    problems: list[Problem] = field(default_factory=list)
    fatal: list[Problem] = field(default_factory=list)
    names: dict[str, tuple[int, int]] = field(default_factory=dict)
    members: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    variables: list[tuple[str, str, yaml.Node, Any]] = field(default_factory=list)
    children: dict[str, set[str]] = field(default_factory=dict)

    def complain(self, entry: str, message: str, valid: str, at: yaml.Node, *, fatal: bool = True) -> None:
        """Add a problem."""
        line, column = position(at)
        problem = Problem(entry, message, valid=valid, line=line, column=column)
        self.problems.append(problem)
        if fatal:
            self.fatal.append(problem)


def read_hosts(node: yaml.Node | None, value: Any) -> Hosts:
    """Read a list of hosts.

    Args:
        node: The content of the file, with positions.
        value: The same content as Python values.
    """
    found = Hosts()
    if node is None or _empty(node):
        return found
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "text"
        found.complain("", f"is {kind}, not a mapping of groups", 'begin with "all:", then "  children:"', node)
        return found
    for key, group in pairs(node):
        if is_variable(key.value):
            message = "is a variable, but Ansible reads this file as a list of hosts"
            found.complain("", f"{key.value} {message}", "move the file to group_vars/all", key)
        else:
            _read_group(found, key, group, value.get(key.value) if isinstance(value, dict) else None, ())
    return found


def is_variable(name: str) -> bool:
    """Return whether a name is a variable's of hpchub, not a group's."""
    return name.startswith(("hpc_", "vault_"))


def _empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _read_group(found: Hosts, key: yaml.ScalarNode, node: yaml.Node, value: Any, above: tuple[str, ...]) -> None:
    name = key.value
    entry = f"group {name}"
    found.names.setdefault(name, position(key))
    if name in above:
        found.complain(entry, f"contains itself, through {' and '.join(above[1:] or above)}", "remove it here", key)
        return
    if _empty(node):
        return
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "text"
        found.complain(entry, f"is {kind}, not a mapping", 'write "hosts:" or "children:" below the group', node)
        return
    for part, content in pairs(node):
        inner = value.get(part.value) if isinstance(value, dict) else None
        if part.value not in _KEYS:
            _unknown_key(found, entry, part)
        elif not _empty(content):
            _read_part(found, (*above, name), part.value, content, inner)


def _unknown_key(found: Hosts, entry: str, key: yaml.ScalarNode) -> None:
    close = near(key.value, _KEYS)
    valid = f'did you mean "{close}"?' if close else "write hosts below hosts:, and groups below children:"
    message = f"{show(key.value, 60)} is not a key of a group"
    found.complain(entry, message, valid, key, fatal=False)


def _read_part(found: Hosts, above: tuple[str, ...], part: str, node: yaml.Node, value: Any) -> None:
    """Read the hosts, children or variables of the last group in ``above``."""
    entry = f"group {above[-1]}"
    if not isinstance(node, yaml.MappingNode):
        _not_a_mapping(found, entry, part, node)
        return
    if part == "vars":
        found.variables.append(("group", above[-1], node, value))
        return
    for key, content in pairs(node):
        inner = value.get(key.value) if isinstance(value, dict) else None
        if part == "children":
            _read_group(found, key, content, inner, above)
        else:
            _read_host(found, entry, key, content, inner)


def _not_a_mapping(found: Hosts, entry: str, part: str, node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        found.complain(entry, f"{part} is a list", 'write "NAME:" instead of "- NAME", one per line', node)
    elif isinstance(node, yaml.ScalarNode) and not re.search(r"[\s,]", node.value) and part == "hosts":
        found.names.setdefault(node.value, position(node))  # Ansible accepts one host as text
    else:
        found.complain(entry, f"{part} is text, not a mapping", 'write one "NAME:" per line, with a colon', node)


def _read_host(found: Hosts, entry: str, key: yaml.ScalarNode, node: yaml.Node, value: Any) -> None:
    name = key.value
    if name.startswith("cluster_") or name in ("login_nodes", "compute_nodes"):
        found.complain(entry, f"hosts contains {show(name, 60)}, which is a group", "write it below children:", key)
        return
    if key.tag != "tag:yaml.org,2002:str":
        found.complain(entry, f"host {name} is not text", f'put it in quotes: "{name}"', key)
        return
    for message, valid in _host_name_problems(name):
        found.complain(entry, f"host {show(name, 60)} {message}", valid, key)
    for host in expand(name):
        found.names.setdefault(host, position(key))
        found.members.setdefault((entry.removeprefix("group "), host), position(key))
    if isinstance(node, yaml.MappingNode):
        for variable, _ in pairs(node):
            if variable.value in _KEYS:
                message = f"host {show(name, 60)} has the key {variable.value}, which only groups have"
                valid = "write variables directly below the host, and hosts below hosts: of a group"
                found.complain(entry, message, valid, variable, fatal=False)
        found.variables.append(("host", name, node, value))
    elif not _empty(node):
        message = f"host {show(name, 60)} has a value that is not a mapping"
        found.complain(entry, message, 'write "NAME: value" lines below the host, or nothing', node)


def _host_name_problems(name: str) -> Iterator[tuple[str, str]]:
    if re.search(r"[\s,;]", name):
        yield "contains a space, comma or semicolon", "write one host per line"
        return
    if "@" in name:
        yield "contains a user", "write the host alone, and the user as ansible_user"
    rest = _RANGE.sub("", name)
    if "[" in rest or "]" in rest:
        yield "has a range that is not valid", "write it as in node[001:128]"
    for begin, end, step in _RANGE.findall(name):
        if step and not int(step):
            yield "has a range with the step 0", "write it as in node[001:128]"
        elif begin.isdigit() and end.isdigit() and int(end) - int(begin) >= _MOST:
            yield f"has a range of more than {_MOST} hosts", "correct the range"
        elif begin.isdigit() != end.isdigit() or (not begin.isdigit() and begin.islower() != end.islower()):
            yield f"has a range from {begin} to {end}", "write it as in node[001:128] or node[a:f]"
        elif begin.startswith("0") and len(begin) > 1 and len(begin) != len(end):
            yield f"has a range from {begin} to {end}, which have different lengths", f"write {begin.zfill(len(end))}"
        elif (int(begin) > int(end)) if begin.isdigit() else begin > end:
            yield f"has a range from {begin} down to {end}", f"write [{end}:{begin}]"


def expand(name: str, limit: int = _MOST) -> list[str]:
    """Return the hosts of a name with ranges: ``node[1:2]`` is node1 and node2. An invalid range stays as it is."""
    names = [name]
    while found := _RANGE.search(names[0]):
        begin, end, step = found.groups()
        if begin.isdigit() and end.isdigit():
            width = len(begin) if begin.startswith("0") else 0
            values = [str(number).zfill(width) for number in range(int(begin), int(end) + 1, int(step or 1) or 1)]
        else:
            values = [chr(code) for code in range(ord(begin[0]), ord(end[0]) + 1, int(step or 1) or 1)]
        if not values or len(names) * len(values) > limit:
            return [name]
        names = [each.replace(found[0], value, 1) for each in names for value in values]
    return names
