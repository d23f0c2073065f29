"""The error catalogue, row by row: each answer that is known of, in every spelling, and what is done about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email.utils import formatdate
from time import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrator.provider import catalogue
from migrator.provider.catalogue import Action, Refusal, rules, understand

A, R = Action, "rejected"
CANARY = "canary-row-text"


def nested(code: str, message: str) -> bytes:
    """The shape of the compatible mode."""
    return json.dumps({"error": {"message": message, "type": code, "param": None, "code": code}, "id": "1"}).encode()


def flat(code: str, message: str) -> bytes:
    """The native shape."""
    return json.dumps({"request_id": "1", "code": code, "message": message}).encode()


BATCH = "Value error, batch size is invalid, it should not be larger than 10.: input.contents"
LENGTH = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
TOO_LONG = "This model's maximum context length is 8192 tokens, however you requested 9001 tokens"

#: (status, code, message, rule, action, a disposition's reason). Every row is tried in both shapes.
ANSWERS: list[tuple[int, str, str, str, Action, str]] = [
    (400, "Arrearage", "Access denied, your account is in good standing", "account in arrears", A.STOP, R),
    (403, "arrearage", "", "account in arrears", A.STOP, R),
    (429, "PrepaidBillOverdue", "", "bill overdue", A.STOP, R),
    (429, "PostpaidBillOverdue", "", "bill overdue", A.STOP, R),
    (429, "CommodityNotPurchased", "", "bill overdue", A.STOP, R),
    (403, "AllocationQuota.FreeTierOnly", "", "free quota used up", A.STOP, R),
    (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", "free quota used up", A.STOP, R),
    (429, "insufficient_quota", "please check your plan and billing details", "out of credit", A.STOP, R),
    (400, "InvalidParameter", BATCH, "batch too large", A.SHRINK, R),
    (422, "Validation", "batch size 40 > maximum allowed batch size 32", "batch too large", A.SHRINK, R),
    (400, "InvalidParameter", LENGTH, "text too long or empty", A.BISECT, "too_long"),
    (400, "context_length_exceeded", TOO_LONG, "text too long", A.BISECT, "too_long"),
    (422, "Validation", "`inputs` must have less than 512 tokens. Given: 1000", "text too long", A.BISECT, "too_long"),
    (413, "Validation", "the input is too long", "text too long", A.BISECT, "too_long"),
    (400, "DataInspectionFailed", "may contain inappropriate content", "content refused", A.BISECT, "content"),
    (400, "data_inspection_failed", "may contain inappropriate content", "content refused", A.BISECT, "content"),
    (400, "CustomRoleBlocked", "", "content refused", A.BISECT, "content"),
    (400, "FaqRuleBlocked", "", "content refused", A.BISECT, "content"),
    (400, "IPInfringementSuspect", "", "content refused", A.BISECT, "content"),
    (413, "", "Payload Too Large", "payload too large", A.BISECT, "too_long"),
    (401, "InvalidApiKey", "Invalid API-key provided.", "key refused", A.STOP, R),
    (401, "invalid_api_key", "Incorrect API key provided.", "key refused", A.STOP, R),
    (402, "", "Insufficient credits", "out of credit", A.STOP, R),
    (403, "AccessDenied.Unpurchased", "", "access denied", A.STOP, R),
    (403, "Model.AccessDenied", "", "access denied", A.STOP, R),
    (404, "ModelNotFound", "", "model or endpoint not found", A.STOP, R),
    (404, "model_not_supported", "", "model or endpoint not found", A.STOP, R),
    (410, "", "Gone", "model or endpoint not found", A.STOP, R),
    (301, "", "", "moved elsewhere", A.STOP, R),
    (308, "", "", "moved elsewhere", A.STOP, R),
    (400, "InvalidParameter", "Model not exist.", "model does not exist", A.STOP, R),
    (400, "", "Model m does not support matryoshka representation", "model does not exist", A.STOP, R),
    (429, "Throttling.BurstRate", "", "rate increased too quickly", A.THROTTLE, R),
    (429, "limit_burst_rate", "", "rate increased too quickly", A.THROTTLE, R),
    (429, "Throttling.AllocationQuota", "Allocated quota exceeded", "tokens per minute exceeded", A.THROTTLE, R),
    (429, "insufficient_quota", "Allocated quota exceeded", "tokens per minute exceeded", A.THROTTLE, R),
    (429, "Throttling.RateQuota", "", "requests per minute exceeded", A.THROTTLE, R),
    (429, "LimitRequests", "", "requests per minute exceeded", A.THROTTLE, R),
    (429, "limit_requests", "", "requests per minute exceeded", A.THROTTLE, R),
    (429, "Throttling", "Too many requests in route", "too many requests", A.THROTTLE, R),
    (429, "", "", "too many requests", A.THROTTLE, R),
    (400, "InvalidParameter", "contents is neither str nor list of str", "request refused as malformed", A.DEFECT, R),
    (400, "BadRequest.EmptyInput", "", "request refused as malformed", A.DEFECT, R),
    (422, "Validation", "unknown field", "request refused as malformed", A.DEFECT, R),
    (503, "ServiceUnavailable", "", "provider overloaded", A.RETRY, R),
    (424, "Backend", "", "provider overloaded", A.RETRY, R),
    (500, "InternalError", "", "provider failed", A.RETRY, R),
    (502, "", "", "provider failed", A.RETRY, R),
    (504, "GatewayTimeout", "", "provider failed", A.RETRY, R),
    (408, "RequestTimeOut", "", "provider failed", A.RETRY, R),
]  # fmt: skip


def bodies() -> Iterator[tuple[int, bytes, str, Action, str]]:
    for status, code, message, name, action, reason in ANSWERS:
        yield status, nested(code, message), name, action, reason
        yield status, flat(code, message), name, action, reason


@pytest.mark.parametrize(("status", "body", "name", "action", "reason"), list(bodies()))
def test_r18_every_known_answer_is_understood(status: int, body: bytes, name: str, action: Action, reason: str) -> None:
    found = understand(status, body, {})
    assert (found.name, found.action, found.reason, found.status) == (name, action, reason, status)
    assert found.hint
    assert found.wait_seconds > 0


def test_every_row_of_the_catalogue_is_reached() -> None:
    """A row that no answer reaches stands behind another one, or describes nothing."""
    reached = set()
    for status, body, *_ in bodies():
        code, message = catalogue._code_and_message(body)
        reached.add(next(number for number, rule in enumerate(rules()) if rule.fits(status, code, message)))
    assert [rule.name for number, rule in enumerate(rules()) if number not in reached] == []


def test_r19_only_whitelisted_kinds_may_start_a_bisection() -> None:
    """A bisection of what is no text's fault would quarantine every row of a batch (R20)."""
    kinds = {rule.name: set(rule.status) for rule in rules() if rule.action is A.BISECT}
    assert set(kinds) == {"text too long or empty", "text too long", "content refused", "payload too large"}
    assert set.union(*kinds.values()) <= {400, 413, 422}
    assert all(rule.reason in {"too_long", "content"} for rule in rules() if rule.action is A.BISECT)
    assert all(rule.codes or rule.words or rule.status == (413,) for rule in rules() if rule.action is A.BISECT)


@pytest.mark.parametrize("shape", [nested, flat])
@pytest.mark.parametrize(
    ("code", "message", "action"),
    [
        ("Arrearage", "Access denied", A.STOP),
        ("Throttling.RateQuota", "Requests rate limit exceeded", A.THROTTLE),
        ("limit_requests", "You exceeded your current requests list", A.THROTTLE),
        ("InvalidParameter", BATCH, A.SHRINK),
        ("InvalidParameter", LENGTH, A.BISECT),
        ("data_inspection_failed", "", A.BISECT),
    ],
)
def test_r15_a_business_error_under_status_200(shape: Any, code: str, message: str, action: Action) -> None:
    found = understand(200, shape(code, message), {})
    assert (found.action, found.status) == (action, 200)


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (nested("InvalidParameter", BATCH), 10),
        (b'{"message": "batch size 40 > maximum allowed batch size 32", "code": 422, "type": "Validation"}', 32),
        (b'{"error": "batch size 40 > maximum allowed batch size 8"}', 8),
    ],
)
def test_r7_the_limit_that_the_provider_names_is_learnt(body: bytes, limit: int) -> None:
    assert understand(422, body, {}).max_texts == limit
    assert understand(500, body, {}).max_texts is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad Gateway</html>", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"error": null}']
)
@pytest.mark.parametrize(
    ("status", "action"),
    [(500, A.RETRY), (502, A.RETRY), (503, A.RETRY), (520, A.RETRY), (401, A.STOP), (429, A.THROTTLE), (400, A.DEFECT)],
)  # fmt: skip
def test_a_body_that_says_nothing_is_judged_by_its_status(body: bytes, status: int, action: Action) -> None:
    assert understand(status, body, {}).action is action


def test_what_is_not_in_the_catalogue_is_treated_with_care() -> None:
    """Never a bisection, never as if it had cost nothing."""
    for status in (418, 451, 499):
        assert (understand(status, b"", {}).action, understand(status, b"", {}).lost) == (A.STOP, True)
    for status in (501, 520, 524, 599):
        assert (understand(status, b"", {}).action, understand(status, b"", {}).lost) == (A.RETRY, True)


def test_r24_only_a_refusal_that_surely_cost_nothing_gives_the_money_back() -> None:
    lost = {rule.name for rule in rules() if rule.lost}
    assert lost == {"provider failed"}
    assert not any(rule.lost for rule in rules() if set(rule.status) <= {400, 401, 402, 403, 404, 413, 422, 429})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, 5.0),
        ({"retry-after": "-3"}, 5.0),
        ({}, 5.0),
    ],
)
def test_r22_the_wait_is_the_providers_or_the_catalogues(headers: dict[str, str], seconds: float) -> None:
    assert understand(429, b"{}", headers).wait_seconds == seconds


def test_r22_the_wait_may_be_a_date() -> None:
    assert 28 <= understand(429, b"{}", {"retry-after": formatdate(time() + 30, usegmt=True)}).wait_seconds <= 30
    assert understand(429, b"{}", {"retry-after": formatdate(time() - 30, usegmt=True)}).wait_seconds == 0


def words_of(refusal: Refusal) -> str:
    return f"{refusal} {refusal!r}"


@pytest.mark.parametrize("status", [200, 400, 401, 413, 422, 429, 500, 599])
@pytest.mark.parametrize("shape", [nested, flat])
def test_p11_a_message_that_quotes_the_text_is_not_shown(shape: Any, status: int) -> None:
    for code in ("InvalidParameter", f"about {CANARY}"):
        assert CANARY not in words_of(understand(status, shape(code, f"the text '{CANARY}' was refused"), {}))
    assert CANARY not in words_of(understand(status, f"<p>{CANARY}</p>".encode(), {}))
    assert str(understand(status, shape("InvalidParameter", CANARY), {})).endswith(f"(HTTP {status} InvalidParameter)")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "code", "message"]), inner),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    status=st.integers(200, 599),
    body=st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode()),
    wait=st.none() | st.text(max_size=10),
)
def test_no_answer_is_too_strange(status: int, body: bytes, wait: str | None) -> None:
    found = understand(status, body, {} if wait is None else {"retry-after": wait})
    assert found.action in Action
    assert found.wait_seconds >= 0
    assert found.status == status
    # Without a code or words that name a text as the reason, nothing is bisected.
    assert found.action is not A.BISECT or found.reason in {"too_long", "content"}
