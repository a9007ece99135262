"""The stock hub's configuration, close to what wrapspawner's and batchspawner's READMEs show."""

import json
from pathlib import Path

settings = json.loads(Path("/opt/stock/settings.json").read_text())
profile = settings["profile"]

c = get_config()  # noqa: F821 JupyterHub provides it
c.JupyterHub.bind_url = f"http://0.0.0.0:{settings['port']}"
c.JupyterHub.hub_ip = "0.0.0.0"
c.JupyterHub.hub_connect_ip = "login1"
c.ConfigurableHTTPProxy.command = [
    "node",
    "/opt/stock/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [{"name": "bench", "api_token": settings["token"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "scopes": ["admin:users", "admin:servers", "access:servers"], "services": ["bench"]}
]
c.JupyterHub.load_groups = {"bench": {"users": [settings["user"]]}}

c.JupyterHub.spawner_class = "wrapspawner.ProfilesSpawner"
c.ProfilesSpawner.profiles = [
    (
        profile["display_name"],
        profile["key"],
        "batchspawner.SlurmSpawner",
        {
            "req_partition": profile["queue"],
            "req_nprocs": str(profile["cores"]),
            "req_memory": profile["memory"],
            "req_runtime": profile["runtime"],
            "batchspawner_singleuser_cmd": f"{settings['shared']}/batchspawner-singleuser",
        },
    )
]
c.Spawner.cmd = ["/opt/hpchub/notebook/current/bin/jupyterhub-singleuser"]
c.Spawner.default_url = "/lab"
c.Spawner.http_timeout = 120
