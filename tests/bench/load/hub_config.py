"""Both hubs' configuration. The stock one is close to what wrapspawner's and batchspawner's READMEs show."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

settings = json.loads(Path(os.environ["BENCH_SETTINGS"]).read_text())

c = get_config()  # noqa: F821 JupyterHub provides it

if settings["stack"] == "hpchub":
    from hpchub.hub.config import configure

    configure(c, settings["hub_json"])
else:
    import batchspawner  # noqa: F401 for its API handler, says its README

    c.JupyterHub.bind_url = settings["proxy_url"]
    c.JupyterHub.hub_bind_url = settings["hub_url"]
    c.ConfigurableHTTPProxy.command = settings["proxy_command"]
    c.ConfigurableHTTPProxy.api_url = settings["proxy_api_url"]
    c.JupyterHub.authenticator_class = "jhub_remote_user_authenticator.remote_user_auth.RemoteUserAuthenticator"
    c.Authenticator.allow_all = True
    c.JupyterHub.spawner_class = "wrapspawner.ProfilesSpawner"
    c.ProfilesSpawner.profiles = [
        (
            "small",
            "small",
            "batchspawner.SlurmSpawner",
            {"req_partition": "q", "req_nprocs": "1", "req_memory": "1G", "req_runtime": "8:00:00"},
        )
    ]
    c.Spawner.env_keep = ["PATH"]  # where the stand-ins are; a real system has them where a shell looks anyway
    c.JupyterHub.db_url = settings["db_url"]
    c.JupyterHub.cookie_secret_file = settings["cookie_secret_file"]
    # hpchub has none either: a job that waits in its queue counts as a start, and the 101st user would be turned away.
    c.JupyterHub.concurrent_spawn_limit = 0

c.JupyterHub.services = [{"name": "bench", "api_token": settings["token"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "scopes": ["admin:users", "admin:servers", "tokens"], "services": ["bench"], "users": ["bench"]}
]


async def watch_loop(interval=0.02):
    """A line for each look: when, and by how many milliseconds the loop was late."""
    with Path(settings["loop_file"]).open("w") as log:  # noqa: ASYNC230 a local file, for a line at a time
        while True:
            due = time.perf_counter() + interval
            await asyncio.sleep(interval)
            log.write(json.dumps([time.time(), (time.perf_counter() - due) * 1000]) + "\n")
            log.flush()


# JupyterHub reads this file inside its loop.
sys.modules["__main__"].bench_watch = asyncio.get_running_loop().create_task(watch_loop())
