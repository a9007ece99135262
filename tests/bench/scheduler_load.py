"""Measure the load of many sessions on the hub and the scheduler, with the stock packages and with hpchub."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .client import BenchError
from .load import plot
from .load.shared import SharedSetup, enter_namespace
from .load.stack import Stack
from .results import save

if TYPE_CHECKING:
    import argparse

STACKS = ("stock", "hpchub")
BURST_LIMIT = 300.0
"""How long all submissions of a burst may take, and then all servers, in seconds."""
LAUNCHES = 8
LAUNCH_LIMIT = 30.0
"""How long one start may take, in seconds."""

COLUMNS = {
    "idle_commands_per_minute": "scheduler commands per minute, idle",
    "pending_commands_per_minute": "scheduler commands per minute, all pending",
    "idle_processes_per_minute": "processes started per minute, idle",
    "submitted": "jobs submitted",
    "burst_submit_seconds": "seconds until all are submitted",
    "burst_hub_p50_ms": "hub's response time during the burst, p50, ms",
    "burst_hub_p99_ms": "p99, ms",
    "burst_hub_max_ms": "max, ms",
    "burst_hub_unanswered": "unanswered",
    "started": "sessions started",
    "burst_hub_cpu_seconds": "hub's CPU seconds for all starts",
    "loop_delay_p50_ms": "event loop delay during the burst, p50, ms",
    "loop_delay_p99_ms": "p99, ms",
    "loop_delay_max_ms": "max, ms",
    "hub_cpu_seconds_per_minute": "hub's CPU seconds per minute, idle",
    "hub_memory_mb": "hub's memory, MB",
    "hub_memory_per_session_mb": "hub's memory per session, MB",
    "usable_seconds": "seconds from the job's start to a usable JupyterLab",
}


def sizes(text: str) -> list[int]:
    """Parse a list of numbers such as ``10,100,1000``."""
    return [int(word) for word in text.split(",")]


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this bench."""
    parser.add_argument(
        "--sessions",
        type=sizes,
        default=[10, 100, 1000],
        metavar="N,…",
        help="numbers of sessions, default 10,100,1000",
    )
    parser.add_argument("--idle", type=float, default=60.0, metavar="S", help="seconds of the idle phase, default 60")
    parser.add_argument(
        "--pending",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds with all jobs pending, default 30",
    )
    parser.add_argument("--only", choices=STACKS, help="measure only this one")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="the plot as SVG; by default next to the JSON file")


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure, and return one object for each stack and number of sessions."""
    enter_namespace()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up when the bench is terminated
    target = arguments.plot or (arguments.json and arguments.json.with_suffix(".svg"))
    result: list[dict[str, Any]] = []
    with SharedSetup(max(arguments.sessions) + LAUNCHES + 1) as shared:
        for sessions in arguments.sessions:
            for name in STACKS if arguments.only is None else [arguments.only]:
                begin = time.monotonic()
                measured = asyncio.run(measure(shared, name, sessions, arguments))
                print(f"{sessions:>5} {name:>7}  {time.monotonic() - begin:.0f} s", flush=True)
                result.append(measured)
                if arguments.json:  # save early: a later measurement may fail
                    save(arguments.json, result)
                if target:
                    target.write_text(plot.svg(result))
    return result


async def measure(shared: SharedSetup, name: str, sessions: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one stack: all starts while the queue is held, then all servers at once, then an idle phase."""
    result: dict[str, Any] = {"stack": name, "sessions": sessions}
    async with Stack(shared, name, sessions) as stack:
        await stack.add_users(range(1, sessions + LAUNCHES + 2))
        # Start one session first, so that one-time imports do not count as the cost of a session.
        if await launch(stack, sessions + LAUNCHES + 1) is None:
            raise BenchError(f"{name}: the first session did not start within {LAUNCH_LIMIT:g} seconds")
        await asyncio.sleep(5)
        empty = stack.memory()
        await stack.scheduler("hold")
        processor, begin = stack.processor(), time.time()
        starts = [asyncio.create_task(stack.start(number)) for number in range(1, sessions + 1)]
        result["submitted"] = await until(stack, "PENDING", sessions)
        submitted = time.time()
        result["burst_submit_seconds"] = submitted - begin
        await asyncio.sleep(2)
        result["pending_commands_per_minute"] = (await counted(shared, arguments.pending))["commands"]
        await stack.scheduler("release")
        released = time.time()
        while (started := await stack.routes() - 1) < sessions and time.time() < released + BURST_LIMIT:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        done = time.time()
        result["burst_hub_cpu_seconds"] = stack.processor() - processor
        windows = ((begin, submitted), (released, done))
        taken = stack.answers(*windows)
        answered = [value for value in taken if value is not None]
        worst = [value if value is not None else 10_000.0 for value in taken]
        result["started"] = started
        result.update(figures("burst_hub", worst))
        result["burst_hub_unanswered"] = len(taken) - len(answered)
        result.update(figures("loop_delay", stack.delays(*windows)))
        await asyncio.gather(*starts)
        await asyncio.sleep(10)
        processor = stack.processor()
        idle = await counted(shared, arguments.idle)
        result["idle_commands_per_minute"] = idle["commands"]
        result["idle_processes_per_minute"] = idle["processes"]
        result["hub_cpu_seconds_per_minute"] = (stack.processor() - processor) * 60 / arguments.idle
        result["hub_memory_mb"] = stack.memory()
        result["hub_memory_per_session_mb"] = (result["hub_memory_mb"] - empty) / started if started else None
        launches = [await launch(stack, sessions + 1 + n) for n in range(LAUNCHES)]
        usable = [seconds for seconds in launches if seconds is not None]
        result["usable_seconds"] = statistics.median(usable) if usable else None
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}


async def until(stack: Stack, state: str, sessions: int) -> int:
    """Wait until enough jobs are in a state or ``BURST_LIMIT`` has passed. Return the number of those jobs."""
    deadline = time.monotonic() + BURST_LIMIT
    while True:
        there: int = sum(job["state"] == state for job in await stack.scheduler())
        if there >= sessions or time.monotonic() > deadline:
            return there
        await asyncio.sleep(0.2)


async def counted(shared: SharedSetup, seconds: float) -> dict[str, float]:
    """Count for some seconds, and return scheduler commands and processes per minute."""
    before = shared.counted()
    await asyncio.sleep(seconds)
    more = {name: (number - before[name]) * 60 / seconds for name, number in shared.counted().items()}
    commands = sum(more[name] for name in ("sbatch", "squeue", "scancel"))
    return {"commands": commands, "processes": sum(more.values())}


async def launch(stack: Stack, number: int) -> float | None:
    """Return the seconds from the start of a user's job until its server answers. Return None after a timeout."""
    start = asyncio.create_task(stack.start(number))
    deadline = time.monotonic() + LAUNCH_LIMIT
    while not await stack.usable(number):
        if time.monotonic() > deadline:
            start.cancel()
            return None
        await asyncio.sleep(0.02)
    usable = time.time()
    await start
    return usable - float((await stack.scheduler())[-1]["running"])


def figures(name: str, milliseconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum."""
    ordered = sorted(milliseconds)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{word}_ms": ordered[min(len(ordered) - 1, int(part * len(ordered)))] for word, part in at.items()}


def table(result: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return the result as rows of text. The first row is the heading."""
    rows: list[tuple[str, ...]] = [("", *(f"{each['stack']} {each['sessions']}" for each in result))]
    for column, words in COLUMNS.items():
        rows.append((words, *("none" if each[column] is None else f"{each[column]:.6g}" for each in result)))
    return rows
