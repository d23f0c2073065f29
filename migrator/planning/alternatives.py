"""What else could be done, a line each: fewer dimensions, halfvec, fewer copies, the price of batch calls.

Floor 2. Pure. Promise: each says what it saves and what it costs; none is taken by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from migrator.generation import Side
from migrator.planning import estimate
from migrator.provider.profiles import Profile
from migrator.spec import Spec

#: Copies worth a line: below, the estimate from a sample says nothing.
_FEWEST_COPIES = 0.02
_HALF_PRICE = (
    "Model Studio in Beijing lists batch calls at half price (CNY 0.00025 against 0.0005 a thousand tokens; its price"
    " table); this version sends plain requests only"
)
#: Profiles of endpoints that lead to Beijing.
_BEIJING = frozenset({"therouter", "dashscope-beijing"})


def of(
    spec: Spec, profile: Profile, *, kind: str, rows: int, indexes: int, duplicates: float | None
) -> list[dict[str, Any]]:
    """Return the lines. `kind` is the column's type, `duplicates` the share of texts that are copies."""
    return [{"what": what, "text": text} for what, text in _lines(spec, profile, kind, rows, indexes, duplicates)]


def _lines(
    spec: Spec, profile: Profile, kind: str, rows: int, indexes: int, duplicates: float | None
) -> Iterator[tuple[str, str]]:
    dims = spec.generation(Side.TO).dims
    half = dims // 2
    if rows and (half in profile.dimensions):
        told = _sizes(kind, half, rows, indexes, against=(kind, dims))
        yield f"{half} dimensions", f"{told}; the same tokens and price; what it loses in quality is to be measured"
    if rows and kind == "vector":
        told = _sizes("halfvec", dims, rows, indexes, against=(kind, dims))
        yield "halfvec", f"{told}; applications must cast or send halfvec"
    if duplicates is not None and duplicates >= _FEWEST_COPIES:
        told = (
            f"about {100 * duplicates:.0f} % of the texts are copies of another; those of one batch are paid for once,"
        )
        yield "duplicates", f"{told} all others each time: remove what need not be there before you start"
    if profile.name in _BEIJING:
        yield "batch price", _HALF_PRICE


def _sizes(kind: str, dims: int, rows: int, indexes: int, *, against: tuple[str, int]) -> str:
    new = estimate.sizes(kind, dims, rows, index_count=indexes)
    old = estimate.sizes(*against, rows, index_count=indexes)
    disk = 1 - new["disk_bytes"] / old["disk_bytes"]
    memory = new["index_build"]["memory_bytes"] / max(old["index_build"]["memory_bytes"], 1)
    build = f", {100 * (1 - memory):.0f} % less memory to build" if indexes else ""
    return f"{100 * disk:.0f} % less disk{build}"
