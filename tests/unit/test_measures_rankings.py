"""Rankings against each other, the bootstrap and slices, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from migrator.measures import bootstrap, rankings, retrieval, slices


@pytest.mark.parametrize(
    ("ranking", "relevant", "depth", "expected"),
    [
        ("abc", "a", 10, 1.0),
        ("abc", "b", 10, 1 / 2),
        ("abc", "cb", 10, 1 / 2),
        ("abc", "c", 2, 0.0),
        ("abc", "x", 10, 0.0),
        ("", "a", 10, 0.0),
    ],
)
def test_reciprocal_rank(ranking: str, relevant: str, depth: int, expected: float) -> None:
    assert retrieval.reciprocal_rank(ranking, set(relevant), depth) == expected


@pytest.mark.parametrize(
    ("first", "second", "depth", "expected"),
    [
        ("abcd", "dcba", 4, 1.0),
        ("abcd", "abxy", 4, 0.5),
        ("abcd", "wxyz", 4, 0.0),
        ("abcd", "axyz", 2, 0.5),
        # One ranking is shorter: what it lacks is not in common.
        ("ab", "abcd", 4, 0.5),
        ("", "", 4, 1.0),
        ("", "ab", 4, 0.0),
    ],
)
def test_overlap(first: str, second: str, depth: int, expected: float) -> None:
    assert rankings.overlap(first, second, depth) == expected
    assert rankings.overlap(second, first, depth) == expected


def test_rbo_of_equal_and_of_disjoint_rankings() -> None:
    assert rankings.rbo("abcdef", "abcdef") == pytest.approx(1.0)
    assert rankings.rbo("abcdef", "uvwxyz") == 0.0
    assert rankings.rbo("", "") == 1.0
    assert rankings.rbo("", "abc") == 0.0


def test_rbo_by_hand() -> None:
    """abc and acb at p = 0.5: agreement 1/1, 1/2, 3/3; (1-p)/p = 1; 0.5 + 0.125 + 0.125, and X_3/3 * p^3 = 0.125."""
    assert rankings.rbo("abc", "acb", 0.5) == pytest.approx(0.5 + 0.125 + 0.125 + 0.125)
    # ab and ba: agreement 0/1, 2/2: 0 + 0.25, and 0.25.
    assert rankings.rbo("ab", "ba", 0.5) == pytest.approx(0.5)


def test_rbo_of_a_shorter_ranking_is_extrapolated_by_hand() -> None:
    """ab and abx at p = 0.5: X = 1, 2, 2.

    Sum: 1/1 * .5 + 2/2 * .25 + 2/3 * .125 = .8333; the extrapolated rank: 2 * 1 / (2 * 3) * .125 = .041667;
    the rest: ((2 - 2) / 3 + 2 / 2) * .125 = .125. Together 1: as far as the shorter goes, they agree.
    """
    assert rankings.rbo("ab", "abx", 0.5) == pytest.approx(1.0)
    assert rankings.rbo("abx", "ab", 0.5) == pytest.approx(1.0)
    # ab and xay: X = 0, 1, 1: 0 + 1/2 * .25 + 1/3 * .125 = .166667; 1 * 1 / 6 * .125 = .020833; (0 + 1/2) * .125.
    assert rankings.rbo("ab", "xay", 0.5) == pytest.approx(0.125 + 0.125 / 3 + 0.125 / 6 + 0.0625)


def test_rbo_weighs_the_top_more() -> None:
    assert rankings.rbo("abcdefghij", "abcdefghxy") > rankings.rbo("abcdefghij", "xycdefghij")


def test_overlap_by_chance() -> None:
    assert rankings.chance(1000) == 0.01
    assert rankings.chance(5) == rankings.chance(0) == 1.0


def test_the_bootstrap_of_equal_systems_has_no_width() -> None:
    found = bootstrap.paired([0.3, 0.9, 0.5], [0.3, 0.9, 0.5], seed=1)
    assert (found.mean, found.low, found.high, found.count) == (0.0, 0.0, 0.0, 3)
    assert bootstrap.paired([], [], seed=1).count == 0


def test_the_bootstrap_of_a_constant_difference_is_that_difference() -> None:
    found = bootstrap.paired([0.75] * 9, [0.5] * 9, seed=7)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_the_bootstrap_s_interval_is_that_of_the_normal_distribution_for_many_queries() -> None:
    """400 differences of which half are +1 and half -1: the mean's standard error is 1 / sqrt(400) = 0.05."""
    new = np.tile([1.0, 0.0], 200)
    found = bootstrap.paired(new, 1 - new, seed=1)
    assert found.mean == 0.0
    assert found.low == pytest.approx(-1.96 * 0.05, abs=0.01)
    assert found.high == pytest.approx(1.96 * 0.05, abs=0.01)


def test_the_bootstrap_is_paired_and_seeded() -> None:
    """Queries differ far more than systems do: what is drawn again are differences, so the interval stays narrow."""
    old = np.linspace(0, 1, 50)
    found = bootstrap.paired(old + 0.01, old, seed=3)
    assert found.high - found.low < 1e-9
    noisy = np.sin(np.arange(50))
    assert bootstrap.paired(noisy, old, seed=3) == bootstrap.paired(noisy, old, seed=3)
    assert bootstrap.paired(noisy, old, seed=3) != bootstrap.paired(noisy, old, seed=4)


def test_the_bootstrap_of_many_queries_is_drawn_in_blocks() -> None:
    new = np.tile([1.0, 0.0], 100_000)
    found = bootstrap.paired(new, 1 - new, seed=5, resamples=25)
    assert abs(found.mean) < 1e-12
    assert -0.02 < found.low < found.high < 0.02


@pytest.mark.parametrize(
    ("text", "script", "length"),
    [
        ("a red bicycle", "latin", "short"),
        ("向量数据库迁移", "han", "short"),
        ("ベクトル検索の移行", "japanese", "short"),
        ("벡터 검색", "korean", "short"),
        ("поиск по векторам", "cyrillic", "short"),
        ("البحث", "arabic", "short"),
        ("12 + 30", "none", "short"),
        ("naïve 12 résumé", "latin", "short"),
        ("a sentence that goes on for longer than a search box", "latin", "long"),
    ],
)
def test_slices(text: str, script: str, length: str) -> None:
    assert (slices.script_of(text), slices.length_of(text)) == (script, length)


def test_every_text_is_in_two_slices() -> None:
    assert slices.positions(["abc", "поиск", "abc " * 20]) == {
        "latin": [0, 2],
        "short": [0, 1],
        "cyrillic": [1],
        "long": [2],
    }
