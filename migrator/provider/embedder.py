"""From texts to answers: packs, asks, waits, halves and gives up, so that callers see vectors or a reason per text.

Floor 1. Promise: every request is admitted by the purse before it is sent and ends there as spent, refunded or possibly
billed; k bad texts among n cost at most 2k * ceil(log2 n) further requests; the good texts of a refused request are
embedded all the same. The loop knows no database: it takes a Purse by protocol.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from migrator.errors import OperatorError, TransientError
from migrator.provider import client, tokens
from migrator.provider.catalogue import Action, Refusal
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.provider.packing import pack
from migrator.provider.profiles import Profile
from migrator.spec import ModelSpec

#: Tries of one request that failed for the provider's own reasons, 1 + 2 + 4 + 8 seconds apart: longer outages are
#: waited out by giving the batch back.
MAX_TRIES = 5
#: Seconds of 429s in a row after which a batch is given back; a rate window is a minute, so two of them.
PATIENCE_SECONDS = 120.0
#: Share of a request's tokens that is filled by our own count, where it is an estimate.
_FILL = 0.85


class Purse(Protocol):
    """Where a request asks for leave and money. `state` implements it; the loop only knows this."""

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        """Wait until the pace allows it and reserve the money; raises what stops the work."""

    async def refund(self, request_id: str) -> None:
        """Give the money back: the provider certainly did not work for it."""

    async def write_off(self, request_id: str) -> None:
        """Keep the money counted: nobody can know whether it was billed."""

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Book it as billed, although nothing will be written for it."""

    async def pause(self, seconds: float, reason: str) -> None:
        """Let nobody ask this provider for a while."""

    async def learn_max_texts(self, max_texts: int) -> None:
        """Remember how many texts the provider takes."""

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Hear that it was answered, and what it took; its money stays reserved until it is settled."""

    async def failed(self, request_id: str, why: str) -> None:
        """Hear that it failed for the provider's own reasons."""


@dataclass(eq=False)
class ProviderStopped(OperatorError):
    """The provider refuses for a reason that only somebody outside can mend."""

    host: str
    refusal: str
    hint: str

    runbook = "provider-refusing"
    happened = "The provider at {host} refuses: {refusal}."
    state = "Nothing was written for that request; every vector paid for earlier is kept."
    next = "{hint}; then run `migrator doctor SPEC`, and `migrator resume NAME` if it was paused."


@dataclass(eq=False)
class ProviderBusy(TransientError):
    """The provider kept failing or throttling for longer than one batch should wait."""

    host: str
    why: str

    runbook = "provider-busy"
    happened = "The provider at {host} did not answer properly ({why})."
    state = "Nothing was written for that request; what may have been billed stays counted."
    next = "It is tried again by itself; `migrator status` shows what binds."


@dataclass(frozen=True, slots=True)
class Answer:
    """Vectors for some of the texts. The caller settles `request_id` in the transaction that writes them."""

    positions: tuple[int, ...]
    vectors: NDArray[np.float32]
    request_id: str
    used_tokens: int


@dataclass(frozen=True, slots=True)
class TextRefused:
    """A text that the provider will not embed, and why (a disposition's reason)."""

    position: int
    reason: str


@dataclass(slots=True)
class Embedder:
    """One model behind one HTTP client, for one lease's worth of work."""

    http: httpx.AsyncClient
    model: ModelSpec
    profile: Profile
    purse: Purse
    max_texts: int
    #: Seconds; tests shorten the waits.
    backoff_seconds: float = 1.0
    _random: random.Random = field(default_factory=random.Random)

    @property
    def host(self) -> str:
        """The endpoint's host, for messages."""
        return httpx.URL(self.model.base_url).host

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the positions of each request, in order."""
        counts, _ = tokens.count_all(texts)
        fill = 1.0 if tokens.exact_counter() is not None else _FILL
        limit = int(self.profile.max_request_tokens * fill)
        return [list(run) for run in pack(counts, max_texts=self.max_texts, max_tokens=limit)]

    async def embed(self, texts: Sequence[str], positions: Sequence[int]) -> AsyncIterator[Answer | TextRefused]:
        """Embed the texts at these positions, which fit one request; yields answers and refusals as they come.

        Raises: ProviderStopped, ProviderBusy, and whatever the purse raises.
        """
        waiting = [list(positions)]
        while waiting:
            run = waiting.pop()
            outcome = await self._ask([texts[position] for position in run])
            if not isinstance(outcome, Refusal):
                request_id, reply = outcome
                yield Answer(tuple(run), reply.vectors, request_id, reply.tokens)
            elif outcome.action is Action.SHRINK:
                waiting += reversed(self._shrink(run, outcome))
            elif len(run) == 1:
                yield TextRefused(run[0], outcome.reason)
            else:
                middle = (len(run) + 1) // 2
                waiting += [run[middle:], run[:middle]]

    def _shrink(self, run: list[int], refusal: Refusal) -> list[list[int]]:
        limit = refusal.max_texts or max(1, len(run) // 2)
        if limit >= len(run):
            raise ProviderStopped(self.host, str(refusal), "Its limit contradicts what it answers")
        self.max_texts = min(self.max_texts, limit)
        return [run[start : start + limit] for start in range(0, len(run), limit)]

    async def _ask(self, texts: Sequence[str]) -> tuple[str, Reply] | Refusal:
        """Send one request until it is answered, or refused for a reason that more tries would not mend."""
        tries, waited, unbelievable = 0, 0.0, 0
        while True:
            request_id = uuid.uuid4().hex
            await self._admit(request_id, texts)
            try:
                return request_id, await self._post(request_id, texts)
            except RefusedError as error:
                refusal = error.refusal
                await self._close_refused(request_id, refusal)
                if refusal.action in {Action.SHRINK, Action.BISECT}:
                    return refusal
                if refusal.action is Action.THROTTLE:
                    waited += refusal.wait_seconds
                    why = str(refusal)
                else:
                    tries, why = tries + 1, str(refusal)
                    await self.purse.failed(request_id, why)
            except LostError as error:
                await (self.purse.write_off if error.sent else self.purse.refund)(request_id)
                tries, why = tries + 1, error.why
                await self.purse.failed(request_id, why)
            except UnbelievableError as error:
                await self._close_unbelievable(request_id, error)
                unbelievable, why = unbelievable + 1, error.why
                if unbelievable > 1:
                    raise ProviderStopped(self.host, error.why, "Its answers can't be believed") from None
            if tries >= MAX_TRIES or waited > PATIENCE_SECONDS:
                raise ProviderBusy(self.host, why)
            if tries:
                # Full jitter: workers that failed together do not come back together.
                await asyncio.sleep(self._random.uniform(0.5, 1.0) * self.backoff_seconds * 2 ** (tries - 1))

    async def _admit(self, request_id: str, texts: Sequence[str]) -> None:
        bound = sum(tokens.bound(text) for text in texts)
        likely = min(bound, sum(tokens.count_all(texts)[0]))
        await self.purse.admit(request_id, bound_tokens=bound, likely_tokens=likely)

    async def _post(self, request_id: str, texts: Sequence[str]) -> Reply:
        try:
            reply = await client.post(
                self.http,
                self.model.base_url,
                self.model.generation,
                texts,
                request_id=request_id,
                send_dimensions=self.profile.send_dimensions,
            )
        except asyncio.CancelledError:
            # The request may be on its way: shielded, so that its money is not forgotten with it.
            await asyncio.shield(self.purse.write_off(request_id))
            raise
        try:
            await self.purse.answered(request_id, reply.tokens)
        except asyncio.CancelledError:
            await asyncio.shield(self.purse.spend(request_id, reply.tokens))
            raise
        return reply

    async def _close_refused(self, request_id: str, refusal: Refusal) -> None:
        await (self.purse.write_off if refusal.lost else self.purse.refund)(request_id)
        if refusal.action is Action.THROTTLE:
            await self.purse.pause(refusal.wait_seconds, refusal.name)
        elif refusal.action is Action.SHRINK and refusal.max_texts is not None:
            await self.purse.learn_max_texts(refusal.max_texts)
        elif refusal.action in {Action.STOP, Action.DEFECT}:
            raise ProviderStopped(self.host, str(refusal), refusal.hint[:1].upper() + refusal.hint[1:])

    async def _close_unbelievable(self, request_id: str, error: UnbelievableError) -> None:
        if error.used_tokens is None:
            await self.purse.write_off(request_id)
        else:
            await self.purse.spend(request_id, error.used_tokens)
