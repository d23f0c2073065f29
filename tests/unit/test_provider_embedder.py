"""The loop: what is asked, how often, what is blamed, what is paid; against an endpoint of the test's own."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.provider import norms, profiles, tokens
from migrator.provider.embedder import MAX_TRIES, Answer, Embedder, ProviderBusy, ProviderStopped, TextRefused
from migrator.spec import ModelSpec

DIMS = 8
MODEL = ModelSpec.model_validate(
    {
        "model": "qwen/text-embedding-v4",
        "dimensions": DIMS,
        "base_url": "https://provider.test/v1",
        "price_usd_per_mtok": 1,
    }
)
BAD, CRASH = "inappropriate", "crash"


@dataclass
class Purse:
    """Keeps what becomes of every request."""

    open: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    learnt: dict[str, float] = field(default_factory=dict)
    estimated: set[str] = field(default_factory=set)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        assert 0 < likely_tokens <= bound_tokens
        self.open[request_id] = bound_tokens

    def _close(self, request_id: str, outcome: Any) -> None:
        assert self.open.pop(request_id), "an outcome for what was not reserved"
        self.outcomes[request_id] = outcome

    async def refund(self, request_id: str) -> None:
        self._close(request_id, "refunded")

    async def write_off(self, request_id: str) -> None:
        self._close(request_id, "possibly billed")

    async def spend(self, request_id: str, used_tokens: int) -> None:
        if used_tokens:
            self._close(request_id, used_tokens)

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        self._close(request_id, ("lost", used_tokens))

    async def pause(self, seconds: float, reason: str) -> None:
        assert reason
        self.pauses.append(seconds)

    async def learn_max_texts(self, max_texts: int) -> None:
        self.learnt["max_texts"] = max_texts

    async def learn_limit(self, name: str, value: int) -> None:
        self.learnt[name] = value

    async def learn_norm(self, dims: int, norm: float) -> None:
        self.learnt[f"norm of {dims}"] = norm

    async def note_estimated(self, request_id: str) -> None:
        self.estimated.add(request_id)

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Its money stays reserved until it is settled."""

    async def failed(self, request_id: str, why: str) -> None:
        """No breaker here."""

    def count(self, outcome: str) -> int:
        return sum(each == outcome for each in self.outcomes.values())


@cache
def vector(text: str) -> list[float]:
    made = np.random.default_rng(list(text.encode())).standard_normal(DIMS).astype("<f4")
    found: list[float] = (made / np.linalg.norm(made)).tolist()
    return found


def good(texts: Sequence[str], **changes: Any) -> httpx.Response:
    data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    count = sum(tokens.count_all(texts)[0])
    return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": count}, **changes})


def error(status: int, code: str, message: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": message}}, headers=headers)


def moderated(texts: list[str]) -> httpx.Response:
    if any(BAD in text for text in texts):
        return error(400, "data_inspection_failed", "Input text data may contain inappropriate content.")
    return good(texts)


def crashing(texts: list[str]) -> httpx.Response:
    return error(500, "internal_error") if any(CRASH in text for text in texts) else good(texts)


@dataclass
class Endpoint:
    """Answers by a function of the texts; keeps what was asked."""

    respond: Callable[[list[str]], httpx.Response]
    asked: list[list[str]] = field(default_factory=list)
    purse: Purse = field(default_factory=Purse)

    def handle(self, request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        self.asked.append(texts)
        return self.respond(texts)

    async def embed(
        self, texts: Sequence[str], positions: Sequence[int] | None = None, **changes: Any
    ) -> tuple[dict[int, Any], list[Answer]]:
        """Embed texts as a batch would; returns what came for each position, and the answers."""
        profile = replace(profiles.of(MODEL), **changes.pop("profile", {}))
        values = {"max_texts": profile.max_texts, "backoff_seconds": 0.0, **changes}
        found: dict[int, Any] = {}
        answers = []
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.handle), trust_env=False) as http:
            embedder = Embedder(http, MODEL, profile, self.purse, **values)
            runs = embedder.plan(texts) if positions is None else [list(positions)]
            for run in runs:
                async for outcome in embedder.embed(texts, run):
                    if isinstance(outcome, TextRefused):
                        assert outcome.position not in found
                        found[outcome.position] = outcome.reason
                        continue
                    answers.append(outcome)
                    await self.purse.spend(outcome.request_id, outcome.used_tokens)
                    for position, row in zip(outcome.positions, outcome.vectors, strict=True):
                        assert position not in found
                        found[position] = row
        return found, answers

    def run(self, texts: Sequence[str], **changes: Any) -> dict[int, Any]:
        return asyncio.run(self.embed(texts, **changes))[0]


def assert_right(found: dict[int, Any], texts: Sequence[str], refused: dict[int, str] | None = None) -> None:
    """Every position came out once: refused ones with their reason, all others with their own text's vector."""
    assert set(found) == set(range(len(texts)))
    reasons = {position: each for position, each in found.items() if isinstance(each, str)}
    assert reasons == (refused or {})
    for position, each in found.items():
        if position not in reasons:
            assert np.allclose(each, vector(texts[position].replace("\0", "")))


def test_r11_identical_texts_are_paid_for_once_and_every_row_gets_its_vector() -> None:
    texts = ["a", "b", "a", "c", "a", "b", *["a"] * 30]
    endpoint = Endpoint(good)
    found, answers = asyncio.run(endpoint.embed(texts))
    assert_right(found, texts)
    assert endpoint.asked == [["a", "b", "c"]]
    assert answers[0].positions == (0, 1, 3)
    assert [each.used_tokens > 0 for each in answers] == [True, *[False] * 4]
    assert all(len(each.positions) <= 10 for each in answers), "no transaction grows with the copies"
    assert {each.request_id for each in answers} == set(endpoint.purse.outcomes)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(words=st.lists(st.sampled_from(["a", "b", BAD, "d", "", " ", "e\0", "f" * 40]), max_size=40))
def test_r11_copies_are_refused_together_and_nothing_is_lost(words: list[str]) -> None:
    endpoint = Endpoint(moderated)
    reasons = {BAD: "content", "": "empty", " ": "empty"}
    refused = {position: reasons[word] for position, word in enumerate(words) if word in reasons}
    assert_right(endpoint.run(words), words, refused)
    sent = [text for texts in endpoint.asked for text in texts if text != BAD]
    assert all("\0" not in text and text.strip() for text in sent)
    assert endpoint.purse.open == {}


def test_r8_r11_a_nul_is_left_out_and_nothing_empty_is_sent() -> None:
    endpoint = Endpoint(good)
    texts = ["x\0y", "", "\0", " \n", "z"]
    assert_right(endpoint.run(texts), texts, {1: "empty", 2: "empty", 3: "empty"})
    assert endpoint.asked == [["xy", "z"]]
    assert Endpoint(good).run([""]) == {0: "empty"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), count=st.integers(1, 64))
def test_r19_bisection_costs_at_most_2k_log_n_and_the_rest_is_embedded(data: st.DataObject, count: int) -> None:
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=6))
    texts = [f"{BAD if number in bad else 'fine'} {number}" for number in range(count)]
    endpoint = Endpoint(moderated)
    found, _ = asyncio.run(endpoint.embed(texts, range(count), profile={"max_texts": 64}))
    assert_right(found, texts, dict.fromkeys(bad, "content"))
    assert len(endpoint.asked) - 1 <= 2 * len(bad) * math.ceil(math.log2(count))
    assert endpoint.purse.open == {}
    assert endpoint.purse.count("refunded") == sum(any(BAD in text for text in each) for each in endpoint.asked)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (error(400, "Arrearage", "Access denied, please make sure your account is in good standing."), "in arrears"),
        (httpx.Response(200, json={"code": "Arrearage", "message": "m"}), "in arrears"),
        (error(401, "InvalidApiKey"), "key refused"),
        (error(403, "AllocationQuota.FreeTierOnly"), "free quota"),
        (error(404, "ModelNotFound"), "not found"),
        (error(429, "PostpaidBillOverdue"), "bill overdue"),
        (error(400, "InvalidParameter", "contents is neither str nor list of str"), "malformed"),
        (error(302, ""), "moved elsewhere"),
    ],
)
def test_r20_what_is_no_texts_fault_stops_at_once_and_quarantines_nobody(answer: httpx.Response, why: str) -> None:
    endpoint = Endpoint(lambda _: answer)
    with pytest.raises(ProviderStopped, match=why):
        endpoint.run(["a", "b", "c"])
    assert len(endpoint.asked) == 1
    assert endpoint.purse.count("refunded") == 1


@pytest.mark.parametrize("quota", ["rate", "credit"])
def test_insufficient_quota_waits_or_stops_as_the_host_means_it(quota: str) -> None:
    answers = [error(429, "insufficient_quota", "")]
    endpoint = Endpoint(lambda texts: answers.pop() if answers else good(texts))
    if quota == "credit":
        with pytest.raises(ProviderStopped, match="out of credit"):
            endpoint.run(["a"], profile={"insufficient_quota": quota})
        return
    assert_right(endpoint.run(["a"], profile={"insufficient_quota": quota}), ["a"])
    assert endpoint.purse.pauses == [10.0]


@pytest.mark.parametrize("count", [1, 2, 7, 10])
@pytest.mark.parametrize("place", [0.0, 0.4, 0.99])
def test_one_text_that_makes_the_server_fail_is_found_and_quarantined_alone(count: int, place: float) -> None:
    culprit = int(count * place)
    texts = [f"{CRASH if number == culprit else 'fine'} {number}" for number in range(count)]
    endpoint = Endpoint(crashing)
    assert_right(endpoint.run(texts), texts, {culprit: "server_error"})
    crashes = endpoint.purse.count("possibly billed")
    assert crashes <= 2 * MAX_TRIES + math.ceil(math.log2(count))
    assert crashes == sum(any(CRASH in text for text in each) for each in endpoint.asked)
    assert ["ready"] in endpoint.asked, "another text was asked for before this one was blamed"
    assert endpoint.purse.open == {}


@pytest.mark.parametrize("count", [1, 10])
def test_an_outage_quarantines_nobody_and_costs_one_request_more(count: int) -> None:
    endpoint = Endpoint(lambda _: error(500, "internal_error"))
    with pytest.raises(ProviderBusy, match="provider failed"):
        endpoint.run([f"text {number}" for number in range(count)])
    assert len(endpoint.asked) == MAX_TRIES + 1


def test_an_outage_that_begins_while_a_text_is_sought_quarantines_nobody() -> None:
    endpoint = Endpoint(good)

    def respond(texts: list[str]) -> httpx.Response:
        return error(500, "") if len(endpoint.asked) > MAX_TRIES + 1 else crashing(texts)

    endpoint.respond = respond
    with pytest.raises(ProviderBusy):
        endpoint.run([f"{CRASH} 1", "fine 2", "fine 3", "fine 4"])


@pytest.mark.parametrize("status", [408, 409, 502, 503, 504])
def test_a_gateways_failure_is_never_one_texts_fault(status: int) -> None:
    endpoint = Endpoint(lambda _: error(status, ""))
    with pytest.raises(ProviderBusy):
        endpoint.run(["alone"])
    assert endpoint.asked == [["alone"]] * MAX_TRIES
    assert endpoint.purse.count("refunded" if status == 503 else "possibly billed") == MAX_TRIES


def test_a_throttle_never_quarantines_and_ends_although_it_says_to_wait_for_nothing() -> None:
    endpoint = Endpoint(lambda _: error(429, "limit_requests", **{"retry-after": "0"}))
    with pytest.raises(ProviderBusy, match="requests per minute exceeded"):
        endpoint.run(["alone"])
    assert 10 < len(endpoint.asked) < 100
    assert endpoint.purse.count("refunded") == len(endpoint.asked)
    assert len(endpoint.purse.pauses) == len(endpoint.asked)


def test_r22_a_throttle_is_waited_out_for_two_minutes() -> None:
    endpoint = Endpoint(lambda _: error(429, "limit_requests", **{"retry-after": "25"}))
    with pytest.raises(ProviderBusy):
        endpoint.run(["alone"])
    assert sum(endpoint.purse.pauses) >= 120


def test_r22_a_wait_that_an_overloaded_provider_names_holds_for_everybody() -> None:
    answers = [error(503, "", **{"retry-after": "3"}), error(503, "")]
    endpoint = Endpoint(lambda texts: answers.pop(0) if answers else good(texts))
    assert_right(endpoint.run(["a"]), ["a"])
    assert endpoint.purse.pauses == [3.0]


def test_r22_a_provider_that_says_not_to_try_again_is_not_asked_again() -> None:
    endpoint = Endpoint(lambda _: error(503, "", **{"x-should-retry": "false"}))
    with pytest.raises(ProviderBusy):
        endpoint.run(["a"])
    assert len(endpoint.asked) == 1


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
    with pytest.raises(ProviderStopped, match=r"0\.5 long, and this model's were 1") as caught:
        endpoint.run(texts)
    assert 'norm = "any"' in str(caught.value)
    assert endpoint.purse.learnt == {f"norm of {DIMS}": 1.0}
    outcomes = list(endpoint.purse.outcomes.values())
    assert len(outcomes) > 1, outcomes
    assert all(isinstance(each, int) or each[0] == "lost" for each in outcomes), "it was billed, so it is booked"


def test_r14_a_norm_that_is_known_from_earlier_holds_from_the_first_answer_on() -> None:
    with pytest.raises(ProviderStopped, match=r"0\.5 long"):
        Endpoint(shorter).run(["a", "b"], norm=1.0)
    assert set(Endpoint(shorter).run(["a", "b"], norm=1.0, profile={"norm": "any"})) == {0, 1}
    assert set(Endpoint(shorter).run(["a", "b"], norm=norms.VARIES)) == {0, 1}


def test_one_unbelievable_answer_is_asked_for_again_two_stop() -> None:
    endpoint = Endpoint(good)
    endpoint.respond = lambda texts: good(texts[1:]) if len(endpoint.asked) == 1 else good(texts)
    assert_right(endpoint.run(["a", "b"]), ["a", "b"])
    endpoint = Endpoint(lambda texts: good(texts[1:]))
    with pytest.raises(ProviderStopped, match="1 vectors came for 2 texts"):
        endpoint.run(["a", "b"])
    assert len(endpoint.asked) == 2


def test_r16_another_models_name_stops_unless_the_spec_knows_better() -> None:
    def renamed(texts: list[str]) -> httpx.Response:
        return good(texts, model="text-embedding-v3")

    with pytest.raises(ProviderStopped, match="model_echo"):
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
