"""Bundles: archives with the software that the playbooks otherwise download, for hosts without a network."""
