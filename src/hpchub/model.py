"""The site model: what an inventory says of a whole service, its validation and its JSON Schema. No I/O.

:meth:`Site.from_vars` takes the inventory's variables and finds everything that is wrong with them at once. Each entry
is read on its own, and then compared with the others as far as it could be read, so that one mistake hides no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails

from hpchub import fields as f
from hpchub.options import option_complaint
from hpchub.problems import (
    Problem,
    SiteError,
    Unresolved,
    label,
    listing,
    near,
    place,
    show,
    suggestion,
    type_complaint,
)
from hpchub.schedulers import SCHEDULERS

__all__ = [
    "Access",
    "Cluster",
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

KNOWN_SCHEDULERS = ("slurm", "multislurm", "torque", "moab", "pbs", "gridengine", "uge", "htcondor", "lsf")
"""The words of the inventory; those in ``hpchub.schedulers.SCHEDULERS`` work."""

SchedulerName = Annotated[str, f.Choice(tuple(SCHEDULERS), KNOWN_SCHEDULERS)]


class Entry(BaseModel):
    """What all parts of the model have in common: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    hidden: ClassVar[bool] = False
    """Whether messages must not show what was written here, because a secret may stand in the wrong place."""


# The service


class NotebookPorts(Entry):
    """The ports that notebook servers listen on, both ends included."""

    first: f.HighPort = 20000
    """The lowest port."""
    last: f.HighPort = 29999
    """The highest port."""

    @model_validator(mode="after")
    def _in_order(self) -> NotebookPorts:
        if self.first > self.last:
            f.complain(f"begins at {self.first}, above its end {self.last}", "write the lower port as first")
        return self


class Service(Entry):
    """How the service is called and reached."""

    url: f.ServiceUrl
    """The address that users open: https, no path."""
    name: f.Line = "Jupyter"
    """The name shown on pages."""
    support: f.OptionalLine = ""
    """Whom users turn to, shown on error pages."""
    bind_port: f.Port = Field(default_factory=lambda data: f.url_port(data["url"]))
    """The port that the web server listens on; the address's port by default."""
    api_port: f.Port = 8445
    """The port of the cluster-side door, which serves the hub's API to running jobs and nothing else."""
    api_host: f.HostName = Field(default_factory=lambda data: f.url_host(data["url"]))
    """The name by which compute nodes reach the hub host; the address's host by default."""
    notebook_ports: NotebookPorts = NotebookPorts()
    """The ports that notebook servers listen on."""


class Claims(Entry):
    """Which claims of the identity provider say what."""

    user: f.ClaimName = "preferred_username"
    """The local account's name."""
    groups: f.ClaimName = "groups"
    """The groups."""
    mail: f.ClaimName = "email"
    """The mail address."""


class Sso(Entry):
    """The identity provider."""

    hidden: ClassVar[bool] = True

    provider: Annotated[str, f.Choice(("oidc",), ("saml", "cas", "shibboleth", "kerberos", "pam"))] = "oidc"
    """The protocol."""
    metadata_url: f.MetadataUrl
    """The provider's metadata."""
    client_id: f.Word = "hpchub"
    """The name under which the provider knows this service."""
    client_secret: Annotated[SecretStr, f.Secret()]
    """The secret that goes with it: an expression that names a variable of the vault."""
    scopes: list[f.Word] = Field(default=["openid", "profile", "email"], min_length=1)
    """The scopes to ask for."""
    claims: Claims = Claims()
    """Which claims say who somebody is."""
    ca_bundle: f.ControllerPath = ""
    """A file on the controller with the certificates that vouch for the provider; empty for the system's."""


class Access(Entry):
    """Who may use the service. Nobody is, who is not named here."""

    allowed_groups: list[f.SsoGroup] = []
    """Groups of the identity provider whose members may sign in."""
    allowed_users: list[f.UnixName] = []
    """People who may sign in."""
    blocked_users: list[f.UnixName] = []
    """People who may not, whatever else is said."""
    admin_groups: list[f.SsoGroup] = []
    """Groups of the identity provider whose members administer the hub."""
    admin_users: list[f.UnixName] = []
    """People who administer the hub."""
    job_groups: list[f.UnixName] = []
    """Unix groups of the submit host whose members' jobs the hub may submit."""
    minimum_uid: f.Uid = 1000
    """The least uid of an account whose jobs the hub may submit."""


class Tls(Entry):
    """The web server's certificate: files on the controller. All empty: the role makes a self-signed one."""

    certificate: f.ControllerPath = ""
    """The certificate, with its chain behind it."""
    key: f.ControllerPath = ""
    """Its private key."""
    ca: f.ControllerPath = ""
    """The certificate of the authority that signed it, for jobs that have no other way to know it."""


class StateStore(Entry):
    """Where the hub keeps its state."""

    backend: Annotated[str, f.Choice(("sqlite",), ("postgresql",))] = "sqlite"
    """The database."""


# Clusters


class Submit(Entry):
    """How the hub reaches a cluster's scheduler."""

    method: Literal["ssh", "local"]
    """``ssh`` to a login node, or ``local`` where the hub host has the scheduler's commands itself."""
    host: f.OptionalHostName = ""
    """For ``ssh``: the login node's name in the inventory."""

    @model_validator(mode="after")
    def _host_for_ssh(self) -> Submit:
        if self.method == "ssh" and not self.host:
            f.complain('has the method "ssh" and no host', "name one of the cluster's login nodes as host")
        if self.method == "local" and self.host:
            f.complain('has the method "local" and a host', "leave out the host, or write the method ssh")
        return self


class Software(Entry):
    """Where the notebook environments of a cluster are."""

    path: f.Path = "/opt/hpchub"
    """The directory, the same on every node of the cluster."""
    shared: Annotated[bool, Field(strict=True)] = False
    """Whether all nodes see the same directory: it is then written once, from a login node."""


class Queue(Entry):
    """A queue of a cluster, and the most that a profile may ask of it."""

    name: f.QueueName
    """The scheduler's name for it: a partition, for Slurm."""
    max_cores: f.Cores
    """Cores of a job at most."""
    max_memory: f.Memory
    """Memory of a job at most."""
    max_runtime: f.Runtime
    """Time of a job at most."""
    max_gpus: f.Gpus = 0
    """GPUs of a job at most."""


class Cluster(Entry):
    """A cluster. Its nodes are the inventory's group ``cluster_NAME``."""

    name: f.ClusterName
    """The cluster's name."""
    scheduler: SchedulerName
    """The scheduler that runs its jobs."""
    submit: Submit
    """How the hub reaches the scheduler."""
    networks: list[f.Network] = Field(min_length=1)
    """The networks from which its compute nodes reach the hub host."""
    software: Software = Software()
    """Where its notebook environments are."""
    queues: list[Queue] = Field(min_length=1)
    """The queues that profiles may name."""

    def queue(self, name: str) -> Queue | None:
        """The queue of that name, if there is one."""
        return next((queue for queue in self.queues if queue.name == name), None)


class Profile(Entry):
    """A choice of the start form: what a job gets, in words that mean the same for every scheduler."""

    key: f.ProfileKey
    """What identifies it for good: in addresses, in saved state."""
    display_name: f.Line
    """What the form shows."""
    description: f.OptionalLine = ""
    """A sentence below it."""
    cluster: f.ClusterReference
    """The cluster that runs it."""
    queue: f.QueueReference
    """The queue of that cluster."""
    cores: f.Cores
    """Cores, all on one node."""
    memory: f.Memory
    """Memory of the whole job."""
    runtime: f.Runtime
    """Time after which the scheduler ends it."""
    gpus: f.Gpus = 0
    """GPUs."""
    account: f.Account = ""
    """The account that is charged; empty for the user's own."""
    reservation: f.Reservation = ""
    """A reservation to run in."""
    node_constraint: f.NodeConstraint = ""
    """Features that the node must have, in the scheduler's own words."""
    options: list[f.BatchOption] = []
    """Further options of the scheduler, one an item."""
    default_kernel: f.KernelReference = ""
    """The kernel that a new notebook gets."""
    interface: Literal["lab", "notebook"] = "lab"
    """JupyterLab or the classic notebook."""

    @property
    def memory_mib(self) -> int:
        """The memory in MiB."""
        return f.mebibytes(self.memory)

    @property
    def runtime_seconds(self) -> int:
        """The time in seconds."""
        return f.seconds(self.runtime)


# Kernels


class KernelBase(Entry):
    """What every kind of kernel has."""

    name: f.KernelName
    """The directory's name, as notebooks remember it."""
    display_name: f.Line = Field(default_factory=lambda data: data["name"])
    """What the launcher shows; the name by default."""
    clusters: list[f.ClusterReference] = []
    """The clusters that have it; none named means all."""
    environment: dict[f.EnvironmentName, f.EnvironmentValue] = {}
    """Environment variables of the kernel's process."""

    def on(self, cluster: str) -> bool:
        """Whether a cluster has it."""
        return not self.clusters or cluster in self.clusters


class PythonKernel(KernelBase):
    """The notebook environment's own Python."""

    kind: Literal["python"]
    """The kind."""
    language: f.LanguageName = "python"
    """The language."""


class RKernel(KernelBase):
    """R, with the package IRkernel."""

    kind: Literal["r"]
    """The kind."""
    command: f.Argument = "R"
    """R on the PATH, or its absolute path."""
    packages: list[f.PackageName] = []
    """Packages of the operating system that bring R and IRkernel."""
    language: f.LanguageName = "R"
    """The language."""


class VenvKernel(KernelBase):
    """A Python virtual environment with ipykernel in it."""

    kind: Literal["venv"]
    """The kind."""
    path: f.Path
    """The environment's directory."""
    language: f.LanguageName = "python"
    """The language."""


class CondaKernel(KernelBase):
    """A conda prefix; without a command it holds ipykernel."""

    kind: Literal["conda"]
    """The kind."""
    prefix: f.Path
    """The prefix."""
    command: list[f.Argument] = []
    """What to start in it, with ``{connection_file}``; ipykernel by default."""
    language: f.LanguageName = "python"
    """The language."""


class ModuleKernel(KernelBase):
    """A kernel that environment modules bring."""

    kind: Literal["module"]
    """The kind."""
    modules: list[f.ModuleName] = Field(min_length=1)
    """The modules, loaded in this order."""
    command: list[f.Argument] = []
    """What to start, with ``{connection_file}``; ipykernel by default."""
    language: f.LanguageName = "python"
    """The language."""


class ContainerKernel(KernelBase):
    """A kernel inside a container image."""

    kind: Literal["container"]
    """The kind."""
    image: f.Path
    """The image: a file, or a directory for Charliecloud."""
    runtime: Literal["apptainer", "charliecloud"] = "apptainer"
    """What runs it."""
    binds: list[f.Bind] = []
    """Further directories of the node inside the container; the home is always there."""
    command: list[f.Argument] = []
    """What to start, with ``{connection_file}``; ipykernel by default."""
    language: f.LanguageName = "python"
    """The language."""


class CommandKernel(KernelBase):
    """A kernel that a command starts."""

    kind: Literal["command"]
    """The kind."""
    command: list[f.Argument] = Field(min_length=1)
    """The command, with ``{connection_file}``."""
    language: f.LanguageName
    """The language."""


AnyKernel = PythonKernel | RKernel | VenvKernel | CondaKernel | ModuleKernel | ContainerKernel | CommandKernel
Kernel = Annotated[AnyKernel, Field(discriminator="kind")]
KERNEL_KINDS: dict[str, type[AnyKernel]] = {
    "python": PythonKernel,
    "r": RKernel,
    "venv": VenvKernel,
    "conda": CondaKernel,
    "module": ModuleKernel,
    "container": ContainerKernel,
    "command": CommandKernel,
}

_DEFAULT_KERNEL = PythonKernel(name="python3", display_name="Python 3", kind="python")


class Site(Entry):
    """A whole site. Made by :meth:`from_vars`, which also compares the entries with one another."""

    model_config = ConfigDict(validate_by_alias=True, validate_by_name=True)

    service: Service = Field(alias="hpc_service")
    """How the service is called and reached."""
    sso: Sso = Field(alias="hpc_sso")
    """The identity provider."""
    access: Access = Field(default=Access(), alias="hpc_access")
    """Who may use the service."""
    tls: Tls = Field(default=Tls(), alias="hpc_tls")
    """The web server's certificate."""
    state_store: StateStore = Field(default=StateStore(), alias="hpc_state_store")
    """Where the hub keeps its state."""
    clusters: list[Cluster] = Field(min_length=1, alias="hpc_clusters")
    """The clusters."""
    profiles: list[Profile] = Field(min_length=1, alias="hpc_profiles")
    """The choices of the start form; the first is the default."""
    kernels: list[Kernel] = Field(default=[_DEFAULT_KERNEL], alias="hpc_kernels")
    """The kernels of every notebook server; users' own are found as well."""
    install_environment: dict[f.EnvironmentName, f.EnvironmentValue] = Field(
        default={}, alias="hpc_install_environment"
    )
    """Environment variables for installing software on the hosts, as those of a web proxy."""

    @classmethod
    def from_vars(cls, variables: Mapping[str, Any], inventory: Mapping[str, Any] | None = None) -> Site:
        """The site that an inventory's variables describe.

        Args:
            variables: any variables; only those named ``hpc_…``, or nearly so, are looked at.
            inventory: ``{"groups": {GROUP: [HOST, …]}}`` as Ansible's ``groups``, to compare the clusters with.

        Raises:
            SiteError: with everything that is wrong.
        """
        problems: list[Problem] = list(_unknown_variables(variables))
        parts = {
            name: _read_part(name, variables[name] if name in variables else _ABSENT, problems) for name in VARIABLES
        }
        problems += _compare(parts)
        if inventory is not None:
            problems += _compare_groups(parts["hpc_clusters"], inventory)
        if problems:
            raise SiteError(problems)
        return cls.model_validate({name: part.value for name, part in parts.items() if part.value is not _ABSENT})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema of the variables; what it cannot say, :meth:`from_vars` checks."""
        return cls.model_json_schema(by_alias=True)

    def cluster(self, name: str) -> Cluster | None:
        """The cluster of that name, if there is one."""
        return next((cluster for cluster in self.clusters if cluster.name == name), None)

    def profile(self, key: str) -> Profile | None:
        """The profile of that key, if there is one."""
        return next((profile for profile in self.profiles if profile.key == key), None)

    def warnings(self) -> list[Problem]:
        """What is permitted and probably not meant."""
        found = []
        access = self.access
        if not (access.allowed_groups or access.allowed_users or access.admin_groups or access.admin_users):
            found.append(
                Problem("hpc_access", "permits nobody to sign in", valid="name allowed_groups or allowed_users")
            )
        if not access.job_groups:
            found.append(
                Problem(
                    "hpc_access",
                    "lets the hub submit nobody's jobs",
                    valid="name Unix groups of the submit host",
                    field="job_groups",
                )
            )
        for cluster in self.clusters:
            if not any(profile.cluster == cluster.name for profile in self.profiles):
                found.append(Problem("hpc_profiles", f"has no profile for cluster {show(cluster.name)}"))
        return found

    def as_dict(self) -> dict[str, Any]:
        """All of it with its defaults, for Ansible: JSON-able, secrets in plain text."""
        data = self.model_dump(mode="python")
        data["sso"]["client_secret"] = self.sso.client_secret.get_secret_value()
        return data


VARIABLES: dict[str, str] = {str(info.alias): name for name, info in Site.model_fields.items()}
"""The inventory's variables, and the field of :class:`Site` for each."""


# Reading

_ABSENT: Any = object()
_MAPPINGS: dict[str, type[Entry]] = {
    "hpc_service": Service,
    "hpc_sso": Sso,
    "hpc_access": Access,
    "hpc_tls": Tls,
    "hpc_state_store": StateStore,
}
_E = TypeVar("_E", bound=Entry)


@dataclass(frozen=True)
class Draft:
    """An entry as far as it could be read.

    Attributes:
        name: what messages call it.
        raw: what was written.
        kind: what it was read as.
        bad: the locations in it that have a problem.
        value: the entry, or None where it has a problem.
    """

    name: str
    raw: Any
    kind: type[Entry] | None = None
    bad: frozenset[tuple[int | str, ...]] = frozenset()
    value: Entry | None = None

    def get(self, name: str) -> Any:
        """A field's value or default; None where there is none or it has a problem."""
        if self.kind is None or not isinstance(self.raw, Mapping) or name not in self.kind.model_fields:
            return None
        if any(location[:1] == (name,) for location in self.bad):
            return None
        if self.value is not None:
            return getattr(self.value, name)
        info = self.kind.model_fields[name]
        return self.raw.get(name, None if info.is_required() else info.get_default())

    def written(self, name: str) -> Any:
        """A field as it was written, right or wrong."""
        return self.raw.get(name) if isinstance(self.raw, Mapping) else None

    def items(self, name: str, kind: type[Entry]) -> list[Draft]:
        """The entries of a field that is a list."""
        raw = self.written(name)
        if not isinstance(raw, list):
            return []
        value = getattr(self.value, name) if self.value is not None else [None] * len(raw)
        return [
            Draft(
                name=f"{self.name} {name}[{i}]{label(item)}",
                raw=item,
                kind=kind,
                bad=frozenset(location[2:] for location in self.bad if location[:2] == (name, i)),
                value=value[i],
            )
            for i, item in enumerate(raw)
        ]


@dataclass
class Part:
    """One variable as far as it could be read: a mapping is one draft, a list as many as it has entries."""

    value: Any = _ABSENT
    drafts: list[Draft] = field(default_factory=list)


def plain(value: Any, depth: int = 0) -> Any:
    """The same in plain Python types: a template engine's own kinds of text, list and mapping are left behind."""
    if depth > 30:
        return show(value)
    if isinstance(value, str):
        return str.__str__(value) if type(value) is not str else value
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    return value


def _read(kind: type[Entry], name: str, raw: Any, problems: list[Problem]) -> Draft:
    """Read one entry; what is wrong is added to ``problems``."""
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
        if not info.is_required():
            default = info.get_default()
            return Part(
                _ABSENT,
                [_draft_of(default)]
                if isinstance(default, Entry)
                else [_draft_of(item) for item in default]
                if isinstance(default, list)
                else [],
            )
        problems.append(Problem(name, "is missing", valid="describe it in the inventory's group_vars/all"))
        return Part()
    raw = plain(raw)
    if name == "hpc_install_environment":
        return _read_environment(name, raw, problems)
    if name in _MAPPINGS:
        draft = _read(_MAPPINGS[name], name, raw, problems)
        return Part(draft.value, [draft])
    if isinstance(raw, Unresolved):
        problems.append(Problem(name, raw.message))
        return Part()
    if not isinstance(raw, list):
        problems.append(
            Problem(
                name, f"is {type_complaint(raw)}, not a list", value=show(raw), valid='write one "- " for each entry'
            )
        )
        return Part()
    if not raw and info.is_required():
        problems.append(Problem(name, "is empty", valid="describe at least one"))
    drafts = [_read_item(name, f"{name}[{i}]{label(item)}", item, problems) for i, item in enumerate(raw)]
    return Part([draft.value for draft in drafts], drafts)


def _draft_of(value: Entry) -> Draft:
    return Draft("default", {}, type(value), value=value)


def _read_environment(name: str, raw: Any, problems: list[Problem]) -> Part:
    """Read variables for installations; their values may hold a proxy's password and are not shown."""

    class Environment(Entry):
        hidden: ClassVar[bool] = True
        variables: dict[f.EnvironmentName, f.EnvironmentValue]

    try:
        return Part(Environment.model_validate({"variables": raw}).variables)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            problems.append(_explain(Environment, name, raw, {**detail, "loc": detail["loc"][1:]}))
        return Part()


def _read_item(name: str, entry: str, raw: Any, problems: list[Problem]) -> Draft:
    """Read one entry of a list."""
    if name == "hpc_clusters":
        return _read(Cluster, entry, raw, problems)
    if name == "hpc_profiles":
        return _read(Profile, entry, raw, problems)
    if not isinstance(raw, Mapping):
        return _read(KernelBase, entry, raw, problems)
    kind = raw.get("kind")
    if isinstance(kind, str) and kind in KERNEL_KINDS:
        return _read(KERNEL_KINDS[kind], entry, raw, problems)
    if "kind" not in raw:
        problems.append(Problem(entry, "is missing", field="kind", valid=f"valid: {listing(KERNEL_KINDS)}"))
    else:
        problems.append(
            Problem(
                entry,
                "is unknown",
                field="kind",
                value=show(kind),
                valid=_did_you_mean(kind, list(KERNEL_KINDS)),
            )
        )
    return Draft(entry, raw, KernelBase, bad=frozenset({("kind",)}))


def _did_you_mean(name: object, known: Sequence[str]) -> str:
    close = near(name, known)
    return (f'did you mean "{close}"? ' if close else "") + f"valid: {listing(known)}"


def _explain(kind: type[Entry], entry: str, raw: Any, detail: ErrorDetails) -> Problem:
    """A pydantic error in words."""
    location = detail["loc"]
    error, context = detail["type"], detail.get("ctx", {})
    if error == "extra_forbidden":
        at = place(entry, raw, location[:-1])
        known = _keys_at(kind, raw, location[:-1])
        return Problem(
            at.entry,
            "is an unknown key",
            field=at.field,
            value=show(location[-1], 40),
            valid=suggestion(location[-1], known, "valid keys"),
        )
    at = place(entry, raw, location)
    if isinstance(at.value, Unresolved):
        return Problem(at.entry, at.value.message, field=at.field)
    if error == "missing":
        return Problem(at.entry, "is missing", field=at.field, valid="write it")
    value = "" if kind.hidden or "environment" in location or not location else show(at.value)
    if error == f.COMPLAINT:
        # A key of a mapping is a value that was written too.
        if location and location[-1] == "[key]":
            value = ""
        if isinstance(at.value, Mapping):
            value = ""
        return Problem(at.entry, context["message"], field=at.field, value=value, valid=context["valid"])
    message, valid = _STANDARD.get(error, (detail["msg"].lower(), ""))
    if error in ("list_type", "dict_type", "model_type", "model_attributes_type"):
        message = f"is {type_complaint(detail['input'])}, {message}"
    if error == "literal_error":
        valid = f"valid: {context['expected'].replace(chr(39), '')}"
    if error == "too_short":
        value = ""
    return Problem(at.entry, message, field=at.field, value=value, valid=valid)


_STANDARD: dict[str, tuple[str, str]] = {
    "bool_type": ("is neither true nor false", "write true or false, without quotes"),
    "dict_type": ("not a mapping", "write NAME: value lines"),
    "invalid_key": ("has a key that is not text", "put it in quotes"),
    "list_type": ("not a list", 'write one "- " for each item, or [a, b]'),
    "literal_error": ("is unknown", ""),
    "model_attributes_type": ("not a mapping", "write key: value lines"),
    "model_type": ("not a mapping", "write key: value lines"),
    "too_short": ("is empty", "write at least one"),
}


def _keys_at(kind: type[BaseModel], raw: Any, location: Sequence[int | str]) -> list[str]:
    """The valid keys of the entry at a location."""
    for step in location:
        if isinstance(step, int):
            continue
        annotation = kind.model_fields[step].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                kind = candidate
    return list(kind.model_fields)


def looks_like_ours(name: str) -> bool:
    """Whether a variable's name is ours, begins as ours do, or nearly is one of ours."""
    return name.startswith("hpc_") or near(name, VARIABLES, cutoff=0.9) is not None


def controller_files(site: Site) -> list[tuple[str, str, str]]:
    """The files on the controller that a site names: entry, field, path; the path is empty where none is named."""
    tls = [("hpc_tls", name, getattr(site.tls, name)) for name in ("certificate", "key", "ca")]
    return [*tls, ("hpc_sso", "ca_bundle", site.sso.ca_bundle)]


def _unknown_variables(variables: Mapping[str, Any]) -> Iterator[Problem]:
    """Names that begin as ours do, and names that nearly are ours: Ansible itself would pass over them in silence."""
    for name in sorted(str(name) for name in variables):
        if name in VARIABLES:
            continue
        if name.startswith("hpc_"):
            yield Problem(
                show(name, 60)[1:-1], "is not a variable of hpchub", valid=suggestion(name, list(VARIABLES), "valid")
            )
        elif close := near(name, VARIABLES, cutoff=0.9):
            yield Problem(show(name, 60)[1:-1], "is not a variable of hpchub", valid=f'did you mean "{close}"?')


# Comparing


def _compare(parts: Mapping[str, Part]) -> Iterator[Problem]:
    """Everything that only two entries together can be wrong about."""
    clusters, profiles, kernels = (parts[name].drafts for name in ("hpc_clusters", "hpc_profiles", "hpc_kernels"))
    for draft in parts["hpc_service"].drafts:
        yield from _compare_ports(draft)
    for draft in parts["hpc_sso"].drafts:
        scopes = draft.get("scopes")
        if scopes is not None and "openid" not in scopes:
            yield Problem(
                draft.name, "has no openid, without which there is no sign-in", field="scopes", valid="add openid"
            )
    for draft in parts["hpc_access"].drafts:
        yield from _compare_access(draft)
    for draft in parts["hpc_tls"].drafts:
        yield from _compare_tls(draft)
    yield from _duplicates(clusters, "name", "hpc_clusters")
    for cluster in clusters:
        yield from _duplicates(cluster.items("queues", Queue), "name", cluster.name)
    yield from _duplicates(profiles, "key", "hpc_profiles")
    yield from _duplicate_kernels(kernels)
    for kernel in kernels:
        yield from _compare_kernel(kernel, clusters)
    for profile in profiles:
        yield from _compare_profile(profile, clusters, kernels)


def _duplicates(drafts: Sequence[Draft], name: str, where: str) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, draft in enumerate(drafts):
        value = draft.written(name)
        if not isinstance(value, str):
            continue
        if value in first:
            yield Problem(
                draft.name,
                f"is taken already by entry {first[value]}",
                field=name,
                value=show(value),
                valid=f"give each its own {name}",
            )
        first.setdefault(value, i)


def _compare_ports(service: Draft) -> Iterator[Problem]:
    bind, api, ports = (service.get(name) for name in ("bind_port", "api_port", "notebook_ports"))
    if bind is None and service.get("url") and service.written("bind_port") is None:
        bind = f.url_port(service.get("url"))
    if bind is not None and bind == api:
        yield Problem(
            service.name,
            "is the port of the service itself",
            field="api_port",
            value=show(api),
            valid="choose another port",
        )
    if isinstance(ports, NotebookPorts):
        for name, port in (("bind_port", bind), ("api_port", api)):
            if port is not None and ports.first <= port <= ports.last:
                yield Problem(
                    service.name,
                    f"lies among the notebook_ports, {ports.first} to {ports.last}",
                    field=name,
                    value=show(port),
                    valid="choose a port outside, or other notebook_ports",
                )


def _compare_access(access: Draft) -> Iterator[Problem]:
    blocked = access.get("blocked_users") or []
    for name in ("allowed_users", "admin_users"):
        for user in access.get(name) or []:
            if user in blocked:
                yield Problem(
                    access.name,
                    "is in blocked_users as well",
                    field=name,
                    value=show(user),
                    valid="leave one of them out",
                )


def _compare_tls(tls: Draft) -> Iterator[Problem]:
    certificate, key, ca = (tls.get(name) for name in ("certificate", "key", "ca"))
    if None not in (certificate, key) and bool(certificate) != bool(key):
        missing = "key" if certificate else "certificate"
        yield Problem(
            tls.name, "is empty", field=missing, valid="give certificate and key, or neither for a self-signed one"
        )
    if ca and certificate == "":
        yield Problem(
            tls.name,
            "is given without a certificate that it signed",
            field="ca",
            value=show(ca),
            valid="give certificate and key too",
        )


def _names(drafts: Sequence[Draft], name: str) -> list[str]:
    return list(dict.fromkeys(value for draft in drafts if isinstance(value := draft.written(name), str)))


def _unknown(draft: Draft, name: str, value: str, what: str, known: Sequence[str]) -> Problem:
    valid = _did_you_mean(value, known) if known else "there is none"
    return Problem(draft.name, f"is not {what}", field=name, value=show(value), valid=valid)


def _duplicate_kernels(kernels: Sequence[Draft]) -> Iterator[Problem]:
    """Two clusters may each have their own kernel of one name; one cluster may not have two."""
    for i, kernel in enumerate(kernels):
        name, mine = kernel.written("name"), kernel.get("clusters")
        for j, other in enumerate(kernels[:i]):
            theirs = other.get("clusters")
            apart = mine and theirs and not set(mine) & set(theirs)
            if isinstance(name, str) and other.written("name") == name and not apart:
                yield Problem(
                    kernel.name,
                    f"is taken already by entry {j}",
                    field="name",
                    value=show(name),
                    valid="give each its own name, or clusters that differ",
                )
                break


def _compare_kernel(kernel: Draft, clusters: Sequence[Draft]) -> Iterator[Problem]:
    known = _names(clusters, "name")
    for name in kernel.get("clusters") or []:
        if clusters and name not in known:
            yield _unknown(kernel, "clusters", name, "a cluster of hpc_clusters", known)
    command = kernel.get("command")
    if isinstance(command, list) and command and not any("{connection_file}" in argument for argument in command):
        yield Problem(
            kernel.name,
            "has no {connection_file}, with which the kernel finds its notebook server",
            field="command",
            value=show(command),
            valid='add it, as in [python, -m, ipykernel_launcher, -f, "{connection_file}"]',
        )
    if kernel.kind is RKernel and isinstance(command, str) and not _is_command(command):
        yield Problem(
            kernel.name,
            "is neither a command's name nor an absolute path",
            field="command",
            value=show(command),
            valid="write R, or as in /opt/R/4.4/bin/R",
        )


def _is_command(command: str) -> bool:
    return command.isprintable() and " " not in command and (command.startswith("/") or "/" not in command)


def _compare_profile(profile: Draft, clusters: Sequence[Draft], kernels: Sequence[Draft]) -> Iterator[Problem]:
    name = profile.get("cluster")
    known = _names(clusters, "name")
    cluster = next((draft for draft in clusters if draft.written("name") == name), None) if name else None
    if name and clusters and cluster is None:
        yield _unknown(profile, "cluster", name, "a cluster of hpc_clusters", known)
    if cluster is not None:
        yield from _compare_queue(profile, cluster)
        scheduler = cluster.get("scheduler")
        for option in profile.get("options") or []:
            if scheduler and (complaint := option_complaint(scheduler, option)):
                yield Problem(profile.name, complaint[0], field="options", value=show(option), valid=complaint[1])
    kernel = profile.get("default_kernel")
    if kernel and isinstance(name, str):
        there = [draft for draft in kernels if not (only := draft.get("clusters")) or name in only]
        names = list(dict.fromkeys(n for draft in there if isinstance(n := _kernel_name(draft), str)))
        if kernel not in names:
            yield _unknown(profile, "default_kernel", kernel, f"a kernel of cluster {show(name)}", names)


def _kernel_name(draft: Draft) -> Any:
    return draft.value.name if isinstance(draft.value, KernelBase) else draft.written("name")


def _compare_queue(profile: Draft, cluster: Draft) -> Iterator[Problem]:
    """A profile against its queue's limits."""
    name, where = profile.get("queue"), show(cluster.written("name"))
    queues = cluster.items("queues", Queue)
    if not name or not queues:
        return
    queue = next((draft for draft in queues if draft.written("name") == name), None)
    if queue is None:
        yield _unknown(profile, "queue", name, f"a queue of cluster {where}", _names(queues, "name"))
        return
    for wanted, limit, size in (
        ("cores", "max_cores", int),
        ("memory", "max_memory", f.mebibytes),
        ("runtime", "max_runtime", f.seconds),
        ("gpus", "max_gpus", int),
    ):
        asked, most = profile.get(wanted), queue.get(limit)
        if asked is not None and most is not None and size(asked) > size(most):
            yield Problem(
                profile.name,
                f"is above {limit} {show(most)} of queue {show(name)} of cluster {where}",
                field=wanted,
                value=show(asked),
                valid=f"ask for at most {most}, or raise {limit} of the queue",
            )


def _compare_groups(clusters: Part, inventory: Mapping[str, Any]) -> Iterator[Problem]:
    """The clusters against the inventory's groups."""
    groups = {
        str(group): [str(host) for host in hosts]
        for group, hosts in plain(inventory.get("groups", {})).items()
        if isinstance(hosts, list)
    }
    hosts = {host for members in groups.values() for host in members}
    hub = groups.get("hub", [])
    if len(hub) != 1:
        yield Problem(
            "group hub",
            f"has {len(hub)} hosts" + (f" ({listing(hub, 5)})" if hub else ""),
            valid="put exactly one host into it",
        )
    known = _names(clusters.drafts, "name")
    for cluster in clusters.drafts:
        yield from _compare_cluster_groups(cluster, groups, hosts)
    yield from _stray_groups(groups, known, complete=bool(clusters.drafts))


def _compare_cluster_groups(cluster: Draft, groups: Mapping[str, list[str]], hosts: set[str]) -> Iterator[Problem]:
    name = cluster.get("name")
    if not name:
        return
    group = f"cluster_{name}"
    nodes = groups.get(group)
    if nodes is None:
        others = [other for other in groups if other.startswith("cluster")]
        valid = f"declare it in the inventory with the cluster's nodes{_perhaps(group, others)}"
        yield Problem(cluster.name, f"has no group {group} in the inventory", valid=valid)
        nodes = []
    elif not set(nodes) & set(groups.get("compute_nodes", [])):
        yield Problem(
            cluster.name,
            f"has no compute node: no host is in both {group} and compute_nodes",
            valid="add its compute nodes",
        )
    submit = cluster.get("submit")
    host = submit.host if isinstance(submit, Submit) else submit.get("host") if isinstance(submit, Mapping) else None
    if not host:
        return
    login = sorted(set(nodes) & set(groups.get("login_nodes", [])))
    if host not in hosts:
        valid = f"valid: {listing(login)}" if login else _did_you_mean(host, sorted(hosts))
        yield Problem(
            cluster.name, "is not a host of the inventory", field="submit.host", value=show(host), valid=valid
        )
    elif groups.get(group) is not None and host not in login:
        yield Problem(
            cluster.name,
            f"is not in both {group} and login_nodes",
            field="submit.host",
            value=show(host),
            valid=f"valid: {listing(login)}" if login else "add it to both groups",
        )


def _perhaps(name: str, known: Sequence[str]) -> str:
    close = near(name, known)
    return f'; there is a group "{close}"' if close else ""


def _stray_groups(groups: Mapping[str, list[str]], known: Sequence[str], *, complete: bool) -> Iterator[Problem]:
    """Groups and nodes that belong to no cluster, and compute nodes that belong to two."""
    own = {f"cluster_{name}{part}" for name in known for part in ("", "_login", "_compute")}
    if complete:
        for group in sorted(groups):
            if group.startswith("cluster_") and group not in own:
                yield Problem(
                    f"group {group}",
                    f"names a cluster {show(group.removeprefix('cluster_'))} that hpc_clusters lacks",
                    valid=_did_you_mean(group.removeprefix("cluster_"), known) if known else "describe it there",
                )
    for kind in ("login_nodes", "compute_nodes"):
        for host in groups.get(kind, []):
            of = [name for name in known if host in groups.get(f"cluster_{name}", [])]
            if not of and complete and not any(host in m for g, m in groups.items() if g.startswith("cluster_")):
                yield Problem(
                    f"host {host}",
                    f"is in {kind} and in no cluster",
                    valid=f"add it to one of {listing(f'cluster_{n}' for n in known)}",
                )
            if len(of) > 1:
                yield Problem(
                    f"host {host}", f"belongs to the clusters {listing(of)}", valid="a node belongs to one cluster"
                )
