"""The applications of sessions: the entries of ``hpc_apps``, and what a session gets of them. No I/O.

An application is a web program or a desktop that users open in their session, from JupyterLab's launcher or directly
from the start form. Each kind is one class. To add a kind, add its class to ``App`` and ``APP_KINDS``, and its program
on the nodes to ``hpchub.remote.single_user.add_applications``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hpchub.kernel_scripts import module_script
from hpchub.model import fields as f
from hpchub.model.entry import Entry

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


AnyApp = WebApp | DesktopApp
App = Annotated[AnyApp, Field(discriminator="kind")]
"""An application of any kind."""
APP_KINDS: dict[str, type[AnyApp]] = {"desktop": DesktopApp, "web": WebApp}
"""The class of each kind."""


def apps_for(apps: Iterable[AnyApp], place: str, groups: Collection[str]) -> list[AnyApp]:
    """Return the applications that a user sees in a session.

    Args:
        apps: All applications.
        place: The cluster or place of the session.
        groups: The user's groups.
    """
    return [app for app in apps if app.on(place) and (not app.groups or set(app.groups) & set(groups))]
