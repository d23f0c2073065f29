"""How an application without a library of ours asks the provider simulator."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

V3, V4 = "text-embedding-v3", "text-embedding-v4"
KEY = {"Authorization": "Bearer sk-test"}


def ask(http: httpx.Client, *texts: str, model: str = V4, dims: int | None = 64, **more: Any) -> httpx.Response:
    body = {"model": model, "input": list(texts), **({"dimensions": dims} if dims else {}), **more}
    return http.post("/embeddings", json=body)


def vectors(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    data = sorted(answer.json()["data"], key=lambda entry: entry["index"])
    return np.array([entry["embedding"] for entry in data])


def error(answer: httpx.Response) -> tuple[int, str, str]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["message"]
