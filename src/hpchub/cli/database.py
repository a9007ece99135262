"""The hub's database, for the commands that read it on the hub host."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from hpchub.cli.failure import Failure
from hpchub.hub.database import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@contextmanager
def hub_database(url: str) -> Iterator[Engine]:
    """Provide the hub's database, and close its connections afterwards.

    Args:
        url: The URL of the database in SQLAlchemy's form.

    Raises:
        Failure: The database cannot be used. The message explains why.
    """
    engine = create_engine(url)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise Failure(f"the hub's {explain(error, url)}") from None
    finally:
        engine.dispose()
