"""Pages into batches: how wide a window of heap pages is, by arithmetic on the relation's size.

Floor 1. Pure. A window is a lane wide at least: one row of every page fills many requests before the same page comes
again, so that what the first row left is pruned by then. It is narrow enough that a small table still gives a few
workers a batch each. No statement over the table is needed.
"""

from __future__ import annotations

import math

#: Rows a batch aims at where rows are few to a page: about 50 requests of 10, ten seconds of four in flight at 0.8 s.
BATCH_ROWS = 500
#: Pages of a lane: three landings of 256 rows. Room on a page is free only when nobody's snapshot is older than the
#: commit that left it, and other workers' landings are such snapshots: a page must rest for longer than one of them.
LANE_PAGES = 768
#: A lane shorter than this would come back to a page within three requests of 10, before the first of them landed.
MIN_PAGES = 32
#: Batches that a table is cut into before its lanes get longer: two for each process of a worker of two. With twice as
#: many, lanes of a table of 20,000 rows take landings of half the rows, or their pages do not rest.
MIN_BATCHES = 4
#: Rows of a batch from which on its lanes get no longer than NARROW_PAGES: three minutes at the 50 rows a second of
#: BATCH_ROWS, which is as long as units and pods wait for a worker that is told to stop.
MOST_ROWS, NARROW_PAGES = 9_000, 256


def width(pages: int, rows: int) -> int:
    """Return how many pages a window has."""
    per_page = max(rows / pages, 0.1) if pages else 1.0
    longest = min(LANE_PAGES, max(NARROW_PAGES, int(MOST_ROWS / per_page)))
    lane = min(longest, max(MIN_PAGES, math.ceil(pages / MIN_BATCHES)))
    return max(lane, math.ceil(BATCH_ROWS / per_page))
