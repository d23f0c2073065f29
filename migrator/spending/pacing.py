"""The pace of all workers and hosts together: who keeps it now, and how it changes hands.

Floor 1, its top. Promise: never more than the limits grant, and never without a limit because something is away.
The pace has one keeper at a time: a memory in the broker's Redis, or, with RabbitMQ, no Redis or a lost one, table
`paces`. Workers may disagree about who is there: one lost its Redis, another reaches it, a third reaches another one,
or it was flushed. So Postgres names the keeper, and a slot counts only if whoever gave it is still the keeper when the
request is about to be sent: `LeasePurse` looks in the transaction that reserves the money. Slots of two keepers can
therefore never both be used, and each begins with nothing saved up; the sum over any change is the limit times the
time plus one burst, and the few requests that were between their look and the wire. What Redis remembers may be lost
at any moment; pauses, learnt ceilings and the breaker are not there but in Postgres, and hold whoever keeps the pace.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.state import pace
from migrator.state.connection import transaction
from migrator.state.pace import Limits, Terms
from migrator.state.slots import PostgresSlots, RedisAwayError, Slot, Slots, Wait

if TYPE_CHECKING:
    from migrator.spending.redis_slots import RedisSlots

logger = logging.getLogger(__name__)

#: Seconds for which the pace stays with Postgres once Redis was lost: two workers that see different Redis servers
#: change the keeper twice a minute at most.
RETURN_SECONDS = 30.0
#: Seconds for which a process leaves a silent Redis alone; shorter, so that it is asked again before the pace returns.
_SILENT_SECONDS = 20.0
#: Answers of an account that tell how slow it is: enough for a batch or two, so that one slow hour is forgotten again.
_LAST_ANSWERS = 200


class Pacer(Protocol):
    """Who lets requests go; `LeasePurse` knows no more than this."""

    async def take(self, account: str, granted: Limits, tokens: int) -> Slot | Wait:
        """Give out the next slot for a request of that many tokens, or say what binds for how long."""

    def hear(self, account: str, terms: Terms) -> None:
        """Learn what somebody just read of an account."""

    async def correct(self, account: str, granted: Limits, *, requests: int = 0, tokens: int = 0) -> None:
        """Charge so much more than was asked for, or give it back where it is negative."""

    async def give_back(self, account: str, granted: Limits, slot: Slot, tokens: int) -> None:
        """Take back a slot that will not be used."""

    async def throttle(self, account: str, seconds: float, reason: str, granted: Limits) -> None:
        """Pause everybody after a 429, and lower what it names."""

    def answered(self, account: str, seconds: float) -> None:
        """Learn how long an answer took."""

    def slowest_seconds(self, account: str) -> float:
        """Return how long the slowest of the last answers took; 0 before the first."""

    async def close(self) -> None:
        """Close what was opened."""


@dataclass(slots=True)
class _Heard:
    """Terms, and when they were read."""

    terms: Terms
    at: float

    @property
    def pause_seconds(self) -> float:
        return self.terms.pause_seconds - (asyncio.get_running_loop().time() - self.at)


@dataclass(slots=True)
class SharedPacer:
    """The pacer of one worker process."""

    engine: AsyncEngine
    broker_url: str
    _redis: RedisSlots | None = None
    #: When a silent Redis is asked again, in the loop's time.
    _redis_from: float = 0.0
    _heard: dict[str, _Heard] = field(default_factory=dict)
    #: How long the last answers took, by account.
    _took: dict[str, deque[float]] = field(default_factory=dict)

    async def take(self, account: str, granted: Limits, tokens: int) -> Slot | Wait:
        """Give out the next slot; whether its giver is still the keeper is looked at before sending."""
        heard = self._heard.get(account) or await self._look(account)
        if heard.pause_seconds > 0:
            return Wait(heard.pause_seconds, f"provider pause ({heard.terms.pause_reason})")
        terms = heard.terms
        allowed = terms.allowed(granted)
        try:
            slot = await self._slots(terms).take(account, allowed, tokens)
        except RedisAwayError:
            await self._without_redis(account, terms)
            return Wait(0.0, "change of the pace's keeper")
        if isinstance(slot, Slot) and slot.keeper != terms.keeper:
            slot = await self._entrust(account, terms, slot)
        return _named(slot, granted, allowed)

    def _slots(self, terms: Terms) -> Slots:
        """Return who is asked: the keeper, or a Redis that may become it.

        Raises: RedisAwayError.
        """
        redis = self._usable_redis()
        held_for = terms.keeper_seconds
        if terms.keeper is None and (redis is None or (held_for is not None and held_for < RETURN_SECONDS)):
            return PostgresSlots(self.engine)
        if redis is None:
            raise RedisAwayError
        return redis

    def _usable_redis(self) -> RedisSlots | None:
        if (
            urlsplit(self.broker_url).scheme not in {"redis", "rediss"}
            or asyncio.get_running_loop().time() < self._redis_from
        ):
            return None
        if self._redis is None:
            # Most verbs ask no provider, and Redis's client takes a tenth of a second to load.
            from migrator.spending.redis_slots import RedisSlots

            self._redis = RedisSlots(self.broker_url)
        return self._redis

    async def _without_redis(self, account: str, terms: Terms) -> None:
        """Leave Redis alone for a while; where it kept the pace, give the pace to Postgres for everybody."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._redis_from:
            self._redis_from = loop.time() + _SILENT_SECONDS
            where = self._redis.where if self._redis is not None else self.broker_url
            logger.warning("Redis at %s does not answer: the pace is kept in Postgres", where)
        if terms.keeper is not None:
            await self._change_keeper(account, terms, None)

    async def _entrust(self, account: str, terms: Terms, slot: Slot) -> Slot | Wait:
        """Make a Redis memory the keeper: the first, or one that replaces a memory that was lost."""
        lately = terms.keeper_seconds is not None and terms.keeper_seconds < RETURN_SECONDS
        await self._change_keeper(account, terms, None if lately else slot.keeper)
        if self._heard[account].terms.keeper == slot.keeper:
            return slot
        return Wait(0.0, "change of the pace's keeper")

    async def _change_keeper(self, account: str, terms: Terms, keeper: str | None) -> None:
        async with transaction(self.engine) as connection:
            await pace.entrust(connection, account, keeper=keeper, instead_of=terms.keeper)
        await self._look(account)

    async def _look(self, account: str) -> _Heard:
        async with transaction(self.engine) as connection:
            self.hear(account, await pace.read(connection, account))
        return self._heard[account]

    def hear(self, account: str, terms: Terms) -> None:
        """Learn what somebody just read of an account."""
        self._heard[account] = _Heard(terms, asyncio.get_running_loop().time())

    async def correct(self, account: str, granted: Limits, *, requests: int = 0, tokens: int = 0) -> None:
        """Charge the keeper so much more, or give it back; a Redis that is away has forgotten it anyway."""
        heard = self._heard.get(account) or await self._look(account)
        try:
            await self._slots(heard.terms).correct(
                account, heard.terms.allowed(granted), requests=requests, tokens=tokens
            )
        except RedisAwayError:
            await self._without_redis(account, heard.terms)

    async def give_back(self, account: str, granted: Limits, slot: Slot, tokens: int) -> None:
        """Take back a slot that will not be used, unless its giver is not the keeper any more."""
        heard = self._heard.get(account)
        if heard is not None and heard.terms.keeper == slot.keeper:
            await self.correct(account, granted, requests=-1, tokens=-tokens)

    async def throttle(self, account: str, seconds: float, reason: str, granted: Limits) -> None:
        """Pause everybody after a 429, and lower what it names to a share of what was admitted lately."""
        heard = self._heard.get(account) or await self._look(account)
        try:
            recent = await self._slots(heard.terms).recent(account)
        except RedisAwayError:
            recent = Limits(None, None)
        async with transaction(self.engine) as connection:
            await pace.throttle(connection, account, seconds, reason, granted=granted, recent=recent)
            self.hear(account, await pace.read(connection, account))

    def answered(self, account: str, seconds: float) -> None:
        """Learn how long an answer took, for whoever asks next, under whatever lease."""
        self._took.setdefault(account, deque(maxlen=_LAST_ANSWERS)).append(seconds)

    def slowest_seconds(self, account: str) -> float:
        """Return how long the slowest of the last answers took; 0 before the first."""
        return max(self._took.get(account, ()), default=0.0)

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.close()


def _named(slot: Slot | Wait, granted: Limits, allowed: Limits) -> Slot | Wait:
    """Say it where a limit is lower than granted: operators look for their own number."""
    name = slot.limit.partition("/")[0]
    lowered = name in pace.LOWEST and getattr(allowed, name) != getattr(granted, name)
    if not lowered:
        return slot
    limit = f"{slot.limit} lowered to {getattr(allowed, name):,.0f} by a 429"
    return Slot(slot.seconds, limit, slot.keeper) if isinstance(slot, Slot) else Wait(slot.seconds, limit)
