"""Publications: who is sent the vector column, as part of a list of columns or with the whole row.

Floor 1. Promise (H5): none is overlooked, whether it names the table, one of its partitions, its schema, or all tables.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import fetch
from migrator.statements import compose

#: The kind of dependent that a list of columns with the vector is.
COLUMN_LIST = "publication column list"


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication of the vector column. `whole_row`: it sends every column that the table has, also new ones.

    `all_tables`: it sends schema `migrator` as well.
    """

    name: str
    whole_row: bool
    all_tables: bool = False


async def find(connection: AsyncConnection, oid: int, column: str) -> list[Publication]:
    """Return the publications that carry a column of a table or of one of its partitions."""
    values = {"oid": oid, "column": column}
    return [Publication(**row) for row in await fetch(connection, compose("target/publications.sql", "find"), values)]
