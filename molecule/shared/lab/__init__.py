"""The lab: a small real cluster of systemd containers on one machine.

The demo (`bin/demo`) and every Molecule scenario use it. Test equipment: no product role knows of it.
"""
