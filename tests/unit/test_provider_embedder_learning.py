"""The loop: which limits it learns from refusals, and which answers it does not believe."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from migrator.provider import norms, tokens
from migrator.provider.giving_up import AnswersUnbelievable, ProviderStopped
from tests.unit.endpoint import DIMS, Endpoint, assert_right, error, good


def test_r7_the_number_of_texts_is_learnt_from_the_refusal() -> None:
    def respond(texts: list[str]) -> httpx.Response:
        sentence = "Value error, batch size is invalid, it should not be larger than 4.: input.contents"
        return error(400, "InvalidParameter", sentence) if len(texts) > 4 else good(texts)

    endpoint = Endpoint(respond)
    texts = [f"text {number}" for number in range(10)]
    assert_right(endpoint.run(texts), texts)
    assert [len(each) for each in endpoint.asked] == [10, 4, 4, 2]
    assert endpoint.purse.learnt["max_texts"] == 4


def counted(texts: list[str], per_text: int, per_request: int, message: str) -> httpx.Response:
    counts = tokens.count_all(texts)[0]
    if max(counts) > per_text or sum(counts) > per_request:
        return error(400, "InvalidParameter", message)
    return good(texts)


def test_r7_a_requests_token_limit_is_learnt_although_it_is_told_as_a_texts() -> None:
    """Model Studio prints 8,192 for a text and for a whole request, and says the same of both."""
    message = "Range of input length should be [1, 60]"
    endpoint = Endpoint(lambda texts: counted(texts, 60, 60, message))
    texts = [f"a text of some words, number {number}" for number in range(10)]
    assert_right(endpoint.run(texts), texts)
    assert endpoint.purse.learnt["max_request_tokens"] == 60
    assert "max_text_tokens" not in endpoint.purse.learnt
    assert len(endpoint.asked) <= 4


def test_r7_a_texts_token_limit_is_learnt_and_the_text_is_quarantined() -> None:
    message = "Range of input length should be [1, 60]"
    endpoint = Endpoint(lambda texts: counted(texts, 60, 8192, message))
    texts = [f"a text of some words, number {number} {'and more ' * (40 if number == 3 else 0)}" for number in range(8)]
    assert_right(endpoint.run(texts), texts, {3: "too_long"})
    assert endpoint.purse.learnt["max_text_tokens"] == 60
    assert "max_request_tokens" not in endpoint.purse.learnt


def test_r7_a_requests_own_limit_is_learnt_by_its_own_sentence() -> None:
    message = "Requested 100 tokens, max 60 tokens per request"
    endpoint = Endpoint(lambda texts: counted(texts, 8192, 60, message))
    texts = [f"a text of some words, number {number}" for number in range(10)]
    assert_right(endpoint.run(texts), texts)
    assert endpoint.purse.learnt["max_request_tokens"] == 60
    assert Endpoint(lambda texts: counted(texts, 9, 9, message)).run(["word " * 20]) == {0: "too_long"}


def test_a_limit_that_contradicts_itself_stops() -> None:
    sentence = "batch size is invalid, it should not be larger than 10"
    endpoint = Endpoint(lambda _: error(400, "InvalidParameter", sentence))
    with pytest.raises(ProviderStopped, match="Its limit contradicts"):
        endpoint.run(["a", "b"])


def shorter(texts: list[str]) -> httpx.Response:
    made = json.loads(good(texts).content)
    for each in made["data"]:
        each["embedding"] = [number / 2 for number in each["embedding"]]
    return httpx.Response(200, json=made)


def test_r14_an_answer_of_another_length_is_not_believed() -> None:
    endpoint = Endpoint(good)
    endpoint.respond = lambda texts: good(texts) if len(endpoint.asked) == 1 else shorter(texts)
    texts = [f"text {number}" for number in range(20)]
    with pytest.raises(AnswersUnbelievable, match=r"0\.5 long, and this model's were 1") as caught:
        endpoint.run(texts)
    assert 'norm = "any"' in str(caught.value)
    assert endpoint.purse.learnt == {f"norm of {DIMS}": 1.0}
    outcomes = list(endpoint.purse.outcomes.values())
    assert len(outcomes) > 1, outcomes
    assert all(isinstance(each, int) or each[0] == "lost" for each in outcomes), "it was billed, so it is booked"


def test_r14_a_norm_that_is_known_from_earlier_holds_from_the_first_answer_on() -> None:
    with pytest.raises(AnswersUnbelievable, match=r"0\.5 long"):
        Endpoint(shorter).run(["a", "b"], norm=1.0)
    assert set(Endpoint(shorter).run(["a", "b"], norm=1.0, profile={"norm": "any"})) == {0, 1}
    assert set(Endpoint(shorter).run(["a", "b"], norm=norms.VARIES)) == {0, 1}


def test_one_unbelievable_answer_is_asked_for_again_two_stop() -> None:
    endpoint = Endpoint(good)
    endpoint.respond = lambda texts: good(texts[1:]) if len(endpoint.asked) == 1 else good(texts)
    assert_right(endpoint.run(["a", "b"]), ["a", "b"])
    endpoint = Endpoint(lambda texts: good(texts[1:]))
    with pytest.raises(AnswersUnbelievable, match="1 vectors came for 2 texts"):
        endpoint.run(["a", "b"])
    assert len(endpoint.asked) == 2


def test_r16_another_models_name_stops_unless_the_spec_knows_better() -> None:
    def renamed(texts: list[str]) -> httpx.Response:
        return good(texts, model="text-embedding-v3")

    with pytest.raises(AnswersUnbelievable, match="model_echo"):
        Endpoint(renamed).run(["a"])
    assert_right(Endpoint(renamed).run(["a"], profile={"model_echo": "ignore"}), ["a"])


def test_r17_a_reply_without_usage_is_booked_by_our_own_bound_and_flagged() -> None:
    endpoint = Endpoint(lambda texts: good(texts, usage=None))
    _, answers = asyncio.run(endpoint.embed(["hello", "world"]))
    assert [each.tokens_estimated for each in answers] == [True]
    assert answers[0].used_tokens == tokens.bound("hello") + tokens.bound("world")
    assert endpoint.purse.estimated == {answers[0].request_id}
    assert not asyncio.run(Endpoint(good).embed(["hello"]))[1][0].tokens_estimated


def test_a_foreign_tokenizer_leaves_room_for_its_error() -> None:
    texts = ["word " * 99] * 1 + [f"{'word ' * 99}{number}" for number in range(9)]
    exact, estimated = Endpoint(good), Endpoint(good)
    limit = sum(tokens.count_all(texts)[0])
    exact.run(texts, profile={"max_request_tokens": limit, "tokenizer": "qwen"})
    estimated.run(texts, profile={"max_request_tokens": limit, "tokenizer": "other"})
    assert [len(each) for each in exact.asked] == [10]
    assert [len(each) for each in estimated.asked] == [8, 2]
