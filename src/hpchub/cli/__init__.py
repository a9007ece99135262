"""The command ``hpchub``, and the checks that run on the hub host."""
