"""The hub's database on a real PostgreSQL server: lost connections, refused writes, and errors in plain words."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from postgresql_server import ACCOUNT, Server, needs_server
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.orm import sessionmaker

from hpchub.hub import database
from hpchub.hub.database import DatabaseError, Guard, check, engine_options, explain, wait_until_usable
from hpchub.hub.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session


class Gone(BaseException):
    """The hub's process has ended."""


def leave(code: int) -> None:
    assert code == database.TRY_AGAIN
    raise Gone


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(database, "BRIDGE", 3.0)
    return server


@pytest.fixture
def guard() -> Guard:
    return Guard(leave)


@pytest.fixture
def engine(server: Server, guard: Guard) -> Iterator[Engine]:
    made = create_engine(server.url, **engine_options(server.url, guard))
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with sessionmaker(engine, expire_on_commit=False)() as made:
        yield made
        made.rollback()


def sessions(server: Server) -> int:
    return int(server.sql("SELECT count(*) FROM hpchub_sessions"))


@needs_server
def test_connection_that_is_cut_between_two_transactions_is_replaced_unnoticed(
    server: Server, session: Session
) -> None:
    ledger = Ledger(session)
    for number in range(5):
        server.cut_connections()
        ledger.record(f"{number:016}", user="alice", cluster="demo", job_id="1")
        session.commit()
    assert sessions(server) == 5


@needs_server
async def test_transaction_that_only_reads_ends_by_itself(server: Server, session: Session) -> None:
    ledger = Ledger(session)
    ledger.ended(["a" * 16])
    assert session.in_transaction()
    await asyncio.sleep(0)
    assert not session.in_transaction()
    server.cut_connections()
    assert ledger.ended(["a" * 16]) == {}


@needs_server
async def test_transaction_that_has_written_stays_open_until_its_commit(server: Server, session: Session) -> None:
    ledger = Ledger(session)
    ledger.record("a" * 16, user="alice", cluster="demo", job_id="1")
    await asyncio.sleep(0.05)
    assert session.in_transaction()
    session.rollback()
    assert sessions(server) == 0


@needs_server
def test_hub_waits_for_a_server_that_restarts(server: Server, session: Session) -> None:
    ledger = Ledger(session)
    server.stop()
    threading.Timer(0.7, server.start).start()
    ledger.record("a" * 16, user="alice", cluster="demo", job_id="1")
    session.commit()
    assert sessions(server) == 1


@needs_server
def test_hub_ends_if_its_server_stays_away(
    server: Server, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BRIDGE", 0.5)
    ledger = Ledger(session)
    server.stop()
    try:
        with pytest.raises(Gone):
            ledger.ended(["a" * 16])
    finally:
        server.start()
    assert "The hub has lost its database" in caplog.text


@needs_server
def test_hub_ends_if_its_connection_is_cut_within_a_transaction(server: Server, session: Session) -> None:
    ledger = Ledger(session)
    ledger.record("a" * 16, user="alice", cluster="demo", job_id="1")
    server.cut_connections()
    with pytest.raises(Gone):
        session.commit()
    assert sessions(server) == 0


@needs_server
def test_other_threads_do_not_end_the_hub(server: Server, engine: Engine) -> None:
    server.stop()
    found: list[OperationalError] = []

    def use() -> None:
        try:
            engine.connect()
        except OperationalError as error:
            found.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(10)
    server.start()
    assert len(found) == 1


@needs_server
def test_refused_write_is_a_fault_until_the_database_can_be_written_again(
    server: Server, session: Session, guard: Guard
) -> None:
    ledger = Ledger(session)
    guard.recovered(time.monotonic())
    session.execute(text("SET TRANSACTION READ ONLY"))
    with pytest.raises(DBAPIError):
        ledger.record("a" * 16, user="alice", cluster="demo", job_id="1")
    assert "read-only transaction" in guard.fault
    guard.recovered(guard.since - 1)
    with pytest.raises(Gone):
        guard.recovered(time.monotonic())


@needs_server
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1/0",
        "SELECT * FROM nothing",
        "SELECT 'a'::int",
        "INSERT INTO hpchub_database VALUES ('x', 1, 1), ('x', 1, 1)",
    ],
)
def test_wrong_statement_is_no_fault(session: Session, guard: Guard, statement: str) -> None:
    Ledger(session)
    with pytest.raises(DBAPIError):
        session.execute(text(statement))
    assert not guard.fault


@needs_server
def test_statement_that_takes_too_long_is_a_fault(
    session: Session, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_TIMEOUT", 0.2)
    with pytest.raises(DBAPIError):
        session.execute(text("SELECT pg_sleep(5)"))
    assert "statement timeout" in guard.fault


@pytest.mark.parametrize(
    ("name", "found"), [("SQLITE_FULL", True), ("SQLITE_READONLY_DBMOVED", True), ("SQLITE_ERROR", False)]
)
def test_faults_of_sqlite(name: str, found: bool) -> None:
    error = ValueError()
    error.sqlite_errorname = name  # type: ignore[attr-defined]
    assert database.is_fault(error) is found


# -- Errors in plain words


def problem(url: str) -> str:
    with pytest.raises(DatabaseError) as raised:
        check(url)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@needs_server
def test_check_names_the_database_and_its_version(server: Server) -> None:
    assert check(server.url).startswith(f"database hub on {server.directory}: PostgreSQL 1")


@needs_server
def test_wrong_password_in_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pgpass").write_text("*:*:*:*:wrong-guess\n")
    (tmp_path / "pgpass").chmod(0o600)
    server.sql("ALTER USER hub PASSWORD 'right'")
    url = f"postgresql+psycopg://hub@127.0.0.1:{server.port}/hub?passfile={tmp_path}/pgpass"
    assert problem(url) == (
        f'database hub on 127.0.0.1:{server.port}: it refuses the password of "hub"; correct the password in the'
        " inventory's vault, then run site.yml"
    )
    (tmp_path / "pgpass").write_text("*:*:*:*:right\n")
    assert "answers" in check(url)


@needs_server
def test_missing_password_database_and_user(server: Server) -> None:
    url = f"postgresql+psycopg://hub@127.0.0.1:{server.port}/hub"
    assert "it asks for a password" in problem(url)
    assert 'database "none" does not exist' in problem(server.url.replace("/hub?", "/none?"))
    engine = create_engine(server.url)
    with pytest.raises(ProgrammingError) as raised, engine.connect() as connection:
        connection.execute(text("SELECT * FROM hpchub_nothing"))
    engine.dispose()
    missing = explain(raised.value, server.url)
    assert 'it lacks a table of the hub (relation "hpchub_nothing" does not exist); start the hub' in missing
    assert 'role "nobody" does not exist' in problem(server.url.replace("//hub@", "//nobody@"))
    assert "it does not offer TLS" in problem(f"{url}?sslmode=require")


@needs_server
def test_read_only_replica(server: Server) -> None:
    server.sql("ALTER DATABASE hub SET default_transaction_read_only = on")
    for more in ("", "&target_session_attrs=read-write"):
        assert "it is a read-only replica; set host" in problem(server.url + more)


def test_server_that_cannot_be_reached(tmp_path: Path) -> None:
    assert "nothing listens there" in problem("postgresql+psycopg://hub@127.0.0.1:1/hub")
    assert "nothing listens on its socket" in problem(f"postgresql+psycopg://hub@/hub?host={tmp_path}")
    assert "the name of its host is unknown" in problem("postgresql+psycopg://hub@nowhere.invalid/hub")
    assert "it lacks a table of the hub (no such table: hpchub_events); start the hub" in explain(
        ValueError("no such table: hpchub_events"), f"sqlite:///{tmp_path}/hub.sqlite"
    )
    assert "the file cannot be opened" in problem(f"sqlite:///{tmp_path}/none/hub.sqlite")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the URL of the database cannot be read; write sqlite:////PATH or"),
        ("hunter2", "the URL of the database cannot be read; write sqlite:////PATH or"),
        ("postgresql+psycopg://hub:hunter2@db1:port/hub", "the URL of the database cannot be read; write"),
        ("mysql://hub:hunter2@db1/hub", 'the URL of the database begins with "mysql"; write sqlite:////PATH or'),
        ("postgres://hub:hunter2@db1/hub", 'the URL of the database begins with "postgres"; write'),
        ("postgresql://hub:hunter2@db1/hub", 'the URL of the database begins with "postgresql"; write'),
        ("postgresql+psycopg2://hub:hunter2@db1/hub", 'begins with "postgresql+psycopg2"; write'),
        ("https://hub:hunter2@db1/hub", 'the URL of the database begins with "https"; write'),
    ],
)
def test_wrong_url_is_named_without_its_password(url: str, message: str) -> None:
    assert message in problem(url)
    assert "hunter2" not in problem(url)


def test_no_message_contains_a_password() -> None:
    url = "postgresql+psycopg://hub:hunter2@db1/hub"
    assert explain(ValueError("strange"), url) == "database hub on db1 cannot be used: strange"


@needs_server
def test_hub_waits_before_its_start_and_says_why(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.stop()
    threading.Timer(0.8, server.start).start()
    before = time.monotonic()
    wait_until_usable(server.url, pause=0.1)
    assert time.monotonic() - before > 0.5
    assert caplog.text.count("The hub waits for its database.") >= 1
    assert "nothing listens on its socket" in caplog.text
    assert "answers" in caplog.text


def certify(server: Server, name: str, days: int) -> Path:
    """Give the server a self-signed certificate that ends after some days. Return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file, secret = server.directory / "server.pem", server.directory / "server.key"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    secret.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(secret, ACCOUNT)
    for setting in (f"ssl_cert_file = '{file}'", f"ssl_key_file = '{secret}'", "ssl = on"):
        server.sql(f"ALTER SYSTEM SET {setting}")
    server.stop()
    server.start()
    return file


@needs_server
@pytest.mark.parametrize(
    ("name", "days", "found"),
    [
        ("localhost", 9, "it asks for a password"),
        ("localhost", -1, "its certificate is not valid: certificate has expired; renew it on the server"),
        ("db1.example.org", 9, "its certificate is for another name"),
    ],
)
def test_certificate_that_is_not_valid(server: Server, tmp_path: Path, name: str, days: int, found: str) -> None:
    authority = certify(server, name, days)
    url = f"postgresql+psycopg://hub@localhost:{server.port}/hub?sslmode=verify-full&passfile={tmp_path}/none"
    try:
        assert found in problem(f"{url}&sslrootcert={authority}")
        other = "set tls_ca of hpc_state_store to the authority that signed it"
        assert other in problem(f"{url}&sslrootcert=/etc/ssl/certs/ca-certificates.crt")
    finally:
        server.sql("ALTER SYSTEM RESET ALL")
