"""Pages into batches: how wide a window of heap pages is, by arithmetic on the relation's size.

Floor 1. Pure. A window is wide enough that a lane (one row of every page) fills many requests before it comes back to
the same page, and narrow enough that a killed worker's batch is small. No statement over the table is needed.
"""

from __future__ import annotations

import math

#: Rows a batch aims at: about 50 requests of 10, ten seconds of four in flight at 0.8 s each.
BATCH_ROWS = 500
#: A lane shorter than this would touch a page again within a few transactions, before pruning can free its room.
MIN_PAGES = 32


def width(pages: int, rows: int) -> int:
    """Return how many pages a window has."""
    per_page = max(rows / pages, 0.1) if pages else 1.0
    return max(MIN_PAGES, math.ceil(BATCH_ROWS / per_page))
