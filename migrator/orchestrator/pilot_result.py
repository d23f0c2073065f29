"""What a pilot's answers amount to: the ratio of the bill, both models side by side, the plan mended, the page stored.

Floor 3. Promise: the mended plan, the page and the pilot's end commit together, under the pilot's lease; what the plan
said before is kept beside it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.measures import cosine, ratio
from migrator.measures.ratio import Ratio
from migrator.orchestrator.pilot_sample import Prepared
from migrator.pilot import page, verdict
from migrator.pilot.asking import RELEVANT
from migrator.pilot.outcome import Outcome, Space
from migrator.pilot.outcome import compare as compared
from migrator.pilot.purse import Experience
from migrator.planning import calibration, data_findings
from migrator.planning.calibration import Calibration
from migrator.provenance.page import Page as ProvenancePage
from migrator.provider import profiles, tokens
from migrator.spending.purse import WorkStopped
from migrator.spending.worker import Worker
from migrator.state import budget, leases, migrations, pilots
from migrator.state.budget import Purpose
from migrator.state.canary import SAME_COSINE
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.pilots import Kept
from migrator.validation import searching

#: Requests whose mean duration is believed.
_FEWEST_REQUESTS = 5
#: What is asked, in this order.
ROWS, NEW_QUERIES, OLD_QUERIES = "rows", "new queries", "old queries"


#: The share of rows that hold what was answered already, from which it is no chance: one row may be a mixed column's.
_SAME_SHARE = 0.5


@dataclass(eq=False)
class OldModelInPilot(OperatorError):
    """The provider was asked for the new model and answered with the old one's vectors."""

    asked: str
    answered: str
    rows: int
    path: str

    runbook = "pilot"
    happened = (
        "Asked for {asked}, the provider answered {rows} rows with the vectors of {answered} that they hold already."
    )
    state = "Nothing of the table was changed; what was answered stays paid for, and is not kept."
    next = "Ask the provider which model answers, or look whether the column is moved already: `migrator pilot {path}`."


@dataclass(slots=True)
class Answers:
    """What both models answered. `old_queries` is None where the old model can't be asked, and then why."""

    rows: list[Kept]
    new_queries: list[Kept]
    old_queries: list[Kept] | None
    why_not: str | None
    seen: dict[str, Experience] = field(default_factory=dict)


async def conclude(
    worker: Worker,
    prepared: Prepared,
    lease: Lease,
    pilot_id: int,
    answers: Answers,
    origin_page: ProvenancePage | None,
    actor: str,
) -> dict[str, Any]:
    """Compare, mend the stored plan, and store the page, all in one transaction.

    Raises: WorkStopped, OldModelInPilot.
    """
    migration = prepared.migration
    await _refuse_old_model(worker, prepared, answers)
    search = await searching.prepare(worker, migration)
    money = await asyncio.to_thread(_money, prepared, answers)
    found = await asyncio.to_thread(_compared, prepared, answers, search.operator[1])
    measured = money.pop("ratio")
    async with transaction(worker.engine) as connection:
        await leases.hold(connection, lease)
        mended_by = _calibration(prepared, answers, measured, await pilots.calibration(connection, migration.spec))
        plan, why_not = await _mended(connection, migration, mended_by)
        made = {
            **_head(prepared, answers, found, plan),
            "tokens": {**money, **_interval(measured)},
            "planned_anew": prepared.planned_anew,
            "plan": {**_both(plan), "mended": why_not is None, "why_not": why_not},
            "cost": await _cost(connection, migration.id),
            "provenance": None if origin_page is None else origin_page.sentence,
            "search": {**found.as_json(), "why_not": answers.why_not},
        }
        stored = None if mended_by is None else mended_by.as_json()
        await pilots.finish(connection, pilot_id, page=made, calibration=stored)
        await migrations.note(connection, migration.id, MigrationStatus.PLANNED, f"pilot: {made['verdict']}", actor)
    return made


async def _mended(
    connection: AsyncConnection, migration: Migration, mended_by: Calibration | None
) -> tuple[dict[str, Any], str | None]:
    """Mend the plan as it is stored now; returns what the pilot's own plan comes to, and why it was not mended.

    Raises: WorkStopped.
    """
    held = await pilots.hold_plan(connection, migration.id)
    if held is None:
        raise WorkStopped(migration.name, (await migrations.get_by_id(connection, migration.id)).status)
    spec, plan = held
    if pilots.subject_of(spec) != pilots.subject_of(migration.spec):
        mine = calibration.apply(migration.plan, mended_by, migration.spec)
        return mine, "it was made anew meanwhile, of another spec, and this pilot is about the one before"
    made = calibration.apply(plan, mended_by, spec)
    if made is plan:
        return plan, "no bill of a sampled row was told"
    await pilots.replace_plan(connection, migration.id, made)
    return made, None


async def _refuse_old_model(worker: Worker, prepared: Prepared, answers: Answers) -> None:
    """Refuse answers that are what the rows hold already, and keep none of them: the gateway may be mended.

    Raises: OldModelInPilot.
    """
    old, new = (prepared.migration.generation(side) for side in Side)
    pairs = [
        (sampled.old, each.vector)
        for sampled, each in zip(prepared.sampled, answers.rows, strict=True)
        if sampled.old is not None and each.vector is not None
    ]
    if old.is_same_model(new) or old.dims != new.dims or not pairs:
        return
    same = cosine.paired(*(np.stack(each) for each in zip(*pairs, strict=True))) >= SAME_COSINE
    if same.mean() < _SAME_SHARE:
        return
    async with transaction(worker.engine) as connection:
        model = prepared.migration.spec.model_of(Side.TO)
        await pilots.forget_vectors(connection, prepared.migration.id, pilots.digest_of(model))
    raise OldModelInPilot(str(new), str(old), int(same.sum()), prepared.wanted.path)


def _both(plan: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan said before, what it says after, and which limits would not let that through."""
    after = {name: plan[name] for name in calibration.MENDED}
    warned = [each["message"] for each in plan["findings"] if each["code"] in data_findings.ABOUT_LIMITS]
    before = plan["calibration"]["before"] if "calibration" in plan else after
    return {"before": before, "after": after, "warnings": warned}


def _head(prepared: Prepared, answers: Answers, found: Outcome, plan: dict[str, Any]) -> dict[str, Any]:
    migration, cost = prepared.migration, plan["cost_usd"]
    left_out = prepared.left_out + Counter(
        f"refused ({each.reason})" for each in answers.rows if each.reason is not None
    )
    experiences = [answers.seen[name] for name in (ROWS, NEW_QUERIES, OLD_QUERIES)]
    return {
        "name": migration.name,
        "target": migration.target,
        "from": str(migration.from_generation),
        "to": str(migration.to_generation),
        "verdict": verdict.sentence(
            str(migration.to_generation), found, cost=(cost["low"], cost["high"]), hours=plan["hours"]
        ),
        "worse": verdict.is_worse(found),
        "enough_queries": verdict.has_enough(found),
        "seed": prepared.seed,
        "rows": {
            "wanted": prepared.wanted.rows,
            "drawn": len(prepared.drawn),
            "strata": len({each.stratum for each in prepared.drawn}),
            "relevant": sum(each.row.stratum == RELEVANT for each in prepared.sampled),
            "embedded": sum(each.vector is not None for each in answers.rows),
            "compared": found.rows,
            "left_out": dict(left_out),
        },
        "provider": page.provider(experiences[0], experiences[1:]),
    }


async def _cost(connection: AsyncConnection, migration_id: int) -> dict[str, Any]:
    """Return what pilots of this migration cost so far."""
    spent = [each for each in await budget.purposes(connection, migration_id) if each[0] == Purpose.PILOT]
    return {"tokens": sum(each[2] for each in spent), "usd": sum(each[3] for each in spent)}


def _money(prepared: Prepared, answers: Answers) -> dict[str, Any]:
    """Return tokens billed for the rows' texts against our own estimate of them, each text once; and the ratio.

    Texts whose bill the provider did not tell are left out of both: what was settled for them is our own bound.
    """
    profile = profiles.of(prepared.migration.spec.to)
    counts, method = tokens.count_all(prepared.sent, profile.tokenizer)
    done = [at for at, each in enumerate(answers.rows) if each.vector is not None]
    told = [at for at in done if answers.rows[at].request is not None]
    once = {prepared.sent[at]: at for at in told or done}.values()
    drawn = [at for at in told if prepared.sampled[at].row.weight > 0]
    return {
        "estimated": sum(counts[at] for at in once),
        "billed": round(sum(answers.rows[at].tokens for at in once)) if told or not done else None,
        "untold": len({prepared.sent[at] for at in done} - {prepared.sent[at] for at in told}),
        "method": method,
        "ratio": ratio.measure(
            [counts[at] for at in drawn],
            [answers.rows[at].tokens for at in drawn],
            [prepared.sampled[at].row.weight for at in drawn],
            [answers.rows[at].request or "" for at in drawn],
            seed=prepared.seed,
        ),
    }


def _interval(found: Ratio | None) -> dict[str, Any]:
    if found is None:
        return {"ratio": None, "low": None, "high": None, "requests": 0}
    return {"ratio": found.value, "low": found.low, "high": found.high, "requests": found.requests}


def _calibration(
    prepared: Prepared, answers: Answers, found: Ratio | None, earlier: dict[str, Any] | None
) -> Calibration | None:
    """Return what the plan is mended by; a pilot that had to ask for hardly a row knows the latency of the last one."""
    if found is None:
        return None
    seconds, last = answers.seen[ROWS].seconds, calibration.restore(earlier)
    known = last.request_seconds if last is not None else None
    return Calibration(
        rows=sum(each.vector is not None for each in answers.rows),
        ratio=found.value,
        low=found.low,
        high=found.high,
        request_seconds=float(np.mean(seconds)) if len(seconds) >= _FEWEST_REQUESTS else known,
        seed=prepared.seed,
        requests=found.requests,
    )


def _compared(prepared: Prepared, answers: Answers, operator: str) -> Outcome:
    """Compare on the rows that have both vectors."""
    migration = prepared.migration
    both = [
        at for at, each in enumerate(answers.rows) if each.vector is not None and prepared.sampled[at].old is not None
    ]
    dims = {side: migration.generation(side).dims for side in Side}
    old = Space(
        _stacked([prepared.sampled[at].old for at in both], dims[Side.FROM]),
        _stacked(
            [each.vector for each in answers.old_queries]
            if answers.old_queries is not None
            else [None] * len(prepared.asked.texts),
            dims[Side.FROM],
        ),
    )
    new = Space(
        _stacked([answers.rows[at].vector for at in both], dims[Side.TO]),
        _stacked([each.vector for each in answers.new_queries], dims[Side.TO]),
    )
    keys = [prepared.sampled[at].row.key for at in both]
    return compared(keys, prepared.asked, old, new, operator=operator, seed=prepared.seed)


def _stacked(vectors: Sequence[NDArray[np.float32] | None], dims: int) -> NDArray[np.float32]:
    """Return vectors as one array; what there is none of is zeros."""
    made = np.zeros((len(vectors), dims), dtype=np.float32)
    for at, vector in enumerate(vectors):
        if vector is not None:
            made[at] = vector
    return made
