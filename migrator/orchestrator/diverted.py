"""What an operator is told of the writers' fence: who was diverted, what was written, since when not; who is declared.

Floor 3. Promise (H7): a writer that was not deployed is named by its application and role, with the verb that declares
it, for as long as cleanup would refuse because of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migrator.generation import Side
from migrator.state.migrations import Migration
from migrator.state.strays import Stray, seen

__all__ = ["Strays", "as_json", "lines", "seen"]

#: Who was diverted in the last day, the busiest first.
Strays = Sequence[Stray]


def lines(migration: Migration, strays: Strays) -> list[tuple[str, str]]:
    """Return a row per diverted writer and per declared role, for people."""
    rows = [
        (
            "diverted",
            f"{each.who}: {each.writes:,} writes of {each.generation} in 24 h, last {each.last_seen:%Y-%m-%d %H:%M %Z}",
        )
        for each in strays
    ]
    if strays:
        rows.append(("", f"{_mend(migration)} (runbooks/diverted-writers.md)"))
    declared = sorted(migration.writers.items())
    return rows + [("declared", f"role {role} writes {generation}") for role, generation in declared]


def _mend(migration: Migration) -> str:
    """Return what to do about them: nothing, where they are deployed already and wait for the cutover."""
    if migration.live_side is Side.FROM:
        return "they write the new generation; until the cutover there is nothing to do"
    fence = f"migrator fence {migration.name} --role ROLE --generation {migration.to_generation}"
    return f"deploy or stop them; where they are deployed and can't say so: `{fence}`"


def as_json(migration: Migration, strays: Strays) -> dict[str, Any]:
    """Return the keys `diverted` (writes by writer), `diverted_writers` (each in full) and `declared_writers`."""
    counts: dict[str, int] = {}
    for each in strays:
        counts[each.who] = counts.get(each.who, 0) + each.writes
    full = [
        {
            "application": each.application,
            "role": each.role,
            "generation": each.generation,
            "writes": each.writes,
            "last_seen": each.last_seen.isoformat(),
        }
        for each in strays
    ]
    return {"diverted": counts, "diverted_writers": full, "declared_writers": migration.writers}
