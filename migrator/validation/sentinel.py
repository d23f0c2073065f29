"""The space sentinel: which vectors of the new generation's column look as if the old model had made them.

Floor 2. Where both generations have the same dimensions nothing else can tell: no error is raised, every count is
right. Promise: a rule is learnt from rows that have both vectors, judged by others, and used only where those vouch for
it; where they do not, the gate says so and does not pass. What it lists are keys, never texts (P11). The same rule
answers for rows that are written later (`suspects`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.generation import Side
from migrator.measures import discriminant, judgement
from migrator.measures.discriminant import Rule
from migrator.measures.judgement import Judgement
from migrator.spending.worker import Worker
from migrator.state import discriminants
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import every_vector
from migrator.validation.every_vector import Key, Window

SENTINEL = "sentinel"
#: Rows that teach, and twice as many that judge: with none of 6,000 in doubt, fewer than one in a million is accused.
_TAUGHT = 3_000
#: What may be held of vectors that teach: 64 MB, which is 3,000 pairs up to 2,796 dimensions.
_TAUGHT_BYTES = 64 * 1024 * 1024
#: Sample a little more than is wanted: chance gives fewer at times.
_OVERSAMPLE = 1.2
#: Rows up to which a table may go without a rule: so few teach and judge too little where texts are of several kinds,
#: and the assignment gate's 300 are a good part of them.
_FEWEST_ROWS = 1_000
#: Keys that a verdict lists.
MAX_KEYS = 20


@dataclass(frozen=True, slots=True)
class Learnt:
    """What could be learnt: a rule, or why there is none. `excused` where none is needed."""

    rule: Rule | None
    judged: Judgement | None
    pairs: int
    seed: int
    seconds: float
    why: str = ""
    excused: bool = False


async def learn(worker: Worker, migration: Migration, *, rows: int, seed: int) -> Learnt:
    """Learn the rule from a column with so many vectors, and keep it for later.

    Memory: some 150 MB at 1,024 dimensions while it learns, whatever the table's size.
    """
    began = time.monotonic()
    old, new = migration.from_generation.dims, migration.to_generation.dims
    if old != new:
        why = f"vectors of {old} dimensions can't stand in a column of {new}"
        return Learnt(None, None, 0, seed, 0.0, why, excused=True)
    pairs, rule, judged = await _learn(worker, migration, rows, seed)
    copied = pairs > 0 and rule is None
    good = rule is not None and judged is not None and judged.tells_apart
    async with transaction(worker.engine) as connection:
        if good and rule is not None and judged is not None:
            await discriminants.keep(connection, migration.id, rule, judged, seed=seed)
        else:
            await discriminants.forget(connection, migration.id)
    took = time.monotonic() - began
    if good:
        return Learnt(rule, judged, pairs, seed, took)
    sample = migration.spec.gates.assignment_sample
    if rows <= max(sample, _FEWEST_ROWS) and not copied:
        why = f"{rows:,} rows are too few to learn from; the assignment gate embeds {min(rows, sample):,} of them again"
        return Learnt(None, judged, pairs, seed, took, why, excused=True)
    return Learnt(None, judged, pairs, seed, took, _why_not(judged, pairs))


async def _learn(
    worker: Worker, migration: Migration, rows: int, seed: int
) -> tuple[int, Rule | None, Judgement | None]:
    """Return how many pairs there were, and what they taught."""
    pairs = min(_TAUGHT, _TAUGHT_BYTES // (8 * migration.to_generation.dims))
    percent = min(100.0, 100.0 * _OVERSAMPLE * 3 * pairs / max(rows, 1))
    drawn: dict[str, Any] = {"percent": percent, "seed": seed}
    async with transaction(worker.engine, read_only=True) as connection:
        teachers = every_vector.pairs(connection, migration, **drawn, teaching=True, wanted=pairs)
        blocks = [block async for block in teachers]
    if not blocks:
        return 0, None, None
    taught = [np.concatenate([block[side] for block in blocks]) for side in (0, 1)]
    blocks.clear()
    count = len(taught[0])
    # In a thread: it may take a second, and the lease is renewed meanwhile.
    learnt = await asyncio.to_thread(discriminant.learn, taught[0], taught[1])
    if learnt is None:
        return count, None, None
    taught.clear()
    along, turned, scores = [], [], []
    async with transaction(worker.engine, read_only=True) as connection:
        judges = every_vector.pairs(connection, migration, **drawn, teaching=False, wanted=2 * pairs)
        async for old, new in judges:
            along.append(learnt.along(old))
            turned.append(-learnt.along(new))
            scores.append((learnt.score(old), learnt.score(new)))
    if not scores:
        return 0, None, None
    old_scores, new_scores = (np.concatenate([each[side] for each in scores]) for side in (0, 1))
    judged = judgement.judge(old_scores, new_scores, rows=rows)
    # The same with the places changed: what the old column may hold is looked for after the cutover.
    mirrored = judgement.judge(-new_scores, -old_scores, rows=rows)
    reverse = (-mirrored.cut, discriminant.gate(np.concatenate(turned))) if mirrored.tells_apart else (None, None)
    rule = Rule(learnt, discriminant.gate(np.concatenate(along)), judged.cut, *reverse)
    return count + judged.held_out, rule, judged


def _why_not(judged: Judgement | None, pairs: int) -> str:
    if judged is None:
        return f"no rule could be learnt: of {pairs:,} sampled rows none has two vectors that differ"
    accused = max(judged.alarm_bound, judged.alarms / max(judged.held_out, 1))
    return (
        f"the two generations can't be told apart surely: of {judged.held_out:,} rows held out {judged.misses:,} old"
        f" vectors were missed and {judged.alarms:,} new ones accused; at 95 % up to {judged.miss_bound:.2%} and"
        f" {accused:.2%} of all"
    )


@dataclass(slots=True)
class Suspects:
    """What the rule accuses, as windows come. `copies` are those that are the row's own old vector."""

    learnt: Learnt
    rows: int = 0
    count: int = 0
    copies: int = 0
    keys: list[Key] = field(default_factory=list)
    seconds: float = 0.0

    async def take(self, window: Window) -> None:
        """Look at a window: its products say which vectors to look at more closely."""
        self.rows += len(window.along)
        rule = self.learnt.rule
        if rule is None:
            return
        began = time.monotonic()
        # A vector without a length was made by no model; the structure gate has it.
        doubtful = (window.along > rule.gate) & (window.norms > 0)
        if doubtful.any():
            for keys, new, old in await window.closely(doubtful, len(rule.discriminant.direction)):
                accused = rule.accuses(new)
                self.count += int(accused.sum())
                self.copies += int((accused & discriminant.echoes(old, new) & old.any(axis=1)).sum())
                self.keys += [keys[row] for row in np.flatnonzero(accused)[: MAX_KEYS - len(self.keys)]]
        self.seconds += time.monotonic() - began

    def state(self) -> dict[str, Any]:
        """Return what was found, as JSON has it."""
        return {name: getattr(self, name) for name in ("rows", "count", "copies", "keys", "seconds")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was found."""
        self.rows, self.count, self.copies = state["rows"], state["count"], state["copies"]
        self.keys, self.seconds = [tuple(key) for key in state["keys"]], state["seconds"]

    def of_part(self, migration: Migration, allowed: float, took: float) -> Verdict | None:
        """Return the failed verdict on rows written since the last whole look; None where no more than allowed are."""
        if self.count <= allowed and not self.copies:
            return None
        shown = "; ".join(", ".join(key) for key in self.keys)
        detail = (
            f"{self.count:,} of {self.rows:,} vectors written since the last look at all look like"
            f" {migration.from_generation}; keys: {shown}{' ...' if self.count > len(self.keys) else ''}"
        )
        return Verdict(SENTINEL, False, self.count, allowed, 0, 0, detail, took)  # noqa: FBT003 - it failed

    def verdict(self, migration: Migration) -> Verdict:
        """Return the gate's verdict; its figure counts vectors."""
        learnt, judged = self.learnt, self.learnt.judged
        took = learnt.seconds + self.seconds
        if learnt.rule is None or judged is None:
            figure = 0 if learnt.excused else self.rows
            return Verdict(SENTINEL, learnt.excused, figure, 0, learnt.pairs, learnt.seed, learnt.why, took)
        # What may be accused without reason is allowed, unless some of it is the old vector itself.
        allowed = max(judged.allowance, migration.spec.gates.max_suspect_rows)
        passed = self.count <= allowed and not self.copies
        detail = (
            f"{self.count:,} of {self.rows:,} vectors look like {migration.from_generation}; of {judged.held_out:,}"
            f" rows held out {judged.misses:,} such were missed (< {judged.miss_bound:.2%} of all at 95 %), and fewer"
            f" than 1 in {1 / judged.alarm_bound:,.0f} is accused without reason"
        )
        if self.copies:
            detail += f"; {self.copies:,} are the row's own old vector"
        summary = detail
        if self.keys:
            shown = "; ".join(", ".join(key) for key in self.keys)
            detail += f"; keys: {shown}{' ...' if self.count > len(self.keys) else ''}"
        told = {"summary": summary}
        return Verdict(SENTINEL, passed, self.count, allowed, learnt.pairs, learnt.seed, detail, took, evidence=told)


async def suspects(
    connection: AsyncConnection, migration: Migration, keys: Sequence[Key], side: Side = Side.TO
) -> list[Key] | None:
    """Return those of some rows whose vector in a generation's column looks like the other one's.

    None where the two were never told apart: then nobody can say.
    Cost: a look-up by key each, 4 kB at 1,024 dimensions; call it with some thousands at most.
    """
    rule = await discriminants.read(connection, migration.id)
    if rule is None:
        return None
    found, vectors = await every_vector.of_keys(connection, migration, keys, side)
    said = accuses(rule, side, vectors)
    if said is None:
        return None
    accused = {found[row] for row in np.flatnonzero(said)}
    return [key for key in keys if key in accused]


def accuses(rule: Rule, side: Side, vectors: every_vector.Vectors) -> NDArray[np.bool_] | None:
    """Say of each vector of a generation's column whether it looks like the other one's; None where nobody can say."""
    return rule.accuses(vectors) if side is Side.TO else rule.accuses_old(vectors)
