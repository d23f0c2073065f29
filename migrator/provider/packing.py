"""Packing texts into requests: by count and by tokens, in the order they come, identical texts once.

Floor 1. Pure. The order is the page lane's, so that the rows of one request lie on different pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal


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


def sendable(text: str) -> str:
    """Return a text as it is sent: without NUL, which no provider takes and no Postgres text can hold."""
    return text.replace("\0", "")


def group(texts: Sequence[str], positions: Iterable[int]) -> dict[str, list[int]]:
    """Return each distinct text as it is sent, in the order of its first position, with all of its positions."""
    found: dict[str, list[int]] = {}
    for position in positions:
        found.setdefault(sendable(texts[position]), []).append(position)
    return found


def halve(run: list[str]) -> list[list[str]]:
    """Cut a run of two or more in two."""
    middle = (len(run) + 1) // 2
    return [run[:middle], run[middle:]]


def binding(counts: Sequence[int], limit: int, *, slack: float) -> Literal["text", "request"] | None:
    """Say what a refusal for too many tokens is about, by our own counts; None where they can't tell.

    The same sentence is used for a text and for a whole request (Model Studio prints one figure for both).
    `slack` is how far our counts may be off, as a factor.
    """
    if max(counts) > limit * slack:
        return "text"
    if max(counts) * slack <= limit and sum(counts) > limit * slack:
        return "request"
    return None
