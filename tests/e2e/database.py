"""The PostgreSQL server of the lab, and the faults that tests cause."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from .lab import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .lab import Lab

DATA = "/var/lib/postgresql"
SMALL = "/run/hpchub-small-disk"
RESTART = 5.1  # How long systemd waits before it starts a server again, in seconds.
ROOM = 48  # Megabytes that are free on the small disk before it is filled.


class Server:
    """The server of the hub's database. It runs on the hub host, or on a host of its own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        url = make_url(lab.hub_settings()["db_url"])
        self.host = url.host or "hub"
        self.database = url.database or ""
        version = self.run("ls /etc/postgresql").split()[-1]
        self.unit = f"postgresql@{version}-main.service"

    @staticmethod
    def exists(lab: Lab) -> bool:
        """Return whether the hub uses PostgreSQL."""
        return str(lab.hub_settings()["db_url"]).startswith("postgresql")

    def run(self, script: str, *, check: bool = True) -> str:
        """Run a shell script on the server's host as root."""
        return self.lab.run(self.host, ["sh", "-c", script], check=check)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the server's administrator."""
        return self.run(f'psql -X -At -U postgres -d {database} -c "{statement}"')

    def stop(self) -> None:
        """Stop the server at once."""
        self.run(f"systemctl stop {self.unit}")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.run(f"systemctl start {self.unit}")
        eventually("PostgreSQL answers", lambda: "accepting" in self.run("pg_isready", check=False), timeout=60)

    def restart(self) -> None:
        """Restart the server."""
        self.run(f"systemctl restart {self.unit}")

    def kill(self) -> None:
        """Kill all processes of the server, and again while it starts. systemd starts it each time."""
        self.run(f"systemctl kill --signal=KILL {self.unit}")
        time.sleep(RESTART + random.uniform(0, 0.6))
        self.run(f"systemctl kill --signal=KILL {self.unit}")

    def cut_connections(self) -> None:
        """Cut all connections to the hub's database."""
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.database}'")

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Fill the file system of the server, which moves to a small disk for this."""
        self.stop()
        self.run(
            f"set -e; used=$(du -sm {DATA} | cut -f1); mkdir -p {SMALL};"
            f" mount -t tmpfs -o size=$((used + {ROOM}))m,mode=755 tmpfs {SMALL}; cp -a {DATA}/. {SMALL}/;"
            f" chown --reference={DATA} {SMALL}; mount --bind {SMALL} {DATA}"
        )
        try:
            self.start()
            time.sleep(5)
            self.run(f"dd if=/dev/zero of={SMALL}/filler bs=4k 2>/dev/null; true")
            yield
        finally:
            self.run(f"rm -f {SMALL}/filler")
            # The server starts by itself if the full disk has stopped it.
            eventually("PostgreSQL answers", lambda: "accepting" in self.run("pg_isready", check=False), timeout=90)

    def leave_small_disk(self) -> None:
        """Move the server back from the small disk."""
        if "tmpfs" not in self.run(f"findmnt -no FSTYPE {SMALL}", check=False):
            return
        self.stop()
        self.run(f"set -e; umount {DATA}; cp -a {SMALL}/. {DATA}/; umount {SMALL}; rmdir {SMALL}")
        self.start()
