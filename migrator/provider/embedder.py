"""From texts to answers: packs, asks, waits, halves and gives up, so that callers see vectors or a reason per text.

Floor 1. Promise: every request is admitted by the purse before it is sent and ends there as spent, refunded or possibly
billed; k bad texts among n cost at most 2k * ceil(log2 n) further requests; the good texts of a refused request are
embedded all the same; identical texts are paid for once. No text is blamed for what is the provider's own trouble: a
server that fails is first asked for another text. The loop knows no database: it takes a Purse by protocol.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from migrator.provider import client, norms, tokens
from migrator.provider.catalogue import Action, Refusal
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.provider.giving_up import AnswersUnbelievable, ProviderBusy, ProviderStopped
from migrator.provider.packing import binding, group, halve, pack
from migrator.provider.profiles import Profile
from migrator.spec import ModelSpec

#: Tries of one request that failed for the provider's own reasons, 1 + 2 + 4 + 8 seconds apart: longer outages are
#: waited out by giving the batch back.
MAX_TRIES = 5
#: Seconds of 429s in a row after which a batch is given back; a rate window is a minute, so two of them.
PATIENCE_SECONDS = 120.0
#: 429s in a row after which it is given back too, however short the waits are that they ask for.
_MAX_THROTTLED = 60
#: Seconds that a 429 is waited out at least, whatever it says: one that says 0 would be asked in a tight loop.
_SHORTEST_WAIT_SECONDS = 0.1
#: Share of a request's tokens that is filled by our own count, where it is an estimate; its inverse is how far the
#: count may be off.
FILL = 0.85
#: What is asked to see whether a provider that failed answers at all.
_CONTROL = "ready"


class Purse(Protocol):
    """Where a request asks for leave and money. `state` implements it; the loop only knows this."""

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> float | None:
        """Wait for the pace and reserve the money; returns the seconds it may take, None for any; or raises."""

    async def refund(self, request_id: str) -> None:
        """Give the money back: the provider certainly did not work for it."""

    async def write_off(self, request_id: str) -> None:
        """Keep the money counted: nobody can know whether it was billed."""

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Book it as billed, although nothing will be written for it."""

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        """Book it as billed for vectors that are lost: their texts will be asked again."""

    async def pause(self, seconds: float, reason: str) -> None:
        """Let nobody ask this provider for a while."""

    async def learn_max_texts(self, max_texts: int) -> None:
        """Remember how many texts the provider takes."""

    async def learn_limit(self, name: str, value: int) -> None:
        """Remember a limit that the provider named: max_text_tokens or max_request_tokens."""

    async def learn_norm(self, dims: int, norm: float) -> None:
        """Remember how long this model's vectors of that many dimensions are."""

    async def note_estimated(self, request_id: str) -> None:
        """Remember that the provider told no usage: what will be spent for it is our own count."""

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Hear that it was answered, and what it took; its money stays reserved until it is settled."""

    async def failed(self, request_id: str, why: str) -> None:
        """Hear that it failed for the provider's own reasons."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Vectors for some of the texts. The caller settles `request_id` in the transaction that writes them."""

    positions: tuple[int, ...]
    vectors: NDArray[np.float32]
    request_id: str
    used_tokens: int
    #: The provider told no usage: `used_tokens` is our own count.
    tokens_estimated: bool = False
    #: The request's bill comes with this answer; not with those for copies, which may land before, with or after it.
    has_bill: bool = True


@dataclass(frozen=True, slots=True)
class TextRefused:
    """A text that the provider will not embed, and why (a disposition's reason)."""

    position: int
    reason: str


@dataclass(slots=True)
class _Patience:
    """How often one request was tried, and whether that is enough."""

    crashes_allowed: int
    tries: int = 0
    crashes: int = 0
    throttled: int = 0
    waited_seconds: float = 0.0
    unbelieved: int = 0
    why: str = ""

    def failed(self, why: str) -> None:
        """Count a failure of the provider's own."""
        self.tries, self.why = self.tries + 1, why

    def refused(self, refusal: Refusal) -> None:
        """Count a refusal that may pass."""
        if refusal.action is Action.THROTTLE:
            self.throttled += 1
            self.waited_seconds += refusal.wait_seconds
            self.why = str(refusal)
        else:
            self.crashes += refusal.crash
            self.failed(str(refusal))
        if refusal.again is False:
            # It says itself that more tries are in vain.
            self.tries = MAX_TRIES
            self.crashes = MAX_TRIES if refusal.crash else self.crashes

    @property
    def crashed_in_vain(self) -> bool:
        """The server failed for these texts each time, and nothing else happened."""
        return self.crashes >= self.crashes_allowed and self.crashes == self.tries

    @property
    def is_over(self) -> bool:
        """The batch is better given back."""
        return self.tries >= MAX_TRIES or self.waited_seconds > PATIENCE_SECONDS or self.throttled >= _MAX_THROTTLED

    @property
    def backoff(self) -> int:
        """1, 2, 4 ... with each failure; nothing after a 429, whose pause everybody keeps."""
        return 2 ** (self.tries - 1) if self.tries else 0


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
    #: How long this model's vectors are (see `norms`); None until an answer showed it.
    norm: float | None = None
    _random: random.Random = field(default_factory=random.Random)

    @property
    def host(self) -> str:
        """The endpoint's host, for messages."""
        return httpx.URL(self.model.base_url).host

    @property
    def _slack(self) -> float:
        return 1.0 if tokens.counts_exactly(self.profile.tokenizer) else 1 / FILL

    def _count(self, texts: Sequence[str]) -> list[int]:
        return tokens.count_all(texts, self.profile.tokenizer)[0]

    def plan(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the positions of each request, in order; copies of a text go with it."""
        groups = group(texts, range(len(texts)))
        limit = int(self.profile.max_request_tokens / self._slack)
        runs = pack(self._count(list(groups)), max_texts=self.max_texts, max_tokens=limit)
        places = list(groups.values())
        return [[places[each][0] for each in run] + [copy for each in run for copy in places[each][1:]] for run in runs]

    async def embed(self, texts: Sequence[str], positions: Sequence[int]) -> AsyncIterator[Answer | TextRefused]:
        """Embed the texts at these positions, which fit one request; yields answers and refusals as they come.

        Raises: ProviderStopped, AnswersUnbelievable, ProviderBusy, and whatever the purse raises.
        """
        groups = group(texts, positions)
        for blank in [text for text in groups if not text.strip()]:
            for position in groups.pop(blank):
                yield TextRefused(position, "empty")
        waiting = [list(groups)] if groups else []
        suspected = False
        while waiting:
            run = waiting.pop()
            outcome = await self._ask(run, crashes=1 if suspected and len(run) > 1 else MAX_TRIES)
            if not isinstance(outcome, Refusal):
                for answer in self._answers(run, groups, *outcome):
                    yield answer
                continue
            if outcome.crash and (len(run) == 1 or not suspected) and not await self._answers_others():
                raise ProviderBusy(self.host, str(outcome))
            parts = await self._parts(run, outcome)
            suspected = suspected or outcome.crash
            waiting += reversed(parts)
            if not parts:
                for position in groups[run[0]]:
                    yield TextRefused(position, "server_error" if outcome.crash else outcome.reason)

    def _answers(self, run: list[str], groups: dict[str, list[int]], request_id: str, reply: Reply) -> Iterator[Answer]:
        """Give the vectors to every position; copies come afterwards, a request's worth at a time, in their order."""
        firsts = tuple(groups[text][0] for text in run)
        yield Answer(firsts, reply.vectors, request_id, reply.tokens, reply.tokens_estimated)
        copies = sorted((position, row) for row, text in enumerate(run) for position in groups[text][1:])
        for start in range(0, len(copies), self.max_texts):
            some = copies[start : start + self.max_texts]
            rows = [row for _, row in some]
            yield Answer(tuple(position for position, _ in some), reply.vectors[rows], request_id, 0, has_bill=False)

    async def _parts(self, run: list[str], refusal: Refusal) -> list[list[str]]:
        """Return what to ask for instead of a refused run; nothing where its one text is the reason.

        Raises: ProviderStopped, where its limit can't be met.
        """
        counts = self._count(run)
        limit = refusal.max_request_tokens
        if refusal.max_text_tokens is not None:
            about = binding(counts, refusal.max_text_tokens, slack=self._slack)
            if about == "text":
                await self._learn("max_text_tokens", refusal.max_text_tokens)
            elif about == "request":
                limit = refusal.max_text_tokens
        if limit is not None:
            await self._learn("max_request_tokens", limit)
        if len(run) > 1 and limit is not None:
            packed = pack(counts, max_texts=self.max_texts, max_tokens=int(limit / self._slack))
            return [[run[each] for each in part] for part in packed] if len(packed) > 1 else halve(run)
        if refusal.action is Action.SHRINK and limit is None:
            return self._fewer(run, refusal)
        return halve(run) if len(run) > 1 else []

    def _fewer(self, run: list[str], refusal: Refusal) -> list[list[str]]:
        limit = refusal.max_texts or max(1, len(run) // 2)
        if limit >= len(run):
            raise ProviderStopped(self.host, str(refusal), "Its limit contradicts what it answers")
        self.max_texts = min(self.max_texts, limit)
        return [run[start : start + limit] for start in range(0, len(run), limit)]

    async def _learn(self, name: str, value: int) -> None:
        if value < getattr(self.profile, name):
            self.profile = self.profile.lowered(**{name: value})
            await self.purse.learn_limit(name, value)

    async def _answers_others(self) -> bool:
        """Ask for one word: whether the provider, which failed for some texts, answers at all."""
        request_id = uuid.uuid4().hex
        longest = await self._admit(request_id, [_CONTROL])
        try:
            reply = await self._post(request_id, [_CONTROL], longest)
        except RefusedError as error:
            await self._close_refused(request_id, error.refusal)
            await self.purse.failed(request_id, str(error.refusal))
            return False
        except LostError as error:
            await self._close_lost(request_id, error)
            return False
        except UnbelievableError as error:
            await self._close_unbelievable(request_id, error)
            return False
        await self.purse.spend(request_id, reply.tokens)
        return True

    async def _ask(self, texts: Sequence[str], *, crashes: int) -> tuple[str, Reply] | Refusal:
        """Send one request until it is answered, or refused for a reason that more tries would not mend.

        `crashes`: so many failures of the server's own, and nothing else, are taken for the texts' doing.
        """
        patience = _Patience(crashes)
        while True:
            request_id = uuid.uuid4().hex
            longest = await self._admit(request_id, texts)
            try:
                return request_id, await self._post(request_id, texts, longest)
            except RefusedError as error:
                await self._close_refused(request_id, error.refusal)
                patience.refused(error.refusal)
                if error.refusal.action is Action.RETRY:
                    await self.purse.failed(request_id, str(error.refusal))
                if error.refusal.action in {Action.SHRINK, Action.BISECT} or patience.crashed_in_vain:
                    return error.refusal
            except LostError as error:
                await self._close_lost(request_id, error)
                patience.failed(error.why)
            except UnbelievableError as error:
                await self._close_unbelievable(request_id, error)
                patience.unbelieved += 1
                if patience.unbelieved > 1:
                    raise AnswersUnbelievable(self.host, error.why, error.hint) from None
            if patience.is_over:
                raise ProviderBusy(self.host, patience.why)
            # Jitter: workers that failed together do not come back together.
            longest = self.backoff_seconds * patience.backoff
            await asyncio.sleep(self._random.uniform(longest / 2, longest))

    async def _admit(self, request_id: str, texts: Sequence[str]) -> float | None:
        bound = sum(tokens.bound(text) for text in texts)
        likely = min(bound, sum(self._count(texts)))
        return await self.purse.admit(request_id, bound_tokens=bound, likely_tokens=likely)

    async def _post(self, request_id: str, texts: Sequence[str], longest_seconds: float | None) -> Reply:
        try:
            reply = await client.post(
                self.http,
                self.model.base_url,
                self.model.generation,
                texts,
                request_id=request_id,
                send_dimensions=self.profile.send_dimensions,
                dialect=self.profile.dialect,
                longest_seconds=longest_seconds,
            )
        except asyncio.CancelledError:
            # The request may be on its way: shielded, so that its money is not forgotten with it.
            await asyncio.shield(self.purse.write_off(request_id))
            raise
        try:
            await self.purse.answered(request_id, reply.tokens)
            if reply.tokens_estimated:
                await self.purse.note_estimated(request_id)
        except asyncio.CancelledError:
            await asyncio.shield(self.purse.forfeit(request_id, reply.tokens))
            raise
        if self.profile.norm == "steady":
            await self._hold_norm(reply)
        return reply

    async def _hold_norm(self, reply: Reply) -> None:
        """Hold an answer to the length that vectors of this model were found to have (R14)."""
        if self.norm is None:
            self.norm = norms.measure(reply.vectors)
            if self.norm is not None:
                await self.purse.learn_norm(self.model.dimensions, self.norm)
            return
        strange = norms.deviating(reply.vectors, self.norm)
        if strange is not None:
            why = f"a vector is {strange:.4g} long, and this model's were {self.norm:.4g}"
            hint = 'If they may differ, plan again with norm = "any" in its profile_overrides'
            raise UnbelievableError(why, reply.tokens, hint)

    async def _close_refused(self, request_id: str, refusal: Refusal) -> None:
        await (self.purse.write_off if refusal.lost else self.purse.refund)(request_id)
        if refusal.action is Action.THROTTLE or (refusal.action is Action.RETRY and refusal.wait_is_theirs):
            wait = max(refusal.wait_seconds, _SHORTEST_WAIT_SECONDS * self.backoff_seconds)
            await self.purse.pause(wait, refusal.name)
        elif refusal.action is Action.SHRINK and refusal.max_texts is not None:
            await self.purse.learn_max_texts(refusal.max_texts)
        elif refusal.action in {Action.STOP, Action.DEFECT}:
            raise ProviderStopped(self.host, str(refusal), refusal.hint[:1].upper() + refusal.hint[1:])

    async def _close_lost(self, request_id: str, error: LostError) -> None:
        await (self.purse.write_off if error.sent else self.purse.refund)(request_id)
        if not error.given_up:
            await self.purse.failed(request_id, error.why)

    async def _close_unbelievable(self, request_id: str, error: UnbelievableError) -> None:
        if error.used_tokens is None:
            await self.purse.write_off(request_id)
        else:
            await self.purse.forfeit(request_id, error.used_tokens)
