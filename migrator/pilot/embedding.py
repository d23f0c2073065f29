"""Texts of a pilot embedded, each answer kept and settled in one transaction as it arrives, never in a column.

Floor 2. Promise (P2, P4): what is kept is not asked again, whoever was killed; no transaction is open while the
provider is asked. On a failure no further request is sent, and those in flight are waited for and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import MigratorError
from migrator.pilot.purse import Experience
from migrator.provider import tokens
from migrator.provider.embedder import Answer, Embedder, TextRefused
from migrator.state import budget, leases, pilots
from migrator.state.budget import price
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.pilots import Kept

Tell = Callable[[int, int], None]


@dataclass(slots=True)
class Shelf:
    """Where one model's answers are kept, under which lease, and how the provider behaved meanwhile."""

    engine: AsyncEngine
    migration_id: int
    lease: Lease
    embedder: Embedder
    experience: Experience

    @property
    def model(self) -> str:
        """The digest that its answers are kept under."""
        return pilots.digest_of(self.embedder.model)

    async def find(self, texts: Sequence[str]) -> dict[bytes, Kept]:
        """Return what is kept of these texts already."""
        return await find(self.engine, self.migration_id, self.model, texts)

    async def keep(self, texts: Sequence[str], answer: Answer, shares: Sequence[float]) -> None:
        """Keep an answer and settle its bill, or book it as billed for nothing.

        Raises: LeaseLost.
        """
        # Where no usage was told, what is settled is our own bound: it pays, and says nothing of the provider's count.
        request = None if answer.tokens_estimated else answer.request_id
        fresh = {
            pilots.hash_of(text): Kept(vector, None, request, share)
            for text, vector, share in zip(texts, answer.vectors, shares, strict=True)
        }
        try:
            async with transaction(self.engine) as connection:
                await leases.hold(connection, self.lease)
                await pilots.keep(connection, self.migration_id, self.model, fresh)
                if answer.has_bill:
                    bill = price(answer.used_tokens, self.embedder.model.price_usd_per_mtok[1])
                    await budget.settle(connection, answer.request_id, bill)
        except BaseException:
            with contextlib.suppress(MigratorError):
                await asyncio.shield(self.embedder.purse.forfeit(answer.request_id, answer.used_tokens))
            raise

    async def keep_refusal(self, text: str, refusal: TextRefused) -> None:
        """Keep that a text is not to be had, and why."""
        self.experience.troubles[f"text refused ({refusal.reason})"] += 1
        async with transaction(self.engine) as connection:
            await leases.hold(connection, self.lease)
            fresh = {pilots.hash_of(text): Kept(None, refusal.reason, None, 0.0)}
            await pilots.keep(connection, self.migration_id, self.model, fresh)


@dataclass(slots=True)
class _Crew:
    """Requests that are left, and the first failure."""

    shelf: Shelf
    texts: list[str]
    counts: list[int]
    runs: deque[list[int]]
    tell: Tell
    done: int = 0
    failure: MigratorError | None = field(default=None)

    async def send(self) -> None:
        while self.runs and self.failure is None:
            try:
                await self._send(self.runs.popleft())
            except MigratorError as error:
                self.failure = self.failure or error

    async def _send(self, run: list[int]) -> None:
        async for outcome in self.shelf.embedder.embed(self.texts, run):
            if isinstance(outcome, Answer):
                await self.shelf.keep([self.texts[at] for at in outcome.positions], outcome, self._shares(outcome))
                self.done += len(outcome.positions)
            else:
                await self.shelf.keep_refusal(self.texts[outcome.position], outcome)
                self.done += 1
            self.tell(self.done, len(self.texts))

    def _shares(self, answer: Answer) -> list[float]:
        """Part a bill among its texts, in proportion to our own count of each."""
        counts = [self.counts[at] for at in answer.positions]
        return [answer.used_tokens * count / max(sum(counts), 1) for count in counts]


async def find(engine: AsyncEngine, migration_id: int, model: str, texts: Sequence[str]) -> dict[bytes, Kept]:
    """Return what is kept of a model's answers to these texts."""
    async with transaction(engine, read_only=True) as connection:
        return await pilots.kept(connection, migration_id, model, [pilots.hash_of(each) for each in texts])


async def embed(shelf: Shelf, texts: Sequence[str], *, concurrency: int, tell: Tell) -> list[Kept]:
    """Return what is kept of each text, asking for what is not kept yet.

    Raises: the first failure, once everything that was in flight is kept.
    """
    known = await shelf.find(texts)
    missing = [each for each in dict.fromkeys(texts) if pilots.hash_of(each) not in known]
    if missing:
        counts, _ = await asyncio.to_thread(tokens.count_all, missing, shelf.embedder.profile.tokenizer)
        runs = deque(await asyncio.to_thread(shelf.embedder.plan, missing))
        crew = _Crew(shelf, missing, counts, runs, tell)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(runs))):
                group.create_task(crew.send())
        if crew.failure is not None:
            raise crew.failure
        known = await shelf.find(texts)
    return [known[pilots.hash_of(each)] for each in texts]
