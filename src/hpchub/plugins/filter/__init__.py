"""Ansible's filter plugins."""
