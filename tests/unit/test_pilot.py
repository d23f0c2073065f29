"""The pilot's pure parts: what is asked, what is said of it, and how a plan is mended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from migrator import spec as specs
from migrator.generation import Side
from migrator.measures.bootstrap import Interval
from migrator.measures.scores import FEWEST_IN_SLICE
from migrator.pilot import asking, outcome, verdict
from migrator.pilot.asking import JUDGED, KNOWN_ITEMS, RELEVANT, Asked
from migrator.pilot.outcome import Outcome, Space
from migrator.pilot.price import Part, Price
from migrator.pilot.sample import Sampled
from migrator.planning import calibration
from migrator.planning.calibration import Calibration
from migrator.provider import tokens
from migrator.queries import Query
from migrator.spec import Spec
from migrator.state.pilots import Row

V4 = "qwen/text-embedding-v4@1024"


def row(number: int, body: str = "", weight: float = 1.0) -> Sampled:
    stratum = RELEVANT if weight == 0 else "english, short"
    return Sampled(Row((str(number),), stratum, weight), body or f"body {number}", None)


# What is asked


def test_judged_queries_are_those_whose_rows_fit_and_are_there() -> None:
    queries = [Query(f"the query {number}", ((str(number),), (str(number + 100),))) for number in range(20)]
    chosen = asking.fitting(queries, 10, seed=1)
    assert len(chosen) == 5, "two rows each"
    assert chosen == sorted(chosen, key=queries.index)
    assert chosen == asking.fitting(queries, 10, seed=1) != asking.fitting(queries, 10, seed=2)
    assert asking.fitting([Query("unjudged", None)], 10, seed=1) == []
    asked = asking.judged(queries, [row(3), row(104), row(7)])
    assert asked.texts == ["the query 3", "the query 4", "the query 7"]
    assert asked.relevant == [{("3",)}, {("104",)}, {("7",)}], "what is not in the sample can't be found"
    assert asked.labels[0] == ("english", "short query")


def test_known_items_find_every_row_of_their_text_and_none_is_made_of_a_relevant_row() -> None:
    rows = [row(1, "same"), row(2, "same", weight=3), row(3, "other words"), row(4, "relevant", weight=0)]
    asked = asking.known_items(rows, 10, [Query("what people ask", None)], seed=1)
    assert asked.texts == ["same", "same", "other words", "what people ask"]
    assert asked.relevant == [{("1",), ("2",)}, {("1",), ("2",)}, {("3",)}, frozenset()]
    assert asked.weights == [1, 3, 1, 1]
    assert asked.labels[0] == ("english", "short")
    assert len(asking.known_items(rows, 2, [], seed=1).texts) == 2


# What comes out


def space(rows: list[list[float]], queries: list[list[float]]) -> Space:
    return Space(np.array(rows, dtype="<f4"), np.array(queries, dtype="<f4"))


def test_both_spaces_are_searched_and_a_refused_query_is_left_out() -> None:
    keys = [("a",), ("b",)]
    asked = Asked(["x", "y", "z"], [frozenset({("a",)}), frozenset({("b",)}), frozenset()], [()] * 3, [1.0] * 3, JUDGED)
    old = space([[1, 0], [0, 1]], [[0.1, 1], [1, 0.1], [1, 0]])
    new = space([[1, 0], [0, 1]], [[1, 0.1], [0, 0], [1, 0]])
    found = outcome.compare(keys, asked, old, new, operator="<=>", seed=1)
    assert (found.queries, found.means["MRR"]) == (1, [0.5, 1.0])
    assert found.change is not None
    assert found.change.mean == pytest.approx(1 - 0.6309, abs=1e-3)
    assert found.overlap == 1.0, "of both queries that were asked of both, judged or not"
    assert found.bridge is None
    nothing = Space(np.empty((0, 2), dtype="<f4"), new.queries)
    none = outcome.compare([], asked, nothing, nothing, operator="<=>", seed=1)
    assert (none.queries, none.overlap, none.change) == (0, None, None), "no row has both vectors"


def outcome_of(kind: str = JUDGED, **changes: Interval) -> Outcome:
    return Outcome(kind, 1000, 200, {}, changes, 0.5, None)


def test_the_verdict_is_one_sentence_with_slices_cost_and_time() -> None:
    found = outcome_of(
        all=Interval(0.041, 0.018, 0.066, 200),
        english=Interval(-0.012, -0.03, 0.01, 120),
        french=Interval(0.364, 0.2, 0.5, 60),
        **{"short query": Interval(0.1, 0.0, 0.2, 90)},
    )
    assert verdict.sentence(V4, found, cost=(11.2, 13.44), hours=3.17) == (
        f"{V4} is better by 0.041 [0.018, 0.066] on your 200 queries; on French +0.36, on English -0.01; "
        "whole table: $11.20-13.44, 3 h 10 min."
    )
    assert not verdict.is_worse(found)


def test_the_verdict_says_worse_or_uncertain_or_that_nothing_was_compared() -> None:
    worse = outcome_of(KNOWN_ITEMS, all=Interval(-0.05, -0.08, -0.02, 100), latin=Interval(-0.1, -0.2, 0.0, 20))
    told = verdict.sentence(V4, worse, cost=(0.0012, 0.0012), hours=0.2)
    first = f"{V4} is worse by 0.050 [0.020, 0.080] on 100 known items"
    assert told == f"{first}; on Latin script -0.10; whole table: $0.0012, 12 min."
    assert verdict.is_worse(worse)
    unclear = outcome_of(all=Interval(0.004, -0.01, 0.02, 100))
    told = verdict.sentence(V4, unclear, cost=(1, 2), hours=0.01)
    assert told.startswith(f"{V4} is neither better nor worse for certain: +0.004 [-0.010, 0.020] on your 100 queries;")
    assert told.endswith("$1.00-2.00, 1 min.")
    assert not verdict.is_worse(unclear)
    assert verdict.sentence(V4, outcome_of(), cost=(1, 2), hours=0.001).startswith("Nothing could be compared")


@pytest.mark.parametrize("count", [1, 9, 10])
def test_a_handful_of_queries_tells_nothing_however_sure_it_looks(count: int) -> None:
    """One query has an interval of no width, which always leaves out 0."""
    enough = count >= FEWEST_IN_SLICE
    found = outcome_of(all=Interval(-0.3, -0.3, -0.3, count))
    told = verdict.sentence(V4, found, cost=(1, 2), hours=0.01)
    assert (verdict.is_worse(found), verdict.has_enough(found), " is worse by " in told) == (enough,) * 3
    few = f"Too few to tell whether {V4} is better (fewer than 10): -0.300 on your {count} queries; whole table: "
    assert told.startswith(few) is not enough


@pytest.mark.parametrize(
    ("hours", "told"), [(0.001, "4 s"), (0.0, "0 s"), (0.5, "30 min"), (0.9999, "1 h 0 min"), (25.75, "25 h 45 min")]
)
def test_durations(hours: float, told: str) -> None:
    assert verdict.duration(hours) == told


# The plan


def spec_of(**limits: Any) -> Spec:
    to = {"model": "v4", "dimensions": 8, "base_url": "http://127.0.0.1:1/v1", "price_usd_per_mtok": [0.5, 1.0]}
    return specs.parse(
        {
            "name": "docs",
            "target": {"table": "public.docs", "column": "embedding", "text": "{title}"},
            "from": {"model": "v3", "dimensions": 8},
            "to": to,
            "limits": {"max_cost_usd": 1.0, **limits},
        },
        "test",
    )


def plan_of(hours: float = 1.0, binds: str = "requests_per_minute") -> dict[str, Any]:
    limit = "latency" if binds.startswith("no limit") else binds
    return {
        "requests": 100,
        "rows_to_embed": 1000,
        "tokens": {
            "estimate": 100_000,
            "low": 88_000,
            "high": 112_000,
            "sampled_low": 100_000,
            "sampled_high": 100_000,
            "method": "estimated",
        },
        "cost_usd": {
            "low": 0.044,
            "high": 0.112,
            "prices_usd_per_mtok": [0.5, 1.0],
            "by_price": [
                {"usd_per_mtok": 0.5, "source": "the spec", "low_usd": 0.0, "likely_usd": 0.0, "high_usd": 0.0}
            ],
        },
        "hours_by_limit": {limit: hours, "database_writes": 0.0001},
        "finish": {"if_started": "2026-11-02T10:00:00+00:00", "backfilled": None, "windows": []},
        "hours": hours,
        "hours_bound_by": binds,
        "findings": [],
        "growth": {"rows_per_day": None},
    }


PILOT = Calibration(rows=500, ratio=1.1, low=1.05, high=1.2, request_seconds=2.0, seed=7, requests=50)


def test_a_plan_is_mended_by_the_ratio_and_keeps_what_it_said() -> None:
    """Its allowance of 12 % for another model's tokenizer makes room for the ratio's own interval."""
    plan = plan_of()
    mended = calibration.apply(plan, PILOT, spec_of(requests_per_minute=10))
    found = mended["tokens"]
    assert (found["estimate"], found["low"], found["high"]) == (110_000, 105_000, 120_000)
    assert found["method"] == "estimated, calibrated by a pilot of 500 rows"
    assert (mended["cost_usd"]["low"], mended["cost_usd"]["high"]) == (0.0525, 0.12)
    assert mended["cost_usd"]["prices_usd_per_mtok"] == [0.5, 1.0]
    assert mended["cost_usd"]["by_price"][0]["likely_usd"] == 0.055
    assert mended["finish"]["backfilled"] == "2026-11-02T11:00:00+00:00"
    assert mended["calibration"]["before"]["tokens"] == plan["tokens"]
    assert mended["findings"] == []
    twice = calibration.apply(mended, PILOT, spec_of(requests_per_minute=10))
    assert twice == mended, "the plan's own figures are mended, not those of the first pilot"


def test_findings_that_rest_on_estimates_are_judged_again() -> None:
    """A plan that a pilot found dearer than its cap says so, and one that was found cheaper stops to."""
    said = {"code": "by_position", "severity": "info", "object": "docs", "message": "seen", "mend": "nothing"}
    plan = plan_of() | {"findings": [said]}
    dear = calibration.apply(plan, PILOT, spec_of(max_cost_usd=0.115))
    assert [each["code"] for each in dear["findings"]] == ["cap_below_estimate", "by_position"]
    assert "the estimate goes up to 0.1200 USD" in dear["findings"][0]["message"]
    cheap = replace(PILOT, ratio=0.5, low=0.5, high=0.5)
    assert calibration.apply(dear, cheap, spec_of(max_cost_usd=0.115))["findings"] == [said]
    slow = replace(PILOT, request_seconds=1e8)
    grows = {**plan, "growth": {"rows_per_day": 100.0}}
    told = calibration.apply(grows, slow, spec_of())["findings"]
    assert [each["code"] for each in told] == ["never_done", "arrivals_outpace", "by_position"]


def test_what_is_owed_to_the_old_model_is_not_what_the_new_one_bills() -> None:
    mended = calibration.apply(plan_of(), PILOT, spec_of())
    assert calibration.tokens_per_row(mended, Side.TO) == pytest.approx(110)
    assert calibration.tokens_per_row(mended, Side.FROM) == 100
    assert calibration.tokens_per_row(plan_of(), Side.FROM) == 100
    assert (calibration.of(mended), calibration.of(plan_of())) == (PILOT, None)


def test_a_plan_keeps_the_spread_of_its_sample_and_gives_up_what_it_allowed() -> None:
    """The allowance was added in quadrature: 5 % and 12 % are 13 % together, and 5 % without it, not 1 %."""
    plan = plan_of()
    plan["tokens"] |= {"low": 87_000, "high": 113_000, "sampled_low": 95_000, "sampled_high": 105_000}
    found = calibration.apply(plan, PILOT, spec_of())["tokens"]
    assert (found["low"], found["high"]) == (99_750, 126_000), "each end by the ratio's own"


@pytest.mark.parametrize(
    ("requests", "low", "high"),
    [(0, 96_800, 123_200), (1, 96_800, 123_200), (9, 96_800, 123_200), (10, 109_999, 110_001)],
)
def test_a_plan_keeps_its_allowance_until_enough_requests_were_billed(requests: int, low: int, high: int) -> None:
    """One request has an interval of no width, which is no sureness."""
    found = Calibration(10, 1.1, 1.09999, 1.10001, 2.0, 7, requests)
    mended = calibration.apply(plan_of(), found, spec_of())
    assert (mended["tokens"]["low"], mended["tokens"]["high"]) == (low, high)
    told = calibration.line(mended["calibration"])
    assert ("too few for an interval: the plan keeps its own band" in told) is (requests < 10)


def test_few_requests_that_differ_do_not_narrow_what_they_show() -> None:
    found = Calibration(10, 1.1, 0.8, 1.6, 2.0, 7, requests=3)
    mended = calibration.apply(plan_of(), found, spec_of())["tokens"]
    assert (mended["low"], mended["high"]) == (80_000, 160_000)


def test_a_ratio_mends_no_plan_that_was_counted_by_another_tokenizer() -> None:
    """A pilot ran where the exact tokenizer is installed; the plan was made where it is not, or the other way round."""
    found = replace(PILOT, counted="counted with Qwen's tokenizer")
    plan = plan_of()
    assert calibration.apply(plan, found, spec_of()) is plan
    same = {**plan, "tokens": {**plan["tokens"], "method": "counted with Qwen's tokenizer, 900 sampled texts"}}
    assert calibration.apply(same, found, spec_of())["tokens"]["estimate"] == 110_000


def test_a_calibration_of_an_older_version_counts_as_one_of_too_few_requests() -> None:
    stored = {name: each for name, each in PILOT.as_json().items() if name != "requests"}
    found = calibration.restore(stored)
    assert found is not None
    assert not found.is_sure


@pytest.mark.parametrize(
    ("limits", "plan", "seconds", "hours", "binds"),
    [
        ({"requests_per_minute": 10}, plan_of(), 2.0, 1.0, "requests_per_minute"),
        ({"requests_per_minute": 10}, plan_of(0.001), 2.0, 100 * 2 / 4 / 3600, "the provider's 2 s a request"),
        ({"tokens_per_minute": 1000}, plan_of(100 / 60, "tokens_per_minute"), 2.0, 110 / 60, "tokens_per_minute"),
        ({}, plan_of(5.0, "no limit is set"), 2.0, 100 * 2 / 4 / 3600, "the provider's 2 s a request"),
        ({}, plan_of(5.0, "no limit is set"), None, 5.0, "no limit is set"),
    ],
)
def test_hours_are_those_of_what_binds(
    limits: dict[str, int], plan: dict[str, Any], seconds: float | None, hours: float, binds: str
) -> None:
    found = Calibration(500, 1.1, 1.05, 1.2, seconds, 7)
    mended = calibration.apply(plan, found, spec_of(**limits))
    assert mended["hours"] == pytest.approx(hours, abs=0.001)
    assert mended["hours_bound_by"].startswith(binds)


def test_a_plan_without_a_pilot_or_without_tokens_stays() -> None:
    assert calibration.apply(plan_of(), None, spec_of()) == plan_of()
    empty = plan_of()
    empty["tokens"]["estimate"] = 0
    assert calibration.apply(empty, PILOT, spec_of()) == empty
    assert calibration.restore(PILOT.as_json()) == PILOT
    assert calibration.restore(None) is None


def test_the_price_holds_what_is_missing_alone_and_its_bound_is_never_below() -> None:
    model = spec_of().to
    texts = ["the first text", "été 漢字", "third"]
    part = Part.of(model, texts, texts[1:])
    assert (part.texts, part.kept) == (3, 1)
    assert part.most_usd == pytest.approx(sum(tokens.bound(each) for each in texts[1:]) * 1e-6)
    assert part.likely_usd <= part.most_usd
    nothing = Part.of(model, texts, [])
    price = Price(part, nothing, nothing, 0.1)
    assert price.most_usd == pytest.approx(part.most_usd + 0.1)
    assert "7 of these texts kept and paid for already" in str(price)
