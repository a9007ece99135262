"""Wait until a kernel's launch script has started the kernel, and explain a failure in words.

Without this, Jupyter starts a kernel whose modules do not exist again and again, and then calls it dead. Launch scripts
(see ``hpchub.kernel_scripts``) write why they fail to a pipe, and close it when they start the kernel.

The role ``notebook_environment`` installs this file beside ``user_kernels.py``. It uses the standard library only until
the server starts (Python 3.9 and later).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "HPCHUB_LAUNCH"
"""The variable with the number of the pipe, for launch scripts that know it."""
OF_MODULES = ("LD_LIBRARY_PATH", "PYTHONPATH", "R_LIBS", "R_LIBS_SITE", "JULIA_LOAD_PATH")
"""The variables that modules loaded in JupyterLab can set for kernels, although kernels remove those of login files."""
START_LIMIT = 60.0
"""How long to wait for a launch script, in seconds. After that, the kernel may still come."""
AT_ONCE = 0.3
"""How long a program may take to end so that its start has failed, in seconds."""
LIMIT = 1000
"""The longest reason, in bytes."""


class NotStarted(Exception):
    """A kernel has not started. JupyterLab shows the text."""


def knows_pipe(command: Sequence[str], directory: str) -> bool:
    """Return whether a kernel's command contains a launch script in its directory that knows the pipe."""
    script = Path(directory, "launch")
    if str(script) not in command[:-1]:
        return False
    try:
        return VARIABLE in script.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def with_modules(command: list[str]) -> list[str]:
    """Return a kernel's command that keeps what modules loaded in JupyterLab have set.

    The begin of the command removes the variables of other software. The launcher has removed them too, so that those
    of this process come from loaded modules. Launch scripts set up their own environment, and do not get them.
    """
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word != "-u" or command[0] != "/usr/bin/env":
            kept.append(word)
        elif (name := next(words, "")) not in OF_MODULES or name not in os.environ:
            kept += [word, name]
    return kept


def read_reason(descriptor: int, seconds: float) -> str:
    """Return why a launch script has failed, or empty if it has closed the pipe or takes too long."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + seconds
    text = b""
    while len(text) < LIMIT and not text.endswith(b"\n") and poll.poll(max(0.0, end - time.monotonic()) * 1000):
        part = os.read(descriptor, LIMIT)
        if not part:
            break
        text += part
    line = "".join(letter if letter.isprintable() else " " for letter in text.decode(errors="replace"))
    return " ".join(line.split())


class Starts:
    """A mixin for Jupyter's ``AsyncKernelManager``. The start of a kernel fails if its launch script fails."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        """Launch a kernel. Jupyter intends this method to be overridden.

        Raises:
            NotStarted: The launch script has failed.
        """
        launch: Any = super()._async_launch_kernel  # type: ignore[misc]
        spec = self.kernel_spec  # type: ignore[attr-defined]
        if not await asyncio.to_thread(knows_pipe, kernel_cmd, str(spec.resource_dir)):
            await launch(with_modules(kernel_cmd), **kw)
            return
        ours, theirs = os.pipe()
        try:
            try:
                env = {**(kw.pop("env", None) or os.environ), VARIABLE: str(theirs)}
                await launch(kernel_cmd, env=env, pass_fds=(theirs,), **kw)
            finally:
                os.close(theirs)
            reason = await asyncio.to_thread(read_reason, ours, START_LIMIT)
        finally:
            os.close(ours)
        # The text after "kernel NAME: ", which is for the log.
        reason = reason.partition(": ")[2] or reason or await self._code()
        if reason:
            await self._give_up()
            raise NotStarted(f"{spec.display_name} does not work: {reason}")

    async def _code(self) -> str:
        """Return why the kernel's process has ended already, or empty."""
        provisioner = self.provisioner  # type: ignore[attr-defined]
        for wait in (0.0, AT_ONCE):
            await asyncio.sleep(wait)
            code = await provisioner.poll()
            if code is not None:
                return f"it ended at once with code {code}; the log of the session contains its output"
        return ""

    async def _give_up(self) -> None:
        """Make sure that the kernel's process has ended."""
        provisioner = self.provisioner  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            await provisioner.kill()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(provisioner.wait(), 5)


def mapping_manager() -> type:
    """Return the server's class for all kernels."""
    from jupyter_server.services.kernels.kernelmanager import (  # noqa: PLC0415
        AsyncMappingKernelManager,
        ServerKernelManager,
    )
    from traitlets import default  # noqa: PLC0415

    class LaunchedKernelManager(Starts, ServerKernelManager):  # type: ignore[misc]
        """Jupyter's own manager of a kernel, which names the reason if a launch script fails."""

    class LaunchedKernels(AsyncMappingKernelManager):  # type: ignore[misc]
        """Jupyter's own manager of all kernels, with the class above."""

        @default("kernel_manager_class")
        def _default_kernel_manager_class(self) -> str:
            return f"{__name__}.{LaunchedKernelManager.__name__}"

    # Jupyter imports the class by its name.
    globals()[LaunchedKernelManager.__name__] = LaunchedKernelManager
    return LaunchedKernels
