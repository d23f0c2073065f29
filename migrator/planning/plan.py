"""The plan: survey, findings and estimates as one document, stored frozen with the target's fingerprint.

Floor 2. Promise: making a plan reads only; a role that may do no more than SELECT can make one, and then it is not
stored, and says so. What `start` does rests on the stored plan, and only while its fingerprint holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.planning import (
    broker,
    calibration,
    data_findings,
    population,
    preflight,
    provider,
    scan,
    server_findings,
    surroundings,
    survey,
)
from migrator.planning import document as documents
from migrator.planning.findings import Finding
from migrator.planning.population import Growth, Population
from migrator.planning.scan import Scan
from migrator.planning.survey import Survey
from migrator.provider import profiles
from migrator.provider.profiles import Profile
from migrator.spec import Spec
from migrator.state import budget, dirty, migrations, pilots, provenance, queries, schema
from migrator.state.connection import transaction
from migrator.target import dependents, facts
from migrator.target.relation import suffixed

#: How many times its pages, and by how many at least (8 MB), a table may grow before its cost is another one.
_GROWN, _GROWN_PAGES = 1.5, 1000

#: What is wrong with a plan that lacks what this version tells and mends.
_OLDER = "it was stored by an older version of this tool"


@dataclass(eq=False)
class PlanStale(OperatorError):
    """The target is not what it was when it was planned."""

    name: str
    path: str
    changes: list[str]

    runbook = "first-migration"
    happened = "The plan of {name} does not hold any more: {changes}."
    state = "Nothing was changed."
    next = "Look at it again with `migrator plan {path}`, or run `migrator start {path} --replan`."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, naming what changed."""
        happened = self.happened.format(name=self.name, changes="; ".join(self.changes))
        return happened, self.state, self.next.format(path=self.path)


@dataclass(eq=False)
class PlanNotStored(OperatorError):
    """A migration can't begin on a plan that could not be stored."""

    name: str
    why: str

    runbook = "first-migration"
    happened = "The plan of {name} could not be stored: {why}."
    state = "Nothing was changed."
    next = "Run `migrator init` as a role that may create schema migrator, then run the same command again."


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan. `document` is what `plan --json` prints and what is stored."""

    spec: Spec
    survey: Survey
    findings: list[Finding]
    document: dict[str, Any]

    @property
    def refused(self) -> list[Finding]:
        """The findings that stop `start`."""
        return [finding for finding in self.findings if finding.severity == "refuse"]


async def make(engine: AsyncEngine, spec: Spec, *, exact: bool = False, broker_url: str | None = None) -> Plan:
    """Look at a spec's target and work out what the migration would do and cost. Read-only.

    `exact` counts every row, however long that takes; `broker_url`: where the workers hear of their work, to be looked
    at too. What an earlier pilot was billed mends the estimates.
    """
    profile = profiles.of(spec.to)
    found = await survey.make(engine, spec)
    findings = preflight.check(found)
    scanned, growth = None, Growth(None, "rows could not be read")
    if found.can_read_rows and not [each for each in findings if each.code.startswith(("text_", "key_", "where_"))]:
        scanned, growth = await _scan(engine, found, profile, exact=exact)
    around = await surroundings.look(engine, found)
    async with transaction(engine, read_only=True) as connection:
        piloted = calibration.restore(await pilots.calibration(connection, spec))
        looked = await provenance.told(connection, spec)
    document = calibration.apply(documents.make(found, scanned, growth, profile), piloted, spec)
    document["provenance"] = looked
    findings += provider.check(spec)
    findings += server_findings.check(found, around, document)
    findings += data_findings.check(spec, scanned, document)
    if broker_url is not None:
        findings += broker.check(await broker.look(broker_url))
    findings.sort(key=lambda each: ("refuse", "warn", "info").index(each.severity))
    document["findings"] = [finding.as_json() for finding in findings]
    return Plan(spec, found, findings, document)


async def _scan(engine: AsyncEngine, found: Survey, profile: Profile, *, exact: bool) -> tuple[Population, Growth]:
    assert found.relation is not None  # noqa: S101 - can_read_rows looked
    counters, arrived = await scan.activity(engine, found.relation.oid, found.heaps)
    scanning = Scan(engine, found.target(), found.heaps, arrived=arrived)
    truncates = found.spec.limits.too_long == "truncate"
    drawn = await scanning.draw()
    await scanning.look_into(drawn, tokenizer=profile.tokenizer, max_text_tokens=profile.max_text_tokens)
    await scanning.count(drawn, exact=exact, truncates=truncates)
    scanned = population.of(drawn, found.heaps, tokenizer=profile.tokenizer, truncates=truncates)
    return scanned, scanned.growth(counters, arrived)


async def store(engine: AsyncEngine, plan: Plan, actor: str) -> tuple[Plan, str | None]:
    """Store a plan under its name; returns it as it was stored, and why it was not, or None.

    Raises: NameTaken.
    """
    if plan.survey.relation is None or plan.survey.key is None:
        return plan, "it names no table with a usable key"
    async with transaction(engine) as connection:
        if not await schema.exists(connection):
            return plan, "schema migrator is missing (`migrator init`)"
        written = ("migrations", "transitions", "budgets", "dirty", "queries")
        may_write = await schema.may(connection, written, ("SELECT", "INSERT", "UPDATE", "DELETE"))
        if not may_write or not await schema.may(connection, ["alembic_version"]):
            return plan, "this role may not write schema migrator"
        if await schema.current(connection) != schema.head():
            return plan, "schema migrator is of another revision (`migrator init`)"
        stored = await migrations.store_plan(connection, plan.spec.name, _values(plan), actor)
        await budget.open_budget(connection, stored, plan.spec.limits.max_cost_usd)
        await budget.set_cap(connection, stored, plan.spec.limits.max_cost_usd)
        await dirty.forget(connection, stored)
        await queries.store(connection, stored, plan.spec.queries)
        return await _with_newest_pilot(connection, stored, plan), None


async def _with_newest_pilot(connection: AsyncConnection, stored: int, plan: Plan) -> Plan:
    """Mend a plan by a pilot that ended while it was made: that one mended the plan which was just replaced.

    Whoever stores holds the migration's row, as a pilot does that ends: one of them sees what the other did.
    """
    found = calibration.restore(await pilots.calibration(connection, plan.spec))
    if found == calibration.of(plan.document):
        return plan
    document = calibration.apply(plan.document, found, plan.spec)
    await pilots.replace_plan(connection, stored, document)
    return replace(plan, document=document)


def _values(plan: Plan) -> dict[str, Any]:
    spec, found = plan.spec, plan.survey
    assert found.key is not None  # noqa: S101 - store() looked
    return {
        "target_schema": spec.target.schema_name,
        "target_table": spec.target.table_name,
        "target_column": spec.target.column,
        "shadow_column": suffixed(spec.target.column),
        "key_columns": list(found.key.columns),
        "key_types": list(found.key.types),
        "spec": spec.dump(),
        "plan": plan.document,
        "fingerprint": found.fingerprint,
        "from_generation": str(spec.generation(Side.FROM)),
        "to_generation": str(spec.generation(Side.TO)),
        "requests_per_minute": spec.limits.requests_per_minute,
        "tokens_per_minute": spec.limits.tokens_per_minute,
        "windows": list(spec.limits.window),
    }


def refuse_older(migration: migrations.Migration, path: str) -> None:
    """Refuse a plan that can't even be shown.

    Raises: PlanStale.
    """
    if not documents.is_whole(migration.plan):
        raise PlanStale(migration.name, path, [_OLDER])


async def changes_since(engine: AsyncEngine, migration: migrations.Migration) -> list[str]:
    """Name what changed in the catalog, and in this tool, since a stored plan was made."""
    async with transaction(engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        if relation is None:
            return ["the table is gone"]
        found = await dependents.fingerprint(connection, relation.oid, migration.target_column)
    planned = (migration.plan.get("sample") or {}).get("of_pages")
    grown = planned is not None and relation.pages > max(_GROWN * planned, planned + _GROWN_PAGES)
    lines = [] if documents.is_whole(migration.plan) else [_OLDER]
    lines += [f"it has grown from {planned:,} to {relation.pages:,} pages"] if grown else []
    return lines + dependents.changes(migration.fingerprint, found)
