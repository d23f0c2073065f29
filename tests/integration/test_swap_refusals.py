"""When the swap, the way back and cleanup refuse, and what they leave as it was."""

from __future__ import annotations

import json

import psycopg
import pytest

from migrator.cutover import readiness, swapping
from migrator.cutover.cleaning import StraysSeen, WindowOpen
from migrator.cutover.readiness import NotSwappable, OldSnapshots
from migrator.cutover.swapping import CUTOVER
from migrator.demo.servers import Postgres
from migrator.errors import GateFailed, StatusConflict
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state.connection import LeftBehind, TooDirty
from migrator.target import message
from migrator.target.swap import Bounds
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration import catalog
from tests.integration.steps import begin, drain, ready, start, stored, to
from tests.integration.swaps import ANY, cut_over, quiet, roll_back, swap

S = MigrationStatus


async def test_old_snapshots_are_waited_for_and_named(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 10)
    with psycopg.connect(deployment.url, application_name="nightly report") as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        # Index builds wait for old snapshots by themselves, so the report begins after it.
        old.rollback()
        await to(worker, S.INDEXING)
        await to(worker, S.READY)
        with deployment.connect() as connection:
            connection.execute("UPDATE migrator.migrations SET proved_at = clock_timestamp() + interval '1 min'")
        old.execute("SELECT 1")
        monkeypatch.setattr(attended, "SNAPSHOT_PATIENCE_SECONDS", 0.2)
        with pytest.raises(OldSnapshots, match="nightly report"):
            await cut_over(worker)
        assert deployment.status == "ready"
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET proved_at = clock_timestamp()")
    await cut_over(worker)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("CREATE MATERIALIZED VIEW m AS SELECT embedding FROM docs", "materialized view public.m"),
        ("CREATE MATERIALIZED VIEW m AS SELECT embedding FROM docs_view", "materialized view public.m"),
        ("ALTER TABLE docs ADD CONSTRAINT c CHECK (embedding IS NOT NULL) NOT VALID", "check constraint on NULL c"),
        ("ALTER TABLE docs ADD CONSTRAINT c CHECK (vector_dims(embedding) = 64)", "c has no twin on the shadow column"),
        ("DROP INDEX docs_embedding_idx__migrator", "no valid twin"),
        ("ALTER TABLE docs ALTER n DROP NOT NULL", "column n is different"),
        ("CREATE PUBLICATION p FOR TABLE docs", "publication p was added"),
    ],
)
async def test_what_came_since_the_start_and_cannot_be_moved_is_refused_by_name(
    deployment: Deployment, worker: Worker, statement: str, problem: str
) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    with pytest.raises(NotSwappable, match=problem):
        await cut_over(worker)
    assert deployment.status == "ready"


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (
            """CREATE FUNCTION late() RETURNS vector LANGUAGE sql
               BEGIN ATOMIC SELECT embedding FROM docs LIMIT 1; END""",
            r"function public.late\(\)",
        ),
        ("CREATE RULE late AS ON DELETE TO docs_view DO INSTEAD SELECT embedding FROM docs", "rule late on view"),
        ("CREATE STATISTICS late ON n, embedding FROM docs", "statistics object public.late"),
    ],
)
async def test_p1_what_comes_between_the_last_look_and_the_lock_ends_the_swap(
    deployment: Deployment, worker: Worker, statement: str, what: str
) -> None:
    migration = await ready(deployment, worker, 5)
    looked = await readiness.look(worker.engine, migration, verb="cutover")
    before = catalog.picture(deployment.url)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    sent = looked.statements(CUTOVER.side, CUTOVER.status, bounds=ANY, actor="test")
    with pytest.raises(LeftBehind, match=what):
        async with message.raw_connection(worker.engine) as raw:
            await message.send(raw, message.whole(sent))
    assert {each for each in catalog.picture(deployment.url) if "late" not in str(each)} >= set(before)
    await cut_over(worker)


async def test_a_column_that_came_since_the_start_is_no_obstacle(deployment: Deployment, worker: Worker) -> None:
    """An ordinary release of the application must not take the way back away."""
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD COLUMN added_before int")
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD COLUMN added_after int DEFAULT 1")
    await roll_back(worker)
    assert deployment.status == "rolled_back"
    assert deployment.mismatches("embedding", V3) == []


async def test_a_view_that_came_since_the_start_is_moved_too(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute("CREATE VIEW late AS SELECT id, embedding FROM docs")
    await cut_over(worker)
    assert deployment.value("SELECT count(*) FROM late l JOIN docs d USING (id) WHERE l.embedding <> d.embedding") == 0


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE docs ALTER embedding SET DEFAULT NULL", "SELECT atthasdef::text"),
        ("GRANT SELECT (embedding) ON docs TO PUBLIC", "SELECT attacl::text"),
        ("COMMENT ON COLUMN docs.embedding IS 'x'", "SELECT col_description(attrelid, attnum)"),
    ],
)
async def test_what_came_since_the_start_goes_along_where_it_can(
    deployment: Deployment, worker: Worker, statement: str, told: str
) -> None:
    """An ordinary release of the application, again: and what is taken away since the start is gone from both."""
    await ready(deployment, worker, 5)
    found = f"{told} FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname = 'embedding'"
    bare = deployment.value(found)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    given = deployment.value(found)
    assert given != bare
    await cut_over(worker)
    assert deployment.value(found) == given
    if "GRANT" in statement:
        with deployment.connect() as connection:
            connection.execute("REVOKE SELECT (embedding) ON docs FROM PUBLIC")
        await roll_back(worker)
        assert "=r/" not in (deployment.value(found) or ""), "who lost the right gets it back with no swap"


async def test_too_many_dirty_rows_under_the_lock_leave_everything_as_it_was(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'x'")
    before = catalog.picture(deployment.url)
    with pytest.raises(TooDirty):
        await swapping.swap(
            worker.engine, await stored(worker), CUTOVER, bounds=Bounds(5, 60), actor="t", on_wait=quiet, ladder=()
        )
    assert catalog.picture(deployment.url) == before
    swapped = await cut_over(worker, rows=0)
    assert swapped.absent_rows == 0


async def test_rows_without_a_vector_at_the_swap_are_absent_never_wrong(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'fresh' WHERE id = 3")
    timing = await swap(worker)
    assert timing.dirty_rows == 1
    assert deployment.query("SELECT id FROM docs WHERE embedding IS NULL") == [(3,)]
    await drain(worker)
    assert deployment.mismatches("embedding", V4) == []


async def test_cutover_needs_fresh_verdicts(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.verdicts SET at = now() - interval '2 days'")
    with pytest.raises(GateFailed, match="stale"):
        await cut_over(worker)
    await attended.validate(worker, "docs", actor="test")
    await cut_over(worker)


async def test_rehearsal_changes_nothing_and_tells_the_times(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    before = catalog.picture(deployment.url)
    timing, text = await attended.rehearse(worker, "docs", max_dirty_rows=0, actor="test")
    assert catalog.picture(deployment.url) == before
    assert [step for step, _ in timing.steps] == ["check", "names", "views", "rules", "state", "done"]
    assert text.startswith("BEGIN ISOLATION LEVEL READ COMMITTED;")
    assert text.endswith("ROLLBACK")
    told = json.loads(deployment.must("cutover", "docs", "--rehearse", "--json", "--sql", "whole.sql"))
    assert set(told["steps_ms"]) == {step for step, _ in timing.steps}
    written = (deployment.home / "whole.sql").read_text()
    assert "RENAME COLUMN" in written
    assert written.startswith("BEGIN ISOLATION LEVEL READ COMMITTED;")
    assert written.endswith("ROLLBACK")
    for mixed in (["--rehearse", "--dry-run"], ["--strict", "--max-dirty-rows", "5"], ["--sql", "whole.sql"]):
        assert deployment.run("cutover", "docs", *mixed).returncode == 2


async def test_p10_rollback_loses_nothing_that_was_written_since(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 30)
    await cut_over(worker)
    with deployment.connect() as old, deployment.connect() as new:
        new.execute("SELECT set_config('migrator.generation', %s, false)", [f"qwen/{V4}@64"])
        for number in range(10):
            body = f"since {number}"
            new.execute(
                "UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s",
                [body, literal(embed(V4, f"t\n{body}")), number + 1],
            )
            new.execute(
                "INSERT INTO docs (title, body, embedding) VALUES ('n', %s, %s)",
                [body, literal(embed(V4, f"n\n{body}"))],
            )
            old.execute(
                "UPDATE docs SET title = 'o', body = %s, embedding = %s WHERE id = %s",
                [body, literal(embed(V3, f"o\n{body}")), number + 11],
            )
            old.execute(
                "INSERT INTO docs (title, body, embedding) VALUES ('o', %s, %s)",
                [body, literal(embed(V3, f"o\n{body}"))],
            )
            old.execute("DELETE FROM docs WHERE id = %s", [number + 21])
    debt = deployment.value("SELECT count(DISTINCT key) FROM migrator.dirty WHERE side = 'from'")
    assert debt == 20
    swapped = await roll_back(worker)
    assert swapped.absent_rows == 0
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.value("SELECT spent_tokens FROM migrator.ledger WHERE purpose = 'rollback-debt'") > 0


async def test_rollback_only_in_the_window(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    with pytest.raises(StatusConflict, match="needs docs to be completed"):
        await roll_back(worker)
    await cut_over(worker)
    await verbs.pause(worker.engine, "docs", actor="test")
    await roll_back(worker)
    assert deployment.status == "rolled_back"


async def test_cancel_then_cleanup_leaves_the_table_as_found(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    deployment.make_table(30)
    before = catalog.dump(postgres, deployment.url)
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    await verbs.cancel(worker.engine, "docs", actor="test")
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == 30, "cancel keeps what was paid for"
    dropped = await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet)
    assert {each.kind for each in dropped} == {"column", "trigger"}
    assert sorted(catalog.dump(postgres, deployment.url).splitlines()) == sorted(before.splitlines())
    assert await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet) == []


async def test_cleanup_after_the_window_and_h7_its_refusals(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with pytest.raises(WindowOpen):
        await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="t", tell=quiet)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding = %s WHERE id = 1", [literal(embed(V3, "stray"))])
    with pytest.raises(StraysSeen, match="the application"):
        await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="t", tell=quiet)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="t", tell=quiet)
    assert deployment.status == "cleaned"
    assert deployment.mismatches("embedding", V4) == []
    left = deployment.query(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'docs'::regclass AND attname LIKE '%%migr%%'"
    )
    assert left == []
    assert deployment.value("SELECT migrator.live_generation('public.docs', 'embedding')") == f"qwen/{V4}@64"


async def test_cleanup_forgets_its_working_rows_on_request_and_keeps_the_record(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 5)
    await cut_over(worker)
    done = deployment.must("cleanup", "docs", "--close-window", "--yes")
    tables = deployment.query("""SELECT table_name FROM information_schema.columns
                                  WHERE table_schema = 'migrator' AND column_name = 'migration_id'""")
    rows = {name: deployment.value(f"SELECT count(*) FROM migrator.{name}") for (name,) in tables}
    assert "forgotten" not in done
    assert rows["batches"] > 0
    deployment.must("cleanup", "docs", "--forget-state", "--yes")
    left = {name: deployment.value(f"SELECT count(*) FROM migrator.{name}") for (name,) in tables}
    assert {name for name, count in left.items() if count} == {"transitions", "verdicts", "ledger", "budgets", "live"}
    assert {name: rows[name] for name in ("verdicts", "ledger", "live")} == {
        name: left[name] for name in ("verdicts", "ledger", "live")
    }
    assert "cleaned" in deployment.must("status", "docs")
    assert deployment.value("SELECT migrator.live_generation('public.docs', 'embedding')") == f"qwen/{V4}@64"


async def test_cleanup_embeds_what_is_dirty_before_the_triggers_go(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = 'last edit' WHERE id = 2")
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="t", tell=quiet)
    assert deployment.mismatches("embedding", V4) == []
