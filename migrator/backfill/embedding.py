"""Embed rows and land them: requests in lane order, a few in flight, each answer written as it arrives.

Floor 2. Promise: what was paid for is landed even when something else fails: on a failure no further request is sent,
those in flight are waited for and written. A lost lease or a cancelled task ends at once, and its requests stay counted
as possibly billed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.classify import Work
from migrator.backfill.landing import LOCK_TIMEOUT_SECONDS, Held, Landed, Landing, refused
from migrator.errors import MigratorError
from migrator.measures.landing_size import LandingSize
from migrator.provider.embedder import Answer, Embedder
from migrator.spending.worker import Worker
from migrator.state import signals
from migrator.state.connection import DatabaseGone, DatabaseUnreachable, LockBusy, transaction
from migrator.state.dispositions import Disposition
from migrator.state.leases import LeaseLost

#: Tries of a landing whose transaction could not be had; its vectors are paid for, so it is worth insisting.
_LANDING_TRIES = 4
#: Tries of rows that the application holds, 0.1 + 0.2 + ... + 1.6 seconds apart; then the next pass finds them.
_HELD_TRIES = 5


@dataclass(slots=True)
class Progress:
    """What one call of `embed_and_land` did."""

    written: int = 0
    quarantined: int = 0
    tokens: int = 0
    failure: MigratorError | None = None


@dataclass(slots=True)
class _Crew:
    """The requests of one call and those who send them."""

    worker: Worker
    embedder: Embedder
    landing: Landing
    work: Sequence[Work]
    runs: deque[list[int]]
    #: How many rows a writing transaction takes: held to a duration, over all batches of this process.
    size: LandingSize
    progress: Progress = field(default_factory=Progress)
    #: Answers land one after the other: a batch never waits for a lock against itself, and knows its last one.
    door: asyncio.Lock = field(default_factory=asyncio.Lock)
    unresolved: int = 0
    held: list[Held] = field(default_factory=list)

    async def send(self) -> None:
        texts = [each.text for each in self.work]
        while self.runs and self.progress.failure is None:
            run = self.runs.popleft()
            try:
                async for outcome in self.embedder.embed(texts, run):
                    if isinstance(outcome, Answer):
                        await self._land(outcome)
                    else:
                        await self._quarantine(refused(self.work, outcome))
            except LeaseLost:
                raise
            except MigratorError as error:
                self.progress.failure = self.progress.failure or error

    async def _land(self, answer: Answer) -> None:
        pieces = self.size.pieces(len(answer.positions))
        try:
            for number, piece in enumerate(pieces, start=1):
                rows = slice(piece.start, piece.stop)
                part = replace(answer, positions=answer.positions[rows], vectors=answer.vectors[rows])
                await self._land_piece(part, more=number < len(pieces))
        except LeaseLost:
            # It was billed for certain, and whoever has the lease now asks again.
            await self.embedder.purse.spend(answer.request_id, answer.used_tokens)
            raise
        self.progress.tokens += answer.used_tokens

    async def _land_piece(self, part: Answer, *, more: bool) -> None:
        count = len(part.positions)
        landed = await self._insist(
            lambda connection: self.landing.land(connection, self.work, part, last=self._is_last(count), more=more),
            rows=count,
        )
        self.unresolved -= count
        self.held += landed.held
        self.progress.written += landed.written

    async def land_held(self) -> None:
        """Try the rows that the application held until they are free, or the next pass must find them."""
        finish = self.unresolved == 0 and self.progress.failure is None
        for attempt in range(_HELD_TRIES):
            if not self.held:
                return
            await asyncio.sleep(0.1 * 2**attempt)
            give_up = attempt == _HELD_TRIES - 1
            again = partial(self.landing.land_held, held=self.held, finish=finish, give_up=give_up)
            landed = await self._insist(again, rows=len(self.held))
            self.held = landed.held
            self.progress.written += landed.written

    async def _insist(self, landing: Callable[[AsyncConnection], Awaitable[Landed]], *, rows: int) -> Landed:
        """Run a landing's transaction again while the database is busy: its vectors are paid for.

        Then rest, as the stored signals and the transaction's own duration ask for; the next landing waits for that.
        """
        for attempt in range(1, _LANDING_TRIES + 1):
            try:
                async with self.door:
                    async with transaction(self.worker.engine, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS) as connection:
                        throttled = (await signals.reading(connection, self.landing.migration.id)).binding is not None
                        began = time.monotonic()
                        landed = await landing(connection)
                    seconds = time.monotonic() - began
                    self.size.took(rows, seconds)
                    await asyncio.sleep(self.size.rest_seconds(seconds, throttled=throttled))
                    return landed
            except (LockBusy, DatabaseGone, DatabaseUnreachable):
                if attempt == _LANDING_TRIES:
                    raise
                self.size.timed_out()
                await asyncio.sleep(0.1 * 2**attempt)
        raise AssertionError  # the last try returned or raised

    async def _quarantine(self, disposition: Disposition) -> None:
        async with self.door, transaction(self.worker.engine) as connection:
            await self.landing.dispose(connection, [disposition], last=self._is_last(1))
        self.unresolved -= 1
        self.progress.quarantined += 1

    def _is_last(self, resolved: int) -> bool:
        return self.unresolved == resolved and self.progress.failure is None and not self.held


async def embed_and_land(worker: Worker, embedder: Embedder, landing: Landing, work: Sequence[Work]) -> Progress:
    """Embed all of `work`; returns what was done and the first failure, if there was one.

    Raises: LeaseLost, when the right to write is gone.
    """
    runs = deque(embedder.plan([each.text for each in work]))
    size_of_landing = worker.landing_size(landing.migration)
    crew = _Crew(worker, embedder, landing, work, runs, size_of_landing, unresolved=len(work))
    size = min(worker.concurrency, len(runs))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(crew.send())
    except* LeaseLost as lost:
        raise lost.exceptions[0] from None
    await crew.land_held()
    return crew.progress
