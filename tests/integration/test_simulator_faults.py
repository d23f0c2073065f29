"""The provider simulator over real HTTP: what it breaks, what stands between, what it bills, and that both agree."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from migrator.demo.simulator.account import digest
from migrator.demo.simulator.app import POISON
from migrator.demo.simulator.control import Simulator
from migrator.demo.simulator.faults import LOST, REFUSED, SPOILT, WASTED
from migrator.provider import tokens
from tests.integration.asking import V3, V4, ask, vectors

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
