"""hpchub: a Jupyter service for HPC centres, described once in an inventory."""

__version__ = "0.1.0"
