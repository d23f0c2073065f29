"""Where the old vectors come from, asked before money is spent: by `doctor`, and by `start` unless somebody signs.

Floor 3. Promise (P7): with a stored plan every request is reserved in its budget; without one a small allowance is all
that can be spent, and it is told. A check that fitted is not paid for again for a day.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.canary import watch
from migrator.errors import GateFailed
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.attendance import Attended
from migrator.planning import survey
from migrator.provenance import check, page, sample
from migrator.provenance.asking import MAX_TOKENS, Asker, MakeEmbedder
from migrator.provenance.page import Page
from migrator.provider import profiles
from migrator.provider.embedder import Embedder
from migrator.settings import Settings
from migrator.spec import Spec
from migrator.spending.asking import make_embedder
from migrator.spending.pacing import SharedPacer
from migrator.spending.pocket import Pocket
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker, process_name
from migrator.state import budget, leases, migrations, provenance, schema
from migrator.state.connection import make_engine, transaction
from migrator.state.leases import Duty
from migrator.state.migrations import Migration
from migrator.state.provenance import Finding

_SEEDS = 2**31
#: Seconds that drawing the sample may take: it reads a few hundred pages.
_SAMPLE_SECONDS = 60.0
#: Seconds of the right to look, at least: cutting and counting texts keeps a busy machine from renewing it for seconds.
_LEASE_SECONDS = 60.0


@dataclass(eq=False)
class ProvenanceFailed(GateFailed):
    """The stored vectors are not what the spec says that they are."""

    path: str

    runbook = "provenance"
    happened = "The old vectors of {name} are not what the spec says: {failures}."
    state = "Nothing was changed, and nothing but the look was paid for."
    next = (
        "Mend the spec and run `migrator start {path} --replan`, or sign with "
        "`migrator start {path} --skip-provenance REASON`."
    )


def most_usd(spec: Spec) -> float:
    """Return what a check costs at most."""
    return float(budget.price(MAX_TOKENS, spec.model_of(Side.FROM).price_usd_per_mtok[1]).usd)


async def gate(worker: Worker, migration: Migration, *, waiver: str | None, actor: str) -> Page | None:
    """Look where a planned migration's old vectors come from; returns the page, None where it was signed away.

    Raises: Attended, and what provider and purse raise.
    """
    if waiver is not None:
        async with transaction(worker.engine) as connection:
            skipped = Finding("skipped", 0, {})
            await provenance.record(connection, migration.id, migration.spec, skipped, actor=actor, waiver=waiver)
            await migrations.note(connection, migration.id, migration.status, f"provenance skipped: {waiver}", actor)
        return None
    return await _checked(worker, migration, actor=actor)


def refuse(found: Page, name: str, path: str) -> None:
    """Refuse to begin on a page that does not fit.

    Raises: ProvenanceFailed.
    """
    if found.outcome != "fits":
        raise ProvenanceFailed(name, found.sentence.rstrip("."), path)


async def fingerprint(worker: Worker, migration: Migration) -> None:
    """Take the canary's fingerprint before anything is changed; where nobody does, the first worker takes it.

    Raises: OldModelAnswered, and what provider and purse raise.
    """
    await watch.keep(worker, migration, allowed=frozenset({MigrationStatus.PLANNED}))


async def look(settings: Settings, spec: Spec) -> Page | None:
    """Check for `doctor`: on the budget of the migration of that name, or on a small allowance; None after cutover."""
    engine = make_engine(settings.required_database_url(), "migrator doctor")
    pacer = SharedPacer(engine, settings.broker_url)
    worker = Worker(engine, process_name(), settings.lease_seconds, settings.concurrency, pacer)
    try:
        found = await _find(engine, spec)
        if found is not None and (found.live_side is Side.TO or found.status is MigrationStatus.CLEANED):
            return None
        if found is not None and found.spec.target == spec.target and found.spec.from_ == spec.from_:
            return await _checked(worker, found, actor="doctor")
        return await _unplanned(worker, spec)
    finally:
        await worker.close()


async def _find(engine: AsyncEngine, spec: Spec) -> Migration | None:
    async with transaction(engine, read_only=True) as connection:
        if await schema.current(connection) != schema.head():
            return None
        return await migrations.find(connection, spec.name)


async def _checked(worker: Worker, migration: Migration, *, actor: str) -> Page:
    """Return a page that fitted within the day, or make one and store it."""
    async with transaction(worker.engine) as connection:
        newest = await provenance.newest(connection, migration.id, migration.spec)
        if newest is not None and newest.outcome == "fits":
            return page.restore(newest.page)
        seconds = max(worker.lease_seconds, _LEASE_SECONDS)
        lease = await leases.take(connection, migration.id, Duty.PROVENANCE, holder=worker.holder, seconds=seconds)
    if lease is None:
        raise Attended(migration.name, "status")

    async def embedder(side: Side) -> Embedder:
        return await make_embedder(
            worker,
            migration,
            side,
            lease,
            budget.Purpose.PROVENANCE,
            windows_apply=False,
            allowed=frozenset(MigrationStatus),
        )

    try:
        async with renewed(worker, lease):
            made = await _make(worker.engine, migration.spec, embedder)
        async with transaction(worker.engine) as connection:
            found = Finding(made.outcome, made.seed, made.as_json())
            await provenance.record(connection, migration.id, migration.spec, found, actor=actor)
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)
    return made


async def _unplanned(worker: Worker, spec: Spec) -> Page:
    pocket = Pocket(MAX_TOKENS)

    async def embedder(side: Side) -> Embedder:
        model = spec.model_of(side)
        profile = profiles.of(model)
        return Embedder(worker.http(model), model, profile, pocket, profile.max_texts, worker.backoff_seconds)

    return await _make(worker.engine, spec, embedder)


async def _make(engine: AsyncEngine, spec: Spec, embedder: MakeEmbedder) -> Page:
    """Draw a sample and check it; no transaction is open while the provider is asked (P4)."""
    seed = secrets.randbelow(_SEEDS)
    found = await survey.make(engine, spec)
    if found.relation is None or not found.can_read_rows:
        # `plan` says what is wrong with the target.
        return await check.run(spec, Asker(embedder, MAX_TOKENS), [], [], seed=seed)
    names = sample.columns_to_try(found.target(), found.columns)
    dims = spec.generation(Side.FROM).dims
    async with transaction(engine, read_only=True, statement_timeout_seconds=_SAMPLE_SECONDS) as connection:
        drawn = await sample.draw(connection, found.target(), found.relation, names, dims=dims, seed=seed)
    return await check.run(spec, Asker(embedder, MAX_TOKENS), drawn, names, seed=seed)
