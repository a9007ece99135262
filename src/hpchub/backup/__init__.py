"""Backups of the hub host: its database, secrets and settings, encrypted for the site's recipients."""

STATUS = "backup-status.json"
"""The file in the hub's state directory that describes how the last backup went.

Shape: ``{"time": SECONDS, "ok": BOOL, "file": NAME}``. The time and the name are those of the newest good backup. If
there is none, the time is 0.
"""
