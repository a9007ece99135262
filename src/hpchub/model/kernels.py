"""Kernel specs: the files of each kind of kernel on the nodes of a cluster. No I/O.

A kernel is a directory ``SOFTWARE/jupyter/kernels/NAME`` with the file ``kernel.json``. Some kinds must prepare the
environment first. They have a program ``launch`` beside it. Jupyter replaces ``{resource_dir}`` with the kernel's
directory, ``{prefix}`` with the notebook server's environment, and ``{connection_file}`` with the connection file
(jupyter_client, ``KernelManager.format_kernel_cmd``).

Jupyter also finds the users' own kernels in ``~/.local/share/jupyter/kernels``.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from hpchub.model.entries import (
    AnyKernel,
    CommandKernel,
    CondaKernel,
    ContainerKernel,
    Kernel,
    ModuleKernel,
    PythonKernel,
    RKernel,
    VenvKernel,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpchub.model.site import Site

_KERNEL: TypeAdapter[AnyKernel] = TypeAdapter(Kernel)
_IPYKERNEL = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
_PYTHON_COMMAND = ("python", *_IPYKERNEL)
_LAUNCH = "{resource_dir}/launch"

# A kernel.json can set variables but not remove them, so the kernel's command begins with env(1), which removes these.
# This also prevents Jupyter from replacing the command "python" with the notebook server's Python.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "VIRTUAL_ENV")
"""Variables of the notebook server's environment, or of a module, that would break another Python."""


def kernel_spec(kernel: Mapping[str, Any] | AnyKernel) -> dict[str, Any]:
    """Return the content of ``kernel.json`` for an entry of ``hpc_kernels``.

    Returns:
        ``{"argv": [TEXT, …], "display_name": TEXT, "language": TEXT, "env": {NAME: VALUE}, "metadata": {…}}``.

    Raises:
        pydantic.ValidationError: The entry is not a kernel.
    """
    parsed = _parse(kernel)
    argv = [*_command(parsed)]
    if not isinstance(parsed, PythonKernel):
        # Keep the variables that the site sets for this kernel.
        foreign = [name for name in _FOREIGN if name not in parsed.environment]
        argv = ["/usr/bin/env", *(word for name in foreign for word in ("-u", name)), *argv]
    environment = {"PATH": f"{parsed.path}/bin:${{PATH}}"} if isinstance(parsed, VenvKernel) else {}
    spec: dict[str, Any] = {
        "argv": argv,
        "display_name": parsed.display_name,
        "language": parsed.language,
        "env": environment | parsed.environment,
        # An administrator who finds the file can see that hpchub wrote it.
        "metadata": {"hpchub": {"kind": parsed.kind}},
    }
    if parsed.language == "python" and "ipykernel_launcher" in argv:
        spec["metadata"]["debugger"] = True
    if isinstance(parsed, PythonKernel):
        # The locked ipykernel supports encryption. An old ipykernel in a site's environment would not start with it.
        spec["metadata"]["supported_encryption"] = ["curve"]
    return spec


def kernel_files(kernel: Mapping[str, Any] | AnyKernel) -> dict[str, tuple[str, str]]:
    """Return all files of a kernel's directory.

    Returns:
        The content and the octal mode of each file by its relative path: ``{"kernel.json": (TEXT, "0644"), "launch":
        (TEXT, "0755")}``.

    Raises:
        pydantic.ValidationError: The entry is not a kernel.
    """
    parsed = _parse(kernel)
    files = {"kernel.json": (to_json(kernel_spec(parsed)), "0644")}
    if script := _script(parsed):
        files["launch"] = (script, "0755")
    return files


def cluster_kernels(site: Site, cluster: str) -> list[dict[str, Any]]:
    """Return the kernels of a cluster in the form that the role ``jupyter_kernels`` takes.

    Returns:
        ``[{"name", "spec", "files": [{"path", "content", "mode"}, …]}, …]``. ``kernel.json`` is not among ``files``.
    """
    return [
        {
            "name": kernel.name,
            "spec": kernel_spec(kernel),
            "files": [
                {"path": name, "content": content, "mode": mode}
                for name, (content, mode) in kernel_files(kernel).items()
                if name != "kernel.json"
            ],
        }
        for kernel in site.kernels
        if kernel.on(cluster)
    ]


def cluster_packages(site: Site, cluster: str) -> list[str]:
    """Return the operating system packages that a cluster's kernels need, sorted."""
    return sorted(
        {
            package
            for kernel in site.kernels
            if kernel.on(cluster) and isinstance(kernel, RKernel)
            for package in kernel.packages
        }
    )


def to_json(spec: Mapping[str, Any]) -> str:
    """Return the text of a ``kernel.json``. Equal specs give the same text, byte for byte."""
    return json.dumps(spec, sort_keys=True, indent=4, ensure_ascii=False) + "\n"


def _parse(kernel: Mapping[str, Any] | AnyKernel) -> AnyKernel:
    return _KERNEL.validate_python(kernel)


def _command(kernel: AnyKernel) -> Sequence[str]:
    """Return the command as an argument vector."""
    match kernel:
        case PythonKernel():
            # A session keeps the environment that it started from, even if "current" points to a newer one later.
            return ["{prefix}/bin/python", *_IPYKERNEL]
        case RKernel():
            return [kernel.command, "--no-echo", "-e", "IRkernel::main()", "--args", "{connection_file}"]
        case VenvKernel():
            return [f"{kernel.path}/bin/python", *_IPYKERNEL]
        case CondaKernel():
            return [_LAUNCH, *(kernel.command or (f"{kernel.prefix}/bin/python", *_IPYKERNEL))]
        case ModuleKernel() | ContainerKernel():
            # The launcher of a container must mount the directory of the connection file before the kernel starts.
            first = ["{connection_file}"] if isinstance(kernel, ContainerKernel) else []
            return [_LAUNCH, *first, *(kernel.command or _PYTHON_COMMAND)]
        case CommandKernel():
            return kernel.command


def _script(kernel: AnyKernel) -> str:
    """Return the program ``launch``, or an empty text for kinds that do not need one."""
    match kernel:
        case CondaKernel():
            return _conda(kernel)
        case ModuleKernel():
            return _module(kernel)
        case ContainerKernel():
            return _container(kernel)
        case _:
            return ""


def _conda(kernel: CondaKernel) -> str:
    prefix = shlex.quote(kernel.prefix)
    return f"""#!/bin/bash
# Activates the conda prefix without conda, then replaces itself with the kernel.
export CONDA_PREFIX={prefix}
export CONDA_DEFAULT_ENV="$CONDA_PREFIX" CONDA_SHLVL=1
export PATH="$CONDA_PREFIX/bin:$PATH"
if ! [ -d "$CONDA_PREFIX/bin" ]; then
    echo "kernel {kernel.name}: the conda prefix $CONDA_PREFIX does not exist on $(uname -n)" >&2
    exit 1
fi
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
    if [ -r "$script" ]; then
        . "$script"
    fi
done
exec "$@"
"""


def _module(kernel: ModuleKernel) -> str:
    modules = " ".join(shlex.quote(name) for name in kernel.modules)
    return f"""#!/bin/bash -l
# Loads the modules in a login shell, where the site has set them up, then replaces itself with the kernel.
if ! type module >/dev/null 2>&1; then
    echo "kernel {kernel.name}: login shells on $(uname -n) have no command 'module'" >&2
    exit 1
fi
for name in {modules}; do
    if ! module load "$name"; then
        echo "kernel {kernel.name}: module load $name failed on $(uname -n)" >&2
        exit 1
    fi
done
exec "$@"
"""


def _container(kernel: ContainerKernel) -> str:
    run = _APPTAINER if kernel.runtime == "apptainer" else _CHARLIECLOUD
    binds = kernel.binds
    if kernel.runtime == "charliecloud":  # it has no option for read-only or writable binds
        binds = [bind.removesuffix(":ro").removesuffix(":rw") for bind in binds]
    fixed = " ".join(shlex.quote(f"--bind={bind}") for bind in binds)
    return f"""#!/bin/bash
# Replaces itself with the kernel in the container. The home and the connection file have the same paths there.
image={shlex.quote(kernel.image)}
if ! [ -e "$image" ]; then
    echo "kernel {kernel.name}: the image $image does not exist on $(uname -n)" >&2
    exit 1
fi
binds=({fixed})
connection_directory=$(dirname -- "$1")
shift
case $connection_directory/ in
"$HOME"/* | /tmp/*) ;;
*) binds+=(--bind="$connection_directory") ;;
esac
{run}
"""


_APPTAINER = 'exec apptainer exec --bind="$HOME" "${binds[@]}" --pwd "$PWD" "$image" "$@"'
# --home mounts the home at /home/USER and sets HOME to it. Source: ch-run(1) of Charliecloud 0.31 and 0.38.
_CHARLIECLOUD = """\
if [ "$HOME" != "/home/$USER" ]; then
    binds+=(--bind="$HOME")
fi
exec ch-run --home "${binds[@]}" --cd="$PWD" "$image" -- "$@\""""
