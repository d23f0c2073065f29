"""One build of one index: its session, what it says while it goes on, how it ends.

Floor 1. Promise: memory and workers are chosen from the facts, and only for this session; nothing is set on the table.
A worker that is stopped, or loses its lease, leaves the build to the server: hours of work are not thrown away, and
whoever comes next waits for it. Only what nobody wants any more is cancelled, and only our own backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import OperatorError
from migrator.statements import compose
from migrator.target import message
from migrator.target.twins import Twin

_FILE = "target/index.sql"
#: The most maintenance_work_mem that a build asks for by itself: a graph of 400,000 vectors of 1,024 dimensions. More
#: is the operator's to set on the server, since it is shared memory that only they know they have.
MAX_MEMORY_BYTES = 2 * 1024**3
#: maintenance_work_mem that PostgreSQL wants for each process, or it takes fewer (plan_create_index_workers).
_PROCESS_BYTES = 32 * 1024**2
#: Seconds between two looks at whether the build is still wanted.
_LOOK_SECONDS = 1.0
#: Tries with other settings before a build is given up: IVFFlat asks for memory three times.
_TRIES = 4
#: pgvector's NOTICE of a graph that goes on disk (hnswbuild.c), and its ERROR where IVFFlat's k-means has too little.
_SPILLED = re.compile(r"no longer fits into maintenance_work_mem after (\d+) tuples")
_REQUIRED = re.compile(r"memory required is (\d+) MB, maintenance_work_mem is (\d+) MB")

Wanted = Callable[[], Awaitable[bool]]
MayBegin = Callable[[], Awaitable[None]]


@dataclass(eq=False)
class IndexNeedsMemory(OperatorError):
    """An IVFFlat index can't be built within the memory that a build takes by itself."""

    name: str
    index: str
    required_mb: int
    allowed_mb: int

    runbook = "index-build"
    happened = "Index {index} needs {required_mb} MB to be built, and a build takes {allowed_mb} MB at most by itself."
    state = "Nothing of it is left; the live column and its indexes are untouched, every vector paid for is kept."
    next = "Give our role as much (ALTER ROLE ... SET maintenance_work_mem), then run `migrator resume {name}`."


def builder_name(migration_name: str) -> str:
    """Return the application_name of the backends that build a migration's indexes (63 bytes at the most)."""
    return f"migrator index {migration_name}"


@dataclass(slots=True)
class Build:
    """How indexes of one migration are built, and what was noticed meanwhile."""

    engine: AsyncEngine
    #: The migration's.
    name: str
    wanted_bytes: int
    #: Whether somebody still wants the indexes; asked all the time.
    wanted: Wanted
    #: Asked before each index that is begun; raises where none is to be begun now.
    may_begin: MayBegin
    notes: list[str] = field(default_factory=list)

    @property
    def who(self) -> str:
        """The application_name by which our backends are known, also when their client is dead."""
        return builder_name(self.name)

    async def run(self, twin: Twin, *, dropping: bool, share: float = 1.0) -> None:
        """Build an index over rows that are this share of the table's; drops its INVALID remainder first.

        Raises: IndexNeedsMemory, LockBusy (cancelled), psycopg's errors as ours.
        """
        async with message.raw_connection(self.engine) as raw:
            try:
                await self._configure(raw, twin, round(self.wanted_bytes * share))
                if dropping:
                    await self._run(raw, compose(_FILE, "drop", {"index": twin.index_id}))
                await self._create(raw, twin)
                columns = {"table": twin.table_id, "column": sql.Identifier(twin.target.shadow)}
                await self._run(raw, compose(_FILE, "analyze", columns))
                await self._prewarm(raw, twin)
            finally:
                if not raw.closed:
                    await raw.execute(compose(_FILE, "reset"))

    async def _create(self, raw: psycopg.AsyncConnection[Any], twin: Twin) -> None:
        def listen(diagnostic: psycopg.errors.Diagnostic) -> None:
            found = _SPILLED.search(diagnostic.message_primary or "")
            if found is not None:
                self.notes.append(spilled(twin.name, int(found[1])))

        raw.add_notice_handler(listen)
        try:
            for _ in range(_TRIES):
                try:
                    return await self._run(raw, twin.statement())
                except (psycopg.errors.ProgramLimitExceeded, psycopg.errors.DiskFull) as error:
                    await self._run(raw, compose(_FILE, "drop", {"index": twin.index_id}))
                    await self._mend(raw, twin, error)
            await self._run(raw, twin.statement())
        finally:
            raw.remove_notice_handler(listen)

    async def _mend(self, raw: psycopg.AsyncConnection[Any], twin: Twin, error: psycopg.Error) -> None:
        """Change the session so that the next try may succeed, or raise the error.

        Raises: IndexNeedsMemory.
        """
        required, allowed_mb = _REQUIRED.search(str(error)), MAX_MEMORY_BYTES // 1024**2
        if required is not None:  # IVFFlat asks for what its next step needs, so it may ask again
            required_mb = int(required[1])
            if required_mb >= allowed_mb:
                raise IndexNeedsMemory(self.name, twin.live.name, required_mb, allowed_mb) from None
            await self._configure(raw, twin, (required_mb + 1) * 1024**2)
        elif isinstance(error, psycopg.errors.DiskFull) and "shared memory" in str(error):
            # What the workers share did not fit into the server's shared memory (/dev/shm in a container).
            self.notes.append(f"index {twin.name} was built by one process: the server's shared memory has no room")
            await self._configure(raw, twin, self.wanted_bytes, alone=True)
        else:
            raise error

    async def _configure(
        self, raw: psycopg.AsyncConnection[Any], twin: Twin, wanted_bytes: int, *, alone: bool = False
    ) -> None:
        room = await _one(raw, compose(_FILE, "room"))
        assert room is not None  # noqa: S101 - a SELECT without FROM
        workers = 0 if alone else int(room["workers"])
        wanted = max(wanted_bytes, _PROCESS_BYTES * (workers + 1))
        memory = max(int(room["memory_bytes"]), min(wanted, MAX_MEMORY_BYTES))
        settings = {
            "application": sql.Literal(self.who),
            "memory": sql.Literal(f"{memory // 1024}kB"),
            "tablespace": sql.Literal(twin.live.tablespace or ""),
            "workers": sql.Literal(str(workers)),
        }
        await raw.execute(compose(_FILE, "session", settings))

    async def _prewarm(self, raw: psycopg.AsyncConnection[Any], twin: Twin) -> None:
        """Read the index into memory, where pg_prewarm is installed: the first searches after the swap need it."""
        name = twin.index_id.as_string()
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            found = await _one(raw, compose(_FILE, "prewarm_with"), {"index": name})
            if found is not None:
                parts = {
                    "prewarm": sql.Identifier(found["schema"], "pg_prewarm"),
                    "index": sql.Literal(name),
                    "mode": sql.Literal(found["mode"]),
                }
                await self._run(raw, compose(_FILE, "prewarm", parts))

    async def _run(self, raw: psycopg.AsyncConnection[Any], statement: sql.Composed) -> None:
        """Run a statement that may take hours, as long as it is wanted."""
        running = asyncio.ensure_future(raw.execute(statement))
        try:
            while not (await asyncio.wait({running}, timeout=_LOOK_SECONDS))[0]:
                if not await self.wanted():
                    await raw.cancel_safe()
            await running
        except asyncio.CancelledError:
            # Not psycopg's way, which cancels the statement: without its client it goes on, and is waited for.
            raw.pgconn.finish()
            with contextlib.suppress(psycopg.Error, OSError):
                await running
            raise


def spilled(name: str, tuples: int) -> str:
    """Return what a graph that did not fit means, and the mend."""
    return (
        f"index {name} no longer fitted into maintenance_work_mem after {tuples:,} rows, so the rest was built slowly:"
        " the next time set maintenance_work_mem higher for our role"
    )


async def _one(
    raw: psycopg.AsyncConnection[Any], statement: sql.Composed, values: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    async with raw.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchone()
