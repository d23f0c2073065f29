"""The rule that tells a migration's two generations apart, as it was learnt last: it watches what is written later.

Floor 1. Promise: only a rule that held out rows vouched for is here; a migration has one or none.
"""

from __future__ import annotations

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.measures.discriminant import Discriminant, Rule, Space
from migrator.measures.judgement import Judgement
from migrator.state.trust_tables import discriminants


async def keep(connection: AsyncConnection, migration_id: int, rule: Rule, judged: Judgement, *, seed: int) -> None:
    """Store a rule in place of the last one."""
    learnt = rule.discriminant
    parts = [learnt.direction, learnt.old.mean, learnt.new.mean, learnt.old.spread, learnt.new.spread]
    values = {
        "dims": len(learnt.direction),
        "numbers": b"".join(np.ascontiguousarray(each, dtype="<f4").tobytes() for each in parts),
        "weights": learnt.weights.tolist(),
        "gate": rule.gate,
        "cut": rule.cut,
        "old_cut": rule.old_cut,
        "old_gate": rule.old_gate,
        "held_out": judged.held_out,
        "miss_bound": judged.miss_bound,
        "alarm_bound": judged.alarm_bound,
        "seed": seed,
    }
    statement = upsert(discriminants).values(migration_id=migration_id, **values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[discriminants.c.migration_id], set_={**values, "at": func.clock_timestamp()}
        )
    )


async def forget(connection: AsyncConnection, migration_id: int) -> None:
    """Take the rule away: the spaces are not told apart any more."""
    await connection.execute(delete(discriminants).where(discriminants.c.migration_id == migration_id))


async def read(connection: AsyncConnection, migration_id: int, *, seed: int | None = None) -> Rule | None:
    """Return the rule, or None where none was learnt; with a seed, only the one that was drawn by it."""
    query = select(discriminants).where(discriminants.c.migration_id == migration_id)
    if seed is not None:
        query = query.where(discriminants.c.seed == seed)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    numbers = np.frombuffer(row.numbers, dtype="<f4").reshape(-1)
    direction, old_mean, new_mean = (numbers[i * row.dims : (i + 1) * row.dims] for i in range(3))
    spreads = numbers[3 * row.dims :].reshape(2, row.dims, -1)
    weights = np.array(row.weights, dtype=np.float64)
    learnt = Discriminant(direction, Space(old_mean, spreads[0]), Space(new_mean, spreads[1]), weights)
    return Rule(learnt, row.gate, row.cut, row.old_cut, row.old_gate)
