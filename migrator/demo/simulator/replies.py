"""Answers: vectors into a body, and whatever is wrong with it where a fault says so.

Floor 4. Source of the faults: what gateways and servers were seen to answer, or what their SDKs allow for.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migrator.demo.simulator.behaviour import Behaviour
from migrator.demo.simulator.reading import Asked

Body = dict[str, Any]


def compose(
    asked: Asked,
    vectors: NDArray[np.float32],
    behaviour: Behaviour,
    request_id: str,
    fault: str | None,
    *,
    honest: bool,
) -> Body:
    """Return the answer's body; `honest`: the server names the model that it really asked."""
    if fault in _IN_VECTORS:
        vectors = _IN_VECTORS[fault](vectors.copy())
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(vector, as_base64=asked.base64)}
        for index, vector in enumerate(vectors)
    ]
    answering = behaviour.answer_with or asked.model
    model = answering if honest or behaviour.echo_model == "answering" else asked.requested
    body: Body = {"object": "list", "model": model, "data": data, "id": request_id}
    body |= _usage(sum(asked.counts), behaviour.usage)
    return _IN_BODY[fault](body) if fault in _IN_BODY else body


def native(body: Body) -> Body:
    """Return the body as the provider's own API has it."""
    if "data" not in body:
        return body
    vectors = [
        {"text_index": entry["index"], "embedding": entry["embedding"]} for entry in body["data"] if "index" in entry
    ]
    usage = {"total_tokens": body.get("usage", {}).get("total_tokens", 0)}
    return {"output": {"embeddings": vectors}, "usage": usage, "request_id": body.get("id", "")}


def encoded(body: Body, *, compressed: bool) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of a body, and their headers. NaN goes bare, as servers that send it do."""
    raw = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    if compressed:
        return gzip.compress(raw), {**headers, "content-encoding": "gzip"}
    return raw, headers


def _encode(vector: NDArray[np.float32], *, as_base64: bool) -> str | list[float]:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _usage(total: int, mode: str) -> Body:
    shapes: dict[str, Body] = {
        "exact": {"usage": {"prompt_tokens": total, "total_tokens": total}},
        "missing": {},
        "zero_prompt": {"usage": {"prompt_tokens": 0, "total_tokens": total}},
        "total_only": {"usage": {"total_tokens": total}},
        "native": {"usage": {"input_tokens": total}},
    }
    return shapes[mode]


def _set(value: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def spoil(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        vectors[-1, 0] = value
        return vectors

    return spoil


def _zero(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    vectors[-1] = 0
    return vectors


_IN_VECTORS: dict[str | None, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "nan": _set(float("nan")),
    "infinity": _set(float("inf")),
    "zero": _zero,
    "wrong_dims": lambda vectors: vectors[:, :-1],
    "one_short": lambda vectors: vectors[:-1],
    "one_more": lambda vectors: np.vstack([vectors, vectors[:1]]),
}


def _shuffled(body: Body) -> Body:
    return {**body, "data": body["data"][1:] + body["data"][:1]}


def _no_index(body: Body) -> Body:
    data = [{name: value for name, value in entry.items() if name != "index"} for entry in body["data"]]
    return {**body, "data": data}


def _duplicate_index(body: Body) -> Body:
    data = [*body["data"][:-1], {**body["data"][-1], "index": 0 if len(body["data"]) > 1 else 1}]
    return {**body, "data": data}


def _without(*names: str) -> Callable[[Body], Body]:
    return lambda body: {name: value for name, value in body.items() if name not in names}


def _extra(body: Body) -> Body:
    data = [{**entry, "score": None, "meta": {"region": "elsewhere"}} for entry in body["data"]]
    return {**body, "data": data, "created": 1_700_000_000, "provider": "elsewhere", "warnings": []}


_IN_BODY: dict[str | None, Callable[[Body], Body]] = {
    "shuffled": _shuffled,
    "no_index": _no_index,
    "duplicate_index": _duplicate_index,
    "no_data": _without("data"),
    "no_id": _without("id"),
    "no_model": _without("model"),
    "other_model": lambda body: {**body, "model": "another-embedding-model"},
    "extra_fields": _extra,
}
