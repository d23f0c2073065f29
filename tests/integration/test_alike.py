"""What is set for the live column holds for the other one too, and what is reset; names that look like our quotes."""

from __future__ import annotations

import pytest
from psycopg import sql as psql

from migrator import statements
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from tests.deployment import V3, V4, Deployment
from tests.integration.steps import start, to
from tests.integration.swaps import cut_over, quiet, roll_back

pytestmark = pytest.mark.timeout(120)
S = MigrationStatus
SET = """
SELECT attname, coalesce(attstattarget, -1), attoptions FROM pg_attribute
 WHERE attrelid = 'docs'::regclass AND attname LIKE 'embedding%%' ORDER BY attname
"""


async def test_what_is_reset_on_the_live_column_is_reset_on_the_other(deployment: Deployment, worker: Worker) -> None:
    """Set before the start and reset behind it: after the swap the column of that name must be as it was reset."""
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET STATISTICS 7")
        connection.execute("ALTER TABLE docs ALTER embedding SET (n_distinct = -0.5, n_distinct_inherited = -0.25)")
    await start(deployment, worker)
    options = ["n_distinct=-0.5", "n_distinct_inherited=-0.25"]
    assert deployment.query(SET) == [("embedding", 7, options), ("embedding__migrator", 7, options)]
    await to(worker, S.READY)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding SET STATISTICS -1")
        connection.execute("ALTER TABLE docs ALTER embedding RESET (n_distinct)")
    await cut_over(worker)
    kept = ["n_distinct_inherited=-0.25"]
    assert deployment.query(SET) == [("embedding", -1, kept), ("embedding__migrator", -1, kept)]
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ALTER embedding RESET (n_distinct_inherited)")
    await roll_back(worker)
    assert [options for _, _, options in deployment.query(SET)] == [None, None]


async def test_names_that_hold_our_quotes_are_names_as_others_are(deployment: Deployment, worker: Worker) -> None:
    """Our blocks are quoted by dollars, and names that stand in them may hold such a quote."""
    deployment.make_table(12)
    tags = "$locks$ $exchange$ $alike$ $check$ $capture$ $behind$ $move$"
    with deployment.connect() as connection:
        for each in (
            "CREATE INDEX {} ON docs USING hnsw (embedding vector_ip_ops)",
            "ALTER TABLE docs ADD CONSTRAINT {} CHECK (embedding IS NULL OR vector_norm(embedding) < 2)",
            "CREATE VIEW {} AS SELECT id, embedding FROM docs",
        ):
            connection.execute(psql.SQL(each).format(psql.Identifier(f"{each[:9]}{tags}"[:63])))
    await start(deployment, worker)
    await to(worker, S.READY)
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []
    await roll_back(worker)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor=tags, tell=quiet)
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.status == "cleaned"


@pytest.mark.parametrize("value", [psql.Identifier("a$turn$b"), psql.Literal("a$turn$b"), psql.Literal(["$turn$"])])
def test_a_block_is_quoted_by_what_nothing_in_it_holds(value: psql.Composable) -> None:
    parts = {name: psql.Literal(1) for name in ("turn", "epoch", "status")}
    made = statements.compose("cutover/capture_off.sql", "turn", {**parts, "migration_id": value}).as_string()
    quote = made.split()[1]
    assert quote != "$turn$"
    assert made.count(quote) == 2, "at the block's ends, and nowhere in between"
    assert made.startswith(f"DO {quote}")
    assert made.endswith(quote)
