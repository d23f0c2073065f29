"""The plots of a report: each from what was gathered, or None where there is nothing to draw.

Floor 4, below the doors. Promise: axes have units, series have names, and what is marked is explained; no text of an
operator's is drawn, only ours (P11).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from migrator.report import over_time, style
from migrator.report.style import COLOURS, HALF, WHOLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from migrator.measures.projection import Plane
    from migrator.report.gather import Report

#: Bands of old neighbours that a projection's colours tell apart.
_BANDS = ("teal", "violet", "warn", "good", "bad")
#: Of an axis, by how much its longest bar stays away from its end.
_ROOM = 1.12
#: Letters of a label beside half a page's plot.
_LABEL = 28


def draw(report: Report) -> dict[str, str]:
    """Return every plot that there is something to draw for, as SVG by name."""
    made: dict[str, str] = {}
    with style.drawing():
        for name, make in _PLOTS.items():
            figure = make(report)
            if figure is not None:
                made[name] = style.as_svg(figure, name)
    return made


def _quality(report: Report) -> Figure | None:
    """Draw by how much nDCG@10 changed, in all and by slice, each with its interval."""
    changes = report.evidence("quality").get("changes", {})
    if not changes:
        return None
    names = list(changes)
    figure = style.canvas(HALF, 1.5 + 0.34 * len(names))
    axes = figure.subplots()
    style.quiet(axes, "x")
    tolerance = report.verdict("quality").threshold
    axes.axvline(0, color=COLOURS["muted"], linewidth=1)
    if tolerance is not None:
        axes.axvline(tolerance, color=COLOURS["bad"], linewidth=1.2, linestyle=(0, (4, 3)), label="allowed to fall to")
    for place, name in enumerate(names):
        each = changes[name]
        falls = each["high"] < 0
        colour = COLOURS["bad" if falls else "good" if each["low"] > 0 else "new"]
        axes.plot([each["low"], each["high"]], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
        axes.plot([each["mean"]], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(names)), [f"{name}  (n = {changes[name]['count']})" for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlabel("change of nDCG@10, new \N{MINUS SIGN} old: mean and 95 % interval")
    axes.set_title("Search quality, in all and by slice")
    if tolerance is not None:
        style.legend_below(figure)
    return figure


def _overlap(report: Report) -> Figure | None:
    """Draw how many of the ten nearest rows stayed, search by search."""
    kept = report.evidence("churn").get("kept")
    if not kept or not sum(kept):
        return None
    figure = style.canvas(HALF, 2.9)
    axes = figure.subplots()
    style.quiet(axes)
    low, high = (10 * each for each in report.evidence("churn")["allowed"])
    mean = sum(place * number for place, number in enumerate(kept)) / sum(kept)
    axes.axvspan(low, high, color=COLOURS["good"], alpha=0.1, linewidth=0, label="the mean is allowed in here")
    axes.bar(range(len(kept)), kept, width=0.82, color=COLOURS["new"])
    axes.axvline(mean, color=COLOURS["ink"], linewidth=1.4, linestyle=(0, (4, 3)), label=f"mean {mean:.1f}")
    axes.set_xticks(range(len(kept)))
    axes.set_xlim(-0.6, len(kept) - 0.4)
    axes.set_ylim(0, _ROOM * max(kept))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_xlabel("of the ten nearest rows, how many both columns name")
    axes.set_ylabel("searches")
    axes.set_title("What stays on the first page")
    style.legend_below(figure, 2)
    return figure


def _latency(report: Report) -> Figure | None:
    """Draw what share of the searches was answered in what time, on both columns."""
    evidence = report.evidence("latency")
    told = evidence.get("milliseconds", {})
    if not told:
        return None
    figure = style.canvas(HALF, 2.9)
    axes = figure.subplots()
    style.quiet(axes, "both")
    steps = np.array(evidence["percentiles"]) / 100
    for name in ("old", "new"):
        if name in told:
            times = np.array(told[name])
            p50, p95 = (float(np.interp(share, steps, times)) for share in (0.5, 0.95))
            label = f"{name} column: p50 {p50:.1f} ms, p95 {p95:.1f} ms"
            axes.plot(times, steps, color=COLOURS[name], label=label)
            axes.plot([p50, p95], [0.5, 0.95], "o", color=COLOURS[name], markersize=4.5)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("milliseconds for a search, best of three tries")
    axes.set_ylabel("searches answered by then")
    axes.set_title("Latency of the same searches")
    style.legend_below(figure)
    return figure


def _projection(report: Report) -> Figure | None:
    """Draw both spaces, rows coloured by where they lie in the old one; and all vectors together, if they may be."""
    found = report.projection
    if found is None:
        return None
    planes = [each for each in (found.old, found.new, found.joint) if each is not None]
    figure = style.canvas(WHOLE, 4.2 if found.joint is not None else 5.2)
    figure.set_layout_engine("compressed")
    every = figure.subplots(1, len(planes))
    old = np.array(found.old.points)
    # A row keeps the colour of its old place, so what was near stays recognisable wherever it goes.
    bands = np.argsort(np.argsort(np.arctan2(old[:, 1], old[:, 0]))) * len(_BANDS) // len(old)
    for axes, space, title in zip(every, (found.old, found.new), ("Old space", "New space"), strict=False):
        for band, name in enumerate(_BANDS):
            _scatter(axes, np.array(space.points)[bands == band], name)
        _frame(axes, f"{title}, the same rows", space)
    if found.joint is not None:
        both = np.array(found.joint.points)
        half = len(both) // 2
        _scatter(every[2], both[:half], "old", label="old vectors")
        _scatter(every[2], both[half:], "new", label="new vectors")
        _frame(every[2], "Both in one space", found.joint)
        style.legend_below(figure, 2)
    return figure


def _scatter(axes: Axes, points: Any, name: str, label: str | None = None) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=9, color=COLOURS[name], alpha=0.7, linewidths=0, label=label)


def _frame(axes: Axes, title: str, space: Plane) -> None:
    axes.set_title(title)
    axes.set_aspect("equal")
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    axes.set_xlabel(f"two of many directions: {100 * space.share:.0f} % of the variance")


def _dispositions(report: Report) -> Figure | None:
    """Draw why rows have no vector of the new generation."""
    found = [each for each in report.dispositions if each[2]]
    filtered = int(report.progress["rows"]["skipped"]) - sum(rows for kind, _, rows in found if kind == "skipped")
    if filtered > 0:
        found.append(("skipped", "outside the scope", filtered))
    if not found:
        return None
    figure = style.canvas(HALF, 1.1 + 0.32 * len(found))
    axes = figure.subplots()
    style.quiet(axes, "x")
    colours = {"skipped": COLOURS["rest"], "quarantined": COLOURS["bad"], "truncated": COLOURS["warn"]}
    found.sort(key=lambda each: each[2])
    values = [rows for _, _, rows in found]
    axes.barh(range(len(found)), values, color=[colours[kind] for kind, _, _ in found], height=0.7)
    for place, rows in enumerate(values):
        _beside(axes, rows, place, f"{rows:,}")
    axes.set_yticks(range(len(found)), [_short(f"{kind}: {reason}") for kind, reason, _ in found])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlim(0, _ROOM * max(values))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.set_xlabel("rows")
    axes.set_title("Rows without a vector, or of shortened text")
    return figure


def _beside(axes: Axes, value: float, place: float, words: str) -> None:
    """Write a bar's figure at its end."""
    axes.annotate(words, (value, place), xytext=(4, 0), textcoords="offset points", va="center", color=COLOURS["ink"])


def _short(label: str) -> str:
    """Return a label that leaves room for its plot."""
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}\N{HORIZONTAL ELLIPSIS}"


def _spending(report: Report) -> Figure | None:
    """Draw what the money went for."""
    found: Sequence[tuple[str, int, int, float]] = [each for each in report.spending if each[3] > 0][::-1]
    if not found:
        return None
    figure = style.canvas(HALF, 1.1 + 0.32 * len(found))
    axes = figure.subplots()
    style.quiet(axes, "x")
    values = [usd for *_, usd in found]
    axes.barh(range(len(found)), values, color=COLOURS["new"], height=0.7)
    for place, usd in enumerate(values):
        _beside(axes, usd, place, f"{usd:.4f}" if usd < 1 else f"{usd:,.2f}")
    axes.set_yticks(range(len(found)), [_short(purpose) for purpose, *_ in found])
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.set_xlim(0, 1.2 * max(values))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel("US dollars")
    axes.set_title("What the money went for")
    return figure


_PLOTS: dict[str, Callable[[Report], Figure | None]] = {
    "run": over_time.run,
    "cost": over_time.cost,
    "health": over_time.health,
    "quality": _quality,
    "overlap": _overlap,
    "latency": _latency,
    "projection": _projection,
    "dispositions": _dispositions,
    "spending": _spending,
}
