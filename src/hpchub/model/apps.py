"""The applications of sessions: the entries of ``hpc_apps``, and what a session gets of them. No I/O.

An application is a web program or a desktop that users open in their session, from JupyterLab's launcher or directly
from the start form. Each kind is one class. To add a kind, add its class to ``App`` and ``APP_KINDS``, and its program
on the nodes to ``hpchub.remote.single_user.add_applications``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hpchub.kernel_scripts import clean_command, module_script
from hpchub.model import fields as f
from hpchub.model.entry import Entry
from hpchub.model.spark_settings import SparkSetting
from hpchub.units import mebibytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


SERVER_PATHS = frozenset(
    {
        *("api", "commands", "consoles", "custom", "doc", "edit", "files", "hub", "kernelspecs", "lab", "login"),
        *("logout", "lsp", "metrics", "nbclassic", "nbconvert", "nbextensions", "notebooks", "oauth_callback", "proxy"),
        *("server-proxy", "shutdown", "static", "terminals", "tree", "user", "view", "voila"),
    }
)
"""The paths of the notebook server, which an application cannot have."""
APPS = "apps"
"""The name of the file with a session's applications, among the files of its secrets."""
INTERFACES = ("lab", "notebook", "nbclassic")
"""The interfaces of every session."""
RECONNECTION_LIMIT = 7 * 86400
"""How long VS Code keeps the terminals of a browser that is not connected, in seconds."""


class AppBase(Entry):
    """The fields of every kind of application."""

    name: f.AppName
    """The name, used in addresses: the application is at ``/user/USER/NAME/``."""
    display_name: f.Line = Field(default_factory=lambda data: data["name"])
    """The name that users see. The default is ``name``."""
    icon: f.OptionalPath = ""
    """The path of an SVG file on the nodes, for the launcher."""
    clusters: list[f.ClusterReference] = []
    """The clusters and places that offer the application. Empty: all of them."""
    groups: list[f.SsoGroup] = []
    """Groups of the identity provider. Only their members see the application. Empty: everybody. The groups protect
    nothing: users can start every program of the node in a terminal."""
    open: Literal["lab", "tab"] = "tab"
    """Where JupyterLab opens the application: beside the notebooks (``lab``) or in a browser tab (``tab``)."""
    arguments: list[f.Argument] = []
    """Arguments to add to the command."""
    environment: dict[f.EnvironmentName, f.EnvironmentValue] = {}
    """Environment variables for the application. It never gets the session's secrets."""
    modules: list[f.ModuleName] = []
    """Environment modules to load before the application starts, in this order."""
    start_limit: f.StartLimit = 60
    """How long the application may take to answer, in seconds. After this time, it is stopped."""

    def on(self, place: str) -> bool:
        """Return whether a cluster or place offers the application."""
        return not self.clusters or place in self.clusters

    def program(self) -> list[str]:
        """Return the command, with its arguments. Its placeholders are not replaced yet."""
        raise NotImplementedError

    def shell(self) -> list[str]:
        """Return the beginning of the argument vectors of the application, which loads its modules."""
        if not self.modules:
            return []
        script = module_script(f"application {self.name}", self.modules, self.environment)
        return ["/bin/bash", "-l", "-c", script, self.name]

    def for_session(self) -> dict[str, Any]:
        """Return the application in the form that a session gets.

        Returns:
            ``{"kind", "name", "display_name", "icon", "open", "environment", "start_limit", "path", "keeps_prefix",
            "shell", "command"}``. ``shell`` is the beginning of its argument vectors. Some kinds have further keys.
        """
        return {
            **self.model_dump(include={"kind", "name", "display_name", "icon", "open", "environment", "start_limit"}),
            "path": "",
            "keeps_prefix": False,
            "shell": self.shell(),
            "command": self.program(),
        }


class WebApp(AppBase):
    """A program with web pages."""

    kind: Literal["web"]
    """The kind of application."""
    command: list[f.Argument] = Field(min_length=1)
    """The command. ``{socket}`` is replaced by the path of the unix socket to listen on, and ``{port}`` by a port in a
    private network of the application. It contains one of these two. ``{base_url}`` is the path of the application's
    pages, ``{environment}`` the directory of the notebook environment, ``{home}`` the home, and ``{user}`` the user."""
    path: f.AppPath = ""
    """The page to open, below the address of the application."""
    keeps_prefix: Annotated[bool, Field(strict=True)] = False
    """Whether the program expects requests with the whole path, ``{base_url}``. Else, its pages begin at ``/``."""

    def program(self) -> list[str]:
        """Return the command, with its arguments."""
        return [*self.command, *self.arguments]

    def for_session(self) -> dict[str, Any]:
        """Return the application in the form that a session gets."""
        return {**super().for_session(), "path": self.path, "keeps_prefix": self.keeps_prefix}


class DesktopApp(AppBase):
    """A graphical desktop in the browser. TigerVNC and the desktop must be installed on the nodes."""

    kind: Literal["desktop"]
    """The kind of application."""
    session: list[f.Argument] = Field(default=["startxfce4"], min_length=1)
    """The command of the desktop's session, with ``arguments`` at its end. The desktop ends with it. The default is
    Xfce. ``dbus-run-session`` gives it a message bus of its own. ``{home}`` is replaced by the home, ``{user}`` by the
    user, and ``{environment}`` by the directory of the notebook environment."""
    server: f.Argument = "Xvnc"
    """TigerVNC's X server: the name of a program on the PATH, or its path."""
    geometry: f.Geometry = "1280x800"
    """The size of the screen until a browser is connected, in pixels. Then, it has the size of the browser's window."""

    def program(self) -> list[str]:
        """Return the command of the desktop's session."""
        return [*self.session, *self.arguments]

    def for_session(self) -> dict[str, Any]:
        """Return the desktop in the form that a session gets, with ``server`` and ``geometry``."""
        return {**super().for_session(), "server": self.server, "geometry": self.geometry}


class RstudioApp(AppBase):
    """RStudio Server. Version 2024.12 or later, and R, must be installed on the nodes or in a module."""

    kind: Literal["rstudio"]
    """The kind of application."""
    server: f.Argument = "/usr/lib/rstudio-server/bin/rserver"
    """RStudio's program ``rserver``: its path, or the name of a program on the PATH, which a module can provide.
    ``arguments`` are added to its command."""
    r: f.OptionalPath = ""
    """The path of the program ``R``. Empty: the R of the modules, or the one that RStudio finds on the node."""
    local_ports: Annotated[bool, Field(strict=True)] = False
    """Whether RStudio may show the pages of programs that listen on ports of the node, such as Shiny applications in R.
    Other users of the node can open such ports too."""

    def program(self) -> list[str]:
        """Return ``rserver`` and the arguments to add."""
        return [self.server, *self.arguments]

    def for_session(self) -> dict[str, Any]:
        """Return the application in the form that a session gets, with ``r`` and ``local_ports``."""
        return {**super().for_session(), "r": self.r, "local_ports": self.local_ports}


class VscodeApp(AppBase):
    """VS Code in the browser. code-server must be installed on the nodes."""

    kind: Literal["vscode"]
    """The kind of application."""
    server: f.Argument = "code-server"
    """code-server: the name of a program on the PATH, or its path."""
    folder: f.Argument = "{home}"
    """The folder to open at first. ``{home}`` is replaced by the home, and ``{user}`` by the user. VS Code then opens
    what the user had open last."""
    extensions_directory: f.OptionalPath = ""
    """A directory on the nodes with the extensions of the site. Users cannot add others to it. Empty: users install
    extensions in their homes."""

    def program(self) -> list[str]:
        """Return the command, with its arguments. The last ones win, so ``arguments`` cannot open a port."""
        return [
            *(self.server, *self.arguments),
            # Not the user's file, which may contain a password, a certificate or an address.
            *("--config=/dev/null", "--auth=none", "--socket={socket}", "--socket-mode=600"),
            "--session-socket={socket}2",  # the default is in the home, which other sessions share
            # It would open every port of the node to the pages of the user's address. Another user could listen there.
            "--disable-proxy",
            *("--disable-telemetry", "--disable-update-check", "--disable-getting-started-override"),
            *([f"--extensions-dir={self.extensions_directory}"] if self.extensions_directory else []),
            self.folder,
        ]

    def for_session(self) -> dict[str, Any]:
        """Return the application in the form that a session gets, with ``health`` and ``runs_programs``."""
        found = super().for_session()
        # Users who return after some days find their terminals. The variable is not known to old versions.
        environment = {"CODE_SERVER_RECONNECTION_GRACE_TIME": str(RECONNECTION_LIMIT), **found["environment"]}
        return {**found, "environment": environment, "health": "/healthz", "runs_programs": True}


class SparkApp(AppBase):
    """Apache Spark over all nodes of the job, with its pages and a kernel for notebooks."""

    kind: Literal["spark"]
    """The kind of application."""
    python: f.Argument = "{environment}/bin/python"
    """The Python that has pyspark (4.1 or later) and ipykernel: the name of a program on the PATH, or its path.
    ``{environment}`` is the directory of the notebook environment."""
    java_home: f.OptionalPath = ""
    """The directory of Java. Empty: Java is on the PATH, or a module sets ``JAVA_HOME``."""
    memory_percent: f.MemoryPercent = 50
    """The part of the memory that Spark's executor on each node gets, in percent. The rest is for the notebooks,
    for Python, and for Spark's other processes."""
    configuration: dict[SparkSetting, f.EnvironmentValue] = {}
    """Settings of Spark, such as ``spark.sql.shuffle.partitions``."""
    kernel_display_name: f.Line = Field(default_factory=lambda data: f"Py{data['display_name']}")
    """The name of the kernel that users see. The default is ``Py`` and ``display_name``. Notebook files store the name
    ``py`` and ``name``."""

    @property
    def kernel(self) -> str:
        """The name of the kernel's directory."""
        return f"py{self.name}"

    def program(self) -> list[str]:
        """Return the Python that has pyspark."""
        return [self.python]

    def for_session(self) -> dict[str, Any]:
        """Return Spark in the form that a session gets, with its settings and ``kernel``.

        ``kernel`` is the kernel spec, whose command is still without ``spark_kernel.py`` and its arguments.
        """
        spec = {
            "argv": [*clean_command(self.environment), *self.shell(), self.python],
            "display_name": self.kernel_display_name,
            "language": "python",
            "env": self.environment,
            "metadata": {"debugger": True},
        }
        more = self.model_dump(include={"java_home", "memory_percent", "configuration"})
        return {**super().for_session(), **more, "kernel": {"name": self.kernel, "spec": spec}}


class DaskApp(AppBase):
    """Dask's dashboard, and the jobs that notebooks start with ``hpchub_dask.Cluster()``. Places do not offer it."""

    kind: Literal["dask"]
    """The kind of application. ``arguments`` are those of ``dask worker``. ``environment`` and ``modules`` are those of
    the workers. ``start_limit`` is how long a worker waits for its cluster before it ends."""
    queue: f.QueueReference = ""
    """The queue of the jobs. Empty: the session's, with its reservation, quality of service, node constraint and
    options. The account is always the session's."""
    cores: f.Cores = 1
    """The number of cores of each job."""
    memory: f.Memory = "4G"
    """The memory of each job."""
    runtime: f.OptionalRuntime = ""
    """The longest run time of each job. Empty: the session's. No job requests more time than the session has left."""
    max_jobs: f.MaxJobs = 10
    """How many jobs a cluster of Dask can have at once."""
    python: f.OptionalPath = ""
    """The Python of the workers. It needs the packages of the notebooks. Empty: the Python of the notebook."""
    interface: f.OptionalInterface = ""
    """The network interface for Dask's connections, such as ``ib0``. Empty: the one with the route to the hub."""

    def program(self) -> list[str]:
        """Return the arguments of the workers. The application itself runs no program."""
        return self.arguments

    def for_session(self) -> dict[str, Any]:
        """Return Dask in the form that a session gets. ``hpchub.clusters.dask_jobs`` adds the jobs."""
        more = self.model_dump(include={"cores", "max_jobs", "python", "interface"})
        return {**super().for_session(), **more, "memory_mib": mebibytes(self.memory), "keeps_prefix": True}


AnyApp = DaskApp | DesktopApp | RstudioApp | SparkApp | VscodeApp | WebApp
App = Annotated[AnyApp, Field(discriminator="kind")]
"""An application of any kind."""
APP_KINDS: dict[str, type[AnyApp]] = {
    "dask": DaskApp,
    "desktop": DesktopApp,
    "rstudio": RstudioApp,
    "spark": SparkApp,
    "vscode": VscodeApp,
    "web": WebApp,
}
"""The class of each kind."""


def apps_for(apps: Iterable[AnyApp], place: str, groups: Collection[str]) -> list[AnyApp]:
    """Return the applications that a user sees in a session.

    Args:
        apps: All applications.
        place: The cluster or place of the session.
        groups: The user's groups.
    """
    return [app for app in apps if app.on(place) and (not app.groups or set(app.groups) & set(groups))]
