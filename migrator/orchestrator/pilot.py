"""`pilot`: a sample embedded by both models before anything begins, in somebody's terminal, and the plan mended by it.

Floor 3. Promise: it reads the target and never writes it; every request is paid by the migration's own purse, under its
cap, as `pilot` (P7); each answer is kept with its bill, so a pilot that was killed goes on and pays for nothing twice
(P2). What the plan said before stands beside what it says after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from migrator.errors import GateFailed
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import origin
from migrator.orchestrator.attendance import Attended, Overtaken
from migrator.orchestrator.pilot_result import NEW_QUERIES, OLD_QUERIES, ROWS, Answers, conclude
from migrator.orchestrator.pilot_sample import Prepared, Say
from migrator.pilot import embedding, purse
from migrator.pilot.embedding import Shelf
from migrator.pilot.purse import Cap, Experience, PilotPurse
from migrator.provenance.page import Page as ProvenancePage
from migrator.provider.embedder import Embedder
from migrator.provider.giving_up import AnswersUnbelievable, ProviderStopped
from migrator.spending.asking import make_embedder
from migrator.spending.purse import LeasePurse
from migrator.spending.renewal import renewed
from migrator.spending.worker import KeyMissing, Worker
from migrator.state import budget, leases, pilots
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Lease, LeaseLost
from migrator.state.migrations import Migration
from migrator.state.pilots import Kept


@dataclass(eq=False)
class PilotFoundWorse(GateFailed):
    """The new model is worse on the sample, beyond chance."""

    path: str

    runbook = "pilot"
    happened = "The pilot of {name} found the new model worse beyond chance: {failures}."
    state = "Nothing of the table was changed; the page and the mended plan are stored."
    next = "Look at the slices above; `migrator start {path}` begins all the same, another model needs another spec."


@dataclass(eq=False)
class PilotOfOtherText(GateFailed):
    """The stored vectors are not what the spec says, so a comparison would be one of two texts."""

    path: str

    runbook = "provenance"
    happened = "The old vectors of {name} are not what the spec says: {failures}."
    state = "Nothing was changed, and nothing but the look was paid for."
    next = "Mend the spec, or sign with `migrator pilot {path} --skip-provenance REASON`, and run it again."


async def look(worker: Worker, prepared: Prepared, *, actor: str) -> ProvenancePage | None:
    """Look where the old vectors come from, within the pilot's own cap; None where that was signed away.

    Raises: PilotCapReached, and what `origin.gate` raises.
    """
    wanted, migration = prepared.wanted, prepared.migration
    cap = Cap(wanted.path, wanted.max_usd)
    await purse.require(worker.engine, migration.id, cap, Decimal(str(prepared.price.look_usd)))
    return await origin.gate(worker, migration, waiver=wanted.waiver, actor=actor)


async def run(
    worker: Worker, prepared: Prepared, *, origin_page: ProvenancePage | None, actor: str, say: Say
) -> dict[str, Any]:
    """Embed the sample, compare, mend the plan; returns the page.

    Raises: Attended, Overtaken, PilotCapReached, WorkStopped, KeyMissing, and what providers and the purse raise.
    """
    migration = prepared.migration
    async with transaction(worker.engine) as connection:
        lease = await leases.take(
            connection, migration.id, Duty.PILOT, holder=worker.holder, seconds=worker.lease_seconds
        )
        # Nobody ticks for a plan: what an earlier pilot left open is settled for good here.
        for name in await leases.ended(connection, await budget.leases_with_open(connection, migration.id)):
            await budget.write_off(connection, lease=name)
    if lease is None:
        raise Attended(migration.name, "status")
    try:
        async with renewed(worker, lease):
            pilot_id = await _stored(worker, prepared, actor)
            answers = await _ask(worker, prepared, lease, say)
            return await conclude(worker, prepared, lease, pilot_id, answers, origin_page, actor)
    except LeaseLost:
        raise Overtaken(migration.name, "status", lease.seconds) from None
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)


def refuse_origin(found: ProvenancePage, name: str, path: str) -> None:
    """Refuse to go on where the stored vectors do not come out.

    Raises: PilotOfOtherText.
    """
    if found.outcome != "fits":
        raise PilotOfOtherText(name, found.sentence.rstrip("."), path)


def refuse(found: dict[str, Any], path: str) -> None:
    """Refuse to call it done where the new model is worse beyond chance.

    Raises: PilotFoundWorse.
    """
    if found["worse"]:
        raise PilotFoundWorse(found["name"], found["verdict"].rstrip("."), path)


async def _stored(worker: Worker, prepared: Prepared, actor: str) -> int:
    if prepared.pilot_id is not None:
        return prepared.pilot_id
    migration = prepared.migration
    async with transaction(worker.engine) as connection:
        return await pilots.begin(
            connection,
            migration.id,
            pilots.subject_of(migration.spec),
            seed=prepared.seed,
            wanted=prepared.wanted.rows,
            sample=prepared.drawn,
            actor=actor,
        )


async def _ask(worker: Worker, prepared: Prepared, lease: Lease, say: Say) -> Answers:
    """Ask the new model for rows and queries, and the old one for queries."""
    cap = Cap(prepared.wanted.path, prepared.wanted.max_usd)
    seen = {name: Experience() for name in (ROWS, NEW_QUERIES, OLD_QUERIES)}

    async def asked(side: Side, name: str, texts: Sequence[str]) -> list[Kept]:
        embedder = await _embedder(worker, prepared.migration, side, lease, cap, seen[name])
        shelf = Shelf(worker.engine, prepared.migration.id, lease, embedder, seen[name])
        return await embedding.embed(shelf, texts, concurrency=worker.concurrency, tell=_teller(name, say))

    rows = await asked(Side.TO, ROWS, prepared.sent)
    new = await asked(Side.TO, NEW_QUERIES, prepared.asked.texts)
    try:
        old = await asked(Side.FROM, OLD_QUERIES, prepared.asked.texts)
    except (KeyMissing, ProviderStopped, AnswersUnbelievable) as error:
        # The old model may be gone for good: what rows cost and how they lie is known all the same.
        return Answers(rows, new, None, error.sentences()[0], seen)
    return Answers(rows, new, old, None, seen)


async def _embedder(
    worker: Worker, migration: Migration, side: Side, lease: Lease, cap: Cap, seen: Experience
) -> Embedder:
    made = await make_embedder(
        worker,
        migration,
        side,
        lease,
        Purpose.PILOT,
        windows_apply=False,
        allowed=frozenset({MigrationStatus.PLANNED}),
    )
    assert isinstance(made.purse, LeasePurse)  # noqa: S101 - `make_embedder` makes no other
    made.purse = PilotPurse(made.purse, cap, seen)
    return made


def _teller(name: str, say: Say) -> embedding.Tell:
    """Tell how far it is, at each tenth."""
    told = 0

    def tell(done: int, of: int) -> None:
        nonlocal told
        if 10 * done // of > told:
            told = 10 * done // of
            say(f"{name}: {done:,} of {of:,} embedded")

    return tell
