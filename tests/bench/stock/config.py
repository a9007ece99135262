"""The stock hub's configuration, which follows the READMEs of wrapspawner and batchspawner."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traitlets.config import get_config  # noqa: TC004 JupyterHub defines it

settings = json.loads(Path("/opt/stock/settings.json").read_text())

c = get_config()
c.JupyterHub.bind_url = f"http://{settings['address']}:8000"
c.JupyterHub.hub_ip = "0.0.0.0"
c.JupyterHub.hub_connect_ip = "login1"
c.ConfigurableHTTPProxy.command = [
    "node",
    "/opt/stock/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
]
c.JupyterHub.authenticator_class = "jhub_remote_user_authenticator.remote_user_auth.RemoteUserAuthenticator"
c.Authenticator.allowed_users = set(settings["users"])
c.Authenticator.admin_users = {"carol"}
c.JupyterHub.services = [{"name": "bench", "api_token": settings["token"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "scopes": ["admin:users", "admin:servers", "access:servers"], "services": ["bench"]}
]
c.JupyterHub.load_groups = {"bench": {"users": settings["users"]}}


def resources(profile: dict[str, Any]) -> dict[str, str]:
    """Return the resources that batchspawner requests from Slurm."""
    return {
        "req_partition": profile["queue"],
        "req_nprocs": str(profile["cores"]),
        "req_memory": profile["memory"],
        "req_runtime": profile["runtime"],
        "batchspawner_singleuser_cmd": f"{settings['shared']}/batchspawner-singleuser",
    }


if settings["profiles"]:
    c.JupyterHub.spawner_class = "wrapspawner.ProfilesSpawner"
    c.ProfilesSpawner.profiles = [
        (profile["display_name"], profile["key"], "batchspawner.SlurmSpawner", resources(profile))
        for profile in settings["profiles"]
    ]
else:
    import batchspawner  # noqa: F401 registers its API handler

    c.JupyterHub.spawner_class = "batchspawner.SlurmSpawner"
    for name, value in resources(settings["profile"]).items():
        setattr(c.SlurmSpawner, name, value)
c.Spawner.cmd = ["/opt/hpchub/notebook/current/bin/jupyterhub-singleuser"]
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 120
