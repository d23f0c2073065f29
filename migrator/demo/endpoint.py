"""The demo application's own way to the provider: plain HTTP with its own key, so that bills stay apart.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from numpy.typing import NDArray

from migrator.demo.simulator.backends import MODEL_DIMS

#: The application's key and the tool's: the simulator's ledger tells them apart.
APPLICATION_KEY, MIGRATOR_KEY = "key-of-the-application", "key-of-the-migrator"
_TEXTS_PER_REQUEST, _IN_FLIGHT = 10, 4


class Endpoint:
    """Embeds texts as an application would, with either model."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        headers = {"Authorization": f"Bearer {APPLICATION_KEY}"}
        self._http = httpx.Client(headers=headers, timeout=60)

    def embed(self, model: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a vector per text; 0 x dims for none."""
        runs = [texts[start : start + _TEXTS_PER_REQUEST] for start in range(0, len(texts), _TEXTS_PER_REQUEST)]
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            parts = list(pool.map(lambda run: self._request(model, run), runs))
        return np.concatenate(parts) if parts else np.zeros((0, MODEL_DIMS), dtype=np.float32)

    def _request(self, model: str, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        answer = self._http.post(f"{self._base_url}/embeddings", json=body).raise_for_status().json()
        ordered = sorted(answer["data"], key=lambda entry: entry["index"])
        return np.array([entry["embedding"] for entry in ordered], dtype=np.float32)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()
