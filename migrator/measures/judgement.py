"""Where to cut between two samples of scores, and how surely: what rows held out say of a discriminant.

Floor 0. Pure. Promise: a bound that can't be had from so few rows is not given; the sample of the new generation may
hold what is looked for, vectors that the old model made, without spoiling the cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What a rule must keep to on rows held out: of the old generation's vectors it misses 1 % at the most, of the new
#: generation's it accuses one in 10,000.
MAX_MISS_SHARE, MAX_ALARM_SHARE = 0.01, 1e-4
#: So few rows are held out of a small table that little is certain of them: the share missed is below this at 95 %, and
#: so many of all its rows may be accused wrongly.
MAX_MISS_BOUND, MAX_ALARM_ROWS = 0.05, 2
#: Where few rows have both vectors, such as after a rollback, what they can't prove is not held against the spaces: a
#: bound is good enough that is so near the best of so many rows, and below MAX_MISS_BOUND.
_NEAR_BEST = 4
#: Where between the two medians a cut may lie, and how far out a tail is looked at to bound what lies beyond the cut.
_CUTS = np.linspace(0.05, 0.95, 181)
#: The share of the old generation's scores below which an accused vector is none of theirs, but of the others' tail.
_LOWEST = 0.01
_TAILS = (0.5, 0.6, 0.7)
#: Half of the misses that are allowed are given for fewer alarms: a vector that is accused stops the migration, and of
#: a batch that another model answered nearly all are found.
_SPARED = 0.5
#: A cut that costs as little as the best but for this factor is as good: the middle of those keeps the widest berth.
_AS_GOOD = 1.05
#: Rounds in which what may lie beyond the cut is added to what it is bounded by, until it stays.
_ROUNDS = 100

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What held-out rows say of a direction. A vector is taken for the old generation's above `cut`.

    Units: shares of rows. The bounds hold at 95 %, where the scores' tails fall off as those of a log-concave density.
    """

    rows: int
    cut: float
    held_out: int
    misses: int
    alarms: int
    miss_bound: float
    alarm_bound: float

    @property
    def tells_apart(self) -> bool:
        """Whether the rule is good enough for this table."""
        missed = self.misses / max(self.held_out, 1)
        sure = self.miss_bound <= MAX_MISS_BOUND and self.alarm_bound <= max_alarm_share(self.rows, self.held_out)
        return self.held_out > 0 and missed <= MAX_MISS_SHARE and sure

    @property
    def allowance(self) -> int:
        """How many of the table's rows may be accused although nothing is wrong with them."""
        return int(min(self.alarm_bound, MAX_ALARM_SHARE) * self.rows)


def max_alarm_share(rows: int, held_out: int) -> float:
    """Return the largest share that may be accused wrongly of a table of so many rows, so many of them held out."""
    best = _extrapolated(_upper(0, max(held_out, 1)), _TAILS[0], rounds=1)
    return max(MAX_ALARM_SHARE, MAX_ALARM_ROWS / max(rows, 1), min(_NEAR_BEST * best, MAX_MISS_BOUND))


def judge(old: Scores, new: Scores, *, rows: int) -> Judgement:
    """Choose the cut between two samples of held-out scores of a table of so many rows, and bound both errors there.

    The new sample may hold vectors that the old model made: that is what is looked for. They score as the old ones do,
    in a hump of their own, so what is bounded is the tail of the others, by how many lie short of that hump.
    """
    low, high = (float(np.median(each)) if len(each) else 0.0 for each in (new, old))
    count = min(len(old), len(new))
    if count == 0 or not high > low:
        return Judgement(rows, high, count, count, count, 1.0, 1.0)
    above, below = np.sort((new - low) / (high - low)), np.sort((high - old) / (high - low))
    hump = 1 - float(np.quantile(below, 1 - _LOWEST))
    alarms = np.array([_beyond(above, cut, others_from=max(cut, hump)) for cut in _CUTS])
    misses = np.array([_beyond(below, 1 - cut) for cut in _CUTS])
    costs = np.maximum(alarms / max_alarm_share(rows, count), misses / MAX_MISS_SHARE)
    sparing = misses <= _SPARED * MAX_MISS_SHARE
    if sparing.any():
        costs = np.where(sparing, alarms, np.inf)
    good = np.flatnonzero(costs <= costs.min() * _AS_GOOD)
    best = int(good[len(good) // 2])
    cut = low + float(_CUTS[best]) * (high - low)
    missed, accused = int((old <= cut).sum()), int((new > cut).sum())
    return Judgement(rows, cut, count, missed, accused, float(misses[best]), float(alarms[best]))


def _beyond(ordered: Scores, cut: float, *, others_from: float | None = None) -> float:
    """Bound the share beyond `cut` of a population with its median at 0, from a sample in ascending order.

    What lies beyond `others_from` may be of another population, and is then not counted, but solved for.
    """
    count = len(ordered)
    others = 0 if others_from is None else _outside(ordered, others_from)
    bounds = [_upper(_outside(ordered, cut), count)]
    for tail in _TAILS:
        near = _upper(_outside(ordered, tail * cut) - others, count)
        bounds.append(_extrapolated(near, tail, rounds=1 if others_from is None else _ROUNDS))
    return min(1.0, *bounds)


def _outside(ordered: Scores, place: float) -> int:
    return len(ordered) - int(np.searchsorted(ordered, place, side="right"))


def _extrapolated(near: float, tail: float, *, rounds: int) -> float:
    """Bound the share beyond 1 by the share beyond `tail`, half lying beyond 0: a log-concave tail falls ever faster.

    With more than one round, `near` leaves out what lies beyond 1 itself, and that is added until it stays.
    """
    bound = 0.0
    for _ in range(rounds):
        bound = min(1.0, 0.5 * (2 * (near + bound)) ** (1 / tail))
    return bound


def _upper(found: int, count: int) -> float:
    """Bound a share at 95 % by what was found of it in a sample: 3 / n for none, a little above Poisson's else."""
    return min(1.0, (found + 1.65 * math.sqrt(found) + 3) / count)
