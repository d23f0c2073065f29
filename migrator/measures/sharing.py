"""Sharing: one vector beside several texts, found among any number of rows in bounded memory.

Floor 0. Pure. A row is three numbers here: its vector's fingerprint, its text's hash, its place. Promise: memory stays
below MAX_ROWS rows. Beyond that only fingerprints of one slice are kept, then of half of it: a vector's rows are all in
a slice or none, so whatever shares a vector is still found together, and the share of such rows stays unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: Rows kept: 24 bytes each, 48 MB. A table of 2 million rows is looked at whole.
MAX_ROWS = 2_097_152
#: Constants of splitmix64, a mixer whose every bit depends on every bit (public domain, S. Vigna).
_MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Numbers = NDArray[np.uint64]


def fingerprints(*measures: NDArray[np.float64]) -> Numbers:
    """Mix measures of each vector into one number: equal where all of them are equal, bit by bit."""
    mixed: Numbers = np.zeros(len(measures[0]), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for each in measures:
            mixed = (mixed ^ np.ascontiguousarray(each, dtype=np.float64).view(np.uint64)) + _MIX[0]
            mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[2]
            mixed ^= mixed >> np.uint64(31)
    return mixed


def groups(prints: Numbers, texts: Numbers) -> NDArray[np.bool_]:
    """Say of each row whether its vector stands beside another text, too."""
    order = np.lexsort((texts, prints))
    same_vector = prints[order][1:] == prints[order][:-1]
    other_text = same_vector & (texts[order][1:] != texts[order][:-1])
    number = np.concatenate([[0], np.cumsum(~same_vector)])
    shared: NDArray[np.bool_] = np.zeros(len(prints), dtype=np.bool_)
    if len(prints):
        several = np.zeros(number[-1] + 1, dtype=np.bool_)
        several[number[1:][other_text]] = True
        shared[order] = several[number]
    return shared


@dataclass(slots=True)
class Sharing:
    """Rows as they come. `seen` counts all, `slices` how many slices there are, of which one is kept."""

    max_rows: int = field(default_factory=lambda: MAX_ROWS)
    seen: int = 0
    slices: int = 1
    _kept: list[NDArray[np.uint64]] = field(default_factory=list)
    _count: int = 0

    def add(self, prints: Numbers, texts: Numbers, places: Numbers) -> None:
        """Take in some rows."""
        self.take(np.stack([prints, texts, places]), len(prints))

    def take(self, rows: NDArray[np.uint64], seen: int) -> None:
        """Take in rows as `rows` returns them, of so many that were seen."""
        self.seen += seen
        self._keep(rows)
        while self._count > self.max_rows:
            self.slices *= 2
            rows, self._kept, self._count = self.rows, [], 0
            self._keep(rows)

    def _keep(self, rows: NDArray[np.uint64]) -> None:
        kept = rows if self.slices == 1 else rows[:, rows[0] % np.uint64(self.slices) == 0]
        self._kept.append(kept)
        self._count += kept.shape[1]

    @property
    def rows(self) -> NDArray[np.uint64]:
        """The rows that are kept: fingerprints, texts, places."""
        return np.concatenate(self._kept, axis=1) if self._kept else np.empty((3, 0), dtype=np.uint64)
