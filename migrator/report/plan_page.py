"""A plan as one self-contained page, in the report's own looks.

Floor 4, below the doors. Promise: every string is escaped by the template; the page holds no script, and a policy in it
forbids the browser to run one or to fetch anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from migrator import __version__, words
from migrator.planning import alternatives
from migrator.report import ticket


def render(plan: Mapping[str, Any]) -> str:
    """Return the page of a plan's document."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["usd"] = words.usd
    template = environment.from_string(files("migrator.report").joinpath("plan.html").read_text(encoding="utf-8"))
    refused = [each for each in plan["findings"] if each["severity"] == "refuse"]
    return template.render(
        plan=plan,
        refused=refused,
        sentence=_sentence(plan, len(refused)),
        tiles=_tiles(plan),
        figures=list(ticket.figures(plan)),
        alternatives=alternatives.told(plan),
        version=__version__,
        style=Markup(files("migrator.report").joinpath("page.css").read_text("utf-8")),  # noqa: S704 # nosec B704 - ours
    )


def _sentence(plan: Mapping[str, Any], refused: int) -> str:
    cost = plan["cost_usd"]
    way = f"{plan['rows_to_embed']:,} rows from {plan['from']} to {plan['to']}"
    would = f"To move {way} takes {words.dollars(cost['low'])} to {words.dollars(cost['high'])} USD"
    held = f"; {refused} findings have to be mended before it can begin" if refused else ""
    return f"{would} and about {words.span(3600 * plan['hours'])} of embedding{held}."


def _tiles(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tokens, cost, build = plan["tokens"], plan["cost_usd"], plan["index_build"]
    between = f"{tokens['low']:,} to {tokens['high']:,}"
    return [
        ("Rows to embed", f"{plan['rows_to_embed']:,}", f"of {plan['rows']:,}: {plan['rows_method']}"),
        ("Tokens", f"{tokens['estimate']:,}", f"{between}, 95 % interval"),
        ("Cost", f"{words.dollars(cost['low'])} to {words.dollars(cost['high'])} USD", "over the spec's prices"),
        ("Time", words.span(3600 * plan["hours"]), f"binds: {plan['hours_bound_by']}"),
        ("Disk", words.size(plan["disk_bytes"]), f"WAL {words.size(plan['wal_bytes'])}"),
        ("Memory to build", words.size(build["memory_bytes"]), f"index of {words.size(build['bytes'])}"),
    ]
