"""The writing transactions' controller, over simulated durations."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from migrator.measures.landing_size import LandingSize


def run(size: LandingSize, seconds_per_row: float, landings: int, *, overhead: float = 0.0) -> list[int]:
    sizes = []
    for _ in range(landings):
        size.took(size.rows, overhead + size.rows * seconds_per_row)
        sizes.append(size.rows)
    return sizes


@pytest.mark.parametrize("seconds_per_row", [0.0002, 0.001, 0.01])
def test_it_settles_where_a_landing_takes_nearly_the_target(seconds_per_row: float) -> None:
    size = LandingSize(0.25)
    run(size, seconds_per_row, 200)
    assert 0.85 * 0.25 <= size.rows * seconds_per_row <= 0.25


def test_growth_waits_for_twenty_measurements_and_is_capped() -> None:
    size = LandingSize(0.25)
    sizes = [100, *run(size, 0.00001, 40)]
    assert sizes[19] == 100, "nothing is changed on nineteen"
    assert sizes[20] == 120
    assert all(new <= old * 1.2 + 1 for old, new in pairwise(sizes))


def test_one_landing_that_is_too_long_shrinks_at_once() -> None:
    size = LandingSize(0.25)
    run(size, 0.00001, 40)
    before = size.rows
    size.took(before, 2.5)
    assert size.rows <= before * 0.1


def test_a_timeout_halves() -> None:
    size = LandingSize(0.25)
    size.timed_out()
    assert size.rows == 50
    for _ in range(20):
        size.timed_out()
    assert size.rows == 10, "smaller ones are overhead"


def test_small_answers_do_not_make_it_grow() -> None:
    size = LandingSize(0.25)
    for _ in range(100):
        size.took(10, 0.005)
    assert size.rows == 100


def test_inside_the_band_nothing_changes() -> None:
    size = LandingSize(0.25)
    assert set(run(size, 0.25 * 0.93 / 100, 100)) == {100}


def test_noise_does_not_shake_it() -> None:
    size, noise = LandingSize(0.25), random.Random(7)  # noqa: S311 - a simulation
    seen = []
    for number in range(600):
        size.took(size.rows, size.rows * 0.001 * noise.uniform(0.8, 1.1))
        seen += [size.rows] if number > 200 else []
    assert min(seen) > 150
    assert max(seen) < 320


def test_a_throttled_landing_is_followed_by_a_rest() -> None:
    size = LandingSize(0.25)
    assert size.rest_seconds(0.1, throttled=False) == 0
    assert size.rest_seconds(0.1, throttled=True) == pytest.approx(0.4)
    assert size.rest_seconds(0.4, throttled=False) == pytest.approx(0.15), "as long as it was too long"
    assert size.rest_seconds(60, throttled=True) == 2.0
