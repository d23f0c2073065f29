"""What a gateway does between the client and the model: another model, another region, other texts, drift.

Floor 4. Promise: each of these answers is well formed, of the right size and of unit length, so that only a look at the
vectors themselves can tell. Sources: one-api overwrites `model` with the requested name (adaptor for Ali), and answered
v2 with v1 (#1117); a gateway's guardrail redacted texts before they were embedded (litellm#39097).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from migrator.demo.simulator.backends import Backend
from migrator.demo.simulator.behaviour import Behaviour


def embed(
    backend: Backend,
    behaviour: Behaviour,
    model: str,
    texts: Sequence[str],
    dims: int,
    *,
    elsewhere: bool,
    number: int = 0,
) -> NDArray[np.float32]:
    """Return one unit vector per text, as the gateway would; `elsewhere`: it sent this request to the other region.

    `number`: which request this is, since jitter is another one in each.
    """
    if behaviour.redact is not None:
        texts = [re.sub(behaviour.redact, "[REDACTED]", text) for text in texts]
    vectors = backend.embed(behaviour.answer_with or model, texts, dims)
    if behaviour.drift:
        cosine = 1 - behaviour.drift
        length = math.sqrt(1 - cosine**2)
        vectors = _turned(vectors, texts, "drift", cosine, [length] * len(texts))
    if elsewhere and behaviour.second_region is not None and behaviour.second_region.noise:
        vectors = _turned(vectors, texts, "region", 1.0, [behaviour.second_region.noise] * len(texts))
    if behaviour.jitter:
        vectors = _turned(vectors, texts, f"jitter {number}", 1.0, [behaviour.jitter * at for at in range(len(texts))])
    return vectors


def _turned(
    vectors: NDArray[np.float32], texts: Sequence[str], seed: str, along: float, across: Sequence[float]
) -> NDArray[np.float32]:
    """Turn each vector towards a direction of its own at right angles to it: the same text is turned the same way."""
    made = np.empty_like(vectors)
    for position, (vector, text) in enumerate(zip(vectors, texts, strict=True)):
        number = int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode()).digest()[:8])
        aside = np.random.default_rng(number).standard_normal(len(vector))
        aside -= vector * np.dot(aside, vector)
        turned = along * vector + across[position] * aside / np.linalg.norm(aside)
        made[position] = turned / np.linalg.norm(turned)
    return made
