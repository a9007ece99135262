"""Configuration of both hubs. That of the stock hub follows the READMEs of wrapspawner and batchspawner."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traitlets.config import get_config  # noqa: TC004 JupyterHub defines it

settings = json.loads(Path(os.environ["BENCH_SETTINGS"]).read_text())

c = get_config()

if settings["stack"] == "hpchub":
    from hpchub.hub.config import configure

    configure(c, settings["hub_json"])
else:
    import batchspawner  # noqa: F401 registers its API handler

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
    c.Spawner.env_keep = ["PATH"]  # finds the stand-in scheduler commands
    c.JupyterHub.db_url = settings["db_url"]
    c.JupyterHub.cookie_secret_file = settings["cookie_secret_file"]
    # A pending job counts as a start, so the default limit would refuse the 101st user. hpchub has no limit either.
    c.JupyterHub.concurrent_spawn_limit = 0

c.JupyterHub.services = [{"name": "bench", "api_token": settings["token"]}]
c.JupyterHub.load_roles = [
    {"name": "bench", "scopes": ["admin:users", "admin:servers", "tokens"], "services": ["bench"], "users": ["bench"]}
]


async def watch_loop(interval: float = 0.02) -> None:
    """Write how late the event loop runs: for each check a line with the time and the delay in milliseconds."""
    with Path(settings["loop_file"]).open("w") as log:  # noqa: ASYNC230 short lines to a local file
        while True:
            due = time.perf_counter() + interval
            await asyncio.sleep(interval)
            log.write(json.dumps([time.time(), (time.perf_counter() - due) * 1000]) + "\n")
            log.flush()


# JupyterHub reads this file inside its event loop, so the task can start here. The reference keeps it alive.
vars(sys.modules["__main__"])["bench_watch"] = asyncio.get_running_loop().create_task(watch_loop())
