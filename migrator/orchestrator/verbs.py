"""What an operator asks for: start, pause, resume, cancel, limits, retry, and work in the foreground.

Floor 3. Promise: every verb but `start` and `work` only writes intent to Postgres, so it takes effect within one
request, with dead workers and without a broker. Nothing here throws paid work away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrator.cutover import expand
from migrator.errors import MigratorError, OperatorError, StatusConflict
from migrator.generation import Side
from migrator.lifecycle import PAUSABLE, TRANSITIONS, MigrationStatus
from migrator.orchestrator import trust
from migrator.planning import plan as plans
from migrator.planning import preflight, survey
from migrator.planning.findings import PlanRefused, refusals
from migrator.planning.plan import Plan, PlanNotStored, PlanStale
from migrator.signals import ThrottleSpec, impossible
from migrator.spec import Problem, Spec
from migrator.state import (
    account_caps,
    batches,
    budget,
    canary,
    dirty,
    dispositions,
    migrations,
    pilots,
    queries,
    schema,
    signals,
    verdicts,
)
from migrator.state.connection import transaction
from migrator.state.migrations import Migration, NameTaken
from migrator.target import facts, index, watermark
from migrator.target.build import builder_name
from migrator.target.message import Blocker, Cancel, Timing
from migrator.windows import Window

S = MigrationStatus
OnWait = Callable[[int, list[Blocker], float], None]
#: The reason of a pause that somebody asked for; what `resume --all` looks for.
BY_OPERATOR = "paused by the operator"
#: Moves of the workers that a pause may meet in one moment; there are four statuses ahead of `ready`.
_PAUSE_TRIES = 5


async def stored_plan(engine: AsyncEngine, spec: Spec) -> Migration | None:
    """Return the stored plan of a spec, or None.

    Raises: NameTaken, when the name's migration was started already; SchemaMissing, SchemaOutdated.
    """
    async with transaction(engine) as connection:
        await schema.require(connection)
        found = await migrations.find(connection, spec.name)
    if found is not None and found.status is not S.PLANNED:
        raise NameTaken(spec.name, found.status)
    return found


async def make_plan(
    engine: AsyncEngine, spec: Spec, *, actor: str, exact: bool = False, broker_url: str | None = None
) -> tuple[Plan, str | None]:
    """Make a plan and store it where that is possible; returns it, and why it was not stored."""
    made = await plans.make(engine, spec, exact=exact, broker_url=broker_url)
    return await plans.store(engine, made, actor)


async def plan_to_start(
    engine: AsyncEngine, spec: Spec, *, path: str, actor: str, broker_url: str | None = None
) -> Plan:
    """Make a plan that `start` can use.

    Raises: PlanRefused, PlanNotStored.
    """
    made, not_stored = await make_plan(engine, spec, actor=actor, broker_url=broker_url)
    if made.refused:
        raise PlanRefused(spec.name, path, made.refused)
    if not_stored is not None:
        raise PlanNotStored(spec.name, not_stored)
    return made


async def startable(engine: AsyncEngine, spec: Spec, *, path: str) -> Migration:
    """Return the stored plan's migration, if it can be started as things are.

    Raises: PlanStale, PlanRefused, NameTaken.
    """
    found = await stored_plan(engine, spec)
    if found is None:
        raise PlanStale(spec.name, path, ["it was never stored"])
    changed = await plans.changes_since(engine, found)
    if found.spec != spec:
        changed.append("the spec file is different")
    async with transaction(engine, read_only=True) as connection:
        if await queries.read(connection, found.id) != list(spec.queries):
            changed.append("the file that [gates] queries names is different")
    if changed:
        raise PlanStale(spec.name, path, changed)
    refused = refusals(preflight.check(await survey.make(engine, spec)))
    if refused:
        raise PlanRefused(spec.name, path, refused)
    return found


async def start(
    engine: AsyncEngine,
    spec: Spec,
    *,
    path: str,
    actor: str,
    on_wait: OnWait,
    tell: Callable[[str], None] | None = None,
    cancel: Cancel | None = None,
) -> Timing:
    """Expand the table of a stored plan; the workers go on from there. Returns how long the lock was held.

    Raises: PlanStale, PlanRefused, NameTaken, LockNotObtained, MovedMeanwhile, WritesWouldFail.
    """
    found = await startable(engine, spec, path=path)
    timing = await expand.run(engine, found, actor=actor, on_wait=on_wait, tell=tell, cancel=cancel)
    async with transaction(engine) as connection:
        await pilots.forget_vectors(connection, found.id)
    return timing


async def pause(engine: AsyncEngine, name: str, *, actor: str) -> Migration:
    """Pause a migration; what is in flight is finished and written.

    Raises: MigrationUnknown, StatusConflict.
    """
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        # Workers may move it on in the same moment: then it is paused from where it stands now.
        for _ in range(_PAUSE_TRIES):
            if await migrations.pause(connection, found.id, reason=BY_OPERATOR, actor=actor):
                return await migrations.get(connection, name)
            found = await migrations.get(connection, name)
            if found.status not in PAUSABLE:
                break
        raise StatusConflict(name, "pause", ", ".join(sorted(PAUSABLE)), found.status, f"migrator status {name}")


async def pause_all(engine: AsyncEngine, *, actor: str) -> list[str]:
    """Pause everything that can be paused; returns the names."""
    async with transaction(engine) as connection:
        names = [each.name for each in await migrations.list_all(connection, PAUSABLE)]
    paused = []
    for name in names:
        with contextlib.suppress(StatusConflict):  # it came to rest by itself meanwhile; the others must not go on
            paused.append((await pause(engine, name, actor=actor)).name)
    return paused


async def resume(engine: AsyncEngine, name: str, *, actor: str) -> Migration:
    """Go on where it was paused; after a rollback, go on towards another cutover. The canary is asked first.

    Raises: MigrationUnknown, StatusConflict, SuspectVectors, SuspectsLive.
    """
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
    if found.status is S.PAUSED:
        await trust.refuse_suspects(engine, found)
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        await go_on(connection, found, actor=actor)
        return await migrations.get(connection, name)


async def go_on(connection: AsyncConnection, found: Migration, *, actor: str) -> None:
    """Resume it as it was read, once nothing of it is suspect; the canary is asked before anything else is.

    Raises: StatusConflict, CaptureOff.
    """
    name = found.name
    await canary.demand(connection, found.id)
    if found.status is S.ROLLED_BACK:
        await migrations.move(connection, found, S.BACKFILLING, actor=actor)
    elif found.status is S.PAUSED and found.paused_from is not None:
        await migrations.move(connection, found, found.paused_from, actor=actor)
    else:
        raise StatusConflict(name, "resume", "paused or rolled_back", found.status, f"migrator status {name}")


async def resume_all(engine: AsyncEngine, *, actor: str) -> tuple[list[str], list[MigratorError]]:
    """Resume everything that an operator paused; what a cap, a gate or the provider stopped stays.

    Returns the names, and why others could not be: a canary that moved holds up none but its own migration.
    """
    async with transaction(engine) as connection:
        found = await migrations.list_all(connection, [S.PAUSED])
    resumed: list[str] = []
    refused: list[MigratorError] = []
    for each in found:
        if each.reason != BY_OPERATOR:
            continue
        try:
            resumed.append((await resume(engine, each.name, actor=actor)).name)
        except StatusConflict:
            continue  # somebody else was faster
        except MigratorError as error:
            refused.append(error)
    return resumed, refused


async def cancel(engine: AsyncEngine, name: str, *, actor: str) -> Migration:
    """Stop for good and keep everything; a plan that was never started is forgotten. A build that goes on is ended.

    Raises: MigrationUnknown, StatusConflict.
    """
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        in_window = found.live_side is Side.TO
        new = S.CLEANED if found.status is S.PLANNED else S.CANCELLED
        if in_window or new not in TRANSITIONS[found.status]:
            following = f"migrator rollback {name}" if in_window else f"migrator status {name}"
            raise StatusConflict(name, "cancel", "before its cutover", found.status, following)
        await migrations.move(connection, found, new, actor=actor)
        await pilots.forget_vectors(connection, found.id)
        relation = await facts.relation(connection, found.target_schema, found.target_table)
    if relation is not None and S.INDEXING in {found.status, found.paused_from}:
        # With whatever worker, and with none: a build outlives its client. What is left of it costs every INSERT.
        await index.abandon(engine, relation.oid, builder_name(name))
    async with transaction(engine) as connection:
        return await migrations.get(connection, name)


@dataclass(eq=False)
class ThresholdsInvalid(OperatorError):
    """Thresholds that can't be used together, or not at all."""

    name: str
    problems: list[Problem]

    runbook = "throttled"
    state = "Nothing was changed."
    next = "Mend it and run `migrator limits {name} --throttle KEY=VALUE` again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with every problem."""
        told = "; ".join(str(problem) for problem in self.problems)
        return f"The thresholds of {self.name} can't be used: {told}.", self.state, self.next.format(name=self.name)


@dataclass(frozen=True, slots=True)
class NewLimits:
    """Limits to be set; None leaves one as it is, 0 takes a rate limit away, an empty tuple takes the windows away.

    Raises: ValueError, when it is made with a window that can't be read.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_cost_usd: float | None = None
    windows: tuple[str, ...] | None = None
    #: Thresholds of [throttle] by key; None means the spec's own again.
    throttle: Mapping[str, object] = field(default_factory=dict)
    #: Whether the old column is kept whole while the rollback window is open.
    keep_fresh: bool | None = None
    #: The cap of all migrations of the account; NaN takes it away.
    account_max_cost_usd: Decimal | None = None

    def __post_init__(self) -> None:
        for each in self.windows or ():
            Window.parse(each)


async def set_limits(engine: AsyncEngine, name: str, wanted: NewLimits, *, actor: str) -> Migration:
    """Change limits live: workers read them before every request.

    Raises: MigrationUnknown, ThresholdsInvalid.
    """
    values: dict[str, object] = {}
    if wanted.requests_per_minute is not None:
        values["requests_per_minute"] = wanted.requests_per_minute or None
    if wanted.tokens_per_minute is not None:
        values["tokens_per_minute"] = wanted.tokens_per_minute or None
    if wanted.windows is not None:
        values["windows"] = [str(Window.parse(each)) for each in wanted.windows]
    if wanted.keep_fresh is not None:
        values["keep_fresh"] = wanted.keep_fresh
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        if wanted.throttle:
            values["throttle"] = thresholds(found, wanted.throttle)
            await signals.forget_age(connection, found.id)
        if values:
            await migrations.change(connection, found.id, **values)
        # The account before the migration, as whoever reserves locks them.
        if (cap := wanted.account_max_cost_usd) is not None:
            await account_caps.put(connection, found.spec.to, None if cap.is_nan() else cap)
            values["account_max_cost_usd"] = "none" if cap.is_nan() else cap
        if wanted.max_cost_usd is not None:
            await budget.set_cap(connection, found.id, wanted.max_cost_usd)
            values["max_cost_usd"] = Decimal(str(wanted.max_cost_usd))
        told = ", ".join(f"{key} = {value}" for key, value in values.items())
        await migrations.note(connection, found.id, found.status, f"limits: {told or 'unchanged'}", actor)
        return await migrations.get(connection, name)


def thresholds(migration: Migration, changes: Mapping[str, object]) -> dict[str, object]:
    """Return a migration's live thresholds after some were changed.

    Raises: ThresholdsInvalid.
    """
    made = {key: value for key, value in {**migration.throttle, **changes}.items() if value is not None}
    whole = {**migration.spec.throttle.model_dump(exclude_unset=True), **made}
    problems = [Problem(key, what, mend) for key, what, mend in impossible(whole)]
    try:
        ThrottleSpec(**whole)
    except ValidationError as error:
        problems += [
            Problem(str(each["loc"][0]), each["msg"].removeprefix("Value error, "), "see the spec's [throttle]")
            for each in error.errors(include_url=False)
        ]
    if problems:
        raise ThresholdsInvalid(migration.name, problems)
    return made


async def retry(engine: AsyncEngine, name: str, *, actor: str) -> tuple[int, int]:
    """Put failed batches back and try quarantined rows again; returns (batches, rows).

    Raises: MigrationUnknown.
    """
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        again = await batches.retry_failed(connection, found.id)
        keys = await dispositions.take_quarantined(connection, found.id)
        await dirty.mark(connection, found.id, Side.TO, keys)
        told = f"retry: {again} batches, {len(keys)} quarantined rows"
        await migrations.note(connection, found.id, found.status, told, actor)
    return again, len(keys)


@dataclass(eq=False)
class NothingToWaive(OperatorError):
    """A waiver is for a gate that was measured and failed."""

    name: str
    gate: str
    why: str

    runbook = "validation-failed"
    happened = "Gate {gate} of {name} can't be waived: {why}."
    state = "Nothing was changed."
    next = "Run `migrator status {name}`, which shows every gate's verdict."


async def waive(engine: AsyncEngine, name: str, gate: str, *, reason: str, actor: str) -> Migration:
    """Sign that a gate may be passed over; when no unsigned failure is left, the migration goes on to `ready`.

    Raises: MigrationUnknown, NothingToWaive, CanaryMoved.
    """
    async with transaction(engine) as connection:
        found = await migrations.get(connection, name)
        await trust.refuse_moved(connection, found)
        newest = await verdicts.newest(connection, found.id)
        failed = await _to_waive(connection, found, gate, newest)
        await verdicts.waive(connection, failed.id, reason=reason, actor=actor)
        await migrations.note(connection, found.id, found.status, f"gate {gate} waived: {reason}", actor)
        others = [row for row in newest if row.id != failed.id]
        unsigned = [row for row in others if row.epoch == found.epoch and not verdicts.is_settled(row)]
        measured = {row.gate for row in newest if row.epoch == found.epoch and not row.retired}
        if not unsigned and measured == set(verdicts.GATES) and found.paused_from is S.VALIDATING:
            await migrations.move(connection, found, S.VALIDATING, actor=actor)
            again = await migrations.get(connection, name)
            await migrations.move(connection, again, S.READY, actor=actor)
        return await migrations.get(connection, name)


async def _to_waive(connection: AsyncConnection, found: Migration, gate: str, newest: Sequence[Row[Any]]) -> Row[Any]:
    """Return the failed verdict that is meant.

    Raises: NothingToWaive.
    """
    if gate not in verdicts.GATES:
        raise NothingToWaive(found.name, gate, f"there is no such gate (known: {', '.join(verdicts.GATES)})")
    row = next((each for each in newest if each.gate == gate), None)
    if row is None:
        raise NothingToWaive(found.name, gate, "it was never measured")
    stale = verdicts.why_stale(row, found, await watermark.read(connection, found))
    if stale is not None:
        raise NothingToWaive(found.name, gate, f"its verdict is stale ({stale})")
    if row.passed:
        raise NothingToWaive(found.name, gate, "it passed")
    return row
