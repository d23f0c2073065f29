"""The page: what was found out, for somebody who is no expert: one sentence, what fits with its share, what to do.

Floor 2. Pure. Promise (P11): it holds keys, shares and names of columns and models, never a text or a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["fits", "misfits", "unknown"]
#: Keys that a finding names: enough to look into by hand.
KEYS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One explanation and the rows that it explains. `median` is the cosine that it reached on them."""

    kind: str
    label: str
    rows: int
    share: float
    median: float
    keys: list[str]
    do: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that is told. `median` is the cosine of the sample as the spec says it, the figure of the gate."""

    outcome: Outcome
    sentence: str
    do: str
    generation: str
    sample: int
    seed: int
    median: float
    threshold: float
    findings: list[Finding]
    #: Hypotheses that were asked, and whether all were that could have explained something.
    tried: int
    complete: bool
    tokens: int
    usd: float

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `--json` prints and Postgres keeps."""
        return asdict(self)


def restore(data: dict[str, Any]) -> Page:
    """Read back what `as_json` wrote."""
    return Page(**{**data, "findings": [Finding(**each) for each in data["findings"]]})


def key_text(key: Sequence[str]) -> str:
    """Return a row's key for people."""
    return "/".join(key)


def lines(page: Page) -> list[str]:
    """Return the page for a terminal."""
    told = [page.sentence, ""]
    if page.findings:
        told.append(f"  {'what explains the stored vectors':56} {'rows':>4}  {'share':>6}  cosine")
    for each in page.findings:
        told.append(f"  {each.label:56} {each.rows:>4}  {each.share:>6.1%}  {each.median:.4f}")
        if each.kind != "spec":
            told.append(f"      keys: {', '.join(each.keys)}{' ...' if each.rows > len(each.keys) else ''}")
    if page.findings:
        told.append("")
    told.append(f"What to do: {page.do}.")
    cost = f"{page.tokens:,} tokens, {page.usd:.4f} USD"
    asked = f"{page.tried} other explanations tried" + ("" if page.complete else ", not all: the allowance was spent")
    told.append(f"({page.sample} random rows, seed {page.seed}; {asked}; it cost {cost})")
    return told
