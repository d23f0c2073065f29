"""Old against new on the sample: both models' queries among the rows that have both vectors, every row looked at.

Floor 2. Pure: the seed is a parameter. Among a thousand rows a query finds more easily what it finds among a million;
what is told is the difference between two models on the same rows, not what an application will see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migrator.measures import bootstrap, procrustes, rankings, scores, slices
from migrator.measures.bootstrap import Interval
from migrator.measures.nearest import nearest
from migrator.measures.procrustes import Bridge
from migrator.pilot.asking import Asked, Key

#: How deep rankings are compared; what searches show on their first page.
DEPTH = 10


@dataclass(frozen=True, slots=True)
class Space:
    """One model's vectors: of the rows, and of the queries. Shape: rows x dims, queries x dims."""

    rows: NDArray[np.float32]
    queries: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found. `means`: old and new of each measure; `changes`: of nDCG@10, in all and by slice."""

    kind: str
    rows: int
    queries: int
    means: dict[str, list[float]]
    changes: dict[str, Interval]
    overlap: float | None
    bridge: Bridge | None

    @property
    def change(self) -> Interval | None:
        """By how much nDCG@10 changed in all; None where no query could tell."""
        return self.changes.get("all")

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `--json` prints and Postgres keeps."""
        return asdict(self)


def compare(keys: Sequence[Key], asked: Asked, old: Space, new: Space, *, operator: str, seed: int) -> Outcome:
    """Search both spaces for the same queries.

    `keys`: of the rows, in the order of both spaces'. A query of zeros was refused by a model; it is left out.
    """
    both = [at for at in range(len(asked.texts)) if old.queries[at].any() and new.queries[at].any()]
    first, second = (
        [[keys[row] for row in found] for found in nearest(each.queries[both], each.rows, DEPTH, operator=operator)]
        for each in (old, new)
    )
    there = set(keys)
    scored = [place for place, at in enumerate(both) if asked.relevant[at] & there]
    relevant = [asked.relevant[both[place]] & there for place in scored]
    before, after = (scores.score([each[place] for place in scored], relevant, DEPTH) for each in (first, second))
    weights = [asked.weights[both[place]] for place in scored]
    changes = {}
    if scored:
        places = slices.by_label([asked.labels[both[place]] for place in scored])
        changes["all"] = bootstrap.paired(after.ndcg, before.ndcg, seed=seed, weights=weights)
        changes |= scores.by_slice(places, before, after, seed=seed, weights=weights)
    overlaps = [rankings.overlap(*each, DEPTH) for each in zip(first, second, strict=True)]
    return Outcome(
        kind=asked.kind,
        rows=len(keys),
        queries=len(scored),
        means=scores.means(before, after, DEPTH, weights=weights),
        changes=changes,
        overlap=float(np.mean(overlaps)) if overlaps and keys else None,
        bridge=procrustes.bridge(old.rows, new.rows, seed=seed, depth=DEPTH),
    )
