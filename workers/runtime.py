"""What a worker's child process keeps between tasks: one event loop, one engine, one HTTP client per key.

Floor 4. Promise: made on first use, so always after the fork; closed when the child ends. A loop per task would close
under the pools that live longer than it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from celery.signals import worker_process_shutdown, worker_shutdown

from migrator.spending.worker import Worker

T = TypeVar("T")


class _Process:
    """The resources of one process, told apart by its pid in case somebody forks after all."""

    pid: int | None = None
    runner: asyncio.Runner | None = None
    worker: Worker | None = None


def run(step: Callable[[Worker], Awaitable[T]]) -> T:
    """Run a step in this process's loop, with this process's worker."""
    if _Process.pid != os.getpid():
        _Process.pid, _Process.runner, _Process.worker = os.getpid(), asyncio.Runner(), Worker.make("worker")
    assert _Process.runner is not None  # noqa: S101 - made just above
    assert _Process.worker is not None  # noqa: S101 - made just above
    worker = _Process.worker

    async def whole() -> T:
        return await step(worker)

    return _Process.runner.run(whole())


@worker_process_shutdown.connect
@worker_shutdown.connect
def close(**_: Any) -> None:
    """Close what this process opened."""
    if _Process.pid != os.getpid() or _Process.runner is None or _Process.worker is None:
        return
    _Process.runner.run(_Process.worker.close())
    _Process.runner.close()
    _Process.pid = _Process.runner = _Process.worker = None
