"""The page of a pilot: the verdict first, then what it rests on; for people, for `--json` and for Postgres.

Floor 2. Pure. Promise (P11): it holds figures, names of slices and models, and a seed; never a text or a key of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from migrator.measures.ratio import sureness
from migrator.measures.scores import FEWEST_IN_SLICE
from migrator.pilot.purse import Experience
from migrator.pilot.verdict import dollars, duration, interval


def provider(rows: Experience, others: Sequence[Experience]) -> dict[str, Any]:
    """Return how the provider behaved: seconds of the rows' requests, and the troubles of all by their names."""
    troubles = sum((each.troubles for each in (rows, *others)), start=rows.troubles.__class__())
    p50, p95 = (float(np.percentile(rows.seconds, each)) if rows.seconds else None for each in (50, 95))
    return {
        "requests": len(rows.seconds) + sum(len(each.seconds) for each in others),
        "row_requests": len(rows.seconds),
        "latency_seconds": {"p50": p50, "p95": p95},
        "troubles": dict(troubles),
    }


def lines(page: Mapping[str, Any]) -> list[str]:
    """Return the page for a terminal."""
    told = [f"{page['name']}   {page['target']}   {page['from']} -> {page['to']}   pilot", "", page["verdict"], ""]
    rows = [*_about_money(page), *_about_rows(page), *_about_search(page["search"])]
    width = max(len(name) for name, _ in rows)
    told += [f"  {name.ljust(width)}  {value}" for name, value in rows]
    told += _slices(page["search"])
    return told


def _about_money(page: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tokens, plan, cost = page["tokens"], page["plan"], page["cost"]
    yield "tokens", _bill(tokens)
    for name, when in (("before", "plan before"), ("after", "plan after")):
        each = plan[name]
        usd = dollars(each["cost_usd"]["low"], each["cost_usd"]["high"])
        count = each["tokens"]
        took = f"{duration(each['hours'])} ({each['hours_bound_by']})"
        yield when, f"{count['estimate']:,} tokens ({count['low']:,} to {count['high']:,}), {usd}, {took}"
    for warned in plan["warnings"]:
        yield "plan warns", warned
    bound = " (counted at their most where no usage was told)" if tokens["untold"] else ""
    yield "cost", f"{cost['tokens']:,} tokens, {cost['usd']:.4f} USD for pilots of this migration so far{bound}"
    seen = page["provider"]
    p50, p95 = seen["latency_seconds"]["p50"], seen["latency_seconds"]["p95"]
    took = f"a request of rows took {p50:.2f} s (p50), {p95:.2f} s (p95)" if p50 is not None else "no row was asked for"
    troubles = ", ".join(f"{count} x {name}" for name, count in sorted(seen["troubles"].items())) or "no trouble"
    yield "provider", f"{seen['requests']:,} requests; {took}; {troubles}"


def _bill(tokens: Mapping[str, Any]) -> str:
    """Return what was billed against what was estimated, or that nobody told."""
    if tokens["billed"] is None:
        said = f"{tokens['estimated']:,} estimated for these rows; what was billed is not known"
        return f"{said}: the provider told no usage, and nothing is mended by it"
    of, besides = "", ""
    if tokens["ratio"] is not None:
        of = f", {tokens['ratio']:.3f} of that ({sureness(tokens['low'], tokens['high'], tokens['requests'])})"
    if tokens["untold"]:
        besides = f"; of {tokens['untold']:,} texts besides the provider told no usage: they count for neither"
    return f"{tokens['estimated']:,} estimated for these rows, {tokens['billed']:,} billed{of}{besides}"


def _about_rows(page: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rows = page["rows"]
    left = "".join(f"; {count:,} {reason}" for reason, count in sorted(rows["left_out"].items()))
    relevant = f", {rows['relevant']:,} more that queries must find" if rows["relevant"] else ""
    drawn = f"{rows['drawn']:,} drawn from {rows['strata']} strata of language and length{relevant}"
    yield "rows", f"{drawn}; {rows['embedded']:,} embedded, {rows['compared']:,} compared{left} (seed {page['seed']})"
    yield "old vectors", page["provenance"] or "not looked at: signed away"


def _about_search(search: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "searched", f"{search['queries']:,} {search['kind']} among {search['rows']:,} rows, every row looked at"
    if search["why_not"]:
        yield "not compared", search["why_not"]
    for name, (old, new) in search["means"].items():
        yield name, f"{old:.3f} -> {new:.3f}"
    if search["overlap"] is not None:
        yield "overlap@10", f"{search['overlap']:.3f} of a query's first page stays, on average"
    bridge = search["bridge"]
    if bridge is not None:
        learnt = f"an orthogonal map from old to new, learnt from {bridge['learnt_rows']:,} rows, finds"
        found = f"{bridge['recall']:.3f} of the {bridge['depth']} nearest of {bridge['held_out_rows']:,} others"
        yield "one map", f"{learnt} {found} (for information: none is used)"


def _slices(search: Mapping[str, Any]) -> list[str]:
    changes = search["changes"]
    if not changes:
        return []
    names = ["all", *sorted(name for name in changes if name != "all")]
    width = max(len("nDCG@10 by slice"), *(len(name) + 2 for name in names))
    told = ["", f"  {'nDCG@10 by slice'.ljust(width)}  queries  change  95 % interval"]
    for name in names:
        each = changes[name]
        sure = interval(each["low"], each["high"]) if each["count"] >= FEWEST_IN_SLICE else "too few to tell"
        told.append(f"  {f'  {name}'.ljust(width)}  {each['count']:>7,}  {each['mean']:+.3f}  {sure}")
    return told
