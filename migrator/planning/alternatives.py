"""What else could be done, a line each: fewer dimensions, halfvec, fewer copies, the price of batch calls.

Floor 2. Pure. Promise: each says what it saves and what it costs, in dollars where it is dollars; none is taken by
itself. Sums are laid on when a plan is told, so that they follow what a pilot was billed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from migrator.generation import Side
from migrator.planning import estimate, prices
from migrator.provider.profiles import Profile
from migrator.spec import Spec
from migrator.words import dollars

#: Copies worth a line: below, the estimate from a sample says nothing.
_FEWEST_COPIES = 0.02
_COPIES, _BATCH = "duplicates", "batch price"


def of(
    spec: Spec, profile: Profile, *, kind: str, rows: int, indexes: int, duplicates: float | None
) -> list[dict[str, Any]]:
    """Return the lines. `kind` is the column's type, `duplicates` the share of texts that are copies."""
    return [{"what": what, "text": text} for what, text in _lines(spec, profile, kind, rows, indexes, duplicates)]


def told(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a plan's document as people read them, (what, text), with the dollars that each is about."""
    return [(each["what"], f"{_sum(each['what'], plan)}{each['text']}") for each in plan["alternatives"]]


def _sum(what: str, plan: Mapping[str, Any]) -> str:
    cost = plan["cost_usd"]
    likely = [each["likely_usd"] for each in cost["by_price"] if each["source"] == prices.SPEC]
    if what == _COPIES and plan.get("duplicate_share"):
        copies = _range([plan["duplicate_share"] * each for each in likely])
        return f"about {copies} USD of the likely sum are for copies; "
    batch = cost.get("by_batch_price") or []
    if what != _BATCH or not batch:
        return ""
    sources = "; ".join(dict.fromkeys(each["source"] for each in batch))
    sums = _range([each["likely_usd"] for each in batch])
    return f"{sums} USD likely instead of {_range(likely)} ({sources}); "


def _range(amounts: Sequence[float]) -> str:
    ends = dict.fromkeys((dollars(min(amounts)), dollars(max(amounts))))
    return " to ".join(ends)


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
        yield _COPIES, f"{told} all others each time: remove what need not be there before you start"
    if profile.batch_price_share is not None:
        yield _BATCH, "batch calls are answered within hours, and this version sends plain requests only"
    elif profile.batch_profile is not None:
        yield _BATCH, f"{profile.sources['batch_profile']}; this version sends plain requests only"


def _sizes(kind: str, dims: int, rows: int, indexes: int, *, against: tuple[str, int]) -> str:
    new = estimate.sizes(kind, dims, rows, index_count=indexes)
    old = estimate.sizes(*against, rows, index_count=indexes)
    disk = 1 - new["disk_bytes"] / old["disk_bytes"]
    memory = new["index_build"]["memory_bytes"] / max(old["index_build"]["memory_bytes"], 1)
    build = f", {100 * (1 - memory):.0f} % less memory to build" if indexes else ""
    return f"{100 * disk:.0f} % less disk{build}"
