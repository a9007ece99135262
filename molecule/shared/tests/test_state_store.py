"""The hub's PostgreSQL server admits only the hub, over its socket or with TLS, and the hub trusts only its server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.engine import URL, make_url

if TYPE_CHECKING:
    from testinfra.host import Host

PYTHON = "/opt/hpchub/hub/current/bin/python"
CONNECT = """
import sys
from sqlalchemy import create_engine, text
print(create_engine(sys.argv[1]).connect().scalar(text(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def url(settings: dict[str, Any]) -> URL:
    """Return the URL of the hub's database."""
    found = make_url(settings["db_url"])
    if found.get_backend_name() != "postgresql":
        pytest.skip("the hub's database is SQLite")
    return found


def connect(hub: Host, url: URL, account: str = "jupyterhub", query: str = "SELECT 1") -> Any:
    """Connect to the database with an account of the hub host, and return the result of the command."""
    argv = f"runuser --user {account} -- {PYTHON} -I -c %s %s %s"
    return hub.run(argv, CONNECT, url.render_as_string(hide_password=False), query)


def test_hub_reaches_its_database(hub: Host, url: URL) -> None:
    assert connect(hub, url).stdout.strip() == "1"
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert connect(hub, url, query=encrypted).stdout.strip() == str(url.host is not None)


def test_settings_contain_no_password(url: URL) -> None:
    assert url.password is None


@pytest.mark.parametrize("account", ["alice", "www-data", "hpchub-proxy", "nobody"])
def test_other_accounts_of_the_hub_host_do_not(hub: Host, url: URL, account: str) -> None:
    done = connect(hub, url, account)
    assert done.rc != 0
    assert "OperationalError" in done.stderr, done.stderr


def test_server_of_another_name_or_without_tls_is_refused(hub: Host, url: URL) -> None:
    if url.host is None:
        pytest.skip("the server is on the hub host")
    address = hub.check_output(f"getent hosts {url.host}").split()[0]
    wrong_name = connect(hub, url.set(host=address))
    assert "does not match host name" in wrong_name.stderr, wrong_name.stderr
    plain = connect(hub, url.update_query_dict({"sslmode": "disable"}))
    assert "no pg_hba.conf entry" in plain.stderr, plain.stderr


@pytest.mark.usefixtures("url")
def test_server_on_the_hub_host_listens_on_no_port(hub: Host) -> None:
    listeners = hub.check_output("ss --listening --tcp --numeric --processes --no-header")
    assert '"postgres"' not in listeners
