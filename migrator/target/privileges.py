"""Rights: the one place where a GRANT of ours is written, for whoever says that one is missing.

Floor 1. Promise: `migrator grants`, the findings of a plan and the throttle print the same statement for the same lack,
ready to be run, whatever the names in it are. Nothing here is run by us: an administrator does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.connection import fetch
from migrator.statements import compose, dollar_quoted
from migrator.target.dependents import Dependent

_FILE = "target/privileges.sql"
#: `GRANT ... ON PARAMETER` began with PostgreSQL 15.
PARAMETERS_SINCE = 150000
#: Reserved since PostgreSQL 16, and not known to SQLAlchemy's list.
_RESERVED = RESERVED_WORDS | {"system_user", "collation", "concurrently", "lateral", "tablesample", "current_catalog"}


def named(*names: str) -> sql.Composable:
    """Return a name as people write it: quoted where it has to be."""
    return sql.SQL(".").join(_plain(each) if _is_plain(each) else sql.Identifier(each) for each in names)


def quoted(*names: str) -> str:
    """Return the same as text."""
    return named(*names).as_string()


def _is_plain(name: str) -> bool:
    word = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower() and not name[0].isdigit()
    return word and name not in _RESERVED


def _plain(name: str) -> sql.SQL:
    word: Any = name
    return sql.SQL(word)


def make_role(role: str) -> sql.Composed:
    """Make a role that can log in, where there is none of that name; its password is somebody else's business."""
    body = compose(_FILE, "made_role", {"role": named(role), "name": sql.Literal(role)})
    return compose(_FILE, "make_role", {"body": dollar_quoted(body)})


def connect(database: str, role: str) -> sql.Composed:
    """Let a role into a database."""
    return compose(_FILE, "connect", {"database": named(database), "role": named(role)})


def use_schema(schema: str, role: str) -> sql.Composed:
    """Let a role see what is in a schema."""
    return compose(_FILE, "use_schema", {"schema": named(schema), "role": named(role)})


def make_in_schema(schema: str, role: str) -> sql.Composed:
    """Let a role make an index, a view or a function in a schema."""
    return compose(_FILE, "make_in_schema", {"schema": named(schema), "role": named(role)})


def read_table(schema: str, table: str, role: str) -> sql.Composed:
    """Let a role read a table."""
    return compose(_FILE, "read_table", {"table": named(schema, table), "role": named(role)})


def be_owner(owner: str, role: str) -> sql.Composed:
    """Let a role alter what another one owns. Never of a superuser: its members can become it."""
    return compose(_FILE, "be_owner", {"owner": named(owner), "role": named(role)})


def of_a_superuser(what: str, owner: str) -> str:
    """Say why membership in a superuser is no grant of ours."""
    return (
        f"superuser {owner} owns {what}, or what hangs on its column, and whoever is made a member of it can become"
        " one: give it to a role of its own first (ALTER ... OWNER TO), which can read what its foreign keys refer to"
    )


def own_state(role: str) -> sql.Composed:
    """Make schema `migrator` a role's own."""
    return compose(_FILE, "own_state", {"role": named(role)})


def take_over_state(role: str) -> sql.Composed:
    """Give schema `migrator`, as another role made it, to a role with everything in it."""
    body = compose(_FILE, "taken_over_state", {"name": sql.Literal(role)})
    return compose(_FILE, "take_over_state", {"body": dollar_quoted(body)})


def see_others(role: str) -> sql.Composed:
    """Let a role see what other sessions do."""
    return compose(_FILE, "see_others", {"role": named(role)})


def silence_triggers(role: str) -> sql.Composed:
    """Let a role write without the users' own triggers."""
    return compose(_FILE, "silence_triggers", {"role": named(role)})


def see_every_row(role: str) -> sql.Composed:
    """Let a role see the rows that row security hides."""
    return compose(_FILE, "see_every_row", {"role": named(role)})


def read_state(role: str) -> sql.Composed:
    """Let a role read our tables as they are."""
    return compose(_FILE, "read_state", {"role": named(role)})


def read_later_state(owner: str, role: str) -> sql.Composed:
    """Let a role read those tables, too, that `migrator init` makes after this, now or at an upgrade."""
    return compose(_FILE, "read_later_state", {"owner": named(owner), "role": named(role)})


def declare(role: str) -> sql.Composed:
    """Let a role store its declaration with itself or with a role that it administers (H7)."""
    return compose(_FILE, "declare", {"role": named(role)})


@dataclass(frozen=True, slots=True)
class Owners:
    """Who owns what a migration alters, in which schemas, and whose schema `migrator` is (nobody's: it is missing)."""

    plain: tuple[str, ...]
    superusers: tuple[str, ...]
    schemas: tuple[str, ...]
    state: tuple[str, ...]
    #: Those of `state` that are no superusers: a deployment works as one of them.
    deployed: tuple[str, ...]


async def owners(connection: AsyncConnection, oid: int, hanging: Sequence[Dependent]) -> Owners:
    """Look up the owners of a table and of what hangs on its vector column."""
    kinds = {
        "views": "view",
        "functions": "function",
        "statistics": "extended statistics",
        "publications": "publication column list",
    }
    values = {name: [each.oid for each in hanging if each.kind == kind] for name, kind in kinds.items()}
    rows = await fetch(connection, compose(_FILE, "owners"), {"oid": oid, **values})
    state = await fetch(connection, compose(_FILE, "state_owners"))
    return Owners(
        plain=tuple(dict.fromkeys(row["owner"] for row in rows if not row["superuser"])),
        superusers=tuple(dict.fromkeys(row["owner"] for row in rows if row["superuser"])),
        schemas=tuple(dict.fromkeys(row["schema"] for row in rows if row["schema"] is not None)),
        state=tuple(row["owner"] for row in state),
        deployed=tuple(row["owner"] for row in state if not row["superuser"]),
    )
