"""The entries of an inventory, each with its fields and defaults. No I/O.

This module validates single fields. :mod:`hpchub.model.rules` compares fields and entries with one another.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, SecretStr, model_validator

from hpchub.model import fields as f
from hpchub.model.adjustable import Adjustable
from hpchub.model.directories import Directory, unique_titles
from hpchub.model.entry import Entry
from hpchub.model.texts import Language, Replacement, TextKey
from hpchub.names import USER_PATTERN
from hpchub.schedulers import SCHEDULERS
from hpchub.units import mebibytes, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

SchedulerName = Annotated[str, f.Choice(tuple(SCHEDULERS))]


# The service


class NotebookPorts(Entry):
    """The range of ports that notebook servers listen on, both ends included."""

    first: f.HighPort = 20000
    """The lowest port."""
    last: f.HighPort = 29999
    """The highest port."""

    @model_validator(mode="after")
    def _check_order(self) -> NotebookPorts:
        if self.first > self.last:
            f.complain(f"has first {self.first} above last {self.last}", "write the lower port as first")
        return self


class Service(Entry):
    """The service's name and addresses."""

    url: f.ServiceUrl
    """The address that users open, with https and without a path."""
    name: f.Line = "Jupyter"
    """The name shown on pages."""
    support: f.OptionalLine = ""
    """The contact for users, shown on error pages: a mail address, a phone number or a web page."""
    support_form: f.SupportForm = ""
    """The address of a form for requests for help. In it, `{subject}` and `{report}` are replaced by the title and the
    report of a failure. If it is empty and ``support`` is a mail address, the failure page offers a mail."""
    bind_port: f.Port = Field(default_factory=lambda data: f.url_port(data["url"]))
    """The port that the web server listens on. The default is the port of ``url``."""
    api_port: f.Port = 8445
    """The port on which the web server serves the hub's API to running jobs, and nothing else."""
    api_host: f.DnsName = Field(default_factory=lambda data: f.url_host(data["url"]))
    """The name of the hub host as compute nodes know it. The default is the host of ``url``."""
    notebook_ports: NotebookPorts = NotebookPorts()
    """The ports that notebook servers listen on."""
    restricted_profiles: Literal["hidden", "shown"] = "hidden"
    """What the form does with a profile that the user may not use: it hides the profile, or it shows the profile with
    the reason. Nobody can start it in either case."""
    user_subdomains: Annotated[bool, Field(strict=True)] = False
    """Whether each user's server gets a separate host name, ``NAME.HOST``. Users can then share their servers."""
    max_sessions: f.SessionsAtOnce = 3
    """How many sessions a user can have at once."""
    language: Language = "en"
    """The language of the pages for browsers that accept none of the languages. Users can choose another one."""
    texts: dict[TextKey, Replacement] = {}
    """Texts of the pages to replace, by the English text: a text for all languages, or a text for each language."""


class Access(Entry):
    """Who may use the service. Everybody else is denied."""

    allowed_groups: list[f.SsoGroup] = []
    """Groups of the identity provider. Their members may sign in. Write the names as the provider sends them."""
    allowed_users: list[f.UserName] = []
    """Users who may sign in."""
    blocked_users: list[f.UserName] = []
    """Users who must not sign in. This overrides all other fields."""
    admin_groups: list[f.SsoGroup] = []
    """Groups of the identity provider. Their members may sign in and administer the hub."""
    admin_users: list[f.UserName] = []
    """Users who may sign in and administer the hub."""
    user_pattern: f.UserPattern = USER_PATTERN
    """The names of accounts: a regular expression for the whole name. A fixed rule forbids all unsafe names."""
    job_groups: list[f.UnixGroup] = []
    """Unix groups on the submit host, by name or numeric id. The hub may submit jobs of their members."""
    minimum_uid: f.Uid = 1000
    """The lowest uid that may sign in and run jobs. System accounts have lower ones."""
    hub_accounts: bool = True
    """Whether users need an account on the hub host to sign in. If false, only the submit host checks the account."""
    sessions_on_hub_host: Annotated[bool, Field(strict=True)] = False
    """Whether a place of the kind ``local`` can be the hub host. The place must state it too, with ``on_hub_host``."""


class Tls(Entry):
    """The web server's certificate: files on the controller. If all are empty, the role creates a self-signed one."""

    certificate: f.ControllerPath = ""
    """The certificate, followed by its chain."""
    key: f.ControllerPath = ""
    """The private key."""
    ca: f.ControllerPath = ""
    """The CA certificate, for jobs on nodes that do not trust this CA yet."""


class StateStore(Entry):
    """The hub's database: a SQLite file on the hub host, or a PostgreSQL database."""

    hidden: ClassVar[bool] = True

    backend: Annotated[str, f.Choice(("sqlite", "postgresql"))] = "sqlite"
    """The kind of database. To change it for a service that is in use, run ``playbooks/migrate_state_store.yml``."""
    location: Annotated[str, f.Choice(("hub", "own_host", "existing"))] = "hub"
    """For postgresql, where the server is. ``hub``: hpchub installs it on the hub host, without a password.
    ``own_host``: hpchub installs it on the host of the inventory group ``state_store``. ``existing``: you have a
    server, which hpchub does not change."""
    host: f.OptionalDnsName = ""
    """For ``existing``: the name of the server, as its certificate contains it. For ``own_host``: the name under which
    the hub reaches it, by default its name in the inventory."""
    port: f.Port = 5432
    """The port of the server."""
    database: f.DatabaseName = "hpchub"
    """The name of the database. It contains nothing but the hub's tables."""
    user: f.DatabaseName = "jupyterhub"
    """The user of the database, who owns it. For ``hub``, this is the hub's account."""
    password: Annotated[SecretStr, f.DatabasePassword()] = SecretStr("")
    """The user's password. Write an expression that refers to a variable in the vault. ``existing`` needs it. For
    ``own_host``, hpchub creates one if it is empty. For ``hub``, there is none."""
    tls_certificate: f.ControllerPath = ""
    """For ``own_host``: a file on the controller with the server's certificate, followed by its chain. If it is empty,
    hpchub creates an authority and a certificate, and renews the certificate."""
    tls_key: f.ControllerPath = ""
    """For ``own_host``: a file on the controller with the private key of this certificate."""
    tls_ca: f.ControllerPath = ""
    """A file on the controller with the CA certificate that the server's certificate is checked with. Empty: the
    system's CA certificates, or the authority that hpchub has created."""

    @property
    def is_postgresql(self) -> bool:
        """Whether the database is a PostgreSQL database."""
        return self.backend == "postgresql"


class Events(Entry):
    """The record of starts and sessions in the hub's database, for `hpchub report`."""

    keep_days: f.KeptDays = 400
    """After how many days the hub deletes an event. With 0, it records none and deletes all."""
    pseudonyms: bool = True
    """Whether the record contains pseudonyms instead of the names of users."""


class Backup(Entry):
    """Backups of the hub host. Without recipients, there are none."""

    hidden: ClassVar[bool] = True

    recipients: list[f.AgeRecipient] = []
    """The public keys that can decrypt the backups: of age (``age1...``) or ssh. Keep the private keys elsewhere."""
    schedule: f.Calendar = "hourly"
    """When to make a backup, as for ``OnCalendar=`` of a timer of systemd. Sessions that start later are not in it."""
    keep: f.KeptBackups = 48
    """How many backups to keep on the hub host."""
    directory: f.OwnDirectory = "/var/backups/hpchub"
    """The directory for the backups on the hub host."""
    copy_command: list[f.Argument] = []
    """A command of the site that copies each backup to another host, as a list of words. ``{file}`` is its path."""

    @model_validator(mode="after")
    def _check_copy(self) -> Backup:
        if self.copy_command and not any("{file}" in word for word in self.copy_command):
            f.complain("has a copy_command that does not name the backup", 'add the word "{file}" to it')
        if self.copy_command and not self.copy_command[0].startswith("/"):
            f.complain("has a copy_command without the full path of its program", "write it, as in /usr/bin/rsync")
        return self


# Clusters


class Submit(Entry):
    """How the hub reaches a cluster's scheduler."""

    method: Literal["ssh", "local"]
    """``ssh`` to a login node, or ``local`` if the hub host has the scheduler's commands."""
    host: f.OptionalHostName = ""
    """For ``ssh``: the name of the login node in the inventory."""
    other_hosts: list[f.HostName] = []
    """For ``ssh``: further login nodes. The hub uses the next one while a node cannot be reached."""
    environment: dict[f.EnvironmentName, f.EnvironmentValue] = {}
    """Environment variables for the scheduler's commands, such as SGE_ROOT. Only HOME and LANG are set besides them."""

    @property
    def hosts(self) -> list[str]:
        """All login nodes that the hub submits to, in order of preference."""
        return [self.host, *self.other_hosts] if self.method == "ssh" else []

    @model_validator(mode="after")
    def _check_host(self) -> Submit:
        if self.method == "ssh" and not self.host:
            f.complain('has the method "ssh" but no host', "set host to one of the cluster's login nodes")
        if self.method == "local" and (self.host or self.other_hosts):
            f.complain('has the method "local" but also a host', "remove the host, or use the method ssh")
        return self


class Software(Entry):
    """The directory of a cluster's notebook environments."""

    path: f.OwnDirectory = "/opt/hpchub"
    """The directory. It is the same on every node of the cluster."""
    shared: Annotated[bool, Field(strict=True)] = False
    """Whether all nodes share this directory, for example over NFS. It is then installed once, from a login node."""


class Queue(Entry):
    """A queue of a cluster, and the limits for the profiles that use it."""

    name: f.QueueName
    """The scheduler's name of the queue. For Slurm, a partition."""
    max_cores: f.Cores
    """The maximum number of cores of a job on each node."""
    max_memory: f.Memory
    """The maximum memory of a job on each node."""
    max_runtime: f.Runtime
    """The maximum run time of a job."""
    max_gpus: f.GpusOfQueue = Field(default=0, validate_default=True)
    """The maximum number of GPUs of a job on each node: a number, ``{type: a100, count: 4}``, or a list of such
    items."""
    max_nodes: f.Nodes = 1
    """The maximum number of nodes of a job."""
    enabled: Annotated[bool, Field(strict=True)] = True
    """Whether users can start sessions in this queue. If false, the form hides its profiles. Running sessions go on."""


class GridEngineSite(Entry):
    """The names of a Grid Engine site's resources, and how they are counted."""

    parallel_environment: f.ResourceName = "smp"
    """The parallel environment that gives a job all its cores on one node. Jobs with one core do not use it."""
    nodes_environment: f.OptionalEnvironmentOfNodes = ""
    """The parallel environment of jobs with several nodes, for example ``mpi_{cores}``. ``{cores}`` stands for the
    cores per node, and its ``allocation_rule`` must be this number. Empty: no job can have several nodes."""
    memory_resource: f.OptionalResourceName = "h_vmem"
    """The resource for memory, for example m_mem_free. Empty if the site has none."""
    memory_per: Literal["slot", "job"] = "slot"
    """Whether a memory request counts per core (``slot``) or for the whole job (``job``)."""
    gpu_resource: f.ResourceName = "gpu"
    """The resource for GPUs. It must be a consumable of the kind JOB."""


class NodeHost(Entry):
    """The host of a node that has another name in the scheduler."""

    node: f.DnsName
    """The node's name in the scheduler."""
    host: f.DnsName
    """The name or address under which the hub reaches the node."""


class NodeAddress(Entry):
    """How the hub reaches the nodes. Without a rule, it tries the node's name, then the addresses of the node."""

    suffix: f.HostSuffix = ""
    """The text that the hub appends to the scheduler's name of the node, for example ``.ib.example.org`` or ``-ib``."""
    pattern: f.AddressPattern = ""
    """A shell pattern for the address of the node, for example ``10.20.*``."""
    interface: f.InterfaceName = ""
    """The name of the network interface of the node, for example ``ib0``."""

    @model_validator(mode="after")
    def _check_one_rule(self) -> NodeAddress:
        given = [name for name in ("suffix", "pattern", "interface") if getattr(self, name)]
        if len(given) > 1:
            f.complain(f"has {' and '.join(given)}", "write only one of suffix, pattern and interface")
        return self


class Cluster(Entry):
    """A cluster. The inventory group ``cluster_NAME`` contains its nodes."""

    name: f.ClusterName
    """The name of the cluster."""
    scheduler: SchedulerName
    """The scheduler of the cluster."""
    submit: Submit
    """The way to the scheduler."""
    networks: list[f.Network] = Field(min_length=1)
    """The networks of the compute nodes. The hub's API accepts connections from these networks only."""
    software: Software = Software()
    """The directory of the notebook environments."""
    firewall: Annotated[bool, Field(strict=True)] = False
    """Whether nftables on the compute nodes restricts the notebook ports to connections from the hub."""
    grid_engine: GridEngineSite = GridEngineSite()
    """For gridengine and uge: the names of the site's resources."""
    gpu_type_resource: f.OptionalResourceName = ""
    """For pbs, gridengine and uge: the resource with the type of a node's GPUs, for profiles that name a type."""
    node_hosts: list[NodeHost] = []
    """Nodes that have other names in the scheduler than their hosts, for example several Slurm daemons on one host."""
    node_address: NodeAddress = NodeAddress()
    """The rule for the address of a node, if the hub cannot use the scheduler's names of the nodes."""
    queues: list[Queue] = Field(min_length=1)
    """The queues that profiles can use."""
    directories: Annotated[list[Directory], AfterValidator(unique_titles)] = []
    """Directories outside the home that JupyterLab's launcher offers, such as scratch and projects."""
    quota_command: list[f.Argument] = []
    """A command of the submit host that runs as the user before each start, with its arguments. It prints nothing, or a
    sentence for the user if no session can start because a quota is used up. Empty: ``quota``, if it is installed."""
    modules: Annotated[bool, Field(strict=True)] = False
    """Whether JupyterLab has a sidebar that loads environment modules for new kernels. Login shells of the nodes must
    set up Lmod or Environment Modules."""
    enabled: Annotated[bool, Field(strict=True)] = True
    """Whether users can start sessions. If false, the form hides its profiles. Running sessions go on."""

    @model_validator(mode="after")
    def _check_scheduler_settings(self) -> Cluster:
        # A dumped model contains every default, so only a changed value is a mistake.
        if self.grid_engine != GridEngineSite() and SCHEDULERS[self.scheduler].settings_field != "grid_engine":
            f.complain(f"has grid_engine but the scheduler {self.scheduler}", "remove grid_engine")
        nodes = [entry.node for entry in self.node_hosts]
        if twice := [node for node in nodes if nodes.count(node) > 1]:
            f.complain(f"names the node {twice[0]} twice in node_hosts", "write each node once")
        return self

    def host_of(self, node: str) -> str:
        """Return the host name or address of a node, as far as it is known without the node's own report."""
        named = next((entry.host for entry in self.node_hosts if entry.node == node), "")
        return named or node.removesuffix(self.node_address.suffix) + self.node_address.suffix

    def hosts_of(self, node: str, reported: Iterable[tuple[str, str]] = ()) -> list[str]:
        """Return the hosts at which the hub may reach a node, the most likely one first.

        Args:
            node: The scheduler's name of the node.
            reported: The network interfaces that a job on the node reported, each with its address. Only addresses in
                the cluster's networks count, because a job could report any address.
        """
        rule = self.node_address
        networks = [ip_network(network) for network in self.networks]
        usable = [each for each in reported if any(ip_address(each[1]) in network for network in networks)]
        if rule.interface:
            return [address for interface, address in usable if interface == rule.interface]
        if rule.pattern:
            return [address for _, address in usable if fnmatchcase(address, rule.pattern)]
        if rule.suffix or self.host_of(node) != node:
            return [self.host_of(node)]
        return [node, *(address for _, address in usable)]

    @property
    def queue_names(self) -> list[str]:
        """The names of the queues."""
        return [queue.name for queue in self.queues]

    def queue(self, name: str) -> Queue | None:
        """Return the queue of a name, or None."""
        return next((queue for queue in self.queues if queue.name == name), None)


class Profile(Entry):
    """A choice of the start form: the resources of a job, in terms that are the same for every scheduler."""

    key: f.ProfileKey
    """The permanent identifier, used in addresses and in saved state. Do not change it later."""
    display_name: f.Line
    """The text that the form shows."""
    description: f.OptionalLine = ""
    """A sentence below the name."""
    group: f.OptionalLine = ""
    """The heading under which the form shows the profile. The form keeps the order of the profiles."""
    groups: list[f.SsoGroup] = []
    """Groups of the identity provider. Their members may use the profile. If ``groups``, ``unix_groups`` and ``users``
    are all empty, everybody may."""
    unix_groups: list[f.UnixGroup] = []
    """Unix groups on the hub host, by name or numeric id. Digits are always an id. Their members may use the
    profile."""
    users: list[f.UserName] = []
    """Users who may use the profile."""
    cluster: f.OptionalClusterReference = ""
    """The cluster that runs the job. A profile names either a cluster and its queue, or a place."""
    queue: f.QueueReference = ""
    """The queue of this cluster."""
    place: f.PlaceReference = ""
    """The place that runs the session, instead of a cluster."""
    image: f.ImageReference = ""
    """The name of the image in the list of the place. Empty: the place's first one."""
    nodes: f.Nodes = 1
    """The number of nodes. The notebook runs on the first one. Cores, memory and GPUs are those of each node."""
    cores: f.Cores
    """The number of cores on each node."""
    memory: f.Memory
    """The memory on each node."""
    runtime: f.Runtime
    """The run time. The scheduler ends the job after it."""
    max_wait: f.Runtime = "7-00:00:00"
    """How long a job may wait in the queue. After this time, hpchub cancels the start."""
    gpus: f.GpusOfJob = Field(default=0, validate_default=True)
    """The number of GPUs on each node, or their type and number: ``{type: a100, count: 1}``."""
    account: f.Account = ""
    """The account to charge. Empty: the user's default account."""
    qos: f.Qos = ""
    """The quality of service. Empty: the user's default. LSF's service class."""
    reservation: f.Reservation = ""
    """The reservation to use."""
    node_constraint: f.NodeConstraint = ""
    """Features that the node must have, in the scheduler's own syntax."""
    options: list[f.BatchOption] = []
    """Further options of the scheduler, one per item."""
    default_kernel: f.KernelReference = ""
    """The kernel of new notebooks."""
    interface: f.InterfaceReference = "lab"
    """What the session opens: JupyterLab (``lab``), Notebook 7 (``notebook``), NbClassic (``nbclassic``), or an
    application of ``hpc_apps``, by its name."""
    working_directory: f.WorkingDirectory = ""
    """The directory in which the session starts, for example ``~/course`` or ``/scratch/{user}``. Empty: the home."""
    max_sessions: f.SessionLimit = 0
    """How many sessions with this profile a user can have at once. 0: no limit of its own."""
    idle_limit: f.OptionalRuntime = ""
    """How long a session may be idle before it ends. A session with a busy kernel is not idle. Empty: no limit."""
    adjustable: Adjustable = Adjustable()
    """The fields that users may change in the form, each with its limits."""
    enabled: Annotated[bool, Field(strict=True)] = True
    """Whether users can start sessions with this profile. If false, the form hides it. Running sessions go on."""

    @property
    def where(self) -> str:
        """The name of the profile's cluster or place. No two of them have the same name."""
        return self.cluster or self.place

    @property
    def is_restricted(self) -> bool:
        """Whether only some users may use the profile."""
        return bool(self.groups or self.unix_groups or self.users)

    @property
    def memory_mib(self) -> int:
        """The memory, in MiB."""
        return mebibytes(self.memory)

    @property
    def runtime_seconds(self) -> int:
        """The run time, in seconds."""
        return seconds(self.runtime)

    @property
    def max_wait_seconds(self) -> int:
        """The longest wait, in seconds."""
        return seconds(self.max_wait)


# Kernels


class KernelBase(Entry):
    """The fields of every kind of kernel."""

    name: f.KernelName
    """The name of the kernel's directory. Notebook files store it."""
    display_name: f.Line = Field(default_factory=lambda data: data["name"])
    """The name that users see in JupyterLab. The default is ``name``."""
    clusters: list[f.ClusterReference] = []
    """The clusters that have this kernel. Empty: all clusters."""
    environment: dict[f.EnvironmentName, f.EnvironmentValue] = {}
    """Environment variables for the kernel's process."""

    def on(self, cluster: str) -> bool:
        """Return whether a cluster has this kernel."""
        return not self.clusters or cluster in self.clusters


class PythonKernel(KernelBase):
    """The Python of the notebook environment."""

    kind: Literal["python"]
    """The kind of kernel."""
    packages: list[f.PythonPackage] = []
    """Further Python packages for this kernel, beside the scientific ones that the notebook environment has. `hpchub
    lock` chooses their versions."""
    language: f.LanguageName = "python"
    """The programming language."""


class RKernel(KernelBase):
    """R, with the package IRkernel."""

    kind: Literal["r"]
    """The kind of kernel."""
    command: f.Argument = "R"
    """The command for R: a name on the PATH, or an absolute path."""
    packages: list[f.PackageName] = []
    """Operating system packages that provide R and IRkernel. The role installs them."""
    language: f.LanguageName = "R"
    """The programming language."""


class VenvKernel(KernelBase):
    """A Python virtual environment that contains ipykernel."""

    kind: Literal["venv"]
    """The kind of kernel."""
    path: f.Path
    """The directory of the environment."""
    language: f.LanguageName = "python"
    """The programming language."""


class CondaKernel(KernelBase):
    """A conda prefix. Without ``command``, it must contain ipykernel."""

    kind: Literal["conda"]
    """The kind of kernel."""
    prefix: f.Path
    """The directory of the prefix."""
    command: list[f.Argument] = []
    """The command to run, with ``{connection_file}``. The default is ipykernel."""
    language: f.LanguageName = "python"
    """The programming language."""


class ModuleKernel(KernelBase):
    """A kernel that environment modules provide."""

    kind: Literal["module"]
    """The kind of kernel."""
    modules: list[f.ModuleName] = Field(min_length=1)
    """The modules to load, in this order."""
    command: list[f.Argument] = []
    """The command to run, with ``{connection_file}``. The default is ipykernel."""
    language: f.LanguageName = "python"
    """The programming language."""


class ContainerKernel(KernelBase):
    """A kernel inside a container image."""

    kind: Literal["container"]
    """The kind of kernel."""
    image: f.Path
    """The image: a file, or for Charliecloud a directory."""
    runtime: Literal["apptainer", "charliecloud"] = "apptainer"
    """The program that runs the container."""
    binds: list[f.Bind] = []
    """Further directories of the node to mount in the container. The home directory is always mounted."""
    command: list[f.Argument] = []
    """The command to run, with ``{connection_file}``. The default is ipykernel."""
    language: f.LanguageName = "python"
    """The programming language."""


class CommandKernel(KernelBase):
    """A kernel that a command of your choice starts."""

    kind: Literal["command"]
    """The kind of kernel."""
    command: list[f.Argument] = Field(min_length=1)
    """The command to run, with ``{connection_file}``."""
    language: f.LanguageName
    """The programming language."""


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
