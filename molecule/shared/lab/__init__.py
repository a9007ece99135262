"""The lab: a small but real HPC cluster, made of systemd containers on one machine.

The demo (`bin/demo`) and all Molecule scenarios run on it. The lab is test equipment, so the roles of the product
never refer to it.
"""
