"""`python -m lab create|destroy|status INSTANCE [TOPOLOGY]`, for Molecule and for work on the lab itself."""

from __future__ import annotations

import argparse
import json
import sys

from lab.console import LabError
from lab.instance import Instance
from lab.topology import TOPOLOGIES


def main() -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("command", choices=["create", "destroy", "status"])
    parser.add_argument("instance", help="demo, or the name of a Molecule scenario")
    parser.add_argument("topology", nargs="?", choices=TOPOLOGIES, help="default: the one of the instance's name")
    arguments = parser.parse_args()
    try:
        instance = Instance(arguments.instance, arguments.topology)
        if arguments.command == "status":
            print(json.dumps(instance.status(), indent=2))
            return 0
        with instance.lock():
            instance.create() if arguments.command == "create" else instance.destroy()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
