"""Run benchmarks: prints a table, and writes a JSON list where `--json FILE` asks for one.

Exit codes: 0 every goal was met, 2 no such benchmark, 3 a goal was missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import Figure, page
from migrator.cli import console
from migrator.errors import MigratorError

#: Name -> module with a `run()` that returns its figures.
NAMES = ("tokens", "plan", "backfill", "application", "provider", "state", "rest", "index", "validate", "cutover")
BENCHES = {name: f"benchmarks.{name}" for name in NAMES}
#: Long forms, behind `--long`.
LONG_FORMS = {"backfill": "benchmarks.backfill_long"}
_HEADER = ("bench", "name", "figure", "unit", "goal", "met", "versus")
_MISSED = 3


def _row(figure: Figure) -> tuple[str, ...]:
    met = {True: "yes", False: "NO", None: ""}[figure.met]
    return (
        figure.bench,
        figure.name,
        page.shown(figure.figure),
        figure.unit,
        figure.goal or "",
        met,
        figure.versus or "",
    )


def main(words: list[str] | None = None) -> int:
    """Run the benchmarks that are named, or all of them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to FILE, too")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write them into their sections of a page, too")
    long_ones = ", ".join(LONG_FORMS)
    parser.add_argument("--long", action="store_true", help=f"also the long forms, which take minutes: {long_ones}")
    asked = parser.parse_args(words)
    unknown = [name for name in asked.names if name not in BENCHES]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)} (known: {', '.join(BENCHES)}). Nothing was run.")
    figures: list[Figure] = []
    for name in asked.names or BENCHES:
        console.aside(f"{name} ...")
        modules = [BENCHES[name], *([LONG_FORMS[name]] if asked.long and name in LONG_FORMS else [])]
        try:
            for module in modules:
                figures += importlib.import_module(module).run()
        except MigratorError as error:
            console.failure(error, as_json_too=False)
            return error.exit_code
    console.table([_row(figure) for figure in figures], header=_HEADER)
    console.say(f"measured on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")
    if asked.page is not None:
        page.write(asked.page, figures)
    missed = [f"{figure.bench}: {figure.name}" for figure in figures if figure.met is False]
    for each in missed:
        console.aside(f"missed its goal: {each}")
    return _MISSED if missed else 0


if __name__ == "__main__":
    sys.exit(main())
