"""Findings about the rows: what is in them, how many come, and whether limits and cap let them through.

Floor 2. Pure: facts in, findings out. Each has a test by its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psycopg import sql

from migrator.planning.findings import Finding, info, warn
from migrator.planning.population import Population
from migrator.spec import Spec
from migrator.windows import Window
from migrator.words import dollars

#: What becomes of a text that is longer than the model reads.
_TOO_LONG = {
    "quarantine": "they get no vector and vanish from search at the cutover (H24)",
    "truncate": "their vectors know their beginning only",
    "fail": "the migration pauses at the first of them",
}
#: Share of what a day's limits let through from which arrivals leave too little for the backfill.
_ARRIVALS_SHARE = 0.5
#: Findings that rest on estimates, which a pilot mends.
ABOUT_LIMITS = ("cap_below_estimate", "never_done", "arrivals_outpace")


def check(spec: Spec, scanned: Population | None, document: Mapping[str, Any]) -> list[Finding]:
    """Return every finding, warnings first."""
    if scanned is None:
        return []
    told = [*_origin(spec, document), *_texts(spec, scanned), *_table(spec, scanned), *_limits(spec, document)]
    return sorted(told, key=lambda finding: ("refuse", "warn", "info").index(finding.severity))


def judge_again(told: Sequence[Mapping[str, Any]], spec: Spec, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a stored plan's findings with those about limits as they are by figures that were mended since."""
    kept = [dict(each) for each in told if each["code"] not in ABOUT_LIMITS]
    kept += [each.as_json() for each in _limits(spec, document)]
    return sorted(kept, key=lambda each: ("refuse", "warn", "info").index(each["severity"]))


def _origin(spec: Spec, document: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what an earlier look at the old vectors saw; a waiver lets it through, and mends nothing."""
    found = document.get("provenance")
    if found is not None and found["outcome"] == "misfits":
        yield warn("provenance_misfit", f"{spec.target.table}.{spec.target.column}", found["sentence"], found["do"])


def _texts(spec: Spec, scanned: Population) -> Iterator[Finding]:
    counts, name = scanned.counts, f"{spec.target.table}.{spec.target.column}"
    about = "" if scanned.counted else "about "
    if counts["text_without_vector"] and not spec.target.only_embedded:
        yield info(
            "text_without_vector",
            name,
            f"{about}{counts['text_without_vector']:,} rows have text and no vector today, and will get one",
            "set only_embedded = true to leave them alone",
        )
    if counts["vector_without_text"]:
        yield warn(
            "vector_without_text",
            name,
            f"{about}{counts['vector_without_text']:,} rows have a vector and no text: they will vanish from search",
            "check [target] text against what the old vectors were made from",
        )
    if counts["too_long"]:
        policy = spec.limits.too_long
        yield warn(
            "texts_too_long",
            "[limits] too_long",
            f"about {counts['too_long']:,} texts are longer than the model's {scanned.drawn.max_tokens:,} tokens:"
            f" {_TOO_LONG[policy]}",
            "shorten them, or set too_long to what you want: quarantine, truncate or fail",
        )
    if not scanned.texts:
        yield warn("nothing_to_embed", name, "no row has a text to embed", "check [target] text and where")


def _table(spec: Spec, scanned: Population) -> Iterator[Finding]:
    name = spec.target.table
    analyze = f"run ANALYZE {sql.Identifier(spec.target.schema_name, spec.target.table_name).as_string()}"
    if scanned.beyond_file:
        yield warn(
            "statistics_beyond_file",
            name,
            "its statistics tell of more pages than there are, so rows are theirs and not the sample's",
            f"{analyze}, or plan with --exact",
        )
    if not scanned.analyzed and scanned.rows.value:
        yield warn(
            "never_analyzed",
            name,
            "it was never analyzed: PostgreSQL guesses when it plans searches, and our windows are cut by its guess",
            analyze,
        )
    if scanned.rows.value > 1 and 0 < scanned.rows_per_page < 2:  # noqa: PLR2004 - a row a page
        yield info(
            "one_row_a_page",
            name,
            "hardly a page holds two rows, so no update can stay on its page (HOT): every index pays for every row",
            "nothing to do; index entries and WAL grow by more than the plan says",
        )


def _limits(spec: Spec, document: Mapping[str, Any]) -> Iterator[Finding]:
    high, cap = document["cost_usd"]["high"], spec.limits.max_cost_usd
    if high > cap:
        yield warn(
            "cap_below_estimate",
            "[limits] max_cost_usd",
            f"the estimate goes up to {dollars(high)} USD and the cap is {dollars(cap)}",
            "raise the cap, or expect the migration to rest when it is reached",
        )
    hours, rows = document["hours"], document["rows_to_embed"]
    if rows and document["finish"]["backfilled"] is None:
        yield warn(
            "never_done",
            "[limits]",
            f"{hours:,.0f} h of work do not end within a year ({document['hours_bound_by']})",
            "raise the limit that binds, or widen the windows",
        )
    arrivals = document["growth"]["rows_per_day"]
    through = rows / hours * 24 * open_share(spec.windows) if hours else 0.0
    if arrivals and through and arrivals > _ARRIVALS_SHARE * through:
        yield warn(
            "arrivals_outpace",
            "[limits]",
            f"about {arrivals:,.0f} rows arrive in a day and the limits let about {through:,.0f} through: the backfill"
            " would end late or never",
            f"raise the limit that binds ({document['hours_bound_by']}), or widen the windows",
        )


def open_share(windows: tuple[Window, ...]) -> float:
    """Return the share of a week in which work may be done; windows that overlap count once each, up to all of it."""
    if not windows:
        return 1.0
    # From midnight to midnight is a whole day, and nothing else begins and ends at the same hour.
    minutes = [
        len(each.days) * (((each.end.hour - each.start.hour) * 60 + each.end.minute - each.start.minute) % 1440 or 1440)
        for each in windows
    ]
    return min(1.0, sum(minutes) / (7 * 1440))
