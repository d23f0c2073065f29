"""Gate `churn`: how much of a search's first page stays. Neither all of it, nor nothing.

Floor 2. Promise: it judges no model. Two models that both understand a text share a good part of its neighbours; where
all are the same, one column holds the other's vectors; where only chance is left, vectors lie in the wrong rows.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from migrator.generation import Side
from migrator.measures import projection, rankings
from migrator.spending.worker import Worker
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import searching
from migrator.validation.searching import DEPTH, Pairs, Searcher

CHURN = "churn"
#: Rows below which half of a first page is there by chance, and the overlap says nothing.
_FEWEST_ROWS = 2 * DEPTH + 1


async def measure(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Compare the neighbours of sampled rows in both columns.

    Raises: Throttled.
    """
    del lease
    began, gates = time.monotonic(), migration.spec.gates
    search = await searching.prepare(worker, migration)
    more = await searching.pairs(worker, search, wanted=max(gates.search_sample, projection.ROWS), seed=seed)
    drawn = more.first(gates.search_sample)
    searcher = Searcher.start(worker, search)
    old, new = await searcher.in_turns(drawn.vectors[Side.FROM], drawn.vectors[Side.TO])
    both = [(a.without(key).keys, b.without(key).keys) for a, b, key in zip(old, new, drawn.keys, strict=False)]
    overlaps = [rankings.overlap(*each, DEPTH) for each in both]
    overlap = float(np.mean(overlaps)) if overlaps else 0.0
    rows = max(migration.proved_embedded or 0, len(drawn.keys))
    low, high = band(migration, rows)
    detail = f"overlap@10 of old and new neighbours, allowed {low:.3f} to {high:.3f}"
    detail += f"; RBO {np.mean([rankings.rbo(*each) for each in both]):.3f}" if both else ""
    evidence = await _evidence(more, overlaps, (low, high))
    detail += searching.cut(len(both), len(drawn.keys), gates.search_seconds)
    if len(drawn.keys) < 1 or rows < _FEWEST_ROWS:
        detail = f"{len(drawn.keys)} rows have both vectors: too few for their neighbours to say anything"
        took = time.monotonic() - began
        return [Verdict(CHURN, True, overlap, low, len(both), seed, detail, took, evidence=evidence)]  # noqa: FBT003
    passed = low <= overlap <= high
    if searching.few(len(both), drawn.keys):
        passed, detail = False, f"{detail}; too few to tell, raise search_seconds"
    elif overlap > high:
        detail += "; so alike that one column holds the other's vectors"
    elif overlap < low:
        detail += "; little more than chance, so vectors lie in the wrong rows, or the models have nothing in common"
    threshold = high if overlap > high else low
    took = time.monotonic() - began
    return [Verdict(CHURN, passed, overlap, threshold, len(both), seed, detail, took, evidence=evidence)]


async def _evidence(drawn: Pairs, overlaps: list[float], allowed: tuple[float, float]) -> dict[str, Any]:
    """Return how many searches kept 0, 1 ... DEPTH of their rows, and both spaces as points of a plane."""
    kept = np.bincount(np.rint(DEPTH * np.array(overlaps)).astype(int), minlength=DEPTH + 1)
    # In a thread: it takes a moment, and the lease is renewed meanwhile.
    made = await asyncio.to_thread(projection.make, drawn.vectors[Side.FROM], drawn.vectors[Side.TO])
    return {"kept": kept.tolist(), "allowed": list(allowed), "projection": asdict(made) if made is not None else None}


def band(migration: Migration, rows: int) -> tuple[float, float]:
    """Return between what the overlap must lie: above chance, and below what two models can share."""
    gates = migration.spec.gates
    chance = rankings.chance(rows - 1, DEPTH)
    # 0 asks for nothing: texts that share no words have no neighbours that two models could agree on.
    low = chance + gates.min_overlap * (1 - chance) if gates.min_overlap else 0.0
    # The same model at other dimensions finds nearly the same rows, and may.
    same = migration.from_generation.is_same_model(migration.to_generation)
    high = 1.0 if same else chance + gates.max_overlap * (1 - chance)
    return low, high
