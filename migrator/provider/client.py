"""One request to an OpenAI-compatible endpoint, and everything that must hold before its answer is believed.

Floor 1. Promise: vectors come out in the order of the texts, one for each, of exactly the dimensions asked for,
finite and not zero, or not at all (R13-R17). They are decoded from base64 without Python floats. Neither a text nor
the key is ever part of an error (P11), and no redirect is followed: a key is sent to one host only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from migrator.generation import Generation
from migrator.provider import catalogue, tokens
from migrator.provider.catalogue import Refusal

#: Seconds: an answer takes about one; a minute outlasts every long tail that was reported.
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
#: Above 32 connections a client polls itself to death (httpx#3215: 145 requests/s at 32, 52 at 64).
MAX_CONNECTIONS = 32
_OK = 200


class RefusedError(Exception):
    """The provider refused a request. For this package's own loop; `str()` holds no text."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class LostError(Exception):
    """No answer came, or not a whole one. `sent` says whether the provider may have seen the request."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class UnbelievableError(Exception):
    """An answer came that can't be what was asked for; it was billed, and nothing of it is written."""

    def __init__(self, why: str, used_tokens: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.used_tokens = used_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """A believed answer. Shape of `vectors`: texts x dims, little-endian float32; `norm` is not changed."""

    vectors: NDArray[np.float32]
    tokens: int
    #: The provider reported no usage: `tokens` is our own count.
    tokens_estimated: bool


def make_http(api_key: str | None) -> httpx.AsyncClient:
    """Make the HTTP client of one worker process and one key; close it with `aclose`."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    return httpx.AsyncClient(headers=headers, timeout=_TIMEOUT, limits=limits, follow_redirects=False)


async def post(
    http: httpx.AsyncClient,
    base_url: str,
    generation: Generation,
    texts: Sequence[str],
    *,
    request_id: str,
    send_dimensions: bool,
) -> Reply:
    """Embed texts, one vector each, in order.

    Cost: one HTTP request; tokens as the provider reports them.
    Raises: RefusedError, LostError, UnbelievableError.
    """
    body: dict[str, Any] = {"model": generation.model, "input": list(texts), "encoding_format": "base64"}
    if send_dimensions:
        body["dimensions"] = generation.dims
    try:
        answer = await http.post(f"{base_url}/embeddings", json=body, headers={"X-Request-Id": request_id})
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        raise LostError(f"{type(error).__name__}", sent=False) from None
    except httpx.HTTPError as error:
        raise LostError(f"{type(error).__name__}", sent=True) from None
    if answer.status_code != _OK:
        raise RefusedError(catalogue.understand(answer.status_code, answer.content, answer.headers))
    try:
        data = answer.json()
    except ValueError:
        raise LostError("the answer is no JSON", sent=True) from None
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise RefusedError(catalogue.understand(_OK, answer.content, answer.headers))
    return _believe(data, generation, texts)


def _believe(data: dict[str, Any], generation: Generation, texts: Sequence[str]) -> Reply:
    used, estimated = _usage(data.get("usage"), texts)
    echoed = data.get("model")
    if isinstance(echoed, str) and echoed and _last(echoed) != _last(generation.model):
        raise UnbelievableError("another model answered than was asked for", used)
    entries = data["data"]
    if len(entries) != len(texts):
        raise UnbelievableError(f"{len(entries)} vectors came for {len(texts)} texts", used)
    indices = [entry.get("index") if isinstance(entry, dict) else None for entry in entries]
    if sorted(index for index in indices if isinstance(index, int)) != list(range(len(texts))):
        raise UnbelievableError("the vectors' indices are no permutation of the texts", used)
    vectors = np.empty((len(texts), generation.dims), dtype="<f4")
    for index, entry in zip(indices, entries, strict=True):
        decoded = _decode(entry.get("embedding"))
        if decoded is None or decoded.shape != (generation.dims,):
            raise UnbelievableError(f"a vector is not of {generation.dims} dimensions", used)
        vectors[index] = decoded
    if not np.isfinite(vectors).all():
        raise UnbelievableError("a vector holds NaN or infinity", used)
    if not np.any(vectors, axis=1).all():
        raise UnbelievableError("a vector is zero", used)
    return Reply(vectors, used, estimated)


def _decode(value: Any) -> NDArray[np.float32] | None:
    """Return base64 little-endian float32, or a list of numbers, as an array; None where it is neither."""
    if isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
        return np.frombuffer(raw, dtype="<f4") if len(raw) % 4 == 0 else None
    if isinstance(value, list):
        try:
            return np.asarray(value, dtype="<f4")
        except (TypeError, ValueError):
            return None
    return None


def _usage(usage: Any, texts: Sequence[str]) -> tuple[int, bool]:
    """Return (tokens, estimated): prompt_tokens, else total_tokens, else our own bound."""
    if isinstance(usage, dict):
        for name in ("prompt_tokens", "total_tokens", "input_tokens"):
            value = usage.get(name)
            if isinstance(value, int) and value > 0:
                return value, False
    return sum(tokens.bound(text) for text in texts), True


def _last(model: str) -> str:
    """Return a model id without its vendor: qwen/text-embedding-v4 and text-embedding-v4 are one."""
    return model.rsplit("/", 1)[-1]
