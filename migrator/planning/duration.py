"""How long a migration takes: hours under each limit, the one that binds, and the date with windows applied.

Floor 2. Pure: the moment of the start is a parameter (the database's clock).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from migrator import settings
from migrator.provider.packing import pack
from migrator.windows import Window, closes_at, opens_at

#: Seconds of a request of so many texts: the published measurement of 0.55 s + 0.025 s a text.
_BASE_SECONDS, _TEXT_SECONDS = 0.55, 0.025
#: Requests in flight: those of one worker as it comes.
IN_FLIGHT = settings.CONCURRENCY
#: Rows a second that the lanes write (measured: 5,482 to 6,901 at 1,024 dimensions, two cores, old HNSW index live).
_WRITTEN_PER_SECOND = 5000
#: Days after which a date would say nothing.
_DAYS = 400


@dataclass(frozen=True, slots=True)
class Hours:
    """Hours by limit. `binds` is the limit that takes longest, in words."""

    by_limit: dict[str, float]
    binds: str

    @property
    def hours(self) -> float:
        """The hours of the limit that binds."""
        return max(self.by_limit.values(), default=0.0)


def texts_per_request(token_counts: Sequence[int], *, max_texts: int, max_tokens: int) -> float:
    """Return how many texts a request takes, as the backfill would pack a sample of them."""
    counts = [min(each, max_tokens) for each in token_counts]
    runs = pack(counts, max_texts=max_texts, max_tokens=max_tokens)
    return len(counts) / len(runs) if runs else float(max_texts)


def hours(
    rows: int,
    token_count: int,
    *,
    texts_per_request: float,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
) -> Hours:
    """Return how long the requests take under each limit."""
    requests = math.ceil(rows / texts_per_request)
    seconds = _BASE_SECONDS + _TEXT_SECONDS * texts_per_request
    limits: dict[str, float] = {}
    if requests_per_minute is not None:
        limits["requests_per_minute"] = requests / requests_per_minute / 60
    if tokens_per_minute is not None:
        limits["tokens_per_minute"] = token_count / tokens_per_minute / 60
    assumed = f"assuming {seconds:.1f} s a request, {IN_FLIGHT} in flight"
    limits["latency"] = requests * seconds / IN_FLIGHT / 3600
    limits["database_writes"] = rows / _WRITTEN_PER_SECOND / 3600
    binds = max(limits, key=lambda name: limits[name])
    if binds == "latency":
        nothing = requests_per_minute is None and tokens_per_minute is None
        binds = f"no limit is set; {assumed}" if nothing else f"latency, {assumed}"
    return Hours(limits, binds)


def finish(start: datetime, needed_hours: float, windows: Sequence[Window]) -> datetime | None:
    """Return when so many hours of work are done, resting outside the windows; None where it is beyond telling."""
    needed = timedelta(hours=min(needed_hours, 24 * _DAYS))
    last = start + timedelta(days=_DAYS)
    now = start
    while now < last:
        opens = opens_at(windows, now)
        if opens is None:
            return None
        closes = closes_at(windows, opens)
        if closes is None:
            return opens + needed if opens + needed < last else None
        if needed <= closes - opens:
            return opens + needed
        needed -= closes - opens
        now = closes
    return None
