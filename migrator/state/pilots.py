"""Pilots as they are stored: the sample that was drawn, vectors that were paid for, and what the plan is mended by.

Floor 1. Promise (P2, P11): a vector is kept in the transaction that settles its bill, under the digest of its text;
no text is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator import spec as specs
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.spec import ModelSpec, Spec
from migrator.state import schema
from migrator.state.pilot_tables import pilot_vectors, pilots
from migrator.state.tables import migrations

#: Of a model: what changes neither its vectors nor how many tokens it bills.
_NOT_ABOUT = {"price_usd_per_mtok", "api_key_env"}
#: Of [to.profile_overrides]: what changes which vectors come, or are believed. Limits change how many texts go
#: together, and what was paid for before one was lowered is worth as much after it.
_HABITS = {"send_dimensions", "encoding", "model_echo", "missing_index", "norm"}


@dataclass(frozen=True, slots=True)
class Row:
    """A drawn row: its key, its stratum, and how many rows of the table it stands for; 0 where it was not drawn."""

    key: tuple[str, ...]
    stratum: str
    weight: float


@dataclass(frozen=True, slots=True)
class Pilot:
    """A stored pilot."""

    id: int
    seed: int
    wanted: int
    sample: list[Row]
    finished: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a text: its vector, or why there is none; the request that it was billed with, and its part.

    `request` is None where nothing was billed, or the provider told no usage: then `tokens` is our own count.
    """

    vector: NDArray[np.float32] | None
    reason: str | None
    request: str | None
    tokens: float


def subject_of(spec: Spec) -> str:
    """Return a digest of what a pilot is about: rows, texts and models; not what they cost, nor who pays."""
    models = [spec.model_of(side).model_dump(mode="json", exclude=_NOT_ABOUT) for side in Side]
    words = [spec.target.model_dump(mode="json"), *models]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def digest_of(model: ModelSpec) -> str:
    """Return a digest of how a model is asked, and of how its answers are believed."""
    words = f"{model.generation} {model.base_url} {model.profile}"
    overrides = model.profile_overrides
    habits = {} if overrides is None else overrides.model_dump(mode="json", include=_HABITS, exclude_none=True)
    if habits:
        words += f" {json.dumps(habits, sort_keys=True)}"
    return hashlib.sha256(words.encode()).hexdigest()


def hash_of(words: str) -> bytes:
    """Return the digest under which a text's vector is kept."""
    return hashlib.sha256(words.encode()).digest()


async def newest(connection: AsyncConnection, migration_id: int, subject: str) -> Pilot | None:
    """Return the newest pilot about this subject, or None."""
    query = select(pilots).where(pilots.c.migration_id == migration_id, pilots.c.subject == subject)
    row = (await connection.execute(query.order_by(pilots.c.id.desc()).limit(1))).one_or_none()
    if row is None:
        return None
    sample = [Row(tuple(key), stratum, weight) for key, stratum, weight in row.sample]
    return Pilot(row.id, row.seed, row.wanted, sample, row.finished_at is not None)


async def begin(
    connection: AsyncConnection, migration_id: int, subject: str, *, seed: int, wanted: int, sample: Iterable[Row],
    actor: str,
) -> int:  # fmt: skip
    """Store the sample of a pilot before anything is asked; returns its id."""
    values = {
        "migration_id": migration_id,
        "subject": subject,
        "seed": seed,
        "wanted": wanted,
        "sample": [[list(each.key), each.stratum, each.weight] for each in sample],
        "actor": actor,
    }
    made = await connection.execute(insert(pilots).values(**values).returning(pilots.c.id))
    return int(made.scalar_one())


async def finish(
    connection: AsyncConnection, pilot_id: int, *, page: dict[str, Any], calibration: dict[str, Any] | None
) -> None:
    """Store what came out."""
    values = {"page": page, "calibration": calibration, "finished_at": func.clock_timestamp()}
    await connection.execute(update(pilots).where(pilots.c.id == pilot_id).values(**values))


async def hold_plan(connection: AsyncConnection, migration_id: int) -> tuple[Spec, dict[str, Any]] | None:
    """Return the stored plan with its spec, which nobody replaces until the transaction ends; None: no plan any more.

    It need not be the plan that a pilot began with: `plan` may have stored another one meanwhile, of another spec.
    """
    query = select(migrations.c.spec, migrations.c.plan).where(
        migrations.c.id == migration_id, migrations.c.status == MigrationStatus.PLANNED
    )
    row = (await connection.execute(query.with_for_update())).one_or_none()
    return None if row is None else (specs.restore(row.spec), row.plan)


async def replace_plan(connection: AsyncConnection, migration_id: int, plan: dict[str, Any]) -> None:
    """Replace the document of a plan that is held."""
    await connection.execute(update(migrations).where(migrations.c.id == migration_id).values(plan=plan))


async def kept(
    connection: AsyncConnection, migration_id: int, model: str, hashes: Sequence[bytes]
) -> dict[bytes, Kept]:
    """Return what is kept of these texts, by their digests."""
    query = select(pilot_vectors).where(
        pilot_vectors.c.migration_id == migration_id,
        pilot_vectors.c.model == model,
        pilot_vectors.c.text_hash.in_(list(hashes)),
    )
    return {
        bytes(row.text_hash): Kept(
            None if row.vector is None else np.frombuffer(bytes(row.vector), dtype="<f4"),
            row.reason,
            row.request,
            row.tokens,
        )
        for row in await connection.execute(query)
    }


async def keep(connection: AsyncConnection, migration_id: int, model: str, fresh: dict[bytes, Kept]) -> None:
    """Keep what was answered, by the digests of the texts."""
    rows = [
        {
            "migration_id": migration_id,
            "model": model,
            "text_hash": text_hash,
            "vector": None if each.vector is None else np.ascontiguousarray(each.vector, dtype="<f4").tobytes(),
            "reason": each.reason,
            "request": each.request,
            "tokens": each.tokens,
        }
        for text_hash, each in fresh.items()
    ]
    if rows:
        await connection.execute(upsert(pilot_vectors).values(rows).on_conflict_do_nothing())


async def forget_vectors(connection: AsyncConnection, migration_id: int, model: str | None = None) -> None:
    """Delete the kept vectors, or one model's: once the migration has begun, no pilot of it can be run any more."""
    statement = delete(pilot_vectors).where(pilot_vectors.c.migration_id == migration_id)
    if model is not None:
        statement = statement.where(pilot_vectors.c.model == model)
    await connection.execute(statement)


async def calibration(connection: AsyncConnection, spec: Spec) -> dict[str, Any] | None:
    """Return what the newest finished pilot of a spec mends its plan by; None where there is none, or none to be read.

    A role that may do no more than SELECT on the target makes plans, too.
    """
    if not await schema.may(connection, ("pilots", "migrations", "alembic_version")):
        return None
    if await schema.current(connection) != schema.head():
        return None
    query = (
        select(pilots.c.calibration)
        .join(migrations, migrations.c.id == pilots.c.migration_id)
        .where(migrations.c.name == spec.name, pilots.c.subject == subject_of(spec), pilots.c.calibration.is_not(None))
        .order_by(pilots.c.id.desc())
        .limit(1)
    )
    found: dict[str, Any] | None = (await connection.execute(query)).scalar_one_or_none()
    return found
