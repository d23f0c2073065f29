"""Comparing: the same queries asked of both models and both columns, side by side, for somebody to read.

Floor 2. Promise: it only reads, decides nothing, and stores nothing but what it cost; every search has a time limit,
and no transaction is open while a model is asked (P4). No text of a row is read at all, and no text of a query leaves
in what is returned: a query is told by its number (P11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import OperatorError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.measures import bootstrap, rankings, retrieval
from migrator.measures.bootstrap import Interval
from migrator.queries import Query
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state.budget import Purpose
from migrator.state.connection import fetch, transaction
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.statements import compose
from migrator.validation import asking, searching
from migrator.validation.searching import DEPTH, Found, Key, Searcher

_FILE = "validation/comparing.sql"
#: Draw more than is wanted: many rows of a log of searches hold the same text.
_OVERSAMPLE = 20.0
#: Seconds that drawing the sample may take.
_SAMPLE_SECONDS = 30.0
#: Kinds of relations that a sample can be drawn of: tables, partitioned tables, materialized views.
_SAMPLED_KINDS = frozenset("rpm")


@dataclass(eq=False)
class NoSample(OperatorError):
    """No query texts can be drawn from what was named."""

    place: str
    why: str

    runbook = "compare-refused"
    happened = "No query texts can be drawn from {place}: {why}."
    state = "Nothing was asked and nothing was changed."
    next = "Name a column of texts as SCHEMA.TABLE.COLUMN, or give --queries FILE to `migrator compare`."


@dataclass(frozen=True, slots=True)
class Pair:
    """One query's two first pages, by its number from 1 on, and the milliseconds that each search took.

    `ranks`: the reciprocal ranks of what is relevant, old and new, where somebody said what is.
    """

    number: int
    old: list[Key]
    new: list[Key]
    milliseconds: tuple[float, float]
    ranks: tuple[float, float] | None

    @property
    def overlap(self) -> float:
        """The share of the first page that both have in common."""
        return rankings.overlap(self.old, self.new, DEPTH)

    @property
    def gain(self) -> float:
        """How much better the new model finds what is relevant; 0 where nobody said what is."""
        return 0.0 if self.ranks is None else self.ranks[1] - self.ranks[0]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of them, of so many that were asked; by which index, how far it looks. `mrr`: old, new, and the change."""

    pairs: list[Pair]
    asked: int
    #: Numbers of the queries that one of the models would not embed.
    refused: list[int]
    by: str
    breadth: str
    seconds: float
    mrr: tuple[float, float, Interval] | None

    @property
    def overlap(self) -> float:
        """The mean overlap."""
        return float(np.mean([each.overlap for each in self.pairs])) if self.pairs else 0.0

    def latency(self, side: Side, percentile: float) -> float:
        """Return a percentile of one column's milliseconds."""
        place = list(Side).index(side)
        return (
            float(np.percentile([each.milliseconds[place] for each in self.pairs], percentile)) if self.pairs else 0.0
        )

    def least_alike(self) -> list[Pair]:
        """Return those whose page changed most, first."""
        return sorted(self.pairs, key=lambda each: (each.overlap, each.number))

    def by_gain(self) -> list[Pair]:
        """Return those that the new model answers worst by what is relevant, first."""
        return sorted(self.pairs, key=lambda each: (each.gain, each.number))


async def compare(
    worker: Worker, migration: Migration, lease: Lease, queries: Sequence[Query], *, seed: int
) -> Comparison:
    """Ask both.

    Cost: each query embedded by both models, booked as validation.
    Raises: Throttled, KeyMissing, and what providers and the purse raise.
    """
    search = await searching.prepare(worker, migration)
    texts = [each.text for each in queries]
    vectors = {}
    for side in Side:
        embedder = await make_embedder(
            worker, migration, side, lease, Purpose.VALIDATION, windows_apply=False, allowed=frozenset(MigrationStatus)
        )
        vectors[side] = await asking.embed(embedder, texts, migration.generation(side).dims)
    both = [at for at in range(len(texts)) if all(vectors[side][at].any() for side in Side)]
    searcher = Searcher.start(worker, search)
    before, after = await searcher.in_turns(vectors[Side.FROM][both], vectors[Side.TO][both])
    pairs = [_pair(at, queries[at], *found) for at, *found in zip(both, before, after, strict=False)]
    return Comparison(
        pairs=pairs,
        asked=len(queries),
        refused=[at + 1 for at in range(len(texts)) if at not in set(both)],
        by=search.by,
        breadth=await searcher.breadth(),
        seconds=migration.spec.gates.search_seconds,
        mrr=_mrr([each.ranks for each in pairs if each.ranks is not None], seed),
    )


def _pair(at: int, query: Query, old: Found, new: Found) -> Pair:
    first, second = old.keys[:DEPTH], new.keys[:DEPTH]
    ranks = None
    if query.relevant is not None:
        wanted = frozenset(query.relevant)
        ranks = (retrieval.reciprocal_rank(first, wanted, DEPTH), retrieval.reciprocal_rank(second, wanted, DEPTH))
    return Pair(at + 1, first, second, (old.milliseconds, new.milliseconds), ranks)


def _mrr(ranks: Sequence[tuple[float, float]], seed: int) -> tuple[float, float, Interval] | None:
    if not ranks:
        return None
    old, new = np.array(ranks).T
    return float(old.mean()), float(new.mean()), bootstrap.paired(new, old, seed=seed)


async def drawn(engine: AsyncEngine, place: str, *, wanted: int, seed: int) -> list[Query]:
    """Return random texts of SCHEMA.TABLE.COLUMN, each once.

    Raises: NoSample, PrivilegeMissing, LockBusy (it took too long).
    """
    parts = place.split(".")
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004 - schema, table, column
        raise NoSample(place, "it does not name a schema, a table and a column")
    schema, table, column = parts
    async with transaction(engine, read_only=True, statement_timeout_seconds=_SAMPLE_SECONDS) as connection:
        named = {"schema": schema, "table": table, "column": column}
        found = await fetch(connection, compose(_FILE, "kind"), named)
        if not found or found[0]["kind"] not in _SAMPLED_KINDS:
            raise NoSample(place, "there is no such table")
        if not found[0]["has_column"]:
            raise NoSample(place, "the table has no such column")
        rows = found[0]["rows"]
        # A table that was never analysed says that it has no rows.
        percent = min(100.0, 100 * _OVERSAMPLE * wanted / rows) if rows else 100.0
        names = {"table": sql.Identifier(schema, table), "column": sql.Identifier(column)}
        values = {"percent": percent, "seed": seed, "wanted": wanted}
        texts = [row["text"] for row in await fetch(connection, compose(_FILE, "sample", names), values)]
    if not texts:
        raise NoSample(place, "it holds no text")
    return [Query(text, None) for text in texts]
