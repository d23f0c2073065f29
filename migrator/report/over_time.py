"""The plots over time: how the rows went, what they cost, and how the table took it.

Floor 4, below the doors. Time is counted from the start, so that plots of two runs can be laid side by side; statuses,
pauses, throttles and swaps are marked the same way in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from migrator.lifecycle import MigrationStatus
from migrator.report import style, timeline
from migrator.report.style import COLOURS, HALF, WHOLE
from migrator.report.timeline import Point, Span
from migrator.words import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from migrator.report.gather import Report

S = MigrationStatus
#: What each status is drawn in.
_STATUS = {
    S.BACKFILLING: "new",
    S.INDEXING: "teal",
    S.VALIDATING: "violet",
    S.READY: "good",
    S.COMPLETED: "good",
    S.ROLLED_BACK: "old",
    S.PAUSED: "rest",
    S.CLEANING: "muted",
    S.CLEANED: "muted",
    S.CANCELLED: "bad",
}
_FAINT = {S.READY: 0.45, S.PAUSED: 0.5}
#: Units of time, each with the seconds from which it is used.
_UNITS = ((3 * 86_400, 86_400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"), (0, 1, "seconds"))
#: A cap or plan that lies further out than this many times what there is would flatten the plot: it is said instead.
_FAR = 4.0


@dataclass(frozen=True, slots=True)
class _Clock:
    """Moments as a plot's numbers."""

    began: datetime
    until: datetime
    unit_seconds: float
    unit: str

    @classmethod
    def of(cls, report: Report) -> _Clock | None:
        if report.started_at is None:
            return None
        until = timeline.drawn_until(report.started_at, report.made_at, report.swaps)
        seconds = (until - report.started_at).total_seconds()
        size, unit = next((size, unit) for least, size, unit in _UNITS if seconds >= least)
        return cls(report.started_at, until, size, unit)

    def at(self, moment: datetime) -> float:
        return min(max(0.0, (moment - self.began).total_seconds() / self.unit_seconds), self.end)

    @property
    def end(self) -> float:
        return max((self.until - self.began).total_seconds() / self.unit_seconds, 1e-9)

    def shown(self, span: Span) -> tuple[float, float] | None:
        if span.began >= self.until or span.ended <= self.began:
            return None
        return self.at(span.began), self.at(span.ended)

    def frame(self, axes: Axes) -> None:
        axes.set_xlim(0, self.end)
        axes.set_xlabel(f"{self.unit} since the start")


def _points(report: Report, clock: _Clock) -> list[Point]:
    inside = [each for each in report.samples if each.at <= clock.until]
    return timeline.points(timeline.fewer(inside), report.rows_in_scope, clock.began)


def _mark(axes: Axes, report: Report, clock: _Clock, *, words: bool = False) -> None:
    """Shade pauses and throttles, and draw a line for each swap."""
    for each in report.throttles:
        shown = clock.shown(each)
        if shown is not None:
            axes.axvspan(*shown, color=COLOURS["warn"], alpha=0.16, linewidth=0)
    for each in report.statuses:
        shown = clock.shown(each)
        if shown is not None and each.what == S.PAUSED:
            axes.axvspan(*shown, facecolor="none", edgecolor=COLOURS["rest"], hatch="////", linewidth=0)
    for number, each in enumerate(report.swaps):
        if each.began <= clock.until:
            axes.axvline(clock.at(each.began), color=COLOURS["ink"], linewidth=1, linestyle=(0, (2, 2)))
            if words:
                # One below the other, so that swaps close together can be read.
                place = (clock.at(each.began), 1 - 0.12 * (number % 4))
                axes.annotate(each.what, place, xycoords=("data", "axes fraction"), xytext=(3, -2),
                              textcoords="offset points", va="top", fontsize=8, color=COLOURS["ink"])  # fmt: skip


def _strip(axes: Axes, report: Report, clock: _Clock) -> list[Patch]:
    """Draw the statuses as one band; returns the legend's patches."""
    seen: dict[str, Patch] = {}
    for each in report.statuses:
        shown = clock.shown(each)
        if shown is None or each.what not in _STATUS:
            continue
        status = S(each.what)
        look = {"facecolor": COLOURS[_STATUS[status]], "alpha": _FAINT.get(status, 0.9)}
        hatch = "////" if status is S.PAUSED else None
        axes.axvspan(*shown, hatch=hatch, linewidth=0, **look)  # type: ignore[arg-type]
        seen.setdefault(each.what, Patch(label=each.what, hatch=hatch, **look))  # type: ignore[arg-type]
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.tick_params(length=0, labelbottom=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    patches = list(seen.values())
    if [each for each in report.throttles if clock.shown(each)]:
        patches.append(Patch(label="throttled", facecolor=COLOURS["warn"], alpha=0.3))
    return patches


def run(report: Report) -> Figure | None:
    """Draw the statuses, the rows that are left against the plan, and rows a second."""
    clock = _Clock.of(report)
    if clock is None:
        return None
    found = _points(report, clock)
    figure = style.canvas(WHOLE, 5.6)
    strip, left, rate = figure.subplots(3, 1, sharex=True, height_ratios=[0.22, 2, 1.5])
    patches = _strip(strip, report, clock)
    strip.set_title("The run")
    strip.legend(handles=patches, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(patches) or 1,
                 handlelength=1.2, columnspacing=1.2, borderaxespad=0.2)  # fmt: skip
    _burn_down(left, report, found, clock)
    _rates(rate, report, found, clock)
    return figure


def _burn_down(axes: Axes, report: Report, found: Sequence[Point], clock: _Clock) -> None:
    style.quiet(axes)
    _mark(axes, report, clock)
    hours = float(report.plan.get("hours") or 0)
    planned = 3600 * hours / clock.unit_seconds
    if planned > 0:
        axes.plot([0, planned], [report.rows_in_scope, 0], color=COLOURS["muted"], linewidth=1.4,
                  linestyle=(0, (4, 3)), label=f"as planned: {span(3600 * hours)}")  # fmt: skip
    times = [0.0, *(clock.at(each.at) for each in found)]
    rows = [report.rows_in_scope, *(each.rows_left for each in found)]
    if found:
        axes.plot(times, rows, color=COLOURS["new"], label="rows without a new vector or a disposition")
        axes.fill_between(times, rows, color=COLOURS["new"], alpha=0.12, linewidth=0)
    axes.set_ylim(0, 1.08 * max(report.rows_in_scope, 1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylabel("rows left")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")


def _rates(axes: Axes, report: Report, found: Sequence[Point], clock: _Clock) -> None:
    style.quiet(axes)
    _mark(axes, report, clock, words=True)
    times = [clock.at(each.at) for each in found]
    rates = [each.rows_per_second for each in found]
    if found:
        # The rate of a step is that of the time before its sample.
        axes.fill_between([0.0, *times], [rates[0], *rates], step="pre", color=COLOURS["new"], alpha=0.25, linewidth=0)
        axes.step([0.0, *times], [rates[0], *rates], where="pre", color=COLOURS["new"], linewidth=1.4)
    else:
        _say(axes, "no history was kept yet")
    axes.set_ylim(0, 1.1 * max([*rates, 1.0]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.4g}"))
    axes.set_ylabel("rows embedded per second")
    clock.frame(axes)


def cost(report: Report) -> Figure | None:
    """Draw what was spent and committed against the plan and the cap."""
    clock = _Clock.of(report)
    if clock is None:
        return None
    found = _points(report, clock)
    figure = style.canvas(HALF, 3.2)
    axes = figure.subplots()
    style.quiet(axes)
    _mark(axes, report, clock)
    told, planned = report.progress["cost"], report.plan["cost_usd"]
    most = max([each.committed_usd for each in found] + [float(told["usd"]), 1e-6])
    notes = []
    if planned["high"] <= _FAR * most:
        label = f"estimate {planned['low']:.4g} to {planned['high']:.4g}"
        axes.axhspan(planned["low"], planned["high"], color=COLOURS["good"], alpha=0.16, linewidth=0, label=label)
        most = max(most, planned["high"])
    else:
        notes.append(f"estimate {planned['high']:.4g} USD")
    if told["max_usd"] <= _FAR * most:
        axes.axhline(told["max_usd"], color=COLOURS["bad"], linestyle=(0, (4, 3)), label=f"cap {told['max_usd']:.4g}")
        most = max(most, told["max_usd"])
    else:
        notes.append(f"cap {told['max_usd']:,.2f} USD")
    times = [0.0, *(clock.at(each.at) for each in found)]
    committed = "committed (with what is in flight)"
    axes.step(times, [0.0, *(each.committed_usd for each in found)], where="post", color=COLOURS["muted"],
              linewidth=1.2, label=committed)  # fmt: skip
    axes.step(times, [0.0, *(each.spent_usd for each in found)], where="post", color=COLOURS["new"], label="spent")
    axes.set_ylim(0, 1.12 * most)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_ylabel("US dollars")
    clock.frame(axes)
    axes.set_title("Cost" + (f" (off the scale: {', '.join(notes)})" if notes else ""))
    style.legend_below(figure, 2)
    return figure


def health(report: Report) -> Figure | None:
    """Draw the share of HOT updates, and how many rows waited for a vector."""
    clock = _Clock.of(report)
    if clock is None:
        return None
    found = _points(report, clock)
    figure = style.canvas(HALF, 3.2)
    hot, dirty = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
    for axes in (hot, dirty):
        style.quiet(axes)
        _mark(axes, report, clock)
    # Where there were too few updates to tell, the line has a gap.
    shares = [(clock.at(each.at), math.nan if each.hot_share is None else each.hot_share) for each in found]
    if any(each.hot_share is not None for each in found):
        hot.plot(*zip(*shares, strict=True), color=COLOURS["teal"], linewidth=1.4, marker="o", markersize=2)
    else:
        _say(hot, "too few updates to tell")
    ceiling = hot_ceiling(report)
    if ceiling is not None:
        hot.axhline(ceiling, color=COLOURS["muted"], linewidth=1.2, linestyle=(0, (4, 3)),
                    label=f"possible: {100 * ceiling:.0f} %")  # fmt: skip
        hot.legend(loc="lower right")
    hot.set_ylim(0, 1.05)
    hot.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    hot.set_ylabel("HOT updates")
    hot.set_title("How the table took it")
    dirty.step([clock.at(each.at) for each in found], [each.dirty_rows for each in found], where="post",
               color=COLOURS["violet"], linewidth=1.4)  # fmt: skip
    dirty.set_ylim(bottom=0, top=1.15 * max([each.dirty_rows for each in found] + [4]))
    dirty.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    dirty.set_ylabel("rows waiting")
    clock.frame(dirty)
    return figure


def hot_ceiling(report: Report) -> float | None:
    """Return the largest share of HOT updates that full pages allow: one row a page has to leave it first."""
    pages = int(report.plan.get("batches") or 0) * int(report.plan.get("pages_per_batch") or 0)
    rows = int(report.plan.get("rows") or 0)
    return 1 - pages / rows if 0 < pages < rows else None


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=COLOURS["muted"])
