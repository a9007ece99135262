"""The code that JupyterHub loads: configuration, authenticator, spawners, handlers and proxy."""

DEFAULT_SETTINGS = "/etc/hpchub/hub.json"
"""The settings file, which the Ansible role ``jupyterhub`` writes."""
