"""What a pilot would cost, before anything is asked: likely, and at the most.

Floor 2. Pure. Promise (P7): `most` is what the budget would reserve for every request that is still to be sent, at the
highest price. What is kept of an earlier run costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from migrator.provider import profiles, tokens
from migrator.spec import ModelSpec
from migrator.state.budget import price


@dataclass(frozen=True, slots=True)
class Part:
    """Texts for one model: how many are kept already, what the rest is likely to take and what it takes at the most."""

    texts: int
    kept: int
    tokens: int
    likely_usd: float
    most_usd: float

    @classmethod
    def of(cls, model: ModelSpec, texts: Sequence[str], missing: Sequence[str]) -> Self:
        """Price what is missing."""
        counts, _ = tokens.count_all(missing, profiles.of(model).tokenizer)
        bound = sum(tokens.bound(each) for each in missing)
        high = model.price_usd_per_mtok[1]
        likely, most = (float(price(each, high).usd) for each in (sum(counts), bound))
        return cls(len(texts), len(texts) - len(missing), sum(counts), likely, max(likely, most))


@dataclass(frozen=True, slots=True)
class Price:
    """The parts: rows and queries by the new model, queries by the old one, and the look at provenance."""

    rows: Part
    new_queries: Part
    old_queries: Part
    #: At the most; 0 where a look fitted within the day, or is signed away.
    look_usd: float

    @property
    def likely_usd(self) -> float:
        """What it will probably cost, without the look."""
        return self.rows.likely_usd + self.new_queries.likely_usd + self.old_queries.likely_usd

    @property
    def most_usd(self) -> float:
        """What it costs at the most, the look included; what the provider loses and is asked again comes on top."""
        return self.rows.most_usd + self.new_queries.most_usd + self.old_queries.most_usd + self.look_usd

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `--json` prints."""
        return {**asdict(self), "likely_usd": self.likely_usd, "most_usd": self.most_usd}

    def __str__(self) -> str:
        kept = self.rows.kept + self.new_queries.kept + self.old_queries.kept
        paid = f", {kept:,} of these texts kept and paid for already" if kept else ""
        look = f", a look at old vectors for at most {self.look_usd:.4f} of it" if self.look_usd else ""
        return (
            f"{self.rows.texts:,} rows and {self.new_queries.texts:,} queries by the new model, "
            f"{self.old_queries.texts:,} queries by the old one{paid}: about {self.likely_usd:.4f} USD, "
            f"at most {self.most_usd:.4f}{look}"
        )
