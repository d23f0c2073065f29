"""What a migration takes on the server: disk, WAL, memory and time of the build, each from a stated rule.

Floor 2. Pure sums over counts. Sizes are in bytes.
"""

from __future__ import annotations

import math
from typing import Any

#: PostgreSQL cuts TOASTed values into chunks of 1,996 bytes, and keeps shorter values (< ~2 kB a row) inline.
_TOAST_CHUNK, _TOAST_THRESHOLD, _TUPLE_OVERHEAD = 1996, 2000, 44
#: Measured on 1,024 dimensions: 5.6-6.0 kB of WAL for a HOT write of 5.2 kB; the tuple itself is logged too.
_WAL_FACTOR = 1.1
#: Measured: an HNSW graph (m = 16) takes the vector plus about 700 bytes a row in memory while it is built.
_HNSW_ROW_OVERHEAD = 700
_PAGE = 8192
#: Share of the HOT ceiling that the backfill promises (P12), with no old snapshot open.
_HOT_SHARE = 0.95
#: Components that an HNSW build adds in a second and process, low and high: m = 16, the graph in memory. Measured: 0.28
#: million on a machine busy with other things (10,000 vectors of 1,024 dimensions), 0.57 million on a quiet one (20,000
#: halfvec of 384). Growing graphs slow down, better machines are faster; `./run bench index` measures one's own.
_BUILD_COMPONENTS = (0.25e6, 1e6)


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


def build_seconds(dims: int, rows: int, processes: int) -> tuple[float, float]:
    """Return how long one HNSW index takes to be built, low and high, by so many processes."""
    slow, fast = _BUILD_COMPONENTS
    work = rows * dims / max(processes, 1)
    return work / fast, work / slow


def hot(rows_per_page: float) -> dict[str, float]:
    """Return the share of our updates that stay on their page: at most all but one row of each page."""
    ceiling = max(0.0, 1 - 1 / rows_per_page) if rows_per_page > 1 else 0.0
    return {"expected": round(_HOT_SHARE * ceiling, 3), "ceiling": round(ceiling, 3)}


def heap_growth_bytes(table_pages: int, rows_per_page: float) -> int:
    """Return what the heap grows by: one row of every page has to leave it."""
    return round(table_pages * _PAGE / max(rows_per_page, 1)) if rows_per_page else 0


def sizes(type_name: str, dims: int, rows: int, *, index_count: int, most_rows: int | None = None) -> dict[str, Any]:
    """Return the plan's disk, WAL and build figures. `most_rows`: as many as there may be, for the memory to build."""
    shadow = rows * shadow_bytes_per_row(type_name, dims)
    indexes = index_count * index_bytes(type_name, dims, rows)
    toasted = vector_bytes(type_name, dims) >= _TOAST_THRESHOLD
    return {
        "disk_bytes": shadow + indexes,
        "disk": {"heap_bytes": 0 if toasted else shadow, "toast_bytes": shadow if toasted else 0},
        "wal_bytes": round((shadow + indexes) * _WAL_FACTOR),
        "index_build": {
            "memory_bytes": build_memory_bytes(type_name, dims, most_rows or rows) if index_count else 0,
            "bytes": indexes,
        },
    }
