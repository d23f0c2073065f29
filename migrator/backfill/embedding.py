"""Embed rows and land them: requests in lane order, a few in flight, each answer written as it arrives.

Answers that arrive while others are being written land together after them: a commit costs the same for one as for
ten. A provider that answers faster than we write is asked on, until a whole landing waits. Rows of one heap page never
share a transaction, or the room that one of them leaves would be no use to the next (HOT). How many rows land together
is held to a duration, and while a signal of the database binds, each landing is followed by a rest (P12).

Floor 2. Promise: what was paid for is landed even when something else fails: on a failure no further request is sent,
those in flight are waited for and written. A lost lease or a cancelled task ends at once, and its requests stay counted
as possibly billed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.backfill.classify import Work
from migrator.backfill.landing import LOCK_TIMEOUT_SECONDS, Held, Landed, Landing, refused
from migrator.errors import MigratorError
from migrator.measures.landing_size import LandingSize
from migrator.provider.embedder import Answer, Embedder
from migrator.spending.purse import HEED_SECONDS
from migrator.spending.worker import Worker
from migrator.state import signals
from migrator.state.canary import OldModelAnswered
from migrator.state.connection import DatabaseGone, DatabaseUnreachable, LockBusy, transaction
from migrator.state.dispositions import Disposition
from migrator.state.leases import Kind, LeaseLost

#: Tries of a landing whose transaction could not be had; its vectors are paid for, so it is worth insisting.
_LANDING_TRIES = 4
#: Rows of one landing at the most, if `landing_seconds` allows as many: by what 96 took, 27 ms under their locks, and
#: 130 where none of them finds room on its page. Besides its rows a landing costs some eight round trips, 3 to 5 ms.
LANDING_ROWS = 256
#: Landings that the pages of a batch are enough for, so that a page rests for two of them before its next row is
#: written: a second process's open landing keeps what ours left from being pruned. Landings of 128 on 363 pages, which
#: rest for less, had HOT shares of 0.800 to 0.853 where 0.857 can be had. Where the pages are few, a landing takes
#: three requests of ten all the same.
_LANDINGS_A_LANE, _FEWEST_ROWS = 3, 30
#: Rows of a landing of a batch that begins with a page's first row: that one mostly has to leave its page, and be told
#: to every index, which takes a millisecond where others take a fifth. It must be over before the rest of another
#: process's pages is, whose pruning waits for it too: with 230 rows together every third run of the benchmark lost 2 to
#: 7 % of its HOT updates.
LEAVING_ROWS = 60
#: Tries of rows that the application holds, 0.1 + 0.2 + ... + 1.6 seconds apart; then the next pass finds them.
_HELD_TRIES = 5


def most_rows(pages: int, *, leaving: bool) -> int:
    """Return how many rows land together at the most; `leaving` says that they are the first of their pages."""
    most = min(LANDING_ROWS, max(_FEWEST_ROWS, pages // _LANDINGS_A_LANE))
    return min(most, LEAVING_ROWS) if leaving else most


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
    #: How many rows a writing transaction takes together: held to a duration, over all batches of this process.
    size: LandingSize
    progress: Progress = field(default_factory=Progress)
    #: Landings follow one another: a batch never waits for a lock against itself, and knows its last one.
    door: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Answers that wait to be landed, and whether somebody is landing who takes them along.
    arrived: list[Answer] = field(default_factory=list)
    landing_now: bool = False
    #: No answer lands with another: one of some that did was refused.
    one_by_one: bool = False
    #: Pulsed whenever waiting answers were taken along.
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    unresolved: int = 0
    held: list[Held] = field(default_factory=list)
    #: Whether a signal of the database binds, and when that was looked at, on the loop's clock.
    throttled: bool = False
    heeded_at: float = -HEED_SECONDS
    #: On how many pages all the rows lie, and which of a batch's are the first to be written on theirs.
    pages: int = field(init=False)
    leaving: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        first: dict[object, int] = {}
        for at, each in enumerate(self.work):
            first.setdefault(each.row.place or each.row.key, at)
        self.pages = len(first)
        # Catch-up's rows lie where they lie: most are the only ones of their page, and many find room there.
        self.leaving = frozenset(first.values() if self.landing.lease.kind is Kind.BATCH else ())

    async def send(self) -> None:
        texts = [each.text for each in self.work]
        while self.runs and self.progress.failure is None:
            run = self.runs.popleft()
            with self.noting_failure():
                async for outcome in self.embedder.embed(texts, run):
                    if isinstance(outcome, Answer):
                        await self._land(outcome)
                    else:
                        await self._quarantine(refused(self.work, outcome))

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Note the first failure of this call; a lost lease is none of them, and ends it at once."""
        try:
            yield
        except LeaseLost:
            raise
        except MigratorError as error:
            self.progress.failure = self.progress.failure or error

    async def _land(self, answer: Answer) -> None:
        self.arrived.append(answer)
        if not self.landing_now:
            await self.land_arrived()
        # Whoever is landing takes it along; the next request waits while a whole landing waits.
        while self.landing_now and sum(len(each.positions) for each in self.arrived) >= self._rows_together():
            await self.taken.wait()

    async def land_arrived(self) -> None:
        """Land what has arrived, and what arrives meanwhile."""
        self.landing_now = True
        try:
            async with self.door:
                while self.arrived:
                    await self._land_together(self._take_along())
        finally:
            self.landing_now = False
            self._tell_waiting()

    def _rows_together(self, *, leaving: bool = False) -> int:
        """How many rows a landing of several answers takes now, and how many may wait; one answer is never cut."""
        return min(most_rows(self.pages, leaving=leaving), self.size.rows)

    def _tell_waiting(self) -> None:
        self.taken.set()
        self.taken.clear()

    def _take_along(self) -> list[Answer]:
        """Take the oldest answer off the waiting ones, and those that share no heap page with it or each other."""
        taken: list[Answer] = []
        left: list[Answer] = []
        places: set[tuple[int, int]] = set()
        rows = 0
        most = self._rows_together(leaving=not self.leaving.isdisjoint(self.arrived[0].positions))
        for answer in self.arrived:
            own = {place for at in answer.positions if (place := self.work[at].row.place) is not None}
            if taken and (self.one_by_one or rows + len(answer.positions) > most or places & own):
                left.append(answer)
                continue
            taken.append(answer)
            places |= own
            rows += len(answer.positions)
        self.arrived = left
        self._tell_waiting()
        return taken

    async def _land_together(self, answers: Sequence[Answer]) -> None:
        resolved = sum(len(answer.positions) for answer in answers)
        try:
            landed = await self._insist(
                lambda connection: self.landing.land(connection, self.work, answers, last=self._is_last(resolved)),
                rows=resolved,
            )
        except OldModelAnswered:
            if len(answers) > 1:
                # One of them is not to be believed: from now on each stands for itself.
                self.one_by_one, self.arrived = True, [*answers, *self.arrived]
                return
            await self._book_lost(answers)
            raise
        except BaseException as error:
            # They were billed for certain, whoever asks again: shielded, since a shutdown cancels us. Where that fails
            # too, `tick` counts them as possibly billed. What did land is settled, and this does nothing.
            lost = list(answers)
            if isinstance(error, LeaseLost) or not isinstance(error, MigratorError):
                lost, self.arrived = [*answers, *self.arrived], []
            await self._book_lost(lost)
            raise
        self.unresolved -= resolved
        self.progress.written += landed.written
        self.progress.tokens += sum(answer.used_tokens for answer in answers)
        if landed.held:
            await self._land_at_once(landed.held)

    async def _land_at_once(self, fresh: list[Held]) -> None:
        """Try rows that were held, once, in a transaction that follows: mostly the application just moved them.

        Until they are written, another batch may find them where they lie now, and pay for them again.
        """
        finish = self.unresolved == 0 and self.progress.failure is None and not self.held
        self.held += fresh
        landed = await self._land_again(fresh, finish=finish, give_up=False)
        tried = {id(each) for each in fresh}
        self.held = [each for each in self.held if id(each) not in tried] + landed.held
        self.progress.written += landed.written

    async def _book_lost(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            with contextlib.suppress(MigratorError):
                if not answer.has_bill:
                    continue
                await asyncio.shield(self.embedder.purse.forfeit(answer.request_id, answer.used_tokens))

    async def land_rest(self) -> None:
        """Land answers that somebody left to a landing that failed, each of them landed or booked."""
        while self.arrived:
            with self.noting_failure():
                await self.land_arrived()

    async def land_held(self) -> None:
        """Try the rows that the application held until they are free, or the next pass must find them."""
        for attempt in range(_HELD_TRIES):
            if not self.held:
                return
            await asyncio.sleep(0.1 * 2**attempt)
            finish = self.unresolved == 0 and self.progress.failure is None
            give_up = attempt == _HELD_TRIES - 1
            async with self.door:
                landed = await self._land_again(self.held, finish=finish, give_up=give_up)
            self.held = landed.held
            self.progress.written += landed.written

    async def _land_again(self, held: list[Held], *, finish: bool, give_up: bool) -> Landed:
        """Try rows that were held once more; where one of them is not to be believed, each for itself."""
        try:
            again = partial(self.landing.land_held, held=held, finish=finish, give_up=give_up)
            return await self._insist(again, rows=len(held))
        except OldModelAnswered as error:
            if len(held) == 1:
                # It is not tried again; what was paid for it stands in the books as spent.
                self.progress.failure = self.progress.failure or error
                return Landed(0, [])
        landed = [await self._land_again([each], finish=False, give_up=give_up) for each in held]
        return Landed(sum(each.written for each in landed), [left for each in landed for left in each.held])

    async def _insist(self, landing: Callable[[AsyncConnection], Awaitable[Landed]], *, rows: int) -> Landed:
        """Run a landing's transaction again while the database is busy: its vectors are paid for.

        Then rest, as the stored signals and the transaction's own duration ask for: the caller has the door, so that
        the next landing waits for that.
        """
        for attempt in range(1, _LANDING_TRIES + 1):
            try:
                async with transaction(self.worker.engine, lock_timeout_seconds=LOCK_TIMEOUT_SECONDS) as connection:
                    throttled = await self._is_throttled(connection)
                    began = time.monotonic()
                    landed = await landing(connection)
            except (LockBusy, DatabaseGone, DatabaseUnreachable):
                if attempt == _LANDING_TRIES:
                    raise
                self.size.timed_out()
                await asyncio.sleep(0.1 * 2**attempt)
            else:
                seconds = time.monotonic() - began
                self.size.took(rows, seconds)
                await asyncio.sleep(self.size.rest_seconds(seconds, throttled=throttled))
                return landed
        raise AssertionError  # the last try returned or raised

    async def _is_throttled(self, connection: AsyncConnection) -> bool:
        """Say whether a signal binds, by the stored reading, looked at once a second."""
        now = asyncio.get_running_loop().time()
        if now - self.heeded_at >= HEED_SECONDS:
            reading = await signals.reading(connection, self.landing.migration.id)
            self.throttled, self.heeded_at = reading.binding is not None, now
        return self.throttled

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
    lost: LeaseLost | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(crew.send())
        # A landing that failed may have left others' answers behind.
        await crew.land_rest()
    except* LeaseLost as group_of_lost:
        lost = next(each for each in group_of_lost.exceptions if isinstance(each, LeaseLost))
    if lost is not None:
        # Not raised up there: what an `except*` raises is wrapped into a group again, which nobody expects.
        raise lost
    with crew.noting_failure():
        await crew.land_held()
    return crew.progress
