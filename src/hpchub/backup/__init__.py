"""Backups of the hub host: its database, secrets and settings, encrypted for the site's recipients."""
