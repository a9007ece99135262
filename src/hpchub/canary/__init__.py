"""The canary: it starts sessions as a user's program does, runs 6*7 in each kernel, and measures every stage."""

SERVICE = "canary"
"""The name of the canary's service and role in JupyterHub."""
TOKEN = "HPCHUB_CANARY_TOKEN"  # noqa: S105 a name, not a secret
"""The environment variable with the canary's token. systemd sets it for the units of the hub and of the canary."""
