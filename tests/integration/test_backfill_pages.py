"""Windows and lanes over tables of every build: few or many rows a page, any key, a heap rewritten in mid-run (P12)."""

from __future__ import annotations

import psycopg
import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.perform import perform
from migrator.spending.worker import Worker
from migrator.target import pages
from tests.deployment import V3, V4, Deployment, generation_of
from tests.integration.steps import begin, drain, first_tickets, start, to

S = MigrationStatus
#: Name -> (columns of the key, their values from a number, the key).
KEYS = {
    "uuid": ("id uuid", "md5(i::text)::uuid", "id"),
    "text": ("id text", "'key, with \"quotes\" ' || i", "id"),
    "composite": ("a int, id text", "i % 3, 'k' || i", "a, id"),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_any_key_goes_to_ready(deployment: Deployment, worker: Worker, kind: str) -> None:
    columns, values, key = KEYS[kind]
    with deployment.connect() as connection:
        connection.execute(f"CREATE TABLE docs ({columns}, title text, body text, embedding vector(64))".encode())
        connection.execute(f"ALTER TABLE docs ADD PRIMARY KEY ({key})".encode())
        connection.execute(
            f"INSERT INTO docs SELECT {values}, 't', 'body ' || i FROM generate_series(1, 40) AS i".encode()
        )
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    rows = deployment.query("SELECT title || E'\n' || body, embedding__migrator::real[] FROM docs")
    assert [text for text, vector in rows if generation_of(vector, text) != V4] == []
    assert deployment.billed() == deployment.needed_tokens()


@pytest.mark.parametrize(("filler", "rows"), [(7000, 60), (2300, 150), (10, 900)], ids=["1", "3", "about 70"])
async def test_p12_rows_of_one_page_never_share_a_transaction(
    deployment: Deployment, worker: Worker, filler: int, rows: int
) -> None:
    """By the transaction that wrote each row: none wrote two rows of the page on which they had been read."""
    with deployment.connect() as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, embedding vector(64))")
        connection.execute("ALTER TABLE docs ADD filler text STORAGE PLAIN")
        connection.execute(
            "INSERT INTO docs SELECT i, 't', 'body ' || i, NULL, repeat('x', %s) FROM generate_series(1, %s) AS i",
            [filler, rows],
        )
        connection.execute("CREATE TABLE was AS SELECT id, (ctid::text::point)[0]::int AS page FROM docs")
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    count, heap_pages = deployment.query("SELECT count(embedding__migrator), max(w.page) + 1 FROM docs, was w")[0]
    assert count == rows * rows
    widest = deployment.value("SELECT max(last_page - first_page + 1) FROM migrator.batches WHERE pass_number = 1")
    assert widest <= pages.width(heap_pages, rows)
    shared = deployment.query(
        "SELECT d.xmin::text, w.page, count(*) FROM docs d JOIN was w USING (id) GROUP BY 1, 2 HAVING count(*) > 1"
    )
    # One answer of ten texts may come round to a page again where the window is narrower than that.
    assert heap_pages < 10 or shared == []


async def test_cluster_in_mid_run_cuts_new_windows(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 80)
    (ticket,) = await first_tickets(worker)
    with deployment.connect() as connection:
        connection.execute("CREATE INDEX by_body ON docs (body DESC)")
        connection.execute("CLUSTER docs USING by_body")
    assert (await perform(worker, ticket)).startswith("0 rows"), "its pages mean nothing any more"
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert dict(deployment.query("SELECT purpose, spent_tokens FROM migrator.ledger"))["backfill"] == (
        deployment.needed_tokens()
    )


async def test_rows_that_move_under_the_windows_are_all_found(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    await begin(deployment, worker, 250)
    tickets = await first_tickets(worker)
    for number, ticket in enumerate(tickets):
        # Every row is moved by an update that bills nothing, and rows change places through vacuumed room.
        sql.execute("UPDATE docs SET n = n + 1 WHERE id %% 3 = %s", [number % 3])
        sql.execute("VACUUM docs")
        await perform(worker, ticket)
    await to(worker, S.INDEXING)
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.mismatches("embedding", V3) == []
