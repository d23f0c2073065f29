"""The gates before cutover: for each of them a table, an index, a model or a book that it alone catches."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from migrator.demo.simulator.backends import Deterministic
from migrator.errors import GateFailed
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.state import verdicts
from migrator.state.connection import transaction
from migrator.validation import books, latency
from migrator.validation.searching import BY_INDEX, Found, Searcher
from tests.deployment import DIMS, V3, V4, Deployment
from tests.integration.steps import ready, start, stored, to

S = MigrationStatus
#: What the gates ask for where nothing is said: the tests' deployment asks for less.
DEFAULTS = {"assignment_sample": 50, "search_sample": 30, "known_items": 30}


def strict(deployment: Deployment, **gates: Any) -> None:
    deployment.spec_data["gates"] = {**DEFAULTS, **gates}


async def judged(worker: Worker) -> dict[str, Any]:
    """Each gate's newest verdict."""
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        return {row.gate: row for row in await verdicts.newest(connection, migration.id)}


async def failing(worker: Worker) -> set[str]:
    """Validate again; the gates that fail."""
    with pytest.raises(GateFailed):
        await attended.validate(worker, "docs", actor="test")
    return {gate for gate, row in (await judged(worker)).items() if not row.passed}


def behind_our_back(deployment: Deployment, *statements: str) -> None:
    """Change the table without the triggers: what a restore, a bug or a superuser does."""
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs DISABLE TRIGGER USER")
        for statement in statements:
            connection.execute(statement.encode())
        connection.execute("ALTER TABLE docs ENABLE TRIGGER USER")
        connection.execute("ALTER TABLE docs ENABLE ALWAYS TRIGGER zzzz_capture__migrator")


async def test_every_gate_passes_a_clean_table(deployment: Deployment, worker: Worker) -> None:
    strict(deployment)
    await ready(deployment, worker, 200)
    found = await judged(worker)
    assert list(found) == list(verdicts.GATES)
    assert all(row.passed for row in found.values())


async def test_gate_assignment_alone_catches_stale_texts_and_a_shifted_batch(
    deployment: Deployment, worker: Worker
) -> None:
    strict(deployment, assignment_sample=80, known_items=80)
    await ready(deployment, worker, 80)
    behind_our_back(deployment, "UPDATE docs SET body = 'quite another text' WHERE id IN (79, 80)")
    assert await failing(worker) == {"assignment"}
    assert (await judged(worker))["assignment"].detail.startswith("2 of 80 sampled rows hold another text's vector")
    behind_our_back(
        deployment,
        """UPDATE docs d SET body = s.body FROM docs s WHERE d.id IN (79, 80) AND s.id = 1""",
        """UPDATE docs d SET embedding__migrator = s.embedding__migrator FROM docs s
            WHERE d.id <= 3 AND s.id = 1 + d.id % 3""",
    )
    assert await failing(worker) == {"assignment"}


async def test_gate_assignment_learns_the_providers_own_jitter_first_and_a_shifted_row_still_fails(
    deployment: Deployment, worker: Worker
) -> None:
    """What batching does to some servers: a text's vector depends on its place in the request, never twice alike."""
    deployment.simulator.admin(jitter=0.007)
    strict(deployment, assignment_sample=80, known_items=80)
    await ready(deployment, worker, 80, anew=True)
    row = (await judged(worker))["assignment"]
    assert row.passed
    assert row.figure < 0.999, "the fixed threshold would have failed it"
    assert 0.99 <= row.threshold < 0.999
    assert "fewer than 3.8 % of all rows do, at 95 %; 20 texts asked twice: cosine 0.99" in row.detail
    assert f"so {row.threshold:.5f} is asked for and not 0.999" in row.detail
    behind_our_back(
        deployment,
        """UPDATE docs d SET embedding__migrator = s.embedding__migrator FROM docs s
            WHERE d.id <= 3 AND s.id = 1 + d.id % 3""",
    )
    assert await failing(worker) == {"assignment"}
    assert (await judged(worker))["assignment"].detail.startswith("3 of 80 sampled rows hold another text's vector")


async def test_gate_assignment_asks_a_steady_provider_for_all_that_is_wanted(
    deployment: Deployment, worker: Worker
) -> None:
    strict(deployment)
    await ready(deployment, worker, 60)
    row = (await judged(worker))["assignment"]
    assert (row.passed, row.threshold) == (True, 0.999)
    assert row.detail.endswith("; 20 texts asked twice: cosine 1.00000 at the lowest")


async def test_gate_churn_alone_catches_shuffled_rows_and_a_copied_column(
    deployment: Deployment, worker: Worker
) -> None:
    strict(deployment)
    await ready(deployment, worker, 120)
    behind_our_back(
        deployment,
        """UPDATE docs d SET embedding = s.embedding FROM docs s
            WHERE s.id = 1 + (d.id * 37) % 120 AND s.id <> d.id""",
    )
    assert await failing(worker) == {"churn"}
    row = (await judged(worker))["churn"]
    assert row.figure < row.threshold
    assert "little more than chance" in row.detail
    behind_our_back(deployment, "UPDATE docs SET embedding = embedding__migrator")
    assert await failing(worker) == {"churn", "sentinel"}, "that one by each vector, this one by what is found"
    row = (await judged(worker))["churn"]
    assert row.figure == 1.0
    assert row.figure > row.threshold
    assert "one column holds the other's vectors" in row.detail


_NOISE = "(SELECT array_agg((random() - 0.5) / 8 + 0 * (g + i + id)) FROM generate_series(1, 64) i)::real[]::vector"


async def test_gate_ann_recall_alone_catches_a_weak_index(deployment: Deployment, worker: Worker) -> None:
    """Rows out of scope make the table large enough for an index to be worth something."""
    deployment.spec_data["target"]["where"] = "n = 0"
    # What the index does not find, nobody finds: `quality` and `churn` are told to let that pass here.
    strict(deployment, ef_search=200, quality_tolerance=1.0, min_overlap=0.0)
    await ready(deployment, worker, 100)
    behind_our_back(
        deployment,
        f"""INSERT INTO docs (title, body, n, embedding, embedding__migrator)
            SELECT 'filler', 'filler', 1, embedding + {_NOISE}, embedding__migrator + {_NOISE}
              FROM docs, generate_series(1, 15) g""",
        "DROP INDEX docs_embedding_idx__migrator",
        "CREATE INDEX docs_embedding_idx__migrator ON docs USING hnsw (embedding__migrator vector_cosine_ops)"
        " WITH (m = 2, ef_construction = 4)",
    )
    assert await failing(worker) == {"ann_recall"}
    row = (await judged(worker))["ann_recall"]
    assert row.figure < row.threshold
    assert "at hnsw.ef_search 200" in row.detail


async def test_gate_ann_recall_tells_a_row_that_came_in_between_from_a_miss(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of every row, written between the search by the index and the exact one: no index could have found it."""
    # The copies move what known items find, too.
    strict(deployment, quality_tolerance=1.0, min_overlap=0.0)
    await ready(deployment, worker, 60)
    original, seen = Searcher.find, set()

    async def find(
        self: Searcher, side: Side, queries: NDArray[np.float32], settings: dict[str, str] | None = None
    ) -> list[Found]:
        found = await original(self, side, queries, settings)
        if settings == BY_INDEX and side not in seen:
            seen.add(side)
            columns = "title, body, embedding, embedding__migrator"
            behind_our_back(deployment, f"INSERT INTO docs ({columns}) SELECT {columns} FROM docs WHERE id <= 60")
        return found

    monkeypatch.setattr(Searcher, "find", find)
    await attended.validate(worker, "docs", actor="test")
    row = (await judged(worker))["ann_recall"]
    assert len(seen) == 2
    assert "old 1.000, new 1.000" in row.detail


async def test_gate_latency_looks_again_before_it_says_no(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was busy for all tries of one column, once."""
    strict(deployment)
    await ready(deployment, worker, 40)
    original, rounds = latency._times, 0

    async def times(*args: Any) -> tuple[list[float], list[float]]:
        nonlocal rounds
        rounds += 1
        old, new = await original(*args)
        return old, [each + (50.0 if rounds == 1 else 0.0) for each in new]

    monkeypatch.setattr(latency, "_times", times)
    await attended.validate(worker, "docs", actor="test")
    assert rounds >= 2
    assert (await judged(worker))["latency"].figure < 2


async def test_gate_latency_alone_catches_a_column_without_its_index(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["target"]["where"] = "n = 0"
    strict(deployment, latency_slack_ms=1.0)
    await ready(deployment, worker, 100)
    behind_our_back(
        deployment,
        "INSERT INTO docs (title, body, n) SELECT 'filler', 'filler', 1 FROM generate_series(1, 60000)",
        "DROP INDEX docs_embedding_idx__migrator",
    )
    with deployment.connect() as connection:
        connection.execute("VACUUM ANALYZE docs")
    assert await failing(worker) == {"latency"}
    assert (await judged(worker))["latency"].figure > 2


@pytest.mark.parametrize(
    ("old", "new", "passes"),
    [
        ([10.0] * 20, [19.0] * 20, True),
        ([10.0] * 20, [21.0] * 20, False),
        ([0.5] * 20, [4.0] * 20, True),  # nobody notices
        ([10.0] * 20, [10.0] * 10 + [40.0] * 10, False),  # the slow half counts
        ([], [], True),
    ],
)
def test_gate_latency_goes_by_the_95th_percentile(old: list[float], new: list[float], passes: bool) -> None:  # noqa: FBT001
    assert latency.decide(old, new, limit=2.0, slack_ms=5.0)[1] is passes


def ranks(model: str, queries: list[str], texts: list[str]) -> NDArray[np.int64]:
    """At which place, from 0, each query finds the text of the same position."""
    made = Deterministic()
    cosines = made.embed(model, queries, DIMS) @ made.embed(model, texts, DIMS).T
    own: NDArray[np.int64] = (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    return own


def write_queries(deployment: Deployment, texts: list[str], keys: list[int]) -> None:
    lines = [json.dumps({"text": text, "relevant": [key]}) for text, key in zip(texts, keys, strict=True)]
    (deployment.home / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


async def test_gate_quality_alone_catches_a_worse_model(deployment: Deployment, worker: Worker) -> None:
    """Judged queries that the old model answers and the new one does not; all vectors are right."""
    rows = 150
    texts = ["\n".join(deployment.words(number)) for number in range(1, rows + 1)]
    asked = [deployment.words(number)[0] for number in range(1, rows + 1)]
    old, new = ranks(V3, asked, texts), ranks(V4, asked, texts)
    worse = np.flatnonzero((old == 0) & (new >= 3))
    assert len(worse) >= 10
    write_queries(deployment, [asked[place] for place in worse], [int(place) + 1 for place in worse])
    strict(deployment, queries="queries.jsonl")
    await start_to_ready(deployment, worker, rows, fails="quality")
    row = (await judged(worker))["quality"]
    assert {gate for gate, each in (await judged(worker)).items() if not each.passed} == {"quality"}
    assert row.figure < row.threshold == -0.1
    assert row.sample == len(worse)
    assert f"{len(worse)} judged queries" in row.detail
    assert "nDCG@10 1.000 -> 0." in row.detail


async def test_gate_quality_passes_a_better_model_and_says_which_slice_falls(
    deployment: Deployment, worker: Worker
) -> None:
    """Better on the whole, and worse for the long queries: it passes, and says so."""
    rows = 200
    texts = ["\n".join(deployment.words(number)) for number in range(1, rows + 1)]
    asked = [deployment.words(number)[0] for number in range(1, rows + 1)]
    long = [f"{each} {'!' * 40}" for each in asked]
    better = np.flatnonzero((ranks(V3, asked, texts) >= 1) & (ranks(V4, asked, texts) == 0))
    worse = np.flatnonzero((ranks(V3, long, texts) == 0) & (ranks(V4, long, texts) >= 3))[:10]
    assert len(better) >= 2 * len(worse) >= 20
    write_queries(
        deployment,
        [asked[place] for place in better] + [long[place] for place in worse],
        [int(place) + 1 for place in [*better, *worse]],
    )
    strict(deployment, queries="queries.jsonl")
    await start_to_ready(deployment, worker, rows)
    assert "long queries fall: -" in (await judged(worker))["quality"].detail


async def start_to_ready(deployment: Deployment, worker: Worker, rows: int, *, fails: str | None = None) -> None:
    deployment.make_table(rows)
    await start(deployment, worker)
    if fails is None:
        await to(worker, S.READY)
        return
    with pytest.raises(GateFailed, match=fails):
        await to(worker, S.READY)


async def test_gate_quality_fails_when_the_old_model_is_gone(deployment: Deployment, worker: Worker) -> None:
    """Nothing can be compared then: somebody has to say so and sign it."""
    strict(deployment)
    deployment.spec_data["from"]["api_key_env"] = "A_KEY_THAT_WAS_REVOKED"
    await start_to_ready(deployment, worker, 60, fails="quality")
    assert {gate for gate, row in (await judged(worker)).items() if not row.passed} == {"quality"}
    assert "the old model can't be asked" in (await judged(worker))["quality"].detail


async def test_gate_budget_alone_catches_books_that_do_not_fit(deployment: Deployment, worker: Worker) -> None:
    strict(deployment)
    await ready(deployment, worker, 60)
    deployment.query("UPDATE migrator.budgets SET committed_usd = committed_usd + 0.01 RETURNING 1")
    assert await failing(worker) == {"budget"}
    assert (await judged(worker))["budget"].figure == pytest.approx(0.01)


async def test_gate_canary_fails_when_it_moved_meanwhile(deployment: Deployment, worker: Worker) -> None:
    """Whoever validates asks it first, and stops there; a worker may find it moved while other gates are measured."""
    migration = await ready(deployment, worker, 20)
    lease: Any = None
    (row,) = await books.unchanged(worker, migration, lease, 1)
    assert row.passed
    deployment.query("UPDATE migrator.canaries SET moved_at = now(), moved_cosine = 0.4 RETURNING 1")
    (row,) = await books.unchanged(worker, migration, lease, 1)
    assert (row.passed, row.figure, row.threshold) == (False, 0.4, 0.999)


async def test_a_search_that_had_no_time_says_so_and_passes_nothing(deployment: Deployment, worker: Worker) -> None:
    strict(deployment, search_seconds=0.000001)
    await start_to_ready(deployment, worker, 60, fails="ann_recall")
    found = await judged(worker)
    assert {gate for gate, row in found.items() if not row.passed} == {"ann_recall", "churn", "latency", "quality"}
    assert "cut short after 1e-06 s at 0 of 30" in found["ann_recall"].detail
