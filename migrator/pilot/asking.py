"""What a pilot asks both models: the operator's own queries where they say what is relevant, else known items.

Floor 2. Pure: the seed is a parameter. A judged query can only find what lies in the sample, so the rows that are
relevant to it are taken into the sample first, up to half of it; which queries those are is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migrator.measures import languages, slices
from migrator.pilot.sample import Sampled
from migrator.queries import Query, known_item

Key = tuple[str, ...]
JUDGED, KNOWN_ITEMS = "judged queries", "known-item queries"
#: The stratum of rows that were not drawn, but are relevant to a query.
RELEVANT = "relevant to a query"


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries, what each must find (nothing where nobody said), the slices it belongs to, and what it stands for."""

    texts: list[str]
    relevant: list[frozenset[Key]]
    labels: list[tuple[str, ...]]
    weights: list[float]
    kind: str

    @property
    def scored(self) -> list[int]:
        """The positions of those that must find something."""
        return [at for at, each in enumerate(self.relevant) if each]


def fitting(queries: Sequence[Query], most_rows: int, *, seed: int) -> list[Query]:
    """Return judged queries whose relevant rows are together no more than that, drawn at random, in their own order."""
    keys: set[Key] = set()
    chosen = []
    for at in np.random.default_rng(seed).permutation(len(queries)):
        wanted = keys | set(queries[at].relevant or ())
        if len(wanted) <= most_rows:
            keys = wanted
            chosen.append(int(at))
    return [queries[at] for at in sorted(chosen) if queries[at].relevant]


def judged(queries: Sequence[Query], rows: Sequence[Sampled]) -> Asked:
    """Ask those queries whose relevant rows, or some of them, are there."""
    there = {each.row.key for each in rows}
    kept = [(each.text, frozenset(each.relevant or ()) & there) for each in queries]
    kept = [(text, keys) for text, keys in kept if keys]
    labels: list[tuple[str, ...]] = [
        (languages.language_of(text), f"{slices.length_of(text)} query") for text, _ in kept
    ]
    return Asked([text for text, _ in kept], [keys for _, keys in kept], labels, [1.0] * len(kept), JUDGED)


def known_items(rows: Sequence[Sampled], count: int, unjudged: Sequence[Query], *, seed: int) -> Asked:
    """Make queries of the first words of drawn rows; queries of which nobody said what is relevant come after them."""
    drawn = [each for each in rows if each.row.weight > 0]
    order = np.random.default_rng(seed).permutation(len(drawn))[:count]
    chosen = [drawn[at] for at in sorted(order)]
    alike: dict[str, set[Key]] = {}
    for each in rows:
        alike.setdefault(each.body, set()).add(each.row.key)
    labels: list[tuple[str, ...]] = [tuple(each.row.stratum.split(", ")) for each in chosen]
    return Asked(
        [known_item(each.body) for each in chosen] + [each.text for each in unjudged],
        [frozenset(alike[each.body]) for each in chosen] + [frozenset()] * len(unjudged),
        labels + [()] * len(unjudged),
        [each.row.weight for each in chosen] + [1.0] * len(unjudged),
        KNOWN_ITEMS,
    )
