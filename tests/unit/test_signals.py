"""[throttle] is checked whole, and what binds is told with its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from migrator import signals
from migrator import spec as specs
from migrator.signals import METRICS, Signal, ThrottleSpec
from migrator.spec import SpecInvalid
from tests.unit.test_spec import good


def with_throttle(values: Any) -> dict[str, Any]:
    return {**good(), "throttle": values}


def test_every_problem_of_the_table_has_its_place_and_its_mend() -> None:
    wrong = {
        "lag_seconds": "fast", "hot_share": 1.5, "dead_share": True, "vacuum_seconds": -1, "snapshot_seconds": None,
        "archive_segments": float("inf"), "sql": "DELETE FROM docs", "http": "https://u:canary@host/x", "lagg": 1,
        "landing_seconds": 0,
    }  # fmt: skip
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(with_throttle(wrong), "docs.toml")
    problems = {problem.place: problem for problem in caught.value.problems}
    assert set(problems) == {f"[throttle] {key}" for key in wrong} | {"[throttle] sql_max", "[throttle] http_max"}
    assert all(problem.what and problem.mend for problem in problems.values())
    assert problems["[throttle] lagg"].what == "there is no such key"
    assert "canary" not in str(caught.value), "P11"


@pytest.mark.parametrize("values", ["off", 3, ["lag_seconds"]])
def test_a_throttle_that_is_no_table(values: Any) -> None:
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(with_throttle(values), "x")
    assert [problem.place for problem in caught.value.problems] == ["throttle"]


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"sql": "SELECT 1"}, "[throttle] sql_max"),
        ({"sql_max": 1}, "[throttle] sql"),
        ({"http": "http://h/x"}, "[throttle] http_max"),
        ({"http_max": 1.5}, "[throttle] http"),
    ],
)
def test_a_signal_without_threshold_and_a_threshold_without_signal(values: dict[str, Any], place: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(with_throttle(values), "x")
    assert [problem.place for problem in caught.value.problems] == [place]


def test_it_survives_the_freezer_and_live_thresholds_lie_over_it() -> None:
    spec = specs.parse(with_throttle({"lag_seconds": 3, "hot_share": "off", "sql": "SELECT 1;", "sql_max": 2}), "x")
    assert specs.restore(spec.dump()) == spec
    assert spec.throttle.threshold(Signal.LAG) == 3
    assert spec.throttle.threshold(Signal.HOT) is None
    assert spec.throttle.sql == "SELECT 1", "a semicolon at the end is taken off"
    over = ThrottleSpec(**{**spec.throttle.model_dump(exclude_unset=True), "lag_seconds": "off"})
    assert Signal.LAG not in over.wanted
    assert over.wanted[Signal.SQL] == 2


@pytest.mark.parametrize(
    "query", ["", "SELECT", "UPDATE t SET a = 1", "SELECT 1; SELECT 2", "-- SELECT", "selection x"]
)
def test_an_operators_sql_is_one_select(query: str) -> None:
    with pytest.raises(SpecInvalid):
        specs.parse(with_throttle({"sql": query, "sql_max": 1}), "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lag_seconds=2.5", ("lag_seconds", 2.5)),
        ("vacuum_seconds=off", ("vacuum_seconds", "off")),
        ("hot_share=spec", ("hot_share", None)),
        ("sql=SELECT a = 1", ("sql", "SELECT a = 1")),
        ("database_bytes=8e11", ("database_bytes", 8e11)),
    ],
)
def test_a_change_on_the_command_line(text: str, expected: tuple[str, object]) -> None:
    assert signals.parse_change(text) == expected


@pytest.mark.parametrize("text", ["lag=2", "lag_seconds", "lag_seconds=fast", "=2", ""])
def test_not_a_change(text: str) -> None:
    with pytest.raises(ValueError, match=r"KEY=VALUE|is a number"):
        signals.parse_change(text)


def test_every_signal_has_words_and_a_key() -> None:
    assert set(METRICS) == set(Signal)
    assert {signal.value for signal in Signal} <= set(ThrottleSpec.model_fields)


@pytest.mark.parametrize(
    ("signal", "value", "threshold", "detail", "expected"),
    [
        (Signal.LAG, 3.04, 2.0, "standby1", "replica lag 3.0 s > 2.0 s (standby1)"),
        (Signal.LOCK_WAITERS, 2.0, 0.0, "", "sessions waiting for a lock on the table 2 > 0"),
        (Signal.HOT, 0.041, 0.5, "pid 7", "HOT updates 4.1 % < 50.0 % (pid 7)"),
        (Signal.SIZE, 9e11, 8e11, "", "database size 900.0 GB > 800.0 GB"),
    ],
)
def test_what_binds_is_told_with_its_numbers(
    signal: Signal, value: float, threshold: float, detail: str, expected: str
) -> None:
    assert signals.is_over(signal, value, threshold)
    assert not signals.is_over(signal, threshold, threshold), "at the threshold is well"
    assert signals.phrase(signal, value, threshold, detail=detail, problem=None) == expected


def test_what_cannot_be_read_is_told_with_its_reason() -> None:
    said = signals.phrase(Signal.HTTP, None, 1.0, detail="", problem="it answered 503")
    assert said == "the operator's HTTP signal can't be read: it answered 503"
