"""The swap as SQL: what exchanges the two columns' names and takes everything along that must follow.

Floor 1. Promise (P1, P9, H9-H11): one transaction, one message; what is bound to the column by its number, the capture
rules, the readers' constants, the names of indexes and CHECKs, and our own state change together or not at all. It runs
in both directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import migrations
from migrator.state.connection import fetch
from migrator.state.migrations import Migration
from migrator.statements import compose, quoted
from migrator.target import capture, dependents, message, readers, restating
from migrator.target.capture import Capture
from migrator.target.relation import suffixed
from migrator.target.restating import Check

_FILE = "target/swap.sql"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many rows may lack a vector at the swap, and for how long the oldest of them (seconds)."""

    max_dirty_rows: int
    max_dirty_seconds: float


@dataclass(frozen=True, slots=True)
class Swap:
    """Everything that one swap needs to know, read shortly before it."""

    migration: Migration
    oid: int
    columns: frozenset[str]
    #: Direct views, outermost first, and what else is said again, by the lists of `restating`.
    views: Sequence[int]
    view_locks: Sequence[str]
    bound: Mapping[str, Sequence[int]]
    #: The live indexes that have a twin, (schema, name), and the live column's CHECKs.
    indexes: Sequence[tuple[str, str]]
    checks: Sequence[Check]
    fingerprint: dict[str, str]
    server_version: int

    def statements(
        self, side: Side, new: MigrationStatus, *, bounds: Bounds, actor: str, commit: bool = True
    ) -> list[sql.Composable]:
        """Return the whole transaction that makes `side` live, statement by statement."""
        made = Capture.of(self.migration)
        table = made.target.table_id
        return message.frame(
            table,
            self._body(made, side, new, bounds, actor),
            lock_statements=[*self.view_locks, message.lock_table(table)],
            server_version=self.server_version,
            before=[readers.functions_lock()],
            commit=commit,
        )

    def _body(
        self, made: Capture, side: Side, new: MigrationStatus, bounds: Bounds, actor: str
    ) -> list[sql.Composable]:
        migration = self.migration
        names = (migration.target_schema, migration.target_table, migration.target_column)
        generation = migration.generation(side)
        parts = {
            "fingerprint": dependents.fingerprint_query(self.oid, migration.target_column),
            "expected": sql.Literal(dependents.digest(self.fingerprint)),
            "migration_id": sql.Literal(migration.id),
            "side": sql.Literal(side.value),
            "writers": quoted(json.dumps(migration.writers)),
            "max_dirty_rows": sql.Literal(bounds.max_dirty_rows),
            "max_dirty_seconds": sql.Literal(bounds.max_dirty_seconds),
            "said": restating.said(self.oid, made.target, {**self.bound, "views": self.views}, self.indexes),
            "path": restating.path(made.vector_schema),
            "oid": sql.Literal(self.oid),
            "shadow": sql.Literal(made.target.shadow),
            "renames": sql.Literal([each.as_string() for each in self._renames(made)]),
            "generation": sql.Literal(str(generation)),
            "target_schema": sql.Literal(names[0]),
            "target_table": sql.Literal(names[1]),
            "target_column": sql.Literal(names[2]),
            "payload": sql.Literal(f"{migration.target} {generation}"),
        }
        return [
            compose(_FILE, "check", parts),
            message.moment("check"),
            restating.remembered(self.oid, made.target, migration.id),
            restating.alike(self.oid, made.target),
            compose(_FILE, "exchange", parts),
            compose(_FILE, "left_behind", parts),
            *capture.swapped(made, side, self.columns),
            message.moment("rules"),
            readers.constant(*names, side, generation),
            compose(_FILE, "live", parts),
            migrations.move_in_message(migration, new, actor=actor, live_side=side),
            compose(_FILE, "notify", parts),
            message.moment("state"),
        ]

    def _renames(self, made: Capture) -> list[sql.Composed]:
        target = made.target
        passing = suffixed(target.column, "__migrator_swap")
        steps = [(target.column, passing), (target.shadow, target.column), (passing, target.shadow)]
        renames = [
            compose(
                _FILE,
                "rename_column",
                {"table": target.table_id, "old": sql.Identifier(old), "new": sql.Identifier(new)},
            )
            for old, new in steps
        ]
        for schema, name in self.indexes:
            twin, between = suffixed(name), suffixed(name, "__migrator_swap")
            for old, new in ((name, between), (twin, name), (between, twin)):
                parts = {"old": sql.Identifier(schema, old), "new": sql.Identifier(new)}
                renames.append(compose(_FILE, "rename_index", parts))
        return renames + restating.exchanged(target, self.checks)


async def outermost_first(connection: AsyncConnection, oids: Sequence[int]) -> list[int]:
    """Order views so that each comes before those that it reads: the order in which readers lock them (H11)."""
    rows = await fetch(connection, compose(_FILE, "view_edges"), {"oids": list(oids)})
    inner: dict[int, set[int]] = {oid: set() for oid in oids}
    for row in rows:
        inner[row["outer_oid"]].add(row["inner_oid"])
    ordered: list[int] = []
    waiting = list(oids)
    while waiting:
        # A view may go as soon as no other waiting view reads it; view definitions can't be circular.
        free = [oid for oid in waiting if not any(oid in inner[other] for other in waiting if other != oid)]
        ordered += free
        waiting = [oid for oid in waiting if oid not in free]
    return ordered
