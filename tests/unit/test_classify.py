"""Rows to work or to dispositions (P6): each comes out once, with its reason."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.backfill.classify import Classified, TextTooLong, TooLong, classify
from migrator.provider import tokens
from migrator.state.dispositions import Disposition
from migrator.target.lanes import Row

LIMIT = 20


def row(body: str, key: str = "1", *, all_null: bool = False) -> Row:
    return Row((key,), body, all_null)


def of(body: str, *, too_long: TooLong = "quarantine", all_null: bool = False) -> Classified:
    return classify([row(body, all_null=all_null)], limit_tokens=LIMIT, too_long=too_long)


@pytest.mark.parametrize(
    ("body", "all_null", "reason"),
    [
        ("", True, "null"),
        ("\n\n", True, "null"),  # the template's own words between two NULLs
        ("", False, "empty"),
        (" ", False, "whitespace"),
        ("\n\t\r \u3000\u00a0", False, "whitespace"),
    ],
)
def test_a_row_without_text_is_skipped(body: str, *, all_null: bool, reason: str) -> None:
    found = of(body, all_null=all_null)
    assert found.work == []
    assert found.dispositions == [Disposition(("1",), "skipped", reason)]


def test_a_text_is_sent_as_it_is() -> None:
    found = of(" a text \n")
    assert [(each.row, each.text, each.truncated) for each in found.work] == [(row(" a text \n"), " a text \n", False)]
    assert found.dispositions == []


def test_a_text_of_exactly_the_limit_fits_and_one_token_more_does_not() -> None:
    digits, words, over = "1" * (LIMIT - tokens.END_MARKS), " word" * (LIMIT - tokens.END_MARKS), "1" * LIMIT
    assert [each.text for each in of(digits).work] == [digits]
    assert [each.text for each in of(words).work] == [words]
    assert of(words + " word").work == []
    assert of(over).dispositions == [Disposition(("1",), "quarantined", "too_long")]


def test_many_bytes_are_not_many_tokens() -> None:
    """The bound says that it might not fit, the tokenizer that it does."""
    body = "international " * 5
    assert tokens.bound(body) > LIMIT
    assert [each.text for each in of(body).work] == [body]


@pytest.mark.parametrize("body", ["1" * 100, "word " * 200, "क़" * 60, "漢字" * 60, "\U0001f469\u200d\U0001f467" * 20])
def test_truncate_sends_the_longest_beginning_that_fits_and_says_so(body: str) -> None:
    (work,) = of(body, too_long="truncate").work
    counter = tokens.exact_counter()
    assert counter is not None
    assert work.truncated
    assert work.row.body == body
    assert body.startswith(work.text)
    assert work.text
    assert counter(work.text) <= LIMIT < counter(body)
    assert counter(body[: len(work.text) + 1]) > LIMIT


def test_fail_stops_before_anything_is_sent_and_says_how_many() -> None:
    rows = [row("fine", "1"), row("1" * 50, "2"), row("", "3"), row("2" * 50, "4")]
    with pytest.raises(TextTooLong) as caught:
        classify(rows, limit_tokens=LIMIT, too_long="fail")
    assert (caught.value.limit_tokens, caught.value.count) == (LIMIT, 2)
    assert "1111" not in str(caught.value), "no text in a message (P11)"
    assert classify([rows[0], rows[2]], limit_tokens=LIMIT, too_long="fail").work[0].text == "fine"


@pytest.mark.usefixtures("no_tokenizer")
def test_without_the_tokenizer_the_provider_judges() -> None:
    for too_long in ("quarantine", "fail"):
        found = of("1" * 50, too_long=too_long)
        assert ([each.text for each in found.work], found.dispositions) == (["1" * 50], [])


@pytest.mark.parametrize("too_long", ["quarantine", "truncate", "fail"])
def test_another_models_texts_are_not_judged_by_qwens_tokens(too_long: TooLong) -> None:
    """Fifty digits are fifty tokens of Qwen's, and half of that or less of others': the provider judges."""
    found = classify([row("1" * 50)], limit_tokens=LIMIT, too_long=too_long, tokenizer="cl100k")
    assert ([each.text for each in found.work], found.dispositions) == (["1" * 50], [])


bodies = st.sampled_from(["", " ", "a", "a text", "1" * 19, "1" * 20, "word " * 40, "漢" * 40]) | st.text(max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    made=st.lists(st.tuples(bodies, st.booleans()), max_size=12), too_long=st.sampled_from(["quarantine", "truncate"])
)
def test_p6_every_row_comes_out_once_in_order(made: list[tuple[str, bool]], too_long: TooLong) -> None:
    rows = [row(body, str(number), all_null=all_null) for number, (body, all_null) in enumerate(made)]
    found = classify(rows, limit_tokens=LIMIT, too_long=too_long)
    work, rest = [each.row.key for each in found.work], [each.key for each in found.dispositions]
    assert sorted(work + rest) == sorted(each.key for each in rows)
    order = [each.key for each in rows]
    assert work == [key for key in order if key in set(work)]
    assert rest == [key for key in order if key in set(rest)]
    assert all(each.text.strip() for each in found.work), "a row without words is never sent (R8)"
    assert {each.kind for each in found.dispositions} <= {"skipped", "quarantined"}
