"""Build the collection, install it into an empty directory, and run what a site would run from there.

Nothing here uses the checkout except to build the archive.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "hpchub.hpchub"


@dataclass(frozen=True)
class InstalledCollection:
    """The collection in a directory of its own.

    Attributes:
        directory: A directory for the playbooks, inventories and files of a site.
        collections: The directory that `ansible-galaxy collection install --collections-path` filled.
    """

    directory: Path
    collections: Path

    @property
    def path(self) -> Path:
        """The directory of the installed collection."""
        return self.collections / "ansible_collections" / "hpchub" / "hpchub"

    def run(self, program: str, *arguments: str | Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        """Run one of Ansible's programs in the site's directory, without any setting of this checkout."""
        foreign = ("ANSIBLE_", "PYTHON", "MOLECULE_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_CONFIG": str(self.collections.parent / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "true",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            # The checkout may be read-only, and bytecode must not end up in the archive.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            [str(Path(sys.executable).parent / program), *map(str, arguments)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def write_example(self, role: str) -> Path:
        """Write the example playbook of a role's README into the site's directory, and return its path."""
        playbook = self.directory / f"{role}.yml"
        playbook.write_text(example_playbook((self.path / "roles" / role / "README.md").read_text()))
        return playbook


def example_playbook(readme: str) -> str:
    """Return the playbook in the section "Example playbook" of a README."""
    found = re.search(r"^## Example playbook\n.*?^```yaml\n(.*?)^```\n", readme, re.MULTILINE | re.DOTALL)
    assert found, 'the README has no section "Example playbook" with a block of YAML'
    return f"---\n{found[1]}"


def install_collection(directory: Path) -> InstalledCollection:
    """Build the archive of the collection and install it below an empty directory.

    Raises:
        AssertionError: A command failed. The message contains its output.
    """
    site = directory / "site"
    site.mkdir()
    (directory / "ansible.cfg").touch()  # Otherwise Ansible reads the settings of the user who runs the tests.
    installed = InstalledCollection(site, directory / "collections")
    build = installed.run("ansible-galaxy", "collection", "build", "--output-path", directory, ROOT)
    assert build.returncode == 0, build.stdout + build.stderr
    (archive,) = directory.glob("*.tar.gz")
    # The dependencies come with the Python package "ansible".
    options = ("--offline", "--no-deps", "--collections-path", installed.collections)
    done = installed.run("ansible-galaxy", "collection", "install", *options, archive)
    assert done.returncode == 0, done.stdout + done.stderr
    return installed
