"""The choices that users save under a name, in a table of the hub's database."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyterhub import orm
from sqlalchemy import Column, Float, Table, Unicode, UnicodeText, delete, event, func, insert, select, update
from sqlalchemy.orm import object_session

from hpchub.hub.ledger import METADATA
from hpchub.messages import Message

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

LONGEST_NAME = 60
"""The largest number of characters of a name."""
MOST = 50
"""The largest number of saved settings of a user."""

SETTINGS = Table(
    "hpchub_settings",
    METADATA,
    Column("user", Unicode(255), primary_key=True),
    Column("name", Unicode(LONGEST_NAME), primary_key=True),
    Column("options", UnicodeText, nullable=False),
    Column("saved", Float, nullable=False),
)
"""The saved settings. ``options`` are user options of a start, as JSON."""


class BadName(ValueError):
    """A setting cannot be saved under this name. The message is a whole sentence for the user."""


@dataclass(frozen=True)
class Setting:
    """A saved setting.

    Attributes:
        name: Its name.
        options: The user options of a start: ``{"profile": KEY, "fields": {…}}``.
    """

    name: str
    options: dict[str, Any]

    @property
    def profile(self) -> str:
        """The key of the profile. It may not exist any more."""
        return str(self.options.get("profile", ""))

    @property
    def fields(self) -> dict[str, Any]:
        """The values of the adjustable fields."""
        found = self.options.get("fields")
        return dict(found) if isinstance(found, dict) else {}


class SavedSettings:
    """The saved settings of one user.

    Args:
        db: JupyterHub's database session.
        user: The name of the user.
    """

    def __init__(self, db: Session, user: str) -> None:
        self._db = db
        self._user = user

    def all(self) -> list[Setting]:
        """Return the settings by name.

        Raises:
            SQLAlchemyError: The database cannot be read.
        """
        table = SETTINGS.c
        rows = self._db.execute(
            select(table.name, table.options).where(table.user == self._user).order_by(func.lower(table.name))
        )
        return [Setting(row.name, _options(row.options)) for row in rows]

    def save(self, name: str, options: dict[str, Any]) -> str:
        """Save a setting, or replace the one with the same name. Return the name without surrounding blanks.

        Raises:
            BadName: The name is not valid, or there are too many settings.
            SQLAlchemyError: The database cannot be written.
        """
        name = checked_name(name)
        table = SETTINGS.c
        values = {"options": json.dumps(options), "saved": time.time()}
        mine = (table.user == self._user, table.name == name)
        if not self._db.connection().execute(update(SETTINGS).where(*mine).values(values)).rowcount:
            count = self._db.execute(select(func.count()).where(table.user == self._user)).scalar_one()
            if count >= MOST:
                raise BadName(
                    Message(
                        "You have {most} saved settings, which is the most that is possible. Delete one first.",
                        most=MOST,
                    )
                )
            self._db.execute(insert(SETTINGS).values(user=self._user, name=name, **values))
        self._db.commit()
        return name

    def delete(self, name: str) -> None:
        """Delete a setting, if it exists.

        Raises:
            SQLAlchemyError: The database cannot be written.
        """
        self._db.execute(delete(SETTINGS).where(SETTINGS.c.user == self._user, SETTINGS.c.name == name))
        self._db.commit()


def forget(db: Session, *users: str) -> None:
    """Delete all settings of some users. A later user with such a name is another person.

    Raises:
        SQLAlchemyError: The database cannot be written.
    """
    db.execute(delete(SETTINGS).where(SETTINGS.c.user.in_(users)))


@event.listens_for(orm.User.name, "set")
def _forget_at_rename(user: orm.User, new: str, old: object, _: object) -> None:
    """Delete the settings of both names if JupyterHub renames a user, which its authenticator does not learn."""
    db = object_session(user)
    if db is not None and isinstance(old, str) and old != new:
        forget(db, old, new)


def checked_name(name: str) -> str:
    """Return a valid name without surrounding blanks.

    Raises:
        BadName: The name is not valid.
    """
    name = name.strip()
    if not name:
        raise BadName(Message("Write a name for these settings."))
    if len(name) > LONGEST_NAME:
        raise BadName(
            Message("The name is too long. Write at most {longest_name} characters.", longest_name=LONGEST_NAME)
        )
    if not name.isprintable():
        raise BadName(Message("The name contains a line break or an invisible character. Write it in one line."))
    return name


def _options(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
