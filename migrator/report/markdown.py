"""The report for a ticket: tables in Markdown, no plots.

Floor 4, below the doors. Promise: every string that is not ours stands in a cell that it can't leave: what Markdown or
HTML would read as its own is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from migrator import words
from migrator.report import summary
from migrator.report.gather import Report, Verdict

#: What means something in Markdown or HTML, wherever it stands.
_MEANT = re.compile(r"([\\`*_\[\]<>#|~&$@])")


def plain(text: object) -> str:
    """Return text that shows as itself, on one line."""
    return _MEANT.sub(r"\\\1", " ".join(str(text).split()))


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return [*lines, *(f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows), ""]


def render(report: Report) -> str:
    """Return the ticket's text."""
    lines = [f"# {plain(report.name)}: {plain(report.from_generation)} to {plain(report.to_generation)}", ""]
    lines += [f"{plain(report.target)} is **{plain(report.status)}** since {words.when(report.since)}.", ""]
    lines += [f"{plain(each)}" for each in summary.sentences(report)]
    lines += [f"Next: {plain(report.next_step)}.", ""]
    lines += _table(("", "", ""), ((each.name, each.value, each.against) for each in summary.tiles(report)))
    lines += ["## Gates", ""]
    header = ("gate", "verdict", "figure", "threshold", "sample", "what was counted")
    lines += _table(header, (_verdict_row(each) for each in report.verdicts))
    lines += ["## Rows without a vector, or of shortened text", ""]
    if report.dispositions:
        lines += _table(
            ("what", "reason", "rows"), ((kind, why, f"{rows:,}") for kind, why, rows in report.dispositions)
        )
    else:
        lines += ["None.", ""]
    lines += ["## Money", ""]
    money = (
        (purpose, f"{requests:,}", f"{count:,}", words.usd(usd)) for purpose, requests, count, usd in report.spending
    )
    lines += _table(("purpose", "requests", "tokens", "spent"), money)
    lines += ["## What hangs on the column", "", plain(report.dependents_note), ""]
    if report.dependents:
        lines += _table(("kind", "name", "in the swap"), report.dependents)
    lines += ["## Who did what", ""]
    moves = (
        (words.when(each.at), each.from_status or "", each.to_status, each.reason, each.actor) for each in report.moves
    )
    lines += _table(("at", "from", "to", "reason", "by"), moves)
    lines += [
        f"Made by migrator {report.version} on {words.when(report.made_at)}. No text and no key of a row is in it."
    ]
    return "\n".join(lines) + "\n"


def _verdict_row(each: Verdict) -> Sequence[object]:
    detail = each.detail
    if each.waived_by:
        detail += f"; waived by {each.waived_by}: {each.waiver}"
    if each.stale:
        detail += f"; stale: {each.stale}"
    figures = (words.figure(each.figure), words.figure(each.threshold), words.count(each.sample))
    return (each.gate, each.outcome, *figures, detail)
