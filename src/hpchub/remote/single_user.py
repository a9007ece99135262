"""The single-user server of a session, and what settings in a home directory may change in it.

Jupyter reads settings from the user's home after those of the site, and its shim for the old ``NotebookApp`` even lets
them override the command line. Here, the service decides how its proxy reaches the server, who may use the server, and
which of the site's kernels exist. Users decide everything else.

The role ``notebook_environment`` installs this file beside the launcher, which imports it in the process that becomes
the server. Nothing here is imported from the packages of the environment before the functions run.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import copy
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

# Sections that only the site may set: identity, access, and the list of kernels.
LOCKED_SECTIONS = frozenset(
    {
        *("Authorizer", "JupyterHubAuthorizer", "AllowAllAuthorizer"),
        *("IdentityProvider", "PasswordIdentityProvider", "LegacyIdentityProvider", "JupyterHubIdentityProvider"),
        *("HubAuth", "HubOAuth", "JupyterHubSingleUser", "JupyterHubHTTPClient"),
        *("KernelSpecManager", "KernelProvisionerFactory", "GatewayClient", "GatewayKernelSpecManager"),
    }
)
# Settings of the server. Extensions pass their settings to it.
LOCKED_SETTINGS = frozenset(
    {
        # the address of the server
        *("ip", "port", "port_retries", "sock", "sock_mode", "base_url", "certfile", "keyfile", "client_ca"),
        *("ssl_options", "trust_xheaders", "allow_remote_access", "local_hostnames", "websocket_url"),
        *("custom_display_url", "tornado_settings", "webapp_settings", "autoreload"),
        # access
        *("token", "password", "password_required", "allow_password_change", "identity_provider_class"),
        *("authorizer_class", "login_handler_class", "logout_handler_class", "cookie_secret", "cookie_secret_file"),
        *("cookie_options", "get_secure_cookie_kwargs", "allow_unauthenticated_access", "disable_check_xsrf"),
        *("allow_origin", "allow_origin_pat", "allow_credentials", "authenticate_prometheus"),
        # the list of kernels
        *("kernel_spec_manager_class", "kernel_manager_class", "session_manager_class"),
        "kernel_websocket_connection_class",
        # options that end the process or need a terminal
        *("open_browser", "browser", "use_redirect_file", "answer_yes", "quit_button", "file_to_run", "config_file"),
        *("generate_config", "show_config", "show_config_json", "reraise_server_extension_failures", "allow_root"),
        *("config_file_name", "raise_config_file_errors"),
    }
)
# The pages of the user interfaces
INTERFACE_SECTIONS = frozenset({"LabApp", "JupyterNotebookApp", "LabServerApp", "ExtensionApp"})
LOCKED_PAGES = frozenset(
    {
        *("app_dir", "app_url", "core_mode", "dev_mode", "labextensions_url", "override_static_url", "schemas_dir"),
        *("settings_url", "splice_source", "static_dir", "static_paths", "static_url_prefix", "template_paths"),
        *("templates_dir", "translations_api_url", "workspaces_api_url"),
    }
)
LOCKED_KERNEL_SETTINGS = frozenset({"ip", "transport", "transport_encryption", "kernel_spec_manager"})
# Settings with the path of a directory. The server does not start if there is no such directory.
DIRECTORIES = frozenset({"root_dir", "preferred_dir", "notebook_dir"})
# The user interfaces. An extension that a user has disabled elsewhere would leave the session without its pages.
INTERFACES = ("jupyterhub", "jupyterlab", "notebook")
BASES = ("jupyter_config", "jupyter_server_config")
SHOWN = 200  # characters of an error
SUPERVISOR_TIMEOUT = 20.0  # seconds; the supervisor of an application answers at once, unless the node is very slow
LONGEST_DIRECTORY = 107 - len("/") - 32 - len("/socket")  # bytes; the name of an application has at most 32
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#616161" stroke-width="2">'
    '<rect x="3" y="4" width="18" height="16" rx="2"/><path d="M3 9h18M6 6.5h1M9 6.5h1"/></svg>'
)
"""The default icon of applications."""
WRITING = 10.0  # seconds that another session may need to write a notebook

stopping = threading.Event()
"""Whether the server has begun to stop, for example because of a signal."""


def serve(
    arguments: list[str],
    context: ssl.SSLContext,
    *,
    port: int,
    certificates: Mapping[str, str],
    kernel: str,
    attach: Callable[[Any], None],
    directories: Mapping[str, str],
    applications: Path,
) -> None:
    """Become the single-user server. Its requests to the hub use the TLS context; its kernels do not.

    Args:
        arguments: The argument list.
        context: The TLS context for the hub.
        port: The port to listen on, at all addresses of the node.
        certificates: The values of the server's settings ``keyfile``, ``certfile`` and ``client_ca``.
        kernel: The kernel of notebooks that name none.
        attach: Receives the server, Jupyter's ``ServerApp``, before it listens.
        directories: The values of the server's settings ``root_dir`` and ``preferred_dir``, if there is a working
            directory.
        applications: The file with the session's applications. It need not exist.

    Raises:
        SystemExit: The server has ended, or a setting stops it.
        ServerError: The settings would let the server listen in another way than the proxy expects.
    """
    from jupyterhub.httpclient import JupyterHubHTTPClient  # noqa: PLC0415

    async def configure() -> None:
        # The options of this instance apply to every event loop of the process.
        JupyterHubHTTPClient.instance(connector_options={"ssl": context})

    asyncio.run(configure())
    enforced: dict[str, dict[str, Any]] = {
        "ServerApp": {
            "ip": "",  # all addresses, IPv4 and IPv6
            "port": port,
            "port_retries": 0,
            "sock": "",
            "base_url": os.environ["JUPYTERHUB_SERVICE_PREFIX"],
            **certificates,
            **directories,
            "trust_xheaders": True,
            "allow_remote_access": True,
            "open_browser": False,
            "answer_yes": True,
            "quit_button": False,
        },
        "AsyncMappingKernelManager": {"default_kernel_name": kernel},
        "FileContentsManager": {"delete_to_trash": False},
        # JupyterLab reads a file of its own, which the server does not see.
        "LabApp": {"dev_mode": False, "core_mode": False, "app_url": "/lab"},
    }
    sys.argv = arguments

    def prepare(server: Any) -> None:
        attach(server)
        add_applications(server, applications)
        if site_settings().get("Hpchub", {}).get("modules") is True:
            add_modules(server, applications)
        own_module("directory_links").install(server, applications.with_name("directories.json"))

    application(enforced, prepare).launch_instance()


class ServerError(Exception):
    """The server cannot run with these settings."""


class OneAtATime:
    """A mixin for Jupyter's asynchronous contents managers. It reads a file only while nobody writes it.

    Jupyter copies a notebook and then writes it in place. If it reads half a notebook beside the copy, it assumes a
    crash and puts the copy back. The new content is then lost, although its save succeeds. A second tab or a program
    with a token can cause such a read.
    See ``atomic_writing`` and ``_read_notebook`` in ``jupyter_server.services.contents.fileio``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._owners: dict[str, asyncio.Task[Any] | None] = {}

    async def get(self, path: str, content: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Return the model of a file or directory. Its content is complete."""
        if not content:
            return await super().get(path, content, *args, **kwargs)  # type: ignore[misc]
        async with self._turn(path):
            await self._wait_for_other_sessions(path)
            return await super().get(path, content, *args, **kwargs)  # type: ignore[misc]

    async def save(self, model: dict[str, Any], path: str = "") -> Any:
        """Save a file, and return its model without the content."""
        async with self._turn(path):
            return await super().save(model, path)  # type: ignore[misc]

    @asynccontextmanager
    async def _turn(self, path: str) -> AsyncIterator[None]:
        path = path.strip("/")
        task = asyncio.current_task()
        if self._owners.get(path) is task:  # a hook of the save reads the file
            yield
            return
        lock = self._locks.setdefault(path, asyncio.Lock())
        async with lock:
            self._owners[path] = task
            try:
                yield
            finally:
                del self._owners[path]

    async def _wait_for_other_sessions(self, path: str) -> None:
        file = Path(self._get_os_path(path))  # type: ignore[attr-defined]
        give_up = time.monotonic() + WRITING
        while await asyncio.to_thread(is_being_written, file) and time.monotonic() < give_up:  # noqa: ASYNC110 a process
            await asyncio.sleep(0.1)


def is_being_written(file: Path) -> bool:
    """Return whether a session is writing this file: its copy exists, and the file is new.

    A copy beside an old file comes from a crash.
    """
    try:
        return file.with_name(f".~{file.name}").exists() and time.time() - file.stat().st_mtime < WRITING
    except (OSError, ValueError):  # the file is gone, or the path has no name
        return False


def application(  # noqa: C901 the classes need imports
    enforced: dict[str, dict[str, Any]], attach: Callable[[Any], None]
) -> Any:
    """Return JupyterHub's single-user application, with a server that enforces settings.

    Args:
        enforced: Settings by section, which override those of every file.
        attach: Receives the server before it listens.
    """
    from jupyter_server.serverapp import ServerApp as Base  # noqa: PLC0415
    from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager  # noqa: PLC0415
    from jupyterhub.singleuser.extension import JupyterHubIdentityProvider, JupyterHubSingleUser  # noqa: PLC0415
    from traitlets import default  # noqa: PLC0415
    from traitlets.config import Config  # noqa: PLC0415

    site = site_settings()
    files = settings_files()
    reported: set[str] = set()
    wanted = enforced["ServerApp"]
    wanted["identity_provider_class"] = JupyterHubIdentityProvider

    whole_uploads: type = own_module("uploads").WholeUploads

    class ContentsManager(OneAtATime, whole_uploads, AsyncLargeFileManager):  # type: ignore[misc]
        """Jupyter's own contents manager, which never reads a notebook while it writes it, nor shows half an upload."""

        @default("files_handler_class")
        def _default_files_handler_class(self) -> type:
            handler: type = own_module("directory_links").files_handler()
            return handler

    class ServerApp(Base):  # type: ignore[misc]
        """The server. Every settings file and every extension sets its options with ``update_config``."""

        @default("kernel_spec_manager_class")
        def _default_kernel_spec_manager_class(self) -> Any:
            if self.gateway_config.gateway_enabled:  # the site has configured other hosts for all kernels
                return super()._default_kernel_spec_manager_class()
            return own_module("user_kernels").spec_manager()

        @default("kernel_manager_class")
        def _default_kernel_manager_class(self) -> Any:
            if self.gateway_config.gateway_enabled:
                return super()._default_kernel_manager_class()
            return own_module("kernel_starts").mapping_manager()

        @default("contents_manager_class")
        def _default_contents_manager_class(self) -> type:
            return ContentsManager

        def update_config(self, config: Any) -> None:
            accepted = copy.deepcopy(config)
            for name, reason in restrict(accepted, site).items():
                place = find_setting(files, name)
                if place and place not in reported:
                    reported.add(place)
                    log(f"{place}: {name} is ignored, because {reason}")
            accepted.merge(Config(enforced))
            super().update_config(accepted)

        def find_server_extensions(self) -> None:
            super().find_server_extensions()
            for name in INTERFACES:
                self.jpserver_extensions[name] = True
            # Its pages are old code, so only sessions that open it have it.
            self.jpserver_extensions["nbclassic"] = os.environ.get("HPCHUB_INTERFACE") == "nbclassic"
            # It would open every port of the node to the pages of the user's address. Another user could listen there.
            self.jpserver_extensions["jupyter_server_proxy"] = False
            # It would start desktops of its own, whatever the site offers.
            self.jpserver_extensions["jupyter_remote_desktop_proxy"] = False
            # It would pass names in addresses to a shell. See lab_modules.py.
            self.jpserver_extensions["jupyterlmod"] = False

        def stop(self, from_signal: bool = False) -> None:
            stopping.set()
            super().stop(from_signal)

        def init_httpserver(self) -> None:
            # Settings can also contain code. This is the last moment before the server listens.
            different = {name for name, value in wanted.items() if getattr(self, name) != value}
            tls = {"keyfile": "keyfile", "certfile": "certfile", "client_ca": "ca_certs"}
            different |= {name for name, key in tls.items() if (self.ssl_options or {}).get(key) != wanted[name]}
            if self.web_app.settings["base_url"] != wanted["base_url"]:
                different.add("base_url")
            if not isinstance(self.identity_provider, JupyterHubIdentityProvider):
                different.add("identity_provider")
            if different:
                raise ServerError(f"a setting changes {', '.join(sorted(different))} of the server")
            attach(self)
            super().init_httpserver()

    class Application(JupyterHubSingleUser):  # type: ignore[misc]
        """JupyterHub's application, which starts the server above."""

        serverapp_class = ServerApp

        @classmethod
        def get_extension_package(cls) -> str:
            return "jupyterhub"

    return Application


def own_module(name: str) -> Any:
    """Return a module that the role installs for the server, or that is beside this file in a container."""
    here = Path(__file__).parent
    for directory in (here, here / "remote"):
        if str(directory) not in sys.path:
            sys.path.append(str(directory))
    return importlib.import_module(name)


def log(text: str) -> None:
    """Write a line to the session's log."""
    print(f"hpchub-launch: {text}", file=sys.stderr, flush=True)


# -- applications


def add_applications(server: Any, definitions: Path) -> None:
    """Offer the session's applications. Each has a supervisor, which starts at the first request; see ``app.py``.

    Args:
        server: Jupyter's ``ServerApp``, before it listens.
        definitions: The file with the applications; see ``app.read_definition``. It need not exist.
    """
    try:
        apps = json.loads(definitions.read_text(encoding="utf-8"))["apps"]
    except FileNotFoundError:
        offer_none(server)
        return
    try:
        from jupyter_server_proxy.api import IconHandler, ServersInfoHandler  # noqa: PLC0415
        from jupyter_server_proxy.config import ServerProcess, make_handlers  # noqa: PLC0415
    except ImportError:
        log("this session has no applications, because its environment lacks the package jupyter-server-proxy")
        return
    directory = socket_directory(definitions.with_suffix(""))
    os.environ["HPCHUB_APPS"] = str(directory)  # for the supervisors, and for the dashboards of notebooks with Dask
    names = {"dask": "dask_dashboard.py", **{kind: f"{kind}.py" for kind in ("desktop", "rstudio", "spark")}}
    programs = {kind: str(Path(__file__).with_name(name)) for kind, name in names.items()}
    program = str(Path(__file__).with_name("app.py"))
    default_icon = directory / "icon.svg"
    default_icon.write_text(ICON, encoding="ascii")
    commands = {
        app["name"]: [sys.executable, "-I", programs.get(app.get("kind"), program), str(definitions), app["name"]]
        for app in apps
    }
    own = [app for app in apps if app.get("kind") == "spark"]
    if own:
        add_spark_kernels(server, own, directory)
        start_supervisors([commands.pop(app["name"]) for app in own])
    processes = [
        ServerProcess(
            name=app["name"],
            command=commands.get(app["name"], []),
            unix_socket=str(directory / app["name"] / "socket"),
            absolute_url=app["keeps_prefix"],
            timeout=SUPERVISOR_TIMEOUT,
            new_browser_tab=app["open"] == "tab",
            launcher_entry={
                "title": app["display_name"],
                "path_info": f"{app['name']}/{app['path']}",
                "icon_path": app["icon"] or str(default_icon),
                "category": "Applications",
            },
        )
        for app in apps
    ]
    sockets = [
        # The viewer's connection to a desktop. Its path is below the desktop's, so its handler comes first.
        ServerProcess(
            name=f"{app['name']}/desktop-websockify",
            unix_socket=str(directory / app["name"] / "app"),
            raw_socket_proxy=True,
        )
        for app in apps
        if app.get("kind") == "desktop"
    ]
    base = server.web_app.settings["base_url"].rstrip("/")
    icons = {each.name: each.launcher_entry.icon_path for each in processes}
    handlers = [
        *make_handlers(base, [*sockets, *processes]),
        (f"{base}/server-proxy/servers-info", ServersInfoHandler, {"server_processes": processes}),
        (f"{base}/server-proxy/icon/(.*)", IconHandler, {"icons": icons}),
    ]
    server.web_app.add_handlers(".*", handlers)


def add_modules(server: Any, applications: Path) -> None:
    """Offer environment modules in JupyterLab; see ``lab_modules.py``."""
    modules = own_module("lab_modules")
    try:
        modules.add_modules(server, applications)
    except ImportError:
        log("this session has no sidebar for modules, because its environment lacks the package jupyterlmod")
    if not modules.has_module_system():
        log("the sidebar for modules is empty, because login shells on this node set neither LMOD_CMD nor MODULES_CMD")


def add_spark_kernels(server: Any, apps: Iterable[Mapping[str, Any]], directory: Path) -> None:
    """Offer the kernel of each Apache Spark.

    Args:
        server: Jupyter's ``ServerApp``.
        apps: The applications of the kind ``spark``.
        directory: The directory with the sockets of the applications.
    """
    kernels = directory / "kernels"
    for app in apps:
        spec = app["kernel"]["spec"]
        words = [word.replace("{environment}", sys.prefix) for word in spec["argv"]]
        program = [str(Path(__file__).with_name("spark_kernel.py")), str(directory / app["name"] / "socket")]
        own = kernels / app["kernel"]["name"]
        own.mkdir(parents=True)
        content = {**spec, "argv": [*words, *program, "-f", "{connection_file}"]}
        (own / "kernel.json").write_text(json.dumps(content), encoding="utf-8")
    server.kernel_spec_manager.kernel_dirs.insert(0, str(kernels))


def start_supervisors(commands: Iterable[list[str]]) -> None:
    """Start supervisors with the server, because kernels use them before anybody opens a page.

    Args:
        commands: The argument vector of each supervisor.
    """
    for command in commands:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        atexit.register(end_supervisor, process)


def end_supervisor(process: subprocess.Popen[bytes]) -> None:
    """End a supervisor, which then ends what it has started on other nodes."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SUPERVISOR_TIMEOUT)


def offer_none(server: Any) -> None:
    """Answer that there are no applications. The extensions of jupyter-server-proxy ask, also in NbClassic."""
    from jupyter_server.base.handlers import APIHandler  # noqa: PLC0415
    from tornado import web  # noqa: PLC0415

    class NoApplications(APIHandler):  # type: ignore[misc]
        """The list of applications, without loading jupyter-server-proxy."""

        _track_activity = False

        @web.authenticated
        def get(self) -> None:
            """Answer with the empty list."""
            self.finish({"server_processes": []})

    base = server.web_app.settings["base_url"].rstrip("/")
    server.web_app.add_handlers(".*", [(f"{base}/server-proxy/servers-info", NoApplications)])


def socket_directory(wanted: Path) -> Path:
    """Return a new directory for the sockets of applications. Linux limits the length of a socket's path.

    Args:
        wanted: The directory, unless its path is too long.
    """
    if len(os.fsencode(wanted)) <= LONGEST_DIRECTORY:
        wanted.mkdir(mode=0o700)
        return wanted
    short = Path(tempfile.mkdtemp(prefix="hpchub-", dir="/tmp"))
    atexit.register(shutil.rmtree, short, ignore_errors=True)
    return short


# -- the settings of the site and of the user


def site_directories() -> list[str]:
    """Return the directories with the settings of the site, in descending order of priority."""
    from jupyter_core.paths import ENV_CONFIG_PATH, SYSTEM_CONFIG_PATH  # noqa: PLC0415

    return [*ENV_CONFIG_PATH, *SYSTEM_CONFIG_PATH]


def site_settings() -> Mapping[str, Any]:
    """Return the server's settings in the site's directories, by section."""
    from traitlets.config import Application  # noqa: PLC0415

    reader = Application()
    for base in BASES:
        reader.load_config_file(base, path=site_directories())
    settings: Mapping[str, Any] = reader.config
    return settings


def settings_files() -> list[Path]:
    """Return the files with the user's own settings of the server."""
    from jupyter_core.paths import jupyter_config_path  # noqa: PLC0415

    found = []
    for directory in dict.fromkeys(jupyter_config_path()):
        if directory not in site_directories():
            for pattern in ("jupyter*config.py", "jupyter*config.json", "jupyter*config.d/*.json"):
                found += sorted(Path(directory).glob(pattern))
    return found


def is_locked(section: str, name: str) -> bool:
    """Return whether only the site may set a setting."""
    if section in LOCKED_SECTIONS:
        return True
    if section.endswith("KernelManager") or section == "ConnectionFileMixin":
        return name in LOCKED_KERNEL_SETTINGS
    if section in INTERFACE_SECTIONS and name in LOCKED_PAGES:
        return True
    return (section.endswith("App") or section == "Application") and name in LOCKED_SETTINGS


def restrict(config: Any, site: Mapping[str, Any]) -> dict[str, str]:
    """Replace the locked settings in a configuration by the site's, and remove directories that do not exist.

    Returns:
        The reason for each change, by the name of the setting, ``SECTION.NAME``.
    """
    changed = {}
    for section, settings in config.items():
        for name in list(settings):
            missing = name in DIRECTORIES and not os.path.isdir(str(settings[name]))  # noqa: PTH112 any text
            if not missing and not is_locked(section, name):
                continue
            own = site.get(section, {})
            if name in own and settings[name] == own[name]:
                continue
            reason = f"{settings[name]} is not a directory" if missing else "the service decides it"
            changed[f"{section}.{name}"] = reason
            del settings[name]
            if name in own:
                settings[name] = own[name]
    return changed


# -- the setting that stops a server


def find_setting(files: Iterable[Path], name: str) -> str:
    """Return the file and line of a setting, as ``FILE, line N``, or empty.

    Args:
        files: The files with the user's settings.
        name: ``SECTION.NAME``, or only ``NAME``. Jupyter moves settings between the sections of applications.
    """
    section, _, setting = name.rpartition(".")
    sections = rf"(?:{re.escape(section)}|\w+App)" if section else r"\w+"
    pattern = re.compile(rf"{sections}\.{re.escape(setting)}\b|[\"']{re.escape(setting)}[\"']\s*:")
    return find_line(files, lambda line: bool(pattern.search(line)))


def find_shapeless(files: Iterable[Path]) -> str:
    """Return the place of the first JSON file that is not an object of objects, as ``FILE, line 1``, or empty."""
    for file in files:
        if file.suffix == ".json":
            try:
                content = json.loads(file.read_text(encoding="utf-8-sig"))
            except (OSError, ValueError):
                continue
            if not isinstance(content, dict) or not all(
                isinstance(each, (dict, type(None))) for each in content.values()
            ):
                return f"{file}, line 1"
    return ""


def find_line(files: Iterable[Path], matches: Callable[[str], bool]) -> str:
    """Return the place of the first line that matches and is not a comment, as ``FILE, line N``, or empty."""
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            if not line.lstrip().startswith("#") and matches(line):
                return f"{file}, line {number}"
    return ""


def explain(error: BaseException | None, files: list[Path]) -> tuple[str, str, dict[str, str]]:
    """Return why the server has ended: the file and line of a setting, if known, and the error.

    Args:
        error: The exception, or None if the server ended without one.
        files: The files with the user's settings.

    Returns:
        One line in English, and the id and the values of the message for the user; see ``LaunchError`` in the launcher.
        The id is empty if the line has only the words of a program.
    """
    causes = list(chain(error))
    reason = next((describe(cause) for cause in causes if not isinstance(cause, SystemExit)), "")
    ended = "the notebook server has ended"
    for cause in causes:
        place = place_of(cause, files)
        if place:
            return (f"{place}: {reason}", "", {}) if reason else (f"{place}: {ended}", "ended_at", {"place": place})
    place = find_shapeless(files)
    if place:
        return f"{place}: the file must contain an object with objects", "shapeless", {"place": place}
    return (reason, "", {}) if reason else (ended, "ended", {})


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and the exceptions that led to it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def describe(error: BaseException) -> str:
    """Return an exception as one short line."""
    text = " ".join(str(error).split())[:SHOWN]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException, files: list[Path]) -> str:
    """Return the place of the setting that an exception comes from, as ``FILE, line N``, or empty.

    The exception comes from code in a file, or from a value that Jupyter assigned to a setting, or its message contains
    the value.
    """
    names = {str(file) for file in files}
    if isinstance(error, SyntaxError) and error.filename in names:
        return f"{error.filename}, line {error.lineno}"
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, number in reversed(frames):
        if frame.f_code.co_filename in names:
            return f"{frame.f_code.co_filename}, line {number}"
    for frame, _ in reversed(frames):
        setting = frame.f_locals.get("name") or frame.f_locals.get("trait_name")
        library = str(frame.f_globals.get("__name__")).partition(".")[0]
        if library in ("traitlets", "notebook_shim") and isinstance(setting, str):
            place = find_setting(files, setting)
            if place:
                return place
    for value in re.findall(r"'([^']{3,})'", str(error)):
        place = find_line(files, lambda line, value=value: value in line)  # type: ignore[misc]
        if place:
            return place
    return ""


def place_in_thread(ident: int, files: list[Path]) -> str:
    """Return the place in the user's settings that a thread is running, as ``FILE, line N``, or empty."""
    names = {str(file) for file in files}
    for frame, number in traceback.walk_stack(sys._current_frames().get(ident)):  # noqa: SLF001 its documented use
        if frame.f_code.co_filename in names:
            return f"{frame.f_code.co_filename}, line {number}"
    return ""
