"""Which person of the single sign-on each account belongs to, in a table of the hub's database.

A user mapping can give one account to two names by mistake, and a provider can give the name of a person to somebody
else. The first one keeps the account, and the others are refused, so that nobody gets another person's sessions. An
administrator can release an account: ``hpchub identities --release ACCOUNT``.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Column, Float, Table, Unicode, delete, insert, select, update

from hpchub.hub.ledger import METADATA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

SUBJECT, NAME = "(id)", "(name)"
"""In place of a claim: ``received`` is the id of the person at the provider, which never changes, or only a name."""
LONGEST = 255
"""The largest number of characters that a column can store."""

IDENTITIES = Table(
    "hpchub_identities",
    METADATA,
    Column("account", Unicode(255), primary_key=True),
    Column("provider", Unicode(32), primary_key=True),
    Column("claim", Unicode(255), nullable=False),
    Column("received", Unicode(LONGEST), nullable=False),
    Column("since", Float, nullable=False),
)
"""The people. If the site takes the name from another claim, the account belongs to the first name from there."""


class Identity(NamedTuple):
    """The person that an account belongs to.

    Attributes:
        account: The account.
        provider: The provider of the single sign-on.
        claim: The claim that contained the name, or ``SUBJECT``.
        received: The name as the provider sent it, or the person's id there.
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


def describe(provider: str, subject: str, name: str) -> dict[str, str]:
    """Return what identifies a person that signed in at the hub itself: the id at the provider, or else the name.

    What the table cannot store is replaced by its hash.
    """
    claim, received = (SUBJECT, subject) if subject else (NAME, name)
    if len(received) > LONGEST or not received.isprintable():
        received = "sha256:" + hashlib.sha256(received.encode("utf-8", "surrogatepass")).hexdigest()
    return {"provider": provider, "claim": claim, "received": received}


def owner(db: Session | Connection, account: str, sign_on: Mapping[str, str]) -> Identity | None:
    """Return the person of the provider of a sign-in that an account belongs to, if there is one.

    Raises:
        SQLAlchemyError: The database cannot be read.
    """
    row = db.execute(select(IDENTITIES).where(*_key(account, sign_on))).first()
    return Identity(*row) if row is not None else None


def other_owner(db: Session | Connection, account: str, sign_on: Mapping[str, str]) -> Identity | None:
    """Return the person that an account belongs to, if it is another one than that of a sign-in.

    Raises:
        SQLAlchemyError: The database cannot be read.
    """
    found = owner(db, account, sign_on)
    return found if found is not None and _is_another(found, sign_on) else None


def take(db: Session, account: str, sign_on: Mapping[str, str]) -> Identity | None:
    """Let an account belong to the person of a sign-in, unless it belongs to another one. Return that one.

    Raises:
        SQLAlchemyError: The database cannot be written, or another hub has taken the account at the same time.
    """
    found = owner(db, account, sign_on)
    if found is not None and _is_another(found, sign_on):
        return found
    if found is not None and found.claim == sign_on["claim"]:
        return None
    values = {"claim": sign_on["claim"], "received": sign_on["received"], "since": time.time()}
    if found is None:
        db.execute(insert(IDENTITIES).values(account=account, provider=sign_on["provider"], **values))
    else:
        db.execute(update(IDENTITIES).where(*_key(account, sign_on)).values(values))
    db.commit()
    return None


def known_identities(db: Session | Connection) -> list[Identity]:
    """Return the people of all accounts."""
    rows = db.execute(select(IDENTITIES).order_by(IDENTITIES.c.account, IDENTITIES.c.provider))
    return [Identity(*row) for row in rows]


def release(db: Session | Connection, *accounts: str) -> None:
    """Forget which people accounts belong to. The next one that is mapped to an account gets it."""
    db.execute(delete(IDENTITIES).where(IDENTITIES.c.account.in_(accounts)))


def _is_another(found: Identity, sign_on: Mapping[str, str]) -> bool:
    if found.claim == sign_on["claim"]:
        return found.received != sign_on["received"]
    # An account that belongs to an id is not free only because an answer of the provider contains no id.
    return found.claim == SUBJECT


def _key(account: str, sign_on: Mapping[str, str]) -> tuple[Any, ...]:
    return IDENTITIES.c.account == account, IDENTITIES.c.provider == sign_on["provider"]
