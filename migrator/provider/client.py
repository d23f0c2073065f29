"""One request to an OpenAI-compatible endpoint, and everything that must hold before its answer is believed.

Floor 1. Promise: vectors come out in the order of the texts, one for each, of exactly the dimensions asked for,
finite and not zero, or not at all (R13-R17). They are decoded from base64 without Python floats. An answer is read no
further than it may be long, and no longer than it may take. Neither a text nor the key is ever part of an error (P11),
and no redirect is followed: a key is sent to one host only.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from migrator import tracing
from migrator.generation import Generation
from migrator.provider import catalogue, tokens
from migrator.provider.catalogue import Refusal
from migrator.provider.connections import Pools
from migrator.provider.profiles import Dialect, bare

#: Seconds without a byte: an answer takes about one; a minute outlasts every long tail that was reported.
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
#: Seconds for a whole attempt: an endpoint that drips a byte at a time would hold a batch for ever.
_WHOLE_SECONDS = 90.0
#: Bytes that an error body or an answer's wrapping may have, and that one component may take as a JSON number.
_WRAPPING_BYTES, _COMPONENT_BYTES = 65_536, 32
#: Decoders that `httpx` has built in and that turn a chunk into at most a thousand times its size, once.
_ENCODINGS = {"", "identity", "gzip", "deflate"}
#: A usage this many times what the texts can have at most is no count of tokens.
_ABSURD = 1000
_OK = 200
_CONTENTS = {0, 200, "0", "200", "", None, "success", "Success", "OK", "ok"}


class RefusedError(Exception):
    """The provider refused a request. For this package's own loop; `str()` holds no text."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


class LostError(Exception):
    """No answer came, or not a whole one. `sent` says whether the provider may have seen the request.

    `given_up`: we did not wait for as long as an answer may take, so it is no failure of the provider's.
    """

    def __init__(self, why: str, *, sent: bool, given_up: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent
        self.given_up = given_up


class UnbelievableError(Exception):
    """An answer came that can't be what was asked for; it was billed, and nothing of it is written."""

    def __init__(self, why: str, used_tokens: int | None = None, hint: str = "Its answers can't be believed") -> None:
        super().__init__(why)
        self.why = why
        self.used_tokens = used_tokens
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Reply:
    """A believed answer. Shape of `vectors`: texts x dims, little-endian float32; `norm` is not changed."""

    vectors: NDArray[np.float32]
    tokens: int
    #: The provider reported no usage: `tokens` is our own count.
    tokens_estimated: bool


def make_http(api_key: str | None) -> httpx.AsyncClient:
    """Make the HTTP client of one worker process and one key; close it with `aclose`."""
    headers = {"Accept-Encoding": "gzip, deflate"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return httpx.AsyncClient(headers=headers, timeout=_TIMEOUT, transport=Pools(), follow_redirects=False)


async def post(
    http: httpx.AsyncClient,
    base_url: str,
    generation: Generation,
    texts: Sequence[str],
    *,
    request_id: str,
    send_dimensions: bool,
    dialect: Dialect | None = None,
    longest_seconds: float | None = None,
) -> Reply:
    """Embed texts, one vector each, in order; within `longest_seconds`, where that is less than what we wait anyway.

    Cost: one HTTP request; tokens as the provider reports them.
    Raises: RefusedError, LostError, UnbelievableError.
    """
    dialect = dialect or Dialect()
    body: dict[str, Any] = {"model": generation.model, "input": list(texts), "encoding_format": dialect.encoding}
    if send_dimensions:
        body["dimensions"] = generation.dims
    limit = _WRAPPING_BYTES + len(texts) * (generation.dims * _COMPONENT_BYTES + 256)
    allowed = _WHOLE_SECONDS if longest_seconds is None else min(_WHOLE_SECONDS, longest_seconds)
    try:
        async with asyncio.timeout(allowed):
            status, content, headers = await _exchange(http, f"{base_url}/embeddings", body, request_id, limit)
    except (
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
        httpx.ProxyError,
        httpx.InvalidURL,
    ) as error:
        raise LostError(f"{type(error).__name__}", sent=False) from None
    except TimeoutError:
        raise LostError("TimeoutError", sent=True, given_up=allowed < _WHOLE_SECONDS) from None
    except httpx.HTTPError as error:
        raise LostError(f"{type(error).__name__}", sent=True) from None
    if status != _OK:
        raise RefusedError(catalogue.understand(status, content, headers, quota=dialect.insufficient_quota))
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise LostError("the answer is no JSON", sent=True) from None
    if _is_error(data):
        raise RefusedError(catalogue.understand(_OK, content, headers, quota=dialect.insufficient_quota))
    return _believe(data, generation, texts, dialect)


async def _exchange(
    http: httpx.AsyncClient, url: str, body: dict[str, Any], request_id: str, limit: int
) -> tuple[int, bytes, httpx.Headers]:
    """Send a request and read its answer."""
    told = {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": body["model"]}
    with tracing.span("embeddings", told | {"migrator.texts": len(body["input"])}) as tell:
        async with http.stream("POST", url, json=body, headers={"X-Request-Id": request_id}) as answer:
            tell("http.response.status_code", answer.status_code)
            return await _read(answer, limit)


async def _read(answer: httpx.Response, limit: int) -> tuple[int, bytes, httpx.Headers]:
    """Read an error's beginning, or a good answer as far as it may go."""
    if answer.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
        raise LostError("the answer is packed in a way that was not asked for", sent=True)
    good = answer.status_code == _OK
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if good and len(content) > limit:
            raise LostError("the answer is longer than any answer to these texts", sent=True)
        if len(content) > _WRAPPING_BYTES and not good:
            break
    return answer.status_code, bytes(content if good else content[:_WRAPPING_BYTES]), answer.headers


def _is_error(data: Any) -> bool:
    """Say whether a 200 holds a business error; what holds neither that nor vectors is judged as an answer."""
    if not isinstance(data, dict):
        return False
    code = data.get("code")
    known = code is None or (isinstance(code, int | str) and code in _CONTENTS)
    return bool(data.get("error")) or not known


def _believe(data: Any, generation: Generation, texts: Sequence[str], dialect: Dialect) -> Reply:
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise UnbelievableError("an answer holds neither vectors nor an error")
    used, estimated = _usage(data.get("usage"), texts)
    echoed = data.get("model")
    named = isinstance(echoed, str) and echoed and dialect.model_echo == "check"
    if named and bare(str(echoed)) != bare(generation.model):
        hint = (
            'If this gateway is known to rename models, plan again with model_echo = "ignore" in its profile_overrides'
        )
        raise UnbelievableError("another model answered than was asked for", used, hint)
    entries = data["data"]
    if len(entries) != len(texts):
        raise UnbelievableError(f"{len(entries)} vectors came for {len(texts)} texts", used)
    indices = _indices(entries, dialect)
    if sorted(indices) != list(range(len(texts))):
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


def _indices(entries: list[Any], dialect: Dialect) -> list[int]:
    """Return the entries' indices; their order where none has one and the profile says that it is kept."""
    if not all(isinstance(entry, dict) for entry in entries):
        return []
    indices = [entry.get("index") for entry in entries]
    if dialect.missing_index == "order" and all(index is None for index in indices):
        return list(range(len(entries)))
    # `True` is an int to Python, and as an index it means every row.
    return [index for index in indices if type(index) is int]


def _decode(value: Any) -> NDArray[np.float32] | None:
    """Return base64 little-endian float32, or a list of numbers, as an array; None where it is neither."""
    if isinstance(value, str):
        try:
            raw = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
        return np.frombuffer(raw, dtype="<f4") if len(raw) % 4 == 0 else None
    if isinstance(value, list) and not any(isinstance(each, str) for each in value):
        try:
            # A number beyond float32 becomes infinity, and is refused as such.
            with np.errstate(over="ignore"):
                return np.asarray(value, dtype="<f4")
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def _usage(usage: Any, texts: Sequence[str]) -> tuple[int, bool]:
    """Return (tokens, estimated): prompt_tokens, else total_tokens, else our own bound."""
    bound = sum(tokens.bound(text) for text in texts)
    if isinstance(usage, dict):
        for name in ("prompt_tokens", "total_tokens", "input_tokens"):
            value = usage.get(name)
            if type(value) is int and 0 < value <= bound * _ABSURD:
                return value, False
    return bound, True
