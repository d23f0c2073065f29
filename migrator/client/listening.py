"""Hearing of a swap as it happens: `LISTEN migrator_live`.

Floor 0. It saves waiting, and correctness never rests on it: a notification comes after the swap's commit, and none
comes from a standby or through a transaction pooler, where LISTEN has no session to belong to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrator.client.window import Window

if TYPE_CHECKING:
    import psycopg


def listen(connection: psycopg.Connection[Any], *readers: Window, timeout_seconds: float | None = None) -> None:
    """Let readers forget what they knew whenever a column was swapped; returns at the timeout, or never.

    connection: one of its own, in autocommit, in a thread of its own.
    """
    connection.execute("LISTEN migrator_live")
    _forget(readers)  # a swap may have come before
    for _ in connection.notifies(timeout=timeout_seconds):
        _forget(readers)


async def listen_async(
    connection: psycopg.AsyncConnection[Any], *readers: Window, timeout_seconds: float | None = None
) -> None:
    """Listen as `listen` does, in a task of its own."""
    await connection.execute("LISTEN migrator_live")
    _forget(readers)
    async for _ in connection.notifies(timeout=timeout_seconds):
        _forget(readers)


def _forget(readers: tuple[Window, ...]) -> None:
    for reader in readers:
        reader.forget()
