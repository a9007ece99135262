"""The whole check of an inventory: its files, its variables, the roles' arguments and the controller's files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.bundle.archive import verify
from hpchub.bundle.manifest import BundleError, missing_software
from hpchub.deploy import certificates, connections, inventory_checks, site_locks
from hpchub.deploy.inventory_files import ALL, Inventory, Setting, read_inventory, shown
from hpchub.deploy.role_specs import RoleSpecs, derived_argument, misspelt_argument, read_specs, wrong_argument
from hpchub.deploy.software import Software, software_of
from hpchub.deploy.yaml_text import VAULT_ADVICE, scalars
from hpchub.messages import show
from hpchub.model.fields import url_host
from hpchub.model.problems import Problem, SiteError, Unresolved
from hpchub.model.site import Site, controller_files, looks_like_ours, plain, variable_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


@dataclass
class Found:
    """The result of a check.

    Attributes:
        problems: The problems.
        warnings: What is permitted, but probably a mistake.
        site: The site, if its variables are valid.
        software: The software that its roles install, if its variables are valid.
        variables: The variables of hpchub, without expressions.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    site: Site | None = None
    software: Software | None = None
    variables: dict[str, Any] = field(default_factory=dict)


def check_inventory(
    sources: Iterable[str | Path],
    value_of: Callable[[str], Any],
    names: Sequence[str],
    groups: Mapping[str, list[str]],
    *,
    root: Path,
    ignore: Sequence[str],
    undecrypted: Iterable[str | Path],
    read_file: Callable[[Path], bytes],
) -> Found:
    """Check an inventory.

    Args:
        sources: The inventories, as Ansible was given them.
        value_of: Evaluates a variable of the first host.
        names: The names of all variables of the first host.
        groups: The groups of the inventory, each with its hosts.
        root: The directory with the roles.
        ignore: Regular expressions of the names that Ansible ignores in the directory of an inventory.
        undecrypted: Files that Ansible could not decrypt, so that their variables are unknown.
        read_file: Reads a file on the controller and decrypts it.
    """
    inventory = read_inventory(sources, ignore)
    specs = read_specs(root)
    unknown = [Path(path) for path in undecrypted]
    found = Found(variables={name: value_of(name) for name in names if looks_like_ours(name)})
    problems = [*inventory.problems, *inventory_checks.misplaced(inventory, specs)]
    problems += [*inventory_checks.strange_names(inventory), *inventory_checks.second_lists(inventory)]
    problems += connections.wrong_connections(inventory.settings)
    if inventory.hosts_known:
        problems += inventory_checks.unused_files(inventory, groups)
        found.warnings += inventory_checks.ungrouped_hosts(inventory, groups)
        problems += connections.local_for_all(inventory.settings, groups)
    found.warnings += connections.root_missing(inventory.settings)
    problems += _arguments(inventory, specs, names, value_of)
    problems += _per_host(inventory)
    try:
        found.site = Site.from_vars(found.variables, {"groups": groups} if inventory.hosts_known else None)
    except SiteError as error:
        hidden = bool(inventory.unreadable or unknown)
        problems += [one for one in error.problems if not (hidden and _follows(one, inventory, bool(unknown)))]
    else:
        files, warned = _controller_files(found.site, read_file)
        sources = list(sources)
        found.software = software_of(found.site, root, names, value_of, sources)
        problems += [*files, *bundle_problems(found.site.bundle, found.software)]
        problems += site_locks.problems(found.software.base, found.software.further, sources)
        found.warnings += [*found.site.warnings(), *warned]
    found.warnings += inventory_checks.clear_text(inventory, specs)
    if not _is_lab(found.variables.get("hpc_service")):
        found.warnings += inventory_checks.example_names(inventory)
    located = [inventory.located(problem) for problem in problems]
    reported = {(one.file, one.line, one.column) for one in located}
    located += inventory_checks.odd_numbers(inventory, reported)
    found.problems = _sorted(located)
    places = {(one.file, one.line, one.column) for one in found.problems if one.line}
    warnings = [inventory.located(warning) for warning in found.warnings]
    found.warnings = _sorted(one for one in warnings if (one.file, one.line, one.column) not in places)
    return found


def _is_lab(service: Any) -> bool:
    """Return whether the service runs on this machine only, where names of an example do no harm."""
    url = service.get("url") if isinstance(service, dict) else None
    return isinstance(url, str) and url_host(url).endswith("localhost")


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems in the order of the files, each once."""
    seen = dict.fromkeys(problems)
    by_text: dict[tuple[str, str, str, str, int], Problem] = {}
    for one in seen:
        by_text.setdefault((one.entry, one.field, one.message, one.file, one.line), one)
    return list(by_text.values())


def _follows(problem: Problem, inventory: Inventory, undecrypted: bool) -> bool:
    """Return whether a problem may only follow from a file that cannot be read."""
    if problem.message == "is missing" and not problem.field:
        return problem.entry in inventory.guessed or undecrypted
    if undefined := re.search(r"'(\w+)' is undefined", problem.message):
        return undecrypted or undefined[1] in inventory.guessed or not inventory.guessed
    return False


# Arguments of roles


def _arguments(
    inventory: Inventory, specs: RoleSpecs, names: Sequence[str], value_of: Callable[[str], Any]
) -> Iterator[Problem]:
    """Check the arguments of roles that an inventory sets, for any group or host."""
    settings = [setting for setting in inventory.settings if setting.name in specs.arguments]
    written = {setting.name for setting in inventory.settings}
    for name in sorted({*names} - written):
        if problem := misspelt_argument(name, specs):
            yield problem
    for setting in inventory.settings:
        if problem := misspelt_argument(setting.name, specs):
            yield setting.problem(problem.message, problem.valid)
    for setting in settings:
        if setting.scope.everywhere and (problem := derived_argument(setting.name, specs)):
            yield replace(problem, file=shown(setting.file.path), line=setting.line, column=setting.column)
            continue
        value = setting.value
        if setting.node is None or _has_expression(setting.node):
            if not setting.scope.everywhere or setting.name not in names:
                continue
            value = value_of(setting.name)
        for problem in _unresolved(setting.name, value) or wrong_argument(setting.name, plain(value), specs):
            yield _place(inventory, problem, setting)


def _unresolved(name: str, value: Any) -> list[Problem]:
    return [Problem(name, value.message, valid=value.valid)] if isinstance(value, Unresolved) else []


def _place(inventory: Inventory, problem: Problem, setting: Setting) -> Problem:
    """Add the place of a problem in a setting."""
    only = Inventory(files=inventory.files, settings=[replace(setting, scope=ALL)])
    return only.located(problem)


def _has_expression(node: Any) -> bool:
    return any("{{" in one.value or one.tag.startswith("!") for one, _ in scalars(node))


def _per_host(inventory: Inventory) -> Iterator[Problem]:
    """Check the variables that a group or host may set for itself."""
    for setting in inventory.settings:
        here = setting.name in inventory_checks.PER_HOST and not setting.scope.everywhere
        if here and setting.node is not None and not _has_expression(setting.node):
            for problem in variable_problems(setting.name, setting.value):
                yield _place(inventory, problem, setting)


# Files on the controller


def _controller_files(site: Site, read_file: Callable[[Path], bytes]) -> tuple[list[Problem], list[Problem]]:
    """Check the files that a site names: problems, and warnings."""
    problems: list[Problem] = []
    contents: dict[str, bytes] = {}
    paths = {name: (entry, path) for entry, name, path in controller_files(site) if path}
    for name, (entry, path) in paths.items():
        try:
            contents[name] = read_file(Path(path))
        except OSError:
            valid = "give the path of a file on the machine that runs Ansible"
            message = "is not a readable file on the controller"
            problems.append(Problem(entry, message, field=name, value=show(path), valid=valid))
        except ValueError as error:
            message = f"cannot be decrypted: {error}"
            problems.append(Problem(entry, message, field=name, value=show(path), valid=VAULT_ADVICE))
    now = datetime.now(UTC)
    complaints: list[certificates.Complaint] = []
    if "certificate" in contents and "key" in contents:
        host = url_host(site.service.url)
        complaints += certificates.check(
            contents,
            [host, site.service.api_host],
            wildcard=f"*.{host}" if site.service.user_subdomains else "",
            now=now,
        )
    if "tls_certificate" in contents and "tls_key" in contents:
        store = {name: contents[f"tls_{name}"] for name in ("certificate", "key", "ca") if f"tls_{name}" in contents}
        found = certificates.check(store, [site.state_store.host] if site.state_store.host else [], now=now)
        complaints += [replace(one, field=f"tls_{one.field}") for one in found]
    if "ca_bundle" in contents:
        complaints += certificates.check_bundle(contents["ca_bundle"], now)
    warnings: list[Problem] = []
    for one in complaints:
        entry, path = paths[one.field]
        text = one.valid.replace("FILE", path)
        problem = Problem(entry, one.message, field=one.field, value=show(path), valid=text)
        (warnings if one.warning else problems).append(problem)
    return problems, [*warnings, *_open_key(paths, "key"), *_open_key(paths, "tls_key")]


def bundle_problems(path: str, software: Software) -> Iterator[Problem]:
    """Check that the bundle is complete, unchanged, and contains the software of the roles."""
    if not path:
        return
    valid = "make it again with: hpchub bundle INVENTORY"
    try:
        fault = missing_software(verify(Path(path)), software.needs())
    except BundleError as error:
        fault = str(error)
    except OSError as error:
        fault, valid = f"cannot be compared with a lock file: {error}", "correct the path of the lock file"
    if fault:
        yield Problem("hpc_bundle", fault, value=show(path), valid=valid)


def _open_key(paths: Mapping[str, tuple[str, str]], name: str) -> Iterator[Problem]:
    """Warn about a private key that is not encrypted and that other accounts can read."""
    entry, path = paths.get(name, ("", ""))
    try:
        if path and Path(path).stat().st_mode & 0o044 and not Path(path).read_bytes().startswith(b"$ANSIBLE_VAULT"):
            valid = f"encrypt it with: ansible-vault encrypt {path}"
            yield Problem(
                entry, "is a private key that other accounts can read", field=name, value=show(path), valid=valid
            )
    except OSError:
        return
