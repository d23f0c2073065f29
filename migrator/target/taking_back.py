"""Taking vectors back, round after round, until none is left that should be or what is left stays locked.

Floor 1. Promise: a row that the application holds is waited for, not for long, and what was taken back until then is
told: each handful is committed by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from migrator.errors import TransientError

#: Rounds before rows that stay locked are given up, and seconds between two of them.
_ROUNDS, _PAUSE_SECONDS = 20, 0.25


@dataclass(eq=False)
class RowsHeld(TransientError):
    """Open transactions hold rows whose vectors are to be taken back."""

    name: str
    left: int
    taken: int

    runbook = "lock-timeout"
    happened = "Rows of {name} whose vectors are to be taken back are held by open transactions: {left} of them."
    state = (
        "{taken} vectors were taken back, the others are as they were; rows without their live vector are absent from "
        "search until it is made again."
    )
    next = "Find and end those transactions, then run the same command again; `migrator status {name}` shows the rest."


async def rounds(take: Callable[[], Awaitable[int]], count: Callable[[], Awaitable[int]], *, name: str) -> int:
    """Take back what is free until nothing is left; returns how many vectors that was.

    Raises: RowsHeld.
    """
    total = 0
    for _ in range(_ROUNDS):
        total += await take()
        left = await count()
        if not left:
            return total
        await asyncio.sleep(_PAUSE_SECONDS)
    raise RowsHeld(name, left, total)
