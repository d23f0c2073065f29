"""Which rows are embedded, as what text, and which get a disposition instead.

Floor 2. Pure. Promise (P6): every row that comes in goes out, as work or as a disposition with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from migrator.errors import OperatorError
from migrator.provider import tokens
from migrator.state.dispositions import Disposition
from migrator.target.lanes import Row

TooLong = Literal["quarantine", "truncate", "fail"]


@dataclass(eq=False)
class TextTooLong(OperatorError):
    """A text is over the provider's limit, and the spec says that this fails."""

    limit_tokens: int
    count: int

    runbook = "failed-rows"
    happened = (
        "{count} texts are over the provider's limit of {limit_tokens} tokens, and the spec says too_long = fail."
    )
    state = "Nothing of these rows was sent; everything embedded so far is kept."
    next = "Find them by length in SQL and shorten them, then `migrator resume NAME`."


@dataclass(frozen=True, slots=True)
class Work:
    """A row to embed and the text that is sent for it, which is shorter than the row's own where it was truncated."""

    row: Row
    text: str

    @property
    def truncated(self) -> bool:
        """Whether less than the row's text is sent."""
        return len(self.text) < len(self.row.body)


@dataclass(frozen=True, slots=True)
class Classified:
    """What becomes of some rows."""

    work: list[Work]
    dispositions: list[Disposition]

    def without(self, keys: AbstractSet[tuple[str, ...]]) -> Classified:
        """Return the same, but for the rows of these keys."""
        if not keys:
            return self
        return Classified(
            [each for each in self.work if each.row.key not in keys],
            [each for each in self.dispositions if each.key not in keys],
        )


def classify(rows: Sequence[Row], *, limit_tokens: int, too_long: TooLong, tokenizer: str = "qwen") -> Classified:
    """Sort rows into work and dispositions, in the order they came.

    Raises: TextTooLong, when the spec wants over-long texts to fail.
    """
    work: list[Work] = []
    dispositions: list[Disposition] = []
    failing: list[Disposition] = []
    for row in rows:
        reason = _no_text(row)
        if reason is not None:
            dispositions.append(Disposition(row.key, "skipped", reason))
        elif not _is_too_long(row.body, limit_tokens, tokenizer):
            work.append(Work(row, row.body))
        elif too_long == "truncate":
            work.append(Work(row, _truncate(row.body, limit_tokens, tokenizer)))
        else:
            over = Disposition(row.key, "quarantined", "too_long")
            (failing if too_long == "fail" else dispositions).append(over)
    if failing:
        raise TextTooLong(limit_tokens, len(failing))
    return Classified(work, dispositions)


def _no_text(row: Row) -> str | None:
    if row.all_null:
        return "null"
    if row.body == "":
        return "empty"
    return "whitespace" if not row.body.strip() else None


def _is_too_long(text: str, limit: int, tokenizer: str) -> bool:
    """Say whether a text is certainly too long; where only the tokenizer could know, the provider judges."""
    if tokens.bound(text) <= limit:
        return False
    counter = _counter(tokenizer)
    return counter is not None and counter(text) > limit


def _counter(tokenizer: str) -> Callable[[str], int] | None:
    """Return what counts this model's tokens exactly; another model's count says nothing for certain."""
    return tokens.exact_counter() if tokens.counts_exactly(tokenizer) else None


def _truncate(text: str, limit: int, tokenizer: str) -> str:
    """Cut a text to what surely fits: by exact count where the tokenizer is there, else by bytes."""
    measure = _counter(tokenizer) or tokens.bound
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if measure(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[:low]
