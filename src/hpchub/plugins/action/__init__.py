"""Ansible's action plugins."""
