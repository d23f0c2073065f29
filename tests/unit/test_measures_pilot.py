"""What a pilot measures with: strata, nearest rows, languages, ratios, and a map between two spaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.measures import bootstrap, nearest, procrustes, ratio, scores, slices, stratification
from migrator.measures.languages import language_of

# Strata


def test_strata_give_in_proportion_and_rare_ones_give_what_they_have() -> None:
    assert stratification.allocate({"en": 8000, "fr": 1900, "ko": 4, "th": 96}, 100) == {
        "en": 70,
        "fr": 16,
        "th": stratification.FEWEST,
        "ko": 4,
    }


def test_more_strata_than_rows_give_one_each_from_the_largest() -> None:
    assert stratification.allocate({"a": 1, "b": 5, "c": 3}, 2) == {"b": 1, "c": 1}
    assert stratification.allocate({"a": 3, "b": 0}, 10) == {"a": 3}
    assert stratification.allocate({}, 10) == {}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 60), max_size=8), st.integers(0, 120))
def test_an_allocation_is_as_large_as_wanted_and_nobody_gives_what_it_has_not(
    sizes: dict[str, int], wanted: int
) -> None:
    given_ = stratification.allocate(sizes, wanted)
    assert sum(given_.values()) == min(wanted, sum(sizes.values()))
    assert all(0 < count <= sizes[name] for name, count in given_.items())


def test_drawn_rows_stand_for_their_stratum_and_the_seed_says_which() -> None:
    strata = ["en"] * 900 + ["fr"] * 100
    drawn = stratification.draw(strata, 50, seed=1)
    assert [each.position for each in drawn] == sorted({each.position for each in drawn})
    french = [each for each in drawn if strata[each.position] == "fr"]
    assert len(french) == stratification.FEWEST
    assert sum(each.weight for each in french) == pytest.approx(100)
    assert sum(each.weight for each in drawn) == pytest.approx(1000)
    assert drawn == stratification.draw(strata, 50, seed=1) != stratification.draw(strata, 50, seed=2)


# Nearest rows


def test_nearest_by_each_operator_and_without_itself() -> None:
    rows = np.array([[1, 0], [10, 1], [0, 3], [0, 0]], dtype="<f4")
    query = np.array([[2, 0]], dtype="<f4")
    assert nearest.nearest(query, rows, 3).tolist() == [[0, 1, 2]], "by angle; zeros are no direction"
    assert nearest.nearest(query, rows, 1, operator="<#>").tolist() == [[1]], "the longest"
    assert nearest.nearest(query, rows, 2, operator="<->").tolist() == [[0, 3]]
    assert nearest.nearest(rows[:1], rows, 2, without=[0]).tolist() == [[1, 2]]
    assert nearest.nearest(query, rows[:1], 5, without=[0]).shape == (1, 0)


def test_nearest_is_what_sorting_all_of_them_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", 7)
    chance = np.random.default_rng(1)
    rows, queries = chance.standard_normal((90, 8), dtype="<f4"), chance.standard_normal((20, 8), dtype="<f4")
    cosines = nearest.unit(queries) @ nearest.unit(rows).T
    assert nearest.nearest(queries, rows, 10).tolist() == np.argsort(-cosines, axis=1)[:, :10].tolist()


# A map between two spaces


def test_a_turned_space_is_bridged_whole_and_an_unrelated_one_not_at_all() -> None:
    chance = np.random.default_rng(1)
    old = chance.standard_normal((400, 16), dtype="<f4")
    turn, _ = np.linalg.qr(chance.standard_normal((16, 16)))
    found = procrustes.bridge(old, (old @ turn).astype("<f4"), seed=1)
    assert found is not None
    assert (found.recall, found.learnt_rows, found.held_out_rows) == (1.0, 320, 80)
    other = procrustes.bridge(old, chance.standard_normal((400, 16), dtype="<f4"), seed=1)
    assert other is not None
    assert other.recall < 0.1, "ten of four hundred are found by chance"


def test_a_map_keeps_lengths_and_leads_between_spaces_of_other_dimensions() -> None:
    chance = np.random.default_rng(1)
    old = chance.standard_normal((300, 12), dtype="<f4")
    turn, _ = np.linalg.qr(chance.standard_normal((12, 12)))
    made = procrustes.fit(old, (old @ turn).astype("<f4"))
    assert np.allclose(made, turn, atol=1e-5)
    assert np.allclose(made @ made.T, np.eye(12), atol=1e-9)
    wider = np.zeros((300, 20), dtype="<f4")
    wider[:, :12] = old @ turn
    found = procrustes.bridge(old, wider, seed=1)
    assert found is not None
    assert found.recall == 1.0
    assert procrustes.bridge(old[:40], wider[:40], seed=1) is None, "eight held out say nothing"


# Languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The house of the rising sun is in New Orleans", "english"),
        ("La maison est une construction destinée à l'habitation", "french"),
        ("El edificio fue construido en la ciudad y es un museo", "spanish"),
        ("Das Haus ist ein Gebäude, und es wird von der Stadt genutzt", "german"),
        ("Il palazzo è una costruzione della città, e non si visita", "italian"),
        ("O edifício foi construído na cidade e não é um museu", "portuguese"),
        ("Het huis is een gebouw dat door de stad wordt gebruikt", "dutch"),
        ("def main(): return 42", "latin"),
        ("de", "latin"),
        ("это здание в городе", "cyrillic"),
        ("这是一座建筑", "han"),
        ("これは建物です", "japanese"),
        ("12 34", "none"),
    ],
)
def test_language_by_function_words(text: str, language: str) -> None:
    assert language_of(text) == language


# Ratios, weights, slices


def test_a_ratio_is_of_weighted_sums_and_its_interval_of_requests() -> None:
    found = ratio.measure([10, 10, 20], [11, 11, 30], [1, 1, 2], ["a", "a", "b"], seed=1)
    assert found is not None
    assert found.value == pytest.approx((11 + 11 + 60) / (10 + 10 + 40))
    assert (found.low, found.high) == pytest.approx((1.1, 1.5)), "two requests: one of them, or the other"
    assert found.requests == 2
    assert ratio.measure([0], [0], [1], ["a"], seed=1) is None


def test_a_ratio_that_every_request_shows_is_certain() -> None:
    found = ratio.measure([5, 9, 7], [6, 10.8, 8.4], [1, 3, 1], ["a", "b", "c"], seed=1)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1.2, 1.2, 1.2))


def test_a_weighted_mean_counts_each_query_for_what_it_stands_for() -> None:
    found = bootstrap.paired([1.0, 0.0], [0.0, 0.0], seed=1, weights=[3, 1])
    assert found.mean == pytest.approx(0.75)
    assert (found.low, found.high) == pytest.approx((0.0, 1.0))
    alike = bootstrap.paired([1.0, 0.0], [0.0, 0.0], seed=1, weights=[2, 2])
    assert alike == bootstrap.paired([1.0, 0.0], [0.0, 0.0], seed=1)


def test_slices_of_scores_tell_which_queries_rose_and_which_fell() -> None:
    few = scores.FEWEST_IN_SLICE
    relevant = [{"a"}] * (2 * few)
    old = scores.score([["b", "a"]] * few + [["a"]] * few, relevant, 10)
    new = scores.score([["a"]] * few + [["b", "a"]] * few, relevant, 10)
    places = slices.by_label([("up", "all")] * few + [("down", "all")] * (few - 1) + [("rare", "all")])
    found = scores.by_slice(places, old, new, seed=1)
    assert set(found) == {"up"}, "what is too few, or all of them, is no slice"
    assert found["up"].low > 0
    assert scores.means(old, new, 10)["MRR"] == [0.75, 0.75]
    assert scores.means(old, new, 10, weights=[1.0] * few + [0.0] * few)["nDCG@10"][1] == 1.0
