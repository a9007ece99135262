"""Checks of an inventory's files that need no values: places of variables, leftovers, clear text. No I/O."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import yaml

from hpchub.deploy.inventory_files import shown
from hpchub.deploy.yaml_text import is_plain, pairs, position, scalars, walk
from hpchub.messages import listing, near, show
from hpchub.model.fields import PLACEHOLDER
from hpchub.model.problems import Problem
from hpchub.model.site import PREFIX, VARIABLES, looks_like_ours, unknown_variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from hpchub.deploy.inventory_files import Inventory, InventoryFile, Setting
    from hpchub.deploy.role_specs import RoleSpecs

PER_HOST = {"hpc_install_environment"}
"""The variables that may differ between groups and hosts. All others describe the whole site."""

_DERIVED = "hpchub_"
"""The prefix of the variables that the playbooks derive from the inventory. An inventory must not replace them."""


def misplaced(inventory: Inventory, specs: RoleSpecs) -> Iterator[Problem]:
    """Find variables of hpchub that Ansible does not read for all hosts, or that two files set."""
    first: dict[tuple[str, object, object], Setting] = {}
    for setting in inventory.settings:
        if looks_like_ours(setting.name) or setting.name.startswith(_DERIVED):
            yield from _misplaced_variable(setting)
        elif f"{PREFIX}{setting.name}" in VARIABLES and not inventory.of_site(f"{PREFIX}{setting.name}"):
            yield setting.problem("is not a variable of hpchub", f'did you mean "{PREFIX}{setting.name}"?')
        elif setting.file.scope is not None:
            yield from _nested(setting)
        if not (looks_like_ours(setting.name) or setting.name in specs.arguments or setting.name.startswith("vault_")):
            continue
        key = (setting.name, setting.scope, setting.file.root)
        other = first.setdefault(key, setting)
        if other.file is not setting.file:
            message = f"is also set in {other.place}; Ansible uses only one of them"
            yield setting.problem(message, "remove one of them")


def _misplaced_variable(setting: Setting) -> Iterator[Problem]:
    if setting.name not in VARIABLES:
        found = unknown_variable(setting.name)
        yield setting.problem(found.message, found.valid)
    elif not setting.scope.everywhere and setting.name not in PER_HOST:
        message = f"is set for {setting.scope} only, but it describes the whole site"
        yield setting.problem(message, "move it to group_vars/all")


def _nested(setting: Setting) -> Iterator[Problem]:
    """Find variables of hpchub inside another variable, as below a key ``vars``."""
    for node, _ in walk(setting.node):
        for key, _value in pairs(node):
            if key.value in VARIABLES:
                valid = f"begin the line with {key.value}, without {setting.name} above it"
                yield setting.problem(f"contains {key.value}, which belongs to the top level of the file", valid, key)


def strange_names(inventory: Inventory) -> Iterator[Problem]:
    """Find variables with names that contain a space or a sign, such as ``ansible_host=10.0.0.1`` in YAML."""
    for setting in inventory.settings:
        if re.search(r"[\s=:,]", setting.name):
            found = setting.problem("is not the name of a variable", 'write "NAME: value"')
            yield replace(found, entry=show(setting.name, 60))


def unused_files(inventory: Inventory, groups: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Find files in ``group_vars`` and ``host_vars`` that belong to no group or host."""
    hosts = {host for members in groups.values() for host in members}
    known = {"group": sorted({*groups, "all", "ungrouped"}), "host": sorted(hosts)}
    seen = set()
    for file in inventory.files:
        scope = file.scope
        if scope is None or scope in seen or scope.name in known[scope.kind]:
            continue
        seen.add(scope)
        names = known[scope.kind]
        short = [name for name in names if name.split(".")[0] == scope.name.split(".")[0]]
        meant = short[0] if len(short) == 1 else near(scope.name, names)
        valid = f'did you mean "{meant}"?' if meant else f"valid: {listing(names)}"
        message = f'is not read: the inventory has no {scope.kind} "{scope.name}"'
        yield Problem("", message, valid=valid, file=shown(file.path))


def ungrouped_hosts(inventory: Inventory, groups: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Find hosts in no group. A file with a password in the directory of the inventory becomes such a host."""
    for host in groups.get("ungrouped", []):
        file, line, column = inventory.names.get(host, ("", 0, 0))
        if file:
            message = "lists a host that is in no group" + (
                "" if file.endswith((".yml", ".yaml", ".ini")) else "; Ansible reads this file as a list of hosts"
            )
            valid = "add the host to a group, or move the file out of the inventory"
            yield Problem("", message, valid=valid, file=file, line=line, column=column)


def second_lists(inventory: Inventory) -> Iterator[Problem]:
    """Find lists of hosts that Ansible reads in addition to others: an older copy, or a second format."""
    first: dict[tuple[Path, str], InventoryFile] = {}
    reported: set[Path] = set()
    for file in sorted(inventory.files, key=lambda file: (file.path.suffix != ".yml", len(file.path.name))):
        if file.scope is None and file.path.parent == file.root:
            other = first.setdefault((file.root, file.path.name.split(".")[0].casefold()), file)
            if other is not file:
                reported.add(file.path)
                message = f"is read by Ansible in addition to {shown(other.path)}"
                valid = "keep one of them, and move the other out of the inventory"
                yield Problem("", message, valid=valid, file=shown(file.path), line=1, column=1)
    for (group, host), places in inventory.members.items():
        (one, number, _), *others = places
        for file, line, column in others:
            if file.root == one.root and file is not one and file.path not in reported:
                reported.add(file.path)
                message = f"is also in the group {group} in {shown(one.path)}:{number}; Ansible reads both files"
                valid = "remove it here, or move the file out of the inventory if it is a copy"
                yield Problem(f"host {host}", message, valid=valid, file=shown(file.path), line=line, column=column)


def odd_numbers(inventory: Inventory, reported: set[tuple[str, int, int]]) -> Iterator[Problem]:
    """Find numbers that YAML reads differently than a person: 010 is 8, and 1:30 is 90."""
    for setting in inventory.settings:
        if not setting.name.startswith((PREFIX, "ansible_")):
            continue
        for node, _ in scalars(setting.node):
            if node.tag != "tag:yaml.org,2002:int" or not is_plain(node):
                continue
            if re.fullmatch(r"[-+]?(?:0|[1-9][0-9_]*)", node.value):
                continue
            if (shown(setting.file.path), *position(node)) in reported:
                continue
            number = yaml.safe_load(node.value)
            message = f"is read by YAML as {number}"
            yield setting.problem(message, f"write {number}, or put text in quotes", node, value=node.value)


# Warnings


_SECRET_NAME = re.compile(r"(?i)(?:password|passphrase|secret|token|crypt_key|(?:_|^)pass)$")
_CREDENTIALS = re.compile(r"://[^/@\s:]+:[^/@\s]+@")
_EXAMPLE = re.compile(r"(?i)(?:^|[^a-z0-9-])example\.(?:org|com|net)(?![a-z0-9-])")
_ENCRYPT = "encrypt it with ansible-vault"


def clear_text(inventory: Inventory, specs: RoleSpecs) -> Iterator[Problem]:
    """Find secrets that are not encrypted, and placeholders. Messages never show the value."""
    for setting in inventory.settings:
        document = setting.file.document
        for node, way in scalars(setting.node):
            if _is_literal(node):
                name = ".".join(map(str, way))
                secret = _is_secret(setting.name, str(way[-1]) if way else "", specs)
                yield from _clear_text(setting, node, name, secret=secret)
        if setting.node is None and document is None and _SECRET_NAME.search(setting.name) and setting.value:
            yield setting.problem("is a secret in clear text", _ENCRYPT)


def _is_literal(node: yaml.ScalarNode) -> bool:
    is_text = node.tag in {"tag:yaml.org,2002:str", "tag:yaml.org,2002:int"}
    return is_text and bool(node.value.strip()) and "{{" not in node.value


def _is_secret(variable: str, key: str, specs: RoleSpecs) -> bool:
    return variable.startswith("vault_") or variable in specs.secrets or bool(_SECRET_NAME.search(key or variable))


def _clear_text(setting: Setting, node: yaml.ScalarNode, name: str, *, secret: bool) -> Iterator[Problem]:
    if PLACEHOLDER.fullmatch(node.value):
        yield setting.problem("is still a placeholder", "write the real value", node, field=name)
    elif secret:
        yield setting.problem("is a secret in clear text", _ENCRYPT, node, field=name)
    elif _CREDENTIALS.search(node.value):
        yield setting.problem("contains a password in clear text", _ENCRYPT, node, field=name)
    elif "PRIVATE KEY-----" in node.value:
        yield setting.problem("contains a private key in clear text", _ENCRYPT, node, field=name)


def example_names(inventory: Inventory) -> Iterator[Problem]:
    """Find names of the example inventory, one problem for each file."""
    found: dict[str, list[tuple[int, int]]] = {}
    for setting in inventory.settings:
        for node, _ in scalars(setting.node):
            if _EXAMPLE.search(node.value):
                found.setdefault(shown(setting.file.path), []).append(position(node))
    for name, (file, line, column) in inventory.names.items():
        if _EXAMPLE.search(name):
            found.setdefault(file, []).append((line, column))
    for file, places in found.items():
        places.sort()
        lines = list(dict.fromkeys(line for line, _ in places))
        more = f" (also in line {listing(lines[1:], 10)})" if len(lines) > 1 else ""
        yield Problem(
            "",
            f"still contains a name of the example, example.org{more}",
            valid="write the names of your site",
            file=file,
            line=places[0][0],
            column=places[0][1],
        )
