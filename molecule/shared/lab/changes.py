"""Which files a branch changes, and which stages of bin/test cover each file."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from lab.console import LabError
from lab.host import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LINT = ("lint",)
DOCUMENTS = ("lint", "repo")
PLAIN = ("lint", "unit", "repo")
SERVICE = (*PLAIN, "default", "single_node")
"""Stages for code that every deployment runs."""
COLLECTION = (*SERVICE, "collection")
"""Stages for code that the roles need when they run alone."""
SLURM = (*SERVICE, "slurm_debian12", "multi_cluster")
GRID_ENGINE = (*PLAIN, "gridengine", "multi_cluster")
HTCONDOR = (*PLAIN, "htcondor")
EMULATED = (*PLAIN, "emulated")
PLACES = (*PLAIN, "science_portal")
"""Stages for places without a scheduler, and for a sign-on in the hub."""
DOORS = (*SERVICE, "sign_on")
"""Stages for the sign-on at the web server."""
SCENARIOS = (
    "default",
    "single_node",
    "slurm_debian12",
    "emulated",
    "multi_cluster",
    "gridengine",
    "htcondor",
    "postgresql",
    "offline",
    "science_portal",
    "sign_on",
    "workbench",
)
WORKBENCH = (*("dask", "desktop", "environment", "modules", "python2", "rstudio", "spark", "vscode", "web_apps"),)
"""The browser tests of applications and kernels that only the hosts of the scenario workbench have."""

ROLES_ALONE = ("jupyter_kernels", "reverse_proxy")
"""The roles that the stage `collection` runs, from the example playbooks in their READMEs."""

# The first rule that matches a path decides. In a pattern, `*` also matches slashes. A path that no rule matches runs
# every stage.
RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Documents and the files of code hosting sites
    *((f"roles/{role}/README.md", (*DOCUMENTS, "collection")) for role in ROLES_ALONE),
    ("*.md", DOCUMENTS),
    ("docs/*", DOCUMENTS),
    ("mkdocs.yml", DOCUMENTS),
    (".github/*", DOCUMENTS),
    (".gitlab/*", DOCUMENTS),
    (".gitlab-ci.yml", DOCUMENTS),
    (".gitignore", DOCUMENTS),
    ("CITATION.cff", DOCUMENTS),
    ("CODEOWNERS", DOCUMENTS),
    ("LICENSE", DOCUMENTS),
    ("renovate.json", DOCUMENTS),
    # Linters
    (".ansible-lint", LINT),
    (".pre-commit-config.yaml", ("lint", "unit")),
    (".yamllint", LINT),
    # Tests
    ("tests/bench/*", LINT),
    ("tests/collection/*", ("lint", "collection")),
    ("tests/installed_collection.py", (*DOCUMENTS, "collection")),
    ("monitoring/*", (*DOCUMENTS, "monitoring")),
    ("tests/monitoring/*", ("lint", "monitoring")),
    ("tests/prometheus_queries.py", (*DOCUMENTS, "monitoring")),
    ("molecule/shared/lab/prometheus.py", ("lint", "monitoring")),
    ("tests/e2e/test_emulated.py", ("lint", "emulated")),
    ("tests/e2e/test_clusters.py", ("lint", "multi_cluster")),
    ("tests/e2e/test_database.py", ("lint", "default", "postgresql")),
    ("tests/e2e/test_migration.py", ("lint", "postgresql")),
    ("tests/e2e/test_takeover.py", ("lint", "postgresql")),
    ("tests/e2e/test_places.py", ("lint", "science_portal")),
    ("tests/e2e/test_hub_sign_on.py", ("lint", "science_portal", "sign_on")),
    ("tests/e2e/doors.py", ("lint", "sign_on")),
    *((f"tests/e2e/test_{name}.py", ("lint", "sign_on")) for name in ("doors", "bad_providers", "provider_choice")),
    ("tests/e2e/test_previous_release.py", ("lint", "upgrade")),
    *((f"tests/e2e/test_{name}.py", ("lint", "workbench")) for name in WORKBENCH),
    ("tests/e2e/previous_release", ("upgrade",)),
    ("tests/e2e/*", ("lint", "default")),
    ("tests/mutations/*", LINT),
    ("tests/repo/*", DOCUMENTS),
    # The results of the attacks are part of a generated page.
    ("tests/security/*", ("lint", "repo", "default")),
    ("tests/unit/*", ("lint", "unit")),
    ("tests/virtual_time.py", ("lint", "unit")),
    # One scheduler
    *(
        (pattern.format(scheduler), stages)
        for schedulers, stages in (
            (("slurm", "multislurm"), SLURM),
            (("gridengine", "uge"), GRID_ENGINE),
            (("htcondor",), HTCONDOR),
            (("pbs", "torque", "moab", "lsf"), EMULATED),
        )
        for scheduler in schedulers
        for pattern in ("src/hpchub/schedulers/{}.py", "templates/batch/{}.sh.j2")
    ),
    ("molecule/shared/roles/lab_slurm/*", (*LINT, "default", "single_node", "slurm_debian12", "multi_cluster")),
    ("molecule/shared/roles/lab_gridengine/*", (*LINT, "gridengine", "multi_cluster")),
    ("molecule/shared/roles/lab_htcondor/*", (*LINT, "htcondor")),
    ("molecule/shared/roles/lab_emulator/*", ("lint", "unit", "emulated")),
    *((f"molecule/shared/roles/lab_{name}/*", (*LINT, "science_portal")) for name in ("globus", "kubernetes")),
    *((f"molecule/shared/{name}.yml", (*LINT, "science_portal")) for name in ("globus", "kubernetes")),
    *((f"molecule/shared/{name}", (*LINT, "sign_on")) for name in ("sign_on*", "providers.yml", "roles/lab_sign_on/*")),
    ("molecule/shared/workbench.yml", (*LINT, "workbench")),
    # The product
    *(
        (f"src/hpchub/{name}.py", (*SERVICE, "workbench"))
        for name in (
            *("model/apps", "model/app_rules", "model/dask_rules", "model/spark_settings", "clusters/dask_jobs"),
            *("remote/app", "remote/dask_dashboard", "remote/desktop", "remote/lab_modules", "remote/rstudio"),
            *("remote/spark", "remote/spark_kernel", "remote/spark_node"),
        )
    ),
    ("src/hpchub_dask/*", (*SERVICE, "workbench")),
    *((f"src/hpchub/model/{name}.py", DOORS) for name in ("sso", "user_mapping")),
    ("src/hpchub/places/*", PLACES),
    *((f"src/hpchub/remote/{name}.py", PLACES) for name in ("docker_gate", "host_client", "host_units")),
    ("src/hpchub/schedulers/systemd.py", PLACES),
    ("roles/docker_place/*", PLACES),
    ("playbooks/places.yml", (*DOCUMENTS, "science_portal")),
    ("src/hpchub/bundle/*", (*SERVICE, "offline")),
    ("src/hpchub/cli/*", (*PLAIN, "default")),
    ("src/hpchub/hub/*", (*SERVICE, "monitoring")),
    ("src/hpchub/schedulers/*", (*PLAIN, *SCENARIOS)),
    ("src/hpchub/clusters/*", (*SERVICE, "multi_cluster")),
    *((f"src/hpchub/hub/{name}.py", (*SERVICE, "postgresql")) for name in ("database", "health", "migration")),
    *((f"src/hpchub/backup/{name}.py", (*SERVICE, "upgrade")) for name in ("database", "files", "host", "upgrade")),
    ("src/*", SERVICE),
    ("plugins/*", COLLECTION),
    ("collections/*", COLLECTION),
    ("galaxy.yml", (*PLAIN, "collection")),
    ("meta/runtime.yml", (*PLAIN, "collection")),
    ("requirements.yml", PLAIN),
    ("templates/pages/*", (*PLAIN, "default")),
    ("roles/*/vars/Debian-12.yml", (*DOCUMENTS, "slurm_debian12")),
    ("roles/reverse_proxy/*", (*COLLECTION, "sign_on")),
    *((f"roles/{role}/*", COLLECTION) for role in ROLES_ALONE),
    ("roles/state_store/*", (*SERVICE, "postgresql")),
    *((f"roles/{role}/*", (*SERVICE, "offline")) for role in ("bundle", "configurable_http_proxy")),
    ("roles/python_environment/*", (*SERVICE, "offline", "upgrade")),
    ("roles/jupyterhub/tasks/*", (*SERVICE, "upgrade")),
    ("roles/*", SERVICE),
    ("playbooks/rollback.yml", (*DOCUMENTS, "default", "upgrade")),
    *((f"playbooks/{name}.yml", (*DOCUMENTS, "postgresql")) for name in ("migrate_state_store", "standby", "takeover")),
    ("playbooks/*", (*DOCUMENTS, "default", "single_node")),
    ("group_vars/*", (*DOCUMENTS, "default", "single_node")),
    # Inventories and scenarios
    ("inventories/example_slurm/*", DOCUMENTS),
    ("inventories/demo/*", (*DOCUMENTS, "default", "slurm_debian12")),
    *((f"inventories/{name}/*", (*DOCUMENTS, name)) for name in SCENARIOS[1:]),
    *((f"molecule/{name}/*", (*LINT, name)) for name in SCENARIOS),
    ("molecule/slurm", LINT),  # another name for the scenario default
    # The lab
    ("molecule/shared/lab/suite.py", ("lint", "unit")),
    ("molecule/shared/lab/changes.py", ("lint", "unit")),
    ("molecule/shared/lab/demo.py", ("lint", "unit")),
    ("molecule/shared/lab/*", ("lint", "unit", "default", "single_node")),
    ("molecule/shared/tests/*", ("lint", "default", "single_node")),
    ("molecule/shared/*.yml", ("lint", *SCENARIOS)),
    ("molecule/shared/roles/*", ("lint", *SCENARIOS)),
    ("molecule/shared/bootstrap.sh", PLAIN),
    ("bin/*", PLAIN),
    (".ci/*", LINT),
)


def stages_for(path: str) -> tuple[str, ...] | None:
    """Return the stages that cover a file, or None for a file that needs every stage.

    Args:
        path: The file's path relative to the repository's top directory.
    """
    return next((stages for pattern, stages in RULES if fnmatchcase(path, pattern)), None)


def reasons(paths: Iterable[str], stages: Sequence[str]) -> dict[str, list[str]]:
    """Return the stages that cover some files, each with the files that require it.

    Args:
        paths: Paths relative to the repository's top directory.
        stages: The names of all stages, in the order in which they run.
    """
    found: dict[str, list[str]] = {name: [] for name in stages}
    for path in paths:
        covered = stages_for(path)
        for name in stages if covered is None else covered:
            found[name].append(path)
    return {name: because for name, because in found.items() if because}


def default_base() -> str:
    """Return the branch that the current branch is compared with: origin/main, or main.

    Raises:
        LabError: The repository has neither.
    """
    for name in ("origin/main", "main"):
        if _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").returncode == 0:
            return name
    raise LabError(
        "the repository has no branch origin/main or main to compare with. To fix this, name the base: "
        "bin/test --changed BASE"
    )


def changed_files(base: str) -> list[str]:
    """Return the files that differ between the merge base with `base` and the working tree, sorted.

    Files that are not committed, or not even added, count as well. Ignored files do not.

    Raises:
        LabError: `base` is not a commit, has no common ancestor with HEAD, or this is no git repository.
    """
    merge_base = _git("merge-base", base, "HEAD")
    if merge_base.returncode != 0:
        detail = merge_base.stderr.strip().splitlines()
        raise LabError(
            f"git finds no merge base of {base!r} and HEAD ({detail[-1] if detail else 'no common commit'}). To fix "
            "this, name an existing branch, tag or commit of this repository: bin/test --changed BASE"
        )
    commands = (
        ("diff", "--name-only", "--no-renames", "-z", merge_base.stdout.strip()),
        ("ls-files", "--others", "--exclude-standard", "-z"),
    )
    found: set[str] = set()
    for command in commands:
        done = _git(*command)
        if done.returncode != 0:
            raise LabError(f"git {command[0]} failed: {done.stderr.strip()}")
        found.update(name for name in done.stdout.split("\0") if name)
    return sorted(found)


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    # With sudo, the checkout belongs to another user, and git refuses to read it unless the command line permits it.
    command = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), *arguments]
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError("git is not installed. To fix this, install it, or choose the stages with --only") from None
