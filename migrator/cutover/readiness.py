"""Readiness: everything that must hold before a swap is tried, each failure named with what to do about it.

Floor 2. Promise: a swap is never tried on a migration whose verdicts are stale, whose indexes are missing, whose
dependents can't all be moved, or whose old snapshots would read NULL; and the look itself locks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import GateFailed, OperatorError, TransientError
from migrator.generation import Side
from migrator.state import batches, migrations, verdicts
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.target import column_types, dependents, facts, index, message, restating, swap, watermark
from migrator.target.dependents import Dependent, LiveIndex
from migrator.target.facts import Column
from migrator.target.lanes import Lanes
from migrator.target.message import Blocker
from migrator.target.relation import SUFFIX, suffixed
from migrator.target.swap import Swap


@dataclass(eq=False)
class NotSwappable(OperatorError):
    """Something on the table can't be taken along, or is not there."""

    name: str
    verb: str
    problems: list[str]

    runbook = "cutover"
    state = "Nothing was changed."
    next = "Mend what is named, then run `migrator {verb} {name}` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with a line per problem."""
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        happened = f"{self.name} can't be swapped as things are:{lines}\n"
        return happened, self.state, self.next.format(name=self.name, verb=self.verb)


@dataclass(eq=False)
class VerdictsMissing(GateFailed):
    """The gates' newest verdicts are no licence to swap."""

    state = "Nothing was changed: the old generation is live, and every vector paid for is kept."
    happened = "{name} can't be cut over on its verdicts: {failures}."
    next = "Run `migrator validate {name}`."


@dataclass(eq=False)
class OldSnapshots(TransientError):
    """Transactions with snapshots from before the last vectors would read NULL."""

    name: str
    verb: str
    holders: list[Blocker]

    runbook = "cutover-lock-timeout"
    state = "Nothing was changed: {name} stands where it stood, and nobody was cancelled."
    next = "Wait for them or end them, then run `migrator {verb} {name}` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first naming them."""
        who = "; ".join(map(str, self.holders))
        happened = f"Transactions from before the last vectors are still open and would read NULL: {who}."
        return happened, self.state.format(name=self.name), self.next.format(name=self.name, verb=self.verb)


async def look(engine: AsyncEngine, migration: Migration, *, verb: str) -> Swap:
    """Look at everything that the swap takes along.

    Raises: NotSwappable.
    """
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            raise NotSwappable(migration.name, verb, [f"{migration.target} is gone"])
        columns = await facts.columns(connection, relation.oid)
        if migration.target_column not in columns or migration.shadow_column not in columns:
            raise NotSwappable(migration.name, verb, ["a column of the migration is gone"])
        live, shadow_name = columns[migration.target_column], migration.shadow_column
        found = await dependents.find(connection, relation.oid, live)
        shadow = await dependents.find(connection, relation.oid, columns[shadow_name])
        wanted = await dependents.every_index(connection, relation.oid, live.name)
        print_now = await dependents.fingerprint(connection, relation.oid, live.name)
        checks = [await restating.checks(connection, relation.oid, columns[name]) for name in (live.name, shadow_name)]
        problems = _dependents(found, shadow)
        if column_types.differ(migration):
            typed = [each for each in found if each.kind in dependents.TYPED]
            problems += [f"{each.kind} {each.name} is made for the old column's type" for each in typed]
        problems += [f"{name} has no twin on the shadow column" for name in restating.without_twin(*checks)]
        problems += [*await _indexes(connection, wanted)]
        problems += await _partitions(connection, migration, relation.oid)
        changed = dependents.changes(_planned(migration, columns), print_now)
        problems += [_told(each, migration) for each in changed if not _taken_along(each)]
        if problems:
            raise NotSwappable(migration.name, verb, problems)
        # Whoever was declared while this step waited is a writer that the swap's rules must know.
        migration = replace(migration, writers=(await migrations.get_by_id(connection, migration.id)).writers)
        views = [each.oid for each in found if each.kind == "view" and each.direct]
        ordered = await swap.outermost_first(connection, views)
        return Swap(
            migration=migration,
            oid=relation.oid,
            columns=frozenset(columns),
            views=ordered,
            view_locks=await message.view_locks(connection, ordered),
            bound={
                name: [each.oid for each in found if each.kind == kind]
                for kind, name in restating.LISTS.items()
                if kind != "view"
            },
            indexes=await _with_twins(connection, wanted),
            checks=[each for each in checks[0] if not each.name.endswith(SUFFIX)],
            fingerprint=print_now,
            server_version=(await facts.server(connection))["version"],
        )


def _planned(migration: Migration, columns: dict[str, Column]) -> dict[str, str]:
    """Return the plan's fingerprint, where the columns changed places with the live column's type of today."""
    part = f"column {migration.target_column}"
    live, shadow = columns[migration.target_column], columns[migration.shadow_column]
    changed = column_types.differ(migration) and migration.live_side is Side.TO
    ours = (live.type_name, facts.dims_of(live)) == (column_types.of(migration, Side.TO), migration.plan["shadow_dims"])
    if changed and ours and migration.fingerprint.get(part) == shadow.full_type:
        return {**migration.fingerprint, part: live.full_type}
    return migration.fingerprint


def _told(change: str, migration: Migration) -> str:
    """Say what to do about a table that is not the planned one: after a restore from a dump it has another number."""
    if change != f"{dependents.TABLE} is different":
        return change
    what = f"{migration.target} is another table than was planned, as it is in a restored dump"
    if migration.live_side is Side.TO:
        return f"{what}: nobody knows whether its old column is whole, and `cleanup` alone is left"
    return f"{what}: `migrator validate {migration.name}` looks at each of its rows and takes it for the same"


def _taken_along(change: str) -> bool:
    """Say whether a change since the start is no concern of the swap's: views are moved, new columns stay."""
    return change.startswith("view ") or (change.startswith("column ") and change.endswith(" was added"))


def _dependents(found: list[Dependent], shadow: list[Dependent]) -> list[str]:
    problems = [f"{each.kind} {each.name} hangs on the column" for each in found if each.action == "refuse"]
    problems += [f"{each.kind} {each.name} is not ours to change" for each in found if not each.owned]
    # What was made or set there as on the live one, and a comment, which changes places.
    expected = {"build again", "set alike"}
    problems += [
        f"{each.kind} {each.name} hangs on the shadow column"
        for each in shadow
        if each.action not in expected and each.kind != "comment"
    ]
    return problems


async def _indexes(connection: AsyncConnection, wanted: list[LiveIndex]) -> list[str]:
    problems = []
    for each in wanted:
        if each.name.endswith(SUFFIX):
            continue
        valid, _ = await index.state(connection, each.heap_oid, suffixed(each.name))
        if not valid:
            problems.append(f"index {each.name} has no valid twin on the shadow column")
    return problems


async def _with_twins(connection: AsyncConnection, wanted: list[LiveIndex]) -> list[tuple[str, str]]:
    """Return the indexes that exchange names with their twins: the table's, and those of its partitions."""
    found = []
    for each in wanted:
        if each.name.endswith(SUFFIX):
            continue
        found.append((each.schema, each.name))
        live, twins = [await index.parts(connection, each.heap_oid, name) for name in (each.name, suffixed(each.name))]
        # A partition made since has indexes with names of PostgreSQL's own making, which stay with them.
        found += [
            (part.schema, part.name)
            for heap, part in live.items()
            if heap in twins and (twins[heap].schema, twins[heap].name) == (part.schema, suffixed(part.name))
        ]
    return found


async def _partitions(connection: AsyncConnection, migration: Migration, oid: int) -> list[str]:
    """Name what came with partitions since the start: things of their own, and rows that nobody has embedded (H29)."""
    column = migration.target_column
    problems = [
        f"{kind} {name} hangs on the column of partition {partition} alone"
        for partition, kind, name in await dependents.of_partitions(connection, oid, column)
    ]
    known = await batches.heaps(connection, migration.id)
    for heap in await facts.heaps(connection, oid):
        if heap.level == 0 or heap.oid in known:
            continue
        left = await Lanes.of(migration, Side.TO, heap).left_in_heap(connection, migration.id)
        if left:
            problems.append(
                f"partition {heap.schema}.{heap.table} was attached with {left:,} rows that have no new vector:"
                f" run `migrator validate {migration.name}`, which sends them to the backfill"
            )
    return problems


async def gates(engine: AsyncEngine, migration: Migration) -> None:
    """Make sure that every gate's newest verdict is fresh, and passed or waived.

    Raises: VerdictsMissing.
    """
    async with transaction(engine, read_only=True) as connection:
        newest = await verdicts.newest(connection, migration.id)
        now = await watermark.read(connection, migration)
    problems = [f"{gate} was never measured" for gate in verdicts.GATES if gate not in {row.gate for row in newest}]
    for row in newest:
        stale = verdicts.why_stale(row, migration, now)
        if stale is not None:
            problems.append(f"{row.gate} is stale ({stale})")
        elif not verdicts.is_settled(row):
            problems.append(f"{row.gate} did not pass: it is {row.figure:.6g} against {row.threshold:.6g}")
    if problems:
        raise VerdictsMissing(migration.name, "; ".join(problems))


async def old_snapshots(engine: AsyncEngine, migration: Migration) -> list[Blocker]:
    """Return who holds a snapshot from before the proof."""
    if migration.proved_at is None:
        return []
    async with transaction(engine, read_only=True) as connection:
        return await message.old_snapshots(connection, migration.proved_at)


def new_side(verb: str) -> Side:
    """Return which side a verb makes live."""
    return Side.FROM if verb == "rollback" else Side.TO
