"""`compare`: both models and both columns side by side, what it costs, and when it says no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrator.cli import compare as verb
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import compare
from migrator.orchestrator.compare import SwappedMeanwhile
from migrator.queries import Query
from migrator.spending.worker import Worker
from migrator.state.budget import CapReached
from migrator.validation import comparing
from tests.deployment import Deployment
from tests.integration.steps import begin, ready, stored, to
from tests.integration.swaps import cut_over, roll_back

S = MigrationStatus
ROWS = 60
#: A canary: no output may hold it.
WORD = "gamma17"


def write(deployment: Deployment, *, judged: bool = True) -> Path:
    """Queries that each know their row: its words."""
    path = deployment.home / "queries.jsonl"
    lines = []
    for number in (5, 17, 30, 42):
        title, body = deployment.words(number)
        lines.append({"text": f"{title} {body}", **({"relevant": [number]} if judged else {})})
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def compared(deployment: Deployment, path: Path, *words: str) -> Any:
    return json.loads(deployment.must("compare", "docs", "--queries", path, "--yes", "--json", *words))


def spent(deployment: Deployment) -> int:
    query = "SELECT coalesce(sum(spent_tokens), 0)::bigint FROM migrator.ledger WHERE purpose = 'validation'"
    return int(deployment.value(query))


@pytest.mark.timeout(180)
async def test_compare_tells_the_same_before_the_swap_and_after_it_and_back(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, ROWS)
    path = write(deployment)
    before, bill = spent(deployment), deployment.simulator.ledger()["tokens"]
    found = compared(deployment, path)
    assert spent(deployment) - before == deployment.simulator.ledger()["tokens"] - bill > 0, "paid, and as validation"
    assert (found["asked"], found["compared"], found["refused"]) == (4, 4, [])
    assert sorted(each["query"] for each in found["queries"]) == [1, 2, 3, 4]
    assert all(len(each["old"]) == len(each["new"]) == 10 for each in found["queries"])
    assert all(each["reciprocal_ranks"] == [1.0, 1.0] for each in found["queries"]), "each finds its own row first"
    assert found["mrr"]["old"] == found["mrr"]["new"] == 1.0
    overlaps = [each["overlap"] for each in found["queries"]]
    assert overlaps == sorted(overlaps), "least alike first"
    assert found["overlap"] == pytest.approx(sum(overlaps) / 4)
    assert all(found["latency_ms"][side]["p95"] >= found["latency_ms"][side]["p50"] > 0 for side in ("old", "new"))
    assert "docs_embedding_idx" in found["searched_by"]
    assert WORD not in json.dumps(found)
    await cut_over(worker)
    assert compared(deployment, path)["queries"] == found["queries"], "old is the old model's, whatever its column"
    await roll_back(worker)
    assert compared(deployment, path)["queries"] == found["queries"]
    assert deployment.status == "rolled_back"
    assert deployment.query("SELECT 1 FROM migrator.duties WHERE duty = 'compare' AND status = 'leased'") == []


async def test_compare_shows_texts_on_a_terminal_only_and_shortened(
    deployment: Deployment, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    await ready(deployment, worker, ROWS)
    path = write(deployment, judged=False)
    said = deployment.must("compare", "docs", "--queries", path, "--yes", "--show", "2")
    assert "4 of 4" in said
    assert said.count("query ") == 4, "two of the least alike, two of the most"
    assert "MRR" not in said
    assert WORD not in said
    log = "".join(each.read_text() for each in deployment.home.glob("*.log"))
    assert WORD not in log
    migration = await compare.comparable(worker, "docs")
    queries = [Query(f"{WORD} \x1b[31m{'long ' * 40}", None)]
    verb._tell(await compare.run(worker, migration, queries), queries, 1)
    shown = capsys.readouterr().out
    assert f"{WORD}  [31mlong" in shown, "and it can't move the cursor"
    assert max(map(len, shown.splitlines())) < 120


async def test_compare_lists_what_got_worse_and_what_got_better(
    deployment: Deployment, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    await ready(deployment, worker, ROWS)
    with deployment.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE docs DISABLE TRIGGER USER")
        for column, key in (("embedding", 17), ("embedding__migrator", 30)):
            another = f"(SELECT {column} FROM docs WHERE id = 1)"
            connection.execute(f"UPDATE docs SET {column} = {another} WHERE id = {key}".encode())
    migration = await compare.comparable(worker, "docs")
    queries = compare.from_file(migration, write(deployment))
    found = await compare.run(worker, migration, queries)
    assert [each.number for each in found.by_gain() if each.gain < 0] == [3]
    assert [each.number for each in found.by_gain() if each.gain > 0] == [2]
    verb._tell(found, queries, 5)
    shown = capsys.readouterr().out
    worse, better = shown.index("worse than before"), shown.index("better than before")
    assert worse < shown.index("query 3: ") < better < shown.index("query 2: ")


async def test_compare_draws_real_queries_from_a_table(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE TABLE searches (id int, "the text" text);
            INSERT INTO searches SELECT n, 'title ' || n % 20 FROM generate_series(1, 200) n;
            INSERT INTO searches VALUES (0, NULL), (-1, '  ');
            CREATE VIEW seen AS SELECT * FROM searches; ANALYZE searches;
        """)
    words = ("compare", "docs", "--from-table", "public.searches.the text", "--sample", "8")
    before = spent(deployment)
    told = json.loads(deployment.must(*words, "--dry-run", "--json"))
    assert told["queries"] == 8
    assert told["usd"] > 0
    assert "Nothing was asked" in deployment.must(*words, "--dry-run")
    assert "--yes was not given" in deployment.must(*words, code=2)
    assert spent(deployment) == before
    assert json.loads(deployment.must(*words, "--yes", "--json"))["compared"] == 8
    for place, why in (
        ("public.nothing.text", "there is no such table"),
        ("public.seen.id", "there is no such table"),
        ("public.searches.body", "the table has no such column"),
        ("searches", "it does not name a schema, a table and a column"),
    ):
        said = deployment.must("compare", "docs", "--from-table", place, "--yes", code=2)
        assert f"No query texts can be drawn from {place}: {why}" in said


async def test_compare_refuses_what_it_can_not_do_and_says_so(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 20)
    path = write(deployment)
    said = deployment.must("compare", "docs", "--queries", path, "--yes", code=2)
    assert "`compare` needs docs to be ready, or live with the old column still there, and it is backfilling" in said
    await to(worker, S.READY)
    deployment.must("compare", "docs", code=2)
    deployment.must("compare", "docs", "--queries", path, "--from-table", "a.b.c", code=2)
    path.write_text('{"text": "red bicycle"\n{"text": ""}\n', encoding="utf-8")
    said = deployment.must("compare", "docs", "--queries", path, "--yes", code=2)
    assert "queries.jsonl:1: it is no JSON" in said
    assert "queries.jsonl:2: its text is missing or empty" in said
    assert 'bicycle"\n' not in said
    deployment.must("limits", "docs", "--max-cost", "0")
    deployment.must("compare", "docs", "--queries", write(deployment), "--yes", code=4)


async def test_p1_compare_tells_nothing_of_columns_that_changed_places(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it found would be told of the wrong column; the queries are paid for, and it says so."""
    await ready(deployment, worker, 20)
    original = comparing.compare

    async def and_somebody_cuts_over(*args: Any, **options: Any) -> Any:
        found = await original(*args, **options)
        await cut_over(worker)
        return found

    monkeypatch.setattr(comparing, "compare", and_somebody_cuts_over)
    migration, before = await stored(worker), spent(deployment)
    with pytest.raises(SwappedMeanwhile, match="stay paid for"):
        await compare.run(worker, migration, [Query("red bicycle", None)])
    assert spent(deployment) > before
    assert deployment.query("SELECT 1 FROM migrator.duties WHERE duty = 'compare' AND status = 'leased'") == []


async def test_p7_compare_stops_at_the_cap(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    deployment.query("UPDATE migrator.budgets SET max_usd = committed_usd RETURNING 1")
    migration = await stored(worker)
    bill = deployment.simulator.ledger()["tokens"]
    with pytest.raises(CapReached):
        await compare.run(worker, migration, [Query("red bicycle", None)])
    assert deployment.simulator.ledger()["tokens"] == bill
