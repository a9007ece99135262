"""A hub host in a directory, for tests of backups: its files, its database and units that only record their calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hub_app import make_tables
from jupyterhub import orm
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from hpchub.backup.database import known_revisions
from hpchub.backup.host import Host, Units
from hpchub.hub.ledger import SESSIONS, Ledger

if TYPE_CHECKING:
    from pathlib import Path

needs_age = pytest.mark.skipif(
    shutil.which("age") is None and os.environ.get("HPCHUB_SERVERS") != "required",
    reason="age is not installed",
)
"""Skips a test on a machine without age, unless HPCHUB_SERVERS requires the programs of the tests."""

SECRETS = {
    "etc/secrets/proxy.env": "CONFIGPROXY_AUTH_TOKEN=first-proxy-token\n",
    "etc/secrets/hub.env": "JUPYTERHUB_CRYPT_KEY=first-crypt-key\n",
    "etc/secrets/sso-sessions.conf": "OIDCCryptoPassphrase first-passphrase\n",
    "etc/secrets/saml-sp.key": "first-saml-key\n",
    "etc/saml/sp.pem": "first-certificate\n",
    "etc/notebook-tls/current.pem": "first-authority\n",
    "etc/ssh/demo": "first-gate-key\n",
    "state/cookie_secret": "first-cookie-secret\n",
    "sso/mod-auth-openidc-1": "first-sign-on\n",
}
"""The secret files of a host, by their paths, each with its content."""


@dataclass
class FakeUnits(Units):
    """Units of systemd that only record what is done with them."""

    running: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    hub_answers: bool = False

    def active(self, unit: str) -> bool:
        return unit in self.running

    def answers(self, url: str) -> bool:
        return self.hub_answers

    def stop(self, unit: str) -> None:
        self.calls.append(f"stop {unit}")
        self.running.discard(unit)

    def start(self, unit: str) -> None:
        self.calls.append(f"start {unit}")
        self.running.add(unit)

    def restart(self, unit: str) -> None:
        self.calls.append(f"restart {unit}")

    def reload(self, unit: str) -> None:
        self.calls.append(f"reload {unit}")

    def use_files(self, unit: str) -> None:
        self.calls.append(f"use files {unit}")

    def start_later(self, unit: str, seconds: int, *, if_exists: Path) -> None:
        self.calls.append(f"start {unit} later")

    def reload_units(self) -> None:
        self.calls.append("reload units")


def keygen(path: Path) -> str:
    """Create a private key in a file, and return the public key."""
    done = subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True, text=True)
    return done.stderr.split()[-1]  # Public key: age1…


def make_host(root: Path, recipients: list[str], *, name: str = "hub.example.org", url: str = "") -> Host:
    """Create the files of a host, without a database."""
    for path, content in SECRETS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
        (root / path).chmod(0o600)
    (root / "etc/hub.json").write_text("{}\n")
    return Host(
        hub={
            "public_url": f"https://{name}",
            "state_dir": str(root / "state"),
            "hub_bind_url": f"http+unix://{quote(str(root / 'hub.sock'), safe='')}",
            "notebook_tls_directory": str(root / "etc/notebook-tls"),
            "db_url": url or f"sqlite:///{root / 'state/jupyterhub.sqlite'}",
        },
        recipients=recipients,
        keep=3,
        directory=root / "backups",
        copy_command=[],
        work=root / "work",
        restored=[
            *(root / "etc" / name for name in ("secrets", "saml/sp.pem", "saml/sp-next.pem", "notebook-tls", "ssh")),
            root / "state",
        ],
        reference=[root / "etc/hub.json"],
        gate_keys=root / "etc/ssh",
        sign_on_key=root / "etc/secrets/sso-sessions.conf",
        sign_on_sessions=root / "sso",
        proxy_files=[root / "etc/secrets/proxy.env", root / "etc/notebook-tls"],
        hub_unit="hub",
        proxy_unit="proxy",
        web_unit="web",
    )


def make_database(host: Host, *sessions: str, user: str = "alice") -> str:
    """Create the database as a hub does, with open sessions. Return its id."""
    url = host.hub["db_url"]
    engine = create_engine(url)
    if url.startswith("sqlite:"):
        make_tables(url)
    else:
        orm.Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL)")
            connection.exec_driver_sql("DELETE FROM alembic_version")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{known_revisions()[0]}')")
    with Session(engine) as session:
        identity = Ledger(session).database
        session.add(orm.User(name=user))
        for each in sessions:
            values = {"session": each, "user": user, "cluster": "demo", "job_id": "1", "started": 1.0}
            session.execute(insert(SESSIONS).values(values))
        session.commit()
    engine.dispose()
    return identity


def state_of(root: Path) -> dict[str, Any]:
    """Return the content and the mode of each file below a host's directory, except for private working files."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in ("backups", "work")
    }


def change_secrets(root: Path) -> None:
    """Give a host other secrets, as a new host has."""
    for path, content in SECRETS.items():
        file = root / path
        mode = file.stat().st_mode
        file.chmod(0o600)  # some secrets are read-only
        file.write_text(content.replace("first", "second"))
        file.chmod(mode)


def repack(backup: Path, target: Path, recipient: str, key: Path, work: Path, **changes: Any) -> Path:
    """Write a copy of a backup with other facts in its header and manifest."""
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    (unpacked / "inner").mkdir(parents=True)
    subprocess.run(["tar", "-xf", backup, "-C", unpacked], check=True)
    plain, content = unpacked / "content.tar", unpacked / "content.tar.age"
    subprocess.run(["age", "-d", "-i", key, "-o", plain, content], check=True)
    names = subprocess.run(["tar", "-tf", plain], check=True, capture_output=True, text=True).stdout.split()
    subprocess.run(["tar", "-xf", plain, "-C", unpacked / "inner"], check=True)
    for path in (unpacked / "header.json", unpacked / "inner/manifest.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    subprocess.run(["tar", "-cf", plain, "-C", unpacked / "inner", *names], check=True)
    content.unlink()
    subprocess.run(["age", "-r", recipient, "-o", content, plain], check=True)
    subprocess.run(["tar", "-cf", target, "-C", unpacked, "header.json", "content.tar.age"], check=True)
    return target


def make_environments(tmp_path: Path) -> Path:
    """Create an environment of the hub in use, and the next one. Return the directory of their links."""
    for name in ("old", "new"):
        (tmp_path / "hub" / "envs" / name / "bin").mkdir(parents=True)
        (tmp_path / "hub" / "envs" / name / "bin" / "jupyterhub").touch()
    (tmp_path / "hub" / "current").symlink_to("envs/old")
    (tmp_path / "hub" / "next").symlink_to("envs/new")
    return tmp_path / "hub"
