"""The site model: the description of a whole service in an inventory, its validation and its JSON Schema. No I/O.

:meth:`Site.from_vars` takes the inventory's variables and reports all of their problems at once. It validates
each entry separately (:mod:`hpchub.model.entries`), then compares the entries with one another
(:mod:`hpchub.model.rules`). A mistake therefore does not hide another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from hpchub.messages import did_you_mean, listing, near, show, suggestion, type_in_words
from hpchub.model import fields as f
from hpchub.model.app_rules import compare_apps
from hpchub.model.apps import APP_KINDS, App, AppBase
from hpchub.model.choice_rules import compare_choices
from hpchub.model.drain_rules import compare_drains
from hpchub.model.entries import (
    KERNEL_KINDS,
    Access,
    Backup,
    Cluster,
    Events,
    Kernel,
    KernelBase,
    Profile,
    PythonKernel,
    Queue,
    Service,
    StateStore,
    Tls,
)
from hpchub.model.entry import Entry
from hpchub.model.extensions import Extension, compare_extensions
from hpchub.model.host_places import compare_hosts, in_terms_of_hosts, warnings_of_hosts, with_hosts
from hpchub.model.notices import Announcement, Drain
from hpchub.model.operation import Canary, Mail, Monitoring
from hpchub.model.place_rules import compare_places
from hpchub.model.places import PLACE_KINDS, Place, PlaceBase
from hpchub.model.problems import Problem, SiteError, Unresolved, label, locate
from hpchub.model.rules import Draft, compare, compare_groups
from hpchub.model.sso import DEFAULT_PROVIDER, PROVIDERS, AnySso, Provider, Sso, owners
from hpchub.model.text_rules import compare_texts

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "Access",
    "Backup",
    "Cluster",
    "Events",
    "Kernel",
    "Problem",
    "Profile",
    "Queue",
    "Service",
    "Site",
    "SiteError",
    "Sso",
    "StateStore",
    "Tls",
]

_DEFAULT_KERNEL = PythonKernel(name="python3", display_name="Python 3", kind="python")


class Site(Entry):
    """A whole site. Create it with :meth:`from_vars`, which also compares the entries with one another."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=True)

    service: Service = Field(alias="hpc_service")
    """The service's name and addresses."""
    sso: AnySso = Field(alias="hpc_sso")
    """The identity provider that signs users in."""
    access: Access = Field(default=Access(), alias="hpc_access")
    """Who may use the service."""
    tls: Tls = Field(default=Tls(), alias="hpc_tls")
    """The web server's certificate."""
    state_store: StateStore = Field(default=StateStore(), alias="hpc_state_store")
    """The hub's database."""
    monitoring: Monitoring = Field(default=Monitoring(), alias="hpc_monitoring")
    """How the service is watched: its metrics and its logs."""
    mail: Mail = Field(default=Mail(), alias="hpc_mail")
    """Mail to users about sessions that are ready."""
    backup: Backup = Field(default=Backup(), alias="hpc_backup")
    """Backups of the hub host."""
    canary: Canary = Field(default=Canary(), alias="hpc_canary")
    """Regular tests of the whole service."""
    events: Events = Field(default=Events(), alias="hpc_events")
    """The record of starts and sessions in the hub's database, for the usage report."""
    clusters: list[Cluster] = Field(default=[], alias="hpc_clusters")
    """The clusters. A site without a cluster has a place."""
    places: list[Place] = Field(default=[], alias="hpc_places")
    """The places that run sessions without a batch scheduler, such as hosts with Docker."""
    profiles: list[Profile] = Field(min_length=1, alias="hpc_profiles")
    """The choices of the start form. The first one is the default."""
    kernels: list[Kernel] = Field(default=[_DEFAULT_KERNEL], alias="hpc_kernels")
    """The kernels of every notebook server. Users can add their own kernels."""
    notebook_packages: list[f.PythonPackage] = Field(default=[], alias="hpc_notebook_packages")
    """Python packages to add to the notebook environments, for the kernel of their Python. `hpchub lock` chooses
    their versions."""
    extensions: list[Extension] = Field(default=[], alias="hpc_extensions")
    """Extensions to add to JupyterLab. `hpchub lock` chooses their versions."""
    apps: list[App] = Field(default=[], alias="hpc_apps")
    """The applications of sessions, beside the notebooks."""
    drains: list[Drain] = Field(default=[], alias="hpc_drains")
    """Times of maintenance, in which no session can start. Running sessions go on."""
    announcements: list[Announcement] = Field(default=[], alias="hpc_announcements")
    """Messages for all users, without a drain."""
    install_environment: dict[f.EnvironmentName, f.EnvironmentValue] = Field(
        default={}, alias="hpc_install_environment"
    )
    """Environment variables for software installations on the hosts, for example those of a web proxy."""
    bundle: f.ControllerPath = Field(default="", alias="hpc_bundle")
    """The path of a bundle of `hpchub bundle` on the machine that runs Ansible, for hosts without a network."""

    @classmethod
    def from_vars(cls, variables: Mapping[str, Any], inventory: Mapping[str, Any] | None = None) -> Site:
        """Return the site that an inventory's variables describe.

        Args:
            variables: Any variables. Those without the prefix ``hpc_`` are ignored, unless a name is similar to ours.
            inventory: ``{"groups": {GROUP: [HOST, …]}}``, Ansible's ``groups``. The clusters are compared with them.

        Raises:
            SiteError: The variables have problems. The error lists all of them.
        """
        problems: list[Problem] = list(_unknown_variables(variables))
        parts = {name: _read_part(name, variables.get(name, _ABSENT), problems) for name in VARIABLES}
        drafts = {name: part.drafts for name, part in parts.items()}
        if not variables.get("hpc_clusters") and not variables.get("hpc_places"):
            problems.append(
                Problem("hpc_clusters", "is empty", valid="add at least one entry")
                if "hpc_clusters" in variables
                else Problem("hpc_clusters", "is missing", valid="add it to the inventory's group_vars/all")
            )
        groups = None if inventory is None else plain(inventory.get("groups", {}))
        problems += [*compare_places(drafts), *compare_hosts(drafts, groups)]
        drafts = with_hosts(drafts)
        more = [*compare(drafts), *compare_choices(drafts), *compare_drains(drafts), *compare_texts(drafts)]
        more += [*compare_apps(drafts), *compare_extensions(drafts)]
        more += compare_groups(drafts, groups) if groups is not None else []
        problems += in_terms_of_hosts(more, problems)
        if problems:
            raise SiteError(problems)
        found = {name: part.value for name, part in parts.items() if part.value is not _ABSENT}
        for name in ("hpc_clusters", "hpc_profiles"):
            found[name] = [draft.value for draft in drafts[name]]
        return cls.model_validate(found)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema of the variables. :meth:`from_vars` checks more than a schema can express."""
        return cls.model_json_schema(by_alias=True)

    def cluster(self, name: str) -> Cluster | None:
        """Return the cluster with a name, or None."""
        return next((cluster for cluster in self.clusters if cluster.name == name), None)

    def place(self, name: str) -> Place | None:
        """Return the place with a name, or None."""
        return next((place for place in self.places if place.name == name), None)

    def profile(self, key: str) -> Profile | None:
        """Return the profile with a key, or None."""
        return next((profile for profile in self.profiles if profile.key == key), None)

    def offered(self) -> list[Profile]:
        """Return the profiles that users can start: the profile, its queue and its cluster are enabled."""
        return [profile for profile in self.profiles if profile.enabled and self._is_open(profile)]

    def _is_open(self, profile: Profile) -> bool:
        if profile.place:
            place = self.place(profile.place)
            return place is not None and place.enabled
        cluster = self.cluster(profile.cluster)
        queue = cluster.queue(profile.queue) if cluster is not None else None
        return cluster is not None and cluster.enabled and queue is not None and queue.enabled

    def warnings(self) -> list[Problem]:
        """Return settings that are permitted, but probably a mistake."""
        found = []
        access = self.access
        if not (access.allowed_groups or access.allowed_users or access.admin_groups or access.admin_users):
            found.append(
                Problem("hpc_access", "permits nobody to sign in", valid="set allowed_groups or allowed_users")
            )
        if not access.job_groups:
            found.append(
                Problem(
                    "hpc_access",
                    "does not permit the hub to submit any jobs",
                    valid="list Unix groups of the submit host",
                    field="job_groups",
                )
            )
        names = [profile.display_name for profile in self.profiles]
        found += [
            Problem(
                f"hpc_profiles[{i}]{label({'key': profile.key})}",
                "is also the name of another profile in the form",
                field="display_name",
                value=show(profile.display_name),
            )
            for i, profile in enumerate(self.profiles)
            if profile.display_name in names[:i]
        ]
        if not self.offered():
            message = "offers nothing, because every profile, or its queue or cluster, has enabled: false"
            found.append(Problem("hpc_profiles", message, valid="enable one, so that users can start sessions"))
        used = {profile.where for profile in self.profiles}
        return (
            found
            + [
                Problem("hpc_profiles", f"has no profile for {what} {show(each.name)}")
                for what, entries in (("cluster", self.clusters), ("place", self.places))
                for each in entries
                if each.enabled and each.name not in used
            ]
            + list(warnings_of_hosts(self.places))
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all fields with their defaults for Ansible, as JSON types. Secrets are in plain text."""
        data: dict[str, Any] = _revealed(self.model_dump(mode="python"))
        return data


PREFIX = "hpc_"
VARIABLES: dict[str, str] = {str(info.alias): name for name, info in Site.model_fields.items()}
"""The inventory's variables, each with its field of :class:`Site`."""


# Reading

_ABSENT: Any = object()
_MAPPINGS: dict[str, type[Entry]] = {
    "hpc_service": Service,
    "hpc_access": Access,
    "hpc_tls": Tls,
    "hpc_state_store": StateStore,
    "hpc_monitoring": Monitoring,
    "hpc_canary": Canary,
    "hpc_mail": Mail,
    "hpc_backup": Backup,
    "hpc_events": Events,
}
_LISTS: dict[str, type[Entry]] = {
    "hpc_clusters": Cluster,
    "hpc_profiles": Profile,
    "hpc_extensions": Extension,
    "hpc_drains": Drain,
    "hpc_announcements": Announcement,
}


_UNIONS: dict[str, tuple[type[Entry], Mapping[str, type[Entry]]]] = {
    "hpc_apps": (AppBase, APP_KINDS),
    "hpc_kernels": (KernelBase, KERNEL_KINDS),
    "hpc_places": (PlaceBase, PLACE_KINDS),
}
"""The lists of entries with a ``kind``: the base class of the entries, and the class of each kind."""


class _Environment(Entry):
    """``hpc_install_environment``, as an entry."""

    hidden: ClassVar[bool] = True

    variables: dict[f.EnvironmentName, f.EnvironmentValue]


class _Packages(Entry):
    """``hpc_notebook_packages``, as an entry."""

    packages: list[f.PythonPackage]


class _Bundle(Entry):
    """``hpc_bundle``, as an entry."""

    path: f.ControllerPath


@dataclass
class Part:
    """The result of reading one variable.

    Attributes:
        value: The value. It is absent if the variable is missing or invalid as a whole.
        drafts: One draft for a variable that is a mapping, or one draft per entry for a list.
    """

    value: Any = _ABSENT
    drafts: list[Draft] = field(default_factory=list)


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value in plain Python types, without a template engine's subclasses of text, list and mapping."""
    if depth > 30:  # deeper than any valid value: YAML anchors can form a cycle
        return show(value)
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def _revealed(value: Any) -> Any:
    """Return a value with its secrets in plain text."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if isinstance(value, list) else value


def _read(kind: type[Entry], name: str, raw: Any, problems: list[Problem]) -> Draft:
    """Read one entry and append its problems to ``problems``."""
    try:
        return Draft(name, raw, kind, value=kind.model_validate(raw))
    except ValidationError as error:
        details = [
            detail for detail in error.errors(include_url=False) if detail["type"] != "default_factory_not_called"
        ]
        problems += [_explain(kind, name, raw, detail) for detail in details]
        return Draft(name, raw, kind, bad=frozenset(detail["loc"] for detail in details))


def _read_part(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read one variable."""
    info = Site.model_fields[VARIABLES[name]]
    if raw is _ABSENT:
        if info.is_required():
            problems.append(Problem(name, "is missing", valid="add it to the inventory's group_vars/all"))
            return Part()
        default = info.get_default()
        entries = default if isinstance(default, list) else [default]
        return Part(drafts=[Draft(name, {}, type(entry), value=entry) for entry in entries if isinstance(entry, Entry)])
    raw = plain(raw)
    if read := _SPECIAL.get(name):
        return read(name, raw, problems)
    if name in _MAPPINGS:
        draft = _read(_MAPPINGS[name], name, raw, problems)
        return Part(draft.value, [draft])
    return _read_list(name, raw, problems, may_be_empty=not info.is_required())


def _read_sso(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read the single sign-on. Its provider decides which keys it has."""
    if not isinstance(raw, Mapping):
        draft = _read(PROVIDERS[DEFAULT_PROVIDER], name, raw, problems)
        return Part(draft.value, [draft])
    choice = _read(Provider, name, {key: raw[key] for key in ("provider",) if key in raw}, problems)
    if isinstance(choice.value, Provider):
        draft = _read(PROVIDERS[choice.value.provider], name, raw, problems)
        return Part(draft.value, [draft])
    return Part(drafts=[Draft(name, raw, Sso, bad=frozenset({("provider",)}))])


def _read_list(name: str, raw: Any, problems: list[Problem], *, may_be_empty: bool) -> Part:
    """Read a variable that is a list of entries."""
    if isinstance(raw, Unresolved):
        problems.append(Problem(name, raw.message, valid=raw.valid))
        return Part()
    if not isinstance(raw, list):
        message = f"is {type_in_words(raw)}, not a list"
        problems.append(Problem(name, message, value=show(raw), valid='write one "- " per entry'))
        return Part()
    if not raw and not may_be_empty:
        problems.append(Problem(name, "is empty", valid="add at least one entry"))
    drafts = [_read_item(name, f"{name}[{i}]{label(item)}", item, problems) for i, item in enumerate(raw)]
    return Part([draft.value for draft in drafts], drafts)


def _read_environment(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read the variables for installations. Messages do not show their values, which may contain a proxy's password."""
    try:
        return Part(_Environment.model_validate({"variables": raw}).variables)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_explain(_Environment, name, raw, {**detail, "loc": detail["loc"][1:]}) for detail in details]
        return Part()


def _read_bundle(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read the path of the bundle."""
    try:
        return Part(_Bundle.model_validate({"path": raw}).path)
    except ValidationError as error:
        details = error.errors(include_url=False)
        found = [_explain(_Bundle, name, {"path": raw}, detail) for detail in details]
        problems += [replace(problem, field="") for problem in found]
        return Part()


def _read_packages(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read the list of packages."""
    try:
        return Part(_Packages.model_validate({"packages": raw}).packages)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problem = _explain(_Packages, name, {"packages": raw}, detail)
            problems.append(replace(problem, entry=name + problem.field.removeprefix("packages"), field=""))
        return Part()


_SPECIAL: dict[str, Callable[[str, Any, list[Problem]], Part]] = {
    "hpc_install_environment": _read_environment,
    "hpc_bundle": _read_bundle,
    "hpc_notebook_packages": _read_packages,
    "hpc_sso": _read_sso,
}


def _read_item(name: str, entry: str, raw: Any, problems: list[Problem]) -> Draft:
    """Read one entry of a list."""
    if name in _LISTS:
        return _read(_LISTS[name], entry, raw, problems)
    base, kinds = _UNIONS[name]
    if not isinstance(raw, Mapping):
        return _read(base, entry, raw, problems)
    kind = raw.get("kind")
    if isinstance(kind, str) and kind in kinds:
        return _read(kinds[kind], entry, raw, problems)
    if "kind" not in raw:
        problems.append(Problem(entry, "is missing", field="kind", valid=f"valid: {listing(kinds)}"))
    elif isinstance(kind, Unresolved):
        problems.append(Problem(entry, kind.message, field="kind", valid=kind.valid))
    else:
        valid = did_you_mean(kind, list(kinds))
        problems.append(Problem(entry, "is unknown", field="kind", value=show(kind), valid=valid))
    return Draft(entry, raw, base, bad=frozenset({("kind",)}))


def _explain(kind: type[Entry], entry: str, raw: Any, detail: ErrorDetails) -> Problem:
    """Return a pydantic error as a problem."""
    location = detail["loc"]
    error, context = detail["type"], detail.get("ctx", {})
    if error == "extra_forbidden":
        return _unknown_key(kind, entry, raw, location)
    at = locate(entry, raw, location)
    if isinstance(at.value, Unresolved):
        return Problem(at.entry, at.value.message, field=at.field, valid=at.value.valid)
    if error == "missing":
        return Problem(at.entry, "is missing", field=at.field, valid="add it")
    value = "" if kind.hidden or "environment" in location or not location else show(at.value)
    if error == f.COMPLAINT:
        # pydantic reports a mapping's key as the value.
        if location and location[-1] == "[key]":
            value = ""
        if isinstance(at.value, Mapping):
            value = ""
        return Problem(at.entry, context["message"], field=at.field, value=value, valid=context["valid"])
    message, valid = _STANDARD.get(error, (detail["msg"].lower(), ""))
    if error in ("list_type", "dict_type", "model_type", "model_attributes_type"):
        message = f"is {type_in_words(detail['input'])}, {message}"
    if error == "literal_error":
        valid = f"valid: {context['expected'].replace(chr(39), '')}"
    if error == "too_short":
        value = ""
    return Problem(at.entry, message, field=at.field, value=value, valid=valid)


def _unknown_key(kind: type[Entry], entry: str, raw: Any, location: tuple[int | str, ...]) -> Problem:
    """Return the problem of a key that the entry does not have."""
    at = locate(entry, raw, location[:-1])
    known = _keys_at(kind, location[:-1])
    if issubclass(kind, Sso) and len(location) == 1 and (others := owners(str(location[0]))):
        return Problem(
            at.entry,
            f"belongs to provider {listing(others)}",
            field=show(location[0], 40)[1:-1],
            valid=f"remove it, or set provider: {others[0]}",
        )
    return Problem(
        at.entry,
        "is an unknown key",
        field=at.field,
        value=show(location[-1], 40),
        valid=suggestion(_SYNONYMS.get(str(location[-1]), location[-1]), known, "valid keys"),
    )


_SYNONYMS = {
    "partition": "queue",
    "time": "runtime",
    "walltime": "runtime",
    "mem": "memory",
    "cpus": "cores",
    "ncpus": "cores",
    "ntasks": "cores",
    "gres": "gpus",
    "title": "display_name",
    "constraint": "node_constraint",
    "features": "node_constraint",
}
"""The names that schedulers use for keys of ours."""
_STANDARD: dict[str, tuple[str, str]] = {
    "bool_type": ("is neither true nor false", "write true or false, without quotes"),
    "dict_type": ("not a mapping", "write NAME: value lines"),
    "invalid_key": ("has a key that is not text", "put the key in quotes"),
    "list_type": ("not a list", 'write one "- " per item, or [a, b]'),
    "literal_error": ("is unknown", ""),
    "model_attributes_type": ("not a mapping", "write key: value lines"),
    "model_type": ("not a mapping", "write key: value lines"),
    "too_short": ("is empty", "write at least one"),
}


def _keys_at(kind: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the valid keys of the entry at a location."""
    for step in location:
        if isinstance(step, int):
            continue
        annotation = kind.model_fields[step].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                kind = candidate
    return [info.alias or name for name, info in kind.model_fields.items()]


def looks_like_ours(name: str) -> bool:
    """Return whether a variable has the prefix of our variables, or a name similar to one of them."""
    return name.casefold().replace("-", "_").startswith(PREFIX) or near(name, VARIABLES, cutoff=0.9) is not None


def controller_files(site: Site) -> list[tuple[str, str, str]]:
    """Return the controller's files that a site uses, as (entry, field, path). A path may be empty."""
    tls = [("hpc_tls", name, getattr(site.tls, name)) for name in ("certificate", "key", "ca")]
    names = ("tls_certificate", "tls_key", "tls_ca")
    store = [("hpc_state_store", name, getattr(site.state_store, name)) for name in names]
    sso = [("hpc_sso", name, getattr(site.sso, name)) for name in site.sso.files]
    return [*tls, *sso, *store]


def _unknown_variables(variables: Mapping[str, Any]) -> Iterator[Problem]:
    """Find variables with misspelt names. Ansible itself ignores them without a message."""
    for name in sorted(str(name) for name in variables):
        if name in VARIABLES or not looks_like_ours(name):
            continue
        yield unknown_variable(name)


def unknown_variable(name: str) -> Problem:
    """Return the problem of a variable with a misspelt name."""
    # All names share the prefix, so only the rest shows which one was meant.
    suffixes = {known.removeprefix(PREFIX): known for known in VARIABLES}
    close = near(name.removeprefix("hpchub_").removeprefix(PREFIX), suffixes) or ""
    meant = suffixes.get(close) or near(name, VARIABLES, cutoff=0.9)
    valid = f'did you mean "{meant}"?' if meant else f"valid: {listing(VARIABLES)}"
    return Problem(show(name, 60)[1:-1], "is not a variable of hpchub", valid=valid)


def variable_problems(name: str, value: Any) -> list[Problem]:
    """Return the problems of a single variable, without a comparison with other variables."""
    problems: list[Problem] = []
    _read_part(name, value, problems)
    return problems
