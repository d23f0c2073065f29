"""Readers and writers for SQLAlchemy, Core and ORM, on its psycopg dialect.

Floor 0. The only file of the package that imports SQLAlchemy: an application that has none is not asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Connection, Engine, Text, cast, event, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.types import UserDefinedType

from migrator.client import reader
from migrator.client.writers import DECLARE, refuse_lost
from migrator.generation import Generation

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

_DECLARE = text("SELECT set_config('migrator.generation', :generation, true)")


class _Vector(UserDefinedType[Any]):
    """A type of pgvector's by its name, whether or not the application has pgvector's own for SQLAlchemy."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Return it as SQL has it."""
        return self.name


class Reader(reader.Reader):
    """A reader for Engine, Connection and Session."""

    def query_vector(self, query: str) -> ColumnElement[Any]:
        """Embed a query's text and return the expression to search by: `Doc.embedding.cosine_distance(it)`.

        Raises: WrongDimensions, and what the embedders raise.
        """
        return _clause(self.parameters(query), self._prefix, self._vector_type)

    def refresh(self, connection: Engine | Connection | Session) -> None:  # type: ignore[override]
        """Ask as `migrator.client.Reader.refresh` does.

        An engine is asked for a connection of its own, seldom and for one statement: don't hold the last one of its
        pool meanwhile. A connection or a session is asked within the transaction that it is in; a connection that is in
        none is left in none, a session is begun by it.
        """
        if self._is_fresh():
            return
        if isinstance(connection, Engine):
            with connection.connect() as own:
                super().refresh(_driver(own))
        else:
            super().refresh(_driver(connection.connection() if isinstance(connection, Session) else connection))


class AsyncReader(reader.AsyncReader):
    """A reader for AsyncEngine, AsyncConnection and AsyncSession."""

    async def query_vector(self, query: str) -> ColumnElement[Any]:
        """Embed a query's text and return the expression to search by."""
        return _clause(await self.parameters(query), self._prefix, self._vector_type)

    async def refresh(self, connection: AsyncEngine | AsyncConnection | AsyncSession) -> None:  # type: ignore[override]
        """Ask as `Reader.refresh` does."""
        if self._is_fresh():
            return
        if isinstance(connection, AsyncEngine):
            async with connection.connect() as own:
                await super().refresh(await _async_driver(own))
            return
        inner = await connection.connection() if isinstance(connection, AsyncSession) else connection
        await super().refresh(await _async_driver(inner))


def declare(connection: Connection | Session, generation: str) -> None:
    """Declare the generation of what this transaction writes.

    Raises: ValueError for what is no generation, NotInTransaction (AUTOCOMMIT).
    """
    refuse_lost(_driver(connection.connection() if isinstance(connection, Session) else connection))
    connection.execute(_DECLARE, {"generation": str(Generation.parse(generation))})


async def declare_async(connection: AsyncConnection | AsyncSession, generation: str) -> None:
    """Declare as `declare` does."""
    inner = await connection.connection() if isinstance(connection, AsyncSession) else connection
    refuse_lost(await _async_driver(inner))
    await connection.execute(_DECLARE, {"generation": str(Generation.parse(generation))})


def declare_always(engine: Engine | AsyncEngine, generation: str) -> None:
    """Declare it in every transaction of an engine, behind a transaction pooler too.

    A connection in AUTOCOMMIT has no transaction to declare it for: its use raises NotInTransaction.
    Raises: ValueError for what is no generation.
    """
    declared = str(Generation.parse(generation))

    def begun(connection: Connection, *_xid: object) -> None:
        refuse_lost(_driver(connection))
        connection.exec_driver_sql(DECLARE, (declared,))

    listened = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    for each in ("begin", "begin_twophase"):
        event.listen(listened, each, begun)


def _clause(values: dict[str, Any], prefix: str, vector_type: str) -> ColumnElement[Any]:
    vectors = cast(values[f"{prefix}_vectors"], ARRAY(Text))
    picked = func.migrator.query_vector(
        literal(values[f"{prefix}_target"], Text),
        literal(values[f"{prefix}_column"], Text),
        cast(values[f"{prefix}_generations"], ARRAY(Text)),
        cast(vectors, ARRAY(_Vector(vector_type))),
        cast(values[f"{prefix}_initial"], Text),
    )
    # As `Window.expression`: a plan that sorts asks once and not for every row.
    return select(picked).scalar_subquery()


def _driver(connection: Connection) -> Any:
    """Return the driver's connection: its own savepoints leave SQLAlchemy's idea of the transaction as it is."""
    return _psycopg(connection.connection.driver_connection)


async def _async_driver(connection: AsyncConnection) -> Any:
    return _psycopg((await connection.get_raw_connection()).driver_connection)


def _psycopg(found: Any) -> Any:
    if type(found).__module__.partition(".")[0] != "psycopg":
        raise TypeError(f"the dialect's driver must be psycopg, and is {type(found).__module__}")
    return found
