"""The swap and the way back: all or nothing, and nothing that names the column is left behind."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest

from benchmarks.cutover_application import SEARCH, checking
from migrator.cutover import readiness
from migrator.cutover.swapping import ROLLBACK
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state.connection import LockBusy
from migrator.target import message
from tests.deployment import V3, V4, Deployment, embed, generation_of, literal
from tests.integration.steps import drain, ready, start, stored, to
from tests.integration.swaps import ANY, cut_over, roll_back, swap
from tests.integration.traffic import NEW, ROWS, Traffic

S = MigrationStatus


async def test_there_and_back_and_there_again(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker)
    before = deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id")
    swapped = await cut_over(worker)
    assert swapped.absent_rows == 0
    assert 0 < swapped.timing.held_ms < 400
    assert deployment.mismatches("embedding", V4) == []
    assert deployment.mismatches("embedding__migrator", V3) == []
    assert deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id") != before
    assert deployment.value("SELECT migrator.live_generation('public.docs', 'embedding')") == f"qwen/{V4}@64"
    await roll_back(worker)
    assert deployment.query("SELECT id, embedding::text FROM docs_view ORDER BY id") == before
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_a_view_keeps_owner_grants_options_and_comment(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("""
            CREATE ROLE view_reader; GRANT SELECT (id, embedding) ON docs_view TO view_reader;
            ALTER VIEW docs_view SET (security_invoker = true, security_barrier = true);
            COMMENT ON VIEW docs_view IS 'searched by the shop';
            CREATE VIEW outer_view AS SELECT v.embedding AS e, d.id FROM docs_view v JOIN docs d USING (id);
            CREATE VIEW third_view AS SELECT e FROM outer_view;
        """)
    try:
        await start(deployment, worker)
        await to(worker, S.READY)
        facts = "SELECT relname, relowner, relacl::text, reloptions::text, obj_description(oid) FROM pg_class"
        facts += " WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY 1"
        before = deployment.query(facts)
        await cut_over(worker)
        assert deployment.query(facts) == before
        for view in ("docs_view", "outer_view", "third_view"):
            column = "embedding" if view == "docs_view" else "e"
            count = deployment.value(
                f"SELECT count(*) FROM docs d WHERE NOT EXISTS (SELECT FROM {view} v WHERE v.{column} = d.embedding)"
            )
            assert count == 0, view
    finally:
        with deployment.connect() as connection:
            connection.execute("DROP OWNED BY view_reader; DROP ROLE view_reader")


@pytest.mark.parametrize(
    ("rounds", "answers"),
    [
        pytest.param(3, 1_000, marks=pytest.mark.timeout(200), id="3"),
        pytest.param(20, 200_000, marks=[pytest.mark.long, pytest.mark.timeout(900)], id="20"),
    ],
)
async def test_p1_zero_mixing_through_cutovers_and_rollbacks(
    deployment: Deployment, worker: Worker, rounds: int, answers: int
) -> None:
    """Readers of five kinds and writers of four, through swaps each way: every answer is of one generation."""
    # Vectors are hashes here, and rows change so often that searches meet dead versions: no business of these gates.
    deployment.spec_data["gates"] |= {"quality_tolerance": 1.0, "ann_recall_tolerance": 1.0}
    await ready(deployment, worker, ROWS)
    traffic = Traffic(deployment)
    keep_fresh = asyncio.create_task(_keep_fresh(worker, traffic.stopped))
    with traffic:
        for _ in range(rounds):
            await cut_over(worker, rows=1000)
            await asyncio.sleep(0.3)
            await roll_back(worker, rows=1000)
            await verbs.resume(worker.engine, "docs", actor="test")
            while (await stored(worker)).status is not S.READY:  # noqa: ASYNC110 - the workers move it
                await asyncio.sleep(0.2)
    await keep_fresh
    assert traffic.wrong == []
    assert traffic.failed == []
    assert min(traffic.answers.values()) > 100 * rounds
    assert min(traffic.written.values()) > 10 * rounds
    assert sum(traffic.answers.values()) >= answers
    await drain(worker)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.query("TABLE twin EXCEPT SELECT id, title, body FROM docs") == []
    assert deployment.query("SELECT id, title, body FROM docs EXCEPT TABLE twin") == []
    assert set(traffic.answers) == {"ad hoc", "prepared", "view", "search", "repeatable read"}
    assert set(traffic.written) == {"old", "new", "copy", "orm"}


async def test_the_readers_of_the_traffic_see_what_is_wrong(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    Traffic(deployment)
    with deployment.connect() as connection:
        for wrong, low, high in ((0, 0, 0), (1, 0, 5), (15, 25, 50)):
            connection.execute(
                "UPDATE docs SET embedding = v4 FROM truth t WHERE docs.id = t.id AND t.id <= %s", [wrong]
            )
            for relation in ("docs", "docs_outer"):
                assert connection.execute(checking(relation, NEW).encode()).fetchone() == (20, wrong)
            answers, not_right = connection.execute(SEARCH).fetchone() or (0, 0)
            assert answers == 50
            assert low <= not_right <= high


async def test_h9_two_swaps_at_once_do_not_meet_in_the_functions(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    looked = await readiness.look(worker.engine, await stored(worker), verb="cutover")
    statements = looked.statements(Side.TO, S.COMPLETED, bounds=ANY, actor="test", commit=False)

    async def rehearse() -> None:
        async with message.raw_connection(worker.engine) as raw:
            await message.send(raw, message.whole(statements))

    for _ in range(5):
        results = await asyncio.gather(*(rehearse() for _ in range(4)), return_exceptions=True)
        assert [each for each in results if each is not None and not isinstance(each, LockBusy)] == []


async def test_h10_a_snapshot_from_before_the_swap_is_told_of_the_column_it_sees(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    query = """SELECT embedding::real[],
                      migrator.query_vector('public.docs', 'embedding', %s::vector, %s::vector)::real[],
                      coalesce(title, '') || E'\\n' || coalesce(body, '') FROM docs WHERE id = 1"""
    values = [literal(embed(V3, "q")), literal(embed(V4, "q"))]
    for isolation in (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE):
        with psycopg.connect(deployment.url) as reader:
            reader.isolation_level = isolation
            reader.execute("SELECT 1")  # the snapshot is taken; the table is not touched
            await swap(worker)
            vector, chosen, text = reader.execute(query.encode(), values).fetchone() or ()
            assert generation_of(vector, text) == generation_of(chosen, "q") == V4
        await swap(worker, ROLLBACK)
        await verbs.resume(worker.engine, "docs", actor="test")
        await to(worker, S.READY)


async def _keep_fresh(worker: Worker, stop: threading.Event) -> None:
    """What the workers do meanwhile."""
    from migrator.orchestrator.perform import perform  # noqa: PLC0415
    from migrator.orchestrator.tick import tick  # noqa: PLC0415

    running: set[asyncio.Task[str]] = set()
    while not stop.is_set():
        for ticket in (await tick(worker.engine, actor="test", only="docs", tells=False)).tickets:
            running.add(asyncio.create_task(perform(worker, ticket)))
        await asyncio.sleep(0.2)
        running = {task for task in running if not task.done()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_the_index_is_used_with_query_vector(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 300)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("SET enable_seqscan = off; SET enable_sort = off")
        plan = connection.execute(
            """EXPLAIN SELECT id FROM docs ORDER BY embedding <=>
                 migrator.query_vector('public.docs', 'embedding', %s::vector, %s::vector) LIMIT 5""",
            [literal(embed(V3, "q")), literal(embed(V4, "q"))],
        ).fetchall()
    assert any("docs_embedding_idx" in line for (line,) in plan)


async def test_query_vector_for_an_unknown_target_says_so(deployment: Deployment) -> None:
    with deployment.connect() as connection, pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
        connection.execute("SELECT migrator.live_generation('public.docs', 'embedding')")


async def test_listen_migrator_live_tells_of_the_change(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as listener:
        listener.execute("LISTEN migrator_live")
        await cut_over(worker)
        heard = next(listener.notifies(timeout=5, stop_after=1))
        assert heard.payload == f"public.docs.embedding qwen/{V4}@64"


async def test_a_rehearsal_waits_for_rows_that_were_just_written(deployment: Deployment, worker: Worker) -> None:
    """As the cutover does; but it leaves them to the workers."""
    await ready(deployment, worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'just now' WHERE id = 7")
    rehearsing = asyncio.create_task(attended.rehearse(worker, "docs", max_dirty_rows=0, actor="test"))
    await asyncio.sleep(0.5)
    assert not rehearsing.done(), "a row lacks its vector"
    await drain(worker)
    _, statements = await rehearsing
    assert "RENAME" in statements
    assert deployment.status == "ready"
