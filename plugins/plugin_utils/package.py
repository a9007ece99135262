"""Access to the Python package ``hpchub`` for plugins that run on the controller."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.errors import AnsibleError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
"""The collection's directory. In a checkout, this is the checkout, because the link in ``collections/`` is resolved."""


@contextmanager
def hpchub_package() -> Iterator[None]:
    """Make ``import hpchub`` work inside the block.

    The package comes from ``src/`` beside the plugins, so that plugins and package always have the same version.

    Raises:
        AnsibleError: A module that the package needs is missing.
    """
    source = str(ROOT / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    try:
        yield
    except ImportError as error:
        raise AnsibleError(
            f"The Python that runs Ansible has no module {error.name!r}, which hpchub needs. "
            f"Install the packages of hpchub: {sys.executable} -m pip install babel cryptography pydantic"
        ) from error
