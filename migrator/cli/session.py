"""One command's stay in the event loop: it enters by one `asyncio.run`, and everything it opened is closed again.

Floor 4.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from migrator.cli import console
from migrator.errors import MigratorError
from migrator.spending.worker import Worker
from migrator.state import schema
from migrator.state.connection import transaction

T = TypeVar("T")


def actor() -> str:
    """Return who is at the terminal, as transitions show it: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def tell_waiting(name: str) -> None:
    """Say that hooks are not told yet of what was just done, where nobody is there to do it.

    That was told before: a database that does not answer any more must not make it look undone.
    """
    from migrator.orchestrator import telling

    with contextlib.suppress(MigratorError):
        line = run(lambda worker: telling.waiting(worker.engine, name))
        if line is not None:
            console.aside(line)


def run(step: Callable[[Worker], Awaitable[T]], *, with_schema: bool = True) -> T:
    """Run a command's step with a worker of its own.

    Raises: SchemaMissing, SchemaOutdated, unless the step can do without schema `migrator`.
    """

    async def whole() -> T:
        worker = Worker.make("cli")
        try:
            if with_schema:
                async with transaction(worker.engine, read_only=True) as connection:
                    await schema.require(connection)
            return await step(worker)
        finally:
            await worker.close()

    return asyncio.run(whole())
