"""Gate `quality`: what people search for is found as well as before.

Floor 2. Promise: both models embed the same queries, through the purse, and both columns are searched as the
application does. It decides on the lower end of the difference's interval, so that chance alone passes nothing; a slice
of the queries that falls for certain is said, also where the whole passes. No transaction is open while either model is
asked (P4), and no text of a query or a row leaves this module (P11).

The queries are the operator's own, if the spec names a file with what is relevant to each. Else they are known items:
the first words of sampled rows, each of which must find its own row. Those tell whether search works at all; how well
it works for people only queries with judgements tell.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from migrator.generation import Side
from migrator.measures import bootstrap, scores, slices
from migrator.measures.bootstrap import Interval
from migrator.measures.scores import Scores
from migrator.provider.giving_up import AnswersUnbelievable, ProviderStopped
from migrator.queries import known_item
from migrator.spending.asking import make_embedder
from migrator.spending.worker import KeyMissing, Worker
from migrator.state import queries
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.state.verdicts import Verdict
from migrator.validation import asking, searching
from migrator.validation.searching import DEPTH, Found, Key, Search, Searcher

QUALITY = "quality"


@dataclass(frozen=True, slots=True)
class _Asked:
    """Queries with what each must find."""

    texts: list[str]
    relevant: list[frozenset[Key]]
    kind: str
    #: The rows that known items were made from, with their text then; none for judged queries.
    rows: list[tuple[Key, str]]


async def measure(worker: Worker, migration: Migration, lease: Lease, seed: int) -> list[Verdict]:
    """Ask both columns the same queries.

    Cost: each query embedded by both models, booked as validation.
    Raises: Throttled, and what the new model's provider and the purse raise.
    """
    began, tolerance = time.monotonic(), migration.spec.gates.quality_tolerance
    search = await searching.prepare(worker, migration)
    asked = await _asked(worker, search, seed)
    if not asked.texts:
        detail = "no row has both vectors and a text, so there is nothing to ask"
        return [Verdict(QUALITY, True, 0.0, -tolerance, 0, seed, detail, time.monotonic() - began)]  # noqa: FBT003
    try:
        old = await _embed(worker, migration, lease, Side.FROM, asked.texts)
    except (KeyMissing, ProviderStopped, AnswersUnbelievable) as error:
        # The old model may be gone for good; then nothing can be compared, and only somebody can say that this is so.
        detail = f"the old model can't be asked, so nothing can be compared: {error.sentences()[0]}"
        return [Verdict(QUALITY, False, -1.0, -tolerance, 0, seed, detail, time.monotonic() - began)]  # noqa: FBT003
    new = await _embed(worker, migration, lease, Side.TO, asked.texts)
    searcher = Searcher.start(worker, search)
    # What one of the models refused is asked of neither.
    both = [place for place in range(len(asked.texts)) if old[place].any() and new[place].any()]
    before, after = await searcher.in_turns(old[both], new[both])
    searched = both[: len(after)]
    done = await _unedited(worker, search, asked, searched)
    first, second = [_scores(each, searched, done, asked) for each in (before, after)]
    found = bootstrap.paired(second.ndcg, first.ndcg, seed=seed)
    detail = _detail(asked, first, second, found)
    sliced = scores.by_slice(slices.positions([asked.texts[place] for place in done]), first, second, seed=seed)
    detail += "".join(
        f"; {name} queries fall: {each} of {each.count}" for name, each in sliced.items() if each.high < 0
    )
    detail += searching.cut(len(searched), len(both), migration.spec.gates.search_seconds)
    passed = found.low >= -tolerance and not searching.few(len(searched), asked.texts)
    evidence = _evidence(asked.kind, first, second, {"all": found, **sliced})
    took = time.monotonic() - began
    return [Verdict(QUALITY, passed, found.low, -tolerance, len(done), seed, detail, took, evidence=evidence)]


async def _asked(worker: Worker, search: Search, seed: int) -> _Asked:
    """Return the operator's queries where they say what is relevant; else known items."""
    migration = search.migration
    async with transaction(worker.engine, read_only=True) as connection:
        own = await queries.read(connection, migration.id)
    judged = [(each.text, frozenset(each.relevant)) for each in own if each.relevant is not None]
    if judged:
        return _Asked([text for text, _ in judged], [keys for _, keys in judged], "judged queries", [])
    drawn = await searching.pairs(worker, search, wanted=migration.spec.gates.known_items, seed=seed)
    rows = [(key, text) for key, text in zip(drawn.keys, drawn.texts, strict=True) if text.strip()]
    texts = [known_item(text) for _, text in rows]
    return _Asked(texts, [frozenset({key}) for key, _ in rows], "known-item queries", rows)


async def _unedited(worker: Worker, search: Search, asked: _Asked, places: list[int]) -> list[int]:
    """Leave out known items whose row was edited while it was asked for: it had no vector then, or another text's."""
    if not asked.rows or not places:
        return places
    now = await searching.still(worker, search, [asked.rows[place][0] for place in places])
    return [place for place in places if now.get(asked.rows[place][0]) == asked.rows[place][1]]


async def _embed(
    worker: Worker, migration: Migration, lease: Lease, side: Side, texts: Sequence[str]
) -> NDArray[np.float32]:
    """Embed the texts; a text that is refused stays zero."""
    embedder = await make_embedder(worker, migration, side, lease, Purpose.VALIDATION)
    return await asking.embed(embedder, texts, migration.generation(side).dims)


def _scores(found: Sequence[Found], searched: list[int], kept: list[int], asked: _Asked) -> Scores:
    rankings = {place: each.keys[:DEPTH] for place, each in zip(searched, found, strict=True)}
    return scores.score([rankings[place] for place in kept], [asked.relevant[place] for place in kept], DEPTH)


def _detail(asked: _Asked, old: Scores, new: Scores, found: Interval) -> str:
    if not found.count:
        return "no query could be asked of both columns"
    others = [("recall@10", old.recall, new.recall), ("MRR", old.mrr, new.mrr)]
    told = ", ".join(f"{name} {first.mean():.3f} -> {second.mean():.3f}" for name, first, second in others)
    mean = f"nDCG@10 {old.ndcg.mean():.3f} -> {new.ndcg.mean():.3f}, {found}"
    return f"{mean}; {told}; {found.count} {asked.kind}"


def _evidence(kind: str, old: Scores, new: Scores, changes: dict[str, Interval]) -> dict[str, Any]:
    """Return the means of every measure, and how nDCG@10 changed in all and by slice."""
    if not changes["all"].count:
        return {"kind": kind, "means": {}, "changes": {}}
    changed = {name: asdict(each) for name, each in changes.items()}
    return {"kind": kind, "means": scores.means(old, new, DEPTH), "changes": changed}
