"""The pace in virtual time: never more than the limits, all of them used, and a 429's ceiling that recovers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.provider import catalogue
from migrator.provider.catalogue import Action
from migrator.state import pace, slots
from migrator.state.pace import Limits
from migrator.state.slots import AHEAD_SECONDS, BURST_SECONDS, FARTHEST_SECONDS, Memory, advance

START = 1_000_000.0
#: As after an hour of sending: slow start is over.
WARM = Memory(START, START, START - 3600, START)


def run(memory: Memory, allowed: Limits, pauses: list[float], costs: list[int]) -> list[tuple[float, int]]:
    """Ask again and again, `pauses` apart; returns when each request went, and what it cost."""
    now, sent = START, []
    for pause, cost in zip(pauses, costs, strict=True):
        now += pause
        after, seconds, _ = advance(memory, now, allowed, cost)
        while seconds > AHEAD_SECONDS:
            now += seconds - AHEAD_SECONDS
            after, seconds, _ = advance(memory, now, allowed, cost)
        memory = after
        sent.append((now + seconds, cost))
    return sent


asked = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 8000)), min_size=1, max_size=60)


@given(asked, st.integers(30, 6000), st.integers(20_000, 2_000_000))
def test_r15_no_stretch_of_time_holds_more_than_the_limits_and_a_burst(
    asked: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    sent = run(WARM, Limits(rpm, tpm), [pause for pause, _ in asked], [cost for _, cost in asked])
    assert [at for at, _ in sent] == sorted(at for at, _ in sent)
    for first in range(len(sent)):
        for last in range(first + 1, len(sent)):
            seconds = sent[last][0] - sent[first][0] + BURST_SECONDS
            # What is under way when a stretch begins is paid for after it: the last request of it is not.
            assert last - first <= seconds * rpm / 60 + 1e-6
            assert sum(cost for _, cost in sent[first:last]) <= seconds * tpm / 60 + 1e-3


@given(st.integers(60, 6000), st.integers(100_000, 2_000_000), st.integers(1, 2000))
def test_r15_who_always_asks_uses_all_of_what_binds(rpm: int, tpm: int, cost: int) -> None:
    sent = run(WARM, Limits(rpm, tpm), [0.0] * 300, [cost] * 300)
    seconds = sent[-1][0] - sent[0][0] + BURST_SECONDS
    rate = min(rpm / 60, tpm / 60 / cost)
    assert len(sent) - 1 >= 0.97 * seconds * rate - 1


def test_a_request_as_large_as_a_slice_finds_it_empty() -> None:
    allowed = Limits(None, 60_000)  # 1,000 a second
    memory, seconds, _ = advance(WARM, START, allowed, 500)
    assert seconds == 0
    _, seconds, limit = advance(memory, START, allowed, 1000)
    assert seconds == pytest.approx(0.5 + BURST_SECONDS)
    assert limit == "tokens/min"


def test_h28_a_future_arrival_time_is_clamped() -> None:
    ahead = Memory(START + 1e6, START + 1e6, START + 1e6, START + 1e6)
    _, seconds, _ = advance(ahead, START, Limits(600, 60_000), 10)
    assert seconds <= FARTHEST_SECONDS + BURST_SECONDS
    unlimited, _, _ = advance(ahead, START, Limits(None, None), 10)
    assert unlimited.started_at <= START


def test_slow_start_begins_with_a_quarter_and_is_over_in_four_seconds() -> None:
    fresh = Memory(START, START, START, START)
    sent = run(fresh, Limits(1200, None), [0.0] * 200, [1] * 200)  # 20 a second
    seconds = [sum(begin <= at - START < begin + 1 for at, _ in sent) for begin in range(8)]
    assert seconds[0] <= 7
    assert seconds[0] < seconds[2] < seconds[4]
    assert all(19 <= count <= 21 for count in seconds[5:])


def test_slow_start_holds_also_where_nothing_is_granted() -> None:
    sent = run(Memory(START, START, START, START), Limits(None, None), [0.0] * 400, [1] * 400)
    seconds = [sum(begin <= at - START < begin + 1 for at, _ in sent) for begin in range(3)]
    assert 30 <= seconds[0] <= 50
    assert seconds[0] < seconds[1] < seconds[2]


def test_slow_start_begins_again_after_a_minute_of_rest() -> None:
    later = START + slots.IDLE_SECONDS + 1
    assert advance(WARM, later, Limits(600, None), 1)[0].started_at == later
    assert advance(WARM, later - 2, Limits(600, None), 1)[0].started_at == WARM.started_at


def test_a_rate_is_told_true_while_it_is_young() -> None:
    memory = Memory(START, START, START, START)
    for number in range(40):
        memory, _, _ = advance(memory, START + number / 10, Limits(None, None), 100)
    assert slots.per_minute(memory.requests, 4.0) == pytest.approx(600, rel=0.1)
    assert slots.per_minute(memory.tokens, 4.0) == pytest.approx(60_000, rel=0.1)


def test_r16_a_ceiling_recovers_to_the_grant_within_five_minutes() -> None:
    lowest = pace.LOWEST_SHARE * 1800
    assert pace.recovered(lowest, 0, 1800) == lowest
    recovered = pace.recovered(lowest, 180, 1800)
    assert recovered is not None
    assert recovered >= 0.9 * 1800
    assert pace.recovered(lowest, 3600, 1800) == 1800


def test_r16_a_ceiling_without_a_grant_recovers_too_and_is_forgotten() -> None:
    ceiling = pace.DECREASE * 900
    recovered = pace.recovered(ceiling, 60, None)
    assert recovered is not None
    assert 0.9 * 900 <= recovered < 1.1 * 900
    assert pace.recovered(ceiling, 3600, None) is None


def test_every_429_of_the_catalogue_names_its_limit() -> None:
    named = {rule.name: pace.named_by(rule.name) for rule in catalogue.rules() if rule.action is Action.THROTTLE}
    assert named["requests per minute exceeded"] == ("requests",)
    assert named["tokens per minute exceeded"] == ("tokens",)
    assert named["rate increased too quickly"] == named["too many requests"] == ("requests", "tokens")
