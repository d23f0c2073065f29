"""`migrator compare`.

Floor 4. The texts of queries are the operator's own file, or what real people searched for: on a terminal they are
shown, shortened, since a number says nothing to who reads; in a pipe, a file or JSON, which end up in logs and tickets,
a query is told by its number alone (P11).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from migrator.orchestrator.compare import Price
    from migrator.queries import Query
    from migrator.spending.worker import Worker
    from migrator.state.migrations import Migration
    from migrator.validation.comparing import Comparison, Pair
    from migrator.validation.searching import Key

#: Characters of a query on a terminal.
_SHOWN = 60


def command(
    name: options.Name,
    *,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", metavar="FILE", help='One {"text": ..., "relevant": [key, ...]?} a line.'),
    ] = None,
    from_table: Annotated[
        str | None,
        typer.Option("--from-table", metavar="SCHEMA.TABLE.COLUMN", help="Draw the texts of real queries from there."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many to draw, with --from-table. Unit: texts.")
    ] = 100,
    show: Annotated[int, typer.Option(min=0, help="How many of the best and of the worst are listed.")] = 5,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Ask both models the same queries, and lay what both columns find side by side.

    For somebody to read: it decides nothing and moves nothing. Both models embed each query, under the migration's cap;
    the price is shown before. It needs both columns whole: from `validating` on until `cleanup`.

    Examples:
        migrator compare docs --queries queries.jsonl

        migrator compare docs --from-table public.searches.text --sample 50 --yes --json
    """
    from migrator.cli import session
    from migrator.orchestrator import compare

    if (queries is None) is (from_table is None):
        raise typer.BadParameter("give either --queries FILE or --from-table SCHEMA.TABLE.COLUMN", param_hint="compare")
    source = queries if queries is not None else from_table or ""

    async def step(worker: Worker) -> None:
        migration, wanted, price = await _wanted(worker, name, source, sample)
        if dry_run:
            _foretell(migration, price, json=json)
            return
        console.ask(f"{_price(price)} Ask both models?", verb="compare", yes=yes)
        found = await compare.run(worker, migration, wanted)
        if json:
            console.as_json(_as_json(migration, found))
        else:
            _tell(found, wanted if sys.stdout.isatty() else (), show)

    session.run(step)


async def _wanted(
    worker: Worker, name: str, source: Path | str, sample: int
) -> tuple[Migration, Sequence[Query], Price]:
    """Return what is to be asked, from a file or a table, and its price."""
    from migrator.orchestrator import compare

    migration = await compare.comparable(worker, name)
    if isinstance(source, Path):
        wanted = compare.from_file(migration, source)
    else:
        wanted = await compare.from_table(worker, source, sample=sample)
    return migration, wanted, compare.price(migration, wanted)


def _price(price: Price) -> str:
    return f"{price.queries:,} queries, about {price.tokens:,} tokens of both models, {console.usd(price.usd)} USD."


def _foretell(migration: Migration, price: Price, *, json: bool) -> None:
    if json:
        told = {"queries": price.queries, "tokens": price.tokens, "usd": price.usd, "method": price.method}
        console.as_json({"name": migration.name, **told})
    else:
        console.say(f"{_price(price)} ({price.method}) Nothing was asked.")


def _tell(found: Comparison, texts: Sequence[Query], show: int) -> None:
    """Print what was found; `texts` are empty where nobody stands before it."""
    from migrator.generation import Side

    done = len(found.pairs)
    short = f"; cut short after {found.seconds:g} s" if done + len(found.refused) < found.asked else ""
    rows = [("queries", f"{done:,} of {found.asked:,}{short}"), ("searched by", f"{found.by}, {found.breadth}")]
    if found.refused:
        rows.append(("refused", "by one of the models: " + ", ".join(map(str, found.refused))))
    rows.append(("overlap@10", f"{found.overlap:.3f} on average"))
    if found.mrr is not None:
        old, new, change = found.mrr
        rows.append(("MRR", f"{old:.3f} -> {new:.3f}, {change}"))
    for side, word in ((Side.FROM, "old column"), (Side.TO, "new column")):
        p50, p95 = (found.latency(side, percentile) for percentile in (50, 95))
        rows.append((word, f"p50 {p50:.1f} ms, p95 {p95:.1f} ms"))
    console.table([(f"  {name}", value) for name, value in rows])
    if found.mrr is None:
        _list("least alike", found.least_alike()[:show], texts)
        _list("most alike", found.least_alike()[::-1][:show], texts)
        return
    order = found.by_gain()
    _list("worse than before", [each for each in order[:show] if each.gain < 0], texts)
    _list("better than before", [each for each in order[::-1][:show] if each.gain > 0], texts)
    _list("least alike", found.least_alike()[:show], texts)


def _list(heading: str, pairs: Sequence[Pair], texts: Sequence[Query]) -> None:
    if not pairs:
        return
    console.heading(heading)
    for each in pairs:
        ranks = "" if each.ranks is None else f", reciprocal rank {each.ranks[0]:.3f} -> {each.ranks[1]:.3f}"
        text = f"  {_shortened(texts[each.number - 1].text)}" if texts else ""
        console.say(f"  query {each.number}: overlap {each.overlap:.1f}{ranks}{text}")
        console.say(f"    old  {_keys(each.old)}")
        console.say(f"    new  {_keys(each.new)}")


def _shortened(text: str) -> str:
    """Return a query's text in one short line; what could move the cursor is left out."""
    plain = "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN - 4]} ..."


def _keys(keys: Sequence[Key]) -> str:
    return " ".join(",".join(key) for key in keys) or "nothing"


def _as_json(migration: Migration, found: Comparison) -> dict[str, Any]:
    from migrator.generation import Side

    words = {Side.FROM: "old", Side.TO: "new"}
    mrr = None
    if found.mrr is not None:
        old, new, change = found.mrr
        mrr = {"old": old, "new": new, "change": change.mean, "low": change.low, "high": change.high}
    return {
        "name": migration.name,
        "asked": found.asked,
        "compared": len(found.pairs),
        "refused": found.refused,
        "searched_by": found.by,
        "breadth": found.breadth,
        "overlap": found.overlap,
        "mrr": mrr,
        "latency_ms": {
            word: {f"p{percentile}": found.latency(side, percentile) for percentile in (50, 95)}
            for side, word in words.items()
        },
        "queries": [
            {
                "query": each.number,
                "overlap": each.overlap,
                "old": each.old,
                "new": each.new,
                "reciprocal_ranks": each.ranks,
            }
            for each in found.least_alike()
        ],
    }
