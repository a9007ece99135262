"""The arguments of the roles, as their specifications define them, and the values that an inventory gives them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from hpchub.messages import did_you_mean, near, show, type_in_words
from hpchub.model.fields import AMBIGUOUS
from hpchub.model.patterns import takes_too_long
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class RoleSpecs:
    """The arguments of all roles.

    Attributes:
        arguments: The specification of each argument.
        prefixes: The beginnings of the arguments' names.
        derived: The arguments that hpchub derives from its own variables, each with its expression.
    """

    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    derived: Mapping[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> set[str]:
        """The arguments that are secrets."""
        return {name for name, option in self.arguments.items() if option.get("no_log")}


def read_specs(root: Path) -> RoleSpecs:
    """Read the specifications of the roles.

    Args:
        root: The directory with ``roles`` and ``group_vars``: the checkout or the collection.
    """
    arguments: dict[str, Mapping[str, Any]] = {}
    for path in sorted(root.glob("roles/*/meta/argument_specs.yml")):
        specs = _load(path)
        for entry_point in specs["argument_specs"].values():
            arguments |= entry_point.get("options") or {}
    derived: dict[str, str] = {}
    for path in sorted(root.glob("group_vars/all/*.yml")):
        derived |= {name: str(value) for name, value in (_load(path) or {}).items() if name in arguments}
    prefixes = tuple(sorted(f"{path.name}_" for path in root.glob("roles/*"))) if arguments else ()
    return RoleSpecs(arguments, prefixes, derived)


def _load(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a safe loader)


def misspelt_argument(name: str, specs: RoleSpecs) -> Problem | None:
    """Return the problem of a variable that has the prefix of a role, or nearly its name, but is no argument of it."""
    if name in specs.arguments:
        return None
    folded = name.casefold().replace("-", "_")
    prefix = next((prefix for prefix in specs.prefixes if folded.startswith(prefix)), "")
    close = near(name, specs.arguments, cutoff=0.85 if prefix else 0.93)
    if not prefix and not close:
        return None
    valid = f'did you mean "{close}"?' if close else f"give a variable of your own a name without {prefix}"
    return Problem(show(name, 60)[1:-1], "is not an argument of a role", valid=valid)


def derived_argument(name: str, specs: RoleSpecs) -> Problem | None:
    """Return the problem of an argument that an inventory sets for all hosts, although hpchub derives it."""
    if name not in specs.derived:
        return None
    own = re.search(r"hpchub_model\.([a-z_]+(?:\.[a-z_]+)?)", specs.derived[name])
    valid = f"set hpc_{own[1]} instead" if own else "remove it"
    return Problem(name, "has no effect, because hpchub derives it from its own variables", valid=valid)


# Values


def wrong_argument(name: str, value: Any, specs: RoleSpecs) -> Iterator[Problem]:
    """Yield the problems of a value. The value of a secret is never shown.

    Args:
        name: The argument.
        value: Its value, without expressions.
        specs: The arguments of all roles.
    """
    option = specs.arguments[name]
    yield from _wrong(name, "", value, option, hidden=bool(option.get("no_log")))


def _wrong(name: str, at: str, value: Any, option: Mapping[str, Any], *, hidden: bool) -> Iterator[Problem]:
    def problem(message: str, valid: str = "") -> Problem:
        return Problem(name, message, field=at, value="" if hidden else show(value), valid=valid)

    kind = option.get("type", "str")
    expected = _type_problem(value, kind)
    if expected:
        yield problem(f"is {type_in_words(value)}, not {expected[0]}", expected[1])
        return
    choices = option.get("choices")
    if choices and value not in choices:
        yield problem("is unknown", did_you_mean(value, [str(choice) for choice in choices]))
    elif kind in ("int", "str", "path"):
        found = _range_problem(name, value)
        if found:
            yield problem(*found)
    elif kind == "list":
        for i, item in enumerate(value):
            inner = {"type": option.get("elements", "raw"), "options": option.get("options")}
            yield from _wrong(name, f"{at}[{i}]", item, inner, hidden=hidden)
        if name.endswith(_NETWORK_NAMES):
            yield from _wrong_networks(name, value)
    elif kind == "dict" and option.get("options"):
        yield from _wrong_keys(name, at, value, option["options"], hidden=hidden)


def _wrong_keys(
    name: str, at: str, value: Mapping[str, Any], options: Mapping[str, Any], *, hidden: bool
) -> Iterator[Problem]:
    for key, item in value.items():
        if key not in options:
            valid = did_you_mean(key, list(options))
            yield Problem(name, "is an unknown key", field=at, value=show(key, 40), valid=valid)
        else:
            yield from _wrong(name, f"{at}.{key}".lstrip("."), item, options[key], hidden=hidden)
    for key, inner in options.items():
        if inner.get("required") and key not in value:
            yield Problem(name, "is missing", field=f"{at}.{key}".lstrip("."), valid="add it")


def _type_problem(value: Any, kind: str) -> tuple[str, str] | None:
    """Return the expected type and what to write, or None if a value has the type.

    Ansible converts values only for its check. The role then uses the value as it was written, so that "no" is true.
    """
    if kind not in _TYPES:
        return None
    types, words, valid = _TYPES[kind]
    if isinstance(value, bool) and kind != "bool":
        return words, valid
    if kind in ("str", "path") and isinstance(value, (int, float)):
        valid = "put it in quotes"
    return None if isinstance(value, types) else (words, valid)


_TYPES: dict[str, tuple[type | tuple[type, ...], str, str]] = {
    "int": (int, "a whole number", "write a whole number, without quotes"),
    "float": ((int, float), "a number", "write it without quotes"),
    "bool": (bool, "true or false", "write true or false, without quotes"),
    "str": (str, "text", "write text"),
    "path": (str, "text", "write text"),
    "list": ((list, tuple), "a list", 'write one "- " per item, or [a, b]'),
    "dict": (dict, "a mapping", "write NAME: value lines"),
}
_NETWORK_NAMES = ("_networks", "_trusted_proxies", "_addresses")
_OPTIONAL_PORTS = ("reverse_proxy_redirect_port",)
_MINIMUM = {"reverse_proxy_max_connections": 256, "jupyterhub_token_days": 1, "jupyterhub_max_sessions": 1}
"""What the roles check on the hosts too."""
_KEYS = {
    "reverse_proxy_oidc_crypto_passphrase": (r"(?:[A-Za-z0-9]{32,})?", "write at least 32 letters and digits"),
    "configurable_http_proxy_auth_token": (r"(?:[A-Za-z0-9]{32,})?", "write at least 32 letters and digits"),
    "jupyterhub_crypt_key": (r"(?:[0-9a-f]{64}(?:;[0-9a-f]{64})?)?", "write 64 hexadecimal digits"),
    "jupyterhub_cookie_secret": (r"(?:[0-9a-f]{64})?", "write 64 hexadecimal digits"),
}


def _range_problem(name: str, value: Any) -> tuple[str, str] | None:
    if isinstance(value, int):
        if name.endswith("_port"):
            lowest = 0 if name in _OPTIONAL_PORTS else 1
            inside = lowest <= value <= 65535
            return None if inside else ("is not a port", f"write a number from {lowest} to 65535")
        lowest = _MINIMUM.get(name, 0)
        return None if value >= lowest else (f"is below {lowest}", f"write a number of at least {lowest}")
    return _text_problem(name, value) if value or name in _KEYS else None


def _text_problem(name: str, value: str) -> tuple[str, str] | None:
    if name in _KEYS and not re.fullmatch(_KEYS[name][0], value):
        return "is not a key of the right form", f"{_KEYS[name][1]}, or leave it empty to generate one"
    if name.endswith(("_directory", "_socket", "_file")) and not value.startswith("/"):
        return "is not an absolute path", "begin with /"
    if name == "reverse_proxy_oidc_user_pattern":
        return _pattern_problem(value)
    if name.endswith("_directory") and not value.strip("/"):
        return "is the root directory", "name a directory for hpchub alone"
    return None


def _pattern_problem(value: str) -> tuple[str, str] | None:
    """Return what is wrong with a regular expression that Apache uses, as far as Python knows its constructs."""
    try:
        groups = re.compile(value).groups
    except re.error as error:
        known = not error.msg.startswith(("bad escape", "unknown extension"))
        return (f"is not a regular expression: {error}", "correct it") if known else None
    if not groups:
        return "has no group", r"put the part that is the name in parentheses, as in ^(.*)@cl\.org$"
    return AMBIGUOUS if not re.search(r"\(\?[^:]", value) and takes_too_long(value) else None


def _wrong_networks(name: str, value: Iterable[Any]) -> Iterator[Problem]:
    for i, item in enumerate(value):
        if isinstance(item, str):
            try:
                everything = ipaddress.ip_network(item).prefixlen == 0
            except ValueError as error:
                message = f"is not an address or a network: {error}".split(": '")[0]
                valid = "write an address or a network, as in 10.20.0.0/16"
                yield Problem(name, message, field=f"[{i}]", value=show(item), valid=valid)
            else:
                if everything:
                    valid = "name the addresses that are meant"
                    yield Problem(name, "contains every address", field=f"[{i}]", value=show(item), valid=valid)
