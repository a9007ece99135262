"""Which name of the single sign-on each account belongs to, in a table of the hub's database.

A user mapping can give one account to two names by mistake. The first one keeps it, and the others are refused, so that
nobody gets another person's sessions. An administrator can release an account: ``hpchub identities --release ACCOUNT``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Column, Float, Table, Unicode, delete, insert, select, update

from hpchub.hub.ledger import METADATA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

IDENTITIES = Table(
    "hpchub_identities",
    METADATA,
    Column("account", Unicode(255), primary_key=True),
    Column("provider", Unicode(32), primary_key=True),
    Column("claim", Unicode(255), nullable=False),
    Column("received", Unicode(255), nullable=False),
    Column("since", Float, nullable=False),
)
"""The names. If the site takes the name from another claim, the account belongs to the first name from there."""


class Identity(NamedTuple):
    """The name that an account belongs to.

    Attributes:
        account: The account.
        provider: The provider of the single sign-on.
        claim: The claim that contained the name.
        received: The name as the provider sent it.
        since: When it was first seen, in seconds since 1970.
    """

    account: str
    provider: str
    claim: str
    received: str
    since: float


def read_sign_on(claims: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the provider, the claim and the received name of a sign-in. None if Apache did not send all of them."""
    names = {key: claims.get(key) for key in ("provider", "claim", "received")}
    return (
        {key: str(value) for key, value in names.items()} if all(isinstance(v, str) for v in names.values()) else None
    )


def other_owner(db: Session | Connection, account: str, sign_on: Mapping[str, str]) -> Identity | None:
    """Return the name that an account belongs to, if it is another one than that of a sign-in.

    Raises:
        SQLAlchemyError: The database cannot be read.
    """
    found = _find(db, account, sign_on)
    same = found is None or found.claim != sign_on["claim"] or found.received == sign_on["received"]
    return None if same else found


def take(db: Session, account: str, sign_on: Mapping[str, str]) -> None:
    """Remember that an account belongs to the name of a sign-in, unless that is known.

    Raises:
        SQLAlchemyError: The database cannot be written, or another sign-in has taken the account at the same time.
    """
    found = _find(db, account, sign_on)
    if found is not None and found.claim == sign_on["claim"]:
        return
    values = {"claim": sign_on["claim"], "received": sign_on["received"], "since": time.time()}
    if found is None:
        db.execute(insert(IDENTITIES).values(account=account, provider=sign_on["provider"], **values))
    else:
        db.execute(update(IDENTITIES).where(*_key(account, sign_on)).values(values))
    db.commit()


def known_identities(db: Session | Connection) -> list[Identity]:
    """Return the names of all accounts."""
    rows = db.execute(select(IDENTITIES).order_by(IDENTITIES.c.account, IDENTITIES.c.provider))
    return [Identity(*row) for row in rows]


def release(db: Session | Connection, *accounts: str) -> None:
    """Forget which names accounts belong to. The next one that is mapped to an account gets it."""
    db.execute(delete(IDENTITIES).where(IDENTITIES.c.account.in_(accounts)))


def _key(account: str, sign_on: Mapping[str, str]) -> tuple[Any, ...]:
    return IDENTITIES.c.account == account, IDENTITIES.c.provider == sign_on["provider"]


def _find(db: Session | Connection, account: str, sign_on: Mapping[str, str]) -> Identity | None:
    row = db.execute(select(IDENTITIES).where(*_key(account, sign_on))).first()
    return Identity(*row) if row is not None else None
