"""The report: a history that stays small, what is told of it, and where it goes."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrator import reasons, words
from migrator.cli import console
from migrator.demo import story
from migrator.measures import projection
from migrator.report import output, summary, timeline
from migrator.report.gather import Move
from migrator.state import samples
from migrator.state.samples import KEEP, Taken, thinned_by
from tests import reports
from tests.reports import BEGAN, whole

DAY_SAMPLES = 8_640


# A history of any length stays small


def _kept(last: int) -> list[int]:
    kept: dict[int, None] = {}
    for number in range(1, last + 1):
        kept[number] = None
        for each in thinned_by(number):
            del kept[each]  # a number that is not there would be one that was never kept, or thinned twice
    return list(kept)


def test_a_report_s_history_of_a_month_is_a_few_thousand_samples() -> None:
    month = 30 * DAY_SAMPLES
    kept = _kept(month)
    assert len(kept) < 3_000
    assert kept[-KEEP:] == list(range(month - KEEP + 1, month + 1)), "the newest are all there"
    # What is as old as n samples is known to 4 n / KEEP of them: an hour at the beginning of a month, 10 s now.
    for older, newer in itertools.pairwise(kept):
        assert newer - older <= max(1, 4 * (month - older) / KEEP)


def test_a_report_s_history_grows_by_half_of_what_is_kept_with_each_doubling() -> None:
    sizes = [len(_kept(KEEP << doubling)) for doubling in range(6)]
    assert sizes[0] == KEEP
    assert {later - earlier for earlier, later in itertools.pairwise(sizes)} <= {KEEP // 2, KEEP // 2 + 1}


def test_the_pause_between_samples_is_short_for_a_short_run() -> None:
    assert (samples.FEWEST_SECONDS, samples.MOST_SECONDS) == (1.0, 10.0)


# What became of it over time


def test_report_rates_are_of_the_time_between_two_samples() -> None:
    taken = reports.samples()
    made = timeline.points(taken, reports.ROWS, BEGAN)
    assert made[0].rows_per_second == pytest.approx((taken[0].sample.rows_settled + 40) / 300), "since the start"
    assert made[1].rows_per_second == pytest.approx(
        (taken[1].sample.rows_settled - taken[0].sample.rows_settled + 40) / 300, rel=1e-6
    )
    assert made[-1].rows_left == 0
    lost = replace(taken[1].sample, updates=0, hot_updates=0)
    assert timeline.points([taken[0], Taken(taken[1].at, lost)], 1, BEGAN)[1].hot_share is None, "counters were reset"


def test_report_keeps_the_first_and_the_last_of_many_samples() -> None:
    taken = reports.samples()
    few = timeline.fewer(taken, 20)
    assert len(few) <= 20
    assert (few[0], few[-1]) == (taken[0], taken[-1])
    assert timeline.fewer(taken[:5], 20) == taken[:5]


def test_report_joins_throttles_that_say_the_same() -> None:
    (found,) = timeline.throttles(reports.samples(), BEGAN + timedelta(hours=11))
    assert found.what == "replica lag 3.0 s > 2.0 s"
    assert 1800 <= found.seconds <= 2400


def test_report_of_no_time_at_all_has_no_spans() -> None:
    assert timeline.statuses([], BEGAN) == []
    assert timeline.throttles([], BEGAN) == []
    assert timeline.swaps([]) == []
    assert timeline.hot_share([]) is None


def test_report_takes_a_pause_in_the_window_for_no_swap() -> None:
    steps = [("backfilling", "ready"), ("ready", "completed"), ("completed", "paused"), ("paused", "completed"),
             ("completed", "rolled_back"), ("rolled_back", "backfilling"), ("ready", "completed"),
             ("completed", "paused"), ("paused", "rolled_back")]  # fmt: skip
    moves = [Move(BEGAN + timedelta(hours=n), old, new, "", "x") for n, (old, new) in enumerate(steps)]
    assert [each.what for each in timeline.swaps(moves)] == ["cutover", "rollback", "cutover", "rollback"]
    spans = timeline.statuses(moves, BEGAN + timedelta(hours=20))
    assert [each.what for each in spans] == [new for _, new in steps]
    assert spans[-1].seconds == 12 * 3600


# Both spaces in a plane


def test_report_projection_tells_two_spaces_of_equal_dimensions_apart() -> None:
    random = np.random.default_rng(3)
    old = random.standard_normal((60, 32)).astype(np.float32) + 2
    new = random.standard_normal((60, 32)).astype(np.float32) - 2
    made = projection.make(old, new)
    assert made is not None
    assert made.joint is not None
    first = np.array(made.joint.points)[:, 0]
    assert max(first[:60].max(), first[60:].max()) == pytest.approx(1, abs=0.2)
    assert (first[:60] > 0).all() is not (first[60:] > 0).all()
    assert projection.make(old, new) == made, "the same rows, the same picture"
    assert np.abs(np.array(made.old.points)).max() <= 1
    assert 0 < made.old.share < 0.5


def test_report_projection_of_other_dimensions_has_no_joint_plane() -> None:
    random = np.random.default_rng(3)
    old, new = random.standard_normal((9, 8)).astype(np.float32), random.standard_normal((9, 5)).astype(np.float32)
    made = projection.make(old, new)
    assert made is not None
    assert made.joint is None
    assert projection.make(old[:2], new[:2]) is None
    zeros = np.zeros((5, 4), dtype=np.float32)
    assert projection.make(zeros, zeros) is not None, "no division by nothing"


def test_report_json_has_the_samples_and_reads_back() -> None:
    told = json.loads(console.json_text(whole().as_json()))
    assert len(told["samples"]) == len(reports.samples())
    assert told["samples"][0]["spent_usd"] > 0
    assert told["dispositions"][0] == {"kind": "quarantined", "reason": "content", "rows": 12}
    assert told["verdicts"][1]["waived_by"] == "ana@ops-1"


def test_report_says_the_essential_first() -> None:
    told = summary.sentences(whole())
    assert told[0].startswith("752,600 of 752,900 rows were embedded anew")
    assert any("paused once for 42 min 0 s" in each for each in told)
    values = {each.name: (each.value, each.tone) for each in summary.tiles(whole())}
    assert values["Gates passed"] == ("9 of 10", "warn")
    assert values["Search quality (nDCG@10)"] == ("+0.041", "good")
    assert values["Pace"][0] == "38 rows/s"
    assert values["HOT updates"][0] == "84.1 %"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (42, "42 s"), (303, "5 min 3 s"), (19_860, "5 h 31 min"), (266_400, "3 d 2 h")],
)
def test_report_times_are_told_for_people(seconds: float, said: str) -> None:
    assert words.span(seconds) == said


def test_p11_report_cuts_the_keys_out_of_what_gates_and_sentinel_said() -> None:
    for told in ("a gate failed: structure is 2 against 0 (rows at fault: 2 zero [secret ]x; other], 0 shared)",
                 "a gate failed: sentinel is 2 against 0 (2 of 9; keys: secret; other)",
                 "sentinel: shop (role app) wrote 2 vectors of x; keys: secret; other ..."):  # fmt: skip
        cut = reasons.without_keys(told)
        assert cut is not None
        assert "secret" not in cut
        assert "other" not in cut
        assert cut.startswith(told[:20])
    assert reasons.without_keys("paused for [OPS-1]") == "paused for [OPS-1]"


# Where it goes


def test_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "docs.html"
    output.write(target, "first")
    output.write(target, "second \N{EN DASH}")
    assert target.read_text(encoding="utf-8") == "second \N{EN DASH}"
    with pytest.raises(output.ReportNotWritten, match="it is a folder"):
        output.write(tmp_path, "third")
    with pytest.raises(output.ReportNotWritten, match="No such file"):
        output.write(tmp_path / "nowhere" / "docs.html", "third")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(output.ReportNotWritten, match="No space left"):
        output.write(target, "third")
    assert [path.name for path in tmp_path.iterdir()] == ["docs.html"]
    assert target.read_text(encoding="utf-8").startswith("second")


def test_the_demo_s_report_has_a_place_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert story._page(None) == tmp_path / ".demo" / "pgvector-migrator-demo.html"
    assert story._page(Path("x.html")) == tmp_path / "x.html"
    (tmp_path / ".demo").rmdir()
    (tmp_path / ".demo").write_text("in the way")
    assert story._page(None).parent == Path(tempfile.gettempdir())
