"""Readers for psycopg: they embed a query with the models that may be needed, and say now and then that they can.

Floor 0. Promise: no transaction of the application's fails or waits because of the question, and while a query is being
embedded no connection of ours is used at all.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from migrator.client.window import Window

if TYPE_CHECKING:
    import psycopg


class Reader(Window):
    """A reader for `psycopg.Connection`. Its embedders are plain functions, called one after the other."""

    def parameters(self, text: str) -> dict[str, Any]:
        """Embed a query's text with every model that may be needed; returns the parameters of `expression`.

        Raises: WrongDimensions, and what the embedders raise.
        """
        return self._values({name: self._embedders[name](text) for name in self.wanted()})

    def refresh(self, connection: psycopg.Connection[Any]) -> None:
        """Ask the database what to be prepared for, and tell it what this reader can do; seldom, so call it at will.

        Within a transaction it is a savepoint of it. A database that can't answer at the moment is not an error here:
        every vector is sent until it answers.
        Raises: psycopg's errors, where the connection is broken, or the schema is missing or older than this package.
        """
        asked = self._due()
        if asked is None:
            return
        from psycopg import OperationalError  # noqa: PLC0415 - the application has it; SQLAlchemy's users may not
        from psycopg.rows import tuple_row  # noqa: PLC0415

        try:
            # `prepare=False`: behind a transaction pooler there is no session to keep a prepared statement.
            with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                row = cursor.execute(asked[0].encode(), asked[1], prepare=False).fetchone()
        except OperationalError:
            self._deaf()
            if connection.closed:
                raise
        else:
            self._hear(row[0] if row is not None else ())

    def sign(self, connection: Any) -> None:
        """Ask and tell at once, whenever that was done last: from a timer, where searches don't reach the primary."""
        self._hurry()
        self.refresh(connection)


class AsyncReader(Window):
    """A reader for `psycopg.AsyncConnection`. Its embedders may be coroutine functions; they run at the same time."""

    async def parameters(self, text: str) -> dict[str, Any]:
        """Embed a query's text with every model that may be needed; returns the parameters of `expression`.

        Raises: WrongDimensions, and what the embedders raise.
        """
        names = self.wanted()
        vectors = await asyncio.gather(*(_called(self._embedders[name], text) for name in names))
        return self._values(dict(zip(names, vectors, strict=True)))

    async def refresh(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Ask the database what to be prepared for, as `Reader.refresh` does."""
        asked = self._due()
        if asked is None:
            return
        from psycopg import OperationalError  # noqa: PLC0415
        from psycopg.rows import tuple_row  # noqa: PLC0415

        try:
            async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(asked[0].encode(), asked[1], prepare=False)
                row = await cursor.fetchone()
        except OperationalError:
            self._deaf()
            if connection.closed:
                raise
        else:
            self._hear(row[0] if row is not None else ())

    async def sign(self, connection: Any) -> None:
        """Ask and tell at once, as `Reader.sign` does."""
        self._hurry()
        await self.refresh(connection)


async def _called(embed: Callable[[str], Any], text: str) -> Any:
    found: Any | Awaitable[Any] = embed(text)
    return await found if inspect.isawaitable(found) else found
