"""The provider simulator over real HTTP: what it refuses, what it breaks, what it bills, and that both say the same."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from migrator.demo.simulator.account import digest
from migrator.demo.simulator.app import CRASH, NATIVE_PATH, POISON
from migrator.demo.simulator.control import Simulator, SwitchRefused
from migrator.demo.simulator.faults import LOST, REFUSED, SPOILT, WASTED
from migrator.provider import tokens

V3, V4 = "text-embedding-v3", "text-embedding-v4"
KEY = {"Authorization": "Bearer sk-test"}


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    """An application's plain client; it knows nothing of ours."""
    with httpx.Client(base_url=simulator.base_url, headers=KEY, timeout=5) as made:
        yield made


def ask(http: httpx.Client, *texts: str, model: str = V4, dims: int | None = 64, **more: Any) -> httpx.Response:
    body = {"model": model, "input": list(texts), **({"dimensions": dims} if dims else {}), **more}
    return http.post("/embeddings", json=body)


def vectors(answer: httpx.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    data = sorted(answer.json()["data"], key=lambda entry: entry["index"])
    return np.array([entry["embedding"] for entry in data])


def error(answer: httpx.Response) -> tuple[int, str, str]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["message"]


# 1. Surface, keys, names


def test_7_1_a_key_is_asked_for_and_paths_are_what_they_are(http: httpx.Client, simulator: Simulator) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Basic x"}):
        answer = http.post("/embeddings", json={"model": V4, "input": "a"}, headers=headers)
        assert error(answer)[:2] == (401, "invalid_api_key")
    simulator.admin(keys=["another"])
    assert error(ask(http, "a"))[:2] == (401, "invalid_api_key")
    simulator.admin(keys=None)
    for model in (V4, f"qwen/{V4}"):
        answer = ask(http, "a", model=model)
        assert (answer.status_code, answer.json()["model"]) == (200, model)
    assert error(ask(http, "a", model="text-embedding-v9"))[:2] == (404, "model_not_found")
    chat = http.post("/chat/completions", json={"model": V4, "messages": []})
    assert error(chat)[:2] == (404, "NotFound")
    assert simulator.ledger()["requests"] == 2, "what was refused was not billed"


# 2. Models


def test_7_2_two_generations_of_one_size_share_nothing(http: httpx.Client) -> None:
    texts = [f"alpha beta gamma {number}" for number in range(10)]
    old, new = (vectors(ask(http, *texts, model=model, dims=None)) for model in (V3, V4))
    assert old.shape == new.shape == (10, 1024), "both default to 1024: a mixed column raises no error"
    assert np.allclose(np.linalg.norm(new, axis=1), 1, atol=1e-5)
    assert np.abs(np.sum(old * new, axis=1)).max() < 0.2
    assert (new @ new.T).min() > 0.5, "texts that share words are near"
    short = vectors(ask(http, *texts, dims=256))
    cut = new[:, :256] / np.linalg.norm(new[:, :256], axis=1, keepdims=True)
    assert np.allclose(short, cut, atol=1e-5), "fewer dimensions are the first ones, made unit again"


def test_7_2_regions_differ_in_the_old_models_dimensions(http: httpx.Client, simulator: Simulator) -> None:
    assert error(ask(http, "a", model=V3, dims=2048))[:2] == (400, "InvalidParameter")
    assert ask(http, "a", model=V3, dims=256).status_code == 200
    simulator.admin(region="singapore")
    assert error(ask(http, "a", model=V3, dims=256))[:2] == (400, "InvalidParameter")
    assert ask(http, "a", model=V3, dims=512).status_code == ask(http, "a", dims=256).status_code == 200


# 3. Limits of a request


@pytest.mark.parametrize("cap", [6, 10, 20, 25, 32])
def test_7_3_one_text_too_many_refuses_all_in_the_exact_words(
    http: httpx.Client, simulator: Simulator, cap: int
) -> None:
    simulator.admin(max_texts=cap)
    assert ask(http, *["a"] * cap).status_code == 200
    status, code, message = error(ask(http, *["a"] * (cap + 1)))
    assert (status, code) == (400, "InvalidParameter")
    assert message == (
        "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than "
        f"{cap}.: input.contents"
    )


def test_7_3_and_7_8_too_long_empty_and_token_ids(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(max_text_tokens=20, max_request_tokens=33)
    for texts in (["fine", "word " * 40], ["fine", ""]):
        assert error(ask(http, *texts))[2].endswith("Range of input length should be [1, 20]")
    assert error(ask(http, *["word word word word word word word word"] * 5))[2].endswith("[1, 33]")
    for given in ([1, 2, 3], [["a"]], 5):
        answer = http.post("/embeddings", json={"model": V4, "input": given})
        assert "contents is neither str nor list of str" in error(answer)[2]
    for content in (b"{", b"[]"):
        assert http.post("/embeddings", content=content).status_code == 400
    assert http.post("/embeddings", json={"model": V4, "input": []}).status_code == 400
    assert simulator.ledger()["requests"] == 0


# 4. Encodings and dimensions


def test_7_4_encodings(http: httpx.Client, simulator: Simulator) -> None:
    floats = vectors(ask(http, "a", "b"))
    found = ask(http, "a", "b", encoding_format="base64").json()["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4") for entry in found])
    assert np.array_equal(decoded, floats.astype("<f4"))
    simulator.admin(base64="ignored")
    assert np.array_equal(vectors(ask(http, "a", "b", encoding_format="base64")), floats)
    simulator.admin(base64="refused")
    assert ask(http, "a", encoding_format="base64").status_code == 400
    assert ask(http, "a", encoding_format="float").status_code == 200


@pytest.mark.parametrize(("mode", "expected"), [("honoured", 64), ("ignored", 1024), ("refused", 400)])
def test_7_4_dimensions(http: httpx.Client, simulator: Simulator, mode: str, expected: int) -> None:
    simulator.admin(dimensions=mode)
    answer = ask(http, "a", dims=64)
    found = answer.status_code if answer.status_code != 200 else len(answer.json()["data"][0]["embedding"])
    assert found == expected


# 5. Usage


def test_7_5_usage_and_its_modes(http: httpx.Client, simulator: Simulator) -> None:
    texts = ["alpha beta", "gamma delta epsilon"]
    total = sum(tokens.count_all(texts)[0])
    expected: dict[str, Any] = {
        "exact": {"prompt_tokens": total, "total_tokens": total},
        "zero_prompt": {"prompt_tokens": 0, "total_tokens": total},
        "total_only": {"total_tokens": total},
        "native": {"input_tokens": total},
        "missing": None,
    }
    for mode, usage in expected.items():
        simulator.admin(usage=mode)
        assert ask(http, *texts).json().get("usage") == usage
    assert simulator.ledger()["tokens"] == 5 * total, "billed all the same"
    simulator.admin(reset=True, v3_token_ratio=1.13)
    assert ask(http, *texts, model=V3).json()["usage"]["prompt_tokens"] > total


# 6. Limits of the account


def test_7_6_limits_hold_for_the_account_whatever_key_asks(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(requests_per_minute=60)
    assert ask(http, "a").status_code == 200
    refused = http.post("/embeddings", json={"model": V4, "input": "a"}, headers={"Authorization": "Bearer another"})
    assert error(refused)[:2] == (429, "limit_requests"), "the second second's share is not there yet"
    simulator.admin(requests_per_minute=60, per_second_slices=False)
    assert [ask(http, "a").status_code for _ in range(61)] == [200] * 60 + [429], "a minute's share at once"
    simulator.admin(reset=True, tokens_per_minute=60)
    assert ask(http, "a much longer text than fits").status_code == 200, "an empty bucket lets anything pass"
    assert error(ask(http, "a"))[:2] == (429, "insufficient_quota")
    simulator.admin(reset=True, burst_floor=3)
    assert [ask(http, "a").status_code for _ in range(4)] == [200] * 3 + [429]
    assert simulator.ledger()["refused"] == {"limit_burst_rate": 1}


def test_7_6_a_refusal_says_how_long_and_the_limit_recovers(http: httpx.Client, simulator: Simulator) -> None:
    # 20 times as fast: a minute's limit recovers in three seconds.
    simulator.admin(requests_per_minute=60, speed=20, retry_after="seconds", ratelimit_headers=True)
    assert ask(http, "a").headers["x-ratelimit-limit-requests"] == "60"
    refused = ask(http, "a")
    assert refused.status_code == 429
    told = float(refused.headers["retry-after"])
    assert 0 < told <= 0.05
    assert refused.headers["x-ratelimit-remaining-requests"] == "59"
    deadline = time.monotonic() + 10
    while ask(http, "a").status_code != 200:
        assert time.monotonic() < deadline


def test_7_6_retry_after_in_every_form(http: httpx.Client, simulator: Simulator) -> None:
    fault = {"kind": "requests_limit", "seconds": 7}
    simulator.admin(faults=[{**fault, "count": 4}])
    assert "retry-after" not in ask(http, "a").headers
    simulator.admin(retry_after="seconds")
    assert ask(http, "a").headers["retry-after"] == "7.000"
    simulator.admin(retry_after="milliseconds")
    assert ask(http, "a").headers["retry-after-ms"] == "7000"
    simulator.admin(retry_after="date")
    at = email.utils.parsedate_to_datetime(ask(http, "a").headers["retry-after"]).timestamp()
    assert 5 < at - time.time() <= 8


# 8. Texts that fail


def test_7_8_one_bad_text_fails_the_whole_request(http: httpx.Client, simulator: Simulator) -> None:
    assert error(ask(http, "a", f"b {POISON}", "c"))[:2] == (400, "data_inspection_failed")
    for _ in range(3):
        assert error(ask(http, "a", f"b {CRASH}", "c"))[:2] == (500, "internal_error")
    simulator.admin(moderation=False)
    assert ask(http, f"b {POISON}").status_code == 200
    assert simulator.ledger()["requests"] == 1


# 9. Events at a scheduled request


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        ("arrears", 400, "Arrearage"),
        ("free_tier_only", 403, "AllocationQuota.FreeTierOnly"),
        ("key_revoked", 401, "invalid_api_key"),
        ("quota_exhausted", 429, "insufficient_quota"),
        ("bill_overdue", 429, "PostpaidBillOverdue"),
    ],
)
def test_7_9_the_account_fails_at_the_request_that_was_named(
    http: httpx.Client, simulator: Simulator, event: str, status: int, code: str
) -> None:
    simulator.admin(
        steps=[
            {"after_requests": 2, "set": {"account": event}},
            {"after_requests": 4, "set": {"account": "good"}},
        ]
    )
    assert ask(http, "a").status_code == ask(http, "a").status_code == 200
    for _ in range(2):
        assert error(ask(http, "a"))[:2] == (status, code)
    assert ask(http, "a").status_code == 200
    assert simulator.ledger()["steps_to_come"] == 0


def test_7_9_steps_come_by_the_clock_too(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(speed=1000, steps=[{"at_seconds": 100, "set": {"account": "arrears"}}])
    assert ask(http, "a").status_code == 200
    deadline = time.monotonic() + 10
    while ask(http, "a").status_code == 200:
        assert time.monotonic() < deadline, "100 seconds at 1000 a second are over"
    assert simulator.ledger()["refused"] == {"Arrearage": 1}


# 7 and 10. Faults


def outcome(http: httpx.Client) -> str:
    """How a plain client meets a fault: by its own error, by a status, or by what it finds in the body."""
    try:
        answer = ask(http, "alpha", "beta", "gamma")
    except httpx.HTTPError as failed:
        return type(failed).__name__
    if answer.status_code != 200:
        return str(answer.status_code)
    try:
        body = json.loads(answer.text)
    except ValueError:
        return "no JSON"
    data = body.get("data")
    if data is None:
        return str(body.get("code", "no data"))
    sizes = [len(entry["embedding"]) for entry in data]
    last = [number for entry in data for number in entry["embedding"]][-64:]
    found = {
        "indices": [entry.get("index") for entry in data],
        "sizes": sizes,
        "strange": [str(number) for number in last if not np.isfinite(number)],
        "zero": not any(last),
        "keys": sorted(body),
        "gzip": answer.headers.get("content-encoding") == "gzip",
        "model": body.get("model"),
    }
    usual = {
        "indices": [0, 1, 2],
        "sizes": [64] * 3,
        "strange": [],
        "zero": False,
        "keys": ["data", "id", "model", "object", "usage"],
        "gzip": False,
        "model": V4,
    }
    return str({name: value for name, value in found.items() if value != usual[name]})


FAULTS = {
    "server_error": "500",
    "unavailable": "503",
    "html_502": "502",
    "html_504": "504",
    "throttled": "429",
    "requests_limit": "429",
    "tokens_limit": "429",
    "burst": "429",
    "free_quota": "429",
    "dropped": "ReadError",
    "stall": "ReadTimeout",
    "reset": "ReadError",
    "truncated": "no JSON",
    "drip": "{}",
    "lost": "ReadError",
    "late_504": "504",
    "shuffled": "{'indices': [1, 2, 0]}",
    "no_index": "{'indices': [None, None, None]}",
    "duplicate_index": "{'indices': [0, 1, 0]}",
    "one_short": "{'indices': [0, 1], 'sizes': [64, 64]}",
    "one_more": "{'indices': [0, 1, 2, 3], 'sizes': [64, 64, 64, 64]}",
    "no_data": "no data",
    "wrong_dims": "{'sizes': [63, 63, 63]}",
    "nan": "{'strange': ['nan']}",
    "infinity": "{'strange': ['inf']}",
    "zero": "{'zero': True}",
    "business_error": "InternalError",
    "business_throttle": "Throttling.RateQuota",
    "extra_fields": "{'keys': ['created', 'data', 'id', 'model', 'object', 'provider', 'usage', 'warnings']}",
    "no_id": "{'keys': ['data', 'model', 'object', 'usage']}",
    "no_model": "{'keys': ['data', 'id', 'object', 'usage'], 'model': None}",
    "other_model": "{'model': 'another-embedding-model'}",
    "gzip": "{'gzip': True}",
}


def test_every_fault_is_tested() -> None:
    assert set(FAULTS) == REFUSED | LOST | SPOILT


@pytest.mark.parametrize("kind", FAULTS)
def test_7_7_and_7_10_a_fault_is_what_it_says_and_the_bill_is_true(
    http: httpx.Client, simulator: Simulator, kind: str
) -> None:
    seconds = {"drip": 0.2, "stall": None}.get(kind, 0.1)
    http.timeout = httpx.Timeout(0.5 if kind == "stall" else 5)
    simulator.admin(faults=[{"kind": kind, "seconds": seconds}])
    assert outcome(http) == FAULTS[kind]
    billed = simulator.ledger()
    assert billed["requests"] == (0 if kind in REFUSED else 1)
    assert billed["requests_lost"] == (1 if kind in WASTED else 0)
    assert outcome(http) == "{}", "the next request is answered, on whatever connection"
    assert simulator.ledger()["requests"] == billed["requests"] + 1


def test_faults_take_turns(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(faults=[{"kind": "unavailable", "count": None, "every": 3}])
    assert [ask(http, "a").status_code for _ in range(6)] == [200, 200, 503] * 2
    simulator.admin(no_faults=True, faults=[{"status": 418, "body": {"x": 1}, "headers": {"a": "b"}, "count": 2}])
    answers = [ask(http, "a") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [418, 418, 200]
    assert (answers[0].json(), answers[0].headers["a"]) == ({"x": 1}, "b")


def test_7_7_a_stall_ends_if_it_is_told_when(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(faults=[{"kind": "stall", "seconds": 0.1}])
    assert outcome(http) == "{}"


def test_7_7_latency_is_by_text_and_scales(http: httpx.Client, simulator: Simulator) -> None:
    """By what it draws, not by a clock: see tests/unit/test_simulator.py; here that it is waited for at all."""
    simulator.admin(latency_seconds=30)
    http.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.ReadTimeout):
        ask(http, "a")
    simulator.admin(latency_scale=0)
    assert ask(http, "a").status_code == 200


# 11. A gateway between


def cosines(http: httpx.Client, model: str = V4) -> list[float]:
    """Of each of four answers with the first."""
    found = [vectors(ask(http, "alpha beta gamma", model=model))[0] for _ in range(4)]
    return [float(found[0] @ each) for each in found]


def test_7_11_the_old_model_under_the_new_name(http: httpx.Client, simulator: Simulator) -> None:
    old, new = vectors(ask(http, "alpha beta", model=V3)), vectors(ask(http, "alpha beta"))
    simulator.admin(answer_with=V3)
    answer = ask(http, "alpha beta")
    assert answer.json()["model"] == V4
    assert np.allclose(vectors(answer), old)
    assert abs(float((vectors(answer) @ new.T)[0, 0])) < 0.5
    simulator.admin(echo_model="answering")
    assert ask(http, "alpha beta").json()["model"] == V3, "an honest gateway"


def test_7_11_two_regions_take_turns(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(second_region={"noise": 0.001})
    found = cosines(http)
    assert found[0] == found[2] > found[1] == found[3]
    assert found[1] == pytest.approx(1 - 0.001**2 / 2, abs=1e-7)
    simulator.admin(reset=True, second_region={"max_texts": 2, "moderation": False})
    assert [ask(http, "a", "b", "c").status_code for _ in range(4)] == [200, 400, 200, 400]
    assert [ask(http, POISON).status_code for _ in range(4)] == [400, 200, 400, 200]


def test_7_11_drift_begins_at_a_request(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(steps=[{"after_requests": 2, "set": {"drift": 0.1}}])
    assert cosines(http) == pytest.approx([1, 1, 0.9, 0.9], abs=1e-5)


def test_7_11_a_guardrail_redacts_what_it_embeds(http: httpx.Client, simulator: Simulator) -> None:
    plain, redacted = vectors(ask(http, "call 5551234 now")), vectors(ask(http, "call [REDACTED] now"))
    simulator.admin(redact=r"\d{7}")
    assert np.allclose(vectors(ask(http, "call 5551234 now")), redacted)
    assert not np.allclose(plain, redacted)


# 12. The bill, and what was seen


def test_7_12_the_ledger_has_each_request_by_its_id_and_digests_of_each_text(
    http: httpx.Client, simulator: Simulator
) -> None:
    body = {"model": V4, "input": ["alpha", "beta"], "dimensions": 64}
    http.post("/embeddings", json=body, headers={"X-Request-Id": "r1"})
    simulator.admin(faults=[{"kind": "lost"}, {"kind": "unavailable"}])
    with pytest.raises(httpx.ReadError):
        http.post("/embeddings", json={**body, "input": ["gamma"]}, headers={"X-Request-Id": "r2"})
    assert ask(http, "delta").status_code == 503
    found = simulator.ledger(entries=True)
    entries = found["entries"]
    assert [(entry["request_id"], entry["lost"], entry["number"]) for entry in entries] == [
        ("r1", False, 1), ("r2", True, 2),
    ]  # fmt: skip
    assert entries[0]["digests"] == [digest("alpha"), digest("beta")]
    assert found["tokens"] == sum(tokens.count_all(["alpha", "beta", "gamma"])[0])
    assert found["tokens_lost"] == tokens.count_all(["gamma"])[0][0]
    assert simulator.seen() == {digest(text): 1 for text in ("alpha", "beta", "gamma", "delta")}
    assert "alpha" not in json.dumps(found)


# 13. Dialects


def test_7_13_native_surface(http: httpx.Client, simulator: Simulator) -> None:
    url = f"http://127.0.0.1:{simulator.port}{NATIVE_PATH}"
    body = {"model": V4, "input": {"texts": ["alpha", "beta"]}, "parameters": {"dimension": 64}}
    answer = http.post(url, json=body).json()
    made = np.array([entry["embedding"] for entry in answer["output"]["embeddings"]])
    assert np.allclose(made, vectors(ask(http, "alpha", "beta")))
    assert [entry["text_index"] for entry in answer["output"]["embeddings"]] == [0, 1]
    assert set(answer["usage"]) == {"total_tokens"}
    body["parameters"] = {"text_type": ""}
    refused = http.post(url, json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidParameter")
    simulator.admin(dialect="native", account="arrears")
    assert ask(http, "a").json()["code"] == "Arrearage", "flat"


@pytest.mark.parametrize(
    ("dialect", "texts", "dims", "status", "shape"),
    [
        (
            "tei",
            ["a"] * 40,
            None,
            422,
            {"message": "batch size 40 > maximum allowed batch size 32", "code": 422, "type": "Validation"},
        ),
        ("tei", ["a", CRASH], None, 424, {"message": "backend error", "code": 424, "type": "Backend"}),
        (
            "vllm",
            ["a"],
            64,
            400,
            {
                "error": {
                    "message": f'Model "{V4}" does not support matryoshka representation, changing output dimensions '
                    "will lead to poor results.",
                    "type": "BadRequestError",
                    "param": None,
                    "code": 400,
                }
            },
        ),
    ],
)
def test_7_13_refusals_of_other_servers(
    http: httpx.Client, simulator: Simulator, dialect: str, texts: list[str], dims: int | None, status: int, shape: Any
) -> None:
    simulator.admin(dialect=dialect)
    answer = ask(http, *texts, dims=dims)
    assert (answer.status_code, answer.json()) == (status, shape)


def test_7_13_habits_of_other_servers(http: httpx.Client, simulator: Simulator) -> None:
    simulator.admin(dialect="tei", max_text_tokens=20)
    nobody = {"Authorization": ""}
    cut = http.post("/embeddings", json={"model": "whatever", "input": "word " * 90}, headers=nobody)
    assert (cut.status_code, cut.json()["model"]) == (200, V4), "it serves one model, by its own name"
    assert cut.json()["usage"]["prompt_tokens"] == 20, "cut without a word"
    simulator.admin(dialect="ollama")
    assert ask(http, "", "word " * 90).status_code == 200
    missing = ask(http, "a", model="nomic-embed-text")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    simulator.admin(dialect="vllm")
    assert "maximum context length is 20 tokens" in ask(http, "word " * 90, dims=None).json()["error"]["message"]


# Switches


def test_a_wrong_switch_changes_nothing_and_every_problem_is_told(http: httpx.Client, simulator: Simulator) -> None:
    with pytest.raises(SwitchRefused) as refused:
        simulator.admin(
            max_texts="ten",
            latency=3,
            account="good",
            second_region={"nois": 1},
            redact="(",
            faults=[{"kind": "rest"}, {}],
            unset=["latencies"],
        )
    told = str(refused.value)
    for words in (
        "max_texts", "latency there is no such key", "second_region.nois there is no such key did you mean noise?",
        "redact it is no regular expression", "faults.0.kind", "faults.1 a fault has a kind",
    ):  # fmt: skip
        assert words in told
    with pytest.raises(SwitchRefused, match="exactly one of after_requests and at_seconds"):
        simulator.admin(steps=[{"set": {"max_texts": 1}}], max_texts=1)
    assert ask(http, "a", "b").status_code == 200
