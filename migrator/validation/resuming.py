"""The look at every vector, gone on with: whoever takes over one that died begins where it was last kept.

Floor 2. Promise: between two windows the database's signals are heeded as the backfill heeds them, and what was found
is kept every few seconds under the lease; a small table keeps nothing, since it is over before. What was written
meanwhile, however long nobody looked, is the last window's: it goes by the transaction in which the look began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from migrator.measures.judgement import Judgement
from migrator.spending.worker import Worker
from migrator.state import discriminants, leases, looks
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.throttle import weigh
from migrator.throttle.weigh import Throttled
from migrator.validation import every_vector
from migrator.validation.every_vector import Frame
from migrator.validation.sentinel import Learnt

#: Seconds of looking that a kill may cost: keeping half a million rows takes 12 MB and a few tens of milliseconds.
KEEP_SECONDS = 5.0
#: Seconds between two looks at the stored signals, which are themselves read every five.
HEED_SECONDS = 1.0
#: Seconds after which a look is begun anew: a verdict is stale then as well, unless the spec says otherwise.
_LASTS_SECONDS = 86_400.0


class Kept(Protocol):
    """What is asked of every window and can be gone on with."""

    def state(self) -> dict[str, Any]:
        """Return what was found, as JSON has it."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was found."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A look as it was kept: so many windows of the frame are done, and what was found in them."""

    frame: Frame
    learnt: Learnt
    done: int
    found: Mapping[str, Any]
    rows: list[bytes]


async def begun(worker: Worker, migration: Migration) -> Begun | None:
    """Return the look that somebody began and did not end, if it can be gone on with."""
    async with transaction(worker.engine, read_only=True) as connection:
        row = await looks.read(connection, migration.id)
        rows = await looks.rows(connection, migration.id) if row is not None else []
    if row is None:
        return None
    learnt, frame = await _learnt(worker, migration, row.learnt), Frame.restore(row.frame)
    # A heap that was rewritten has other places, and one that was attached has rows older than the look.
    same = frame.files == (await every_vector.frame(worker, migration)).files
    if same and learnt is not None and row.epoch == migration.epoch and row.age_seconds < _LASTS_SECONDS:
        return Begun(frame, learnt, row.done, row.found, rows)
    async with transaction(worker.engine) as connection:
        await looks.forget(connection, migration.id)
    return None


async def _learnt(worker: Worker, migration: Migration, told: Mapping[str, Any]) -> Learnt | None:
    """Return what had been learnt; None where another rule was learnt since."""
    rule = None
    if told["ruled"]:
        async with transaction(worker.engine, read_only=True) as connection:
            rule = await discriminants.read(connection, migration.id, seed=told["seed"])
        if rule is None:
            return None
    judged = Judgement(**told["judged"]) if told["judged"] is not None else None
    return Learnt(rule, judged, told["pairs"], told["seed"], told["seconds"], told["why"], told["excused"])


def _told(learnt: Learnt) -> dict[str, Any]:
    return {
        "ruled": learnt.rule is not None,
        "judged": asdict(learnt.judged) if learnt.judged is not None else None,
        **{name: getattr(learnt, name) for name in ("pairs", "seed", "seconds", "why", "excused")},
    }


class Fresh(Protocol):
    """Where what is to be kept of rows comes from."""

    def fresh(self) -> bytes:
        """Return the rows since this was asked last, and forget them."""


@dataclass(slots=True)
class Between:
    """What is done between two windows of a look that somebody holds the lease of."""

    worker: Worker
    migration: Migration
    lease: Lease
    frame: Frame
    learnt: Learnt
    kept: Mapping[str, Kept]
    rows: Fresh
    _heeded: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    _stored: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    async def __call__(self, done: int) -> None:
        """Heed the signals and keep what was found in the first `done` windows, where it is time.

        Raises: Throttled, LeaseLost.
        """
        now = asyncio.get_running_loop().time()
        if now - self._heeded >= HEED_SECONDS:
            self._heeded = now
            try:
                await weigh.require(self.worker.engine, self.migration)
            except Throttled:
                await self._keep(done)
                raise
        if done and now - self._stored >= KEEP_SECONDS:
            await self._keep(done)
            self._stored = asyncio.get_running_loop().time()

    async def _keep(self, done: int) -> None:
        values = {
            "epoch": self.migration.epoch,
            "frame": self.frame.as_json(),
            "learnt": _told(self.learnt),
            "found": {name: each.state() for name, each in self.kept.items()},
            "done": done,
        }
        fresh = self.rows.fresh()
        async with transaction(self.worker.engine) as connection:
            await leases.hold(connection, self.lease)
            await looks.keep(connection, self.migration.id, values, fresh)
