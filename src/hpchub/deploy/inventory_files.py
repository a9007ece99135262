"""What the model cannot see: keys written twice, role arguments misspelt, and a certificate that lacks a name."""

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
    """The keys that are written twice in one mapping, of which the last one counts.

    Ansible can refuse them itself, but then it names neither file nor line and says nothing of any other mistake.

    Args:
        sources: inventories, as ``ansible_inventory_sources`` has them: directories or files.
    """
    return [problem for path in _files(sources) for problem in _duplicates_in(path)]


def _files(sources: Iterable[str | Path]) -> list[Path]:
    """The YAML files of inventories, each once."""
    found: dict[Path, None] = {}
    for source in map(Path, sources):
        directory = source if source.is_dir() else source.parent
        tops = directory.iterdir() if source.is_dir() else [source]
        below = (path for name in ("group_vars", "host_vars") for path in (directory / name).rglob("*"))
        for path in sorted([*tops, *below]):
            # The inventory itself may be a program or an ini file; only its variables may lack a suffix.
            suffixes = _SUFFIXES if path.parent != directory else _SUFFIXES - {""}
            if path.suffix in suffixes and path.is_file():
                found[path] = None
    return list(found)


def _duplicates_in(path: Path) -> Iterator[Problem]:
    try:
        document = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeError, yaml.YAMLError):  # Ansible has said so, or has its own way to read it
        return
    if document is not None:
        yield from _duplicates(document, path)


def _duplicates(top: yaml.Node, path: Path) -> Iterator[Problem]:
    # An anchor may lead in a circle: every node is looked at once.
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
                f"is written twice, in line {lines[key.value]} already",
                field=show(key.value, 40),
                valid="leave one of them out",
            )
        lines.setdefault(key.value, line)


def misspelt_arguments(names: Iterable[str], roles: Path) -> list[Problem]:
    """The variables whose names nearly are a role's argument.

    Args:
        names: all variables of a host.
        roles: the directory of the roles, with their argument specifications.
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
    """That the certificate which a site gives lacks the users' names, where users have names of their own.

    Without a certificate in the description the role makes one that has them.
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
            f"is not valid for {needed}, which user_subdomains of hpc_service needs; "
            f"it names {listing(names) if names else 'no host'}",
            field="certificate",
            value=show(str(path)),
            valid=f"have one issued that names {needed} too, or set user_subdomains to false",
        )
    ]


def _names(path: Path) -> list[str]:
    """The host names of the first certificate in a file, in small letters; none where there is no certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
