"""Readers' readiness: who searches the column, and whether each can embed its queries with the generation to come.

Floor 3. Promise: a swap that nobody watches goes on only where somebody was heard and everybody who was heard is ready;
who is not is named. Nobody is taken for ready because of being silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.cutover.swapping import Direction
from migrator.errors import OperatorError
from migrator.generation import Generation
from migrator.spending.worker import Worker
from migrator.state import migrations, readers
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.readers import BELIEVED_SECONDS, HEARD_SECONDS, Heard

Tell = Callable[[str], None]
_MINUTES = HEARD_SECONDS // 60


@dataclass(eq=False)
class ReadersUnknown(OperatorError):
    """No reader said anything of itself, and nobody spoke for them."""

    name: str

    runbook = "cutover"
    happened = (
        f"No reader of {{name}} was heard in the last {_MINUTES} minutes, and it was not said that they are ready."
    )
    state = "Nothing was changed."
    next = "Let them use migrator.client (docs/applications.md), or add --readers-ready to `migrator cutover {name}`."


@dataclass(eq=False)
class ReadersNotReady(OperatorError):
    """Readers that were heard lately can't embed queries with the new generation."""

    name: str
    generation: str
    who: str

    runbook = "cutover"
    happened = "Readers of {name} can't embed queries with {generation} yet: {who}."
    state = "Nothing was changed."
    next = (
        f"Deploy them with that model; one that is gone is forgotten after {_MINUTES} minutes. Then, or with"
        " --readers-ready, run `migrator cutover {name}` again."
    )


@dataclass(frozen=True, slots=True)
class Readiness:
    """Who was heard lately before a swap, and what they must be able to embed with after it."""

    name: str
    generation: Generation
    heard: list[Heard]

    @property
    def lacking(self) -> list[Heard]:
        """Those that can't."""
        return [each for each in self.heard if not each.is_ready(str(self.generation))]

    def lines(self) -> list[str]:
        """Return a line per reader, or one that says that none was heard."""
        if not self.heard:
            return [f"no reader was heard in the last {_MINUTES} minutes"]
        return [
            f"reader {_who(each)}: {'ready' if each.is_ready(str(self.generation)) else 'NOT READY'} for"
            f" {self.generation}, {_how(each)}"
            for each in self.heard
        ]

    def refuse(self) -> None:
        """Make sure that the swap may go on with nobody to ask.

        Raises: ReadersUnknown, ReadersNotReady.
        """
        if not self.heard:
            raise ReadersUnknown(self.name)
        if self.lacking:
            who = "; ".join(f"{_who(each)}, {_how(each)}" for each in self.lacking)
            raise ReadersNotReady(self.name, str(self.generation), who)


async def look(worker: Worker, migration: Migration, direction: Direction) -> Readiness:
    """Look at the readers before a swap that way."""
    async with transaction(worker.engine, read_only=True) as connection:
        found = await readers.heard(connection, migration.id)
    return Readiness(migration.name, migration.generation(direction.side), found)


async def until_told(worker: Worker, migration: Migration, tell: Tell) -> None:
    """Wait until no reader believes any more what it was told before the start: that it needs one model only.

    It would fail from the swap until it asks again. On a table that takes longer than a minute nothing is left to wait.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        now = await migrations.database_now(connection)
    age = (now - migration.started_at).total_seconds() if migration.started_at is not None else BELIEVED_SECONDS
    if age < BELIEVED_SECONDS:
        tell(f"waiting {BELIEVED_SECONDS - age:.0f} s for readers that asked before the start to ask again")
        await asyncio.sleep(BELIEVED_SECONDS - age)


async def read(connection: AsyncConnection, migration: Migration) -> list[dict[str, Any]]:
    """Return the shape of `readers` in `status --json`; its keys stay."""
    both = (str(migration.from_generation), str(migration.to_generation))
    return [
        {
            "application": each.application,
            "role": each.role,
            "processes": each.processes,
            "generations": [name for name in both if each.is_ready(name)],
            "last_seen": each.last_seen.isoformat(),
            "age_seconds": round(each.age_seconds, 1),
        }
        for each in await readers.heard(connection, migration.id)
    ]


def told(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the same for people."""
    return [
        f"{each['application'] or 'without a name'} (role {each['role']}): {each['processes']} heard,"
        f" the last {each['age_seconds']:.0f} s ago; embeds with {', '.join(each['generations']) or 'neither'}"
        for each in found
    ]


def _who(each: Heard) -> str:
    return f"{each.application or 'without a name'} (role {each.role})"


def _how(each: Heard) -> str:
    can = "; ".join(f"{count} of {each.processes} can {name}" for name, count in sorted(each.can.items()))
    return f"{can or 'it can neither'}, heard {each.age_seconds:.0f} s ago"
