"""Schema `migrator` itself: created and upgraded by alembic's revisions, carried in the package.

Floor 1. Promise: `upgrade` may be run any number of times, by two people at once; each revision is all or nothing.
The revisions are found beside this package (in a wheel as `migrator/revisions`, in a checkout as `migrations/`), so no
other folder of that name can shadow them. Every verb asks which revision stands, so that is told without alembic,
which takes a quarter of a second to load and is needed by `init` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

import migrator
import migrator.state.account_caps
import migrator.state.count_tables
import migrator.state.hook_tables
import migrator.state.pilot_tables
import migrator.state.reader_tables
import migrator.state.sample_tables
import migrator.state.schedule_tables
import migrator.state.signal_tables
import migrator.state.trust_tables
from migrator.errors import OperatorError
from migrator.state.tables import SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config

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
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(_scripts()))
    made.attributes["connection"] = connection
    return made


def head() -> str:
    """Return the newest revision that this version of the tool knows."""
    return max(path.name.partition("_")[0] for path in (_scripts() / "versions").glob("[0-9]*_*.py"))


def _scripts() -> Path:
    package = Path(migrator.__file__).parent
    carried, checkout = package / "revisions", package.parent / "migrations"
    return carried if carried.is_dir() else checkout


async def upgrade(connection: AsyncConnection, revision: str = "head") -> None:
    """Create the schema where it is missing and apply what is missing of the revisions."""
    from alembic import command

    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
    # IF NOT EXISTS would ask for CREATE on the database, also where an administrator has made the schema for us.
    there = await connection.execute(text("SELECT to_regnamespace(:name) IS NOT NULL"), {"name": SCHEMA})
    if not there.scalar_one():
        await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
    await connection.run_sync(lambda sync: command.upgrade(config(sync), revision))


async def downgrade(connection: AsyncConnection, revision: str) -> None:
    """Take revisions back (tests only: it drops state)."""
    from alembic import command

    await connection.run_sync(lambda sync: command.downgrade(config(sync), revision))


async def current(connection: AsyncConnection) -> str | None:
    """Return the revision that stands, or None where the schema is missing."""
    if not await exists(connection):
        return None
    query = f"SELECT version_num FROM {SCHEMA}.alembic_version"  # noqa: S608 # nosec B608 - ours
    found = await connection.execute(text(query))
    revision: str | None = found.scalar_one_or_none()
    return revision


async def exists(connection: AsyncConnection) -> bool:
    """Say whether `init` was here. By the catalog: to_regclass fails for a role that may not use the schema."""
    query = text(
        "SELECT EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = :schema AND c.relname = 'alembic_version')"
    )
    return bool((await connection.execute(query, {"schema": SCHEMA})).scalar_one())


async def may(connection: AsyncConnection, tables: Sequence[str], privileges: Sequence[str] = ("SELECT",)) -> bool:
    """Say whether this role may do that to these tables of ours, which are all there."""
    query = text(
        "SELECT count(c.oid) = cardinality(CAST(:tables AS text[])) AND coalesce(bool_and("
        "  has_schema_privilege(n.oid, 'USAGE')"
        "  AND (SELECT bool_and(has_table_privilege(c.oid, p)) FROM unnest(CAST(:privileges AS text[])) AS p)), false)"
        " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = :schema"
        " WHERE c.relname = ANY (CAST(:tables AS text[]))"
    )
    values = {"schema": SCHEMA, "tables": list(tables), "privileges": list(privileges)}
    return bool((await connection.execute(query, values)).scalar_one())


async def require(connection: AsyncConnection) -> None:
    """Make sure that the schema is there and fits.

    Raises: SchemaMissing, SchemaOutdated.
    """
    found = await current(connection)
    if found is None:
        raise SchemaMissing
    if found != head():
        raise SchemaOutdated(found, head())
