"""The types of a migration's two columns: vector or halfvec, with the dimensions of their generations.

Floor 1. Pure. Source: the stored plan, as it stood when the migration was started.
"""

from __future__ import annotations

from migrator.generation import Side
from migrator.state.migrations import Migration


def of(migration: Migration, side: Side) -> str:
    """Return the type of that side's column, without its dimensions: vector or halfvec."""
    live: str = migration.plan["vector_type"]
    shadow: str = migration.plan.get("shadow_type", live)
    return shadow if side is Side.TO else live


def differ(migration: Migration) -> bool:
    """Say whether the columns are of different types as PostgreSQL has it: the dimensions count, where declared."""
    sized = (
        migration.plan.get("shadow_dims") is not None and migration.from_generation.dims != migration.to_generation.dims
    )
    return sized or of(migration, Side.FROM) != of(migration, Side.TO)
