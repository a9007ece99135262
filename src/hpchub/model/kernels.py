"""Kernel specs: what each kind of kernel of the model becomes on the nodes of a cluster. No I/O.

A kernel is a directory ``SOFTWARE/jupyter/kernels/NAME`` with ``kernel.json`` and, for the kinds that need the node's
environment prepared first, a program ``launch`` beside it. Jupyter puts the directory in place of ``{resource_dir}``,
the notebook server's own environment in place of ``{prefix}``, and the connection file in place of
``{connection_file}`` (jupyter_client, ``KernelManager.format_kernel_cmd``).

Users' own kernels, in ``~/.local/share/jupyter/kernels``, need nothing of this: Jupyter finds them beside the site's.
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

# Taken away with env(1) before anything else runs: a kernel.json can set a variable, not remove one. It also keeps
# Jupyter from taking a command's first word "python" for the notebook server's own.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "VIRTUAL_ENV")
"""What leads another Python astray when the notebook server's environment, or a module it was started with, sets it."""


def kernel_spec(kernel: Mapping[str, Any] | AnyKernel) -> dict[str, Any]:
    """The content of ``kernel.json`` for an entry of ``hpc_kernels``.

    Returns:
        ``{"argv": [TEXT, …], "display_name": TEXT, "language": TEXT, "env": {NAME: VALUE}, "metadata": {…}}``.

    Raises:
        pydantic.ValidationError: the entry is not a kernel.
    """
    parsed = _parse(kernel)
    argv = [*_command(parsed)]
    if not isinstance(parsed, PythonKernel):
        # What the site itself sets for this kernel stays.
        foreign = [name for name in _FOREIGN if name not in parsed.environment]
        argv = ["/usr/bin/env", *(word for name in foreign for word in ("-u", name)), *argv]
    environment = {"PATH": f"{parsed.path}/bin:${{PATH}}"} if isinstance(parsed, VenvKernel) else {}
    spec: dict[str, Any] = {
        "argv": argv,
        "display_name": parsed.display_name,
        "language": parsed.language,
        "env": environment | parsed.environment,
        # So that an administrator who finds the file knows where it comes from.
        "metadata": {"hpchub": {"kind": parsed.kind}},
    }
    if parsed.language == "python" and "ipykernel_launcher" in argv:
        spec["metadata"]["debugger"] = True
    if isinstance(parsed, PythonKernel):
        # The locked ipykernel can; of a site's own environments nobody knows, and an old one would not start.
        spec["metadata"]["supported_encryption"] = ["curve"]
    return spec


def kernel_files(kernel: Mapping[str, Any] | AnyKernel) -> dict[str, tuple[str, str]]:
    """All files of a kernel's directory.

    Returns:
        by relative path their content and their mode, in octal digits as Ansible takes them: ``{"kernel.json": (TEXT,
        "0644"), "launch": (TEXT, "0755")}``.

    Raises:
        pydantic.ValidationError: the entry is not a kernel.
    """
    parsed = _parse(kernel)
    files = {"kernel.json": (to_json(kernel_spec(parsed)), "0644")}
    if script := _script(parsed):
        files["launch"] = (script, "0755")
    return files


def cluster_kernels(site: Site, cluster: str) -> list[dict[str, Any]]:
    """The kernels of a cluster as the role ``jupyter_kernels`` takes them.

    Returns:
        ``[{"name", "spec", "files": [{"path", "content", "mode"}, …]}, …]``, where ``files`` are those beside
        ``kernel.json``.
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
    """The packages of the operating system that a cluster's kernels need, sorted."""
    return sorted(
        {
            package
            for kernel in site.kernels
            if kernel.on(cluster) and isinstance(kernel, RKernel)
            for package in kernel.packages
        }
    )


def to_json(spec: Mapping[str, Any]) -> str:
    """The text of a ``kernel.json``: the same spec is the same text, byte for byte."""
    return json.dumps(spec, sort_keys=True, indent=4, ensure_ascii=False) + "\n"


def _parse(kernel: Mapping[str, Any] | AnyKernel) -> AnyKernel:
    return _KERNEL.validate_python(kernel)


def _command(kernel: AnyKernel) -> Sequence[str]:
    """The argument vector."""
    match kernel:
        case PythonKernel():
            # A session keeps the environment that it started from, whatever "current" names by then.
            return ["{prefix}/bin/python", *_IPYKERNEL]
        case RKernel():
            return [kernel.command, "--no-echo", "-e", "IRkernel::main()", "--args", "{connection_file}"]
        case VenvKernel():
            return [f"{kernel.path}/bin/python", *_IPYKERNEL]
        case CondaKernel():
            return [_LAUNCH, *(kernel.command or (f"{kernel.prefix}/bin/python", *_IPYKERNEL))]
        case ModuleKernel() | ContainerKernel():
            # A container's launcher needs the connection file's directory before the kernel does.
            first = ["{connection_file}"] if isinstance(kernel, ContainerKernel) else []
            return [_LAUNCH, *first, *(kernel.command or _PYTHON_COMMAND)]
        case CommandKernel():
            return kernel.command


def _script(kernel: AnyKernel) -> str:
    """The program ``launch``, or nothing for the kinds that need none."""
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
# Activates the conda prefix without conda itself, then becomes the kernel.
export CONDA_PREFIX={prefix}
export CONDA_DEFAULT_ENV="$CONDA_PREFIX" CONDA_SHLVL=1
export PATH="$CONDA_PREFIX/bin:$PATH"
if ! [ -d "$CONDA_PREFIX/bin" ]; then
    echo "kernel {kernel.name}: there is no conda prefix $CONDA_PREFIX on $(uname -n)" >&2
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
# A login shell, so that the site's own set-up of modules is there; loads them, then becomes the kernel.
if ! type module >/dev/null 2>&1; then
    echo "kernel {kernel.name}: there is no command module in a login shell on $(uname -n)" >&2
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
    if kernel.runtime == "charliecloud":  # it has no read-only binds, and no word for the other kind
        binds = [bind.removesuffix(":ro").removesuffix(":rw") for bind in binds]
    fixed = " ".join(shlex.quote(f"--bind={bind}") for bind in binds)
    return f"""#!/bin/bash
# Becomes the kernel inside the container, where the home and the connection file are at their own places.
image={shlex.quote(kernel.image)}
if ! [ -e "$image" ]; then
    echo "kernel {kernel.name}: there is no image $image on $(uname -n)" >&2
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
# --home puts the home at /home/USER and says so in HOME. Source: ch-run(1) of Charliecloud 0.31 and 0.38.
_CHARLIECLOUD = """\
if [ "$HOME" != "/home/$USER" ]; then
    binds+=(--bind="$HOME")
fi
exec ch-run --home "${binds[@]}" --cd="$PWD" "$image" -- "$@\""""
