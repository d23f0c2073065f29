"""What a swap would do, said before it is done: what changes names, what is taken along, how many rows wait.

Floor 3. Promise: it only reads, and refuses for the same reasons as the swap itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrator.cutover import readiness
from migrator.cutover.swapping import CUTOVER, Direction
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.state import dirty
from migrator.state.connection import transaction
from migrator.target import dependents, facts
from migrator.target.relation import suffixed


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What would happen: (kind, name, what becomes of it), and rows that lack the other generation's vector now."""

    generation: str
    objects: list[tuple[str, str, str]]
    dirty_rows: int


async def foresee(worker: Worker, name: str, direction: Direction) -> Foreseen:
    """Look at what a swap would do.

    Raises: MigrationUnknown, StatusConflict, VerdictsMissing, NotSwappable.
    """
    migration = await attended.swappable(worker, name, direction)
    if direction is CUTOVER:
        await readiness.gates(worker.engine, migration)
    looked = await readiness.look(worker.engine, migration, verb=direction.verb)
    live, shadow = migration.target_column, migration.shadow_column
    objects = [("column", live, f"becomes {shadow}"), ("column", shadow, f"becomes {live}")]
    objects += [("index", each, f"changes names with {suffixed(each)}") for _, each in looked.indexes]
    async with transaction(worker.engine, read_only=True) as connection:
        number = (await facts.columns(connection, looked.oid))[live]
        found = await dependents.find(connection, looked.oid, number)
        objects += [(each.kind, each.name, each.action) for each in found if each.action in {"re-point", "follows"}]
        objects += [
            ("check constraint", each.name, f"changes names with {suffixed(each.name)}") for each in looked.checks
        ]
        rows, _ = await dirty.count(connection, migration.id, direction.side)
    return Foreseen(str(migration.generation(direction.side)), objects, rows)
