"""The verdict: one sentence out of what fits, what does not, and what explains the rest.

Floor 2. Pure. The gate: the median cosine of the sample, made again as the spec says, is at least GATE_COSINE, and no
vector of another model lies among the old ones. Edited rows do no harm: they are embedded from today's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from migrator.generation import Side
from migrator.provenance.asking import Asker
from migrator.provenance.hypotheses import Hypothesis, Kind
from migrator.provenance.page import KEYS, Finding, Outcome, Page, key_text
from migrator.provenance.sample import Sampled
from migrator.spec import Spec

#: Median cosine of the sample that is asked for: what the same model gives for the same text.
GATE_COSINE = 0.999
#: Cosine below which a vector has nothing to do with the old model's vector of the row's text: an edited text, or a
#: part of it, stays well above; vectors of unrelated models stay near 0.
UNRELATED_COSINE = 0.4
#: Relative difference of lengths from which vectors are not normalised as the answers are.
_NORM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Explained:
    """A hypothesis with the rows that it explains, and the median cosine that it reached on them."""

    hypothesis: Hypothesis
    rows: list[Sampled]
    median: float


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was measured."""

    spec: Spec
    rows: int
    fitting: list[Sampled]
    median: float
    explained: list[Explained]
    #: Rows that nothing explains, with their cosine as the spec says.
    left: list[tuple[Sampled, float]]
    other_dims: list[Sampled]
    norm_ratio: float
    tried: int
    seed: int

    @property
    def old(self) -> str:
        """The old generation."""
        return str(self.spec.generation(Side.FROM))


def judge(facts: Facts, asker: Asker) -> Page:
    """Return the page."""
    findings = _findings(facts)
    strangers = sum(each.rows for each in findings if each.kind in {Kind.MODEL, "dimensions", "stranger"})
    fits = facts.median >= GATE_COSINE and not strangers
    sentence, do = _sentence(facts, findings, fits=fits)
    return _page(facts.spec, "fits" if fits else "misfits", sentence, do, asker, facts, findings)


def unknown(spec: Spec, why: str, asker: Asker, *, sample: int, seed: int) -> Page:
    """Return the page of a check that could not be made."""
    facts = Facts(spec, sample, [], 0.0, [], [], [], 1.0, 0, seed)
    sentence = (
        f"Nobody can say whether the stored vectors are {facts.old}'s, since it can't be asked here: {why.rstrip('.')}."
    )
    do = (
        "Name an endpoint that still has the old model as [from] base_url (some regions have no v3), or start with "
        "--skip-provenance REASON"
    )
    return _page(spec, "unknown", sentence, do, asker, facts, [])


def _page(
    spec: Spec, outcome: Outcome, sentence: str, do: str, asker: Asker, facts: Facts, findings: list[Finding]
) -> Page:
    return Page(
        outcome=outcome,
        sentence=sentence,
        do=do,
        generation=str(spec.generation(Side.FROM)),
        sample=facts.rows,
        seed=facts.seed,
        median=facts.median,
        threshold=GATE_COSINE,
        findings=findings,
        tried=facts.tried,
        complete=not asker.exhausted,
        tokens=asker.used_tokens,
        usd=float(asker.used_usd),
    )


def _findings(facts: Facts) -> list[Finding]:
    """Return what explains the sample: the spec first, then by the number of rows."""
    made = [
        _finding(facts, str(each.hypothesis.kind), each.hypothesis.label, each.rows, each.median, each.hypothesis.do)
        for each in facts.explained
    ]
    related = [(row, value) for row, value in facts.left if value >= UNRELATED_COSINE]
    strange = [(row, value) for row, value in facts.left if value < UNRELATED_COSINE]
    some_fit = bool(facts.fitting)
    if related:
        label = "the text was edited after that" if some_fit else "another text, by no template that was tried"
        do = "Nothing: they are embedded from today's text" if some_fit else _ASK_THE_APPLICATION
        made.append(_of_left(facts, "edited" if some_fit else "text", label, related, do))
    if strange:
        label = f"neither {facts.old}'s nor any text that was tried"
        made.append(_of_left(facts, "stranger", label, strange, _ASK_THE_APPLICATION))
    if facts.other_dims:
        label = f"the vector has not {facts.spec.generation(Side.FROM).dims} dimensions"
        made.append(_finding(facts, "dimensions", label, facts.other_dims, 0.0, _ASK_THE_APPLICATION))
    made.sort(key=lambda each: -each.rows)
    if facts.fitting:
        made.insert(0, _finding(facts, "spec", "model and text as the spec says", facts.fitting, 1.0, "Nothing"))
        if abs(facts.norm_ratio - 1) > _NORM_TOLERANCE:
            label = f"but stored {facts.norm_ratio:.3g} times as long as it is answered"
            do = (
                "The old vectors were not normalised, or by somebody else: cosine distance does not care, inner "
                "product and L2 do; look at the operator class of the index before you cut over"
            )
            made.insert(1, _finding(facts, "norm", label, facts.fitting, 1.0, do))
    return made


_ASK_THE_APPLICATION = (
    "Look into the code that writes the column, for the model and the text that it really sends; mend [from] or "
    "[target] text, or start with --skip-provenance REASON"
)


def _of_left(facts: Facts, kind: str, label: str, rows: Sequence[tuple[Sampled, float]], do: str) -> Finding:
    median = float(np.median([value for _, value in rows]))
    return _finding(facts, kind, label, [row for row, _ in rows], median, do)


def _finding(facts: Facts, kind: str, label: str, rows: Sequence[Sampled], median: float, do: str) -> Finding:
    keys = sorted(key_text(row.key) for row in rows)[:KEYS]
    return Finding(kind, label, len(rows), len(rows) / max(facts.rows, 1), median, keys, do)


def _sentence(facts: Facts, findings: Sequence[Finding], *, fits: bool) -> tuple[str, str]:
    """Return the verdict's sentence and what to do first."""
    if not facts.rows:
        return "No row has both a text and a vector, so there is nothing to compare.", "Nothing"
    of = f"of {facts.rows} sampled rows"
    others = [each for each in findings if each.kind not in {"spec", "norm"}]
    if fits:
        sentence = f"The stored vectors are {facts.old}'s of the spec's text: {len(facts.fitting)} {of} come out again."
        norm = next((each for each in findings if each.kind == "norm"), None)
        first = norm or next((each for each in others if each.kind != "edited"), None)
        return sentence, first.do if first is not None else "Nothing; go on"
    main = next((each for each in others if each.kind in {Kind.MODEL, "dimensions"}), others[0])
    counted = f"{main.rows} {of}"
    sentences = {
        str(Kind.MODEL): f"Two generations are mixed in one column: {counted} hold "
        f"{facts.spec.generation(Side.TO)}'s vector instead of {facts.old}'s.",
        str(Kind.TEMPLATE): f"The stored vectors were made from another text than the spec's: for {counted}, "
        f"{main.label}.",
        str(Kind.WHITESPACE): f"The stored vectors were made from a changed text: for {counted}, {main.label}.",
        str(Kind.TRUNCATED): f"The stored vectors were made from shortened texts: for {counted}, {main.label}.",
        "edited": f"Most texts were edited after their vectors were made: {counted} do not come out again.",
        "text": f"The stored vectors are probably {facts.old}'s, but of a text that nothing explains: {counted}.",
        "dimensions": f"Vectors of other dimensions are mixed into the column: {counted}.",
        "stranger": f"The stored vectors are not {facts.old}'s of any text that was tried: {counted}.",
    }
    if main.kind == Kind.MODEL and main.rows == facts.rows:
        return f"All {main.rows} sampled rows hold {main.label.removeprefix('the vector is ')} vector already.", main.do
    return sentences[main.kind], main.do
