"""Stratified samples: rare kinds of rows are there to be seen, and weights say what each drawn row stands for.

Floor 0. Pure: the seed is a parameter.
Source: Cochran: Sampling Techniques, 1977, chapter 5 (proportional allocation; the weight of a row is N_h / n_h).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Rows that a stratum gets at least, where it has them: fewer say nothing of a slice.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Drawn:
    """One drawn row: its position, and how many rows of the whole it stands for."""

    position: int
    weight: float


def allocate(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Return how many rows each stratum gives: in proportion, but FEWEST where it has them, and never more than it has.

    The sum is `wanted`, or all there are. Where there are more strata than rows are wanted, the largest give one each.
    """
    names = sorted((name for name in sizes if sizes[name] > 0), key=lambda name: (-sizes[name], name))
    total = sum(sizes[name] for name in names)
    wanted = min(wanted, total)
    if not wanted:
        return {}
    least = min(FEWEST, max(1, wanted // len(names)))
    given = {name: min(sizes[name], least) for name in names[:wanted]}
    for _ in range(wanted - sum(given.values())):
        # Whoever would give the smallest share of itself, of those that have a row left.
        behind = [name for name in given if given[name] < sizes[name]]
        given[min(behind, key=lambda name: ((given[name] + 1) / sizes[name], name))] += 1
    return given


def draw(strata: Sequence[str], wanted: int, *, seed: int) -> list[Drawn]:
    """Draw rows, by the stratum that each is in; in the order in which they came."""
    sizes = Counter(strata)
    random = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for position, name in enumerate(strata):
        places.setdefault(name, []).append(position)
    found = [
        Drawn(int(position), sizes[name] / count)
        for name, count in allocate(sizes, wanted).items()
        for position in random.choice(places[name], count, replace=False)
    ]
    return sorted(found, key=lambda each: each.position)


def thirds(lengths: Sequence[int]) -> tuple[float, float]:
    """Return the lengths up to which a row is of the shortest third, and of the middle one."""
    if not lengths:
        return 0.0, 0.0
    low, high = np.quantile(np.asarray(lengths), [1 / 3, 2 / 3])
    return float(low), float(high)


def third(length: int, bounds: tuple[float, float]) -> str:
    """Return which third a length belongs to."""
    low, high = bounds
    if low == high:
        return "alike in length"
    return "short" if length <= low else "middling" if length <= high else "long"
