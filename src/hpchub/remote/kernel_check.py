"""Start a kernel as a notebook server does, let it compute 6*7, and explain a failure in words.

This file runs in the notebook environment, which has ``jupyter_client`` (Python 3.9 and later).
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpchub.kernel_scripts import IPYKERNEL
from hpchub.remote.kernel_environments import OUTPUT_LIMIT, Environment, last_lines, own_words
from hpchub.remote.kernel_store import Failure
from hpchub.remote.user_kernels import NO_IPYKERNEL, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpchub.remote.kernel_store import Kernel

TIMEOUT = 60.0
"""How long a kernel may take to compute 6*7, in seconds."""
CODE = {"bash": "echo $((6*7))", "perl": "print 6*7"}
"""The code that computes 6*7, by the language of a kernel. ``6*7`` works in all others."""


@dataclass(frozen=True)
class Result:
    """What a kernel did.

    Attributes:
        seconds: How long it took from the start to the result.
        reason: Why it does not work, or empty.
        output: The last lines of its output if it does not work.
        version: The version of its language, or empty.
    """

    seconds: float
    reason: str = ""
    output: str = ""
    version: str = ""


def try_kernel(kernel: Kernel, timeout: float = TIMEOUT) -> Result:
    """Start a kernel, and let it compute 6*7.

    Args:
        kernel: The kernel.
        timeout: How long it may take, in seconds.

    Raises:
        Failure: This command runs outside of the notebook environment.
    """
    if kernel.problem:
        return Result(0.0, f"{kernel.problem}{_advice(kernel)}" if NO_IPYKERNEL in kernel.problem else kernel.problem)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hpchub-kernel-") as directory:
        log = Path(directory, "log")
        manager = _manager(kernel, str(Path(directory, "connection.json")))
        reason = version = ""
        try:
            with log.open("wb") as output:
                manager.start_kernel(stdout=output, stderr=output, stdin=None, cwd=str(Path.home()))
            version = _compute(manager, str(kernel.spec.get("language", "")), began + timeout)
        except TimeoutError:
            reason = f"it does not answer within {timeout:g} s"
        except _Wrong as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 whatever the libraries raise, this kernel does not work
            reason = f"it does not start: {printable(error)}"
        finally:
            seconds = time.monotonic() - began
            with contextlib.suppress(Exception):
                manager.shutdown_kernel(now=True)
        if not reason:
            return Result(seconds, version=version)
        with log.open("rb") as output:
            output.seek(max(0, log.stat().st_size - OUTPUT_LIMIT))
            text = output.read().decode(errors="replace")
    return Result(seconds, _explain(kernel, text) or reason, last_lines(text))


class _Wrong(Exception):
    """The kernel does not work. The text is the reason."""


def _manager(kernel: Kernel, connection_file: str) -> Any:
    try:
        from jupyter_client.kernelspec import KernelSpec, KernelSpecManager  # noqa: PLC0415
        from jupyter_client.manager import KernelManager  # noqa: PLC0415
    except ImportError:
        raise Failure(
            "hpchub-kernel check needs jupyter_client; run the command of the notebook environment, as in"
            " /opt/hpchub/notebook/current/bin/hpchub-kernel"
        ) from None
    fields = {name: kernel.spec[name] for name in ("argv", "env", "language", "metadata") if name in kernel.spec}
    spec = KernelSpec(resource_dir=str(kernel.directory), **fields)

    class Only(KernelSpecManager):  # type: ignore[misc]
        """Knows this kernel only, and does not read its files again."""

        def get_kernel_spec(self, kernel_name: str) -> Any:
            return spec

    return KernelManager(
        kernel_name=kernel.name,
        kernel_spec_manager=Only(),
        connection_file=connection_file,
        transport_encryption="auto",  # as in a session
    )


def _compute(manager: Any, language: str, deadline: float) -> str:
    """Let a kernel compute 6*7, and return the version of its language.

    Raises:
        TimeoutError: It does not answer in time.
        _Wrong: It has ended, or gives another result.
    """
    client = manager.blocking_client()
    client.start_channels()
    output: list[str] = []

    def collect(message: Mapping[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "error":
            raise _Wrong(f"6*7 raises {printable(content.get('ename'))}")
        data = content.get("data", {})
        output.append(str(data.get("text/plain", "") if isinstance(data, dict) else "") + str(content.get("text", "")))

    try:
        try:
            client.wait_for_ready(timeout=max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            raise
        except RuntimeError:
            _check_alive(manager)
            raise TimeoutError from None
        _check_alive(manager)
        remaining = max(0.1, deadline - time.monotonic())
        client.execute_interactive(CODE.get(language.lower(), "6*7"), timeout=remaining, output_hook=collect)
        text = "".join(output)
        if not re.search(r"(?<![\w.])42(?![\w.])", text):
            raise _Wrong(f"6*7 gives {printable(text, 60)!r} instead of 42")
        return _version(client, max(0.1, deadline - time.monotonic()))
    finally:
        client.stop_channels()


def _check_alive(manager: Any) -> None:
    if not manager.is_alive():
        raise _Wrong("it exits at once")


def _version(client: Any, timeout: float) -> str:
    """Return the version that a kernel reports of its language, or empty."""
    try:
        reply = client.kernel_info(reply=True, timeout=timeout)
        return printable(reply["content"]["language_info"]["version"], 20)
    except Exception:  # noqa: BLE001 the version is not important
        return ""


def _explain(kernel: Kernel, output: str) -> str:
    """Return the reason in a kernel's output, or empty."""
    own = own_words(kernel.name, output)
    if own:
        return own
    if re.search(r"No module named '?(ipykernel|ipykernel_launcher)\b", output):
        return f"{NO_IPYKERNEL} {kernel.environment}{_advice(kernel)}"
    return ""


def _advice(kernel: Kernel) -> str:
    """Return how to install ipykernel for a kernel that ``hpchub-kernel add`` wrote, or empty."""
    path = kernel.own.get("environment")
    if kernel.kind == "other" or not isinstance(path, str):
        return ""
    interpreter = kernel.spec["argv"][-len(IPYKERNEL) - 1]
    environment = Environment(kernel.kind, path, interpreter, tuple(kernel.modules))
    has_pip = kernel.kind != "venv" or any(Path(path).glob("lib*/python*/site-packages/pip"))
    return f"; run: {environment.installation(pip=has_pip)}"
