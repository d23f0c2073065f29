"""Gate `latency`: the same searches are about as fast on the new column.

Floor 2. Promise: both columns are searched for the same rows in turns, so that what disturbs one disturbs the other; a
search counts with the best of a few tries, since what is compared are the columns and not the machine's other work.
Before it says no it tries again: noise only makes slower, and a column without its index is slow each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import searching
from migrator.validation.searching import TURN, Pairs, Searcher

LATENCY = "latency"
#: Tries of each search; the first one warms what an application's searches keep warm in the old column.
_TRIES = 3
#: Times that all of it is measured before the gate fails.
_ROUNDS = 3


async def measure(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Measure the same searches on both columns.

    Raises: Throttled.
    """
    del lease
    began, gates = time.monotonic(), migration.spec.gates
    search = await searching.prepare(worker, migration)
    drawn = await searching.pairs(worker, search, wanted=gates.search_sample, seed=seed)
    searcher = Searcher.start(worker, search)
    old, new = await _times(searcher, drawn)
    ratio, passed = decide(old, new, limit=gates.max_latency_ratio, slack_ms=gates.latency_slack_ms)
    for _ in range(_ROUNDS - 1):
        if passed:
            break
        again = await _times(searcher, drawn)
        old, new = _best(old, again[0]), _best(new, again[1])
        ratio, passed = decide(old, new, limit=gates.max_latency_ratio, slack_ms=gates.latency_slack_ms)
    told = ", ".join(f"{name} p50 {p50:.1f} ms p95 {p95:.1f} ms" for name, (p50, p95) in _summary(old, new).items())
    detail = f"new/old p95 of {len(new)} searches: {told}"
    detail += searching.cut(len(new), len(drawn.keys), gates.search_seconds)
    if searching.few(len(new), drawn.keys):
        passed, detail = False, f"{detail}; too few to tell, raise search_seconds"
    limit, took = gates.max_latency_ratio, time.monotonic() - began
    return [Verdict(LATENCY, passed, ratio, limit, len(new), seed, detail, took, evidence=_evidence(old, new))]


def decide(old: Sequence[float], new: Sequence[float], *, limit: float, slack_ms: float) -> tuple[float, bool]:
    """Return the ratio of the 95th percentiles, and whether it passes: a difference below the slack always does."""
    if not old or not new:
        return 0.0, True
    before, after = float(np.percentile(old, 95)), float(np.percentile(new, 95))
    ratio = after / before if before > 0 else 1.0
    return ratio, ratio <= limit or after - before <= slack_ms


def _best(before: Sequence[float], again: Sequence[float]) -> list[float]:
    """Return the best time of each search; of those that time did not allow again, the first one."""
    return [*map(min, before, again), *before[len(again) :]]


def _summary(old: Sequence[float], new: Sequence[float]) -> dict[str, tuple[float, float]]:
    both = {"old": old, "new": new}
    return {
        name: (float(np.percentile(each, 50)), float(np.percentile(each, 95))) for name, each in both.items() if each
    }


def _evidence(old: Sequence[float], new: Sequence[float]) -> dict[str, Any]:
    """Return each column's milliseconds at every fifth percentile."""
    steps = np.arange(0, 101, 5)
    both = {"old": old, "new": new}
    told = {name: np.round(np.percentile(each, steps), 4).tolist() for name, each in both.items() if each}
    return {"percentiles": steps.tolist(), "milliseconds": told}


async def _times(searcher: Searcher, drawn: Pairs) -> tuple[list[float], list[float]]:
    """Return the best of each search's tries, by column, for the same searches."""
    times: dict[Side, list[float]] = {side: [] for side in Side}
    for start in range(0, len(drawn.keys), TURN):
        wanted = len(drawn.keys[start : start + TURN])
        tries: dict[Side, list[list[float]]] = {side: [] for side in Side}
        for _ in range(_TRIES):
            for side in Side:
                found = await searcher.find(side, drawn.vectors[side][start : start + TURN])
                tries[side].append([each.milliseconds for each in found])
        done = min(len(each) for side in Side for each in tries[side])
        for side in Side:
            times[side] += [min(each[place] for each in tries[side]) for place in range(done)]
        if done < wanted:
            break
    return times[Side.FROM], times[Side.TO]
