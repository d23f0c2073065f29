"""The discriminant on spaces that are known, and what it says of those that it can't tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from migrator.measures import discriminant, judgement
from migrator.measures.discriminant import Discriminant
from migrator.measures.judgement import Judgement
from tests import spaces
from tests.spaces import Vectors

ROWS, TAUGHT, SWAPPED = 6000, 1500, 6


def judged(old: Vectors, new: Vectors, taught: int = TAUGHT) -> tuple[Discriminant, Judgement]:
    rule = discriminant.learn(old[:taught], new[:taught])
    assert rule is not None
    return rule, judgement.judge(rule.score(old[taught:]), rule.score(new[taught:]), rows=len(old))


@pytest.fixture(scope="module", params=[0.0, 0.15, 0.4], ids=["one mean", "near means", "means apart"])
def pair(request: pytest.FixtureRequest) -> tuple[Vectors, Vectors]:
    return spaces.made(1, ROWS, 256, mean=request.param), spaces.made(2, ROWS, 256, mean=request.param)


def test_sentinel_finds_what_was_swapped_and_accuses_nobody_else(pair: tuple[Vectors, Vectors]) -> None:
    old, new = pair
    mixed = new.copy()
    wrong = np.arange(0, ROWS, ROWS // SWAPPED)[:SWAPPED]
    mixed[wrong] = old[np.roll(wrong, 1)]
    rule, found = judged(old, mixed)
    assert found.tells_apart
    accused = np.flatnonzero(rule.score(mixed) > found.cut)
    assert accused.tolist() == wrong.tolist()
    assert (rule.score(old) > found.cut).mean() >= 0.99
    assert found.miss_bound <= 0.01
    assert found.allowance == 0


def test_sentinel_looks_closely_only_at_what_lies_beyond_the_gate() -> None:
    old, new = spaces.made(1, ROWS, 256, mean=0.3), spaces.made(2, ROWS, 256, mean=0.3)
    rule, _ = judged(old, new)
    gate = discriminant.gate(rule.along(old[TAUGHT:]))
    assert (rule.along(old) > gate).all()
    assert (rule.along(new) > gate).mean() < 0.01


def test_sentinel_says_so_where_nothing_tells_two_spaces_apart() -> None:
    one = spaces.made(1, 2 * ROWS, 64, mean=0.3)
    _, found = judged(one[:ROWS], one[ROWS:])
    assert not found.tells_apart
    isotropic = [spaces.made(seed, ROWS, 64, mean=0, decay=0) for seed in (1, 2)]
    isotropic = [each @ np.linalg.inv(np.linalg.cholesky(np.cov(each.T))).T for each in isotropic]
    _, found = judged(isotropic[0], isotropic[1])
    assert not found.tells_apart


def test_sentinel_says_so_where_rows_are_too_few_to_know() -> None:
    old, new = spaces.made(1, 30, 64, mean=0.4), spaces.made(2, 30, 64, mean=0.4)
    _, found = judged(old, new, 10)
    assert found.misses == 0
    assert not found.tells_apart


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_sentinel_learns_although_its_teachers_are_mixed(share: float) -> None:
    old, new = spaces.made(1, ROWS, 256, mean=0.2), spaces.made(2, ROWS, 256, mean=0.2)
    mixed = new.copy()
    wrong = np.random.default_rng(5).random(ROWS) < share
    mixed[wrong] = old[wrong]
    rule, found = judged(old, mixed)
    assert ((rule.score(mixed) > found.cut) == wrong).all()


@pytest.mark.parametrize("seed", [11, 12])
def test_sentinel_finds_those_that_were_among_its_teachers(seed: int) -> None:
    """Few pairs and many directions: a vector in the wrong place must not become one of that space's own."""
    old, new = spaces.made(seed, 900, 128, mean=0), spaces.made(seed + 50, 900, 128, mean=0)
    wrong = np.array([3, 50, 120, 199, 250])
    new[wrong] = old[np.roll(wrong, 1)]
    rule, found = judged(old, new, 300)
    accused = np.flatnonzero(rule.score(new) > found.cut)
    assert set(wrong) <= set(accused.tolist())


def test_sentinel_does_not_hold_it_against_a_large_table_that_few_rows_have_both_vectors() -> None:
    old, new = spaces.made(1, 100, 64, mean=0.7), spaces.made(2, 100, 64, mean=0.7)
    rule = discriminant.learn(old[:40], new[:40])
    assert rule is not None
    found = judgement.judge(rule.score(old[40:]), rule.score(new[40:]), rows=5000)
    assert (found.misses, found.alarms) == (0, 0)
    assert found.tells_apart
    assert found.allowance == 0
    assert judgement.max_alarm_share(10**6, 20) == judgement.MAX_MISS_BOUND
    assert judgement.max_alarm_share(10**6, 6000) == judgement.MAX_ALARM_SHARE


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 41])
def test_sentinel_learns_of_very_few_pairs_without_a_warning(pairs: int) -> None:
    old, new = spaces.made(1, pairs + 2, 64, mean=0.4), spaces.made(2, pairs + 2, 64, mean=0.4)
    _, found = judged(old, new, pairs)
    assert not found.tells_apart
    rule = discriminant.learn(np.repeat(old[:1], 5, axis=0), np.repeat(new[:1], 5, axis=0))
    assert rule is not None
    assert np.isfinite(rule.score(np.zeros((1, 64), dtype=np.float32))).all()


def test_sentinel_is_taught_nothing_by_copies() -> None:
    old = spaces.made(1, 50, 64, mean=0.2)
    assert discriminant.learn(old, old.copy()) is None


def test_a_cluster_of_the_new_space_is_no_proof_of_the_old_one() -> None:
    """A hump short of where the old generation lies is the new one's own: the bound grows by it."""
    chance = np.random.default_rng(3)
    old, new = chance.normal(10, 1, 2000), chance.normal(0, 1, 2000)
    assert judgement.judge(old, new, rows=2000).tells_apart
    new[:40] = chance.normal(5.5, 0.2, 40)
    assert judgement.judge(old, new, rows=2000).alarm_bound > 0.01 or judgement.judge(old, new, rows=2000).cut > 6


def test_very_many_dimensions_are_weighed_one_by_one() -> None:
    chance = np.random.default_rng(4)
    old, new = (chance.standard_normal((400, 5000)).astype(np.float32) for _ in range(2))
    old[:, :200] += 1
    _, found = judged(old, new, 100)
    assert found.tells_apart
