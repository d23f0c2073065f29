"""The survey: everything a plan looks at, gathered in read-only transactions by a role that may only SELECT.

Floor 2. Promise: it writes nothing, takes no lock beyond a reader's, and never fails for what it finds: a missing
table or column is a fact, and `preflight` turns facts into findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Error as PsycopgError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.generation import Side
from migrator.lifecycle import OPEN
from migrator.spec import Spec
from migrator.state import migrations, schema, workers
from migrator.state.connection import run, transaction
from migrator.statements import compose
from migrator.target import dependents, facts, privileges, publications
from migrator.target.dependents import Dependent, LiveIndex
from migrator.target.facts import Column, Heap, Key, Relation
from migrator.target.publications import Publication
from migrator.target.relation import Target, suffixed


@dataclass(slots=True)
class Survey:
    """Facts about one spec's target. What could not be read is None or empty."""

    spec: Spec
    server: dict[str, Any] = field(default_factory=dict)
    extension: tuple[str, str] | None = None
    relation: Relation | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)
    key: Key | None = None
    #: The heaps that hold the rows: one, or one for each partition.
    heaps: list[Heap] = field(default_factory=list)
    #: What hangs on the column of one partition alone: (partition, kind, name).
    partition_dependents: list[tuple[str, str, str]] = field(default_factory=list)
    triggers: list[dict[str, Any]] = field(default_factory=list)
    may_silence_triggers: bool = False
    leftovers: list[tuple[str, str]] = field(default_factory=list)
    dependents: list[Dependent] = field(default_factory=list)
    indexes: list[LiveIndex] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    #: Functions whose text names the column.
    named_in: list[str] = field(default_factory=list)
    #: Who takes rows of the table as they stand: (kind, name, how).
    whole_rows: list[tuple[str, str, str]] = field(default_factory=list)
    fingerprint: dict[str, str] = field(default_factory=dict)
    immutable_functions: frozenset[str] = frozenset()
    #: Why template and `where` could not be tried, or None when they could.
    expression_error: str | None = None
    #: Open migrations on the same table: (name, status, column).
    open_migrations: list[tuple[str, str, str]] = field(default_factory=list)
    #: The spec's own migration is under way here: what carries our suffix on the table is its.
    is_open: bool = False
    #: An earlier migration of this very column, finished: its applications still pass its two query vectors.
    earlier: str | None = None
    #: Names of live workers; None where schema `migrator` can't be read.
    workers: list[str] | None = None
    #: Processes that they have together, and those of them that lack a provider's key: (worker, variable).
    worker_slots: int = 0
    keyless: list[tuple[str, str]] = field(default_factory=list)

    @property
    def column(self) -> Column | None:
        """The live vector column."""
        return self.columns.get(self.spec.target.column)

    @property
    def role_sql(self) -> str:
        """Our role's name, for a statement that somebody is told to run."""
        return privileges.quoted(self.server["role"])

    @property
    def table_sql(self) -> str:
        """The table's name, likewise."""
        return privileges.quoted(self.spec.target.schema_name, self.spec.target.table_name)

    def target(self) -> Target:
        """Return the target as the migration will use it; needs a key."""
        assert self.key is not None  # noqa: S101 - asked for only after preflight found one
        wanted = self.spec.target
        return Target(
            schema=wanted.schema_name,
            table=wanted.table_name,
            column=wanted.column,
            shadow=suffixed(wanted.column),
            key_columns=self.key.columns,
            key_types=self.key.types,
            template=wanted.template,
            where=wanted.where,
            only_embedded=wanted.only_embedded,
        )

    @property
    def can_read_rows(self) -> bool:
        """Whether rows can be counted: the table is there, readable, whole, and the expressions work."""
        relation = self.relation
        if relation is None or self.key is None or self.column is None or not relation.may_select:
            return False
        hidden = relation.row_security and not relation.bypasses_rls
        hidden = hidden and not (relation.is_owner and not relation.force_row_security)
        return not hidden and self.expression_error is None and self.extension is not None


async def make(engine: AsyncEngine, spec: Spec) -> Survey:
    """Gather the facts."""
    found = Survey(spec)
    async with transaction(engine, read_only=True) as connection:
        found.server = await facts.server(connection)
        found.extension = await facts.extension(connection)
        found.relation = await facts.relation(connection, spec.target.schema_name, spec.target.table_name)
        await _state(connection, found)
        if found.relation is not None:
            await _table(connection, found, found.relation)
    if found.relation is not None and found.key is not None and found.relation.may_select:
        found.expression_error = await _try_expressions(engine, found)
    return found


async def _table(connection: AsyncConnection, found: Survey, relation: Relation) -> None:
    spec, oid = found.spec, relation.oid
    found.columns = await facts.columns(connection, oid)
    found.heaps = await facts.heaps(connection, oid)
    found.keys = await facts.keys(connection, oid)
    wanted = spec.target.key
    chosen = (key for key in found.keys if wanted is None or set(key.columns) == set(wanted))
    found.key = next(chosen, None)
    found.triggers = await facts.triggers(connection, oid)
    found.may_silence_triggers = await facts.may_silence_triggers(connection)
    found.leftovers = await facts.leftovers(connection, oid)
    found.fingerprint = await dependents.fingerprint(connection, oid, spec.target.column)
    if spec.target.scope is not None:
        found.immutable_functions = await facts.immutable_builtins(connection, spec.target.scope.functions)
    column = found.column
    if column is not None:
        found.dependents = await dependents.find(connection, oid, column)
        found.indexes = await dependents.every_index(connection, oid, column.name)
        found.named_in = await dependents.by_name(connection, oid, column.name)
        found.whole_rows = await dependents.whole_rows(connection, oid)
        found.publications = await publications.find(connection, oid, column.name)
        found.partition_dependents = await dependents.of_partitions(connection, oid, column.name)


async def _state(connection: AsyncConnection, found: Survey) -> None:
    """Read our own state, where the role may: a plan by a SELECT-only role goes without."""
    if not await schema.may(connection, ("migrations", "workers", "alembic_version")):
        return
    if await schema.current(connection) != schema.head():
        return
    target, known = found.spec.target, await migrations.list_all(connection)
    for each in known:
        same_table = (each.target_schema, each.target_table) == (target.schema_name, target.table_name)
        if same_table and each.status in OPEN and each.name != found.spec.name:
            found.open_migrations.append((each.name, each.status, each.target_column))
        elif same_table and each.target_column == target.column and each.live_side is Side.TO:
            found.earlier = each.name
        found.is_open |= same_table and each.status in OPEN and each.name == found.spec.name
    alive = await workers.alive(connection)
    found.workers, found.worker_slots = [row.name for row in alive], sum(row.slots for row in alive)
    # A worker looks for the keys of those migrations that are stored when it signs.
    wanted = {found.spec.model_of(side).api_key_env for side in Side}
    asked = {
        (key, each.since) for each in known for side in Side if (key := each.spec.model_of(side).api_key_env) in wanted
    }
    found.keyless = sorted(
        {(row.name, key) for row in alive for key, since in asked if since < row.last_seen} - _present(alive)
    )


def _present(alive: Sequence[Row[Any]]) -> set[tuple[str, str]]:
    return {(row.name, key) for row in alive for key in row.keys_present}


async def _try_expressions(engine: AsyncEngine, found: Survey) -> str | None:
    """Try template and `where` as the trigger will evaluate them; returns why they fail, or None."""
    target = found.target()
    missing = [name for name in target.template.columns if name not in found.columns]
    if missing or found.column is None:
        return None
    parts = {
        "text": target.text_of("t"),
        "in_scope": target.in_scope("t", target.column),
        "table": target.table_id,
    }
    try:
        async with engine.connect() as connection, connection.begin():
            settings = "set_config('search_path', 'pg_catalog', true), set_config('transaction_read_only', 'on', true)"
            await connection.execute(text(f"SELECT {settings}"))
            await run(connection, compose("target/facts.sql", "try_expressions", parts))
    except PsycopgError as error:
        return (error.diag.message_primary or type(error).__name__)[:200]
    return None
