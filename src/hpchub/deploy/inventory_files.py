"""Checks of files outside the model: invalid YAML, duplicate keys, misspelt arguments, certificates' host names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from cryptography import x509

from hpchub.messages import listing, near, show
from hpchub.model.fields import url_host
from hpchub.model.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hpchub.model.site import Site

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SUFFIXES = {"", ".yml", ".yaml"}


def duplicate_keys(sources: Iterable[str | Path]) -> list[Problem]:
    """Find keys that occur twice in one mapping. YAML silently uses the last one.

    Ansible can reject duplicate keys, but its message lacks the file and the line, and it stops at the first mistake.

    Args:
        sources: Inventories, as in ``ansible_inventory_sources``: directories or files.
    """
    return [problem for path in _files(sources) for problem in _duplicates_in(path)]


def yaml_errors(sources: Iterable[str | Path]) -> list[str]:
    """Return ``FILE:LINE: ERROR`` for each file of an inventory that is not valid YAML.

    Ansible rejects such a file too, but its message does not always name the file.

    Args:
        sources: Inventories, as in ``ansible_inventory_sources``: directories or files.
    """
    return [f"{path}:{error}" for path in _files(sources) if (error := _yaml_error(path))]


def _yaml_error(path: Path) -> str:
    """Return the line and the reason, or an empty text if the file is valid or cannot be read."""
    try:
        yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return f"{line}: {error.context + ', ' if error.context else ''}{error.problem}"
    except (OSError, UnicodeError, yaml.YAMLError):
        return ""
    return ""


def _files(sources: Iterable[str | Path]) -> list[Path]:
    """Return the YAML files of inventories, each once."""
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        directory = source if source.is_dir() else source.parent
        tops = directory.iterdir() if source.is_dir() else [source]
        below = (path for name in ("group_vars", "host_vars") for path in (directory / name).rglob("*"))
        for path in sorted([*tops, *below]):
            # A file without a suffix may be a program or an ini file, unless it contains variables.
            suffixes = _SUFFIXES if path.parent != directory else _SUFFIXES - {""}
            if path.suffix in suffixes and path.is_file():
                found[path] = None
    return list(found)


def _duplicates_in(path: Path) -> Iterator[Problem]:
    try:
        document = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeError, yaml.YAMLError):  # Ansible reports this itself, or reads the file in another way
        return
    if document is not None:
        yield from _duplicates(document, path)


def _duplicates(top: yaml.Node, path: Path) -> Iterator[Problem]:
    # Anchors can form a cycle, so visit every node once.
    waiting, seen = [top], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(value for _, value in node.value)
            yield from _repeated(node, path)


def _repeated(mapping: yaml.MappingNode, path: Path) -> Iterator[Problem]:
    lines: dict[str, int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            yield Problem(
                f"{path}:{line}",
                f"is a duplicate: line {lines[key.value]} has the same key",
                field=show(key.value, 40),
                valid="remove one of them",
            )
        lines.setdefault(key.value, line)


def misspelt_arguments(names: Iterable[str], roles: Path) -> list[Problem]:
    """Find variables with names that are similar to an argument of a role, but not equal.

    Args:
        names: The names of all variables of a host.
        roles: The directory of the roles, with their argument specifications.
    """
    known: set[str] = set()
    for path in roles.glob("*/meta/argument_specs.yml"):
        specs = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a safe loader)
        for entry_point in specs["argument_specs"].values():
            known |= set(entry_point.get("options") or {})
    prefixes = tuple({f"{path.name}_" for path in roles.iterdir()}) if known else ()
    return [
        Problem(name, "is not an argument of a role", valid=f'did you mean "{close}"?')
        for name in sorted(names)
        if name.startswith(prefixes) and name not in known and (close := near(name, known, cutoff=0.85))
    ]


def uncovered_names(site: Site) -> list[Problem]:
    """Check that the site's certificate covers the users' host names, if each user has a separate host name.

    A site without a certificate needs no check: the role creates one that covers these names.
    """
    path = Path(site.tls.certificate)
    if not (site.service.user_subdomains and site.tls.certificate and path.is_file()):
        return []
    needed = f"*.{url_host(site.service.url)}"
    names = _names(path)
    if needed in names:
        return []
    return [
        Problem(
            "hpc_tls",
            f"is not valid for {needed}, which user_subdomains of hpc_service requires; "
            f"it is valid for {listing(names) if names else 'no host'}",
            field="certificate",
            value=show(str(path)),
            valid=f"use a certificate that is also valid for {needed}, or set user_subdomains to false",
        )
    ]


def _names(path: Path) -> list[str]:
    """Return the host names of the first certificate in a file, in lower case."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
