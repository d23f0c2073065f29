"""Gate `ann_recall`: the new index finds what is really nearest as well as the old index does in its column.

Floor 2. Promise: both indexes are asked about the same rows, with the breadth that the application searches with, and
each is measured against the exact answer in its own column. So it judges the index, never the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import searching
from migrator.validation.searching import BY_INDEX, EXACT, TURN, Found, Key, Pairs, Searcher

ANN_RECALL = "ann_recall"
#: Distances closer than this are one: an exact and an approximate search add the same numbers up.
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class _Recalls:
    old: list[float]
    new: list[float]

    @property
    def means(self) -> tuple[float, float]:
        return (float(np.mean(self.old)) if self.old else 0.0, float(np.mean(self.new)) if self.new else 0.0)


async def measure(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Measure the recall of both indexes.

    Raises: Throttled.
    """
    del lease
    began, gates = time.monotonic(), migration.spec.gates
    search = await searching.prepare(worker, migration)
    drawn = await searching.pairs(worker, search, wanted=gates.search_sample, seed=seed)
    searcher = Searcher.start(worker, search)
    found = await _recalls(searcher, drawn)
    old, new = found.means
    done, wanted = len(found.new), len(drawn.keys)
    detail = f"recall@10 by {search.by}: old {old:.3f}, new {new:.3f}, of {done} rows at {await searcher.breadth()}"
    detail += searching.cut(done, wanted, gates.search_seconds)
    passed = new >= old - gates.ann_recall_tolerance
    if searching.few(done, drawn.keys):
        passed, detail = False, f"{detail}; too few to tell, raise search_seconds"
    threshold = old - gates.ann_recall_tolerance
    took, evidence = time.monotonic() - began, {"old": old, "new": new}
    return [Verdict(ANN_RECALL, passed, new, threshold, done, seed, detail, took, evidence=evidence)]


async def _recalls(searcher: Searcher, drawn: Pairs) -> _Recalls:
    """Return the recall of each row's search, as far as time allows."""
    found = _Recalls([], [])
    for start in range(0, len(drawn.keys), TURN):
        keys = drawn.keys[start : start + TURN]
        both: dict[Side, list[float]] = {}
        for side in Side:
            both[side] = await _of_side(searcher, side, drawn.vectors[side][start : start + TURN], keys)
        done = min(map(len, both.values()))
        found.old.extend(both[Side.FROM][:done])
        found.new.extend(both[Side.TO][:done])
        if done < len(keys):
            break
    return found


async def _of_side(searcher: Searcher, side: Side, queries: NDArray[np.float32], keys: Sequence[Key]) -> list[float]:
    """Return the recall of each query, as far as time allows.

    A miss is looked at once more: what the index can't find it will not find then either, but a row that somebody wrote
    between the two searches is in both of them now.
    """
    found = await _once(searcher, side, queries, keys)
    missed = [at for at, share in enumerate(found) if share < 1.0]
    if missed:
        again = await _once(searcher, side, queries[missed], [keys[at] for at in missed])
        for at, share in zip(missed, again, strict=False):
            found[at] = max(found[at], share)
    return found


async def _once(searcher: Searcher, side: Side, queries: NDArray[np.float32], keys: Sequence[Key]) -> list[float]:
    near = await searcher.find(side, queries, BY_INDEX)
    exact = await searcher.find(side, queries[: len(near)], EXACT)
    return [recall(a.without(key), b.without(key)) for a, b, key in zip(near, exact, keys, strict=False)]


def recall(near: Found, exact: Found) -> float:
    """Return the share of the exact answer that was found; rows as near as its last one are as good."""
    wanted: Sequence[float] = exact.distances
    if not wanted:
        return 1.0
    hits = sum(distance <= wanted[-1] + _SAME for distance in near.distances)
    return min(hits, len(wanted)) / len(wanted)
