"""The inventories that the tests of this directory use."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "tests" / "repo" / "site"
"""An inventory for tests that change it. Whoever tries hpchub may change the inventory of the demo."""
