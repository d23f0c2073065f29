"""Leave and money for one lease's requests, from Postgres.

Floor 1, its top. Promise: a request is sent only while the migration may spend, its hours (`hours`) allow it, its lease
is held, its slot still counts, the breaker lets it through and its cost is reserved, all read in one short transaction
before the call. So pause, cancel, new limits and the cap take effect with the next request, whatever the broker does;
signals of the database within seconds. Nothing waits inside that transaction: the slot is taken, and slept for, before
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import AtRest, OperatorError, TransientError
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.spec import ModelSpec
from migrator.spending import hours
from migrator.spending.pacing import Pacer
from migrator.state import account_caps, breaker, budget, leases, migrations, pace
from migrator.state.budget import CapReached, Purpose, price
from migrator.state.connection import transaction
from migrator.state.leases import Lease, LeaseLost
from migrator.state.migrations import Migration
from migrator.state.pace import Limits
from migrator.state.slots import AHEAD_SECONDS, Slot, Wait
from migrator.throttle import weigh

#: Seconds that a request may wait for its turn inside a task; longer, and the work is given back for later.
LONGEST_WAIT_SECONDS = 15.0
#: A wait shorter than this is an even pace, and nothing that `status` should say binds.
_BINDING_FROM_SECONDS = 0.02
#: Seconds between two looks of one lease at the stored signals, which are themselves read every five.
HEED_SECONDS = 1.0
#: Seconds before a window's end from which nothing new is sent: 2.5 times what ten texts take at the real endpoint, or
#: half as much again as the slowest of the account's last answers.
_SPARE_SECONDS, _SPARE_TIMES = 2.0, 1.5
#: Seconds after a window's end at which a request in flight is given up; what it may have cost stays counted.
_GRACE_SECONDS = 4.0


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
class PaceWait(TransientError):
    """The provider's limits leave no room for a while."""

    limit: str
    seconds: float

    runbook = "provider-busy"
    happened = "The next request has to wait {seconds:.0f} s: {limit} binds."
    state = "The batch is given back and taken up again then."
    next = "Nothing needs to be done; `migrator limits NAME --rpm N --tpm N` changes the limits."


@dataclass(eq=False)
class BreakerOpen(AtRest):
    """The provider failed so often that only probes are sent."""

    since: str
    seconds: float

    runbook = "provider-busy"
    happened = "The provider keeps failing ({since}), so it is only asked now and then whether it is back."
    state = "Nothing was sent; everything paid for is kept, and the next probe may go in {seconds:.0f} s."
    next = "Nothing needs to be done: the first answer closes the breaker; `migrator status NAME` shows it."


@dataclass(eq=False)
class RequestOverLimit(OperatorError):
    """One request needs more than a whole minute grants, so no wait would ever be long enough."""

    tokens: int
    limit: int

    runbook = "provider-busy"
    happened = "One request needs {tokens} tokens, and the limit grants {limit} tokens in a whole minute."
    state = "It was not sent, and nothing was reserved for it."
    next = "Run `migrator limits NAME --tpm N` with what the account really grants, then `migrator resume NAME`."


@dataclass(slots=True)
class LeasePurse:
    """The purse of one lease (see `provider.embedder.Purse`)."""

    engine: AsyncEngine
    pacer: Pacer
    migration: Migration
    model: ModelSpec
    lease: Lease
    purpose: Purpose
    #: Statuses in which this work may go on.
    allowed: frozenset[MigrationStatus] = UNATTENDED
    #: Windows and signals are for bulk work. Rows that searches miss now, in a live column, do not wait for the night.
    windows_apply: bool = True
    #: Tokens that open requests were paced with, and the one that probes for the breaker.
    _likely: dict[str, int] = field(default_factory=dict)
    _probe: str | None = None
    #: When answers came, for the breaker: they are told with the next failure.
    _answers: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    #: When the signals were looked at last, on the loop's clock.
    _heeded_at: float = -HEED_SECONDS
    #: When open requests were sent.
    _sent: dict[str, float] = field(default_factory=dict)
    #: Until the window closes, as of the last look; None where it does not.
    _closes_in: float | None = None

    @property
    def account(self) -> str:
        """Under what the provider counts us."""
        return pace.account_of(self.model)

    @property
    def usd_per_mtok(self) -> float:
        """The highest price, which the cap counts with."""
        return self.model.price_usd_per_mtok[1]

    @property
    def granted(self) -> Limits:
        """What the operator set, as it was last read."""
        return Limits(self.migration.requests_per_minute, self.migration.tokens_per_minute)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> float | None:
        """Wait for the pace, then reserve; returns how many seconds it may be in flight, where a window closes.

        Raises: WorkStopped, StartsLater, OutsideWindow, WindowCloses, Throttled, LeaseLost, CapReached, PaceWait,
        BreakerOpen, RequestOverLimit.
        """
        while True:
            self._refuse_over_limit(likely_tokens)
            # Before the slot: whoever is throttled leaves it to others.
            await self._heed_signals()
            granted = self.granted
            slot = await self.pacer.take(self.account, granted, likely_tokens)
            if isinstance(slot, Slot):
                await asyncio.sleep(slot.seconds)
                wait = await self._reserve_safely(request_id, bound_tokens, slot, granted)
                if wait is None:
                    self._likely[request_id] = likely_tokens
                    self._sent[request_id] = time.monotonic()
                    return None if self._closes_in is None else self._closes_in + _GRACE_SECONDS
                await self.pacer.give_back(self.account, granted, slot, likely_tokens)
            else:
                wait = slot
                await self._look(wait)
            if wait.seconds > LONGEST_WAIT_SECONDS:
                raise PaceWait(wait.limit, wait.seconds)
            # A pause by the operator, or a higher limit, is seen within that time.
            await asyncio.sleep(min(wait.seconds, AHEAD_SECONDS))

    def _refuse_over_limit(self, tokens: int) -> None:
        limit = self.migration.tokens_per_minute
        if limit is not None and tokens > limit:
            raise RequestOverLimit(tokens, limit)

    async def _look(self, wait: Wait) -> None:
        """See whether waiting is still wanted, and say what binds."""
        async with transaction(self.engine) as connection:
            await self._check(connection)
            if wait.seconds > _BINDING_FROM_SECONDS:
                await migrations.set_binding(connection, self.migration.id, wait.limit)

    async def _heed_signals(self) -> None:
        """Look at the stored signals, once a second at most: many requests a second have the same answer.

        Raises: Throttled.
        """
        now = asyncio.get_running_loop().time()
        if self.windows_apply and now - self._heeded_at >= HEED_SECONDS:
            await weigh.require(self.engine, self.migration)
            self._heeded_at = now

    async def _check(self, connection: AsyncConnection) -> None:
        self.migration = await migrations.get_by_id(connection, self.migration.id)
        if self.migration.status not in self.allowed:
            raise WorkStopped(self.migration.name, self.migration.status)
        self._closes_in = None
        if self.windows_apply:
            spare = max(_SPARE_SECONDS, _SPARE_TIMES * self.pacer.slowest_seconds(self.account))
            self._closes_in = await hours.require(connection, self.migration, spare_seconds=spare)
        if not await leases.is_held(connection, self.lease):
            raise LeaseLost(str(self.lease))

    async def _reserve_safely(self, request_id: str, bound_tokens: int, slot: Slot, granted: Limits) -> Wait | None:
        """Reserve; whoever is cancelled meanwhile sends nothing, so the money is given back at once."""
        try:
            return await self._reserve(request_id, bound_tokens, slot, granted)
        except asyncio.CancelledError:
            await asyncio.shield(self.refund(request_id))
            raise

    async def _reserve(self, request_id: str, bound_tokens: int, slot: Slot, granted: Limits) -> Wait | None:
        """Book the request if everything still holds at this moment; else say how long to wait for what."""
        async with transaction(self.engine) as connection:
            await self._check(connection)
            terms = await pace.read(connection, self.account)
            self.pacer.hear(self.account, terms)
            if terms.keeper != slot.keeper or self.granted != granted:
                return Wait(0.0, "limits that were changed")
            if terms.pause_seconds > 0:
                wait = Wait(terms.pause_seconds, f"provider pause ({terms.pause_reason})")
                await migrations.set_binding(connection, self.migration.id, wait.limit)
                return wait
            since = breaker.words(terms)
            closed_for = await breaker.take_probe(connection, self.account) if since is not None else 0.0
            if since is not None:
                await migrations.set_binding(connection, self.migration.id, since)
            elif slot.seconds > _BINDING_FROM_SECONDS:
                await migrations.set_binding(connection, self.migration.id, slot.limit)
            if not closed_for:
                await self._book(connection, request_id, bound_tokens)
        if since is None:
            return None
        if closed_for:
            return self._wait_for_probe(closed_for, since)
        self._probe = request_id
        return None

    async def _book(self, connection: AsyncConnection, request_id: str, bound_tokens: int) -> None:
        bound = price(bound_tokens, self.usd_per_mtok)
        shared = await account_caps.find(connection, self.migration.spec.to, hold=True)
        if shared is not None and shared.committed_usd + bound.usd > shared.max_usd:
            raise CapReached.of_account(self.migration.name, shared.where, shared.max_usd)
        reserved = await budget.reserve(
            connection,
            self.migration.id,
            request_id=request_id,
            purpose=self.purpose,
            bound=bound,
            lease=str(self.lease),
        )
        if not reserved:
            account = await budget.account(connection, self.migration.id)
            raise CapReached(self.migration.name, account.max_usd)

    def _wait_for_probe(self, seconds: float, since: str) -> Wait:
        """Let whoever probed go on to the next probe; everybody else gives the work back."""
        if self._probe is None:
            raise BreakerOpen(since, seconds)
        return Wait(seconds, since)

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Charge the pace what the request really took, and close the breaker where it was the probe."""
        now = time.monotonic()
        self._answers.append(now)
        self.pacer.answered(self.account, now - self._sent.pop(request_id, now))
        likely = self._likely.pop(request_id, used_tokens)
        # Neither is worth the vectors that just came: what fails here is made good by the next request.
        with contextlib.suppress(TransientError):
            if request_id == self._probe:
                async with transaction(self.engine) as connection:
                    await breaker.close(connection, self.account)
                self._probe = None
            if used_tokens != likely:
                await self.pacer.correct(self.account, self.granted, tokens=used_tokens - likely)

    async def failed(self, request_id: str, why: str) -> None:
        """Count a request that failed for the provider's own reasons."""
        self._forget(request_id)
        since = time.monotonic() - breaker.WINDOW_SECONDS
        answers = sum(at > since for at in self._answers)
        self._answers.clear()
        async with transaction(self.engine) as connection:
            source = f"{self.lease.kind}:{self.lease.row_id}"
            if await breaker.count_failure(connection, self.account, why, source=source, answers=answers):
                opened = f"the breaker opened: {why}"
                await migrations.note(connection, self.migration.id, self.migration.status, opened, self.lease.holder)

    def _forget(self, request_id: str) -> None:
        self._likely.pop(request_id, None)
        self._sent.pop(request_id, None)

    async def refund(self, request_id: str) -> None:
        """Undo the reservation."""
        self._forget(request_id)
        async with transaction(self.engine) as connection:
            await budget.refund(connection, request_id)

    async def write_off(self, request_id: str) -> None:
        """Keep the reservation counted for good."""
        self._forget(request_id)
        async with transaction(self.engine) as connection:
            await budget.write_off(connection, request_id=request_id)

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Settle it, although nothing is written."""
        async with transaction(self.engine) as connection:
            await budget.settle(connection, request_id, price(used_tokens, self.usd_per_mtok))

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        """Settle an answer that was to be written and can't be."""
        async with transaction(self.engine) as connection:
            await budget.settle(connection, request_id, price(used_tokens, self.usd_per_mtok), unwritten=True)

    async def pause(self, seconds: float, reason: str) -> None:
        """Let nobody ask this provider for a while, and less from then on."""
        await self.pacer.throttle(self.account, seconds, reason, self.granted)

    async def learn_max_texts(self, max_texts: int) -> None:
        """Remember the provider's limit for everybody."""
        async with transaction(self.engine) as connection:
            await pace.learn_max_texts(connection, self.account, max_texts)

    async def learn_limit(self, name: str, value: int) -> None:
        """Remember a limit that the provider named, for everybody."""
        async with transaction(self.engine) as connection:
            await pace.learn_limit(connection, self.account, name, value)

    async def learn_norm(self, dims: int, norm: float) -> None:
        """Remember how long this model's vectors are, for everybody."""
        async with transaction(self.engine) as connection:
            await pace.learn_norm(connection, self.account, dims, norm)

    async def note_estimated(self, request_id: str) -> None:
        """Remember that what will be spent for it is our own count; not worth the vectors that just came."""
        with contextlib.suppress(TransientError):
            async with transaction(self.engine) as connection:
                await budget.note_estimated(connection, request_id)

    async def learnt(self) -> pace.Learnt:
        """Return what the provider's own answers taught so far."""
        async with transaction(self.engine) as connection:
            return await pace.learnt(connection, self.account)
