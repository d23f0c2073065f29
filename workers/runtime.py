"""What a worker's child process keeps between tasks: one event loop, one engine, one HTTP client per key.

Floor 4. Promise: made on first use, so always after the fork; closed when the child ends. A loop per task would close
under the pools that live longer than it. SIGTERM to a child (a cold shutdown, Flower's "terminate") ends the step in
hand by cancelling it, so that its lease is given back and counts no attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown

from migrator import settings
from migrator.provider import tokens
from migrator.spending.worker import Worker

T = TypeVar("T")

#: Objects made between two collections of the young, and of those, collections between two of the older: a landing
#: makes thousands that die with it, and Python's 700 had a tenth of a process's time go into looking at them.
_GC_THRESHOLDS = (50_000, 20, 50)


class _Process:
    """The resources of one process, told apart by its pid in case somebody forks after all."""

    pid: int | None = None
    #: Whether this is a child of a prefork pool: elsewhere SIGTERM is Celery's own, a warm shutdown.
    is_child: bool = False
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
        with _ended_by_sigterm():
            return await step(worker)

    try:
        return _Process.runner.run(whole())
    except asyncio.CancelledError:
        # What was to be given back was; nothing else of this process is wanted.
        raise SystemExit(128 + signal.SIGTERM) from None


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM cancel the current task, in a pool's child."""
    task = asyncio.current_task()
    if not _Process.is_child or task is None:
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def spare_the_collector() -> None:
    """Keep what was imported out of garbage collection, which it would cost each time, and collect more seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def stand_back() -> None:
    """Let everything else on this machine go first, as far as MIGRATOR_NICE says; nicer than that it may be already."""
    wanted = settings.load().nice
    if os.getpriority(os.PRIO_PROCESS, 0) < wanted:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    # Linux groups processes by their sessions, and niceness counts within one: the group has one of its own.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(wanted), encoding="ascii")


@worker_init.connect
def read_before_fork(**_: Any) -> None:
    """Read what every child needs, once for all of them: the tokenizer, for which each took 0.2 s of a processor.

    A child that read it for itself did so under its first lease, and again after each that was replaced.
    """
    tokens.exact_counter()


@worker_process_init.connect
def note_child(**_: Any) -> None:
    """Remember that this process is a pool's child."""
    _Process.is_child = True
    spare_the_collector()
    stand_back()


@worker_process_shutdown.connect
@worker_shutdown.connect
def close(**_: Any) -> None:
    """Close what this process opened."""
    if _Process.pid != os.getpid() or _Process.runner is None or _Process.worker is None:
        return
    _Process.runner.run(_Process.worker.close())
    _Process.runner.close()
    _Process.pid = _Process.runner = _Process.worker = None
