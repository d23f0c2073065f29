"""What a scan came to: rows, texts and tokens of the whole table, each with how sure it is and by which method.

Floor 2. Pure: a sample in, figures out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from migrator.measures import languages, sampling
from migrator.measures.sampling import Measured, Total
from migrator.planning.scan import Drawn, Row
from migrator.provider import tokens as token_counts
from migrator.target.facts import Heap

#: How far rows by ANALYZE's statistics alone may be off, as a share: it reads 30,000 rows, and some time ago.
STATISTICS_ERROR = 0.1
#: Statistics that tell of so many times the pages that there are were not made of this file: a restore left them.
_BEYOND_FILE = 1.1
#: Where the texts' lengths are told.
_SHARES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}
#: Days over which arrivals are counted, the shorter the better; and rows that must have arrived in them.
_DAYS, _FEWEST_ARRIVALS = (7, 28, 365), 20
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Growth:
    """Rows that arrive in a day; None where nothing tells it. `how` says what told."""

    per_day: float | None
    how: str


@dataclass(frozen=True, slots=True)
class Population:
    """The table's rows and texts. Counts by name are those of `scan.sql`, `counts`."""

    rows: Total
    method: str
    counted: bool
    counts: dict[str, int]
    #: Statistics tell of more pages than there are; every heap has statistics.
    beyond_file: bool
    analyzed: bool
    #: Billed bytes: of texts over the model's window, what the policy leaves of them.
    octets: Total
    #: Of rows that will be embedded: how many, and tokens to be billed for them.
    texts: int
    tokens: Total
    #: The same with the sample's spread alone, before what is allowed for a tokenizer that is not the model's.
    sampled_tokens: Total
    tokens_method: str
    drawn: Drawn

    @property
    def rows_per_page(self) -> float:
        """Rows on a page that has any."""
        pages = len({row.page for row in self.drawn.rows})
        return len(self.drawn.rows) / pages if pages else 0.0

    def sample(self) -> dict[str, Any]:
        """Return what was looked at, as `plan --json` prints it."""
        drawn = self.drawn
        return {
            "pages": len(drawn.numbers),
            "of_pages": drawn.pages,
            "rows": len(drawn.rows),
            "texts": len(drawn.texts),
            "rows_per_page": round(self.rows_per_page, 1),
        }

    def lengths(self) -> dict[str, dict[str, int]]:
        """Return how long texts are: bytes over the pages' rows, tokens over the texts that were counted."""
        of = {
            "bytes": [row.octets for row in self.drawn.rows if row.embeds],
            "tokens": [each.tokens for each in self.drawn.texts],
        }
        told = {}
        for unit, values in of.items():
            points = dict(zip(_SHARES, sampling.quantiles(values, list(_SHARES.values())), strict=False))
            told[unit] = {name: int(value) for name, value in points.items()} | {"max": max(values, default=0)}
        return told

    def scripts(self) -> dict[str, float]:
        """Return the share of texts by script, the most frequent first."""
        found = Counter(languages.script_of_language(each.language) for each in self.drawn.texts)
        return {name: round(count / found.total(), 4) for name, count in found.most_common()}

    def languages(self) -> dict[str, dict[str, float]]:
        """Return each language's share of the texts and of their tokens, the most frequent first.

        The same words as a pilot's slices: a text that says too little is told by its script.
        """
        texts, tokens = Counter[str](), Counter[str]()
        for each in self.drawn.texts:
            texts[each.language] += 1
            tokens[each.language] += each.tokens
        whole = max(tokens.total(), 1)
        return {
            name: {"texts": round(count / texts.total(), 4), "tokens": round(tokens[name] / whole, 4)}
            for name, count in texts.most_common()
        }

    def duplicates(self) -> float | None:
        """Return the share of texts that are another's copy, among those short enough to be looked into; None: none."""
        hashes = [row.hash for row in self.drawn.rows if row.embeds and row.hash is not None]
        if not hashes or not self.drawn.rows:
            return None
        rows = max(self.texts * len(hashes) / max(sum(row.embeds for row in self.drawn.rows), 1), len(hashes))
        return round(1 - sampling.distinct(hashes, rows) / rows, 4)

    def growth(self, activity: dict[str, Any] | None, column: str | None) -> Growth:
        """Tell how many rows arrive in a day: by the server's counters, else by a column that says when each did."""
        rows = max(self.rows.value, 1)
        seconds, inserted = (activity or {}).get("seconds"), (activity or {}).get("inserted", 0)
        # Counters that hold the load of the table itself tell nothing of arrivals.
        if seconds is not None and seconds >= _DAY and inserted < rows / 2:
            days = seconds / _DAY
            return Growth(inserted / days, f"{inserted:,} inserts counted by pg_stat in {days:,.0f} days")
        if column is None:
            return Growth(None, "pg_stat has no counters of a known age, and no column tells when a row arrived")
        for days in _DAYS:
            recent = [row for row in self.drawn.rows if row.age is not None and 0 <= row.age < days * _DAY]
            if len(recent) >= _FEWEST_ARRIVALS or (recent and days == _DAYS[-1]):
                share = len(recent) / len(self.drawn.rows)
                what = (
                    f"{len(recent)} of {len(self.drawn.rows):,} sampled rows are younger than {days} days by {column}"
                )
                return Growth(share * rows / days, what)
        return Growth(0.0, f"no sampled row is younger than {_DAYS[-1]} days by {column}")


def of(drawn: Drawn, heaps: Sequence[Heap], *, tokenizer: str, truncates: bool) -> Population:
    """Work out what a scan came to."""
    counts = drawn.counts
    sums = _Sums(drawn)
    beyond, scale = _by_statistics(drawn, heaps, sums.total(lambda _: 1))
    kept, most = (drawn.longest, drawn.max_tokens) if truncates else (0.0, 0)

    def billed(octets: int) -> float:
        return kept if drawn.longest and octets > drawn.longest else octets

    if counts is None:
        rows = sums.total(lambda _: 1).times(*scale)
        octets = sums.total(lambda row: billed(row.octets) if row.embeds else 0).times(*scale)
        counts = {name: round(sums.total(each).value * scale[0]) for name, each in _counted(drawn.longest).items()}
    else:
        rows, octets, beyond = Total(counts["rows"]), Total(counts["octets"]), False
    texts = counts["in_scope"] - counts["all_null"] - counts["empty"] - counts["blank"]
    # Where every page was read, the texts were drawn from all rows, and lie together by chance alone.
    together = len(drawn.numbers) < drawn.pages
    told = [
        Measured(
            each.page if together else place,
            billed(each.octets),
            each.tokens if each.tokens <= drawn.max_tokens else most,
        )
        for place, each in enumerate(drawn.texts)
    ]
    tokens = sampling.by_ratio(told, octets, texts)
    systematic = 0.0 if token_counts.counts_exactly(tokenizer) or not told else token_counts.ESTIMATE_ERROR
    return Population(
        rows=rows,
        method=_method(drawn, beyond=beyond),
        counted=drawn.counts is not None,
        counts=counts,
        beyond_file=beyond,
        analyzed=all(each.tuples >= 0 for each in heaps),
        octets=octets,
        texts=texts,
        tokens=tokens.times(1.0, sampling.error_of(systematic)),
        sampled_tokens=tokens,
        tokens_method=f"{drawn.method}, {len(told)} sampled texts, 95 % interval" if told else drawn.method,
        drawn=drawn,
    )


class _Sums:
    """Sums by page, over every page that was drawn."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn

    def total(self, of_row: Callable[[Row], float]) -> Total:
        sums = dict.fromkeys(self._drawn.numbers, 0.0)
        for row in self._drawn.rows:
            sums[row.page] += of_row(row)
        return sampling.of_pages(list(sums.values()), self._drawn.pages)


def _counted(longest: float) -> dict[str, Callable[[Row], float]]:
    """Return what `scan.sql`, `counts` counts, of one row."""
    return {
        "rows": lambda _: 1,
        "in_scope": lambda row: row.in_scope,
        "all_null": lambda row: row.in_scope and row.all_null,
        "empty": lambda row: row.in_scope and not row.all_null and row.octets == 0,
        "blank": lambda row: row.in_scope and not row.all_null and row.octets > 0 and row.blank,
        "text_without_vector": lambda row: row.embeds and not row.has_vector,
        "vector_without_text": lambda row: row.in_scope and not row.embeds and row.has_vector,
        "too_long": lambda row: bool(longest) and row.embeds and row.octets > longest,
    }


def _by_statistics(drawn: Drawn, heaps: Sequence[Heap], sampled: Total) -> tuple[bool, tuple[float, float]]:
    """Say whether statistics tell of more pages than there are, and what the sample is multiplied with then."""
    told = [each for each in heaps if each.tuples >= 0]
    beyond = sum(each.counted_pages for each in told) > _BEYOND_FILE * max(drawn.pages, 1)
    if not beyond or not sampled.value:
        return False, (1.0, 0.0)
    rows = sum(each.tuples for each in told)
    return True, (rows / sampled.value, sampling.error_of(STATISTICS_ERROR))


def _method(drawn: Drawn, *, beyond: bool) -> str:
    if drawn.counts is not None:
        return "counted"
    if beyond:
        return "statistics of ANALYZE, taken to be within 10 %"
    return f"rows of {len(drawn.numbers):,} of {drawn.pages:,} pages, 95 % interval"
