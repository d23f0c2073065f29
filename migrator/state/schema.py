"""Schema `migrator` itself: created and upgraded by alembic's revisions, carried in the package.

Floor 1. Promise: `upgrade` may be run any number of times, by two people at once; each revision is all or nothing.
The revisions are found beside this package (in a wheel as `migrator/revisions`, in a checkout as `migrations/`), so no
other folder of that name can shadow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

import migrator
import migrator.state.signal_tables
import migrator.state.trust_tables
from migrator.errors import OperatorError
from migrator.state.tables import SCHEMA

#: Any fixed number: it only has to be ours alone. ("migrator" in ASCII, cut to 63 bits.)
_ADVISORY_KEY = 0x6D69677261746F72


@dataclass(eq=False)
class SchemaMissing(OperatorError):
    """Schema `migrator` is not there."""

    runbook = "first-migration"
    happened = "This database has no schema `migrator` yet."
    state = "Nothing was changed."
    next = "Run `migrator init`."


@dataclass(eq=False)
class SchemaOutdated(OperatorError):
    """Schema `migrator` is of another revision than this version of the tool."""

    found: str
    wanted: str

    runbook = "upgrade"
    happened = "Schema `migrator` is at revision {found}, and this version of the tool needs {wanted}."
    state = "Nothing was changed."
    next = "Run `migrator init` to upgrade it (or install the version that matches it)."


def config(connection: Connection | None = None) -> Config:
    """Return alembic's configuration, made in code: there is no alembic.ini to lose."""
    package = Path(migrator.__file__).parent
    carried, checkout = package / "revisions", package.parent / "migrations"
    made = Config()
    made.set_main_option("script_location", str(carried if carried.is_dir() else checkout))
    made.attributes["connection"] = connection
    return made


def head() -> str:
    """Return the newest revision that this version of the tool knows."""
    newest = ScriptDirectory.from_config(config()).get_current_head()
    assert newest is not None  # noqa: S101 - the package carries at least one
    return newest


async def upgrade(connection: AsyncConnection, revision: str = "head") -> None:
    """Create the schema where it is missing and apply what is missing of the revisions."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
    await connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    await connection.run_sync(lambda sync: command.upgrade(config(sync), revision))


async def downgrade(connection: AsyncConnection, revision: str) -> None:
    """Take revisions back (tests only: it drops state)."""
    await connection.run_sync(lambda sync: command.downgrade(config(sync), revision))


async def current(connection: AsyncConnection) -> str | None:
    """Return the revision that stands, or None where the schema is missing."""

    def read(sync: Any) -> str | None:
        return MigrationContext.configure(sync, opts={"version_table_schema": SCHEMA}).get_current_revision()

    there = await connection.execute(text("SELECT to_regclass(:name)"), {"name": f"{SCHEMA}.alembic_version"})
    return await connection.run_sync(read) if there.scalar_one() is not None else None


async def require(connection: AsyncConnection) -> None:
    """Make sure that the schema is there and fits.

    Raises: SchemaMissing, SchemaOutdated.
    """
    found = await current(connection)
    if found is None:
        raise SchemaMissing
    if found != head():
        raise SchemaOutdated(found, head())
