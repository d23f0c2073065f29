"""The page: everything gathered, the plots in it, and nothing that has to be fetched.

Floor 4, below the doors. Promise: every string is escaped by the template; the page holds no script, and a policy in it
forbids the browser to run one or to fetch anything.
"""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from migrator import words
from migrator.report import figures, summary
from migrator.report.gather import Report

#: What a plot is called where it can't be seen.
ALTERNATIVES = {
    "run": "Rows left against the plan, and rows embedded per second, over time",
    "cost": "US dollars spent and committed over time, against estimate and cap",
    "health": "Share of HOT updates and rows waiting for a vector, over time",
    "quality": "Change of nDCG at 10 by slice of the queries, with 95 % intervals",
    "overlap": "Histogram of how many of the ten nearest rows both columns name",
    "latency": "Share of searches answered within so many milliseconds, for both columns",
    "projection": "The same rows as points of a plane, in the old space, the new one, and both",
    "dispositions": "Rows without a vector, by reason",
    "spending": "US dollars by purpose",
}


def render(report: Report) -> str:
    """Return the page."""
    # A figure's SVG is made of our own words and numbers, and matplotlib escapes both.
    plots = {name: Markup(svg) for name, svg in figures.draw(report).items()}  # noqa: S704 # nosec B704 - see above
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("when", "count", "figure", "usd", "percent", "span"):
        environment.filters[name] = getattr(words, name)
    template = environment.from_string(files("migrator.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        report=report,
        plots=plots,
        alternatives=ALTERNATIVES,
        tiles=summary.tiles(report),
        sentences=summary.sentences(report),
        style=Markup(files("migrator.report").joinpath("page.css").read_text("utf-8")),  # noqa: S704 # nosec B704 - ours
    )
