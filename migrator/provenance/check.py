"""The check: make the stored vectors of a sample again, and where they do not come out, find what fits.

Floor 2. Promise (R5): what fits is said with its share and the rows' keys, and no more is asked than that takes: the
sample once, then each tier of hypotheses on one or two rows that are not explained yet, and only a hypothesis that
fits there on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from migrator.generation import Side
from migrator.measures import cosine
from migrator.provenance import hypotheses, verdict
from migrator.provenance.asking import SAMPLE_TOKENS, Asker
from migrator.provenance.hypotheses import Hypothesis, Kind
from migrator.provenance.page import Page
from migrator.provenance.sample import Sampled
from migrator.provenance.verdict import UNRELATED_COSINE, Explained
from migrator.provider import tokens
from migrator.spec import Spec

#: Cosine from which a vector was made of that text by that model: float rounding and regions stay above it.
FITS_COSINE = 0.999
#: Rows on which a tier is tried first.
_WITNESSES = 2


@dataclass(slots=True)
class _Trial:
    """The rows, what explains each, and what is left."""

    spec: Spec
    asker: Asker
    rows: list[Sampled]
    explained: list[Explained] = field(default_factory=list)
    left: list[Sampled] = field(default_factory=list)
    #: Cosine of each left row with its text as the spec says it; 0 where it could not be embedded.
    spec_cosines: dict[tuple[str, ...], float] = field(default_factory=dict)
    tried: int = 0


async def run(spec: Spec, asker: Asker, drawn: Sequence[Sampled], names: Sequence[str], *, seed: int) -> Page:
    """Compare a sample and explain it; returns the page.

    Cost: at most `asking.MAX_TOKENS`.
    Raises: ProviderBusy, and what the purse raises.
    """
    rows = _affordable([row for row in drawn if row.vector is not None])
    odd = [row for row in drawn if row.vector is None]
    trial = _Trial(spec, asker, rows)
    again = await asker.embed(Side.FROM, [row.body for row in rows])
    if Side.FROM in asker.refusals or (rows and all(vector is None for vector in again)):
        why = asker.refusals.get(Side.FROM, "It embedded none of the sampled texts")
        return verdict.unknown(spec, why, asker, sample=len(rows), seed=seed)
    cosines = [_cosine(row, vector) for row, vector in zip(rows, again, strict=True)]
    fitting = [row for row, value in zip(rows, cosines, strict=True) if value >= FITS_COSINE]
    trial.left = [row for row, value in zip(rows, cosines, strict=True) if value < FITS_COSINE]
    trial.spec_cosines = {row.key: value for row, value in zip(rows, cosines, strict=True)}
    await _explain(trial, names)
    norms = _norm_ratio(rows, again, cosines)
    facts = verdict.Facts(
        spec=spec,
        rows=len(rows) + len(odd),
        fitting=fitting,
        median=float(np.median(cosines)) if cosines else 1.0,
        explained=trial.explained,
        left=[(row, trial.spec_cosines[row.key]) for row in trial.left],
        other_dims=odd,
        norm_ratio=norms,
        tried=trial.tried,
        seed=seed,
    )
    return verdict.judge(facts, asker)


def _affordable(rows: Sequence[Sampled]) -> list[Sampled]:
    """Return the first rows, random as they are, whose texts fit the sample's share of the allowance."""
    chosen: list[Sampled] = []
    total = 0
    for row, count in zip(rows, tokens.count_all([row.body for row in rows])[0], strict=True):
        total += count
        if total > SAMPLE_TOKENS and chosen:
            break
        chosen.append(row)
    return chosen


async def _explain(trial: _Trial, names: Sequence[str]) -> None:
    """Try tier after tier on what is left, until nothing is."""
    template = trial.spec.target.text
    for tier in hypotheses.tiers(template, names, trial.spec.generation(Side.TO)):
        if not trial.left or trial.asker.exhausted:
            return
        if tier[0].side is Side.TO and not _may_be_new(trial.spec):
            continue
        trial.tried += len(tier)
        for each in await _candidates(trial, tier):
            await _settle(trial, each)


async def _candidates(trial: _Trial, tier: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Return the hypotheses of a tier that fit at least one witness, the best first."""
    if tier[0].kind is Kind.MODEL:
        return list(tier)  # mixing is worth asking every row that is left
    witnesses = _witnesses(trial.left, tier[0].kind)
    pairs = [(each, row, text) for each in tier for row in witnesses if (text := each.compose(row)) is not None]
    found = await trial.asker.embed(Side.FROM, [text for _, _, text in pairs])
    best: dict[int, float] = {}
    for (each, row, _), vector in zip(pairs, found, strict=True):
        value = _cosine(row, vector)
        if value >= FITS_COSINE:
            best[tier.index(each)] = max(best.get(tier.index(each), 0.0), value)
    return [tier[number] for number in sorted(best, key=lambda number: -best[number])]


def _witnesses(rows: Sequence[Sampled], kind: Kind) -> list[Sampled]:
    """Return the rows that tell most: the longest texts for a cut, else short ones with every column filled."""
    if kind is Kind.TRUNCATED:
        return sorted(rows, key=lambda row: -len(row.body))[:_WITNESSES]
    return sorted(rows, key=lambda row: (sum(not text for text in row.pieces.values()), len(row.body)))[:_WITNESSES]


async def _settle(trial: _Trial, hypothesis: Hypothesis) -> None:
    """Ask a hypothesis about every row that is left, and take out those that it explains."""
    pairs = [(row, text) for row in trial.left if (text := hypothesis.compose(row)) is not None]
    if hypothesis.kind is Kind.MODEL:  # a vector that is near the old model's of the same text is no other model's
        pairs = [(row, text) for row, text in pairs if trial.spec_cosines[row.key] < UNRELATED_COSINE]
    found = await trial.asker.embed(hypothesis.side, [text for _, text in pairs])
    values = {row.key: _cosine(row, vector) for (row, _), vector in zip(pairs, found, strict=True)}
    explained = [row for row in trial.left if values.get(row.key, 0.0) >= FITS_COSINE]
    if explained:
        trial.explained.append(Explained(hypothesis, explained, float(np.median([values[r.key] for r in explained]))))
        keys = {row.key for row in explained}
        trial.left = [row for row in trial.left if row.key not in keys]


def _may_be_new(spec: Spec) -> bool:
    """Say whether the new generation's vectors can lie in the old one's column."""
    new, old = spec.generation(Side.TO), spec.generation(Side.FROM)
    return new.dims == old.dims and not new.is_same_model(old)


def _cosine(row: Sampled, vector: NDArray[np.float32] | None) -> float:
    if vector is None or row.vector is None or vector.shape != row.vector.shape:
        return 0.0
    return float(cosine.paired(row.vector[None, :], vector[None, :])[0])


def _norm_ratio(
    rows: Sequence[Sampled], again: Sequence[NDArray[np.float32] | None], cosines: Sequence[float]
) -> float:
    """Return how much longer the stored vectors are than the answers, over rows that fit; 1 where none does."""
    ratios = [
        float(np.linalg.norm(row.vector) / np.linalg.norm(vector))
        for row, vector, value in zip(rows, again, cosines, strict=True)
        if vector is not None and row.vector is not None and value >= FITS_COSINE
    ]
    return float(np.median(ratios)) if ratios else 1.0
