"""Swaps as tests make them: in this process, without an operator."""

from __future__ import annotations

from collections.abc import Sequence

from migrator.cutover import swapping
from migrator.cutover.swapping import CUTOVER
from migrator.orchestrator import attended, unblocking
from migrator.spending.worker import Worker
from migrator.target import message
from migrator.target.swap import Bounds
from tests.integration.steps import stored

ANY = Bounds(1000, 1000.0)


def quiet(*_: object) -> None:
    """Nobody listens."""


async def cut_over(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.cut_over(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def roll_back(worker: Worker, rows: int = 100) -> attended.Swapped:
    return await attended.roll_back(worker, "docs", max_dirty_rows=rows, actor="test", tell=quiet)


async def unblock(worker: Worker) -> None:
    await unblocking.unblock(worker, "docs", actor="test", tell=quiet)


async def resume(worker: Worker) -> str:
    """Put the triggers on again; returns the status then."""
    return str((await unblocking.resume(worker, "docs", actor="test", tell=quiet)).status)


async def swap(worker: Worker, direction: swapping.Direction = CUTOVER, ladder: Sequence[float] = ()) -> message.Timing:
    """The swap alone, without waiting for anything."""
    return await swapping.swap(
        worker.engine, await stored(worker), direction, bounds=ANY, actor="test", on_wait=quiet, ladder=ladder
    )
