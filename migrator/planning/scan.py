"""The scan: pages and rows of the operator's table drawn at random and looked into, in bounded time at any size.

Floor 2. Promise: it reads only, by a role that may do no more than SELECT; it ends in about fifteen seconds whatever
the table holds, and every row has the same chance to be looked at (pages are drawn by number, not by where a scan
happens to begin). P11: texts are measured here and left here; what goes on are lengths, counts and languages.
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.measures import languages
from migrator.provider import tokens
from migrator.state.connection import LockBusy, fetch, transaction
from migrator.statements import compose
from migrator.target.facts import Heap
from migrator.target.relation import Target

#: Any fixed number: the sample is the same for the same table.
SEED = 20261123
#: Pages and rows at the most, and seconds after which no further page is asked for: 4,000 reads of a cold disk at 1 ms.
PAGES, ROWS, SECONDS = 4000, 40_000, 5.0
#: Pages that are read together: the first ones tell how many rows a page has.
_ROUND = 250
#: Pages of a partitioned table whose partitions can't be read by name: every partition is asked for each of them.
_PAGES_FROM_ABOVE = 400
#: Line pointers of a page that are looked at first, and the most that a page of 8 kB can have (MaxHeapTuplesPerPage).
_PLACES, _MOST_PLACES = 64, 291
#: Bytes of a text up to which it is looked into where its page was drawn: most longer ones lie in TOAST.
_LOOK_BYTES = 4000
#: Rows whose text is fetched and counted token by token; characters of each, and bytes of all of them together.
TEXTS, _CHARACTERS, _TEXT_BYTES = 1000, 65_536, 24_000_000
#: Texts that are fetched together, and seconds after which no further ones are.
_TEXTS_ROUND, _TEXTS_SECONDS = 100, 8.0
#: Pages up to which a table is counted row by row anyway (160 MB), and the seconds that this may take.
COUNTED_PAGES, _COUNT_SECONDS = 20_000, 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """A row on a drawn page. `age` is in seconds, None where the table does not tell when a row arrived."""

    page: int
    heap: int
    tid: str
    octets: int
    in_scope: bool
    all_null: bool
    blank: bool
    has_vector: bool
    hash: int | None = None
    age: float | None = None

    @property
    def embeds(self) -> bool:
        """Whether it will be embedded."""
        return self.in_scope and not self.all_null and self.octets > 0 and not self.blank


@dataclass(frozen=True, slots=True)
class Text:
    """What a text of the sample came to. `octets` is its length in bytes, `language` its script where that is all."""

    page: int
    octets: int
    tokens: int
    language: str


@dataclass(slots=True)
class Drawn:
    """The sample. `pages` is how many the table has, `numbers` which were drawn, over all heaps counted through."""

    pages: int
    numbers: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    method: str = ""
    #: Exact counts, where they were taken.
    counts: dict[str, int] | None = None
    #: Bytes above which a text is longer than the model reads, by this sample's own tokens a byte.
    longest: float = 0.0
    #: Tokens above which a text is longer than the model reads.
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Scan:
    """What is scanned, and how thoroughly."""

    engine: AsyncEngine
    target: Target
    heaps: Sequence[Heap]
    seed: int = SEED
    pages: int = PAGES
    texts: int = TEXTS
    #: The column that tells when a row arrived.
    arrived: str | None = None

    def parts(self, heap: Heap | None = None) -> dict[str, sql.Composable]:
        """Return what the statements are composed from."""
        target = self.target
        age: sql.Composable = sql.SQL("NULL::float8")
        if self.arrived is not None:
            age = sql.SQL("extract(epoch FROM now() - t.{})::float8").format(sql.Identifier(self.arrived))
        by_name = heap is not None and heap.may_read
        return {
            "table": target.table_id,
            "heap": sql.Identifier(heap.schema, heap.table) if heap is not None and by_name else target.table_id,
            "text": target.text_of("t"),
            "octets": target.octets_of("t"),
            "all_null": target.all_null("t"),
            "in_scope": target.in_scope("t", target.column),
            "column": sql.Identifier(target.column),
            "age": age,
        }

    async def draw(self) -> Drawn:
        """Draw pages, and read the rows on them, until there are enough of either or the time is up."""
        ends = [0]
        for heap in self.heaps:
            ends.append(ends[-1] + heap.pages)
        drawn = Drawn(ends[-1])
        most = self.pages if all(heap.may_read for heap in self.heaps) else min(self.pages, _PAGES_FROM_ABOVE)
        chance = random.Random(self.seed)  # noqa: S311 - the same sample every time, nothing secret
        order = chance.sample(range(drawn.pages), min(drawn.pages, most))
        began = time.monotonic()
        for start in range(0, len(order), _ROUND):
            numbers = order[start : start + _ROUND]
            drawn.rows += await self._page_rows(ends, numbers)
            drawn.numbers += numbers
            if len(drawn.rows) >= ROWS or time.monotonic() - began > SECONDS:
                break
        return drawn

    async def _page_rows(self, ends: list[int], numbers: list[int]) -> list[Row]:
        asked: dict[int, list[int]] = defaultdict(list)
        for number in numbers:
            heap = next(place for place, end in enumerate(ends[1:]) if number < end)
            asked[heap].append(number - ends[heap])
        found: list[Row] = []
        async with transaction(self.engine, read_only=True) as connection:
            for heap, pages in asked.items():
                statement = compose("planning/scan.sql", "page_rows", self.parts(self.heaps[heap]))
                places = _PLACES
                while True:
                    values = {"oid": self.heaps[heap].oid, "pages": pages, "places": places, "look": _LOOK_BYTES}
                    rows = await fetch(connection, statement, values)
                    # A page whose last places are taken may have more behind them.
                    if places >= _MOST_PLACES or max((row["place"] for row in rows), default=0) <= places // 2:
                        break
                    places = min(_MOST_PLACES, places * 3)
                found += [_row(row, heap, ends[heap]) for row in rows]
        return found

    async def look_into(self, drawn: Drawn, *, tokenizer: str, max_text_tokens: int) -> None:
        """Fetch texts of rows drawn at random from those of the pages, and count their tokens."""
        drawn.max_tokens = max_text_tokens
        embeds = [row for row in drawn.rows if row.embeds]
        if not embeds:
            drawn.method = "no text was found in the sample"
            return
        chance = random.Random(self.seed)  # noqa: S311 - as above
        sizes = sum(min(row.octets, _CHARACTERS) for row in embeds) / len(embeds)
        wanted = chance.sample(embeds, min(len(embeds), self.texts, max(50, int(_TEXT_BYTES / max(sizes, 1)))))
        began = time.monotonic()
        for start in range(0, len(wanted), _TEXTS_ROUND):
            for page, octets, body in await self._texts(wanted[start : start + _TEXTS_ROUND]):
                (count,), drawn.method = tokens.count_all([body], tokenizer)
                # What was cut off is as what was read.
                whole = octets / max(len(body.encode()), 1) if len(body) == _CHARACTERS else 1.0
                drawn.texts.append(Text(page, octets, round(count * whole), languages.language_of(body)))
            if time.monotonic() - began > _TEXTS_SECONDS:
                break
        ratio = sum(each.tokens for each in drawn.texts) / max(sum(each.octets for each in drawn.texts), 1)
        drawn.longest = max_text_tokens / ratio if ratio else 0.0

    async def _texts(self, wanted: Sequence[Row]) -> list[tuple[int, int, str]]:
        asked: dict[int, list[Row]] = defaultdict(list)
        for row in wanted:
            asked[row.heap].append(row)
        found = []
        async with transaction(self.engine, read_only=True) as connection:
            for heap, rows in asked.items():
                statement = compose("planning/scan.sql", "texts", self.parts(self.heaps[heap]))
                values = {
                    "oid": self.heaps[heap].oid, "tids": [row.tid for row in rows], "characters": _CHARACTERS
                }  # fmt: skip
                pages = {int(row.tid[1:].split(",")[0]): row.page for row in rows}
                told = await fetch(connection, statement, values)
                found += [(pages[each["page"]], each["octets"], each["body"]) for each in told]
        return found

    async def count(self, drawn: Drawn, *, exact: bool, truncates: bool) -> None:
        """Count every row, where the table is small or it was asked for; else the sample has to do."""
        if not exact and drawn.pages > COUNTED_PAGES:
            return
        longest = max(1, int(drawn.longest)) if drawn.longest else 2**31
        values = {"longest": longest, "kept": longest if truncates else 0}
        try:
            async with transaction(
                self.engine, read_only=True, statement_timeout_seconds=0 if exact else _COUNT_SECONDS
            ) as connection:
                counted = await fetch(connection, compose("planning/scan.sql", "counts", self.parts()), values)
        except LockBusy:
            if exact:
                raise
            return  # it took too long
        drawn.counts = counted[0]


def _row(row: dict[str, Any], heap: int, first: int) -> Row:
    return Row(
        page=first + row["page"],
        heap=heap,
        tid=f"({row['page']},{row['place']})",
        octets=row["octets"],
        in_scope=row["in_scope"],
        all_null=row["all_null"],
        blank=row["blank"],
        has_vector=row["has_vector"],
        hash=row["hash"],
        age=row["age"],
    )


#: Names that say when a row came, and such that say something else; defaults that fill in the moment.
_ARRIVAL = re.compile(r"creat|insert|arriv|added|ingest|publish", re.IGNORECASE)
_OTHER = re.compile(r"updat|modif|chang|delet|expir|seen|until|embed", re.IGNORECASE)
_NOW = re.compile(r"now\(\)|CURRENT_TIMESTAMP|_timestamp\(\)", re.IGNORECASE)


async def activity(engine: AsyncEngine, oid: int, heaps: Sequence[Heap]) -> tuple[dict[str, Any], str | None]:
    """Return the server's counters of the table, and the column that tells when a row arrived, where one does."""
    async with transaction(engine, read_only=True) as connection:
        oids = {"oids": [heap.oid for heap in heaps]}
        counters = (await fetch(connection, compose("planning/scan.sql", "activity"), oids))[0]
        columns = await fetch(connection, compose("planning/scan.sql", "moments"), {"oid": oid})
    ranked = sorted(
        (not _ARRIVAL.search(each["name"]), not _NOW.search(each["filled_by"]), place, each["name"])
        for place, each in enumerate(columns)
        if not _OTHER.search(each["name"]) and (_ARRIVAL.search(each["name"]) or _NOW.search(each["filled_by"]))
    )
    return counters, ranked[0][3] if ranked else None
