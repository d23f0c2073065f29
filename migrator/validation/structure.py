"""Structure: every row has what it must have, and every vector is one. In one pass with the sentinel.

Floor 2. Promise: coverage is proved as rows without a vector are everywhere: by one statement over one snapshot, since
rows move between pages (H19); it touches neither a vector nor a text, so it is over soon. What is asked of each vector
by itself (a text beside it, its dimensions, its length, whose space it looks to be of, which others are its equals) is
asked window by window, in bounded statements and bounded memory, and no vector leaves the server for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from migrator.generation import Side
from migrator.measures import sharing
from migrator.measures.sharing import Sharing
from migrator.spending.worker import Worker
from migrator.state.connection import fetch, transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.statements import compose
from migrator.target import arrays
from migrator.target.relation import Target
from migrator.validation import every_vector, resuming, sentinel
from migrator.validation.every_vector import Key, Looking, Span, Window
from migrator.validation.resuming import Kept
from migrator.validation.sentinel import Suspects

_FILE = "validation/structure.sql"
STRUCTURE, QUARANTINED = "structure", "quarantined"
#: Keys that a verdict names of each fault.
_EXAMPLES = 5
#: Rows that share a vector whose texts are compared without case and spaces. Beyond, no such likeness explains them.
_FOLDED_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Structure:
    """What one look at every row found. `bad` counts rows at fault, `uncovered` those of them without a vector."""

    verdicts: list[Verdict]
    embedded: int
    uncovered: int
    bad: int


@dataclass(slots=True)
class Faults:
    """What is wrong with vectors, as windows come."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("wordless", "misshapen", "zero"), 0))
    keys: dict[str, list[Key]] = field(default_factory=dict)
    sharing: Sharing = field(default_factory=Sharing)
    #: Whether rows are to be had from `fresh`, and those since it was asked last.
    keeps: bool = False
    _fresh: list[NDArray[np.uint64]] = field(default_factory=list)

    async def take(self, window: Window) -> None:
        """Look at a window."""
        misshapen = np.isnan(window.along) | ~np.isfinite(window.norms)
        zero = window.norms == 0
        for fault, which in (("wordless", window.wordless), ("misshapen", misshapen), ("zero", zero)):
            await self._note(window, fault, which)
        # A vector without a text or a length is at fault already.
        sound = ~(window.wordless | zero)
        rows = window.prints[sound], window.texts[sound], window.numbered()[sound]
        self.sharing.add(*rows)
        if self.keeps:
            self._fresh.append(np.stack(rows))

    def fresh(self) -> bytes:
        """Return the rows since this was asked last that are in the slice, and forget them."""
        rows = np.concatenate(self._fresh, axis=1) if self._fresh else np.empty((3, 0), dtype=np.uint64)
        self._fresh.clear()
        return rows[:, rows[0] % np.uint64(self.sharing.slices) == 0].astype("<u8").tobytes()

    def state(self) -> dict[str, Any]:
        """Return what was found but for the rows, as JSON has it."""
        return {"counts": self.counts, "keys": self.keys, "seen": self.sharing.seen}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was found but for the rows."""
        self.counts |= state["counts"]
        self.keys = {fault: [tuple(key) for key in keys] for fault, keys in state["keys"].items()}
        self.sharing.seen = state["seen"]

    def restore_rows(self, kept: Sequence[bytes]) -> None:
        """Take up the rows."""
        for piece in kept:
            self.sharing.take(np.frombuffer(piece, dtype="<u8").reshape(3, -1).astype(np.uint64), 0)

    async def _note(self, window: Window, fault: str, which: NDArray[np.bool_]) -> None:
        self.counts[fault] += int(which.sum())
        room = _EXAMPLES - len(self.keys.get(fault, []))
        if room and which.any():
            self.keys.setdefault(fault, []).extend(await window.keys(which, room))


async def measure(worker: Worker, migration: Migration, *, seed: int, lease: Lease | None = None) -> Structure:
    """Look at every row; returns the verdicts on structure, on the quarantined share and of the sentinel.

    With a lease it heeds the database's signals, and goes on with what died under another.

    Raises: Throttled, LeaseLost.
    """
    began = time.monotonic()
    covered = await _coverage(worker, migration)
    begun = await resuming.begun(worker, migration) if lease is not None else None
    if begun is not None:
        learnt, frame = begun.learnt, begun.frame
    else:
        learnt = await sentinel.learn(worker, migration, rows=covered["embedded"], seed=seed)
        frame = await every_vector.frame(worker, migration)
    faults, suspects = Faults(keeps=lease is not None), Suspects(learnt)
    kept: dict[str, Kept] = {"faults": faults, "suspects": suspects}
    if begun is not None:
        for name, each in kept.items():
            each.restore(begun.found[name])
        faults.restore_rows(begun.rows)
    dims, rule = migration.to_generation.dims, learnt.rule
    direction = rule.discriminant.direction if rule is not None else every_vector.by_chance(dims, learnt.seed)
    between = None
    if lease is not None:
        between = resuming.Between(worker, migration, lease, frame, learnt, kept, faults)
    first, spans = begun.done if begun is not None else 0, frame.spans
    looking: list[Looking] = [faults, suspects]
    await every_vector.look(worker, migration, spans, direction, looking, first=first, between=between)
    shared = await _shared(worker, migration, faults.sharing, spans)
    watched = suspects.verdict(migration)
    took = time.monotonic() - began - watched.seconds
    whole = _verdict(migration, covered, faults, shared, took)
    verdicts = [whole, _quarantined(migration, covered), watched]
    return Structure(verdicts, covered["embedded"], covered["uncovered"], int(whole.figure))


async def _coverage(worker: Worker, migration: Migration) -> dict[str, int]:
    target = Target.of(migration)
    parts = {
        "table": target.table_id,
        "column": sql.Identifier(migration.column_of(Side.TO)),
        "key": target.key_of("t"),
        "in_scope": target.in_scope("t", migration.column_of(Side.FROM)),
    }
    async with transaction(worker.engine, read_only=True) as connection:
        return (await fetch(connection, compose(_FILE, "coverage", parts), {"migration_id": migration.id}))[0]


@dataclass(frozen=True, slots=True)
class Shared:
    """Rows whose vector stands beside another text: how many of `of` looked at, and some of their keys."""

    rows: int
    of: int
    keys: list[Key]

    @property
    def share(self) -> float:
        """Their share."""
        return self.rows / max(self.of, 1)


async def _shared(worker: Worker, migration: Migration, kept: Sharing, spans: list[Span]) -> Shared:
    """Return what shares a vector, texts that differ in case and spaces alone counted as one text."""
    prints, texts, places = kept.rows
    which = np.flatnonzero(sharing.groups(prints, texts))
    if not len(which):
        return Shared(0, len(prints), [])
    # The first of them, vector by vector.
    few = which[np.argsort(prints[which], kind="stable")][:_FOLDED_ROWS]
    heaps = {span.number: span.heap for span in spans}
    keys: dict[int, Key] = {}
    texts = texts.copy()
    for number in np.unique(places[few] >> np.uint64(48)).tolist():
        rows = few[places[few] >> np.uint64(48) == number]
        found = await every_vector.folded(worker, migration, heaps[number], arrays.tids(_place(places[rows])))
        for row, place in zip(rows.tolist(), arrays.tids(_place(places[rows])), strict=True):
            if place in found:
                keys[row], folded = found[place]
                texts[row] = np.uint64(folded % 2**64)
    left = np.flatnonzero(sharing.groups(prints[which], texts[which]))
    named = [keys[row] for row in which[left].tolist() if row in keys]
    return Shared(len(left), len(prints), named[:_EXAMPLES])


def _place(numbered: NDArray[np.uint64]) -> NDArray[np.void]:
    places = np.empty(len(numbered), dtype=arrays.PLACE)
    places["page"] = (numbered >> np.uint64(16)) & np.uint64(0xFFFFFFFF)
    places["item"] = numbered & np.uint64(0xFFFF)
    return places


def _verdict(migration: Migration, covered: dict[str, int], faults: Faults, shared: Shared, took: float) -> Verdict:
    allowed = migration.spec.gates.max_shared_share
    over = shared.share > allowed
    counts = {"uncovered": covered["uncovered"], **faults.counts, "shared": round(shared.share * covered["embedded"])}
    keys = {**faults.keys, "shared": shared.keys}
    told = [f"{count:,} {fault}{_named(keys.get(fault, []))}" for fault, count in counts.items()]
    detail = "rows at fault: " + ", ".join(told)
    summary = "rows at fault: " + ", ".join(f"{count:,} {fault}" for fault, count in counts.items())
    if shared.rows:
        more = f" (another text has the same vector: {shared.share:.3%} of {shared.of:,} looked at"
        more += f", {'more than' if over else 'no fault up to'} {allowed:.3%})"
        detail, summary = detail + more, summary + more
    bad = sum(counts.values()) - (0 if over else counts["shared"])
    mendable = bad == covered["uncovered"]
    rows, evidence = covered["rows"], {"summary": summary}
    return Verdict(STRUCTURE, bad == 0, bad, 0, rows, 0, detail, took, mendable=mendable, evidence=evidence)


def of_part(faults: Faults, rows: int, took: float) -> Verdict | None:
    """Return the failed verdict on rows written since the last whole look; None where each is sound by itself."""
    told = [f"{count:,} {fault}{_named(faults.keys.get(fault, []))}" for fault, count in faults.counts.items()]
    bad = sum(faults.counts.values())
    detail = f"of {rows:,} rows written since the last look at all: {', '.join(told)}"
    return Verdict(STRUCTURE, False, bad, 0, rows, 0, detail, took) if bad else None  # noqa: FBT003 - it failed


def _named(keys: list[Key]) -> str:
    return f" [{'; '.join(', '.join(key) for key in keys)}]" if keys else ""


def _quarantined(migration: Migration, covered: dict[str, int]) -> Verdict:
    share = covered["quarantined"] / max(covered["in_scope"], 1)
    allowed = migration.spec.gates.max_quarantined_share
    detail = f"{covered['quarantined']:,} quarantined rows would vanish from search"
    return Verdict(QUARANTINED, share <= allowed, share, allowed, covered["in_scope"], 0, detail, 0)
