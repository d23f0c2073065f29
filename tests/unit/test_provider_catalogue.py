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


def numbered(status: int, kind: str, message: str) -> bytes:
    """The flat shape of text-embeddings-inference and vLLM: the status as `code`, the kind as `type`."""
    return json.dumps({"object": "error", "message": message, "type": kind, "param": None, "code": status}).encode()


def in_words(message: str) -> bytes:
    """Ollama's own route: the error is a sentence."""
    return json.dumps({"error": message}).encode()


BATCH = "Value error, batch size is invalid, it should not be larger than 10.: input.contents"
LENGTH = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
TOO_LONG = "This model's maximum context length is 8192 tokens, however you requested 9001 tokens"

STANDING = "Access denied, please make sure your account is in good standing."
RPM = "You exceeded your current requests list."
QUOTA = "Allocated quota exceeded, please increase your quota limit."
PLAN = "You exceeded your current quota, please check your plan and billing details."
MANY = "Invalid 'input': array too long. Expected an array with maximum length 2048, but got an array with length 3000"
HEAVY = "Requested 313217 tokens, max 300000 tokens per request"

#: (status, code, message, rule, action, a disposition's reason). Every row is tried in all shapes.
ANSWERS: list[tuple[int, str, str, str, Action, str]] = [
    (400, "Arrearage", STANDING, "account in arrears", A.STOP, R),
    (403, "arrearage", "", "account in arrears", A.STOP, R),
    (400, "InvalidParameter", f"DashscopeException - Arrearage: {STANDING}", "account in arrears", A.STOP, R),
    (429, "PrepaidBillOverdue", "", "bill overdue", A.STOP, R),
    (429, "PostpaidBillOverdue", "", "bill overdue", A.STOP, R),
    (429, "CommodityNotPurchased", "", "bill overdue", A.STOP, R),
    (403, "AllocationQuota.FreeTierOnly", "", "free quota used up", A.STOP, R),
    (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", "free quota used up", A.STOP, R),
    (429, "insufficient_quota", "Free allocated quota exceeded.", "free quota used up", A.STOP, R),
    (429, "insufficient_quota", PLAN, "out of credit", A.STOP, R),
    (402, "", "Insufficient credits", "out of credit", A.STOP, R),
    (400, "InvalidParameter", BATCH, "batch too large", A.SHRINK, R),
    (400, "array_above_max_length", MANY, "batch too large", A.SHRINK, R),
    (422, "Validation", "batch size 40 > maximum allowed batch size 32", "batch too large", A.SHRINK, R),
    (413, "Validation", "batch size 40 > maximum allowed batch size 32", "batch too large", A.SHRINK, R),
    (400, "max_tokens_per_request", HEAVY, "too many tokens in one request", A.SHRINK, "too_long"),
    (400, "InvalidParameter", LENGTH, "text too long or empty", A.BISECT, "too_long"),
    (400, "context_length_exceeded", TOO_LONG, "text too long", A.BISECT, "too_long"),
    (400, "BadRequestError", TOO_LONG, "text too long", A.BISECT, "too_long"),
    (400, "", "the input length exceeds the context length", "text too long", A.BISECT, "too_long"),
    (422, "Validation", "`inputs` must have less than 512 tokens. Given: 1000", "text too long", A.BISECT, "too_long"),
    (413, "Validation", "`inputs` must have less than 512 tokens. Given: 1000", "text too long", A.BISECT, "too_long"),
    (413, "Validation", "the input is too long", "text too long", A.BISECT, "too_long"),
    (400, "DataInspectionFailed", "may contain inappropriate content", "content refused", A.BISECT, "content"),
    (400, "data_inspection_failed", "may contain inappropriate content", "content refused", A.BISECT, "content"),
    (400, "bad_request", "Input text data may contain inappropriate content.", "content refused", A.BISECT, "content"),
    (400, "CustomRoleBlocked", "", "content refused", A.BISECT, "content"),
    (400, "FaqRuleBlocked", "", "content refused", A.BISECT, "content"),
    (400, "IPInfringementSuspect", "", "content refused", A.BISECT, "content"),
    (422, "Tokenizer", "Tokenizer error: can't encode", "text not tokenizable", A.BISECT, R),
    (413, "", "Payload Too Large", "payload too large", A.BISECT, "too_long"),
    (400, "BadRequest.TooLarge", "Payload Too Large", "payload too large", A.BISECT, "too_long"),
    (401, "InvalidApiKey", "Invalid API-key provided.", "key refused", A.STOP, R),
    (401, "invalid_api_key", "Incorrect API key provided.", "key refused", A.STOP, R),
    (401, "", "NOT AUTHORIZED", "key refused", A.STOP, R),
    (401, "", "token expired", "key refused", A.STOP, R),
    (400, "InvalidApiKey", "", "key refused", A.STOP, R),
    (403, "AccessDenied", "", "access denied", A.STOP, R),
    (403, "AccessDenied.Unpurchased", "", "access denied", A.STOP, R),
    (403, "Model.AccessDenied", "", "access denied", A.STOP, R),
    (403, "Workspace.AccessDenied", "", "access denied", A.STOP, R),
    (403, "", "", "access denied", A.STOP, R),
    (404, "ModelNotFound", "", "model or endpoint not found", A.STOP, R),
    (404, "model_not_found", "", "model or endpoint not found", A.STOP, R),
    (404, "model_not_supported", "", "model or endpoint not found", A.STOP, R),
    (400, "model_not_supported", "", "model or endpoint not found", A.STOP, R),
    (404, "NotFound", "", "model or endpoint not found", A.STOP, R),
    (404, "", "model 'x' not found, try pulling it first", "model or endpoint not found", A.STOP, R),
    (404, "NotFoundError", "The model `x` does not exist.", "model or endpoint not found", A.STOP, R),
    (410, "", "Gone", "model or endpoint not found", A.STOP, R),
    (301, "", "", "moved elsewhere", A.STOP, R),
    (302, "", "", "moved elsewhere", A.STOP, R),
    (308, "", "", "moved elsewhere", A.STOP, R),
    (400, "InvalidParameter", "Model not exist.", "model does not exist", A.STOP, R),
    (400, "", "Model m does not support matryoshka representation", "dimensions refused", A.STOP, R),
    (400, "InvalidParameter", "Value error, invalid dimensions: 777", "parameter refused", A.STOP, R),
    (400, "InvalidParameter", "text_type must be one of query, document", "parameter refused", A.STOP, R),
    (400, "InvalidParameter", "encoding_format base64 is not supported", "parameter refused", A.STOP, R),
    (429, "Throttling.BurstRate", "", "rate increased too quickly", A.THROTTLE, R),
    (429, "limit_burst_rate", "Request rate increased too quickly", "rate increased too quickly", A.THROTTLE, R),
    (429, "Throttling.AllocationQuota", QUOTA, "tokens per minute exceeded", A.THROTTLE, R),
    (429, "insufficient_quota", QUOTA, "tokens per minute exceeded", A.THROTTLE, R),
    (429, "insufficient_quota", "", "tokens per minute exceeded", A.THROTTLE, R),
    (429, "Throttling.RateQuota", "Requests rate limit exceeded", "requests per minute exceeded", A.THROTTLE, R),
    (429, "LimitRequests", RPM, "requests per minute exceeded", A.THROTTLE, R),
    (429, "limit_requests", RPM, "requests per minute exceeded", A.THROTTLE, R),
    (429, "Throttling", "Too many requests in route", "too many requests", A.THROTTLE, R),
    (429, "Overloaded", "Model is overloaded", "too many requests", A.THROTTLE, R),
    (429, "", "", "too many requests", A.THROTTLE, R),
    (400, "Throttling.AllocationQuota", "vocabularies", "resource quota used up", A.STOP, R),
    (400, "InvalidParameter", "contents is neither str nor list of str", "request refused as malformed", A.DEFECT, R),
    (400, "BadRequest.EmptyInput", "", "request refused as malformed", A.DEFECT, R),
    (400, "BadRequest.EmptyModel", "", "request refused as malformed", A.DEFECT, R),
    (400, "BadRequest.IllegalInput", "", "request refused as malformed", A.DEFECT, R),
    (400, "invalid_request_error", "you must provide a model parameter", "request refused as malformed", A.DEFECT, R),
    (400, "", "invalid input", "request refused as malformed", A.DEFECT, R),
    (400, "Empty", "`inputs` cannot be empty", "request refused as malformed", A.DEFECT, R),
    (422, "Validation", "unknown field", "request refused as malformed", A.DEFECT, R),
    (503, "ServiceUnavailable", "", "provider overloaded", A.RETRY, R),
    (503, "Unhealthy", "", "provider overloaded", A.RETRY, R),
    (503, "", "server busy, please try again. maximum pending requests exceeded", "provider overloaded", A.RETRY, R),
    (424, "Backend", "", "provider overloaded", A.RETRY, R),
    (500, "InternalError", "", "provider failed", A.RETRY, R),
    (500, "internal_error", "An internal error has occured", "provider failed", A.RETRY, R),
    (500, "", "do embedding request: EOF", "provider failed", A.RETRY, R),
    (502, "", "", "provider failed", A.RETRY, R),
    (409, "", "", "provider failed", A.RETRY, R),
    (504, "GatewayTimeout", "", "provider timed out", A.RETRY, R),
    (408, "RequestTimeOut", "", "provider timed out", A.RETRY, R),
]  # fmt: skip


def bodies() -> Iterator[tuple[int, bytes, str, Action, str]]:
    """Every answer in every shape that can carry it."""
    for status, code, message, *rest in ANSWERS:
        shapes = [nested(code, message), flat(code, message), numbered(status, code, message)]
        if not code:
            shapes.append(in_words(message))
        for body in shapes:
            yield status, body, *rest


@pytest.mark.parametrize(("status", "body", "name", "action", "reason"), list(bodies()))
def test_r18_every_known_answer_is_understood(status: int, body: bytes, name: str, action: Action, reason: str) -> None:
    found = understand(status, body, {})
    assert (found.name, found.action, found.reason, found.status) == (name, action, reason, status)
    assert found.hint
    assert found.wait_seconds > 0


#: Codes that mean nothing without their status or their message: under 200 they are no news.
VAGUE = {"InvalidParameter", "Validation", "BadRequestError", "NotFoundError", "Backend", "bad_request"}
UNDER_200 = [
    (shape(code, message), name, action)
    for _, code, message, name, action, _ in ANSWERS
    for shape in (nested, flat)
    if code and (code not in VAGUE or action in {A.SHRINK, A.BISECT}) and "vocabularies" not in message
]


@pytest.mark.parametrize(("body", "name", "action"), UNDER_200)
def test_r15_every_error_with_a_code_is_understood_under_status_200(body: bytes, name: str, action: Action) -> None:
    found = understand(200, body, {})
    assert (found.name, found.action, found.status) == (name, action, 200)


@pytest.mark.parametrize("status", [401, 402, 404, 429, 500, 502, 503])
def test_r15_a_status_inside_a_success_is_taken_at_its_word(status: int) -> None:
    """Gateways answer 200 and put the upstream's status into the body."""
    expected = understand(status, b"{}", {})
    for body in ({"error": {"code": status, "message": "x"}}, {"code": str(status), "message": "x"}):
        found = understand(200, json.dumps(body).encode(), {})
        assert (found.name, found.action) == (expected.name, expected.action)


@pytest.mark.parametrize("number", [400, "400", None, ""])
def test_r18_a_number_for_a_code_does_not_hide_the_kind(number: Any) -> None:
    """Gateways repeat the HTTP status as `code`, and the upstream's code is only the `type`."""
    body = json.dumps({"error": {"code": number, "type": "data_inspection_failed", "message": ""}}).encode()
    found = understand(400, body, {})
    assert (found.action, found.code) == (A.BISECT, "data_inspection_failed")


def test_r15_an_unknown_error_under_status_200_is_tried_again_and_blames_no_text() -> None:
    for body in (nested("Strange", "m"), flat("InvalidParameter", "m"), b"{}"):
        found = understand(200, body, {})
        assert (found.action, found.lost) == (A.RETRY, True)


def test_every_row_of_the_catalogue_is_reached() -> None:
    """A row that no answer reaches stands behind another one, or describes nothing."""
    asked = [(status, body, quota) for status, body, *_ in bodies() for quota in ("rate", "credit")]
    asked += [(200, body, "rate") for body, *_ in UNDER_200]
    reached = set()
    for status, body, quota in asked:
        code, message, _ = catalogue._read(body)
        fitting = (number for number, rule in enumerate(rules()) if rule.fits(status, code, message, quota))
        reached.add(next(fitting))
    assert [(number, rule.name) for number, rule in enumerate(rules()) if number not in reached] == []


def test_r19_only_whitelisted_kinds_may_start_a_bisection() -> None:
    """A bisection of what is no text's fault would quarantine every row of a batch (R20)."""
    kinds = {rule.name: set(rule.status) for rule in rules() if rule.action is A.BISECT}
    texts = {"text too long or empty", "text too long", "text not tokenizable"}
    assert set(kinds) == texts | {"content refused", "payload too large"}
    assert set.union(*kinds.values()) <= {400, 413, 422}
    assert all(rule.codes or rule.words or rule.status == (413,) for rule in rules() if rule.action is A.BISECT)


@pytest.mark.parametrize("status", [200, 400, 402, 403, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("shape", [nested, flat])
def test_r20_an_empty_account_never_starts_a_bisection(shape: Any, status: int) -> None:
    for code, message in (("Arrearage", STANDING), ("Arrearage", ""), ("Arrearage", LENGTH), ("x", STANDING)):
        assert understand(status, shape(code, message), {}).action is A.STOP
    assert understand(status, shape("Arrearage", BATCH), {}).action is A.STOP


@pytest.mark.parametrize(
    ("quota", "message", "action"),
    [
        ("rate", QUOTA, A.THROTTLE),
        ("credit", QUOTA, A.THROTTLE),
        ("rate", PLAN, A.STOP),
        ("credit", PLAN, A.STOP),
        ("rate", "", A.THROTTLE),
        ("credit", "", A.STOP),
        ("rate", "insufficient_quota", A.THROTTLE),
        ("credit", "insufficient_quota", A.STOP),
    ],
)
def test_insufficient_quota_is_decided_by_its_message_and_then_by_the_host(
    quota: str, message: str, action: Action
) -> None:
    assert understand(429, nested("insufficient_quota", message), {}, quota=quota).action is action


@pytest.mark.parametrize(
    ("body", "limits"),
    [
        (nested("InvalidParameter", BATCH), (10, None, None)),
        (nested("InvalidParameter", BATCH.replace("10", "20")), (20, None, None)),
        (nested("array_above_max_length", MANY), (2048, None, None)),
        (numbered(422, "Validation", "batch size 40 > maximum allowed batch size 32"), (32, None, None)),
        (in_words("batch size 40 > maximum allowed batch size 8"), (8, None, None)),
        (nested("InvalidParameter", LENGTH), (None, 8192, None)),
        (nested("context_length_exceeded", TOO_LONG), (None, 8192, None)),
        (nested("x", "Invalid 'input[0]': maximum input length is 8192 tokens."), (None, 8192, None)),
        (numbered(422, "Validation", "`inputs` must have less than 512 tokens. Given: 1000"), (None, 512, None)),
        (nested("max_tokens_per_request", HEAVY), (None, None, 300_000)),
        (nested("x", "Invalid 'input': maximum request size is 300000 tokens per request."), (None, None, 300_000)),
        (nested("InvalidParameter", BATCH.replace("10", "0")), (None, None, None)),
        (nested("InvalidParameter", BATCH.replace("10", "9" * 5000)), (9_999_999, None, None)),
    ],
)
def test_r7_the_limit_that_the_provider_names_is_learnt(body: bytes, limits: tuple[int | None, ...]) -> None:
    found = understand(400, body, {})
    assert (found.max_texts, found.max_text_tokens, found.max_request_tokens) == limits
    away = understand(500, body, {})
    assert (away.max_texts, away.max_text_tokens, away.max_request_tokens) == (None, None, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Bad Gateway</html>", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"error": null}', b"[" * 100_000],
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
    assert lost == {"provider failed", "provider timed out"}
    assert not any(rule.lost for rule in rules() if set(rule.status) <= {400, 401, 402, 403, 404, 413, 422, 429})


def test_only_a_servers_own_failure_may_be_one_texts_fault() -> None:
    """Not a throttle, not a gateway, not a time-out: those say nothing about a text."""
    assert {status for rule in rules() if rule.crash for status in rule.status} == {500}


@pytest.mark.parametrize(
    ("headers", "seconds", "theirs"),
    [
        ({"retry-after": "7"}, 7.0, True),
        ({"retry-after": "1.5"}, 1.5, True),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25, True),
        ({"retry-after": "soon"}, 5.0, False),
        ({"retry-after": "-3"}, 5.0, False),
        ({"retry-after": "999999999999"}, catalogue.LONGEST_WAIT_SECONDS, True),
        ({"retry-after": "9" * 400}, 5.0, False),
        ({"retry-after-ms": "999999999999"}, catalogue.LONGEST_WAIT_SECONDS, True),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, catalogue.LONGEST_WAIT_SECONDS, True),
        ({}, 5.0, False),
    ],
)
def test_r22_the_wait_is_the_providers_or_the_catalogues(
    headers: dict[str, str],
    seconds: float,
    theirs: bool,  # noqa: FBT001
) -> None:
    found = understand(429, b"{}", headers)
    assert (found.wait_seconds, found.wait_is_theirs) == (seconds, theirs)


def test_r22_the_wait_may_be_a_date() -> None:
    assert 28 <= understand(429, b"{}", {"retry-after": formatdate(time() + 30, usegmt=True)}).wait_seconds <= 30
    assert understand(429, b"{}", {"retry-after": formatdate(time() - 30, usegmt=True)}).wait_seconds == 0


@pytest.mark.parametrize(("said", "again"), [("true", True), ("False", False), ("maybe", None), (None, None)])
def test_r22_the_provider_may_say_whether_to_try_again(said: str | None, again: bool | None) -> None:  # noqa: FBT001
    assert understand(503, b"{}", {} if said is None else {"x-should-retry": said}).again is again


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
    assert found.action is not A.BISECT or status == 413
