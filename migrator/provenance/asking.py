"""Asking the old and the new model for the texts of a few rows, within a number of tokens that is told before.

Floor 2. Promise (P7): no request is sent that could pass what is left; every text is asked once; what a model will not
embed is None, and what could not be asked says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from migrator.generation import Side
from migrator.provider import tokens
from migrator.provider.embedder import Answer, Embedder
from migrator.provider.giving_up import AnswersUnbelievable, ProviderStopped
from migrator.spending.worker import KeyMissing
from migrator.state.budget import price

#: Tokens that one look at a table's provenance may cost in all: a cent, where the bill it saves is dollars.
MAX_TOKENS = 100_000
#: Tokens of it that the sample itself may take; the rest is for hypotheses.
SAMPLE_TOKENS = 40_000

MakeEmbedder = Callable[[Side], Awaitable[Embedder]]


@dataclass(slots=True)
class Asker:
    """Both models behind one small purse."""

    make_embedder: MakeEmbedder
    left_tokens: int
    used_tokens: int = 0
    used_usd: Decimal = Decimal(0)
    #: Something was not asked, since it could have passed what is left.
    exhausted: bool = False
    #: Why a side can't be asked.
    refusals: dict[Side, str] = field(default_factory=dict)
    _known: dict[tuple[Side, str], NDArray[np.float32] | None] = field(default_factory=dict)
    _embedders: dict[Side, Embedder] = field(default_factory=dict)

    async def embed(self, side: Side, texts: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """Return a vector per text; None where there is none to be had.

        Raises: ProviderBusy, and what the purse raises.
        """
        wanted = [text for text in dict.fromkeys(texts) if (side, text) not in self._known]
        embedder = await self._embedder(side) if wanted and side not in self.refusals else None
        if embedder is not None:
            await self._ask(side, embedder, wanted)
        return [self._known.get((side, text)) for text in texts]

    async def _embedder(self, side: Side) -> Embedder | None:
        if side not in self._embedders:
            try:
                self._embedders[side] = await self.make_embedder(side)
            except KeyMissing as error:
                self.refusals[side] = error.sentences()[0]
                return None
        return self._embedders[side]

    async def _ask(self, side: Side, embedder: Embedder, texts: Sequence[str]) -> None:
        limit = embedder.profile.max_text_tokens
        fitting = [text for text in texts if min(tokens.bound(text), tokens.count_all([text])[0][0]) <= limit]
        for run in embedder.plan(fitting):
            if sum(tokens.bound(fitting[position]) for position in run) > self.left_tokens:
                self.exhausted = True
                return
            try:
                await self._run(side, embedder, fitting, run)
            except (ProviderStopped, AnswersUnbelievable) as error:
                self.refusals[side] = error.sentences()[0]
                return

    async def _run(self, side: Side, embedder: Embedder, texts: Sequence[str], run: Sequence[int]) -> None:
        async for outcome in embedder.embed(texts, run):
            if not isinstance(outcome, Answer):
                self._known[side, texts[outcome.position]] = None
                continue
            await embedder.purse.spend(outcome.request_id, outcome.used_tokens)
            self.left_tokens -= outcome.used_tokens
            self.used_tokens += outcome.used_tokens
            self.used_usd += price(outcome.used_tokens, embedder.model.price_usd_per_mtok[1]).usd
            for position, vector in zip(outcome.positions, outcome.vectors, strict=True):
                self._known[side, texts[position]] = vector
