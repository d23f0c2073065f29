"""A discriminant: which of two generations made a vector, learnt from vectors of both for the same texts.

Floor 0. Pure. Two models of equal dimensions seldom put their vectors in the same place. Each has a mean of its own,
and one direction, Fisher's, tells the means apart best: a product per vector, cheap enough for a whole column. And each
spreads its vectors along a few directions of its own: how much of a vector lies along either model's tells apart also
spaces of one mean, and settles what the first direction leaves in doubt. How good a rule is, rows say that did not
teach it (`judgement`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Cosine from which a row's two vectors are one vector, and teach nothing: somebody copied it.
ECHO_COSINE = 0.999
#: Dimensions up to which all pairs of components are weighed: 128 MB of covariance. Beyond, each component by itself.
_MAX_FULL_DIMS = 4096
#: Directions that stand for a space: 64 hold most of what a model spreads. Measured on 3,000 leads and two real models,
#: 24 draws: with 32 one odd text was accused in 5 draws, with 64 and with 128 in none. Of few pairs, fewer: they must
#: not be fitted to single rows.
_SPREAD, _PAIRS_PER_DIRECTION = 64, 4
#: Pairs from which on halves teach enough to look at each other.
_FEWEST_PAIRS = 40
#: Rounds of subspace iteration: the leading directions need not be exact, only the space's own.
_ROUNDS = 4
#: A feature that spreads less than this, as among three pairs, is taken to spread so much.
_LEAST_SPREAD = 1e-6
#: How much farther from its median than the lowest held out a vector of the old generation may lie along the first
#: direction: below that nothing is looked at more closely.
_BERTH = 1.25

Vectors = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Space:
    """Where one generation's vectors lie: their mean, and the directions along which they differ (dims x few)."""

    mean: Vectors
    spread: Vectors

    def share(self, vectors: Vectors) -> Scores:
        """Return the logarithm of how much of each vector lies along this space's directions."""
        along = (vectors - self.mean) @ self.spread
        share: Scores = np.log(np.einsum("ij,ij->i", along, along).astype(np.float64) + np.finfo(np.float32).tiny)
        return share


@dataclass(frozen=True, slots=True)
class Discriminant:
    """A learnt rule: the higher the score, the likelier the old generation made the vector."""

    direction: Vectors
    old: Space
    new: Space
    weights: Scores

    def along(self, vectors: Vectors) -> Scores:
        """Return the products with the first direction: one per row."""
        products: Scores = (vectors @ self.direction).astype(np.float64)
        return products

    def score(self, vectors: Vectors) -> Scores:
        """Return the scores: one per row."""
        return self._features(vectors) @ self.weights

    def _features(self, vectors: Vectors) -> Scores:
        return np.stack([self.along(vectors), self.old.share(vectors), self.new.share(vectors)], axis=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """A discriminant with its places on both scales: beyond `gate` a vector is looked at, above `cut` accused.

    The other way round, a vector that stands among the old generation's is accused below `old_cut`, if it lies as far
    along the first direction as the new one's do (`old_gate`, on the turned scale): a text of a kind that nobody taught
    lies near neither. Both None where no cut could be found that seldom accuses one of theirs.
    """

    discriminant: Discriminant
    gate: float
    cut: float
    old_cut: float | None = None
    old_gate: float | None = None

    def accuses(self, vectors: Vectors) -> NDArray[np.bool_]:
        """Say of each vector whether it looks like the old generation's."""
        beyond: NDArray[np.bool_] = self.discriminant.along(vectors) > self.gate
        return beyond & (self.discriminant.score(vectors) > self.cut)

    def accuses_old(self, vectors: Vectors) -> NDArray[np.bool_] | None:
        """Say of each vector whether it looks like the new generation's; None where nobody can say."""
        if self.old_cut is None or self.old_gate is None:
            return None
        beyond: NDArray[np.bool_] = -self.discriminant.along(vectors) > self.old_gate
        return beyond & (self.discriminant.score(vectors) < self.old_cut)


def learn(old: Vectors, new: Vectors) -> Discriminant | None:
    """Learn the rule from vectors of the same texts; None where no pair teaches anything.

    Shape: both n x dims.   Pairs that are one vector are left out, and those whose new vector the others take for old.
    Cost: products dims x n x dims, one solution of dims equations, both twice; memory of a few dims x dims arrays.
    Source: Fisher's linear discriminant, with the shrinkage of Ledoit and Wolf, "A well-conditioned estimator for
    large-dimensional covariance matrices" (2004), which keeps it sound where pairs are fewer than dimensions.
    """
    taught = ~echoes(old, new)
    first, second = old[taught], new[taught]
    if not len(first):
        return None
    kept = _unmixed(first, second)
    return _fit(first[kept], second[kept])


def _unmixed(first: Vectors, second: Vectors) -> NDArray[np.bool_]:
    """Say which pairs may teach: each half is looked at by what the other half taught.

    A vector in the wrong place among its teachers would become one of that space's own directions, and be missed.
    """
    kept: NDArray[np.bool_] = np.ones(len(first), dtype=np.bool_)
    if len(first) < _FEWEST_PAIRS:
        return kept
    for half in (0, 1):
        rule = _fit(first[1 - half :: 2], second[1 - half :: 2])
        old, new = rule.score(first[half::2]), rule.score(second[half::2])
        kept[half::2] = new <= (np.median(old) + np.median(new)) / 2
    return kept


def _fit(first: Vectors, second: Vectors) -> Discriminant:
    means = first.mean(axis=0), second.mean(axis=0)
    centred = first - means[0], second - means[1]
    direction = _direction(np.concatenate(centred), means[0].astype(np.float64) - means[1])
    few = max(1, min(_SPREAD, len(first) // _PAIRS_PER_DIRECTION))
    spaces = [Space(mean, _leading(each, few)) for mean, each in zip(means, centred, strict=True)]
    rule = Discriminant(direction, spaces[0], spaces[1], np.array([1.0, 0.0, 0.0]))
    features = [rule._features(each) for each in (first, second)]  # noqa: SLF001 - its own module
    within = np.concatenate([each - each.mean(axis=0) for each in features])
    scale = np.maximum(within.std(axis=0), _LEAST_SPREAD)
    between = (features[0].mean(axis=0) - features[1].mean(axis=0)) / scale
    weights = _direction(within / scale, between).astype(np.float64) / scale
    return Discriminant(direction, spaces[0], spaces[1], weights)


def echoes(old: Vectors, new: Vectors) -> NDArray[np.bool_]:
    """Say of each pair whether both are one vector."""
    lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    same: NDArray[np.bool_] = np.einsum("ij,ij->i", old, new) >= ECHO_COSINE * lengths
    return same


def gate(old_along: Scores) -> float:
    """Return the product with the first direction below which no vector of the old generation lies."""
    middle = float(np.median(old_along))
    return middle - _BERTH * (middle - float(old_along.min()))


def _leading(centred: Vectors, few: int) -> Vectors:
    """Return the directions along which centred vectors differ most, by subspace iteration."""
    start = np.random.default_rng(0).standard_normal((centred.shape[1], few)).astype(np.float32)
    basis = np.linalg.qr(start)[0]
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    leading: Vectors = basis.astype(np.float32)
    return leading


def _direction(within: NDArray[np.floating], between: Scores) -> Vectors:
    """Return Fisher's direction, of length 1: the difference of the means in units of the spread around them."""
    whitened = _whitened(within, between)
    length = float(np.linalg.norm(whitened))
    unit: Vectors = (whitened / length if length > 0 else whitened).astype(np.float32)
    return unit


def _whitened(within: NDArray[np.floating], between: Scores) -> Scores:
    count, dims = within.shape
    spread = np.einsum("ij,ij->j", within, within).astype(np.float64) / count
    average = float(spread.mean())
    if average <= 0:
        return between
    if dims > _MAX_FULL_DIMS:
        scaled: Scores = between / (spread + average)
        return scaled
    covariance = (within.T @ within).astype(np.float64) / count
    squares = float((covariance**2).sum())
    distance = squares - dims * average**2
    fourth = float((np.einsum("ij,ij->i", within, within).astype(np.float64) ** 2).sum())
    noise = fourth / count**2 - squares / count
    shrinkage = float(np.clip(noise / distance, 1e-6, 1)) if distance > 0 else 1.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(dims)] += shrinkage * average
    solved: Scores = np.linalg.solve(covariance, between)
    return solved
