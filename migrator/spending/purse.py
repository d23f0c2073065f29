"""Leave and money for one lease's requests, from Postgres.

Floor 1, its top. Promise: a request is sent only while the migration may spend, its window is open, its lease is held,
its pace allows it and its cost is reserved, all read in one short transaction before the call. So pause, cancel, new
limits and the cap take effect with the next request, whatever the broker does; signals of the database within seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator import settings
from migrator.errors import AtRest, TransientError
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.spec import ModelSpec
from migrator.state import budget, leases, migrations, pace
from migrator.state.budget import CapReached, Purpose, price
from migrator.state.connection import transaction
from migrator.state.leases import Lease, LeaseLost
from migrator.state.migrations import Migration
from migrator.throttle import weigh
from migrator.windows import Window, is_open

#: Seconds that a request may wait for its turn inside a task; longer, and the work is given back for later.
LONGEST_WAIT_SECONDS = 15.0
#: Seconds between two looks of one lease at the stored signals, which are themselves read every five.
_HEED_SECONDS = 1.0


@dataclass(eq=False)
class WorkStopped(AtRest):
    """Somebody paused or cancelled the migration, or it moved on."""

    name: str
    status: str

    runbook = "pause-and-resume"
    happened = "{name} is {status}, so no further request is sent for it."
    state = "What was answered before is written; the rest of the batch is given back."
    next = "Run `migrator status {name}`."


@dataclass(eq=False)
class OutsideWindow(AtRest):
    """Work is only done in the windows."""

    name: str
    windows: str

    runbook = "pause-and-resume"
    happened = "{name} rests: it may only work in its window ({windows})."
    state = "Everything embedded so far is kept, and it goes on by itself when the window opens."
    next = "Wait, or run `migrator limits {name} --window W`."


@dataclass(eq=False)
class PaceWait(TransientError):
    """The provider's limits leave no room for a while."""

    limit: str
    seconds: float

    runbook = "provider-busy"
    happened = "The next request has to wait {seconds:.0f} s: {limit} binds."
    state = "The batch is given back and taken up again then."
    next = "Nothing needs to be done; `migrator limits NAME --rpm N --tpm N` changes the limits."


@dataclass(slots=True)
class LeasePurse:
    """The purse of one lease (see `provider.embedder.Purse`)."""

    engine: AsyncEngine
    migration: Migration
    model: ModelSpec
    lease: Lease
    purpose: Purpose
    #: Statuses in which this work may go on.
    allowed: frozenset[MigrationStatus] = UNATTENDED
    #: Windows and signals are for bulk work. Rows that searches miss now, in a live column, do not wait for the night.
    windows_apply: bool = True
    #: When the signals were looked at last, on the loop's clock.
    _heeded_at: float = -_HEED_SECONDS

    @property
    def account(self) -> str:
        """Under what the provider counts us."""
        key = settings.api_key(self.model.api_key_env)
        return pace.account_of(self.model.base_url, key, self.model.model)

    @property
    def usd_per_mtok(self) -> float:
        """The highest price, which the cap counts with."""
        return self.model.price_usd_per_mtok[1]

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        """Wait for the pace, then reserve.

        Raises: WorkStopped, OutsideWindow, Throttled, LeaseLost, CapReached, PaceWait.
        """
        while True:
            await self._heed_signals()
            wait = await self._try(request_id, bound_tokens, likely_tokens)
            if wait is None:
                return
            if wait.seconds > LONGEST_WAIT_SECONDS:
                raise PaceWait(wait.limit, wait.seconds)
            await asyncio.sleep(wait.seconds)

    async def _try(self, request_id: str, bound_tokens: int, likely_tokens: int) -> pace.Wait | None:
        async with transaction(self.engine) as connection:
            found = await migrations.get_by_id(connection, self.migration.id)
            self._may_go_on(found, await migrations.database_now(connection))
            if not await leases.is_held(connection, self.lease):
                raise LeaseLost(str(self.lease))
            wait = await pace.admit(
                connection,
                self.account,
                requests_per_minute=found.requests_per_minute,
                tokens_per_minute=found.tokens_per_minute,
                tokens=likely_tokens,
            )
            if wait is not None:
                await migrations.set_binding(connection, found.id, wait.limit)
                return wait
            reserved = await budget.reserve(
                connection,
                found.id,
                request_id=request_id,
                purpose=self.purpose,
                bound=price(bound_tokens, self.usd_per_mtok),
                lease=str(self.lease),
            )
            if not reserved:
                account = await budget.account(connection, found.id)
                raise CapReached(found.name, account.max_usd)
            return None

    async def _heed_signals(self) -> None:
        """Look at the stored signals, once a second at most: many requests a second have the same answer."""
        now = asyncio.get_running_loop().time()
        if self.windows_apply and now - self._heeded_at >= _HEED_SECONDS:
            await weigh.require(self.engine, self.migration)
            self._heeded_at = now

    def _may_go_on(self, found: Migration, now: datetime) -> None:
        if found.status not in self.allowed:
            raise WorkStopped(found.name, found.status)
        windows = [Window.parse(text) for text in found.windows]
        if self.windows_apply and not is_open(windows, now):
            raise OutsideWindow(found.name, ", ".join(found.windows))

    async def refund(self, request_id: str) -> None:
        """Undo the reservation."""
        async with transaction(self.engine) as connection:
            await budget.refund(connection, request_id)

    async def write_off(self, request_id: str) -> None:
        """Keep the reservation counted for good."""
        async with transaction(self.engine) as connection:
            await budget.write_off(connection, request_id=request_id)

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Settle it, although nothing is written."""
        async with transaction(self.engine) as connection:
            await budget.settle(connection, request_id, price(used_tokens, self.usd_per_mtok))

    async def pause(self, seconds: float, reason: str) -> None:
        """Let nobody ask this provider for a while."""
        async with transaction(self.engine) as connection:
            await pace.pause(connection, self.account, seconds, reason)

    async def learn_max_texts(self, max_texts: int) -> None:
        """Remember the provider's limit for everybody."""
        async with transaction(self.engine) as connection:
            await pace.learn_max_texts(connection, self.account, max_texts)

    async def max_texts(self, otherwise: int) -> int:
        """Return how many texts a request may have: the profile's number, or what the provider said since."""
        async with transaction(self.engine) as connection:
            learnt = await pace.learnt_max_texts(connection, self.account)
        return otherwise if learnt is None else min(learnt, otherwise)
