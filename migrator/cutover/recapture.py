"""Putting the capture on again, and taking back what was written while it was off.

Floor 2. Promise (H30, P5, P1): no vector survives that nobody saw being written: before the first cutover the shadow's
of each row that was touched meanwhile, after one the live column's too. Such a row is embedded again, also one that had
a disposition. Killed anywhere, it is begun again: until the end it is remembered since when the capture was off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.cutover import capture_off, rehearsal
from migrator.cutover.rehearsal import Rehearsal
from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.state import canary, capture_turns, migrations
from migrator.state.connection import MovedMeanwhile, fetch, run, transaction
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.target import capture, facts, message, outcome, readers, taking_back
from migrator.target.capture import Capture
from migrator.target.declaration import declare
from migrator.target.message import OnWait, Timing

_FILE = "cutover/recapture.sql"
#: Rows per transaction: they are updated out of lanes, so each costs an entry in both HNSW indexes, some milliseconds.
_HANDFUL = 50


@dataclass(eq=False)
class TriggersWouldFail(OperatorError):
    """With our triggers on the table, the application's own statements fail."""

    name: str
    operation: str
    kind: str
    sqlstate: str
    function: str

    runbook = "unblock"
    happened = "With the triggers on the table of {name}, every {operation} fails in {function}: {kind} ({sqlstate})."
    state = "That was a rehearsal, and it was rolled back with the triggers: capture of {name} is off, as it was."
    next = (
        "Mend what is named, then run `migrator resume {name}` again; before a cutover `migrator cancel {name}`, too."
    )


async def install(engine: AsyncEngine, migration: Migration, *, on_wait: OnWait) -> Timing:
    """Put functions and triggers on again; behind them, the application's writes are rehearsed.

    `migration` is read under the step's lease: its turn is the licence.
    Locks: ACCESS EXCLUSIVE on the table, a few milliseconds, one deadline per try.
    Raises: LockNotObtained, TriggersWouldFail, MovedMeanwhile, Undone, OutcomeUnknown.
    """
    oid, framed = await prepare(engine, migration)
    whole, refused = message.whole(framed), rehearsal.refusal(TriggersWouldFail, migration.name)

    async def attempt() -> Timing:
        return await outcome.send(
            engine, whole, migration, verb="resume", done=capture_off.another_turn(migration), read=refused
        )

    timing = await message.until_locked(engine, oid, attempt, name=migration.name, verb="resume", on_wait=on_wait)
    if timing.lost and not await capture_off.acts(engine, migration):
        raise MovedMeanwhile  # the turn is another's, who took it off
    return timing


async def prepare(engine: AsyncEngine, migration: Migration) -> tuple[int, list[sql.Composable]]:
    """Return the table's oid and the whole transaction, statement by statement."""
    async with transaction(engine, read_only=True) as connection:
        table_now = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert table_now is not None  # noqa: S101 - its triggers were there
        columns = await facts.columns(connection, table_now.oid)
        version = (await facts.server(connection))["version"]
    made = Capture.of(migration)
    table = made.target.table_id
    writes = Rehearsal(made.target, [each for each in columns.values() if each.name != made.target.shadow])
    async with message.raw_connection(engine) as raw:
        found = await writes.find(raw)
    body = [
        capture_off.turn(migration),
        *capture.removal(made),
        *capture.installation(made, frozenset(columns), migration.live_side),
        *writes.statements(found),
    ]
    locks = [message.lock_table(table)]
    before = [readers.functions_lock()]
    return table_now.oid, message.frame(table, body, lock_statements=locks, server_version=version, before=before)


async def take_back(engine: AsyncEngine, migration: Migration) -> int:
    """Take back every vector that may have been written unseen; returns how many rows that were.

    Cost: one pass over the table, which locks nothing. Locks: a handful of rows at a time, for milliseconds.
    Raises: RowsHeld.
    """
    assert migration.capture_off_xid is not None  # noqa: S101 - whoever calls has looked
    values = {"xid": canary.row_xid(migration.capture_off_xid)}
    parts = _parts(migration)
    async with message.unhurried(engine) as raw:
        await raw.execute(compose(_FILE, "list", parts), values)
    if not _swapped_ever(migration) and _watched(migration):
        async with transaction(engine) as connection:
            await run(connection, compose(_FILE, "note", parts))
    return await taking_back.rounds(
        lambda: _once(engine, migration), lambda: _left(engine, migration), name=migration.name
    )


async def _once(engine: AsyncEngine, migration: Migration) -> int:
    """Go down the list once; what is held goes to its end."""
    total, todo = 0, await _left(engine, migration)
    while todo > 0:
        async with transaction(engine) as connection:
            await run(connection, compose("target/lanes.sql", "lock_table", _parts(migration)))
            now = await migrations.get_by_id(connection, migration.id)
            await declare(connection, now, now.live_side)
            (found,) = await fetch(connection, compose(_FILE, "take_back", _parts(now)), {"rows": _HANDFUL})
            if found["listed"] == 0:
                break
            if found["done"] == 0:
                await run(connection, compose(_FILE, "put_off", _parts(now)), {"rows": _HANDFUL})
        total += found["rows"]
        todo -= max(found["done"], found["listed"] if found["done"] == 0 else 0)
    return total


async def _left(engine: AsyncEngine, migration: Migration) -> int:
    async with transaction(engine, read_only=True) as connection:
        return int((await fetch(connection, compose(_FILE, "left", _parts(migration))))[0]["rows"])


async def finished(connection: AsyncConnection, migration: Migration) -> None:
    """Say that the capture is on, and everything that was written without it is taken care of.

    Raises: CaptureOff, where somebody took it off again meanwhile.
    """
    await run(connection, compose(_FILE, "forget", _parts(migration)))
    if not await capture_turns.capture_is_on(connection, migration):
        (await migrations.get_by_id(connection, migration.id)).refuse_unseen()


def _watched(migration: Migration) -> bool:
    """Say whether vectors that writers bring are looked at: those of other dimensions tell themselves what they are."""
    return migration.from_generation.dims == migration.to_generation.dims


def _swapped_ever(migration: Migration) -> bool:
    """Say whether applications may be about that write the other generation: after a rollback, too."""
    return migration.epoch > 0


def _parts(migration: Migration) -> Mapping[str, sql.Composable]:
    target = Capture.of(migration).target
    sides = [side.value for side in Side] if _swapped_ever(migration) else [migration.live_side.other.value]
    fields = [
        sql.SQL("l.key[{}] AS {}").format(sql.Literal(number), sql.Identifier(f"k{number}"))
        for number in range(1, len(target.key_columns) + 1)
    ]
    return {
        "table": target.table_id,
        "migration_id": sql.Literal(migration.id),
        "key": target.key_of("t"),
        "live_side": sql.Literal(migration.live_side.value),
        "sides": sql.Literal(sides),
        "fields": sql.SQL(", ").join(fields),
        "is_the_row": target.key_equals("t", "w"),
        "in_scope": target.in_scope("t", target.column, target.shadow),
        "emptied": _emptied(migration),
        "noted": sql.Literal(_swapped_ever(migration) and _watched(migration)),
    }


def _emptied(migration: Migration) -> sql.Composable:
    """Return what is taken back of a row; of one that nobody embeds again, only a new vector that is not searched."""
    shadow = sql.SQL("{} = NULL").format(sql.Identifier(migration.shadow_column))
    if not _swapped_ever(migration):
        return shadow
    of_scope = sql.SQL("{0} = CASE WHEN h.scoped THEN NULL ELSE t.{0} END")
    live = of_scope.format(sql.Identifier(migration.target_column))
    if migration.live_side is Side.TO:
        shadow = of_scope.format(sql.Identifier(migration.shadow_column))
    return sql.SQL(", ").join([live, shadow])
