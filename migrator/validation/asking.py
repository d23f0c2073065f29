"""Texts that a validation asks a model for: embedded, paid for, and refusals left empty.

Floor 2. Promise: what was answered is booked at once, whatever becomes of the rest; no transaction is open meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from migrator.provider.embedder import Answer, Embedder


async def embed(embedder: Embedder, texts: Sequence[str], dims: int) -> NDArray[np.float32]:
    """Embed texts in order, one row per text; a text that is refused gets a row of zeros.

    Shape: len(texts) x dims.   Cost: one embedding per text, booked as the embedder's purse says.
    Raises: what the provider and the purse raise.
    """
    made = np.zeros((len(texts), dims), dtype=np.float32)
    for run in embedder.plan(texts):
        async for outcome in embedder.embed(texts, run):
            if isinstance(outcome, Answer):
                made[list(outcome.positions)] = outcome.vectors
                await embedder.purse.spend(outcome.request_id, outcome.used_tokens)
    return made
