"""The simulator's pure parts: buckets by a clock of the test's own, latency by draws, scenarios by problems."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.demo.simulator import latency, scenario
from migrator.demo.simulator.account import Account
from migrator.demo.simulator.behaviour import Behaviour, BehaviourInvalid
from migrator.demo.simulator.limits import Bucket, Burst
from migrator.demo.simulator.scenario import Scenario, ScenarioInvalid


@given(
    st.floats(1, 1e6),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 5000)), min_size=1, max_size=40),
    st.booleans(),
)
def test_7_6_whoever_waits_as_told_is_let_in_and_a_minute_is_enough(
    per_minute: float,
    asked: list[tuple[float, float]],
    slices: bool,  # noqa: FBT001 - hypothesis hands it over
) -> None:
    bucket, now = Bucket(per_minute, slices), 0.0
    for passed, amount in asked:
        now += passed
        wait = bucket.take(amount, now)
        if wait:
            # What is larger than a whole minute's share waits until all before it has drained.
            assert wait <= 60 * max(1.0, bucket.minute / per_minute) + 1e-6
            now += wait + 1e-6
            assert bucket.take(amount, now) <= 1e-6


def test_7_6_a_minutes_limit_is_enforced_by_the_second_too() -> None:
    bucket = Bucket(600)
    assert [bucket.take(1, 0) > 0 for _ in range(11)] == [False] * 10 + [True]
    assert bucket.take(1, 0.1) == 0
    whole = Bucket(600, per_second_slices=False)
    assert [whole.take(1, 0) > 0 for _ in range(601)] == [False] * 600 + [True]
    assert Bucket(None).take(1e9, 0) == 0


def test_7_6_a_steady_rate_is_no_burst_and_a_sudden_one_is() -> None:
    burst = Burst()
    assert not any(burst.too_quick(5, second + part / 8) for second in range(2, 20) for part in range(4))
    assert [burst.too_quick(5, 20.0) for _ in range(9)].count(True) == 4
    slow_start = Burst()
    assert not any(
        slow_start.too_quick(2, second + part / 20) for second in range(30) for part in range(1 + second // 6)
    )


def test_7_7_latency_is_the_line_through_what_was_measured() -> None:
    def mean(texts: int, **switches: Any) -> float:
        chance = random.Random(1)  # noqa: S311 - latencies only
        behaviour = Behaviour(**{**latency.LIFELIKE, "latency_tail_share": 0.0, **switches})
        return sum(latency.seconds(behaviour, texts, chance) for _ in range(4000)) / 4000

    assert mean(1) == pytest.approx(0.57, rel=0.02)
    assert mean(20) == pytest.approx(1.04, rel=0.02)
    assert mean(20, latency_scale=0.1) == pytest.approx(0.104, rel=0.02)
    assert mean(20, speed=10) == pytest.approx(0.104, rel=0.02)
    assert mean(20, latency_scale=0) == 0
    assert mean(20, latency_tail_share=0.5) == pytest.approx(1.04 + 2.5, rel=0.05)


# Scenarios


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ScenarioInvalid) as caught:
        scenario.parse(data, "mine.toml")
    assert "mine.toml" in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def test_a_scenario_tells_every_problem_at_once_with_place_and_mend() -> None:
    found = problems(
        {
            "steps": [],
            "about": 5,
            "start": {"latncy_seconds": 1, "usage": "none"},
            "step": [
                {"set": {"account": "arrears"}},
                {"after_requests": 1, "at_seconds": 2, "set": {"drift": 7}},
                {"after_requests": -1, "set": {}},
                {"at_seconds": "soon", "say": 1, "set": {"reset": True}},
                {"after_request": 5, "set": {"faults": [{"kind": "stal"}, {"knd": "stall"}]}},
                "later",
            ],
        }
    )
    expected = [
        "steps: there is no such key; did you mean step?",
        "about: it is no text",
        "[start] latncy_seconds: there is no such key; did you mean latency_seconds?",
        "[start] usage: input should be 'exact'",
        "step 1: it needs exactly one of after_requests and at_seconds",
        "step 2: it needs exactly one of after_requests and at_seconds",
        "step 2 set drift: input should be less than or equal to 1",
        "step 3 after_requests: it is no whole number from 0",
        "step 3 set: it sets nothing",
        "step 4 at_seconds: it is no number from 0",
        "step 4 say: it is no text",
        "step 4 set reset: it would begin the scenario again",
        "step 5 after_request: there is no such key; did you mean after_requests?",
        "step 5 set faults.0.kind: there is no such fault (did you mean stall?)",
        "step 5 set faults.1.knd: there is no such key; did you mean kind?",
        "step 6: it is no table",
    ]
    for words in expected:
        assert any(problem.startswith(words) for problem in found), f"{words!r} is not among {found}"
    assert all(";" in problem for problem in found), "each has its mend"
    assert problems({"about": "nothing"}) == ["step: nothing ever happens; add a [[step]] or a [start]"]


def test_a_file_that_cannot_be_read_or_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ScenarioInvalid, match="it can't be read"):
        scenario.load(str(tmp_path / "missing.toml"))
    (tmp_path / "broken.toml").write_text("[[step\n")
    with pytest.raises(ScenarioInvalid, match="it is no TOML"):
        scenario.load(str(tmp_path / "broken.toml"))


@pytest.mark.parametrize("name", scenario.shipped())
def test_shipped_scenarios_load_and_every_step_comes(name: str) -> None:
    played = scenario.load(name)
    assert played.about.endswith(".")
    assert all(step.say for step in played.steps)
    told: list[str] = []
    account = Account(scenario=played, tell=told.append)
    for _ in range(1 + max(step.after_requests or 0 for step in played.steps)):
        account.arrive()
    assert len(told) == len(played.steps)
    assert account.totals()["steps_to_come"] == 0


def test_there_are_scenarios() -> None:
    assert {"outage", "throttling-storm", "old-model-answers"} <= set(scenario.shipped())


def test_a_scenario_begins_again_with_a_reset() -> None:
    played = scenario.parse(
        {"start": {"max_texts": 6}, "step": [{"after_requests": 1, "set": {"max_texts": 5, "drift": 0.1}}]}, "x"
    )
    account = Account(Behaviour(max_texts=7, latency_seconds=1), played)
    seen = []
    for _ in range(2):
        for _ in range(3):
            account.arrive()
            seen.append(account.behaviour.max_texts)
        account.change({"reset": True})
    assert seen == [6, 5, 5] * 2
    assert account.behaviour.latency_seconds == 1
    account.change({"unset": ["max_texts"]})
    assert account.behaviour.max_texts == 7, "as the flags had it"


def test_a_wrong_change_changes_nothing() -> None:
    account = Account(scenario=Scenario())
    with pytest.raises(BehaviourInvalid):
        account.change({"max_texts": 3, "reset": True, "unknown": 1})
    assert account.behaviour == Behaviour()
