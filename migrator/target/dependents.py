"""Who hangs on the vector column: everything PostgreSQL binds by column number, found in the catalog.

Floor 1. Promise (P1): nothing that names the column is overlooked. What is bound by its number is re-pointed in the
swap, indexes and CHECKs are made again over the shadow, what is set for the column itself is set for the shadow too;
every other kind is reported, and the plan refuses it by name until it can be moved.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import fetch
from migrator.statements import compose
from migrator.target import facts, restating
from migrator.target.facts import Column

Action = Literal["re-point", "build again", "set alike", "put back", "follows", "refuse"]
_REPOINTED = frozenset({*restating.LISTS, "default", "comment"}) - {"view"}
_BUILT_AGAIN = frozenset({"index", "check constraint"})
#: What PostgreSQL made for the column's type, and may not take another one: a view's columns, a function's result.
TYPED = frozenset({
    "view", "view rule", "function", "trigger", "row policy", "check constraint", "default", "publication column list",
})  # fmt: skip
_SET_ALIKE = frozenset({"column grant", "statistics target", "storage", "compression", "column options"})


@dataclass(frozen=True, slots=True)
class Dependent:
    """One object bound to the column. `direct` is false for a view that only reads another view."""

    kind: str
    name: str
    oid: int
    direct: bool
    owned: bool

    @property
    def action(self) -> Action:
        """What the swap does about it."""
        if self.kind == "view":
            return "re-point" if self.direct else "follows"
        if self.kind in _REPOINTED:
            return "re-point"
        if self.kind in _SET_ALIKE:
            return "set alike"
        if self.kind == "not null constraint":
            return "put back"
        return "build again" if self.kind in _BUILT_AGAIN else "refuse"


@dataclass(frozen=True, slots=True)
class LiveIndex:
    """An index over the live column, on the table or on one of its partitions, with all that makes it again."""

    heap_oid: int
    schema: str
    table: str
    oid: int
    name: str
    method: str
    columns: int
    has_expressions: bool
    predicate: str | None
    on_column: bool
    valid: bool
    is_unique: bool
    is_partitioned: bool
    opclass: str
    opclass_schema: str
    options: list[str] | None
    tablespace: str | None
    bytes: int
    #: Everything behind USING, in PostgreSQL's own words.
    definition: str
    #: What its first part is made of, where that is no plain column.
    expression: str | None = None


async def find(connection: AsyncConnection, oid: int, column: Column) -> list[Dependent]:
    """Return every dependent of the column: what pg_depend knows, and what hangs on the column's own row."""
    values = {"oid": oid, "column_number": column.number}
    found = [
        Dependent(**row)
        for row in await fetch(connection, compose("target/dependents.sql", "column_dependents"), values)
    ]
    attributes = {
        "not null constraint": column.not_null,
        "default": column.has_default and not column.generated,
        "column grant": column.has_grants and not column.granted_by_others,
        "column grant of another role": column.granted_by_others,
        "comment": column.has_comment,
        "statistics target": column.statistics_target >= 0,
        "storage": column.storage != column.type_storage,
        "compression": column.compression != "",
        "column options": column.has_options,
    }
    found = [await _weighed(connection, oid, column, each) for each in found]
    known = {each.kind for each in found}
    found += [
        Dependent(kind, column.name, oid, direct=True, owned=True)
        for kind, there in attributes.items()
        if there and kind not in known
    ]
    return found


async def _weighed(connection: AsyncConnection, oid: int, column: Column, found: Dependent) -> Dependent:
    """Tell a CHECK that every row's vector is there for, which no column passes that is still being filled."""
    if found.kind != "check constraint":
        return found
    extension = await facts.extension(connection)
    own = [each for each in await restating.checks(connection, oid, column) if each.oid == found.oid]
    if not own:  # a parent's
        return replace(found, kind="inherited check constraint")
    (check,) = own
    if extension is not None and await restating.lets_null_pass(connection, check, column, extension[1]):
        return found
    return replace(found, kind="check constraint of other columns" if not check.alone else "check constraint on NULL")


async def indexes(connection: AsyncConnection, oid: int, column: Column) -> list[LiveIndex]:
    """Return the indexes that mention the column."""
    values = {"oid": oid, "column_number": column.number}
    return [LiveIndex(**row) for row in await fetch(connection, compose("target/dependents.sql", "indexes"), values)]


async def every_index(connection: AsyncConnection, oid: int, name: str) -> list[LiveIndex]:
    """Return the indexes that mention a column of that name: the table's, then those that partitions have alone."""
    found = []
    leaves = [heap.oid for heap in await facts.heaps(connection, oid) if heap.level > 0]
    for each in dict.fromkeys([oid, *leaves]):
        columns = await facts.columns(connection, each)
        found += await indexes(connection, each, columns[name])
    return found


async def by_name(connection: AsyncConnection, oid: int, column: str) -> list[str]:
    """Return the functions whose text names the column, with their arguments' types: they follow by themselves."""
    values = {"oid": oid, "column": column}
    return [row["name"] for row in await fetch(connection, compose("target/dependents.sql", "by_name"), values)]


async def whole_rows(connection: AsyncConnection, oid: int) -> list[tuple[str, str, str]]:
    """Return who takes rows of the table as they stand, (kind, name, how): functions, and columns that store them."""
    rows = await fetch(connection, compose("target/dependents.sql", "whole_rows"), {"oid": oid})
    return [(row["kind"], row["name"], row["how"]) for row in rows]


async def of_partitions(connection: AsyncConnection, oid: int, column: str) -> list[tuple[str, str, str]]:
    """Return what hangs on the column of single partitions, (partition, kind, name): the parent does not know of it."""
    rows = await fetch(connection, compose("target/dependents.sql", "of_partitions"), {"oid": oid, "column": column})
    return [(row["partition"], row["kind"], row["name"]) for row in rows]


#: The part of a fingerprint that tells the table itself, by its number.
TABLE = "table"


async def fingerprint(connection: AsyncConnection, oid: int, column: str) -> dict[str, str]:
    """Return what the catalog says of the target, part by part, without what is ours.

    Nor the column's own NOT NULL and grants, which go where its name goes.
    """
    return {row["part"]: row["text"] for row in await fetch(connection, fingerprint_query(oid, column))}


def fingerprint_query(oid: int, column: str) -> sql.Composed:
    """Return the query that reads a fingerprint, ready to stand inside another statement."""
    return compose("target/dependents.sql", "fingerprint", {"oid": sql.Literal(oid), "column": sql.Literal(column)})


def digest(found: dict[str, str]) -> str:
    """Return a fingerprint's md5, as the swap's check computes it."""
    lines = "\n".join(f"{part}={found[part] or ''}" for part in sorted(found))
    return hashlib.md5(lines.encode(), usedforsecurity=False).hexdigest()


def changes(planned: dict[str, str], found: dict[str, str]) -> list[str]:
    """Name what differs between two fingerprints."""
    lines = [f"{part} was added" for part in found.keys() - planned.keys()]
    lines += [f"{part} is gone" for part in planned.keys() - found.keys()]
    lines += [f"{part} is different" for part in planned.keys() & found.keys() if planned[part] != found[part]]
    return sorted(lines)
