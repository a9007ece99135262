"""Spark's settings in the inventory: their names, and those that a site must not change. No I/O."""

from __future__ import annotations

from typing import Annotated

from hpchub.model.fields import Text, complain

RESERVED = {
    "spark.acls.": "hpchub protects Spark's pages",
    "spark.authenticate": "hpchub creates a secret for each session",
    "spark.blockManager.port": "Spark takes a free port",
    "spark.connect.": "its port would be open to other users of the node",
    "spark.deploy.": "hpchub starts the master and the workers",
    "spark.driver.bindAddress": "hpchub knows the addresses of the job's nodes",
    "spark.driver.blockManager.port": "Spark takes a free port",
    "spark.driver.defaultJavaOptions": "hpchub sets the directory of temporary files in it; use extraJavaOptions",
    "spark.driver.host": "hpchub knows the addresses of the job's nodes",
    "spark.driver.port": "Spark takes a free port",
    "spark.executor.defaultJavaOptions": "hpchub sets the directory of temporary files in it; use extraJavaOptions",
    "spark.io.encryption.": "it protects the user's data on the network",
    "spark.local.dir": "it is a directory of the session",
    "spark.master": "hpchub starts the master",
    "spark.network.crypto.": "it protects the user's data on the network",
    "spark.org.apache.spark.ui.": "hpchub protects Spark's pages",
    "spark.port.": "Spark takes a free port",
    "spark.python.unix.domain.socket.": "ports would be open to other users of the node",
    "spark.shuffle.service.": "its port would be the same for all users of the node",
    "spark.ssl.": "hpchub encrypts with the secret of the session",
    "spark.ui.": "hpchub protects Spark's pages",
    "spark.worker.": "hpchub starts the workers",
}
"""The beginnings of the names that a site must not set, each with the reason."""


def _not_reserved(name: str) -> None:
    for beginning, reason in RESERVED.items():
        if name == beginning or name.startswith(beginning if beginning.endswith(".") else f"{beginning}."):
            complain(f"cannot be set, because {reason}", "remove it")


SparkSetting = Annotated[
    str,
    Text(
        "a setting of Spark",
        r"spark\.[A-Za-z0-9_.-]{1,200}",
        "write the name of a setting, as in spark.sql.shuffle.partitions",
        check=_not_reserved,
    ),
]
