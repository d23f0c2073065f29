"""The provider simulator over real HTTP: what it answers, what it refuses, and in which words."""

from __future__ import annotations

import base64
import email.utils
import threading
import time
from typing import Any

import httpx
import numpy as np
import pytest

from migrator.demo.simulator.app import CRASH, NATIVE_PATH, POISON
from migrator.demo.simulator.control import Simulator, SwitchRefused
from migrator.provider import tokens
from tests.integration.asking import V3, V4, ask, error, vectors

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


def test_7_5_what_is_in_flight_at_a_reset_is_not_on_the_new_bill(http: httpx.Client, simulator: Simulator) -> None:
    """A killed client's requests go on: they must not appear on the bill of whoever resets the account next."""
    simulator.admin(latency_seconds=0.5)
    late = threading.Thread(target=lambda: ask(http, "a"))
    late.start()
    while not simulator.ledger()["in_flight"]:
        time.sleep(0.01)
    simulator.admin(reset=True)
    late.join()
    assert (simulator.ledger()["requests"], simulator.ledger()["tokens"]) == (0, 0)


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
