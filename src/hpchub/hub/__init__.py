"""The code that JupyterHub loads: configuration, authenticator, spawners, handlers and proxy."""
