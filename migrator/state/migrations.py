"""Migrations and their transitions: reading them, and the one guarded way in which a status moves.

Floor 1. Promise: a status moves along an edge of TRANSITIONS or not at all; the move and its line in `transitions`
commit together, and two who try at once can't both succeed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from sqlalchemy import Row, func, insert, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator import spec as specs
from migrator.errors import Defect, OperatorError, StatusConflict
from migrator.generation import Generation, Side
from migrator.lifecycle import FINAL, PAUSABLE, TRANSITIONS, UNATTENDED, MigrationStatus, is_allowed
from migrator.signals import ThrottleSpec
from migrator.state import outbox, tables
from migrator.state.tables import FORMAT_VERSION, migrations, transitions
from migrator.statements import compose


@dataclass(eq=False)
class MigrationUnknown(OperatorError):
    """There is no migration of that name."""

    name: str
    known: str

    runbook = "first-migration"
    happened = "There is no migration named {name} in this database (known: {known})."
    state = "Nothing was changed."
    next = "Run `migrator status` for the list, or `migrator plan SPEC` to make one."


@dataclass(eq=False)
class NameTaken(OperatorError):
    """A name is used once."""

    name: str
    status: str

    runbook = "first-migration"
    happened = "The name {name} was used by a migration that is {status}; a name is used once."
    state = "Nothing was changed."
    next = "Give the spec another `name`, or look at the first one with `migrator status {name}`."


@dataclass(eq=False)
class FormatUnknown(OperatorError):
    """The stored state was written by another version of the tool."""

    name: str
    found: int
    known: int

    runbook = "upgrade"
    happened = "{name} was stored in format {found}, and this version of the tool reads format {known}."
    state = "Nothing was changed."
    next = "Install the version that wrote it, or run `migrator init` with the newer one."


@dataclass(eq=False)
class CaptureOff(OperatorError):
    """What was written lately was seen by nobody."""

    name: str
    since: str

    runbook = "unblock"
    happened = "Capture of {name} is off since {since}: what was written from then on was seen by nobody."
    state = "Nothing was changed."
    next = "Run `migrator resume {name}`, which puts it on again and looks at those rows; then the same command again."


@dataclass(frozen=True, slots=True)
class Migration:
    """A row of `migrations`: one target going from one generation to the next."""

    id: int
    name: str
    target_schema: str
    target_table: str
    target_column: str
    shadow_column: str
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    spec: specs.Spec
    plan: dict[str, Any]
    fingerprint: dict[str, str]
    from_generation: Generation
    to_generation: Generation
    live_side: Side
    epoch: int
    status: MigrationStatus
    paused_from: MigrationStatus | None
    reason: str | None
    since: datetime
    requests_per_minute: int | None
    tokens_per_minute: int | None
    windows: tuple[str, ...]
    throttle: dict[str, Any]
    binding: str | None
    binding_at: datetime | None
    pass_number: int
    idle_passes: int
    proved_rows: int | None
    proved_embedded: int | None
    proved_filtered: int | None
    proved_at: datetime | None
    quarantine_seen: dict[str, int] | None
    write_baseline: dict[str, int] | None
    started_at: datetime | None
    timeline: int | None
    not_null: str | None
    keep_fresh: bool
    capture_off_at: datetime | None
    capture_off_xid: int | None
    capture_turn: int
    writers: dict[str, str]

    @property
    def thresholds(self) -> ThrottleSpec:
        """The spec's [throttle] with what was changed live."""
        return ThrottleSpec(**{**self.spec.throttle.model_dump(exclude_unset=True), **self.throttle})

    @property
    def target(self) -> str:
        """schema.table.column, for messages."""
        return f"{self.target_schema}.{self.target_table}.{self.target_column}"

    def generation(self, side: Side) -> Generation:
        """Return that side's generation."""
        return self.to_generation if side is Side.TO else self.from_generation

    @property
    def live_generation(self) -> Generation:
        """Return what readers of the target's column must use."""
        return self.generation(self.live_side)

    def refuse_unseen(self) -> None:
        """Make sure that nobody builds on what was not seen (H30).

        Raises: CaptureOff.
        """
        if self.capture_off_at is not None:
            raise CaptureOff(self.name, f"{self.capture_off_at:%Y-%m-%d %H:%M:%S %Z}")

    def column_of(self, side: Side) -> str:
        """Return the column that holds that side's vectors under this row's epoch (see H4 before writing)."""
        return self.target_column if side is self.live_side else self.shadow_column


def _record(row: Row[Any]) -> Migration:
    values = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    if values["format_version"] != FORMAT_VERSION:
        raise FormatUnknown(values["name"], values["format_version"], FORMAT_VERSION)
    made: dict[str, Any] = {name: values[name] for name in Migration.__slots__ if name in values}
    made["spec"] = specs.restore(values["spec"])
    made["from_generation"] = Generation.parse(values["from_generation"])
    made["to_generation"] = Generation.parse(values["to_generation"])
    made["live_side"] = Side(values["live_side"])
    made["status"] = MigrationStatus(values["status"])
    made["paused_from"] = MigrationStatus(values["paused_from"]) if values["paused_from"] else None
    for name in ("key_columns", "key_types", "windows"):
        made[name] = tuple(values[name])
    return Migration(**made)


async def find(connection: AsyncConnection, name: str) -> Migration | None:
    """Return the migration of that name, or None."""
    row = (await connection.execute(select(migrations).where(migrations.c.name == name))).one_or_none()
    return None if row is None else _record(row)


async def get(connection: AsyncConnection, name: str) -> Migration:
    """Return the migration of that name.

    Raises: MigrationUnknown, FormatUnknown.
    """
    found = await find(connection, name)
    if found is None:
        names = (await connection.execute(select(migrations.c.name).order_by(migrations.c.id))).scalars().all()
        raise MigrationUnknown(name, ", ".join(names[-10:]) or "none")
    return found


async def hold(connection: AsyncConnection, name: str) -> Migration:
    """Return the migration of that name, which nobody moves or changes until the transaction ends.

    Raises: MigrationUnknown, FormatUnknown.
    """
    await connection.execute(select(migrations.c.id).where(migrations.c.name == name).with_for_update())
    return await get(connection, name)


async def get_by_id(connection: AsyncConnection, migration_id: int) -> Migration:
    """Return the migration of that id."""
    return _record((await connection.execute(select(migrations).where(migrations.c.id == migration_id))).one())


async def list_all(
    connection: AsyncConnection,
    statuses: Sequence[MigrationStatus] | frozenset[MigrationStatus] | None = None,
) -> list[Migration]:
    """Return migrations, oldest first; only those in `statuses` where given."""
    query = select(migrations).order_by(migrations.c.id)
    if statuses is not None:
        query = query.where(migrations.c.status.in_([status.value for status in statuses]))
    return [_record(row) for row in await connection.execute(query)]


async def store_plan(connection: AsyncConnection, name: str, values: dict[str, Any], actor: str) -> int:
    """Store a plan under its name, over an earlier plan that was not started; returns the migration's id.

    Raises: NameTaken.
    """
    values = {**values, "name": name, "status": MigrationStatus.PLANNED, "format_version": FORMAT_VERSION}
    statement = upsert(migrations).values(**values)
    statement = statement.on_conflict_do_update(
        index_elements=[migrations.c.name],
        set_={**{key: statement.excluded[key] for key in values if key != "name"}, "since": func.now()},
        where=migrations.c.status == MigrationStatus.PLANNED,
    )
    row = (await connection.execute(statement.returning(migrations.c.id))).one_or_none()
    if row is None:
        raise NameTaken(name, (await get(connection, name)).status)
    await note(connection, row.id, MigrationStatus.PLANNED, "planned", actor)
    return int(row.id)


async def move(
    connection: AsyncConnection,
    migration: Migration,
    new: MigrationStatus,
    *,
    actor: str,
    reason: str | None = None,
    values: dict[str, Any] | None = None,
) -> None:
    """Move from the status that `migration` was read with to `new`, and log it in the same transaction.

    Raises: StatusConflict, when somebody moved it meanwhile; CaptureOff; Defect, when no such edge exists.
    """
    old = migration.status
    if not is_allowed(old, new):
        raise Defect(f"no edge leads from {old} to {new}")
    if new in UNATTENDED:
        migration.refuse_unseen()
    statement = (
        update(migrations)
        .where(
            migrations.c.id == migration.id,
            migrations.c.status == old,
            migrations.c.capture_off_at.is_(None) if new in UNATTENDED else true(),
        )
        .values(
            status=new,
            paused_from=old if new is MigrationStatus.PAUSED else None,
            reason=reason if new is MigrationStatus.PAUSED else None,
            since=func.now(),
            finished_at=func.now() if new in FINAL else None,
            binding=None,
            **(values or {}),
        )
    )
    if (await connection.execute(statement)).rowcount != 1:
        found = await get_by_id(connection, migration.id)
        if new in UNATTENDED:
            found.refuse_unseen()
        raise StatusConflict(migration.name, f"the move to {new}", old, found.status, f"migrator status {found.name}")
    why = reason or TRANSITIONS[old][new]
    await connection.execute(
        insert(transitions).values(migration_id=migration.id, from_status=old, to_status=new, reason=why, actor=actor)
    )
    await outbox.write_move(connection, migration.id, migration.spec.hooks, old, new, why)


def move_in_message(
    migration: Migration, new: MigrationStatus, *, actor: str, live_side: Side | None = None
) -> sql.Composed:
    """Return the guarded move as one statement, for a transaction that is sent whole; `live_side` where it swaps.

    Raises: Defect, when no such edge exists.
    """
    old = migration.status
    if not is_allowed(old, new):
        raise Defect(f"no edge leads from {old} to {new}")
    parts = {
        "migration_id": sql.Literal(migration.id),
        "old": sql.Literal(old.value),
        "new": sql.Literal(new.value),
        "epoch": sql.Literal(migration.epoch),
        "live_side": sql.Literal((live_side or migration.live_side).value),
        "swaps": sql.Literal(int(live_side is not None)),
        "final": sql.Literal(new in FINAL),
        "why": sql.Literal(TRANSITIONS[old][new]),
        "actor": sql.Literal(actor),
        **outbox.in_message(migration.spec.hooks, old, new),
    }
    return compose("state/moving.sql", "move", parts)


async def pause(connection: AsyncConnection, migration_id: int, *, reason: str, actor: str) -> bool:
    """Pause it from wherever it may be paused; False where it can't be (paused already, or at rest)."""
    migration = await get_by_id(connection, migration_id)
    if migration.status not in PAUSABLE:
        return False
    try:
        await move(connection, migration, MigrationStatus.PAUSED, actor=actor, reason=reason)
    except StatusConflict:
        return False
    return True


async def note(connection: AsyncConnection, migration_id: int, status: MigrationStatus, text: str, actor: str) -> None:
    """Log something that moved nothing."""
    await connection.execute(
        insert(transitions).values(
            migration_id=migration_id, from_status=status, to_status=status, reason=text, actor=actor
        )
    )


async def notes(connection: AsyncConnection, migration_id: int, status: MigrationStatus) -> list[str]:
    """Return what was logged in a status that moved nothing, oldest first."""
    query = select(transitions.c.reason).where(
        transitions.c.migration_id == migration_id,
        transitions.c.from_status == status,
        transitions.c.to_status == status,
    )
    return [str(row.reason) for row in await connection.execute(query.order_by(transitions.c.id))]


async def history(connection: AsyncConnection, migration_id: int, *, limit: int = 20) -> list[Row[Any]]:
    """Return the newest lines of the transition log, oldest first."""
    query = select(transitions).where(transitions.c.migration_id == migration_id)
    rows = (await connection.execute(query.order_by(transitions.c.id.desc()).limit(limit))).all()
    return list(reversed(rows))


async def change(connection: AsyncConnection, migration_id: int, **values: Any) -> None:
    """Set plain columns (limits, counters, what binds): never the status, which only `move` may."""
    forbidden = {"status", "paused_from", "live_side", "epoch"} & values.keys()
    if forbidden:
        raise Defect(f"`change` was asked to set {', '.join(sorted(forbidden))}")
    await connection.execute(update(migrations).where(migrations.c.id == migration_id).values(**values))


#: Seconds for which what was said to bind is believed; whoever waits says it again.
BINDING_SECONDS = 15


async def set_binding(connection: AsyncConnection, migration_id: int, binding: str) -> None:
    """Say what binds now; touches the row only when it changed, or every third of BINDING_SECONDS."""
    stale = migrations.c.binding_at < func.clock_timestamp() - timedelta(seconds=BINDING_SECONDS / 3)
    await connection.execute(
        update(migrations)
        .where(migrations.c.id == migration_id, or_(migrations.c.binding.is_distinct_from(binding), stale))
        .values(binding=binding, binding_at=func.clock_timestamp())
    )


async def database_now(connection: AsyncConnection) -> datetime:
    """Return the database's clock, the only one that counts."""
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def live_generation(connection: AsyncConnection, schema: str, table: str, column: str) -> Row[Any] | None:
    """Return the `live` row of a target (generation, since), or None before its first migration."""
    query = select(tables.live).where(
        tables.live.c.target_schema == schema,
        tables.live.c.target_table == table,
        tables.live.c.target_column == column,
    )
    return (await connection.execute(query)).one_or_none()
