"""One visual language for every plot, and plots as SVG whose colours are the page's own.

Floor 4, below the doors. matplotlib draws with sentinel colours; they are replaced by CSS variables, so that a drawing
is light, dark or printed as the page is. Promise: the same data give the same bytes (no date, no random id); text stays
text, so it can be searched, read aloud and set in the reader's own font; nothing is fetched.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

#: CSS variables by name. Each is drawn as #00a0 and its place: no colour that matplotlib would choose by itself.
NAMES = ("ink", "muted", "grid", "card", "new", "old", "good", "bad", "warn", "teal", "violet", "rest")
COLOURS = {name: f"#00a0{place:02x}" for place, name in enumerate(NAMES, start=16)}
_SENTINEL = re.compile("|".join(COLOURS.values()))
_BACK = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
#: Inches: a page's width, and half of it.
WHOLE, HALF = 10.4, 5.1
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "migrator",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 8.5,
    "axes.edgecolor": COLOURS["grid"],
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": COLOURS["grid"],
    "ytick.color": COLOURS["grid"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    # A legend inside a plot stays legible over lines.
    "legend.facecolor": COLOURS["card"],
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fancybox": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "hatch.linewidth": 0.8,
    "hatch.color": COLOURS["rest"],
    "figure.facecolor": "none",
}
_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*"([^>]*)>')
_HEIGHT = re.compile(r'(<svg[^>]*?) height="[^"]*"([^>]*)>')
_IDS = re.compile(r'((?:\bid="|href="#|url\(#))')


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in this language; whatever else uses matplotlib in this process keeps its own."""
    with mpl.rc_context(_SETTINGS):
        yield


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(made)
    return made


def quiet(axes: Axes, grid: str = "y") -> None:
    """Leave only the grid lines that are read by."""
    axes.grid(visible=False)
    if grid:
        axes.grid(visible=True, axis=grid)  # type: ignore[arg-type]
    axes.tick_params(length=0)


def legend_below(figure: Figure, columns: int = 1) -> None:
    """Name the series under the plot, where nothing is covered."""
    figure.legend(loc="outside lower center", ncols=columns, markerscale=1.8)


def as_svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element to stand in a page; `name` keeps its ids apart from other figures'."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = _METADATA.sub("", _PROLOGUE.sub("", written.getvalue(), count=1))
    text = _HEIGHT.sub(r"\1\2>", _SIZE.sub(r"\1\2>", text, count=1), count=1)
    # Its own rule for line ends, kept to plots: in a page it would be everybody's.
    text = text.replace('<style type="text/css">*{', "<style>svg *{")
    text = _IDS.sub(rf"\g<1>{name}-", text)
    return _SENTINEL.sub(lambda found: _BACK[found.group()], text).strip()
