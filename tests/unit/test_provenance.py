"""Provenance without servers: what is tried, in which order, what it costs at most, and how a page reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from migrator.generation import Generation, Side
from migrator.provenance import hypotheses
from migrator.provenance.hypotheses import CUT_CHARACTERS, Hypothesis, Kind
from migrator.provenance.page import Finding, Page, lines, restore
from migrator.provenance.sample import Sampled
from migrator.spending.pocket import AllowanceSpent, Pocket

NEW = Generation("qwen/text-embedding-v4", 64)
ROW = Sampled(("7",), "Title\nSome  body ", {"title": "Title", "body": "Some  body "}, np.ones(64, dtype=np.float32))


def tiers(*names: str) -> list[list[Hypothesis]]:
    return list(hypotheses.tiers("{title}\n{body}", names, NEW))


def test_the_cheapest_and_worst_comes_first_and_nothing_twice() -> None:
    made = tiers("title", "body", "lang")
    assert [each.kind for each in made[0]] == [Kind.MODEL]
    assert made[0][0].side is Side.TO
    assert {each.side for tier in made[1:] for each in tier} == {Side.FROM}
    labels = [each.label for tier in made for each in tier]
    assert len(labels) == len(set(labels))
    assert 'the text is "{title}\\n{body}"' not in labels, "the spec's own template was asked already"
    assert {'the text is "{body}"', 'the text is "{body} {title}"', 'the text is "{title}\\n\\n{body}"'} <= set(labels)
    assert len(labels) < 150, "each is one or two texts"


def test_a_table_with_one_text_column_has_no_empty_tier() -> None:
    made = list(hypotheses.tiers("{body}", ["body"], NEW))
    assert made
    assert all(made)


def test_what_is_composed_differs_from_the_specs_text_or_says_nothing() -> None:
    composed = {each.label: each.compose(ROW) for tier in tiers("title", "body")[1:] for each in tier}
    assert composed['the text is "{title}: {body}"'] == "Title: Some  body "
    assert composed["line breaks became spaces"] == "Title Some  body "
    assert composed["every run of white space became one space"] == "Title Some body"
    assert composed["white space was cut off at both ends"] == "Title\nSome  body"
    assert composed["it was lower case"] == "title\nsome  body "
    assert all(composed[f"the text was cut after {length:,} characters"] is None for length in CUT_CHARACTERS)
    long = Sampled(("8",), "x" * 700, {"title": "", "body": "x" * 700}, None)
    cut = {each.label: each.compose(long) for tier in tiers("title", "body") for each in tier}
    assert cut["the text was cut after 512 characters"] == "x" * 512
    assert cut["the text was cut after 1,000 characters"] is None


def test_a_page_is_a_sentence_a_table_and_what_to_do() -> None:
    finding = Finding("model", "the vector is v4@64's", 3, 0.06, 1.0, ["14", "15", "3"], "Stop it")
    page = Page(
        outcome="misfits",
        sentence="Two are mixed.",
        do="Stop it",
        generation="v3@64",
        sample=50,
        seed=4711,
        median=0.9999,
        threshold=0.999,
        findings=[finding],
        tried=1,
        complete=True,
        tokens=812,
        usd=0.0001,
    )
    told = lines(page)
    assert told[0] == "Two are mixed."
    assert any("the vector is v4@64's" in line and "6.0%" in line for line in told)
    assert "      keys: 14, 15, 3" in told
    assert told[-2] == "What to do: Stop it."
    assert "seed 4711" in told[-1]
    assert "812 tokens, 0.0001 USD" in told[-1]
    assert restore(json.loads(json.dumps(page.as_json()))) == page


async def test_p7_a_pocket_never_passes_what_it_holds() -> None:
    pocket = Pocket(100)
    await pocket.admit("a", bound_tokens=60, likely_tokens=10)
    with pytest.raises(AllowanceSpent):
        await pocket.admit("b", bound_tokens=41, likely_tokens=1)
    await pocket.spend("a", 20)
    await pocket.admit("c", bound_tokens=80, likely_tokens=1)
    await pocket.write_off("c")
    assert pocket.committed_tokens == 100, "nobody knows whether it was billed"
    with pytest.raises(AllowanceSpent):
        await pocket.admit("d", bound_tokens=1, likely_tokens=1)
    await pocket.refund("d")
    assert pocket.committed_tokens == 100
