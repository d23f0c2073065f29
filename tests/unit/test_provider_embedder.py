"""The loop: what is asked, how often, what is blamed, what is paid; against an endpoint of the test's own."""

from __future__ import annotations

import asyncio
import math

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.provider.embedder import MAX_TRIES
from migrator.provider.giving_up import ProviderBusy, ProviderStopped
from tests.unit.endpoint import BAD, CRASH, Endpoint, assert_right, crashing, error, good, moderated


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
