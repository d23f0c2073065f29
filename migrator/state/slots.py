"""Slots: when the next request may go, kept in Postgres where no Redis does it.

Floor 1. A generic cell rate algorithm in two dimensions (ITU-T I.371, virtual scheduling): each limit keeps the moment
from which on the next request conforms, moved on by every slot that is given. A caller gets its own moment, a little
ahead, and sleeps until then; so nobody polls, and requests leave evenly: that is what a provider's per-second slices
(limit / 60) ask for. Memory that is new, or was lost, begins with nothing saved up, and slowly. `spending/slots.lua`
is the same sum on Redis, and one suite of tests runs over both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import Row, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.state import pace
from migrator.state.connection import transaction
from migrator.state.pace import Limits
from migrator.state.tables import paces

#: Seconds of a limit that may be made up for after a lull. A provider's slice is a second; the rest of it is for what
#: comes late on the way, so that an even rate at 100 % of the grant is not refused.
BURST_SECONDS = 0.1
#: Seconds ahead that slots are given out; whoever would wait longer comes again. What a killed worker held is lost.
AHEAD_SECONDS = 2.0
#: Nothing lies further ahead than a minute's whole limit for one request: what does, is a clock that stepped (H28).
FARTHEST_SECONDS = AHEAD_SECONDS + 60.0
#: Slow start, against "request rate increased too quickly": a quarter of the limits, doubled every two seconds, and at
#: most the 30 requests a second that were seen to be taken at once, doubled every second for eight; again after a
#: minute without a request.
FIRST_SHARE, FIRST_DOUBLING_SECONDS = 0.25, 2.0
FIRST_PER_SECOND, FIRST_SECONDS = 30.0, 8.0
IDLE_SECONDS = 60.0
#: Seconds over which "admitted lately" is told.
RECENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Slot:
    """A right to send in `seconds`, if `keeper` still keeps the pace then; `limit` names what it waits for."""

    seconds: float
    limit: str
    keeper: str | None


@dataclass(frozen=True, slots=True)
class Wait:
    """No slot: nothing will be free for `seconds`; `limit` names what binds."""

    seconds: float
    limit: str


class RedisAwayError(Exception):
    """Redis did not answer. For the pacer's own use: Postgres keeps the pace then."""


class Slots(Protocol):
    """Who can keep the pace: this database, or a Redis."""

    async def take(self, account: str, allowed: Limits, tokens: int) -> Slot | Wait:
        """Give out the next slot for a request of that many tokens."""

    async def correct(self, account: str, allowed: Limits, *, requests: int, tokens: int) -> None:
        """Charge so much more, or give it back where it is negative."""

    async def recent(self, account: str) -> Limits:
        """Return what was admitted lately, a minute."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of an account, in seconds of one clock."""

    requests_at: float
    tokens_at: float
    started_at: float
    counted_at: float
    requests: float = 0.0
    tokens: float = 0.0


def advance(memory: Memory, now: float, allowed: Limits, tokens: int) -> tuple[Memory, float, str]:
    """Return the memory after the next slot, the seconds until it, and what it waits for."""
    counted = min(memory.counted_at, now)
    started = now if now - counted > IDLE_SECONDS else min(memory.started_at, now)
    requests_at = _within(memory.requests_at, now)
    tokens_at = _within(memory.tokens_at, now) if allowed.tokens is not None else now
    at = max(now, requests_at, tokens_at)
    age = min(at - started, IDLE_SECONDS)
    share = min(1.0, FIRST_SHARE * 2 ** (age / FIRST_DOUBLING_SECONDS))
    first = FIRST_PER_SECOND * 2**age if age < FIRST_SECONDS else math.inf
    granted = math.inf if allowed.requests is None else allowed.requests / 60
    requests_rate = min(first, granted * share)
    tokens_rate = math.inf if allowed.tokens is None else allowed.tokens * share / 60
    # A request that fills a slice by itself finds it empty.
    whole = BURST_SECONDS if tokens / tokens_rate > 1 - BURST_SECONDS else 0.0
    at = max(at, tokens_at + whole)
    limit = "requests/min" if requests_at >= tokens_at + whole else "tokens/min"
    if share < 1 or first < granted:
        limit += " (slow start)"
    decay = math.exp((counted - now) / RECENT_SECONDS)
    after = Memory(
        requests_at=max(requests_at, at - BURST_SECONDS) + 1 / requests_rate,
        tokens_at=max(tokens_at, at - BURST_SECONDS) + tokens / tokens_rate,
        started_at=started,
        counted_at=now,
        requests=memory.requests * decay + 1,
        tokens=memory.tokens * decay + tokens,
    )
    return after, at - now, limit


def _within(at: float, now: float) -> float:
    return min(max(at, now - BURST_SECONDS), now + FARTHEST_SECONDS)


def per_minute(amount: float, age_seconds: float) -> float:
    """Return a decaying count as a rate, true also while it is young."""
    seen = RECENT_SECONDS * (1 - math.exp(-max(age_seconds, 1.0) / RECENT_SECONDS))
    return 60 * amount / seen


class PostgresSlots:
    """Slots in table `paces`, by the database's clock: the keeper without a Redis."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take(self, account: str, allowed: Limits, tokens: int) -> Slot | Wait:
        """Give out the next slot; holds the account's row for one short transaction."""
        async with transaction(self._engine) as connection:
            row = await pace.locked(connection, account)
            after, seconds, limit = advance(_remembered(row), row.now.timestamp(), allowed, tokens)
            if seconds > AHEAD_SECONDS:
                return Wait(seconds, limit)
            await _remember(connection, account, row, after)
        return Slot(seconds, limit, None)

    async def correct(self, account: str, allowed: Limits, *, requests: int, tokens: int) -> None:
        """Move the arrival times by what was charged too little or too much."""
        async with transaction(self._engine) as connection:
            row = await pace.locked(connection, account)
            known = _remembered(row)
            moved = replace(
                known,
                requests_at=known.requests_at + (60 * requests / allowed.requests if allowed.requests else 0.0),
                tokens_at=known.tokens_at + (60 * tokens / allowed.tokens if allowed.tokens else 0.0),
                requests=max(0.0, known.requests + requests),
                tokens=max(0.0, known.tokens + tokens),
            )
            await _remember(connection, account, row, moved)

    async def recent(self, account: str) -> Limits:
        """Return what was admitted lately, a minute."""
        async with transaction(self._engine) as connection:
            known = _remembered(row := await pace.locked(connection, account))
        now = row.now.timestamp()
        decay = math.exp((known.counted_at - now) / RECENT_SECONDS)
        age = now - known.started_at
        return Limits(per_minute(known.requests * decay, age), per_minute(known.tokens * decay, age))


def _remembered(row: Row[Any]) -> Memory:
    return Memory(
        **{name: getattr(row, name).timestamp() for name in ("requests_at", "tokens_at", "started_at", "counted_at")},
        requests=row.recent_requests,
        tokens=row.recent_tokens,
    )


async def _remember(connection: AsyncConnection, account: str, row: Row[Any], memory: Memory) -> None:
    moments: Mapping[str, float] = {
        "requests_at": memory.requests_at,
        "tokens_at": memory.tokens_at,
        "started_at": memory.started_at,
        "counted_at": memory.counted_at,
    }
    now = row.now.timestamp()
    values: dict[str, Any] = {name: row.now + timedelta(seconds=at - now) for name, at in moments.items()}
    values |= {"recent_requests": memory.requests, "recent_tokens": memory.tokens}
    await connection.execute(update(paces).where(paces.c.account == account).values(**values))
