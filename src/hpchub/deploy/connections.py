"""Checks of the variables for Ansible's connections to hosts, such as ``ansible_become``. No I/O."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.messages import listing, near, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from hpchub.deploy.inventory_files import Setting
    from hpchub.model.problems import Problem

_METHODS = ("sudo", "su", "doas", "dzdo", "ksu", "machinectl", "pbrun", "pfexec", "pmrun", "run0", "sesu", "sudosu")
_CONNECTIONS = (
    *("ssh", "smart", "paramiko", "paramiko_ssh", "local", "docker", "podman", "lxc", "lxd", "incus", "jail", "chroot"),
    *("libvirt_lxc", "nsenter", "kubectl", "oc", "aws_ssm", "docker_api", "buildah"),
)
_TEXTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_sftp_extra_args")
_KNOWN = (
    *("ansible_host", "ansible_port", "ansible_user", "ansible_password", "ansible_connection", "ansible_timeout"),
    *("ansible_become", "ansible_become_user", "ansible_become_method", "ansible_become_password"),
    *("ansible_become_pass", "ansible_become_exe", "ansible_become_flags", "ansible_become_plugin"),
    *("ansible_ssh_private_key_file", "ansible_private_key_file", "ansible_ssh_pass", "ansible_ssh_password"),
    *("ansible_ssh_host", "ansible_ssh_port", "ansible_ssh_user", "ansible_ssh_timeout", "ansible_ssh_retries"),
    *("ansible_ssh_pipelining", "ansible_pipelining", "ansible_ssh_executable", "ansible_ssh_host_key_checking"),
    *("ansible_host_key_checking", "ansible_control_path", "ansible_control_path_dir", "ansible_ssh_use_tty"),
    *("ansible_ssh_transfer_method", "ansible_sftp_batch_mode", "ansible_scp_extra_args", "ansible_remote_tmp"),
    *("ansible_python_interpreter", "ansible_shell_type", "ansible_shell_executable", "ansible_shell_allow_world"),
    *("ansible_private_key", "ansible_ssh_private_key", "ansible_ssh_private_key_passphrase", "ansible_facts"),
    *_TEXTS,
)
_KEYWORDS = {
    "become": "ansible_become",
    "become_user": "ansible_become_user",
    "become_method": "ansible_become_method",
    "remote_user": "ansible_user",
    "connection": "ansible_connection",
}
_REMOVED = {
    "ansible_sudo": "ansible_become",
    "ansible_su": "ansible_become",
    "ansible_sudo_pass": "ansible_become_pass",
}
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0", "y", "n", "t", "f")
_NO = ("false", "no", "off", "0", "n", "f")
_USERS = ("ansible_user", "ansible_ssh_user")


def wrong_connections(settings: Sequence[Setting]) -> Iterator[Problem]:
    """Find variables that prevent Ansible from connecting to a host or becoming root there."""
    for setting in settings:
        if not isinstance(setting.value, (dict, list)) and "{{" in str(setting.value):
            continue
        if found := _problem(setting, settings):
            yield setting.problem(*found, setting.node, value=_written(setting))
    yield from _strange_names(settings)
    yield from _same_address(settings)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _written(setting: Setting) -> str:
    """Return a value as it was written, for a message. It is empty if nothing was written."""
    if isinstance(setting.node, yaml.ScalarNode):
        return show(setting.node.value, 60) if setting.node.value or setting.node.style else ""
    return show(setting.value, 60)


def _problem(setting: Setting, settings: Sequence[Setting]) -> tuple[str, str] | None:
    """Return what is wrong with a value, and what to write, or None."""
    text = _text(setting.value)
    if setting.name == "ansible_become":
        return _become(setting, settings)
    if setting.name in _PLUGINS:
        return _plugin(text, *_PLUGINS[setting.name])
    if setting.name in _TEXTS:
        wrong = isinstance(setting.value, (dict, list, bool))
        return ("is not text", "write all options in one line of text") if wrong else None
    if setting.name in _VALUES:
        is_valid, message, valid = _VALUES[setting.name]
        return None if is_valid(text) and not isinstance(setting.value, (dict, list, bool)) else (message, valid)
    return None


def _is_port(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,5}", text)) and 0 < int(text) < 65536


def _is_address(text: str) -> bool:
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return bool(ipaddress.IPv4Address(text))
        except ValueError:
            return False
    return bool(re.fullmatch(r"[\w.:%-]+", text)) and text.count(":") != 1


def _is_user(text: str) -> bool:
    return bool(re.fullmatch(r"[^\s@:/,;]+(?:@[^\s@:/,;]+)?", text))


def _is_private_key(text: str) -> bool:
    return bool(text) and not text.endswith(".pub")


def _is_python(text: str) -> bool:
    return bool(re.fullmatch(r"auto\w*|python3[0-9.]*|/\S+", text)) and "python2" not in text


_PORT = (_is_port, "is not a port", "write a number from 1 to 65535")
_ADDRESS = (_is_address, "is not a host's name or address", "write it without user, scheme and port")
_USER = (_is_user, "is not the name of an account", "write the account that Ansible logs in with, or remove the line")
_KEY = (_is_private_key, "is not a private key", "write its path, which does not end in .pub, or remove the line")
_PYTHON = (_is_python, "is not a Python 3", "write auto, or an absolute path such as /usr/bin/python3")
_ROOT = ("root".__eq__, "is not root, but the roles need root", "remove the line, or write root")
_VALUES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "ansible_port": _PORT,
    "ansible_ssh_port": _PORT,
    "ansible_host": _ADDRESS,
    "ansible_ssh_host": _ADDRESS,
    "ansible_user": _USER,
    "ansible_ssh_user": _USER,
    "ansible_become_user": _ROOT,
    "ansible_private_key_file": _KEY,
    "ansible_ssh_private_key_file": _KEY,
    "ansible_python_interpreter": _PYTHON,
}
_PLUGINS = {
    "ansible_become_method": (_METHODS, "a method to become root"),
    "ansible_connection": (_CONNECTIONS, "a kind of connection to a Linux host"),
}


def _become(setting: Setting, settings: Sequence[Setting]) -> tuple[str, str] | None:
    text = _text(setting.value).lower()
    if text not in _BOOLEANS:
        return "is neither true nor false", "write true or false, without quotes"
    users = {one.scope: _text(one.value) for one in settings if one.name in _USERS}
    everywhere = next((user for scope, user in users.items() if scope.everywhere), "")
    if text in _NO and users.get(setting.scope, everywhere) != "root":
        return "prevents that Ansible becomes root, which the roles need", "write true, or log in as root"
    return None


def _plugin(text: str, known: Sequence[str], what: str) -> tuple[str, str] | None:
    short = text.removeprefix("ansible.builtin.")
    if short in known or re.fullmatch(r"\w+\.\w+(?:\.\w+)+", short):
        return None
    close = near(text, known, cutoff=0.6)
    return f"is not {what}", (f'did you mean "{close}"? ' if close else "") + f"valid: {listing(known)}"


def _strange_names(settings: Iterable[Setting]) -> Iterator[Problem]:
    for setting in settings:
        name = setting.name
        if name in _KEYWORDS:
            message = "has no effect as a variable, because it is a keyword of Ansible's playbooks"
            yield setting.problem(message, f"write {_KEYWORDS[name]}")
        elif name in _REMOVED:
            yield setting.problem("is a variable that Ansible no longer reads", f"write {_REMOVED[name]}")
        elif name not in _KNOWN and (close := near(name, _KNOWN, cutoff=0.88)):
            found = setting.problem("is not a variable of Ansible's connections", f'did you mean "{close}"?')
            yield replace(found, entry=show(name, 60)[1:-1])


def _same_address(settings: Iterable[Setting]) -> Iterator[Problem]:
    """Find two hosts with the same address, as after a copied line that was not changed."""
    by_host: dict[str, dict[str, Setting]] = {}
    for setting in settings:
        if setting.scope.kind == "host" and setting.name in ("ansible_host", "ansible_port", "ansible_connection"):
            by_host.setdefault(setting.scope.name, {})[setting.name] = setting
    first: dict[tuple[str, str], str] = {}
    for host, found in by_host.items():
        values = [_text(found[name].value) if name in found else "" for name in ("ansible_host", "ansible_port")]
        if "ansible_host" not in found or "{{" in "".join(values) or "[" in host or "ansible_connection" in found:
            continue
        other = first.setdefault((values[0], values[1]), host)
        if other != host:
            message = f"is also the address of the host {other}"
            at = found["ansible_host"]
            yield at.problem(message, "write a different address", at.node, value=_written(at))


def local_for_all(settings: Iterable[Setting], groups: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Find a local connection for several hosts. Every role would then change the controller."""
    hosts = {host for members in groups.values() for host in members}
    for setting in settings:
        local = _text(setting.value).removeprefix("ansible.builtin.") == "local"
        if setting.name == "ansible_connection" and local and setting.scope.everywhere and len(hosts) > 1:
            message = f"is local for all hosts, so that {listing(sorted(hosts), 3)} would all be this machine"
            yield setting.problem(message, "set it only for the host that runs Ansible", setting.node)


def root_missing(settings: Sequence[Setting]) -> Iterator[Problem]:
    """Find a login account that is not root, in an inventory that nowhere lets Ansible become root."""
    users = [one for one in settings if one.name in _USERS and one.value and "{{" not in str(one.value)]
    if any(one.name == "ansible_become" for one in settings):
        return
    for setting in users:
        if _text(setting.value) != "root" and setting.scope.everywhere:
            message = "is not root, and the inventory has no ansible_become"
            valid = "add ansible_become: true, or run the playbooks with --become"
            yield setting.problem(message, valid, setting.node, value=show(_text(setting.value), 60))
