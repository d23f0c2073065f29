"""A report in a few words and figures: what a reader has to know who reads no further.

Floor 4, below the doors. Pure. Promise: every figure stands with what it is measured against, and what is not known is
not filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrator import words
from migrator.lifecycle import MigrationStatus
from migrator.report import timeline
from migrator.report.gather import Report

S = MigrationStatus
#: Statuses in which rows are being, or were, moved; their time makes the average rate.
_MOVING = {S.BACKFILLING}


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: its name, itself, and what it is measured against. `tone`: good, bad, warn or plain."""

    name: str
    value: str
    against: str
    tone: str = "plain"


def tiles(report: Report) -> list[Tile]:
    """Return the figures at the top of a page."""
    return [_rows(report), _pace(report), _cost(report), _hot(report), _quality(report), _gates(report)]


def _rows(report: Report) -> Tile:
    rows = report.progress["rows"]
    without = f"of {rows['total']:,}: {rows['skipped']:,} skipped, {rows['quarantined']:,} quarantined"
    if rows["dirty"]:
        without += f", {rows['dirty']:,} waiting"
    tone = "warn" if rows["quarantined"] or rows["dirty"] else "plain"
    return Tile("Rows with a new vector", f"{rows['done']:,}", without, tone)


def backfill_seconds(report: Report) -> float:
    """Return how long rows were being moved, rests left out."""
    return sum(each.seconds for each in report.statuses if each.what in _MOVING)


def _pace(report: Report) -> Tile:
    seconds = backfill_seconds(report)
    if report.started_at is None or not report.rows_settled or seconds <= 0:
        return Tile("Pace", words.NONE, f"planned: {words.span(3600 * float(report.plan['hours'] or 0))}")
    planned = words.span(3600 * float(report.plan["hours"] or 0))
    against = f"on average; backfill {words.span(seconds)}, planned {planned}"
    return Tile("Pace", f"{report.rows_settled / seconds:,.0f} rows/s", against)


def _cost(report: Report) -> Tile:
    cost = report.progress["cost"]
    low, high = cost["estimated_usd"]
    against = f"estimate {low:.4g} to {high:.4g}, cap {cost['max_usd']:,.2f}"
    return Tile("Spent", words.usd(cost["usd"]), against, "warn" if cost["usd"] > high > 0 else "plain")


def _hot(report: Report) -> Tile:
    moving = timeline.hot_share(report.samples)
    if moving is not None:
        return Tile("HOT updates", words.percent(moving), "of the table's updates during the backfill")
    share = report.progress["writes"]["hot_ratio"]
    return Tile("HOT updates", words.percent(share), "of the table's updates since the start")


def _quality(report: Report) -> Tile:
    found = report.evidence("quality").get("changes", {}).get("all")
    verdict = report.verdict("quality")
    if found is None:
        return Tile(
            "Search quality", words.NONE, verdict.detail if verdict.outcome != "not measured" else "not measured"
        )
    interval = f"95 % interval {words.signed(found['low'])} to {words.signed(found['high'])}"
    tone = "good" if found["low"] > 0 else "bad" if verdict.outcome == "FAILED" else "plain"
    return Tile("Search quality (nDCG@10)", words.signed(found["mean"]), interval, tone)


def _gates(report: Report) -> Tile:
    counts = {outcome: sum(each.outcome == outcome for each in report.verdicts) for outcome in _OUTCOMES}
    others = [f"{number} {outcome}" for outcome, number in counts.items() if outcome != "passed" and number]
    tone = "bad" if counts["FAILED"] else "warn" if counts["waived"] else "plain" if others else "good"
    against = ", ".join(others) if others else "each with figure, threshold and sample below"
    return Tile("Gates passed", f"{counts['passed']} of {len(report.verdicts)}", against, tone)


_OUTCOMES = ("passed", "FAILED", "waived", "not measured")


def sentences(report: Report) -> list[str]:
    """Return what happened and how things stand, in sentences."""
    told = [_moved(report)]
    live = report.progress["live"]["generation"]
    if report.started_at is not None:
        since = f" since {words.when(report.swaps[-1].began)}" if report.swaps else ", as before"
        told.append(f"Readers see {live}{since}.")
    paused = [each for each in report.statuses if each.what == S.PAUSED]
    throttled = sum(each.seconds for each in report.throttles)
    rested = []
    if paused:
        times = "once" if len(paused) == 1 else f"{len(paused)} times"
        rested.append(f"paused {times} for {words.span(sum(each.seconds for each in paused))}")
    if throttled:
        rested.append(f"held back by limits or signals for {words.span(throttled)}")
    if rested:
        told.append(f"It was {' and '.join(rested)}.")
    if report.reason:
        told.append(f"It is {report.status}: {report.reason}.")
    return told


def _moved(report: Report) -> str:
    way = f"from {report.from_generation} to {report.to_generation}"
    rows = report.progress["rows"]
    if report.started_at is None:
        return f"{words.count(report.plan['rows_to_embed'])} rows are to be moved {way}; nothing was touched yet."
    spent = words.usd(report.progress["cost"]["usd"])
    return f"{rows['done']:,} of {rows['total']:,} rows were embedded anew, {way}, for {spent}."
