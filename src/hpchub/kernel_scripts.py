"""The texts of kernel specs: commands and launch scripts, for the site's kernels and for those of users. No I/O.

The role ``notebook_environment`` also copies this file to the nodes, for the command ``hpchub-kernel``. It uses the
standard library only (Python 3.9 and later).
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

IPYKERNEL = ("-m", "ipykernel_launcher", "-f", "{connection_file}")
"""The arguments that start a Python kernel."""
FOREIGN = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONPLATLIBDIR", "PYTHONUSERBASE"),
    *("PYTHONINSPECT", "PYTHONWARNINGS", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT"),
    *("OPENSSL_CONF", "OPENSSL_MODULES", "R_HOME", "R_LIBS", "R_LIBS_SITE", "R_PROFILE", "R_ENVIRON"),
    *("PIP_PREFIX", "PIP_TARGET", "PIP_USER"),
    "JULIA_LOAD_PATH",
)
"""Variables of login files, of modules or of the notebook server that would break a kernel with other software."""
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "GOTO_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "JULIA_NUM_THREADS"),
    *("RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "LOKY_MAX_CPU_COUNT", "MC_CORES", "OMP_THREAD_LIMIT"),
    *("BLAS_NUM_THREADS", "FLEXIBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS", "TF_NUM_INTRAOP_THREADS"),
    *("R_DATATABLE_NUM_THREADS", "RCPP_PARALLEL_NUM_THREADS"),
)
"""Variables with the number of threads that libraries use. The launcher sets them to the session's cores."""

FAIL = """\
# A session shows the reason. The log has it too.
fail() {
    echo "$1" >&2
    if [ -n "$HPCHUB_LAUNCH" ]; then echo "$1" >&"$HPCHUB_LAUNCH"; fi
    exit 1
}
"""
"""A function of launch scripts that reports why the program cannot start; see ``hpchub.remote.kernel_starts``."""
START = """\
type -P -- "$1" >/dev/null || fail "{what}: the program $1 does not exist on $(uname -n)"
if [ -n "$HPCHUB_LAUNCH" ]; then exec {{HPCHUB_LAUNCH}}>&-; fi
unset HPCHUB_LAUNCH
exec "$@"
"""
"""The end of a launch script: it replaces itself with the program. ``{{what}}`` is what it starts, for messages."""


def clean_command(kept: Container[str] = ()) -> list[str]:
    """Return the begin of a kernel's command, which removes variables of other software.

    A ``kernel.json`` can set variables but not remove them, so the command begins with env(1). This also prevents
    Jupyter from replacing the command ``python`` with the notebook server's Python.

    Args:
        kept: Variables that the kernel sets itself.
    """
    return ["/usr/bin/env", *(word for name in FOREIGN if name not in kept for word in ("-u", name))]


def conda_script(name: str, prefix: str) -> str:
    """Return a script that activates a conda prefix, and replaces itself with its arguments.

    Args:
        name: The name of the kernel.
        prefix: The directory of the conda environment.
    """
    return f"""#!/bin/bash
# Activates the conda prefix without conda, then replaces itself with the kernel.
{FAIL}export CONDA_PREFIX={shlex.quote(prefix)}
export CONDA_DEFAULT_ENV="$CONDA_PREFIX" CONDA_SHLVL=1
export PATH="$CONDA_PREFIX/bin:$PATH"
if ! [ -d "$CONDA_PREFIX/bin" ]; then
    fail "kernel {name}: the conda prefix $CONDA_PREFIX does not exist on $(uname -n)"
fi
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
    if [ -r "$script" ]; then
        . "$script"
    fi
done
{START.format(what=f"kernel {name}")}"""


def module_script(what: str, modules: Iterable[str], kept: Container[str] = ()) -> str:
    """Return a script for a login shell that loads modules, and replaces itself with its arguments.

    Args:
        what: What it starts, for messages, as in ``kernel NAME``.
        modules: The modules, in the order in which they are loaded.
        kept: Variables that the entry sets itself.
    """
    foreign = " ".join(variable for variable in FOREIGN if variable not in kept)
    threads = " ".join(variable for variable in THREADS if variable not in kept)
    return f"""#!/bin/bash -l
# Loads the modules in a login shell, where the site has set them up, then replaces itself with the program.
set +eu
{FAIL}# The program gets the software of its own modules only, not that of login files and default modules.
type module >/dev/null 2>&1 && module purge >/dev/null 2>&1
unset {foreign}
if ! type module >/dev/null 2>&1; then
    fail "{what}: login shells on $(uname -n) have no command 'module'"
fi
for name in {" ".join(shlex.quote(module) for module in modules)}; do
    if ! module load "$name"; then
        fail "{what}: module load $name failed on $(uname -n)"
    fi
done
if [ -n "$HPCHUB_CORES" ]; then
    for name in {threads}; do
        export "$name=$HPCHUB_CORES"
    done
fi
{START.format(what=what)}"""
