"""What a site is made of: the entries of the inventory, each with its fields and defaults. No I/O.

What can be wrong with one field is said here; what only several entries together can be wrong about is in
:mod:`hpchub.model.rules`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from hpchub.model import fields as f
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

SchedulerName = Annotated[str, f.Choice(tuple(SCHEDULERS))]


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
    user_subdomains: Annotated[bool, Field(strict=True)] = False
    """Whether each user's server has a host name of its own, ``NAME.HOST``, so that users can share their servers."""


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
    """The least uid of an account that may sign in, and whose jobs the hub may submit."""
    hub_accounts: bool = True
    """Whether somebody needs an account on the hub host to sign in. Else the submit host alone looks, at a start."""


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
    other_hosts: list[f.HostName] = []
    """For ``ssh``: further login nodes, tried in turn while one is not reached."""
    environment: dict[f.EnvironmentName, f.EnvironmentValue] = {}
    """Environment variables of the scheduler's commands, as PATH or SGE_ROOT. They see no other but HOME and LANG."""

    @property
    def hosts(self) -> list[str]:
        """All login nodes that the hub submits on, the first to be tried first."""
        return [self.host, *self.other_hosts] if self.method == "ssh" else []

    @model_validator(mode="after")
    def _host_for_ssh(self) -> Submit:
        if self.method == "ssh" and not self.host:
            f.complain('has the method "ssh" and no host', "name one of the cluster's login nodes as host")
        if self.method == "local" and (self.host or self.other_hosts):
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


class GridEngineSite(Entry):
    """What each site of Grid Engine decides: what its resources are called, and how they are counted."""

    parallel_environment: f.ResourceName = "smp"
    """The parallel environment that gives a job all its cores on one node; a job of one core asks for none."""
    memory_resource: f.OptionalResourceName = "h_vmem"
    """The resource that is memory, as m_mem_free; empty where there is none."""
    memory_per: Literal["slot", "job"] = "slot"
    """Whether Grid Engine takes a request of memory for each core, or for the job."""
    gpu_resource: f.ResourceName = "gpu"
    """The resource that is GPUs, counted for the job: a consumable of the kind JOB."""


class NodeHost(Entry):
    """Where a node is that the scheduler calls by another name than its host's."""

    node: f.HostName
    """The scheduler's name for it."""
    host: f.HostName
    """The host's name or address, by which the hub reaches it."""


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
    firewall: Annotated[bool, Field(strict=True)] = False
    """Whether its compute nodes refuse everybody but the hub at the notebook ports, by nftables."""
    grid_engine: GridEngineSite = GridEngineSite()
    """For gridengine and uge: what the site's resources are called."""
    node_hosts: list[NodeHost] = []
    """Nodes that the scheduler calls by other names than their hosts', as several daemons on one host."""
    queues: list[Queue] = Field(min_length=1)
    """The queues that profiles may name."""

    @model_validator(mode="after")
    def _words_of_its_scheduler(self) -> Cluster:
        # A model that was written out has every default in it.
        if self.grid_engine != GridEngineSite() and SCHEDULERS[self.scheduler].settings_field != "grid_engine":
            f.complain(f"has grid_engine and the scheduler {self.scheduler}", "leave out grid_engine")
        nodes = [entry.node for entry in self.node_hosts]
        if twice := [node for node in nodes if nodes.count(node) > 1]:
            f.complain(f"has node_hosts with {twice[0]} twice", "write each node once")
        return self

    def host_of(self, node: str) -> str:
        """The host of a node, by which the hub reaches it."""
        return next((entry.host for entry in self.node_hosts if entry.node == node), node)

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
    max_wait: f.Runtime = "7-00:00:00"
    """Time after which a start is given up that still waits in the queue."""
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
        return mebibytes(self.memory)

    @property
    def runtime_seconds(self) -> int:
        """The time in seconds."""
        return seconds(self.runtime)

    @property
    def max_wait_seconds(self) -> int:
        """The longest wait in seconds."""
        return seconds(self.max_wait)


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
