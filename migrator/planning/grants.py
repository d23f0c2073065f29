"""The rights of a deployment: what each of its roles needs on this very table, line by line, and why.

Floor 2. Promise: it reads the catalog and nothing else; each line is needed (a test leaves out one at a time), may be
run again, and stands by itself, so that whoever may not run one of them loses no other. What no grant can give is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import OperatorError
from migrator.planning import preflight, survey
from migrator.planning.survey import Survey
from migrator.spec import Spec
from migrator.state.connection import transaction
from migrator.target import privileges
from migrator.target.privileges import Owners


class Kind(StrEnum):
    """What a role is there for."""

    MIGRATE = "migrate"
    PLAN = "plan"
    WATCH = "watch"
    APPLICATION = "application"


#: What each does, in one line.
ABOUT = {
    Kind.MIGRATE: "migrates: the workers, and whoever runs init, start, cutover, rollback, cleanup, pause or limits",
    Kind.PLAN: "plans: `migrator plan` reads the table and stores nothing, so nothing can be started with it",
    Kind.WATCH: "watches: `migrator status`, `batches`, `report` and `exporter`; it sees no text of the table",
    Kind.APPLICATION: "is the application's: start takes nothing from it, and it needs nothing",
}
DEFAULTS = {Kind.MIGRATE: "migrator", Kind.PLAN: "migrator_plan", Kind.WATCH: "migrator_watch"}


@dataclass(eq=False)
class NothingToGrantOn(OperatorError):
    """The spec's table is not there."""

    table: str

    runbook = "first-migration"
    happened = "There is no table {table} in this database, so nobody can be given rights on it."
    state = "Nothing was changed."
    next = "Check [target] table and MIGRATOR_DATABASE_URL with `migrator doctor`, then run the same command again."


@dataclass(frozen=True, slots=True)
class Line:
    """One statement, and why a role needs it."""

    statement: sql.Composed
    why: str

    @property
    def sql(self) -> str:
        """The statement as it is run, without a semicolon."""
        return self.statement.as_string()


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of one role. `role` is None where nobody was named; `lacks` is what no grant can give."""

    kind: Kind
    role: str | None
    lines: list[Line]
    lacks: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `grants --json` prints."""
        told = [{"sql": line.sql, "why": line.why} for line in self.lines]
        return {"kind": self.kind, "role": self.role, "about": ABOUT[self.kind], "lines": told, "lacks": self.lacks}


async def look(engine: AsyncEngine, spec: Spec, named: Mapping[Kind, str]) -> list[Block]:
    """Return the blocks, for roles of these names. Read-only.

    Raises: NothingToGrantOn.
    """
    found = await survey.make(engine, spec)
    if found.relation is None:
        raise NothingToGrantOn(spec.target.table)
    async with transaction(engine, read_only=True) as connection:
        owners = await privileges.owners(connection, found.relation.oid, found.dependents)
    names = {**DEFAULTS, **_deployed(owners, named), **named}
    made = {
        Kind.MIGRATE: _migrate(found, owners, names[Kind.MIGRATE]),
        Kind.PLAN: _plan(found, names[Kind.PLAN], names[Kind.MIGRATE]),
        Kind.WATCH: _watch(found, names[Kind.WATCH], names[Kind.MIGRATE]),
        Kind.APPLICATION: _application(found, names.get(Kind.APPLICATION)),
    }
    migrates = [*_superusers(spec, owners), *_others_state(owners, names[Kind.MIGRATE]), *_old_server(found)]
    lacks = {Kind.MIGRATE: migrates}
    return [Block(kind, names.get(kind), list(lines), lacks.get(kind, [])) for kind, lines in made.items()]


def _migrate(found: Survey, owners: Owners, role: str) -> Iterator[Line]:
    yield from _login(found, role)
    if not owners.state:
        yield Line(privileges.own_state(role), "its own schema: `migrator init` makes tables and functions in it")
    for schema in owners.schemas:
        told = "indexes are built beside the live ones, and views and functions replaced where they are"
        yield Line(privileges.make_in_schema(schema, role), told)
    vectors = found.extension[1] if found.extension is not None else None
    if vectors is not None and vectors not in owners.schemas:
        yield Line(privileges.use_schema(vectors, role), "pgvector's types and operators are in it")
    for owner in owners.plain:
        if owner != role:
            told = "only an owner may add the column, exchange the names, and take along what hangs on the column"
            yield Line(privileges.be_owner(owner, role), told)
    yield Line(
        privileges.see_others(role), "the throttle and cutover look at other sessions: snapshots, standbys, locks"
    )
    if _fires(found) and found.server["version"] >= privileges.PARAMETERS_SINCE:
        told = "the table's own triggers must not fire on every row that is filled"
        yield Line(privileges.silence_triggers(role), told)
    if found.relation is not None and found.relation.row_security and found.relation.force_row_security:
        yield Line(privileges.see_every_row(role), "row security holds for the owner, too, and would hide rows (H22)")
    # The last one: it is the only one that waits for a lock.
    if owners.state and set(owners.state) != {role} and not set(owners.deployed) - {role}:
        told = "schema migrator was made by a superuser; our trigger functions run with their owner's rights"
        yield Line(privileges.take_over_state(role), told)


def _plan(found: Survey, role: str, owner: str) -> Iterator[Line]:
    target = found.spec.target
    yield from _login(found, role)
    yield Line(privileges.use_schema(target.schema_name, role), "the table is looked up in it")
    table = privileges.read_table(target.schema_name, target.table_name, role)
    yield Line(table, "rows, texts and vectors are counted and sampled")
    if found.relation is not None and found.relation.row_security:
        yield Line(privileges.see_every_row(role), "row security would hide rows, and the plan count too few (H22)")
    yield from _reads_state(role, owner, "it says which migrations and workers there are, and what a pilot found")
    yield Line(
        privileges.see_others(role), "it names old snapshots, standbys, and statements that lean on column order"
    )


def _watch(found: Survey, role: str, owner: str) -> Iterator[Line]:
    yield from _login(found, role)
    yield from _reads_state(role, owner, "all that it tells is in our own tables")


def _application(found: Survey, role: str | None) -> Iterator[Line]:
    if role is not None and found.server["version"] >= privileges.PARAMETERS_SINCE:
        told = "optional: so that ALTER ROLE ... SET migrator.generation may be its own way to say what it writes (H7)"
        yield Line(privileges.declare(role), told)


def _login(found: Survey, role: str) -> Iterator[Line]:
    yield Line(privileges.make_role(role), "where it is missing; give it a password, or what pg_hba.conf asks for")
    yield Line(privileges.connect(found.server["database"], role), "the database may be closed to PUBLIC")


def _reads_state(role: str, owner: str, why: str) -> Iterator[Line]:
    yield Line(privileges.read_state(role), why)
    yield Line(privileges.read_later_state(owner, role), "and what `migrator init` makes later, now or at an upgrade")


def _fires(found: Survey) -> bool:
    return preflight.would_fire(found) and not found.spec.target.fire_triggers


def _deployed(owners: Owners, named: Mapping[Kind, str]) -> dict[Kind, str]:
    """Return the role that a deployment works as already, where one does: nobody else is given its schema unasked."""
    if len(owners.deployed) != 1 or owners.deployed[0] in named.values():
        return {}
    return {Kind.MIGRATE: owners.deployed[0]}


def _others_state(owners: Owners, role: str) -> Iterator[str]:
    for each in owners.deployed:
        if each != role:
            yield (
                f"schema migrator is {each}'s, whose workers would lose it: name that role with --role migrate={each};"
                " or stop the deployment and have ALTER ... OWNER TO run by hand"
            )


def _superusers(spec: Spec, owners: Owners) -> Iterator[str]:
    for each in owners.superusers:
        yield privileges.of_a_superuser(spec.target.table, each)


def _old_server(found: Survey) -> Iterator[str]:
    if _fires(found) and found.server["version"] < privileges.PARAMETERS_SINCE:
        yield (
            "before PostgreSQL 15 no grant lets a role silence the table's own triggers: say fire_triggers = true in"
            " [target], or disable them for the time of the backfill"
        )
