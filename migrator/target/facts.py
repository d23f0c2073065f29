"""What the catalog says about a target: read once for a plan, and again wherever a decision rests on it.

Floor 1. Promise: reading needs no more than SELECT on the table, takes no lock worth the name, and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import fetch
from migrator.statements import compose


@dataclass(frozen=True, slots=True)
class Relation:
    """The table as pg_class has it, its partitions' sizes added up. `file` changes when the heap is rewritten."""

    oid: int
    kind: str
    persistence: str
    is_partition: bool
    file: int | None
    pages: int
    estimated_rows: int
    row_security: bool
    force_row_security: bool
    is_owner: bool
    may_select: bool
    inherits: bool
    bypasses_rls: bool
    table_bytes: int
    #: By what a subscriber is told which row changed: d(efault), i(ndex), f(ull), n(othing).
    replica_identity: str


@dataclass(frozen=True, slots=True)
class Heap:
    """A heap that holds rows of a table: the table's own (level 0), or a partition's."""

    oid: int
    schema: str
    table: str
    kind: str
    file: int | None
    pages: int
    level: int
    #: Pages and rows as ANALYZE, or a restore of statistics, left them; -1 rows where neither ever ran.
    counted_pages: int = 0
    tuples: float = -1.0
    #: Whether the heap may be read by its own name, and not only through the table above it.
    may_read: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column as pg_attribute has it. `modifier` is pgvector's number of dimensions for a vector column."""

    name: str
    number: int
    type: str
    full_type: str
    type_name: str
    modifier: int
    not_null: bool
    generated: bool
    identity: bool
    has_default: bool
    has_grants: bool
    #: Some of them not by the table's owner: said again by the owner, they would be others.
    granted_by_others: bool
    storage: str
    type_storage: str
    statistics_target: int
    compression: str
    has_options: bool
    has_comment: bool


@dataclass(frozen=True, slots=True)
class Key:
    """Columns that tell rows apart, in index order, with their types."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    is_primary: bool


async def relation(connection: AsyncConnection, schema: str, table: str) -> Relation | None:
    """Return the table, or None where there is no such relation."""
    rows = await fetch(connection, compose("target/facts.sql", "relation"), {"schema": schema, "table": table})
    return Relation(**rows[0]) if rows else None


async def heaps(connection: AsyncConnection, oid: int) -> list[Heap]:
    """Return the heaps that hold the table's rows."""
    return [Heap(**row) for row in await fetch(connection, compose("target/facts.sql", "heaps"), {"oid": oid})]


async def heap(connection: AsyncConnection, schema: str, table: str, oid: int, file: int) -> Heap | None:
    """Return the heap that a window was cut from; None where it was rewritten, dropped or detached since."""
    found = await relation(connection, schema, table)
    known = await heaps(connection, found.oid) if found is not None else []
    return next((each for each in known if (each.oid, each.file) == (oid, file)), None)


async def columns(connection: AsyncConnection, oid: int) -> dict[str, Column]:
    """Return the columns by name."""
    rows = await fetch(connection, compose("target/facts.sql", "columns"), {"oid": oid})
    return {row["name"]: Column(**row) for row in rows}


async def keys(connection: AsyncConnection, oid: int) -> list[Key]:
    """Return the usable keys, the primary key first."""
    rows = await fetch(connection, compose("target/facts.sql", "unique_keys"), {"oid": oid})
    return [Key(tuple(row["columns"]), tuple(row["types"]), row["is_primary"]) for row in rows]


async def extension(connection: AsyncConnection) -> tuple[str, str] | None:
    """Return pgvector's (version, schema), or None where it is not installed."""
    rows = await fetch(connection, compose("target/facts.sql", "extension"))
    return (rows[0]["version"], rows[0]["schema"]) if rows else None


async def server(connection: AsyncConnection) -> dict[str, Any]:
    """Return what the server says of itself and of our role."""
    return (await fetch(connection, compose("target/facts.sql", "server")))[0]


async def may_silence_triggers(connection: AsyncConnection) -> bool:
    """Say whether we may keep the users' own triggers from firing on our writes."""
    return bool((await fetch(connection, compose("target/facts.sql", "may_silence_triggers")))[0]["may"])


async def triggers(connection: AsyncConnection, oid: int) -> list[dict[str, Any]]:
    """Return the users' own row triggers."""
    return await fetch(connection, compose("target/facts.sql", "triggers"), {"oid": oid})


async def leftovers(connection: AsyncConnection, oid: int) -> list[tuple[str, str]]:
    """Return (kind, name) of everything on the table that carries our suffix."""
    rows = await fetch(connection, compose("target/facts.sql", "our_leftovers"), {"oid": oid})
    return [(row["kind"], row["name"]) for row in rows]


async def immutable_builtins(connection: AsyncConnection, names: frozenset[str]) -> frozenset[str]:
    """Return those of the names that are immutable built-in functions."""
    rows = await fetch(connection, compose("target/facts.sql", "builtin_functions"), {"names": sorted(names)})
    return frozenset(row["name"] for row in rows if row["immutable"])


def dims_of(column: Column) -> int | None:
    """Return a vector column's dimensions, or None where it is declared without."""
    return column.modifier if column.modifier > 0 else None


def vector_type(schema: str, type_name: str, dims: int | None) -> sql.Composed:
    """Return a vector type, qualified, with its dimensions where they are given: public.vector(1024)."""
    name = sql.Identifier(schema, type_name)
    return sql.SQL("{}").format(name) if dims is None else sql.SQL("{}({})").format(name, sql.Literal(dims))
