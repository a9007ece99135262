"""Kernel specs: the files of each kind of kernel on the nodes of a cluster. No I/O.

A kernel is a directory ``SOFTWARE/jupyter/kernels/NAME`` with the file ``kernel.json``. Some kinds must prepare the
environment first. They have a program ``launch`` beside it. Jupyter replaces ``{resource_dir}`` with the kernel's
directory, ``{prefix}`` with the notebook server's environment, and ``{connection_file}`` with the connection file
(jupyter_client, ``KernelManager.format_kernel_cmd``).

Jupyter also finds the users' own kernels in ``~/.local/share/jupyter/kernels``.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from hpchub.kernel_scripts import FAIL, IPYKERNEL, START, clean_command, conda_script, module_script
from hpchub.model.entries import (
    AnyKernel,
    CommandKernel,
    CondaKernel,
    ContainerKernel,
    ModuleKernel,
    PythonKernel,
    RKernel,
    VenvKernel,
)
from hpchub.model.node_needs import kernel_needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpchub.model.site import Site

_PYTHON_COMMAND = ("python", *IPYKERNEL)
_LAUNCH = "{resource_dir}/launch"


def kernel_spec(kernel: AnyKernel) -> dict[str, Any]:
    """Return the content of ``kernel.json`` for an entry of ``hpc_kernels``.

    Returns:
        ``{"argv": [TEXT, …], "display_name": TEXT, "language": TEXT, "env": {NAME: VALUE}, "metadata": {…}}``.
    """
    command = [*_command(kernel)]
    argv = [*clean_command(kernel.environment), *command]
    environment = {"PATH": f"{kernel.path}/bin:${{PATH}}"} if isinstance(kernel, VenvKernel) else {}
    spec: dict[str, Any] = {
        "argv": argv,
        "display_name": kernel.display_name,
        "language": kernel.language,
        "env": environment | kernel.environment,
        # An administrator who finds the file can see that hpchub wrote it. The session checks the needs on its node.
        "metadata": {
            "hpchub": {"kind": kernel.kind, "needs": [[kind, value] for _, kind, value in kernel_needs(kernel)]}
        },
    }
    if kernel.language == "python" and "ipykernel_launcher" in command:
        spec["metadata"]["debugger"] = True
    if isinstance(kernel, PythonKernel):
        # The locked ipykernel supports encryption. An old ipykernel in a site's environment would not start with it.
        spec["metadata"]["supported_encryption"] = ["curve"]
    return spec


def role_argument(kernel: AnyKernel) -> dict[str, Any]:
    """Return a kernel in the form that the role ``jupyter_kernels`` takes.

    Returns:
        ``{"name": TEXT, "spec": {…}, "files": [{"path", "content", "mode"}, …]}``. ``spec`` is the content of
        ``kernel.json``, and ``files`` are the other files of the kernel's directory.
    """
    script = _script(kernel)
    files = [{"path": "launch", "content": script, "mode": "0755"}] if script else []
    return {"name": kernel.name, "spec": kernel_spec(kernel), "files": files}


def cluster_kernels(site: Site, cluster: str) -> list[dict[str, Any]]:
    """Return the kernels of a cluster, each as :func:`role_argument` returns it."""
    return [role_argument(kernel) for kernel in site.kernels if kernel.on(cluster)]


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


def cluster_python_packages(site: Site, cluster: str) -> list[str]:
    """Return the Python packages that a cluster's kernels of the notebook environment need, sorted."""
    return sorted(
        {
            package
            for kernel in site.kernels
            if kernel.on(cluster) and isinstance(kernel, PythonKernel)
            for package in kernel.packages
        }
    )


def _command(kernel: AnyKernel) -> Sequence[str]:
    """Return the command as an argument vector."""
    match kernel:
        case PythonKernel():
            # A session keeps the environment that it started from, even if "current" points to a newer one later.
            return ["{prefix}/bin/python", *IPYKERNEL]
        case RKernel():
            return [kernel.command, "--no-echo", "-e", "IRkernel::main()", "--args", "{connection_file}"]
        case VenvKernel():
            return [f"{kernel.path}/bin/python", *IPYKERNEL]
        case CondaKernel():
            return [_LAUNCH, *(kernel.command or (f"{kernel.prefix}/bin/python", *IPYKERNEL))]
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
            return conda_script(kernel.name, kernel.prefix)
        case ModuleKernel():
            return module_script(f"kernel {kernel.name}", kernel.modules, kernel.environment)
        case ContainerKernel():
            return _container(kernel)
        case _:
            return ""


def _container(kernel: ContainerKernel) -> str:
    run = _APPTAINER if kernel.runtime == "apptainer" else _CHARLIECLOUD
    more = _OTHER_HOME if kernel.runtime == "charliecloud" else ""
    binds = kernel.binds
    if kernel.runtime == "charliecloud":  # it has no option for read-only or writable binds
        binds = [bind.removesuffix(":ro").removesuffix(":rw") for bind in binds]
    fixed = " ".join(shlex.quote(f"--bind={bind}") for bind in binds)
    return f"""#!/bin/bash
# Replaces itself with the kernel in the container. The home and the connection file have the same paths there.
{FAIL}image={shlex.quote(kernel.image)}
if ! [ -e "$image" ]; then
    fail "kernel {kernel.name}: the image $image does not exist on $(uname -n)"
fi
binds=({fixed})
connection_directory=$(dirname -- "$1")
shift
case $connection_directory/ in
"$HOME"/* | /tmp/*) ;;
*) binds+=(--bind="$connection_directory") ;;
esac
{more}set -- {run}
{START.format(what=f"kernel {kernel.name}")}"""


_APPTAINER = 'apptainer exec --bind="$HOME" "${binds[@]}" --pwd "$PWD" "$image" "$@"'
_CHARLIECLOUD = 'ch-run --home "${binds[@]}" --cd="$PWD" "$image" -- "$@"'
# --home mounts the home at /home/USER and sets HOME to it. Source: ch-run(1) of Charliecloud 0.31 and 0.38.
_OTHER_HOME = """\
if [ "$HOME" != "/home/$USER" ]; then
    binds+=(--bind="$HOME")
fi
"""
