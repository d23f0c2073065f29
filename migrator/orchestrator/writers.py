"""Writers declared by their role: what their sessions write, where a session does not say so itself.

Floor 3. Promise (H7): whoever can't change an application's statements, and may not set a parameter for its role, can
still say what it writes. The declaration stands as a constant in the fence's functions, which are replaced in the
transaction that stores it: no lock on the table, nobody waits, and the next statement of every session is judged by it.
It survives swaps either way and ends with cleanup. A session's own `SET migrator.generation` wins over it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import OperatorError, StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.state import migrations, strays
from migrator.state.connection import run, transaction
from migrator.state.migrations import Migration
from migrator.target import facts, readers
from migrator.target.capture import Capture

S = MigrationStatus
#: Where there is no fence: not yet, or not any more.
_UNFENCED = frozenset({S.PLANNED, S.CLEANING, S.CLEANED})


@dataclass(eq=False)
class GenerationUnknown(OperatorError):
    """A writer was to be declared for a generation that the migration does not know."""

    name: str
    generation: str
    known: str

    runbook = "diverted-writers"
    happened = "{name} does not know the generation {generation}; it knows {known}."
    state = "Nothing was changed: writers are judged as before."
    next = "Run `migrator fence {name} --role ROLE --generation GENERATION` with one of those."


@dataclass(eq=False)
class RoleUnknown(OperatorError):
    """The server has no such role."""

    name: str
    role: str

    runbook = "diverted-writers"
    happened = "There is no role {role} on this server."
    state = "Nothing was changed: writers of {name} are judged as before."
    next = "Run `migrator fence {name}` for the roles that were declared; `migrator status {name}` names who writes."


@dataclass(frozen=True, slots=True)
class Declared:
    """What a declaration does, or did. `generation` is None where one is taken back; `warnings` are for people."""

    role: str
    generation: str | None
    before: str | None
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything is different afterwards."""
        return self.generation != self.before


async def listed(engine: AsyncEngine, name: str) -> dict[str, str]:
    """Return what each declared role writes.

    Raises: MigrationUnknown.
    """
    async with transaction(engine, read_only=True) as connection:
        return (await migrations.get(connection, name)).writers


async def foresee(engine: AsyncEngine, name: str, role: str, generation: str | None) -> Declared:
    """Look at what a declaration would do.

    Raises: MigrationUnknown, StatusConflict, CaptureOff, GenerationUnknown, RoleUnknown.
    """
    async with transaction(engine, read_only=True) as connection:
        return await _look(connection, await migrations.get(connection, name), role, generation)


async def declare(engine: AsyncEngine, name: str, role: str, generation: str | None, *, actor: str) -> Declared:
    """Declare what a role's sessions write, or take it back (None).

    Locks: advisory, and the migration's row, for milliseconds; none on the table.
    Raises: MigrationUnknown, StatusConflict, CaptureOff, GenerationUnknown, RoleUnknown, LockBusy, PrivilegeMissing.
    """
    async with transaction(engine) as connection:
        await run(connection, readers.functions_lock())
        migration = await migrations.hold(connection, name)
        found = await _look(connection, migration, role, generation)
        if not found.changes:
            return found
        kept = {each: written for each, written in migration.writers.items() if each != role}
        writers = kept if generation is None else {**kept, role: generation}
        await migrations.change(connection, migration.id, writers=writers)
        for statement in Capture.of(replace(migration, writers=writers)).functions(migration.live_side):
            await run(connection, statement)
        what = f"declared to write {generation}" if generation is not None else "no longer declared"
        await migrations.note(connection, migration.id, migration.status, f"role {role} is {what}", actor)
    return found


async def _look(connection: AsyncConnection, migration: Migration, role: str, generation: str | None) -> Declared:
    if migration.status in _UNFENCED:
        raise StatusConflict(migration.name, "fence", "started and not cleaned up", migration.status)
    # Functions that were silenced because they hurt must not come back by this door.
    migration.refuse_unseen()
    before = migration.writers.get(role)
    known = [str(migration.generation(side)) for side in Side]
    if generation is not None and generation not in known:
        raise GenerationUnknown(migration.name, generation, " and ".join(known))
    # A role that was dropped meanwhile may still be taken back.
    if (generation is not None or before is None) and not await _exists(connection, role):
        raise RoleUnknown(migration.name, role)
    warnings = () if generation is None else await _warnings(connection, migration, role, generation)
    return Declared(role, generation, before, warnings)


async def _exists(connection: AsyncConnection, role: str) -> bool:
    query = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")
    return bool((await connection.execute(query, {"role": role})).scalar_one())


async def _warnings(connection: AsyncConnection, migration: Migration, role: str, generation: str) -> tuple[str, ...]:
    """Return what an operator should know first: who else writes as that role, and whose statements would fail."""
    found = [
        f"{each.application or 'a session without a name'} wrote {each.generation} as {role} in the last 24 hours"
        f" ({each.writes:,} writes): it must be deployed or stopped first, or its vectors go into the wrong column"
        for each in await strays.seen(connection, migration)
        if each.role == role and each.generation != generation
    ]
    if generation != str(migration.live_generation) and await _is_not_null(connection, migration):
        found.append(
            f"{migration.target_column} is NOT NULL until the swap, so new rows and new texts that {role} brings before"
            " it fail: deploy it after the swap"
        )
    return tuple(found)


async def _is_not_null(connection: AsyncConnection, migration: Migration) -> bool:
    relation = await facts.relation(connection, migration.target_schema, migration.target_table)
    if relation is None:
        return False
    column = (await facts.columns(connection, relation.oid)).get(migration.target_column)
    return column is not None and column.not_null
