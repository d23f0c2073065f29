"""Whether the backfill's cost is linear: ours and COPY at 20,000 and at 200,000 rows, an HNSW index on the old column.

The long form of `backfill`: ten minutes, most of them for the larger index. Both tables are filled by the same code on
one embedded PostgreSQL, one after the other. What a row costs grows by itself in one place alone: the rows that leave
their page (1 - HOT share) are inserted into the old index, and in a graph ten times as large an insert sees more and
from farther away. So ours is measured without that index too: what is left is our own. The server has room for the
whole index, as one has whose index is searched; with an eighth of it each insert read a thousand pages anew.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psycopg

from benchmarks import Figure
from benchmarks import backfill_ways as ways
from benchmarks.backfill import Way, measure
from benchmarks.backfill_table import SETTINGS, Vectors, draw, make
from migrator.cli import console
from migrator.demo.servers import Postgres

_BENCH = "backfill"
_SIZES = (20_000, 200_000)
#: Characters of a text, 7 rows a page.
_BODY = 1080
#: The larger index is 1.6 GB.
_SETTINGS = {**SETTINGS, "shared_buffers": "4GB"}
#: Goal: rows a second in the larger table, of those in the smaller.
_SHARE = 0.9


def _without_index(url: str, found: Vectors) -> tuple[int, float]:
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP INDEX docs_embedding_idx")
    return ways.ours_by_two(url, found)


#: What is measured -> (how, whether in an expanded table, the least share of the smaller table's rate).
_WAYS: dict[str, tuple[Way, bool, float]] = {
    "ours": (ways.ours_by_two, True, _SHARE),
    "ours without the old index": (_without_index, True, _SHARE),
    "COPY": (ways.copy, False, 0.0),
}


def run() -> list[Figure]:
    """Measure on a PostgreSQL of its own; returns the figures."""
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    home.chmod(0o711)
    server = Postgres(home / "postgres", settings=_SETTINGS)
    rates: dict[tuple[str, int], float] = {}
    figures: list[Figure] = []
    try:
        server.start()
        for rows in _SIZES:
            base = f"linear_{rows}"
            console.aside(f"  making {rows:,} rows and their index ...")
            table = make(server, base, rows=rows, body=_BODY)
            found = draw(rows, 7)
            for name, (way, expanded, _) in _WAYS.items():
                console.aside(f"  {rows:,} rows: {name} ...")
                each = measure(server, base, way, found, expanded=expanded)
                rates[name, rows] = each.rows_per_second
                figures.append(Figure(_BENCH, f"{name}, {rows:,} rows", each.rows_per_second, "rows/s"))
                if name == "ours":
                    share = each.hot / table.hot_ceiling
                    figures.append(Figure(_BENCH, f"HOT share, {rows:,} rows", share, "of its ceiling"))
    finally:
        server.remove()
        shutil.rmtree(home, ignore_errors=True)
    few, many = _SIZES
    for name, (_, _, low) in _WAYS.items():
        ratio = rates[name, many] / rates[name, few]
        figures.append(
            Figure.at_least(_BENCH, f"{name}: rows/s of {many:,} rows", ratio, "ratio", low, f"{few:,} rows")
        )
    return figures
