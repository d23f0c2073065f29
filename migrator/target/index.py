"""Building the shadow column's indexes: concurrently, resumable, with enough memory, never twice at once.

Floor 1. Promise: an index that stands valid is left alone; one that a backend of ours is building is waited for, also
when its client died (the build outlives it); an INVALID one that nobody builds is dropped and built again. What others
build on the table is told apart. The application's reads and writes go on throughout.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import Defect, TransientError
from migrator.state.connection import LockBusy, fetch, run, transaction
from migrator.statements import compose
from migrator.target import facts, message
from migrator.target.build import Build
from migrator.target.dependents import LiveIndex
from migrator.target.relation import Target, suffixed
from migrator.target.twins import Twin

_FILE = "target/index.sql"
#: Seconds between two looks at a build that somebody else is doing.
_LOOK_SECONDS = 1.0
#: Seconds that cancelled backends may take to go; an HNSW build looks for interrupts at every row.
_GONE_SECONDS = 10.0
#: More memory than a partition's share of the rows: statistics are estimates.
_SPARE = 1.25


@dataclass(eq=False)
class BuildUnwanted(TransientError):
    """The migration was cancelled while its indexes were built."""

    index: str

    runbook = "index-build"
    happened = "Index {index} is not built any more: its migration was cancelled or moved on."
    state = "The build was ended; what is left of it is dropped by `cleanup`."
    next = "Run `migrator status`."


@dataclass(frozen=True, slots=True)
class Part:
    """A partition's own index of a partitioned one."""

    schema: str
    name: str
    tablespace: str | None
    definition: str


async def state(connection: AsyncConnection, oid: int, name: str, who: str = "") -> tuple[bool | None, int | None]:
    """Return (valid, builder): None for an index that is not there, and the pid of the backend that is at it.

    `who` is the application_name by which our own are known.
    """
    values = {"oid": oid, "name": name, "who": who}
    row = (await fetch(connection, compose(_FILE, "state"), values))[0]
    return row["valid"], row["builder"]


async def progress(connection: AsyncConnection, oid: int) -> str | None:
    """Return a line about the build that is going on, or None."""
    rows = await fetch(connection, compose(_FILE, "progress"), {"oid": oid})
    if not rows:
        return None
    row = rows[0]
    done, total = (
        (row["tuples_done"], row["tuples_total"]) if row["tuples_total"] else (row["blocks_done"], row["blocks_total"])
    )
    share = f" {100 * done / total:.0f} %" if total else ""
    whose = "index" if row["ours"] else "somebody else's index"
    return f"{whose} {row['name'] or ''}: {row['phase']}{share}"


async def parts(connection: AsyncConnection, oid: int, name: str) -> dict[int, Part]:
    """Return the partitions' own indexes of a partitioned index, by the partition's oid."""
    rows = await fetch(connection, compose(_FILE, "parts"), {"oid": oid, "name": name})
    return {row.pop("heap_oid"): Part(**row) for row in rows}


async def ensure(build: Build, target: Target, live: LiveIndex, type_name: str) -> None:
    """Make sure that a live index's twin stands valid on the shadow, which is of that type; takes as long as it takes.

    Raises: BuildUnwanted, IndexNeedsMemory, LockBusy, and what says that no index is to be begun now.
    """
    twin = Twin.of(target, live, type_name)
    if live.is_partitioned:
        await _ensure_parts(build, twin)
    else:
        await _ensure_one(build, twin)


async def _ensure_one(build: Build, twin: Twin, *, share: float = 1.0) -> None:
    while True:
        async with transaction(build.engine, read_only=True) as connection:
            valid, builder = await state(connection, twin.oid, twin.name, build.who)
        if valid:
            return await _check(build.engine, twin)
        if not await build.wanted():
            raise BuildUnwanted(twin.name)
        if builder is not None:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        await build.may_begin()
        try:
            await build.run(twin, dropping=valid is False, share=share)
        except LockBusy:
            if not await build.wanted():
                raise BuildUnwanted(twin.name) from None
            raise


async def _check(engine: AsyncEngine, twin: Twin) -> None:
    """Make sure that the twin hangs on the shadow column, and on the live one with no part of it.

    Raises: Defect.
    """
    async with transaction(engine, read_only=True) as connection:
        values = {"oid": twin.oid, "name": twin.name}
        columns = {row["name"] for row in await fetch(connection, compose(_FILE, "columns"), values)}
    if twin.target.shadow not in columns or twin.target.column in columns:
        raise Defect(f"index {twin.name} is not the copy of {twin.live.name} that it should be")


async def _ensure_parts(build: Build, twin: Twin) -> None:
    """Make the index of a partitioned table: its name first, then each partition's, which is then attached."""
    async with transaction(build.engine, read_only=True) as connection:
        valid, _ = await state(connection, twin.oid, twin.name)
        live_parts = await parts(connection, twin.oid, twin.live.name)
        heaps = await facts.heaps(connection, twin.oid)
    if valid is None:
        await _shortly(build.engine, twin.statement(as_parent=True), twin.live.tablespace)
    pages = max(sum(heap.pages for heap in heaps), 1)
    for heap in heaps:
        async with transaction(build.engine, read_only=True) as connection:
            attached = await parts(connection, twin.oid, twin.name)
        if heap.oid in attached:
            continue
        # A partition whose own is not there yet gets what the partitioned index says.
        whole = Part(heap.schema, f"{heap.table}_{twin.live.name}", twin.live.tablespace, twin.live.definition)
        live = live_parts.get(heap.oid, whole)
        own = replace(twin.live, tablespace=live.tablespace, definition=live.definition, is_partitioned=False)
        part = replace(twin, live=own, oid=heap.oid, schema=heap.schema, table=heap.table, name=suffixed(live.name))
        await _ensure_one(build, part, share=min(1.0, _SPARE * heap.pages / pages))
        await _shortly(build.engine, compose(_FILE, "attach", {"parent": twin.index_id, "index": part.index_id}))


async def _shortly(engine: AsyncEngine, statement: sql.Composed, tablespace: str | None = None) -> None:
    """Run a statement whose lock others would queue behind: with a deadline, again and again, leaving room between.

    Raises: LockBusy, when the ladder ends.
    """
    for pause in (*message.LADDER_SECONDS, None):
        try:
            async with transaction(engine, lock_timeout_seconds=message.DEADLINE_SECONDS) as connection:
                await run(connection, compose(_FILE, "tablespace", {"tablespace": sql.Literal(tablespace or "")}))
                await run(connection, statement)
        except LockBusy:
            if pause is None:
                raise
            await asyncio.sleep(pause)
        else:
            return


async def abandon(engine: AsyncEngine, oid: int, who: str) -> int:
    """End our own builds of that name, and drop the INVALID indexes that they leave; returns how many were ended."""
    async with transaction(engine) as connection:
        ended = int((await fetch(connection, compose(_FILE, "cancel"), {"who": who}))[0]["cancelled"])
    until = asyncio.get_running_loop().time() + _GONE_SECONDS
    while ended and asyncio.get_running_loop().time() < until:
        async with transaction(engine, read_only=True) as connection:
            if (await state(connection, oid, "", who))[1] is None:
                break
        await asyncio.sleep(0.1)
    async with transaction(engine, read_only=True) as connection:
        left = await fetch(connection, compose(_FILE, "leftovers"), {"oid": oid})
    for row in left:
        with contextlib.suppress(LockBusy):  # `cleanup` drops it: nobody who cancels waits for somebody's transaction
            async with message.raw_connection(engine) as raw:
                await raw.execute(compose(_FILE, "hurried"))
                try:
                    await raw.execute(compose(_FILE, "drop", {"index": sql.Identifier(row["schema"], row["name"])}))
                finally:
                    await raw.execute(compose(_FILE, "reset"))
    return ended
