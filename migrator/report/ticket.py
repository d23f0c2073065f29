"""The plan for people: plain text of 100 columns at most, made to be pasted into a change ticket.

Floor 4, below the doors. Pure: a document in, lines out. Promise: every figure that decides something is told with how
it is known, and no line needs colours, a wide window or this machine to be read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from migrator.planning import alternatives, calibration, provider
from migrator.target.build import MAX_MEMORY_BYTES
from migrator.words import dollars, size, span

#: Columns that a ticket shows without folding.
WIDTH = 100
_LABEL = "  {:<12}"
#: Limits as people call them.
_LIMITS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "latency": "latency",
    "database_writes": "writing",
}


def lines(plan: Mapping[str, Any]) -> list[str]:
    """Return the whole page."""
    told = [f"{plan['name']}   {plan['target']}   {plan['from']} -> {plan['to']}"]
    for name, text in figures(plan):
        told += _wrapped(text, _LABEL.format(name), " " * len(_LABEL.format("")))
    if plan["dependents"]:
        told.append("  hanging on the column")
        rows = [(each["kind"], each["name"], each["action"]) for each in plan["dependents"]]
        wide = [max(len(row[place]) for row in rows) for place in range(2)]
        told += [f"    {kind:<{wide[0]}}  {name:<{wide[1]}}  {action}" for kind, name, action in rows]
    if plan["alternatives"]:
        told.append("  what else could be done")
        for what, text in alternatives.told(plan):
            told += _wrapped(f"{what}: {text}", "    ", "      ")
    if plan["findings"]:
        told.append("  findings")
        for each in plan["findings"]:
            what = f"{each['severity']:6} {each['object']}: {each['message']} [{each['code']}]"
            told += _wrapped(what, "    ", " " * 11)
            told += _wrapped(each["mend"], " " * 11, " " * 11)
    return told


def figures(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what was found and worked out, as (name, text)."""
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in plan["skipped"].items() if count) or "none"
    yield "rows", f"{plan['rows']:,}, of which {plan['rows_to_embed']:,} are embedded (skipped: {skipped})"
    yield "", _counted(plan)
    if plan["sample"]:
        yield "texts", _texts(plan)
        yield "arrivals", _arrivals(plan["growth"])
    yield "old vectors", _origin(plan)
    yield from _money(plan)
    yield "time", f"{plan['hours']:.2f} h ({plan['hours_bound_by']})"
    by_limit = (f"{_LIMITS[name]} {span(3600 * hours)}" for name, hours in plan["hours_by_limit"].items())
    yield "", "by limit: " + ", ".join(by_limit)
    yield "done", _done(plan["finish"])
    toast, heap = plan["disk"]["toast_bytes"], plan["disk"]["heap_bytes"]
    parts = f"vectors {size(toast or heap)} {'in TOAST' if toast else 'in the rows'}"
    growth = f"heap growth about {size(plan['heap_growth_bytes'])}"
    yield "disk", f"{size(plan['disk_bytes'])}, WAL {size(plan['wal_bytes'])}"
    yield "", f"{parts}, indexes {size(plan['index_build']['bytes'])}; {growth}"
    hot = plan["hot"]
    yield "updates", f"HOT share {hot['expected']:.2f} to be expected, {hot['ceiling']:.2f} at most"
    yield from _index(plan)
    yield "batches", f"{plan['batches']:,} of {plan['pages_per_batch']:,} pages"
    yield "made", f"{plan['made_at']}, fingerprint {plan['fingerprint']}"


def _origin(plan: Mapping[str, Any]) -> str:
    """Tell whether the stored vectors are what the spec says, where somebody looked."""
    found = plan.get("provenance")
    if found is None:
        return (
            f"no look is stored that says whether they are {plan['from']}: a plan asks no provider. `migrator pilot`"
            " and `start` embed a small sample with the old model and compare, and so does `migrator doctor SPEC`"
        )
    if found["sentence"] is None:
        return f"not looked at: somebody signed that it is to be passed over ({found['at']})"
    mend = "" if found["outcome"] == "fits" else f" What to do: {found['do']}."
    waived = found.get("waived_at")
    passed = f"; somebody signed that it is to be passed over ({waived})" if waived else ""
    return f"{found['sentence']}{mend} (looked at {found['at']}{passed})"


def _counted(plan: Mapping[str, Any]) -> str:
    between = f"{plan['rows_low']:,} to {plan['rows_high']:,}; " if plan["rows_low"] != plan["rows_high"] else ""
    per_page = f"; {plan['sample']['rows_per_page']:g} rows a page" if plan["sample"] else ""
    return f"{between}{plan['rows_method']}{per_page}"


def _texts(plan: Mapping[str, Any]) -> str:
    length, count = plan["lengths"]["bytes"], plan["lengths"]["tokens"]
    points = ", ".join(f"{name} {length[name]:,} B" for name in length)
    mix = ", ".join(_language(name, share) for name, share in _languages(plan).items())
    more = f"; over the model's window: {plan['too_long']:,}" if plan["too_long"] else ""
    copies = plan["duplicate_share"]
    same = f"; copies of another: about {100 * copies:.0f} %" if copies else ""
    return f"{points}; {count.get('p50', 0):,} tokens in the middle, {count['max']:,} at most; {mix}{more}{same}"


def _languages(plan: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Return the mix; a plan that was stored before it told languages has scripts."""
    known: Mapping[str, Mapping[str, float]] | None = plan.get("languages")
    return known if known is not None else {name: {"texts": share} for name, share in plan["scripts"].items()}


def _language(name: str, share: Mapping[str, float]) -> str:
    of_texts, of_tokens = (f"{100 * share.get(of, share['texts']):.0f} %" for of in ("texts", "tokens"))
    return f"{name} {of_texts}" + (f" ({of_tokens} of the tokens)" if of_tokens != of_texts else "")


def _arrivals(growth: Mapping[str, Any]) -> str:
    per_day = growth["rows_per_day"]
    return f"unknown ({growth['how']})" if per_day is None else f"about {per_day:,.0f} rows a day ({growth['how']})"


def _money(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tokens, cost = plan["tokens"], plan["cost_usd"]
    yield "tokens", f"{tokens['estimate']:,} ({tokens['low']:,} to {tokens['high']:,}; {tokens['method']})"
    if "calibration" in plan:
        yield "", f"calibrated {calibration.line(plan['calibration'])}"
    yield "requests", f"{plan['requests']:,} of {plan['texts_per_request']:g} texts"
    price = provider.price_line(plan["provider"], cost["prices_usd_per_mtok"])
    yield "cost", f"{dollars(cost['low'])} to {dollars(cost['high'])} USD (at {price})"
    for each in cost["by_price"]:
        yield (
            "",
            f"{dollars(each['likely_usd'])} USD likely at {each['usd_per_mtok']:g} ({each['source'].split(':')[0]})",
        )
    if cost["contradiction"]:
        yield "", cost["contradiction"]
    yield "provider", provider.line(plan["provider"])


def _done(finish: Mapping[str, Any]) -> str:
    windows = f" (working {', '.join(finish['windows'])})" if finish["windows"] else " (no windows: day and night)"
    if finish["backfilled"] is None:
        return f"in more than a year, or nobody knows{windows}"
    return f"{_minute(finish['backfilled'])} if it started at {_minute(finish['if_started'])}{windows}"


def _minute(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M %Z}"


def _index(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    build = plan["index_build"]
    yield "index", f"{size(build['bytes'])}, {size(build['memory_bytes'])} of memory to build"
    if build["memory_bytes"]:
        low, high = (span(each) for each in plan["index_seconds"])
        asked = memory_setting(build["memory_bytes"])
        own = "asked for by the build itself"
        if build["memory_bytes"] > MAX_MEMORY_BYTES:
            own = f"to be set for our role: a build asks for {size(MAX_MEMORY_BYTES)} at most by itself"
        yield "", f"roughly {low} to {high}; maintenance_work_mem = {asked} ({own})"


def memory_setting(count: int) -> str:
    """Return bytes as a setting of PostgreSQL."""
    return f"{-(-count // 1024**2)}MB"


def _wrapped(text: str, first: str, then: str) -> Sequence[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False, drop_whitespace=True
    ) or [first.rstrip()]
