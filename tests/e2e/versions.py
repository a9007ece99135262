"""Other versions of the package, and deployments of them that break off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from .site import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from .lab import Lab
    from .site import Site

CURRENT = "/opt/hpchub/hub/current"

OTHER_SCHEMA = """

_known, _upgrade = known_revisions, upgrade_schema


def known_revisions() -> list[str]:
    return ["feedfacecafe", *_known()]


def upgrade_schema(url: str) -> None:
    with create_engine(url).begin() as connection:
        connection.execute(text("ALTER TABLE users ADD COLUMN another INTEGER"))
        connection.execute(text("UPDATE alembic_version SET version_num = 'feedfacecafe'"))
"""
"""The addition to ``backup/database.py`` in a version that uses another schema."""
ACCEPT_SCHEMA = """
import jupyterhub.orm

jupyterhub.orm.check_db_revision = lambda engine: None
"""
"""What that version adds to ``hub/config.py``. Every other version refuses to start with this schema."""
MOMENTS = (
    "Build the environment",
    "Save the old version, and upgrade the database",
    "Write the hub's settings, configuration and unit",
    "Restart jupyterhub",
    "Wait until the hub answers on its socket",
)
"""Tasks of a deployment. The deployment is killed when its output names one of them."""


def environment(lab: Lab) -> str:
    """Return the environment that the hub's link names."""
    return lab.run("hub", ["readlink", CURRENT]).strip()


def schema(lab: Lab) -> str:
    """Return the schema of the hub's database."""
    return str(lab.database("SELECT version_num FROM alembic_version")[0][0])


def copy_package(directory: Path) -> Path:
    """Copy the package into a directory. A test may change the copy, so that it is another version."""
    copy = directory / "package"
    shutil.copytree(REPOSITORY / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    return copy


def add(package: Path, path: str, text: str) -> None:
    """Add text to a file of a package."""
    with (package / "src" / "hpchub" / path).open("a") as file:
        file.write(text)


def use_other_schema(package: Path) -> None:
    """Let a version use another schema of the database."""
    add(package, "backup/database.py", OTHER_SCHEMA)
    add(package, "hub/config.py", ACCEPT_SCHEMA)


def of_package(package: Path) -> list[str]:
    """Return the options that deploy a package."""
    return ["--tags", "jupyterhub", "-e", f"jupyterhub_package_src={package}"]


def kill_deployment(site: Site, moment: str, *options: str) -> None:
    """Deploy, and kill the playbook when a task begins. What runs on the hosts ends by itself."""
    command = site.command(*options)
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=site.environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert running.stdout
        seen = any(moment in line for line in running.stdout)
        os.killpg(running.pid, signal.SIGKILL)
    assert seen, f"the deployment ended before the task {moment!r}"
