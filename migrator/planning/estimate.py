"""The estimate: tokens with a band, money, hours, disk, WAL and build memory, each from a stated rule.

Floor 2. Pure sums over counts and a sample. Sizes are in bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migrator.provider import tokens as token_counts

#: Texts sampled for the token estimate: a mean within about 3 % at the spread of ordinary prose.
SAMPLE_TEXTS = 1000
#: Two-sided 95 % of the normal distribution.
_Z95 = 1.96
#: PostgreSQL cuts TOASTed values into chunks of 1,996 bytes, and keeps shorter values (< ~2 kB a row) inline.
_TOAST_CHUNK, _TOAST_THRESHOLD, _TUPLE_OVERHEAD = 1996, 2000, 44
#: Measured on 1,024 dimensions: 5.6-6.0 kB of WAL for a HOT write of 5.2 kB; the tuple itself is logged too.
_WAL_FACTOR = 1.1
#: Measured: an HNSW graph (m = 16) takes the vector plus about 700 bytes a row in memory while it is built.
_HNSW_ROW_OVERHEAD = 700
_PAGE = 8192
#: Seconds per request of 10 texts and requests in flight, where no limit is set: the published measurement of
#: 0.55 s + 0.025 s a text, and one worker's default concurrency.
_REQUEST_SECONDS, _IN_FLIGHT = 0.8, 4


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens to be billed: likely, and the two ends of the 95 % band."""

    estimate: int
    low: int
    high: int
    method: str


def tokens(sample: Sequence[str], rows: int, tokenizer: str = "qwen") -> TokenEstimate:
    """Estimate the tokens of `rows` texts from a sample of them. `tokenizer` is the model's, as its profile says."""
    if not sample or rows == 0:
        return TokenEstimate(0, 0, 0, "no text was found in the sample")
    counts, method = token_counts.count_all(sample, tokenizer)
    mean = sum(counts) / len(counts)
    if len(counts) >= rows:
        spread = 0.0
    else:
        variance = sum((count - mean) ** 2 for count in counts) / max(len(counts) - 1, 1)
        spread = _Z95 * math.sqrt(variance / len(counts))
    systematic = 0.0 if token_counts.counts_exactly(tokenizer) else token_counts.ESTIMATE_ERROR
    low, high = (mean - spread) * (1 - systematic), (mean + spread) * (1 + systematic)
    described = f"{method}, {len(counts)} sampled texts, 95 % interval"
    return TokenEstimate(round(mean * rows), round(low * rows), math.ceil(high * rows), described)


def vector_bytes(type_name: str, dims: int) -> int:
    """Return the size of one vector: 4 bytes a component (halfvec: 2) and 8 of header (pgvector README)."""
    return (4 if type_name == "vector" else 2) * dims + 8


def shadow_bytes_per_row(type_name: str, dims: int) -> int:
    """Return what a row's new vector takes on disk, TOAST chunks included."""
    size = vector_bytes(type_name, dims)
    if size < _TOAST_THRESHOLD:
        return size
    chunks = math.ceil(size / _TOAST_CHUNK)
    return size + chunks * _TUPLE_OVERHEAD + chunks * 24  # 24: the chunk's entry in the TOAST index


def index_bytes(type_name: str, dims: int, rows: int) -> int:
    """Return the size of an HNSW index (m = 16): as many elements a page as fit, each with its neighbours."""
    element = vector_bytes(type_name, dims) + 72 + 16 * 2 * 6 + 40
    return rows * _PAGE // max(1, _PAGE // element)


def build_memory_bytes(type_name: str, dims: int, rows: int) -> int:
    """Return the maintenance_work_mem that holds the graph of `rows` vectors while it is built."""
    return rows * (vector_bytes(type_name, dims) + _HNSW_ROW_OVERHEAD)


def hours(
    rows: int,
    token_count: int,
    *,
    texts_per_request: int,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
) -> tuple[float, str]:
    """Return how long the requests take, and which limit binds."""
    requests = math.ceil(rows / texts_per_request)
    limits: dict[str, float] = {}
    if requests_per_minute is not None:
        limits["requests_per_minute"] = requests / requests_per_minute / 60
    if tokens_per_minute is not None:
        limits["tokens_per_minute"] = token_count / tokens_per_minute / 60
    if not limits:
        assumed = requests * _REQUEST_SECONDS / _IN_FLIGHT / 3600
        return assumed, f"no limit is set; assuming {_REQUEST_SECONDS} s a request, {_IN_FLIGHT} in flight"
    binding = max(limits, key=lambda name: limits[name])
    return limits[binding], binding


def sizes(type_name: str, dims: int, rows: int, *, index_count: int) -> dict[str, Any]:
    """Return the plan's disk, WAL and build figures."""
    shadow = rows * shadow_bytes_per_row(type_name, dims)
    indexes = index_count * index_bytes(type_name, dims, rows)
    return {
        "disk_bytes": shadow + indexes,
        "wal_bytes": round((shadow + indexes) * _WAL_FACTOR),
        "index_build": {
            "memory_bytes": build_memory_bytes(type_name, dims, rows) if index_count else 0,
            "bytes": indexes,
        },
    }
