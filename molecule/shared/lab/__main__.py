"""Create, destroy or show an instance of the lab. Molecule uses this program, and so do developers of the lab."""

from __future__ import annotations

import argparse
import json
import sys

from lab.console import LabError
from lab.instance import Instance
from lab.topology import TOPOLOGIES


def main() -> int:
    """Run one command and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("command", choices=["create", "destroy", "status"])
    parser.add_argument("instance", help="the instance's name: 'demo', or the name of a Molecule scenario")
    parser.add_argument(
        "topology", nargs="?", choices=TOPOLOGIES, help="the hosts to create (default: the topology named INSTANCE)"
    )
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
        print("lab: interrupted. Run the same command again to continue.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
