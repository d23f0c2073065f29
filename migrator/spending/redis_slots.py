"""Slots on the broker's Redis: one script, one round trip, Redis's own clock.

Floor 1, its top. Promise: what Redis holds may be lost at any moment at no cost: its memory has a name, made with it,
and a slot counts only while Postgres calls that name the keeper (`spending.pacing`). Keys never meet Celery's, which
begin with "migrator:". A Redis that does not answer within a second is left alone for a while.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from migrator.settings import without_password
from migrator.state import slots
from migrator.state.pace import Limits
from migrator.state.slots import RedisAwayError, Slot, Wait

#: Before each account's name. In braces, so that a cluster keeps an account's keys together.
_PREFIX = "migrator-pace:"
#: Seconds for an answer, which takes less than a millisecond.
_PATIENCE_SECONDS = 1.0
_CONSTANTS = (
    slots.BURST_SECONDS,
    slots.AHEAD_SECONDS,
    slots.FARTHEST_SECONDS,
    slots.FIRST_SHARE,
    slots.FIRST_DOUBLING_SECONDS,
    slots.FIRST_PER_SECOND,
    slots.FIRST_SECONDS,
    slots.IDLE_SECONDS,
    slots.RECENT_SECONDS,
)


class RedisSlots:
    """Slots in one hash an account."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_timeout=_PATIENCE_SECONDS,
            socket_connect_timeout=_PATIENCE_SECONDS,
            decode_responses=True,
            # Once more, at once: a connection that was idle for long may have been closed.
            retry=Retry(NoBackoff(), 1),
        )
        self._script = self._client.register_script(files(__package__).joinpath("slots.lua").read_text("utf-8"))
        self.where = without_password(url)

    async def take(self, account: str, allowed: Limits, tokens: int) -> Slot | Wait:
        """Give out the next slot; its keeper is the name of the memory that gave it.

        Raises: RedisAwayError.
        """
        keeper, seconds, limit, given = await self._run("take", account, allowed, 1, tokens)
        return Slot(float(seconds), limit, keeper) if int(given) else Wait(float(seconds), limit)

    async def correct(self, account: str, allowed: Limits, *, requests: int, tokens: int) -> None:
        """Charge so much more, or give it back.

        Raises: RedisAwayError.
        """
        await self._run("correct", account, allowed, requests, tokens)

    async def recent(self, account: str) -> Limits:
        """Return what was admitted lately, a minute.

        Raises: RedisAwayError.
        """
        _, requests, tokens = await self._run("recent", account, Limits(None, None), 0, 0)
        return Limits(float(requests), float(tokens))

    async def _run(self, verb: str, account: str, allowed: Limits, requests: int, tokens: int) -> Sequence[Any]:
        per_minute = (allowed.requests or 0, allowed.tokens or 0)
        words = (verb, uuid.uuid4().hex, *per_minute, requests, tokens, *_CONSTANTS)
        try:
            answer: Sequence[Any] = await self._script(keys=[f"{_PREFIX}{{{account}}}"], args=list(words))
        except (RedisError, OSError, TimeoutError):
            raise RedisAwayError from None
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
