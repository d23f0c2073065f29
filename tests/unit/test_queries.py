"""The operator's queries: every line that can't be used is named at once, and no text is quoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrator import queries
from migrator import spec as specs
from migrator.queries import Query
from migrator.spec import SpecInvalid
from migrator.thresholds import GatesSpec

SPEC = """
name = "docs"
[target]
table = "public.docs"
column = "embedding"
text = "{title}"
[from]
model = "old"
dimensions = 8
[to]
model = "new"
dimensions = 8
base_url = "https://api.example/v1"
price_usd_per_mtok = 1.0
[limits]
max_cost_usd = 1.0
[gates]
queries = "queries.jsonl"
"""


def test_judged_queries() -> None:
    lines = '{"text": "red bicycle", "relevant": [17, "18"]}\n\n{"text": "seat", "relevant": [["eu", 3]]}\n'
    assert queries.parse(lines)[0] == [Query("red bicycle", (("17",), ("18",))), Query("seat", (("eu", "3"),))]


def test_queries_without_judgements() -> None:
    assert queries.parse('{"text": "red bicycle"}') == ([Query("red bicycle", None)], [])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("red bicycle", "no JSON"),
        ('["red bicycle"]', "no object"),
        ('{"query": "red bicycle"}', "no such key as query"),
        ('{"relevant": [1]}', "its text is missing"),
        ('{"text": "  "}', "its text is missing"),
        ('{"text": "a", "relevant": []}', "no list of keys"),
        ('{"text": "a", "relevant": 17}', "no list of keys"),
        ('{"text": "a", "relevant": [true]}', "neither a number nor a text"),
        ('{"text": "a", "relevant": [1.5]}', "neither a number nor a text"),
        ('{"text": "a", "relevant": [[1, 2]]}', "has 2 columns, and the table's has 1"),
    ],
)
def test_what_can_not_be_used_is_named_by_its_line(line: str, why: str) -> None:
    found, problems = queries.parse('{"text": "secret words", "relevant": [1]}\n' + line, 1)
    assert len(found) == 1
    ((number, what),) = problems
    assert number == 2
    assert why in what
    assert "secret" not in what


def test_an_empty_file_and_one_that_is_half_judged() -> None:
    assert queries.parse("\n")[1] == [(1, "there is no query in it")]
    assert "all or none" in queries.parse('{"text": "a"}\n{"text": "b", "relevant": [1]}')[1][0][1]
    many = '{"text": "a"}\n' * (queries.MOST + 1)
    assert "more than 10,000" in queries.parse(many)[1][0][1]


def load(folder: Path, lines: str | bytes | None) -> specs.Spec:
    (folder / "docs.toml").write_text(SPEC, encoding="utf-8")
    if lines is not None:
        (folder / "queries.jsonl").write_bytes(lines.encode() if isinstance(lines, str) else lines)
    return specs.load(folder / "docs.toml")


def test_the_file_lies_beside_the_spec_and_is_read_with_it(tmp_path: Path) -> None:
    spec = load(tmp_path, json.dumps({"text": "a", "relevant": [1]}))
    assert spec.queries == (Query("a", (("1",),)),)
    assert specs.restore(spec.dump()) == spec, "`start` must find the plan that `plan` stored"
    assert specs.restore(spec.dump()).queries == (), "workers have no such file"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (None, "[gates] queries queries.jsonl: it can't be read"),
        (b"\xff\xfe", "[gates] queries queries.jsonl: it is no UTF-8"),
        ('{"text": 1}\nx', "[gates] queries queries.jsonl:2: it is no JSON; write each line as"),
    ],
)
def test_a_file_that_can_not_be_used_is_a_problem_of_the_spec(
    tmp_path: Path, lines: str | bytes | None, said: str
) -> None:
    with pytest.raises(SpecInvalid) as caught:
        load(tmp_path, lines)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"known_items": 0}, {"quality_tolerance": 1.5}, {"search_sample": 0}, {"search_seconds": 0},
        {"ann_recall_tolerance": -0.1}, {"ef_search": 1001}, {"probes": 0}, {"min_overlap": -1}, {"max_overlap": 2},
        {"max_latency_ratio": 0}, {"latency_slack_ms": -1}, {"max_written_share": 0}, {"max_age_hours": 0},
        {"queries": ""},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_thresholds_have_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        GatesSpec(**change)
