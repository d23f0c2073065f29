"""What a pilot will ask and cost, found out before anything is asked: the plan, the rows, the queries, the price.

Floor 3. Promise: it reads the target and stores a plan at the most; the same sample comes again until a larger or a new
one is asked for, so that what was paid for it is used.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from migrator.backfill.classify import classify
from migrator.errors import StatusConflict
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import compare, origin, verbs
from migrator.pilot import asking, embedding, sample
from migrator.pilot.asking import RELEVANT, Asked
from migrator.pilot.price import Part, Price
from migrator.pilot.sample import Sampled
from migrator.planning.plan import PlanStale
from migrator.provider import profiles
from migrator.queries import Query
from migrator.spec import Spec
from migrator.spending.worker import Worker
from migrator.state import migrations, pilots, provenance, schema
from migrator.state import queries as stored_queries
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.pilots import Row
from migrator.target import facts, lanes
from migrator.target.relation import Target

_SEEDS = 2**31
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the operator asked for."""

    path: str
    rows: int
    queries: Path | None
    max_usd: Decimal | None
    resample: bool
    waiver: str | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a pilot asks. `sent` are the texts of `sampled`, shortened where the spec truncates."""

    migration: Migration
    wanted: Wanted
    #: The stored pilot that is gone on with; None where this one is still to be stored.
    pilot_id: int | None
    seed: int
    drawn: list[Row]
    sampled: list[Sampled]
    sent: list[str]
    #: Rows that are not sent, by reason.
    left_out: Counter[str]
    asked: Asked
    price: Price
    #: Why a plan was made and stored: what changed since the one before; empty where that one holds.
    planned_anew: list[str]


async def prepare(worker: Worker, spec: Spec, wanted: Wanted, *, actor: str, say: Say) -> Prepared:
    """Plan where there is no plan that holds, draw the sample and price it.

    Raises: StatusConflict, PlanRefused, PlanNotStored, QueriesUnusable, SampleTooSlow, LockBusy.
    """
    migration, anew = await _planned(worker, spec, wanted.path, actor=actor, say=say)
    own = await _queries(worker, migration, wanted.queries)
    pilot_id, seed, drawn = await _sample(worker, migration, wanted)
    judged = asking.fitting(own, wanted.rows // 2, seed=seed)
    there = {each.key for each in drawn}
    relevant = dict.fromkeys(key for query in judged for key in query.relevant or () if key not in there)
    rows = [*drawn, *(Row(key, RELEVANT, 0.0) for key in relevant)]
    read = await sample.read(worker.engine, Target.of(migration), rows, dims=migration.from_generation.dims)
    sampled, sent, left_out = await asyncio.to_thread(_classified, migration.spec, read, len(rows))
    asked = asking.judged(judged, sampled)
    if not asked.texts:
        asked = asking.known_items(sampled, migration.spec.gates.known_items, own, seed=seed)
    price = await _price(worker, migration, sent, asked, wanted)
    return Prepared(migration, wanted, pilot_id, seed, drawn, sampled, sent, left_out, asked, price, anew)


async def _planned(worker: Worker, spec: Spec, path: str, *, actor: str, say: Say) -> tuple[Migration, list[str]]:
    """Return the stored plan, made anew where there is none or it does not hold any more; and then why."""
    async with transaction(worker.engine, read_only=True) as connection:
        await schema.require(connection)
        found = await migrations.find(connection, spec.name)
    if found is not None and found.status is not MigrationStatus.PLANNED:
        raise StatusConflict(spec.name, "pilot", "planned", found.status, f"migrator status {spec.name}")
    try:
        return await verbs.startable(worker.engine, spec, path=path), []
    except PlanStale as stale:
        changes = stale.changes
    if found is None:
        say("planned first, since no plan was stored")
    else:
        say(f"planned anew, since the plan does not hold any more: {'; '.join(changes)}")
    await verbs.plan_to_start(worker.engine, spec, path=path, actor=actor)
    return await verbs.startable(worker.engine, spec, path=path), changes


async def _queries(worker: Worker, migration: Migration, path: Path | None) -> list[Query]:
    """Return the operator's queries: of the file that was named, else those that the plan stored."""
    if path is not None:
        return compare.from_file(migration, path)
    async with transaction(worker.engine, read_only=True) as connection:
        return list(await stored_queries.read(connection, migration.id))


async def _sample(worker: Worker, migration: Migration, wanted: Wanted) -> tuple[int | None, int, list[Row]]:
    """Return the sample of the newest pilot, if it is of that size and no other is wanted; else draw one.

    A larger one is drawn by the same seed, so that most of what was paid for is in it again.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        newest = await pilots.newest(connection, migration.id, pilots.subject_of(migration.spec))
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
    if newest is not None and not wanted.resample and newest.wanted == wanted.rows:
        return (None if newest.finished else newest.id), newest.seed, newest.sample
    seed = secrets.randbelow(_SEEDS) if newest is None or wanted.resample else newest.seed
    assert relation is not None  # noqa: S101 - the plan that holds saw it a moment ago
    drawn = await sample.draw(worker.engine, Target.of(migration), relation, wanted=wanted.rows, seed=seed)
    return None, seed, drawn


def _classified(spec: Spec, read: Sequence[Sampled], wanted: int) -> tuple[list[Sampled], list[str], Counter[str]]:
    """Return the rows that are sent, with their texts as they are sent; and how many are not, by reason."""
    profile = profiles.of(spec.to)
    rows = [lanes.Row(each.row.key, each.body, all_null=False) for each in read]
    found = classify(
        rows,
        limit_tokens=profile.max_text_tokens,
        too_long="truncate" if spec.limits.too_long == "truncate" else "quarantine",
        tokenizer=profile.tokenizer,
    )
    left_out = Counter(each.reason for each in found.dispositions)
    if wanted > len(read):
        left_out["gone, out of scope or without text"] = wanted - len(read)
    by_key = {each.row.key: each for each in read}
    return [by_key[work.row.key] for work in found.work], [work.text for work in found.work], left_out


async def _price(worker: Worker, migration: Migration, sent: Sequence[str], asked: Asked, wanted: Wanted) -> Price:
    rows = await _part(worker, migration, Side.TO, sent)
    new = await _part(worker, migration, Side.TO, asked.texts)
    old = await _part(worker, migration, Side.FROM, asked.texts)
    look = 0.0
    if wanted.waiver is None:
        async with transaction(worker.engine, read_only=True) as connection:
            newest = await provenance.newest(connection, migration.id, migration.spec)
        look = 0.0 if newest is not None and newest.outcome == "fits" else origin.most_usd(migration.spec)
    return Price(rows, new, old, look)


async def _part(worker: Worker, migration: Migration, side: Side, texts: Sequence[str]) -> Part:
    model = migration.spec.model_of(side)
    wanted = list(dict.fromkeys(texts))
    kept = await embedding.find(worker.engine, migration.id, pilots.digest_of(model), wanted)
    missing = [each for each in wanted if pilots.hash_of(each) not in kept]
    return await asyncio.to_thread(Part.of, model, wanted, missing)
