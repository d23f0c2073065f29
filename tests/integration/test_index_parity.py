"""Index parity: the shadow column has every index that the live one has, whatever its kind, and they change places."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.orchestrator.perform import perform
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from migrator.target import build, index
from migrator.target.relation import suffixed
from tests.deployment import V3, V4, Deployment
from tests.integration.steps import begin, first_tickets, ready, start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back

S = MigrationStatus
LONG = "an_index_with_a_name_that_is_as_long_as_postgresql_keeps_of_a"
KINDS = f"""
CREATE SCHEMA other;
CREATE FUNCTION other.embedding(public.vector) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT public.vector_norm($1)';
CREATE INDEX hnsw_ip ON docs USING hnsw (embedding vector_ip_ops) WITH (m = 8, ef_construction = 40);
CREATE INDEX hnsw_half ON docs USING hnsw ((embedding::halfvec(64)) halfvec_cosine_ops) WITH (ef_construction = 33);
CREATE INDEX hnsw_bits ON docs USING hnsw ((binary_quantize(embedding)::bit(64)) bit_hamming_ops);
CREATE INDEX hnsw_some ON docs USING hnsw (embedding vector_l1_ops)
    WHERE n = 0 AND embedding IS NOT NULL AND title <> 'the "embedding" of ''embedding''';
CREATE INDEX lists_ip ON docs USING ivfflat (embedding vector_ip_ops) WITH (lists = 3);
CREATE INDEX covering ON docs (n DESC NULLS LAST, embedding) INCLUDE (body);
CREATE INDEX covered ON docs (title COLLATE "C" text_pattern_ops) INCLUDE (embedding) WITH (fillfactor = 70);
CREATE INDEX norms ON docs (other.embedding(embedding), ((embedding <-> embedding) + 1))
    WHERE (embedding <#> embedding) < 0;
CREATE INDEX only_where ON docs (id) WHERE embedding IS NULL;
CREATE INDEX {LONG}_1 ON docs USING hnsw (embedding vector_l2_ops);
CREATE INDEX {LONG}_2 ON docs USING hnsw (embedding vector_l2_ops) WITH (m = 9);
CREATE INDEX "An ""embedding"" Index" ON docs USING hnsw (embedding vector_cosine_ops) TABLESPACE elsewhere;
"""
#: name -> what PostgreSQL says of the index, its own name, its column's and what it holds left out.
INDEXES = """
SELECT CASE s.nspname WHEN 'public' THEN '' ELSE s.nspname || '.' END || c.relname,
       replace(replace(pg_get_indexdef(c.oid), format('INDEX %%I ON', c.relname), 'INDEX ON'),
               'embedding__migrator', 'embedding'),
       t.spcname::text, i.indisvalid
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace s ON s.oid = c.relnamespace
  LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
 WHERE i.indrelid::regclass::text LIKE '%%docs%%' AND NOT i.indisprimary
 ORDER BY 1
"""
#: Index -> the columns that it hangs on.
BOUND = """
SELECT d.objid::bigint, array_agg(DISTINCT a.attname::text ORDER BY a.attname::text)
  FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refobjid = 'docs'::regclass GROUP BY 1
"""
OIDS = "SELECT relname::text, oid::bigint FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace"


@contextmanager
def tablespace(deployment: Deployment) -> Iterator[None]:
    with deployment.connect() as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE elsewhere LOCATION ''")
    try:
        yield
    finally:
        with deployment.connect() as connection:
            connection.execute("DROP TABLE docs CASCADE")
            connection.execute("DROP TABLESPACE elsewhere")


async def test_index_parity_of_every_kind_through_cutover_rollback_and_cleanup(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(40)
    # Among them are IVFFlat lists over forty rows, which find half of them by chance.
    deployment.spec_data["gates"]["ann_recall_tolerance"] = 1.0
    with tablespace(deployment):
        with deployment.connect() as connection:
            for statement in KINDS.split(";\n"):
                connection.execute(statement.encode())
        before = deployment.query(INDEXES)
        mine = dict(deployment.query(OIDS))
        assert len(before) == 13
        await start(deployment, worker)
        await to(worker, S.READY)
        both = {name: what for name, *what in deployment.query(INDEXES)}
        assert len(both) == 26, "two long names that begin alike have two twins"
        assert {name: what for name, *what in before}.items() <= both.items(), "the live ones are as they were"
        for name, *what in before:
            assert both[suffixed(name)] == what, name
        bound, oids = dict(deployment.query(BOUND)), dict(deployment.query(OIDS))
        for name, *_ in before:
            twin = sorted(each.replace("embedding", "embedding__migrator") for each in bound[oids[name]])
            assert bound[oids[suffixed(name)]] == twin, name
        await cut_over(worker)
        assert {name: what for name, *what in deployment.query(INDEXES)} == both, "the same names stand"
        swapped = dict(deployment.query(OIDS))
        assert all(swapped[suffixed(name)] == mine[name] != swapped[name] for name, *_ in before)
        await roll_back(worker)
        assert {name: oid for name, oid in deployment.query(OIDS) if name in mine} == mine
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
        assert deployment.query(INDEXES) == before
        assert deployment.mismatches("embedding", V3) == []


PARTED = """
CREATE TABLE docs (id bigint, title text, body text, n int NOT NULL DEFAULT 0, embedding vector(64), PRIMARY KEY (id))
  PARTITION BY RANGE (id);
CREATE TABLE docs_low PARTITION OF docs FOR VALUES FROM (0) TO (20);
CREATE TABLE docs_high PARTITION OF docs FOR VALUES FROM (20) TO (1000);
CREATE INDEX by_half ON docs USING hnsw ((embedding::halfvec(64)) halfvec_cosine_ops) WITH (m = 7)
    WHERE embedding IS NOT NULL;
CREATE INDEX covered ON docs (n) INCLUDE (embedding);
CREATE INDEX lists ON ONLY docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 9);
CREATE INDEX few ON docs_low USING ivfflat (embedding vector_cosine_ops) WITH (lists = 2);
CREATE INDEX more ON docs_high USING ivfflat (embedding vector_cosine_ops) WITH (lists = 3);
ALTER INDEX lists ATTACH PARTITION few;
ALTER INDEX lists ATTACH PARTITION more;
CREATE SCHEMA other;
ALTER TABLE docs_high SET SCHEMA other;
CREATE INDEX alone ON docs_low USING hnsw (embedding vector_l2_ops) WITH (m = 5);
CREATE INDEX alone ON other.docs_high USING hnsw (embedding vector_l2_ops) WITH (m = 6);
"""


async def test_index_parity_of_partitions(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(0, PARTED)
    with deployment.connect() as connection:
        for number in range(1, 41):
            title, body = deployment.words(number)
            connection.execute("INSERT INTO docs (id, title, body) VALUES (%s, %s, %s)", [number, title, body])
    before = deployment.query(INDEXES)
    assert {name for name, *_ in before} == {
        "by_half", "covered", "lists", "few", "other.more", "alone", "other.alone", "docs_low_embedding_idx",
        "docs_low_n_embedding_idx", "other.docs_high_embedding_idx", "other.docs_high_n_embedding_idx",
    }  # fmt: skip
    await start(deployment, worker)
    await to(worker, S.READY)
    both = {name: what for name, *what in deployment.query(INDEXES)}
    for name, *what in before:
        assert both[suffixed(name)] == what, name
    await cut_over(worker)
    assert {name: what for name, *what in deployment.query(INDEXES)} == both
    await roll_back(worker)
    assert {name: what for name, *what in deployment.query(INDEXES)} == both


@contextmanager
def held_up(deployment: Deployment) -> Iterator[psycopg.Connection]:
    """A writer's open transaction, which every CREATE INDEX CONCURRENTLY on the table waits for."""
    with psycopg.connect(deployment.url, application_name="a long writer") as holder:
        holder.execute("UPDATE docs SET n = n + 1 WHERE id = 1")
        yield holder
        holder.rollback()


BUILDING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'migrator index docs' AND state = 'active'"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('docs_embedding_idx__migrator')"


async def test_index_parity_a_build_outlives_its_killed_client_and_is_waited_for(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    with held_up(deployment):
        client = deployment.work()
        await asyncio.to_thread(deployment.wait, lambda: deployment.query(VALID) == [(False,)], client, "the build")
        ((pid,),) = deployment.query(BUILDING)
        oid = deployment.value("SELECT 'docs_embedding_idx__migrator'::regclass::oid::bigint")
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        assert deployment.query(BUILDING) == [(pid,)], "the server goes on without its client"
        taking_over = asyncio.create_task(to(worker, S.READY))
        leased = "SELECT count(*) FROM migrator.duties WHERE duty = 'index' AND status = 'leased' AND holder = %s"
        await asyncio.to_thread(deployment.wait, lambda: deployment.value(leased, worker.holder))
        assert deployment.query(BUILDING) == [(pid,)], "and nobody else begins another"
    await taking_over
    assert deployment.value("SELECT 'docs_embedding_idx__migrator'::regclass::oid::bigint") == oid
    assert deployment.query(VALID) == [(True,)]


async def test_index_parity_a_client_killed_before_its_build_had_the_first_lock_is_waited_for_too(
    deployment: Deployment, worker: Worker
) -> None:
    """No progress is shown yet, and there is no index: the backend is known by its name alone."""
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    oid = deployment.value("SELECT 'docs'::regclass::oid::bigint")
    with psycopg.connect(deployment.url) as holder:
        holder.execute("LOCK TABLE docs IN SHARE UPDATE EXCLUSIVE MODE")
        client = deployment.work()
        await asyncio.to_thread(deployment.wait, lambda: deployment.query(BUILDING), client, "the build")
        ((pid,),) = deployment.query(BUILDING)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        async with transaction(worker.engine) as connection:
            standing = await index.state(connection, oid, "docs_embedding_idx__migrator", build.builder_name("docs"))
        assert standing == (None, pid)
        taking_over = asyncio.create_task(to(worker, S.READY))
        leased = "SELECT count(*) FROM migrator.duties WHERE duty = 'index' AND status = 'leased' AND holder = %s"
        await asyncio.to_thread(deployment.wait, lambda: deployment.value(leased, worker.holder))
        assert deployment.query(BUILDING) == [(pid,)]
        holder.rollback()
    await taking_over
    assert deployment.query(VALID) == [(True,)]


async def test_index_parity_a_worker_that_is_stopped_leaves_the_build_to_the_server(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    with held_up(deployment):
        (ticket,) = await first_tickets(worker)
        working = asyncio.create_task(perform(worker, ticket))
        await asyncio.to_thread(deployment.wait, lambda: deployment.query(VALID) == [(False,)])
        ((pid,),) = deployment.query(BUILDING)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert deployment.query(BUILDING) == [(pid,)]
    await asyncio.to_thread(deployment.wait, lambda: deployment.query(VALID) == [(True,)])
    await to(worker, S.READY)


@pytest.mark.parametrize("alive", [True, False], ids=["with its worker", "with its client dead"])
async def test_index_parity_cancel_ends_our_build_alone_and_leaves_no_invalid_index(
    deployment: Deployment, worker: Worker, *, alive: bool
) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    with held_up(deployment) as holder:
        client = deployment.work()
        await asyncio.to_thread(deployment.wait, lambda: deployment.query(VALID) == [(False,)], client, "the build")
        if not alive:
            os.kill(client.pid, signal.SIGKILL)
            client.wait()
        other = threading.Thread(target=_build, args=(deployment, "theirs"))
        other.start()
        theirs = "SELECT pid FROM pg_stat_activity WHERE application_name = 'theirs' AND state = 'active'"
        await asyncio.to_thread(deployment.wait, lambda: len(deployment.query(theirs)) == 1)
        await verbs.cancel(worker.engine, "docs", actor="test")
        assert deployment.query(BUILDING) == []
        assert len(deployment.query(theirs)) == 1, "somebody else's build on the same table goes on"
        holder.rollback()
    other.join()
    assert deployment.status == "cancelled"
    if alive:
        client.wait(30)
    await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert deployment.query("SELECT relname FROM pg_class WHERE relname LIKE '%%\\_\\_migrator'") == []


def _build(deployment: Deployment, who: str, name: str = "theirs") -> None:
    with psycopg.connect(deployment.url, autocommit=True, application_name=who) as connection:
        connection.execute(f"CREATE INDEX CONCURRENTLY {name} ON docs (title)".encode())


async def test_index_parity_an_invalid_leftover_is_built_again_and_others_builds_are_no_business_of_ours(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    oid = deployment.value("SELECT 'docs'::regclass::oid::bigint")
    with held_up(deployment):
        failing = (
            "CREATE INDEX CONCURRENTLY docs_embedding_idx__migrator ON docs USING hnsw"
            " (embedding__migrator vector_cosine_ops)"
        )
        with deployment.connect() as connection:
            connection.execute("SET statement_timeout = '200ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(failing.encode())
        assert deployment.query(VALID) == [(False,)]
        other = threading.Thread(target=_build, args=(deployment, "theirs"))
        other.start()
        await asyncio.to_thread(
            deployment.wait,
            lambda: deployment.query("SELECT 1 FROM pg_stat_progress_create_index WHERE relid = %s", oid),
        )
        async with transaction(worker.engine) as connection:
            standing = await index.state(connection, oid, "docs_embedding_idx__migrator", build.builder_name("docs"))
            assert standing == (False, None), "theirs is told apart from ours"
            assert (await index.progress(connection, oid) or "").startswith("somebody else's index theirs: ")
    other.join()
    await to(worker, S.READY)
    assert deployment.query(VALID) == [(True,)]


async def test_index_parity_a_graph_that_does_not_fit_is_said_with_the_mend(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MAX_MEMORY_BYTES", 1024**2)
    monkeypatch.setattr(build, "_PROCESS_BYTES", 0)
    await begin(deployment, worker, 1300)
    with deployment.connect() as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET maintenance_work_mem = '1MB'".encode())
    await worker.engine.dispose()
    await to(worker, S.VALIDATING)
    told = deployment.value("SELECT reason FROM migrator.transitions WHERE reason LIKE 'index %%'")
    assert "docs_embedding_idx__migrator no longer fitted into maintenance_work_mem after " in told
    assert "set maintenance_work_mem higher" in told
    assert told in deployment.must("status", "docs")


async def test_index_parity_ivfflat_gets_the_memory_that_it_asks_for(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_PROCESS_BYTES", 0)
    deployment.make_table(800)
    with deployment.connect() as connection:
        connection.execute("DROP INDEX docs_embedding_idx")
        connection.execute("CREATE INDEX docs_embedding_idx ON docs USING ivfflat (embedding) WITH (lists = 700)")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET maintenance_work_mem = '1MB'".encode())
    await worker.engine.dispose()
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    plan = deployment.value("SELECT plan FROM migrator.migrations")
    assert plan["index_build"]["memory_bytes"] < 5 * 1024**2, "an HNSW graph of as many rows is smaller"
    monkeypatch.setattr(build, "MAX_MEMORY_BYTES", 1024**2)
    (ticket,) = await first_tickets(worker)
    assert "IndexNeedsMemory" in await perform(worker, ticket)
    assert deployment.status == "paused"
    assert deployment.query(VALID) == []
    monkeypatch.setattr(build, "MAX_MEMORY_BYTES", 1024**3)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.VALIDATING)
    assert deployment.query(VALID) == [(True,)]


async def test_index_parity_the_new_index_is_warm_where_pg_prewarm_is_there(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(30)
    with deployment.connect() as connection:
        connection.execute("CREATE EXTENSION pg_prewarm")
    asked = []
    original = build._one

    async def listen(raw: object, statement: object, values: object = None) -> object:
        found = await original(raw, statement, values)  # type: ignore[arg-type]
        asked.append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_one", listen)
        await start(deployment, worker)
        await to(worker, S.READY)
    assert {"schema": "public", "mode": "buffer"} in asked
    assert (await stored(worker)).status is S.READY


async def test_index_parity_a_pause_lets_the_build_finish(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    with held_up(deployment):
        (ticket,) = await first_tickets(worker)
        working = asyncio.create_task(perform(worker, ticket))
        await asyncio.to_thread(deployment.wait, lambda: deployment.query(VALID) == [(False,)])
        await verbs.pause(worker.engine, "docs", actor="test")
    await working
    assert (deployment.query(VALID), deployment.status) == ([(True,)], "paused")
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)


async def test_index_parity_after_the_swap_the_live_index_answers(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 60)
    await cut_over(worker)
    plan = deployment.query(
        "EXPLAIN (ANALYZE, COSTS off) SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs LIMIT 1)"
        " LIMIT 5"
    )
    assert deployment.mismatches("embedding", V4) == []
    with deployment.connect() as connection:
        connection.execute("SET enable_seqscan = off; SET enable_sort = off")
        plan = connection.execute(
            "EXPLAIN SELECT id FROM docs ORDER BY embedding <=> (SELECT embedding FROM docs LIMIT 1) LIMIT 5"
        ).fetchall()
    assert any("docs_embedding_idx on docs" in line for (line,) in plan), plan
