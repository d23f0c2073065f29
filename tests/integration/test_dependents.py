"""P1: everything that hangs on the vector column goes along, there and back, and is in the end what it was."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from migrator.target import dependents, facts
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration import catalog
from tests.integration.steps import start, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back
from tests.integration.test_backfill_partitions import PARTITIONED

S = MigrationStatus

#: One of each kind that is taken along. The table has an index and a view, too.
EVERYTHING = """
    ALTER TABLE docs ALTER embedding SET STORAGE MAIN, ALTER embedding SET STATISTICS 50,
                     ALTER embedding SET COMPRESSION pglz, ALTER embedding SET (n_distinct = -0.5);
    COMMENT ON COLUMN docs.embedding IS 'searched by the shop''s "front"';
    GRANT SELECT (id, embedding), UPDATE (embedding) ON docs TO dependents_reader;
    GRANT REFERENCES (embedding) ON docs TO dependents_reader WITH GRANT OPTION;
    ALTER TABLE docs ALTER embedding SET DEFAULT array_fill(0.125::real, ARRAY[64])::vector;
    ALTER TABLE docs ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5);
    COMMENT ON CONSTRAINT unit ON docs IS 'as the model promises';
    ALTER TABLE docs ADD CONSTRAINT young CHECK (vector_dims(embedding) = 64) NOT VALID;
    CREATE TABLE moved (id bigint, at timestamptz DEFAULT now());
    CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.moved (id) VALUES (NEW.id); RETURN NULL; END';
    CREATE TRIGGER vector_moved AFTER UPDATE OF embedding ON docs FOR EACH ROW
      WHEN (OLD.embedding IS DISTINCT FROM NEW.embedding) EXECUTE FUNCTION note_move();
    COMMENT ON TRIGGER vector_moved ON docs IS 'for the cache';
    CREATE TRIGGER asleep AFTER UPDATE OF embedding ON docs FOR EACH ROW EXECUTE FUNCTION note_move();
    ALTER TABLE docs DISABLE TRIGGER asleep;
    CREATE POLICY complete ON docs AS RESTRICTIVE FOR SELECT TO dependents_reader, PUBLIC USING (embedding IS NOT NULL);
    CREATE POLICY unit ON docs FOR UPDATE USING (true) WITH CHECK (vector_norm(embedding) > 0);
    COMMENT ON POLICY complete ON docs IS 'no half rows';
    CREATE FUNCTION nearest(q vector) RETURNS SETOF bigint LANGUAGE sql STABLE
      BEGIN ATOMIC SELECT id FROM docs ORDER BY embedding <=> q LIMIT 3; END;
    GRANT EXECUTE ON FUNCTION nearest(vector) TO dependents_reader;
    CREATE PROCEDURE forget_vector(which bigint) LANGUAGE sql
      BEGIN ATOMIC UPDATE docs SET embedding = NULL WHERE id = which; END;
    CREATE VIEW writable AS SELECT id, embedding FROM docs;
    CREATE RULE put AS ON UPDATE TO writable DO INSTEAD UPDATE docs SET embedding = NEW.embedding WHERE id = OLD.id;
    CREATE STATISTICS both_of_them (ndistinct, dependencies) ON n, embedding FROM docs;
    COMMENT ON STATISTICS both_of_them IS 'planner';
"""
KINDS = {
    "check constraint", "column grant", "column options", "comment", "compression", "default", "extended statistics",
    "function", "index", "row policy", "statistics target", "storage", "trigger", "view", "view rule",
}  # fmt: skip


@pytest.fixture(params=["plain", "partitioned"])
def everything(deployment: Deployment, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    deployment.make_table(20, PARTITIONED) if request.param == "partitioned" else deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("CREATE ROLE dependents_reader")
        connection.execute(EVERYTHING.encode())
    yield deployment
    with deployment.connect() as connection:
        connection.execute("DROP OWNED BY dependents_reader; DROP ROLE dependents_reader")


async def hanging(worker: Worker, column: str) -> list[tuple[str, str]]:
    """What hangs on a column, by kind and name."""
    migration = await stored(worker)
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, migration.target_schema, migration.target_table)
        assert relation is not None
        columns = await facts.columns(connection, relation.oid)
        found = await dependents.find(connection, relation.oid, columns[column])
    return sorted((each.kind, each.name) for each in found if each.kind != "default" or column == "embedding")


def whole(server: Postgres, url: str) -> list[str]:
    """What the database is, whatever the order of a table's columns."""
    return sorted(line.rstrip(",") for line in catalog.dump(server, url, "--schema-only").splitlines())


def both(server: Postgres, deployment: Deployment) -> tuple[str, list[str]]:
    """Schema and rows, wherever a row lies in its heap by now."""
    data = catalog.dump(server, deployment.url, "--data-only")
    return catalog.dump(server, deployment.url, "--schema-only"), sorted(data.splitlines())


@pytest.mark.timeout(180)
async def test_p1_every_kind_of_dependent_goes_there_and_back_and_is_what_it_was(
    everything: Deployment, worker: Worker, postgres: Postgres
) -> None:
    before = both(postgres, everything)
    await start(everything, worker)
    on_live = await hanging(worker, "embedding")
    assert {kind for kind, _ in on_live} == KINDS
    await to(worker, S.READY)
    assert await hanging(worker, "embedding") == on_live
    unswapped = catalog.picture(everything.url)
    for moved in (cut_over, roll_back):
        await moved(worker)
        assert await hanging(worker, "embedding") == on_live, "all of it hangs on whichever is live"
        left = {kind for kind, _ in await hanging(worker, "embedding__migrator")}
        alike = {"column grant", "column options", "compression", "statistics target", "storage"}
        assert left == alike | {"check constraint", "index"}, "and nothing on the other but what is alike"
    told = ("status", "live", "transitions")
    assert [each for each in catalog.picture(everything.url) if each[0] not in told] == [
        each for each in unswapped if each[0] not in told
    ], "the way back leads to where it began"
    await attended.clean_up(worker, "docs", close_window=False, strays_gone=False, actor="test", tell=quiet)
    assert both(postgres, everything) == before, "rows, rules and rights are as they were found"


@pytest.mark.timeout(180)
async def test_p1_every_kind_of_dependent_works_on_the_new_column_and_nothing_is_left_of_ours(
    everything: Deployment, worker: Worker, postgres: Postgres
) -> None:
    before = whole(postgres, everything.url)
    await start(everything, worker)
    await to(worker, S.READY)
    await cut_over(worker)
    title, body = everything.words(7)
    query, new = literal(embed(V4, f"{title}\n{body}")), f"qwen/{V4}@64"
    assert everything.value("SELECT nearest(%s::vector) LIMIT 1", query) == 7, "BEGIN ATOMIC reads the new column"
    with everything.connect() as connection:
        connection.execute("SELECT set_config('migrator.generation', %s, false)", [new])
        connection.execute("TRUNCATE moved")
        connection.execute("UPDATE writable SET embedding = %s WHERE id = 8", [query])
        assert connection.execute("SELECT id FROM moved").fetchall() == [(8,)], "rule and trigger follow the name"
        with pytest.raises(psycopg.errors.CheckViolation, match='"unit"'):
            connection.execute("UPDATE docs SET embedding = embedding + embedding")
        connection.execute("CALL forget_vector(8)")
        assert connection.execute("SELECT embedding FROM docs WHERE id = 8").fetchone() == (None,)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)
    assert whole(postgres, everything.url) == before
    assert everything.mismatches("embedding", V4) in ([], [8])


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE docs ADD CONSTRAINT there CHECK (embedding IS NOT NULL)", "check constraint on NULL"),
        (
            "ALTER TABLE docs ADD CONSTRAINT pair CHECK (n >= 0 OR embedding IS NULL)",
            "check constraint of other columns",
        ),
        (
            """CREATE FUNCTION fits(v vector) RETURNS bool LANGUAGE plpgsql
               AS 'BEGIN IF v IS NULL THEN RAISE ''no''; END IF; RETURN true; END';
               ALTER TABLE docs ADD CONSTRAINT fits CHECK (fits(embedding))""",
            "check constraint on NULL",
        ),
        ("CREATE MATERIALIZED VIEW kept AS SELECT embedding FROM docs", "materialized view"),
        ("CREATE RULE also AS ON INSERT TO docs DO ALSO SELECT NEW.embedding", "rule"),
        ("CREATE VIEW placed AS SELECT d.e FROM docs AS d (i, t, b, m, e)", "view by position"),
        (
            """CREATE FUNCTION placed() RETURNS bigint LANGUAGE sql
               BEGIN ATOMIC SELECT i FROM docs AS d (i, t, b, m, e) ORDER BY e LIMIT 1; END""",
            "function by position",
        ),
        (
            "CREATE POLICY placed ON docs USING (n < (SELECT count(e) FROM docs AS other (i, t, b, m, e)))",
            "row policy by position",
        ),
        (
            "CREATE RULE placed AS ON DELETE TO docs_view DO INSTEAD SELECT e FROM docs AS d (i, t, b, m, e)",
            "view rule by position",
        ),
    ],
)
async def test_p1_what_can_not_be_taken_along_is_refused_by_name(
    deployment: Deployment, worker: Worker, statement: str, said: str
) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    refused = [each.code for each in made.findings if each.severity == "refuse"]
    assert "dependent_" + said.replace(" ", "_") in refused


async def test_functions_that_name_the_column_in_their_text_are_listed_and_follow(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute(b"""
            CREATE FUNCTION in_sql() RETURNS text LANGUAGE sql AS 'SELECT "embedding"::text FROM docs WHERE id = 3';
            CREATE FUNCTION in_plpgsql(which int) RETURNS text LANGUAGE plpgsql AS
              'BEGIN RETURN (SELECT d.EMBEDDING::text FROM public.Docs d WHERE d.id = which); END';
            CREATE FUNCTION of_a_trigger() RETURNS trigger LANGUAGE plpgsql AS
              'BEGIN IF NEW.embedding IS NULL THEN RAISE NOTICE ''none''; END IF; RETURN NEW; END';
            CREATE TRIGGER look BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION of_a_trigger();
            CREATE FUNCTION of_another_column() RETURNS text LANGUAGE sql AS
              'SELECT embeddings FROM (SELECT 1::text) AS docs (embeddings)';
            CREATE FUNCTION of_another_table() RETURNS text LANGUAGE sql AS
              'SELECT embedding FROM (SELECT 1::text) AS docs_2 (embedding)';
            CREATE FUNCTION bound() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT embedding::text FROM docs; END""")
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    listed = [each.object for each in made.findings if each.code == "function_by_name"]
    assert listed == ["public.in_plpgsql(integer)", "public.in_sql()", "public.of_a_trigger()"]
    await start(deployment, worker)
    await to(worker, S.READY)
    with deployment.connect() as connection:
        read = "SELECT in_sql(), in_plpgsql(3), (SELECT embedding::text FROM docs WHERE id = 3)"
        before = connection.execute(read).fetchone()
        await cut_over(worker)
        after = connection.execute(read).fetchone()
    assert before is not None
    assert after is not None
    assert len(set(before)) == len(set(after)) == 1
    assert before != after


async def test_a_check_that_the_new_model_fails_pauses_it_and_says_so(deployment: Deployment, worker: Worker) -> None:
    """A constraint that holds for the old model only: found by the first batch, not after the last."""
    deployment.make_table(30)
    with deployment.connect() as connection:
        far = f"embedding <=> '{literal(embed(V4, 'title 1'))}' > 0.8"
        connection.execute(f"ALTER TABLE docs ADD CONSTRAINT like_v3 CHECK ({far})".encode())
    await start(deployment, worker)
    with pytest.raises(Exception, match="like_v3__migrator refuses a vector of the new generation"):
        await to(worker, S.READY)
    assert deployment.status == "paused"
    assert deployment.mismatches("embedding", V3) == []


@pytest.mark.parametrize("valid", ["", "NOT VALID"])
async def test_what_came_without_its_twin_is_refused_at_the_swap(
    deployment: Deployment, worker: Worker, valid: str
) -> None:
    deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute(
            f"ALTER TABLE docs ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5) {valid}".encode()
        )
    await start(deployment, worker)
    await to(worker, S.READY)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs DROP CONSTRAINT unit__migrator")
    with pytest.raises(Exception, match="unit has no twin on the shadow column"):
        await cut_over(worker)
    assert (await stored(worker)).status is S.READY
