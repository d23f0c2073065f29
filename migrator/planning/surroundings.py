"""What is around the table: the server's settings, other sessions, slots, the clock, who calls it by column order.

Floor 2. Promise: it reads only, by a role that may do no more than SELECT; what such a role can't see is left empty,
and `server_findings` says so.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.planning.survey import Survey
from migrator.state.connection import DatabaseGone, PrivilegeMissing, driver, fetch, transaction
from migrator.statements import compose
from migrator.target import signals

_FILE = "planning/surroundings.sql"
#: Seconds from which a snapshot is old: longer than any request of an application, shorter than a backup.
OLD_SECONDS = 600.0


@dataclass(slots=True)
class Surroundings:
    """Facts, as `surroundings.sql` and `signals.sql` (old snapshots) name them."""

    settings: dict[str, Any] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    old_snapshots: list[dict[str, Any]] = field(default_factory=list)
    #: Standbys that hold back the clean-up of dead rows for their readers, without a slot.
    feedback: list[str] = field(default_factory=list)
    slots: list[dict[str, Any]] = field(default_factory=list)
    event_triggers: list[str] = field(default_factory=list)
    isolation: list[dict[str, Any]] = field(default_factory=list)
    #: Statements that lean on column order; None where pg_stat_statements can't be asked.
    by_position: list[dict[str, Any]] | None = None
    #: Seconds by which the server's clock is ahead of this machine's.
    clock_ahead: float = 0.0
    #: What answers is not the server itself: its process has another number than the one it introduced itself with.
    pooled: bool = False


async def look(engine: AsyncEngine, found: Survey) -> Surroundings:
    """Gather the facts."""
    around = Surroundings()
    target = found.spec.target
    async with transaction(engine, read_only=True) as connection:
        began = time.time()
        schema = {"schema": target.schema_name}
        around.settings = (await fetch(connection, compose(_FILE, "settings"), schema))[0]
        around.clock_ahead = around.settings["clock"] - (began + time.time()) / 2
        around.pooled = (await driver(connection)).info.backend_pid != around.settings["pid"]
        if found.relation is not None:
            values = {"oid": found.relation.oid, "column": target.column}
            around.table = (await fetch(connection, compose(_FILE, "table_around"), values))[0]
        held = await signals.horizon(connection)
        # A prepared transaction holds its locks however young it is (H29).
        around.old_snapshots = [
            each for each in held if each["kind"] == "prepared" or (each["seconds"] or 0) > OLD_SECONDS
        ]
        around.feedback = [each["name"] for each in held if each["kind"] == "standby"]
        around.slots = await fetch(connection, compose(_FILE, "slots"))
        around.event_triggers = [row["name"] for row in await fetch(connection, compose(_FILE, "event_triggers"))]
        around.isolation = await fetch(connection, compose(_FILE, "isolation"))
    if found.relation is not None and around.settings["statements_in"] is not None:
        try:
            async with transaction(engine, read_only=True) as connection:
                around.by_position = await _by_position(connection, around.settings["statements_in"], found)
        except (PrivilegeMissing, DatabaseGone):
            around.by_position = None
    return around


async def _by_position(connection: AsyncConnection, schema: str, found: Survey) -> list[dict[str, Any]]:
    target = found.spec.target
    names = [f'(?:"{name}"|{name})' for name in map(re.escape, (target.schema_name, target.table_name))]
    parts = {"statements": sql.Identifier(schema, "pg_stat_statements")}
    values = {"name": rf"(?:{names[0]}\s*\.\s*)?{names[1]}"}
    return await fetch(connection, compose(_FILE, "by_position", parts), values)
