"""Run the canary: one session after the other, each with a time limit, and each is stopped in any case."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpchub.canary.status import (
    FAILED,
    GOOD,
    SKIPPED,
    STAGES,
    CanaryError,
    KernelResult,
    Result,
    one_line,
    write_status,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from hpchub.canary.client import Client
    from hpchub.model.entries import Profile

CLEAN_UP_TIMEOUT = 120.0
"""How long to try to stop a session, in seconds."""
KERNEL_TIMEOUT = 120.0
"""How long one kernel or application may take, in seconds."""
SHORTEST = 30.0
"""How long every profile may take at least, in seconds."""
INTERVAL = 1.0
"""The time between two questions about a session, in seconds."""
OVER = ("ended", "none")
"""The states of a session that is over."""
_TIMES = ("requested", "submitted", "started", "ready")


class Busy(CanaryError):
    """Another canary is running."""


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Make sure that no other canary runs on this host.

    Args:
        directory: The hub's state directory.

    Raises:
        Busy: Another canary is running.
        OSError: The lock cannot be opened.
    """
    descriptor = os.open(directory / "canary.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another canary is running; wait until it ends") from None
        yield
    finally:
        os.close(descriptor)


@dataclass
class Canary:
    """A run of the canary.

    Attributes:
        client: The connection to the service.
        kernels: The kernels to test in each session. Empty: all kernels that the session offers.
        refusal: Returns why a profile must not be started now, or empty. A drained profile is not started.
        directory: The hub's state directory, where the status file is. None: the results are not saved.
        say: Prints a line about the progress.
        with_apps: Whether to open the applications of each session too.
    """

    client: Client
    kernels: Sequence[str]
    refusal: Callable[[Profile], str]
    directory: Path | None
    say: Callable[[str], None]
    with_apps: bool = False

    async def run(self, profiles: Sequence[Profile], limit: float, offered: Sequence[str]) -> dict[str, Result]:
        """Test profiles, and save each result.

        Args:
            profiles: The profiles.
            limit: How long all of them may take, in seconds. The time that one profile leaves is for the others.
            offered: The keys of all profiles that the canary tests, whether or not it does now.

        Returns:
            The results by the keys of the profiles.

        Raises:
            CanaryError: The hub does not know the account, or a former session of the account cannot be stopped.
            OSError: The status file cannot be written.
        """
        end = time.monotonic() + limit
        results: dict[str, Result] = {}
        for position, profile in enumerate(profiles):
            share = max(SHORTEST, (end - time.monotonic()) / (len(profiles) - position))
            result = await self.test(profile, share)
            result.time = time.time()
            results[profile.key] = result
            if self.directory is not None:
                write_status(self.directory, results, offered)
            self.say(f"{profile.key}: {summary(result)}")
        return results

    async def test(self, profile: Profile, limit: float) -> Result:
        """Test one profile. The session is stopped in any case, also if this task is cancelled."""
        if reason := self.refusal(profile):
            return Result(profile.where, SKIPPED, reason=reason)
        trial = Trial(profile.where)
        try:
            await self._stop()  # what an earlier canary left behind after a power failure
        except CanaryError as error:
            return trial.failed(str(error))
        self.say(f"{profile.key}: starts")
        try:
            async with asyncio.timeout(limit):
                await self._start(profile, trial)
                await self._compute(profile, trial)
        except TimeoutError:
            return trial.timed_out(limit)
        except CanaryError as error:
            return trial.failed(str(error))
        finally:
            await self._clean_up(profile, trial)
        return trial.finished()

    async def _start(self, profile: Profile, trial: Trial) -> None:
        """Start a session and wait until its notebook is ready."""
        # An interruption does not cancel the request, because the hub would go on with it after the clean-up.
        starting = trial.starting = asyncio.ensure_future(self.client.start(profile.key))
        while True:
            await asyncio.wait({starting}, timeout=INTERVAL)
            accepted = starting.done()
            if accepted:
                starting.result()
            try:
                session = await self.client.session()
            except CanaryError as error:
                if not error.unanswered:
                    raise
                trial.silence = str(error)  # the hub may be restarting
            else:
                trial.silence = ""
                if stage := trial.observe(session):
                    self.say(f"{profile.key}: {stage}")
                if accepted and session.get("state") == "running":
                    return
                if accepted and session.get("state") in OVER:
                    ending = session.get("ending") or {}
                    raise CanaryError(str(ending.get("text") or "the session has ended"))
            if accepted:
                await asyncio.sleep(INTERVAL)

    async def _compute(self, profile: Profile, trial: Trial) -> None:
        """Test the kernels of the session."""
        trial.stage = "kernel"
        server = await self.client.server_url()
        offered = await self.client.kernels(server)
        if not offered:
            raise CanaryError("the session offers no kernel")
        for name in self.kernels or sorted(offered):
            if name not in offered:
                reason = f"the session does not offer it; it offers {', '.join(sorted(offered))}"
                trial.kernels[name] = KernelResult(ok=False, seconds=0.0, reason=reason)
                continue
            trial.kernels[name] = await timed(self.client.compute(server, name, offered[name]))
            self.say(f"{profile.key}: kernel {name}: {trial.kernels[name].reason or '6*7 is 42'}")
        if self.with_apps:
            await self._open(profile, trial, server)
        # The hub notes the time when the notebook was ready after it has reported the session as running.
        with contextlib.suppress(CanaryError):
            trial.observe(await self.client.session())
        trial.stage = "kernel"

    async def _open(self, profile: Profile, trial: Trial, server: str) -> None:
        """Open the applications of the session."""
        for name, path in (await self.client.applications(server)).items():
            trial.apps[name] = await timed(self.client.open(server, path))
            self.say(f"{profile.key}: application {name}: {trial.apps[name].reason or 'it answers'}")

    async def _clean_up(self, profile: Profile, trial: Trial) -> None:
        """Stop the session. A cancellation of the caller waits for this."""

        async def stop() -> None:
            if trial.starting is not None:
                await asyncio.wait({trial.starting})
                trial.starting.exception()  # it has been reported
            await self._stop()

        stopping = asyncio.ensure_future(stop())
        while not stopping.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({stopping})
        if error := stopping.exception():
            trial.left = str(error)
            self.say(f"{profile.key}: {error}")

    async def _stop(self) -> None:
        """Stop the account's session, if there is one, and wait until it has ended.

        Raises:
            CanaryError: The session cannot be stopped, or the hub does not know the account.
        """
        deadline = time.monotonic() + CLEAN_UP_TIMEOUT
        problem = "it goes on"
        while time.monotonic() < deadline:
            try:
                session = await self.client.session()
                if session.get("state") in OVER and not session.get("times"):
                    return
                await self.client.stop()
            except CanaryError as error:
                problem = str(error)
                if not error.unanswered:
                    break
            await asyncio.sleep(INTERVAL)
        raise CanaryError(f"the session cannot be stopped: {problem}")


class Trial:
    """The test of one profile while it runs."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.stage = STAGES[0]
        self.silence = ""
        """Why the hub did not answer the last question, or empty."""
        self.left = ""
        """Why the session could not be stopped, or empty."""
        self.starting: asyncio.Future[None] | None = None
        """The request for the session, after it has been sent."""
        self.kernels: dict[str, KernelResult] = {}
        self.apps: dict[str, KernelResult] = {}
        self._times: dict[str, float] = {}

    def observe(self, session: dict[str, Any]) -> str:
        """Note the times of the session. Return the stage if it has changed, or empty."""
        times = session.get("times") or {}
        self._times |= {name: float(times[name]) for name in _TIMES if times.get(name)}
        before = self.stage
        # A short stage may pass between two questions.
        self.stage = next(
            (stage for stage, end in zip(STAGES, _TIMES[1:], strict=False) if end not in self._times), STAGES[-1]
        )
        return self.stage if self.stage != before else ""

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took, as far as this is known."""
        found = {}
        for stage, start, end in zip(STAGES, _TIMES, _TIMES[1:], strict=False):
            if start in self._times and end in self._times:
                found[stage] = max(0.0, self._times[end] - self._times[start])
        if self.kernels:
            found["kernel"] = sum(kernel.seconds for kernel in self.kernels.values())
        return found

    def result(self, outcome: str, stage: str = "", reason: str = "") -> Result:
        """Return a result with what was measured."""
        return Result(
            self.cluster, outcome, stage, one_line(reason), seconds=self.seconds(), kernels=self.kernels, apps=self.apps
        )

    def failed(self, reason: str) -> Result:
        """Return the result of a test that failed in the current stage."""
        return self.result(FAILED, self.stage, reason)

    def timed_out(self, limit: float) -> Result:
        """Return the result of a test whose time is over. A full queue is not a fault of the service."""
        if self.silence:
            return self.failed(self.silence)
        if self.stage == "queue":
            return self.result(SKIPPED, self.stage, f"the job was still in the queue after {limit:.0f} seconds")
        return self.failed(f"the stage was not over after {limit:.0f} seconds")

    def finished(self) -> Result:
        """Return the result of a test that ran to its end."""
        tested = [*self.kernels.items(), *self.apps.items()]
        bad = [f"{name}: {test.reason}" for name, test in tested if not test.ok]
        if bad:
            return self.failed("; ".join(bad))
        if self.left:
            return self.failed(self.left)
        return self.result(GOOD)


async def timed(test: Awaitable[str]) -> KernelResult:
    """Return the result of the test of a kernel or application, which may take ``KERNEL_TIMEOUT``.

    Args:
        test: The test. It returns a version, or empty.
    """
    began, reason, version = time.monotonic(), "", ""
    try:
        async with asyncio.timeout(KERNEL_TIMEOUT):
            version = await test
    except (CanaryError, TimeoutError) as error:
        reason = str(error) or f"it has not answered within {KERNEL_TIMEOUT:.0f} seconds"
    return KernelResult(not reason, time.monotonic() - began, reason, version)


def summary(result: Result) -> str:
    """Return a result as one line."""
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    where = f" in stage {result.stage}" if result.outcome == FAILED else ""
    text = f"{result.outcome}{where}{': ' if result.reason else ''}{result.reason}"
    return f"{text} ({times})" if times else text
