"""The live database stays healthy while rows are re-embedded (P12)."""

from __future__ import annotations

from migrator.lifecycle import MigrationStatus
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration.steps import start, to

ROWS = 1400
_TABLE = """
CREATE TABLE docs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, body text,
                   filler text STORAGE PLAIN, embedding vector(1024));
CREATE INDEX docs_embedding_idx ON docs USING hnsw (embedding vector_cosine_ops);
CREATE INDEX docs_title_idx ON docs (title);
"""


async def test_p12_the_backfill_keeps_its_updates_hot(deployment: Deployment, worker: Worker) -> None:
    """At most one row of a page in a transaction: the first leaves its page, pruning makes room for all others."""
    deployment.make_table(0, _TABLE)
    for side in ("from", "to"):
        deployment.spec_data[side]["dimensions"] = 1024
    with deployment.connect() as connection:
        connection.execute(
            "INSERT INTO docs (title, body, filler)"
            " SELECT 'title ' || i, 'body ' || i, repeat('x', 1080) FROM generate_series(1, %s) i",
            [ROWS],
        )
        connection.execute("VACUUM ANALYZE docs")
        connection.execute("SELECT pg_stat_reset()")
    pages = deployment.value("SELECT pg_relation_size('docs') / 8192")
    await start(deployment, worker)
    await to(worker, MigrationStatus.INDEXING)
    await worker.engine.dispose()  # a session's counters are told when it ends
    counters = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'docs'"
    # The rehearsal's two updates, without the column and with it, were rolled back, and are counted all the same.
    deployment.wait(lambda: deployment.query(counters)[0][0] >= ROWS)
    updates, hot = deployment.query(counters)[0]
    assert updates <= ROWS + 2
    ceiling = 1 - pages / ROWS
    assert hot / updates >= 0.95 * ceiling, f"{hot} of {updates} were HOT, with {ROWS / pages:.1f} rows a page"
    grown = deployment.value("SELECT pg_relation_size('docs') / 8192") / pages
    assert grown <= 1 + 1.2 * pages / ROWS, f"the heap grew {grown:.2f}-fold"
