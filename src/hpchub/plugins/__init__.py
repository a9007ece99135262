"""Ansible's plugins: thin edges to the package. ``playbooks/`` links here, so a checkout is enough to run them."""
