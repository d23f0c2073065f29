"""What follows the names in the swap: said by name before they change, and said again afterwards.

Floor 1. Promise (P1): whatever PostgreSQL binds to the live column by its number is bound to whichever column has its
name; functions and views keep owner, grants and comments, triggers their state, policies their roles. A CHECK is no
such thing: it has a twin on the shadow column, which was looked at over the whole table before, and exchanges names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import fetch
from migrator.statements import compose
from migrator.target import facts
from migrator.target.facts import Column
from migrator.target.relation import SUFFIX, Target, suffixed
from migrator.target.renaming import renamed

_FILE = "target/restating.sql"
#: Kind of dependent -> the list of object ids that `said` takes.
LISTS = {
    "view": "views",
    "function": "functions",
    "view rule": "rules",
    "trigger": "triggers",
    "row policy": "policies",
    "extended statistics": "statistics",
    "publication column list": "publications",
}
#: Every transaction's of ours.
_OURS = sql.Literal("pg_catalog")


@dataclass(frozen=True, slots=True)
class Check:
    """A CHECK constraint on the column. `alone`: it reads no other column."""

    oid: int
    name: str
    definition: str
    expression: str
    alone: bool
    validated: bool
    comment: str | None


def said(
    oid: int, target: Target, bound: Mapping[str, Sequence[int]], indexes: Sequence[tuple[str, str]] = ()
) -> sql.Composed:
    """Return the query for what must be said again; `bound` are object ids by the lists of LISTS, views in order.

    `indexes` are those that exchange names with their twins, (schema, name).
    """
    parts: dict[str, sql.Composable] = {name: sql.Literal(list(bound.get(name, ()))) for name in LISTS.values()}
    parts |= {
        "index_schemas": sql.Literal([schema for schema, _ in indexes]),
        "index_names": sql.Literal([name for _, name in indexes]),
        "twin_names": sql.Literal([suffixed(name) for _, name in indexes]),
    }
    parts |= {
        "oid": sql.Literal(oid),
        "column": sql.Literal(target.column),
        "shadow": sql.Literal(target.shadow),
    }
    return compose(_FILE, "said", parts)


def remembered(oid: int, target: Target, migration_id: int) -> sql.Composed:
    """Return the statement that writes down the live column's NOT NULL, which `said` takes off."""
    parts = {
        "oid": sql.Literal(oid),
        "column": sql.Literal(target.column),
        "migration_id": sql.Literal(migration_id),
    }
    return compose(_FILE, "remember_not_null", parts)


def path(schema: str) -> sql.Literal:
    """Return the search path for what PostgreSQL said itself; `schema` is pgvector's."""
    return sql.Literal(f"pg_catalog, {sql.Identifier(schema).as_string()}")


def searching(found: sql.Composable) -> sql.Composed:
    """Return the statement that sets a search path until the transaction ends."""
    return compose(_FILE, "search", {"path": found})


def alike(oid: int, target: Target) -> sql.Composed:
    """Return the statement that makes the shadow column what the live one is, beside its vectors."""
    parts = {"oid": sql.Literal(oid), "column": sql.Literal(target.column), "shadow": sql.Literal(target.shadow)}
    return compose(_FILE, "alike", parts)


async def checks(connection: AsyncConnection, oid: int, column: Column) -> list[Check]:
    """Return the CHECK constraints on a column."""
    values = {"oid": oid, "column_number": column.number}
    return [Check(**row) for row in await fetch(connection, compose(_FILE, "checks"), values)]


async def lets_null_pass(connection: AsyncConnection, check: Check, column: Column, schema: str) -> bool:
    """Say whether a CHECK is content with a row whose vector is missing; of one that reads other columns, no.

    `schema` is pgvector's.
    """
    if not check.alone:
        return False
    # PostgreSQL's own words (pg_get_expr), not input.
    words: Any = check.expression
    parts = {
        "expression": sql.SQL(words),
        "type": facts.vector_type(schema, column.type_name, column.modifier),
        "column": sql.Identifier(column.name),
    }
    try:
        async with connection.begin_nested():
            await fetch(connection, searching(path(schema)))
            passes = bool((await fetch(connection, compose(_FILE, "lets_null_pass", parts)))[0]["passes"])
            await fetch(connection, searching(_OURS))
    except psycopg.Error:
        return False  # a function of the operator's that can't have a NULL
    return passes


def twin_checks(target: Target, live: Sequence[Check], schema: str) -> list[sql.Composable]:
    """Return what gives the shadow column the CHECKs of the live one: for what is written from now on."""
    made: list[sql.Composable] = [searching(path(schema))] if live else []
    for each in live:
        words: Any = renamed(each.definition, target.column, target.shadow)
        if each.validated:
            words += " NOT VALID"
        parts: dict[str, sql.Composable] = {
            "table": target.table_id,
            "name": sql.Identifier(suffixed(each.name)),
            "definition": sql.SQL(words),
        }
        made.append(compose(_FILE, "add_check", parts))
        if each.comment is not None:
            made.append(compose(_FILE, "comment_check", {**parts, "comment": sql.Literal(each.comment)}))
    return [*made, searching(_OURS)] if live else made


def validations(target: Target, live: Sequence[Check], shadow: Sequence[Check]) -> list[sql.Composed]:
    """Return what looks at the whole table for each twin whose live CHECK was looked at, and that was not yet."""
    wanted = {suffixed(each.name) for each in live if each.validated}
    return [
        compose(_FILE, "validate_check", {"table": target.table_id, "name": sql.Identifier(each.name)})
        for each in shadow
        if each.name in wanted and not each.validated
    ]


def without_twin(live: Sequence[Check], shadow: Sequence[Check]) -> list[str]:
    """Name the CHECKs of the live column that have no twin, or one that was not looked at as they were."""
    there = {each.name: each.validated for each in shadow}
    return [
        each.name
        for each in live
        if not each.name.endswith(SUFFIX)
        and (suffixed(each.name) not in there or there[suffixed(each.name)] < each.validated)
    ]


def exchanged(target: Target, live: Sequence[Check]) -> list[sql.Composed]:
    """Return what exchanges the names of CHECKs and their twins."""
    made = []
    for each in live:
        twin, between = suffixed(each.name), suffixed(each.name, "__migrator_swap")
        for old, new in ((each.name, between), (twin, each.name), (between, twin)):
            parts = {"table": target.table_id, "old": sql.Identifier(old), "new": sql.Identifier(new)}
            made.append(compose(_FILE, "rename_check", parts))
    return made
