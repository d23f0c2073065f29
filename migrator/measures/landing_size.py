"""How many rows a writing transaction takes, and how long to rest after it: held to a duration.

Floor 0, pure sums. Promise: growth is slow (at most 1.2-fold at a time, and only after twenty measurements), shrinking
is immediate. Requests to the provider are paced by tokens elsewhere; the two controllers know nothing of each other.
Source: GitLab's batch optimizer (exponential mean of 20 jobs, alpha 0.4, no change between 0.90 and 0.95 of the target,
growth capped at 1.2); gh-ost's nice-ratio for the rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Weight of the newest measurement, and how many are looked at.
_ALPHA, _MEMORY = 0.4, 20
#: Shares of the target duration between which nothing is changed, and the most that a size may grow at once.
_LOW, _HIGH, _GROWTH = 0.90, 0.95, 1.2
#: Rows. Ten texts are the smallest request that providers speak of, and an answer lands whole: a smaller size would
#: mean nothing. 2,048 is the most that any known provider takes in one request.
_FIRST, _FEWEST, _MOST = 100, 10, 2048
#: While a signal binds, a landing is followed by that many times its own duration of rest, within these seconds.
_NICE, _SHORTEST_REST_SECONDS, _LONGEST_REST_SECONDS = 4.0, 0.05, 2.0


@dataclass(slots=True)
class LandingSize:
    """The size of one process's writing transactions on one table. `target_seconds` may be changed at any time."""

    target_seconds: float
    _rows: float = float(_FIRST)
    #: Seconds per row, newest first.
    _pace: deque[float] = field(default_factory=lambda: deque(maxlen=_MEMORY))

    @property
    def rows(self) -> int:
        """Rows that one transaction may take together now."""
        return int(self._rows)

    def took(self, rows: int, seconds: float) -> None:
        """Learn from a transaction of so many rows."""
        if rows < 1:
            return
        if seconds > self.target_seconds:
            self._pace.appendleft(seconds / rows)
            self._resize(_HIGH * self.target_seconds / seconds * min(rows, self._rows))
            return
        # A transaction much smaller than the size tells of its overhead, not of what its rows cost.
        if rows * 2 < self._rows:
            return
        self._pace.appendleft(seconds / rows)
        if len(self._pace) < _MEMORY:
            return
        weights = [(1 - _ALPHA) ** age for age in range(len(self._pace))]
        pace = sum(weight * each for weight, each in zip(weights, self._pace, strict=True)) / sum(weights)
        share = pace * self._rows / self.target_seconds
        if not _LOW <= share <= _HIGH:
            self._resize(self._rows * min(_HIGH / share if share > 0 else _GROWTH, _GROWTH))

    def timed_out(self) -> None:
        """Learn from a transaction that was not done in time: half as many rows."""
        self._resize(self._rows / 2)

    def rest_seconds(self, seconds: float, *, throttled: bool) -> float:
        """Return how long to rest after a transaction that took so long: by as much as it was too long, or nicely."""
        rest = max(0.0, seconds - self.target_seconds)
        if throttled:
            rest = max(rest, _NICE * seconds, _SHORTEST_REST_SECONDS)
        return min(rest, _LONGEST_REST_SECONDS)

    def _resize(self, rows: float) -> None:
        self._rows = max(float(_FEWEST), min(float(_MOST), rows))
