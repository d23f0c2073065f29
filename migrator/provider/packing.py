"""Packing texts into requests: by count and by tokens, in the order they come.

Floor 1. Pure. The order is the page lane's, so that the rows of one request lie on different pages.
"""

from __future__ import annotations

from collections.abc import Sequence


def pack(tokens: Sequence[int], *, max_texts: int, max_tokens: int) -> list[range]:
    """Cut positions 0..n-1 into runs that fit a request; a text that alone is over the limit gets a run of its own."""
    runs: list[range] = []
    start, total = 0, 0
    for position, count in enumerate(tokens):
        if position > start and (position - start >= max_texts or total + count > max_tokens):
            runs.append(range(start, position))
            start, total = position, 0
        total += count
    if start < len(tokens):
        runs.append(range(start, len(tokens)))
    return runs
