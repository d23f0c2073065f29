"""Spaces of embeddings for tests: made ones that are known in full, and those of real models."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from migrator.demo import corpus
from migrator.demo.simulator.backends import MODEL_DIMS, NEW_MODEL, OLD_MODEL, RealModels

Vectors = NDArray[np.float32]
#: Characters of a text that the real models are given: short texts lie less apart than long ones, and are quick.
_CHARACTERS = 120


def made(seed: int, rows: int, dims: int, *, mean: float, decay: float = 0.4) -> Vectors:
    """Unit vectors that share a mean of that length, and spread along directions of falling weight."""
    chance = np.random.default_rng(seed)
    middle = chance.standard_normal(dims)
    middle *= mean / np.linalg.norm(middle)
    spread = chance.standard_normal((dims, dims)) * (np.arange(1, dims + 1)[:, None] ** -decay)
    vectors = chance.standard_normal((rows, dims)) @ spread
    vectors *= np.sqrt(1 - mean**2) / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors += middle
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@cache
def real(rows: int) -> tuple[list[str], Vectors, Vectors]:
    """Wikipedia's texts, and what the demo's two models make of them, of the same dimensions."""
    texts = [each.body[:_CHARACTERS] for each in corpus.load(rows).articles]
    models = RealModels()
    return texts, models.embed(OLD_MODEL, texts, MODEL_DIMS), models.embed(NEW_MODEL, texts, MODEL_DIMS)
