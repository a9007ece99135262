"""hpchub: a Jupyter service for HPC centres, described once in an inventory."""

__version__ = "1.0.0rc1"
