"""What was found out about where a migration's old vectors come from, and who passed over it for which reason.

Floor 1. The newest row counts. It is about one subject (target, template, scope, old generation): another spec needs
another look.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.spec import Spec
from migrator.state import schema
from migrator.state.tables import migrations
from migrator.state.trust_tables import provenances

#: Seconds for which a check that fitted is not paid for again: a day, as for verdicts.
MAX_AGE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Finding:
    """A stored outcome: fits, misfits, unknown or skipped, with its page."""

    outcome: str
    seed: int
    page: dict[str, Any]


def subject_of(spec: Spec) -> str:
    """Return a digest of what a check is about: rows, texts and the old model; not what it costs, nor who pays."""
    target = spec.target.model_dump(mode="json")
    model = spec.model_of(Side.FROM).model_dump(mode="json", exclude={"price_usd_per_mtok", "api_key_env"})
    words = json.dumps([target, model], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


async def record(
    connection: AsyncConnection, migration_id: int, spec: Spec, found: Finding, *, actor: str, waiver: str | None = None
) -> None:
    """Store an outcome."""
    await connection.execute(
        insert(provenances).values(
            migration_id=migration_id,
            subject=subject_of(spec),
            outcome=found.outcome,
            seed=found.seed,
            page=found.page,
            actor=actor,
            waiver=waiver,
        )
    )


async def newest(connection: AsyncConnection, migration_id: int, spec: Spec) -> Finding | None:
    """Return the newest outcome of the last day about this subject, or None."""
    query = (
        select(provenances)
        .where(
            provenances.c.migration_id == migration_id,
            provenances.c.subject == subject_of(spec),
            provenances.c.at > func.clock_timestamp() - timedelta(seconds=MAX_AGE_SECONDS),
        )
        .order_by(provenances.c.id.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Finding(row.outcome, row.seed, row.page)


async def told(connection: AsyncConnection, spec: Spec) -> dict[str, Any] | None:
    """Return the newest look about a spec's subject, however old it is: outcome, sentence, what to do, when, waiver.

    A waiver alone has no sentence; one that was signed after a look does not hide what was seen. None where there is
    neither, and for a role that may not read it: such a one makes plans, too.
    """
    if not await schema.may(connection, ("provenances", "migrations", "alembic_version")):
        return None
    if await schema.current(connection) != schema.head():
        return None
    query = (
        select(provenances)
        .join(migrations, migrations.c.id == provenances.c.migration_id)
        .where(migrations.c.name == spec.name, provenances.c.subject == subject_of(spec))
        # A look first, then the newest.
        .order_by(provenances.c.waiver.is_not(None), provenances.c.id.desc())
    )
    rows = (await connection.execute(query)).all()
    if not rows:
        return None
    newest_waiver = max((row.at for row in rows if row.waiver is not None and row.id > rows[0].id), default=None)
    page = {name: rows[0].page.get(name) for name in ("sentence", "do")}
    waived_at = newest_waiver.isoformat(timespec="seconds") if newest_waiver is not None else None
    return {"outcome": rows[0].outcome, **page, "at": rows[0].at.isoformat(timespec="seconds"), "waived_at": waived_at}


async def last(connection: AsyncConnection, migration_id: int) -> dict[str, Any] | None:
    """Return outcome, actor, waiver and moment of the last check, however old it is; None where there was none."""
    query = select(*(provenances.c[name] for name in ("outcome", "actor", "waiver", "at")))
    query = query.where(provenances.c.migration_id == migration_id).order_by(provenances.c.id.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
