"""The entry point. The program's file name selects the command, and its directory selects the flavour."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

from lab_emulator import agent, client, lsf, moab, pbs, server, torque
from lab_emulator.common import Unreachable

MODULES = {"pbs": pbs, "torque": torque, "moab": moab, "lsf": lsf}


def main() -> int:
    """Run the program that was called, and return its exit code."""
    called = Path(sys.argv[0]).absolute()
    if called.name == "lab-emulator":
        return control(sys.argv[1:])
    flavour = called.parent.parent.name
    # Moab schedules jobs for Torque, so its directory also contains Torque's programs.
    module = MODULES[flavour]
    if flavour == "moab" and called.name not in moab.COMMANDS:
        module = torque
    words = {"refused": module.refused, "error": module.error, "submits": called.name in ("qsub", "msub", "bsub")}
    return client.run(flavour, called.name, module.COMMANDS[called.name], words)


def control(arguments: list[str]) -> int:
    """Run ``lab-emulator``, which starts a service or carries out an order of an administrator."""
    parser = argparse.ArgumentParser(
        prog="lab-emulator", description="Emulated PBS, Torque, Moab and LSF: run a service, or give an order to one."
    )
    parser.add_argument(
        "what", choices=["server", "agent", *MODULES], help="the service to run, or the scheduler that gets the order"
    )
    parser.add_argument(
        "order",
        nargs="*",
        help="one of: fault KIND[=SECONDS] [only=PROGRAM], where KIND is off, " + ", ".join(client.FAULTS)
        + "; hide on|off; queue NAME open|close|new|drop; suspend|resume|requeue|delete ID; status",
    )  # fmt: skip
    parser.add_argument(
        "--node", default=socket.gethostname(), help="the host of the agent (default: the name of this host)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.what == "server":
        server.serve()
    elif chosen.what == "agent":
        agent.serve(chosen.node)
    if not chosen.order:
        parser.error(f"the order for {chosen.what} is missing, for example 'status'; --help lists all orders")
    try:
        found = order(client.Cluster(chosen.what), chosen.order)
    except (ValueError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else "a word is missing"
        parser.error(f"invalid order {' '.join(chosen.order)!r}: {reason}; --help lists all orders")
    except Unreachable as error:
        sys.stderr.write(f"lab-emulator: the server does not answer: {error}\n")
        return 1
    print(json.dumps(found, indent=2))
    return 1 if "error" in found else 0


def order(cluster: client.Cluster, words: list[str]) -> dict[str, object]:
    """Carry out one order and return the server's answer.

    Raises:
        ValueError: The order, or one of its values, is unknown.
        IndexError: The order is incomplete.
    """
    verb = words[0]
    if verb == "status":
        return cluster.status()
    if verb in ("suspend", "resume", "requeue", "delete"):
        return cluster.act(verb, int(words[1].split(".")[0]))
    if verb == "hide":
        return dict(cluster.ask("admin", hide={"on": True, "off": False}.get(words[1]) or False))
    if verb == "queue":
        if words[2] in ("new", "drop"):
            return dict(cluster.ask("admin", more_queues={words[1]: words[2] == "new"}))
        return dict(cluster.ask("admin", queues={words[1]: words[2] == "open"}))
    if verb == "fault":
        kind, _, seconds = words[1].partition("=")
        if kind == "off":
            return dict(cluster.ask("admin", fault={}))
        if kind not in client.FAULTS:
            raise ValueError(f"the fault {kind!r} does not exist; the valid ones are off, {', '.join(client.FAULTS)}")
        only = next((word.removeprefix("only=") for word in words[2:]), None)
        return dict(cluster.ask("admin", fault={"kind": kind, "seconds": float(seconds or 30), "only": only}))
    raise ValueError(f"{verb!r} is not an order")
